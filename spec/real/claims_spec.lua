-- All partitions that a run is given are claimed in one transaction.

local fail = require "spec.support.failpoints"
local real = require "spec.support.real"

local PARTITIONS = 64
local ROUNDS = 5

describe("a topic with 64 partitions", function()
  local why = real.missing() or not real.faults() and "`make faults` was not run"
  if why then
    it("needs servers and the test build", function() pending(why) end)
    return
  end

  local topic, want

  setup(function()
    topic = real.topic { partitions = PARTITIONS }
    local producer <close> = real.producer()
    for i = 1, 6400 do
      real.put(producer, { topic = topic, partition = i % PARTITIONS, value =
        ('{"symbol":"S%d","price":"%d","timestamp":%d}'):format(i % 5, i, fail.T0 + i * 10) })
    end
    real.flush(producer)
  end)
  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      local function options(more)
        local o = fail.options(place, topic, more)
        o.env.TIDEMILL_KAFKA_CONF = false
        want = want or real.expect(o)
        o.want = want
        return o
      end

      -- "owner epoch" -> number of partitions
      local function claims(o)
        local out = {}
        for _, row in ipairs(place:query("select concat(coalesce(instance, '-'), ' ', epoch), "
          .. "count(*) from mill_progress where pipeline = '%s' group by 1", o.name)) do
          out[row[1]] = row[2]
        end
        return out
      end

      -- Partitions whose offsets are answered late are claimed again, and rightly so: try again.
      local function repeat_late(run)
        for _ = 1, ROUNDS do
          if not run().err:find("its offsets cannot be asked for", 1, true) then return end
        end
      end

      it("is claimed in one transaction", function()
        local o, r
        repeat_late(function()
          -- A second claim would raise.
          o = options { fail = "claim.before=error:2" }
          r = place:start(o):finish()
          return r
        end)
        assert.equal(0, r.status, r.err)
        o.runs = { r }
        real.verify(place, o)
        local log = r.err
        assert.equal(PARTITIONS, select(2, log:gsub("claimed partition", "")), log)
        assert.same({ ["a 1"] = PARTITIONS }, claims(o))
      end)

      it("is not claimed at all by a run that is killed before the COMMIT of its claim", function()
        local o
        repeat_late(function()
          o = options { fail = "claim.written=kill" }
          fail.ended(place:start(o), "killed", 9)
          assert.same({ ["- 0"] = PARTITIONS }, claims(o))
          o = fail.with(o)
          o.runs = { place:average(o) }
          return o.runs[1]
        end)
        real.verify(place, o)
        assert.same({ ["a 1"] = PARTITIONS }, claims(o))
      end)
    end)
  end
end)
