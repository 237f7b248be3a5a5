local duration = require "mill.duration"

describe("a duration", function()
  for text, ms in pairs {
    ["0"] = 0, ["0s"] = 0, ["1ms"] = 1, ["100ms"] = 100, ["2s"] = 2000, ["1m"] = 60000,
    ["1h"] = 3600000, ["1d"] = 86400000, ["1.5s"] = 1500, ["0.25m"] = 15000, ["1h30m"] = 5400000,
    ["1d2h3m4s5ms"] = 93784005, ["1.001s"] = 1001, ["0.29s"] = 290, ["16.1s"] = 16100,
    ["1.10s"] = 1100, ["1000000000000000ms"] = 1000000000000000,
  } do
    it("is '" .. text .. "'", function() assert.equal(ms, duration.parse(text)) end)
  end

  for _, text in ipairs {
    "", " ", "1", "60", "s", "1x", "1 s", " 1s", "1s ", "-1s", "1s-", "1e3s", ".5s", "1..5s",
    "1.5ms", "0.0001s", "1s2", "1S", "1sec", "0x1s", "99999999999999999999d", "infs", "nans",
  } do
    it("is not '" .. text .. "'", function()
      local ms, message, code = duration.parse(text)
      assert.is_nil(ms)
      assert.equal("SYNTAX", code)
      assert.matches("^duration: SYNTAX: ", message)
    end)
  end

  it("is text, and nothing else", function()
    for _, value in ipairs { 60, 1.5, true, {} } do
      local ms, message = duration.parse(value)
      assert.is_nil(ms)
      assert.matches("expected text", message)
    end
    assert.is_nil((duration.parse(nil)))
  end)

  it("comes back from its format", function()
    for _, ms in ipairs { 0, 1, 999, 1000, 1001, 60000, 90000, 3600000, 86400000, 93784005 } do
      assert.equal(ms, duration.parse(duration.format(ms)))
    end
    assert.equal("1m30s", duration.format(90000))
    assert.equal("0s", duration.format(0))
    assert.equal("-1m30s", duration.format(-90000))
  end)
end)
