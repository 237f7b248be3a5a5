-- A simulated exchange: shapes, headers, limits and faults of the real one. Its prices are made up.
--
--   tidemill run scripts/exchange.lua --set port=8080
--   curl -X POST 'http://127.0.0.1:8080/_sim/fault?kind=429&for=5s&retry_after=2'

local mill = require "mill"

local set = mill.settings {
  port = 0, -- 0: a free one
  address = "127.0.0.1",
  address_file = "", -- where to write 127.0.0.1:PORT once it serves
  seed = 1, -- the same seed gives the same walk
  file = "", -- a recording (CSV: ts_ms, symbol, price) to play instead
  speed = 1.0, -- of the recording
  limit = 6000, -- request weight a minute
  skew_ms = 0, -- its clock against ours
  fault = "", -- faults from the start, one after the other: 429:5s,ok:2s,drop:1s
}

return {
  kind = "exchange",
  name = "exchange",
  run = function(_, ctx)
    set.limit_ms = ctx.for_ms
    return mill.exchange.run(set)
  end,
}
