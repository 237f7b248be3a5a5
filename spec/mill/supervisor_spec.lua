local clock = require "host.clock"
local folder = require "spec.support.folder"
local process = require "host.process"
local supervisor = require "mill.supervisor"

local DEADLINE_MS = 30000 * require "spec.support.slow"

describe("a supervisor", function()
  local dir, sup, said, heard

  before_each(function()
    dir = folder.make()
    said, heard = {}, {}
    sup = supervisor.new {
      logs = dir, backoff_ms = 5,
      say = function(service, level, text) said[#said + 1] = { service.name, level, text } end,
      echo = function(service, line) heard[#heard + 1] = service.name .. "|" .. line end,
    }
  end)
  after_each(function()
    sup:close()
    folder.clear(dir)
  end)

  --- Step until it is true.
  local function reach(what, ask)
    local deadline = clock.mono_ms() + DEADLINE_MS
    while not ask() do
      if clock.mono_ms() > deadline then error("never came true: " .. what, 2) end
      sup:step(100)
    end
  end

  local function in_state(name, state)
    reach(name .. " is " .. state, function() return sup:get(name).state == state end)
  end

  local function sh(script) return { argv = { "sh", "-c", script } } end

  local function said_of(name, pattern)
    for _, entry in ipairs(said) do
      if entry[1] == name and entry[3]:find(pattern) then return entry end
    end
  end

  it("runs a program and tells that it ended", function()
    sup:add { name = "a", command = sh("echo '{\"n\":1}'; exit 0"), ends = true }
    in_state("a", "done")
    assert.equal('{"n":1}\n', sup:get("a").output)
    assert.equal(0, sup:get("a").restarts)
    assert.equal(0, sup:get("a").code)
  end)

  it("passes on each line of stderr, and keeps them in a log", function()
    sup:add { name = "loud", command = sh("echo one >&2; printf 'two\\nthree' >&2"), ends = true }
    sup:add { name = "quiet", command = sh("echo hush >&2"), ends = true, quiet = true }
    in_state("loud", "done")
    in_state("quiet", "done")
    table.sort(heard)
    assert.same({ "loud|one", "loud|three", "loud|two" }, heard)
    local f <close> = assert(io.open(dir .. "/loud.log"))
    assert.equal("one\ntwo\nthree\n", f:read("a"))
    local q <close> = assert(io.open(dir .. "/quiet.log"))
    assert.equal("hush\n", q:read("a"))
  end)

  it("keeps a log within its size, and the part before it", function()
    sup.log_max = 1000
    sup:add { name = "loud", quiet = true, ends = true,
              command = sh("i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo line $i >&2; done") }
    in_state("loud", "done")
    local last, before = 0, 0
    for line in io.lines(dir .. "/loud.log") do last = tonumber(line:match("%d+")) end
    for line in io.lines(dir .. "/loud.log.1") do before = tonumber(line:match("%d+")) end
    assert.is_true(before > 100)
    assert.is_true(last == 200 or before == 200)
    assert.is_true(process.stat(dir .. "/loud.log").size <= 1000)
    assert.is_true(process.stat(dir .. "/loud.log.1").size <= 1020)
  end)

  it("starts a service when what it needs is ready", function()
    local order = {}
    local open = false
    sup:add { name = "b", command = function() order[#order + 1] = "b" return sh("sleep 1000") end,
              needs = { "a", "step" } }
    sup:add { name = "a", command = function() order[#order + 1] = "a" return sh("sleep 1000") end,
              ready = function() return open end }
    sup:add { name = "step", once = true, command = sh("exit 0"),
              done = function() order[#order + 1] = "step" return true end }
    in_state("a", "starting")
    in_state("step", "done")
    for _ = 1, 5 do sup:step(10) end
    assert.equal("waiting", sup:get("b").state)
    open = true
    in_state("b", "running")
    table.sort(order, function(x, y) return x ~= "b" and y == "b" end)
    assert.equal("b", order[3])
  end)

  it("starts it again when it fails, later each time, and stops a crash loop", function()
    sup:add { name = "bad", command = sh("echo 'the reason' >&2; exit 1"), max_failures = 4 }
    sup:add { name = "good", command = sh("sleep 1000") }
    in_state("bad", "failed")
    assert.equal(4, sup:get("bad").restarts)
    assert.equal(1, sup:get("bad").code)
    assert.truthy(said_of("bad", "ended with exit code 1 %(the reason%); next start in 0.0 s"))
    assert.truthy(said_of("bad", "4 times in a row, so it is not started again"))
    assert.equal("running", sup:get("good").state)
    assert.is_true(supervisor.ended(sup:get("bad")))
  end)

  it("forgets failures after a steady run", function()
    sup.steady_ms = 0
    sup:add { name = "bad", command = sh("exit 1"), max_failures = 2 }
    reach("ten restarts", function() return sup:get("bad").restarts >= 10 end)
    assert.not_equal("failed", sup:get("bad").state)
  end)

  it("does not start it again after a final exit code", function()
    sup:add { name = "fenced", command = sh("exit 6"), final = { [6] = "another took over" } }
    in_state("fenced", "failed")
    assert.equal(0, sup:get("fenced").restarts)
    assert.equal("ended with exit code 6: another took over; it is not started again",
      sup:get("fenced").why)
  end)

  it("tries for ever after a limitless one", function()
    sup:add { name = "early", command = sh("exit 3"), limitless = { [3] = true },
              max_failures = 1 }
    reach("some restarts", function() return sup:get("early").restarts >= 4 end)
    assert.not_equal("failed", sup:get("early").state)
  end)

  it("says by what signal a service was killed", function()
    sup:add { name = "killed", command = sh("kill -SEGV $$"), max_failures = 1 }
    in_state("killed", "failed")
    assert.truthy(said_of("killed", "was killed by signal SEGV"))
  end)

  it("counts a program that is not there as a failure", function()
    sup:add { name = "none", command = { argv = { "no-such-program" } }, max_failures = 2 }
    in_state("none", "failed")
    assert.truthy(said_of("none", "No such file or directory"))
  end)

  it("starts anew what follows a service that was started anew", function()
    sup:add { name = "broker", command = sh("sleep 1000") }
    sup:add { name = "script", command = sh("sleep 1000"), needs = { "broker" },
              follows = { "broker" } }
    sup:add { name = "other", command = sh("sleep 1000"), needs = { "broker" } }
    in_state("script", "running")
    in_state("other", "running")
    local pid, other = sup:get("script").pid, sup:get("other").pid
    process.kill(sup:get("broker").pid, "KILL")
    reach("the script follows", function()
      local script = sup:get("script")
      return script.state == "running" and script.pid ~= pid
    end)
    assert.equal(other, sup:get("other").pid)
    assert.equal(0, sup:get("script").restarts)
    assert.is_false(process.alive(pid))
  end)

  it("stops in the order of ranks", function()
    local trace = dir .. "/trace"
    for rank, name in ipairs { "first", "second", "third" } do
      sup:add { name = name, rank = rank, command = sh(
        ("trap 'echo %s >> %s; exit 0' TERM; echo up >&2; while :; do sleep 0.01; done")
          :format(name, trace)) }
    end
    reach("all have set their traps", function() return #heard == 3 end)
    sup:stop_all(DEADLINE_MS)
    local f <close> = assert(io.open(trace))
    assert.equal("first\nsecond\nthird\n", f:read("a"))
    for _, name in ipairs { "first", "second", "third" } do
      assert.equal("stopped", sup:get(name).state)
      assert.equal(0, sup:get(name).restarts)
    end
  end)

  it("kills what ignores SIGTERM when its time is over", function()
    sup:add { name = "deaf",
              command = sh("trap '' TERM; echo up >&2; while :; do sleep 0.05; done") }
    reach("it ignores the signal", function() return #heard == 1 end)
    local pid = sup:get("deaf").pid
    sup:stop_all(50)
    assert.equal("stopped", sup:get("deaf").state)
    assert.is_true(sup:get("deaf").killed)
    assert.is_false(process.alive(pid))
  end)

  it("starts nothing any more once it stops", function()
    sup:add { name = "bad", command = sh("exit 1"), max_failures = 1000 }
    sup:add { name = "later", command = sh("sleep 1000"), needs = { "never" } }
    sup:add { name = "never", command = sh("sleep 1000"), ready = function() return false end }
    in_state("never", "starting")
    sup:stop_all(DEADLINE_MS)
    assert.equal("stopped", sup:get("bad").state)
    assert.equal("stopped", sup:get("later").state)
    assert.equal("stopped", sup:get("never").state)
  end)

  it("stops what was just to be restarted", function()
    sup:add { name = "broker", command = sh("sleep 1000") }
    sup:add { name = "reader", follows = { "broker" },
              command = sh("trap 'sleep 0.2; exit 0' TERM; echo up >&2; while :; do sleep 0.01; done") }
    reach("it reads", function() return #heard == 1 end)
    sup:get("broker").child:kill("KILL")
    in_state("reader", "stopping")
    sup:stop({ "reader" }, DEADLINE_MS)
    assert.equal("stopped", sup:get("reader").state)
    sup:stop_all(DEADLINE_MS)
  end)

  it("kills all at once when told", function()
    for i = 1, 3 do
      sup:add { name = "s" .. i, rank = i, command = sh("trap '' TERM; sleep 1000") }
    end
    in_state("s3", "running")
    sup:kill_all()
    reach("all ended", function()
      return sup:get("s1").state == "stopped" and sup:get("s2").state == "stopped"
        and sup:get("s3").state == "stopped"
    end)
  end)

  it("knows the greatest memory of a service after it ended", function()
    sup:add { name = "a", command = { argv = { process.exe(), "exec", dir .. "/big.lua" },
      env = { TIDEMILL_HOME = process.home() } } }
    assert(process.atomic_write(dir .. "/big.lua", [[
      local text = ("x"):rep(50 * 1024 * 1024)
      io.stderr:write("big\n")
      text = nil
      collectgarbage()
      require "host.clock".sleep(1000000)
    ]], { sync = false }))
    reach("it is big", function() return #heard == 1 end)
    sup:stop_all(DEADLINE_MS)
    assert.is_true(sup:get("a").peak_rss_kb > 50 * 1024)
  end)

  it("refuses misuse", function()
    sup:add { name = "a", command = sh("exit 0"), ends = true }
    assert.has_error(function() sup:add { name = "a", command = sh("") } end,
      "supervisor: a second service a")
    assert.has_error(function() sup:add { name = "b", comand = sh("") } end,
      "supervisor: unknown option 'comand'")
    assert.has_error(function() sup:get("c") end, "supervisor: no service c")
  end)

  it("leaves no child behind when it is killed itself", function()
    assert(process.atomic_write(dir .. "/sup.lua", [[
      local supervisor = require "mill.supervisor"
      local sup = supervisor.new {}
      for i = 1, 3 do
        sup:add { name = "s" .. i,
                  command = { argv = { "sh", "-c", "trap '' TERM; exec sleep 1000" } } }
      end
      local told = false
      while true do
        sup:step(100)
        local pids = {}
        for i = 1, 3 do pids[i] = sup:get("s" .. i).pid end
        if #pids == 3 and not told then
          told = true
          io.stdout:write(table.concat(pids, " "), "\n")
          io.stdout:flush()
        end
      end
    ]], { sync = false }))
    local child <close> = assert(process.spawn {
      argv = { process.exe(), "exec", dir .. "/sup.lua" }, stdout = "pipe",
      env = { TIDEMILL_HOME = process.home() } })
    local text = ""
    reach("the pids", function()
      text = text .. (child:read("stdout", 50) or "")
      return text:find("\n")
    end)
    child:kill("KILL")
    assert(child:wait(DEADLINE_MS))
    for pid in text:gmatch("%d+") do
      pid = math.tointeger(tonumber(pid))
      reach(pid .. " is gone", function() return not process.alive(pid) end)
    end
  end)
end)
