local clock = require "host.clock"
local fault = require "mill.fault"
local faults = require "mill.exchange_faults"
local host_json = require "host.json"
local json = require "mill.json"
local logged_ = require "spec.support.logged"
local process = require "host.process"
local batch = require "host.batch"
local producer = require "mill.producer"
local support = require "spec.support.producer"

describe("the producer", function()
  local world = support.new()
  local simulate, make, logged = world.simulate, world.make, world.logged
  local run, run_published, check_topic = world.run, world.run_published, world.check_topic

  setup(world.open)
  before_each(world.begin)
  after_each(world.finish)
  teardown(world.close)

  it("publishes what the exchange served, word for word, keyed by symbol", function()
    simulate()
    local p = make()
    run_published(p, 9)
    local records, summary = check_topic(p)
    local home, count = {}, {}
    for _, r in ipairs(records) do
      assert.is_true(home[r.key] == nil or home[r.key] == r.partition)
      home[r.key] = r.partition
      count[r.key] = (count[r.key] or 0) + 1
    end
    for symbol in support.SYMBOLS:gmatch("[^,]+") do assert.is_true(count[symbol] >= 3) end
    assert.equal(0, summary.errors)
    assert.equal(0, summary.failed)
    assert.equal("producer", summary.kind)
    assert.same({ "BTCUSDT", "ETHUSDT", "ADAUSDT" }, summary.symbols)
    assert.is_true(summary.latency_ms.p50 > 0 and summary.latency_ms.p99 < 20000)
    assert.is_true(summary.weight.used >= 4)
    assert.equal(world.sims[1]:url(), summary.endpoint)
    assert.equal(1, logged("idempotent only"))
    assert.equal(1, logged("first prices from " .. world.sims[1]:url() .. ": 3 symbols, SIMULATED"))
    assert.equal(0, logged(" WARN "))
  end)

  it("asks for one symbol a request when told to", function()
    simulate()
    local p = make { mode = "each" }
    run_published(p, 9)
    local _, summary = check_topic(p)
    assert.is_true(summary.requests >= summary.published)
    assert.equal(0, summary.errors)
  end)

  it("stamps the middle of the request with the exchange's time", function()
    local NEAR = 600
    simulate { skew_ms = 1270 }
    local p = make()
    local from = clock.wall_ms() + 1270
    run_published(p, 6)
    local to = clock.wall_ms() + 1270
    for _, r in ipairs(check_topic(p)) do
      local _, _, seconds = r.value:match(support.MESSAGE)
      local ms = math.tointeger((seconds:gsub("%.", "")))
      -- The simulated one answers between two steps, so its clock is known within some ms; NEAR is
      -- far from the skew, and a process may get no time for a while.
      assert.is_true(ms >= from - NEAR and ms <= to + NEAR, r.value)
      -- Kafka's own timestamp is ours, of the answer.
      assert.near(ms - 1270, r.stamp_ms, NEAR)
    end
    assert.near(1270, p:summary().offset_ms, NEAR)
  end)

  it("writes messages that the reading side decodes to the same", function()
    simulate()
    local p = make()
    run_published(p, 3)
    local b <close> = batch.new()
    local records = check_topic(p)
    for i, r in ipairs(records) do b:add { partition = 0, offset = i, value = r.value } end
    local decoder = host_json.decoder { fields = {
      { name = "symbol", type = "string" },
      { name = "price", type = "decimal", precision = 20, scale = 8, positive = true },
      { name = "timestamp", type = "time" },
    } }
    assert.same({ #records, 0 }, { decoder:decode(b) })
    for i, r in ipairs(records) do
      local symbol, price, time = r.value:match(support.MESSAGE)
      assert.same({ symbol = symbol, price = price, timestamp = math.tointeger((time:gsub("%.", ""))) },
        decoder:cells(b, i))
    end
  end)

  it("keeps to the grid of wall time and counts what it misses", function()
    local sim = simulate()
    local p = make { every_ms = 50 }
    run_published(p, 3)
    local before, from = p:summary(), p.next_ms
    sim.faults:add { kind = "slow", for_ms = 60000, delay_ms = 120 }
    world.run_for(p, 1000)
    local after, passed = p:summary(), (p.next_ms - from) // 50
    local ticks, missed = after.ticks - before.ticks, after.missed - before.missed
    assert.is_true(missed >= 5, missed .. " missed")
    -- A point of the grid begins a tick or is left out; a tick that got no answer is missed too.
    assert.is_true(ticks <= passed + 2 and ticks + missed >= passed - 2,
      ("%d ticks, %d missed of %d"):format(ticks, missed, passed))
    assert.equal(0, after.errors)
  end)

  describe("with an exchange that answers with", function()
    -- What its one line says, and the class it is counted under.
    local expected = {
      ["429"] = { "429, too many requests .*asking again in 1%.0 s", "limit" },
      ["418"] = { "418, banned .*asking again in 1%.0 s", "ban" },
      ["500"] = { "500, server error", "server" },
      ["502"] = { "502, server error", "server" },
      ["503"] = { "503, server error", "server" },
      ["403html"] = { "403, blocked by its firewall", "blocked" },
      ["451"] = { "451, not offered in this region", "region" },
      html = { "a page instead of prices", "answer" },
      empty = { "an empty answer", "answer" },
      emptylist = { "BTCUSDT is left out", "missing" },
      garbage = { "no JSON", "answer" },
      truncated = { "a truncated answer", "answer" },
      wrongtype = { "the price of BTCUSDT is 61837.63; it is not published", "type" },
      missing = { "ADAUSDT is left out; it is not published", "missing" },
      extra = { "a row that was not asked for: 'NEWUSDT'", "extra" },
      slow = { "no answer in time", "timeout" },
      drop = { "the connection was cut", "network" },
    }
    for kind in pairs(faults.KINDS) do
      it(kind .. " comes through, says it once, and once that it is over", function()
        local sim = simulate()
        local p = make { deadline_ms = kind == "slow" and 4000 or nil }
        run_published(p, 6)
        assert(sim.faults:add { kind = kind, for_ms = 60000, retry_after = 1, delay_ms = 60000 })
        local want = expected[kind]
        run(p, function() return (p:summary().errors_by[want[2]] or 0) > 0 end, "the fault")
        sim.faults:clear()
        run(p, function() return next(p.troubles) == nil end, "the end of the trouble")
        run_published(p, 6)
        local _, summary = check_topic(p)
        assert.equal(1, logged(" WARN .*" .. want[1]), table.concat(world.lines))
        -- Where nothing ran for 3 s, Kafka was silent, too.
        local silent = logged(" WARN .*Kafka has acknowledged nothing")
        assert.equal(1, logged(" WARN ") - silent, table.concat(world.lines))
        assert.equal(1, logged("INFO .*%(%d+ times? in %d+%.%d s%)") - logged("Kafka acknowledges again"),
          table.concat(world.lines))
        assert.is_true(summary.errors_by[want[2]] == summary.errors, json.encode(summary.errors_by))
      end)
    end

    for _, kind in ipairs { "wrongtype", "missing", "truncated", "429" } do
      it(kind .. " for one symbol a request, publishes the others", function()
        local sim = simulate()
        local p = make { mode = "each" }
        run_published(p, 6)
        assert(sim.faults:add { kind = kind, for_ms = 60000, retry_after = 1 })
        run(p, function() return p:summary().errors > 0 end, "the fault")
        sim.faults:clear()
        run(p, function() return next(p.troubles) == nil end, "its end")
        run_published(p, 6)
        check_topic(p)
      end)
    end

    it("a good part publishes that part", function()
      local sim = simulate()
      local p = make()
      assert(sim.faults:add { kind = "missing", for_ms = 60000, path = "/api/v3/ticker/price" })
      run_published(p, 6)
      for _, r in ipairs(check_topic(p)) do assert.not_equal("ADAUSDT", r.key) end
      assert.equal(1, logged("ADAUSDT is left out"))
    end)
  end)

  describe("told to wait", function()
    it("by several answers at once, waits for the longest", function()
      local answers = { { action = "retry" }, { action = "wait", wait_ms = 1000 },
        { action = "wait", wait_ms = 120000 }, { action = "wait", wait_ms = 2000 },
        { action = "switch" } }
      assert.equal(answers[3], producer.worst(answers))
      assert.equal(answers[1], producer.worst { answers[1], { action = "retry" } })
    end)

    it("does not ask before Retry-After is over", function()
      local sim = simulate()
      local p = make()
      run_published(p, 3)
      sim.faults:add { kind = "429", for_ms = 60000, retry_after = 1 }
      local began = clock.mono_ms()
      run(p, function() return p:summary().errors > 0 end, "the fault")
      sim.faults:clear()
      local until_ms, requests = p.endpoints.list[1].banned_ms, sim.requests
      assert.is_true(until_ms >= began + 1000 and until_ms <= clock.mono_ms() + 1000)
      run(p, function() return sim.requests > requests end, "the next request")
      assert.is_true(clock.mono_ms() >= until_ms)
      run_published(p, 3)
      check_topic(p)
    end)

    it("remembers a ban over a restart", function()
      local sim = simulate()
      local p = make()
      run_published(p, 3)
      local from = clock.wall_ms()
      sim.faults:add { kind = "418", for_ms = 60000, retry_after = 600 }
      run(p, function() return p:summary().errors > 0 end, "the ban")
      sim.faults:clear()
      local to = clock.wall_ms()
      p:finish(5000)
      p:close()
      local name = p.name
      local file <close> = assert(io.open(world.folder .. "/" .. name .. ".ban"))
      local _, until_ms = next(json.decode(file:read("a")))
      -- Made of two clocks, each cut to a millisecond.
      assert.is_true(until_ms >= from + 599999 and until_ms <= to + 600000, until_ms - from)
      world.lines = logged_.take()
      local requests = sim.requests
      p = make()
      run(p, function()
        return logged(" WARN .* an earlier run was told to stay away: asking again in [56]%d%d%.%d s") == 1
      end, "its word about the ban")
      finally(function() clock.set_wall(nil) end)
      clock.advance(until_ms - clock.wall_ms() - 500)
      run(p, function() return sim.requests > requests end, "the first request")
      assert.is_true(clock.wall_ms() >= until_ms - 10)
      run(p, function() return next(p.troubles) == nil end, "the end")
      assert.equal(1, logged("the time to stay away is over"))
      run_published(p, 3)
      assert.is_nil((process.stat(world.folder .. "/" .. name .. ".ban")))
    end)

    it("ignores a damaged memory of bans, and says so", function()
      simulate()
      local f <close> = assert(io.open(world.folder .. "/p" .. world.number .. ".ban", "w"))
      f:write("{")
      f:flush()
      local p = make()
      assert.equal(1, logged("p%d+%.ban is damaged and is ignored"))
      run_published(p, 3)
    end)

    it("stops by itself before the weight is used up", function()
      local sim = simulate { limit = 100 }
      local p = make { weight_limit = 100, every_ms = 10 }
      run(p, function() return p.troubles.weight end, "the limit")
      assert.equal(0, sim.refused)
      assert.equal(1, logged("weight %d+ of 100 is used; asking again in %d+%.%d s"))
      assert.is_true(p:summary().weight.used >= 80)
      check_topic(p)
    end)

    it("asks the exchange for its limit", function()
      simulate { limit = 1200 }
      local p = make { weight_limit = 0 }
      run_published(p, 3)
        run(p, function() return p:summary().weight.limit == 1200 end, "the limit")
    end)
  end)

  describe("asked for a symbol that the exchange does not know", function()
    it("names it at the start", function()
      simulate()
      for _, mode in ipairs { "all", "each" } do
        local p = make { symbols = "BTCUSDT,BTCUSD", mode = mode, name = "p" .. world.number .. mode }
        local ok, err = pcall(run, p, function() return false end, "nothing")
        assert.is_false(ok)
        assert.is_true(fault.is(err), tostring(err))
        assert.equal(fault.USAGE, err.status)
        assert.matches("does not know the symbol BTCUSD %(Invalid symbol%.%); name others with "
          .. "%-%-set symbols=", err.message)
      end
    end)

    it("goes on with the others when it is delisted later", function()
      local sim = simulate()
      local p = make()
      run_published(p, 3)
      local market = sim.prices
      sim.prices = {
        price = function(_, symbol, ms)
          if symbol ~= "ETHUSDT" then return market:price(symbol, ms) end
        end,
        symbols = function() return {} end,
      }
      run(p, function() return (p:summary().errors_by.request or 0) > 2 end, "the refusals")
      run_published(p, 8)
      check_topic(p)
      assert.equal(1, logged("refuses the list of symbols %(Invalid symbol%.%): asking for each"))
      assert.equal(1, logged(" WARN .* ETHUSDT: Invalid symbol%."))
    end)
  end)

  it("writes its status file and serves its health and metrics", function()
    local http = require "host.http"
    simulate()
    local p = make { status_file = world.folder .. "/status.json", http = "127.0.0.1:0" }
    run_published(p, 3)
    p.report.turn_ms = 0
    p:step(0)
    local f <close> = assert(io.open(world.folder .. "/status.json"))
    local status = json.decode(f:read("a"))
    assert.equal("producer", status.kind)
    assert.is_true(status.published >= 3)
    local client <close> = http.client {}
    local base = "http://127.0.0.1:" .. p.report.server:port()
    local health = assert(client:fetch { url = base .. "/health" })
    assert.equal(200, health.status)
    assert.equal("ok", json.decode(health.body).health)
    local text = client:fetch({ url = base .. "/metrics" }).body
    assert.matches('tidemill_producer_published_total{producer="p' .. world.number .. '"} %d+', text)
    p.report.acked_ms = p.report.acked_ms - 3600000
    p.report.turn_ms = 0
    p.report:turn(p)
    health = client:fetch { url = base .. "/health" }
    assert.equal(503, health.status)
    assert.matches("nothing was published for 36%d%d s", health.body)
  end)

  it("refuses settings that mean nothing, and names them", function()
    simulate()
    for message, options in pairs {
      ["mode=some: it is 'all' or 'each'"] = { mode = "some" },
      ["name=a/b"] = { name = "a/b" },
      ["list of symbols is empty"] = { symbols = "" },
      ["endpoint 'ftp://x' is not"] = { endpoints = "ftp://x" },
    } do
      local ok, err = pcall(make, options)
      assert.is_false(ok)
      assert.is_true(fault.is(err), tostring(err))
      assert.equal(fault.USAGE, err.status)
      assert.matches(message, err.message, 1, true)
    end
  end)
end)
