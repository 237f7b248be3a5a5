-- Killed, or stopped, at every step of registration, claims, commits and finality: the tables are
-- those of a run that nobody disturbed.

local clock = require "host.clock"
local fail = require "spec.support.failpoints"
local real = require "spec.support.real"

local ROWS = 12000
local AT_ONCE = 8 -- pipelines that run side by side

-- The point, and at which time of coming by.
local POINTS = {
  { "register.before", 1 }, { "register.after", 1 },
  { "claim.before", 1 }, { "claim.locked", 1 }, { "claim.written", 1 }, { "claim.committed", 1 },
  { "claim.reading", 1 },
  { "commit.begin", 3 }, { "commit.compared", 3 }, { "commit.results", 3 }, { "commit.before", 3 },
  { "commit.sent", 2 }, { "commit.after", 3 }, { "commit.settled", 3 },
  { "finalise.locked", 1 }, { "finalise.after", 1 },
}

describe("a run", function()
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
        local calm = fail.options(place, topic)
        want = real.expect(calm)
        assert(want.late > 0 and want.too_late > 0 and #want.dead > 0)
        calm.want, calm.runs = want, { place:average(calm) }
        real.verify(place, calm)
      end)
      teardown(function() place:close() end)

      local function case(action)
        local list = {}
        for i, point in ipairs(POINTS) do
          local o = fail.options(place, topic)
          o.want = want
          list[i] = { o = o, what = ("%s %s"):format(action, point[1]),
            fail = ("%s=%s:%d"):format(point[1], action, point[2]) }
        end
        return list
      end

      local function begin(c) c.child = place:start(fail.with(c.o, { fail = c.fail })) end

      -- Was it fast, and never came by so often? Then anew, for the first time it comes by.
      local function reached(c)
        c.child:result(200)
        while not c.child:result() and not real.is_stopped(c.child) do clock.sleep(20) end
        local r = c.child:result()
        if not r or r.status ~= 0 then return end
        c.fail = c.fail:gsub("%d+$", "1")
        c.o = fail.with(c.o, { name = c.o.name .. "1", table = place:table(true) })
        begin(c)
      end

      local function again(c) c.again = place:start(c.o) end
      local function verified(c)
        c.result = fail.ended(c.again, c.what)
        local ok, err = pcall(real.verify, place, c.o)
        assert(ok, c.what .. ": " .. tostring(err))
      end

      it("killed there and started again", function()
        fail.together(case "kill", AT_ONCE, {
          begin,
          reached,
          function(c) fail.ended(c.child, c.what, 9) end,
          again,
          verified,
        })
      end)

      it("stopped there until its transaction is ended by the server, then continued", function()
        fail.together(case "stop", AT_ONCE, {
          begin,
          reached,
          function(c)
            real.stopped(c.child)
            c.since = clock.mono_ms()
          end,
          function(c)
            clock.sleep(math.max(0, c.since + fail.WAIT_MS + 1000 - clock.mono_ms()))
            c.child:kill "CONT"
          end,
          function(c) fail.ended(c.child, c.what) end,
          function(c) real.verify(place, c.o) end,
        })
      end)

      it("stopped there while another instance does its work, then continued", function()
        fail.together(case "stop", AT_ONCE, {
          begin,
          reached,
          function(c) real.stopped(c.child) end,
          function(c) c.again = place:start(fail.with(c.o, { instance = "b" })) end,
          verified,
          function(c)
            c.child:kill "CONT"
            fail.ended(c.child, c.what)
            real.verify(place, c.o)
          end,
        })
      end)
    end)
  end
end)
