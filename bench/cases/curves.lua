-- How the cost of a message changes with keys, partitions, windows (how long, how many at once), message
-- size and processes. Each point is a checked run beside a drain of the same topic; the plots of doc/ are
-- drawn from var/bench/curves.json by `make bench-plots`.

local process = require "host.process"

-- Several processes of one group, started together; measured as one.
local PROCESSES <const> = [[
n=$1; shift
for i in $(seq "$n"); do "$@" --instance "p$i" --leave >/dev/null & pids="$pids $!"; done
for pid in $pids; do wait "$pid" || exit 1; done
echo '{}']]

local function merge(a, b)
  local out = {}
  for key, value in pairs(a) do out[key] = value end
  for key, value in pairs(b) do out[key] = value end
  return out
end

return function(b)
  local server = b.servers()[#b.servers()]
  local base = { messages = b.scaled(2000000), keys = 5, partitions = 3 }
  local points = {}

  -- One point: a topic and a run; `run` gives wall_seconds and the like.
  local function point(curve, x, spec, run)
    local topic = b.topic(merge(base, spec))
    local drain, ours = b.drain(topic), run(topic)
    local rate = topic.messages / ours.wall_seconds
    points[#points + 1] = { curve = curve, x = x, messages_per_second = rate,
      drain_messages_per_second = drain.messages_per_second,
      cpu_ns = ours.cpu_seconds * 1e9 / topic.messages, peak_rss_mb = ours.peak_rss_mb }
    b.say("%s %s: %.0f msg/s, drain %.0f", curve, x, rate, drain.messages_per_second)
  end

  local function whole(options)
    return function(topic) return b.whole(topic, merge({ server = server }, options or {})) end
  end

  for _, keys in ipairs { 5, 100, 10000, 100000, 1000000 } do
    point("keys", keys, { keys = keys, span_ms = 59000 }, whole())
  end
  for _, partitions in ipairs { 1, 3, 12, 64 } do
    point("partitions", partitions, { partitions = partitions }, whole())
  end
  for _, item in ipairs { { "100ms", 100 }, { "1s", 1000 }, { "1m", 60000 }, { "1h", 3600000 },
    { "1d", 86400000 } } do
    point("window ms", item[2], {}, whole { set = { size = item[1] }, window_ms = item[2],
      bounds = item[2] < 1000 and "datetime(3)" or nil })
  end
  local sizes, lengths = { "1m", "1s", "1h", "1d" }, { 60000, 1000, 3600000, 86400000 }
  for n = 1, #sizes do
    point("windows at once", n, {}, whole { script = "bench/pipeline.lua",
      set = { sizes = table.concat(sizes, ",", 1, n) }, more = table.move(lengths, 2, n, 1, {}) })
  end
  for _, item in ipairs { { 40, 3 }, { 76, 3 }, { 200, 6 }, { 1000, 20 }, { 8000, 100 } } do
    local brief = item[1] == 40
    point("bytes", item[1], { bytes = item[1], fields = item[2], brief = brief and 1 or 0,
      messages = b.scaled(item[1] < 1000 and 2000000 or 400000) },
      whole { script = "bench/pipeline.lua", set = { brief = tostring(brief) } })
  end
  for processes = 1, 4 do
    -- Longer: at the start the group is shared out again as each of them joins.
    point("processes", processes, { partitions = 12, messages = b.scaled(8000000) }, function(topic)
      local name = b.table(server)
      local argv = { "sh", "-c", PROCESSES, "sh", ("%d"):format(processes) }
      for _, text in ipairs(b.argv(topic, name, { program = process.exe() }, { "--until-end" })) do
        argv[#argv + 1] = text
      end
      local out = b.measured(argv, { TIDEMILL_MYSQL = server.url, TIDEMILL_STATUS_FILE = false })
      local wrong = b.wrong(server, name, b.expected(topic))
      if wrong then error(wrong, 0) end
      b.sql(server, "drop table %s", name)
      return out
    end)
  end
  local rows = {}
  for i, p in ipairs(points) do
    rows[i] = { p.curve, p.x, math.floor(p.messages_per_second),
      ("%.2f"):format(p.messages_per_second / p.drain_messages_per_second), math.floor(p.cpu_ns),
      ("%.0f"):format(p.peak_rss_mb) }
  end
  return { figures = points, server = server.name, table = {
    columns = { "what", "x", "msg/s", "/ drain", "CPU ns a message", "peak MB" }, rows = rows } }
end
