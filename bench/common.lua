--- What the benchmarks share: topics, runs of the controls and of tidemill, medians, exactness.

local config = require "mill.config"
local digest = require "host.digest"
local fault = require "mill.fault"
local json = require "mill.json"
local kafka = require "host.kafka"
local mysql = require "host.mysql"
local mysqlurl = require "mill.mysqlurl"
local process = require "host.process"

local M = {
  tools = "build/bench", -- where the control programs are
  id = digest.random_hex(3), -- of this run, in all names
  runs = 3,
  scale = 1, -- of message counts
}

local serial = 0

--- A name nobody else has.
function M.name(what)
  serial = serial + 1
  return ("bench_%s_%s_%d"):format(M.id, what, serial)
end

function M.say(fmt, ...)
  io.stderr:write("bench: ", fmt:format(...), "\n")
end

--- The programs that are measured run on a path like this one.
function M.tool(name) return M.tools .. "/" .. name end

--- Run a program to its end; returns what it printed. A failure stops the benchmark.
function M.run(argv, env)
  local child <close> = assert(process.spawn {
    argv = argv, env = env or {}, stdout = "pipe", stderr = "inherit",
  })
  local out = {}
  while true do
    local text = child:read("stdout", 100)
    if text == nil then break end
    out[#out + 1] = text
  end
  local ended = child:wait(600000)
  if not ended or ended.code ~= 0 then
    fault.raise(1, "%s failed (%s)", table.concat(argv, " "),
      ended and (ended.code or "signal " .. ended.signal) or "it does not end")
  end
  return table.concat(out)
end

local function last_json(text, argv)
  local line = text:match("([^\n]*)\n*$")
  local value = json.decode(line)
  if type(value) ~= "table" then
    fault.raise(1, "%s printed no JSON object: %s", argv[1], line:sub(1, 200))
  end
  return value
end

--- Run a program that prints a JSON object last; the object gets what it and its children took:
-- wall_seconds, cpu_seconds, peak_rss_mb.
function M.measured(argv, env)
  local path = os.tmpname()
  local out = last_json(M.run({ M.tool "measure", path, table.unpack(argv) }, env), argv)
  local file <close> = assert(io.open(path))
  local took = assert(json.decode(file:read "a"))
  os.remove(path)
  out.wall_seconds, out.cpu_seconds = took.seconds, took.cpu_seconds
  out.peak_rss_mb = took.peak_rss_mb
  return out
end

-- ---- topics -----------------------------------------------------------------------------------

local topics, created = {}, {}

local function options(spec)
  local list = {}
  for key, value in pairs(spec) do
    list[#list + 1] = key .. "=" .. (math.type(value) == "integer" and ("%d"):format(value) or value)
  end
  table.sort(list)
  return list
end

--- A filled topic; the same one for the same spec (see bench/gen.h).
-- @return { name=, spec=, partitions=, messages= }
function M.topic(spec)
  spec.messages = spec.messages or 1000000
  spec.partitions = spec.partitions or 3
  local list = options(spec)
  local key = table.concat(list, " ")
  if topics[key] then return topics[key] end
  local topic = { name = M.name "topic", spec = spec, partitions = spec.partitions,
    messages = spec.messages, options = list, expected = {} }
  M.say("filling %s: %s", topic.name, key)
  M.run { M.tool "fill", config.kafka(), topic.name, table.unpack(list) }
  topics[key] = topic
  created[#created + 1] = topic.name
  return topic
end

--- An empty topic.
function M.create_topic(name, partitions)
  local admin <close> = assert(kafka.admin { brokers = config.kafka() })
  assert(admin:create_topic { name = name, partitions = partitions, replication = 1 })
  created[#created + 1] = name
end

--- Delete all topics of this run.
function M.drop_topics()
  local admin <close> = assert(kafka.admin { brokers = config.kafka() })
  for _, name in ipairs(created) do admin:delete_topic(name) end
  topics, created = {}, {}
end

--- What the table must hold: { rows=, samples=, digest= }.
function M.expected(topic, window_ms)
  window_ms = window_ms or 60000
  if not topic.expected[window_ms] then
    local argv = { M.tool "expect", ("window=%d"):format(window_ms),
      table.unpack(topic.options) }
    topic.expected[window_ms] = last_json(M.run(argv), argv)
  end
  return topic.expected[window_ms]
end

--- librdkafka's options as pipelines set them: host/kafka_consumer.c.
M.SETTINGS = { "queued.min.messages=20000", "queued.max.messages.kbytes=16384",
  "fetch.message.max.bytes=131072", "fetch.wait.max.ms=50", "fetch.error.backoff.ms=100",
  "socket.nagle.disable=true" }

--- The control: drain it with one consumer. `conf` are librdkafka's options, "KEY=VALUE"; none: those
-- of pipelines.
function M.drain(topic, conf)
  return M.measured { M.tool "drain", config.kafka(), topic.name, ("%d"):format(topic.partitions),
    table.unpack(conf or M.SETTINGS) }
end

-- ---- databases --------------------------------------------------------------------------------

--- The databases that run: { { name="mysql", url= }, ... }
function M.servers()
  local list = {}
  for _, name in ipairs { "mysql", "mariadb" } do
    local url = os.getenv("TIDEMILL_" .. name:upper())
    if url and (not M.server or M.server == name) then list[#list + 1] = { name = name, url = url } end
  end
  if #list == 0 then fault.raise(2, "no database: run by `make bench`") end
  return list
end

--- A connection that closes itself.
function M.connect(server)
  return assert(mysql.connect(assert(mysqlurl.parse(server.url))))
end

--- Run a statement; returns its result.
function M.sql(server, text, ...)
  local db <close> = M.connect(server)
  local result, message = db:query(select("#", ...) > 0 and text:format(...) or text)
  if not result then fault.raise(1, "%s: %s", message, text:sub(1, 200)) end
  return result
end

--- A new table like moving_averages; `bounds` is the type of its window bounds.
function M.table(server, bounds, name)
  name = name or M.name "averages"
  M.sql(server, "create table %s like moving_averages", name)
  if bounds then
    M.sql(server, "alter table %s modify start_time %s not null, modify end_time %s not null", name,
      bounds, bounds)
  end
  return name
end

--- Is every row of the table what it must be? Returns nil, or what is wrong.
function M.wrong(server, table_name, want)
  local row = M.sql(server, [[select count(*), coalesce(sum(samples), 0),
    cast(coalesce(sum(crc32(concat_ws(',', symbol,
      timestampdiff(microsecond, '1970-01-01', start_time), samples, average_price))), 0) as char)
    from %s where samples is not null]], table_name).rows[1]
  local have = { rows = row[1], samples = math.tointeger(tonumber(row[2])),
    digest = math.tointeger(tonumber(row[3])) }
  for _, key in ipairs { "rows", "samples", "digest" } do
    if have[key] ~= want[key] then
      return ("%s: the table has %s %s, it must have %s"):format(table_name, key, have[key],
        want[key])
    end
  end
end

-- ---- tidemill ---------------------------------------------------------------------------------

local function argv_of(topic, table_name, o, more)
  local list = { o.program or process.exe(), "run", o.script or "scripts/averages.lua", "--json",
    "--set", "topic=" .. topic.name, "--set", "name=" .. table_name, "--set",
    "table=" .. table_name }
  for _, text in ipairs(more) do list[#list + 1] = text end
  for key, value in pairs(o.set or {}) do
    list[#list + 1] = "--set"
    list[#list + 1] = key .. "=" .. tostring(value)
  end
  return list
end
M.argv = argv_of

--- The whole job on a topic, from an empty table to its end; the table is checked row by row.
-- @param o { server=, script=, set={}, window_ms=, bounds=, more={} }: `more` are the lengths in ms of
-- further windows of the script, whose tables are called TABLE_2, TABLE_3, ...
-- @return the run's summary with wall_seconds, cpu_seconds, peak_rss_mb
function M.whole(topic, o)
  local server = o.server or M.servers()[1]
  local name = M.table(server, o.bounds)
  local tables = { { name, o.window_ms } }
  for i, window_ms in ipairs(o.more or {}) do
    tables[i + 1] = { M.table(server, o.bounds, ("%s_%d"):format(name, i + 1)), window_ms }
  end
  local out = M.measured(argv_of(topic, name, o, { "--until-end" }),
    { TIDEMILL_MYSQL = server.url, TIDEMILL_STATUS_FILE = false })
  if out.consumed ~= topic.messages or out.dead ~= 0 or out.too_late ~= 0 then
    fault.raise(1, "the run consumed %d of %d messages, %d dead, %d too late", out.consumed,
      topic.messages, out.dead, out.too_late)
  end
  for _, item in ipairs(tables) do
    local wrong = M.wrong(server, item[1], M.expected(topic, item[2]))
    if wrong then fault.raise(1, "%s", wrong) end
    M.sql(server, "drop table %s", item[1])
  end
  out.upserts_per_second = out.upserts / out.seconds
  -- From the start of the process to its end, which is less than the loop alone shows.
  out.loop_messages_per_second = out.messages_per_second
  out.messages_per_second = out.consumed / out.wall_seconds
  return out
end

-- ---- figures ----------------------------------------------------------------------------------

--- Run the sides in turn, A B A B ..., M.runs times.
-- @param sides { { name, function }, ... }
-- @return name -> list of results
function M.alternate(sides)
  local out = {}
  for i = 1, M.runs do
    for _, side in ipairs(sides) do
      local list = out[side[1]] or {}
      out[side[1]] = list
      list[i] = side[2]()
    end
  end
  return out
end

local function sorted(list, key)
  local values = {}
  for i, item in ipairs(list) do values[i] = item[key] end
  table.sort(values)
  return values
end

--- Median of a figure over the runs.
function M.median(list, key)
  local values = sorted(list, key)
  local n = #values
  if n == 0 then return nil end
  return n % 2 == 1 and values[n // 2 + 1] or (values[n // 2] + values[n // 2 + 1]) / 2
end

--- "median (least-most)" of a figure.
function M.spread(list, key, fmt)
  local values = sorted(list, key)
  if #values == 0 then return "" end
  fmt = fmt or "%.0f"
  local middle = fmt:format(M.median(list, key))
  if #values == 1 then return middle end
  return ("%s (%s-%s)"):format(middle, fmt:format(values[1]), fmt:format(values[#values]))
end

--- Messages scaled by --scale.
function M.scaled(n) return math.max(1000, math.floor(n * M.scale)) end

return M
