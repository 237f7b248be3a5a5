-- host.json: the decoder as Lua sees it. Every payload variant is in
-- spec/c/decode_test.c; here are options, limits, counts and misuse.
local batch = require "host.batch"
local json = require "host.json"

local PRICES = {
  { name = "symbol", type = "string" },
  { name = "price", type = "decimal", precision = 20, scale = 8, positive = true },
  { name = "timestamp", type = "time" },
}

local function rows(...)
  local b = batch.new()
  for i, value in ipairs { ... } do
    b:add { partition = 0, offset = i - 1, value = value or nil }
  end
  return b
end

-- The first row's cells, or its code, path and text.
local function decode(fields, value)
  local decoder <close> = json.decoder { fields = fields }
  local b <close> = rows(value)
  decoder:decode(b)
  local r = b:record(1)
  return decoder:cells(b, 1), r.code, r.path, r.fault
end

describe("json.decoder", function()
  it("decodes a batch and counts good and bad rows", function()
    local decoder <close> = json.decoder { fields = PRICES }
    local b <close> = rows(
      '{"symbol":"BTCUSDT","price":"61837.63000000","timestamp":1723161255.342}',
      "nope",
      '{"symbol":"BTC\\u002dUSD","price":1e-06,"timestamp":"2024-08-09T12:00:00Z"}',
      '{"symbol":"BTCUSDT","price":null,"timestamp":1723161255.342}')
    assert.same({ 2, 2 }, { decoder:decode(b) })
    assert.same({ symbol = "BTCUSDT", price = "61837.63000000", timestamp = 1723161255342 },
      decoder:cells(b, 1))
    assert.same({ symbol = "BTC-USD", price = "0.00000100", timestamp = 1723204800000 },
      decoder:cells(b, 3))
    assert.is_nil(decoder:cells(b, 2))
    assert.is_nil(decoder:cells(b, 5))
    assert.is_nil(decoder:cells(b, 0))
    local r = b:record(2)
    assert.same({ "bad", "json", "$", "byte 2: expected true, false or null, got 'o'" },
      { r.state, r.code, r.path, r.fault })
    r = b:record(4)
    assert.same({ "bad", "type", "$.price", "expected a decimal, got null" },
      { r.state, r.code, r.path, r.fault })
  end)

  it("gives times as integers and decimals as text with all digits", function()
    local cells = decode(PRICES, '{"symbol":"X","price":1,"timestamp":1723161255}')
    assert.equal("integer", math.type(cells.timestamp))
    assert.equal("1.00000000", cells.price)
  end)

  it("takes integers beyond 2^53 exactly", function()
    local cells = decode({ { name = "id", type = "integer" } }, '{"id":1723161254087896568}')
    assert.equal(1723161254087896568, cells.id)
  end)

  it("looks inside objects", function()
    local fields = { { name = "data.p", type = "decimal", precision = 5, scale = 2 } }
    assert.same({ ["data.p"] = "3.50" }, (decode(fields, '{"data":{"p":"3.5"}}')))
    local _, code, path, text = decode(fields, '{"data":7}')
    assert.same({ "type", "$.data.p", "expected an object around it, got 7" },
      { code, path, text })
  end)

  it("fixes the unit of a time", function()
    local cells = decode({ { name = "t", type = "time", unit = "ms" } }, '{"t":5}')
    assert.equal(5, cells.t)
    cells = decode({ { name = "t", type = "time", unit = "s" } }, '{"t":5}')
    assert.equal(5000, cells.t)
  end)

  it("makes null payloads bad rows, or skips them when asked to", function()
    local b <close> = rows(false, "")
    local decoder <close> = json.decoder { fields = PRICES }
    assert.same({ 0, 2 }, { decoder:decode(b) })
    assert.same({ "null", "empty" }, { b:record(1).code, b:record(2).code })
    b:reset()
    b:add { partition = 0, offset = 0 }
    b:add { partition = 0, offset = 1, value = "" }
    local skipping <close> = json.decoder { fields = PRICES, tombstones = "skip" }
    assert.same({ 0, 1 }, { skipping:decode(b) })
    assert.equal("skipped", b:record(1).state)
    assert.is_nil(skipping:cells(b, 1))
  end)

  it("decodes an empty batch", function()
    local decoder <close> = json.decoder { fields = PRICES }
    local b <close> = batch.new()
    assert.same({ 0, 0 }, { decoder:decode(b) })
  end)

  it("does not give cells of rows it has not decoded", function()
    local decoder <close> = json.decoder { fields = PRICES }
    local other <close> = json.decoder { fields = { PRICES[1] } }
    local b <close> = rows '{"symbol":"X","price":1,"timestamp":1}'
    assert.error_matches(function() decoder:cells(b, 1) end, "not decoded by this decoder")
    decoder:decode(b)
    assert.error_matches(function() other:cells(b, 1) end, "not decoded by this decoder")
    b:reset()
    assert.is_nil(decoder:cells(b, 1))
  end)

  local misuse = {
    { "an unknown option", { fields = PRICES, field = 1 }, "unknown option 'field'" },
    { "no fields", {}, "option 'fields' is required" },
    { "an empty list", { fields = {} }, "option 'fields' is empty" },
    { "fields that are no list", { fields = "x" }, "'fields' must be a table" },
    { "a field that is no table", { fields = { "symbol" } }, "field 1 must be a table" },
    { "a field without a name", { fields = { { type = "string" } } }, "'name' is required" },
    { "a field without a type", { fields = { { name = "a" } } }, "'type' is required" },
    { "an unknown type", { fields = { { name = "a", type = "double" } } },
      "field 'a': unknown type 'double' %(known: string, decimal, integer, time%)" },
    { "another type's option", { fields = { { name = "a", type = "time", precision = 3 } } },
      "unknown option 'precision' %(known: name, type, unit%)" },
    { "a decimal without precision", { fields = { { name = "a", type = "decimal" } } },
      "field 'a': option 'precision' is required" },
    { "a precision of 39", { fields = { { name = "a", type = "decimal", precision = 39 } } },
      "option 'precision' must be between 1 and 38, got 39" },
    { "a scale beyond the precision",
      { fields = { { name = "a", type = "decimal", precision = 4, scale = 5 } } },
      "option 'scale' must be between 0 and 4, got 5" },
    { "an unknown unit", { fields = { { name = "a", type = "time", unit = "h" } } },
      "field 'a': unknown unit 'h'" },
    { "a name twice", { fields = { PRICES[1], PRICES[1] } }, "field 'symbol': .* different" },
    { "an empty part of a name", { fields = { { name = "a..b", type = "time" } } },
      "field 'a..b'" },
    { "unknown tombstones", { fields = PRICES, tombstones = "keep" },
      "'tombstones' must be 'bad' or 'skip', got 'keep'" },
  }
  for _, case in ipairs(misuse) do
    it("raises for " .. case[1], function()
      assert.error_matches(function() json.decoder(case[2]) end, case[3])
    end)
  end
end)

