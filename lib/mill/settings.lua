--- The settings a script declares, overridden by --set key=value.
--
-- The default's type decides how a value is read: string, integer, number or boolean.

local expect = require "mill.expect"
local fault = require "mill.fault"

local M = {}

local given = {}

--- Remember what --set said; the run command calls it before it loads the script.
-- @param pairs array of "key=value"
function M.given(pairs_)
  if pairs_ ~= nil then expect.strings(pairs_, "pairs") end
  given = {}
  for _, pair in ipairs(pairs_ or {}) do
    local key, value = pair:match("^([%w_]+)=(.*)$")
    if not key then
      fault.raise(fault.USAGE, "--set %s: write it as key=value", pair)
    end
    given[key] = value
  end
end

local function convert(key, default, text)
  if type(default) == "boolean" then
    if text == "true" or text == "1" or text == "yes" then return true end
    if text == "false" or text == "0" or text == "no" then return false end
    fault.raise(fault.USAGE, "--set %s: '%s' is not true or false", key, text)
  elseif math.type(default) == "integer" then
    local value = math.tointeger(tonumber(text))
    if not value then fault.raise(fault.USAGE, "--set %s: '%s' is not a whole number", key, text) end
    return value
  elseif type(default) == "number" then
    local value = tonumber(text)
    if not value then fault.raise(fault.USAGE, "--set %s: '%s' is not a number", key, text) end
    return value
  end
  return text
end

--- Declare the settings of a script.
-- @param defaults table key -> default; "" stands for a string without one
-- @return table of the values to use
function M.declare(defaults)
  expect.a("table", defaults, "defaults")
  local values, names = {}, {}
  for key, default in pairs(defaults) do
    values[key] = default
    names[#names + 1] = key
  end
  table.sort(names)
  for key, text in pairs(given) do
    if defaults[key] == nil then
      fault.raise(fault.USAGE, "--set %s: this script has no such setting (known: %s)", key,
        table.concat(names, ", "))
    end
    values[key] = convert(key, defaults[key], text)
  end
  return values
end

return M
