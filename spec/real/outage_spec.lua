-- The database away, Kafka away, and both, while rows go on coming: the run pauses and keeps its
-- place in the group, its memory stays under a limit, /health says why, and afterwards every number
-- is right. Servers of this spec's own are killed for it.
--
-- OUTAGE_SECONDS (25) is how long each is away; OUTAGE_MINUTES=10 is the long form (make outage).
-- The group would drop a member that neither polls nor beats for a fraction of that time.

local clock = require "host.clock"
local http = require "host.http"
local json = require "mill.json"
local process = require "host.process"
local real = require "spec.support.real"
local servers = require "spec.support.servers"
local slow = require "spec.support.slow"
local sums_ = require "spec.support.sums"

local function number(name) return math.tointeger(tonumber(os.getenv(name) or "")) end

local MINUTES = number "OUTAGE_MINUTES"
local AWAY_MS = MINUTES and MINUTES * 60000 or (number "OUTAGE_SECONDS" or 25) * 1000
local BEFORE = MINUTES and 3000000 or 300000 -- rows in the topic before the run begins
local RATE = 120000 -- rows a second that come meanwhile, as far as Kafka is there
local LIMIT_MB = 150 -- of the whole process, see doc/operating.md
local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
local SYMBOLS, PARTITIONS = 50, 3
-- Many windows: otherwise all that comes meanwhile fits into the buffer.
local SIZE_MS = MINUTES and 500 or 100
local CATCH_UP_MS = MINUTES and 1500000 or 300000