describe("decoder:limit", function()
  it("makes strings too long for their column bad rows", function()
    local decoder <close> = json.decoder { fields = { { name = "symbol", type = "string" } } }
    decoder:limit("symbol", { max_chars = 3, max_chars_column = "ticker" })
    local b <close> = rows('{"symbol":"€€€"}', '{"symbol":"abcd"}')
    assert.same({ 1, 1 }, { decoder:decode(b) })
    assert.equal("column", b:record(2).code)
    assert.equal("column 'ticker' holds at most 3 characters, got \"abcd\"", b:record(2).fault)
  end)

  it("makes numbers too large for their column bad rows", function()
    local fields = { PRICES[2], { name = "n", type = "integer" } }
    local decoder <close> = json.decoder { fields = fields }
    decoder:limit("price", { max = "999.99999999", max_column = "average_price", min = "0.5" })
    decoder:limit("n", { min = "-128", min_column = "least", max = "127" })
    local b <close> = rows('{"price":"999.99999999","n":-128}', '{"price":1000,"n":1}',
      '{"price":1,"n":-129}', '{"price":0.5,"n":128}', '{"price":0.49999999,"n":127}')
    assert.same({ 1, 4 }, { decoder:decode(b) })
    assert.equal("column 'average_price' holds at most 999.99999999, got 1000", b:record(2).fault)
    assert.equal("column 'least' holds at least -128, got -129", b:record(3).fault)
    assert.equal("expected at most 127, got 128", b:record(4).fault)
    assert.equal("expected at least 0.50000000, got 0.49999999", b:record(5).fault)
    decoder:limit("price", {})
    local again <close> = rows '{"price":1000,"n":1}'
    assert.same({ 1, 0 }, { decoder:decode(again) })
  end)

  it("raises for what makes no sense", function()
    local decoder <close> = json.decoder { fields = PRICES }
    local cases = {
      { "symbo", { max_chars = 3 }, "no field 'symbo'" },
      { "symbol", { max = "3" }, "unknown option 'max'" },
      { "symbol", { max_chars = -1 }, "'max_chars' must be between" },
      { "price", { max_chars = 3 }, "unknown option 'max_chars'" },
      { "price", { max = 3 }, "'max' must be a string" },
      { "price", { max = "much" }, "'max' must be a decimal%(38,8%).*'much'" },
      { "price", { min = "1e40" }, "'min' must be a decimal" },
      { "price", { max_column = ("x"):rep(64) }, "longer than 63 bytes" },
      { "timestamp", { max_chars = 3 }, "unknown option 'max_chars'" },
    }
    for _, case in ipairs(cases) do
      assert.error_matches(function() decoder:limit(case[1], case[2]) end, case[3])
    end
  end)
end)

