-- The runbook against real Kafka and real MySQL and MariaDB: the daily check of
-- a pipeline that reads a transactional topic, a backup while it runs, a restore.

local batch = require "host.batch"
local clock = require "host.clock"
local json = require "mill.json"
local kafka = require "host.kafka"
local mysql = require "host.mysql"
local process = require "host.process"
local real = require "spec.support.real"

local DEADLINE_MS = 60000 * require "spec.support.slow"

-- How many records of a topic are below these positions.
local function records_below(topic, positions)
  local reader <close> = kafka.consumer { brokers = real.kafka() }
  local records <close> = batch.new()
  local list, open, n, ended = {}, 0, 0, {}
  for partition in pairs(positions) do
    list[#list + 1] = { topic = topic, partition = partition, offset = "earliest" }
    open = open + 1
  end
  assert(reader:manual(list))
  local deadline = clock.mono_ms() + DEADLINE_MS
  while open > 0 do
    assert(clock.mono_ms() < deadline, "the topic was not read in time")
    for i = 1, reader:poll(records, 1000, 100) do
      local r = records:record(i)
      n = n + (r.offset < positions[r.partition] and 1 or 0)
    end
    for _, e in ipairs(records:ends()) do -- the mark of a commit may follow an end
      if not ended[e.partition] then open = open - 1 end
      ended[e.partition] = true
    end
  end
  return n
end

describe("the runbook", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  for _, database in ipairs(real.databases()) do
    describe("with " .. database.name, function()
      local place, topic, name, run, producer, folder

      local function publish()
        local ms = clock.wall_ms()
        assert(producer:begin(10000))
        for _, symbol in ipairs { "BTCUSDT", "ETHUSDT", "SOLUSDT", "ADAUSDT", "BNBUSDT" } do
          assert(producer:send { topic = topic, key = symbol,
            value = ('{"symbol":"%s","price":"61837.63","timestamp":%d.%03d}'):format(symbol,
              ms // 1000, ms % 1000) })
        end
        assert(producer:commit(10000))
      end

      local function task(...)
        local r = real.tidemill({ "runbook", ... }, { env = place:env() }):finish()
        local doc = assert(json.decode(r.out), r.out .. r.err)
        local by_id = {}
        for _, result in ipairs(doc.results) do by_id[result.id] = result end
        return r.status, doc, by_id
      end

      local function health(...)
        return task("health", "--json", "--set", "topic=" .. topic, "--set", "pipeline=" .. name,
          "--set", "watch=200ms", ...)
      end

      setup(function()
        place = real.place(database)
        topic, name = real.topic { partitions = 3 }, real.name "averages"
        producer = real.producer { ["transactional.id"] = name }
        assert(producer:init_transactions(30000))
        run = place:start { topic = topic, name = name, until_end = false }
        folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-backup-"))
        local deadline = clock.mono_ms() + DEADLINE_MS
        repeat
          publish()
          assert(clock.mono_ms() < deadline, run:log())
        until place:value("select count(*) from moving_averages") >= 5
      end)

      teardown(function()
        run:kill("TERM")
        run:finish()
        producer:close()
        os.execute("rm -rf '" .. folder .. "'")
        place:close()
        real.close()
      end)

      it("finds a healthy pipeline well, on a topic with control records", function()
        publish()
        local status, by_id, doc
        status, doc, by_id = health()
        assert.equal(0, status, json.encode_pretty(doc))
        assert.same({ ok = 13, warning = 0, critical = 0, unknown = 0, skipped = 0 }, doc.counts)
        assert.equal("group " .. name .. " is stable with 1 member",
          by_id["aggregation.group"].summary)
      end)

      it("names a missing topic, a silent producer and a pipeline that nobody runs", function()
        local status, _, by_id = health("--set", "topic=no_such_topic")
        assert.equal(2, status)
        assert.equal("CRIT", by_id["kafka.topic"].status)
        status, _, by_id = health("--set", "producer_age=0s")
        assert.equal(2, status)
        assert.equal("CRIT", by_id["producer.alive"].status)
        publish()
        status, _, by_id = health("--set", "pipeline=nobody")
        assert.equal(2, status)
        assert.equal("CRIT", by_id["aggregation.alive"].status)
      end)

      it("backs up while the pipeline runs, and restores the same", function()
        publish()
        local status, doc = task("backup", "--json", "--set", "dir=" .. folder)
        assert.equal(0, status, json.encode_pretty(doc))
        publish()
        local done, result = task("restore", "--json", "--set", "dir=" .. folder)
        assert.equal(0, done, json.encode_pretty(result))
        local schema = mysql.name(result.schema_name)
        -- Results and positions are of one moment: every record below the
        -- positions is in the sums once, and no other.
        local positions = {}
        for _, row in ipairs(place:query("select `partition`, position from %s.mill_progress",
          schema)) do
          positions[row[1]] = row[2]
        end
        local counted = place:value("select cast(sum(samples) as signed) from %s.moving_averages",
          schema)
        assert.equal(records_below(topic, positions), counted)
        place:query("drop database " .. schema)
      end)
    end)
  end
end)
