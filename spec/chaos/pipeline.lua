-- Every kind of aggregate, in two tables of one transaction, for the fault laboratory.
local mill = require "mill"

local set = mill.settings {
  name = "chaos", topic = "chaos", first = "candles", second = "moving", size = "1s", hop = "500ms",
  wide = "2s", max_delay = "0ms", lateness = "1d", idle = "1s",
}

local function window(extra)
  local w = {
    time = "timestamp", key = "symbol", max_delay = set.max_delay, lateness = set.lateness,
    idle = set.idle,
  }
  for name, value in pairs(extra) do w[name] = value end
  return w
end

return mill.pipeline {
  name = set.name,
  source = mill.kafka { topic = set.topic },
  decode = mill.json {
    symbol = "string", price = "decimal(20,8) > 0", qty = "decimal(20,8) > 0", timestamp = "time",
  },
  outputs = {
    {
      window = mill.tumbling(window { size = set.size }),
      select = {
        symbol = "key", start_time = "window.start", end_time = "window.end",
        average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
        low = "min(price)", high = "max(price)",
        open = "first(price)", open_at = "first_position()",
        close = "last(price)", close_at = "last_position()",
        turnover = "sum(price*qty)", volume = "sum(qty)", vwap = "vwap(price,qty)",
        squares = "sum(price*price)", deviation = "stddev(price)",
      },
      sink = mill.mysql { table = set.first, key = { "symbol", "start_time" } },
    },
    {
      window = mill.hopping(window { size = set.wide, hop = set.hop }),
      select = {
        symbol = "key", start_time = "window.start", end_time = "window.end",
        average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
      },
      sink = mill.mysql { table = set.second, key = { "symbol", "start_time" } },
    },
  },
}
