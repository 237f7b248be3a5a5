-- Recorded trades through Kafka into MySQL and MariaDB: every row of the tables equals what an
-- independent computation says (spec/support/oracle.py).

local gzip = require "host.gzip"
local process = require "host.process"
local real = require "spec.support.real"

local RECORDINGS = {
  "binance_btcusdt_trades_20210108",
  "binance_spot_trades_btc_eth_20240809",
  "binance_spot_trxusdt_trades_20250304",
  "binance_spot_trxusdt_trades_20250304_BROKEN",
  "binance_usd_m_futures_trxusdt_trades_20250304",
  "binance_usd_m_futures_trxusdt_trades_20250304_BROKEN",
  "coinbase_btcusd_trades_20230905",
}
local SPOT = "binance_spot_trades_btc_eth_20240809" -- 11 minutes, two symbols, over midnight
local HOUR = "coinbase_btcusd_trades_20230905"
local BIG = "replay_arrival_order_20240809" -- 282,637 rows of six symbols, out of order
local SECOND, MINUTE = 1000, 60000

describe("right numbers", function()
  local why = real.missing(true)
  if why then
    it("needs servers and recordings", function() pending(why) end)
    return
  end

  local topics, wants, folder = {}, {}, nil

  setup(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-numbers-"))
  end)
  teardown(function()
    real.close()
    for _, name in ipairs(process.list(folder)) do os.remove(folder .. "/" .. name) end
    os.remove(folder)
  end)

  -- A topic with a recording, filled once for both databases.
  local function filled(file, set, partitions)
    local id = file .. "/" .. partitions
    for key, value in pairs(set) do id = id .. "/" .. key .. "=" .. tostring(value) end
    if not topics[id] then
      topics[id] = real.topic { partitions = partitions }
      local path = file:find("/", 1, true) and file or real.recording(file)
      real.replay(topics[id], path, set)
    end
    return topics[id]
  end

  -- What must come of it, computed once for both databases.
  local function expected(o)
    local id = table.concat({
      o.topic, o.size_ms or 0, o.hop_ms or 0, o.max_delay_ms or "", o.lateness_ms or "",
      o.adopted_until_ms or "",
    }, "/")
    wants[id] = wants[id] or real.expect(o)
    return wants[id]
  end

  -- The rows of a recording in another order: each is moved by up to `disorder_ms`.
  local function shuffled(name, disorder_ms)
    local path = ("%s/%s-%d.csv"):format(folder, name, disorder_ms)
    if process.stat(path) then return path end
    local random = real.random "shuffled recording"
    local reader <close> = assert(gzip.open(real.recording(name)))
    local header, rows = reader:line(), {}
    while true do
      local lines = reader:lines(1000)
      if not lines then break end
      for _, line in ipairs(lines) do
        local ms = math.tointeger(tonumber(line:match("^%d+")))
        rows[#rows + 1] = { ms + random(disorder_ms), #rows, line }
      end
    end
    table.sort(rows, function(a, b)
      if a[1] ~= b[1] then return a[1] < b[1] end
      return a[2] < b[2]
    end)
    local out = { header }
    for i, row in ipairs(rows) do out[i + 1] = row[3] end
    assert(process.atomic_write(path, table.concat(out, "\n") .. "\n", { sync = false }))
    return path
  end

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      -- Run over a topic to its end into a table of its own, and compare everything.
      local function proves(topic, o)
        o = o or {}
        o.topic, o.name = topic, real.name "averages"
        local ms = (o.size_ms or MINUTE) % SECOND ~= 0 or (o.hop_ms or SECOND) % SECOND ~= 0
        o.table = o.table or place:table(ms)
        o.runs = { place:average(o) }
        o.want = expected(o)
        real.verify(place, o)
        assert.is_true(#o.want.results > 0)
        return o.want
      end

      for _, name in ipairs(RECORDINGS) do
        it("of " .. name, function()
          local want = proves(filled(name, {}, 3))
          assert.equal(want.consumed, want.counted + #want.dead)
        end)
      end

      it("of 282,637 trades of three markets as they arrived, by minute", function()
        local want = proves(filled(BIG, {}, 3))
        assert.equal(282637, want.counted)
        assert.equal(0, want.late)
      end)

      it("of the same with every row that came after its window", function()
        local want = proves(filled(BIG, {}, 3), { size_ms = 100, max_delay_ms = 0,
          lateness_ms = 50 })
        assert.is_true(want.late > 0 and want.too_late > 0)
      end)

      it("of a recording shuffled by up to ten minutes", function()
        local want = proves(filled(shuffled(HOUR, 600000), {}, 3))
        assert.is_true(want.late > 1000)
      end)

      it("of a shuffled recording, most of which is late or too late", function()
        local topic = filled(shuffled(HOUR, 600000), { keyed = false }, 3)
        local want = proves(topic, { max_delay_ms = 30 * SECOND, lateness_ms = 3 * MINUTE })
        assert.is_true(want.late > 500 and want.too_late > 500)
      end)

      it("of a shuffled recording in hopping windows, some late and some too late", function()
        local topic = filled(shuffled(HOUR, 60000), {}, 3)
        local want = proves(topic, { size_ms = 20 * SECOND, hop_ms = 3 * SECOND,
          max_delay_ms = 500, lateness_ms = SECOND })
        assert.is_true(want.late > 0 and want.too_late > 0)
        assert.is_true(#want.late_rows > want.too_late)
      end)

      for _, w in ipairs {
        { "100 ms", { size_ms = 100 } },
        { "1 s", { size_ms = SECOND } },
        { "7 s", { size_ms = 7 * SECOND } },
        { "1 h", { size_ms = 60 * MINUTE } },
        { "1 m every 10 s", { size_ms = MINUTE, hop_ms = 10 * SECOND } },
        { "1 s every 300 ms", { size_ms = SECOND, hop_ms = 300 } },
        { "100 ms every 50 ms", { size_ms = 100, hop_ms = 50 } },
        { "1 h every 25 m", { size_ms = 60 * MINUTE, hop_ms = 25 * MINUTE } },
      } do
        it("in windows of " .. w[1], function()
          local o = { max_delay_ms = 100 }
          for key, value in pairs(w[2]) do o[key] = value end
          proves(filled(SPOT, {}, 3), o)
        end)
      end

      it("of messages in every accepted form", function()
        local want = proves(filled(SPOT, { format = "mixed" }, 3), { size_ms = SECOND })
        assert.equal(0, #want.dead)
      end)

      it("of messages in every accepted form, without keys", function()
        local set = { format = "mixed", keyed = false, extra = "qty,side" }
        local want = proves(filled(HOUR, set, 5))
        assert.equal(0, #want.dead)
      end)

      it("of a topic with one partition", function()
        proves(filled(SPOT, {}, 1), { size_ms = 10 * SECOND })
      end)

      it("with partitions read in another order", function()
        local topic = filled(SPOT, { keyed = false }, 3)
        for _, conf in ipairs {
          "fetch.message.max.bytes=20000,message.max.bytes=20000,fetch.max.bytes=20000",
          "fetch.message.max.bytes=8000000",
        } do
          proves(topic, { size_ms = SECOND, max_delay_ms = 50, commit_every = "20ms",
            env = { TIDEMILL_KAFKA_CONF = conf } })
        end
      end)
    end)
  end
end)
