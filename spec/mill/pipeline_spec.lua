-- Whole pipelines, in this process, against a development broker and a private MariaDB.

local broker = require "spec.support.broker"
local kafka = require "host.kafka"
local mariadb = require "spec.support.mariadb"
local migrate = require "mill.migrate"
local mill = require "mill"
local mysql = require "host.mysql"

describe("a pipeline", function()
  local server, dev, db, url, serial
  local joined = 0

  setup(function()
    mill.log.level("error")
    server = mariadb.start()
    dev = broker.start { prices = 2 }
    serial = 0
  end)

  teardown(function()
    dev:close()
    mill.log.level("info")
  end)

  before_each(function()
    local name, options = server.fresh_database()
    db = assert(mysql.connect(options))
    url = server.url_of(name)
    migrate.apply(db)
    serial = serial + 1
    assert(dev:create_topic("prices" .. serial, 2))
  end)

  after_each(function() db:close() end)

  local function topic() return "prices" .. serial end

  -- Send { partition, value } pairs.
  local function send(...)
    local producer <close> = kafka.producer { brokers = dev:bootstrap() }
    for _, item in ipairs { ... } do
      assert(producer:send { topic = topic(), partition = item[1], value = item[2] })
    end
    assert.equal(0, producer:flush(10000))
  end

  local function price(symbol, text, second, more)
    return ('{"symbol":"%s","price":"%s","timestamp":%d.500%s}'):format(symbol, text,
      1723161240 + second, more or "")
  end

  local function rows(sql)
    return assert(db:query(sql)).rows
  end

  local SELECT = {
    symbol = "key", start_time = "window.start", end_time = "window.end",
    average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
  }

  local function pipeline(change)
    joined = joined + 1
    local window = { size = "1m", time = "timestamp", key = "symbol", max_delay = "2s",
      max_future = "1d", lateness = "1d" }
    for key, value in pairs(change.window or {}) do window[key] = value end
    local options = {
      name = "p",
      -- The development broker misses a member that left only after its session; so each run
      -- joins a group of its own.
      source = mill.kafka { topic = topic(), brokers = dev:bootstrap(), group = "spec" .. joined },
      decode = mill.json(change.decode or { symbol = "string", price = "decimal(20,8) > 0",
        timestamp = "time" }),
      window = (window.hop and mill.hopping or mill.tumbling)(window),
      select = change.select or SELECT,
      sink = mill.mysql { table = change.table or "moving_averages",
        key = { "symbol", "start_time" }, url = url },
    }
    for key, value in pairs(change.options or {}) do options[key] = value end
    if options.outputs then options.window, options.select, options.sink = nil, nil, nil end
    return mill.pipeline(options)
  end

  local function run(change, ctx)
    local all = { until_end = true, instance = "spec" }
    for key, value in pairs(ctx or {}) do all[key] = value end
    return pipeline(change or {}):run(all)
  end

  it("adds up exactly, over partitions and runs", function()
    send({ 0, price("A", "1.00000001", 0) }, { 1, price("A", "2.00000002", 1) },
      { 0, price("B", "0.1", 2) })
    local first = run()
    assert.same({ 3, 0, 2 }, { first.consumed, first.dead, first.rows })
    send({ 1, price("A", "4", 3) })
    assert.equal(1, run().consumed)
    assert.same({ { "A", "2.33333334", "7.00000003", 3, 0 }, { "B", "0.10000000", "0.10000000", 1, 0 } },
      rows "select symbol, average_price, price_sum, samples, revision from moving_averages order by 1")
  end)

  it("does nothing on a second run over the same log", function()
    send({ 0, price("A", "1", 0) })
    run()
    local again = run()
    assert.same({ 0, 0 }, { again.consumed, again.upserts })
    assert.same({ { 1 } }, rows "select samples from moving_averages")
  end)

  it("keeps every bad row once, with reason and place", function()
    send({ 0, "" }, { 0, "{}" }, { 1, price("A", "-1", 0) }, { 1, price("A", "1", 0) })
    local out = run()
    assert.same({ 4, 1, 3 }, { out.consumed, out.counted, out.dead })
    assert.same({
      { 0, 0, "empty", "$" }, { 0, 1, "missing", "$.price" }, { 1, 0, "range", "$.price" },
    }, rows "select `partition`, `offset`, code, path from mill_dead_letters order by 1, 2")
  end)

  it("counts late rows into their window and keeps those that are too late", function()
    send({ 0, price("A", "1", 0) }, { 0, price("A", "1", 130) }, { 0, price("A", "3", 10) },
      { 0, price("A", "1", 600) }, { 0, price("A", "9", 20) })
    local out = run { window = { lateness = "5m" } }
    assert.same({ 5, 1, 1 }, { out.consumed, out.late, out.too_late })
    assert.same({ { "2.00000000", 2, 1, 1 } }, rows [[select average_price, samples, revision,
      is_final from moving_averages order by start_time limit 1]])
    assert.same({ { "too-late", 4, "A", 1723161240000, 538500 } }, rows [[select reason, `offset`,
      row_key, window_start_ms, lateness_ms from mill_late]])
  end)

  it("marks windows final that every partition has passed", function()
    send({ 0, price("A", "1", 0) }, { 0, price("A", "1", 200) }, { 1, price("B", "1", 62) })
    run()
    assert.same({ { "A", 1 }, { "A", 0 }, { "B", 0 } },
      rows "select symbol, is_final from moving_averages order by symbol, start_time")
  end)

  it("counts a row into every hopping window that holds it", function()
    send({ 0, price("A", "1", 90) })
    run { window = { hop = "20s" } }
    assert.same({ { "2024-08-08 23:54:40" }, { "2024-08-08 23:55:00" }, { "2024-08-08 23:55:20" } },
      rows "select cast(start_time as char(19)) from moving_averages order by 1")
  end)

  it("fills several tables in one pass", function()
    assert(db:query "create table hourly like moving_averages")
    send({ 0, price("A", "1", 0) }, { 0, price("A", "2", 61) })
    local function output(size, name)
      return {
        window = mill.tumbling { size = size, time = "timestamp", key = "symbol", max_future = "1d" },
        select = SELECT,
        sink = mill.mysql { table = name, key = { "symbol", "start_time" }, url = url },
      }
    end
    run { options = { outputs = { output("1m", "moving_averages"), output("1h", "hourly") } } }
    assert.same({ { 2 } }, rows "select count(*) from moving_averages")
    assert.same({ { "1.50000000", 2 } }, rows "select average_price, samples from hourly")
  end)

  it("computes every aggregate exactly, also over several commits", function()
    assert(db:query([[create table stats (symbol varchar(32) character set utf8mb4
      collate utf8mb4_nopad_bin not null, start_time datetime not null, end_time datetime not null,
      n bigint, s decimal(38,8), lo decimal(20,8), hi decimal(20,8), f decimal(20,8),
      f_at binary(20), l decimal(20,8), l_at binary(20), pq decimal(65,16), q decimal(38,8),
      vw decimal(20,8), ss decimal(65,16), sd decimal(20,8), sds decimal(20,8),
      revision int not null default 0, is_final tinyint not null default 0,
      primary key (symbol, start_time))]]))
    local change = {
      table = "stats",
      decode = { symbol = "string", price = "decimal(20,8)", qty = "decimal(20,8)",
        timestamp = "time" },
      select = { symbol = "key", start_time = "window.start", end_time = "window.end",
        n = "count()", s = "sum(price)", lo = "min(price)", hi = "max(price)", f = "first(price)",
        f_at = "first_position()", l = "last(price)", l_at = "last_position()",
        pq = "sum(price*qty)", q = "sum(qty)", vw = "vwap(price,qty)", ss = "sum(price*price)",
        sd = "stddev(price)", sds = "stddev_samp(price)" },
    }
    send({ 0, price("A", "2", 5, ',"qty":"1"') }, { 0, price("A", "4", 1, ',"qty":"3"') })
    run(change)
    send({ 1, price("A", "9", 3, ',"qty":"0.5"') }, { 1, price("A", "1", 9, ',"qty":"0.25"') })
    run(change)
    assert.same({ { 4, "16.00000000", "1.00000000", "9.00000000", "4.00000000", "1.00000000",
      "3.94736842", "3.08220700", "3.55902608" } },
      rows "select n, s, lo, hi, f, l, vw, sd, sds from stats")
  end)

  it("lets functions drop, change and key rows", function()
    send({ 0, price("A", "1", 0) }, { 0, price("skip", "1", 0) }, { 0, price("B", "2", 0) })
    local out = run {
      window = { key = function(row) return "all-" .. row.symbol:lower() end },
      options = {
        where = function(row) return row.symbol ~= "skip" end,
        map = function(row) row.price = row.price:gsub("^1", "7") end,
      },
    }
    assert.equal(1, out.dropped)
    assert.same({ { "all-a", "7.00000000" }, { "all-b", "2.00000000" } },
      rows "select symbol, average_price from moving_averages order by 1")
  end)

  it("makes a bad row of a key that the column cannot hold", function()
    send({ 0, price(("X"):rep(33), "1", 0) }, { 0, price(("X"):rep(32), "1", 0) })
    run()
    assert.same({ { 0, "column" } }, rows "select `offset`, code from mill_dead_letters")
    assert.equal(1, #rows "select 1 from moving_averages")
  end)

  it("makes a bad row of an integer that its column cannot hold", function()
    assert(db:query "alter table moving_averages add low tinyint, add total smallint unsigned")
    local select = { symbol = "key", start_time = "window.start", end_time = "window.end",
      samples = "count()", low = "min(n)", total = "sum(k)" }
    local function row(n, k)
      return { 0, ('{"symbol":"A","n":%d,"k":%d,"timestamp":1723161240}'):format(n, k) }
    end
    send(row(-128, 65535), row(-129, 0), row(128, 0), row(127, 0), row(0, -1), row(0, 65536))
    run { select = select, decode = { symbol = "string", n = "integer", k = "integer",
      timestamp = "time" } }
    assert.same({
      { 1, "column", "column 'low' holds at least -128, got -129" },
      { 2, "column", "column 'low' holds at most 127, got 128" },
      { 4, "column", "column 'total' holds at least 0, got -1" },
      { 5, "column", "column 'total' holds at most 65535, got 65536" },
    }, rows "select `offset`, code, reason from mill_dead_letters order by 1")
    assert.same({ { 2, -128, 65535 } }, rows "select samples, low, total from moving_averages")
  end)

  it("makes a bad row of what the narrowest of its tables cannot hold", function()
    assert(db:query "create table narrow like moving_averages")
    assert(db:query "alter table narrow modify price_sum decimal(9,8)")
    assert(db:query "alter table moving_averages modify price_sum decimal(10,8)")
    send({ 0, price("A", "10", 0) }, { 0, price("A", "9", 0) })
    local function output(name)
      return {
        window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol", max_future = "1d" },
        select = SELECT,
        sink = mill.mysql { table = name, key = { "symbol", "start_time" }, url = url },
      }
    end
    run { options = { outputs = { output "narrow", output "moving_averages" } } }
    assert.same({ { 0, "column 'price_sum' holds at most 9.99999999, got \"10\"" } },
      rows "select `offset`, reason from mill_dead_letters")
    assert.same({ { "9.00000000" } }, rows "select price_sum from moving_averages")
  end)

  it("makes a bad row of a function's text that the column cannot hold, or that is none", function()
    send({ 0, price("long", "1", 0) }, { 0, price("bytes", "1", 0) }, { 0, price("B", "1", 0) },
      { 0, price("mapped", "1", 0) })
    run {
      window = { key = function(row)
        return ({ long = ("\u{20AC}"):rep(33), bytes = "\xC3" })[row.symbol] or row.symbol
      end },
      options = { map = function(row) if row.symbol == "mapped" then row.symbol = "\xED\xA0\x80" end
      end },
    }
    assert.same({ { 0, "column" }, { 1, "key" }, { 3, "map" } },
      rows "select `offset`, code from mill_dead_letters order by 1")
    assert.matches("column 'symbol' holds at most 32",
      rows("select reason from mill_dead_letters where `offset` = 0")[1][1])
    assert.same({ { "B" } }, rows "select symbol from moving_averages")
  end)

  it("freezes a window whose sum overflows, and goes on", function()
    assert(db:query "alter table moving_averages modify price_sum decimal(10,8)")
    local function big(text, second)
      return price("A", text, second)
    end
    send({ 0, big("90", 0) })
    run()
    send({ 0, big("20", 1) }, { 0, price("B", "1", 1) })
    run()
    send({ 0, big("5", 2) })
    run()
    assert.same({ { "A", "90.00000000", 1 }, { "B", "1.00000000", 1 } },
      rows "select symbol, price_sum, samples from moving_averages order by 1")
    assert.same({ { "A", 1723161240000, '{"price_sum":"115.00000000","samples":"3"}' } },
      rows [[select result_key, window_start_ms, result_value from mill_dead_letters
        where kind = 'result']])
  end)

  it("freezes windows of keys that are longer than their dead letter's column", function()
    assert(db:query [[alter table moving_averages modify price_sum decimal(10,8),
      modify symbol varchar(600) character set utf8mb4 collate utf8mb4_nopad_bin not null]])
    local long = ("\u{20AC}"):rep(300)
    for n, text in ipairs { "90", "20", "5" } do
      send({ 0, price(long .. "1", text, n) }, { 0, price(long .. "2", text, n) })
      run()
    end
    local sha256 = require("host.digest").sha256_hex
    local kept = ("\u{20AC}"):rep(190) .. "~"
    local want = {}
    for i = 1, 2 do
      want[i] = { kept .. sha256(long .. i), '{"price_sum":"115.00000000","samples":"3"}' }
    end
    table.sort(want, function(a, b) return a[1] < b[1] end)
    assert.same(want, rows [[select result_key, result_value from mill_dead_letters
      where kind = 'result' order by cast(result_key as binary)]])
  end)

  it("refuses a changed script, and accepts it from a time on", function()
    send({ 0, price("A", "1", 0) }, { 0, price("A", "5", 61) })
    run()
    local change = { window = { lateness = "2d" } }
    assert.error_matches(function() run(change) end, "is not the one that wrote table")
    run(change, { accept_change = true, from = "2024-08-08T23:55:00Z" })
    assert.same({ { "1.00000000" }, { "5.00000000" } },
      rows "select average_price from moving_averages order by start_time")
    assert.same({ { "before-cut", 0 } }, rows "select reason, `offset` from mill_late")
  end)

  it("counts once what an accepted change makes good: its letter is gone", function()
    local script = { decode = { symbol = "string", price = "decimal(20,2) > 0", timestamp = "time" } }
    send({ 0, price("A", "1.25", 60) }, { 0, price("A", "2.125", 61) }, { 0, "x" })
    run(script)
    local replay, letters = require "mill.replay_dead", "select code, `offset` from mill_dead_letters"
    local id = rows("select id from mill_dead_letters where `offset` = 1")[1][1]
    assert.equal(2, #rows(letters))
    assert.error_matches(function() replay.run(pipeline {}, id) end,
      "is not the one that wrote table moving_averages:\n.*\"scale\": 2")
    run({}, { accept_change = true, from = "2024-08-08T23:55:00Z" })
    assert.same({ { "3.37500000", 2 } }, rows "select price_sum, samples from moving_averages")
    assert.same({ { "json", 2 } }, rows(letters))
    assert.error_matches(function() replay.run(pipeline {}, id) end, "there is no dead letter")
  end)

  it("replays a repaired dead letter into its window, once", function()
    send({ 0, price("A", "1", 0) }, { 0, '{"symbol":"A"}' })
    run()
    local replay = require "mill.replay_dead"
    local id = rows("select id from mill_dead_letters")[1][1]
    assert.error_matches(function() replay.run(pipeline {}, id) end, "still bad")
    replay.run(pipeline {}, id, price("A", "3", 1))
    assert.same({ { "2.00000000", 2 } }, rows "select average_price, samples from moving_averages")
    assert.error_matches(function() replay.run(pipeline {}, id, price("A", "3", 1)) end,
      "replayed already")
  end)

  it("refuses a second run of the same instance, and a table of another pipeline", function()
    send({ 0, price("A", "1", 0) })
    run()
    assert(db:query(([[insert into mill_instances values ('p', 'spec', 'x', 'elsewhere', 'b', 42,
      now(3), now(3))]])))
    assert.error_matches(function() run() end, "already running: host elsewhere, pid 42")
    assert(db:query "delete from mill_instances")
    assert.error_matches(function() run { options = { name = "other" } } end,
      "belongs to pipeline 'p'")
  end)

  it("stops before the commit when too many rows are bad", function()
    local bad = {}
    for i = 1, 5001 do bad[i] = { 0, "x" } end
    send(table.unpack(bad))
    assert.error_matches(function() run() end, "5001 of the last 5001 rows are bad")
    -- What was committed while the share was still allowed stays; the last batch does not.
    assert.is_true(rows("select count(*) from mill_dead_letters")[1][1] < 5001)
  end)
end)
