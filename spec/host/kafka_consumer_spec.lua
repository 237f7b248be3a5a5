-- host.kafka's consumer on the development broker, without a group.

local batch = require "host.batch"
local bound = require "spec.support.bound"
local broker_ = require "spec.support.broker"
local clock = require "host.clock"
local kafka = require "host.kafka"
local kafka_ = require "spec.support.kafka"
local process = require "host.process"
local slow = require "spec.support.slow"

local broker, boot

setup(function()
  broker = broker_.start { t = 3, empty = 1, slow = 1, seek = 1, big = 1, down = 1, live = 1 }
  boot = broker:bootstrap()
  kafka_.fill(boot, "t", 3, 3000)
  kafka_.fill(boot, "seek", 1, 2000)
end)
teardown(function() broker:close() end)

local function at(offset, ...)
  local list = {}
  for i, partition in ipairs { ... } do
    list[i] = { topic = "t", partition = partition, offset = offset }
  end
  return list
end

-- Wait for a first record. librdkafka 2.0.2 keeps 3 KB for good of a consumer that ends before it
-- has heard of its topic, however it ends; memcheck would tell of that.
local function first_record(consumer)
  local b <close> = batch.new()
  kafka_.await("a record", function() return consumer:poll(b, 1, 100) > 0 end)
end

-- Poll until `done(b)`, giving each record to `each`.
local function drain(consumer, each, done)
  local b <close> = batch.new()
  kafka_.await("the end", function()
    for i = 1, consumer:poll(b, 700, 100) do each(b:record(i)) end
    return done(b)
  end)
end

