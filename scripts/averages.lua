-- Average price of each symbol in each minute: topic crypto_prices to table moving_averages.
--
--   tidemill run scripts/averages.lua [--set topic=... --set table=... --set size=1m ...]
local mill = require "mill"

local set = mill.settings {
  name = "averages", topic = "crypto_prices", table = "moving_averages", start = "earliest",
  commit_every = "1s", size = "1m", hop = "", max_delay = "2s", idle = "5s", max_future = "1m",
  lateness = "1d",
}

local window = {
  size = set.size, time = "timestamp", key = "symbol", max_delay = set.max_delay,
  idle = set.idle, max_future = set.max_future, lateness = set.lateness,
}
if set.hop ~= "" then window.hop = set.hop end

return mill.pipeline {
  name = set.name,
  source = mill.kafka { topic = set.topic, start = set.start },
  decode = mill.json { symbol = "string", price = "decimal(20,8) > 0", timestamp = "time" },
  window = window.hop and mill.hopping(window) or mill.tumbling(window),
  select = {
    symbol = "key", start_time = "window.start", end_time = "window.end",
    average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
  },
  sink = mill.mysql {
    table = set.table, key = { "symbol", "start_time" }, commit_every = set.commit_every,
  },
}
