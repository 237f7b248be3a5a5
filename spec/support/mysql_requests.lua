--- Errors, waiting and several statements of host.mysql, for every server.
-- Part of mysql_cases.lua, which says how it is used.

local mysql = require "host.mysql"
local process = require "host.process"
local wait = require "spec.support.wait"

local DEADLINE_MS = 30000 * require "spec.support.slow"

return function(_ENV, M) -- luacheck: ignore

local connect, one, blocked, await, fails =
  M.connect, M.one, M.blocked, M.await, M.fails

local function error_cases(server)
  describe("an error", function()
    local db, name
    setup(function()
      db = connect(server.options())
      name = mysql.name(("spec_errors_%d"):format(process.pid()))
      assert(db:query("drop table if exists " .. name))
      assert(db:query(([[create table %s (id int primary key, small tinyint, word varchar(3),
        price decimal(5,2), day date) engine = innodb]]):format(name)))
      assert(db:query(("insert into %s values (1, 1, 'a', 1, null)"):format(name)))
    end)
    teardown(function()
      assert(db:query("drop table " .. name))
      db:close()
    end)

    local cases = {
      { "selec 1", "SYNTAX", 1064, "42000" },
      { "select * from no_such_table_here", "NOTABLE", 1146, "42S02" },
      { "select nope from TABLE", "NOCOLUMN", 1054, "42S22" },
      { "insert into TABLE (id) values (1)", "DUPLICATE", 1062, "23000" },
      { "insert into TABLE (id, small) values (2, 300)", "RANGE", 1264, "22003" },
      { "insert into TABLE (id, word) values (2, 'abcd')", "RANGE", 1406, "22001" },
      { "insert into TABLE (id, price) values (2, 12345.1)", "RANGE", 1264, "22003" },
      { "insert into TABLE (id, day) values (2, '2024-02-31')", "RANGE", 1292, "22007" },
      { "insert into TABLE (id, small) values (2, 1 / 0)", "RANGE", 1365, "22012" },
      { "insert into TABLE (id, small) values (2, 'x')", "RANGE", 1366 },
      { "select 9223372036854775807 + 1", "RANGE", 1690, "22003" },
      { "use no_such_database_here", "NODB" },
      { "signal sqlstate '45000' set message_text = '100%s %d'", "SQL", 1644, "45000" },
    }
    for _, case in ipairs(cases) do
      local sql, want, number, state = table.unpack(case)
      it(("of %s is %s"):format(sql, want), function()
        local text = sql:gsub("TABLE", name)
        local result, message, code, errno, sqlstate = db:query(text)
        assert.is_nil(result)
        if want == "NODB" and code == "DENIED" then
          want = code -- who may not see a database is not always told that it is missing
        end
        assert.equal(want, code)
        assert.equal(number or errno, errno)
        assert.equal(state or sqlstate, sqlstate)
        assert.equal("mysql: " .. want .. ": ", message:sub(1, #want + 9))
        -- the same from a prepared statement, and the connection is as good as before
        local prepared, message2, code2 = db:prepare(text)
        if prepared then
          prepared, message2, code2 = prepared:execute()
        end
        assert.is_nil(prepared)
        if code2 ~= "SQL" then assert.equal(want, code2, message2) end
        assert.equal(1, one(db, "select 1"))
      end)
    end

    it("text is never taken as a format", function()
      local _, message = db:query("signal sqlstate '45000' set message_text = '100%s %d'")
      assert.equal("mysql: SQL: 100%s %d", message)
    end)

    it("of a deadlock is told to one of the two", function()
      local a <close> = connect(server.options())
      local b <close> = connect(server.options())
      assert(db:query(("replace into %s (id, small) values (10, 0), (11, 0)"):format(name)))
      assert(a:query("begin"))
      assert(b:query("begin"))
      assert(a:query(("update %s set small = 1 where id = 10"):format(name)))
      assert(b:query(("update %s set small = 1 where id = 11"):format(name)))
      assert(a:send(("update %s set small = 2 where id = 11"):format(name)))
      assert(b:send(("update %s set small = 2 where id = 10"):format(name)))
      wait("one deadlock", function() return a:ready(50) or b:ready(50) end)
      local first, second = a, b
      if not a:ready(0) then first, second = b, a end
      local result, _, code, errno, state = first:receive()
      if result then -- the loser was the other one
        result, _, code, errno, state = await(second)
      else
        assert(await(second))
      end
      assert.is_nil(result)
      assert.same({ "DEADLOCK", 1213, "40001" }, { code, errno, state })
      assert(a:query("rollback"))
      assert(b:query("rollback"))
    end)

    it("of a lock held too long is LOCKWAIT", function()
      local a <close> = connect(server.options())
      local b <close> = connect(server.options(), { init = { "set innodb_lock_wait_timeout = 1" } })
      assert(a:query("begin"))
      assert(a:query(("update %s set small = 1 where id = 1"):format(name)))
      assert(b:query("begin"))
      local result, _, code, errno = b:query(("update %s set small = 2 where id = 1"):format(name))
      assert.same({ nil, "LOCKWAIT", 1205 }, { result, code, errno })
      assert(b:query("rollback"))
      assert(a:query("rollback"))
    end)

    it("of a statement longer than the server takes is known before it is sent", function()
      local db2 <close> = connect(server.options())
      local limit = db2:server().max_packet
      local result, message, code = db2:query(("select '%s'"):format(("x"):rep(limit)))
      assert.is_nil(result)
      assert.equal("TOOBIG", code)
      assert.equal(("mysql: TOOBIG: a statement of %d bytes; the server's max_allowed_packet is %d")
        :format(limit + 9, limit), message)
      assert.equal(1, one(db2, "select 1"))
    end)
  end)
end

local function waiting_cases(server)
  describe("waiting", function()
    it("does not happen in send, ready(0) and receive", function()
      local db <close> = connect(server.options())
      local release = blocked(server.options(), db)
      for _ = 1, 200 do assert.is_false(db:ready(0)) end
      assert.is_true(db:fd() >= 0)
      assert.equal("r", db:wants())
      assert.is_false(db:ready(120))
      assert.is_true(db:more())
      release()
      assert.equal(1, assert(await(db)).rows[1][1])
      assert.is_false(db:more())
    end)

    it("can be left to poll(2) on the descriptor", function()
      local db <close> = connect(server.options())
      local release = blocked(server.options(), db)
      assert.is_false(db:ready(0))
      local _, n = process.wait_fds({ { fd = db:fd(), events = db:wants() } }, 50)
      assert.equal(0, n)
      release()
      local ready = process.wait_fds({ { fd = db:fd(), events = db:wants() } }, DEADLINE_MS)
      assert.is_truthy(ready[db:fd()])
      assert.is_true(db:ready(DEADLINE_MS))
      assert(db:receive())
    end)

    it("for too long closes the connection and ends the statement on the server", function()
      local watcher <close> = connect(server.options())
      local db <close> = connect(server.options())
      local id = db:thread_id()
      local result, message, code, errno, state = db:query("select sleep(600)", 150)
      assert.same({ nil, "TIMEOUT", 0, "HY000" }, { result, code, errno, state })
      assert.equal(("mysql: TIMEOUT: %s: no answer within 150 ms; the connection was closed")
        :format(db:target()), message)
      fails("GONE", db:query("select 1"))
      assert.is_false(db:alive())
      wait("the server dropped it", function()
        return one(watcher, "select count(*) from information_schema.processlist where id = " .. id)
          == 0
      end)
    end)

    it("in graceful mode goes on after a signal", function()
      local db <close> = connect(server.options())
      finally(function()
        process.reset_stop()
        process.graceful(false)
      end)
      process.graceful(true)
      process.raise_stop()
      assert.equal(1, one(db, "select 1 + sleep(0.15)"))
      local other <close> = connect(server.options())
      assert.equal(2, one(other, "select 2"))
    end)

    it("is misuse when nothing was sent, or too much", function()
      local db <close> = connect(server.options())
      assert.has_error(function() db:ready(0) end, "no statement was sent")
      assert.has_error(function() db:receive() end,
        "no result is ready (db:ready() must say so first)")
      local release = blocked(server.options(), db)
      local busy = "a statement is still running on this connection "
        .. "(wait for it with ready, or drain)"
      assert.has_error(function() db:query("select 1") end, busy)
      assert.has_error(function() db:send("select 1") end, busy)
      assert.has_error(function() db:prepare("select 1") end, busy)
      assert.has_error(function() db:ping() end, busy)
      release()
      wait("the result", function() return db:ready(100) end)
      local waiting = "results of the last statement are still waiting (receive them, or drain)"
      assert.has_error(function() db:send("select 1") end, waiting)
      assert(db:receive())
      assert.equal(1, one(db, "select 1"))
    end)

    it("can be cut short by another connection", function()
      local db <close> = connect(server.options())
      local release = blocked(server.options(), db)
      local watcher <close> = connect(server.options())
      wait("the statement to begin", function()
        return one(watcher, "select count(*) from information_schema.processlist where id = "
          .. db:thread_id() .. " and info like 'select get_lock%'") == 1
      end)
      assert.is_true(db:kill_query(DEADLINE_MS))
      local result, _, code = await(db)
      -- MySQL lets get_lock() answer NULL when it is interrupted
      if result then
        assert.equal(mysql.null, result.rows[1][1])
      else
        assert.equal("KILLED", code)
      end
      assert.equal(1, one(db, "select 1"))
      assert.has_error(function() db:kill_query() end,
        "no statement is running on this connection")
      release()
    end)
  end)
end

local function multi_cases(server)
  describe("several statements at once", function()
    it("are refused unless asked for", function()
      local db <close> = connect(server.options())
      fails("SYNTAX", db:query("select 1; select 2"))
    end)

    it("give their results one by one", function()
      local db <close> = connect(server.options(), { multi = true })
      assert(db:send("select 1; do 0; select 3, 4"))
      assert.same({ { 1 } }, assert(await(db)).rows)
      assert.is_true(db:more())
      assert.same({}, assert(await(db)).rows)
      assert.is_true(db:more())
      assert.same({ { 3, 4 } }, assert(await(db)).rows)
      assert.is_false(db:more())
      assert.equal(5, one(db, "select 5"))
    end)

    it("give them to query and next as well", function()
      local db <close> = connect(server.options(), { multi = true })
      assert.same({ { 1 } }, assert(db:query("select 1; select 2")).rows)
      assert.same({ { 2 } }, assert(db:next()).rows)
      assert.equal(1, select("#", db:next()))
      assert.is_nil(db:next())
    end)

    it("end with the first that fails", function()
      local db <close> = connect(server.options(), { multi = true })
      assert(db:query("set @x = 0"))
      assert(db:send("set @x = 1; select * from no_such_table_here; set @x = 2"))
      assert(await(db))
      fails("NOTABLE", await(db))
      assert.is_false(db:more())
      assert.equal(1, one(db, "select @x"))
    end)

    it("must all be taken, or drained, before the next", function()
      local db <close> = connect(server.options(), { multi = true })
      assert(db:query("select 1; select 2; select 3"))
      assert.has_error(function() db:query("select 4") end,
        "results of the last statement are still waiting (receive them, or drain)")
      assert.equal(2, db:drain())
      assert.equal(0, db:drain())
      assert.equal(4, one(db, "select 4"))
      assert(db:send("select 1; select * from no_such_table_here"))
      fails("NOTABLE", db:drain())
      assert.equal(4, one(db, "select 4"))
    end)

    it("of a procedure come the same way", function()
      local db = connect(server.options())
      local name = mysql.name(("spec_call_%d"):format(process.pid()))
      local made, message, code = db:query(("create procedure %s(n int) begin select n; "
        .. "select n + 1, 'x'; end"):format(name))
      finally(function()
        if made then assert(db:query("drop procedure " .. name)) end
        db:close()
      end)
      if code == "DENIED" then return pending(message) end
      assert(made, message)
      assert.same({ { 7 } }, assert(db:query(("call %s(7)"):format(name))).rows)
      assert.same({ { 8, "x" } }, assert(db:next()).rows)
      assert.equal(1, db:drain())
      local call <close> = assert(db:prepare(("call %s(?)"):format(name)))
      assert.same({ { 1 } }, assert(call:execute(1)).rows)
      assert.same({ { 2 } }, assert(call:execute(2)).rows)
      assert.equal(9, one(db, "select 9"))
    end)
  end)
end

return function(server)
  error_cases(server)
  waiting_cases(server)
  multi_cases(server)
end

end
