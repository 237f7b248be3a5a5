--- What a result table must look like for a plan, from information_schema.

local decimal = require "host.decimal"
local fault = require "mill.fault"

local M = {}

-- Integer types and their bits.
local INTEGERS = { tinyint = 8, smallint = 16, mediumint = 24, int = 32, bigint = 64 }

local COLLATIONS = { utf8mb4_0900_bin = true, utf8mb4_nopad_bin = true }

--- Read a table's engine, columns and unique keys.
-- @param session mill.session
-- @return table { engine = text or nil for a view, columns = {name -> column},
--   uniques = { { name =, text = as in SQL, columns = those it has whole, partial = bool } } },
--   or nil when absent
function M.read(session, name)
  local function rows(sql)
    local result, message = session:query(session:bind(sql, name))
    if not result then fault.raise(fault.SERVER, "table %s: %s", name, message) end
    return result.rows
  end
  local columns, any = {}, false
  for _, row in ipairs(rows([[select column_name, data_type, column_type, is_nullable,
      cast(coalesce(character_maximum_length, 0) as signed),
      cast(coalesce(numeric_precision, 0) as signed), cast(coalesce(numeric_scale, 0) as signed),
      cast(coalesce(datetime_precision, 0) as signed), coalesce(collation_name, ''),
      column_default is not null or is_nullable = 'YES' or extra like '%auto_increment%',
      extra like '%auto_increment%'
      from information_schema.columns where table_schema = database() and table_name = ?]])) do
    any = true
    columns[row[1]] = {
      name = row[1], type = row[2], full = row[3], nullable = row[4] == "YES", chars = row[5],
      precision = row[6], scale = row[7], fraction = row[8], collation = row[9],
      optional = row[10] == 1, counted = row[11] == 1,
    }
  end
  if not any then return nil end
  local engine = rows([[select coalesce(engine, '') from information_schema.tables
      where table_schema = database() and table_name = ? and table_type not like '%VIEW']])[1]
  local keys, uniques = {}, {}
  -- A part of a key that is an expression has no column.
  for _, row in ipairs(rows([[select index_name, coalesce(column_name, '(...)'),
      cast(coalesce(sub_part, 0) as signed), column_name is null or sub_part is not null
      from information_schema.statistics
      where table_schema = database() and table_name = ? and non_unique = 0
      order by index_name, seq_in_index]])) do
    local key = keys[row[1]]
    if not key then
      key = { name = row[1], columns = {}, partial = false }
      keys[row[1]] = key
      uniques[#uniques + 1] = key
    end
    local partial = row[4] == 1
    key.text = (key.text and key.text .. ", " or "") .. row[2]
      .. (row[3] > 0 and ("(%d)"):format(row[3]) or "")
    if partial then key.partial = true else table.insert(key.columns, row[2]) end
  end
  return { engine = engine and engine[1], columns = columns, uniques = uniques }
end

-- A misspelt name's nearest neighbour, for the message.
local function near(columns, name)
  local best
  for candidate in pairs(columns) do
    if candidate:lower() == name:lower() or candidate:gsub("_", "") == name:gsub("_", "")
      or (#name > 3 and (candidate:find(name:sub(1, #name - 1), 1, true)
        or candidate:sub(1, 4) == name:sub(1, 4))) then
      if not best or candidate < best then best = candidate end
    end
  end
  return best
end

-- Is each of `b` among `a`?
local function has_all(a, b)
  local set = {}
  for _, name in ipairs(a) do set[name] = true end
  for _, name in ipairs(b) do
    if not set[name] then return false end
  end
  return true
end

local function same_set(a, b)
  return #a == #b and has_all(a, b)
end

local function divides_seconds(window)
  return window.size_ms % 1000 == 0 and window.hop_ms % 1000 == 0
end

-- One column against what its expression gives; returns a complaint or nil.
local function complaint(item, column, window)
  local fn = item.fn
  if fn == "key" then
    if column.type ~= "varchar" and column.type ~= "char" then
      return "must be VARCHAR"
    elseif column.type == "char" then
      return "must be VARCHAR: CHAR drops trailing spaces"
    end
    if not COLLATIONS[column.collation] then
      return ("has collation %s, under which different keys can be equal, or which lacks characters; "
        .. "it must be utf8mb4_0900_bin on MySQL or utf8mb4_nopad_bin on MariaDB"):format(
        column.collation)
    end
  elseif fn == "start" or fn == "end" then
    if column.type ~= "datetime" then return "must be DATETIME (UTC)" end
    if not divides_seconds(window) and column.fraction < 3 then
      return "must be DATETIME(3): the windows do not begin at whole seconds"
    end
  elseif fn == "count" then
    if not INTEGERS[column.type] then return "must be BIGINT" end
  elseif fn == "first_position" or fn == "last_position" then
    if column.full ~= "binary(20)" then return "must be BINARY(20)" end
  elseif column.type ~= "decimal" and not (item.number and item.number.integer
      and INTEGERS[column.type]) then
    return "must be DECIMAL: other types are not exact"
  elseif item.scale and column.type == "decimal" and column.scale < item.scale then
    return ("must have at least %d digits after the point"):format(item.scale)
  end
end

-- Why a column of this item is null in some windows; or nil.
local function null_when(item, plan)
  if item.fn == "stddev_samp" then return "a window has a single row" end
  if item.fn ~= "vwap" then return nil end
  local quantity = plan.by_text[("sum(%s)"):format(item.b)]
  if not quantity.number.field.positive then return ("a window's sum(%s) is 0"):format(item.b) end
