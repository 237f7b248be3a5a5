--- The idle clocks: how far a silent partition has come, for finality and nothing else.
--
-- A partition that is read to its end and silent for `idle` advances by elapsed monotonic time from
-- its last row on, up to the end of the newest window of the pipeline: a partition that fell silent
-- long ago must not hold back the windows of the others. The clock stands while we pause it or its
-- leader does not answer: what we cannot hear is not silence.

local M = {}

--- A new clockwork.
-- @param stored_ms integer what the database has as idle_ms, or nil
-- @param credit_ms integer how long the partition has been silent already
function M.new(now, stored_ms, credit_ms)
  return {
    since = now - (credit_ms or 0), heard = now, paused_ms = 0, why = {}, base_ms = stored_ms,
    stored = stored_ms,
  }
end

--- Begin anew: a row came.
function M.touch(clockwork, now)
  clockwork.since, clockwork.heard = now, now
  clockwork.paused_ms = 0
  clockwork.base_ms = clockwork.stored
  if clockwork.stopped_at then clockwork.stopped_at = now end
end

--- Stop the clock as of `now`, for a reason of several.
function M.stop(clockwork, now, why)
  clockwork.why[why] = true
  clockwork.stopped_at = clockwork.stopped_at or now
end

--- A reason is gone; when it was the last one the clock goes on.
function M.go(clockwork, now, why)
  clockwork.why[why] = nil
  if clockwork.stopped_at and next(clockwork.why) == nil then
    clockwork.paused_ms = clockwork.paused_ms + (now - clockwork.stopped_at)
    clockwork.stopped_at = nil
  end
end

--- How long the partition has been silent; nil while the clock stands, or does not run at all.
-- @param state store:state(partition)
function M.silent(clockwork, state, now)
  if not state.watermark_ms or not state.at_end or clockwork.stopped_at then return nil end
  return now - clockwork.since - clockwork.paused_ms
end

--- Where the idle clock stands.
-- @param clockwork see new
-- @param state store:state(partition)
-- @param now integer monotonic ms
-- @param idle_ms integer the pipeline's `idle`
-- @param newest_ms integer end of the newest window of all partitions, or nil when it is not known
-- @return integer event time ms, or nil while it does not run
function M.reached(clockwork, state, now, idle_ms, newest_ms)
  local silent = M.silent(clockwork, state, now)
  if not silent or silent < idle_ms then return nil end
  local from = math.max(state.watermark_ms, clockwork.base_ms or state.watermark_ms)
  return math.min(from + silent, math.max(state.newest_end_ms, newest_ms or state.newest_end_ms))
end

return M
