-- Several instances of one pipeline at once: together they count every row of the log once.

local clock = require "host.clock"
local real = require "spec.support.real"

local SPOT = "binance_spot_trades_btc_eth_20240809"
local BIG = "replay_arrival_order_20240809"
local T0 = 1723161600000
-- Kafka notices the end of an instance that did not leave after this long.
local SOON = { TIDEMILL_KAFKA_CONF = "session.timeout.ms=2000,heartbeat.interval.ms=300" }

describe("instances", function()
  local why = real.missing(true)
  if why then
    it("need servers and recordings", function() pending(why) end)
    return
  end

  local topics = {}

  teardown(real.close)

  local function filled(file, keyed, partitions)
    local id = ("%s %s %d"):format(file, keyed, partitions)
    if not topics[id] then
      topics[id] = real.topic { partitions = partitions }
      real.replay(topics[id], real.recording(file), { keyed = keyed })
    end
    return topics[id]
  end

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      local function options(o)
        o.name, o.table = real.name "together", place:table(true)
        return o
      end

      local function with(o, more)
        local out = {}
        for key, value in pairs(o) do out[key] = value end
        for key, value in pairs(more) do out[key] = value end
        return out
      end

      -- Start these instances at once and wait for their good ends.
      local function together(o, names)
        local children, runs = {}, {}
        for i, name in ipairs(names) do children[i] = place:start(with(o, { instance = name })) end
        for i, child in ipairs(children) do
          runs[i] = child:finish()
          assert.equal(0, runs[i].status, names[i] .. ": " .. runs[i].err)
        end
        return runs
      end

      for _, case in ipairs {
        { { "a" }, true }, { { "a", "b" }, false }, { { "a", "b", "c" }, true },
        { { "a", "b", "c" }, false },
      } do
        local names, keyed = case[1], case[2]
        it(("%d at once, --until-end, %s keys"):format(#names, keyed and "with" or "without"),
          function()
            local o = options { topic = filled(SPOT, keyed, 4), size_ms = 1000, max_delay_ms = 100 }
            o.runs = together(o, names)
            real.verify(place, o)
            assert.equal(0, place:value("select count(*) from mill_instances where pipeline = '%s'",
              o.name))
          end)
      end

      it("three at once over 282,637 rows, late ones among them", function()
        local o = options { topic = filled(BIG, false, 6), size_ms = 100, max_delay_ms = 0,
          lateness_ms = 50, commit_every = "50ms" }
        o.runs = together(o, { "a", "b", "c" })
        local want = real.verify(place, o)
        assert.is_true(want.late > 0 and want.too_late > 0)
      end)

      it("more than there are partitions: the others wait and end too", function()
        local o = options { topic = filled(SPOT, true, 1) }
        o.runs = together(o, { "a", "b", "c" })
        real.verify(place, o)
      end)

      it("one that joins shares the work; one that leaves hands its part on", function()
        local topic = real.topic { partitions = 4 }
        local o = options { topic = topic, size_ms = 1000, until_end = false, env = SOON,
          idle_ms = 3600000 } -- finality is compared: it is not to come by the clock
        local producer <close> = real.producer()
        local sent = 0
        local function send(count)
          for _ = 1, count do
            real.put(producer, { topic = topic, partition = sent % 4, value =
              ('{"symbol":"S%d","price":"%d.5","timestamp":%d}'):format(sent % 7, sent, T0 + sent) })
            sent = sent + 1
          end
          producer:poll(0)
        end
        local function caught_up()
          local sum = 0
          for _, row in pairs(place:progress(o.name)) do sum = sum + row.position end
          return sum == sent
        end
        local function owners()
          local seen, count = {}, 0
          for _, row in pairs(place:progress(o.name)) do
            if not seen[row.owner] then
              seen[row.owner] = true
              count = count + 1
            end
          end
          return count
        end
        send(1000)
        local a = place:start(with(o, { instance = "a" }))
        real.wait(caught_up, "a")
        local b = place:start(with(o, { instance = "b" }))
        real.wait(function()
          send(10)
          return owners() == 2
        end, "b to own some partitions")
        local c = place:start(with(o, { instance = "c" }))
        real.wait(function()
          send(10)
          return owners() == 3
        end, "c to own some partitions")
        a:kill "TERM"
        assert.equal(0, a:finish(30000).status)
        b:kill "KILL"
        send(1000)
        real.wait(function()
          send(1)
          return owners() == 1
        end, "c to take all over", 60000)
        real.wait(caught_up, "c to read all")
        c:kill "TERM"
        assert.equal(0, c:finish(30000).status)
        real.flush(producer)
        o.until_end = true
        place:average(o)
        local want = real.verify(place, o)
        assert.equal(sent, want.consumed)
      end)

      -- Does a run with --leave give its partitions away at once? False when the broker was too slow for it.
      local function given_away()
        local topic = real.topic { partitions = 2 }
        -- Without leaving it would take the whole session.
        local o = options { topic = topic, until_end = false,
          env = { TIDEMILL_KAFKA_CONF = "session.timeout.ms=60000" } }
        local a = place:start(with(o, { instance = "a", args = { "--leave" } }))
        real.wait(function() return next(place:progress(o.name)) end, "a")
        local b = place:start(with(o, { instance = "b" }))
        real.wait(function()
          local p = place:progress(o.name)
          return p[0].owner ~= p[1].owner
        end, "b to share")
        a:kill "TERM"
        local r = a:finish(20000)
        assert.equal(0, r.status)
        local left = not r.err:find("the group was not left", 1, true)
        local since = clock.mono_ms()
        real.send(topic, {
          { partition = 0, value = '{"symbol":"A","price":"1","timestamp":1723161600}' },
          { partition = 1, value = '{"symbol":"B","price":"1","timestamp":1723161600}' },
        })
        real.wait(function() return #place:results(o.table) == 2 end, "b to read both", 120000)
        assert.is_true(not left or clock.mono_ms() - since < 40000)
        b:kill "TERM"
        assert.equal(0, b:finish(20000).status)
        return left
      end

      it("with --leave the others have the partitions at once", function()
        assert(given_away() or given_away() or given_away())
      end)

      it("that come, go and are killed at random: every row once", function()
        local random = real.random "instances at random"
        local o = options { topic = filled(BIG, false, 6), size_ms = 1000, hop_ms = 100,
          max_delay_ms = 0, lateness_ms = 50, commit_every = "10ms", until_end = false, env = SOON,
          idle_ms = 3600000 } -- the end may be reached long before the last instance
        local running, names = {}, { "a", "b", "c" }
        for _ = 1, 14 do
          local name = names[1 + random(#names)]
          local child = running[name]
          if not child then
            running[name] = place:start(with(o, { instance = name }))
          else
            running[name] = nil
            if random(2) == 0 then
              child:kill "KILL"
            else
              child:kill "TERM"
              local r = child:finish(60000)
              -- In its first milliseconds a process has no handler yet.
              assert.equal(0, r.status or (r.err == "" and 0), r.err)
            end
          end
          clock.sleep(random(400))
        end
        for _, child in pairs(running) do child:kill "KILL" end
        o.until_end = true
        together(o, { "a", "b" })
        real.verify(place, o)
      end)
    end)
  end
end)
