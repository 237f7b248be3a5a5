local csv = require "mill.csv"

describe("a CSV line", function()
  local cases = {
    { "", { "" } },
    { "a", { "a" } },
    { "a,b,c", { "a", "b", "c" } },
    { ",,", { "", "", "" } },
    { '"a","b"', { "a", "b" } },
    { '"a,b",c', { "a,b", "c" } },
    { '"say ""hi""",x', { 'say "hi"', "x" } },
    { '"",""', { "", "" } },
    { '""""', { '"' } },
    { "a,", { "a", "" } },
    { '"a",', { "a", "" } },
  }
  for _, case in ipairs(cases) do
    it("is split: " .. case[1], function() assert.same(case[2], (csv.split(case[1]))) end)
  end

  for line, message in pairs {
    ['"a'] = "a quote is not closed", ['"a""'] = "a quote is not closed",
    ['"a"b,c'] = "text after a closing quote", ['a"b'] = "a quote inside a field without quotes",
  } do
    it("is refused: " .. line, function()
      local fields, text, code = csv.split(line)
      assert.is_nil(fields)
      assert.equal("csv: SYNTAX: " .. message, text)
      assert.equal("SYNTAX", code)
    end)
  end
end)

describe("a CSV header", function()
  it("tells where the columns stand, in any order", function()
    local index, count = csv.header('price,"symbol",ts_ms,x', { "ts_ms", "symbol", "price" })
    assert.equal(4, count)
    assert.same({ price = 1, symbol = 2, ts_ms = 3, x = 4 }, index)
    local pick = csv.picker(index, count, { "ts_ms", "symbol", "price" })
    assert.same({ "3", "2", "1" }, { pick("1,2,3,4") })
    assert.same({ "3", "2", "1" }, { pick('1,"2",3,4') })
  end)

  it("picks with one pattern when the columns are in order", function()
    local wanted = { "b", "d" }
    local index, count = csv.header("a,b,c,d,e", wanted)
    local pick = csv.picker(index, count, wanted)
    assert.same({ "2", "4" }, { pick("1,2,3,4,5") })
    assert.same({ "2,2", "4" }, { pick('1,"2,2",3,4,5') })
    assert.same({ "", "" }, { pick(",,,,") })
    for _, line in ipairs { "1,2,3,4", "1,2,3,4,5,6", "" } do
      local first, message = pick(line)
      assert.is_nil(first)
      assert.matches("columns where the header has 5", message)
    end
  end)

  it("names a missing and a doubled column", function()
    assert.equal("csv: COLUMN: there is no column 'price' (columns: a, b)",
      (select(2, csv.header("a,b", { "price" }))))
    assert.equal("csv: COLUMN: column 'a' stands twice", (select(2, csv.header("a,a", {}))))
  end)
end)
