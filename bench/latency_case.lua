--- The latency cases: message timestamp to visible in MySQL at a rate, against a bare commit loop.

local config = require "mill.config"
local json = require "mill.json"
local fault = require "mill.fault"
local process = require "host.process"
local clock = require "host.clock"

local M = {}

local WARM_S <const> = 15

local QUERY = "select symbol, sum(samples) from %s group by symbol"

local function looked(b, argv)
  return assert(json.decode((b.run(argv):match "([^\n]*)\n*$")))
end

--- The control: the same statements, committed as rows become due.
function M.commit_loop(b, server, rate, seconds)
  local name = b.table(server)
  local out = looked(b, { b.tool "latency", "commit", server.url, name, QUERY:format(name),
    ("rate=%d"):format(rate), ("seconds=%d"):format(seconds) })
  b.sql(server, "drop table %s", name)
  return out
end

--- The same loop with Kafka before it: a program that reads, counts and commits, and nothing else.
function M.through(b, server, rate, seconds)
  local name, topic_name = b.table(server), b.name "live"
  b.create_topic(topic_name, 3)
  local out = looked(b, { b.tool "latency", "through", server.url, name, QUERY:format(name),
    ("rate=%d"):format(rate), ("seconds=%d"):format(seconds), config.kafka(), topic_name })
  b.sql(server, "drop table %s", name)
  return out
end

local warm = false

--- For its first ten thousands of requests a broker that was just started is slow: it compiles itself.
-- Once for all cases of a run.
function M.warm(b, server)
  if not warm then M.through(b, server, 1000, WARM_S) end
  warm = true
end

--- Send messages to a topic and see them come to the table.
function M.look(b, server, name, rate, seconds, topic_name)
  return looked(b, { b.tool "latency", "kafka", server.url, "-", QUERY:format(name),
    ("rate=%d"):format(rate), ("seconds=%d"):format(seconds), config.kafka(), topic_name })
end

-- Wait until the pipeline has claimed the partitions: from then on it is at the end of the log.
local function wait_claimed(b, server, name, partitions, child)
  local deadline = clock.mono_ms() + 30000
  repeat
    clock.sleep(20)
    local n = b.sql(server, "select count(*) from mill_progress where pipeline = '%s' and owner is "
      .. "not null", name).rows[1][1]
    if not process.alive(child:pid()) or clock.mono_ms() > deadline then
      fault.raise(1, "the pipeline did not start")
    end
  until n >= partitions
end

--- tidemill, with its own topic.
function M.pipeline(b, server, rate, seconds)
  -- An empty topic; the messages of `latency` are not those of the generator.
  local topic = { name = b.name "live" }
  b.create_topic(topic.name, 3)
  local name = b.table(server)
  local child <close> = assert(process.spawn {
    argv = b.argv(topic, name, {}, { "--leave" }), stdout = "pipe", stderr = "inherit",
    env = { TIDEMILL_MYSQL = server.url, TIDEMILL_STATUS_FILE = false },
  })
  wait_claimed(b, server, name, 3, child)
  local out = M.look(b, server, name, rate, seconds, topic.name)
  child:kill("TERM")
  local ended = child:wait(30000)
  if not ended or ended.code ~= 0 then fault.raise(1, "the pipeline failed") end
  out.run = json.decode((child:read("stdout", 1000) or ""):match "([^\n]*)\n*$")
  local samples = b.sql(server, "select sum(samples) from %s", name).rows[1][1]
  if math.tointeger(tonumber(samples)) ~= rate * (seconds + 1) then
    fault.raise(1, "%s has %s samples, not %d", name, samples, rate * (seconds + 1))
  end
  b.sql(server, "drop table %s", name)
  return out
end

--- @param goals p50_ms= and/or over_control_ms= and/or p99_ms=
function M.case(rate, goals)
  return function(b)
    local seconds = math.max(2, math.floor(30 * b.scale))
    local sides = {}
    for _, server in ipairs(b.servers()) do
      sides[#sides + 1] = { server.name .. " commit loop",
        function() return M.commit_loop(b, server, rate, seconds) end }
      sides[#sides + 1] = { server.name .. " commit loop, Kafka before it",
        function() return M.through(b, server, rate, seconds) end }
      sides[#sides + 1] = { server.name .. " tidemill",
        function() return M.pipeline(b, server, rate, seconds) end }
    end
    M.warm(b, b.servers()[1])
    local r = b.alternate(sides)
    local rows, out = {}, {}
    for _, side in ipairs(sides) do
      local list = r[side[1]]
      local row = { side[1] }
      for _, key in ipairs { "p50_ms", "p90_ms", "p99_ms", "max_ms", "look_ms" } do
        row[#row + 1] = b.spread(list, key, "%.1f")
      end
      rows[#rows + 1] = row
    end
    for _, server in ipairs(b.servers()) do
      local ours, control = r[server.name .. " tidemill"], r[server.name .. " commit loop"]
      local p50, p99 = b.median(ours, "p50_ms"), b.median(ours, "p99_ms")
      local limit = goals.p99_ms or b.median(control, "p99_ms") + goals.over_control_ms
      if goals.p50_ms then
        out[#out + 1] = { what = server.name .. ": p50", text = ("%.1f ms"):format(p50), value = p50,
          goal = ("<= %d ms"):format(goals.p50_ms), met = p50 <= goals.p50_ms }
      end
      out[#out + 1] = { what = server.name .. ": p99", text = ("%.1f ms"):format(p99), value = p99,
        goal = ("<= %.1f ms"):format(limit), met = p99 <= limit }
    end
    return { goals = out, figures = r, seconds = seconds, rate = rate, table = {
      columns = { "what", "p50 ms", "p90 ms", "p99 ms", "max ms", "look ms" }, rows = rows } }
  end
end

return M
