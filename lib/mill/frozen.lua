--- Results that the table cannot hold: a sum that overflows its column.
--
-- Such a window is frozen: its row keeps what it has, and the exact value (old + delta) becomes a
-- dead letter of kind `result`, to which later deltas are added. The pipeline goes on. This path
-- writes row by row; it runs only for a commit that failed with a range error, and for tables that
-- have a frozen window.

local decimal = require "host.decimal"
local digest = require "host.digest"
local json = require "mill.json"
local mysql = require "host.mysql"

local M = {}

-- Characters of mill_dead_letters.result_key, and those kept of a longer key: 190 + 1 + 64.
local KEY_MAX, KEY_KEPT = 255, 190

-- The additive columns: name -> position among the outs.
local function additive(output)
  local out = {}
  for i, item in ipairs(output.plan.columns) do
    if item.fn == "sum" or item.fn == "sum_product" or item.fn == "count" then
      out[#out + 1] = { column = item.column, at = i }
    end
  end
  return out
end

-- A key as mill_dead_letters keeps it: one of more than 255 characters by its first 190, "~" and the
-- SHA-256 of the whole in hexadecimal, which tells it from others that begin alike.
local function stored(key)
  if #key <= KEY_MAX or (utf8.len(key) or #key) <= KEY_MAX then return key end
  local stop = utf8.offset(key, KEY_KEPT + 1) or KEY_KEPT + 1
  return key:sub(1, stop - 1) .. "~" .. digest.sha256_hex(key)
end

local function find(session, output, row)
  local result, message, code, errno = session:query(session:bind([[select id, result_value from
    mill_dead_letters where kind = 'result' and result_table = ? and result_key = ? and
    window_start_ms = ? for update]], output.table, stored(row.key), row.start_ms))
  if not result then return nil, message, code, errno end
  return result.rows[1] or false
end

local function add(values, row, columns)
  for _, column in ipairs(columns) do
    values[column.column] = decimal.add(values[column.column] or "0", row.values[column.at])
  end
end

local function grow(session, found, row, columns)
  local values = assert(json.decode(found[2]))
  add(values, row, columns)
  return session:query(session:bind([[update mill_dead_letters set result_value = ?
    where id = ]] .. tostring(found[1]), json.encode(values)))
end

-- The row overflows: read what it has, and keep the exact sum beside it.
local function freeze(session, run, output, row, columns, reason)
  local names = {}
  for i, column in ipairs(columns) do names[i] = mysql.name(column.column) end
  local plan = output.plan
  local where = ("%s = %s and %s = timestampadd(microsecond, %d * 1000, '1970-01-01')"):format(
    mysql.name(plan.key.column), session:literal(row.key), mysql.name(plan.start.column),
    row.start_ms)
  local result, message, code, errno = session:query(("select %s from %s where %s for update")
    :format(table.concat(names, ", "), mysql.name(output.table), where))
  if not result then return nil, message, code, errno end
  local values = {}
  for i, column in ipairs(columns) do
    local old = result.rows[1] and result.rows[1][i]
    values[column.column] = old ~= nil and old ~= mysql.null and tostring(old) or "0"
  end
  add(values, row, columns)
  local ok
  ok, message, code, errno = session:run {
    session:bind([[insert into mill_dead_letters (pipeline, kind, code, reason, result_table,
      result_key, window_start_ms, result_value) values (?, 'result', 'range', ?, ?, ?, ?, ?)]],
      run.name, reason, output.table, stored(row.key), row.start_ms, json.encode(values)),
    session:bind("update mill_pipelines set frozen = frozen + 1 where result_table = ?",
      output.table),
  }
  if not ok then return nil, message, code, errno end
  run.log.error("table %s cannot hold the result of '%s' from %d: %s; the window is frozen, its "
    .. "exact sums are in mill_dead_letters", output.table, row.key, row.start_ms, reason)
  return true
end

--- Write the sealed rows of one output one by one, freezing what does not fit.
-- @return true, or nil, message, code, errno, sql
function M.write(session, run, index, output)
  local columns = additive(output)
  for i = 1, run.store:rows(index) do
    local row = run.store:row(index, i, output.final_ms or math.mininteger)
    local found, message, code, errno = find(session, output, row)
    if found == nil then return nil, message, code, errno, "select from mill_dead_letters" end
    local ok, sql
    if found then
      ok, message, code, errno = grow(session, found, row, columns)
    else
      sql = output.bound.prefix .. "(" .. table.concat(row.values, ",") .. ")"
        .. output.bound.suffix
      ok, message, code, errno = session:run(sql)
      if not ok and code == "RANGE" then
        ok, message, code, errno = freeze(session, run, output, row, columns, message)
      else
        run.written = run.written + 1
      end
    end
    if not ok then return nil, message, code, errno, sql end
  end
  return true
end

return M
