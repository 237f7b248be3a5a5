--- The exchange's clock, measured: which of its moments belongs to a moment of our monotonic clock.
--
-- As NTP does it: its time less the middle between sending and the first byte, of the sample with
-- the shortest way. Since the result is tied to the monotonic clock, a step of our wall clock does
-- not move it. That clock stands while the machine sleeps: the result is moved by as much. After
-- either it is measured anew.

local clock = require "host.clock"
local json = require "mill.json"
local log = require "mill.log"

local M = {}

M.PATH = "/api/v3/time"
M.WEIGHT = 1

local JUMP_MS = 250
local RETRY_MS = 10000 -- after a measurement that failed
local WORST_MS = 2000 -- a longer way tells nothing

local Sync = {}
Sync.__index = Sync

-- Wall time less monotonic time, in ms.
local function wall_offset()
  return clock.wall_ms() - clock.mono_us() / 1000
end

--- @param options every_ms (between measurements), samples (of one measurement, default 4)
function M.new(options)
  return setmetatable({
    every_ms = options.every_ms, samples = options.samples or 4, due_ms = 0, taken = 0,
    failures = 0, ready = false, wall = wall_offset(), asleep = clock.asleep_ms(),
  }, Sync)
end

--- Look for a step of the wall clock, and for a sleep of the machine; true when there was one.
function Sync:watch()
  local now, asleep = wall_offset(), clock.asleep_ms()
  local slept = asleep - self.asleep
  self.asleep = asleep
  if self.shift then self.shift = self.shift + slept end
  local jump = now - self.wall
  self.wall = now
  if math.abs(jump) < JUMP_MS and slept < JUMP_MS then return false end
  log.warn("%s; the exchange's clock is measured anew", slept >= JUMP_MS
    and ("the machine slept for %.1f s"):format(slept / 1000)
    or ("our wall clock moved by %+.3f s"):format(jump / 1000))
  self.stale = self.asking -- that answer tells of the time before
  self.due_ms, self.ready, self.taken, self.failures, self.best = 0, false, 0, 0, nil
  return true
end

--- Is it time for a sample? One at a time.
function Sync:wants(now)
  return not self.asking and now >= self.due_ms
end

function Sync:begin()
  self.asking, self.stale = true, false
end

--- May prices be stamped: is a first measurement over, with or without success?
function Sync:settled()
  return self.ready
end

local function over(self, now, wait_ms)
  self.due_ms, self.ready, self.taken, self.failures = now + wait_ms, true, 0, 0
  self.best = nil
end

--- A sample that failed. The first measurement has `tries` of them, perhaps of other endpoints.
function Sync:fail(now, why, tries)
  self.asking = false
  if self.stale then return end
  self.failures = self.failures + 1
  if self.best then return self:use(now) end
  if not self.ready and self.failures < tries then return end
  if not self.shift then
    log.trouble("clock", "the exchange's time cannot be measured (%s): prices are stamped with our "
      .. "own clock", why)
  end
  over(self, now, RETRY_MS)
end

--- Take the best sample of this measurement.
function Sync:use(now)
  self.shift, self.uncertainty_ms = self.best.shift, self.best.way / 2
  log.over("clock", "the exchange's time is measured again")
  if not self.said then
    self.said = true
    log.info("the exchange's clock is %+.1f ms from ours, within %.1f ms", self:offset_ms(),
      self.uncertainty_ms)
  end
  over(self, now, self.every_ms)
end

--- A sample came in: a complete 2xx response of PATH.
function Sync:take(response, now, tries)
  local value = json.decode(response.body)
  local time = type(value) == "table" and value.serverTime
  if math.type(time) ~= "integer" or time < 1e12 or time > 1e14 then
    return self:fail(now, "no time in it", tries)
  end
  local t = response.timings
  if self.stale then return self:fail(now, "older than a step of the clock", tries) end
  local way = (t.first_byte_us - t.sent_us) / 1000
  if way > WORST_MS then return self:fail(now, "too slow an answer", tries) end
  self.asking = false
  self.taken = self.taken + 1
  local shift = time - M.middle_us(response) / 1000
  if not self.best or way < self.best.way then self.best = { shift = shift, way = way } end
  if self.taken >= self.samples then self:use(now) end
end

--- The monotonic microsecond in the middle between sending a request and its first byte.
function M.middle_us(response)
  local t = response.timings
  return response.finished_us - t.total_us + (t.sent_us + t.first_byte_us) // 2
end

--- The exchange's time, in ms since 1970, at a monotonic microsecond.
function Sync:at(mono_us)
  return math.floor(mono_us / 1000 + (self.shift or self.wall) + 0.5)
end

--- How far the exchange's clock is ahead of ours, in ms; 0 while it is not measured.
function Sync:offset_ms()
  return self.shift and self.shift - self.wall or 0
end

return M
