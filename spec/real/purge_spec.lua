-- Old results are deleted while the pipeline runs and goes on getting rows for them: none of them
-- stays, and no other result changes.

local json = require "mill.json"
local process = require "host.process"
local real = require "spec.support.real"
local sums_ = require "spec.support.sums"

local T0 <const> = 1723161600000 -- 2024-08-09T00:00:00Z
local BEFORE <const> = "2024-08-09T00:10:00Z"
local BEFORE_MS <const> = T0 + 600000
local BELOW <const> = "start_time < '2024-08-09 00:10:00'"

describe("a purge", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place, o

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      -- Partition 0 has come to 01:00; partition 1 is empty, so its first rows may be old.
      before_each(function()
        o = { topic = real.topic { partitions = 2 }, name = real.name "purge", table = place:table(),
          lateness_ms = 1800000, idle_ms = 60000, sums = sums_.new(60000) }
        local records = {}
        for i = 0, 120 do
          records[i + 1] = { partition = 0, value = sums_.message("A", 1 + i, T0 + i * 30000) }
          if i >= 20 then o.sums:add("A", 1 + i, T0 + i * 30000) end
        end
        real.send(o.topic, records)
      end)

      local function purge(program, fail_at)
        return real.tidemill({ "progress", "purge", "scripts/averages.lua", "--before", BEFORE,
          "--execute", "--json", "--set", "topic=" .. o.topic, "--set", "name=" .. o.name, "--set",
          "table=" .. o.table, "--set", "lateness=1800000ms", "--set", "idle=60000ms" }, {
          env = place:env { TIDEMILL_FAILPOINT = fail_at or false }, cwd = process.home(),
          program = program })
      end

      local function deleted(child)
        local r = child:finish(60000)
        assert.equal(0, r.status, r.err)
        return json.decode(r.out).deleted
      end

      local function below()
        return place:value("select count(*) from %s where %s", o.table, BELOW)
      end

      it("runs beside the pipeline", function()
        o.until_end, o.commit_every = false, "5ms"
        local child = place:start(o)
        finally(function() child:kill "KILL" end)
        local function read(p, n)
          real.wait(function()
            assert(not child:result(), child:log())
            local row = place:progress(o.name)[p]
            return row and row.position == n
          end, "the rows to be read", 60000)
        end
        real.wait(function()
          assert(not child:result(), child:log())
          return place:value("select min(final_ms) from mill_pipelines where pipeline = '%s'", o.name)
            == T0 + 3600000 - 2000 -- max_delay
        end, "finality", 60000)
        -- Rows of 25 symbols for minutes 0 to 19, in the middle of which the purge happens.
        local sent, purging, gone = 0, nil, nil
        local producer <close> = real.producer()
        repeat
          local symbol, ms = "S" .. sent % 25, T0 + sent // 100 % 20 * 60000 + sent % 50
          real.put(producer, { topic = o.topic, partition = 1, value = sums_.message(symbol, 7, ms) })
          if ms >= BEFORE_MS then o.sums:add(symbol, 7, ms) end
          sent = sent + 1
          if sent % 100 == 0 then
            real.flush(producer)
            if not purging and below() > 100 then purging = purge() end
            gone = gone or purging and purging:result() and sent + 2000
          end
        until gone == sent
        read(1, sent)
        assert.is_true(deleted(purging) > 100)
        assert.equal(0, below())
        child:kill "TERM"
        assert.equal(0, child:finish(30000).status)
        local purged = place:late(o.name)
        assert.is_true(#purged >= 1000)
        for _, row in ipairs(purged) do
          assert.equal("purged", row[4])
          assert.is_true(row[3] < BEFORE_MS)
        end
        -- Rows of the windows that stay are all there; late ones have raised the revision.
        real.same(o.sums:rows(), place:query(o.sums.SQL:gsub("revision", "0"):format(o.table)), 2,
          "results")
        -- Another run.
        real.send(o.topic, { { partition = 1, value = sums_.message("B", 7, T0 + 599000) } })
        o.until_end = nil
        place:average(o)
        assert.equal(0, below())
        assert.equal(#purged + 1, #place:late(o.name))
      end)

      it("that was killed is finished by the next", function()
        local program = real.faults()
        if not program then return pending "`make faults` was not run" end
        place:average(o)
        assert.equal(10, below())
        assert.equal(9, purge(program, "purge.stored=kill"):finish(60000).signal)
        assert.equal(10, below())
        assert.equal(BEFORE_MS, place:value("select purged_ms from mill_pipelines where pipeline = '%s'",
          o.name))
        real.send(o.topic, { { partition = 1, value = sums_.message("B", 7, T0 + 599000) },
          { partition = 1, value = sums_.message("B", 9, T0 + 600000) } })
        place:average(o)
        assert.equal("purged", place:late(o.name)[1][4])
        assert.equal(1, #place:late(o.name))
        assert.equal(10, deleted(purge()))
        assert.equal(0, below())
        assert.equal("0.00900000", place:value("select price_sum from %s where symbol = 'B'", o.table))
      end)
    end)
  end
end)
