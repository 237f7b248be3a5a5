-- host.kafka: options, life of the handles, the development broker.

local bound = require "spec.support.bound"
local broker_ = require "spec.support.broker"
local clock = require "host.clock"
local kafka = require "host.kafka"

local NOWHERE = "127.0.0.1:1" -- nobody listens there

describe("the options of a Kafka client", function()
  it("are refused by name when they are unknown", function()
    assert.has_error(function() kafka.producer { brokers = NOWHERE, linger = 1 } end,
      "unknown option 'linger' (known: brokers, conf)")
    assert.has_error(function() kafka.consumer { brokers = NOWHERE, topic = "t" } end,
      "unknown option 'topic' (known: brokers, group, instance, topics, conf)")
    assert.has_error(function()
      kafka.consumer { brokers = NOWHERE, conf = { ["fetch.wait.msec"] = 1 } }
    end, [[kafka option 'fetch.wait.msec': No such configuration property: "fetch.wait.msec"]])
  end)

  it("take strings, numbers and booleans", function()
    local p <close> = kafka.producer {
      brokers = NOWHERE,
      conf = { ["linger.ms"] = 5, ["enable.idempotence"] = false, ["compression.type"] = "zstd" },
    }
    assert.equal(0, p:queued())
    assert.has_error(function() kafka.producer { brokers = NOWHERE, conf = { acks = {} } } end,
      "kafka option 'acks' must be a string, a number or a boolean, got a table")
  end)

  it("need brokers", function()
    for _, new in ipairs { kafka.producer, kafka.consumer, kafka.admin } do
      assert.has_error(function() new {} end, "option 'brokers' is required")
    end
  end)

  it("never show a secret", function()
    local secret = "s3cr3t-value"
    for _, key in ipairs { "ssl.key.pem", "ssl.key.password", "sasl.password",
        "sasl.oauthbearer.config" } do
      local ok, message = pcall(function()
        kafka.consumer {
          brokers = NOWHERE, conf = { [key] = secret, ["security.protocol"] = "sasl_ssl" },
        }:close()
      end)
      assert.is_nil(not ok and message:find(secret, 1, true) or nil)
    end
  end)

  it("name a value that librdkafka refuses", function()
    local ok, message = pcall(kafka.producer, { brokers = NOWHERE, conf = { ["linger.ms"] = "x" } })
    assert.is_false(ok)
    -- librdkafka names the option that linger.ms is another name of.
    assert.matches("^kafka option 'linger.ms': Invalid value for .*buffering.max.ms", message)
  end)

  it("that contradict each other are refused at the start", function()
    local ok, message = pcall(kafka.producer, {
      brokers = NOWHERE, conf = { ["enable.idempotence"] = true, acks = 0 },
    })
    assert.is_false(ok)
    assert.matches("acks", message)
  end)

  it("a consumer reads one topic, by its name", function()
    assert.has_error(function()
      kafka.consumer { brokers = NOWHERE, group = "g", topics = { "a", "b" } }
    end, "option 'topics': a consumer reads one topic, since a batch does not name it")
    assert.has_error(function()
      kafka.consumer { brokers = NOWHERE, group = "g", topics = { "^a.*" } }
    end, "option 'topics' must hold the name of one topic")
  end)
end)

describe("a Kafka handle", function()
  local make = {
    producer = function() return kafka.producer { brokers = NOWHERE } end,
    consumer = function() return kafka.consumer { brokers = NOWHERE, group = "g" } end,
    admin = function() return kafka.admin { brokers = NOWHERE } end,
    broker = function() return kafka.broker {} end,
  }
  local use = {
    producer = function(h) h:flush(0) end, consumer = function(h) h:events() end,
    admin = function(h) h:events() end, broker = function(h) h:bootstrap() end,
  }

  for name, new in pairs(make) do
    it("of a " .. name .. " closes twice and refuses use after it", function()
      local h = new()
      assert.matches("^" .. name .. " %(0x", tostring(h))
      h:close()
      h:close()
      assert.equal(name .. " (closed)", tostring(h))
      assert.has_error(function() use[name](h) end, "attempt to use a closed " .. name)
    end)

    it("of a " .. name .. " is closed when it goes out of scope", function()
      local kept
      do
        local h <close> = new()
        kept = h
      end
      assert.equal(name .. " (closed)", tostring(kept))
    end)

    it("of a " .. name .. " may be collected while it is open", function()
      local h = new()
      use[name](h)
      h = nil -- luacheck: ignore
      collectgarbage()
      collectgarbage()
    end)
  end

  it("leaves nothing behind when its constructor fails", function()
    for _ = 1, 20 do
      pcall(kafka.consumer, { brokers = NOWHERE, group = "g", conf = { nonsense = 1 } })
    end
    collectgarbage()
  end)
end)

