--- What stops a run, and what is only said: bad rows beyond the limit, Kafka's errors.

local fault = require "mill.fault"
local gaps = require "mill.gaps"

local M = {}

-- The share of bad rows is judged over this many rows.
M.WINDOW = 10000

--- Note good and bad rows; stop when too many of the last 10,000 are bad.
function M.bad_rows(run, good, bad)
  local ring = run.ring
  if not ring then
    ring = { first = 1, last = 0, rows = 0, bad = 0 }
    run.ring = ring
  end
  if bad == 0 and ring.bad == 0 then return end
  ring.last = ring.last + 1
  ring[ring.last] = { good + bad, bad }
  ring.rows, ring.bad = ring.rows + good + bad, ring.bad + bad
  while ring.first < ring.last and ring.rows - ring[ring.first][1] >= M.WINDOW do
    ring.rows, ring.bad = ring.rows - ring[ring.first][1], ring.bad - ring[ring.first][2]
    ring[ring.first] = nil
    ring.first = ring.first + 1
  end
  if bad > 0 and ring.bad > run.max_bad * math.max(M.WINDOW, ring.rows) then
    local example
    for i = #run.batch, 1, -1 do
      local record = run.batch:record(i)
      if record.state == "bad" then
        example = record
        break
      end
    end
    fault.raise(fault.POLICY, "%d of the last %d rows are bad, more than max_bad allows; nothing of "
      .. "them was committed. A typical one: partition %d offset %d, %s: %s: %s", ring.bad,
      ring.rows, example.partition, example.offset, example.path, example.fault,
      tostring(example.value):sub(1, 200))
  end
end

--- Are more of the last rows bad than max_bad allows, though too few came to stop for it?
-- @param least how many rows must have come
-- @return what to say, or nil
function M.mostly_bad(run, least)
  local ring = run.ring
  if not ring or ring.rows < least or ring.bad <= run.max_bad * ring.rows then return nil end
  return ("%d of the last %d rows are bad"):format(ring.bad, ring.rows)
end

-- Errors of a partition that a look at its offsets explains.
local OFFSETS = { OFFSET_OUT_OF_RANGE = true, AUTO_OFFSET_RESET = true }

-- What a commit to the group is answered while members come and go. The next one tells the group
-- the same position, and ours is in the database.
local REBALANCING = { ILLEGAL_GENERATION = true, REBALANCE_IN_PROGRESS = true,
  UNKNOWN_MEMBER_ID = true }

--- An error event of the consumer.
function M.kafka_error(run, event)
  if event.fatal and event.code == "FENCED_INSTANCE_ID" then return run:group_fenced() end
  if event.fatal then fault.raise(fault.SERVER, "Kafka: %s", event.message) end
  if OFFSETS[event.code] and event.partition then
    -- Claim again: the claim looks at the offsets and names the gap.
    gaps.look_again(run, event.partition)
    return
  end
  if REBALANCING[event.code] then
    run.log.debug("Kafka: %s (%s)", event.message, event.code)
    return
  end
  if event.code == "UNKNOWN_TOPIC_OR_PART" or event.code == "UNKNOWN_TOPIC" then
    run.log.trouble("topic", "topic '%s' is not there: %s", run.topic, event.message)
    -- When it is there again it may be another one.
    gaps.look_at_all(run)
    return
  end
  if event.code == "ALL_BROKERS_DOWN" then gaps.look_at_all(run) end
  run.log.trouble("kafka", "Kafka: %s", event.message)
  run.kafka_trouble = true
end

return M
