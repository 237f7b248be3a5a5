-- The producer's spool against a real broker of this spec's own, which is killed and started again.
--
-- What is in the topic is compared with what the exchange served and with what stood in the spool on
-- disk each time the producer was killed: every message once, in order for each symbol.

if (os.getenv "TIDEMILL_KAFKA" or "") == "" then
  describe("the producer's spool with a real broker", function()
    pending("TIDEMILL_KAFKA is not set (eval \"$(tools/servers.sh up kafka)\")")
  end)
  return
end

local broker = require "spec.support.broker"
local clock = require "host.clock"
local exchange = require "mill.exchange"
local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local kafka = require "host.kafka"
local ledger = require "mill.ledger"
local log = require "mill.log"
local logged_ = require "spec.support.logged"
local process = require "host.process"
local real = require "spec.support.real"
local servers = require "spec.support.servers"
local spool = require "host.spool"
local support = require "spec.support.outbox"

local SYMBOLS = "BTCUSDT,ETHUSDT,ADAUSDT"
local KILLS = 12
local WAIT_MS = 90000

local own, folder, brokers, sim, number, lines = nil, nil, nil, nil, 0, {}

local function wait(done, what, ms)
  local deadline = clock.mono_ms() + (ms or WAIT_MS)
  while true do
    local value = done()
    if value then return value end
    assert(clock.mono_ms() < deadline, "gave up waiting for " .. what)
    sim:step(2)
  end
end

local function logged(pattern) return logged_.count(lines, pattern) end

-- ---- producers as programs --------------------------------------------------------------------

local children = {}

