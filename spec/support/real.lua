--- Real servers for specs: topics, tables, runs of `tidemill`, and the oracle.
--
--   local real = require "spec.support.real"
--   local place = real.place(real.databases()[1])   -- a database of its own
--   local topic = real.topic { partitions = 3 }
--   local run = place:average { topic = topic, size_ms = 1000 }
--   real.verify(place, { topic = topic, size_ms = 1000, runs = { run } })
--   place:close()
--
-- The servers are those of TIDEMILL_KAFKA, TIDEMILL_MYSQL and TIDEMILL_MARIADB. Specs whose servers
-- or recordings are missing are pending; with TIDEMILL_SERVERS=required they fail. Names are unique
-- and everything made here is removed again by close() and real.close().

local clock = require "host.clock"
local compare = require "spec.support.compare"
local digest = require "host.digest"
local gzip = require "host.gzip"
local json = require "mill.json"
local kafka = require "host.kafka"
local mysql = require "host.mysql"
local mysqlurl = require "mill.mysqlurl"
local process = require "host.process"
local wait = require "spec.support.wait"

local M = {}

M.same = compare.same

local DEADLINE_MS = 240000 * require "spec.support.slow"
local WAIT_MS = 30000 * require "spec.support.slow"

local topics = {}

local function env(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

local own
--- From now on use the servers of this table (see spec.support.servers); nil: the environment's.
function M.use(addresses) own = addresses end

--- Where Kafka is.
function M.kafka() return own and own.TIDEMILL_KAFKA or env "TIDEMILL_KAFKA" end

--- The databases that are there: { { name =, url = }, ... }.
function M.databases()
  local out = {}
  for _, entry in ipairs { { "MySQL", "TIDEMILL_MYSQL" }, { "MariaDB", "TIDEMILL_MARIADB" } } do
    local url = not own and env(entry[2]) or own and own[entry[2]]
    if url then out[#out + 1] = { name = entry[1], url = url } end
  end
  return out
end

--- Why these specs cannot run, or nil. Raises where they have to.
-- @param data true when the recorded trades are needed
function M.missing(data)
  local names = {}
  for _, name in ipairs { "TIDEMILL_KAFKA", "TIDEMILL_MYSQL", "TIDEMILL_MARIADB" } do
    if not env(name) then names[#names + 1] = name end
  end
  if #names > 0 and env "TIDEMILL_SERVERS" == "required" then
    error("TIDEMILL_SERVERS=required, but not set: " .. table.concat(names, ", "), 2)
  end
  if not M.kafka() then return "TIDEMILL_KAFKA is not set" end
  if #M.databases() == 0 then return "neither TIDEMILL_MYSQL nor TIDEMILL_MARIADB is set" end
  if data and not env "TIDEMILL_DATA" then return "TIDEMILL_DATA is not set" end
  return nil
end

--- Path of a recording, by the part of its name before .csv.gz.
function M.recording(name)
  local path = env "TIDEMILL_DATA" .. "/" .. name .. ".csv.gz"
  assert(process.stat(path), path .. " is not there")
  return path
end

--- The rows of a recording, as texts: { ms, symbol, price, qty }.
function M.rows(name)
  local reader <close> = assert(gzip.open(M.recording(name)))
  local header, out = reader:line(), {}
  assert(header:find("^ts_ms,symbol,price,qty"), header)
  while true do
    local lines = reader:lines(1000)
    if not lines then return out end
    for _, line in ipairs(lines) do
      out[#out + 1] = { line:match("^(%d+),([^,]+),([^,]+),([^,]*)") }
    end
  end
end

--- A name that nobody else uses.
function M.name(prefix)
  return ("%s_%s"):format(prefix, digest.random_hex(5))
end

--- A random sequence of one's own: seed from TIDEMILL_SEED or the clock, printed.
function M.random(what)
  local seed = math.tointeger(tonumber(env "TIDEMILL_SEED" or "")) or clock.wall_ms() % 1000000
  io.stderr:write(("\n%s: TIDEMILL_SEED=%d\n"):format(what, seed))
  local state = seed * 2 + 1
  return function(n) -- 0 .. n - 1
    state = (state * 6364136223846793005 + 1442695040888963407)
    return ((state >> 33) % n)
  end
end

local function slurp(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text
end

local function remove(folder)
  for _, name in ipairs(process.list(folder) or {}) do os.remove(folder .. "/" .. name) end
  os.remove(folder)
end

-- --- children ----------------------------------------------------------------------------------

local Child = {}
Child.__index = Child

--- Has it ended? Its result, or nil.
-- @return nil or { status =, signal =, out =, err =, summary = (the JSON object it printed), ms = }
function Child:result(wait_ms)
  if self.done then return self.done end
  local ended = self.process:wait(wait_ms or 0)
  if not ended then return nil end
  local r = {
    status = ended.code, signal = ended.signal, out = slurp(self.folder .. "/out"),
    err = slurp(self.folder .. "/err"), ms = clock.mono_ms() - self.since,
  }
  local line = r.out:match("({[^\n]*})%s*$")
  r.summary = line and json.decode(line)
  self.process:close()
  remove(self.folder)
  self.done = r
  return r
end

--- What it has written to stderr so far.
function Child:log()
  return self.done and self.done.err or slurp(self.folder .. "/err")
end

--- What it has written to stdout so far.
function Child:output()
  return self.done and self.done.out or slurp(self.folder .. "/out")
end

--- Wait for its end; an error when it takes longer than `ms`.
function Child:finish(ms)
  local r = self:result(ms or DEADLINE_MS)
  if r then return r end
  local log = self:log()
  self:kill("KILL")
  error(("'%s' did not end within %d ms; it said:\n%s"):format(self.what, ms or DEADLINE_MS,
    log:sub(-4000)), 2)
end

--- Send a signal.
function Child:kill(signal)
  if self.done then return end
  self.process:kill(signal)
  if signal == "KILL" then self:result(WAIT_MS) end
end

function Child:pid() return self.process:pid() end

--- Start a program. `o`: argv, env, cwd, stdin (text).
function M.spawn(o)
  local folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-real-"))
  local child = assert(process.spawn {
    argv = o.argv, env = o.env, cwd = o.cwd, stdin = o.stdin and "pipe" or "null",
    stdout = folder .. "/out", stderr = folder .. "/err", group = true,
  })
  local self = setmetatable({
    process = child, folder = folder, since = clock.mono_ms(), what = table.concat(o.argv, " "),
  }, Child)
  if o.stdin then
    local at = 1
    while at <= #o.stdin do at = at + assert(child:write(o.stdin:sub(at), WAIT_MS)) end
    child:close_stdin()
  end
  return self
end

local function program()
  return env "TIDEMILL" or process.exe()
end

--- The test build with fail points, or nil where it was not made (`make faults`). Raises where it
-- has to be there.
function M.faults()
  local path = process.home() .. "/tidemill-faults"
  if process.stat(path) then return path end
  if env "TIDEMILL_SERVERS" == "required" then error("`make faults` was not run", 2) end
  return nil
end

--- Start `tidemill` with these arguments. `o`: env, cwd, program (another build).
function M.tidemill(argv, o)
  o = o or {}
  local vars = { TIDEMILL_HOME = process.home(), TIDEMILL_INSTANCE = false, TIDEMILL_LOG = false }
  for name, value in pairs(o.env or {}) do vars[name] = value end
  return M.spawn { argv = { o.program or program(), table.unpack(argv) }, env = vars, cwd = o.cwd }
end

-- --- topics ------------------------------------------------------------------------------------

local function admin()
  return kafka.admin { brokers = M.kafka() }
end

--- Make a topic. `o`: partitions (3), config, name. Returns its name.
function M.topic(o)
  o = o or {}
  local name = o.name or M.name "spec"
  local a <close> = admin()
  local made, message, code = a:create_topic {
    name = name, partitions = o.partitions or 3, replication = 1, config = o.config,
    timeout_ms = WAIT_MS,
  }
  -- Whoever gives the name may ask again, and the answer to the first try may have been lost.
  if not (o.name and code == "TOPIC_ALREADY_EXISTS") then assert(made, message) end
  topics[#topics + 1] = name
  M.wait(function()
    local found = a:metadata(name, WAIT_MS)
    local entry = found and found.topics[name]
    if not entry or entry.code or #entry.partitions < (o.partitions or 3) then return nil end
    for _, p in ipairs(entry.partitions) do
      if p.leader < 0 then return nil end
    end
    return true
  end, "topic " .. name)
  return name
end

--- Give a topic more partitions.
function M.grow(name, total)
  local a <close> = admin()
  assert(a:create_partitions(name, total, WAIT_MS))
  M.wait(function()
    local found = a:metadata(name, WAIT_MS)
    return found and found.topics[name] and #found.topics[name].partitions == total
  end, "new partitions")
end

--- The id of the cluster.
function M.cluster_id()
  local a <close> = admin()
  return assert(a:metadata(nil, WAIT_MS)).cluster_id
end

--- Remove the topics made here.
function M.close()
  if #topics == 0 then return end
  local a <close> = admin()
  for _, name in ipairs(topics) do a:delete_topic(name) end
  topics = {}
end

--- A producer; close it.
function M.producer(conf)
  local all = { acks = "all", ["linger.ms"] = 5 }
  for key, value in pairs(conf or {}) do all[key] = value end
  return kafka.producer { brokers = M.kafka(), conf = all }
end

--- Queue one record, waiting while the queue is full.
function M.put(producer, record)
  while true do
    local ok, message, code = producer:send(record)
    if ok then return end
    assert(code == "QUEUE_FULL", message)
    local report = producer:poll(10)
    assert(not report.failed[1], report.failed[1] and report.failed[1].error)
  end
end

--- Wait until all is delivered.
function M.flush(producer)
  assert(producer:flush(4 * WAIT_MS) == 0, "records were not delivered in time")
  local report = producer:poll(0)
  assert(not report.failed[1], report.failed[1] and report.failed[1].error)
end

--- Send records { value =, key =, partition =, timestamp_ms =, headers = } to a topic.
function M.send(topic, records, conf)
  local producer <close> = M.producer(conf)
  for _, record in ipairs(records) do
    record.topic = topic
    M.put(producer, record)
  end
  M.flush(producer)
end

--- Fill a topic with a recording by scripts/replay.lua. `set`: its settings.
function M.replay(topic, file, set)
  local argv = { "run", "scripts/replay.lua", "--json", "--set", "topic=" .. topic, "--set",
    "file=" .. file, "--set", "speed=0" }
  for key, value in pairs(set or {}) do
    argv[#argv + 1] = "--set"
    argv[#argv + 1] = key .. "=" .. tostring(value)
  end
  local r = M.tidemill(argv, { cwd = process.home() }):finish()
  assert(r.status == 0, "replay: " .. r.err)
  assert(r.summary and r.summary.complete, "replay: " .. r.out)
  return r.summary
end

-- Where a leader is on its way.
local AWAITED = {
  NOT_LEADER_FOR_PARTITION = true, LEADER_NOT_AVAILABLE = true, UNKNOWN_TOPIC_OR_PART = true,
  OFFSET_NOT_AVAILABLE = true,
}

local function bounds(a, topic, partition)
  local deadline = clock.mono_ms() + WAIT_MS
  while true do
    local low, high, code = a:watermarks(topic, partition, WAIT_MS)
    if low then return { low, high } end
    if not AWAITED[code] or clock.mono_ms() > deadline then error(high, 3) end
    clock.sleep(100)
  end
end

--- First and next offset of each partition: { [partition] = { low, high } }, read committed unless
-- `isolation` is "read_uncommitted".
function M.ends(topic, isolation)
  local a <close> = kafka.admin {
    brokers = M.kafka(), conf = { ["isolation.level"] = isolation or "read_committed" },
  }
  local entry = assert(a:metadata(topic, WAIT_MS)).topics[topic]
  local out = {}
  for _, p in ipairs(entry.partitions) do
    out[p.id] = bounds(a, topic, p.id)
  end
  return out
end

--- Wait until no transaction is open: brokers write the marks of a commit after they answered it.
function M.settled(topic)
  M.wait(function()
    local all = M.ends(topic, "read_uncommitted")
    for partition, e in pairs(M.ends(topic)) do
      if e[2] ~= all[partition][2] then return nil end
    end
    return true
  end, "the marks of the transactions")
end

-- --- waiting -----------------------------------------------------------------------------------

--- Poll until `done()` gives something true; an error after `ms`, which ends with what `more()` says.
function M.wait(done, what, ms, more)
  return wait(what, done, ms or WAIT_MS, more)
end

--- Is a child stopped, as by SIGSTOP?
function M.is_stopped(child)
  return slurp(("/proc/%d/stat"):format(child:pid())):match("%) (%a)") == "T"
end

--- Wait until a child has stopped itself; an error when it ended instead.
function M.stopped(child)
  M.wait(function()
    if M.is_stopped(child) then return true end
    local r = child:result()
    if r then error("it ended and did not stop:\n" .. r.err:sub(-3000), 3) end
  end, "a stop")
end

-- --- the oracle --------------------------------------------------------------------------------

local function stage(o)
  return {
    size_ms = o.size_ms or 60000, hop_ms = o.hop_ms, max_delay_ms = o.max_delay_ms or 2000,
    lateness_ms = o.lateness_ms or 86400000,
  }
end

--- The oracle's answer to these parameters (see oracle.py); brokers and the time are filled in.
function M.oracle(parameters)
  parameters.brokers, parameters.now_ms, parameters.future_ms = M.kafka(), clock.wall_ms(), 60000
  local r = M.spawn({
    argv = { "python3", process.home() .. "/spec/support/oracle.py" },
    stdin = json.encode(parameters),
  }):finish()
  assert(r.status == 0, "oracle: " .. r.err)
  return assert(json.decode(r.out))
end

--- What must be in the tables; `o` as for Place:average.
function M.expect(o)
  local all = M.oracle {
    topic = o.topic, stages = { stage(o) }, max_symbol = o.max_symbol,
    adopted_until_ms = o.adopted_until_ms,
  }
  local one = all.stages[1]
  one.consumed, one.dead, one.last = all.consumed, all.dead, all.last
  return one
end

-- --- a database of one's own -------------------------------------------------------------------

local Place = {}
Place.__index = Place

--- A fresh database with the tables of `tidemill migrate`; close it.
-- @param base entry of real.databases()
-- @param o table or nil: empty (no tables)
function M.place(base, o)
  local name = M.name "spec"
  local options = assert(mysqlurl.parse(base.url))
  local db = assert(mysql.connect(options))
  assert(db:query("create database " .. mysql.name(name)))
  assert(db:query("use " .. mysql.name(name)))
  local url = base.url:gsub("^(mysql://[^/]*/)[^?]*", "%1" .. name)
  local self = setmetatable({ db = db, database = name, url = url, base = base }, Place)
  if not (o and o.empty) then
    local r = self:migrate()
    assert(r.status == 0, "migrate: " .. r.err)
  end
  return self
end

function Place:close()
  self.db:query("drop database " .. mysql.name(self.database))
  self.db:close()
end

--- The environment of a run here. Connecting may take longer than the three seconds of an operator.
function Place:env(extra)
  local url = self.url .. (self.url:find("?", 1, true) and "&" or "?") .. "connect-timeout=10"
  local vars = { TIDEMILL_KAFKA = M.kafka(), TIDEMILL_MYSQL = url, TIDEMILL_MARIADB = false }
  for name, value in pairs(extra or {}) do vars[name] = value end
  return vars
end

--- Run `tidemill migrate` with further arguments to its end.
function Place:migrate(...)
  return M.tidemill({ "migrate", ... }, { env = self:env(), cwd = process.home() }):finish()
end

--- Rows of a query, each an array.
function Place:query(sql, ...)
  local result, message = self.db:query(select("#", ...) > 0 and sql:format(...) or sql)
  if not result then error(message .. "\n" .. sql, 2) end
  return result.rows
end

--- The only value of a query.
function Place:value(sql, ...)
  local rows = self:query(sql, ...)
  return rows[1] and rows[1][1]
end

--- Make a table like moving_averages; with milliseconds where windows need them. Its name.
function Place:table(ms)
  local name = M.name "averages"
  self:query("create table %s like moving_averages", name)
  if ms then
    self:query("alter table %s modify start_time datetime(3) not null, "
      .. "modify end_time datetime(3) not null", name)
  end
  return name
end

local SETTINGS = { "topic", "table", "name", "start", "commit_every" }
local PERIODS = { "size", "hop", "max_delay", "lateness", "idle", "max_future" }

--- Start `tidemill run scripts/averages.lua`. `o`: topic, table, name, start, commit_every, size_ms,
-- hop_ms, max_delay_ms, lateness_ms, idle_ms, max_future_ms, instance, args (further arguments),
-- script, env, until_end (true unless told).
function Place:start(o)
  local argv = { "run", o.script or "scripts/averages.lua", "--json" }
  if o.until_end ~= false then argv[#argv + 1] = "--until-end" end
  local function set(key, value)
    if value == nil then return end
    argv[#argv + 1] = "--set"
    argv[#argv + 1] = key .. "=" .. value
  end
  for _, key in ipairs(SETTINGS) do set(key, o[key]) end
  for _, key in ipairs(PERIODS) do
    set(key, o[key .. "_ms"] and ("%dms"):format(o[key .. "_ms"]))
  end
  argv[#argv + 1] = "--instance"
  argv[#argv + 1] = o.instance or "a"
  for _, arg in ipairs(o.args or {}) do argv[#argv + 1] = arg end
  return M.tidemill(argv, { env = self:env(o.env), cwd = process.home(), program = o.program })
end

--- The same, to its good end.
function Place:average(o)
  local r = self:start(o):finish()
  assert(r.status == 0 and r.summary, ("the run ended with %s:\n%s%s"):format(
    r.status or r.signal, r.out, r.err:sub(-4000)))
  return r
end

local MS = "timestampdiff(microsecond, '1970-01-01', %s) div 1000"

--- Result rows: symbol, start, end, average, sum, samples, revision, final.
function Place:results(name, where)
  return self:query("select symbol, " .. MS:format("start_time") .. ", " .. MS:format("end_time")
    .. ", average_price, price_sum, samples, revision, is_final from " .. mysql.name(name)
    .. " where " .. (where or "true"))
end

--- Rows of mill_late of a pipeline: partition, offset, start, reason, symbol, time, end, lateness.
function Place:late(name)
  return self:query("select `partition`, `offset`, window_start_ms, reason, row_key, time_ms, "
    .. "window_end_ms, lateness_ms from mill_late where pipeline = " .. self.db:quote(name))
end

--- Rows of mill_dead_letters: partition, offset, payload's length and SHA-256.
function Place:dead(name)
  return self:query("select `partition`, `offset`, payload_length, lower(hex(payload_sha256)) "
    .. "from mill_dead_letters where kind = 'message' and pipeline = " .. self.db:quote(name))
end

--- { [partition] = { position, watermark_ms, owner } } of a pipeline.
function Place:progress(name)
  local out = {}
  for _, row in ipairs(self:query("select `partition`, position, watermark_ms, owner, commit_seq "
    .. "from mill_progress where pipeline = " .. self.db:quote(name))) do
    out[row[1]] = { position = row[2], watermark_ms = row[3], owner = row[4], commit_seq = row[5] }
  end
  return out
end

--- Fail unless the tables hold what the oracle says. `o` as for Place:average, and: runs (their
-- results, for the counts; none: not looked at), want (the oracle's answer, when it is known), where
-- (SQL, which rows of the table are the pipeline's).
-- @return the oracle's answer
M.verify = require("spec.support.verify")(M)

return M
