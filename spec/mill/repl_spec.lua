local json = require "mill.json"
local repl = require "mill.repl"

local function session(o)
  local written = {}
  o = o or {}
  o.write = function(text) written[#written + 1] = text end
  o.width = o.width or 60
  local s = repl.new(o)
  return s, function()
    local text = table.concat(written)
    written = {}
    return text
  end
end

describe("a shell session", function()
  it("shows the value of an expression without return", function()
    local s, shown = session()
    for _, case in ipairs {
      { "1 + 1", "2\n" }, { "= 1 + 1", "2\n" }, { "'a', nil, 3", '"a"  nil  3\n' },
      { "x = 5", "" }, { "x", "5\n" }, { "nil", "nil\n" }, { "(function() end)()", "" },
      { "return 7", "7\n" }, { "{ 1, { a = true } }", "{ 1, { a = true } }\n" },
      { "if x then x = 6 end", "" }, { "x", "6\n" }, { "  x  -- six", "6\n" },
    } do
      assert.is_true(s:execute(case[1]))
      assert.equal(case[2], shown(), case[1])
    end
  end)

  it("keeps top-level locals, and not those of inner blocks", function()
    local s, shown = session()
    s:execute("local a, b = 1, 2\nlocal function f() return a end\ndo local c = 3 end")
    s:execute("a + b, f(), c")
    assert.equal("3  1  nil\n", shown())
    s:execute("local a")
    s:execute("a")
    assert.equal("nil\n", shown())
  end)

  it("does not leak variables into the modules", function()
    local s = session()
    s:execute("leaked_name = 1")
    assert.is_nil(rawget(_G, "leaked_name"))
  end)

  it("has the last two values in _ and __", function()
    local s, shown = session()
    for _, code in ipairs { "'first'", "'second'", "y = 1", "local _ = 9", "_, __" } do
      s:execute(code)
    end
    assert.equal('"first"\n"second"\n"second"  "first"\n', shown())
  end)

  it("offers modules without require", function()
    local s, shown = session()
    s:execute("clock.mono_ms() > 0, duration.parse '1m'")
    assert.equal("true  60000\n", shown())
  end)

  it("knows unfinished input from wrong input", function()
    local s = session()
    for _, code in ipairs {
      "for i = 1, 2 do", "f(", "x = {", "[[long", "if true then\nprint(1)", "local function f()",
      "1 +", "--[[ open", "return", "s = [==[\n]]", "'a\\",
    } do
      local chunk, _, incomplete = s:compile(code)
      assert.is_true(code == "return" and chunk ~= nil or chunk == nil and incomplete, code)
    end
    for _, code in ipairs { "x = = 1", "end", "'open", "f)", "for" .. " 1", "1 2" } do
      local chunk, message, incomplete = s:compile(code)
      assert.is_nil(chunk)
      assert.is_false(incomplete, code)
      assert.truthy(message:find("^repl:1: "), message)
    end
  end)

  it("tells an error with the frames of the input only", function()
    local s = session()
    s:execute("function deep(n)\nif n == 0 then error 'too deep' end\ndeep(n - 1)\nend")
    local ok, message, interrupted = s:execute("local r = 1\ndeep(1)")
    assert.is_false(ok)
    assert.is_false(interrupted)
    assert.equal(table.concat({
      "repl:2: too deep", "\t[C]: in function 'error'", "\trepl:2: in global 'deep'",
      "\trepl:3: in global 'deep'", "\trepl:2: in main chunk",
    }, "\n"), message)
    assert.equal("repl:1: flat", select(2, s:execute("error 'flat'")))
    assert.equal("{ code = 7 }", select(2, s:execute("error { code = 7 }")))
    assert.truthy(select(2, s:execute("nothing.x")):find("^repl:1: attempt to index a nil value"))
  end)

  it("takes an expected failure as an error of the input", function()
    local s, shown = session()
    s:execute("function refused() return nil, 'mysql: REFUSED: no', 'REFUSED', 2002 end")
    local ok, message = s:execute("refused()")
    assert.same({ false, "mysql: REFUSED: no" }, { ok, message })
    assert.is_true(s:execute("nil, 'other', 'x'"))
    assert.equal('nil  "other"  "x"\n', shown())
  end)

  it("survives a value that cannot be shown", function()
    local s = session()
    local ok = s:execute("setmetatable({}, { __tostring = function() return 5 end })")
    assert.is_true(ok)
  end)

  it("is interrupted in a loop, in a pcall within it, and goes on", function()
    local s, shown = session()
    local process = require "host.process"
    s:execute("process = require 'host.process'")
    for _, code in ipairs {
      "process.kill(process.pid(), 2) while true do end",
      "process.kill(process.pid(), 2) while true do pcall(function() while true do end end) end",
      "coroutine.wrap(function() process.kill(process.pid(), 2) while true do end end)()",
    } do
      local ok, message, interrupted = s:execute(code)
      assert.same({ false, "interrupted", true }, { ok, message, interrupted })
    end
    assert.is_true(s:execute("1"))
    assert.equal("1\n", shown())
    assert.equal(0, process.stop_requested())
  end)
end)

describe("results", function()
  local result = {
    columns = { "symbol", "n" }, types = { "string", "int" },
    rows = { { "BTC", 1 }, { "ETH", json.null } },
  }

  it("of a query are a table with a count", function()
    local s, shown = session { globals = { r = result } }
    s:execute("r")
    local text = shown()
    assert.truthy(text:find("BTC", 1, true))
    assert.truthy(text:find("NULL", 1, true))
    assert.truthy(text:find("\n2 rows\n$"))
    s:execute("{ columns = {}, rows = {}, affected = 1 }")
    assert.equal("ok, 1 row affected\n", shown())
  end)

  it("without rows show their columns", function()
    for _, o in ipairs { {}, { whole = true } } do
      local s, shown = session(o)
      s:execute("{ columns = { 'symbol', 'n' }, rows = {} }")
      assert.matches("symbol │ n .*\n0 rows\n$", shown())
      s:execute("{ columns = { ('a'):rep(40), ('b'):rep(40) }, types = { 'int', 'int' }, rows = {} }")
      assert.matches("a +[│ ]*b+.*\n0 rows\n$", shown())
    end
  end)

  it("are limited on a terminal, and whole elsewhere", function()
    local code = "(function() local t = { columns = { 'n', 'text' }, rows = {} } "
      .. "for i = 1, 250 do t.rows[i] = { i, ('x'):rep(99) .. i } end return t end)()"
    local s, shown = session()
    s:execute(code)
    local text = shown()
    assert.matches("... 50 more\n250 rows\n$", text)
    assert.is_nil(text:find("x200", 1, true))
    s, shown = session { whole = true }
    s:execute(code)
    text = shown()
    assert.matches("x250 │\n[^\n]*\n250 rows\n$", text)
    assert.is_nil(text:find("more", 1, true))
    s:execute("('y'):rep(5000), { string.byte(('z'):rep(60), 1, -1) }, {{{{{{ 5 }}}}}}")
    text = shown()
    assert.truthy(text:find(("y"):rep(5000), 1, true))
    assert.equal(60, select(2, text:gsub("122", "")))
    assert.truthy(text:find("{ { { { { { 5 } } } } } }", 1, true))
  end)

  it("are JSON on request", function()
    local s, shown = session { json = true, globals = { r = result } }
    for _, case in ipairs {
      { "r", '[{"n":1,"symbol":"BTC"},{"n":null,"symbol":"ETH"}]' },
      { "1, 'x', nil", '[1,"x",null]' }, { "{ [2.5] = 1, a = { 1, 2 } }", '{"2.5":1,"a":[1,2]}' },
      { "t = {} t.t = t", "" }, { "t", '{"t":"<cycle>"}' }, { "1/0", '"inf"' },
      { "2^53", "9007199254740992" }, { "nil", "null" }, { "{ 1, 2, a = 3 }", '{"1":1,"2":2,"a":3}' },
      { "{ { 1, nil, 3 }, {}, json.array {} }", "[[1,null,3],{},[]]" },
    } do
      assert.is_true(s:execute(case[1]), case[1])
      assert.equal(case[2] == "" and "" or case[2] .. "\n", shown(), case[1])
    end
  end)
end)

describe("JSON", function()
  it("loses no value of a table without saying so", function()
    local s, shown = session { json = true }
    for code, want in pairs {
      ["{ 1, ['1'] = 2 }"] = "two keys of a table are written '1'",
      ["{ columns = { 'a', 'a' }, rows = { { 1, 2 } } }"] = "two columns are named 'a': name one with AS",
    } do
      local ok, message = s:execute(code)
      assert.same({ false, "repl: JSON: " .. want }, { ok, message })
      assert.equal("", shown())
    end
  end)
end)

describe("completion", function()
  local function words(s, text)
    local list, from = s:complete(text)
    return table.concat(list, " "), from
  end

  it("finds globals, variables, modules and keywords", function()
    local s = session { globals = { sql = print } }
    s:execute("kiwi_one, kiwi_two = 1, 2")
    assert.equal("kiwi_one kiwi_two", (words(s, "print(kiwi")))
    assert.equal("sql", (words(s, "x = sq")))
    assert.equal("kafka", (words(s, "kaf")))
    assert.equal("repeat require return", (words(s, "re")))
    assert.equal(7, select(2, words(s, "print(kiwi")))
  end)

  it("finds fields, through modules and metatables, and methods after a colon", function()
    local s = session()
    s:execute("t = setmetatable({ alpha = 1, a2 = { deep = print } }, "
      .. "{ __index = { inherited = print } })")
    assert.equal("t.a2 t.alpha", (words(s, "f(t.a")))
    assert.equal("t.inherited", (words(s, "t.inh")))
    assert.equal("t.a2.deep", (words(s, "t.a2.")))
    assert.equal("t:inherited", (words(s, "t:")))
    assert.equal("string.rep string.reverse", (words(s, "string.re")))
    assert.equal("clock.mono_ms clock.mono_us", (words(s, "clock.mono")))
    s:execute("text = 'a'")
    assert.equal("text:rep text:reverse", (words(s, "text:re")))
  end)

  it("finds methods of handles", function()
    local s = session()
    s:execute("b = require 'host.batch'.new()")
    assert.truthy(words(s, "b:re"):find("b:reset", 1, true))
    s:execute("b:close()")
  end)

  it("finds modules to require", function()
    local s = session()
    assert.equal("host.readline", (words(s, "local r = require 'host.readl")))
    assert.equal(20, select(2, words(s, "local r = require 'host.readl")))
  end)

  it("calls nothing of the script's", function()
    local s = session()
    s:execute("trap = setmetatable({}, { __index = function() error 'called' end })")
    assert.equal("", (words(s, "trap.x.y")))
    assert.equal("", (words(s, "trap.x")))
    assert.equal("", (words(s, "f().x")))
    assert.equal("", (words(s, "1 + ")))
    assert.equal("", (words(s, "no.such.thing")))
  end)
end)
