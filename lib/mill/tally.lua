--- What a supervised script has done so far: read from its status file, summed over its restarts.
--
-- A running script replaces its status file once a second and counts from its own start; when it
-- ends it prints its last counts. A tally adds them up over the runs, and knows the rates. A run
-- that was killed may have done more than it last told: then the counts are a lower bound.

local clock = require "host.clock"
local json = require "mill.json"
local process = require "host.process"

local M = {}

local COUNTERS = {
  "fetched", "published", "failed", "errors", "consumed", "dead", "late", "too_late", "rows",
  "commits",
}
local RATE_MS = 5000 -- rates are taken over this long

local Tally = {}
Tally.__index = Tally

--- A tally of the script whose status file is `path`.
function M.new(name, path)
  return setmetatable({
    name = name, path = path, base = {}, status = {}, samples = {}, updates = 0, exact = true,
  }, Tally)
end

--- A new run begins: its counts start at zero, and the old file says nothing about it.
function Tally:begin()
  os.remove(self.path)
  for _, key in ipairs(COUNTERS) do self.base[key] = self:count(key) end
  local kept = { kind = self.status.kind, newest = self.status.newest,
                 latency_ms = self.status.latency_ms }
  self.status = kept
  self.stamp = nil
end

--- Its run has ended and left these last words: one JSON object as the last line, if it got to it.
-- @param killed boolean: by a signal, so that even the first second may be missing
function Tally:finish(text, killed)
  local line = text:match("([^\n]*)\n?$")
  local summary = line and line:find("^%s*{") and json.decode(line)
  if type(summary) ~= "table" then
    -- One that ended by itself before it told anything was not called rightly, and did nothing.
    if killed or self.stamp then self.exact = false end
    return
  end
  for key, value in pairs(summary) do self.status[key] = value end
  self.summary = summary
end

local function newest_of(status)
  local newest = status.newest
  if type(newest) ~= "table" then return nil end
  if newest.columns and newest.rows then return newest end
  if #newest == 0 or type(newest[1]) ~= "table" then return nil end
  local names, rows = {}, {}
  for name in pairs(newest[1]) do names[#names + 1] = name end
  table.sort(names)
  for i, row in ipairs(newest) do
    rows[i] = {}
    for c, name in ipairs(names) do rows[i][c] = row[name] end
  end
  return { columns = names, rows = rows }
end

local function sample(self)
  local now = clock.mono_ms()
  local counts = { at = now }
  for _, key in ipairs(COUNTERS) do counts[key] = self:count(key) end
  local samples = self.samples
  samples[#samples + 1] = counts
  while #samples > 2 and now - samples[1].at > RATE_MS do table.remove(samples, 1) end
end

--- Read the status file if it was replaced. True when it was.
function Tally:update()
  local st = process.stat(self.path)
  if not st then return false end
  local stamp = st.inode .. "/" .. st.mtime_ms
  if stamp == self.stamp then return false end
  local file = io.open(self.path, "rb")
  if not file then return false end
  local text = file:read("a")
  file:close()
  local status = json.decode(text)
  if type(status) ~= "table" then return false end
  self.stamp, self.status, self.updates = stamp, status, self.updates + 1
  sample(self)
  return true
end

--- A counter over all runs; 0 when the script does not have it.
function Tally:count(key)
  local value = self.status[key]
  return (self.base[key] or 0) + (math.type(value) == "integer" and value or 0)
end

--- Does the script count this at all?
function Tally:has(key)
  return self.status[key] ~= nil or (self.base[key] or 0) > 0
end

--- How fast a counter grows, per second, over the last seconds; nil while that is not known.
function Tally:rate(key)
  local samples = self.samples
  local first, last = samples[1], samples[#samples]
  if not last or last.at <= first.at then return nil end
  if clock.mono_ms() - last.at > RATE_MS then return 0 end -- it says nothing any more
  return math.max(last[key] - first[key], 0) * 1000 / (last.at - first.at)
end

--- "producer", "pipeline", or nil while the script has not said what it is.
function Tally:kind()
  return self.status.kind
end

--- The newest result rows: { columns = {names}, rows = { {v, ...}, ... } }, or nil.
function Tally:newest()
  return newest_of(self.status)
end

--- Latency in ms from the event to the committed row: { p50 =, p99 = }, or nil.
function Tally:latency()
  local latency = self.status.latency_ms
  return type(latency) == "table" and latency or nil
end

local function producer_stages(self, state)
  return {
    { name = self.name .. " fetch", rate = self:rate "fetched", total = self:count "fetched",
      errors = self:count "errors", state = state },
    { name = self.name .. " publish", rate = self:rate "published",
      total = self:count "published", lag = math.max(0, self:count "fetched"
        - self:count "published" - self:count "failed"), errors = self:count "failed",
      state = state },
  }
end

local function pipeline_stages(self, state)
  local latency = self:latency()
  local note = latency and latency.p50 and latency.p99
    and ("p50 %s ms, p99 %s ms"):format(latency.p50, latency.p99)
  local lag = self.status.lag
  return {
    { name = self.name .. " read", rate = self:rate "consumed", total = self:count "consumed",
      lag = math.type(lag) == "integer" and lag or nil, errors = self:count "dead", state = state },
    { name = self.name .. " write", rate = self:rate "rows", total = self:count "rows",
      errors = self:count "errors", state = state, note = note },
  }
end

--- The lines of the live view for this script.
-- @param state text shown for its process
function Tally:stages(state)
  if self:kind() == "producer" then return producer_stages(self, state) end
  if self:kind() == "pipeline" then return pipeline_stages(self, state) end
  return { { name = self.name, state = state, errors = self:count "errors" } }
end

--- One line for a log: what it has done and how fast.
function Tally:line()
  if self:kind() == "producer" then
    return ("%s: %.1f/s, fetched %d, published %d, failed %d, errors %d"):format(self.name,
      self:rate "published" or 0, self:count "fetched", self:count "published",
      self:count "failed", self:count "errors")
  elseif self:kind() == "pipeline" then
    local latency = self:latency() or {}
    return ("%s: %.1f/s, consumed %d, rows %d, lag %s, late %d, dead %d, errors %d, p99 %s ms")
      :format(self.name, self:rate "consumed" or 0, self:count "consumed", self:count "rows",
        tostring(self.status.lag or "?"), self:count "late", self:count "dead",
        self:count "errors", tostring(latency.p99 or "?"))
  end
end

return M
