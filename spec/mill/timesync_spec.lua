local clock = require "host.clock"
local log = require "mill.log"
local logged_ = require "spec.support.logged"
local timesync = require "mill.timesync"

describe("the exchange's clock", function()
  local lines

  before_each(function()
    logged_.take()
    log.over("clock", "")
    lines = logged_.take()
  end)

  after_each(function()
    log.to(nil)
    clock.set_wall(nil)
  end)

  -- Both clocks at one moment: read again when something came between the two.
  local function moment()
    local us, ms
    repeat
      us, ms = clock.mono_us(), clock.wall_ms()
    until clock.mono_us() - us < 1000
    return us, ms
  end

  -- An answer that began `ago_us` ago, was sent after `sent`, answered after `first` microseconds,
  -- and read `shift` ms plus our wall time at the moment `at` (of the way, 0..1).
  local function sample(way_us, shift, at)
    local now_us, wall_ms = moment()
    local finished = now_us
    local sent = 1000
    local read_us = finished - way_us + math.floor(way_us * (at or 0.5))
    local wall = wall_ms + (read_us - now_us) / 1000
    return {
      status = 200, body = ('{"serverTime":%d}'):format(math.floor(wall + shift)), headers = {},
      finished_us = finished,
      timings = { sent_us = sent, first_byte_us = sent + way_us, total_us = sent + way_us },
    }
  end

  local function give(sync, ...)
    assert.is_true(sync:wants(clock.mono_ms()))
    sync:begin()
    assert.is_false(sync:wants(clock.mono_ms()))
    sync:take(sample(...), clock.mono_ms(), 2)
  end

  it("is taken from the sample with the shortest way", function()
    local sync = timesync.new { every_ms = 60000, samples = 3 }
    give(sync, 200000, 1000, 1) -- a slow way, and lopsided: 100 ms wrong
    give(sync, 4000, 1000)
    assert.is_false(sync:settled())
    give(sync, 80000, 1000, 0)
    assert.is_true(sync:settled())
    assert.near(1000, sync:offset_ms(), 3)
    assert.equal(2, sync.uncertainty_ms)
    local now_us, wall_ms = moment()
    assert.near(wall_ms + 1000, sync:at(now_us), 3)
    assert.equal("integer", math.type(sync:at(clock.mono_us())))
    assert.is_false(sync:wants(clock.mono_ms()))
    assert.is_true(sync:wants(clock.mono_ms() + 60000))
    assert.matches("the exchange's clock is %+%d+%.%d ms from ours, within 2.0 ms", lines[1])
  end)

  it("is ours when it cannot be measured, said once; and theirs when it can again", function()
    local sync = timesync.new { every_ms = 60000, samples = 1 }
    sync:begin()
    sync:fail(clock.mono_ms(), "500", 2)
    assert.is_false(sync:settled()) -- a second try
    assert.is_true(sync:wants(clock.mono_ms()))
    sync:begin()
    sync:fail(clock.mono_ms(), "500", 2)
    assert.is_true(sync:settled())
    assert.equal(0, sync:offset_ms())
    local now_us, wall_ms = moment()
    assert.near(wall_ms, sync:at(now_us), 2)
    sync:begin()
    sync:fail(clock.mono_ms(), "500", 2)
    assert.equal(1, #lines)
    assert.matches("WARN .* cannot be measured %(500%): prices are stamped with our own", lines[1])
    sync.due_ms = 0
    give(sync, 2000, -500)
    assert.near(-500, sync:offset_ms(), 3)
    assert.matches("INFO .* the exchange's time is measured again", lines[2])
  end)

  for what, body in pairs {
    ["no time"] = "{}", ["a page"] = "<html>", ["seconds"] = '{"serverTime":1723161255}',
    ["text"] = '{"serverTime":"1723161255342"}',
  } do
    it("is not taken from " .. what, function()
      local sync = timesync.new { every_ms = 60000, samples = 1 }
      local response = sample(1000, 0)
      response.body = body
      sync:begin()
      sync:take(response, clock.mono_ms(), 1)
      assert.is_true(sync:settled())
      assert.is_nil(sync.shift)
    end)
  end

  it("is not taken from an answer that was long on its way", function()
    local sync = timesync.new { every_ms = 60000, samples = 1 }
    sync:begin()
    sync:take(sample(2500000, 0), clock.mono_ms(), 1)
    assert.is_nil(sync.shift)
  end)

  it("does not move with a step of ours, but is measured anew", function()
    local sync = timesync.new { every_ms = 60000, samples = 1 }
    give(sync, 2000, 1000)
    assert.is_false(sync:watch())
    local before = sync:at(clock.mono_us())
    clock.set_wall(clock.wall_ms() + 3600000)
    assert.is_true(sync:watch())
    assert.near(before, sync:at(clock.mono_us()), 5000)
    assert.is_false(sync:settled())
    assert.is_true(sync:wants(clock.mono_ms()))
    assert.matches("our wall clock moved by %+3%d%d%d%.%d+ s", lines[#lines])
  end)

  it("moves by as much as the machine has slept, also where it cannot be measured then", function()
    local asleep, slept = clock.asleep_ms, 0
    clock.asleep_ms = function() return slept end
    finally(function() clock.asleep_ms = asleep end)
    local sync = timesync.new { every_ms = 60000, samples = 1 }
    give(sync, 2000, 1000)
    local before = sync:at(clock.mono_us())
    sync.due_ms = 0
    sync:begin()
    local late = sample(2000, 1000)
    slept = 3600000
    clock.set_wall(clock.wall_ms() + slept)
    assert.is_true(sync:watch())
    assert.near(before + slept, sync:at(clock.mono_us()), 5000)
    assert.matches("the machine slept for 3600.0 s; the exchange's clock is measured anew", lines[#lines])
    -- An answer from before, and a network that is not back yet.
    sync:take(late, clock.mono_ms(), 1)
    sync:begin()
    sync:fail(clock.mono_ms(), "no network", 1)
    assert.is_true(sync:settled())
    assert.near(before + slept, sync:at(clock.mono_us()), 5000)
  end)
end)
