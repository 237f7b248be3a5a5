-- A log that is truncated for real: the broker dies, and an older copy of its data comes back. And
-- another cluster with a topic of the same name. The Kafkas are this spec's own.

local real = require "spec.support.real"
local servers = require "spec.support.servers"
local sums_ = require "spec.support.sums"

local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
local BEYOND = "the log ends before our position: it was truncated or made anew"

local function parts(i) return "S" .. i % 7, i * 7919 % 999983 + 1, T0 + i * 100 end

local function send(topic, first, last)
  local out = {}
  for i = first, last do out[#out + 1] = { value = sums_.message(parts(i)) } end
  real.send(topic, out)
end

describe("logs", function()
  local why = real.missing()
  if why then
    it("need servers", function() pending(why) end)
    return
  end

  local own, bases, places = nil, real.databases(), {}

  setup(function()
    own = servers.up { "kafka" }
    for _, base in ipairs(bases) do own.env[base.name == "MySQL" and "TIDEMILL_MYSQL"
      or "TIDEMILL_MARIADB"] = base.url end
    real.use(own.env)
    for i, base in ipairs(bases) do places[i] = real.place(base) end
  end)
  teardown(function()
    for _, place in ipairs(places) do place:close() end
    real.use(nil)
    own:close()
  end)

  -- The same in every database, side by side.
  local function each(f)
    local out = {}
    for i, place in ipairs(places) do out[i] = f(place, i) end
    return out
  end

  local function topic_of(name)
    real.wait(function() return (pcall(real.topic, { name = name, partitions = 1 })) end, "the topic",
      60000)
    return name
  end

  it("that are truncated stop a run after 30 s, at rest and while it reads", function()
    local topic = topic_of(real.name "truncated")
    send(topic, 1, 100)
    local o = each(function(place)
      return { topic = topic, name = real.name "truncated", table = place:table(), size_ms = 1000,
        sums = sums_.new(1000) }
    end)
    -- The copy is of a broker that is down, so that it is whole.
    own "kafka-stop"
    servers.run { "cp", "-r", own:data "kafka", own.folder .. "/copy" }
    own "kafka-start"
    send(topic, 101, 300)
    each(function(place, i)
      for n = 1, 300 do o[i].sums:add(parts(n)) end
      place:average(o[i])
    end)
    -- One of them reads on while the broker loses its memory.
    o[1].until_end = false
    local reading = places[1]:start(o[1])
    real.wait(function() return reading:log():find("reads topic", 1, true) end, "the reader")
    own "kafka-kill"
    servers.run { "rm", "-rf", own:data "kafka" }
    servers.run { "cp", "-r", own.folder .. "/copy", own:data "kafka" }
    own "kafka-start"
    local children = each(function(place, i) return i == 1 and reading or place:start(o[i]) end)
    each(function(place, i)
      local r = children[i]:finish(120000)
      assert.equal(5, r.status, r.err)
      assert(r.err:find(("topic '%s' partition 0: offsets 100..299 are gone (%s); nothing was "
        .. "counted past them"):format(topic, BEYOND), 1, true), r.err)
      assert(r.err:find("lies beyond the end 100; waiting 30 s", 1, true), r.err)
      assert.equal(300, place:progress(o[i].name)[0].position)
      -- Go on: what comes now is counted, and nothing twice.
      o[i].until_end, o[i].args = nil, { "--on-gap=skip" }
      children[i] = place:start(o[i])
    end)
    each(function(place, i)
      assert.equal(0, children[i]:finish(120000).status)
      assert.same({ { topic, 0, 100, 300, BEYOND } }, place:query("select topic, `partition`, "
        .. "from_offset, to_offset, reason from mill_gaps where pipeline = '%s'", o[i].name))
    end)
    send(topic, 301, 350)
    each(function(place, i)
      o[i].args = nil
      place:average(o[i])
      for n = 301, 350 do o[i].sums:add(parts(n)) end
      real.same(o[i].sums:rows(), place:query(o[i].sums.SQL:format(o[i].table)), 2, "results")
    end)
  end)

  -- The broker loses all it had, and is formatted anew: another cluster at the same address.
  local function another_cluster()
    own "kafka-kill"
    servers.run { "rm", "-rf", own:data "kafka" }
    own "kafka-start"
    return real.cluster_id()
  end

  it("of another cluster are refused, at the start and while reading", function()
    local topic = topic_of(real.name "moved")
    send(topic, 1, 100)
    local first = real.cluster_id()
    local o = each(function(place)
      local one = { topic = topic, name = real.name "moved", table = place:table(), size_ms = 1000 }
      place:average(one)
      return one
    end)
    o[1].until_end = false
    local reading = places[1]:start(o[1])
    real.wait(function() return reading:log():find("reads topic", 1, true) end, "the reader")
    local second = another_cluster()
    assert.is_true(first ~= second)
    topic_of(topic)
    send(topic, 101, 150)
    local r = reading:finish(120000)
    assert.equal(5, r.status, r.err)
    assert(r.err:find(second, 1, true) and r.err:find(first, 1, true), r.err)
    each(function(place, i)
      o[i].until_end = nil
      local before = place:results(o[i].table)
      r = place:start(o[i]):finish()
      assert.equal(5, r.status, r.err)
      for _, part in ipairs { first, second, topic, "--new-log --from TIME" } do
        assert(r.err:find(part, 1, true), r.err)
      end
      assert.same(before, place:results(o[i].table))
    end)
    -- The way out that the message tells.
    each(function(place, i)
      o[i].args = { "--new-log", "--from", "2024-08-09T00:00:10Z", "--execute" }
      place:average(o[i])
      local sums = sums_.new(1000)
      for n = 1, 99 do sums:add(parts(n)) end -- windows before the cut stay
      for n = 101, 150 do sums:add(parts(n)) end
      real.same(sums:rows(), place:query(sums.SQL:format(o[i].table)), 2, "results")
      assert.equal(150 - 100, place:value("select position from mill_progress where pipeline = '%s' "
        .. "and cluster_id = '%s'", o[i].name, second))
    end)
    -- Also one that has no such topic is seen while reading.
    o[1].until_end, o[1].args = false, nil
    reading = places[1]:start(o[1])
    real.wait(function() return reading:log():find("reads topic", 1, true) end, "the reader")
    local third = another_cluster()
    r = reading:finish(120000)
    assert.equal(5, r.status, r.err)
    assert(r.err:find(third, 1, true) and r.err:find(second, 1, true), r.err)
  end)
end)
