-- A recorded CSV file, plain or gzip, to a topic. Columns: ts_ms, symbol, price, in any order.
--
--   tidemill run scripts/replay.lua --set file=trades.csv.gz --set topic=trades --set speed=0
--
-- It ends with status 0 only if every row was delivered.

local mill = require "mill"

local set = mill.settings {
  file = "", -- the recording
  topic = "crypto_prices",
  speed = 1.0, -- 1: in real time, 10: ten times as fast, 0: as fast as it goes
  keyed = true, -- by symbol; false: without a key, to the partitions in turn
  format = "string,seconds", -- price: string, number, exponent; time: seconds, ms, us, ns, iso,
  -- offset, sql, text; or mixed: every form in turn
  extra = "", -- further columns to send, such as qty
  create_topic = false,
  partitions = 3, -- of a topic that is created
}

return {
  kind = "replay",
  name = "replay",
  run = function(_, ctx)
    set.brokers, set.conf = mill.config.kafka(), mill.config.kafka_conf()
    set.limit_ms = ctx.for_ms
    return mill.replay.run(set)
  end,
}
