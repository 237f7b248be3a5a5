-- Partitions that a group gives to nobody, and would for good: librdkafka's leader deals out what it
-- sees in that moment, and again only when the number of partitions is another one than it knew.

local kafka = require "host.kafka"
local real = require "spec.support.real"
local sums_ = require "spec.support.sums"

local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
local PARTITIONS, ROWS = 3, 300

local function parts(i) return "S" .. i % 7, i * 7919 % 999983 + 1, T0 + i * 100 end

describe("partitions of nobody", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local place, admin

  setup(function()
    place, admin = real.place(real.databases()[1]), kafka.admin { brokers = real.kafka() }
  end)
  teardown(function()
    place:close()
    admin:close()
    real.close()
  end)

  -- How many members and partitions the group has at rest, or nil.
  local function dealt(group)
    local found = admin:describe_group(group, 5000)
    if not found or found.state ~= "Stable" and found.state ~= "Empty" then return nil end
    local held = 0
    for _, member in ipairs(found.members) do held = held + #member.partitions end
    return #found.members, held
  end

  it("of a topic that comes back are read again by all instances", function()
    local topic = real.topic { partitions = PARTITIONS }
    local o = { topic = topic, name = real.name "dealt", table = place:table(), size_ms = 1000,
      until_end = false, sums = sums_.new(1000),
      env = { TIDEMILL_KAFKA_CONF = "session.timeout.ms=15000,heartbeat.interval.ms=300,"
        .. "topic.metadata.refresh.interval.ms=600000" } }
    local children = {}
    for i, name in ipairs { "a", "b" } do
      children[i] = place:start(setmetatable({ instance = name }, { __index = o }))
    end
    local function group(members, held, ms)
      local m, h
      real.wait(function()
        m, h = dealt(o.name)
        return m == members and h == held
      end, ("%d members with %d partitions"):format(members, held), ms or 180000, function()
        return ("%s with %s\n%s\n%s"):format(m, h, children[1]:log(), children[2]:log())
      end)
    end
    group(2, PARTITIONS)
    for _, child in ipairs(children) do
      real.wait(function() return child:log():find("reads topic", 1, true) end, "the start")
    end
    -- Both lose their membership, and join again while there is no topic.
    for _, child in ipairs(children) do
      child:kill "STOP"
      real.stopped(child)
    end
    group(0, 0)
    assert(admin:delete_topic(topic, 30000))
    real.wait(function()
      local found = admin:metadata(topic, 5000)
      return found and (not found.topics[topic] or found.topics[topic].code)
    end, "the topic to be deleted")
    for _, child in ipairs(children) do child:kill "CONT" end
    -- Who learns first that there is no topic does not join until there is one (librdkafka).
    local both = pcall(group, 2, 0, 30000)
    real.wait(function()
      return (pcall(real.topic, { name = topic, partitions = PARTITIONS }))
    end, "the topic to be made anew")
    local out = {}
    for i = 1, ROWS do
      out[i] = { partition = i % PARTITIONS, value = sums_.message(parts(i)) }
      o.sums:add(parts(i))
    end
    real.send(topic, out)
    group(2, PARTITIONS)
    local function rows() return place:query(o.sums.SQL:format(o.table)) end
    real.wait(function()
      local read = place:value("select sum(position) from mill_progress where pipeline = '%s'", o.name)
      return math.tointeger(tonumber(read)) == ROWS
    end, "all to be read", 60000)
    local said = ""
    for _, child in ipairs(children) do
      child:kill "TERM"
      local r = child:finish()
      assert.equal(0, r.status, r.err)
      said = said .. r.err
    end
    if both then
      assert(said:find(("of topic '%s' to nobody: joining it anew"):format(topic), 1, true), said)
    end
    real.same(o.sums:rows(), rows(), 2, "results")
  end)

  -- To a static member that comes back the brokers give what it had, and ask nobody.
  it("of a topic that grew before a restart are read after it", function()
    local topic = real.topic { partitions = PARTITIONS }
    local o = { topic = topic, name = real.name "grown", table = place:table(), size_ms = 1000,
      until_end = false, sums = sums_.new(1000),
      env = { TIDEMILL_KAFKA_CONF = "session.timeout.ms=60000" } }
    local function put(first, last, partitions)
      local out = {}
      for i = first, last do
        out[#out + 1] = { partition = i % partitions, value = sums_.message(parts(i)) }
        o.sums:add(parts(i))
      end
      real.send(topic, out)
    end
    local first = place:start(o)
    real.wait(function()
      local m, h = dealt(o.name)
      return m == 1 and h == PARTITIONS
    end, "the first member")
    put(1, 100, PARTITIONS)
    first:kill "TERM"
    assert.equal(0, first:finish().status)
    real.grow(topic, 2 * PARTITIONS)
    put(101, ROWS, 2 * PARTITIONS)
    o.until_end = true
    place:average(o)
    real.same(o.sums:rows(), place:query(o.sums.SQL:format(o.table)), 2, "results")
  end)
end)
