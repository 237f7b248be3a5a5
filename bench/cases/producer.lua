-- Messages a second of the producer as a script uses it, and of a raw produce loop with the same
-- librdkafka settings. Beside them the loop without idempotence, and scripts/replay.lua, which reads
-- and writes its text as well.

local config = require "mill.config"
local process = require "host.process"

-- host/kafka_producer.c sets these.
local SAME = { "conf:enable.idempotence=true", "conf:compression.type=lz4",
  "conf:partitioner=murmur2_random", "conf:linger.ms=2", "conf:queue.buffering.max.messages=500000",
  "conf:queue.buffering.max.kbytes=65536", "conf:socket.nagle.disable=true" }

local function counted(topic, want)
  local kafka = require "host.kafka"
  local admin <close> = assert(kafka.admin { brokers = config.kafka() })
  local sum = 0
  for p = 0, 2 do
    local low, high = admin:watermarks(topic, p, 10000)
    sum = sum + assert(high, low) - low
  end
  if sum ~= want then error(("%s has %d messages, not %d"):format(topic, sum, want)) end
  admin:delete_topic(topic)
end

local function raw(b, messages, more)
  local topic = b.name "raw"
  local argv = { b.tool "produce", config.kafka(), topic }
  for _, text in ipairs(SAME) do argv[#argv + 1] = text end
  for _, text in ipairs(more) do argv[#argv + 1] = text end
  argv[#argv + 1] = ("messages=%d"):format(messages)
  local out = b.measured(argv)
  counted(topic, messages)
  return out
end

local function ours(b, messages, path)
  local topic = b.name "ours"
  b.create_topic(topic, 3)
  local out = b.measured { process.exe(), "exec", "bench/produce.lua", path, topic,
    ("%d"):format(messages) }
  counted(topic, messages)
  return out
end

local function replay(b, messages, path)
  local topic = b.name "replay"
  b.create_topic(topic, 3)
  local out = b.measured { process.exe(), "run", "scripts/replay.lua", "--json", "--set",
    "file=" .. path, "--set", "topic=" .. topic, "--set", "speed=0" }
  counted(topic, messages)
  out.messages_per_second = messages / out.wall_seconds
  return out
end

return function(b)
  local messages = b.scaled(3000000)
  local lines, csv = os.tmpname(), os.tmpname()
  local text = b.run { b.tool "fill", "-", "-", "messages=10000" }
  process.atomic_write(lines, text)
  local file <close> = assert(io.open(csv, "w"))
  file:write("ts_ms,symbol,price\n")
  local rows = {}
  local form = '"symbol":"(%w+)","price":"([%d.]+)","timestamp":(%d+)%.(%d+)'
  for symbol, price, seconds, ms in text:gmatch(form) do
    rows[#rows + 1] = ("%s%s,%s,%s\n"):format(seconds, ms, symbol, price)
  end
  local all = table.concat(rows)
  local copies = messages // #rows
  for _ = 1, copies do file:write(all) end
  file:close()
  local r = b.alternate {
    { "raw loop", function() return raw(b, messages, {}) end },
    { "tidemill", function() return ours(b, messages, lines) end },
    { "raw loop, not idempotent, linger 50 ms", function()
      return raw(b, messages, { "conf:enable.idempotence=false", "conf:linger.ms=50" })
    end },
    { "replay of a CSV file", function() return replay(b, copies * #rows, csv) end },
  }
  os.remove(lines)
  os.remove(csv)
  local shown = {}
  for _, name in ipairs { "raw loop", "tidemill", "raw loop, not idempotent, linger 50 ms",
    "replay of a CSV file" } do
    shown[#shown + 1] = { name, b.spread(r[name], "messages_per_second"),
      b.spread(r[name], "cpu_seconds", "%.2f"), b.spread(r[name], "peak_rss_mb", "%.1f") }
  end
  local ratio = b.median(r.tidemill, "messages_per_second")
    / b.median(r["raw loop"], "messages_per_second")
  return { figures = r, goals = { { what = "producer / raw produce loop",
    text = ("%.2f"):format(ratio), value = ratio, goal = ">= 0.9", met = ratio >= 0.9 } },
    table = { columns = { "what", "msg/s", "CPU s", "peak MB" }, rows = shown } }
end
