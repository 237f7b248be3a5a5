-- The stages of a script: options that are known, of the right kind, with their defaults.

local fault = require "mill.fault"
local stage = require "mill.stage"

local function refused(make, options)
  local ok, err = pcall(make, options)
  assert.is_false(ok)
  assert.is_true(fault.is(err), tostring(err))
  assert.equal(fault.USAGE, err.status)
  return err.message
end

local function with(base, more)
  local out = {}
  for key, value in pairs(base) do out[key] = value end
  for key, value in pairs(more) do out[key] = value end
  return out
end

describe("mill.kafka", function()
  it("has a topic, and begins with the earliest record", function()
    local s = stage.kafka { topic = "prices" }
    assert.equal("prices", s.topic)
    assert.equal("earliest", s.start)
    assert.same({}, s.conf)
  end)

  it("passes librdkafka's options through", function()
    local conf = { ["fetch.min.bytes"] = 10 }
    assert.same(conf, stage.kafka({ topic = "p", conf = conf }).conf)
  end)

  it("refuses what it does not know or cannot mean", function()
    assert.matches("'topic' is required", refused(stage.kafka, {}), 1, true)
    assert.matches("'topics'", refused(stage.kafka, { topic = "p", topics = {} }), 1, true)
    assert.matches("'topic' must be text", refused(stage.kafka, { topic = 7 }), 1, true)
    assert.matches("'topic' must be text", refused(stage.kafka, { topic = "" }), 1, true)
    assert.matches("one table", refused(stage.kafka, "prices"), 1, true)
    for _, case in ipairs {
      { { group = 5 }, "'group' must be text, got 5" },
      { { group = "" }, "'group' must be text" },
      { { brokers = 5 }, "'brokers' must be text, got 5" },
      { { brokers = {} }, "'brokers' must be text, got a table" },
      { { brokers = "a:1,b:c" }, "'brokers': 'b:c' is no broker; write host:port[,host:port]" },
      { { brokers = "a:70000" }, "'brokers': 'a:70000'" },
      { { brokers = "a:1," }, "'brokers': ''" },
      { { start = 5 }, "'start' must be text, got 5" },
      { { start = "yesterday" }, "'start': write \"earliest\", \"latest\" or a time such as "
        .. "\"2024-08-09T12:00:00Z\", got \"yesterday\"" },
      { { conf = "a" }, "'conf' must be a table of [\"option\"] = value, got a string" },
      { { conf = { "a" } }, "'conf' must be a table of [\"option\"] = value, got the key 1" },
      { { conf = { ["sasl.password"] = {} } },
        "conf[\"sasl.password\"] must be text, a number or a boolean, got a table" },
    } do
      assert.matches("mill.kafka: ", refused(stage.kafka, with({ topic = "p" }, case[1])), 1, true)
      assert.matches(case[2], refused(stage.kafka, with({ topic = "p" }, case[1])), 1, true)
    end
  end)

  it("takes every form of brokers and start", function()
    for _, list in ipairs { "h", "h:9092", "h1:1,h_2.x-y:65535", "[::1]:9092", "SASL_SSL://h:1, i:2" } do
      assert.equal(list, stage.kafka({ topic = "p", brokers = list }).brokers)
    end
    for _, start in ipairs { "latest", "2024-08-09T12:00:00Z", "2024-08-09T12:00:00+02:00" } do
      assert.equal(start, stage.kafka({ topic = "p", start = start }).start)
    end
  end)
end)

