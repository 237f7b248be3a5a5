--- Checks of what a public function is given, so that misuse is told in the caller's words.

local M = {}

--- Raise at the caller's caller unless `value` is of the type.
-- @param kind "string", "table", "number", "function" or "integer"
-- @param name what the function calls it
function M.a(kind, value, name)
  local ok
  if kind == "integer" then ok = math.type(value) == "integer" else ok = type(value) == kind end
  if ok then return value end
  error(("%s must be %s %s, got a %s"):format(name, kind == "integer" and "an" or "a", kind,
    kind == "integer" and math.type(value) or type(value)), 3)
end

--- The same for a table of strings, counted from 1.
function M.strings(value, name)
  if type(value) ~= "table" then
    error(("%s must be a table of strings, got a %s"):format(name, type(value)), 3)
  end
  for i = 1, rawlen(value) do
    if type(rawget(value, i)) ~= "string" then
      error(("%s must hold strings, entry %d is a %s"):format(name, i, type(rawget(value, i))), 3)
    end
  end
  return value
end

return M
