-- The drain while Kafka is away; with Kafka, see spool_spec and spec/real/spool_spec. Its clients are
-- tables, and time goes by when they wait.

local clock = require "host.clock"
local drain_ = require "mill.drain"

describe("a drain that looks its topics up anew", function()
  local drain, answer, asked, waited

  before_each(function()
    asked, waited = {}, 0
    drain = drain_.new({ name = "d", topic = "t", brokers = "127.0.0.1:1" }, {}, {}, true)
    drain.producer = { poll = function() return { failures = 0, events = {} } end, close = function() end }
    drain.admin = {
      metadata = function(_, _, ms)
        local took = answer(ms)
        asked[#asked + 1] = ms
        waited = waited + took
        clock.advance(took)
        return took < ms and { topics = {} } or nil, "no answer"
      end,
      close = function() end,
    }
    drain.started, drain.state = 1, "connect" -- it has sent before
  end)

  after_each(function() drain:close() end)

  -- Serve it as mill.outbox does, for so long.
  local function serve(ms)
    local deadline = clock.mono_ms() + ms
    while clock.mono_ms() < deadline do
      drain:step(0)
      drain:step(0)
      clock.advance(10)
    end
  end

  it("leaves the loop its time while Kafka does not answer", function()
    answer = function(ms) return ms end
    serve(60000)
    assert.is_true(waited <= 12000, waited .. " ms of 60000")
    assert.is_true(#asked >= 10, #asked .. " times")
    assert.is_true(math.max(table.unpack(asked)) <= 1000)
    assert.equal("no answer", drain.why)
  end)

  it("waits longer for a Kafka that is slow, and not for one that is quick", function()
    answer = function(ms) return math.min(ms, 500) end
    serve(10000)
    assert.equal("topic 't' does not exist", drain.why)
    asked, answer = {}, function() return 1 end
    serve(10000)
    assert.is_true(#asked >= 5, #asked .. " times")
    assert.equal(200, asked[#asked])
  end)
end)
