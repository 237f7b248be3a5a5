-- Expressions of select: what is one, what it is made of, what it needs beside it.

local select_ = require "mill.select"

local FIELDS = {
  symbol = { type = "string", cell = 0 },
  price = { type = "decimal", precision = 20, scale = 8, cell = 1 },
  qty = { type = "decimal", precision = 20, scale = 4, cell = 2 },
  ["data.price"] = { type = "decimal", precision = 20, scale = 8, cell = 3 },
}
local BASE = { symbol = "key", start_time = "window.start", end_time = "window.end" }

local function plan(columns)
  local all = {}
  for _, list in ipairs { BASE, columns } do
    for column, expr in pairs(list) do all[column] = expr end
  end
  return select_.plan(all, FIELDS)
end

describe("an expression", function()
  for expr, want in pairs {
    ["key"] = { fn = "key" }, ["window.end"] = { fn = "end" }, ["count()"] = { fn = "count" },
    ["sum(price)"] = { fn = "sum", a = "price" },
    [" avg( price ) "] = { fn = "avg", a = "price" },
    ["sum(price * qty)"] = { fn = "sum_product", a = "price", b = "qty" },
    ["vwap(price,qty)"] = { fn = "vwap", a = "price", b = "qty" },
    ["avg(data.price)"] = { fn = "avg", a = "data.price" },
    ["sum(data.price*data.qty)"] = { fn = "sum_product", a = "data.price", b = "data.qty" },
  } do
    it("is '" .. expr .. "'", function()
      local item = assert(select_.parse(expr))
      assert.are.same({ want.fn, want.a, want.b }, { item.fn, item.a, item.b })
    end)
  end

  for _, expr in ipairs { "", "median(price)", "avg()", "avg(a,b)", "vwap(a)", "sum(a", "count(a)" } do
    it("is not '" .. expr .. "'", function()
      assert.is_nil((select_.parse(expr)))
    end)
  end
end)

describe("a select", function()
  it("may aggregate a field inside an object", function()
    local p = assert(plan { a = "avg(data.price)", s = "sum(data.price)", n = "count()" })
    assert.are.equal(3, p.parts[1].cell)
  end)

  it("names what is missing beside an aggregate", function()
    local _, message = plan { a = "avg(price)", s = "sum(price)" }
    assert.are.equal('select.a = "avg(price)": needs a column with "count()" beside it', message)
  end)

  it("names a field that the decoder does not have", function()
    local _, message = plan { s = "sum(prise)" }
    assert.are.equal([[select.s = "sum(prise)": the decoder has no field 'prise']], message)
    -- Not that sum(prise) is missing beside it.
    _, message = plan { a = "avg(prise)", s = "sum(price)", n = "count()" }
    assert.are.equal([[select.a = "avg(prise)": the decoder has no field 'prise']], message)
  end)
end)
