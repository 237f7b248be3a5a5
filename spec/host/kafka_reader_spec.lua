-- host.kafka's reader: partitions as decoded batches, read by threads of its own.

local batch = require "host.batch"
local broker_ = require "spec.support.broker"
local json = require "host.json"
local kafka = require "host.kafka"
local kafka_ = require "spec.support.kafka"
local process = require "host.process"

local broker, boot

setup(function()
  broker = broker_.start { t = 3, live = 1, long = 2, json = 1 }
  boot = broker:bootstrap()
  kafka_.fill(boot, "t", 3, 3000)
  kafka_.fill(boot, "long", 2, 60000)
end)
teardown(function() broker:close() end)

local function send(topic, values)
  local producer <close> = kafka.producer { brokers = boot, conf = { ["linger.ms"] = 0 } }
  for _, value in ipairs(values) do
    assert(producer:send { topic = topic, partition = 0, value = value })
  end
  assert.equal(0, producer:flush(20000))
end

local function at(...)
  local list = {}
  for i, item in ipairs { ... } do list[i] = { partition = item[1], offset = item[2] } end
  return list
end

-- Poll until `done(b)`, giving each record to `each`.
local function drain(reader, each, done)
  local b <close> = batch.new()
  kafka_.await("the end", function()
    for i = 1, reader:poll(b, 100) do each(b:record(i)) end
    return done(b)
  end)
end

local function ends_of(count)
  local ends = {}
  return function(b)
    for _, e in ipairs(b:ends()) do
      count = count - (ends[e.partition] and 0 or 1)
      ends[e.partition] = e.offset
    end
    return count == 0
  end, ends
end

