-- host.kafka's producer on the development broker.

local bound = require "spec.support.bound"
local broker_ = require "spec.support.broker"
local kafka = require "host.kafka"
local kafka_ = require "spec.support.kafka"

local broker

setup(function() broker = broker_.start { t = 3, one = 1, keys = 3, down = 1, stamps = 1 } end)
teardown(function() broker:close() end)

local function by_value(records)
  local out = {}
  for _, r in ipairs(records) do out[r.value or "nil"] = r end
  return out
end

describe("a producer", function()
  it("delivers what it is given and counts it", function()
    local p <close> = kafka.producer { brokers = broker:bootstrap() }
    for i = 1, 500 do assert.is_true(p:produce("t", "k" .. i % 5, "v" .. i)) end
    assert.equal(0, p:flush(10000))
    local r = p:poll(0)
    assert.same({ 500, 0, {} }, { r.delivered, r.failures, r.failed })
    assert.equal(0, p:poll(0).delivered)
    local s = p:stats()
    assert.same({ 500, 500, 0, 0 }, { s.sent, s.delivered, s.failed, s.queued })
    assert.is_true(s.latency_us.p50 > 0 and s.latency_us.p50 <= s.latency_us.p99)
    assert.is_true(s.latency_us.p99 <= s.latency_us.max)
    assert.equal(500, #broker_.records(broker:bootstrap(), "t", 3))
  end)

  it("keeps bytes, nulls, timestamps and the partition", function()
    local p <close> = kafka.producer { brokers = broker:bootstrap() }
    assert.is_true(p:send {
      topic = "one", key = "a\0b", value = "x\0\255", partition = 0, timestamp_ms = 1723161255342,
      headers = { trace = "1", empty = "" },
    })
    assert.is_true(p:send { topic = "one", key = "tombstone" })
    assert.is_true(p:produce("one", nil, "no key", 1723161255343))
    assert.is_true(p:produce("one", "", ""))
    assert.equal(0, p:flush(10000))
    local records = by_value(broker_.records(broker:bootstrap(), "one", 1))
    local r = records["x\0\255"]
    assert.same({ "a\0b", 0, 1723161255342 }, { r.key, r.partition, r.stamp_ms })
    assert.same({ nil, 1723161255343 }, { records["no key"].key, records["no key"].stamp_ms })
    assert.equal("tombstone", records["nil"].key)
    assert.equal("", records[""].key)
  end)

  it("is abandoned without waiting for a broker that does not answer", function()
    local function filled()
      local p = kafka.producer { brokers = "127.0.0.1:1" }
      for i = 1, 100 do assert.is_true(p:produce("t", "k", "v" .. i)) end
      return p
    end
    local p
    local three = { filled(), filled(), filled() }
    bound.soon(400, "abandon", function()
      p = table.remove(three)
      assert.is_true(p:abandon())
    end, #three)
    for _, other in ipairs(three) do other:abandon() end
    assert.has_error(function() p:abandon() end, "attempt to use a closed producer")
    p:close()
  end)

  it("puts a key where Java's producer would", function()
    -- toPositive(murmur2(key)) % 3, by org.apache.kafka.common.utils.Utils.
    local expected = {
      BTCUSDT = 2, ETHUSDT = 2, BNBUSDT = 0, SOLUSDT = 0, XRPUSDT = 2, a = 1, ["ключ"] = 2,
    }
    local p <close> = kafka.producer { brokers = broker:bootstrap() }
    for key in pairs(expected) do assert.is_true(p:produce("keys", key, key)) end
    assert.equal(0, p:flush(10000))
    local found = {}
    for _, r in ipairs(broker_.records(broker:bootstrap(), "keys", 3)) do
      found[r.key] = r.partition
    end
    assert.same(expected, found)
  end)

  it("says QUEUE_FULL and takes the record again later", function()
    local p <close> = kafka.producer {
      brokers = broker:bootstrap(),
      conf = { ["queue.buffering.max.messages"] = 10, ["linger.ms"] = 60000 },
    }
    local sent, message, code = 0, nil, nil
    for i = 1, 11 do
      local ok
      ok, message, code = p:produce("t", nil, "full" .. i)
      if ok then sent = sent + 1 end
    end
    assert.same({ 10, "kafka: QUEUE_FULL: Local: Queue full", "QUEUE_FULL" },
      { sent, message, code })
    assert.equal(1, p:stats().queue_full)
    assert.equal(0, p:flush(10000))
    assert.is_true(p:produce("t", nil, "full11"))
    assert.equal(0, p:flush(10000))
    assert.equal(11, p:poll(0).delivered)
  end)

  it("refuses what cannot be sent", function()
    local p <close> = kafka.producer { brokers = broker:bootstrap() }
    local ok, _, code = p:produce("t", nil, ("x"):rep(1100000))
    assert.same({ nil, "MSG_SIZE_TOO_LARGE" }, { ok, code })
    assert.has_error(function() p:send { value = "x" } end, "option 'topic' is required")
    assert.has_error(function() p:send { topic = "t", vlaue = "x" } end,
      "unknown option 'vlaue' (known: topic, key, value, partition, headers, timestamp_ms)")
    assert.has_error(function() p:begin() end,
      "this producer has no conf['transactional.id']")
  end)

  it("reports a record for a partition that is not there", function()
    local p <close> = kafka.producer { brokers = broker:bootstrap() }
    assert.is_true(p:produce("t", "the key", "v", nil, 77))
    local failed
    kafka_.await("the failure", function()
      local r = p:poll(100)
      failed = r.failed[1]
      return failed
    end)
    assert.same({ "t", 77, "the key", "UNKNOWN_PARTITION" },
      { failed.topic, failed.partition, failed.key, failed.code })
  end)

  it("gives up on purge, and every record is accounted for", function()
    local p <close> = kafka.producer {
      brokers = broker:bootstrap(), conf = { ["linger.ms"] = 60000 },
    }
    for i = 1, 250 do assert.is_true(p:produce("t", "k" .. i, "purged")) end
    assert.equal(250, p:queued())
    assert.equal(0, p:purge())
    local r = p:poll(0)
    assert.same({ 0, 250, 100 }, { r.delivered, r.failures, #r.failed })
    assert.equal("PURGE_QUEUE", r.failed[1].code)
    assert.same({ 250, 0 }, { p:stats().failed, p:stats().delivered })
  end)

  it("keeps records through an outage and delivers them once", function()
    local p <close> = kafka.producer { brokers = broker:bootstrap() }
    assert.is_true(p:produce("down", nil, "before"))
    assert.equal(0, p:flush(10000))
    assert.is_true(broker:broker_down(1))
    for i = 1, 20 do assert.is_true(p:produce("down", nil, "during" .. i)) end
    assert.equal(20, bound.soon(2000, "flush", function() return p:flush(200) end))
    assert.is_true(broker:broker_up(1))
    assert.equal(0, p:flush(30000))
    assert.equal(21, #broker_.records(broker:bootstrap(), "down", 1))
  end)

  it("closes at once with records it cannot deliver", function()
    local p = kafka.producer { brokers = "127.0.0.1:1" }
    for i = 1, 100 do assert.is_true(p:produce("t", nil, "lost" .. i)) end
    bound.within(3000, "close", function() p:close() end)
  end)
end)

describe("a transactional producer", function()
  it("runs its calls on the development broker, which isolates nothing", function()
    local p <close> = kafka.producer {
      brokers = broker:bootstrap(), conf = { ["transactional.id"] = "spec" },
    }
    assert.is_true(p:init_transactions(10000))
    assert.is_true(p:begin())
    assert.is_true(p:produce("stamps", nil, "kept"))
    assert.is_true(p:commit(10000))
    assert.is_true(p:begin())
    local again, _, code, kind = p:begin()
    assert.same({ nil, "STATE", "error" }, { again, code, kind })
    assert.is_true(p:produce("stamps", nil, "aborted"))
    assert.equal(0, p:flush(10000))
    assert.is_true(p:abort(10000))
    assert.equal(2, #broker_.records(broker:bootstrap(), "stamps", 1))
  end)

  it("says that a call timed out and may be repeated", function()
    local p <close> = kafka.producer {
      brokers = "127.0.0.1:1", conf = { ["transactional.id"] = "spec" },
    }
    local ok, _, code, kind = p:init_transactions(200)
    assert.same({ nil, "TIMED_OUT", "retry" }, { ok, code, kind })
  end)
end)
