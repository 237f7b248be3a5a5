local clock = require "host.clock"
local folder = require "spec.support.folder"
local json = require "mill.json"
local process = require "host.process"
local wait = require "spec.support.wait"

local DEADLINE_MS = 60000 * require "spec.support.slow"

-- What a producer and a pipeline do as far as `up` sees it; the log between them is a file.
local PRODUCER = [[
  local process, clock, json = require "host.process", require "host.clock", require "mill.json"
  return { run = function()
    process.graceful(true)
    local n = 0
    local function report()
      local now = { kind = "producer", fetched = n, published = n, failed = 0, errors = 0 }
      assert(process.atomic_write(os.getenv "TIDEMILL_STATUS_FILE", json.encode(now),
        { sync = false }))
      assert(process.atomic_write("DIR/log", tostring(n), { sync = false }))
      return now
    end
    io.stderr:write("producer up\n")
    while process.stop_requested() == 0 do
      n = n + 1
      report()
      clock.sleep(10)
    end
    return report(), 0
  end }
]]
local PIPELINE = [[
  local process, clock, json = require "host.process", require "host.clock", require "mill.json"
  return { run = function()
    process.graceful(true)
    local n, length = 0, 0
    local function report()
      local now = { kind = "pipeline", consumed = n, rows = n, dead = 0, late = 0, errors = 0,
        too_late = 0, commits = n, lag = length - n, latency_ms = { p50 = 2.5, p99 = 7.5 },
        newest = { { symbol = "BTCUSDT", average_price = "61837.63000000" } } }
      assert(process.atomic_write(os.getenv "TIDEMILL_STATUS_FILE", json.encode(now),
        { sync = false }))
      return now
    end
    while process.stop_requested() == 0 do
      local f = io.open("DIR/log")
      length = f and tonumber(f:read("a")) or 0
      if f then f:close() end
      n = length
      report()
      clock.sleep(10)
    end
    return report(), 0
  end }
]]

