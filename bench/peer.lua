--- The peers of bench/peers: how they are started, and into what table they write.

local config = require "mill.config"
local fault = require "mill.fault"
local mysqlurl = require "mill.mysqlurl"
local process = require "host.process"

local M = {}

--- In this order. `peer` is its folder in bench/peers, `env` are settings of its program; `id` tells it
-- from others of the same program. `share`: the whole job takes only this part of the messages.
-- `prompt` says what its latency run does differently.
M.LIST = {
  { name = "Kafka Streams, at least once", peer = "streams", prompt = "cache off" },
  { name = "Kafka Streams, in-memory stores", peer = "streams", id = "streams-memory",
    env = { PEER_STORE = "memory" }, only_whole = true },
  { name = "Kafka Streams, exactly_once_v2", peer = "streams", id = "streams-eos",
    env = { PEER_GUARANTEE = "exactly_once_v2" }, prompt = "cache off" },
  { name = "Flink DataStream", peer = "flink", prompt = "a window fires for each message" },
  { name = "Flink DataStream, checkpoints every 10 s", peer = "flink", id = "flink-checkpoints",
    env = { PEER_CHECKPOINT_MS = "10000" }, only_whole = true },
  { name = "Flink SQL", peer = "flink-sql", prompt = "flush every row" },
  { name = "Spark, 2 shuffle partitions", peer = "spark" },
  { name = "Spark, 200 shuffle partitions (default)", peer = "spark", id = "spark-200",
    env = { PEER_SHUFFLE = "200" }, only_whole = true },
  { name = "plain Python, orjson", peer = "python" },
  { name = "plain Python, json", peer = "python", id = "python-json",
    env = { PEER_JSON = "json" }, only_whole = true },
  { name = "Bytewax, 1 worker", peer = "bytewax", only_whole = true },
  { name = "Quix Streams", peer = "quix", only_whole = true, share = 0.2 },
}

local commands = {}

--- Those that --peers takes, by folder or by id; all without it.
function M.wanted(b)
  if not b.peers then return M.LIST end
  local list, known = {}, {}
  for _, item in ipairs(M.LIST) do
    known[item.peer], known[item.id or item.peer] = true, true
    for name in b.peers:gmatch "[^,]+" do
      if name == item.peer or name == item.id then
        list[#list + 1] = item
        break
      end
    end
  end
  for name in b.peers:gmatch "[^,]+" do
    if not known[name] then fault.raise(fault.USAGE, "--peers: no peer '%s'", name) end
  end
  return list
end

--- The program and its arguments, fetched and compiled on first use.
function M.command(b, peer)
  if not commands[peer] then
    local list = {}
    for line in b.run({ "tools/fetch-peers.sh", peer }):gmatch "[^\n]+" do list[#list + 1] = line end
    commands[peer] = list
  end
  return { table.unpack(commands[peer]) }
end

--- A table as peers write it: without the columns that only tidemill has.
function M.table(b, server)
  local name = b.name "peer"
  b.sql(server, [[create table %s (symbol varchar(32) character set utf8mb4 not null,
    start_time datetime not null, average_price decimal(20,8), samples bigint,
    primary key (symbol, start_time))]], name)
  return name
end

--- Environment of a peer; its folder is removed by M.clean.
function M.environment(b, item, server, topic_name, table_name, messages)
  local db = assert(mysqlurl.parse(server.url))
  local folder = ("%s/var/bench/peer-%s"):format(process.realpath ".", b.name(item.peer))
  process.mkdir_p(folder)
  local env = {
    PEER_BROKERS = config.kafka(), PEER_TOPIC = topic_name, PEER_TABLE = table_name,
    PEER_NAME = table_name, PEER_DIR = folder, PEER_MESSAGES = ("%d"):format(messages),
    PEER_HOST = db.host, PEER_PORT = ("%d"):format(db.port), PEER_USER = db.user,
    PEER_PASSWORD = db.password, PEER_DATABASE = db.database,
    PEER_JDBC = ("jdbc:mariadb://%s:%d/%s?user=%s&password=%s&sslMode=disable"
      .. "&allowPublicKeyRetrieval=true&timezone=UTC"):format(db.host, db.port, db.database, db.user,
      db.password),
  }
  env.SPARK_LOCAL_IP = "127.0.0.1"
  -- Java programs that are stopped leave files behind: in the folder that goes with them.
  env.JDK_JAVA_OPTIONS = ("-Djava.io.tmpdir=\"%s\""):format(folder)
  for key, value in pairs(item.env or {}) do env[key] = value end
  return env
end

function M.clean(b, env)
  b.run { "rm", "-rf", env.PEER_DIR }
end

return M
