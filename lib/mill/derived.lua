--- Columns that no SQL expression computes exactly: vwap and the standard deviations.
--
-- After the upsert the transaction holds the rows' locks; their parts are read back, the column is
-- computed with big integers and rounded once, and set.

local decimal = require "host.decimal"
local mysql = require "host.mysql"

local M = {}

local ROWS = 500

local function compute(item, parts, scale)
  if item.fn == "vwap" then
    return decimal.ratio(parts[("sum(%s*%s)"):format(item.a, item.b)],
      parts[("sum(%s)"):format(item.b)], scale)
  end
  return decimal.stddev(parts["count()"], parts[("sum(%s)"):format(item.a)],
    parts[("sum(%s*%s)"):format(item.a, item.a)], item.fn == "stddev_samp", scale)
end

-- The columns that hold parts: expression text -> column.
local function part_columns(plan)
  local out = {}
  for text, item in pairs(plan.by_text) do
    if item.fn == "count" or item.fn == "sum" or item.fn == "sum_product" then
      out[#out + 1] = { text = text, column = item.column }
    end
  end
  table.sort(out, function(a, b) return a.text < b.text end)
  return out
end

local function update_of(output, row, columns)
  local plan = output.plan
  local parts = {}
  for i, part in ipairs(columns) do parts[part.text] = tostring(row[i + 2]) end
  local sets = {}
  for _, item in ipairs(output.bound.derived) do
    local value = compute(item, parts, output.have.columns[item.column].scale)
    sets[#sets + 1] = ("%s = %s"):format(mysql.name(item.column), value or "null")
  end
  return ("update %s set %s where %s = %s and %s = '%s'"):format(mysql.name(output.table),
    table.concat(sets, ", "), mysql.name(plan.key.column), row[1],
    mysql.name(plan.start.column), row[2])
end

local function chunk(session, output, keys, columns)
  local plan = output.plan
  local names = { mysql.name(plan.key.column), mysql.name(plan.start.column) }
  for _, part in ipairs(columns) do names[#names + 1] = mysql.name(part.column) end
  local sql = ("select %s from %s where (%s, %s) in (%s) and %s is not null for update"):format(
    table.concat(names, ", "), mysql.name(output.table), names[1], names[2],
    table.concat(keys, ", "), mysql.name(plan.count and plan.count.column or plan.key.column))
  local result, message, code, errno = session:query(sql)
  if not result then return nil, message, code, errno, sql end
  local updates = {}
  for _, row in ipairs(result.rows) do
    row[1] = session:literal(row[1])
    updates[#updates + 1] = update_of(output, row, columns)
  end
  if #updates == 0 then return true end
  local ok, at
  ok, message, code, errno, at = session:run(updates)
  if not ok then return nil, message, code, errno, updates[at] end
  return true
end

--- Set the derived columns of the rows that this commit touched.
-- @return true, or nil, message, code, errno, sql
function M.write(session, run, index, output)
  local columns = part_columns(output.plan)
  local key_at, start_at
  for i, name in ipairs(output.bound.columns) do
    if name == output.plan.key.column then key_at = i end
    if name == output.plan.start.column then start_at = i end
  end
  local keys = {}
  for i = 1, run.store:rows(index) do
    local row = run.store:row(index, i, math.mininteger)
    keys[#keys + 1] = ("(%s, %s)"):format(row.values[key_at], row.values[start_at])
    if #keys == ROWS then
      local ok, message, code, errno, sql = chunk(session, output, keys, columns)
      if not ok then return nil, message, code, errno, sql end
      keys = {}
    end
  end
  if #keys == 0 then return true end
  return chunk(session, output, keys, columns)
end

return M
