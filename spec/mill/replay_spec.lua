local broker = require "spec.support.broker"
local fault = require "mill.fault"
local gzip = require "host.gzip"
local json = require "mill.json"
local host_json = require "host.json"
local batch = require "host.batch"
local process = require "host.process"
local replay = require "mill.replay"

local CSV = [[
ts_ms,symbol,price,qty
1723161255342,BTCUSDT,61837.63000000,0.02
1723161255611,ETHUSDT,2683.80000000,0.002
1723161200000,BTCUSDT,61000.1,1
]]

describe("replay", function()
  local folder, server

  setup(function()
    server = broker.start { keyed = 3, plain = 3, mixed = 1, bad = 1, extra = 1 }
  end)
  teardown(function() server:close() end)

  before_each(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-replay-"))
  end)

  after_each(function()
    process.graceful(false)
    for _, name in ipairs(process.list(folder)) do os.remove(folder .. "/" .. name) end
    os.remove(folder)
  end)

  local function file(text)
    local path = folder .. "/trades.csv"
    local f <close> = assert(io.open(path, "wb"))
    f:write(text)
    return path
  end

  local function run(options)
    local all = {
      brokers = server:bootstrap(), speed = 0, keyed = true, format = "string,seconds", extra = "",
    }
    for key, value in pairs(options) do all[key] = value end
    return replay.run(all)
  end

  local function refused(options)
    local ok, err = pcall(run, options)
    assert.is_false(ok)
    assert.is_true(fault.is(err), tostring(err))
    return err.message, err.status
  end

  it("sends the message of the producer, keyed by symbol, in order, and counts", function()
    local summary, status = run { file = file(CSV), topic = "keyed" }
    assert.equal(0, status)
    assert.equal(3, summary.lines)
    assert.equal(3, summary.published)
    assert.equal(0, summary.failed)
    assert.is_true(summary.complete)
    local by_key, home = {}, {}
    for _, r in ipairs(broker.records(server:bootstrap(), "keyed", 3)) do
      by_key[r.key] = (by_key[r.key] or "") .. r.value
      assert.is_true(home[r.key] == nil or home[r.key] == r.partition)
      home[r.key] = r.partition
    end
    assert.same({
      BTCUSDT = '{"symbol":"BTCUSDT","price":"61837.63000000","timestamp":1723161255.342}'
        .. '{"symbol":"BTCUSDT","price":"61000.1","timestamp":1723161200.000}',
      ETHUSDT = '{"symbol":"ETHUSDT","price":"2683.80000000","timestamp":1723161255.611}',
    }, by_key)
  end)

  it("sends without keys to the partitions in turn, from gzip", function()
    local _, status = run { file = file(gzip.pack(CSV)), topic = "plain", keyed = false }
    assert.equal(0, status)
    local partitions = {}
    for _, r in ipairs(broker.records(server:bootstrap(), "plain", 3)) do
      assert.is_nil(r.key)
      partitions[r.partition] = (partitions[r.partition] or 0) + 1
    end
    assert.same({ [0] = 1, 1, 1 }, partitions)
  end)

  it("writes every accepted form of the same values", function()
    local lines = { "symbol,price,ts_ms" }
    for i = 1, 400 do
      lines[#lines + 1] = ("%s,%s,%d"):format(i % 2 == 0 and "BTCUSDT" or "ÄTHER",
        i % 5 == 0 and tostring(i) or ("0.%08d"):format(i), 1723161255000 + i * 7)
    end
    local _, status = run { file = file(table.concat(lines, "\r\n")), topic = "mixed",
                            format = "mixed" }
    assert.equal(0, status)
    local records = broker.records(server:bootstrap(), "mixed", 1)
    assert.equal(400, #records)
    local decoder = host_json.decoder { fields = {
      { name = "symbol", type = "string" },
      { name = "price", type = "decimal", precision = 20, scale = 8 },
      { name = "timestamp", type = "time" },
    } }
    local b <close> = batch.new()
    local forms = {}
    for i, r in ipairs(records) do
      b:add { partition = 0, offset = i, value = r.value }
      forms[r.value:gsub("%d+", "0")] = true
    end
    assert.same({ 400, 0 }, { decoder:decode(b) })
    for i = 1, 400 do
      assert.same({
        symbol = i % 2 == 0 and "BTCUSDT" or "ÄTHER",
        price = i % 5 == 0 and i .. ".00000000" or ("0.%08d"):format(i),
        timestamp = 1723161255000 + i * 7,
      }, decoder:cells(b, i))
    end
    local n = 0
    for _ in pairs(forms) do n = n + 1 end
    assert.is_true(n >= 8 * 3 * 3, n .. " forms")
  end)

  it("sends further columns when asked", function()
    run { file = file(CSV), topic = "extra", extra = "qty", format = "number,iso" }
    local first = broker.records(server:bootstrap(), "extra", 1)[1]
    assert.equal('{"symbol":"BTCUSDT","price":61837.63000000,"timestamp":"2024-08-08T23:'
      .. '54:15.342Z","qty":"0.02"}', first.value)
    assert.equal("0.02", json.decode(first.value).qty)
  end)

  it("keeps to the recorded times, faster by its factor", function()
    local clock = require "host.clock"
    local began = clock.mono_ms()
    -- 269 ms apart in the recording; the third row lies in the past and goes at once.
    local summary = run { file = file(CSV), topic = "bad", speed = 2 }
    assert.equal(3, summary.published)
    assert.is_true(clock.mono_ms() - began >= 134)
  end)

  it("stops at its time limit and says that it is not complete", function()
    local path = file("ts_ms,symbol,price\n1000,A,1\n3600000,A,1\n")
    local summary, status = run { file = path, topic = "bad", speed = 1, limit_ms = 50 }
    assert.equal(0, status)
    assert.is_false(summary.complete)
    assert.equal(1, summary.published)
  end)

  it("has failed in nothing when it stops with a queue that is full", function()
    local lines = { "ts_ms,symbol,price" }
    for i = 1, 5000 do lines[#lines + 1] = i .. ",A,1" end
    local summary, status = run {
      file = file(table.concat(lines, "\n")), topic = "full", create_topic = true, limit_ms = 300,
      conf = { ["queue.buffering.max.messages"] = 10, ["linger.ms"] = 100 },
    }
    assert.equal(0, status)
    assert.same({ 0, false }, { summary.failed, summary.complete })
    assert.equal(summary.lines, summary.published)
  end)

  local bad = {
    { "a time that is none", "x,A,1", ":3: ts_ms 'x' is not whole milliseconds" },
    { "a fraction of a millisecond", "1.5,A,1", ":3: ts_ms '1.5' is not whole milliseconds" },
    { "no symbol", "1,,1", ":3: symbol '' is none" },
    { "a price that is none", "1,A,1,2", ":3: csv: COLUMN: 4 columns where the header has 3" },
    { "too few columns", "1,A", ":3: csv: COLUMN: 2 columns where the header has 3" },
    { "an empty line", "", ":3: csv: COLUMN: 1 columns where the header has 3" },
    { "an open quote", '1,A,"1', ":3: csv: SYNTAX: a quote is not closed" },
  }
  for _, price in ipairs { "", "NaN", "1.", ".5", "01", "0x10", "1e", "1,5", "+1" } do
    bad[#bad + 1] = { "the price " .. price, '1,A,"' .. price .. '"',
      ":3: price '" .. price .. "' is not a number" }
  end
  for _, case in ipairs(bad) do
    it("names file and line of " .. case[1], function()
      local path = file("ts_ms,symbol,price\n1,A,1\n" .. case[2] .. "\n1,A,1\n")
      local message, status = refused { file = path, topic = "bad" }
      assert.equal(path .. case[3], message)
      assert.equal(fault.FAILED, status)
    end)
  end

  it("refuses what it cannot begin with, and names the way out", function()
    local path = file(CSV)
    assert.matches("topic 'nope' does not exist at .* %-%-set create_topic=true",
      (refused { file = path, topic = "nope" }))
    assert.equal(fault.SERVER, (select(2, refused { file = path, topic = "nope" })))
    assert.matches("name the recording with %-%-set file=PATH",
      (refused { file = "", topic = "bad" }))
    assert.matches("NOENT", (refused { file = folder .. "/none", topic = "bad" }))
    assert.matches("'hex' is no format", (refused { file = path, topic = "bad", format = "hex" }))
    assert.matches(":1: csv: COLUMN: there is no column 'ts_ms'",
      (refused { file = file("a,b\n"), topic = "bad" }))
    assert.matches("the file is empty", (refused { file = file(""), topic = "bad" }))
  end)

  it("says where it looked for Kafka", function()
    local message, status = refused {
      file = file(CSV), topic = "bad", brokers = "127.0.0.1:1", wait_ms = 500,
    }
    assert.matches("^Kafka at 127.0.0.1:1 does not answer", message)
    assert.matches("TIDEMILL_KAFKA", message)
    assert.equal(fault.SERVER, status)
  end)
end)
