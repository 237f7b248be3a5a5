local clock = require "host.clock"
local fault = require "mill.fault"
local fleet = require "mill.fleet"
local folder = require "spec.support.folder"
local json = require "mill.json"
local process = require "host.process"
local supervisor = require "mill.supervisor"
local tally = require "mill.tally"

local DEADLINE_MS = 30000 * require "spec.support.slow"

local function write(path, text, mode)
  assert(process.atomic_write(path, text, { sync = false, mode = mode }))
end

-- What a producer and a pipeline do, as far as their supervisor sees it: they count into their
-- status file, and their last word on stdout is a summary. The "log" between them is a file.
local PRODUCER = [[
  local process, clock, json = require "host.process", require "host.clock", require "mill.json"
  process.graceful(true)
  local n = 0
  local function report()
    local text = json.encode { kind = "producer", fetched = n, published = n, failed = 0 }
    assert(process.atomic_write(os.getenv "TIDEMILL_STATUS_FILE", text, { sync = false }))
    assert(process.atomic_write("LOG", tostring(n), { sync = false }))
    return text
  end
  while process.stop_requested() == 0 do
    n = n + 1
    report()
    clock.sleep(5)
  end
  n = n + 100 -- the last ones, which the pipeline has yet to read
  print(report())
]]
local PIPELINE = [[
  local process, clock, json = require "host.process", require "host.clock", require "mill.json"
  process.graceful(true)
  local n, length = 0, 0
  local function report()
    local text = json.encode { kind = "pipeline", consumed = n, rows = n, dead = 0, late = 1,
      lag = length - n, latency_ms = { p50 = 2.5, p99 = 7.5 }, newest = { { symbol = "A" } } }
    assert(process.atomic_write(os.getenv "TIDEMILL_STATUS_FILE", text, { sync = false }))
    return text
  end
  while process.stop_requested() == 0 do
    local f = io.open("LOG")
    length = f and tonumber(f:read("a")) or 0
    if f then f:close() end
    n = math.min(length, n + 10) -- slowly
    report()
    clock.sleep(5)
  end
  print(report())
]]

describe("a fleet", function()
  local dir, sup

  before_each(function()
    dir = folder.make()
    -- `EXE run SCRIPT ...` runs the script as it is.
    write(dir .. "/exe", ("#!/bin/sh\nexport TIDEMILL_HOME='%s'\nexec '%s' exec \"$2\"\n"):format(
      process.home(), process.exe()), 493)
    write(dir .. "/prices.lua", (PRODUCER:gsub("LOG", dir .. "/log")))
    write(dir .. "/averages.lua", (PIPELINE:gsub("LOG", dir .. "/log")))
    sup = supervisor.new { backoff_ms = 5 }
  end)
  after_each(function()
    sup:close()
    folder.clear(dir)
  end)

  local function new(paths, more)
    local options = { paths = paths, var = dir, exe = dir .. "/exe", home = dir, cwd = dir }
    for k, v in pairs(more or {}) do options[k] = v end
    return fleet.new(options)
  end

  local function reach(ships, what, ask)
    local deadline = clock.mono_ms() + DEADLINE_MS
    while not ask() do
      if clock.mono_ms() > deadline then error("never came true: " .. what, 2) end
      sup:step(20)
      ships:update()
    end
  end

  it("stops the producer first and lets the pipeline read to the end", function()
    local ships <close> = new { "averages.lua", "prices.lua" }
    ships:take()
    ships:add_to(sup)
    reach(ships, "both count", function()
      return ships.scripts[1].tally:count "consumed" > 5
        and ships.scripts[2].tally:count "published" > 5
    end)
    ships:stop(sup, true)
    local result = ships:result(sup, true, 12340)
    assert.same({}, result.problems)
    assert.is_true(result.ok)
    assert.is_true(result.exact)
    assert.is_true(result.published > 100)
    assert.equal(result.published, result.consumed)
    assert.equal(result.fetched, result.published)
    assert.equal(result.consumed, result.rows)
    assert.equal(1, result.late)
    assert.equal(0, result.dead)
    assert.same({ p50 = 2.5, p99 = 7.5 }, result.latency_ms)
    assert.equal(12.3, result.seconds)
    assert.is_true(result.peak_rss_mb.prices > 1 and result.peak_rss_mb.averages > 1
      and result.peak_rss_mb.up > 1)
    assert.same(result, json.decode(json.encode(result)))
  end)

  it("says what is wrong with the result", function()
    write(dir .. "/prices.lua", "io.stderr:write('no such exchange\\n') os.exit(2)")
    local ships <close> = new { "prices.lua", "averages.lua" }
    ships:take()
    ships:add_to(sup)
    reach(ships, "the producer is given up", function()
      return sup:get("prices").state == "failed" and ships.scripts[2].tally:kind()
    end)
    assert.is_false(ships:over())
    ships:stop(sup, true)
    assert.is_true(ships:over())
    local result = ships:result(sup, true, 1000)
    assert.is_false(result.ok)
    assert.same({
      "prices: ended with exit code 2 (no such exchange): it was called wrongly or its script has "
        .. "an error; it is not started again",
      "prices never reported anything", "no row was written",
    }, result.problems)
  end)

  it("adds up what a script did before and after a restart", function()
    local ships <close> = new { "prices.lua", "averages.lua" }
    ships:take()
    ships:add_to(sup)
    local script = ships.scripts[1]
    reach(ships, "it counts", function() return script.tally:count "published" >= 20 end)
    local before = script.tally:count "published"
    process.kill(sup:get("prices").pid, "KILL")
    reach(ships, "it is back", function()
      return sup:get("prices").restarts == 1 and script.tally:has "fetched"
        and script.tally:count "published" > before + 10
    end)
    ships:stop(sup, true)
    local result = ships:result(sup, true, 1000)
    assert.same({ prices = 1 }, result.restarts)
    assert.is_false(result.exact)
  end)

  it("says that counts are a lower bound when a run left no last words", function()
    local path = dir .. "/x.status.json"
    local function told(n)
      write(path, ('{"kind":"pipeline","consumed":%d}'):format(n))
    end
    local t = tally.new("x", path)
    t:begin()
    t:finish("", false) -- called wrongly: it never did anything
    assert.is_true(t.exact)
    t:begin()
    told(3)
    t:update()
    t:finish('a line\n{"kind":"pipeline","consumed":5}\n', false)
    assert.is_true(t.exact)
    t:begin()
    told(2)
    t:update()
    t:finish('{"kind":"pipeli', false) -- it failed, up to a second after it last told
    assert.is_false(t.exact)
    assert.equal(7, t:count "consumed")
    t:begin()
    told(1)
    t:update()
    t:finish('{"kind":"pipeline","consumed":1}\n', false)
    assert.is_false(t.exact)
    assert.equal(8, t:count "consumed")
    local silent = tally.new("y", dir .. "/y.status.json")
    silent:begin()
    silent:finish("", true) -- killed in its first second
    assert.is_false(silent.exact)
  end)

  it("runs the same script several times as instances of other names", function()
    write(dir .. "/show.lua", "print(json)")
    write(dir .. "/exe", "#!/bin/sh\necho \"$@\"\n", 493)
    local ships <close> = new({ "show.lua", "show.lua", "averages.lua" }, {
      set = { "topic=t", "show.size=1s" }, instance = "here",
      extra = function(script) return script.base == "averages" and { "x=1" } or {} end,
    })
    ships:take()
    ships:add_to(sup)
    reach(ships, "all have ended", function() return ships:over() end)
    assert.equal(("run %s/show.lua --json --instance here --set topic=t --set size=1s\n")
      :format(dir), sup:get("show").output)
    assert.equal(("run %s/show.lua --json --instance here-2 --set topic=t --set size=1s\n")
      :format(dir), sup:get("show-2").output)
    assert.equal(("run %s/averages.lua --json --instance here --set x=1 --set topic=t\n")
      :format(dir), sup:get("averages").output)
  end)

  it("refuses unknown scripts, settings of unknown scripts, and a second fleet", function()
    local function message(fn)
      local ok, err = pcall(fn)
      assert.is_false(ok)
      assert.is_true(fault.is(err), tostring(err))
      return err.status, err.message
    end
    assert.same({ fault.USAGE, "up: there is no script none.lua" },
      { message(function() new { "none.lua" } end) })
    assert.same({ fault.USAGE, "up: --set other.x=1: no script here is called other" },
      { message(function() new({ "prices.lua" }, { set = { "other.x=1" } }) end) })
    local first <close> = new { "prices.lua" }
    first:take()
    local second <close> = new { "prices.lua" }
    assert.same({ fault.RUNNING, "up: prices is already supervised in this folder by process "
      .. process.pid() }, { message(function() second:take() end) })
  end)
end)

