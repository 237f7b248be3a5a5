--- For fuzz/modules.lua: calls that are nearly right, and the fences.
--
-- CALLS: what a function takes when all is well, to be spoilt; a value may be a function of the
-- worker's pool. FENCES: where free values would reach beyond the scratch folder, this machine's
-- loopback or our own processes; each changes the arguments. SKIPPED: what cannot be called at all
-- without a run, a server or a command of its own; their specs try those. A module or function that
-- is named nowhere here is called with free values.
local values = require "modules_values"

local M = {}

local random, choose = math.random, values.choose

local function fields()
  return { { name = "symbol", type = "string" },
    { name = "price", type = "decimal", precision = 20, scale = 8 },
    { name = "timestamp", type = "time" } }
end

local function parts()
  return { { op = "sum", cell = 1 }, { op = "product", cell = 1, cell_b = 1 },
    { op = "first", cell = 1 } }
end

local function outs()
  return { { kind = "key" }, { kind = "start", fraction = 3 }, { kind = "count" },
    { kind = "sum", part = 0, scale = 8 }, { kind = "avg", part = 0, scale = 8, column_scale = 8 },
    { kind = "stddev", part = 0, part_b = 1, scale = 8, scale_b = 16, column_scale = 8 },
    { kind = "place", part = 2 }, { kind = "final" } }
end

local MESSAGE = '{"symbol":"BTCUSDT","price":"61837.63","timestamp":1723161255.342}'
local LIST = { { topic = "t", partition = 0, offset = 0 } }

local function of(type_name) return function(pool) return pool.one(type_name) end end
local function broker(pool) return pool.bootstrap() end

