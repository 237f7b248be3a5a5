--- The select of a pipeline: from expressions to partial aggregates and columns.
--
--   select = { symbol = "key", start_time = "window.start", average_price = "avg(price)", ... }
--
-- An aggregate that is not additive by itself needs its additive parts among the columns, because
-- a commit can only add to what the table holds; this unit names what is missing.

local expect = require "mill.expect"

local M = {}

-- Expressions without arguments.
local PLAIN = {
  ["key"] = "key", ["window.start"] = "start", ["window.end"] = "end", ["count()"] = "count",
  ["first_position()"] = "first_position", ["last_position()"] = "last_position",
}

-- function -> number of fields
local FUNCTIONS = {
  sum = 1, avg = 1, min = 1, max = 1, first = 1, last = 1, stddev = 1, stddev_samp = 1, vwap = 2,
}

local function trim(text)
  return (text:gsub("%s+", ""))
end

local function bad(column, expr, why)
  return nil, ("select.%s = \"%s\": %s"):format(column, expr, why), "SELECT"
end

--- Parse one expression.
-- @return { fn=, a=field, b=field }, or nil and why
function M.parse(expr)
  if type(expr) ~= "string" then return nil, "must be a string" end
  local text = trim(expr)
  if PLAIN[text] then return { fn = PLAIN[text], text = text } end
  local a, b = text:match("^sum%(([%w_.]+)%*([%w_.]+)%)$")
  if a then return { fn = "sum_product", a = a, b = b, text = text } end
  local fn, inner = text:match("^([%w_]+)%(([%w_,.]*)%)$")
  local want = fn and FUNCTIONS[fn]
  if not want then
    return nil, "is not an expression; known: key, window.start, window.end, count(), sum(f), "
      .. "sum(f*g), avg(f), min(f), max(f), first(f), last(f), first_position(), "
      .. "last_position(), vwap(price,qty), stddev(f), stddev_samp(f)"
  end
  local fields = {}
  for field in inner:gmatch("[^,]+") do fields[#fields + 1] = field end
  if #fields ~= want then
    return nil, ("%s takes %d field%s"):format(fn, want, want == 1 and "" or "s")
  end
  return { fn = fn, a = fields[1], b = fields[2], text = text }
end

-- What must stand beside each function.
local function needs(item)
  local a, b = item.a, item.b
  if item.fn == "avg" then return { ("sum(%s)"):format(a), "count()" } end
  if item.fn == "vwap" then return { ("sum(%s*%s)"):format(a, b), ("sum(%s)"):format(b) } end
  if item.fn == "stddev" or item.fn == "stddev_samp" then
    return { "count()", ("sum(%s)"):format(a), ("sum(%s*%s)"):format(a, a) }
  end
  if item.fn == "first" then return { "first_position()" } end
  if item.fn == "last" then return { "last_position()" } end
  return {}
end

local function numeric(fields, name)
  local field = fields[name]
  if type(field) ~= "table" then return nil, ("the decoder has no field '%s'"):format(name) end
  if field.type ~= "decimal" and field.type ~= "integer" then
    return nil, ("field '%s' is a %s; aggregates need a decimal or an integer"):format(name,
      field.type)
  end
  return field
end

-- The additive part behind a column: op, fields.
local function part_of(item, fields)
  local ops = { sum = "sum", min = "min", max = "max", first = "first", last = "last" }
  local a, why = numeric(fields, item.a)
  if not a then return nil, why end
  local b
  if item.b then
    b, why = numeric(fields, item.b)
    if not b then return nil, why end
    if b.type ~= a.type then return nil, "both fields must be decimals or both integers" end
  end
  local op = item.fn == "sum_product" and "product" or ops[item.fn]
  -- A sum of values with up to 30 digits fits 128 bits for more rows than a delta can hold.
  if op == "sum" and (a.precision or 0) > 30 then op = "product" end
  local scale = (a.scale or 0) + (b and b.scale or 0)
  return {
    op = op, cell = a.cell, cell_b = b and b.cell or nil, integer = a.type == "integer",
    scale = scale, field = a, field_b = b,
  }
end

local function parse_all(select)
  local items, by_text, order = {}, {}, {}
  for column in pairs(select) do
    if type(column) ~= "string" then return nil, "select: columns must be named", "SELECT" end
    order[#order + 1] = column
  end
  table.sort(order)
  for _, column in ipairs(order) do
    local item, why = M.parse(select[column])
    if not item then return bad(column, tostring(select[column]), why) end
    item.column = column
    items[#items + 1] = item
    by_text[item.text] = by_text[item.text] or item
  end
  return items, by_text
end

local ADDITIVE = { sum = true, sum_product = true, min = true, max = true, first = true, last = true }

--- Plan a select.
-- @param select table column -> expression
-- @param fields table name -> { type=, cell=, precision=, scale= }
-- @return plan { parts, columns, by_text, key, start, end_, count }, or nil, message, "SELECT"
function M.plan(select, fields)
  expect.a("table", select, "select")
  expect.a("table", fields, "fields")
  local items, by_text, code = parse_all(select)
  if not items then return nil, by_text, code end
  local plan = { parts = {}, columns = items, by_text = by_text }
  for _, item in ipairs(items) do
    if ADDITIVE[item.fn] then
      local part, why = part_of(item, fields)
      if not part then return bad(item.column, item.text, why) end
      item.part = #plan.parts
      item.scale = part.scale
      item.number = part
      plan.parts[#plan.parts + 1] = part
    elseif item.a then
      for _, name in ipairs { item.a, item.b } do
        local field, why = numeric(fields, name)
        if not field then return bad(item.column, item.text, why) end
      end
    end
    -- After the fields: a misspelt one has no column beside it either.
    for _, need in ipairs(needs(item)) do
      if not by_text[need] then
        return bad(item.column, item.text, ("needs a column with \"%s\" beside it"):format(need))
      end
    end
  end
  for _, item in ipairs(items) do
    if item.fn:match("_position$") then
      local fn = item.fn:match("^%a+")
      for _, other in ipairs(items) do
        if other.fn == fn then item.part = other.part end
      end
      if not item.part then return bad(item.column, item.text, "needs a column with " .. fn .. "(f)") end
    end
  end
  for _, text in ipairs { "key", "window.start", "window.end" } do
    if not by_text[text] then
      return nil, ("select: no column has \"%s\""):format(text), "SELECT"
    end
  end
  plan.key, plan.start = by_text["key"], by_text["window.start"]
  plan.end_, plan.count = by_text["window.end"], by_text["count()"]
  return plan
end

--- The part numbers and scales that a derived column is computed from.
-- @return part, scale, part_b, scale_b
function M.sources(plan, item)
  local function of(text)
    local source = plan.by_text[text]
    return source.part, source.scale
  end
  if item.fn == "avg" then
    local part, scale = of(("sum(%s)"):format(item.a))
    return part, scale
  end
  if item.fn == "vwap" then
    local part, scale = of(("sum(%s*%s)"):format(item.a, item.b))
    return part, scale, of(("sum(%s)"):format(item.b))
  end
  local part, scale = of(("sum(%s)"):format(item.a))
  return part, scale, of(("sum(%s*%s)"):format(item.a, item.a))
end

return M