end

-- The table's unique keys: one is on `wanted`, and no other one takes two windows for one row.
local function check_keys(add, name, have, wanted, named)
  local columns = table.concat(wanted, ", ")
  local unique = false
  for _, key in ipairs(have.uniques) do
    -- A number that the server counts up is new in each row.
    local harmless = has_all(key.columns, wanted)
    for _, column in ipairs(key.columns) do
      local info = have.columns[column]
      harmless = harmless or info and info.counted and not named[column]
    end
    unique = unique or not key.partial and same_set(key.columns, wanted)
    if not harmless then
      add("table %s: under its unique key %s (%s) different windows can share a row, since it does "
        .. "not have all of (%s); `alter table %s drop %s` removes it", name, key.name, key.text,
        columns, name, key.name == "PRIMARY" and "primary key" or "key " .. key.name)
    end
  end
  if not unique then
    add("table %s has no unique key on (%s); `alter table %s add unique key (%s)` makes one", name,
      columns, name, columns)
  end
end

--- Check a table against a plan.
-- @return array of messages; empty when it fits
function M.check(name, have, plan, sink, window)
  if not have.engine then
    return { ("table %s is a view; results need a table with engine = InnoDB"):format(name) }
  end
  local out = {}
  local function add(fmt, ...) out[#out + 1] = fmt:format(...) end
  if have.engine:lower() ~= "innodb" then
    add("table %s has engine %s, which may keep rows when a commit fails, so that they are counted "
      .. "twice; `alter table %s engine = InnoDB` mends that", name, have.engine, name)
  end
  local named = {}
  for _, item in ipairs(plan.columns) do
    named[item.column] = true
    local column = have.columns[item.column]
    if not column then
      local hint = near(have.columns, item.column)
      add("table %s has no column '%s'%s", name, item.column,
        hint and (" (did you mean '%s'?)"):format(hint) or "")
    else
      local why = complaint(item, column, window)
      if why then add("table %s: column '%s' is %s and %s", name, item.column, column.full, why) end
      local null = not column.nullable and null_when(item, plan)
      if null then
        add("table %s: column '%s' is NOT NULL, but %s has no value when %s; `alter table %s modify "
          .. "%s %s null` lets it be", name, item.column, item.text, null, name, item.column,
          column.full)
      end
    end
  end
  for _, managed in ipairs { "revision", "is_final" } do
    if not have.columns[managed] then
      add("table %s has no column '%s', which finality and late rows need; `tidemill migrate` "
        .. "makes it for moving_averages", name, managed)
    end
    named[managed] = true
  end
  for column, info in pairs(have.columns) do
    if not named[column] and not info.optional then
      add("table %s: column '%s' is NOT NULL without a default, and nothing in select fills it",
        name, column)
    end
  end
  local right = same_set(sink.key, { plan.key.column, plan.start.column })
  if right then
    check_keys(add, name, have, sink.key, named)
  else
    add("sink.key must be the columns of \"key\" and \"window.start\": (%s, %s)", plan.key.column,
      plan.start.column)
  end
  if plan.count and have.columns[plan.count.column]
    and have.columns[plan.count.column].nullable == false and #out == 0 then
    plan.guarded = false
  else
    plan.guarded = plan.count ~= nil
  end
  table.sort(out)
  return out
end

-- The least and the greatest value that a number's column holds, as texts; nil: none that the
-- field's type could not hold either.
local function range(column, field)
  local low = column.full:find("unsigned", 1, true) and "0" or nil
  local bits = INTEGERS[column.type]
  if bits == 64 then
    return low
  elseif bits then
    local high = 1 << (low and bits or bits - 1)
    return low or tostring(-high), tostring(high - 1)
  end
  local digits = column.precision - column.scale
  if digits >= (field.precision or 19) - (field.scale or 0) then return low end
  local high = digits > 0 and ("9"):rep(digits) or "0"
  if (field.scale or 0) > 0 then high = high .. "." .. ("9"):rep(field.scale) end
  return low or "-" .. high, high
end

local SINGLE = { avg = true, min = true, max = true, first = true, last = true, sum = true }

--- What single values the tables can hold, for the decoder, the narrowest column of each field.
-- @param outputs of a pipeline, each with `have`
-- @param fields the decoder's, by name
-- @return field -> options of decoder:limit
function M.limits(outputs, fields)
  local limits = {}
  local function narrow(field, bound, value, column, sign)
    local limit = limits[field] or {}
    limits[field] = limit
    if value and (not limit[bound] or decimal.compare(value, limit[bound]) == sign) then
      limit[bound], limit[bound .. "_column"] = value, column.name
    end
  end
  for _, output in ipairs(outputs) do
    for _, item in ipairs(output.plan.columns) do
      local column = output.have.columns[item.column]
      if SINGLE[item.fn] then
        local low, high = range(column, fields[item.a])
        narrow(item.a, "min", low, column, 1)
        narrow(item.a, "max", high, column, -1)
      elseif item.fn == "key" and output.key and output.key.type == "string" then
        local kept = limits[output.key.name]
        if not kept or column.chars < kept.max_chars then
          limits[output.key.name] = { max_chars = column.chars, max_chars_column = item.column }
        end
      end
    end
  end
  return limits
end

return M