describe("tidemill up", function()
  local dir

  local function write(name, text)
    assert(process.atomic_write(dir .. "/" .. name, (text:gsub("DIR", dir)), { sync = false }))
  end

  before_each(function()
    dir = folder.make()
    write("prices.lua", PRODUCER)
    write("averages.lua", PIPELINE)
  end)
  after_each(function() folder.clear(dir) end)

  local function up(...)
    return assert(process.spawn {
      argv = { process.exe(), "up", ... }, cwd = dir, stdout = "pipe", stderr = dir .. "/stderr",
      env = { TIDEMILL_HOME = process.home(), TIDEMILL_VAR = dir .. "/var", LIVE = false },
    })
  end

  local function output_of(child)
    local parts = {}
    local deadline = clock.mono_ms() + DEADLINE_MS
    while clock.mono_ms() < deadline do
      local bytes = child:read("stdout", 1000)
      if not bytes then
        return table.concat(parts), assert(child:wait(DEADLINE_MS))
      end
      parts[#parts + 1] = bytes
    end
    error("it never ended")
  end

  local function text_of(name) return folder.text(dir .. "/" .. name) end

  local function eventually(what, ask)
    return wait(what, ask, DEADLINE_MS, function() return text_of "stderr" end)
  end

  local function status_of(name)
    local status = json.decode(text_of("var/run/" .. name .. ".status.json"))
    return type(status) == "table" and status or nil
  end

  local function pid_of(name)
    return eventually(name .. " runs", function()
      for _, entry in ipairs(process.list("/proc")) do
        local pid = math.tointeger(tonumber(entry))
        local line = pid and process.cmdline(pid)
        if line and line:find(dir .. "/" .. name .. ".lua", 1, true)
            and line:find(" run ", 1, true) then return pid end
      end
    end)
  end

  it("ends by itself with one JSON object", function()
    local child <close> = up("prices.lua", "averages.lua", "--for", "5s", "--json")
    local text, status = output_of(child)
    local result = assert(json.decode(text))
    assert.same({}, result.problems)
    assert.equal(0, status.code)
    assert.is_true(result.ok)
    assert.is_true(result.published > 0)
    assert.equal(result.fetched, result.published)
    assert.equal(result.published, result.consumed)
    assert.same({ p50 = 2.5, p99 = 7.5 }, result.latency_ms)
    for _, name in ipairs { "up", "prices", "averages" } do
      assert.is_true(result.peak_rss_mb[name] > 1, name)
    end
    local _, newlines = text:gsub("\n", "")
    assert.equal(1, newlines)
    assert.matches("prices | producer up", text_of("stderr"), 1, true)
    assert.matches("producer up", text_of("var/log/prices.log"), 1, true)
    assert.same({}, (function()
      local left = {}
      for _, name in ipairs(process.list(dir .. "/var/run")) do
        if not name:find("%.lock$") then left[#left + 1] = name end
      end
      return left
    end)())
  end)

  it("runs until a signal and then stops all in order, with exit code 0", function()
    local child <close> = up("prices.lua", "averages.lua")
    eventually("the pipeline counts", function()
      local status = status_of("averages")
      return status and status.consumed > 3
    end)
    local pids = { pid_of("prices"), pid_of("averages") }
    child:kill("TERM")
    local text, status = output_of(child)
    assert.equal(0, status.code)
    assert.matches("prices: ", text, 1, true)
    assert.matches("averages: ", text, 1, true)
    for _, pid in ipairs(pids) do assert.is_false(process.alive(pid)) end
  end)

  it("starts a killed script again", function()
    local child <close> = up("prices.lua", "averages.lua", "--json")
    local pid = pid_of("prices")
    process.kill(pid, "KILL")
    eventually("another process", function() return pid_of("prices") ~= pid end)
    eventually("it counts", function()
      local status = status_of("averages")
      return status and status.consumed > 0
    end)
    child:kill("INT")
    local text = output_of(child)
    assert.same({ prices = 1 }, json.decode(text).restarts)
    assert.is_false(json.decode(text).exact)
    assert.matches("prices was killed by signal KILL", text_of("stderr"), 1, true)
  end)

  it("stops a crash loop, and ends when no script is left", function()
    write("prices.lua", "return { run = function() error('broken on purpose') end }")
    local child <close> = up("prices.lua")
    local _, status = output_of(child)
    assert.equal(1, status.code)
    assert.matches("5 times in a row, so it is not started again", text_of("stderr"), 1, true)
    assert.matches("broken on purpose", text_of("stderr"), 1, true)
  end)

  it("does not start again a script with a mistake", function()
    write("prices.lua", "local x = nil\nreturn x.y")
    local child <close> = up("prices.lua")
    local _, status = output_of(child)
    assert.equal(1, status.code)
    assert.matches("prices.lua:2: attempt to index a nil value", text_of("stderr"), 1, true)
    assert.matches("it is not started again", text_of("stderr"), 1, true)
    assert.not_matches("next start", text_of("stderr"), 1, true)
  end)

  it("does not start again what was called wrongly", function()
    local child <close> = up("prices.lua", "--set", "no equals sign")
    local _, status = output_of(child)
    assert.equal(1, status.code)
    local _, starts = text_of("stderr"):gsub("write it as key=value", "")
    assert.is_true(starts >= 1)
    assert.matches("it is not started again", text_of("stderr"), 1, true)
    assert.not_matches("next start", text_of("stderr"), 1, true)
  end)

  it("ends at once at the second signal, and leaves nothing", function()
    write("prices.lua", [[
      local process, clock = require "host.process", require "host.clock"
      return { run = function()
        process.graceful("counted")
        io.stderr:write("deaf\n")
        while true do clock.sleep(1000) end
      end }
    ]])
    local child <close> = up("prices.lua")
    eventually("it runs", function() return text_of("stderr"):find("deaf", 1, true) end)
    local pid = pid_of("prices")
    child:kill("INT")
    -- A second one would merge with a first that is still pending.
    eventually("it took the first", function()
      local file <close> = assert(io.open("/proc/" .. child:pid() .. "/status"))
      local pending = 0
      for mask in file:read("a"):gmatch "S[ih][gd]Pnd:%s*(%x+)" do
        pending = pending | math.tointeger(tonumber(mask, 16))
      end
      return pending & 1 << 1 == 0
    end)
    child:kill("INT")
    local _, status = output_of(child)
    assert.equal(130, status.code)
    assert.is_false(process.alive(pid))
  end)

  it("leaves no child when it is killed", function()
    local child <close> = up("prices.lua", "averages.lua")
    local pids = { pid_of("prices"), pid_of("averages") }
    child:kill("KILL")
    assert(child:wait(DEADLINE_MS))
    for _, pid in ipairs(pids) do
      eventually(pid .. " is gone", function() return not process.alive(pid) end)
    end
    -- And the next one is not held up by it.
    local again <close> = up("prices.lua", "averages.lua", "--for", "5s", "--json")
    local _, status = output_of(again)
    assert.equal(0, status.code)
  end)

  it("refuses a second one in the same folder", function()
    local first <close> = up("prices.lua")
    local pid = pid_of("prices")
    local second <close> = up("prices.lua")
    local _, status = output_of(second)
    assert.equal(4, status.code)
    assert.matches("prices is already supervised in this folder by process " .. first:pid(),
      text_of("stderr"), 1, true)
    assert.is_nil(first:wait())
    -- Its script writes into the folder until it is gone.
    first:kill("KILL")
    assert(first:wait(DEADLINE_MS))
    eventually(pid .. " is gone", function() return not process.alive(pid) end)
  end)

  it("says which script is not there", function()
    local child <close> = up("none.lua")
    local _, status = output_of(child)
    assert.equal(2, status.code)
    assert.matches("up: there is no script none.lua", text_of("stderr"), 1, true)
  end)

  it("shows a live view on a terminal and gives it back", function()
    if not process.which("script") then return pending("needs script(1)") end
    local child <close> = assert(process.spawn {
      argv = { "script", "-qefc", ("stty cols 50 rows 16; exec '%s' up prices.lua averages.lua "
        .. "--for 6s"):format(process.exe()), "/dev/null" },
      cwd = dir, stdout = "pipe", stderr = "stdout", stdin = "pipe",
      env = { TIDEMILL_HOME = process.home(), TIDEMILL_VAR = dir .. "/var", NO_COLOR = "1",
              TERM = "xterm", LIVE = false, SHELL = "/bin/sh" },
    })
    local text, status = output_of(child)
    assert.equal(0, status.code)
    assert.matches("\27[?1049h", text, 1, true)
    assert.matches("prices fetch", text, 1, true)
    assert.matches("61837.63000000", text, 1, true)
    local before, after = text:match("^(.*)\27%[%?25h\27%[%?1049l(.*)$")
    assert.matches("averages read", before, 1, true)
    assert.matches("averages: ", after, 1, true) -- the last counts stay
    assert.not_matches("\27%[%d+m", text)
    assert.not_matches("producer up", text, 1, true)
  end)
end)