describe("a reader", function()
  for _, threads in ipairs { 1, 2, 5 } do
    it(("hands over every record in order, and the ends, with %d threads"):format(threads), function()
      local r <close> = kafka.reader { brokers = boot, topic = "t", threads = threads }
      local _, ok = r:start(at({ 0, 0 }, { 1, 0 }, { 2, 990 }))
      assert.is_true(ok)
      local next_ = { [0] = 0, 0, 990 }
      local done, ends = ends_of(3)
      drain(r, function(record)
        assert.equal(next_[record.partition], record.offset)
        assert.equal(("v%d"):format(record.offset * 3 + record.partition + 1), record.value)
        assert.equal(("k%d"):format(record.offset * 3 + record.partition + 1), record.key)
        next_[record.partition] = record.offset + 1
      end, done)
      assert.same({ [0] = 1000, 1000, 1000 }, next_)
      assert.same({ [0] = 1000, 1000, 1000 }, ends)
      assert.is_false(r:behind())
      local s = r:stats()
      assert.same({ 2010, 3, 3, threads }, { s.records, s.starts, s.started, s.threads })
    end)
  end

  it("hands over nothing of a partition that was stopped, and all of it from a new start", function()
    local r <close> = kafka.reader { brokers = boot, topic = "long", threads = 2 }
    local b <close> = batch.new()
    assert(r:start(at({ 0, 0 }, { 1, 0 })))
    local seed = os.time()
    for round = 1, 12 do
      -- Some is taken, more is fetched and waits, or there is no more.
      kafka_.await("a batch", function() return r:poll(b, 100) > 0 or #b:ends() > 0 end)
      local p, from = round % 2, (seed * 31 + round * 7919) % 29000
      assert(r:stop { { partition = p } })
      for _ = 1, 3 do
        for i = 1, r:poll(b, 1) do assert.equal(1 - p, b:record(i).partition) end
      end
      assert(r:start(at { p, from }))
      local seen = 0
      kafka_.await("the partition", function()
        for i = 1, r:poll(b, 100) do
          local record = b:record(i)
          if record.partition == p then
            assert.equal(from + seen, record.offset)
            seen = seen + 1
          end
        end
        return seen > 0
      end)
      -- The other one may have come to its end.
      if r:stats().ends > 0 then assert(r:start(at({ 0, 0 }, { 1, 0 }))) end
    end
  end)

  it("keeps the order over a start again, without a stop", function()
    local r <close> = kafka.reader { brokers = boot, topic = "long" }
    local b <close> = batch.new()
    for _, from in ipairs { 0, 10000, 5, 29999 } do
      assert(r:start(at { 0, from }))
      local n
      kafka_.await("a batch", function()
        n = r:poll(b, 100)
        return n > 0
      end)
      for i = 1, n do assert.equal(from + i - 1, b:record(i).offset) end
    end
  end)

  it("gives batches that are decoded, on any thread", function()
    send("json", { '{"n":1}', '{"n":"2"}', "junk", '{"n":4}' })
    local d <close> = json.decoder { fields = { { name = "n", type = "integer" } } }
    local r <close> = kafka.reader { brokers = boot, topic = "json" }
    r:decode(d)
    assert.error_matches(function() r:decode(d) end, "has a decoder already")
    assert(r:start(at { 0, 0 }))
    local b <close> = batch.new()
    local cells, faults = {}, 0
    kafka_.await("the end", function()
      for i = 1, r:poll(b, 100) do
        local row = d:cells(b, i)
        if row then cells[#cells + 1] = row.n else faults = faults + 1 end
      end
      return #b:ends() > 0
    end)
    assert.same({ 1, 2, 4 }, cells)
    assert.equal(1, faults)
    assert.error_matches(function() d:limit("n", { max = "1" }) end, "in use by a reader")
    assert.error_matches(function() r:decode(d) end, "reads already")
    d:close() -- the reader still has what it needs
    send("json", { '{"n":5}' })
    kafka_.await("one more", function() return r:poll(b, 100) == 1 end)
  end)

  it("gives an end alone decoded as well, for functions of a script", function()
    local d <close> = json.decoder { fields = { { name = "n", type = "integer" } } }
    local shape = batch.shape { { name = "n", type = "integer" } }
    local r <close> = kafka.reader { brokers = boot, topic = "t" }
    r:decode(d)
    assert(r:start(at { 0, 1000 }))
    local b <close> = batch.new()
    kafka_.await("the end", function()
      r:poll(b, 100)
      return #b:ends() > 0
    end)
    assert.equal(0, #b)
    b:apply(shape, function() return true end, nil, {})
  end)

  it("tells by its descriptor that something waits", function()
    local r <close> = kafka.reader { brokers = boot, topic = "live" }
    local b <close> = batch.new()
    assert(r:start(at { 0, 0 }))
    kafka_.await("the end", function()
      r:poll(b, 100)
      return #b:ends() > 0
    end)
    for i = 1, 20 do
      send("live", { "x" .. i })
      local ready = process.wait_fds({ { fd = r:fd(), events = "r" } }, kafka_.DEADLINE_MS)
      assert.is_truthy(next(ready))
      kafka_.await("the record", function() return r:poll(b, 0) == 1 end)
      assert.equal("x" .. i, b:record(1).value)
    end
  end)

  it("says what is wrong with an offset", function()
    local r <close> = kafka.reader { brokers = boot, topic = "t" }
    local b <close> = batch.new()
    assert(r:start(at({ 0, 5000 }, { 1, 0 })))
    local found
    kafka_.await("the error", function()
      r:poll(b, 50)
      for _, event in ipairs(r:events()) do
        if event.type == "error" and event.partition == 0 then found = event.code end
      end
      return found
    end)
    assert.equal("AUTO_OFFSET_RESET", found)
    -- It can be started again where there is something.
    assert(r:start(at({ 0, 998 })))
    local offsets = {}
    kafka_.await("both records", function()
      for i = 1, r:poll(b, 50) do
        local record = b:record(i)
        if record.partition == 0 then offsets[#offsets + 1] = record.offset end
      end
      return #offsets == 2
    end)
    assert.same({ 998, 999 }, offsets)
  end)

  it("does not end before its threads, nor after them", function()
    local b <close> = batch.new()
    for i = 1, 10 do
      local r = kafka.reader { brokers = boot, topic = "long", threads = 3 }
      assert(r:start(at({ 0, 0 }, { 1, 0 })))
      if i % 2 == 0 then kafka_.await("a batch", function() return r:poll(b, 100) > 0 end) end
      if i % 3 == 0 then
        r:finish()
        assert.equal(0, r:poll(b, 0))
        assert.same({}, r:events())
        local list, ok = r:start(at { 0, 0 })
        assert.same({ false, "DESTROY" }, { ok, list[1].code })
        assert(r:stop(at { 0, 0 }))
      end
      r:close()
      assert.error_matches(function() r:poll(b) end, "closed")
    end
  end)

  it("refuses what it cannot mean", function()
    local function bad(options, text)
      assert.error_matches(function() kafka.reader(options) end, text, nil, true)
    end
    bad({ brokers = boot }, "'topic' is required")
    bad({ topic = "t" }, "'brokers' is required")
    bad({ brokers = boot, topic = "t", threads = 0 }, "threads")
    bad({ brokers = boot, topic = "t", group = "g" }, "group")
    bad({ brokers = boot, topic = "t", conf = { ["no.such"] = 1 } }, "no.such")
    local r <close> = kafka.reader { brokers = boot, topic = "t" }
    assert.error_matches(function() r:start { { topic = "u", partition = 0, offset = 0 } } end,
      "reads topic 't', not 'u'")
    assert.error_matches(function() r:start { { partition = 0 } } end, "offset")
    assert.error_matches(function() r:decode "x" end, "decoder expected")
    assert.error_matches(function() r:decode(batch.new()) end, "decoder expected")
  end)
end)
