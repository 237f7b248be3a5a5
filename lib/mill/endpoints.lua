--- A list of base URLs that serve the same: which to ask now, and which to leave alone for how long.
--
-- The first of the list that works is used. One that fails is tried again after a backoff; after
-- some failures, or at once when it blocks us, its breaker opens and the next is used, until a
-- probe finds that it works again. A ban covers all endpoints of one domain, since the exchange
-- counts by address and domain; it is told as wall time too, to outlive a restart.

local fault = require "mill.fault"
local retry = require "mill.retry"

local M = {}

local Endpoints = {}
Endpoints.__index = Endpoints

local REST_MS = 250 -- at least, after a 429 or 418

local DEFAULTS = {
  threshold = 3, base_ms = 250, cap_ms = 5000, open_base_ms = 10000, open_cap_ms = 600000,
}

-- "api.example.com" -> "example.com"; an address or a name without a dot is its own group.
local function group_of(host, port)
  if host:find("^%[") or host:find("^[%d.]+$") or not host:find(".", 1, true) then
    return host .. ":" .. port
  end
  return host:match("([^.]+%.[^.]+)$")
end

-- "127.0.0.1:8080", "https://host/" -> url without a slash at its end, group.
local function parse(text)
  local scheme, rest = text:match("^(https?)://(.+)$")
  rest = rest or text
  local host, port = rest:gsub("/+$", ""):match("^([%w._-]*[%w_-]):?(%d*)$")
  if not host then host, port = rest:gsub("/+$", ""):match("^(%[[%x:.]+%]):?(%d*)$") end
  if not host or (not scheme and text:find("://", 1, true)) then
    fault.raise(fault.USAGE, "endpoint '%s' is not http(s)://host[:port]", text)
  end
  if not scheme then
    local loopback = host == "localhost" or host:find("^127%.") or host == "[::1]"
    scheme = loopback and "http" or "https"
  end
  local url = scheme .. "://" .. host .. (port ~= "" and ":" .. port or "")
  return url, group_of(host, port)
end

--- Make a list.
-- @param text comma separated URLs; without a scheme http for loopback, else https
-- @param options threshold (failures that open a breaker), base_ms and cap_ms (backoff),
--   open_base_ms and open_cap_ms (of the breaker); all have defaults
function M.new(text, options)
  local self = setmetatable({ list = {} }, Endpoints)
  options = setmetatable(options or {}, { __index = DEFAULTS })
  local seen = {}
  for entry in text:gmatch("[^,%s]+") do
    local url, group = parse(entry)
    if seen[url] then fault.raise(fault.USAGE, "endpoint %s stands twice", url) end
    seen[url] = true
    self.list[#self.list + 1] = {
      url = url, group = group, retry_ms = 0, banned_ms = 0,
      backoff = retry.backoff { base_ms = options.base_ms, cap_ms = options.cap_ms },
      breaker = retry.breaker {
        threshold = options.threshold, base_ms = options.open_base_ms,
        cap_ms = options.open_cap_ms,
      },
    }
  end
  if #self.list == 0 then fault.raise(fault.USAGE, "the list of endpoints is empty") end
  return self
end

--- The endpoint to ask at monotonic time `now`; or nil and when to ask again.
function Endpoints:choose(now)
  local earliest = math.maxinteger
  local last_resort
  for _, endpoint in ipairs(self.list) do
    if endpoint.banned_ms > now then
      earliest = math.min(earliest, endpoint.banned_ms)
    else
      local state = endpoint.breaker:state(now)
      if state == "half-open" then return endpoint end
      if state == "closed" then
        if endpoint.retry_ms <= now then return endpoint end
        -- In its backoff; it is not given up, so the next is not asked instead.
        return nil, math.min(earliest, endpoint.retry_ms)
      end
      earliest = math.min(earliest, endpoint.retry_ms)
      if endpoint.retry_ms <= now and not (last_resort and last_resort.retry_ms
        <= endpoint.retry_ms) then
        last_resort = endpoint
      end
    end
  end
  -- All breakers are open: with nobody better to ask, go on trying after the backoffs.
  if last_resort then return last_resort end
  return nil, earliest
end

--- A request succeeded. Returns true when the one before it was another endpoint's.
function Endpoints:succeeded(endpoint)
  endpoint.backoff:reset()
  endpoint.breaker:success()
  endpoint.retry_ms = 0
  local changed = self.current ~= nil and self.current ~= endpoint
  self.current = endpoint
  return changed
end

--- A request failed. @param judgement of mill.retry; @param now monotonic ms
function Endpoints:failed(endpoint, judgement, now)
  if judgement.action == "wait" then
    -- "At once", or a time that has passed, is not a reason to ask without a rest.
    if judgement.wait_ms < REST_MS then
      judgement.wait_ms = math.max(judgement.wait_ms, REST_MS, endpoint.backoff:next())
    end
    self:ban(endpoint.group, now + judgement.wait_ms)
    return
  end
  endpoint.retry_ms = now + math.max(endpoint.backoff:next(), judgement.wait_ms or 0)
  endpoint.breaker:failure(now, judgement.action == "switch")
end

--- Leave a group of endpoints alone until monotonic time `until_ms`.
function Endpoints:ban(group, until_ms)
  for _, endpoint in ipairs(self.list) do
    if endpoint.group == group then endpoint.banned_ms = math.max(endpoint.banned_ms, until_ms) end
  end
end

--- Bans that go on, as data that outlives the process: { [group] = wall ms of their end }.
function Endpoints:bans(now, wall_ms)
  local out = {}
  for _, endpoint in ipairs(self.list) do
    if endpoint.banned_ms > now then out[endpoint.group] = wall_ms + endpoint.banned_ms - now end
  end
  return out
end

--- Take up bans of an earlier process. Returns the longest wait in ms.
function Endpoints:resume(bans, now, wall_ms)
  local longest = 0
  for group, until_ms in pairs(bans) do
    local left = math.type(until_ms) == "integer" and until_ms - wall_ms or 0
    left = math.min(left, 3 * 86400000)
    if left > 0 then
      self:ban(group, now + left)
      longest = math.max(longest, left)
    end
  end
  return longest
end

return M
