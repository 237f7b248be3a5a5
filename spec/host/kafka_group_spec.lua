-- host.kafka's consumer in a group, on the development broker. A first join takes 3 s there, and a
-- member whose session timeout is not longer never gets in; each further rebalance takes the session
-- timeout less a second. So most about groups is in spec/real/kafka_spec.lua, where it is quick.

local broker_ = require "spec.support.broker"
local clock = require "host.clock"
local kafka = require "host.kafka"
local kafka_ = require "spec.support.kafka"

local RECORDS = 3000
-- The development broker waits for further members 3 s at first, later a second less than the session:
-- who waits longer than its session is forgotten without an answer, so a stall must not reach that.
local PAIR = { ["session.timeout.ms"] = 8000, ["heartbeat.interval.ms"] = 100 }
local LONE = { ["session.timeout.ms"] = 30000, ["heartbeat.interval.ms"] = 100 }

local broker, boot

setup(function()
  broker = broker_.start { t = 3 }
  boot = broker:bootstrap()
  kafka_.fill(boot, "t", 3, RECORDS)
end)
teardown(function() broker:close() end)

local function types(member)
  local out = {}
  for _, e in ipairs(member.events) do
    if e.type ~= "log" then out[#out + 1] = e.type .. (e.partitions and #e.partitions or "") end
  end
  return table.concat(out, " ")
end

local function check(log, read)
  assert.same({}, log.gaps)
  assert.equal(0, log.repeats)
  assert.equal(read, log.read)
end

describe("a group of two", function()
  it("reads every record once while members come and go", function()
    local log = kafka_.log()
    local a <close> = kafka_.member {
      brokers = boot, group = "two", topic = "t", conf = PAIR, log = log,
    }
    assert.equal("NONE", a.consumer:protocol())
    kafka_.drive({ a }, "the first assignment", function() return a:owned() == 3 end)
    assert.equal("COOPERATIVE", a.consumer:protocol())
    assert.is_string(a.consumer:member())
    kafka_.drive({ a }, "a first part", function() return log.read > 500 end)
    local b <close> = kafka_.member {
      brokers = boot, group = "two", topic = "t", conf = PAIR, log = log,
    }
    kafka_.drive({ a, b }, "the second member", function()
      return b:owned() > 0 and a:owned() + b:owned() == 3
    end)
    assert.matches("^assign3 .*revoke1", types(a))
    kafka_.fill(boot, "t", 3, 300)
    kafka_.drive({ a, b }, "all records", function() return log.read >= RECORDS + 300 end)
    assert.is_true(b.read > 0)
    check(log, RECORDS + 300)
  end)
end)

describe("a member of a group", function()
  it("gets its partitions paused, at the offset it names", function()
    local m <close> = kafka_.member {
      brokers = boot, group = "paused", topic = "t", conf = LONE, paused = true,
    }
    m.log.next = { [0] = 100, 200, 300 }
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end)
    local until_ms = clock.mono_ms() + 300
    while clock.mono_ms() < until_ms do assert.equal(0, m:step(20)) end
    for _, p in ipairs(m.consumer:assignment()) do
      assert.same({ p.partition * 100 + 100, true }, { p.offset, p.paused })
    end
    local list, ok = m.consumer:seek { { partition = 1, offset = 900 } }
    assert.is_true(ok, list[1].code)
    m.log.next[1] = 900
    m.consumer:resume { { partition = 1 } }
    kafka_.drive({ m }, "records of one partition", function() return m.read > 10 end)
    assert.same({}, m.log.gaps)
    assert.equal(100, m.log.next[0])
  end)

  it("leaves at once, and reads nothing more", function()
    local m <close> = kafka_.member { brokers = boot, group = "leaver", topic = "t", conf = LONE }
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end)
    assert.is_true(m.consumer:leave())
    assert.is_true(m.consumer:leave())
    assert.equal(0, m.consumer:poll(m.batch, 10, 50))
    assert.same({}, m.consumer:assignment())
  end)

  it("cannot leave as a static member of the development broker, and says so", function()
    local m <close> = kafka_.member {
      brokers = boot, group = "static", topic = "t", instance = "here/0", conf = LONE,
    }
    kafka_.drive({ m }, "the assignment", function() return m:owned() == 3 end)
    local ok, message, code = m.consumer:leave()
    assert.same({ nil, "UNSUPPORTED" }, { ok, code })
    assert.matches("session timeout", message)
  end)

  it("cannot assign by hand", function()
    local c <close> = kafka.consumer { brokers = boot, group = "mixed", topics = { "t" } }
    assert.has_error(function() c:manual { { partition = 0, offset = 0 } } end,
      "this consumer is in a group: use assign")
  end)
end)
