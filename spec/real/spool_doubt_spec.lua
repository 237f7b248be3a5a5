-- The producer's spool and a transaction whose end nobody heard of: the broker stands still in the
-- middle of a commit until the producer gives up, and goes on when a new client is there.

if (os.getenv "TIDEMILL_KAFKA" or "") == "" then
  describe("a commit in doubt", function()
    pending("TIDEMILL_KAFKA is not set (eval \"$(tools/servers.sh up kafka)\")")
  end)
  return
end

local broker = require "spec.support.broker"
local clock = require "host.clock"
local failpoint = require "mill.failpoint"
local log = require "mill.log"
local logged_ = require "spec.support.logged"
local real = require "spec.support.real"
local servers = require "spec.support.servers"
local support = require "spec.support.outbox"

local NAME = "doubt"

local own, lines

local function signal(name) own:signal("kafka", name) end

describe("a commit in doubt", function()
  setup(function()
    own = servers.up { "kafka" }
    real.use(own.env)
    lines = logged_.take()
  end)

  teardown(function()
    log.to(nil)
    pcall(signal, "CONT")
    real.use(nil)
    own:close()
  end)

  it("doubles and loses nothing", function()
    local sent = 0
    local b, counts = support.open {
      name = NAME, create_topic = true, partitions = 1, brokers = own.env.TIDEMILL_KAFKA,
      spool = own.folder .. "/spool", conf = { ["reconnect.backoff.max.ms"] = 200 },
    }
    local function put()
      sent = sent + 1
      b:send("A", "A" .. sent, clock.wall_ms(), clock.mono_us())
    end
    put()
    support.serve(b, "the first", function() return not b:owes() end)
    -- Stopped right before a commit is sent, the broker has it and cannot answer.
    local hit = failpoint.hit
    finally(function() failpoint.hit = hit end)
    function failpoint.hit(name)
      if name == "drain.before_commit" then signal "STOP" end
      return hit(name)
    end
    put()
    support.serve(b, "a commit", function() return b.drain.state == "commit" end)
    failpoint.hit = hit
    for _ = 1, 20 do put() end
    local slowest = 0
    support.serve(b, "its patience to end", function()
      local from = clock.mono_ms()
      b:serve(10)
      slowest = math.max(slowest, clock.mono_ms() - from)
      return b.drain.state ~= "commit"
    end)
    assert.is_true(slowest < 10000, "the loop was held up for " .. slowest .. " ms")
    assert.is_true(b.drain.state == "open" or b.drain.state == "init", b.drain.state)
    signal "CONT"
    support.serve(b, "the acknowledgements", function() return not b:owes() end)
    assert.equal(sent, counts.published)
    b:close()
    real.settled(NAME)
    local got, want = {}, {}
    for i, r in ipairs(broker.records(own.env.TIDEMILL_KAFKA, NAME, 1)) do got[i] = r.value end
    for i = 1, sent do want[i] = "A" .. i end
    assert.same(want, got)
    assert.matches("going on with a new client", table.concat(lines))
  end)
end)