--- name -> list of argument lists. "type:method" gets its handle in front by itself.
M.CALLS = {
  ["host.batch.new"] = { {} },
  ["host.batch.shape"] = { { fields() }, { fields(), { { max_chars = 3, column = "c" } } } },
  ["batch:add"] = { { { partition = 0, offset = 1, key = "k", value = MESSAGE, stamp_ms = 5 } } },
  ["batch:finish"] = { { 0, 5 } }, ["batch:record"] = { { 1 } },
  ["batch:apply"] = {
    { of "row shape", function() return function(r) return r.symbol end end,
      function() return function(r) r.price = "1.5" r.symbol = "x" end end, {} },
    { of "row shape", nil, nil, { function(r) return r.symbol end }, n = 4 },
  },
  ["host.clock.sleep"] = { { 1 } }, ["host.clock.set_wall"] = { { 1723161255342 }, { nil, n = 1 } },
  ["host.decimal.add"] = { { "1.5", "2.25" } }, ["host.decimal.sub"] = { { "1.5", "2.25" } },
  ["host.decimal.mul"] = { { "1.5", "2.25" } }, ["host.decimal.compare"] = { { "1.5", "2.25" } },
  ["host.decimal.ratio"] = { { "1.5", "3", 8 } }, ["host.decimal.round"] = { { "1.555", 2 } },
  ["host.decimal.stddev"] = { { "4", "10", "30", 8, true } },
  ["host.digest.file"] = { { "file" } }, ["host.digest.random_hex"] = { { 16 } },
  ["host.gzip.open"] = { { "file" }, { "file", { max_line = 10 } } },
  ["host.gzip.pack"] = { { "file", "dir/packed" }, { "text" } },
  ["line reader:lines"] = { { 3 } },
  ["host.http.client"] = { { { concurrency = 4, user_agent = "x" } } },
  ["host.http.server"] = { { { dynamic = true } }, { { max_connections = 2, timeout_s = 1 } } },
  ["http client:get"] = { { { url = "http://127.0.0.1:1/", timeout_ms = 50,
    headers = { accept = "x" } } } },
  ["http client:request"] = { { { url = "http://127.0.0.1:1/", method = "POST", body = "x",
    timeout_ms = 50 } } },
  ["http client:fetch"] = { { { url = "http://127.0.0.1:1/", timeout_ms = 50 } } },
  ["http client:poll"] = { { 5 } }, ["http client:cancel"] = { { 1 } },
  ["http server:page"] = { { "/p", { body = "x", status = 200, type = "text/plain" } } },
  ["http server:poll"] = { { 2 } },
  ["http server:respond"] = { { 1, { status = 200, headers = { a = "b" }, body = "x" } } },
  ["host.json.decoder"] = { { { fields = fields() } },
    { { fields = fields(), tombstones = "skip", extra = 1 } } },
  ["host.json.valid"] = { { MESSAGE } },
  ["decoder:decode"] = { { of "batch" } }, ["decoder:cells"] = { { of "batch", 1 } },
  ["decoder:limit"] = { { "symbol", { max_chars = 3, max_chars_column = "c" } },
    { "price", { max = "99.5", max_column = "c" } } },
  ["host.kafka.broker"] = { { { brokers = 1, topics = { { name = "t", partitions = 2 } } } } },
  ["host.kafka.producer"] = { { { brokers = broker, conf = { ["linger.ms"] = 1 } } } },
  ["host.kafka.consumer"] = { { { brokers = broker } },
    { { brokers = broker, group = "g", topics = { "t" } } } },
  ["host.kafka.reader"] = { { { brokers = broker, topic = "t" } },
    { { brokers = broker, topic = "t", threads = 2 } } },
  ["kafka reader:decode"] = { { of "decoder" } }, ["kafka reader:start"] = { { LIST } },
  ["kafka reader:stop"] = { { LIST } }, ["kafka reader:poll"] = { { of "batch", 5 } },
  ["host.kafka.admin"] = { { { brokers = broker } } },
  ["producer:send"] = { { { topic = "t", key = "k", value = MESSAGE, partition = 0,
    headers = { a = "b" } } } },
  ["producer:produce"] = { { { topic = "t", value = MESSAGE } } },
  ["producer:poll"] = { { 5 } }, ["producer:flush"] = { { 20 } },
  ["producer:begin"] = { {} }, ["producer:commit"] = { { 20 } }, ["producer:abort"] = { { 20 } },
  ["producer:init_transactions"] = { { 20 } },
  ["consumer:poll"] = { { of "batch", 10, 5 } }, ["consumer:manual"] = { { LIST } },
  ["consumer:assign"] = { { LIST } }, ["consumer:unassign"] = { { LIST } },
  ["consumer:seek"] = { { LIST } }, ["consumer:pause"] = { { LIST } },
  ["consumer:resume"] = { { LIST } }, ["consumer:commit"] = { { LIST } },
  ["consumer:committed"] = { { LIST, 20 } }, ["consumer:watermarks"] = { { "t", 0, 20 } },
  ["consumer:offsets_for_time"] = { { LIST, 1723161255342, 20 } },
  ["admin:metadata"] = { { "t", 50 } },
  ["admin:create_topic"] = { { { name = "n", partitions = 1, timeout_ms = 50 } } },
  ["admin:groups"] = { { 50 } }, ["admin:delete_group"] = { { "g", 50 } },
  ["admin:broker_config"] = { { 1, 50 } },
  ["admin:delete_topic"] = { { "n", 50 } }, ["admin:create_partitions"] = { { "t", 3, 50 } },
  ["admin:delete_records"] = { { LIST, 50 } }, ["admin:describe_group"] = { { "g", 50 } },
  ["admin:group_offsets"] = { { "g", LIST, 50 } }, ["admin:watermarks"] = { { "t", 0, 50 } },
  ["admin:offsets_for_time"] = { { LIST, 5, 50 } }, ["admin:topic_config"] = { { "t", 50 } },
  ["broker:create_topic"] = { { "t2", 1 } }, ["broker:leader"] = { { "t", 0, 1 } },
  ["broker:broker_down"] = { { 1 } }, ["broker:broker_up"] = { { 1 } }, ["broker:rtt"] = { { 1, 1 } },
  ["host.metrics.counter"] = { { "c_total", "help", { a = "b" } } },
  ["host.metrics.gauge"] = { { "g", "help", { a = "b" } } },
  ["host.metrics.histogram"] = { { "h", "help", { 0.1, 1, 10 } }, { "h2", "help" } },
  ["histogram:quantile"] = { { 0.5 } }, ["histogram:observe"] = { { 0.25 } },
  ["host.moment.parse"] = { { "2024-08-09T12:00:00Z" } },
  ["host.moment.format"] = { { 1723161255342 } },
  ["host.mysql.connect"] = { { { host = "127.0.0.1", port = 1, user = "u", password = "p" } },
    { { socket = "none", user = "u" } } },
  ["host.mysql.name"] = { { "na`me" } }, ["host.mysql.blob"] = { { "a\0b" } },
  ["host.process.atomic_write"] = { { "dir/file", "text" } },
  ["host.process.list"] = { { "dir" } }, ["host.process.mkdir_p"] = { { "dir/a/b" } },
  ["host.process.lock"] = { { "dir/lock" } }, ["host.process.stat"] = { { "file" } },
  ["host.process.disk"] = { { "dir" } }, ["host.process.realpath"] = { { "dir" } },
  ["host.process.which"] = { { "true" } },
  ["host.process.spawn"] = { { { argv = { "cat" }, stdin = "pipe", stdout = "pipe" } },
    { { argv = { "sleep", "60" }, env = { A = "b" }, group = true } } },
  ["host.process.wait_fds"] = { { { { fd = 0, events = "r" } }, 1 } },
  ["child process:write"] = { { "text", 5 } }, ["child process:read"] = { { "stdout", 5 } },
  ["child process:wait"] = { { 1 } }, ["child process:kill"] = { { "TERM" } },
  ["host.spool.open"] = { { { path = "dir" } },
    { { path = "dir", segment_bytes = 1024, verify = false } } },
  ["spool:append"] = { { 1, "t", "k", MESSAGE, 1723161255342, 5 }, { 9, "", "", "", 0, 0 } },
  ["spool:sync"] = { {} }, ["spool:wait"] = { { 5 } }, ["spool:synced"] = { {} },
  ["spool:read"] = { { 1, 10, 5 }, { 1, 1 << 40, 1000, 100 } }, ["spool:drop"] = { {} },
  ["spool:acknowledge"] = { { 2 } }, ["spool:losses"] = { {} }, ["spool:stats"] = { {} },
  ["host.window.store"] = { { { time = 2, max_delay_ms = 0, windows = { { size_ms = 60000,
    lateness_ms = 0, key = 0, parts = parts(), outs = outs() } } } } },
  ["window store:open"] = { { 0, 0 }, { 0, 0, 1723161255342, true } },
  ["window store:add"] = { { of "batch", 1723161255342 } },
  ["window store:render"] = { { 1, 0, 1, 100, 10000 } }, ["window store:row"] = { { 1, 1, 0 } },
  ["window store:rows"] = { { 1 } }, ["window store:verify"] = { { 0, 1, 2 } },
  ["window store:floor"] = { { 1, "cut", 5 } }, ["window store:state"] = { { 0 } },
  ["host.zone.offset"] = { { "Europe/Berlin", 1723161255 } },
  ["mill.args.parse"] = { { { usage = "x", options = { { "flag", "text" } } }, { "--flag" } } },
  ["mill.csv.header"] = { { "a,b,c", { "a", "c" } } },
  ["mill.retry.judge"] = { { { status = 429, headers = { ["retry-after"] = "3" } }, 5 } },
  ["mill.mysqlurl.parse"] = { { "mysql://u:p@127.0.0.1:3306/db?ssl=true" } },
  ["mill.select.plan"] = { { { a = "sum(price)", k = "key" },
    { price = { type = "decimal", cell = 1, precision = 20, scale = 8 } } } },
  ["mill.stage.tumbling"] = { { { size = "1m", time = "timestamp", key = "symbol" } } },
  ["mill.stage.json"] = { { { fields = { symbol = "string", price = "decimal(20,8)" } } } },
  ["mill.output.table"] = { { { { "a", "b" }, { "c", "d" } } } },
}

