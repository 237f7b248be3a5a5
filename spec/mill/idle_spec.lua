-- The idle clocks of DESIGN's definition: advance by elapsed monotonic time once at the end and
-- silent for `idle`, up to the end of the pipeline's newest window; for finality and nothing else.

local idle = require "mill.idle"

local IDLE = 5000

local function at_end(watermark, newest_end)
  return { watermark_ms = watermark, at_end = true, newest_end_ms = newest_end or watermark + 10000 }
end

describe("an idle clock", function()
  local function reached(clockwork, state, now, newest)
    return idle.reached(clockwork, state, now, IDLE, newest or state.newest_end_ms)
  end

  it("does not run before a row, nor before the end of the partition", function()
    local c = idle.new(0)
    assert.is_nil(reached(c, { at_end = true, newest_end_ms = 99 }, 100000))
    assert.is_nil(reached(c, { watermark_ms = 10, at_end = false, newest_end_ms = 99 }, 100000))
  end)

  it("begins after `idle` of silence, and then counts all of it", function()
    local c, state = idle.new(1000), at_end(50000, 90000)
    assert.is_nil(reached(c, state, 1000))
    assert.is_nil(reached(c, state, 1000 + IDLE - 1))
    assert.equal(50000 + IDLE, reached(c, state, 1000 + IDLE))
    assert.equal(50000 + IDLE + 7, reached(c, state, 1000 + IDLE + 7))
  end)

  it("begins anew with each row", function()
    local c, state = idle.new(0), at_end(50000, 90000)
    idle.touch(c, 4000)
    assert.is_nil(reached(c, state, 8999))
    assert.equal(55000, reached(c, state, 9000))
  end)

  it("stops at the end of the newest window of the pipeline, its own or not", function()
    local c, state = idle.new(0), at_end(50000, 60000)
    assert.equal(60000, reached(c, state, 3600000))
    assert.equal(300000, reached(c, state, 3600000, 300000))
    assert.equal(350000, reached(c, state, 300000, 360000))
  end)

  it("stands while it is held, and goes on from there", function()
    local c, state = idle.new(0), at_end(50000, 900000)
    idle.stop(c, 6000, "held")
    assert.is_nil(reached(c, state, 60000))
    idle.go(c, 100000, "held")
    assert.equal(50000 + 6000, reached(c, state, 100000))
    assert.equal(50000 + 7000, reached(c, state, 101000))
  end)

  it("stands until the last reason is gone", function()
    local c, state = idle.new(0), at_end(50000, 900000)
    idle.stop(c, 6000, "held")
    idle.stop(c, 8000, "deaf")
    idle.go(c, 20000, "held")
    assert.is_nil(reached(c, state, 20000))
    idle.go(c, 30000, "deaf")
    assert.equal(50000 + 6000, reached(c, state, 30000))
    idle.go(c, 40000, "deaf")
    assert.equal(50000 + 16000, reached(c, state, 40000))
  end)

  it("stands still when a row comes while it is held", function()
    local c, state = idle.new(0), at_end(50000, 900000)
    idle.stop(c, 1000, "held")
    idle.touch(c, 2000)
    assert.is_nil(reached(c, state, 50000))
    idle.go(c, 60000, "held")
    assert.is_nil(reached(c, state, 60000 + IDLE - 1))
    assert.equal(50000 + IDLE, reached(c, state, 60000 + IDLE))
  end)

  it("goes on from what was stored, and from credit for silence before", function()
    local state = at_end(50000, 900000)
    assert.equal(70000 + IDLE, reached(idle.new(0, 70000), state, IDLE))
    assert.equal(50000 + 4000 + 1000, reached(idle.new(0, nil, 4000), state, 1000))
  end)

  it("never counts for less than the watermark", function()
    local c = idle.new(0, 40000)
    assert.equal(50000 + IDLE, reached(c, at_end(50000, 900000), IDLE))
  end)
end)
