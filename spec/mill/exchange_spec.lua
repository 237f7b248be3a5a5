local clock = require "host.clock"
local exchange = require "mill.exchange"
local faults = require "mill.exchange_faults"
local http = require "host.http"
local json = require "mill.json"
local log = require "mill.log"
local prices = require "mill.exchange_prices"
local process = require "host.process"

local QUIET = { write = function() end }

describe("the simulated exchange", function()
  local sim, client

  setup(function() log.to(QUIET) end)
  teardown(function() log.to(nil) end)

  before_each(function() client = assert(http.client {}) end)

  after_each(function()
    client:close()
    if sim then sim:close() end
    clock.set_wall(nil)
  end)

  local function start(options)
    sim = exchange.new(options or {})
  end

  local function ask(path, options)
    options = options or {}
    options.url = sim:url() .. path
    local id = assert(client:request(options))
    local deadline = clock.mono_ms() + 10000
    while clock.mono_ms() < deadline do
      sim:step(5)
      for _, r in ipairs(client:poll(5)) do
        if r.id == id then return r end
      end
    end
    error("no answer")
  end

  local LIST = "/api/v3/ticker/price?symbols=" .. http.escape('["BTCUSDT","ETHUSDT"]')

  it("answers with the shapes of the real one, plainly labelled", function()
    start {}
    local r = ask "/api/v3/ticker/price?symbol=BTCUSDT"
    assert.equal(200, r.status)
    assert.equal("1", r.headers["x-tidemill-simulated"])
    assert.equal("application/json;charset=UTF-8", r.headers["content-type"])
    assert.matches('^{"symbol":"BTCUSDT","price":"%d+%.%d%d%d%d%d%d%d%d"}$', r.body)
    local list = json.decode(ask(LIST).body)
    assert.equal(2, #list)
    assert.equal("BTCUSDT", list[1].symbol)
    assert.equal("ETHUSDT", list[2].symbol)
    assert.is_true(#json.decode(ask "/api/v3/ticker/price".body) > 10)
    assert.equal("{}", ask("/api/v3/ping").body)
    local info = json.decode(ask("/api/v3/exchangeInfo?symbol=ETHUSDT").body)
    assert.equal(6000, info.rateLimits[1].limit)
    assert.equal("ETHUSDT", info.symbols[1].symbol)
    assert.equal(5, json.decode(ask("/api/v3/avgPrice?symbol=BTCUSDT").body).mins)
  end)

  it("tells its own time", function()
    start { skew_ms = 1270 }
    local before = clock.wall_ms()
    local time = json.decode(ask("/api/v3/time").body).serverTime
    assert.is_true(time >= before + 1270 and time <= clock.wall_ms() + 1270)
  end)

  local errors = {
    { "symbol=NOPEUSDT", -1121, "Invalid symbol." },
    { "symbol=btcusdt", -1100, "Illegal characters found in parameter 'symbol'" },
    { "symbol=", -1105, "Parameter 'symbol' was empty." },
    { "symbol=BTCUSDT&foo=1", -1104, "Not all sent parameters were read; read '1' parameter(s) but "
      .. "was sent '2'." },
    { "symbol=BTCUSDT&symbol=ETHUSDT", -1101, "Duplicate values for parameter 'symbol'." },
    { 'symbols=["BTCUSDT","BTCUSDT"]', -1151, "Symbol is present multiple times in the list." },
    { 'symbols=["BTCUSDT", "ETHUSDT"]', -1100, "Illegal characters found in parameter 'symbols'" },
    { 'symbols=["BTCUSDT",]', -1100, "Illegal characters" },
    { 'symbols=BTCUSDT', -1100, "Illegal characters" },
    { 'symbols=["BTCUSDT","NOPE"]', -1121, "Invalid symbol." },
    { 'symbol=BTCUSDT&symbols=["ETHUSDT"]', -1128, "Combination of optional parameters invalid." },
    { "symbol=BTCUSDT&symbolStatus=GONE", -1122, "Invalid symbolStatus." },
    { "symbol=BTCUSDT&symbolStatus=HALT", -1220, "The symbol's status does not match" },
  }
  for _, case in ipairs(errors) do
    it("refuses " .. case[1], function()
      start {}
      local query = case[1]:gsub('[%[%]" ]', function(c) return ("%%%02X"):format(c:byte()) end)
      local r = ask("/api/v3/ticker/price?" .. query)
      assert.equal(400, r.status)
      local body = json.decode(r.body)
      assert.equal(case[2], body.code)
      assert.equal(case[3], body.msg:sub(1, #case[3]))
    end)
  end

  it("refuses parameters where there are none, and unknown paths", function()
    start {}
    assert.equal(-1101, json.decode(ask("/api/v3/ping?a=1").body).code)
    assert.equal(-1102, json.decode(ask("/api/v3/avgPrice").body).code)
    assert.equal(404, ask("/api/v1/ping").status)
    assert.equal(404, ask("/api/v3/ping", { method = "POST" }).status)
  end)

  it("packs long answers for those who take gzip", function()
    start {}
    local r = ask "/api/v3/ticker/price"
    assert.equal("gzip", r.headers["content-encoding"])
    assert.is_table(json.decode(r.body))
    assert.is_nil(ask("/api/v3/ping").headers["content-encoding"])
  end)

  it("counts weights a minute, refuses beyond the limit, and bans who goes on", function()
    clock.set_wall(1723161255000) -- 15 s into its minute
    start { limit = 10 }
    assert.equal("4", ask(LIST).headers["x-mbx-used-weight-1m"])
    assert.equal("6", ask("/api/v3/ticker/price?symbol=BTCUSDT").headers["x-mbx-used-weight-1m"])
    assert.equal(200, ask(LIST).status)
    local r = ask(LIST)
    assert.equal(429, r.status)
    assert.equal("45", r.headers["retry-after"])
    assert.equal(-1003, json.decode(r.body).code)
    for _ = 1, 9 do assert.equal(429, ask("/api/v3/ping").status) end
    r = ask "/api/v3/ping"
    assert.equal(418, r.status)
    assert.equal("120", r.headers["retry-after"])
    assert.matches("IP banned until 1723161375000", r.body)
    clock.set_wall(1723161255000 + 60000) -- another minute, but still banned
    assert.equal(418, ask("/api/v3/ping").status)
    clock.set_wall(1723161255000 + 121000)
    assert.equal(200, ask("/api/v3/ping").status)
  end)

  describe("told to be faulty", function()
    local function post(query)
      return ask("/_sim/fault?" .. query, { method = "POST" })
    end

    local shapes = {
      ["429"] = function(r)
        assert.equal(429, r.status)
        assert.equal("2", r.headers["retry-after"])
      end,
      ["418"] = function(r)
        assert.equal(418, r.status)
        assert.matches("IP banned until %d+", r.body)
      end,
      ["500"] = function(r) assert.equal(500, r.status) end,
      ["502"] = function(r) assert.equal("text/html", r.headers["content-type"]) end,
      ["503"] = function(r) assert.equal(503, r.status) end,
      ["403html"] = function(r)
        assert.equal(403, r.status)
        assert.matches("^<!DOCTYPE", r.body)
      end,
      ["451"] = function(r) assert.equal(0, json.decode(r.body).code) end,
      html = function(r)
        assert.equal(200, r.status)
        assert.matches("^<!DOCTYPE", r.body)
      end,
      empty = function(r) assert.equal("", r.body) end,
      emptylist = function(r) assert.equal("[]", r.body) end,
      garbage = function(r) assert.is_nil((json.decode(r.body))) end,
      truncated = function(r) assert.equal("TRUNCATED", r.code) end,
      wrongtype = function(r)
        local list = json.decode(r.body)
        assert.equal(61837.63, list[1].price)
        assert.equal("string", type(list[2].price))
      end,
      missing = function(r) assert.equal(1, #json.decode(r.body)) end,
      extra = function(r) assert.equal(3, #json.decode(r.body)) end,
      slow = function(r) assert.is_true(r.timings.total_us >= 20000) end,
      drop = function(r) assert.equal("RESET", r.code) end,
    }
    for kind in pairs(faults.KINDS) do
      it("shows " .. kind, function()
        start {}
        assert.equal(200, post("kind=" .. kind .. "&for=1m&retry_after=2&delay=20ms").status)
        assert(shapes[kind], "no expectation for " .. kind)(ask(LIST))
        assert.equal(kind, json.decode(ask("/_sim/faults").body)[1].kind)
        -- A client tries a dropped connection that it had kept a second time.
        assert.is_true(json.decode(ask("/_sim/faults").body)[1].hits >= 1)
        assert.equal("[]", ask("/_sim/faults", { method = "DELETE" }).body)
        assert.equal(200, ask(LIST).status)
      end)
    end

    it("is so only for a while", function()
      start {}
      post "kind=500&for=1m"
      assert.equal(500, ask(LIST).status)
      finally(function() clock.set_wall(nil) end)
      clock.advance(60000)
      assert.equal(200, ask(LIST).status)
      assert.equal("[]", ask("/_sim/faults").body)
    end)

    it("takes a plan at its start", function()
      start { fault = "500:1m,drop:5s" }
      assert.equal(500, ask(LIST).status)
      local ok, err = pcall(exchange.new, { fault = "500" })
      assert.is_false(ok)
      assert.matches("'500' is not kind:duration", err.message)
    end)

    it("names what it does not understand", function()
      start {}
      assert.matches("no kind of fault is called 'x' %(known: 403html", post("kind=x").body)
      assert.equal(400, post("kind=x").status)
      assert.matches("is not a duration", post("kind=500&for=soon").body)
      assert.matches("retry_after is not", post("kind=429&retry_after=x").body)
    end)
  end)

  describe("with a recording", function()
    local path

    before_each(function()
      path = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-exchange-"))
      local f <close> = assert(io.open(path .. "/r.csv", "w"))
      f:write("ts_ms,symbol,price,qty\n2000,AUSDT,2.5,1\n1000,AUSDT,0.23,1\n1500,BUSDT,7,1\n")
    end)

    after_each(function()
      os.remove(path .. "/r.csv")
      os.remove(path)
    end)

    it("plays its prices in time order, padded to 8 decimals, again and again", function()
      local market = prices.recording(path .. "/r.csv", 1)
      assert.same({ "AUSDT", "BUSDT" }, market:symbols())
      for ms, price in pairs { [0] = "0.23000000", [999] = "0.23000000", [1000] = "2.50000000",
                               [1001] = "0.23000000", [2001] = "2.50000000" } do
        assert.equal(price, market:price("AUSDT", ms), "at " .. ms)
      end
      assert.equal("2.50000000", prices.recording(path .. "/r.csv", 10):price("AUSDT", 100))
      assert.is_nil(market:price("BTCUSDT", 0))
    end)

    it("serves them and knows no other symbol", function()
      start { file = path .. "/r.csv" }
      assert.equal('{"symbol":"BUSDT","price":"7.00000000"}',
        ask("/api/v3/ticker/price?symbol=BUSDT").body)
      assert.equal(-1121, json.decode(ask("/api/v3/ticker/price?symbol=BTCUSDT").body).code)
    end)

    it("names file and line of what is no price", function()
      local f <close> = assert(io.open(path .. "/r.csv", "a"))
      f:write("2000,AUSDT,-1,1\n")
      f:flush()
      local ok, err = pcall(prices.recording, path .. "/r.csv", 1)
      assert.is_false(ok)
      assert.matches("/r.csv:5: not a time in milliseconds and a price of 8 decimals", err.message)
    end)
  end)

  it("walks the same way from the same seed, and stays near its start", function()
    local a, b, c = prices.walk(7), prices.walk(7), prices.walk(8)
    local differs, moved = false, {}
    for ms = 0, 600000, 100 do
      local price = a:price("BTCUSDT", ms)
      assert.equal(price, b:price("BTCUSDT", ms))
      differs = differs or price ~= c:price("BTCUSDT", ms)
      moved[price] = true
      local value = tonumber(price)
      assert.is_true(value > 55000 and value < 68000, price)
    end
    assert.is_true(differs)
    local n = 0
    for _ in pairs(moved) do n = n + 1 end
    assert.is_true(n > 1000)
  end)
end)
