local output = require "mill.output"
local view = require "mill.view"

local function model()
  return {
    title = "tidemill up --dev", elapsed_ms = 3723000, hint = "Ctrl-C stops",
    facts = { "broker running 127.0.0.1:40001", "mysql running", "the exchange is simulated" },
    stages = {
      { name = "prices fetch", rate = 12.04, total = 1234567, errors = 0, state = "running" },
      { name = "prices publish", rate = 1200, total = 1234560, lag = 7, errors = 2,
        state = "running" },
      { name = "averages read", rate = 0, total = 1234000, lag = 560, errors = 0,
        state = "backoff 3 s" },
      { name = "averages write", total = 5, errors = 0, state = "running",
        note = "p50 3.1 ms, p99 9.8 ms" },
    },
    newest = {
      columns = { "average_price", "samples", "start_time", "symbol" },
      rows = {
        { "61837.63000000", 12, "2024-08-09 12:41:00", "BTCUSDT" },
        { "2600.10000000", 12, "2024-08-09 12:41:00", "ETHUSDT" },
      },
    },
    messages = { "averages: HTTP 429\27[31m", "mysql was killed by signal KILL" },
  }
end

local function lines(width, height, change)
  local m = model()
  if change then change(m) end
  return view.lines(m, { width = width, height = height, colour = false })
end

describe("the view", function()
  it("shows stages, newest averages and messages", function()
    assert.same({
      "tidemill up --dev  01:02:03" .. (" "):rep(61) .. "Ctrl-C stops",
      "broker running 127.0.0.1:40001 - mysql running - the exchange is simulated",
      "",
      "stage           rate/s      total  lag  errors  state",
      "prices fetch        12  1,234,567    -       0  running",
      "prices publish   1,200  1,234,560    7       2  running",
      "averages read        0  1,234,000  560       0  backoff 3 s",
      "averages write       -          5    -       0  running      p50 3.1 ms, p99 9.8 ms",
      "",
      "symbol   start_time            average_price  samples",
      "BTCUSDT  2024-08-09 12:41:00  61837.63000000       12",
      "ETHUSDT  2024-08-09 12:41:00   2600.10000000       12",
      "",
      "averages: HTTP 429\\x1B[31m",
      "mysql was killed by signal KILL",
    }, lines(100, 30))
  end)

  it("is never wider or higher than the terminal", function()
    for width = 20, 120 do
      for _, height in ipairs { 3, 8, 12, 24, 60 } do
        local got = lines(width, height)
        assert.is_true(#got <= height)
        for _, line in ipairs(got) do
          assert.is_true(output.columns(line) <= width, width .. ": " .. line)
        end
      end
    end
  end)

  it("gives up facts before averages where it is low", function()
    local text = table.concat(lines(60, 11), "\n")
    assert.matches("61837.63000000", text, 1, true)
    assert.not_matches("simulated", text, 1, true)
    assert.matches("simulated", table.concat(lines(60, 24), "\n"), 1, true)
  end)

  it("gives up the least important columns on a narrow terminal", function()
    local text = table.concat(lines(40, 30), "\n")
    assert.matches("prices fetch", text, 1, true)
    assert.matches("1,234,567", text, 1, true)
    assert.matches("61837.63000000", text, 1, true)
    assert.matches("BTCUSDT", text, 1, true)
    assert.not_matches("p99", text, 1, true)
    assert.matches("p99 9.8 ms", table.concat(lines(120, 30), "\n"), 1, true)
  end)

  it("shows as many averages and messages as there is room for", function()
    local function many(m)
      for i = 1, 100 do m.newest.rows[i] = { "1.00000000", i, "2024-08-09 12:41:00", "S" .. i } end
      for i = 1, 100 do m.messages[i] = "message " .. i end
    end
    local got = lines(80, 24, many)
    assert.is_true(#got <= 24)
    local text = table.concat(got, "\n")
    assert.matches("message 100", text, 1, true)
    assert.not_matches("message 90\n", text, 1, true)
    assert.matches("S5", text, 1, true)
  end)

  it("draws without averages, messages and numbers", function()
    local got = view.lines({ title = "t", elapsed_ms = 0, stages = { { name = "x" } } },
      { width = 40, height = 10, colour = false })
    assert.same({ "t  00:00:00", "", "stage  rate/s  total  lag  errors  state",
                  "x           -      -    -       0" }, got)
  end)

  it("lets no control character through", function()
    for _, line in ipairs(lines(100, 30)) do assert.not_matches("%c", line) end
  end)
end)

describe("the screen", function()
  local written, size

  local function screen()
    written, size = {}, { 60, 20 }
    return view.screen {
      write = function(text) written[#written + 1] = text end,
      size = function() return size[1], size[2] end,
    }
  end

  it("gives the terminal back as it was, once", function()
    do
      local s <close> = screen()
      s:draw(model())
      s:close()
    end
    assert.equal(3, #written)
    assert.equal("\27[?1049h\27[?25l\27[?7l\27[2J", written[1])
    assert.equal("\27[?7h\27[?25h\27[?1049l", written[3])
  end)

  it("draws each frame in one write that erases nothing it does not overwrite", function()
    local s <close> = screen()
    s:draw(model())
    s:draw(model())
    assert.equal(3, #written)
    assert.equal("\27[H", written[3]:sub(1, 3))
    assert.not_matches("\27[2J", written[3], 1, true)
    assert.not_matches("\n$", written[3])
    local _, newlines = written[3]:gsub("\n", "")
    assert.is_true(newlines < 20)
  end)

  it("clears once when the size has changed", function()
    local s <close> = screen()
    s:draw(model())
    assert.is_false(s:resized())
    size = { 41, 12 }
    assert.is_true(s:resized())
    s:draw(model())
    assert.matches("\27[2J", written[3], 1, true)
    s:draw(model())
    assert.not_matches("\27[2J", written[4], 1, true)
    for line in (written[4]:gsub("\27%[[%d;?]*%a", "") .. "\r\n"):gmatch("(.-)\r\n") do
      assert.is_true(output.columns(line) <= 40, line)
    end
  end)
end)
