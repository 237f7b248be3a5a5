--- Comma separated values, a line at a time: RFC 4180 without line breaks inside quotes.

local expect = require "mill.expect"

local M = {}

local COLUMNS_MAX = 10000

--- Split a line into its fields.
-- @return array of strings, or nil, message, "SYNTAX"
function M.split(line)
  expect.a("string", line, "line")
  local fields, n, at = {}, 0, 1
  while true do
    local value, stop
    if line:byte(at) == 34 then -- a quote
      value, stop = line:match('^"([^"]*)"()', at)
      while value and line:byte(stop) == 34 do -- a doubled quote stands for one
        local more, after = line:match('^"([^"]*)"()', stop)
        if not more then return nil, "csv: SYNTAX: a quote is not closed", "SYNTAX" end
        value, stop = value .. '"' .. more, after
      end
      if not value then return nil, "csv: SYNTAX: a quote is not closed", "SYNTAX" end
    else
      value, stop = line:match("^([^,]*)()", at)
      if value:find('"', 1, true) then
        return nil, "csv: SYNTAX: a quote inside a field without quotes", "SYNTAX"
      end
    end
    n = n + 1
    fields[n] = value
    if stop > #line then return fields end
    if line:byte(stop) ~= 44 then
      return nil, "csv: SYNTAX: text after a closing quote", "SYNTAX"
    end
    at = stop + 1
  end
end

--- Read a header line: where its names stand.
-- @param wanted array of names that must be there
-- @return table name -> index, number of columns; or nil, message, code ("SYNTAX", "COLUMN")
function M.header(line, wanted)
  expect.a("string", line, "line")
  expect.strings(wanted, "wanted")
  local names, message, code = M.split(line)
  if not names then return nil, message, code end
  local index = {}
  for i, name in ipairs(names) do
    if index[name] then
      return nil, ("csv: COLUMN: column '%s' stands twice"):format(name), "COLUMN"
    end
    index[name] = i
  end
  for _, name in ipairs(wanted) do
    if not index[name] then
      return nil, ("csv: COLUMN: there is no column '%s' (columns: %s)"):format(name,
        table.concat(names, ", ")), "COLUMN"
    end
  end
  return index, #names
end

--- A function that takes the wanted columns out of a line, in the order of `wanted`.
-- A line without quotes is cut by one pattern; others, and many columns, are split. The function
-- returns the values,
-- or nil and a message when the line has not as many columns as the header.
-- @param index table name -> index, @param count integer: from M.header
function M.picker(index, count, wanted)
  expect.a("table", index, "index")
  expect.a("integer", count, "count")
  if count < 1 or count > COLUMNS_MAX then
    error(("count must be 1 to %d, got %d"):format(COLUMNS_MAX, count), 2)
  end
  expect.strings(wanted, "wanted")
  local places, sorted, pattern = {}, true, { "^" }
  for i, name in ipairs(wanted) do
    places[i] = expect.a("integer", index[name], ("index['%s']"):format(name))
    if places[i] < 1 or places[i] > count then
      error(("index['%s'] is %d, of %d columns"):format(name, places[i], count), 2)
    end
    sorted = sorted and (i == 1 or places[i] > places[i - 1])
  end
  local next_place = 1
  for i = 1, count do
    local taken = places[next_place] == i
    if taken then next_place = next_place + 1 end
    pattern[#pattern + 1] = taken and "([^,]*)" or "[^,]*"
    pattern[#pattern + 1] = i < count and "," or "$"
  end
  pattern = table.concat(pattern)
  local find, match, unpack = string.find, string.match, table.unpack
  local function split(line)
    local fields, message = M.split(line)
    if not fields then return nil, message end
    if #fields ~= count then
      return nil, ("csv: COLUMN: %d columns where the header has %d"):format(#fields, count)
    end
    local values = {}
    for i, place in ipairs(places) do values[i] = fields[place] end
    return unpack(values)
  end
  -- The pattern gives eight values at most.
  if not sorted or #wanted > 8 then return split end
  return function(line)
    if not find(line, '"', 1, true) then
      local a, b, c, d, e, f, g, h = match(line, pattern)
      if a then return a, b, c, d, e, f, g, h end
    end
    return split(line)
  end
end

return M
