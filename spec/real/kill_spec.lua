-- kill -9 at random moments of a recorded run, and a new start each time: the tables are those of a
-- run that nobody disturbed, and at every moment they hold exactly the rows below the positions.

local clock = require "host.clock"
local real = require "spec.support.real"

local KILLS = 25
local BIG = "replay_arrival_order_20240809"
local ROWS = 80000 -- of its 282,637
local BAD = { "", "no JSON", '{"symbol":"BTCUSDT","price":"-1","timestamp":1723161255}', "[1,2]" }

describe("kill -9", function()
  local why = real.missing(true)
  if why then
    it("needs servers and recordings", function() pending(why) end)
    return
  end

  local rows, topic

  -- Trades as they arrived, unkeyed, and a bad row after every 400th.
  local function send(producer, to, first, last)
    for i = first, last do
      local row = rows[i]
      real.put(producer, { topic = to, partition = i % 3, value =
        ('{"symbol":"%s","price":"%s","timestamp":%s}'):format(row[2], row[3], row[1]) })
      if i % 400 == 0 then
        real.put(producer, { topic = to, partition = i % 3, value = BAD[i // 400 % #BAD + 1] })
      end
    end
  end

  setup(function()
    rows = real.rows(BIG)
    topic = real.topic { partitions = 3 }
    local producer <close> = real.producer { ["batch.num.messages"] = 20 }
    send(producer, topic, 1, ROWS)
    real.flush(producer)
  end)
  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      -- What the tables of `o` hold, at one moment: rows accounted for, and the positions.
      local function look(o)
        place:query "set session transaction isolation level repeatable read"
        place:query "start transaction with consistent snapshot"
        local counted = place:value("select coalesce(sum(samples), 0) from %s", o.table)
        local dead = place:value("select count(*) from mill_dead_letters where pipeline = '%s'",
          o.name)
        local late = place:value("select count(*) from mill_late where pipeline = '%s'", o.name)
        local progress = place:progress(o.name)
        place:query "commit"
        local windows = o.size_ms // (o.hop_ms or o.size_ms) -- that each row is in
        local rows_in = (math.tointeger(tonumber(counted)) + late) / windows
        return rows_in + dead, progress
      end

      -- The offsets at which a run went on, as it says itself: the stored positions, { [partition] =
      -- offset }. A commit that was under way at the kill before may have moved them after we looked.
      local function check_claims(log, before, now, what)
        local claims = {}
        for partition, offset in log:gmatch("claimed partition (%d+) at offset (%d+)") do
          local p, from = math.tointeger(tonumber(partition)), math.tointeger(tonumber(offset))
          local low = before[p] and before[p].position or 0
          assert.is_true(from >= low and from <= now[p].position,
            ("%s: partition %d went on at %d, its position was %d"):format(what, p, from, low))
          claims[p] = claims[p] or from
        end
        return claims
      end

      local function check_moment(o, before, what)
        local accounted, progress = look(o)
        local read = 0
        for partition, row in pairs(progress) do
          read = read + row.position
          local old = before[partition]
          assert.is_true(not old or row.position >= old.position, what .. ": a position went back")
          assert.is_true(not old or row.commit_seq >= old.commit_seq, what)
        end
        assert.equal(read, accounted, what .. ": rows in the tables against rows below positions")
        return progress
      end

      -- Has a position moved since `before`, or is the end reached?
      local function has_moved(o, before)
        local now = place:progress(o.name)
        for partition, row in pairs(now) do
          if not before[partition] or row.position > before[partition].position then return true end
        end
        if not next(before) then return false end
        local ends = real.ends(o.topic) -- takes its time: asked for only when it matters
        for partition, row in pairs(now) do
          if row.position < ends[partition][2] then return false end
        end
        return true
      end

      local function kill_often(o, life_ms, random, meanwhile)
        local progress, hits, moved = {}, 0, 0
        for n = 1, KILLS do
          local what = ("kill %d of %d"):format(n, KILLS)
          local child = place:start(o)
          if meanwhile then meanwhile(n) end
          -- At any moment from its first on; every other time once it has committed something,
          -- if there is anything left.
          if n % 2 == 0 then
            real.wait(function() return has_moved(o, progress) end, what .. ", a commit")
          end
          clock.sleep(1 + random(life_ms))
          assert.is_nil(child:result(), what .. ": it ended by itself:\n" .. child:log())
          child:kill "KILL"
          local now = check_moment(o, progress, what)
          if next(check_claims(child:log(), progress, now, what)) then hits = hits + 1 end
          for partition, row in pairs(now) do
            if not progress[partition] or row.position > progress[partition].position then
              moved = moved + 1
              break
            end
          end
          progress = now
        end
        assert.is_true(hits >= 3 and moved >= 3, ("%d runs had claimed, %d had committed"):format(
          hits, moved))
        return progress
      end

      -- The last run goes to the end; it reads what is above the positions at which it went on, no more
      -- and no less.
      local function finish(o, progress)
        o.until_end = true
        local last = place:average(o)
        local below = 0
        for _, from in pairs(check_claims(last.err, progress, place:progress(o.name), "the last")) do
          below = below + from
        end
        o.runs = nil
        local want = real.verify(place, o)
        assert.equal(want.consumed - below, last.summary.consumed)
        return want
      end

      local function options(o)
        o.name, o.table = real.name "killed", place:table(true)
        o.max_delay_ms, o.lateness_ms, o.until_end = 0, 50, false
        o.idle_ms = 3600000 -- a run that is slow to be killed must not make rows final by the clock
        o.env = { TIDEMILL_LOG = "debug", TIDEMILL_KAFKA_CONF = o.conf }
        return o
      end

      it(KILLS .. " times while catching up: the tables of an undisturbed run", function()
        -- Small fetches, and every row in many windows: more runs are hit at work.
        local o = options { topic = topic, size_ms = 1000, hop_ms = 50, commit_every = "5ms",
          conf = "fetch.message.max.bytes=2000,message.max.bytes=2000,fetch.max.bytes=2000" }
        local progress = kill_often(o, 50, real.random "kill while catching up")
        local want = finish(o, progress)
        assert.equal(ROWS // 400, #want.dead)
        assert.is_true(want.late > 0 and #want.late_rows > 0)
        local calm = options { topic = topic, size_ms = 1000, hop_ms = 50 }
        calm.until_end, calm.want = true, want
        calm.runs = { place:average(calm) }
        real.verify(place, calm)
        real.same(place:results(calm.table), place:results(o.table), 2, "undisturbed and killed")
      end)

      it(KILLS .. " times while the trades come in", function()
        local live = real.topic { partitions = 3 }
        local producer <close> = real.producer()
        local o = options { topic = live, size_ms = 100 }
        local share = ROWS // 2 // KILLS
        local progress = kill_often(o, 250, real.random "kill near the end", function(n)
          send(producer, live, (n - 1) * share + 1, n * share)
          producer:poll(0)
        end)
        real.flush(producer)
        finish(o, progress)
      end)
    end)
  end
end)
