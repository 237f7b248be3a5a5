-- Would these specs notice a lie? With one check left out at a time, a directed run ends with wrong
-- tables or says what it must not say; the same run with all checks in place is right.

local fail = require "spec.support.failpoints"
local real = require "spec.support.real"

local ROWS = 6000
-- A mutation is caught within so many runs; nearly always by the first. On a loaded machine a frozen
-- instance may have lost its deltas before it is thawed.
local ROUNDS = 3
-- The session of a frozen instance ends well before its transaction is ended by the server.
local CONF = fail.CONF:gsub("session.timeout.ms=2000,heartbeat.interval.ms=300",
  "session.timeout.ms=1000,heartbeat.interval.ms=200")
-- One that is never frozen must not lose its membership, however slowly it runs.
local PATIENT = CONF:gsub("session.timeout.ms=1000", "session.timeout.ms=30000")
-- Rows that the oracle leaves open must not become final, however long a run is silent.
local IDLE_MS = 3600000
-- The scenario did not come about; that says nothing of the checks.
local MISSED = "gave up waiting for the claim to wait"

describe("a directed run", function()
  local why = real.missing() or not real.faults() and "`make faults` was not run"
  if why then
    it("needs servers and the test build", function() pending(why) end)
    return
  end

  local topic

  setup(function() topic = fail.topic(ROWS) end)
  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place, want

      setup(function()
        place = real.place(base)
        want = real.expect(fail.options(place, topic))
      end)
      teardown(function() place:close() end)

      local function options()
        local o = fail.options(place, topic)
        o.want, o.env.TIDEMILL_KAFKA_CONF = want, CONF
        return o
      end

      -- Ended, and started again.
      local function restarted(o, mutation)
        local live = fail.with(o, { until_end = false, idle_ms = IDLE_MS })
        local first = place:start(fail.with(live, { mutation = mutation }))
        real.wait(function()
          local samples = place:value("select sum(samples) from %s", o.table)
          local all = 0
          for _, row in ipairs(want.results) do all = all + row[6] end
          return samples == ("%d"):format(all)
        end, "the first run to count all")
        first:kill "TERM"
        fail.ended(first, "first")
        local second = place:start(fail.with(live, { mutation = mutation }))
        real.wait(function()
          local _, claims = second:log():gsub("claimed partition", "")
          return claims >= fail.PARTITIONS
        end, "the second run to claim")
        second:kill "TERM"
        fail.ended(second, "second")
        real.verify(place, o)
      end

      -- Frozen with deltas in hand until another instance has done all the work.
      local function thawed(o, mutation)
        local a = place:start(fail.with(o, { mutation = mutation, fail = "commit.begin=stop" }))
        real.stopped(a)
        fail.ended(place:start(fail.with(o, { instance = "b" })), "b")
        a:kill "CONT"
        fail.ended(a, "a")
        real.verify(place, o)
      end

      -- The connection goes when COMMIT is under way, and the server carries it out.
      local function cut(o, mutation)
        local a = place:start(fail.with(o, { mutation = mutation, fail = "commit.sent=cut:2" }))
        local r = fail.ended(a, "a")
        assert(r.err:find("the connection was cut by a fail point", 1, true), r.err)
        real.verify(place, o)
      end

      -- Frozen within a transaction while another claims; thawed, it commits, and the claim ends.
      local function waited(o, mutation)
        -- It sleeps while the other one starts, which looks at the tables before it joins.
        local a = place:start(fail.with(o,
          { fail = "commit.begin=sleep:4000:1,commit.compared=stop" }))
        real.wait(function() return a:log():find("claimed partition", 1, true) end, "a")
        local other = fail.with(o, { instance = "b", mutation = mutation })
        other.env.TIDEMILL_KAFKA_CONF = PATIENT
        local b = place:start(other)
        real.stopped(a)
        local waits, missed = pcall(real.wait, function()
          return place:value([[select count(*) from information_schema.processlist where
            db = database() and (info like '%%mill_progress%%for update' or
            info like 'update mill_progress set owner%%')]]) > 0
        end, "the claim to wait")
        if not waits then -- the next round is not to see these two
          a:kill "KILL"
          b:kill "KILL"
          error(missed, 0)
        end
        a:kill "CONT"
        local r = fail.ended(b, "b")
        fail.ended(a, "a")
        real.verify(place, o)
        local fenced = r.err:match("[^\n]*fenced[^\n]*")
        assert(not fenced, "nobody claimed from it, and it says: " .. tostring(fenced))
      end

      -- What the failure says, "" where several tables may be the first one that is wrong.
      for _, case in ipairs {
        { "ended and started again", restarted, { position = "" } },
        { "thawed after another has done its work", thawed, { fencing = "rows expected" } },
        { "cut off from the answer to COMMIT", cut, { ["commit-seq"] = "rows expected" } },
        { "that claims what is being committed", waited,
          { ["for-update"] = "nobody claimed from it", ["for-update,commit-seq"] = "rows expected" } },
      } do
        local title, scenario, lies = case[1], case[2], case[3]

        it(title .. ": right", function()
          local ok, err
          for _ = 1, ROUNDS do
            ok, err = pcall(scenario, options())
            if ok or not tostring(err):find(MISSED, 1, true) then break end
          end
          assert(ok, err)
        end)

        for mutation, said in pairs(lies) do
          it(("%s: caught without %s"):format(title, mutation), function()
            local ok, err
            for _ = 1, ROUNDS do
              ok, err = pcall(scenario, options(), mutation)
              if not ok and not tostring(err):find(MISSED, 1, true) then break end
            end
            assert.is_false(ok, "nobody noticed")
            assert.is_truthy(tostring(err):find(said, 1, true), tostring(err))
          end)
        end
      end
    end)
  end
end)
