-- Message timestamp to visible in MySQL at 100 messages a second, on other systems (bench/peers) and on
-- tidemill, beside a bare commit loop; same database, same run.

local clock = require "host.clock"
local config = require "mill.config"
local fault = require "mill.fault"
local latency = require "bench.latency_case"
local peers = require "bench.peer"
local process = require "host.process"

local RATE <const> = 100
local START_MS <const> = 120000

-- Messages until the first is in the table: the peer runs then.
local function wait_running(b, server, name, topic_name, child)
  local kafka = require "host.kafka"
  local producer <close> = assert(kafka.producer { brokers = config.kafka() })
  local deadline = clock.mono_ms() + START_MS
  repeat
    for _, key in ipairs { "WARM1", "WARM2", "WARM3", "WARM4", "WARM5", "WARM6" } do
      assert(producer:produce(topic_name, key, ('{"symbol":"%s","price":"1.00","timestamp":%.3f}')
        :format(key, clock.wall_ms() / 1000)))
    end
    producer:flush(5000)
    clock.sleep(200)
    local n = b.sql(server, "select count(distinct symbol) from %s where symbol like 'WARM%%'",
      name).rows[1][1]
    if not process.alive(child:pid()) or clock.mono_ms() > deadline then
      fault.raise(1, "the peer did not start")
    end
  until n == 6
end

local function run(b, server, item, seconds)
  local topic_name, name = b.name "live", peers.table(b, server)
  b.create_topic(topic_name, 3)
  local env = peers.environment(b, item, server, topic_name, name, 0)
  env.PEER_PROMPT = "1"
  local child <close> = assert(process.spawn {
    argv = peers.command(b, item.peer), env = env, stdout = "null", stderr = "null",
  })
  wait_running(b, server, name, topic_name, child)
  local out = latency.look(b, server, name, RATE, seconds, topic_name)
  child:kill("KILL")
  child:wait(10000)
  peers.clean(b, env)
  b.sql(server, "drop table %s", name)
  return out
end

return function(b)
  local server = b.servers()[#b.servers()]
  local seconds = math.max(5, math.floor(60 * b.scale))
  local sides = {
    { "bare commit loop", function() return latency.commit_loop(b, server, RATE, seconds) end },
    { "tidemill", function() return latency.pipeline(b, server, RATE, seconds) end },
  }
  for _, item in ipairs(peers.wanted(b)) do
    if not item.only_whole then
      peers.command(b, item.peer)
      sides[#sides + 1] = { item.prompt and item.name .. ", " .. item.prompt or item.name,
        function() return run(b, server, item, seconds) end }
    end
  end
  latency.warm(b, server)
  local r = b.alternate(sides)
  local rows, best = {}, { p50_ms = math.huge, p99_ms = math.huge }
  for i, side in ipairs(sides) do
    local row = { side[1] }
    for _, key in ipairs { "p50_ms", "p90_ms", "p99_ms", "max_ms" } do
      row[#row + 1] = b.spread(r[side[1]], key, "%.1f")
    end
    rows[i] = row
    for key, value in pairs(best) do
      if i > 2 then best[key] = math.min(value, b.median(r[side[1]], key)) end
    end
  end
  local goals = {}
  for _, key in ipairs { "p50_ms", "p99_ms" } do
    local ours = b.median(r.tidemill, key)
    goals[#goals + 1] = { what = key .. ": best peer / tidemill", value = best[key] / ours,
      text = ("%.1f / %.1f"):format(best[key], ours), goal = "> 1", met = best[key] > ours }
  end
  return { figures = r, server = server.name, goals = goals,
    table = { columns = { "what", "p50 ms", "p90 ms", "p99 ms", "max ms" }, rows = rows } }
end
