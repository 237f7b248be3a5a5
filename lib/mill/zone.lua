--- Local times of a zone as spans with one offset each, and the hours that are ambiguous.

local zone = require "host.zone"
local fault = require "mill.fault"

local M = {}

local HOUR = 3600

local function offset(name, at)
  return (fault.check(fault.USAGE, "--from-zone", zone.offset(name, at)))
end

-- The first second in (low, high] with another offset than at low.
local function change(name, low, high)
  local before = offset(name, low)
  while high - low > 1 do
    local mid = (low + high) // 2
    if offset(name, mid) == before then low = mid else high = mid end
  end
  return high
end

--- Changes of the zone's offset between two moments.
-- @param name string zone, such as "Europe/Madrid"
-- @param from_s, to_s integer UTC seconds
-- @return array of { at = UTC seconds, before = seconds east, after = seconds east }
function M.changes(name, from_s, to_s)
  local out, at, kept = {}, from_s, offset(name, from_s)
  -- Two changes within six hours do not happen in the tz database's recent rules.
  while at < to_s do
    local step = math.min(at + 6 * HOUR, to_s)
    local now = offset(name, step)
    if now ~= kept then
      out[#out + 1] = { at = change(name, at, step), before = kept, after = now }
      kept = now
    end
    at = step
  end
  return out, offset(name, from_s)
end

--- Spans of local time for a CASE: local seconds below `below` have offset `offset`; the last has
-- no bound. A span with `other` is ambiguous: it happened twice, first with `offset`, then `other`.
function M.spans(name, from_s, to_s)
  local changes, first = M.changes(name, from_s, to_s)
  local spans, current = {}, first
  for _, c in ipairs(changes) do
    local old_local, new_local = c.at + c.before, c.at + c.after
    if new_local < old_local then
      spans[#spans + 1] = { below = new_local, offset = c.before }
      spans[#spans + 1] = { below = old_local, offset = c.before, other = c.after, from = new_local }
    else
      -- Local times in the skipped hour do not exist; whoever wrote one meant the old offset.
      spans[#spans + 1] = { below = new_local, offset = c.before }
    end
    current = c.after
  end
  spans[#spans + 1] = { offset = current }
  return spans
end

return M
