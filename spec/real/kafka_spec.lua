-- host.kafka with real Kafka: groups, transactions, compaction, admin, outages. Cases marked #bulk
-- read 200,000 records or more as fast as they come: memcheck, far slower, shows nothing by them.

local brokers = os.getenv "TIDEMILL_KAFKA"

if not brokers or brokers == "" then
  describe("host.kafka with real Kafka", function()
    pending("TIDEMILL_KAFKA is not set (eval \"$(tools/servers.sh up kafka)\")")
  end)
  return
end

local batch = require "host.batch"
local bound = require "spec.support.bound"
local broker_ = require "spec.support.broker"
local clock = require "host.clock"
local digest = require "host.digest"
local kafka = require "host.kafka"
local kafka_ = require "spec.support.kafka"

-- Members here learn soon what happens; they leave by themselves, so that nobody waits for the end of
-- a session, and one that gets no time for a while stays.
local QUICK = { ["session.timeout.ms"] = 10000, ["heartbeat.interval.ms"] = 100 }
local SHORT_MS = 1500

local admin
local topics, groups = {}, {}

local function name(prefix)
  return ("%s_%s"):format(prefix, digest.random_hex(5))
end

local function new_group()
  groups[#groups + 1] = name "kafka_spec"
  return groups[#groups]
end

local function new_topic(partitions, config)
  local topic = name "kafka_spec"
  assert(admin:create_topic { name = topic, partitions = partitions, config = config })
  topics[#topics + 1] = topic
  -- The topic is there before every broker thread knows its leaders.
  kafka_.await("leaders", function()
    local found = assert(admin:metadata(topic, 10000)).topics[topic]
    if found.code or #found.partitions < partitions then return false end
    for _, p in ipairs(found.partitions) do
      if p.leader < 0 then return false end
    end
    return true
  end)
  return topic
end

setup(function() admin = kafka.admin { brokers = brokers } end)

teardown(function()
  for _, topic in ipairs(topics) do admin:delete_topic(topic, 20000) end
  for _, group in ipairs(groups) do admin:delete_group(group, 20000) end
  admin:close()
end)

local function with(extra)
  local conf = {}
  for key, value in pairs(QUICK) do conf[key] = value end
  for key, value in pairs(extra or {}) do conf[key] = value end
  return conf
end

local function check(log, read)
  assert.same({}, log.gaps)
  assert.equal(0, log.repeats)
  assert.equal(read, log.read)
end

for protocol, strategy in pairs { COOPERATIVE = "cooperative-sticky", EAGER = "range" } do
  describe(("a real group with the %s protocol"):format(protocol:lower()), function()
    it("reads every record once while members come and go", function()
      local topic, group, log = new_topic(3), new_group(), kafka_.log()
      kafka_.fill(brokers, topic, 3, 6000)
      local function member()
        return kafka_.member {
          brokers = brokers, group = group, topic = topic, log = log,
          conf = with { ["partition.assignment.strategy"] = strategy },
        }
      end
      local a <close> = member()
      kafka_.drive({ a }, "the first assignment", function() return a:owned() == 3 end)
      assert.equal(protocol, a.consumer:protocol())
      for round = 1, 3 do
        local b = member()
        kafka_.drive({ a, b }, "the second member", function()
          return b:owned() > 0 and a:owned() + b:owned() == 3
        end)
        kafka_.fill(brokers, topic, 3, 300)
        kafka_.drive({ a, b }, "the new records", function()
          return log.read >= 6000 + 300 * round
        end)
        assert.is_true(b.read > 0)
        b:close()
        kafka_.drive({ a }, "the way back", function() return a:owned() == 3 end)
      end
      check(log, 6900)
    end)
  end)
end

-- In librdkafka 2.0.2 a batch call under way when a cooperative rebalance pauses the partitions
-- takes records out of the batch and resumes behind them: without the seek that follows each answer,
-- about one run in two of this spec lost some.
describe("a member that reads at full speed", function()
  it("misses nothing while others join and leave #bulk", function()
    local topic, group, log = new_topic(3), new_group(), kafka_.log()
    kafka_.fill(brokers, topic, 3, 600000)
    local function member()
      return kafka_.member {
        brokers = brokers, group = group, topic = topic, log = log,
        conf = with { ["heartbeat.interval.ms"] = 50 },
      }
    end
    local a <close> = member()
    local function again()
      for partition = 0, 2 do
        if a.own[partition] and (log.next[partition] or 0) > 150000 then
          assert.is_true(select(2, a.consumer:seek { { partition = partition, offset = 0 } }))
          log.next[partition] = 0
        end
      end
    end
    for _ = 1, 12 do
      local b = member()
      kafka_.await("the second member", function()
        a:step(0)
        again()
        b:step(0)
        return b:owned() > 0
      end)
      b:close()
      kafka_.await("the way back", function()
        a:step(0)
        again()
        return a:owned() == 3
      end)
    end
    assert.same({}, log.gaps)
    assert.equal(0, log.repeats)
    assert.is_true(log.read > 100000)
  end)
end)

describe("a real member", function()
  it("stays in its group by polling alone while an assignment is not answered", function()
    local topic, group = new_topic(2), new_group()
    kafka_.fill(brokers, topic, 2, 10)
    local c <close> = kafka.consumer {
      brokers = brokers, group = group, topics = { topic },
      conf = with { ["max.poll.interval.ms"] = 6000, ["session.timeout.ms"] = 6000 },
    }
    local b <close> = batch.new()
    local assigned
    local function poll()
      assert.equal(0, c:poll(b, 100, 50))
      for _, e in ipairs(c:events()) do
        if e.type == "assign" then assigned = e.partitions end
        assert.is_true(e.type == "assign" or e.type == "log", e.type)
      end
    end
    kafka_.await("the assignment", function() poll() return assigned end)
    local until_ms = clock.mono_ms() + 7500 -- more than both limits
    while clock.mono_ms() < until_ms do poll() end
    for _, p in ipairs(assigned) do p.offset = 0 end
    assert.is_true(c:assign(assigned))
    c:resume(assigned)
    kafka_.await("records", function() return c:poll(b, 10, 100) > 0 end)
  end)

  it("that does not poll loses its partitions, is told, and gets them again", function()
    local topic, group = new_topic(2), new_group()
    kafka_.fill(brokers, topic, 2, 10)
    local m <close> = kafka_.member {
      brokers = brokers, group = group, topic = topic,
      conf = with { ["max.poll.interval.ms"] = SHORT_MS, ["session.timeout.ms"] = SHORT_MS },
    }
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 2 end)
    m.events = {}
    clock.sleep(6000) -- not polling is the point
    local lost, exceeded
    kafka_.drive({ m }, "the loss", function()
      for _, e in ipairs(m.events) do
        lost = lost or e.type == "lost"
        exceeded = exceeded or e.code == "MAX_POLL_EXCEEDED"
      end
      return lost and exceeded
    end)
    kafka_.drive({ m }, "the return", function() return m:owned() == 2 end)
    kafka_.drive({ m }, "all records", function() return m.log.read == 10 end)
    check(m.log, 10)
  end)

  it("that is gone without a word is replaced after the session timeout", function()
    local topic, group = new_topic(2), new_group()
    local conf = with { ["session.timeout.ms"] = SHORT_MS }
    local a = kafka_.member { brokers = brokers, group = group, topic = topic, conf = conf }
    kafka_.drive({ a }, "the assignment", function() return a:owned() == 2 end)
    a.consumer:abandon()
    local b <close> = kafka_.member { brokers = brokers, group = group, topic = topic, conf = conf }
    kafka_.drive({ b }, "the replacement", function() return b:owned() == 2 end)
  end)

  it("learns that its topic does not exist", function()
    local c <close> = kafka.consumer {
      brokers = brokers, group = new_group(), topics = { name "missing" },
    }
    local b <close> = batch.new()
    local event
    kafka_.await("the error", function()
      c:poll(b, 10, 50)
      for _, e in ipairs(c:events()) do
        if e.type == "error" then event = e end
      end
      return event
    end)
    assert.equal("UNKNOWN_TOPIC_OR_PART", event.code)
  end)

  it("closes while its topic is being deleted", function()
    local topic = new_topic(3)
    kafka_.fill(brokers, topic, 3, 3000)
    local m = kafka_.member { brokers = brokers, group = new_group(), topic = topic, conf = QUICK }
    kafka_.drive({ m }, "records", function() return m.read > 100 end)
    assert.is_true(admin:delete_topic(topic, 20000))
    local until_ms = clock.mono_ms() + 500
    while clock.mono_ms() < until_ms do m:step(50) end
    bound.within(4000, "close", function() m:close() end)
  end)
end)

describe("a transactional topic", function()
  local function producer(id)
    local p = kafka.producer { brokers = brokers, conf = { ["transactional.id"] = id } }
    local ok, message = p:init_transactions(30000)
    assert(ok, message)
    return p
  end

  it("shows committed records only, and ends behind its control records", function()
    local topic = new_topic(1)
    local p <close> = producer(name "txn")
    for round = 1, 6 do
      assert(p:begin())
      for i = 1, 10 do assert(p:produce(topic, nil, ("%d.%d"):format(round, i))) end
      if round % 2 == 0 then
        assert.equal(0, p:flush(10000))
        assert(p:abort(10000))
      else
        assert(p:commit(10000))
      end
    end
    -- A commit returns before its markers are in every partition.
    kafka_.await("the last marker", function()
      return select(2, admin:watermarks(topic, 0, 10000)) == 66
    end)
    local c <close> = kafka.consumer { brokers = brokers }
    local b <close> = batch.new()
    local values, ended = {}, nil
    assert(c:manual { { topic = topic, partition = 0, offset = 0 } })
    kafka_.await("the end", function()
      for i = 1, c:poll(b, 7, 100) do values[#values + 1] = b:record(i).value end
      ended = b:ends()[1]
      return ended
    end)
    assert.equal(66, ended.offset)
    assert.equal(30, #values)
    for i, value in ipairs(values) do
      assert.equal(("%d.%d"):format((i - 1) // 10 * 2 + 1, (i - 1) % 10 + 1), value)
    end
    assert.equal(66, c:assignment()[1].offset)
  end)

  it("ends, for now, before an open transaction", function()
    local topic = new_topic(1)
    kafka_.fill(brokers, topic, 1, 5)
    local p <close> = producer(name "txn")
    assert(p:begin())
    for i = 1, 3 do assert(p:produce(topic, nil, "open" .. i)) end
    assert.equal(0, p:flush(10000))
    kafka_.fill(brokers, topic, 1, 2) -- behind the open transaction
    assert.same({ 0, 5 }, { admin:watermarks(topic, 0, 10000) })
    local dirty <close> = kafka.admin {
      brokers = brokers, conf = { ["isolation.level"] = "read_uncommitted" },
    }
    assert.same({ 0, 10 }, { dirty:watermarks(topic, 0, 10000) })
    assert.equal(5, #broker_.records(brokers, topic, 1))
    assert(p:commit(10000))
    kafka_.await("the new end", function()
      return select(2, admin:watermarks(topic, 0, 10000)) == 11
    end)
    assert.equal(10, #broker_.records(brokers, topic, 1))
  end)

  it("has one producer of a name: a second fences the first", function()
    local topic, id = new_topic(1), name "txn"
    local first <close> = producer(id)
    assert(first:begin())
    assert(first:produce(topic, nil, "first"))
    assert.equal(0, first:flush(10000))
    local second <close> = producer(id)
    local ok, _, code, kind = first:commit(10000)
    assert.is_nil(ok)
    assert.equal("fatal", kind, code)
    assert.is_truthy(code == "FENCED" or code == "PRODUCER_FENCED"
      or code == "INVALID_PRODUCER_EPOCH", code)
    assert(second:begin())
    assert(second:produce(topic, nil, "second"))
    assert(second:commit(10000))
    local records
    kafka_.await("the committed record", function()
      records = broker_.records(brokers, topic, 1)
      return #records > 0
    end)
    assert.same({ 1, "second" }, { #records, records[1].value })
  end)
end)

describe("a compacted topic", function()
  it("has holes that are no gaps, and its end", function()
    local topic = new_topic(1, {
      ["cleanup.policy"] = "compact", ["segment.ms"] = 100, ["min.cleanable.dirty.ratio"] = 0.01,
      ["delete.retention.ms"] = 0, ["min.compaction.lag.ms"] = 0,
    })
    local p <close> = kafka.producer { brokers = brokers }
    local sent = 0
    local function send(n)
      for _ = 1, n do
        sent = sent + 1
        assert(p:produce(topic, "k" .. sent % 3, "v" .. sent))
      end
      assert.equal(0, p:flush(10000))
    end
    send(300)
    local records
    kafka_.await("the compaction", function()
      clock.sleep(150)
      send(1) -- a record rolls the segment that is old enough
      records = broker_.records(brokers, topic, 1)
      return #records < 100
    end)
    local previous = -1
    for _, r in ipairs(records) do
      assert.is_true(r.offset > previous)
      previous = r.offset
    end
    assert.equal(sent - 1, previous)
    assert.equal("v" .. sent, records[#records].value)
  end)
end)

describe("the log's start", function()
  it("moves when records are deleted, and a position before it is an error", function()
    local topic = new_topic(1)
    kafka_.fill(brokers, topic, 1, 100)
    local at = { { topic = topic, partition = 0, offset = 40 } }
    assert.equal(40, assert(admin:delete_records(at, 10000))[1].offset)
    assert.same({ 40, 100 }, { admin:watermarks(topic, 0, 10000) })
    at[1].offset = 1000
    assert.equal("OFFSET_OUT_OF_RANGE", assert(admin:delete_records(at, 10000))[1].code)
    local c <close> = kafka.consumer { brokers = brokers }
    local b <close> = batch.new()
    assert(c:manual { { topic = topic, partition = 0, offset = 10 } })
    local event
    kafka_.await("the error", function()
      assert.equal(0, c:poll(b, 10, 50))
      for _, e in ipairs(c:events()) do
        if e.type == "error" then event = e end
      end
      return event
    end)
    assert.same({ "AUTO_OFFSET_RESET", 0, 10 }, { event.code, event.partition, event.offset })
    assert.is_true(select(2, c:seek { { partition = 0, offset = 40 } }))
    kafka_.await("records", function() return c:poll(b, 10, 100) > 0 end)
    assert.equal(40, b:record(1).offset)
  end)

  it("does not stop a member of a group from going on elsewhere", function()
    local topic, group = new_topic(2), new_group()
    kafka_.fill(brokers, topic, 2, 200)
    for _, strategy in ipairs { "cooperative-sticky", "range" } do
      local m <close> = kafka_.member {
        brokers = brokers, group = group, topic = topic,
        conf = with { ["partition.assignment.strategy"] = strategy },
      }
      kafka_.drive({ m }, "all records", function() return m.log.read == 200 end)
      assert.is_true(select(2, m.consumer:seek { { partition = 1, offset = 7777 } }))
      kafka_.drive({ m }, "the error", function() return #m.errors > 0 end)
      m.log.next[1] = 60
      assert.is_true(select(2, m.consumer:seek { { partition = 1, offset = 60 } }))
      kafka_.drive({ m }, "the records sought", function() return m.log.read == 240 end)
      check(m.log, 240)
    end
  end)
end)

describe("seek, pause and resume with real Kafka", function()
  it("lose and repeat nothing in any order, at full speed #bulk", function()
    local topic = new_topic(2)
    kafka_.fill(brokers, topic, 2, 200000)
    local c <close> = kafka.consumer { brokers = brokers }
    local b <close> = batch.new()
    local expected, paused = { [0] = 0, 0 }, {}
    assert(c:manual {
      { topic = topic, partition = 0, offset = 0 }, { topic = topic, partition = 1, offset = 0 },
    })
    local seed, read = clock.wall_ms() % 1000000, 0
    io.stderr:write(("\nkafka seed %d\n"):format(seed))
    local function random(n)
      seed = (seed * 1103515245 + 12345) % 2147483648
      return seed // 65536 % n
    end
    -- A client that is slow to start would read nothing in so many steps: it gets more.
    local steps, deadline = 0, clock.mono_ms() + kafka_.DEADLINE_MS
    while steps < 1500 or read <= 10000 and clock.mono_ms() < deadline do
      steps = steps + 1
      local what, partition = random(12), random(2)
      local one = { { partition = partition, offset = random(100000) } }
      if what == 0 then c:pause(one) paused[partition] = true
      elseif what == 1 or what == 2 then c:resume(one) paused[partition] = nil
      elseif what == 3 then
        assert.is_true(select(2, c:seek(one)))
        expected[partition] = one[1].offset
      else
        for i = 1, c:poll(b, 1 + random(3000), random(4)) do
          local r = b:record(i)
          if paused[r.partition] or expected[r.partition] ~= r.offset then
            error(("partition %d: %d instead of %d, paused %s"):format(r.partition, r.offset,
              expected[r.partition], paused[r.partition]))
          end
          expected[r.partition] = r.offset + 1
          read = read + 1
        end
      end
    end
    assert.is_true(read > 10000)
    for _, p in ipairs(c:assignment()) do assert.equal(expected[p.partition], p.offset) end
  end)
end)

-- librdkafka 2.0.2 sleeps for up to a second whenever it finds its queue full, however soon that is
-- read: unless it is woken, it sleeps some eighteen times over these records. How long they take as a
-- whole depends on the machine.
describe("a reader with little fetched ahead", function()
  it("is not kept waiting for more #bulk", function()
    local topic = new_topic(1)
    kafka_.fill(brokers, topic, 1, 200000)
    local c <close> = kafka.consumer { brokers = brokers, conf = { ["queued.min.messages"] = 500 } }
    local b <close> = batch.new()
    assert(c:manual { { topic = topic, partition = 0, offset = 0 } })
    local n, naps, last = 0, 0, nil
    kafka_.await("all records", function()
      local k = c:poll(b, 400, 100)
      -- Not each of them: it is to read faster than it is sent.
      if k > 0 then assert.equal(n + k - 1, b:record(k).offset) end
      n = n + k
      local now = clock.mono_ms()
      if k > 0 then
        if last and now - last >= 700 then naps = naps + 1 end
        last = now
      end
      return n == 200000
    end)
    assert.is_true(naps < 9, naps .. " times nothing came for most of a second")
  end)
end)

describe("the admin of a real cluster", function()
  it("creates, describes, grows and deletes a topic", function()
    local topic = name "kafka_spec"
    local function code(...) return (select(3, ...)) end
    assert.is_true(admin:create_topic {
      name = topic, partitions = 2, replication = 1, config = { ["retention.ms"] = 3600000 },
    })
    assert.equal("TOPIC_ALREADY_EXISTS", code(admin:create_topic { name = topic, partitions = 2 }))
    assert.equal("TOPIC_EXCEPTION", code(admin:create_topic { name = "a b", partitions = 1 }))
    assert.equal("INVALID_CONFIG", code(admin:create_topic {
      name = topic .. "x", partitions = 1, config = { nonsense = 1 },
    }))
    local config = assert(admin:topic_config(topic, 10000))
    assert.same({ "3600000", false, "delete", true }, {
      config["retention.ms"].value, config["retention.ms"].default,
      config["cleanup.policy"].value, config["cleanup.policy"].default,
    })
    assert.is_string(assert(admin:broker_config(1, 10000))["log.dirs"].value)
    assert.is_true(admin:create_partitions(topic, 3, 10000))
    assert.equal("INVALID_PARTITIONS", code(admin:create_partitions(topic, 1, 10000)))
    local meta
    kafka_.await("the third partition", function()
      meta = assert(admin:metadata(topic, 10000))
      return #meta.topics[topic].partitions == 3
    end)
    assert.equal("integer", math.type(meta.controller))
    assert.equal(22, #meta.cluster_id)
    assert.is_true(admin:delete_topic(topic, 10000))
    assert.equal("UNKNOWN_TOPIC_OR_PART", code(admin:delete_topic(topic, 10000)))
    kafka_.await("the topic's end", function()
      return code(admin:topic_config(topic, 10000)) == "UNKNOWN_TOPIC_OR_PART"
    end)
    kafka_.await("the topic's absence", function()
      local found = assert(admin:metadata(topic, 10000)).topics[topic]
      return found.code == "UNKNOWN_TOPIC_OR_PART"
    end)
  end)

  it("finds groups, their members and offsets", function()
    local topic, group = new_topic(2), new_group()
    kafka_.fill(brokers, topic, 2, 20)
    local m <close> = kafka_.member { brokers = brokers, group = group, topic = topic, conf = QUICK }
    kafka_.drive({ m }, "all records", function() return m.log.read == 20 end)
    assert.is_true(m.consumer:commit(m.consumer:assignment()))
    local function offsets(list)
      local out = {}
      for _, e in ipairs(assert(admin:group_offsets(group, list, 10000))) do
        out[e.partition] = e.offset or "none"
      end
      return out
    end
    kafka_.drive({ m }, "the commit", function() return offsets()[1] == 10 end)
    assert.same({ [0] = 10, 10 }, offsets())
    assert.same({ [0] = 10, [7] = "none" },
      offsets { { topic = topic, partition = 0 }, { topic = topic, partition = 7 } })
    local seen
    for _, g in ipairs(assert(admin:groups(10000))) do
      if g.name == group then seen = g end
    end
    assert.same({ name = group, state = "Stable", simple = false }, seen)
    local found = assert(admin:describe_group(group, 10000))
    assert.same({ "Stable", 1, 2 }, { found.state, #found.members, #found.members[1].partitions })
    local _, _, code = admin:delete_group(group, 10000)
    assert.equal("NON_EMPTY_GROUP", code)
    assert.equal("Dead", assert(admin:describe_group(name "nobody", 10000)).state)
  end)

  it("finds offsets by time", function()
    -- These messages are old: the usual retention would delete them within a second.
    local topic = new_topic(1, { ["retention.ms"] = "-1" })
    local p <close> = kafka.producer { brokers = brokers }
    local base = 1723161255000
    for i = 0, 9 do assert(p:produce(topic, nil, "v" .. i, base + i * 1000)) end
    assert.equal(0, p:flush(10000))
    local at = { { topic = topic, partition = 0 } }
    assert.equal(4, assert(admin:offsets_for_time(at, base + 3001, 10000))[1].offset)
    assert.equal(0, assert(admin:offsets_for_time(at, 0, 10000))[1].offset)
    assert.is_nil(assert(admin:offsets_for_time(at, base + 9001, 10000))[1].offset)
  end)
end)
