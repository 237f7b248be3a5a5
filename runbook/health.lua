--- Daily check: does everything from the exchange to the averages work?
---
--- Looks at the whole chain once, in the order in which data flows, and says
--- for each part whether it works, on what evidence, and what to do if not. It
--- changes nothing and can run at any time, also every minute.
---
---   kafka.brokers      the brokers answer, also at the addresses they advertise
---   kafka.topic        the topic exists, every partition has a leader
---   producer.alive     the newest record is fresh, or the topic grows
---   mysql.connect      the database answers and can be written to
---   mysql.schema       the result table and the pipeline's state exist
---   aggregation.alive  an instance of the pipeline gave a sign of life
---   aggregation.group  its consumer group is stable and has every partition
---   aggregation.lag    its positions are near the ends of the partitions
---   rows.fresh         every symbol has a row of the current time
---   rows.gaps          no symbol lacks windows that others have (last hour)
---   rows.duplicates    one row a symbol and window, and the key that keeps it so
---   rows.corrupt       averages are there, positive and equal to sum / samples;
---                      windows are aligned and of one length
---   rows.times         no row is from the future; clocks agree
---
--- A part that cannot work because another does not is "blocked by" that one,
--- so the first failure is the one to mend. Exit status: 0 all well, 1 warning,
--- 2 critical, 3 something could not be checked.
---
--- Not looked at, because it cannot be seen from here: container restarts and
--- log files (docker compose ps, docker compose logs) and the exchange's
--- answers (the producer's log). ZooKeeper is not used by any client.

local check = require "mill.check"
local config = require "mill.config"
local duration = require "mill.duration"
local fault = require "mill.fault"
local output = require "mill.output"
local store = require "mill.checks.store"
local stream = require "mill.checks.stream"

local function join(...)
  local list = {}
  for _, part in ipairs { ... } do
    table.move(part, 1, #part, #list + 1, list)
  end
  return list
end

local function run(task)
  local set = task.set
  if set.since ~= "" then
    local ms, message = duration.parse(set.since)
    set.since_ms = ms or fault.raise(check.EXIT.UNKNOWN, "--set since: %s", message)
  end
  local ctx = {
    set = set, brokers = config.kafka(), conf = config.kafka_conf(), mysql = config.mysql(),
  }
  output.hide(ctx.mysql.password)
  ctx.mysql.connect_timeout = ctx.mysql.connect_timeout or math.max(1, set.timeout // 1000)
  local results = check.run(join(store.BASE, stream.CHECKS, store.ROWS), ctx)
  for _, handle in pairs { ctx.db, ctx.admin, ctx.reader } do
    handle:close()
  end
  return results, { brokers = ctx.brokers }
end

return { settings = join(stream.SETTINGS, store.SETTINGS), run = run }
