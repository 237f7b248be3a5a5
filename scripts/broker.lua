-- The development broker in a process of its own, until a signal. Its log is gone when it ends.
--
--   tidemill run scripts/broker.lua --set topics=crypto_prices:3 --set address_file=var/broker

local mill = require "mill"
local clock = require "host.clock"
local kafka = require "host.kafka"
local log = require "mill.log"
local process = require "host.process"

local set = mill.settings {
  topics = "crypto_prices:3", -- NAME:PARTITIONS[,NAME:PARTITIONS ...]
  brokers = 1,
  address_file = "", -- where to write 127.0.0.1:PORT once it serves
}

local function topics(text)
  local list = {}
  for item in text:gmatch("[^,]+") do
    local name, count = item:match("^%s*([%w._-]+):(%d+)%s*$")
    if not name then mill.fail("topics=%s: write it as name:partitions,...", text) end
    list[#list + 1] = { name = name, partitions = math.tointeger(tonumber(count)) }
  end
  return list
end

local function run(_, ctx)
  process.graceful(true)
  log.name("broker")
  local broker <close> = assert(kafka.broker { brokers = set.brokers, topics = topics(set.topics) })
  local address = broker:bootstrap()
  if set.address_file ~= "" then
    assert(process.atomic_write(set.address_file, address .. "\n", { sync = false }))
  end
  log.info("development broker at %s (%s); nothing it holds outlives it", address, set.topics)
  local ends = ctx.for_ms and clock.mono_ms() + ctx.for_ms or math.huge
  while process.stop_requested() == 0 and clock.mono_ms() < ends do
    clock.sleep(100)
    for _, line in ipairs(broker:logs()) do log.debug("librdkafka %s: %s", line.facility, line.text) end
  end
  return { address = address }
end

return { kind = "broker", name = "broker", run = run }
