-- Prices of an exchange to Kafka: {"symbol":"BTCUSDT","price":"61837.63000000","timestamp":...}
--
--   tidemill run scripts/prices.lua [--set symbols=BTCUSDT,ETHUSDT --set every=1s ...]

local mill = require "mill"

local set = mill.settings {
  name = "prices",
  symbols = "BTCUSDT,ETHUSDT,SOLUSDT,BNBUSDT,ADAUSDT",
  every = "1s", -- on a grid of wall time
  mode = "all", -- all: one request for all symbols; each: one request a symbol
  endpoints = "https://data-api.binance.vision,https://api.binance.com,"
    .. "https://api-gcp.binance.com,https://api1.binance.com,https://api2.binance.com,"
    .. "https://api3.binance.com,https://api4.binance.com",
  topic = "crypto_prices",
  create_topic = false,
  partitions = 3, -- of a topic that is created
  deadline = "2s", -- of a request; a later answer is too old to be stamped
  clock_every = "5m", -- how often the exchange's clock is measured
  weight_limit = 6000, -- request weight a minute; 0: ask the exchange
  state = "", -- folder for what outlives a restart; default: state below TIDEMILL_VAR or var
  spool = "", -- folder of messages on their way; default: spool/NAME below the state folder
  spool_limit = "1GB", -- of that folder; when it is full the oldest messages are dropped
  ca = "", -- certificates of the exchange, if they are not the system's
}

return {
  kind = "producer",
  name = set.name,
  check = function(_, ctx)
    return mill.producer.check(mill.producer.options(set, ctx), ctx.connect)
  end,
  run = function(_, ctx) return mill.producer.run(mill.producer.options(set, ctx)) end,
}
