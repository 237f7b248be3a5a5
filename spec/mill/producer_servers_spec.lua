local broker = require "spec.support.broker"
local fault = require "mill.fault"
local kafka = require "host.kafka"
local logged_ = require "spec.support.logged"
local process = require "host.process"
local support = require "spec.support.producer"

-- How many different messages are in a topic. This broker knows no transactions, and numbers only with
-- them: what it took and could not acknowledge, it takes again.
local function different(server, topic)
  local seen, n = {}, 0
  for _, r in ipairs(broker.records(server:bootstrap(), topic, 3)) do
    if not seen[r.value] then n = n + 1 end
    seen[r.value] = true
  end
  return n
end

describe("the producer", function()
  local world = support.new()
  local simulate, make, logged = world.simulate, world.make, world.logged
  local run, run_published, check_topic = world.run, world.run_published, world.check_topic

  setup(world.open)
  before_each(world.begin)
  after_each(world.finish)
  teardown(world.close)

  -- What was fetched until now is acknowledged or given up; new prices come meanwhile.
  local function told_of_all(p)
    local want = p:summary().fetched
    run(p, function()
      local now = p:summary()
      return now.published + now.failed >= want
    end, "the acknowledgements")
  end

  describe("with several endpoints", function()
    it("goes to the next at once when the first blocks it, and back when that heals", function()
      local first = simulate()
      simulate()
      local p = make()
      run_published(p, 3)
      assert.equal(first:url(), p:summary().endpoint)
      first.faults:add { kind = "403html", for_ms = 60000 }
      run(p, function() return p:summary().endpoint == world.sims[2]:url() end, "the second")
      first.faults:clear()
      run(p, function() return p:summary().endpoint == first:url() end, "the first again")
      run_published(p, 3)
      local _, summary = check_topic(p)
      assert.equal(2, summary.switches)
      assert.equal(1, logged(" WARN .* 403, blocked"), table.concat(world.lines))
      assert.equal(1, logged("prices come from " .. world.sims[2]:url() .. " now"))
      assert.equal(1, logged("prices come from " .. first:url() .. " now"))
      assert.equal(1, logged(first:url() .. " answers again"))
    end)

    it("begins with the second when the first has no address or no TLS", function()
      local sim = simulate()
      for what, url in pairs {
        ["its name has no address"] = "http://" .. ("a"):rep(64) .. ".invalid",
        ["TLS failed"] = sim:url():gsub("^http:", "https:"), ["no connection"] = "http://127.0.0.1:1",
      } do
        world.lines = logged_.take()
        local p = make {
          endpoints = url .. "," .. sim:url(), name = "p" .. world.number .. what:sub(1, 2),
          retry = { base_ms = 1, cap_ms = 2, threshold = 2 },
        }
        run_published(p, 3)
        assert.equal(sim:url(), p:summary().endpoint)
        assert.equal(1, logged(" WARN .*" .. what), table.concat(world.lines))
        p:finish(5000)
      end
    end)

    it("goes to another domain while one has banned it", function()
      local first = simulate()
      simulate()
      local p = make()
      run_published(p, 3)
      first.faults:add { kind = "418", for_ms = 60000, retry_after = 60 }
      run(p, function() return p:summary().endpoint == world.sims[2]:url() end, "the second")
      run_published(p, 6)
      assert.equal(1, first.faults.list[1].hits)
      check_topic(p)
    end)
  end)

  describe("and Kafka", function()
    it("names a topic that is missing, and creates it when told to", function()
      simulate()
      local ok, err = pcall(make, { topic = "absent" .. world.number, create_topic = false })
      assert.is_false(ok)
      assert.equal(fault.SERVER, err.status)
      assert.matches("topic 'absent%d+' does not exist at 127.0.0.1:%d+; create it, or .* %-%-set "
        .. "create_topic=true", err.message)
      local p = make { topic = "absent" .. world.number, create_topic = true, partitions = 3 }
      run_published(p, 3)
    end)

    it("keeps messages while it is away, and says so once", function()
      local own <close> = kafka.broker { topics = { { name = "away", partitions = 3 } } }
      simulate()
      local p = make { brokers = own:bootstrap(), topic = "away",
                       conf = { ["reconnect.backoff.max.ms"] = 100 } }
      run_published(p, 6)
      assert(own:broker_down(1))
      run(p, function() return logged(" WARN .* Kafka has acknowledged nothing for") > 0 end,
        "the warning")
      local waiting = p:summary().queued
      assert.is_true(waiting > 3)
      assert(own:broker_up(1))
      told_of_all(p)
      assert.equal(0, p:finish(10000))
      local summary = p:summary()
      assert.equal(summary.fetched, different(own, "away"))
      assert.equal(summary.fetched, summary.published)
      assert.equal(0, summary.failed)
      assert.equal(1, logged(" WARN "), table.concat(world.lines))
      assert.equal(1, logged("Kafka acknowledges again"))
    end)

    it("drops the oldest when its spool is full, loudly, and counts them", function()
      local own <close> = kafka.broker { topics = { { name = "full", partitions = 3 } } }
      simulate()
      local p = make { brokers = own:bootstrap(), topic = "full", spool_limit = 40000, every_ms = 5 }
      run_published(p, 3)
      assert(own:broker_down(1))
      run(p, function() return p:summary().dropped >= 9 end, "the losses")
      assert.equal(1, logged(" WARN .* the spool is full %(limit 40000 bytes%): the oldest messages "
        .. "are dropped, first %d+%.%.%d+ %(%d+%)"))
      assert.matches("the spool is full: %d+ messages were dropped",
        table.concat(p.outbox:reasons(), "; "))
      assert.is_true(p:summary().spool.bytes <= 40000)
      assert(own:broker_up(1))
      told_of_all(p)
      assert.equal(0, p:finish(10000))
      local summary = p:summary()
      assert.equal(summary.failed, summary.dropped)
      assert.equal(summary.fetched, summary.published + summary.failed)
      assert.equal(1, logged("the spool has room again"))
    end)

    it("leaves to the next run what was never acknowledged", function()
      local own <close> = kafka.broker { topics = { { name = "gone", partitions = 3 } } }
      simulate()
      local p = make { brokers = own:bootstrap(), topic = "gone" }
      run_published(p, 3)
      assert(own:broker_down(1))
      run(p, function() return p:summary().queued >= 6 end, "a queue")
      local left = p:finish(300)
      local first = p:summary()
      assert.is_true(left >= 6)
      assert.equal(first.fetched, first.published + left)
      p:close()
      assert(own:broker_up(1))
      local q = make { brokers = own:bootstrap(), topic = "gone" }
      run(q, function() return q:summary().recovered >= left end, "those of the first run")
      assert.equal(0, q:finish(5000))
      local second = q:summary()
      assert.equal(left, second.recovered)
      assert.equal(first.fetched + second.fetched, different(own, "gone"))
    end)

    it("refuses a second producer on the same spool, naming the first one's process", function()
      simulate()
      run_published(make(), 3)
      local ok, err = pcall(make)
      assert.is_false(ok)
      assert.equal(fault.RUNNING, err.status)
      assert.matches("is in use by process " .. process.pid() .. ":", err.message)
    end)

    it("collects messages from its start on while Kafka is away, once its spool was in use", function()
      local own <close> = kafka.broker { topics = { { name = "late", partitions = 3 } } }
      simulate()
      local p = make { brokers = own:bootstrap(), topic = "late" }
      run_published(p, 3)
      assert.equal(0, p:finish(5000))
      local first = p:summary().fetched
      p:close()
      assert(own:broker_down(1))
      local q = make { brokers = own:bootstrap(), topic = "late",
                       conf = { ["reconnect.backoff.max.ms"] = 100 } }
      run(q, function() return q:summary().fetched >= 9 end, "prices")
      assert.equal(0, q:summary().published)
      assert(own:broker_up(1))
      told_of_all(q)
      assert.equal(0, q:finish(5000))
      assert.equal(first + q:summary().fetched, different(own, "late"))
    end)
  end)
end)
