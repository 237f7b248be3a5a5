-- host.kafka while a real broker is frozen, killed and started again: one of this spec's own.

if (os.getenv "TIDEMILL_KAFKA" or "") == "" then
  describe("host.kafka with a real broker that fails", function()
    pending("TIDEMILL_KAFKA is not set (eval \"$(tools/servers.sh up kafka)\")")
  end)
  return
end

local bound = require "spec.support.bound"
local broker_ = require "spec.support.broker"
local kafka = require "host.kafka"
local kafka_ = require "spec.support.kafka"
local servers = require "spec.support.servers"

local own, brokers

local function signal(name) own:signal("kafka", name) end

setup(function()
  own = servers.up { "kafka" }
  brokers = own.env.TIDEMILL_KAFKA
end)

teardown(function()
  pcall(signal, "CONT")
  own:close()
end)

local function topic(name, partitions)
  local admin <close> = kafka.admin { brokers = brokers }
  assert(admin:create_topic { name = name, partitions = partitions })
  kafka_.await("the topic", function()
    local found = assert(admin:metadata(name, 10000)).topics[name]
    return not found.code and #found.partitions == partitions
  end)
  return name
end

describe("a broker that is killed and started again", function()
  it("costs no record and repeats none", function()
    local name, log = topic("killed", 3), kafka_.log()
    local p <close> = kafka.producer { brokers = brokers }
    local sent = 0
    local function send(n)
      for _ = 1, n do
        assert(p:produce(name, "k" .. sent, "v" .. sent, nil, sent % 3))
        sent = sent + 1
      end
    end
    -- A broker that starts slowly must not cost the membership: that is another story.
    local m <close> = kafka_.member {
      brokers = brokers, group = "killed", topic = name, instance = "here/0", log = log,
      conf = { ["session.timeout.ms"] = 600000, ["max.poll.interval.ms"] = 600000 },
    }
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end)
    send(3000)
    kafka_.drive({ m }, "some records", function() return log.read > 1000 end)
    send(300)
    assert.equal(0, p:flush(60000)) -- librdkafka may send twice what was not acknowledged
    own "kafka-kill"
    send(300)
    kafka_.drive({ m }, "an error", function() return #m.errors > 0 end)
    own "kafka-start"
    send(300)
    assert.equal(0, p:flush(60000))
    kafka_.drive({ m }, "all records", function() return log.read >= sent end)
    assert.same({ {}, 0, sent }, { log.gaps, log.repeats, log.read })
    local r = p:poll(0)
    assert.same({ sent, 0 }, { r.delivered, r.failures })
    assert.equal(sent, #broker_.records(brokers, name, 3))
  end)
end)

describe("a broker that is frozen", function()
  it("holds nothing up for long", function()
    local name = topic("frozen", 2)
    kafka_.fill(brokers, name, 2, 200)
    local function member(group, instance)
      local m = kafka_.member { brokers = brokers, group = group, topic = name, instance = instance }
      kafka_.drive({ m }, "the records", function() return m.log.read == 200 end)
      return m
    end
    local static, leaver = member("static", "a"), member("leaver", "b")
    local dynamic = { member "dynamic 1", member "dynamic 2", member "dynamic 3" }
    local reader, admin = member "reader", kafka.admin { brokers = brokers }
    assert(admin:metadata(nil, 10000))
    local p = kafka.producer { brokers = brokers }
    signal "STOP"
    -- librdkafka would wait for the answer to its LeaveGroup for 5 s.
    bound.soon(3000, "closing a member", function() table.remove(dynamic):close() end, #dynamic)
    for _, m in ipairs(dynamic) do m:close() end
    bound.within(2500, "closing a static member", function() static:close() end)
    bound.within(4500, "leaving", function() return leaver.consumer:leave() end)
    bound.within(2500, "closing after leaving", function() leaver:close() end)
    local c, list = reader.consumer, reader.consumer:assignment()
    bound.soon(1000, "pause", function() c:pause(list) end)
    bound.soon(1000, "seek", function() assert.is_true(select(2, c:seek(list))) end)
    bound.soon(1000, "resume", function() c:resume(list) end)
    bound.soon(1000, "commit", function() assert(c:commit(list)) end)
    for what, call in pairs {
      watermarks = function() return c:watermarks(name, 0, 300) end,
      committed = function() return c:committed(list, 300) end,
      ["offsets for a time"] = function() return c:offsets_for_time(list, 0, 300) end,
      metadata = function() return admin:metadata(nil, 300) end,
      groups = function() return admin:groups(300) end,
      ["describing a group"] = function() return admin:describe_group("reader", 300) end,
      ["group offsets"] = function() return admin:group_offsets("reader", nil, 300) end,
      ["creating a topic"] = function()
        return admin:create_topic { name = "more", timeout_ms = 300 }
      end,
    } do
      local value, _, code = bound.soon(2500, what, call)
      assert.same({ what, nil, "TIMED_OUT" }, { what, value, code })
    end
    bound.soon(1500, "poll", function() reader:step(500) end)
    for i = 1, 10 do assert(p:produce(name, "k", "late" .. i)) end
    assert.equal(10, bound.soon(1500, "flush", function() return p:flush(300) end))
    bound.within(2500, "closing the producer", function() p:close() end)
    bound.within(2500, "closing the admin", function() admin:close() end)
    signal "CONT"
    local last <close> = kafka.producer { brokers = brokers }
    assert(last:produce(name, "k", "after"))
    assert.equal(0, last:flush(60000))
    kafka_.drive({ reader }, "the record after it", function() return reader.log.read > 200 end)
    assert.same({}, reader.log.gaps)
    reader:close()
  end)
end)
