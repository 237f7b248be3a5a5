-- Members of a group with a name of their own (group.instance.id): how they come back, are fenced,
-- leave and end.

local kafka = require "host.kafka"
local kafka_ = require "spec.support.kafka"
local process = require "host.process"
local real = require "spec.support.real"

local TRIES = 5
local QUICK = { ["session.timeout.ms"] = 20000, ["heartbeat.interval.ms"] = 100 }

describe("a static member", function()
  if not real.kafka() then
    it("needs Kafka", function() pending "TIDEMILL_KAFKA is not set" end)
    return
  end

  local brokers, admin = real.kafka(), nil
  local function new_topic(partitions) return real.topic { partitions = partitions } end
  local function new_group() return real.name "static" end

  setup(function() admin = kafka.admin { brokers = brokers } end)
  teardown(function()
    admin:close()
    real.close()
  end)

  -- Leaving has a bound of time that a busy broker may exceed: the member comes back then, and leaves
  -- again. @param make function that makes it, m the first one, @return the one that has left
  local function left(make, m)
    for try = 1, TRIES do
      local ok, message, code = m.consumer:leave()
      if ok then return m end
      assert((code == "TIMED_OUT" or code == "TRANSPORT") and try < TRIES, message)
      m.consumer:close()
      m = make()
      kafka_.drive({ m }, "the assignment", function() return m:owned() > 0 end)
    end
  end

  it("gets its partitions back at once after a restart, and leaves when told to", function()
    local topic, group = new_topic(3), new_group()
    local function member()
      return kafka_.member { brokers = brokers, group = group, topic = topic, instance = "here/0" }
    end
    local function state()
      local found = assert(admin:describe_group(group, 10000))
      return { found.state, #found.members, found.members[1] and found.members[1].instance }
    end
    for _, gone in ipairs { "close", "abandon" } do
      local m = member()
      kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end, 20000)
      m.consumer[gone](m.consumer)
      assert.same({ "Stable", 1, "here/0" }, state())
    end
    local m = member()
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end, 20000)
    local found = assert(admin:describe_group(group, 10000))
    assert.same({ "cooperative-sticky", 3 }, { found.assignor, #found.members[1].partitions })
    local gone <close> = left(member, m)
    assert.same({ "Empty", 0 }, state())
    assert.is_truthy(gone)
  end)

  -- Behind such a fetch librdkafka's own questions would wait for longer than leaving may take.
  it("leaves while a fetch is under way, and finds its coordinator past brokers that are gone", function()
    local topic, group = new_topic(1), new_group()
    local function member()
      return kafka_.member {
        brokers = "127.0.0.1:1, PLAINTEXT://" .. brokers, group = group, topic = topic,
        instance = "here/0", conf = { ["fetch.wait.max.ms"] = 3000 },
      }
    end
    local m = member()
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 1 end)
    kafka_.drive({ m }, "the end", function() return m.consumer:stats().ends > 0 end)
    local gone <close> = left(member, m)
    assert.is_truthy(gone)
    local found = assert(admin:describe_group(group, 10000))
    assert.same({ "Empty", 0 }, { found.state, #found.members })
  end)

  it("joins anew as a member of the same name, and is given its partitions again", function()
    local topic, group = new_topic(3), new_group()
    local function member()
      return kafka_.member { brokers = brokers, group = group, topic = topic, instance = "here/0" }
    end
    local m = member()
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end)
    assert.is_true(m.consumer:rejoin())
    kafka_.drive({ m }, "the end of the first assignment", function() return m:owned() == 0 end)
    kafka_.drive({ m }, "the second one", function() return m:owned() == 3 end)
    local found = assert(admin:describe_group(group, 10000))
    assert.same({ "Stable", 1, "here/0" },
      { found.state, #found.members, found.members[1].instance })
    local gone <close> = left(member, m)
    assert.same({ nil, "STATE" }, { gone.consumer:rejoin(), (select(3, gone.consumer:rejoin())) })
  end)

  -- All of its threads have ended, though Lua has collected nothing of it.
  it("ends when it is closed, whatever Lua still holds", function()
    local function threads() return #process.list "/proc/self/task" end
    local topic, before = new_topic(3), threads()
    local m = kafka_.member {
      brokers = brokers, group = new_group(), topic = topic, instance = "here/0",
    }
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end)
    local list = { { partition = 0, offset = 0 }, { partition = 1, offset = 0 } }
    collectgarbage "stop"
    finally(function() collectgarbage "restart" end)
    for _, method in ipairs { "seek", "pause", "store", "watermarks", "committed", "resume" } do
      assert(m.consumer[method](m.consumer, list))
    end
    m.consumer:leave()
    m.consumer:close()
    kafka_.await("the end of its threads", function() return threads() <= before end, 30000)
  end)

  it("that took over from another fences it", function()
    local topic, group = new_topic(1), new_group()
    local function member()
      return kafka_.member {
        brokers = brokers, group = group, topic = topic, instance = "here/0", conf = QUICK,
      }
    end
    local a <close> = member()
    kafka_.drive({ a }, "the assignment", function() return a:owned() == 1 end)
    local b <close> = member()
    kafka_.drive({ a, b }, "the fencing", function() return #a.errors > 0 end)
    assert.equal("FENCED_INSTANCE_ID", a.errors[1].code)
    assert.is_true(a.errors[1].fatal)
    kafka_.drive({ b }, "the takeover", function() return b:owned() == 1 end)
  end)
end)