describe("mill.json", function()
  it("knows types, in the order of the names", function()
    local s = stage.json { b = "decimal(20,8) > 0", a = "string", t = "time(ms)", n = "integer>0",
      u = "time" }
    local names = {}
    for i, f in ipairs(s.fields) do
      names[i] = f.name
      assert.equal(i - 1, f.cell)
      assert.equal(f, s.by_name[f.name])
    end
    assert.same({ "a", "b", "n", "t", "u" }, names)
    local b = s.by_name.b
    assert.same({ "decimal", 20, 8, true }, { b.type, b.precision, b.scale, b.positive })
    assert.is_true(s.by_name.n.positive)
    assert.equal("ms", s.by_name.t.unit)
    assert.equal("auto", s.by_name.u.unit)
    assert.equal("bad", s.tombstones)
  end)

  it("takes blanks in a type", function()
    local f = stage.json({ p = " decimal(38 , 0)  >0 " }).fields[1]
    assert.same({ 38, 0, true }, { f.precision, f.scale, f.positive })
    assert.equal("us", stage.json({ t = "time('us')" }).fields[1].unit)
  end)

  it("may skip tombstones", function()
    assert.equal("skip", stage.json({ a = "string", tombstones = "skip" }).tombstones)
    assert.matches("tombstones", refused(stage.json, { tombstones = "drop" }), 1, true)
  end)

  for _, text in ipairs {
    "", "float", "decimal", "decimal(20)", "decimal(0,0)", "decimal(39,8)", "decimal(8,9)",
    "decimal(20,8) > 1", "decimal(20,8) >= 0", "string > 0", "time(m)", "time(ms", "integer(4)",
    "string(10)", "decimal(-1,0)", "varchar",
  } do
    it("refuses the type '" .. text .. "'", function()
      assert.matches("'price'", refused(stage.json, { price = text }), 1, true)
    end)
  end

  it("refuses fields that the decoder cannot have", function()
    local many = {}
    for i = 1, 65 do many["f" .. i] = "string" end
    assert.matches("mill.json: field '.*at most 64 fields", refused(stage.json, many))
    refused(stage.json, { a = "string", ["a.b"] = "string" })
    refused(stage.json, {})
    many.f65 = nil
    assert.equal(64, #stage.json(many).fields)
  end)

  it("refuses a type that is no text, and fields without names", function()
    refused(stage.json, { price = 7 })
    refused(stage.json, { "string" })
    refused(stage.json, "string")
  end)
end)

for _, kind in ipairs { "tumbling", "hopping" } do
  describe("mill." .. kind, function()
    local make = stage[kind]
    local BASE = { size = "1m", time = "timestamp", key = "symbol",
      hop = kind == "hopping" and "10s" or nil }

    it("has the defaults of the pages", function()
      local w = make(BASE)
      assert.same({ 60000, kind == "hopping" and 10000 or 60000, 0, 5000, 60000, 86400000 }, {
        w.size_ms, w.hop_ms, w.max_delay_ms, w.idle_ms, w.max_future_ms, w.lateness_ms })
      assert.same({ "timestamp", "symbol" }, { w.time, w.key })
    end)

    it("takes every period", function()
      local w = make(with(BASE, { max_delay = "2s", idle = "1s", max_future = "10m",
        lateness = "0" }))
      assert.same({ 2000, 1000, 600000, 0 }, {
        w.max_delay_ms, w.idle_ms, w.max_future_ms, w.lateness_ms })
    end)

    it("may have a function as its key", function()
      local function key(row) return row.symbol end
      assert.equal(key, make(with(BASE, { key = key })).key)
    end)

    it("needs size, time and key", function()
      for _, name in ipairs { "size", "time", "key" } do
        local options = with(BASE, {})
        options[name] = nil
        assert.matches("'" .. name .. "' is required", refused(make, options), 1, true)
      end
    end)

    it("refuses what it does not know or cannot mean", function()
      assert.matches("'sise'", refused(make, with(BASE, { sise = "1m" })), 1, true)
      for _, name in ipairs { "size", "max_delay", "idle", "max_future", "lateness" } do
        assert.matches("'" .. name .. "'", refused(make, with(BASE, { [name] = "soon" })), 1, true)
        assert.matches("'" .. name .. "'", refused(make, with(BASE, { [name] = 60 })), 1, true)
      end
      refused(make, with(BASE, { size = "0s" }))
      refused(make, with(BASE, { key = 7 }))
    end)
  end)
end

describe("hops", function()
  local BASE = { size = "1m", time = "t", key = "k" }

  it("belong to hopping windows alone", function()
    assert.matches("'hop'", refused(stage.tumbling, with(BASE, { hop = "10s" })), 1, true)
    assert.matches("'hop' is required", refused(stage.hopping, BASE), 1, true)
  end)

  it("are at most the size, and not too many a window", function()
    assert.equal(60000, stage.hopping(with(BASE, { hop = "1m" })).hop_ms)
    refused(stage.hopping, with(BASE, { hop = "61s" }))
    refused(stage.hopping, with(BASE, { hop = "0s" }))
    refused(stage.hopping, with(BASE, { size = "1d", hop = "1s" }))
  end)
end)

describe("mill.mysql", function()
  local BASE = { table = "averages", key = { "symbol", "start_time" } }

  it("has the defaults of the pages", function()
    local s = stage.mysql(BASE)
    assert.same({ "averages", 1000, 200000 }, { s.table, s.commit_every_ms, s.max_rows })
  end)

  it("refuses what it does not know or cannot mean", function()
    assert.matches("'tabel'", refused(stage.mysql, { tabel = "x", key = { "a" } }), 1, true)
    assert.matches("'table' is required", refused(stage.mysql, { key = { "a" } }), 1, true)
    for _, more in ipairs {
      { key = {} }, { key = "symbol" }, { max_rows = 0 }, { max_rows = 1.5 }, { max_rows = "9" },
      { commit_every = "often" }, { table = "" }, { key = { 5 } }, { key = { "a", b = "c" } },
      { key = { "a", {} } }, { url = 5 },
    } do
      refused(stage.mysql, with(BASE, more))
    end
    local said = refused(stage.mysql, with(BASE, { url = "http://me:s3cret@x" }))
    assert.matches("mill.mysql: option 'url': .*mysql://USER", said)
    assert.is_nil(said:find("s3cret", 1, true))
  end)
end)
