-- What an operator is told before something is deleted, and by what he looks with.

local json = require "mill.json"
local kafka = require "host.kafka"
local process = require "host.process"
local real = require "spec.support.real"
local sums_ = require "spec.support.sums"

local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
local FROM = "2024-08-09T00:01:00Z"

describe("an operator", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("of " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      -- 300 rows in ten windows, one second apart; Kafka's time is the row's.
      local function some()
        local o = {}
        o.topic = real.topic { partitions = 1, config = { ["retention.ms"] = "-1" } }
        o.name, o.table = real.name "told", place:table()
        local records = {}
        for i = 0, 299 do
          local ms = T0 + i * 1000
          records[i + 1] = { value = sums_.message("A", 1000 + i, ms), timestamp_ms = ms }
        end
        real.send(o.topic, records)
        place:average(o)
        return o
      end

      local function command(...)
        return real.tidemill({ ... }, { env = place:env(), cwd = process.home() }):finish(60000)
      end

      local function reset(o, ...)
        return command("progress", "reset", "scripts/averages.lua", "--set", "topic=" .. o.topic, "--set",
          "name=" .. o.name, "--set", "table=" .. o.table, "--from", FROM, ...)
      end

      it("is told what a reset deletes, for good or not", function()
        local o = some()
        local r = reset(o)
        assert.equal(2, r.status)
        assert(r.err:find("4 result rows of windows from " .. FROM .. " on would be deleted; about 60 "
          .. "records of before are read on the way and go to mill_late. Nothing was changed", 1, true),
          r.err)
        local a <close> = kafka.admin { brokers = real.kafka() }
        assert(a:delete_records { { topic = o.topic, partition = 0, offset = 150 } })
        r = reset(o)
        assert(r.err:find("4 result rows", 1, true) and r.err:find("2 of them for good, in whole or in "
          .. "part: topic '" .. o.topic .. "' begins at 2024-08-09T00:02:30", 1, true), r.err)
        assert.equal(5, place:value("select count(*) from %s", o.table))
        r = reset(o, "--execute", "--json")
        assert.equal(0, r.status, r.err)
        assert.same({ 4, 2 }, { json.decode(r.out).deleted, json.decode(r.out).lost })
      end)

      it("has to ask twice for a changed script that loses results", function()
        local o = some()
        local a <close> = kafka.admin { brokers = real.kafka() }
        assert(a:delete_records { { topic = o.topic, partition = 0, offset = 150 } })
        o.lateness_ms, o.args = 3600000, { "--accept-change", "--from", FROM }
        local r = place:start(o):finish()
        assert.equal(5, r.status, r.err)
        assert(r.err:find("2 of them for good", 1, true) and r.err:find("add --execute", 1, true), r.err)
        assert.equal(5, place:value("select count(*) from %s", o.table))
        o.args[#o.args + 1] = "--execute"
        r = place:average(o)
        assert(r.err:find("4 result rows of windows from " .. FROM .. " on are deleted", 1, true), r.err)
        assert.equal(4, place:value("select count(*) from %s", o.table)) -- 00:00, and 00:02 to 00:04
      end)

      it("sees progress in 80 columns", function()
        local o = some()
        local r = command("progress", o.name)
        assert.equal(0, r.status, r.err)
        for line in r.out:gmatch("[^\n]+") do
          assert(utf8.len(line) <= 80 or line:find("^pipeline "), line)
        end
        assert(r.out:find("pipeline " .. o.name .. ", topic " .. o.topic, 1, true), r.out)
        assert.matches("partition.*position.*end.*lag.*watermark.*instance.*written", r.out)
        assert.matches("300.*300.*0.*2024%-08%-09T00:04:57Z", r.out)
      end)

      it("gets the status of run from check --connect", function()
        local topic = real.topic { partitions = 1 }
        local sets = { "--set", "topic=" .. topic, "--set", "table=not_there" }
        local r = command("check", "scripts/averages.lua", "--connect", table.unpack(sets))
        assert.equal(3, r.status, r.err)
        assert(r.err:find("table not_there does not exist", 1, true), r.err)
        assert.equal(3, command("run", "scripts/averages.lua", "--until-end",
          table.unpack(sets)).status)
      end)

      it("is warned of a short stream of bad rows", function()
        local o = { topic = real.topic { partitions = 1 }, name = real.name "bad", table = place:table() }
        local records = {}
        for i = 1, 200 do records[i] = { value = i <= 50 and sums_.message("A", i, T0) or "no JSON" } end
        real.send(o.topic, records)
        local r = place:average(o)
        local text = "150 of the last 200 rows are bad"
        assert(r.summary.warnings[1]:find(text, 1, true), r.out)
        assert(r.err:find(text, 1, true), r.err)
        assert.equal(150, r.summary.dead)
        -- The next one has nothing to say.
        real.send(o.topic, { { value = sums_.message("A", 1, T0) } })
        assert.same({}, place:average(o).summary.warnings)
      end)
    end)
  end
end)
