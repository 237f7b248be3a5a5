-- Messages that a real broker refuses, and the ones around them: all others are there once and in
-- order. A wrong time costs nothing; what can never be taken is left out alone, and counted. And
-- messages whose numbers it knows already.

if (os.getenv "TIDEMILL_KAFKA" or "") == "" then
  describe("messages that Kafka refuses", function()
    pending("TIDEMILL_KAFKA is not set (eval \"$(tools/servers.sh up kafka)\")")
  end)
  return
end

local broker = require "spec.support.broker"
local clock = require "host.clock"
local digest = require "host.digest"
local folder_ = require "spec.support.folder"
local kafka = require "host.kafka"
local log = require "mill.log"
local logged_ = require "spec.support.logged"
local process = require "host.process"
local real = require "spec.support.real"
local support = require "spec.support.outbox"
local wait = require "spec.support.wait"

local WAIT_MS = 60000 * require "spec.support.slow"
local DAY_MS = 86400000
-- Keys: A goes to partition 0, D to 1.

describe("messages that Kafka refuses", function()
  local folder, admin, topic, lines, counts, box

  before_each(function()
    folder = folder_.make()
    admin = kafka.admin { brokers = real.kafka() }
    topic, lines, counts = real.name "refused", logged_.take(), nil
  end)

  after_each(function()
    log.to(nil)
    if box then box:close() end
    box = nil
    admin:delete_topic(topic)
    admin:close()
    folder_.clear(folder)
  end)

  local function open()
    box, counts = support.open({ name = topic, brokers = real.kafka(), spool = folder .. "/spool" },
      counts)
  end

  local function begin(config)
    assert(admin:create_topic { name = topic, partitions = 2, config = config })
    wait("the topic", function() -- brokers hear of it one after the other
      local answer = admin:metadata(topic, 5000)
      local found = answer and answer.topics[topic]
      return found and not found.code and #found.partitions == 2
    end)
    open()
  end

  local function send(key, text, ahead_ms)
    box:send(key, text, clock.wall_ms() + (ahead_ms or 0), clock.mono_us())
  end

  local function serve()
    support.serve(box, "all to be sent", function() return not box:owes() end,
      function() return table.concat(lines) end)
  end

  -- Of a key, once there are `n`: brokers write the marks of a commit after they answered it.
  local function values(key, n)
    local deadline = clock.mono_ms() + WAIT_MS
    while true do
      local out = {}
      for _, r in ipairs(broker.records(real.kafka(), topic, 2)) do
        if r.key == key then out[#out + 1] = r.value end
      end
      if #out >= n or clock.mono_ms() > deadline then return out end
    end
  end

  local function numbered(from, to)
    local out = {}
    for i = from, to do out[#out + 1] = "v" .. i end
    return out
  end

  local function logged(pattern) return logged_.count(lines, pattern) end

  it("sends a message whose clock was wrong with the present time", function()
    begin { ["message.timestamp.after.max.ms"] = "3600000",
            ["message.timestamp.before.max.ms"] = "3600000" }
    for i = 1, 20 do
      send("A", "v" .. i, i == 7 and DAY_MS or i == 13 and -DAY_MS or 0)
      send("D", "v" .. i)
    end
    serve()
    assert.same({ published = 40, recovered = 0, failed = 0, dropped = 0 }, counts)
    assert.same({ numbered(1, 20), numbered(1, 20) }, { values("A", 20), values("D", 20) })
    assert.is_true(logged "WARN .*Kafka refused messages: .*[Tt]imestamp" > 0)
    local now = clock.wall_ms()
    for _, r in ipairs(broker.records(real.kafka(), topic, 2)) do
      assert.is_true(math.abs(now - r.stamp_ms) < WAIT_MS * 2)
    end
  end)

  it("waits, and loses nothing, while the clock is wrong", function()
    begin { ["message.timestamp.after.max.ms"] = "3600000" }
    clock.set_wall(clock.wall_ms() + DAY_MS)
    finally(function() clock.set_wall(nil) end)
    for i = 1, 5 do send("A", "v" .. i) end
    local until_ = clock.mono_ms() + 1500
    while clock.mono_ms() < until_ do box:serve(10) end
    assert.same({ published = 0, recovered = 0, failed = 0, dropped = 0 }, counts)
    clock.set_wall(nil)
    for i = 6, 9 do send("A", "v" .. i) end
    serve()
    assert.same({ published = 9, recovered = 0, failed = 0, dropped = 0 }, counts)
    assert.same(numbered(1, 9), values("A", 9))
  end)

  it("leaves out alone what is too large for the topic", function()
    begin { ["max.message.bytes"] = "3000" }
    for i = 1, 60 do
      if i == 31 or i == 50 then send("A", digest.random_hex(1024) .. digest.random_hex(1024)) end
      send("A", "v" .. i)
      send("D", "v" .. i)
    end
    serve()
    assert.same({ published = 120, recovered = 0, failed = 2, dropped = 0 }, counts)
    assert.same({ numbered(1, 60), numbered(1, 60) }, { values("A", 60), values("D", 60) })
    assert.equal(2, logged "ERROR .*a message of A is left out, Kafka refuses it: .*too large")
    assert.equal(0, logged "new client")
    -- What comes later is not held up, and after a restart nothing is sent again.
    for i = 61, 65 do send("A", "v" .. i) end
    serve()
    box:close()
    open()
    send("A", "v66")
    serve()
    assert.same(numbered(1, 66), values("A", 66))
    assert.same({ published = 126, recovered = 0, failed = 2, dropped = 0 }, counts)
  end)

  it("sends in parts what is too large together only", function()
    begin { ["max.message.bytes"] = "3000" }
    local n = 300
    for i = 1, n do
      send("A", ("v%d %s"):format(i, digest.random_hex(30)))
    end
    serve()
    assert.same({ published = n, recovered = 0, failed = 0, dropped = 0 }, counts)
    local got = {}
    for i, value in ipairs(values("A", n)) do got[i] = value:match "^v%d+" end
    assert.same(numbered(1, n), got)
  end)

  -- Kafka has numbers that this folder gives to others, and no run lives to its first transaction.
  it("sends all that is new in an older copy of its spool, whatever ended before its claim", function()
    local function move(...)
      local child <close> = assert(process.spawn { argv = { ... } })
      assert.equal(0, child:wait(10000).code)
    end
    begin {}
    for i = 1, 3 do send("A", "v" .. i) end
    serve()
    box:close()
    move("cp", "-r", folder .. "/spool", folder .. "/copy")
    open()
    for i = 4, 11 do send("A", "v" .. i) end
    serve()
    box:close()
    move("rm", "-r", folder .. "/spool")
    move("mv", folder .. "/copy", folder .. "/spool")
    local n = 11
    for _ = 1, 4 do
      open()
      for _ = 1, 3 do
        n = n + 1
        send("A", "v" .. n)
      end
      local deadline = clock.mono_ms() + WAIT_MS
      repeat
        assert(clock.mono_ms() < deadline, "no claim")
        box:serve(2)
      until box.drain.claim and box.drain:sending() or box.drain:is_ready()
      box:close()
    end
    open()
    serve()
    assert.same(numbered(1, n), values("A", n))
    box:close()
    open()
    send("A", "v" .. n + 1)
    serve()
    assert.same(numbered(1, n + 1), values("A", n + 1))
  end)
end)
