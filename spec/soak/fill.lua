--- A steady source of prices: so many messages a second, stamped with the present.
--
--   tidemill exec spec/soak/fill.lua TOPIC RATE KEYS LIFE_S SIZE_MS SECONDS LEDGER
--
-- With LIFE_S above 0 keys come and go: KEYS are alive at a time, each for that long. The ledger
-- says what the averages of windows of SIZE_MS must be. Prints one JSON object; exits 1 unless every
-- message was delivered.

package.path = "./?.lua;" .. package.path

local clock = require "host.clock"
local json = require "mill.json"
local kafka = require "host.kafka"
local ledger = require "spec.soak.ledger"
local process = require "host.process"

local topic, path = arg[1], arg[7]
local rate, keys, life, size, seconds = table.unpack(arg, 2, 6)
rate, keys, size = math.tointeger(rate), math.tointeger(keys), math.tointeger(size)
life, seconds = tonumber(life) * 1000, tonumber(seconds)

local STEP_MS = 10
local BEHIND_MS = 5000 -- later than this nothing is sent into an old window

local book = ledger.new(path, size)
local producer <close> = assert(kafka.producer {
  brokers = os.getenv "TIDEMILL_KAFKA",
  conf = { ["enable.idempotence"] = true, ["linger.ms"] = 5, partitioner = "murmur2_random" },
})
-- Event time that never goes back, whatever is done to the clock meanwhile.
local zero = clock.wall_ms() - clock.mono_ms()
local began = clock.mono_ms()
local sent, delivered, failed = 0, 0, 0

local function report(wait_ms)
  local r = producer:poll(wait_ms)
  delivered, failed = delivered + r.delivered, failed + #r.failed
end

local function send(now)
  local oldest = life > 0 and math.floor((now - began) * keys / life) or 0
  local symbol = ("K%07d"):format(oldest + math.random(0, keys - 1))
  local ms, price = zero + now, math.random(100000000, 9000000000000)
  local value = ('{"symbol":"%s","price":"%d.%08d","timestamp":%d.%03d}'):format(symbol,
    price // 100000000, price % 100000000, ms // 1000, ms % 1000)
  while true do
    local ok, message, code = producer:send { topic = topic, key = symbol, value = value }
    if ok then break end
    assert(code == "QUEUE_FULL", message)
    report(STEP_MS)
  end
  book:add(symbol, ms, price)
  sent = sent + 1
end

process.graceful(true)
while process.stop_requested() == 0 do
  local now = clock.mono_ms()
  if now - began >= seconds * 1000 then break end
  local due = (now - began) * rate // 1000 - sent
  for _ = 1, math.min(due, rate) do send(now) end
  report(0)
  book:settle(zero + now - BEHIND_MS)
  clock.sleep(STEP_MS)
end
producer:flush(120000)
report(0)
book:close()
print(json.encode { sent = sent, delivered = delivered, failed = failed })
if delivered ~= sent or failed > 0 then error("not every message was delivered", 0) end
