-- scripts/prices.lua as it is, with exact latencies: from the exchange's answer to Kafka's
-- acknowledgement, through the spool.
--
--   tidemill exec bench/spool.lua EXCHANGE TOPIC FOLDER EVERY_MS SECONDS
--
-- Each tick asks for five symbols and sends five messages. Prints one JSON object: messages, and the
-- milliseconds p50_ms, p90_ms, p99_ms, max_ms; the first second is left out, as by the control.

local clock = require "host.clock"
local config = require "mill.config"
local json = require "mill.json"
local mill = require "mill"
local outbox = require "mill.outbox"
local producer = require "mill.producer"

local exchange, topic, folder = arg[1], arg[2], arg[3]
local every_ms, seconds = math.tointeger(tonumber(arg[4])), tonumber(arg[5])

mill.log.level("warn")
local self <close> = producer.new {
  name = topic, symbols = "BTCUSDT,ETHUSDT,SOLUSDT,BNBUSDT,ADAUSDT", mode = "all",
  endpoints = exchange, every_ms = every_ms, deadline_ms = 2000, clock_every_ms = 3600000,
  weight_limit = 1 << 30, topic = topic, create_topic = true, partitions = 3,
  brokers = config.kafka(), conf = config.kafka_conf(), state_dir = folder,
  spool_limit = outbox.limit "1GB", spool = folder .. "/spool/" .. topic,
}

local list
local published = self.report.published
self.report.published = function(report, latency)
  if list then list[#list + 1] = latency * 1000 end
  return published(report, latency)
end

local function turn_until(at)
  while clock.mono_ms() < at do self:step(math.max(0, math.min(100, at - clock.mono_ms()))) end
end

turn_until(clock.mono_ms() + 1000)
list = {}
turn_until(clock.mono_ms() + math.floor(seconds * 1000))
assert(self:finish(10000) == 0, "messages were left")
local summary = self:summary()
assert(summary.published == summary.fetched, "not every price was published")
table.sort(list)
local function at(q) return math.floor(list[math.max(1, math.ceil(#list * q))] * 100 + 0.5) / 100 end
print(json.encode { messages = #list, p50_ms = at(0.5), p90_ms = at(0.9), p99_ms = at(0.99),
  max_ms = at(1), sync_ms = summary.sync_ms, request_ms = summary.request_ms,
  missed = summary.missed })
