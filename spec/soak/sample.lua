--- What a process holds at this moment, as /proc and its own /metrics tell.

local process = require "host.process"

local M = {}

local function threads(pid)
  local file = io.open(("/proc/%d/status"):format(pid), "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return math.tointeger(tonumber(text:match("\nThreads:%s*(%d+)")))
end

--- @return { rss_kb =, descriptors =, threads = } or nil when there is no such process
function M.process(pid)
  local descriptors = process.list(("/proc/%d/fd"):format(pid))
  local rss, count = process.rss_kb(pid), threads(pid)
  if not (descriptors and rss and count) then return nil end
  return { rss_kb = rss, descriptors = #descriptors, threads = count }
end

-- The value of a metric, whatever its labels.
local function value(text, name)
  return tonumber(text:match("\n" .. name .. "{[^}]*} (%S+)") or text:match("\n" .. name .. " (%S+)"))
end

--- Add what /metrics says: heap_kb, lag, done (messages so far).
-- @param client host.http client
-- @return true, or nil, message
function M.metrics(client, url, into)
  local answer, message = client:fetch { url = url, timeout_ms = 4000 }
  if not answer or answer.status ~= 200 then
    return nil, message or answer.error or ("status %d"):format(answer.status)
  end
  local heap = value(answer.body, "tidemill_lua_heap_bytes")
  into.heap_kb = heap and heap / 1024
  into.lag = value(answer.body, "tidemill_lag")
  into.done = value(answer.body, "tidemill_consumed_total")
    or value(answer.body, "tidemill_producer_published_total")
  return true
end

return M
