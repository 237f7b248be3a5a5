--- What the specs of fail points share: rows that touch everything, and runs of the test build.

local real = require "spec.support.real"

local M = {}

M.T0 = 1723161600000
M.PARTITIONS = 3

-- Kafka notices the end of an instance that did not leave after SESSION_MS; small fetches make many
-- commits.
M.SESSION_MS = 2000
M.CONF = "session.timeout.ms=2000,heartbeat.interval.ms=300,fetch.message.max.bytes=2000,"
  .. "message.max.bytes=2000,fetch.max.bytes=2000"

--- A transaction without a word is ended by the server after this long; see mill.setup.
M.WAIT_MS = 5000

local BAD = { "", "no JSON", '{"symbol":"A","price":"-1","timestamp":1723161600}' }

--- Send rows first..last of a made-up stream without keys: late, too late and bad ones among them.
function M.put(producer, topic, first, last)
  for i = first, last do
    local back = i % 7 == 0 and 900 or i % 31 == 0 and 5000 or 0
    local value = ('{"symbol":"S%d","price":"%d.%02d","timestamp":%d}'):format(i % 5, i, i % 100,
      M.T0 + i * 10 - back)
    if i % 50 == 0 then value = BAD[i // 50 % #BAD + 1] end
    real.put(producer, { topic = topic, partition = i % M.PARTITIONS, value = value })
  end
end

--- A topic with `count` such rows.
function M.topic(count)
  local topic = real.topic { partitions = M.PARTITIONS }
  local producer <close> = real.producer { ["batch.num.messages"] = 20 }
  M.put(producer, topic, 1, count)
  real.flush(producer)
  return topic
end

--- Options of a pipeline of its own over `topic`, for place:start and real.verify. `more`: others,
-- and fail (TIDEMILL_FAILPOINT), mutation (TIDEMILL_MUTATION).
function M.options(place, topic, more)
  local o = {
    name = real.name "failpoint", table = place:table(true), topic = topic, size_ms = 1000,
    hop_ms = 500, max_delay_ms = 0, lateness_ms = 3000, commit_every = "5ms",
    program = real.faults(), env = { TIDEMILL_LOG = "debug", TIDEMILL_KAFKA_CONF = M.CONF },
  }
  return M.with(o, more)
end

--- The same pipeline, asked for something else.
function M.with(o, more)
  local out = {}
  for key, value in pairs(o) do out[key] = value end
  for key, value in pairs(more or {}) do out[key] = value end
  out.env = {}
  for key, value in pairs(o.env) do out.env[key] = value end
  out.env.TIDEMILL_FAILPOINT, out.fail = out.fail or false, nil
  out.env.TIDEMILL_MUTATION, out.mutation = out.mutation or false, nil
  return out
end

--- Wait for a child's end by `signal` (or its good end); an error that shows its log otherwise.
function M.ended(child, what, signal)
  local r = child:finish(60000)
  local good = r.status == 0 and not signal or signal and r.signal == signal
  if not good then
    error(("%s: ended with %s:\n%s"):format(what, r.status or "signal " .. r.signal,
      r.err:sub(-3000)), 2)
  end
  return r
end

--- In groups of `size`: each step of `steps` for all of a group, before the next one.
function M.together(list, size, steps)
  for first = 1, #list, size do
    for _, step in ipairs(steps) do
      for i = first, math.min(first + size - 1, #list) do step(list[i]) end
    end
  end
end

return M
