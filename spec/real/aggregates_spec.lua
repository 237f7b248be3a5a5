-- Every aggregate, in two tables of one pass: equal to the exact computation, whatever the commits,
-- the instances and the order of the rows.

local clock = require "host.clock"
local process = require "host.process"
local real = require "spec.support.real"

local SPOT = "binance_spot_trades_btc_eth_20240809"
local ROWS = 9000
local STAGES = {
  { size_ms = 1000, max_delay_ms = 300, lateness_ms = 2000 },
  { size_ms = 7000, hop_ms = 2000, max_delay_ms = 300, lateness_ms = 86400000 },
}

-- No row is final by the clock: finality is compared.
local SCRIPT = [[
local mill = require "mill"
local function output(window, name)
  return {
    window = window,
    select = {
      symbol = "key", start_time = "window.start", end_time = "window.end",
      average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
      low = "min(price)", high = "max(price)", open = "first(price)", close = "last(price)",
      open_at = "first_position()", close_at = "last_position()",
      weighted = "vwap(price,qty)", turnover = "sum(price*qty)", quantity = "sum(qty)",
      spread = "stddev(price)", spread_samp = "stddev_samp(price)", squares = "sum(price*price)",
    },
    sink = mill.mysql { table = name, key = { "symbol", "start_time" }, commit_every = "10ms",
      max_rows = 100 },
  }
end
return mill.pipeline {
  name = "NAME",
  source = mill.kafka { topic = "TOPIC" },
  decode = mill.json { symbol = "string", price = "decimal(20,8)", qty = "decimal(20,8)",
    timestamp = "time" },
  outputs = {
    output(mill.tumbling { size = "1s", time = "timestamp", key = "symbol", max_delay = "300ms",
      idle = "1h", lateness = "2s" }, "TABLE_1"),
    output(mill.hopping { size = "7s", hop = "2s", time = "timestamp", key = "symbol",
      max_delay = "300ms", idle = "1h" }, "TABLE_2"),
  },
}
]]

describe("every aggregate", function()
  local why = real.missing(true)
  if why then
    it("needs servers and recordings", function() pending(why) end)
    return
  end

  local topic, records, want, folder

  -- Trades moved by up to three seconds, over partitions at random; some prices below zero, many
  -- rows of one millisecond, some of no quantity.
  setup(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-aggregates-"))
    local random, rows = real.random "order of the trades", {}
    for i, row in ipairs(real.rows(SPOT)) do
      if i > ROWS then break end
      rows[i] = { at = math.tointeger(tonumber(row[1])) + random(3000), n = i, row = row }
    end
    table.sort(rows, function(a, b)
      if a.at ~= b.at then return a.at < b.at end
      return a.n < b.n
    end)
    records = {}
    for i, item in ipairs(rows) do
      local ms, symbol, price, qty = table.unpack(item.row)
      if i % 50 == 0 then price = "-" .. price end
      if i % 70 == 0 then qty = "0" end
      if i % 3 == 0 then symbol = symbol .. "." .. i % 400 end -- windows of a few rows
      records[i] = { partition = random(3), value = ('{"symbol":"%s","price":"%s","qty":"%s",'
        .. '"timestamp":%s}'):format(symbol, price, qty, ms) }
    end
    topic = real.topic { partitions = 3 }
    real.send(topic, records, { ["batch.num.messages"] = 50 })
    want = real.oracle { topic = topic, stages = STAGES, quantity = true, signed = true }
    assert.equal(ROWS, want.consumed)
    assert.equal(0, #want.dead)
  end)
  teardown(function()
    real.close()
    for _, name in ipairs(process.list(folder)) do os.remove(folder .. "/" .. name) end
    os.remove(folder)
  end)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      local function prepare(other_topic)
        local o = { name = real.name "all", table = real.name "all" }
        for n = 1, 2 do
          place:query("create table %s_%d like moving_averages", o.table, n)
          place:query("alter table %s_%d add low decimal(20,8), add high decimal(20,8), add open "
            .. "decimal(20,8), add close decimal(20,8), add open_at binary(20), add close_at "
            .. "binary(20), add weighted decimal(20,8), add turnover decimal(60,16), add quantity "
            .. "decimal(38,8), add spread decimal(20,8), add spread_samp decimal(20,8), add squares "
            .. "decimal(60,16)", o.table, n)
        end
        local text = SCRIPT:gsub("NAME", o.name):gsub("TOPIC", other_topic or topic):gsub("TABLE", o.table)
        o.script = folder .. "/" .. o.name .. ".lua"
        assert(process.atomic_write(o.script, text, { sync = false }))
        return o
      end

      local function start(o, more)
        local all = { script = o.script }
        for key, value in pairs(more or {}) do all[key] = value end
        return place:start(all)
      end

      local function verify(o)
        for n, stage in ipairs(want.stages) do
          local name = ("%s_%d"):format(o.table, n)
          real.same(stage.results, place:query("select symbol, timestampdiff(microsecond, "
            .. "'1970-01-01', start_time) div 1000, timestampdiff(microsecond, '1970-01-01', "
            .. "end_time) div 1000, average_price, price_sum, samples, revision, is_final, low, high, "
            .. "open, close, weighted, spread, spread_samp from %s", name), 2, "table " .. n)
          local late = {}
          for i, r in ipairs(stage.late_rows) do late[i] = { r[2], r[3], r[6], r[1], r[8] } end
          real.same(late, place:query("select `partition`, `offset`, window_start_ms, reason, "
            .. "lateness_ms from mill_late where result_table = '%s'", name), 3, "late rows " .. n)
        end
        assert.is_true(want.stages[1].late > 0 and #want.stages[1].late_rows > 0)
        assert.is_true(want.stages[2].late > 0)
      end

      it("in one run", function()
        local o = prepare()
        local r = start(o):finish()
        assert.equal(0, r.status, r.err)
        assert.equal(ROWS, r.summary.consumed)
        verify(o)
      end)

      it("in many small commits of two instances, while the trades come in", function()
        local live = real.topic { partitions = 3 }
        local o = prepare(live)
        local a = start(o, { instance = "a", until_end = false })
        local b = start(o, { instance = "b", until_end = false })
        local producer <close> = real.producer()
        for i, record in ipairs(records) do
          record.topic = live
          real.put(producer, record)
          if i % 300 == 0 then
            real.flush(producer)
            real.wait(function()
              local sum = 0
              for _, row in pairs(place:progress(o.name)) do sum = sum + row.position end
              return sum == i
            end, "the instances to commit " .. i .. " rows")
          end
        end
        local c = start(o, { instance = "c" }):finish()
        assert.equal(0, c.status, c.err)
        a:kill "TERM"
        b:kill "TERM"
        local ra, rb = a:finish(30000), b:finish(30000)
        assert.equal(0, ra.status, ra.err)
        assert.equal(0, rb.status, rb.err)
        assert.equal(ROWS, ra.summary.consumed + rb.summary.consumed + c.summary.consumed)
        assert.is_true(ra.summary.commits + rb.summary.commits >= ROWS // 300)
        verify(o)
      end)

      it("in runs that are killed", function()
        local o = prepare()
        local random = real.random "kills"
        local env = { TIDEMILL_KAFKA_CONF =
          "fetch.message.max.bytes=8000,message.max.bytes=8000,fetch.max.bytes=8000" }
        for _ = 1, 8 do
          local child = start(o, { until_end = false, env = env })
          clock.sleep(random(250))
          child:kill "KILL"
        end
        local r = start(o):finish()
        assert.equal(0, r.status, r.err)
        verify(o)
      end)
    end)
  end
end)