describe("a consumer without a group", function()
  it("hands over every record of its partitions, in order, and their ends", function()
    local c <close> = kafka.consumer { brokers = boot }
    assert.is_true(c:manual(at("earliest", 0, 1, 2)))
    local next_, ends = { [0] = 0, 0, 0 }, {}
    drain(c, function(r)
      assert.equal(next_[r.partition], r.offset)
      assert.equal(("v%d"):format(r.offset * 3 + r.partition + 1), r.value)
      assert.equal(("k%d"):format(r.offset * 3 + r.partition + 1), r.key)
      assert.is_true(math.abs(r.stamp_ms - clock.wall_ms()) < 600000)
      next_[r.partition] = r.offset + 1
    end, function(b)
      for _, e in ipairs(b:ends()) do ends[e.partition] = e.offset end
      return ends[0] and ends[1] and ends[2]
    end)
    assert.same({ [0] = 1000, 1000, 1000 }, next_)
    assert.same({ [0] = 1000, 1000, 1000 }, ends)
    local s = c:stats()
    assert.same({ 3000, 3, 0, 3 }, { s.records, s.ends, s.stale, s.assigned })
  end)

  it("never hands over more than it is asked for", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual(at(0, 0)))
    local sizes, n = {}, 0
    kafka_.await("a thousand records", function()
      local k = c:poll(b, 7, 100)
      assert.equal(k, #b)
      sizes[k] = true
      n = n + k
      return n == 1000
    end)
    for size in pairs(sizes) do assert.is_true(size <= 7) end
    assert.is_true(sizes[7])
  end)

  it("tells the end of an empty partition", function()
    local c <close> = kafka.consumer { brokers = boot }
    assert.is_true(c:manual { { topic = "empty", partition = 0, offset = "latest" } })
    local ends
    drain(c, error, function(b) ends = b:ends() return #ends > 0 end)
    assert.same({ { partition = 0, offset = 0 } }, ends)
  end)

  it("returns nothing after the timeout, and not much later", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual { { topic = "empty", partition = 0, offset = 0 } })
    drain(c, error, function(x) return #x:ends() > 0 end)
    for _, timeout in ipairs { 0, 30, 250 } do
      local began = clock.mono_ms()
      assert.equal(0, c:poll(b, 10, timeout))
      assert.is_true(clock.mono_ms() - began >= timeout)
      bound.soon(timeout + 1500, "poll", function() assert.equal(0, c:poll(b, 10, timeout)) end)
    end
  end)

  it("keeps the batch's rows only until the next poll", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    b:add { partition = 9, offset = 9, value = "from before" }
    assert.is_true(c:manual(at(990, 1)))
    kafka_.await("records", function() return c:poll(b, 100, 100) > 0 end)
    assert.equal(990, b:record(1).offset)
  end)

  it("stays on one topic", function()
    local c <close> = kafka.consumer { brokers = boot }
    assert.is_true(c:manual(at(0, 0)))
    assert.has_error(function()
      c:pause { { topic = "seek", partition = 0 } }
    end, "this consumer reads topic 't', not 'seek'")
    first_record(c)
  end)

  it("wants exact offsets where they matter", function()
    local c <close> = kafka.consumer { brokers = boot }
    local none = "entry 1 of the list needs an offset: an integer >= 0"
    assert.has_error(function() c:seek { { topic = "t", partition = 0 } } end, none)
    assert.has_error(function() c:seek(at("earliest", 0)) end, none)
    assert.has_error(function() c:manual { { topic = "t", partition = 0 } } end,
      none .. ", 'earliest' or 'latest'")
    assert.has_error(function() c:pause { { topic = "t" } } end,
      "entry 1 of the list needs a partition: an integer >= 0")
    assert.has_error(function() c:pause { { partition = 0 } } end,
      "entry 1 of the list needs a topic")
  end)
end)

describe("seek, pause and resume", function()
  local S = function(offset) return { { topic = "seek", partition = 0, offset = offset } } end

  it("hand over the record sought next, and nothing older", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual(S(0)))
    for _, offset in ipairs { 1500, 3, 3, 1999, 0, 700 } do
      local list, ok = c:seek(S(offset))
      assert.is_true(ok)
      assert.is_nil(list[1].code)
      kafka_.await("a record", function() return c:poll(b, 50, 100) > 0 end)
      assert.equal(offset, b:record(1).offset)
    end
  end)

  it("lose and repeat nothing in any order", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual(S(0)))
    local expected, paused, seed = 0, false, 42
    local function random(n)
      seed = (seed * 1103515245 + 12345) % 2147483648
      return seed // 65536 % n
    end
    for _ = 1, 400 do
      local what = random(6)
      if what == 0 then c:pause(S(0)) paused = true
      elseif what == 1 then c:resume(S(0)) paused = false
      elseif what == 2 then
        expected = random(2000)
        assert.is_true(select(2, c:seek(S(expected))))
      else
        local n = c:poll(b, 1 + random(300), random(2) * 3)
        if paused then assert.equal(0, n) end
        for i = 1, n do
          assert.equal(expected, b:record(i).offset)
          expected = expected + 1
        end
        for _, e in ipairs(b:ends()) do assert.equal(2000, e.offset) end
      end
      assert.same({ expected, paused },
        { c:assignment()[1].offset, c:assignment()[1].paused })
    end
  end)

  it("resume at once after a long pause", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual(S(0)))
    c:pause(S(0))
    local least = math.huge
    for _ = 1, 3 do
      local until_ms = clock.mono_ms() + 1100 -- the fetcher falls asleep
      while clock.mono_ms() < until_ms do assert.equal(0, c:poll(b, 10, 100)) end
      c:resume(S(0))
      local began = clock.mono_ms()
      kafka_.await("a record", function() return c:poll(b, 10, 100) > 0 end)
      least = math.min(least, clock.mono_ms() - began)
      c:pause(S(0))
    end
    assert.is_true(least < 300 * slow, "the quickest of three took " .. least .. " ms")
  end)

  it("name a partition that is not assigned", function()
    local c <close> = kafka.consumer { brokers = boot }
    assert.is_true(c:manual(S(0)))
    local other = { { topic = "seek", partition = 5, offset = 0 } }
    local list, ok = c:seek(other)
    assert.is_false(ok)
    assert.equal("UNKNOWN_PARTITION", list[1].code)
    assert.equal("UNKNOWN_PARTITION", c:pause(other)[1].code)
    assert.equal("UNKNOWN_PARTITION", c:resume(other)[1].code)
    first_record(c)
  end)

  it("come back from an offset that the log does not have", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual(S(0)))
    assert.is_true(select(2, c:seek(S(500000))))
    local event
    kafka_.await("the error", function()
      assert.equal(0, c:poll(b, 10, 100))
      for _, e in ipairs(c:events()) do
        if e.type == "error" then event = e end
      end
      return event
    end)
    assert.same({ "AUTO_OFFSET_RESET", 0, 500000, "seek" },
      { event.code, event.partition, event.offset, event.topic })
    assert.is_true(select(2, c:seek(S(1990))))
    kafka_.await("a record", function() return c:poll(b, 10, 100) > 0 end)
    assert.equal(1990, b:record(1).offset)
  end)
end)

