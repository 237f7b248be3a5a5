local json = require "mill.json"

describe("json", function()
  it("writes integers exactly, at any size", function()
    assert.equal("9007199254740993", json.encode(9007199254740993))
    assert.equal("1723161254087896568", json.encode(1723161254087896568))
    assert.equal("-9223372036854775808", json.encode(math.mininteger))
  end)

  it("writes floats so that they come back", function()
    for _, value in ipairs { 0.1, 1 / 3, 1e300, -2.5, 1e-7, 123456789.123 } do
      assert.equal(value, json.decode(json.encode(value)))
    end
    assert.equal("0.1", json.encode(0.1))
    for _, value in ipairs { 0 / 0, math.huge, -math.huge } do
      assert.has_error(function() json.encode(value) end)
    end
  end)

  it("writes keys in order, and arrays by their length", function()
    assert.equal('{"a":1,"b":[1,2],"c":{}}', json.encode { c = {}, b = { 1, 2 }, a = 1 })
    assert.equal("[]", json.encode(json.array()))
    assert.equal('{"list":[]}', json.encode { list = json.array {} })
    assert.equal("null", json.encode(nil))
    assert.equal("[null,true]", json.encode { json.null, true })
  end)

  it("escapes what JSON wants escaped", function()
    local text = "\0\1\b\t\n\f\r\31\"\\/\127 \xe2\x82\xac"
    local written = json.encode(text)
    assert.is_nil(written:find("[%c\127]"))
    assert.equal(text, json.decode(written))
  end)

  it("refuses what JSON cannot hold", function()
    for _, value in ipairs { print, coroutine.create(print), { [1.5] = 1 }, { [true] = 1 } } do
      assert.has_error(function() json.encode(value) end)
    end
    local loop = {}
    loop.loop = loop
    assert.has_error(function() json.encode(loop) end, "json: nested too deeply (a cycle?)")
  end)

  it("writes what is in a table, whatever its metatable says", function()
    local odd = { __len = "x", __pairs = 1, __index = function() error "asked" end }
    assert.equal("[1,2]", json.encode(setmetatable({ 1, 2 }, odd)))
    assert.equal('{"a":1}', json.encode(setmetatable({ a = 1 }, odd)))
  end)

  it("is written over several lines when asked", function()
    assert.equal('{\n  "a": [\n    1,\n    2\n  ],\n  "b": {}\n}', json.encode_pretty {
      a = { 1, 2 }, b = {} })
  end)

  it("reads whole numbers as integers", function()
    local value = json.decode '{"a":1723161254087,"b":[5,5.0,5.5],"c":1e3}'
    assert.equal("integer", math.type(value.a))
    assert.equal("5", tostring(value.b[1]))
    assert.equal("integer", math.type(value.b[2]))
    assert.equal(5.5, value.b[3])
    assert.equal("1000", tostring(value.c))
  end)

  it("keeps null apart from nothing", function()
    local value = json.decode '{"a":null}'
    assert.equal(json.null, value.a)
    assert.equal(json.null, json.decode "null")
  end)

  it("says what it cannot read", function()
    for _, text in ipairs { "", "{", "[1,]", "nul", "NaN", '{"a":01}', "1 2", '"\\x"' } do
      local value, message, code = json.decode(text)
      assert.is_nil(value, text)
      assert.equal("SYNTAX", code)
      assert.matches("^json: SYNTAX: ", message)
    end
  end)
end)
