--- Statements, lost connections and handles of host.mysql, for every server.
-- Part of mysql_cases.lua, which says how it is used.

local clock = require "host.clock"
local mysql = require "host.mysql"
local process = require "host.process"
local wait = require "spec.support.wait"

local DEADLINE_MS = 30000 * require "spec.support.slow"

return function(_ENV, M) -- luacheck: ignore

local connect, one, blocked, await, fails =
  M.connect, M.one, M.blocked, M.await, M.fails

local function statement_cases(server)
  describe("a prepared statement", function()
    local db
    before_each(function() db = connect(server.options()) end)
    after_each(function() db:close() end)

    it("takes integers, floats, strings, booleans, nil and NULL", function()
      assert(db:query([[create temporary table t (id int primary key auto_increment, i bigint,
        r double, s varchar(100), b blob, f boolean, n int, m int)]]))
      local insert <close> = assert(db:prepare(
        "insert into t (i, r, s, b, f, n, m) values (?, ?, ?, ?, ?, ?, ?)"))
      local first = assert(insert:execute(math.mininteger, 0.1, "it's 🌙", "\0\255'", true, nil,
        mysql.null))
      assert.same({ 1, 1 }, { first.affected, first.insert_id })
      assert(insert:execute(math.maxinteger, -1e308, "", "", false, 5, 6))
      local select <close> = assert(db:prepare("select i, r, s, b, f, n, m from t where id = ?"))
      assert.same({ { math.mininteger, 0.1, "it's 🌙", "\0\255'", 1, mysql.null, mysql.null } },
        assert(select:execute(1)).rows)
      assert.same({ { math.maxinteger, -1e308, "", "", 0, 5, 6 } }, assert(select:execute(2)).rows)
      assert.same({}, assert(select:execute(3)).rows)
      assert.same({ "int", "real", "string", "blob", "int", "int", "int" },
        assert(select:execute(3)).types)
    end)

    it("compares text as text", function()
      assert(db:query("create temporary table t (s varchar(10) collate utf8mb4_general_ci)"))
      assert(db:query("insert into t values ('Abc')"))
      local select <close> = assert(db:prepare("select count(*) from t where s = ?"))
      assert.equal(1, assert(select:execute("aBC")).rows[1][1])
    end)

    it("wants as many values as it has marks, of types it knows", function()
      local st <close> = assert(db:prepare("select ?, ?"))
      assert.has_error(function() st:execute(1) end, "the statement takes 2 values, got 1")
      assert.has_error(function() st:execute(1, 2, 3) end, "the statement takes 2 values, got 3")
      assert.has_error(function() st:execute(1, {}) end,
        "bad argument #2 to 'execute' (a value is a number, a string, a boolean, nil or mysql.null)")
      assert.same({ { 1, mysql.null } }, assert(st:execute(1, nil)).rows)
    end)

    it("fails as a query does", function()
      local st, message, code, errno, state = db:prepare("selec")
      assert.same({ nil, "SYNTAX", 1064, "42000" }, { st, code, errno, state })
      assert.matches("^mysql: SYNTAX: ", message)
      assert(db:query("create temporary table t (id int primary key)"))
      local insert <close> = assert(db:prepare("insert into t values (?)"))
      assert(insert:execute(1))
      fails("DUPLICATE", insert:execute(1))
      assert(insert:execute(2))
    end)

    local function packed(...)
      local out = {}
      for _, value in ipairs { ... } do
        out[#out + 1] = value == mysql.null and ("I4"):pack(0xffffffff) or ("s4"):pack(value)
      end
      return table.concat(out)
    end

    it("takes arrays of values without waiting, where the server knows them", function()
      if not db:server().bulk then
        local st <close> = assert(db:prepare("select ?"))
        assert.has_error(function() st:send(packed("1"), "t") end,
          "the server takes no arrays of values")
        assert.equal("mysql", db:server().flavor)
        return
      end
      assert(db:query([[create temporary table t (id int primary key, s varchar(20) character set
        utf8mb4, b varbinary(20), d decimal(38,8))]]))
      local st <close> = assert(db:send_prepare("insert into t values (?, ?, ?, ?) on duplicate key "
        .. "update d = d + values(d), s = values(s)"))
      assert(await(db))
      assert.is_true(st:send(packed("1", "it's \\🌙", "\0\255'", "-0.00000001", "2", "", "", mysql.null,
        "1", mysql.null, mysql.null, "123456789012345678901234567890.00000002"), "ttbt"))
      assert(await(db))
      assert.is_true(st:send(packed("2", "two", "x", "5"), "ttbt"))
      assert(await(db))
      assert.same({ { 1, mysql.null, "\0\255'", "123456789012345678901234567890.00000001" },
        { 2, "two", "", mysql.null } }, assert(db:query "select * from t order by id").rows)
      -- One row of plain values is one row again.
      assert(st:execute(5, "five", "y", "7"))
      assert.is_true(st:send(packed("5", "5", "y", "1"), "ttbt"))
      assert(await(db))
      assert.same({ { 5, "5", "y", "8.00000000" } },
        assert(db:query "select * from t where id = 5").rows)
      assert(db:query "delete from t where id = 5")
      assert.is_true(st:send(packed("3", "three", "", "1", "4", ("long"):rep(9), "", "1"), "ttbt"))
      local ok, _, code = await(db)
      assert.same({ nil, "RANGE" }, { ok, code })
      assert.has_error(function() st:send(packed("1", "2"), "tt") end,
        "the statement takes 4 values, got 2")
      for _, wrong in ipairs { "", "\0", packed("1", "2", "3"), packed("1", "2", "3", "4") .. "\0\0\0\0",
        ("s4"):pack("12345"):sub(1, -2) } do
        assert.has_error(function() st:send(wrong, "tttt") end,
          "bad argument #1 to 'send' (no packed rows)")
      end
      assert.has_error(function() st:send(packed("1", "2", "3", "4"), "ttxt") end)
      fails("TOOBIG", st:send(packed("9", ("x"):rep(db:server().max_packet), "", "1"), "ttbt"))
      local broken = assert(db:send_prepare "selec")
      fails("SYNTAX", await(db))
      broken:close()
      assert.equal(1, one(db, "select 1"))
    end)

    it("survives its connection, closed", function()
      local st = assert(db:prepare("select 1"))
      db:close()
      assert.has_error(function() st:execute() end, "attempt to use a closed mysql statement")
      st:close()
      st:close()
      assert.equal("mysql statement (closed)", tostring(st))
    end)

    it("keeps its connection alive", function()
      local st = assert(connect(server.options()):prepare("select ?"))
      collectgarbage()
      collectgarbage()
      assert.same({ { 5 } }, assert(st:execute(5)).rows)
      st:close()
    end)

    it("may be closed while the connection is busy", function()
      local st = assert(db:prepare("select 1"))
      local release = blocked(server.options(), db)
      st:close()
      assert.is_false(db:ready(0))
      release()
      assert.equal(1, assert(await(db)).rows[1][1])
      assert.equal(2, one(db, "select 2"))
      assert.equal("1", assert(db:query("show session status like 'Com_stmt_close'")).rows[1][2])
    end)

    it("is collected without harm, many times", function()
      for i = 1, 200 do
        local st = assert(db:prepare("select ?"))
        assert.equal(i, assert(st:execute(i)).rows[1][1])
      end
      collectgarbage()
      assert.equal(1, one(db, "select 1"))
    end)
  end)
end

local function lost_cases(server)
  describe("a lost connection", function()
    it("killed by somebody is GONE, and stays so", function()
      local killer <close> = connect(server.options())
      local db <close> = connect(server.options())
      local st = assert(db:prepare("select 1"))
      assert(killer:query("kill " .. db:thread_id()))
      wait("it is noticed", function() return not db:alive() end)
      for _ = 1, 2 do
        local result, message, code = db:query("select 1")
        assert.same({ nil, "GONE" }, { result, code })
        assert.is_truthy(message:find(db:target(), 1, true))
      end
      fails("GONE", db:ping())
      fails("GONE", st:execute())
      assert.is_nil(db:fd())
      assert.is_nil(db:thread_id())
      assert.equal("'x'", db:quote("x"))
    end)

    it("killed in the middle of a statement is GONE", function()
      local killer <close> = connect(server.options())
      local db <close> = connect(server.options())
      local release = blocked(server.options(), db)
      assert(killer:query("kill " .. db:thread_id()))
      fails("GONE", await(db))
      release()
    end)

    it("closed by the server for its silence is noticed without a request", function()
      local db <close> = connect(server.options(), { init = { "set wait_timeout = 1" } })
      wait("the server closed it", function() return not db:alive() end)
      fails("GONE", db:query("select 1"))
    end)

    it("is not mistaken for a quiet one", function()
      local db <close> = connect(server.options())
      for _ = 1, 20 do
        assert.is_true(db:alive())
        clock.sleep(5)
      end
    end)
  end)
end

local function connect_cases(server)
  describe("connecting", function()
    it("with a wrong password is AUTH and never shows it", function()
      local options = server.options()
      options.password = "wrong-secret-5"
      local db, message, code, errno = mysql.connect(options)
      assert.same({ nil, "AUTH", 1045 }, { db, code, errno })
      assert.is_nil(message:find("wrong-secret-5", 1, true))
      assert.matches("^mysql: AUTH: " .. options.user .. "@", message)
    end)

    it("to a database that is not there is NODB, or DENIED", function()
      local options = server.options()
      options.database = "no_such_database_here"
      local db, message, code = mysql.connect(options)
      assert.is_nil(db)
      assert.is_truthy(code == "NODB" or code == "DENIED")
      assert.is_truthy(message:find("no_such_database_here", 1, true))
    end)

    it("can be left to the event loop", function()
      local options = server.options()
      options.wait = false
      local db <close> = assert(mysql.connect(options))
      assert.is_true(db:alive())
      assert.equal("r", db:wants())
      process.wait_fds({ { fd = db:fd(), events = db:wants() } }, DEADLINE_MS)
      assert.is_true(await(db))
      assert.equal(1, one(db, "select 1"))
      local second <close> = assert(mysql.connect(options))
      assert.is_true(second:next(DEADLINE_MS))
      assert.equal(2, one(second, "select 2"))
      local third <close> = assert(mysql.connect(options))
      assert.equal(1, third:drain())
      assert(third:send("select 3"))
      assert.same({ { 3 } }, assert(await(third)).rows)
      options.password = "wrong"
      local other <close> = assert(mysql.connect(options))
      fails("AUTH", await(other))
      fails("GONE", other:query("select 1"))
      assert.is_false(other:alive())
    end)

    it("can be given up at any time", function()
      local options = server.options()
      options.wait = false
      for i = 0, 20 do
        local db = assert(mysql.connect(options))
        if i > 10 then db:ready(i) end
        db:close()
      end
      local kept = mysql.connect(options)
      assert.is_truthy(kept)
      kept = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
    end)
  end)

  describe("a handle", function()
    it("closes twice and refuses use afterwards", function()
      local db = connect(server.options())
      assert.matches("^mysql connection %(0x%x+%)$", tostring(db))
      db:close()
      db:close()
      assert.equal("mysql connection (closed)", tostring(db))
      assert.is_false(db:alive())
      for _, use in ipairs { "query", "send", "ready", "receive", "more", "next", "drain", "ping",
        "fd", "wants", "server", "quote", "thread_id", "prepare", "kill_query" } do
        assert.has_error(function() db[use](db, "x") end,
          "attempt to use a closed mysql connection")
      end
    end)

    it("closed in the middle of a statement or a result is closed at once", function()
      for _, sql in ipairs { "select sleep(600)", "select repeat('x', 8000000)" } do
        local db = connect(server.options())
        assert(db:send(sql))
        db:ready(20)
        db:close()
      end
      for _ = 1, 20 do
        local db = connect(server.options())
        assert(db:send("select repeat('x', 8000000), repeat('y', 8000000)"))
        db = nil -- luacheck: ignore
        collectgarbage()
      end
    end)
  end)
end

return function(server)
  statement_cases(server)
  lost_cases(server)
  connect_cases(server)
end

end
