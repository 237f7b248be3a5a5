-- Offsets that are gone: the exact message, exit 5, and with --on-gap=skip one row of mill_gaps and
-- right numbers. Topics made anew. What a reset of the Kafka group does: nothing.

local clock = require "host.clock"
local kafka = require "host.kafka"
local mysql = require "host.mysql"
local mysqlurl = require "mill.mysqlurl"
local process = require "host.process"
local real = require "spec.support.real"
local sums_ = require "spec.support.sums"

local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
local BELOW = "below the start of the log: retention, or deleted records"
local BEYOND = "the log ends before our position: it was truncated or made anew"
local REMADE = "the record at offset %d is another one now: the topic was made anew"

-- Row number `i` of a partition: its parts, and its message.
local function parts(i, salt)
  return "S" .. i % 7, (i * 7919 + (salt or 0)) % 999983 + 1, T0 + i * 100
end

local function records(partition, first, last, salt)
  local out = {}
  for i = first, last do
    out[#out + 1] = { partition = partition, value = sums_.message(parts(i, salt)) }
  end
  return out
end

local function delete_records(topic, partition, before)
  local a <close> = kafka.admin { brokers = real.kafka() }
  local done = assert(a:delete_records(
    { { topic = topic, partition = partition, offset = before } }, 30000))
  assert(not done[1].code, done[1].error)
end

-- Delete the topic, and make one of the same name; `between` is called while there is none.
local function make_anew(topic, partitions, between)
  local a <close> = kafka.admin { brokers = real.kafka() }
  assert(a:delete_topic(topic, 30000))
  real.wait(function()
    local found = a:metadata(topic, 5000)
    return found and (not found.topics[topic] or found.topics[topic].code)
  end, "the topic to be deleted")
  if between then between() end
  real.wait(function()
    return (pcall(real.topic, { name = topic, partitions = partitions }))
  end, "the topic to be made anew")
end

describe("gaps", function()
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

      local function options(topic)
        return { topic = topic, name = real.name "gaps", table = place:table(), size_ms = 1000,
          sums = sums_.new(1000) }
      end

      local function count(o, first, last, salt)
        for i = first, last do o.sums:add(parts(i, salt)) end
      end

      local function check(o)
        real.same(o.sums:rows(), place:query(o.sums.SQL:format(o.table)), 2, "results")
      end

      local function gaps(o)
        return place:query("select cluster_id, topic, `partition`, from_offset, to_offset, reason "
          .. "from mill_gaps where pipeline = '%s' order by `partition`, id", o.name)
      end

      local function with(o, extra)
        return setmetatable(extra, { __index = o })
      end

      -- A run that must stop at a gap.
      local function stops(o, partition, from, to, reason)
        local r = place:start(o):finish()
        assert.equal(5, r.status, r.err)
        local want = ("topic '%s' partition %d: offsets %d..%d are gone (%s); nothing was counted "
          .. "past them. "):format(o.topic, partition, from, to - 1, reason)
        assert(r.err:find(want, 1, true), r.err)
        assert(r.err:find("--on-gap=skip", 1, true), r.err)
        return r
      end

      local function skips(o)
        local r = place:average(with(o, { args = { "--on-gap=skip" } }))
        return r
      end

      local function has_gap(o, partition, from, to, reason)
        assert.same({ { real.cluster_id(), o.topic, partition, from, to, reason } }, gaps(o))
      end

      it("deleted records: stops with the range, twice the same; skips, and records it", function()
        local o = options(real.topic { partitions = 3 })
        for p = 0, 2 do real.send(o.topic, records(p, 1, 300)) end
        place:average(o)
        for p = 0, 2 do
          real.send(o.topic, records(p, 301, 1000))
          count(o, 1, p == 2 and 300 or 1000)
        end
        delete_records(o.topic, 2, 500)
        stops(o, 2, 300, 500, BELOW)
        stops(o, 2, 300, 500, BELOW)
        assert.same({}, gaps(o))
        assert.equal(300, place:progress(o.name)[2].position)
        local r = skips(o)
        count(o, 501, 1000) -- offsets begin at 0, rows at 1
        check(o)
        has_gap(o, 2, 300, 500, BELOW)
        assert(r.err:find(("topic '%s' partition 2: offsets 300..499 are gone (%s); skipped, "
          .. "recorded in mill_gaps"):format(o.topic, BELOW), 1, true), r.err)
        -- Once gone over it is no gap any more.
        place:average(o)
        check(o)
        has_gap(o, 2, 300, 500, BELOW)
      end)

      it("deleted to the very end, and before the first claim of a new partition", function()
        local o = options(real.topic { partitions = 1 })
        real.send(o.topic, records(0, 1, 100))
        place:average(o)
        count(o, 1, 100)
        real.send(o.topic, records(0, 101, 200))
        delete_records(o.topic, 0, 200)
        real.grow(o.topic, 2)
        real.send(o.topic, records(1, 1, 50))
        delete_records(o.topic, 1, 20)
        skips(o)
        count(o, 21, 50)
        check(o)
        local id = real.cluster_id()
        assert.same({ { id, o.topic, 0, 100, 200, BELOW }, { id, o.topic, 1, 0, 20, BELOW } }, gaps(o))
        real.send(o.topic, records(0, 201, 210))
        place:average(o)
        count(o, 201, 210)
        check(o)
      end)

      for what, config in pairs {
        size = { ["retention.bytes"] = "30000" },
        time = { ["retention.ms"] = "5000", ["segment.ms"] = "1000" },
      } do
        it("retention by " .. what, function()
          config["segment.bytes"] = "15000"
          local o = options(real.topic { partitions = 1, config = config })
          local function send(first, last, stamp_ms)
            local rows = records(0, first, last)
            for _, row in ipairs(rows) do row.timestamp_ms = clock.wall_ms() + stamp_ms end
            real.send(o.topic, rows, { ["batch.num.messages"] = 20 })
          end
          send(1, 150, 25000) -- what is newer than now is kept longer
          place:average(o)
          count(o, 1, 150)
          send(151, 2000, 0)
          send(2001, 3000, 3600000)
          local low, before = 0, 0
          real.wait(function() -- until it has done all it wants to
            clock.sleep(2500)
            before, low = low, real.ends(o.topic)[0][1]
            return low > 150 and low == before
          end, "retention", 120000)
          stops(o, 0, 150, low, BELOW)
          skips(o)
          count(o, low + 1, 3000)
          check(o)
          has_gap(o, 0, 150, low, BELOW)
        end)
      end

      it("a topic made anew: with fewer records, the same number, and more", function()
        local cases = { { 60, BEYOND }, { 100 }, { 150 } }
        for _, c in ipairs(cases) do
          c.o = options(real.topic { partitions = 1 })
          real.send(c.o.topic, records(0, 1, 100))
          place:average(c.o)
          count(c.o, 1, 100)
          make_anew(c.o.topic, 1)
          real.send(c.o.topic, records(0, 1, c[1], 5))
          c.child = place:start(c.o) -- side by side: one of them waits for 30 s
        end
        for _, c in ipairs(cases) do
          local r = c.child:finish()
          assert.equal(5, r.status, r.err)
          local from, reason = 0, REMADE:format(99)
          if c[2] then from, reason = c[1], c[2] end
          assert(r.err:find(("topic '%s' partition 0: offsets %d..99 are gone (%s); nothing was "
            .. "counted past them"):format(c.o.topic, from, reason), 1, true), r.err)
          assert(r.err:find("tidemill progress reset SCRIPT --from TIME", 1, true), r.err)
          assert.same({}, gaps(c.o))
          check(c.o)
          c.child = place:start(with(c.o, { args = { "--on-gap=skip" } }))
        end
        for _, c in ipairs(cases) do
          local r = c.child:finish()
          assert.equal(0, r.status, r.err)
          -- Nothing is read again: it goes on at the offset where it stood, or at the end.
          count(c.o, 101, c[1], 5)
          check(c.o)
          if c[2] then has_gap(c.o, 0, c[1], 100, c[2])
          else has_gap(c.o, 0, 0, 100, REMADE:format(99)) end
        end
      end)

      it("a topic made anew: progress reset begins it", function()
        local o = options(real.topic { partitions = 1 })
        real.send(o.topic, records(0, 1, 100))
        place:average(o)
        make_anew(o.topic, 1)
        real.send(o.topic, records(0, 1, 100, 5))
        assert.equal(5, place:start(o):finish().status)
        local reset = real.tidemill({ "progress", "reset", "scripts/averages.lua", "--from",
          "2024-08-09T00:00:00Z", "--execute", "--set", "topic=" .. o.topic, "--set", "name="
          .. o.name, "--set", "table=" .. o.table, "--set", "size=1000ms" },
          { env = place:env(), cwd = process.home() }):finish()
        assert.equal(0, reset.status, reset.err)
        place:average(o)
        count(o, 1, 100, 5)
        check(o)
        assert.same({}, gaps(o))
      end)

      it("a topic made anew while it is read", function()
        local o = options(real.topic { partitions = 1 })
        real.send(o.topic, records(0, 1, 100))
        local child = place:start(with(o, { until_end = false }))
        real.wait(function()
          local row = place:progress(o.name)[0]
          return row and row.position == 100
        end, "the first rows")
        count(o, 1, 100)
        make_anew(o.topic, 1, function() -- the run must have missed it meanwhile
          real.wait(function() return child:log():find("is not there", 1, true) end, "the run to miss it",
            120000)
        end)
        real.send(o.topic, records(0, 1, 200, 5))
        local r = child:finish(120000)
        assert.equal(5, r.status, r.err)
        assert(r.err:find(("partition 0: offsets 0..99 are gone (%s)"):format(REMADE:format(99)), 1,
          true), r.err)
        check(o)
      end)

      it("killed in the middle of skipping: once, and whole", function()
        local o = options(real.topic { partitions = 2 })
        for p = 0, 1 do real.send(o.topic, records(p, 1, 100)) end
        place:average(o)
        for p = 0, 1 do
          real.send(o.topic, records(p, 101, 300))
          delete_records(o.topic, p, 150 + p)
        end
        local other <close> = assert(mysql.connect(assert(mysqlurl.parse(place.url))))
        -- Whoever would record a gap waits within its transaction.
        assert(other:query "lock tables mill_gaps read")
        local child = place:start(with(o, { args = { "--on-gap=skip" } }))
        real.wait(function()
          return place:value("select count(*) from information_schema.processlist where info like "
            .. "'%%into mill_gaps%%' and db = '%s' and id <> connection_id()", place.database) > 0
        end, "the run to record it")
        child:kill "KILL"
        assert(other:query "unlock tables")
        assert.same({}, gaps(o))
        for p = 0, 1 do assert.equal(100, place:progress(o.name)[p].position) end
        skips(o)
        for p = 0, 1 do
          count(o, 1, 100)
          count(o, 151 + p, 300)
        end
        check(o)
        local id = real.cluster_id()
        assert.same({ { id, o.topic, 0, 100, 150, BELOW }, { id, o.topic, 1, 100, 151, BELOW } },
          gaps(o))
      end)

      it("that open while a slow run reads: what it has read is counted, the rest named", function()
        local total = 500000 -- more than two buffers hold
        for _, skip in ipairs { false, true } do
          local o = options(real.topic { partitions = 1 })
          o.table, o.size_ms, o.sums = place:table(true), 1, sums_.new(1) -- each row a window
          o.until_end, o.args = false, skip and { "--on-gap=skip" } or {}
          real.send(o.topic, records(0, 1, total))
          -- Commits wait for this table, until the buffer is full and reading stops.
          local other <close> = assert(mysql.connect(assert(mysqlurl.parse(place.url))))
          assert(other:query(("lock tables %s read"):format(mysql.name(o.table))))
          local child = place:start(o)
          real.wait(function() return child:log():find("paused: the buffer is full", 1, true) end,
            "the run to pause", 120000)
          delete_records(o.topic, 0, total - 100)
          assert(other:query "unlock tables")
          local from
          if skip then
            real.wait(function()
              local row = place:progress(o.name)[0]
              return row and row.position == total
            end, "the run to go on", 240000)
            child:kill "TERM"
            assert.equal(0, child:finish().status)
            from = gaps(o)[1][4]
            has_gap(o, 0, from, total - 100, BELOW)
            count(o, total - 99, total)
          else
            local r = child:finish()
            assert.equal(5, r.status, r.err)
            from = math.tointeger(tonumber(r.err:match(
              ("partition 0: offsets (%%d+)%%.%%.%d are gone"):format(total - 101))))
            assert.equal(from, place:progress(o.name)[0].position)
          end
          assert.is_true(from >= 20000, "what was read was dropped: " .. from)
          count(o, 1, from)
          check(o)
        end
      end)

      it("of the group's offsets there are none: its reset or end changes nothing", function()
        local o = options(real.topic { partitions = 2 })
        local a <close> = kafka.admin { brokers = real.kafka() }
        local last = 0
        local function more()
          for p = 0, 1 do real.send(o.topic, records(p, last + 1, last + 100)) end
          for _ = 0, 1 do count(o, last + 1, last + 100) end
          last = last + 100
          place:average(o)
          check(o)
        end
        local function commit(offset)
          local c <close> = kafka.consumer { brokers = real.kafka(), group = o.name }
          local list = {}
          for p = 0, 1 do list[#list + 1] = { topic = o.topic, partition = p, offset = offset } end
          assert(c:manual(list))
          real.wait(function()
            assert(c:commit(list)) -- again and again: one that fails is not told here
            c:events()
            local offsets = a:group_offsets(o.name, list, 5000)
            return offsets and offsets[1] and offsets[1].offset == offset
          end, "the group's offsets")
        end
        more()
        commit(0)
        more()
        commit(100000)
        more()
        real.wait(function() return (a:delete_group(o.name)) end, "the group to be deleted")
        more()
        assert.same({}, gaps(o))
      end)
    end)
  end
end)
