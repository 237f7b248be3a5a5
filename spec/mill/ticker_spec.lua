local ticker = require "mill.ticker"

local ASKED = { "BTCUSDT", "ETHUSDT" }

local function answer(body, content_type)
  return { status = 200, body = body, headers = { ["content-type"] = content_type } }
end

-- "BTCUSDT=1.5 ETHUSDT=2" and "missing:X type:Y".
local function judged(body, options)
  options = options or {}
  local good, problems = ticker.judge(answer(body, options.type), options.asked or ASKED,
    options.alone or false)
  for i, item in ipairs(good) do good[i] = item[1] .. "=" .. item[2] end
  for i, p in ipairs(problems) do problems[i] = p.class .. (p.symbol and ":" .. p.symbol or "") end
  return table.concat(good, " "), table.concat(problems, " ")
end

describe("an answer with prices", function()
  local BTC, ETH = '{"symbol":"BTCUSDT","price":"61837.63000000"}', '{"symbol":"ETHUSDT","price":"2"}'

  local cases = {
    { "all that was asked for", "[" .. BTC .. "," .. ETH .. "]",
      "BTCUSDT=61837.63000000 ETHUSDT=2", "" },
    { "another order, unknown keys, spaces", ' [ {"price":"2","new":[1],"symbol":"ETHUSDT"} ,\n'
      .. BTC .. "] ", "BTCUSDT=61837.63000000 ETHUSDT=2", "" },
    { "escapes", '[{"symbol":"\\u0042TCUSDT","price":"1.5"},' .. ETH .. "]",
      "BTCUSDT=1.5 ETHUSDT=2", "" },
    { "a byte order mark", "\xEF\xBB\xBF[" .. BTC .. "," .. ETH .. "]",
      "BTCUSDT=61837.63000000 ETHUSDT=2", "" },
    { "a symbol left out", "[" .. BTC .. "]", "BTCUSDT=61837.63000000", "missing:ETHUSDT" },
    { "a row too many", "[" .. BTC .. "," .. ETH .. ',{"symbol":"X","price":"1"}]',
      "BTCUSDT=61837.63000000 ETHUSDT=2", "extra" },
    { "a symbol twice", "[" .. BTC .. "," .. ETH .. "," .. ETH .. "]", "BTCUSDT=61837.63000000",
      "double:ETHUSDT" },
    { "a symbol that is none", '[{"symbol":1,"price":"1"},' .. BTC .. "," .. ETH .. ",null,7]",
      "BTCUSDT=61837.63000000 ETHUSDT=2", "extra extra extra" },
    { "nothing", "", "", "answer" },
    { "an empty list", "[]", "", "missing:BTCUSDT missing:ETHUSDT" },
    { "half an answer", "[" .. BTC .. ",", "", "answer" },
    { "more than JSON", "[" .. BTC .. "," .. ETH .. "]]", "", "answer" },
    { "a page", "<!DOCTYPE html><html>", "", "answer" },
    { "an error with status 200", '{"code":-1003,"msg":"Too much"}', "", "answer" },
    { "an object", BTC, "", "answer" },
    { "a number", "1", "", "answer" },
    { "a string", '"x"', "", "answer" },
    { "null", "null", "", "answer" },
  }
  for _, case in ipairs(cases) do
    it("is judged: " .. case[1], function()
      assert.same({ case[3], case[4] }, { judged(case[2]) })
    end)
  end

  it("is refused as a page by its type, and taken under any other", function()
    local body = "[" .. BTC .. "," .. ETH .. "]"
    assert.same({ "", "answer" }, { judged(body, { type = "Text/HTML; charset=utf-8" }) })
    for _, type in ipairs { "application/json", "application/json;charset=UTF-8", "text/plain" } do
      assert.equal("", (select(2, judged(body, { type = type }))))
    end
  end)

  for _, price in ipairs {
    "61837.63", "null", "true", "false", "[]", '{"a":1}', '[1]', '""', '" "', '"NaN"', '"Infinity"',
    '"-1"', '"+1"', '"0"', '"0.00000000"', '"1e5"', '"1E-2"', '"1,5"', '"1.5 "', '" 1.5"', '"0x10"',
    '"01.5"', '".5"', '"1."', '"1.2.3"', '"1.000000001"', '"1234567890123"', '"1_000"', '"١"',
    '"1.5\\u0000"', "1e400",
  } do
    it("has no price in " .. price, function()
      assert.same({ "ETHUSDT=2", "type:BTCUSDT" },
        { judged('[{"symbol":"BTCUSDT","price":' .. price .. "}," .. ETH .. "]") })
    end)
  end

  for _, price in ipairs { "1", "0.00000001", "999999999999.99999999", "1.500000000000", "10.0" } do
    it("has the price " .. price .. " untouched", function()
      assert.equal("BTCUSDT=" .. price .. " ETHUSDT=2",
        (judged('[{"symbol":"BTCUSDT","price":"' .. price .. '"},' .. ETH .. "]")))
    end)
  end

  it("for one symbol is one object", function()
    local function one(body) return { judged(body, { asked = { "BTCUSDT" }, alone = true }) } end
    assert.same({ "BTCUSDT=61837.63000000", "" }, one(BTC))
    assert.same({ "", "extra missing:BTCUSDT" }, one(ETH))
    assert.same({ "", "missing:BTCUSDT" }, one("{}"))
    assert.same({ "", "missing:BTCUSDT" }, one("[" .. BTC .. "]"))
    assert.same({ "", "answer" }, one('{"code":-1121,"msg":"Invalid symbol."}'))
  end)
end)

describe("a list of symbols", function()
  it("is read, encoded without spaces, and refused when it is none", function()
    local list = ticker.symbols "BTCUSDT, ETHUSDT"
    assert.same({ "BTCUSDT", "ETHUSDT" }, list)
    assert.equal("/api/v3/ticker/price?symbols=%5B%22BTCUSDT%22%2C%22ETHUSDT%22%5D",
      ticker.path_list(list))
    assert.equal("/api/v3/ticker/price?symbol=BTCUSDT", ticker.path_one("BTCUSDT"))
    for text, message in pairs {
      [""] = "empty", ["A,A"] = "symbol A stands twice", ['A"'] = "is not a symbol",
      ["A B"] = "is not a symbol", ["A, "] = "is not a symbol",
    } do
      local ok, err = pcall(ticker.symbols, text)
      assert.is_false(ok)
      assert.matches(message, err.message)
    end
  end)
end)
