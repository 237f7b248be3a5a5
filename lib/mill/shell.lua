--- What the shell offers beside the modules: sql, topics, lag, tail, help.
-- Connections are opened at the first use, by mill.config, and shared; one that
-- broke is opened anew at the next use.

local config = require "mill.config"
local json = require "mill.json"
local output = require "mill.output"

local M = {}

local TIMEOUT_MS = 5000

local HELP = [[
Type an expression and its value is shown; type statements and they run.
An unfinished input goes on in the next line. `_` is the last value, `__`
the one before; a local stays for the next input.
What fails ends the input, and a script on stdin: pcall it to go on.
TAB completes, Ctrl-R searches the history, Ctrl-C clears the line or
interrupts what runs, Ctrl-D leaves.

  sql "select ..."   a query on the configured database;
                     sql(text, ...) binds values to its question marks
  db()               the connection itself
  topics()           the topics of the configured brokers
  lag([pipeline])    how far each position is behind its partition's end
  tail(topic [, n])  the newest n records of a topic (10)
  help()             this text

  modules, no require needed:
  %s
]]

local state = {} -- the connections

-- An interrupt raises past `checked` and closes the connection, so it is looked at here too.
local function database()
  if state.db and not state.db:alive() then
    state.db:close()
    state.db = nil
  end
  if not state.db then
    local options = config.mysql()
    output.hide(options.password)
    local db, message, code, number, sqlstate = require("host.mysql").connect(options)
    if not db then
      return nil, message, code, number, sqlstate
    end
    state.db = db
  end
  return state.db
end

-- Passes a result on, or a failure; a connection that is lost is let go.
local function checked(result, ...)
  if result ~= nil then
    return result
  elseif state.db and not state.db:alive() then
    state.db:close()
    state.db = nil
  end
  return nil, ...
end

--- sql(text, ...) -> result | nil, message, code, errno, sqlstate
-- Values after the text are bound to its question marks.
function M.sql(text, ...)
  local db, message, code, number, sqlstate = database()
  if not db then
    return nil, message, code, number, sqlstate
  elseif select("#", ...) == 0 then
    return checked(db:query(text))
  end
  local statement, why, kind, errno, class = db:prepare(text)
  if not statement then
    return checked(nil, why, kind, errno, class)
  end
  local closing <close> = statement -- luacheck: ignore 211
  return checked(statement:execute(...))
end

-- The client that answers about topics.
local function admin()
  if not state.admin then
    local made, message, code = require("host.kafka").admin {
      brokers = config.kafka(), conf = config.kafka_conf(),
    }
    if not made then
      return nil, message, code
    end
    state.admin = made
  end
  return state.admin
end

-- A failure of Kafka, saying which brokers were asked.
local function unanswered(message, code)
  return nil, ("%s (brokers: %s)"):format(message, config.kafka()), code
end

-- A result without the column of errors when there is none.
local function result(columns, types, rows)
  local last = #columns
  for _, row in ipairs(rows) do
    if row[last] ~= nil and row[last] ~= json.null then
      return { columns = columns, types = types, rows = rows }
    end
  end
  table.remove(columns)
  return { columns = columns, types = types, rows = rows }
end

--- topics() -> result table | nil, message, code
function M.topics()
  local client, message, code = admin()
  if not client then
    return nil, message, code
  end
  local metadata, why, kind = client:metadata(nil, TIMEOUT_MS)
  if not metadata then
    return unanswered(why, kind)
  end
  local rows = {}
  for name, topic in pairs(metadata.topics) do
    local leaderless = 0
    for _, partition in ipairs(topic.partitions) do
      leaderless = leaderless + (partition.leader < 0 and 1 or 0)
    end
    rows[#rows + 1] = { name, #topic.partitions, leaderless, topic.error }
  end
  table.sort(rows, function(a, b) return a[1] < b[1] end)
  return result({ "topic", "partitions", "without leader", "error" },
    { "string", "int", "int", "string" }, rows)
end

-- A consumer in no group, for one look.
local function reader()
  return require("mill.lag").reader { brokers = config.kafka(), conf = config.kafka_conf() }
end

--- lag([pipeline]) -> result table | nil, message, code
function M.lag(pipeline)
  local db, message, code = database()
  if not db then
    return nil, message, code
  end
  local consumer <close>, why, kind = reader()
  if not consumer then
    return nil, why, kind
  end
  local found, text, class = require("mill.lag").of(db, consumer, pipeline, TIMEOUT_MS)
  if not found then
    return checked(nil, text, class)
  end
  local rows = {}
  for i, p in ipairs(found) do
    rows[i] = { p.pipeline, p.topic, p.partition, p.position, p.high or json.null,
      p.lag or json.null, ("%.1f"):format(p.age_s), p.error or json.null }
  end
  return result({ "pipeline", "topic", "part", "position", "end", "lag", "age s", "error" },
    { "string", "string", "int", "int", "int", "int", "decimal", "string" }, rows)
end

-- The partitions of a topic with their bounds.
local function bounds(topic, consumer)
  local client, message, code = admin()
  if not client then
    return nil, message, code
  end
  local metadata, why, kind = client:metadata(topic, TIMEOUT_MS)
  if not metadata then
    return unanswered(why, kind)
  end
  local found = metadata.topics[topic]
  if not found or found.code then
    return nil, ("shell: NOTOPIC: %s: %s"):format(topic, found and found.error or "no such topic"),
      "NOTOPIC"
  end
  local list = {}
  for i, p in ipairs(found.partitions) do
    list[i] = { topic = topic, partition = p.id }
  end
  return require("mill.lag").ends(consumer, list, TIMEOUT_MS)
end

--- tail(topic [, n]) -> result table | nil, message, code
-- The newest n records (10) of the topic, by their timestamps.
function M.tail(topic, n)
  local lag = require "mill.lag"
  n = n or 10
  local consumer <close>, message, code = reader()
  if not consumer then
    return nil, message, code
  end
  local list, why, kind = bounds(topic, consumer)
  if not list then
    return nil, why, kind
  end
  local records, text, class = lag.newest(consumer, list, n, TIMEOUT_MS)
  if not records then
    return nil, text, class
  end
  local rows = {}
  for i = math.max(1, #records - n + 1), #records do
    local r = records[i]
    rows[#rows + 1] = { r.partition, r.offset, lag.time_text(r.stamp_ms), r.key or json.null,
      r.value or json.null }
  end
  return { columns = { "partition", "offset", "time (UTC)", "key", "value" },
    types = { "int", "int", "datetime", "string", "string" }, rows = rows }
end

-- A failure whose value is thrown away (`sql "..."; print(1)`) must not go by unseen: what the shell
-- offers raises it. It prints as its message.
local FAILURE = { __tostring = function(failure) return failure.message end }

local function passed(value, message, code)
  if value == nil then
    error(setmetatable({ message = message, code = code }, FAILURE), 0)
  end
  return value
end

local function raising(f)
  return function(...) return passed(f(...)) end
end

--- The names the shell offers; `leave()` is called by exit() and quit().
function M.globals(leave)
  local names = {}
  for name in pairs(require("mill.repl").MODULES) do
    names[#names + 1] = name
  end
  table.sort(names)
  return {
    sql = raising(M.sql), db = raising(database), topics = raising(M.topics),
    lag = raising(M.lag), tail = raising(M.tail),
    exit = leave, quit = leave,
    help = function() io.stdout:write((HELP:format(table.concat(names, " ")))) end,
  }
end

return M