describe("the version", function()
  it("is librdkafka's", function() assert.matches("^%d+%.%d+%.%d+", kafka.version()) end)
end)

describe("the development broker", function()
  it("serves topics with the partitions asked for", function()
    local broker <close> = broker_.start { prices = 3, one = 1 }
    local admin <close> = kafka.admin { brokers = broker:bootstrap() }
    local meta = assert(admin:metadata(nil, 10000))
    assert.equal(1, #meta.brokers)
    assert.equal("127.0.0.1", meta.brokers[1].host)
    assert.matches("^mockCluster", meta.cluster_id)
    assert.equal(3, #meta.topics.prices.partitions)
    assert.equal(1, #meta.topics.one.partitions)
    assert.equal(1, meta.topics.one.partitions[1].leader)
  end)

  it("refuses what it cannot do", function()
    assert.has_error(function() kafka.broker { topics = { { name = "x", partitions = 0 } } } end,
      "option 'partitions' must be between 1 and 10000, got 0")
    local broker <close> = kafka.broker {}
    local ok, message, code = broker:broker_down(99)
    assert.is_nil(ok)
    assert.matches("^kafka: ", message)
    assert.is_string(code)
  end)

  it("says UNSUPPORTED at once to what it lacks", function()
    local broker <close> = broker_.start { t = 1 }
    local admin <close> = kafka.admin { brokers = broker:bootstrap() }
    local began = clock.mono_ms()
    local at = { { topic = "t", partition = 0, offset = 0 } }
    for name, call in pairs {
      create_topic = function() return admin:create_topic { name = "x", partitions = 1 } end,
      delete_topic = function() return admin:delete_topic "t" end,
      create_partitions = function() return admin:create_partitions("t", 2) end,
      delete_records = function() return admin:delete_records(at) end,
      topic_config = function() return admin:topic_config "t" end,
      broker_config = function() return admin:broker_config(1) end,
      groups = function() return admin:groups() end,
      describe_group = function() return admin:describe_group "g" end,
      group_offsets = function() return admin:group_offsets("g", at) end,
      delete_group = function() return admin:delete_group "g" end,
      offsets_for_time = function() return admin:offsets_for_time(at, 0) end,
    } do
      local value, message, code = call()
      assert.same({ name, nil, "kafka: UNSUPPORTED: not offered by the development broker",
        "UNSUPPORTED" }, { name, value, message, code })
    end
    assert.is_true(clock.mono_ms() - began < 20000)
  end)
end)

describe("a cluster that does not answer", function()
  it("is reported when the timeout is over", function()
    local admin <close> = kafka.admin { brokers = NOWHERE }
    for _, call in ipairs {
      function() return admin:metadata(nil, 200) end,
      function() return admin:watermarks("t", 0, 200) end,
      function() return admin:groups(200) end,
      function() return admin:create_topic { name = "t", timeout_ms = 200 } end,
    } do
      local value, message, code = bound.soon(3000, "a call", call)
      assert.is_nil(value)
      assert.matches("^kafka: " .. code .. ": ", message)
    end
  end)

  it("does not hold up closing", function()
    for _, h in ipairs {
      kafka.producer { brokers = NOWHERE }, kafka.admin { brokers = NOWHERE },
      kafka.consumer { brokers = NOWHERE, group = "g", topics = { "t" } },
    } do
      bound.within(3000, "close", function() h:close() end)
    end
  end)

  it("shows as events, never on stderr", function()
    local consumer <close> = kafka.consumer { brokers = NOWHERE, group = "g", topics = { "t" } }
    local batch <close> = require("host.batch").new()
    local kafka_ = require "spec.support.kafka"
    local seen
    kafka_.await("an error event", function()
      consumer:poll(batch, 10, 100)
      for _, event in ipairs(consumer:events()) do
        if event.type == "error" then seen = event end
      end
      return seen
    end)
    assert.is_string(seen.code)
    assert.is_string(seen.message)
    assert.is_false(seen.fatal)
  end)
end)
