local output = require "mill.output"

local NULL = setmetatable({}, { __tostring = function() return "null" end })

local function plain(t, options)
  options = options or {}
  options.ascii = options.ascii ~= false
  options.colour = false
  options.width = options.width or 80
  return output.table(t, options)
end

describe("a table", function()
  it("aligns numbers right, text left, and fits its columns", function()
    assert.equal(table.concat({
      "+--------+-------+",
      "| symbol | price |",
      "+--------+-------+",
      "| BTC    |  61.5 |",
      "| ETHUSD |     3 |",
      "+--------+-------+",
    }, "\n"), plain {
      columns = { "symbol", "price" }, types = { "string", "decimal" },
      rows = { { "BTC", "61.5" }, { "ETHUSD", 3 } },
    })
  end)

  it("draws boxes where the locale has them", function()
    assert.equal("┌───┐\n│ a │\n├───┤\n│ 1 │\n└───┘",
      plain({ columns = { "a" }, rows = { { 1 } } }, { ascii = false }))
  end)

  it("guesses numbers by their Lua type when there are no column types", function()
    local text = plain { columns = { "name", "count" }, rows = { { "a", 5 }, { 7, nil } } }
    assert.truthy(text:find("| a    |     5 |", 1, true))
    assert.truthy(text:find("| 7    |  NULL |", 1, true))
  end)

  it("shows NULL apart from the text NULL when coloured", function()
    output.set_colour("always")
    local text = output.table({ columns = { "a" }, rows = { { NULL }, { "NULL" } } },
      { null = NULL, ascii = true, colour = true, width = 80 })
    output.set_colour("auto")
    assert.truthy(text:find("| \27[2mNULL\27[0m |", 1, true))
    assert.truthy(text:find("| NULL |", 1, true))
  end)

  it("counts columns and not bytes", function()
    assert.equal(4, output.columns("naïf"))
    assert.equal(4, output.columns("東京"))
    assert.equal(1, output.columns("e\u{301}"))
    assert.equal(2, output.columns("🌊"))
    local text = plain { columns = { "x" }, rows = { { "東京" }, { "ab" } } }
    assert.truthy(text:find("| 東京 |\n| ab   |", 1, true))
  end)

  it("shortens text, widest first, and never a number", function()
    local t = {
      columns = { "id", "text" }, types = { "int", "string" },
      rows = { { 123456789012, ("x"):rep(50) } },
    }
    local text = plain(t, { width = 40 })
    assert.truthy(text:find("| 123456789012 | xxxxxxxxxxxxxxxxxxxx~ |", 1, true))
    for line in text:gmatch("[^\n]+") do
      assert.equal(40, #line)
    end
  end)

  it("cuts by columns, not through a wide character", function()
    assert.equal("東~", output.cut("東京都", 4, "~"))
    assert.equal("ab", output.cut("ab", 2, "~"))
    assert.equal("", output.cut("abc", 0, "~"))
  end)

  it("shows rows one below the other when it does not fit", function()
    local t = {
      columns = { "start_time", "n" }, types = { "int", "int" },
      rows = { { 1723161255342, 1 }, { 1723161255343, NULL } },
    }
    assert.equal(table.concat({
      "-- row 1 ----------", "start_time: 1723161255342", "         n: 1",
      "-- row 2 ----------", "start_time: 1723161255343", "         n: NULL",
    }, "\n"), plain(t, { width = 19, null = NULL }))
  end)

  it("says how many rows it left out", function()
    local rows = {}
    for i = 1, 1214 do rows[i] = { i } end
    assert.truthy(plain({ columns = { "n" }, rows = rows }, { max_rows = 10 })
      :find("\n... 1,204 more$"))
  end)

  it("is a head alone without rows", function()
    assert.equal("+---+\n| a |\n+---+\n+---+", plain { columns = { "a" }, rows = {} })
  end)
end)

describe("clean text", function()
  it("shows control characters and broken UTF-8 as escapes", function()
    for given, shown in pairs {
      ["a\nb\tc"] = "a\\nb\\tc", ["\27[2J"] = "\\x1B[2J", ["x\0y"] = "x\\x00y",
      ["\xff\xc3"] = "\\xFF\\xC3", ["é\x80"] = "é\\x80", ["\u{202E}abc"] = "\\u{202E}abc",
      ["\u{9B}2J"] = "\\u{9B}2J", ["plain"] = "plain", ["ü東"] = "ü東", ["\127"] = "\\x7F",
    } do
      assert.equal(shown, output.clean(given))
    end
  end)
end)

describe("numbers for people", function()
  it("have thousands, units and times", function()
    assert.equal("0", output.count(0))
    assert.equal("999", output.count(999))
    assert.equal("1,204", output.count(1204))
    assert.equal("-1,234,567", output.count(-1234567))
    assert.equal("1,234.50", output.count(1234.5))
    assert.equal("512 B", output.bytes(512))
    assert.equal("1.0 kB", output.bytes(1000))
    assert.equal("1.0 MB", output.bytes(999999))
    assert.equal("1.4 GB", output.bytes(1400000000))
    assert.equal("0.4 s", output.seconds(0.4))
    assert.equal("12 s", output.seconds(12))
    assert.equal("3 min 20 s", output.seconds(200))
    assert.equal("2 h 05 min", output.seconds(7500))
    assert.equal("3 d 4 h", output.seconds(3 * 86400 + 4 * 3600))
    assert.equal("-12 s", output.seconds(-12))
  end)
end)

describe("a masked text", function()
  it("hides passwords wherever they are written", function()
    for given, shown in pairs {
      ["mysql://root:s3cret@h:3306/db"] = "mysql://root:***@h:3306/db",
      ["http://h/p?user=a"] = "http://h/p?user=a",
      ["password=s3cret user=x"] = "password=*** user=x",
      ["password = 's3 cret', port = 1"] = "password = '***', port = 1",
      ["sasl.password=abc;x=1"] = "sasl.password=***;x=1",
      ['{"password": "x y", "n": 1}'] = '{"password": "***", "n": 1}',
      ["['api_key'] = 'k'"] = "['api_key'] = '***'",
      ["create user a identified by 'pw'"] = "create user a identified by '***'",
      ["TIDEMILL_MYSQL_PASSWORD_FILE=/run/x"] = "TIDEMILL_MYSQL_PASSWORD_FILE=/run/x",
      ["symbol = 'BTC'"] = "symbol = 'BTC'",
    } do
      assert.equal(shown, output.mask(given))
    end
  end)

  it("hides a value it was told of, longest first", function()
    output.hide("tide%pass")
    output.hide("tide%pass-1")
    output.hide("a")
    assert.equal("using ***, *** and a", output.mask("using tide%pass-1, tide%pass and a"))
  end)

  it("takes time in proportion to its length", function()
    output.hide "hunter77"
    for _, piece in ipairs { "x", "a1", "hunter77 ", "a=", "a ", "a='", "://", "u://a:",
                             "identified by ", " ", "passw", "\"" } do
      local text = piece:rep(1000000 // #piece)
      local began = os.clock()
      local shown = output.mask(text .. " password=tell.")
      assert.is_true(os.clock() - began < 20, piece .. " took " .. os.clock() - began .. " s")
      assert.is_nil(shown:find("tell.", 1, true), piece)
      assert.is_nil(shown:find("hunter77", 1, true))
    end
  end)

  it("knows which names are secret", function()
    for _, name in ipairs { "password", "MYSQL_PWD", "sasl.password", "api-key", "authToken" } do
      assert.is_true(output.is_secret(name), name)
    end
    for _, name in ipairs { "user", "password_file", "ssl.key.location", "key", "topic" } do
      assert.is_false(output.is_secret(name), name)
    end
  end)
end)

describe("progress", function()
  local function progress(o)
    local now, drawn = 0, {}
    o.clock = function() return now end
    o.write = function(text) drawn[#drawn + 1] = text end
    o.width = o.width or 80
    if o.tty == nil then o.tty = true end
    return output.progress(o), drawn, function(ms) now = now + ms end
  end

  it("tells count, percent, rate and time left", function()
    local p, drawn, advance = progress { label = "replay", total = 4000, unit = "messages" }
    advance(2000)
    p:set(1000)
    assert.equal("\r\27[Kreplay: 1,000 of 4,000 messages, 25%, 500/s, ETA 6.0 s", drawn[1])
  end)

  it("redraws at most ten times a second and clears its line", function()
    local p, drawn, advance = progress { label = "x" }
    for _ = 1, 50 do
      advance(10)
      p:add()
    end
    assert.equal(5, #drawn)
    p:close()
    assert.equal("\r\27[K", drawn[#drawn])
    p:close()
    assert.equal(6, #drawn)
  end)

  it("makes way for log lines", function()
    local log = require "mill.log"
    local p, drawn = progress { label = "x" }
    log.to { write = function(_, ...) drawn[#drawn + 1] = table.concat { ... } end }
    finally(function()
      log.to(nil)
      log.line(nil)
    end)
    assert.equal(p, log.line(p))
    p:set(1)
    log.error("a")
    log.error("b")
    assert.equal("\r\27[Kx: 1", drawn[1])
    assert.equal("\r\27[K", drawn[2])
    assert.matches("ERROR .*: a\n$", drawn[3])
    assert.matches("ERROR .*: b\n$", drawn[4])
    assert.equal(4, #drawn)
  end)

  it("draws nothing where there is no terminal", function()
    local p, drawn, advance = progress { label = "x", total = 10, tty = false }
    advance(1000)
    p:set(10)
    p:close()
    assert.equal(0, #drawn)
  end)

  it("fits the terminal", function()
    local p, drawn, advance = progress { label = "a long label", total = 10, width = 20 }
    advance(1000)
    p:set(5)
    assert.equal(19, output.columns((drawn[1]:gsub("\r\27%[K", ""))))
  end)
end)

describe("colour", function()
  it("follows --color before anything else", function()
    output.set_colour("always")
    assert.equal("\27[1;31mx\27[0m", output.paint("x", "bold red"))
    output.set_colour("never")
    assert.equal("x", output.paint("x", "red"))
    output.set_colour("auto")
    local ok, message, code = output.set_colour("sometimes")
    assert.same({ nil, "output: COLOR: --color takes always, never or auto, not 'sometimes'",
      "COLOR" }, { ok, message, code })
  end)
end)
