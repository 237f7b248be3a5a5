--- Sessions, values and results of host.mysql, for every server.
-- Part of mysql_cases.lua, which says how it is used.

local mysql = require "host.mysql"

return function(_ENV, M) -- luacheck: ignore

local connect, one, await = M.connect, M.one, M.await

local function session_cases(server)
  describe("a session", function()
    it("is utf8mb4, UTC, strict, autocommitting, whatever the server's defaults", function()
      local db <close> = connect(server.options())
      local row = assert(db:query([[select @@character_set_client, @@character_set_connection,
        @@character_set_results, @@time_zone, @@autocommit, @@sql_mode]])).rows[1]
      assert.same({ "utf8mb4", "utf8mb4", "utf8mb4", "+00:00", 1 }, { table.unpack(row, 1, 5) })
      local modes = {}
      for mode in row[6]:gmatch("[^,]+") do modes[#modes + 1] = mode end
      table.sort(modes)
      assert.same({ "ERROR_FOR_DIVISION_BY_ZERO", "NO_ENGINE_SUBSTITUTION", "NO_ZERO_DATE",
        "NO_ZERO_IN_DATE", "STRICT_ALL_TABLES", "STRICT_TRANS_TABLES" }, modes)
    end)

    it("runs the init statements after that, in order", function()
      local db <close> = connect(server.options(), {
        init = { "set @a = 1", "set @a = @a + 1, time_zone = '+01:00'" },
      })
      assert.same({ 2, "+01:00" }, assert(db:query("select @a, @@time_zone")).rows[1])
    end)

    it("fails to connect when an init statement fails, without quoting it", function()
      local options = server.options()
      options.init = { "select secret_word_7 from no_table_of_ours" }
      local db, message, code, number, state = mysql.connect(options)
      assert.same({ nil, "NOTABLE", 1146, "42S02" }, { db, code, number, state })
      assert.is_nil(message:find("secret_word_7", 1, true))
    end)

    it("tells what the server is", function()
      local db <close> = connect(server.options())
      local facts = db:server()
      assert.equal(server.flavor, facts.flavor)
      assert.matches("^%d+%.%d+%.%d+$", facts.version)
      local major, minor, patch = facts.version:match("(%d+)%.(%d+)%.(%d+)")
      assert.equal(major * 10000 + minor * 100 + patch, facts.number)
      assert.equal(one(db, "select @@max_allowed_packet"), facts.max_packet)
      assert.equal(one(db, "select connection_id()"), db:thread_id())
    end)

    it("answers a ping", function()
      local db <close> = connect(server.options())
      assert.is_true(db:ping())
      assert.is_true(db:ping(10000))
      assert.is_true(db:alive())
    end)

    it("does not read files for the server", function()
      local db <close> = connect(server.options())
      assert(db:query("create temporary table t (x text)"))
      local ok, _, code = db:query("load data local infile '/etc/hostname' into table t")
      assert.is_nil(ok)
      assert.is_string(code)
      if db:alive() then assert.equal(0, one(db, "select count(*) from t")) end
    end)
  end)
end

-- { SQL, type, value }: the same through text and through a prepared statement.
local VALUES = {
  { "1", "int", 1 },
  { "-9223372036854775808", "int", math.mininteger },
  { "9223372036854775807", "int", math.maxinteger },
  { "cast(9223372036854775807 as unsigned)", "int", math.maxinteger },
  { "cast(9223372036854775808 as unsigned)", "int", "9223372036854775808" },
  { "cast(18446744073709551615 as unsigned)", "int", "18446744073709551615" },
  { "true", "int", 1 },
  { "cast('12345678901234567890.12345678' as decimal(38,8))", "decimal",
    "12345678901234567890.12345678" },
  { "cast('-0.50' as decimal(10,2))", "decimal", "-0.50" },
  { "61837.63000000", "decimal", "61837.63000000" },
  { "1.5e0", "real", 1.5 },
  { "-1e300", "real", -1e300 },
  { "1e0", "real", 1.0 },
  { "'text'", "string", "text" },
  { "''", "string", "" },
  { "'caf\u{e9} \u{1F319} \u{4E2D}'", "string", "café 🌙 中" },
  { "cast('2024-08-09 12:00:00.123' as datetime(3))", "datetime", "2024-08-09 12:00:00.123" },
  { "cast('2024-08-09 12:00:00' as datetime)", "datetime", "2024-08-09 12:00:00" },
  { "cast('2024-08-09 00:00:00.000001' as datetime(6))", "datetime",
    "2024-08-09 00:00:00.000001" },
  { "cast('2024-08-09' as date)", "datetime", "2024-08-09" },
  { "cast('-101:02:03.5' as time(1))", "datetime", "-101:02:03.5" },
  { "x'00ff27'", "blob", "\0\255'" },
  { "cast('ab' as binary(4))", "blob", "ab\0\0" },
}

local function value_cases(server)
  describe("a value", function()
    local db
    setup(function() db = connect(server.options()) end)
    teardown(function() db:close() end)

    for _, case in ipairs(VALUES) do
      local sql, kind, value = table.unpack(case)
      it(("of %s comes as %s"):format(sql:gsub("[^%g ]", "?"), kind), function()
        for how, result in pairs {
          text = assert(db:query("select " .. sql .. " as v")),
          prepared = assert(assert(db:prepare("select " .. sql .. " as v")):execute()),
        } do
          assert.same({ "v" }, result.columns, how)
          assert.same({ kind }, result.types, how)
          assert.equal(value, result.rows[1][1], how)
          assert.equal(math.type(value), math.type(result.rows[1][1]), how)
        end
      end)
    end

    it("of every column type comes back as it went in", function()
      assert(db:query([[create temporary table kinds (ti tinyint, tu tinyint unsigned, si smallint,
        mi mediumint, i int, bu bigint unsigned, y year, b1 bit(1), b9 bit(9), b64 bit(64),
        d decimal(38,8), f float, r double, c char(4), vc varchar(20), tx text,
        bi binary(2), vb varbinary(20), bl blob, e enum('x','y'), st set('p','q'),
        dt datetime(3), ts timestamp(6) null, da date, tm time, n int, z int(5) zerofill)]]))
      assert(db:query([[insert into kinds values (-128, 255, -32768, -8388608, -2147483648,
        18446744073709551615, 2024, b'1', b'100000001', 0xffffffffffffffff,
        123456789012345678901234567890.12345678, 0.5, 0.1, 'ab', 'vc', 'tx', x'0001', x'ff00',
        x'00', 'y', 'p,q', '2024-08-09 12:00:00.123', '2024-08-09 12:00:00.123456', '2024-08-09',
        '12:13:14', null, 42)]]))
      local want = { -128, 255, -32768, -8388608, -2147483648, "18446744073709551615", 2024, 1, 257,
        "18446744073709551615", "123456789012345678901234567890.12345678", 0.5, 0.1, "ab", "vc",
        "tx", "\0\1", "\255\0", "\0", "y", "p,q", "2024-08-09 12:00:00.123",
        "2024-08-09 12:00:00.123456", "2024-08-09", "12:13:14", mysql.null, 42 }
      local types = { "int", "int", "int", "int", "int", "int", "int", "int", "int", "int",
        "decimal", "real", "real", "string", "string", "string", "blob", "blob", "blob", "string",
        "string", "datetime", "datetime", "datetime", "datetime", "int", "int" }
      for how, result in pairs {
        text = assert(db:query("select * from kinds")),
        prepared = assert(assert(db:prepare("select * from kinds")):execute()),
      } do
        assert.same(types, result.types, how)
        for i, value in ipairs(want) do
          assert.equal(value, result.rows[1][i], how .. " " .. result.columns[i])
        end
      end
    end)

    it("of NULL is the one sentinel, which prints as NULL", function()
      local result = assert(db:query("select null, cast(null as decimal(5,2))"))
      assert.equal(mysql.null, result.rows[1][1])
      assert.equal(mysql.null, result.rows[1][2])
      assert.equal("NULL", tostring(mysql.null))
      assert.equal(require("cjson").null, mysql.null)
    end)

    it("of JSON is text", function()
      assert(db:query("create temporary table j (v json)"))
      assert(db:query([[insert into j values ('{"a": [1, 2.50]}')]]))
      for _, result in ipairs {
        assert(db:query("select v from j")),
        assert(assert(db:prepare("select v from j")):execute()),
      } do
        assert.equal("string", result.types[1])
        assert.equal('{"a": [1, 2.50]}', (result.rows[1][1]:gsub("2%.5([^0])", "2.50%1")))
      end
    end)

    it("of any bytes survives a blob literal and a prepared statement", function()
      local bytes = {}
      for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
      local all = table.concat(bytes):rep(40)
      assert(db:query("create temporary table bin (id int primary key, v longblob)"))
      assert(db:query("insert into bin values (1, " .. mysql.blob(all) .. ")"))
      local insert <close> = assert(db:prepare("insert into bin values (?, ?)"))
      assert(insert:execute(2, all))
      assert(insert:execute(3, ""))
      assert(db:query("insert into bin values (4, " .. mysql.blob("") .. ")"))
      local select <close> = assert(db:prepare("select v from bin where id = ?"))
      for id, value in ipairs { all, all, "", "" } do
        assert.equal(value, one(db, "select v from bin where id = " .. id))
        assert.equal(value, assert(select:execute(id)).rows[1][1])
      end
    end)

    it("of any text survives a quoted literal, with and without backslash escapes", function()
      local texts = { "", "'", "''", "\\", "\\'", "%_", "a\nb\rc\26d\"e`f", "nul\0nul",
        "-- x; /* y */ #", "café 🌙", "\\\0'\\" }
      for _, mode in ipairs { "", "NO_BACKSLASH_ESCAPES" } do
        local other <close> = connect(server.options())
        assert(other:query("set sql_mode = '" .. mode .. "'"))
        for _, text in ipairs(texts) do
          assert.equal(text, one(other, "select " .. other:quote(text)))
        end
      end
    end)
  end)
end

local function name_cases(server)
  describe("mysql.name", function()
    it("quotes any identifier", function()
      local db <close> = connect(server.options())
      for _, name in ipairs { "plain", "with space", "back`tick", "'; drop table x; --", "ключ" } do
        assert(db:query(("create temporary table %s (%s int)"):format(mysql.name(name),
          mysql.name(name))))
        local result = assert(db:query("select * from " .. mysql.name(name)))
        assert.same({ name }, result.columns)
      end
    end)
  end)
end

local function result_cases(server)
  describe("a result", function()
    local db
    before_each(function() db = connect(server.options()) end)
    after_each(function() db:close() end)

    it("counts matched rows, not changed ones, unless told", function()
      assert(db:query("create temporary table t (id int primary key, v int)"))
      assert.equal(2, assert(db:query("insert into t values (1, 1), (2, 2)")).affected)
      assert.equal(2, assert(db:query("update t set v = 1")).affected)
      local other <close> = connect(server.options(), { found_rows = false })
      assert(other:query("create temporary table t (id int primary key, v int)"))
      assert(other:query("insert into t values (1, 1), (2, 2)"))
      assert.equal(1, assert(other:query("update t set v = 1")).affected)
    end)

    it("tells the generated key, the warnings and the server's remark", function()
      assert(db:query("create temporary table t (id int primary key auto_increment, v int)"))
      local result = assert(db:query("insert into t (v) values (1), (2), (3)"))
      assert.equal(1, result.insert_id)
      assert.equal("Records: 3  Duplicates: 0  Warnings: 0", result.info)
      assert.equal(0, result.warnings)
      assert.same({}, result.rows)
      assert.same({}, result.columns)
      assert.equal(0, result.n)
      assert.equal(1, assert(db:query("insert ignore into t values (1, 1)")).warnings)
    end)

    it("without rows has its columns all the same", function()
      local result = assert(db:query("select 1 as a, 'x' as b from dual where false"))
      assert.same({ "a", "b" }, result.columns)
      assert.same({ "int", "string" }, result.types)
      assert.equal(0, result.n)
      assert.same({}, result.rows)
    end)

    it("may have many columns and many rows", function()
      local columns = {}
      for i = 1, 500 do columns[i] = tostring(i) end
      local row = assert(db:query("select " .. table.concat(columns, ","))).rows[1]
      assert.equal(500, #row)
      assert.equal(500, row[500])
      local prepared = assert(db:prepare("select " .. table.concat(columns, ",")))
      assert.equal(500, assert(prepared:execute()).rows[1][500])
      assert(db:query("create temporary table d (i int)"))
      assert(db:query("insert into d values (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)"))
      for _ = 1, 4 do
        assert(db:query("create temporary table e as select * from d"))
        assert(db:query("insert into d select * from e"))
        assert(db:query("drop temporary table e"))
      end
      local n = one(db, "select count(*) from d")
      local result = assert(db:query("select i, 'abc' from d"))
      assert.equal(n, result.n)
      assert.equal(n, #result.rows)
    end)

    it("of 12 MB travels both ways in pieces", function()
      local big = ("0123456789abcdef"):rep(12 * 1024 * 1024 // 32)
      assert(db:query("create temporary table t (v longblob)"))
      assert(db:send("insert into t values (" .. mysql.blob(big) .. ")"))
      assert(await(db))
      assert(db:send("select v, v from t"))
      local row = assert(await(db)).rows[1]
      assert.is_true(row[1] == big and row[2] == big)
    end)
  end)
end

return function(server)
  session_cases(server)
  value_cases(server)
  name_cases(server)
  result_cases(server)
end

end
