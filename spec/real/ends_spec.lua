-- Where a run begins and where it ends: --until-end over topics of every kind, the settings of
-- scripts/averages.lua, and the last window of a stream that falls silent.

local clock = require "host.clock"
local mysql = require "host.mysql"
local real = require "spec.support.real"

local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
local MINUTE = 60000
local NUMBERS = {
  "consumed", "dead", "late", "too_late", "rows", "windows", "commits", "seconds", "commit_seconds",
  "messages_per_second", "startup_ms", "peak_rss_mb",
}

local function message(symbol, price, ms)
  return ('{"symbol":"%s","price":"%s","timestamp":%d}'):format(symbol, price, ms)
end

local function some(first, count, partitions)
  local out = {}
  for i = first, first + count - 1 do
    out[#out + 1] = { partition = i % partitions, key = "k" .. i % 5,
      value = message("S" .. i % 5, i .. ".125", T0 + i * 100) }
  end
  return out
end

describe("the ends of a run", function()
  local why = real.missing()
  if why then
    it("need servers", function() pending(why) end)
    return
  end

  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      local function proves(topic, o)
        o = o or {}
        o.topic, o.name, o.table = topic, o.name or real.name "averages", o.table or place:table()
        local run = place:average(o)
        o.runs = { run }
        return real.verify(place, o), run, o
      end

      it("--until-end: on an empty topic, with one object of the promised numbers", function()
        local want, run = proves(real.topic { partitions = 3 })
        assert.equal(0, want.consumed)
        assert.matches("^{[^\n]*}\n$", run.out)
        for _, name in ipairs(NUMBERS) do
          assert.equal("number", type(run.summary[name]), name)
        end
        assert.equal(0, run.summary.rows)
        assert.is_true(run.ms < 30000)
      end)

      it("--until-end: on a topic with one empty partition", function()
        local topic = real.topic { partitions = 3 }
        local records = some(1, 300, 2)
        real.send(topic, records)
        local want, run = proves(topic, { size_ms = 1000 })
        assert.equal(300, run.summary.consumed)
        assert.equal("number", type(run.summary.first_message_ms))
        -- It takes no part in finality: rows are final although it has no watermark.
        local final = 0
        for _, row in ipairs(want.results) do final = final + row[8] end
        assert.is_true(final > 0)
      end)

      it("--until-end: on a topic with nothing but bad rows", function()
        local topic = real.topic { partitions = 2 }
        real.send(topic, { { partition = 0, value = "x" }, { partition = 0, value = "" } })
        local o = { topic = topic, name = real.name "averages", table = place:table() }
        local r = place:start(o):finish()
        -- Half of all rows is more than max_bad allows only among many rows.
        assert.equal(0, r.status, r.err)
        o.runs = { r }
        real.verify(place, o)
      end)

      it("--until-end: on a transactional topic, without the aborted", function()
        local topic = real.topic { partitions = 2 }
        local producer <close> = real.producer { ["transactional.id"] = real.name "tx" }
        assert(producer:init_transactions(30000))
        for round = 1, 6 do
          assert(producer:begin())
          for i = 1, 50 do
            real.put(producer, { topic = topic, partition = i % 2, value =
              message("R" .. round, round .. ".5", T0 + round * MINUTE + i) })
          end
          -- The last thing in the log is an aborted transaction: the end lies behind its mark.
          if round % 3 == 0 then
            assert(producer:flush(30000) == 0)
            assert(producer:abort(30000))
          else
            assert(producer:commit(30000))
          end
        end
        real.settled(topic)
        local want, run, o = proves(topic)
        assert.equal(200, want.consumed)
        assert.equal(4, #want.results)
        -- A second run finds nothing more, and does not wait for the marks either.
        local again = place:average(o)
        assert.equal(0, again.summary.consumed)
        assert.is_true(run.ms < 30000 and again.ms < 30000)
      end)

      it("--until-end: stops before a transaction that is open, and takes it up later", function()
        local topic = real.topic { partitions = 1 }
        real.send(topic, some(1, 100, 1))
        local producer <close> = real.producer { ["transactional.id"] = real.name "tx" }
        assert(producer:init_transactions(30000))
        assert(producer:begin())
        real.put(producer, { topic = topic, partition = 0, value = message("OPEN", "1", T0) })
        assert(producer:flush(30000) == 0)
        real.send(topic, some(101, 10, 1)) -- behind the open one: not to be read yet
        local o = { topic = topic, name = real.name "averages", table = place:table() }
        local first = place:average(o)
        assert.equal(100, first.summary.consumed)
        assert.equal(100, place:progress(o.name)[0].position)
        assert(producer:commit(30000))
        real.settled(topic)
        o.runs = { first, place:average(o) }
        local want = real.verify(place, o)
        assert.equal(111, want.consumed)
      end)

      it("--until-end: on a compacted topic", function()
        local topic = real.topic { partitions = 1, config = {
          ["cleanup.policy"] = "compact", ["segment.ms"] = "100", ["segment.bytes"] = "20000",
          ["min.cleanable.dirty.ratio"] = "0.01", ["delete.retention.ms"] = "1",
          ["max.compaction.lag.ms"] = "100",
        } }
        local sent = 0
        local function more()
          real.send(topic, some(sent, 300, 1))
          sent = sent + 300
        end
        more()
        local function left() return real.expect({ topic = topic }).consumed end
        real.wait(function()
          more() -- a new segment makes the one before it cleanable
          return left() < sent - 600
        end, "the topic to be compacted", 60000)
        -- The cleaner may go on until nothing is left to do; it only takes away: what is there before
        -- and after a run was there for it.
        local o, want
        local deadline = clock.mono_ms() + 120000
        repeat
          assert(clock.mono_ms() < deadline, "the cleaner does not rest")
          o = { topic = topic, name = real.name "averages", table = place:table(), size_ms = 1000 }
          local before = left()
          o.runs = { place:average(o) }
          want = real.expect(o)
        until want.consumed == before
        o.want = want
        real.verify(place, o)
        assert.is_true(want.consumed < sent)
        assert.equal(sent, place:value("select max(position) from mill_progress where topic = '%s'",
          topic))
      end)

      it("--until-end: goes on where the last run ended, in new partitions at 0", function()
        local topic = real.topic { partitions = 1 }
        local o = { topic = topic, name = real.name "averages", table = place:table(),
          size_ms = 1000, runs = {} }
        real.send(topic, some(1, 100, 1))
        o.runs[1] = place:average(o)
        real.grow(topic, 3)
        -- start=latest is for the first claim of a pipeline: what stands in new partitions counts.
        real.send(topic, some(101, 90, 3))
        o.start = "latest"
        o.runs[2] = place:average(o)
        local want = real.verify(place, o)
        assert.equal(190, want.consumed)
      end)

      it("--set topic, name, table: each of its own", function()
        local topic = real.topic { partitions = 2 }
        real.send(topic, some(1, 50, 2))
        local _, _, a = proves(topic, { size_ms = 1000 })
        local _, _, b = proves(topic, { size_ms = 5000 })
        local rows = place:query("select pipeline, result_table from mill_pipelines where pipeline "
          .. "in ('%s', '%s') order by result_table = '%s'", a.name, b.name, b.table)
        assert.same({ { a.name, a.table }, { b.name, b.table } }, rows)
        assert.equal(2, place:value("select count(*) from mill_progress where pipeline = '%s' "
          .. "and topic = '%s'", a.name, topic))
      end)

      it("--set start=latest: only what comes after the first claim", function()
        local topic = real.topic { partitions = 2 }
        real.send(topic, some(1, 40, 2))
        local o = { topic = topic, name = real.name "averages", table = place:table(),
          start = "latest", size_ms = 1000 }
        assert.equal(0, place:average(o).summary.consumed)
        assert.same({}, place:results(o.table))
        real.send(topic, some(41, 20, 2))
        assert.equal(20, place:average(o).summary.consumed)
        local prices = place:value("select sum(price_sum) from %s", o.table)
        assert.equal("1012.50000000", prices) -- 41.125 + ... + 60.125
      end)

      it("--set start=TIME: from the first record that Kafka stamped then", function()
        local topic = real.topic { partitions = 2 }
        local now = clock.wall_ms()
        local records = some(1, 100, 2)
        for i, record in ipairs(records) do record.timestamp_ms = now - 100000 + i * 1000 end
        real.send(topic, records)
        local text = os.date("!%Y-%m-%dT%H:%M:%S", (now - 20000) // 1000)
          .. (".%03dZ"):format((now - 20000) % 1000)
        local o = { topic = topic, name = real.name "averages", table = place:table(),
          start = text, size_ms = 1000 }
        assert.equal(21, place:average(o).summary.consumed)
        assert.equal(0, place:value("select count(*) from %s where start_time < '%s'", o.table,
          os.date("!%Y-%m-%d %H:%M:%S", (T0 + 8000) // 1000)))
      end)

      -- How many commits it takes depends on the pace of the broker too: an empty poll commits at once.
      it("--set commit_every changes no number", function()
        local topic = real.topic { partitions = 1 }
        local producer <close> = real.producer { ["batch.num.messages"] = 50 }
        for _, record in ipairs(some(1, 20000, 1)) do
          record.topic = topic
          real.put(producer, record)
        end
        real.flush(producer)
        local conf = { TIDEMILL_KAFKA_CONF =
          "fetch.message.max.bytes=8000,message.max.bytes=8000,fetch.max.bytes=8000" }
        local _, often = proves(topic, { commit_every = "1ms", env = conf })
        local _, seldom = proves(topic, { commit_every = "10s", env = conf })
        assert.is_true(often.summary.commits > 0 and seldom.summary.commits > 0)
      end)

      describe("in silence", function()
        local SIZE, IDLE, DELAY = 2000, 1000, 500

        -- Rows at the present time, then nothing: when is the last window final?
        local function silence(o, before)
          o.name, o.table = real.name "averages", place:table()
          o.size_ms, o.idle_ms, o.max_delay_ms, o.until_end = SIZE, IDLE, DELAY, false
          local child = place:start(o)
          real.wait(function() return next(place:progress(o.name)) end, "the first claim")
          if before then before() end
          -- One time for all rows, early in a window, so that all are in one and its end is ahead.
          local now = clock.wall_ms()
          if now % SIZE > SIZE // 2 then
            clock.sleep(SIZE - now % SIZE)
            now = clock.wall_ms()
          end
          local records = {}
          for i = 1, 10 do
            records[i] = { partition = 0, value = message("QUIET", "2.5", now) }
          end
          real.send(o.topic, records)
          local row = real.wait(function()
            return place:query("select timestampdiff(microsecond, '1970-01-01', end_time) div 1000 "
              .. "from %s where symbol = 'QUIET'", o.table)[1]
          end, "the window")
          local seen_at = clock.wall_ms()
          local final_at = real.wait(function()
            local final = place:value("select min(is_final) from %s where symbol = 'QUIET'", o.table)
            return final == 1 and clock.wall_ms()
          end, "the window to be final", 40000)
          -- The silence begins when the rows are read, at the latest when they are seen; the clock
          -- runs from their time on to the window's end. The finaliser looks once a second.
          local limit = row[1] - now + math.max(IDLE, DELAY) + 10000
          assert.is_true(final_at - seen_at <= limit,
            ("final %d ms after it was seen, allowed are %d"):format(final_at - seen_at, limit))
          assert.is_true(final_at >= row[1], "final before its end")
          return child, o
        end

        it("the last window is final in time, and SIGTERM ends the run", function()
          local child, o = silence { topic = real.topic { partitions = 1 } }
          child:kill "TERM"
          local r = child:finish(20000)
          assert.equal(0, r.status, r.err)
          assert.equal(10, r.summary.consumed)
          o.where = "is_final = 1"
          assert.equal(1, #place:results(o.table, o.where))
        end)

        it("so it is with partitions that never had a row", function()
          local child = silence { topic = real.topic { partitions = 3 } }
          child:kill "INT"
          assert.equal(0, child:finish(20000).status)
        end)

        it("so it is with a partition that fell silent some windows before", function()
          local topic = real.topic { partitions = 2 }
          local child, o = silence({ topic = topic }, function()
            real.send(topic, { { partition = 1, value = message("OLD", "1", clock.wall_ms()) } })
            clock.sleep(2 * SIZE)
          end)
          child:kill "TERM"
          assert.equal(0, child:finish(20000).status)
          assert.equal(2, place:value("select count(*) from %s where is_final = 1", o.table))
        end)

        it("a row that comes after all is late and counted", function()
          local topic = real.topic { partitions = 1 }
          local child, o = silence { topic = topic }
          local start = place:value("select timestampdiff(microsecond, '1970-01-01', start_time) "
            .. "div 1000 from %s", o.table)
          -- The idle clock is for finality only: by the watermark this row is in time.
          real.send(topic, { { partition = 0, value = message("QUIET", "2.5", start) } })
          local row = real.wait(function()
            local r = place:query("select samples, revision, is_final from %s", o.table)[1]
            return r[1] == 11 and r
          end, "the eleventh row")
          assert.same({ 11, 0, 1 }, row)
          child:kill "TERM"
          local r = child:finish(20000)
          assert.equal(0, r.summary.late)
        end)

        it("with --until-end no clock runs: the last window stays open", function()
          local topic = real.topic { partitions = 1 }
          real.send(topic, { { partition = 0, value = message("A", "1", T0) } })
          local want, _, o = proves(topic, { size_ms = SIZE, idle_ms = 100 })
          assert.equal(0, want.results[1][8])
          assert.equal(mysql.null, place:value("select idle_ms from mill_progress where pipeline = "
            .. "'%s'", o.name))
        end)
      end)
    end)
  end
end)
