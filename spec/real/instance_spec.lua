-- Who has an instance's name is decided by the database. A second run of the name is refused and does
-- the first no harm; a run that the group fences while the name is its own joins again. Real Kafka
-- only: it fences the member that has a name when another joins with it, the development broker
-- does not.

local kafka_ = require "spec.support.kafka"
local real = require "spec.support.real"

local RUNNING = 4

describe("an instance's name", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local base = real.databases()[1]
  local place, topic

  setup(function() place = real.place(base) end)
  before_each(function() topic = real.topic { partitions = 2 } end)
  teardown(function()
    place:close()
    real.close()
  end)

  local function send(price)
    real.send(topic, { { partition = 0,
      value = ('{"symbol":"A","price":"%s","timestamp":1723161600}'):format(price) } })
  end

  -- Also what brokers do to a static member after an outage longer than its session timeout.
  it("is kept by a run whose membership in the group another one takes", function()
    local o = { topic = topic, table = place:table(), name = real.name "fenced", until_end = false }
    local run = place:start(o)
    local function samples() return place:value("select sum(samples) from %s", o.table) end
    send "1"
    real.wait(function() return samples() == "1" end, "the first row")
    for i = 2, 4 do
      local other = kafka_.member {
        brokers = real.kafka(), group = o.name, topic = topic, instance = "a/0", paused = true,
      }
      kafka_.drive({ other }, "the run's fencing", function()
        return select(2, run:log():gsub("joining the group again", "")) == i - 1
      end)
      other:close()
      send(i)
      real.wait(function() return samples() == tostring(i) end, "row " .. i)
    end
    run.process:kill "TERM"
    local done = run:finish()
    assert.are.equal(0, done.status, done.err)
    assert.are.equal(4, done.summary.counted)
  end)

  it("is refused to a second run, and the first goes on", function()
    local o = { topic = topic, table = place:table(), name = real.name "twice", until_end = false }
    local first = place:start(o)
    local function samples() return place:value("select sum(samples) from %s", o.table) end
    send "1"
    real.wait(function() return samples() == "1" end, "the first row")
    for _ = 1, 3 do
      local second = place:start(o):finish()
      assert.are.equal(RUNNING, second.status, second.err)
      assert.is_truthy(second.err:find("already running", 1, true), second.err)
    end
    send "2"
    real.wait(function() return samples() == "2" end, "the second row")
    first.process:kill "TERM"
    local done = first:finish()
    assert.are.equal(0, done.status, done.err)
    assert.are.equal(2, done.summary.counted)
  end)
end)