describe("a consumer's descriptor", function()
  it("is readable while something waits, and quiet when nothing does", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual { { topic = "live", partition = 0, offset = 0 } })
    drain(c, error, function(x) return #x:ends() > 0 end)
    local fds = { { fd = c:fd(), events = "r" } }
    kafka_.await("silence", function()
      c:drain_fd()
      c:poll(b, 10, 0)
      return select(2, process.wait_fds(fds, 50)) == 0
    end)
    local p <close> = kafka.producer { brokers = boot }
    local got = 0
    for i = 1, 50 do
      assert.is_true(p:produce("live", nil, "m" .. i))
      assert.equal(0, p:flush(10000))
      kafka_.await("message " .. i, function()
        assert.equal(1, select(2, process.wait_fds(fds, 20000)), "no signal for message " .. i)
        c:drain_fd()
        got = got + c:poll(b, 10, 0)
        return got == i
      end)
    end
  end)

  it("stays readable while a batch was too small for all", function()
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual(at(0, 0)))
    local fds, n = { { fd = c:fd(), events = "r" } }, 0
    kafka_.await("all records by signals alone", function()
      assert.equal(1, select(2, process.wait_fds(fds, 20000)))
      c:drain_fd()
      n = n + c:poll(b, 3, 0)
      return n == 1000
    end)
  end)
end)

describe("questions about offsets", function()
  it("are answered for one partition or for many", function()
    local c <close> = kafka.consumer { brokers = boot, group = "asks" }
    assert.same({ 0, 1000 }, { c:watermarks("t", 0, 10000) })
    local list = assert(c:watermarks({
      { topic = "t", partition = 2 }, { topic = "t", partition = 0 },
      { topic = "t", partition = 44 },
    }, 10000))
    local found = {}
    for _, e in ipairs(list) do found[e.partition] = { e.low, e.high, e.code } end
    assert.same({ [2] = { 0, 1000 }, [0] = { 0, 1000 }, [44] = { nil, nil, "UNKNOWN_PARTITION" } },
      found)
    local low, _, code = c:watermarks("t", 44, 10000)
    assert.same({ nil, "UNKNOWN_PARTITION" }, { low, code })
  end)

  it("commits are kept by the group, and read back", function()
    local list = at(17, 0, 1)
    do
      local c <close> = kafka.consumer { brokers = boot, group = "keeps" }
      local none = assert(c:committed(at(0, 0, 1), 10000))
      assert.same({ nil, nil }, { none[1].offset, none[2].offset })
      assert.is_true(c:commit(list))
      kafka_.await("the commit", function()
        local b <close> = batch.new()
        c:poll(b, 1, 10)
        return assert(c:committed(at(0, 0, 1), 10000))[2].offset == 17
      end)
    end
    local c <close> = kafka.consumer { brokers = boot, group = "keeps" }
    assert.equal(17, assert(c:committed(at(0, 0), 10000))[1].offset)
  end)
end)

describe("a broker that goes away", function()
  it("is waited for: nothing is lost or repeated", function()
    kafka_.fill(boot, "down", 1, 100)
    local c <close> = kafka.consumer { brokers = boot }
    local b <close> = batch.new()
    assert.is_true(c:manual { { topic = "down", partition = 0, offset = 0 } })
    local expected, heard = 0, false
    local function step()
      for i = 1, c:poll(b, 10, 20) do
        assert.equal(expected, b:record(i).offset)
        expected = expected + 1
      end
      for _, e in ipairs(c:events()) do heard = heard or e.type == "error" end
    end
    kafka_.await("some records", function() step() return expected > 10 end)
    assert.is_true(broker:broker_down(1))
    kafka_.await("an error event", function() step() return heard end)
    assert.is_true(broker:broker_up(1))
    kafka_.fill(boot, "down", 1, 50)
    kafka_.await("the rest", function() step() return expected == 150 end)
  end)
end)

describe("a signal", function()
  it("ends a wait for records #child", function()
    local child <close> = assert(process.spawn {
      argv = { process.exe(), "exec", "spec/support/wait_for_records.lua", boot },
      env = { TIDEMILL_HOME = process.home() }, stdout = "pipe", stderr = "null",
    })
    local text = ""
    kafka_.await("the child", function()
      text = text .. (child:read("stdout", 100) or "")
      return text:find("waiting\n", 1, true)
    end)
    assert(child:kill("INT"))
    local ended = bound.within(5000, "its end", function() return assert(child:wait(20000)) end)
    assert.equal(130, ended.code)
  end)
end)
