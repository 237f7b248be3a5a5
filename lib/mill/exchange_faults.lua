--- What the simulated exchange can be told to do wrong, for a while.

local clock = require "host.clock"
local duration = require "mill.duration"
local json = require "mill.json"
local log = require "mill.log"

local M = {}

local HTML = { ["Content-Type"] = "text/html" }

-- In the shape of a content network's page; the text is our own.
local function page(status, title)
  return {
    status = status, headers = HTML,
    body = ("<!DOCTYPE html>\n<HTML><HEAD><TITLE>ERROR: %s</TITLE></HEAD>\n<BODY>"
      .. "<H1>%d ERROR</H1>\n<P>Request blocked by the simulated exchange.</P></BODY></HTML>\n")
      :format(title, status),
  }
end

local function failure(status, code, msg, headers)
  return { status = status, headers = headers, body = json.encode { code = code, msg = msg } }
end

--- Prices that are none, as JSON. They are used in turn.
M.WRONG_PRICES = {
  "61837.63", "null", "true", '{"value":"1"}', '["1"]', '""', '"NaN"', '"-1"', '"0.00000000"',
  '"1e5"', '"Infinity"', '" 1.0"', '"1,5"', '"0x10"', "1e400",
}

--- Each kind of fault: a function(fault, answer, request, now_ms) -> answer. `answer` is what the
-- exchange would have said; nil from a kind of its own leaves it to M.apply.
M.KINDS = {
  ["429"] = function(fault)
    return failure(429, -1003, "Too much request weight used; current limit is 6000 request weight "
      .. "per 1 MINUTE. (simulated)", { ["Retry-After"] = tostring(fault.retry_after or 1) })
  end,
  ["418"] = function(fault, _, _, now_ms)
    local seconds = fault.retry_after or 2
    return failure(418, -1003, ("Way too much request weight used; IP banned until %d. (simulated)")
      :format(now_ms + seconds * 1000), { ["Retry-After"] = tostring(seconds) })
  end,
  ["500"] = function()
    return failure(500, -1000, "An unknown error occurred while processing the request.")
  end,
  ["502"] = function() return page(502, "Bad gateway") end,
  ["503"] = function() return page(503, "The request could not be satisfied") end,
  ["403html"] = function() return page(403, "The request could not be satisfied") end,
  ["451"] = function()
    return failure(451, 0, "Service unavailable from a restricted location. (simulated)")
  end,
  html = function() return page(200, "Maintenance") end,
  empty = function(_, answer)
    answer.body = ""
    return answer
  end,
  emptylist = function(_, answer)
    answer.body = "[]"
    return answer
  end,
  garbage = function(_, answer)
    answer.body = answer.body:sub(1, -2) .. ",}"
    return answer
  end,
  truncated = function(_, answer)
    answer.truncate = #answer.body // 2
    return answer
  end,
  wrongtype = function(fault, answer)
    -- The whole answer for one symbol, or one row of several: the others stay good.
    fault.turn = (fault.turn or 0) + 1
    local wrong = M.WRONG_PRICES[(fault.turn - 1) % #M.WRONG_PRICES + 1]
    answer.body = answer.body:gsub('"price":"[^"]*"', function()
      return '"price":' .. wrong
    end, 1)
    return answer
  end,
  missing = function(_, answer)
    local cut, n = answer.body:gsub(',{[^{}]*}%]$', "]")
    if n == 0 then cut = answer.body:gsub("^%[.*%]$", "[]") end
    answer.body = cut:find("^%[") and cut or "{}"
    return answer
  end,
  extra = function(_, answer)
    answer.body = answer.body:gsub("%]$", ',{"symbol":"NEWUSDT","price":"1.00000000"}]')
    return answer
  end,
  slow = function(fault, answer)
    answer.delay_ms = fault.delay_ms or 3000
    return answer
  end,
  drop = function(_, answer)
    answer.drop = true
    return answer
  end,
}

local function kinds()
  local names = {}
  for name in pairs(M.KINDS) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

local Faults = {}
Faults.__index = Faults

function M.new()
  return setmetatable({ list = {} }, Faults)
end

--- Add a fault.
-- @param options table: kind, for_ms, start_ms (from now, default 0), retry_after (seconds),
--   delay_ms, path (only requests of that path)
-- @return true, or nil, message
function Faults:add(options)
  if not M.KINDS[options.kind] then
    return nil, ("no kind of fault is called '%s' (known: %s)"):format(tostring(options.kind),
      kinds())
  end
  local now = clock.mono_ms()
  local fault = { hits = 0, from = now + (options.start_ms or 0) }
  for key, value in pairs(options) do fault[key] = value end
  fault.until_ms = fault.from + options.for_ms
  self.list[#self.list + 1] = fault
  return true
end

--- Add faults from text: "429:5s,ok:2s,drop:1s", one after the other, from now on.
-- @return true, or nil, message
function Faults:plan(text)
  local start = 0
  for entry in text:gmatch("[^,]+") do
    local kind, length = entry:match("^%s*(%w+):(%w+)%s*$")
    local ms = length and duration.parse(length)
    if not ms then return nil, ("'%s' is not kind:duration"):format(entry) end
    if kind ~= "ok" then
      local ok, message = self:add { kind = kind, for_ms = ms, start_ms = start }
      if not ok then return nil, message end
    end
    start = start + ms
  end
  return true
end

function Faults:clear()
  self.list = {}
end

--- Forget faults that are over, and say so; and say which have begun.
function Faults:turn()
  local now, kept = clock.mono_ms(), {}
  for _, fault in ipairs(self.list) do
    if now >= fault.until_ms then
      log.info("fault %s is over (%d answers)", fault.kind, fault.hits)
    else
      if now >= fault.from and not fault.said then
        fault.said = true
        log.info("fault %s for %s", fault.kind, duration.format(fault.until_ms - fault.from))
      end
      kept[#kept + 1] = fault
    end
  end
  self.list = kept
end

--- The answer as the faults of this moment make it.
function Faults:apply(answer, request, now_ms)
  local now = clock.mono_ms()
  for _, fault in ipairs(self.list) do
    if now >= fault.from and now < fault.until_ms
      and (not fault.path or fault.path == request.path) then
      fault.hits = fault.hits + 1
      return M.KINDS[fault.kind](fault, answer, request, now_ms)
    end
  end
  return answer
end

--- The faults as data: kind, hits, seconds to their end.
function Faults:show()
  local out, now = json.array {}, clock.mono_ms()
  for i, fault in ipairs(self.list) do
    out[i] = {
      kind = fault.kind, hits = fault.hits, active = now >= fault.from,
      left_s = (fault.until_ms - now) / 1000,
    }
  end
  return out
end

return M