-- Fences ---------------------------------------------------------------------
-- They go past metatables: what one raises here would end the worker.

local PROGRAM = { ["true"] = true, ["false"] = true, cat = true, sleep = true }
local NETWORK = { brokers = 1, host = 1, address = 1, proxy = 1, url = 1, endpoints = 1, target = 1,
  ["bootstrap.servers"] = 1, ["metadata.broker.list"] = 1 }
local KNOWN = {}
for _, list in ipairs { values.HOSTS, values.URLS } do
  for _, v in ipairs(list) do KNOWN[v] = true end
end

local function loopback(v)
  return type(v) ~= "string" or KNOWN[v] or v:find("^127%.0%.0%.1:%d+$")
    or v:find("^http://127%.0%.0%.1:%d+/?$")
end

-- Addresses anywhere in the arguments are of this machine.
local function fence_network(v, seen)
  if type(v) ~= "table" or seen[v] then return end
  seen[v] = true
  for key, item in next, v do
    if NETWORK[key] and not loopback(item) then
      v[key] = choose(key == "url" and values.URLS or values.HOSTS)
    end
    fence_network(item, seen)
  end
end

function M.fence(name, args, pool)
  for i = 1, args.n do fence_network(args[i], {}) end
  local fence = M.FENCES[name]
  if fence then fence(args, pool) end
end

local function texts_of_hosts(args)
  for i = 1, args.n do
    if type(args[i]) == "string" and not loopback(args[i]) then args[i] = choose(values.URLS) end
  end
end

