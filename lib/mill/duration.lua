--- Durations as people write them: "100ms", "2s", "1m", "1h30m", "1d".

local expect = require "mill.expect"

local M = {}

local UNITS = { ms = 1, s = 1000, m = 60000, h = 3600000, d = 86400000 }
local MAX_MS = 1000000000000000
local ORDER = { { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 } }

-- A number of units as whole milliseconds, exactly; nil when it is none.
local function scaled(whole, fraction, factor)
  if #whole > 16 or #fraction > 9 then return nil end
  local ms = math.tointeger(tonumber(whole))
  if ms > MAX_MS // factor then return nil end
  ms = ms * factor
  if fraction ~= "" then
    local part, unit = math.tointeger(tonumber(fraction)) * factor, math.tointeger(10 ^ #fraction)
    if part % unit ~= 0 then return nil end
    ms = ms + part // unit
  end
  return ms
end

--- Parse a duration.
-- @param text string such as "1m" or "1.5s"
-- @return integer milliseconds, or nil, message, "SYNTAX"
function M.parse(text)
  local total, at = 0, 1
  if type(text) ~= "string" or text == "" then
    return nil, ("duration: SYNTAX: expected text such as '2s', got %s"):format(
      text == "" and "''" or tostring(text)), "SYNTAX"
  end
  if text == "0" then return 0 end
  while at <= #text do
    local whole, fraction, unit, stop = text:match("^(%d+)%.?(%d*)(%a+)()", at)
    local factor = unit and UNITS[unit]
    local ms = factor and scaled(whole, fraction, factor)
    if not ms then
      return nil, ("duration: SYNTAX: '%s' is not a duration; write it as 100ms, 2s, 1m, 1h or 1d")
        :format(text), "SYNTAX"
    end
    total = total + ms
    at = stop
  end
  return total
end

--- Format milliseconds with the largest units that keep them exact: 90000 -> "1m30s".
function M.format(ms)
  expect.a("number", ms, "ms")
  if ms == 0 then return "0s" end
  local parts = {}
  if ms < 0 then
    parts[1] = "-"
    ms = -ms
  end
  for _, unit in ipairs(ORDER) do
    local n = ms // unit[2]
    if n > 0 then
      parts[#parts + 1] = ("%d%s"):format(n, unit[1])
      ms = ms - n * unit[2]
    end
  end
  return table.concat(parts)
end

return M
