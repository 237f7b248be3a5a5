-- The test build's fail points and mutations; an ordinary build has neither.

local failpoint = require "mill.failpoint"
local process = require "host.process"
local real = require "spec.support.real"

local CODE = [[
local failpoint = require "mill.failpoint"
for i = 1, 6 do
  failpoint.hit "commit.before"
  print(i)
end
]]

describe("an ordinary build", function()
  it("has no fail points and leaves no check out", function()
    if failpoint.built then return pending "this is a test build" end
    assert.is_nil(package.preload["host.failpoint"])
    assert.is_false(failpoint.hit "nothing of the kind")
    assert.is_false(failpoint.off "fencing")
  end)

  it("does not look at what a test build is asked for", function()
    if failpoint.built then return pending "this is a test build" end
    local r = real.tidemill({ "repl", "-e", CODE },
      { env = { TIDEMILL_FAILPOINT = "commit.before=kill", TIDEMILL_MUTATION = "nonsense" } }):finish()
    assert.are.same({ 0, "1\n2\n3\n4\n5\n6\n" }, { r.status, r.out }, r.err)
  end)
end)

describe("a test build", function()
  local program = real.faults()
  if not program then
    it("is made by `make faults`", function() pending "it was not made" end)
    return
  end

  local function start(env, code)
    return real.tidemill({ "repl", "-e", code or CODE }, { env = env, program = program })
  end

  local function run(env, code) return start(env, code):finish() end

  it("goes on where it is asked for nothing", function()
    local r = run {}
    assert.are.same({ 0, "1\n2\n3\n4\n5\n6\n", "" }, { r.status, r.out, r.err })
  end)

  it("kills itself the third time", function()
    local r = run { TIDEMILL_FAILPOINT = "commit.after=stop,commit.before=kill:3" }
    assert.are.equal(9, r.signal)
  end)

  it("stops itself, once, and goes on when told to", function()
    local child = start { TIDEMILL_FAILPOINT = "commit.before=stop:2" }
    real.stopped(child)
    child:kill "CONT"
    local r = child:finish(20000)
    assert.are.same({ 0, "1\n2\n3\n4\n5\n6\n" }, { r.status, r.out })
  end)

  it("exits with 70, fails, and sleeps", function()
    assert.are.equal(70, run({ TIDEMILL_FAILPOINT = "commit.before=exit" }).status)
    local r = run { TIDEMILL_FAILPOINT = "commit.before=error:2" }
    assert.are.equal(1, r.status)
    assert.is_truthy(r.err:find("fail point commit.before", 1, true), r.err)
    r = run { TIDEMILL_FAILPOINT = "commit.before=sleep:30:3+" }
    assert.is_true(r.status == 0 and r.ms >= 120)
  end)

  local DRAW = [[
local failpoint = require "mill.failpoint"
for _ = 1, 400 do io.write(pcall(failpoint.hit, "claim.before") and "." or "x") end
]]

  it("draws by chance, the same for the same seed", function()
    local function draw(seed)
      return run({ TIDEMILL_FAILPOINT = "claim.before=error:25%", TIDEMILL_FAILPOINT_SEED = seed },
        DRAW).out
    end
    local first = draw "7"
    local _, failed = first:gsub("x", "")
    assert.is_true(failed > 60 and failed < 140, first)
    assert.are.equal(first, draw "7")
    assert.are_not.equal(first, draw "8")
  end)

  it("leaves out the checks it is told to", function()
    local r = run({ TIDEMILL_MUTATION = "fencing,position" }, [[
local off = require("mill.failpoint").off
print(off "fencing", off "position", off "commit-seq")]])
    assert.are.equal("true\ttrue\tfalse\n", r.out, r.err)
  end)

  for what, env in pairs {
    ["no fail point 'comit'; there are claim.before, "] = { TIDEMILL_FAILPOINT = "comit=kill" },
    ["no action 'maim'; there are kill, stop, "] = { TIDEMILL_FAILPOINT = "commit.before=maim" },
    ["'commit.before': write POINT=ACTION"] = { TIDEMILL_FAILPOINT = "commit.before" },
    ["'commit.before=kill:0': write"] = { TIDEMILL_FAILPOINT = "commit.before=kill:0" },
    ["'commit.before=kill:101%': write"] = { TIDEMILL_FAILPOINT = "commit.before=kill:101%" },
    ["'commit.before=sleep': write"] = { TIDEMILL_FAILPOINT = "commit.before=sleep" },
    ["no mutation 'no'; there are fencing, for-update, "] = { TIDEMILL_MUTATION = "no" },
  } do
    it("refuses: " .. what, function()
      local r = run(env)
      assert.are.equal(2, r.status)
      assert.is_truthy(r.err:find(what, 1, true), r.err)
    end)
  end

  it("refuses a point or a mutation that the program makes up", function()
    for _, call in ipairs { 'hit "nowhere"', 'off "nothing"' } do
      local r = run({}, ('require("mill.failpoint").%s'):format(call))
      assert.are.equal(2, r.status, r.out)
      assert.is_truthy(r.err:find("there are", 1, true), r.err)
    end
  end)

  it("has every name that the sources use, and uses every name", function()
    local r = run({}, [[
local host = require "host.failpoint"
print(table.concat(host.points(), "\n") .. "\n" .. table.concat(host.mutations(), "\n"))]])
    local used, known = {}, {}
    for _, folder in ipairs { "lib/mill", "lib/mill/cmd", "host" } do
      for _, name in ipairs(process.list(folder)) do
        local file = name:find("%.[lc]u?a?$") and io.open(folder .. "/" .. name)
        local text = file and file:read "a" or ""
        if file then file:close() end
        for point in text:gmatch('failpoint%.%l+%(?%s?"([%l_%.%-]+)"') do used[point] = true end
        for point in text:gmatch('FAILPOINT[_OF]*%("([%l_%.%-]+)"%)') do used[point] = true end
        for point in text:gmatch('"commit%.sent"') do used[point:sub(2, -2)] = true end
      end
    end
    for name in r.out:gmatch("[^\n]+") do known[name] = true end
    for name in pairs(used) do assert.is_true(known[name], "unknown: " .. name) end
    for name in pairs(known) do
      assert.is_true(used[name] or name:find("^spool") ~= nil, "nowhere in the sources: " .. name)
    end
  end)

  it("has its wall clock set by a file, while it runs", function()
    local folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-clock-"))
    local path = folder .. "/clock"
    assert(process.atomic_write(path, "-3600000\n"))
    local child = start({ TIDEMILL_CLOCK_FILE = path }, [[
local clock = require "host.clock"
local function off() return (clock.wall_ms() - os.time() * 1000) // 1000 end
local function mono(f)
  local before = clock.mono_ms()
  f()
  return clock.mono_ms() - before
end
assert(math.abs(off() + 3600) <= 1, off())
io.stdout:write("set\n"):flush()
local took = mono(function() while off() < 0 do clock.sleep(5) end end)
assert(took < 60000 and math.abs(off() - 86400) <= 1, off())]])
    real.wait(function() return child:output() == "set\n" end, "the first look")
    assert(process.atomic_write(path, "86400000"))
    local r = child:finish(20000)
    os.remove(path)
    os.remove(folder)
    assert.are.equal(0, r.status, r.err)
  end)
end)
