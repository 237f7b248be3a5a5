--- The statement that adds deltas to a result table.
--
-- The rows come from host.window, as text or packed for a prepared statement; this unit writes what
-- stands around them, for the server's dialect: MySQL 8.0.20 and later name the new row, MariaDB has
-- values().

local mysql = require "host.mysql"
local select_ = require "mill.select"

local M = {}

local KINDS = {
  key = "key", start = "start", ["end"] = "end", count = "count", sum = "sum",
  sum_product = "sum", min = "value", max = "value", first = "value", last = "value",
  first_position = "place", last_position = "place", avg = "avg", vwap = "ratio",
  stddev = "stddev", stddev_samp = "stddev_samp",
}

--- Aggregates that no SQL expression computes exactly; they are set in a second step.
M.DERIVED = { vwap = true, stddev = true, stddev_samp = true }

-- Assignment order: what reads the old parts comes before the parts change.
local ORDER = {
  avg = 1, first = 2, last = 2, first_position = 3, last_position = 3, sum = 4, sum_product = 4,
  min = 4, max = 4, count = 9,
}

local function out_of(plan, item, have)
  local column = have.columns[item.column]
  local out = { kind = KINDS[item.fn], part = item.part, scale = item.scale }
  if item.fn == "start" or item.fn == "end" then out.fraction = column.fraction end
  if item.fn == "avg" or M.DERIVED[item.fn] then
    out.part, out.scale, out.part_b, out.scale_b = select_.sources(plan, item)
    out.column_scale = column.scale
  end
  return out
end

local function names_the_new_row(server)
  return server.flavor == "mysql" and server.number >= 80020
end

local function assignment(item, old, new, plan)
  local c = item.column
  if item.fn == "avg" then
    local sum = plan.by_text[("sum(%s)"):format(item.a)].column
    local n = plan.count.column
    return ("(%s + %s) / nullif(%s + %s, 0)"):format(old(sum), new(sum), old(n), new(n))
  elseif item.fn == "sum" or item.fn == "sum_product" or item.fn == "count" then
    return ("%s + %s"):format(old(c), new(c))
  elseif item.fn == "min" then
    return ("least(%s, %s)"):format(old(c), new(c))
  elseif item.fn == "max" then
    return ("greatest(%s, %s)"):format(old(c), new(c))
  elseif item.fn == "first" or item.fn == "last" then
    local at = plan.by_text[item.fn .. "_position()"].column
    return ("if(%s %s %s, %s, %s)"):format(new(at), item.fn == "first" and "<" or ">", old(at),
      new(c), old(c))
  elseif item.fn == "first_position" then
    return ("least(%s, %s)"):format(old(c), new(c))
  elseif item.fn == "last_position" then
    return ("greatest(%s, %s)"):format(old(c), new(c))
  end
end

local function assignments(plan, table_name, server)
  local named = names_the_new_row(server)
  local function old(c) return mysql.name(table_name) .. "." .. mysql.name(c) end
  local function new(c)
    return named and "new." .. mysql.name(c) or ("values(%s)"):format(mysql.name(c))
  end
  local function guard(c, expr)
    -- Rows of the replaced system have no count; nothing is ever added to them.
    if not plan.guarded then return expr end
    return ("if(%s is null, %s, %s)"):format(old(plan.count.column), old(c), expr)
  end
  local items = {}
  for _, item in ipairs(plan.columns) do
    if ORDER[item.fn] then items[#items + 1] = item end
  end
  table.sort(items, function(a, b)
    if ORDER[a.fn] ~= ORDER[b.fn] then return ORDER[a.fn] < ORDER[b.fn] end
    return a.column < b.column
  end)
  local sets = { ("`revision` = %s"):format(
    guard("revision", old "revision" .. " + " .. new "revision")) }
  for _, item in ipairs(items) do
    sets[#sets + 1] = ("%s = %s"):format(mysql.name(item.column),
      guard(item.column, assignment(item, old, new, plan)))
  end
  return (named and " as new" or "") .. " on duplicate key update " .. table.concat(sets, ", ")
end

--- Bind a plan to a table.
-- @return { outs = for host.window, prefix, suffix = SQL around the rows, prepared = the statement of
--   one row with a `?` for each column, types = of these, for host.mysql, derived = items,
--   columns = names in order of outs }
function M.bind(plan, table_name, have, server)
  local outs, names, quoted, derived, types = {}, {}, {}, {}, {}
  for i, item in ipairs(plan.columns) do
    outs[i] = out_of(plan, item, have)
    names[i] = item.column
    if M.DERIVED[item.fn] then derived[#derived + 1] = item end
  end
  outs[#outs + 1] = { kind = "late" }
  names[#names + 1] = "revision"
  outs[#outs + 1] = { kind = "final" }
  names[#names + 1] = "is_final"
  for i, name in ipairs(names) do
    quoted[i] = mysql.name(name)
    types[i] = outs[i].kind == "place" and "b" or "t"
  end
  local prefix = ("insert into %s (%s) values "):format(mysql.name(table_name),
    table.concat(quoted, ", "))
  local suffix = assignments(plan, table_name, server)
  return {
    outs = outs, columns = names, derived = derived, prefix = prefix, suffix = suffix,
    prepared = ("%s(%s)%s"):format(prefix, ("?, "):rep(#names - 1) .. "?", suffix),
    types = table.concat(types),
  }
end

return M
