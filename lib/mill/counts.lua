--- The counters of a run, and its latency from the Kafka timestamp to the committed row.

local M = {}

local Counts = {}
Counts.__index = Counts

-- Logarithmic buckets, 5 % wide: bounds[i] = 1.05^i milliseconds.
local GROWTH = math.log(1.05)

local function bucket(ms)
  if ms <= 1 then return 0 end
  return math.floor(math.log(ms) / GROWTH)
end

--- New counters, all 0. `consumed`, `dead`, `late`, `too_late` count committed messages.
function M.new()
  return setmetatable({
    polled = 0, consumed = 0, counted = 0, dead = 0, late = 0, too_late = 0, dropped = 0,
    skipped = 0, rows = 0, commits = 0, retries = 0, windows = 0, rebalances = 0,
    latency = {}, latency_n = 0,
  }, Counts)
end

--- A partition's sealed buffer was committed at wall time `now`.
function Counts:commit(item, now)
  for _, name in ipairs { "counted", "dead", "late", "too_late", "dropped", "skipped" } do
    self[name] = self[name] + item[name]
  end
  local n = item.counted + item.dead + item.too_late + item.dropped + item.skipped
  self.consumed = self.consumed + n
  if item.oldest_stamp_ms and item.oldest_stamp_ms > 0 then
    local at = bucket(now - item.oldest_stamp_ms)
    self.latency[at] = (self.latency[at] or 0) + 1
    self.latency_n = self.latency_n + 1
  end
end

--- A commit was made, between two moments of the monotonic clock.
function Counts:committing(began_ms, ended_ms)
  self.first_ms, self.last_ms = self.first_ms or began_ms, ended_ms
end

--- From the beginning of the first commit to the end of the last one, in ms.
function Counts:committing_ms()
  return self.first_ms and self.last_ms - self.first_ms or 0
end

--- A quantile of the latency in ms (of the oldest message of each commit), or nil.
function Counts:quantile(q)
  if self.latency_n == 0 then return nil end
  local keys = {}
  for key in pairs(self.latency) do keys[#keys + 1] = key end
  table.sort(keys)
  local want, seen = math.ceil(q * self.latency_n), 0
  for _, key in ipairs(keys) do
    seen = seen + self.latency[key]
    if seen >= want then return math.floor(math.exp((key + 0.5) * GROWTH) * 10 + 0.5) / 10 end
  end
end

return M