-- Rows in the order of their times, and what their windows must hold.
local function source(topic)
  local self = { producer = real.producer { ["compression.type"] = "lz4", ["linger.ms"] = 20,
    ["message.timeout.ms"] = 0 }, sent = 0, sums = sums_.new(SIZE_MS) }

  function self.put(n)
    for i = self.sent, self.sent + n - 1 do
      local symbol, price, ms = "S" .. i * 7 % SYMBOLS, i * 7919 % 9999999 + 1, T0 + i // 20
      real.put(self.producer, { topic = topic, partition = i % PARTITIONS,
        value = sums_.message(symbol, price, ms) })
      self.sums:add(symbol, price, ms)
    end
    self.sent = self.sent + n
    self.producer:poll(0)
  end

  -- At RATE until `until_ms`, calling `meanwhile` about ten times a second.
  function self.flow(until_ms, meanwhile)
    local began, first = clock.mono_ms(), self.sent
    repeat
      local due = (clock.mono_ms() - began) * RATE // 1000
      if due > self.sent - first then self.put(math.min(due - (self.sent - first), RATE // 10)) end
      meanwhile()
      clock.sleep(20)
    until clock.mono_ms() >= until_ms
  end

  return self
end

describe("an outage of " .. AWAY_MS // 1000 .. " s", function()
  local why = not MINUTES and real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local own

  after_each(function()
    real.use(nil)
    if own then own:close() end
    own = nil
  end)

  local function cpu_ms(pid)
    local file = assert(io.open(("/proc/%d/stat"):format(pid)))
    local stat = file:read("a"):match("%) (.*)$")
    file:close()
    local n, fields = 0, {}
    for word in stat:gmatch("%S+") do
      n = n + 1
      fields[n] = word
    end
    return (tonumber(fields[12]) + tonumber(fields[13])) * 10
  end

  -- A run with its pages, and how it does.
  local function begin(place, o)
    local child = place:start(o)
    local client = assert(http.client {})
    local port = real.wait(function()
      return child:log():match("/health on 127%.0%.0%.1:(%d+)")
    end, "the page")
    local w = { child = child, peak_kb = 0 }

    function w.get(path)
      local r = client:fetch { url = "http://127.0.0.1:" .. port .. path, timeout_ms = 5000 }
      return r and r.body, r and r.status
    end
    function w.health()
      local body, status = w.get "/health"
      return body and json.decode(body) or {}, status
    end
    function w.rebalances()
      local n = (w.get "/metrics"):match("tidemill_rebalances_total[^\n]* (%d+)")
      return math.tointeger(tonumber(n))
    end
    function w.look()
      assert(not child:result(), "the run ended: " .. child:log())
      w.peak_kb = math.max(w.peak_kb, process.rss_kb(child:pid()) or 0)
    end
    return w
  end

  local function member(name)
    local a <close> = require("host.kafka").admin { brokers = real.kafka() }
    local group = real.wait(function() return a:describe_group(name, 5000) end, "the group", 60000)
    assert.equal(1, #group.members)
    return group.members[1].member_id or group.members[1].id
  end

  local function position(place, o)
    return place:value("select cast(coalesce(sum(position), 0) as signed) from mill_progress "
      .. "where pipeline = '%s'", o.name)
  end

  local function reasons(w, wanted)
    local health, status = w.health()
    if status ~= 503 or health.health ~= "degraded" then return nil end
    local text = table.concat(health.reasons, "; ")
    for _, want in ipairs(wanted) do
      if not text:find(want, 1, true) then return nil end
    end
    return text
  end

  -- `away`: servers to be killed; `wanted`: what /health must say.
  local function outage(database, away, wanted, check)
    own = servers.up { "kafka", database }
    real.use(own.env)
    local place = real.place(real.databases()[1])
    local topic = real.topic { partitions = PARTITIONS }
    local s = source(topic)
    s.put(BEFORE)
    local o = { topic = topic, name = real.name "outage", table = place:table(true),
      size_ms = SIZE_MS, until_end = false,
      env = { TIDEMILL_HTTP = "127.0.0.1:0",
        TIDEMILL_KAFKA_CONF = "session.timeout.ms=8000,max.poll.interval.ms=15000" } }
    local w = begin(place, o)
    local deadline = clock.mono_ms() + 60000
    repeat -- until something was committed, and rows go on coming
      s.flow(clock.mono_ms() + 200, w.look)
      assert(clock.mono_ms() < deadline, "nothing was committed: " .. w.child:log())
    until position(place, o) > BEFORE // 3
    local before = { member = member(o.name), rebalances = real.wait(function()
      local n = w.rebalances()
      return n > 0 and n
    end, "the metrics") }
    local read = position(place, o)
    w.peak_kb = 0
    if away.kafka then real.flush(s.producer) end -- what was not acknowledged may come twice
    for _, name in ipairs(away) do own(name .. "-kill") end
    local cpu, began = cpu_ms(w.child:pid()), clock.mono_ms()
    local function rest(ms) -- a producer cannot deliver without Kafka
      if away.kafka then
        repeat
          w.look()
          clock.sleep(100)
        until clock.mono_ms() >= ms
      else
        s.flow(ms, w.look)
      end
    end
    local said
    repeat
      rest(clock.mono_ms() + 500)
      said = reasons(w, wanted)
      assert(clock.mono_ms() - began < 20000, "health: " .. json.encode((w.health())))
    until said
    local said_ms = clock.mono_ms() - began
    rest(began + AWAY_MS // 2)
    check(place, o)
    rest(began + AWAY_MS)
    -- How soon the buffer is full depends on how fast the rows come here.
    repeat
      said = reasons(w, away.paused and { away.paused, table.unpack(wanted) } or wanted)
      if not said then rest(clock.mono_ms() + 500) end
      assert(clock.mono_ms() - began < AWAY_MS + 90000, "health: " .. json.encode((w.health())))
    until said
    local held = (cpu_ms(w.child:pid()) - cpu) / (clock.mono_ms() - began)
    if not away.kafka then -- which could tell
      assert.equal(before.member, member(o.name))
      assert.equal(before.rebalances, w.rebalances())
    end
    local peak = w.peak_kb / 1024
    for _, name in ipairs(away) do own(name .. "-start") end
    local back = clock.mono_ms()
    if away.database then
      place.db:close()
      place.db = assert(require("host.mysql").connect(
        assert(require("mill.mysqlurl").parse(place.url))))
    end
    s.put(1000)
    real.flush(s.producer)
    real.wait(function()
      w.look()
      return position(place, o) == s.sent
    end, "the run to catch up", CATCH_UP_MS)
    local caught_up = clock.mono_ms() - back
    real.wait(function()
      local health, status = w.health()
      return status == 200 and health.health == "ok"
    end, "health to be ok again")
    -- Without Kafka for longer than the session's timeout it joins again, under its static name.
    local now = member(o.name)
    if not away.kafka then
      assert.same(before, { member = now, rebalances = w.rebalances() })
    end
    w.child:kill "TERM"
    local r = w.child:finish(60000)
    assert.equal(0, r.status, r.err)
    assert.equal(s.sent, r.summary.consumed)
    assert.same({ 0, 0, 0 }, { r.summary.dead, r.summary.late, r.summary.too_late })
    real.same(s.sums:rows(), place:query(s.sums.SQL:format(o.table)), 2, "results")
    io.stderr:write(("\n%s away for %d s: %d rows, %d of them after it began; said after %.1f s: "
      .. "%s; peak %.0f MB while away, %.0f MB in all; %.0f %% of a core; caught up %.1f s after "
      .. "its return, %.0f rows/s\n"):format(table.concat(away, " and "), AWAY_MS // 1000, s.sent,
      s.sent - read, said_ms / 1000, said, peak, r.summary.peak_rss_mb, held * 100,
      caught_up / 1000, (s.sent - read) / caught_up * 1000))
    -- A sanitizer has memory of its own.
    if slow == 1 then
      assert.is_true(r.summary.peak_rss_mb < LIMIT_MB, "peak " .. r.summary.peak_rss_mb .. " MB")
    end
    assert.is_true(held < 0.4, "it used " .. held .. " of a core while it waited")
    s.producer:close()
    place:close()
  end

  local function command(place, argv)
    return real.tidemill(argv, { env = place:env(), cwd = process.home() }):finish(60000)
  end

  local function runbook_health(place, o)
    return command(place, { "runbook", "health", "--set", "pipeline=" .. o.name, "--set", "topic="
      .. o.topic, "--set", "table=" .. o.table })
  end

  it("of the database: pauses, keeps its place in the group, loses nothing", function()
    outage("mysql", { "mysql", database = true,
      paused = "reading is paused: the database is away and the buffer is full" },
      { "the database is away" }, function(place, o)
      local health = runbook_health(place, o)
      assert.equal(2, health.status, health.out)
      assert.matches("mysql%.connect", health.out)
      local progress = command(place, { "progress" })
      assert.equal(3, progress.status)
      assert.matches("REFUSED", progress.err)
    end)
  end)

  it("of Kafka: waits, and goes on", function()
    outage("mysql", { "kafka", kafka = true }, { "Kafka" }, function(place, o)
      local health = runbook_health(place, o)
      assert.equal(2, health.status, health.out)
      assert.matches("kafka%.brokers", health.out)
      local progress = command(place, { "progress", o.name })
      assert.equal(0, progress.status, progress.err)
    end)
  end)

  it("of both at once", function()
    outage("mariadb", { "kafka", "mariadb", kafka = true, database = true },
      { "the database", "Kafka" }, function() end)
  end)
end)
