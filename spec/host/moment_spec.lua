-- host.moment: times in every accepted form. spec/c/moment_test.c has them all.
local moment = require "host.moment"

describe("moment.parse", function()
  local cases = {
    { "1723161255.342", nil, 1723161255342 },
    { "1723161255342", nil, 1723161255342 },
    { 1723161255342999, nil, 1723161255342 },
    { "1723161255342999999", nil, 1723161255342 },
    { "1.723161255342e9", nil, 1723161255342 },
    { "5", "ms", 5 },
    { "5", "us", 0 },
    { "2024-08-08T23:54:15.342Z", nil, 1723161255342 },
    { "2024-08-08 23:54:15.3429", nil, 1723161255342 },
    { "2024-08-09T01:54:15+0200", nil, 1723161255000 },
  }
  for _, case in ipairs(cases) do
    it("takes " .. tostring(case[1]) .. (case[2] and " in " .. case[2] or ""), function()
      local ms = moment.parse(case[1], case[2])
      assert.equal(case[3], ms)
      assert.equal("integer", math.type(ms))
    end)
  end

  local failures = {
    { "soon", "moment: TIME: not a time: 'soon'" },
    { "2024-02-30 00:00:00", "moment: TIME: no such date or time of day: '2024-02-30 00:00:00'" },
    { "-1", "moment: TIME: before 1970 or after the year 9999: '-1'" },
  }
  for _, case in ipairs(failures) do
    it("refuses " .. case[1], function()
      assert.same({ n = 3, nil, case[2], "TIME" }, table.pack(moment.parse(case[1])))
    end)
  end

  it("raises for floats and unknown units", function()
    assert.error_matches(function() moment.parse(1723161255.342) end, "got a float")
    assert.error_matches(function() moment.parse("1", "h") end, "invalid option 'h'")
  end)
end)

describe("moment.format", function()
  it("writes ISO and SQL forms, floored", function()
    assert.equal("2024-08-08T23:54:15.999Z", moment.format(1723161255999))
    assert.equal("2024-08-08T23:54:15.999Z", moment.format(1723161255999, "iso"))
    assert.equal("2024-08-08 23:54:15", moment.format(1723161255999, "sql"))
    assert.equal("2024-08-08 23:54:15.999", moment.format(1723161255999, "sql3"))
    assert.equal("1969-12-31T23:59:59.999Z", moment.format(-1))
  end)

  it("raises for misuse", function()
    assert.error_matches(function() moment.format(253402300800000) end, "outside the years")
    assert.error_matches(function() moment.format(1.5) end, "no integer representation")
    assert.error_matches(function() moment.format(1, "rfc") end, "invalid option 'rfc'")
  end)
end)
