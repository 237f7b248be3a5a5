-- Nanoseconds of a script's functions per message, without Kafka and without a database: batches are
-- decoded and handed to `where`, `map` and `key`. Also the bytes of garbage each message leaves.
--
--   tidemill exec bench/lua.lua [NAME ...]

local batch = require "host.batch"
local clock = require "host.clock"
local json = require "host.json"

local ROWS <const>, ROUNDS <const> = 10000, 30

local FIELDS = {
  { name = "symbol", type = "string" },
  { name = "price", type = "decimal", precision = 20, scale = 8 },
  { name = "timestamp", type = "time", unit = "s" },
}

-- name, function, its place: where, map or key
local CASES = {
  { "nothing", "where", function() return true end },
  { "where: a string", "where", function(row) return row.symbol ~= "none" end },
  { "where: a time", "where", function(row) return row.timestamp > 0 end },
  { "where: a decimal", "where", function(row) return row.price ~= "0" end },
  { "where: three fields", "where", function(row)
    return row.symbol ~= "none" and row.timestamp > 0 and row.price ~= "0"
  end },
  { "where: offset, partition", "where", function(row) return row.offset >= row.partition end },
  { "map: a string", "map", function(row) row.symbol = row.symbol end },
  { "map: a time", "map", function(row) row.timestamp = row.timestamp + 1 end },
  { "map: a decimal", "map", function(row) row.price = row.price end },
  { "map: upper", "map", function(row) row.symbol = row.symbol:upper() end },
  { "key: a string", "key", function(row) return row.symbol end },
  { "key: sub", "key", function(row) return row.symbol:sub(1, 3) end },
}

local function fill(rows, from)
  rows:reset()
  for i = from, from + ROWS - 1 do
    rows:add { partition = 0, offset = i, stamp_ms = 1723161255000, value = (
      '{"symbol":"%s","price":"%d.%02d000000","timestamp":1723161255.%03d}'):format(
      ({ "BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "ADAUSDT" })[i % 5 + 1], i * 7919 % 100000,
      i * 31 % 100, i * 17 % 1000) }
  end
end

local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

local function bench(name, kind, fn)
  local fields = {}
  for i, f in ipairs(FIELDS) do fields[i] = f end
  local decoder <close> = json.decoder { fields = fields, extra = kind == "key" and 1 or 0 }
  local shape = batch.shape(fields, kind == "key" and { {} } or {})
  local where, map = kind == "where" and fn or nil, kind == "map" and fn or nil
  local keys = kind == "key" and { fn } or {}
  local rows <close> = batch.new()
  local ns, garbage = {}, {}
  for round = 1, ROUNDS do
    fill(rows, round * ROWS)
    decoder:decode(rows)
    collectgarbage()
    collectgarbage "stop"
    local before = collectgarbage "count"
    local began = clock.mono_us()
    rows:apply(shape, where, map, keys)
    ns[round] = (clock.mono_us() - began) * 1000 / ROWS
    garbage[round] = (collectgarbage "count" - before) * 1024 / ROWS
    collectgarbage "restart"
  end
  print(("%-26s %7.1f ns (%.1f to %.1f), %6.2f bytes of garbage"):format(name, median(ns), ns[1],
    ns[#ns], median(garbage)))
end

for _, case in ipairs(CASES) do
  local wanted = #arg == 0
  for _, name in ipairs(arg) do wanted = wanted or case[1]:find(name, 1, true) end
  if wanted then bench(case[1], case[2], case[3]) end
end
