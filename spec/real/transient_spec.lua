-- Failures of the database that pass: each is tried again as a whole transaction, and no number is
-- wrong afterwards. What does not pass stops the run with the statement.

local clock = require "host.clock"
local mysql = require "host.mysql"
local mysqlurl = require "mill.mysqlurl"
local process = require "host.process"
local real = require "spec.support.real"
local sums_ = require "spec.support.sums"

local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
-- Codes that a server, or one that takes over from it, may answer with for a while.
local PASSING = {
  1205, 1213, 1317, 1040, 1047, 1053, 1158, 1159, 1160, 1161, 1927, 3024, 1969, 1290, 1792, 1836,
  1021, 1114,
}
local LASTING = 3819 -- a check constraint

describe("the database", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place, o, child, sent

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      before_each(function()
        o = { topic = real.topic { partitions = 1 }, name = real.name "passing",
          table = place:table(), until_end = false }
        o.sums, sent = sums_.new(60000), 0
        child = place:start(o)
      end)

      after_each(function() child:kill "KILL" end)

      local function send(n)
        local records = {}
        for i = sent + 1, sent + n do
          records[#records + 1] = { value = sums_.message("S" .. i % 5, i, T0 + i) }
          o.sums:add("S" .. i % 5, i, T0 + i)
        end
        real.send(o.topic, records)
        sent = sent + n
      end

      local function counted()
        real.wait(function()
          assert(not child:result(), child:log())
          local row = place:progress(o.name)[0]
          return row and row.position == sent
        end, "the rows to be counted", 60000)
      end

      local function check()
        real.same(o.sums:rows(), place:query(o.sums.SQL:format(o.table)), 2, "results")
      end

      -- From now on each insert into the results fails with `errno`.
      local function fail(errno)
        place:query("create trigger hurt before insert on %s for each row begin insert into tried () "
          .. "values (); signal sqlstate 'HY000' set mysql_errno = %d, message_text = 'planted'; "
          .. "end", o.table, errno)
      end

      it("that fails for a while is tried again", function()
        -- Its numbers are not given back when a transaction is rolled back.
        place:query "create table tried (id int not null auto_increment primary key)"
        local last, tries = 0, 0
        local function tried()
          local id = assert(place.db:query "insert into tried () values ()").insert_id
          tries = tries + (id - last - 1)
          last = id
          return tries
        end
        send(10)
        counted()
        for _, errno in ipairs(PASSING) do
          fail(errno)
          tried()
          tries = 0
          send(10)
          real.wait(function()
            assert(not child:result(), errno .. ": " .. child:log())
            return tried() > 1
          end, errno .. " to be met twice", 60000)
          place:query "drop trigger hurt"
          counted()
          check()
        end
        fail(LASTING)
        send(10)
        local r = child:finish(30000)
        assert.equal(3, r.status, r.err)
        assert.matches("planted", r.err)
        assert(r.err:find("statement: insert into", 1, true), r.err)
        place:query "drop trigger hurt"
        o.until_end = nil
        assert.equal(10, place:average(o).summary.consumed)
        check()
      end)

      it("whose administrator kills the statement", function()
        send(10)
        counted()
        local other <close> = assert(mysql.connect(assert(mysqlurl.parse(place.url))))
        assert(other:query(("lock tables %s read"):format(mysql.name(o.table))))
        send(10)
        -- The commit waits for the table, or for the finaliser that waits for it: both are killed.
        for _ = 1, 5 do
          real.wait(function()
            assert(not child:result(), child:log())
            local waiting = place:query("select id from information_schema.processlist where db = "
              .. "'%s' and command = 'Query' and id <> connection_id() and info like '%%%s%%'",
              place.database, "update%")
            for _, row in ipairs(waiting) do place.db:query("kill query " .. row[1]) end
            return #waiting > 0
          end, "a statement that waits")
          clock.sleep(100)
        end
        assert(other:query "unlock tables")
        counted()
        check()
        child:kill "TERM"
        local r = child:finish(30000)
        assert.equal(0, r.status, r.err)
        assert.is_true(r.summary.retries >= 1)
      end)

      it("in which a floor is raised while a dead letter is replayed", function()
        real.send(o.topic, { { value = "{}" } })
        sent = 1
        counted()
        child:kill "TERM"
        child:finish(30000)
        local id = place:value("select id from mill_dead_letters where pipeline = '%s'", o.name)
        local other <close> = assert(mysql.connect(assert(mysqlurl.parse(place.url))))
        assert(other:query "start transaction")
        assert(other:query(("select id from mill_dead_letters where id = %d for update"):format(id)))
        local replay = real.spawn { argv = { os.getenv "TIDEMILL" or process.exe(), "deadletters",
          "replay", "scripts/averages.lua", tostring(id), "--payload", "-", "--json", "--set",
          "topic=" .. o.topic, "--set", "name=" .. o.name, "--set", "table=" .. o.table },
          env = place:env { TIDEMILL_HOME = process.home() }, cwd = process.home(),
          stdin = sums_.message("A", 1500, T0) }
        real.wait(function()
          return place:value("select count(*) from information_schema.processlist where db = '%s' "
            .. "and info like '%%replayed_at = current_timestamp%%' and id <> connection_id()",
            place.database) > 0
        end, "the replay to wait")
        -- A purge, which deletes results below a time for ever.
        assert(other:query(("update mill_pipelines set purged_ms = %d where result_table = '%s'")
          :format(T0 + 60000, o.table)))
        assert(other:query "commit")
        local r = replay:finish(30000)
        assert.equal(0, r.status, r.err)
        assert.equal(1, r.summary.late)
        assert.same({}, place:results(o.table))
        assert.equal("purged", place:late(o.name)[1][4])
        local ls = real.tidemill({ "deadletters", "ls", o.name, "--all", "--json" },
          { env = place:env(), cwd = process.home() }):finish()
        local letters = require("mill.json").decode(ls.out).letters
        assert.matches("^%d%d%d%d%-", letters[1].replayed_at)
      end)
    end)
  end
end)
