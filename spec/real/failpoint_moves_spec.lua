-- Killed or stopped while partitions are taken away, while positions go back, and while a gap is gone
-- over: the tables are right.

local clock = require "host.clock"
local fail = require "spec.support.failpoints"
local kafka = require "host.kafka"
local real = require "spec.support.real"

local ROWS = 3000

describe("a run", function()
  local why = real.missing() or not real.faults() and "`make faults` was not run"
  if why then
    it("needs servers and the test build", function() pending(why) end)
    return
  end

  local topic, cut

  setup(function()
    topic, cut = fail.topic(ROWS), fail.topic(ROWS)
    local admin <close> = kafka.admin { brokers = real.kafka() }
    local list = {}
    for p = 0, fail.PARTITIONS - 1 do list[p + 1] = { topic = cut, partition = p, offset = 300 } end
    assert(admin:delete_records(list, 10000))
  end)
  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      for _, point in ipairs { "revoke.before", "revoke.committed", "revoke.after" } do
        for _, action in ipairs { "kill", "stop" } do
          it(("%s at %s, when another one joins"):format(action, point), function()
            local o = fail.options(place, topic, { idle_ms = 60000 })
            local live = fail.with(o, { until_end = false })
            local a = place:start(fail.with(live, { fail = point .. "=" .. action }))
            real.wait(function() return a:log():find("claimed partition", 1, true) end, "a")
            local b = place:start(fail.with(live, { instance = "b" }))
            if action == "kill" then
              fail.ended(a, "a", 9)
            else
              real.stopped(a)
              local since = clock.mono_ms()
              real.wait(function() return clock.mono_ms() - since > fail.WAIT_MS end, "time", 60000)
              a:kill "CONT"
              a:kill "TERM"
              fail.ended(a, "a")
            end
            b:kill "TERM"
            fail.ended(b, "b")
            place:average(o)
            real.verify(place, o)
          end)
        end
      end

      it("killed at every step of going back", function()
        for _, point in ipairs { "reset.locked", "reset.deleted", "reset.before", "reset.after" } do
          local o = fail.options(place, topic)
          place:average(o)
          local r = real.tidemill({ "progress", "reset", "scripts/averages.lua", "--execute", "--from",
            "2024-08-01T00:00:00Z", "--set", "topic=" .. topic, "--set", "name=" .. o.name, "--set",
            "table=" .. o.table, "--set", "size=1s", "--set", "hop=500ms", "--set", "max_delay=0ms",
            "--set", "lateness=3s" }, { program = o.program, env = place:env {
            TIDEMILL_FAILPOINT = point .. "=kill" } }):finish(30000)
          assert.equal(9, r.signal, point .. ": " .. r.err)
          local back = point == "reset.after"
          local sum = 0
          for _, row in pairs(place:progress(o.name)) do sum = sum + row.position end
          assert.equal(back and 0 or ROWS, sum, point)
          place:average(o)
          if not back then real.verify(place, o) end
          -- Bad rows are kept, and found again in their place.
          real.same(real.expect(o).results, place:results(o.table), 2, point)
        end
      end)

      for _, point in ipairs { "gap.before", "gap.after" } do
        it("killed at " .. point .. ": the gap is recorded once", function()
          local o = fail.options(place, cut, { args = { "--on-gap=skip" } })
          local first = place:start(fail.with(o, { fail = "register.after=kill" }))
          fail.ended(first, "first", 9)
          place:query("update mill_progress set position = 100 where pipeline = '%s'", o.name)
          fail.ended(place:start(fail.with(o, { fail = point .. "=kill:2" })), point, 9)
          place:average(o)
          real.verify(place, o)
          real.same({ { 0, 100, 300 }, { 1, 100, 300 }, { 2, 100, 300 } }, place:query([[select
            `partition`, from_offset, to_offset from mill_gaps where pipeline = '%s']], o.name), 2,
            "mill_gaps")
        end)
      end
    end)
  end
end)
