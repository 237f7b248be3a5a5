-- scripts/exchange.lua, prices.lua and replay.lua as the programs a user starts.

local broker = require "spec.support.broker"
local clock = require "host.clock"
local folder = require "spec.support.folder"
local http = require "host.http"
local json = require "mill.json"
local process = require "host.process"
local run = require "spec.support.command"
local wait = require "spec.support.wait"

describe("the scripts", function()
  local server, dir, children

  setup(function() server = broker.start { crypto_prices = 3 } end)
  teardown(function() server:close() end)

  before_each(function()
    dir = folder.make()
    children = {}
  end)

  after_each(function()
    for _, child in ipairs(children) do child:close() end
    folder.clear(dir)
  end)

  local function env(more)
    local out = { TIDEMILL_KAFKA = server:bootstrap(), TIDEMILL_VAR = dir,
                  TIDEMILL_HOME = process.home(), TIDEMILL_HTTP = false }
    for name, value in pairs(more or {}) do out[name] = value end
    return out
  end

  local function read(name) return folder.text(dir .. "/" .. name) end

  -- Start a script that stays; its output goes to files.
  local function start(name, settings)
    local argv = { process.exe(), "run", "scripts/" .. name .. ".lua", "--json" }
    for _, setting in ipairs(settings) do
      argv[#argv + 1] = "--set"
      argv[#argv + 1] = setting
    end
    local child = assert(process.spawn {
      argv = argv, env = env(), stdin = "null", stdout = dir .. "/" .. name .. ".out",
      stderr = dir .. "/" .. name .. ".err",
    })
    children[#children + 1] = child
    return child
  end

  local function exchange(settings)
    local all = { "address_file=" .. dir .. "/address", table.unpack(settings or {}) }
    local child = start("exchange", all)
    local address = wait("the exchange", function() return read("address"):match("^(%S+)\n$") end)
    return address, child
  end

  local function post(address, query)
    local client <close> = http.client {}
    local r = assert(client:fetch { url = "http://" .. address .. "/_sim/" .. query,
                                    method = "POST" })
    assert.equal(200, r.status)
  end

  it("carry prices from the exchange to Kafka, through a fault, until SIGTERM", function()
    local address, sim = exchange { "seed=7" }
    local prices = start("prices", { "endpoints=" .. address, "every=50ms" })
    wait("first prices", function() return read("prices.err"):find("first prices from") end)
    local posted = 0
    wait("the fault", function()
      if clock.mono_ms() - posted > 2000 then -- it may be over before anybody asks
        post(address, "fault?kind=429&for=300ms&retry_after=1")
        posted = clock.mono_ms()
      end
      return read("prices.err"):find("429, too many requests")
    end)
    wait("its end", function() return read("prices.err"):find("answers again") end)
    prices:kill("TERM")
    assert.equal(0, assert(prices:wait(20000)).code)
    local summary = json.decode(read("prices.out"))
    assert.equal("producer", summary.kind)
    assert.equal(summary.fetched, summary.published)
    assert.equal(0, summary.failed)
    assert.is_true(summary.errors_by.limit >= 1)
    assert.equal(#broker.records(server:bootstrap(), "crypto_prices", 3), summary.published)
    local _, warnings = read("prices.err"):gsub(" WARN [^\n]*429", "")
    assert.equal(summary.errors_by.limit, warnings)
    sim:kill("TERM")
    assert.equal(0, assert(sim:wait(20000)).code)
    assert.matches('"simulated":true', read("exchange.out"))
    assert.matches("SIMULATED exchange on http://" .. address, read("exchange.err"), 1, true)
  end)

  it("end well at a signal that comes while they are loaded; other commands say they were", function()
    local file <close> = assert(io.open(dir .. "/slow.lua", "w"))
    file:write [[
      require("host.process").raise_stop()
      for _ = 1, 100000 do end
      return { run = function() return { told = true }, 0 end }
    ]]
    file:flush()
    local r = run({ "run", dir .. "/slow.lua", "--json" }, { env = env() })
    assert.same({ 0, '{"told":true}\n' }, { r.status, r.out }, r.err)
    r = run({ "check", dir .. "/slow.lua" }, { env = env() })
    assert.same({ 130, "tidemill: interrupted\n" }, { r.status, r.err })
  end)

  it("end well when they are stopped while they wait for their servers", function()
    local child = assert(process.spawn {
      argv = { process.exe(), "run", "scripts/averages.lua", "--json", "--wait", "60s" },
      env = env { TIDEMILL_MYSQL = "mysql://root@127.0.0.1:1/nowhere" }, stdin = "null",
      stdout = dir .. "/averages.out", stderr = dir .. "/averages.err",
    })
    children[#children + 1] = child
    wait("the start", function() return read("averages.err"):find("waiting for the database") end)
    child:kill("TERM")
    assert.equal(0, assert(child:wait(20000)).code)
    assert.same({ pipeline = "averages", stopped = "before it began" }, json.decode(read("averages.out")))
    assert.matches("WARN averages: stopped before it began: ", read("averages.err"), 1, true)
  end)

  -- A Kafka that takes a connection and says nothing: its address, and the child that is it.
  local function silent()
    local child = assert(process.spawn { stdin = "pipe", stdout = dir .. "/silent",
      argv = { "python3", "-c", [[
import socket, sys
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
held = s.accept()
print("came", flush=True)
sys.stdin.read()]] } })
    children[#children + 1] = child
    return "127.0.0.1:" .. wait("the listener", function() return read("silent"):match("^(%d+)\n") end)
  end

  for script, setting in pairs { prices = "endpoints=http://127.0.0.1:1", replay = "file=DIR/r.csv" } do
    it("end well when they are stopped while they wait for Kafka: " .. script, function()
      local file <close> = assert(io.open(dir .. "/r.csv", "w"))
      file:write("ts_ms,symbol,price\n1723161255342,BTCUSDT,61837.63\n")
      file:flush()
      local child = assert(process.spawn {
        argv = { process.exe(), "run", "scripts/" .. script .. ".lua", "--json", "--set",
                 (setting:gsub("DIR", dir)) },
        env = env { TIDEMILL_KAFKA = silent() }, stdin = "null",
        stdout = dir .. "/out", stderr = dir .. "/err",
      })
      children[#children + 1] = child
      wait("it to connect", function() return read("silent"):find("came", 1, true) end)
      child:kill("TERM")
      assert.equal(0, assert(child:wait(20000)).code, read("err"))
      assert.equal("before it began", json.decode(read("out")).stopped)
      assert.matches(" had not answered yet\n", read("err"), 1, true)
    end)
  end

  it("publish a recording that the exchange plays", function()
    local file <close> = assert(io.open(dir .. "/r.csv", "w"))
    file:write("ts_ms,symbol,price\n1723161255342,BTCUSDT,61837.63\n")
    file:flush()
    local address = exchange { "file=" .. dir .. "/r.csv" }
    local r = run({ "run", "scripts/prices.lua", "--for", "5s", "--json", "--set", "symbols=BTCUSDT",
                    "--set", "topic=recorded", "--set", "create_topic=true", "--set",
                    "endpoints=http://" .. address }, { env = env() })
    assert.equal(0, r.status, r.err)
    assert.is_true(json.decode(r.out).published >= 1)
    for _, record in ipairs(broker.records(server:bootstrap(), "recorded", 4)) do
      assert.matches('^{"symbol":"BTCUSDT","price":"61837.63000000","timestamp":%d+%.%d%d%d}$',
        record.value)
    end
  end)

  it("replay a file and say what was sent", function()
    local file <close> = assert(io.open(dir .. "/r.csv", "w"))
    file:write("ts_ms,symbol,price\n1000,A,1\n2000,B,2\n")
    file:flush()
    local r = run({ "run", "scripts/replay.lua", "--json", "--set", "file=" .. dir .. "/r.csv",
                    "--set", "topic=replayed", "--set", "create_topic=true", "--set", "speed=0" },
      { env = env() })
    assert.equal(0, r.status, r.err)
    local summary = json.decode(r.out)
    assert.equal(2, summary.lines)
    assert.equal(2, summary.published)
    assert.equal(2, #broker.records(server:bootstrap(), "replayed", 4))
  end)

  local wrong = {
    { "a missing topic", 3, { "prices", "topic=nope" },
      "topic 'nope' does not exist at .*create_topic=true" },
    { "no broker", 3, { "prices" }, "Kafka at 127.0.0.1:1 does not answer: .*TIDEMILL_KAFKA",
      { TIDEMILL_KAFKA = "127.0.0.1:1" } },
    { "an unknown setting", 2, { "prices", "topick=x" },
      "this script has no such setting %(known: .*topic" },
    { "a duration that is none", 2, { "prices", "every=1 second" }, "%-%-set every: .*write it as" },
    { "a symbol that is none", 2, { "prices", "symbols=A B" }, "'A B' is not a symbol" },
    { "a replay without a file", 2, { "replay" }, "name the recording with %-%-set file=PATH" },
    { "a replay of a missing file", 2, { "replay", "file=/nope" }, "/nope: No such file" },
    { "a fault that is none", 2, { "exchange", "fault=x:1s" }, "no kind of fault is called 'x'" },
    { "a port that is none", 2, { "exchange", "port=99999" }, "%-%-set port: 99999 is no port" },
    { "an exchange's port that is taken", 3, { "exchange", "port=%PORT" }, "INUSE" },
  }
  for _, case in ipairs(wrong) do
    it("say what is wrong about " .. case[1], function()
      local argv = { "run", "scripts/" .. case[3][1] .. ".lua", "--for", "10s" }
      if case[3][2] then
        argv[#argv + 1] = "--set"
        local port = server:bootstrap():match(":(%d+)")
        argv[#argv + 1] = case[3][2]:gsub("%%PORT", port)
      end
      local r = run(argv, { env = env(case[5]) })
      assert.equal(case[2], r.status, r.err)
      assert.matches(case[4], r.err)
      assert.is_nil(r.err:find("traceback"))
      assert.equal("", r.out)
    end)
  end

  it("are checked before they run: the producer's settings, and its topic", function()
    local function check(...) return run({ "check", "scripts/prices.lua", ... }, { env = env() }) end
    local r = check("--connect")
    assert.same({ 0, "scripts/prices.lua: producer 'prices' writes to topic crypto_prices (3 partitions): "
      .. "ok\n" }, { r.status, r.out }, r.err)
    local topics = { "--set", "topic=unmade" }
    assert.equal(0, check(table.unpack(topics)).status)
    topics[3] = "--connect"
    r = check(table.unpack(topics))
    assert.equal(3, r.status)
    assert.matches("topic 'unmade' does not exist", r.err)
    r = check("--connect", "--json", "--set", "topic=unmade", "--set", "create_topic=true")
    assert.same({ ok = true, script = "scripts/prices.lua", kind = "producer", name = "prices",
      topic = "unmade" }, json.decode(r.out))
    for set, said in pairs {
      ["mode=some"] = "it is 'all' or 'each'", ["symbols=A B"] = "'A B' is not a symbol",
      ["every=0s"] = "must be more than 0", ["endpoints="] = "the list of endpoints is empty",
    } do
      r = check("--set", set)
      assert.equal(2, r.status, set)
      assert.matches(said, r.err)
    end
  end)

  it("do not take the lack of a thread for a wrong option of Kafka's", function()
    local file <close> = assert(io.open(dir .. "/r.csv", "w"))
    file:write "ts_ms,symbol,price\n1000,A,1\n"
    file:flush()
    -- No thread gets a stack of 200 TB.
    local r = run.program { argv = { "bash", "-c", 'ulimit -Ss 200000000000 && exec "$0" "$@"',
      process.exe(), "run", "scripts/replay.lua", "--set", "file=" .. dir .. "/r.csv" }, env = env() }
    assert.equal(1, r.status, r.err)
    assert.matches("kafka: Failed to create thread", r.err, 1, true)
  end)

  it("name a symbol that the exchange does not know", function()
    local address = exchange()
    local r = run({ "run", "scripts/prices.lua", "--for", "20s", "--set", "endpoints=" .. address,
                    "--set", "symbols=BTCUSDT,BITCOIN" }, { env = env() })
    assert.equal(2, r.status, r.err)
    assert.matches("does not know the symbol BITCOIN", r.err)
  end)

  it("fail when nothing at all could be fetched", function()
    local r = run({ "run", "scripts/prices.lua", "--for", "3s", "--json", "--set",
                    "endpoints=http://127.0.0.1:1" }, { env = env() })
    assert.equal(3, r.status, r.err)
    assert.equal(0, json.decode(r.out).published)
    assert.matches("nothing was published: network %d+", r.err)
  end)

  it("tell on a terminal how much of a recording is sent", function()
    local path = dir .. "/trades.csv"
    local file <close> = assert(io.open(path, "w"))
    file:write("ts_ms,symbol,price\n", ("1723161255342,A,1.5\n"):rep(3000))
    file:flush()
    local r = run.terminal({ "run", "scripts/replay.lua", "--json", "--set", "speed=0", "--set",
      "file=" .. path }, {}, { env = env() })
    assert.equal(0, r.status, r.output)
    assert.matches("replay: %d+ of 60 kB, %d+%%", r.output)
    assert.equal(3000, json.decode(r.output:match("({[^\n]*})%s*$")).published)
  end)
end)
