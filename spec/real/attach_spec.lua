-- `tidemill repl --attach` on processes that have work to do: endless code, several clients, killed
-- ones, a killed process. The stream goes on and its numbers are right.

local clock = require "host.clock"
local process = require "host.process"
local real = require "spec.support.real"

-- An input may take one second; whoever asks gives up after ten.
local LIMIT_MS = 9000 * require "spec.support.slow"

describe("code sent to a live process", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local folder, children

  before_each(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-live-"))
    children = {}
  end)
  after_each(function()
    for _, child in ipairs(children) do child:kill("KILL") end
    os.execute("rm -rf '" .. folder .. "'")
  end)
  teardown(real.close)

  local function keep(child)
    children[#children + 1] = child
    return child
  end

  local function ask(name, ...)
    local argv = { "repl", "--attach", name }
    for _, code in ipairs { ... } do
      argv[#argv + 1] = "-e"
      argv[#argv + 1] = code
    end
    return keep(real.tidemill(argv, { env = { TIDEMILL_VAR = folder, NO_COLOR = "1" },
      cwd = process.home() }))
  end

  local function answer(name, ...)
    local r
    for _ = 1, 5 do -- it has a second, in which a process may not run
      r = ask(name, ...):finish()
      if not r.err:find("it ran for too long", 1, true) then break end
    end
    assert(r.status == 0, r.out .. r.err)
    return r.out
  end

  local function await(name, code, want)
    real.wait(function() return ask(name, code):finish().out:find(want) end, code)
  end

  local function endless(name, code)
    local r = ask(name, code):finish()
    assert.equal(1, r.status, r.out)
    assert.matches("it ran for too long", r.err, 1, true)
    assert.is_true(r.ms < LIMIT_MS, r.ms .. " ms")
  end

  for _, base in ipairs(real.databases()) do
    it("leaves the numbers of a pipeline right, in " .. base.name, function()
      local place = real.place(base)
      finally(function() place:close() end)
      local o = { topic = real.topic {}, name = real.name "live", table = place:table(true),
        size_ms = 1000, lateness_ms = 0, until_end = false, env = { TIDEMILL_VAR = folder },
        idle_ms = 3600000 } -- finality is compared: it is not to come by the clock
      local producer <close> = real.producer()
      local sent = 0
      local function send(count)
        for _ = 1, count do
          sent = sent + 1
          real.put(producer, { topic = o.topic, partition = sent % 3, value =
            ('{"symbol":"S%d","price":"%d.25","timestamp":%d}'):format(sent % 7, sent % 91,
              1723161255000 + sent * 3) })
        end
        real.flush(producer)
      end
      local function positions()
        local sum = 0
        for _, row in ipairs(place:query("select position from mill_progress where pipeline = '%s'",
          o.name)) do sum = sum + row[1] end
        return sum
      end
      local function caught_up()
        local want = 0
        for _, range in pairs(real.ends(o.topic)) do want = want + range[2] end
        real.wait(function() return positions() == want end, "the pipeline")
      end

      send(2000)
      local run = keep(place:start(o))
      caught_up()
      endless(o.name, "while true do end")
      send(2000)
      local held = ask(o.name, "while true do pcall(function() while true do end end) end")
      send(1000)
      held:finish()
      caught_up()

      -- Two at once, and one that is killed while its code runs.
      local busy, other = ask(o.name, "clock.sleep(100) return 'busy'"), ask(o.name, "1 + 1")
      local killed = ask(o.name, "clock.sleep(900)")
      send(1000)
      clock.sleep(100)
      killed:kill("KILL")
      local first = busy:finish()
      assert.is_truthy(first.out == '"busy"\n' or first.err:find("it ran for too long", 1, true), first.err)
      assert.equal("2\n", other:finish().out)
      caught_up()
      -- It is counted when the commit is answered; we may have seen what it wrote before that.
      await(o.name, "status().consumed", "^" .. sent .. "\n")
      assert.matches("position", answer(o.name, "partitions()"), 1, true)

      local nobody = ask("nobody", "1"):finish()
      assert.equal(3, nobody.status)
      assert.matches("nothing named 'nobody' runs here; in " .. folder .. "/state: " .. o.name .. "@a",
        nobody.err, 1, true)

      -- Its file stays after kill -9, and the next start takes its place.
      run:kill("KILL")
      local file = ("%s/state/%s@a.sock"):format(folder, o.name)
      assert.equal("socket", process.stat(file).type)
      run = keep(place:start(o))
      await(o.name, "process.pid()", "^" .. run:pid() .. "\n")
      endless(o.name, "local s = '' while true do s = s .. 'x' end")
      send(1000)
      caught_up()
      run:kill("TERM")
      local r = run:finish()
      assert.equal(0, r.status, r.err)
      assert.is_nil(process.stat(file))
      o.until_end = true
      place:average(o)
      real.verify(place, o)
    end)
  end

  it("leaves the processes of up --dev going", function()
    local up = keep(real.tidemill({ "up", "--dev", "--json" }, { cwd = folder, env = {
      TIDEMILL_VAR = folder, TIDEMILL_CONFIG = false, TIDEMILL_KAFKA = false,
      TIDEMILL_KAFKA_CONF = false, TIDEMILL_MYSQL = false, TIDEMILL_HTTP = false, LIVE = false } }))
    real.wait(function()
      local r = up:result()
      assert(not r, r and r.err)
      return ask("averages", "status().consumed"):finish().out:find "^[1-9]"
    end, "the first averages", 240000 * require "spec.support.slow")
    local nobody = ask("nobody", "1"):finish()
    assert.equal(3, nobody.status)
    for _, name in ipairs { "averages", "prices", "up" } do
      assert.matches(name, nobody.err, 1, true)
    end
    local function number(name, code) return math.tointeger(tonumber(answer(name, code))) end
    for name, code in pairs { averages = "status().consumed", prices = "status().published" } do
      endless(name, "while true do end")
      local before = number(name, code)
      await(name, code .. " > " .. before, "true")
    end
    endless("up", "while true do end")
    local pid = number("averages", "process.pid()")
    assert.is_true(process.kill(pid, "KILL"))
    await("averages", "process.pid() ~= " .. pid, "true")
    -- Each message is in one window, and in no second one.
    assert.equal('"0"\n', answer("averages", "sql([[select (select sum(samples) from moving_averages) - "
      .. "(select sum(position) from mill_progress)]]).rows[1][1]"))
    up:kill("TERM")
    local r = up:finish()
    assert.equal(0, r.status, r.err)
    assert.equal(1, r.summary.restarts.averages, r.out)
    assert.same({}, r.summary.problems)
    assert.is_false(r.summary.exact) -- what it counted after it last told died with it
  end)
end)