M.FENCES = {
  -- Signals go to children of this worker; other numbers are none of a process.
  ["host.process.kill"] = function(args, pool)
    if math.tointeger(args[1]) then
      local child = random(2) == 1 and pool.open("child process")
      args[1] = child and child:pid() or choose { 0x7FFFFFF0, -1 << 40, 1 << 40, math.mininteger }
    end
  end,
  -- Four harmless programs, streams to none, pipes or the scratch folder, for a while.
  ["host.process.spawn"] = function(args)
    local o = args[1]
    if type(o) ~= "table" then return end
    local argv = rawget(o, "argv")
    if type(argv) == "table" and type(rawget(argv, 1)) == "string" and not PROGRAM[argv[1]] then
      rawset(argv, 1, choose { "true", "cat", "none-such" })
    end
    for _, stream in ipairs { "stdin", "stdout", "stderr" } do
      local how = rawget(o, stream)
      if how == nil or how == "inherit" then rawset(o, stream, "null") end
    end
    if random(8) > 1 then rawset(o, "death_signal", nil) end
  end,
  -- A smaller limit would end the worker's own work.
  ["host.heap.limit"] = function(args)
    local n = math.tointeger(args[1])
    if n and n > 0 and n < 1 << 30 then args[1] = 1 << 30 end
  end,
  -- Descriptors 1 and 2 are the worker's; nothing is closed or written by number.
  ["host.process.raise_stop"] = function() end,
  -- Its step runs until it says no: three times at most.
  ["host.readline.loop"] = function(args)
    local step, left = args[1], 3
    if type(step) == "function" then
      args[1] = function()
        left = left - 1
        if left < 0 then return false end
        return step()
      end
    end
  end,
  ["mill.config.kafka"] = texts_of_hosts,
  ["mill.endpoints.new"] = texts_of_hosts,
  -- A breath between the rounds of what polls by itself.
  ["mill.check.run"] = function(args)
    if type(args[1]) == "table" then args[1] = { { name = "a", run = rawget(args[1], 1) } } end
  end,
}

--- Module (or function) -> why it is not called here.
M.SKIPPED = {
  ["mill.cli"] = "runs commands", ["mill.dev"] = "starts servers", ["mill.repl"] = "is a terminal's",
  ["mill.fleet"] = "starts programs", ["mill.supervisor"] = "starts programs",
  ["mill.runner"] = "needs a run", ["mill.run"] = "needs a run", ["mill.commit"] = "needs a run",
  ["mill.committer"] = "needs a run", ["mill.control"] = "needs a run",
  ["mill.derived"] = "needs a run", ["mill.frozen"] = "needs a run", ["mill.notes"] = "needs a run",
  ["mill.instance"] = "needs a run", ["mill.policy"] = "needs a run",
  ["mill.progress"] = "needs a run", ["mill.register"] = "needs a run",
  ["mill.report"] = "needs a run", ["mill.reset"] = "needs a run", ["mill.rows"] = "needs a run",
  ["mill.setup"] = "needs a run", ["mill.source"] = "needs a run", ["mill.idle"] = "needs a run",
  ["mill.outbox"] = "needs a run", ["mill.replay"] = "needs a run", ["mill.view"] = "needs a run",
  ["mill.replay_dead"] = "needs a database", ["mill.adopt"] = "needs a database",
  ["mill.session"] = "needs a database", ["mill.schema"] = "needs a database",
  ["mill.tablesum"] = "needs a database", ["mill.upsert"] = "needs a database",
  ["mill.lag"] = "needs a database", ["mill.shell"] = "needs a database",
  ["mill.backup"] = "runs mysqldump", ["mill.dump"] = "runs mysqldump",
  ["mill.exchange"] = "is a server until it is stopped", ["mill.producer"] = "runs until stopped",
  ["mill.producer_report"] = "needs a producer", ["mill.timesync"] = "needs a server",
  ["mill.topic"] = "needs a broker", ["mill.script"] = "runs a script",
  ["mill.migrate.lock"] = "needs a database", ["mill.migrate.applied"] = "needs a database",
  ["mill.migrate.apply"] = "needs a database",
  ["mill.mask.hide"] = "is kept for good, and would hide the worker's own words",
  ["mill.log.to"] = "takes the log away from the worker",
}

--- Whose messages must not speak of their own variables: they take what people write.
M.PLAIN = {
  ["mill.duration"] = 1, ["mill.csv"] = 1, ["mill.settings"] = 1, ["mill.mysqlurl"] = 1,
  ["mill.select"] = 1, ["mill.mask"] = 1, ["mill.json"] = 1, ["mill.retry"] = 1,
  ["mill.config"] = 1, ["mill.args"] = 1, ["mill.stage"] = 1, ["mill.zone"] = 1,
  ["mill.backoff"] = 1, ["mill"] = 1,
}

--- Of those, what other modules call with plans of theirs.
M.INNER = { ["mill.select.sources"] = 1, ["mill.args.parse"] = 1, ["mill.args.help"] = 1 }

return M
