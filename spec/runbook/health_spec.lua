-- A real aggregation over the development broker and a private MariaDB; then
-- one thing after another is broken.
local clock = require "host.clock"
local command = require "spec.support.command"
local json = require "mill.json"
local kafka = require "host.kafka"
local mysql = require "host.mysql"
local process = require "host.process"

local DEADLINE_MS = 60000 * require "spec.support.slow"

describe("tidemill runbook health", function()
  local server, broker, producer, options, name, db, aggregation, env

  local function publish()
    local ms = clock.wall_ms()
    for _, symbol in ipairs { "BTCUSDT", "ETHUSDT" } do
      assert(producer:send { topic = "crypto_prices", key = symbol,
        value = ('{"symbol":"%s","price":"61837.63","timestamp":%d.%03d}'):format(symbol,
          ms // 1000, ms % 1000) })
    end
    assert.equal(0, producer:flush(10000))
  end

  local function health(...)
    local r = command({ "runbook", "health", "--json", "--set", "watch=200ms", ... }, { env = env })
    local doc = assert(json.decode(r.out), r.out .. r.err)
    local by_id = {}
    for _, result in ipairs(doc.results) do by_id[result.id] = result end
    return r.status, by_id, doc
  end

  local function start_aggregation()
    aggregation = assert(process.spawn {
      argv = { process.exe(), "run", process.home() .. "/scripts/averages.lua" },
      env = { TIDEMILL_HOME = process.home(), TIDEMILL_KAFKA = env.TIDEMILL_KAFKA,
        TIDEMILL_MYSQL = env.TIDEMILL_MYSQL },
      stdout = "null", stderr = "null",
    })
  end

  local function stop_aggregation()
    if aggregation then
      aggregation:kill("TERM")
      aggregation:wait(DEADLINE_MS)
      aggregation:close()
      aggregation = nil
    end
  end

  -- Until the aggregation has written what was published.
  local function await_rows()
    local deadline = clock.mono_ms() + DEADLINE_MS
    repeat
      publish()
      assert(clock.mono_ms() < deadline, "the aggregation wrote nothing in time")
      local result = db:query("select count(*) from moving_averages")
    until result and result.rows[1][1] > 0
  end

  setup(function()
    server = require("spec.support.mariadb").start()
    name, options = server.fresh_database()
    broker = assert(kafka.broker { topics = { { name = "crypto_prices", partitions = 2 } } })
    producer = kafka.producer { brokers = broker:bootstrap() }
    db = assert(mysql.connect(options))
    env = { TIDEMILL_KAFKA = broker:bootstrap(), TIDEMILL_MYSQL = server.url_of(name) }
    assert.equal(0, command({ "migrate" }, { env = env }).status)
    start_aggregation()
    await_rows()
  end)

  teardown(function()
    stop_aggregation()
    for _, handle in pairs { db, producer, broker } do handle:close() end
  end)

  it("exits 0 when all is well", function()
    publish()
    local status, by_id, doc = health()
    assert.equal(0, status, json.encode_pretty(doc))
    assert.same({ ok = 12, warning = 0, critical = 0, unknown = 0, skipped = 1 }, doc.counts)
    assert.equal("not offered by the development broker", by_id["aggregation.group"].summary)
    local r = command({ "runbook", "health" }, { env = env })
    assert.truthy(r.out:find("\nOK: 12 ok, 1 skipped of 13 checks\n$"))
  end)

  it("exits 2 and names the broker that does not answer, and what hangs on it", function()
    env.TIDEMILL_KAFKA = "127.0.0.1:1"
    local status, by_id, doc = health("--set", "timeout=3s")
    env.TIDEMILL_KAFKA = broker:bootstrap()
    assert.equal(2, status)
    assert.equal(1, doc.counts.critical)
    assert.truthy(by_id["kafka.brokers"].summary:find("no broker answers at 127.0.0.1:1", 1, true))
    assert.truthy(by_id["kafka.brokers"].detail[1]:find("Connection refused", 1, true))
    assert.truthy(by_id["kafka.brokers"].fix.text)
    for _, id in ipairs { "kafka.topic", "producer.alive", "aggregation.lag", "rows.fresh" } do
      assert.equal("SKIPPED", by_id[id].status, id)
      assert.equal("kafka.brokers", by_id[id].blocked_by, id)
    end
    assert.equal("OK", by_id["rows.duplicates"].status)
  end)

  it("exits 2 and names a topic that is missing", function()
    local status, by_id, doc = health("--set", "topic=no_such_topic")
    assert.equal(2, status)
    assert.equal(1, doc.counts.critical)
    assert.truthy(by_id["kafka.topic"].summary:find("topic no_such_topic does not exist", 1, true))
    assert.truthy(by_id["kafka.topic"].fix.cmd)
    -- asking did not make it
    assert.equal(2, (health("--set", "topic=no_such_topic")))
  end)

  it("exits 2 and names the database that does not answer", function()
    local url = env.TIDEMILL_MYSQL
    env.TIDEMILL_MYSQL = "mysql://root:hidden-pw@127.0.0.1:1/x"
    publish()
    local status, by_id, doc = health()
    env.TIDEMILL_MYSQL = url
    assert.equal(2, status)
    assert.equal(1, doc.counts.critical)
    assert.truthy(by_id["mysql.connect"].summary:find("MySQL does not answer at 127.0.0.1:1", 1, true))
    assert.equal("OK", by_id["producer.alive"].status)
    assert.equal("mysql.connect", by_id["rows.corrupt"].blocked_by)
    assert.falsy(json.encode(doc):find("hidden-pw", 1, true))
  end)

  it("exits 3 when the password is wrong: nothing was found out", function()
    local url = env.TIDEMILL_MYSQL
    env.TIDEMILL_MYSQL = url:gsub("root@", "nobody:x@")
    publish()
    local status, by_id = health()
    env.TIDEMILL_MYSQL = url
    assert.equal(3, status)
    assert.equal("UNKNOWN", by_id["mysql.connect"].status)
  end)

  it("exits 2 and names tables that are missing", function()
    publish()
    local status, by_id = health("--set", "table=no_such_table")
    assert.equal(2, status)
    assert.truthy(by_id["mysql.schema"].summary:find("table no_such_table is missing", 1, true))
  end)

  it("exits 2 when the producer is silent", function()
    local status, by_id, doc = health("--set", "producer_age=0s")
    assert.equal(2, status)
    assert.equal(1, doc.counts.critical)
    assert.truthy(by_id["producer.alive"].summary:find("the producer is silent", 1, true))
    assert.equal("producer.alive", by_id["rows.fresh"].blocked_by)
  end)

  it("is content with a topic that grows, whatever its stamps say", function()
    local stop = clock.mono_ms() + DEADLINE_MS
    local child <close> = assert(process.spawn {
      argv = { process.exe(), "runbook", "health", "--json", "--set", "producer_age=0s", "--set",
        "watch=30s" },
      env = { TIDEMILL_HOME = process.home(), TIDEMILL_KAFKA = env.TIDEMILL_KAFKA,
        TIDEMILL_MYSQL = env.TIDEMILL_MYSQL },
      stdout = "pipe",
    })
    local parts = {}
    repeat
      publish()
      local bytes = child:read("stdout", 50)
      parts[#parts + 1] = bytes
    until not bytes or clock.mono_ms() > stop
    local doc = assert(json.decode(table.concat(parts)))
    assert.equal("OK", doc.status, json.encode_pretty(doc))
  end)

  describe("with a table of its own", function()
    local function table_with(rows, key)
      publish() -- the newest message may be 15 s old
      assert(db:query "drop table if exists planted")
      assert(db:query "create table planted like moving_averages")
      if key then assert(db:query("alter table planted " .. key)) end
      -- One moment for all rows: a minute that ends between two of them would be a gap.
      assert(db:query "set timestamp = unix_timestamp()")
      for _, row in ipairs(rows) do
        assert(db:query("insert into planted (symbol, start_time, end_time, average_price, "
          .. "price_sum, samples) values (" .. row .. ")"))
      end
      assert(db:query "set timestamp = default")
    end

    local NOW = "utc_timestamp() - interval second(utc_timestamp()) second"
    local GOOD = "'BTC', " .. NOW .. ", " .. NOW .. " + interval 1 minute, 2.5, 5, 2"

    it("exits 2 and names a duplicate window", function()
      table_with({ GOOD, GOOD, (GOOD:gsub("BTC", "ETH")) }, "drop primary key")
      local status, by_id = health("--set", "table=planted")
      assert.equal(2, status)
      assert.truthy(by_id["rows.duplicates"].summary:find(
        "table planted has duplicate windows: BTC 20%d%d%-%d%d%-%d%d .* UTC: 2 rows"))
      -- `migrate` would find nothing to do, and the newest row alone is a part of the sum.
      assert.matches("progress reset", by_id["rows.duplicates"].fix.text)
      local alter = assert(by_id["rows.duplicates"].fix.cmd:match('sql "(.-)"'))
      assert(db:query "delete from planted where symbol = 'BTC'")
      assert(db:query(alter))
      assert.equal("OK", select(2, health("--set", "table=planted"))["rows.duplicates"].status)
    end)

    it("exits 2 when the unique key is missing, though there is no duplicate yet", function()
      table_with({ GOOD }, "drop primary key")
      local status, by_id = health("--set", "table=planted")
      assert.equal(2, status)
      assert.truthy(by_id["rows.duplicates"].summary:find("no unique key (symbol, start_time)", 1,
        true))
    end)

    it("warns of symbols that differ by case only", function()
      table_with { GOOD, (GOOD:gsub("BTC", "btc")) }
      local status, by_id = health("--set", "table=planted")
      assert.equal(1, status)
      assert.equal("WARN", by_id["rows.duplicates"].status)
    end)

    it("exits 2 and shows corrupt rows", function()
      for row, said in pairs {
        [GOOD:gsub("2.5, 5, 2", "null, 5, 2")] = "its average is missing",
        [GOOD:gsub("2.5, 5, 2", "0, 0, 2")] = "its average is missing or not above zero",
        [GOOD:gsub("2.5, 5, 2", "2.50000001, 5, 2")] = "its average is not its sum divided",
        [GOOD:gsub("interval 1 minute", "interval 0 minute")] = "its window ends before it starts",
        [GOOD:gsub("BTC", " BTC")] = "its symbol is empty or has blanks",
        [GOOD:gsub("interval second%(utc_timestamp%(%)%) second",
          "interval second(utc_timestamp()) + 7 second")] = "its window",
      } do
        table_with { row, (GOOD:gsub("BTC", "A")), (GOOD:gsub("BTC", "B")) }
        local status, by_id = health("--set", "table=planted")
        local found = by_id["rows.corrupt"]
        assert.equal(2, status)
        assert.truthy(found.summary:find(said, 1, true)
          or table.concat(found.detail or {}):find(said, 1, true), json.encode(found))
      end
    end)

    it("leaves rows of the replaced system, which have no samples, in peace", function()
      table_with { (GOOD:gsub("2.5, 5, 2", "2.5, null, null")) }
      assert.equal(0, (health("--set", "table=planted")))
    end)

    it("exits 2 on rows from the future, and on a table without new rows", function()
      table_with { (GOOD:gsub("utc_timestamp%(%) %-", "utc_timestamp() + interval 1 hour -")) }
      local status, by_id = health("--set", "table=planted")
      assert.equal(2, status)
      assert.truthy(by_id["rows.times"].summary:find("rows from the future: BTC", 1, true))
      table_with { (GOOD:gsub("utc_timestamp%(%) %-", "utc_timestamp() - interval 1 hour -")) }
      status, by_id = health("--set", "table=planted")
      assert.equal(2, status)
      assert.truthy(by_id["rows.fresh"].summary:find("no new row in table planted", 1, true))
    end)

    it("warns of a window that one symbol lacks and another has", function()
      local function ago(symbol, minutes)
        return (GOOD:gsub("BTC", symbol):gsub("utc_timestamp%(%) %-",
          ("utc_timestamp() - interval %d minute -"):format(minutes)))
      end
      table_with { GOOD, ago("BTC", 3), ago("BTC", 4), ago("ETH", 3), (GOOD:gsub("BTC", "ETH")) }
      assert.equal(0, (health("--set", "table=planted"))) -- silence for all
      table_with { GOOD, ago("BTC", 3), ago("ETH", 3), ago("ETH", 2), ago("ETH", 1),
        (GOOD:gsub("BTC", "ETH")) }
      local status, by_id = health("--set", "table=planted")
      assert.equal(1, status)
      assert.truthy(by_id["rows.gaps"].detail[1]:find("BTC: nothing between", 1, true))
    end)
  end)

  it("exits 2 and names a pipeline of which no instance runs", function()
    stop_aggregation()
    assert(db:query(("insert into mill_instances values ('averages', 'old', 'x', %s, %s, 4194303, "
      .. "now(3), now(3) - interval 1 minute)"):format(db:quote(process.hostname()),
        db:quote(process.boot_id()))))
    publish()
    local status, by_id, doc = health()
    assert(db:query "delete from mill_instances")
    assert.equal(2, status)
    assert.equal(1, doc.counts.critical)
    local found = by_id["aggregation.alive"]
    assert.equal("no instance of pipeline averages runs", found.summary)
    assert.truthy(found.detail[1]:find("instance old: last sign .* pid 4194303, which is not there"))
    assert.equal("aggregation.alive", by_id["aggregation.lag"].blocked_by)
  end)

  it("exits 2 when it lags for long, and when its positions are not in the topic", function()
    assert(db:query(("insert into mill_instances values ('averages', 'here', 'x', 'h', 'b', 1, "
      .. "now(3), now(3) + interval 1 hour)")))
    assert(db:query "update mill_progress set position = 0")
    publish()
    local status, by_id = health("--set", "lag_warn=0s", "--set", "lag_crit=10m")
    assert.equal(1, status)
    assert.truthy(by_id["aggregation.lag"].summary:find("the aggregation lags: [%d,]+ records? behind"))
    status = health("--set", "lag_warn=0s", "--set", "lag_crit=0s")
    assert.equal(2, status)
    assert(db:query "update mill_progress set position = 1000000")
    status, by_id = health()
    assert.equal(2, status)
    assert.truthy(by_id["aggregation.lag"].detail[1]:find("position 1000000 is beyond the end",
      1, true))
    assert(db:query "delete from mill_instances")
  end)
end)
