--- Compares rows with what they should be, and shows the first that differ.

local json = require "mill.json"
local mysql = require "host.mysql"

local M = {}

local function show(row)
  local out = {}
  for i, value in ipairs(row) do
    out[i] = (value == json.null or value == mysql.null) and "null" or tostring(value)
  end
  return table.concat(out, " | ")
end

local function key_of(row, width)
  return show { table.unpack(row, 1, width) }
end

--- Fail unless both lists hold the same rows; the first `width` values are a row's key.
-- Says the first few differences.
function M.same(want, got, width, what)
  local wanted, said, count = {}, {}, 0
  local function differ(fmt, ...)
    count = count + 1
    if count <= 8 then said[#said + 1] = "  " .. fmt:format(...) end
  end
  for _, row in ipairs(want) do wanted[key_of(row, width)] = show(row) end
  local seen = {}
  for _, row in ipairs(got) do
    local key, text = key_of(row, width), show(row)
    if seen[key] then
      differ("twice:    %s", text)
    elseif not wanted[key] then
      differ("too many: %s", text)
    elseif wanted[key] ~= text then
      differ("expected: %s\n  found:    %s", wanted[key], text)
    end
    seen[key] = true
  end
  for _, row in ipairs(want) do
    if not seen[key_of(row, width)] then differ("missing:  %s", show(row)) end
  end
  if count > 0 then
    error(("%s: %d rows expected, %d found, %d differences:\n%s"):format(what, #want, #got, count,
      table.concat(said, "\n")), 2)
  end
end

return M
