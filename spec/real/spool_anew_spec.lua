-- A cluster made anew under a running producer: its client is of no use any more, and the topics are gone.

if (os.getenv "TIDEMILL_KAFKA" or "") == "" then
  describe("a producer whose cluster is made anew", function()
    pending("TIDEMILL_KAFKA is not set (eval \"$(tools/servers.sh up kafka)\")")
  end)
  return
end

local broker = require "spec.support.broker"
local clock = require "host.clock"
local log = require "mill.log"
local real = require "spec.support.real"
local servers = require "spec.support.servers"
local support = require "spec.support.outbox"

describe("a producer whose cluster is made anew", function()
  local own

  setup(function()
    own = servers.up { "kafka" }
    real.use(own.env)
    log.to { write = function() end }
  end)
  teardown(function()
    log.to(nil)
    real.use(nil)
    own:close()
  end)

  local function open(name, create)
    return support.open {
      name = name, create_topic = create, partitions = 1, brokers = real.kafka(),
      spool = own.folder .. "/" .. name, conf = { ["reconnect.backoff.max.ms"] = 200 },
    }
  end

  local function put(b, from, to)
    for i = from, to do b:send("A", "A" .. i, clock.wall_ms(), clock.mono_us()) end
  end

  local function another_cluster()
    own "kafka-kill"
    servers.run { "rm", "-rf", own:data "kafka" }
    own "kafka-start"
  end

  local function holds(topic, want)
    real.settled(topic)
    local got = {}
    for i, r in ipairs(broker.records(real.kafka(), topic, 1)) do got[i] = r.value end
    assert.same(want, got)
  end

  local REST = { "A6", "A7", "A8", "A9", "A10" } -- the others were acknowledged before

  it("makes its topics there and goes on", function()
    local b, told = open("made", true)
    put(b, 1, 5)
    support.serve(b, "the first acknowledgements", function() return told.published == 5 end)
    another_cluster()
    put(b, 6, 10)
    support.serve(b, "the rest", function() return told.published == 10 end)
    b:close()
    holds("made", REST)
  end)

  it("collects until somebody makes its topic, where it is not to make it", function()
    real.topic { name = "given", partitions = 1 }
    local b, told = open("given", false)
    put(b, 1, 5)
    support.serve(b, "the first acknowledgements", function() return told.published == 5 end)
    another_cluster()
    put(b, 6, 10)
    support.serve(b, "its word about the topic", function()
      return table.concat(b:reasons(), " "):find("topic 'given' does not exist", 1, true)
    end)
    real.topic { name = "given", partitions = 1 }
    support.serve(b, "the rest", function() return told.published == 10 end)
    b:close()
    holds("given", REST)
  end)
end)