local function start(name, o)
  o = o or {}
  local argv = { o.up and "up" or "run", "scripts/prices.lua", "--json" }
  for key, value in pairs {
    name = name, topic = name, create_topic = "true", symbols = SYMBOLS, every = o.every or "20ms",
    endpoints = sim:url(), weight_limit = 1000000, state = folder .. "/" .. name,
    spool = o.spool or folder .. "/" .. name .. "/spool", spool_limit = o.limit or "1GB",
  } do
    argv[#argv + 1] = "--set"
    argv[#argv + 1] = key .. "=" .. value
  end
  local env = {
    TIDEMILL_KAFKA = brokers, TIDEMILL_KAFKA_CONF = o.conf or "reconnect.backoff.max.ms=200",
    TIDEMILL_STATUS_FILE = folder .. "/" .. name .. ".json",
  }
  for key, value in pairs(o.env or {}) do env[key] = value end
  local child = real.tidemill(argv, { cwd = process.home(), env = env, program = o.program })
  children[#children + 1] = child
  return child
end

local function status(name)
  local json = require "mill.json"
  local file = io.open(folder .. "/" .. name .. ".json")
  if not file then return {} end
  local value = json.decode(file:read "a")
  file:close()
  return value or {}
end

-- End a producer, to a summary. Where Kafka was too slow for the last messages, the next start sends
-- them.
local function ended(child, name)
  local first
  repeat
    child:kill "TERM"
    local r = wait(function() return child:result() end, "the end of it")
    assert.equal(0, r.status, r.err)
    first = first or r
    if r.summary.spool.waiting == 0 then return first end
    os.remove(folder .. "/" .. name .. ".json")
    child = start(name)
    wait(function() return (status(name).spool or {}).waiting == 0 end, "the rest\n" .. child:log())
  until false
end

-- What stands in the spool on disk, read from a copy; into: values by their numbers. Nothing is
-- removed before 16 MB, so that is all there ever was.
local function spooled(path, into)
  local copy = assert(process.mkdtemp(folder .. "/copy-"))
  servers.run { "cp", "-r", path, copy .. "/s" }
  local s <close> = assert(spool.open { path = copy .. "/s" })
  local list = assert(s:read(s:stats().first, s:stats().next, 1000000, 1 << 30))
  local lost = s:losses()
  for _, m in ipairs(list) do
    assert(into[m.seq] == nil or into[m.seq] == m.value, "message " .. m.seq .. " became another")
    into[m.seq] = m.value
  end
  servers.run { "rm", "-rf", copy }
  return list, lost
end

-- The topic holds what the spool was given, each message once, each as the exchange served it, in
-- order for each symbol; and all of `must`, which was seen in the spool before.
local function check(name, must)
  local count, want = 0, {}
  for _, m in ipairs(spooled(folder .. "/" .. name .. "/spool", must)) do
    want[m.key] = want[m.key] or {}
    table.insert(want[m.key], m.value)
    count = count + 1
    local symbol, price = m.value:match('"symbol":"(%u+)","price":"([%d.]+)"')
    assert(symbol == m.key and sim.served[symbol .. " " .. price], "never served: " .. m.value)
    must[m.seq] = nil
  end
  assert(next(must) == nil, "messages went out of the spool")
  local records, texts = nil, {}
  wait(function() -- brokers write the marks of a commit after they answered it
    records = broker.records(brokers, name, 3)
    return #records >= count
  end, count .. " messages in the topic", 30000)
  table.sort(records, function(a, b)
    if a.partition ~= b.partition then return a.partition < b.partition end
    return a.offset < b.offset
  end)
  local got = {}
  for _, r in ipairs(records) do
    got[r.key] = got[r.key] or {}
    table.insert(got[r.key], r.value)
  end
  for key in pairs(got) do assert(want[key], "nobody sent " .. key) end
  for _, r in ipairs(records) do
    assert(not texts[r.value], "twice in the topic: " .. r.value)
    texts[r.value] = true
  end
  for key, values in pairs(want) do
    for i = 1, math.max(#values, #(got[key] or {})) do
      local a, b = values[i], got[key] and got[key][i]
      if a ~= b then
        error(("%s, message %d of %d: sent %s, in the topic (%d) is %s"):format(key, i, #values,
          tostring(a), #(got[key] or {}), tostring(b)), 2)
      end
    end
  end
  return records
end

-- ---- producers in this process ----------------------------------------------------------------

local function box(name, o)
  o = o or {}
  local self, counts = support.open {
    name = name, topic = o.topic, create_topic = true, partitions = 3, brokers = brokers, conf = o.conf,
    spool = o.spool or folder .. "/" .. name .. ".spool", spool_limit = o.limit,
  }
  self.counts = counts
  return self
end

local function put(b, key, from, to)
  for i = from, to do b:send(key, key .. i, clock.wall_ms(), clock.mono_us()) end
end

local function serve(b, done, what)
  wait(function()
    b:serve(10)
    return done()
  end, what)
end

local function values(topic, key)
  local out = {}
  real.settled(topic)
  for _, r in ipairs(broker.records(brokers, topic, 3)) do
    if r.key == key then out[#out + 1] = r.value end
  end
  return table.concat(out, " ")
end

local function expected(key, from, to)
  local out = {}
  for i = from, to do out[#out + 1] = key .. i end
  return table.concat(out, " ")
end

describe("the producer's spool", function()
  setup(function()
    own = servers.up { "kafka" }
    folder, brokers = own.folder, own.env.TIDEMILL_KAFKA
    real.use(own.env)
    sim = exchange.new { remember = true, limit = 100000000 }
    -- No two answers have the same price, so that no two messages have the same text.
    local known, n = sim.prices, 0
    sim.prices = setmetatable({
      price = function(_, symbol, ms)
        n = n + 1
        return known:price(symbol, ms) and ("1000.%08d"):format(n) or nil
      end,
    }, { __index = known })
  end)

  before_each(function()
    number = number + 1
    lines = logged_.take()
  end)

  after_each(function()
    log.to(nil)
    for _, child in ipairs(children) do child:kill "KILL" end
    children = {}
  end)

  teardown(function()
    sim:close()
    real.use(nil)
    own:close()
  end)

  it("sends in transactions that carry its position, and goes on from there", function()
    local name = "plain" .. number
    local b = box(name)
    put(b, "A", 1, 50)
    serve(b, function() return b.counts.published == 50 end, "the acknowledgements")
    local id = b.spool.id
    b:close()
    local last
    real.settled(ledger.TOPIC)
    for _, r in ipairs(broker.records(brokers, ledger.TOPIC, 1)) do
      if r.key == name then last = r.value end
    end
    assert.matches('^{"spool":"' .. id .. '","position":51,"run":"%x+"}$', last)
    local admin <close> = kafka.admin { brokers = brokers }
    local config = admin:topic_config(ledger.TOPIC, 10000)["cleanup.policy"]
    assert.equal("compact", type(config) == "table" and config.value or config)
    b = box(name)
    put(b, "A", 51, 60)
    serve(b, function() return b.counts.published == 10 end, "the rest")
    assert.equal(0, b.counts.recovered)
    b:close()
    assert.equal(expected("A", 1, 60), values(name, "A"))
  end)

  it("does not overlook its position behind an open transaction of somebody else", function()
    local name = "behind" .. number
    local b = box(name)
    local other <close> = kafka.producer {
      brokers = brokers, conf = { ["transactional.id"] = "other" .. number },
    }
    assert(other:init_transactions(30000))
    assert(other:begin())
    assert(other:produce(ledger.TOPIC, "other", "{}", nil, 0))
    assert.equal(0, other:flush(30000))
    put(b, "A", 1, 20)
    serve(b, function() return b.counts.published == 20 end, "the acknowledgements")
    b:close()
    b = box(name) -- waits: the end is not decided yet
    for _ = 1, 20 do b:serve(20) end
    assert.is_false(b.drain:is_ready())
    assert(other:commit(30000))
    put(b, "A", 21, 30)
    serve(b, function() return b.counts.published == 10 end, "the rest")
    b:close()
    assert.equal(expected("A", 1, 30), values(name, "A"))
  end)

  it("begins another spool at its start, and says so", function()
    local name = "moved" .. number
    local b = box(name)
    put(b, "A", 1, 5)
    serve(b, function() return b.counts.published == 5 end, "the acknowledgements")
    b:close()
    b = box(name, { spool = folder .. "/" .. name .. ".other" })
    put(b, "A", 6, 9)
    serve(b, function() return b.counts.published == 4 end, "the rest")
    b:close()
    assert.equal(1, logged("WARN .*Kafka knows another spool %(%x+%) of producer"))
    assert.equal(expected("A", 1, 9), values(name, "A"))
  end)

  it("sends nothing again when it comes back after another spool of its name", function()
    local name = "back" .. number
    local other = { spool = folder .. "/" .. name .. ".other" }
    local at = 0
    for _, o in ipairs { {}, other, {}, other, {} } do
      local b = box(name, o)
      put(b, "A", at + 1, at + 5)
      serve(b, function() return b.counts.published == 5 end, "the acknowledgements")
      assert.equal(0, b.counts.recovered)
      b:close()
      at = at + 5
    end
    -- Not even when it does not know itself how far it came.
    os.remove(folder .. "/" .. name .. ".spool/position")
    local b = box(name, other)
    put(b, "A", 26, 26)
    serve(b, function() return not b:owes() end, "the acknowledgements")
    b:close()
    b = box(name)
    put(b, "A", 27, 27)
    serve(b, function() return not b:owes() end, "the acknowledgements")
    b:close()
    assert.equal(expected("A", 1, 27), values(name, "A"))
  end)

  it("drops the oldest when it is full while Kafka is dead, and counts each that is not sent", function()
    local name = "full" .. number
    local b = box(name, { limit = 200000 })
    put(b, "A", 1, 5)
    serve(b, function() return b.counts.published == 5 end, "the acknowledgements")
    own "kafka-kill"
    local sent = 5
    for _ = 1, 100 do
      put(b, "A", sent + 1, sent + 100)
      sent = sent + 100
      b:serve(5)
    end
    assert.is_true(b.spool:summary().bytes <= 200000)
    assert.matches("the spool is full", table.concat(b:reasons(), " "))
    own "kafka-start"
    serve(b, function() return not b:owes() end, "the acknowledgements")
    assert.is_true(b.counts.dropped > 0)
    assert.equal(sent, b.counts.published + b.counts.dropped)
    b:close()
    local got = {}
    for text in values(name, "A"):gmatch "%d+" do got[#got + 1] = math.tointeger(tonumber(text)) end
    assert.equal(b.counts.published, #got)
    for i = 2, #got do assert.is_true(got[i] > got[i - 1], got[i - 1] .. ", then " .. got[i]) end
    assert.equal(sent, got[#got])
    assert.is_true(logged("the spool is full %(limit 200000 bytes%)") > 0)
  end)

  it("is shut out by a second copy, and by nothing else", function()
    local name = "copy" .. number
    local b = box(name)
    put(b, "A", 1, 5)
    serve(b, function() return b.counts.published == 5 end, "the acknowledgements")
    local second = box(name, { spool = folder .. "/" .. name .. ".second" })
    put(b, "A", 6, 6)
    local ok, err = pcall(serve, b, function() end, "the fencing")
    assert.is_false(ok)
    assert.equal(fault.FENCED, fault.is(err) and err.status or tostring(err))
    assert.matches("another copy of producer '" .. name .. "' took over", err.message)
    put(second, "A", 7, 9)
    serve(second, function() return second.counts.published == 3 end, "those of the second")
    b:close()
    second:close()
    assert.equal("A1 A2 A3 A4 A5 A7 A8 A9", values(name, "A"))
  end)

  it("takes a transaction that Kafka timed out for what it is", function()
    local name = "timed" .. number
    local b = box(name, { conf = { ["transaction.timeout.ms"] = 1500,
                                   ["message.timeout.ms"] = 1500 } })
    put(b, "A", 1, 5)
    serve(b, function() return b.counts.published == 5 end, "the acknowledgements")
    -- With a transaction sent, nobody steps it: as if the process had been stopped. Kafka looks each
    -- ten seconds.
    local hit, held = failpoint.hit, false
    finally(function() failpoint.hit = hit end)
    function failpoint.hit(point)
      if point == "drain.sent" and not held then
        held = true
        clock.sleep(15000)
      end
      return hit(point)
    end
    put(b, "A", 6, 20)
    serve(b, function() return b.counts.published == 20 end, "all of them")
    assert.is_true(held)
    b:close()
    assert.equal(expected("A", 1, 20), values(name, "A"))
  end)

  it("survives kill -9 again and again", function()
    local name = "killed" .. number
    local random, must = real.random "kill -9 of the producer", {}
    for n = 1, KILLS do
      local child = start(name)
      if n % 3 > 0 then
        wait(function()
          return child:log():find("first prices", 1, true)
        end, "the first prices\n" .. child:log())
      end
      local until_ = clock.mono_ms() + random(600)
      wait(function() return clock.mono_ms() >= until_ end, "the moment")
      assert.is_nil(child:result(), child:log())
      child:kill "KILL"
      if process.stat(folder .. "/" .. name .. "/spool/id") then
        spooled(folder .. "/" .. name .. "/spool", must)
      end
    end
    os.remove(folder .. "/" .. name .. ".json")
    local last = start(name)
    wait(function() return (status(name).published or 0) > 20 and last:log():find "holds it" end,
      "the last run")
    assert.equal(0, ended(last, name).summary.failed)
    local records = check(name, must)
    assert.is_true(#records > 20, #records .. " messages")
  end)

  describe("in the test build", function()
    local program = process.home() .. "/tidemill-faults"
    local function missing() return not process.stat(program) and "no tidemill-faults: make faults" end

    it("sends each message once when it is killed at every step", function()
      if missing() then return pending(missing()) end
      local name, must = "steps" .. number, {}
      for _, point in ipairs {
        "spool.append", "spool.sync", "drain.begin", "drain.sent", "drain.before_commit",
        "drain.after_commit",
      } do
        for _, nth in ipairs { 1, 7 } do
          local child = start(name, {
            program = program, env = { TIDEMILL_FAILPOINT = ("%s=kill:%d"):format(point, nth) },
          })
          local r = wait(function() return child:result() end, point .. "\n" .. child:log())
          assert.equal(9, r.signal, point .. ": " .. r.err)
          spooled(folder .. "/" .. name .. "/spool", must)
        end
      end
      os.remove(folder .. "/" .. name .. ".json")
      local last = start(name)
      wait(function() return (status(name).published or 0) > 20 end, "the last run")
      assert.equal(0, ended(last, name).summary.failed)
      check(name, must)
    end)

    it("would send a damaged message if it did not look at checksums", function()
      if missing() then return pending(missing()) end
      local name = "mutant" .. number
      local path = folder .. "/" .. name .. ".spool"
      local b = box(name)
      put(b, "A", 1, 9)
      b:close()
      local file = assert(io.open(path .. "/" .. ("%020d.seg"):format(1), "r+b"))
      local at = file:read("a"):find("A5", 1, true)
      file:seek("set", at)
      file:write "X"
      file:close()
      local child = start(name, { program = program, spool = path,
        env = { TIDEMILL_MUTATION = "spool-checksum" },
        conf = "transaction.timeout.ms=5000,message.timeout.ms=5000" })
      wait(function() return (status(name).recovered or 0) >= 9 end, "the messages\n" .. child:log())
      child:kill "KILL"
      local fifth = wait(function() -- the mark of the commit comes after its answer
        for _, r in ipairs(broker.records(brokers, name, 3)) do
          if r.value == "AX" or r.value == "A5" then return r.value end
        end
      end, "the fifth message")
      assert.equal("AX", fifth)
    end)
  end)

  it("ends with exit code 6 when another copy takes over, and up does not start it again", function()
    for _, up in ipairs { false, true } do
      local name = "six" .. number .. (up and "up" or "")
      local first = start(name, { up = up })
      wait(function() return first:log():find "holds it" end, "the first\n" .. first:log())
      local second = box(name, { spool = folder .. "/" .. name .. ".second" })
      local r = wait(function()
        second:serve(5)
        return first:result()
      end, "the end of the first")
      second:close()
      assert.equal(up and 1 or fault.FENCED, r.status, r.err)
      assert.matches("another copy of producer '" .. name .. "' took over", r.err)
      assert.equal(up, r.err:find("exit code 6.*it is not started again") ~= nil, r.err)
      assert.equal(1, select(2, r.err:gsub("holds it", "")), r.err)
    end
  end)

  it("goes on after it was stopped for longer than Kafka waits for a transaction", function()
    local name = "frozen" .. number
    local must = {}
    local child = start(name, { conf = "transaction.timeout.ms=1000,message.timeout.ms=1000" })
    for n = 1, 3 do
      wait(function() return (status(name).published or 0) > 30 * n end, "messages\n" .. child:log())
      child:kill "STOP"
      local from = clock.mono_ms()
      wait(function() return clock.mono_ms() - from > 13000 end, "Kafka's patience to end")
      local before = status(name).published
      child:kill "CONT"
      wait(function() return (status(name).published or 0) > before + 30 end, "more\n" .. child:log())
    end
    assert.equal(0, ended(child, name).summary.failed)
    check(name, must)
  end)

  it("collects while Kafka is dead, through a kill of its own, and sends all once it is back", function()
    local name = "outage" .. number
    local must = {}
    local first = start(name)
    wait(function() return (status(name).published or 0) > 30 end, "messages\n" .. first:log())
    own "kafka-kill"
    local fetched = status(name).fetched
    wait(function() return (status(name).fetched or 0) > fetched + 100 end, "more prices")
    wait(function() return status(name).health == "degraded" end, "the health")
    assert.matches("Kafka has acknowledged nothing for %d+ s", table.concat(status(name).reasons, " "))
    first:kill "KILL"
    local waiting = #spooled(folder .. "/" .. name .. "/spool", must)
    assert.is_true(waiting >= 100)
    os.remove(folder .. "/" .. name .. ".json")
    local second = start(name)
    wait(function() return (status(name).fetched or 0) > 60 end, "prices without Kafka\n" ..
      second:log())
    assert.equal(0, status(name).published)
    spooled(folder .. "/" .. name .. "/spool", must)
    own "kafka-start"
    wait(function() return (status(name).published or 0) > 60 and status(name).health == "ok" end,
      "the acknowledgements\n" .. second:log())
    local r = ended(second, name)
    assert.equal(0, r.summary.failed)
    assert.is_true(r.summary.recovered >= 100)
    assert.is_true(#check(name, must) >= r.summary.recovered + r.summary.published)
  end)

  it("loses nothing when the broker is killed again and again", function()
    local name = "broker" .. number
    local b = box(name, { conf = { ["reconnect.backoff.max.ms"] = 200 } })
    local sent = 0
    for round = 1, 3 do
      local until_ = clock.mono_ms() + 700
      serve(b, function()
        put(b, "A", sent + 1, sent + 3)
        sent = sent + 3
        return clock.mono_ms() > until_
      end, "the time")
      own "kafka-kill"
      until_ = clock.mono_ms() + 700 * round
      serve(b, function()
        put(b, "A", sent + 1, sent + 3)
        sent = sent + 3
        return clock.mono_ms() > until_
      end, "the time")
      own "kafka-start"
    end
    serve(b, function() return not b:owes() end, "the acknowledgements")
    assert.equal(sent, b.counts.published)
    b:close()
    assert.equal(expected("A", 1, sent), values(name, "A"))
  end)

  it("drops a torn last record only", function()
    local name = "torn" .. number
    local b = box(name)
    put(b, "A", 1, 3)
    serve(b, function() return b.counts.published == 3 end, "the acknowledgements")
    put(b, "A", 4, 6)
    b:close() -- not sent
    local path = folder .. "/" .. name .. ".spool/" .. ("%020d.seg"):format(1)
    local size = process.stat(path).size
    servers.run { "truncate", "-s", tostring(size - 1), path }
    b = box(name)
    serve(b, function() return not b:owes() end, "the rest")
    put(b, "A", 7, 8)
    serve(b, function() return b.counts.published == 2 end, "those after it")
    b:close()
    assert.equal(1, logged("WARN .*the last record was not written to its end %(a crash%): "
      .. "%d+ bytes at offset %d+ are cut off"))
    assert.equal("A1 A2 A3 A4 A5 A7 A8", values(name, "A"))
  end)

  it("goes over a damaged record, says which messages are lost, and keeps the file", function()
    local name = "bad" .. number
    local b = box(name)
    put(b, "A", 1, 3)
    serve(b, function() return b.counts.published == 3 end, "the acknowledgements")
    put(b, "A", 4, 9)
    b:close()
    local path = folder .. "/" .. name .. ".spool/" .. ("%020d.seg"):format(1)
    local file = assert(io.open(path, "r+b"))
    local at = file:read("a"):find("A5", 1, true)
    file:seek("set", at - 1)
    file:write "B"
    file:close()
    b = box(name)
    serve(b, function() return not b:owes() end, "the rest")
    assert.same({ 5, 1 }, { b.counts.recovered, b.counts.failed })
    b:close()
    assert.equal(1, logged("ERROR .*bytes at offset %d+ are damaged; the file is kept as "
      .. "damaged%-%d+.seg; messages 5%.%.5 %(1%) are lost"))
    assert.is_truthy(process.stat(path:gsub("/(%d+.seg)$", "/damaged-%1")))
    assert.equal("A1 A2 A3 A4 A6 A7 A8 A9", values(name, "A"))
  end)
end)
