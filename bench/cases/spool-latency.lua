-- From the exchange's answer to Kafka's acknowledgement, through the spool: scripts/prices.lua asks
-- scripts/exchange.lua for five prices, 20 times a second. The control commits a transaction with one
-- message as often; it has no disk to wait for.

local clock = require "host.clock"
local config = require "mill.config"
local fault = require "mill.fault"
local json = require "mill.json"
local kafka = require "host.kafka"
local process = require "host.process"

local RATE <const> = 20
local OVER_MS <const> = 15

local function last_line(b, argv)
  return assert(json.decode((b.run(argv):match "([^\n]*)\n*$")))
end

local function delete(topic)
  local admin <close> = assert(kafka.admin { brokers = config.kafka() })
  admin:delete_topic(topic)
end

local function folder()
  local path = ("var/bench/spool-%d"):format(process.pid())
  process.mkdir_p(path)
  return path
end

-- A child that serves, and its address.
local function exchange(path)
  local file = path .. "/address"
  os.remove(file)
  local child = assert(process.spawn {
    argv = { process.exe(), "run", "scripts/exchange.lua", "--set", "address_file=" .. file,
      "--set", "limit=1000000000" },
    stdout = "null", stderr = path .. "/exchange.log",
  })
  local deadline = clock.mono_ms() + 10000
  while not process.stat(file) do
    if not process.alive(child:pid()) or clock.mono_ms() > deadline then
      fault.raise(1, "the exchange does not serve; see %s/exchange.log", path)
    end
    clock.sleep(10)
  end
  local f <close> = assert(io.open(file))
  return child, "http://" .. f:read "l"
end

local function control(b, seconds)
  local topic = b.name "transactions"
  local out = last_line(b, { b.tool "transactions", config.kafka(), topic, ("rate=%d"):format(RATE),
    ("seconds=%d"):format(seconds) })
  delete(topic)
  return out
end

local function ours(b, seconds, path, url)
  local topic = b.name "spool"
  local out = last_line(b, { process.exe(), "exec", "bench/spool.lua", url, topic, path,
    ("%d"):format(1000 // RATE), ("%d"):format(seconds) })
  delete(topic)
  return out
end

return function(b)
  local seconds = math.max(2, math.floor(30 * b.scale))
  local path = folder()
  local child <close>, url = exchange(path)
  local r = b.alternate {
    { "transaction loop", function() return control(b, seconds) end },
    { "tidemill", function() return ours(b, seconds, path, url) end },
  }
  child:kill("TERM")
  child:wait(5000)
  b.run { "rm", "-r", path }
  local rows = {}
  for _, name in ipairs { "transaction loop", "tidemill" } do
    local row = { name }
    for _, key in ipairs { "p50_ms", "p90_ms", "p99_ms", "max_ms" } do
      row[#row + 1] = b.spread(r[name], key, "%.1f")
    end
    rows[#rows + 1] = row
  end
  local p99 = b.median(r.tidemill, "p99_ms")
  local limit = b.median(r["transaction loop"], "p99_ms") + OVER_MS
  return { figures = r, seconds = seconds, rate = RATE, goals = { {
    what = "answer to acknowledgement, p99", text = ("%.1f ms"):format(p99), value = p99,
    goal = ("<= %.1f ms"):format(limit), met = p99 <= limit } },
    table = { columns = { "what", "p50 ms", "p90 ms", "p99 ms", "max ms" }, rows = rows } }
end
