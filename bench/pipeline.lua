-- scripts/averages.lua with what the benchmarks vary: a function of Lua per message, short field
-- names, several windows at once (sizes=1s,1m,1h; the tables are TABLE, TABLE_2, TABLE_3).
local mill = require "mill"

local set = mill.settings {
  name = "bench", topic = "bench", table = "bench", sizes = "1m", brief = false, lua = "",
  max_delay = "2s", lateness = "1d",
}

-- What a script may do with each row; the sums stay what they are, so that they can be checked.
local functions = {
  [""] = {},
  map = { map = function(row) row.symbol = row.symbol end },
  math = { map = function(row)
    local symbol = row.symbol
    if symbol == "none" then row.price = "1" end
  end },
  where = { where = function(row) return row.symbol ~= "none" end },
  key = { key = function(row) return row.symbol end },
}
local fns = functions[set.lua] or error("lua=" .. set.lua .. ": map, math, where or key", 0)

local names = set.brief and { symbol = "s", price = "p", timestamp = "t" }
  or { symbol = "symbol", price = "price", timestamp = "timestamp" }

local outputs = {}
for size in set.sizes:gmatch("[^,]+") do
  local n = #outputs + 1
  outputs[n] = {
    window = mill.tumbling {
      size = size, time = names.timestamp, key = fns.key or names.symbol,
      max_delay = set.max_delay, idle = "5s", max_future = "1m", lateness = set.lateness,
    },
    select = {
      symbol = "key", start_time = "window.start", end_time = "window.end",
      average_price = ("avg(%s)"):format(names.price), price_sum = ("sum(%s)"):format(names.price),
      samples = "count()",
    },
    sink = mill.mysql {
      table = n == 1 and set.table or ("%s_%d"):format(set.table, n),
      key = { "symbol", "start_time" },
    },
  }
end

return mill.pipeline {
  name = set.name,
  source = mill.kafka { topic = set.topic, start = "earliest" },
  decode = mill.json {
    [names.symbol] = "string", [names.price] = "decimal(20,8)", [names.timestamp] = "time",
  },
  map = fns.map, where = fns.where, outputs = outputs,
}
