--- Retry, decided in one place: what a failed request means, growing waits, a circuit breaker.
--
-- A decision is made from codes and statuses, never from the words of a message.

local backoff = require "mill.backoff"
local http = require "host.http"

local expect = require "mill.expect"

local M = {}

local DAY_MS = 86400000
local BAN_MAX_MS = 3 * DAY_MS -- the longest ban the exchange knows

--- Waiting times with full jitter: random(1, min(cap, base * 2^n)) milliseconds.
M.backoff = backoff.new

-- ---- what a response means --------------------------------------------------------------------

-- Transport failures by the code of host.http: class, action, what happened.
local CODES = {
  TIMEOUT = { "timeout", "retry", "no answer in time" },
  REFUSED = { "network", "retry", "no connection" },
  RESET = { "network", "retry", "the connection was cut" },
  HTTP = { "network", "retry", "no HTTP answer" },
  NOMEM = { "network", "retry", "out of memory" },
  TRUNCATED = { "answer", "retry", "a truncated answer" },
  TOOBIG = { "answer", "retry", "an answer over the size limit" },
  ENCODING = { "answer", "retry", "an answer whose compression is damaged" },
  DNS = { "dns", "switch", "its name has no address" },
  TLS = { "tls", "switch", "TLS failed" },
  URL = { "request", "config", "not a URL" },
}

local STATUSES = {
  [403] = { "blocked", "switch", "403, blocked by its firewall" },
  [404] = { "request", "config", "404, no such call" },
  [408] = { "timeout", "retry", "408, timeout" },
  [418] = { "ban", "wait", "418, banned" },
  [429] = { "limit", "wait", "429, too many requests" },
  [451] = { "region", "switch", "451, not offered in this region" },
}

--- Milliseconds that a Retry-After header asks for, or nil: seconds or an HTTP date.
-- @param text the header, @param now_ms wall time
function M.retry_after(text, now_ms)
  if not text then return nil end
  expect.a("string", text, "text")
  expect.a("integer", now_ms, "now_ms")
  local seconds = math.tointeger(tonumber(text:match("^%s*(%d+)%s*$") or ""))
  local ms
  if seconds then
    ms = seconds < DAY_MS and seconds * 1000 or BAN_MAX_MS
  else
    local at = http.date(text)
    if not at then return nil end
    ms = at * 1000 - now_ms
  end
  return math.max(0, math.min(ms, BAN_MAX_MS))
end

local function asked_for(response, now_ms)
  return M.retry_after(response.headers and response.headers["retry-after"], now_ms)
end

-- How long to stay away after 429 and 418. Without a Retry-After: for a ban what its text tells, or
-- two minutes, as a first ban lasts; else to the end of the minute that the weight is counted over.
local function stay_away(response, now_ms)
  local asked = asked_for(response, now_ms)
  if asked then return asked end
  if response.status ~= 418 then return 60000 - now_ms % 60000 end
  local until_ms = math.tointeger(tonumber((response.body or ""):match("banned until (%d+)")))
  local left = until_ms and until_ms - now_ms or 120000
  return math.max(0, math.min(left, BAN_MAX_MS))
end

--- Judge a response of host.http.
-- @return nil when it is a complete 2xx, else { class =, action =, text =, wait_ms = }.
--   class: timeout, network, dns, tls, answer, limit, ban, blocked, region, server, redirect,
--   request. action: "retry" (the same, after a backoff), "switch" (another endpoint at once),
--   "wait" (not before wait_ms), "config" (our request is wrong; no retry helps). A server's error
--   has wait_ms too where it asks for it.
function M.judge(response, now_ms)
  expect.a("table", response, "response")
  if not response.code then expect.a("integer", response.status, "response.status") end
  if response.headers ~= nil then expect.a("table", response.headers, "response.headers") end
  if response.body ~= nil then expect.a("string", response.body, "response.body") end
  expect.a("integer", now_ms, "now_ms")
  local status = response.status
  local found = STATUSES[status or 0]
  -- Who is sent away is so whatever became of the rest of the answer.
  local away = found and (found[2] == "wait" or found[2] == "switch")
  if response.code and not away then
    found = CODES[response.code] or CODES.HTTP
  elseif not away then
    if status >= 200 and status < 300 then return nil end
    if not found and status >= 500 then found = { "server", "retry", status .. ", server error" } end
    if not found and status >= 400 then found = { "request", "config", status .. ", bad request" } end
    found = found or { "redirect", "switch", status .. ", another address" }
  end
  local out = { class = found[1], action = found[2], text = found[3] }
  if out.action == "wait" then
    out.wait_ms = stay_away(response, now_ms)
  elseif out.class == "server" then
    out.wait_ms = asked_for(response, now_ms)
  end
  return out
end

-- ---- circuit breaker --------------------------------------------------------------------------

local Breaker = {}
Breaker.__index = Breaker

--- A circuit breaker: after `threshold` failures in a row it is open, for a time that doubles with
-- each failed probe; then one probe may pass (half-open), whose success closes it.
-- @param options { threshold =, base_ms =, cap_ms = }
function M.breaker(options)
  expect.a("table", options, "options")
  expect.a("number", options.threshold, "threshold")
  expect.a("number", options.base_ms, "base_ms")
  expect.a("number", options.cap_ms, "cap_ms")
  return setmetatable({
    threshold = options.threshold, base_ms = options.base_ms, cap_ms = options.cap_ms,
    failures = 0, opened = 0,
  }, Breaker)
end

--- "closed", "open" or "half-open" (a probe may pass) at monotonic time `now_ms`.
function Breaker:state(now_ms)
  if not self.until_ms then return "closed" end
  return now_ms >= self.until_ms and "half-open" or "open"
end

function Breaker:success()
  self.failures, self.opened, self.until_ms = 0, 0, nil
end

--- A failure. @param at_once open it whatever the count
function Breaker:failure(now_ms, at_once)
  self.failures = self.failures + 1
  if not (at_once or self.until_ms or self.failures >= self.threshold) then return end
  -- Between half and all of the time, so that many clients do not probe together.
  local top = math.min(self.cap_ms, self.base_ms * 2 ^ math.min(self.opened, 30))
  self.until_ms = now_ms + math.floor(top / 2) + math.random(0, math.max(1, math.floor(top / 2)))
  self.opened = self.opened + 1
end

return M
