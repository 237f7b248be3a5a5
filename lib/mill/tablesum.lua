--- Row counts and checksums of tables, to compare a restored schema with what
-- was dumped. Count, xor and sum of a CRC32 of every row: the xor alone would
-- not see a pair of equal rows come or go. It finds damage, it proves nothing
-- against somebody who wants to deceive.

local json = require "mill.json"
local mysql = require "host.mysql"

local M = {}

local function fail(text, ...)
  return nil, ("tablesum: SQL: " .. text):format(...), "SQL"
end

--- The base tables of a schema with engine and bytes, by name; and how many
-- views, triggers, routines and events it has.
-- @return { {name=, engine=, bytes=}, ... }, others | nil, message, code
function M.tables(db, schema)
  local name = db:quote(schema)
  local result, message, code = db:query("select table_name, engine, coalesce(data_length, 0) "
    .. "from information_schema.tables where table_schema = " .. name
    .. " and table_type = 'BASE TABLE' order by table_name")
  if not result then
    return nil, message, code
  end
  local list = {}
  for i, row in ipairs(result.rows) do
    list[i] = { name = row[1], engine = row[2] ~= json.null and row[2] or "none", bytes = row[3] }
  end
  local counts, why, class = db:query(("select "
    .. "(select count(*) from information_schema.views where table_schema = %s), "
    .. "(select count(*) from information_schema.triggers where trigger_schema = %s), "
    .. "(select count(*) from information_schema.routines where routine_schema = %s), "
    .. "(select count(*) from information_schema.events where event_schema = %s)")
    :format(name, name, name, name))
  if not counts then
    return nil, why, class
  end
  local row = counts.rows[1]
  return list, { views = row[1], triggers = row[2], routines = row[3], events = row[4] }
end

local function columns(db, schema, name)
  local result, message, code = db:query(("select column_name from information_schema.columns "
    .. "where table_schema = %s and table_name = %s order by ordinal_position"):format(
      db:quote(schema), db:quote(name)))
  if not result then
    return nil, message, code
  end
  local list = {}
  for i, row in ipairs(result.rows) do
    list[i] = row[1]
  end
  return list
end

-- All columns as one text; NULL and '' differ by the flags at its end.
local function row_text(names)
  local values, nulls = {}, {}
  for i, name in ipairs(names) do
    values[i] = ("cast(%s as binary)"):format(mysql.name(name))
    nulls[i] = ("isnull(%s)"):format(mysql.name(name))
  end
  return ("concat_ws('#', %s, concat(%s))"):format(table.concat(values, ", "),
    table.concat(nulls, ", "))
end

--- The count and checksum of one table, as this connection sees it now.
-- @return { name=, rows=, checksum= } | nil, message, code
function M.sum(db, schema, name)
  local names, message, code = columns(db, schema, name)
  if not names then
    return nil, message, code
  elseif #names == 0 then
    return fail("table %s is not there", name)
  end
  local crc = ("crc32(%s)"):format(row_text(names))
  local result, why, class = db:query(("select count(*), count(%s), coalesce(bit_xor(%s), 0), "
    .. "coalesce(sum(%s), 0) from %s.%s"):format(crc, crc, crc, mysql.name(schema),
      mysql.name(name)))
  if not result then
    return nil, why, class
  end
  local row = result.rows[1]
  if row[1] ~= row[2] then
    return fail("table %s has rows larger than max_allowed_packet", name)
  end
  return { name = name, rows = row[1], checksum = ("%s:%s"):format(row[3], row[4]) }
end

--- Compare what is there with what should be.
-- @return array of lines, one for each difference; empty when all is equal
-- | nil, message, code
function M.compare(db, schema, expected)
  local lines, there = {}, {}
  local list, message, code = M.tables(db, schema)
  if not list then
    return nil, message, code
  end
  for _, found in ipairs(list) do
    there[found.name] = true
  end
  for _, want in ipairs(expected) do
    if not there[want.name] then
      lines[#lines + 1] = ("table %s is missing"):format(want.name)
    else
      local got, why, class = M.sum(db, schema, want.name)
      if not got then
        return nil, why, class
      elseif got.rows ~= want.rows then
        lines[#lines + 1] = ("table %s has %d rows, the backup %d"):format(want.name, got.rows,
          want.rows)
      elseif got.checksum ~= want.checksum then
        lines[#lines + 1] = ("table %s has %d rows as the backup, but other values"):format(
          want.name, got.rows)
      end
    end
    there[want.name] = nil
  end
  for name in pairs(there) do
    lines[#lines + 1] = ("table %s is not in the backup"):format(name)
  end
  table.sort(lines)
  return lines
end

return M
