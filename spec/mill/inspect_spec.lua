local inspect = require("mill.inspect").inspect

describe("an inspected value", function()
  it("is written as Lua would write it, on one line when it fits", function()
    local cases = {
      { 1, "1" }, { 1.5, "1.5" }, { "a", '"a"' }, { true, "true" }, { {}, "{}" },
      { { 1, 2, 3 }, "{ 1, 2, 3 }" },
      { { a = 1, b = { c = "x" } }, '{ a = 1, b = { c = "x" } }' },
      { { 1, ["end"] = 2, ["a b"] = 3, [2.5] = 4, [true] = 5 },
        '{ 1, [2.5] = 4, ["a b"] = 3, ["end"] = 2, [true] = 5 }' },
      { 'q"\\\n\0', '"q\\"\\\\\\n\\x00"' },
      { { 1, nil, 3 }, "{ 1, nil, 3 }" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], inspect(case[1]))
    end
    assert.equal("nil", inspect(nil))
    assert.equal("{ null }", inspect { require("mill.json").null })
  end)

  it("is indented when it does not fit", function()
    assert.equal('{\n  a = "' .. ("x"):rep(30) .. '",\n  b = { 1, 2 }\n}',
      inspect({ a = ("x"):rep(30), b = { 1, 2 } }, { width = 40 }))
  end)

  it("names a cycle, and shows the same table twice where there is none", function()
    local t = { 1 }
    t.me = t
    assert.equal("{ 1, me = <cycle> }", inspect(t))
    local shared = { 1 }
    assert.equal("{ { 1 }, { 1 } }", inspect { shared, shared })
  end)

  it("caps depth and size, and counts what it left out", function()
    assert.equal("{ { { {...} } } }", inspect({ { { { 1 } } } }, { depth = 3 }))
    local list, map = {}, {}
    for i = 1, 1254 do
      list[i] = i
      map["k" .. i] = i
    end
    assert.truthy(inspect(list):find("50,\n  ... 1,204 more\n}", 1, true))
    assert.truthy(inspect(map):find("... 1,204 more\n}", 1, true))
    assert.equal('"xxx"... 1,204 more bytes', inspect(("x"):rep(1207), { string = 3 }))
  end)

  it("does not cut a string inside a character", function()
    assert.equal('"a"... 3 more bytes', inspect("a\u{e9}b", { string = 2 }):gsub("%d", "3"))
  end)

  it("lets a value that has a text of its own say it", function()
    assert.equal("box 7", inspect(setmetatable({}, { __tostring = function() return "box 7" end })))
    assert.truthy(inspect(setmetatable({}, { __tostring = function() error("no") end })):find("no"))
  end)

  it("reads tables raw: no metamethod runs", function()
    local t = setmetatable({ a = 1 }, {
      __index = function() error("index") end, __pairs = function() error("pairs") end,
      __len = function() error("len") end,
    })
    assert.equal("{ a = 1 }", inspect(t))
  end)
end)