describe("a decoder handle", function()
  it("may be closed twice and not used afterwards", function()
    local decoder = json.decoder { fields = PRICES }
    assert.matches("^decoder %(0x", tostring(decoder))
    decoder:close()
    decoder:close()
    assert.equal("decoder (closed)", tostring(decoder))
    local b <close> = batch.new()
    for _, method in ipairs { "decode", "limit", "cells" } do
      assert.error_matches(function() decoder[method](decoder, b, 1) end,
        "attempt to use a closed decoder")
    end
  end)

  it("refuses a closed batch and other values", function()
    local decoder <close> = json.decoder { fields = PRICES }
    local b = batch.new()
    b:close()
    assert.error_matches(function() decoder:decode(b) end, "attempt to use a closed batch")
    assert.error_matches(function() decoder:decode {} end, "batch expected")
    assert.error_matches(function() decoder.decode(b, b) end, "decoder expected")
  end)

  it("is collected while open", function()
    local gone = setmetatable({ json.decoder { fields = PRICES } }, { __mode = "v" })
    collectgarbage()
    assert.is_nil(gone[1])
  end)

  it("leaves the batch's cells alone when it is closed", function()
    local b <close> = rows '{"symbol":"X","price":1,"timestamp":1}'
    do
      local decoder <close> = json.decoder { fields = PRICES }
      decoder:decode(b)
    end
    collectgarbage()
    assert.equal("good", b:record(1).state)
  end)
end)

describe("json.valid", function()
  local cases = {
    { "{}", true },
    { " [1, 2.5e3, \"x\", null] ", true },
    { "\xEF\xBB\xBF{}", true },
    { "", false, "byte 1: expected a value, got the end", 1 },
    { "[1,]", false, "byte 4: expected a value, got ']'", 4 },
    { "{\"a\":1", false, "byte 7: expected ',' or '}', got the end", 7 },
    { "\"\xFF\"", false, "byte 2: not valid UTF-8 (0xFF)", 2 },
    { "1\0", false, "byte 2: expected the end, got 0x00", 2 },
    { ("["):rep(600), false, "byte 513: nested deeper than 512 levels", 513 },
  }
  for _, case in ipairs(cases) do
    it((case[2] and "accepts " or "refuses ") .. ("%q"):format(case[1]:sub(1, 24)), function()
      assert.same({ case[2], case[3], case[4] }, { json.valid(case[1]) })
    end)
  end

  it("tells how deep values may nest", function()
    assert.equal(512, json.max_depth)
    assert.is_true(json.valid(("["):rep(512) .. ("]"):rep(512)))
  end)
end)