describe("a tally", function()
  local dir, path

  before_each(function()
    dir = folder.make()
    path = dir .. "/status.json"
  end)
  after_each(function() folder.clear(dir) end)

  it("reads a status file only when it was replaced, and knows rates", function()
    local t = tally.new("averages", path)
    assert.is_false(t:update())
    assert.is_nil(t:rate "consumed")
    write(path, '{"kind":"pipeline","consumed":100,"rows":3,"lag":7,"dead":1}')
    assert.is_true(t:update())
    assert.is_false(t:update())
    assert.equal(100, t:count "consumed")
    assert.is_nil(t:rate "consumed")
    clock.advance(1000000)
    write(path, '{"kind":"pipeline","consumed":250100,"rows":3,"lag":7,"dead":1}')
    assert.is_true(t:update())
    local rate = t:rate "consumed"
    assert.is_true(rate > 200 and rate <= 250, tostring(rate))
    assert.equal(0, t:rate "rows")
    clock.advance(60000)
    assert.equal(0, t:rate "consumed")
    clock.set_wall(nil)
  end)

  it("ignores a file that is not its own kind of JSON", function()
    local t = tally.new("x", path)
    for _, text in ipairs { "", "{", "3", "null", '{"consumed":"many"}' } do
      write(path, text)
      t:update()
      assert.equal(0, t:count "consumed")
    end
  end)

  it("takes the last line of the output as the last word", function()
    local t = tally.new("x", path)
    t:finish("noise\n{\"kind\":\"producer\",\"published\":5,\"fetched\":6}\n")
    assert.equal(5, t:count "published")
    assert.equal("producer", t:kind())
    t:finish("traceback, not JSON")
    t:finish("")
    assert.equal(5, t:count "published")
  end)

  it("gives the newest rows with their columns, whatever form they have", function()
    local t = tally.new("x", path)
    write(path, '{"newest":[{"symbol":"A","samples":1},{"symbol":"B","samples":2}]}')
    t:update()
    assert.same({ columns = { "samples", "symbol" }, rows = { { 1, "A" }, { 2, "B" } } },
      t:newest())
    write(path, '{"newest":{"columns":["symbol"],"rows":[["A"]]} }')
    t:update()
    assert.same({ columns = { "symbol" }, rows = { { "A" } } }, t:newest())
    write(path, '{"newest":[]}')
    t:update()
    assert.is_nil(t:newest())
  end)
end)
