local clock = require "host.clock"
local process = require "host.process"

-- os.time may be a tick behind, and whole seconds: so between the second before and the one after next.
local function of_the_machine()
  local before = os.time()
  local ms = clock.wall_ms()
  assert.is_true(ms >= before * 1000 and ms < (os.time() + 2) * 1000)
end

describe("the clock", function()
  after_each(function()
    clock.set_wall(nil)
    process.reset_stop()
    process.graceful(false)
  end)

  it("reads integers, and monotonic time never goes back", function()
    assert.equal("integer", math.type(clock.wall_ms()))
    local last = clock.mono_us()
    for _ = 1, 1000 do
      local now = clock.mono_us()
      assert.is_true(now >= last)
      last = now
    end
    of_the_machine()
    local ms, us = clock.mono_ms(), clock.mono_us()
    assert.is_true(ms <= us // 1000 and us // 1000 <= clock.mono_ms())
  end)

  it("stands still when fixed, and is the machine's again when released", function()
    clock.set_wall(1723161255342)
    assert.equal(1723161255342, clock.wall_ms())
    assert.equal(1723161255342, clock.wall_ms())
    clock.set_wall(nil)
    of_the_machine()
  end)

  it("moves both clocks forward by advance", function()
    clock.set_wall(1000)
    local before = clock.mono_ms()
    clock.advance(60000)
    assert.equal(61000, clock.wall_ms())
    assert.is_true(clock.mono_ms() - before >= 60000)
  end)

  it("advances the machine's clock as well, until it is released", function()
    clock.advance(3600000)
    assert.is_true(clock.wall_ms() - os.time() * 1000 > 3500000)
    clock.set_wall(nil)
    of_the_machine()
  end)

  it("refuses to go back", function()
    assert.has_error(function() clock.advance(-1) end,
      "bad argument #1 to 'advance' (must be between 0 and a year)")
  end)

  it("sleeps at least as long as told when no signal comes", function()
    local before = clock.mono_us()
    assert.is_false(clock.sleep(20))
    assert.is_true(clock.mono_us() - before >= 20000)
    assert.is_false(clock.sleep(0))
    assert.is_false(clock.sleep(-5))
  end)

  it("does not lose the part of a millisecond in which it began", function()
    for _ = 1, 3 do
      while clock.mono_us() % 1000 < 950 do end
      local before = clock.mono_us()
      clock.sleep(250) -- more than one look for a signal
      assert.is_true(clock.mono_us() - before >= 250000)
    end
  end)

  it("is woken by a signal, and sleeps again in the drain after it", function()
    process.graceful(true)
    local helper <close> = assert(process.spawn {
      argv = { "sh", "-c", "kill -TERM " .. process.pid() },
    })
    local before = clock.mono_ms()
    assert.truthy(helper)
    -- The signal may have come before the sleep began: then it does not end it.
    local early = clock.sleep(30000)
    assert.is_true(early or process.stop_requested() == 1)
    assert.is_true(not early or clock.mono_ms() - before < 29000)
    assert.equal(1, process.stop_requested())
    assert.is_false(clock.sleep(5))
  end)

  it("raises from a sleep in the raising mode", function()
    -- In a process of its own: there is no telling where else it would raise here.
    local script = os.tmpname()
    assert(process.atomic_write(script, [[
      require "host.process".raise_stop()
      require "host.clock".sleep(60000)
      io.stderr:write("not reached\n")
    ]], { sync = false }))
    local child <close> = assert(process.spawn {
      argv = { process.exe(), "exec", script }, stderr = "pipe",
      env = { TIDEMILL_HOME = process.home() } })
    local status = assert(child:wait(20000))
    os.remove(script)
    assert.not_equal(0, status.code)
    local text = child:read("stderr", 1000)
    assert.matches("interrupted", text)
    assert.not_matches("not reached", text)
  end)
end)
