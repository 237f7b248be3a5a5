--- tidemill deadletters: list, show and replay what could not be counted.

local config = require "mill.config"
local fault = require "mill.fault"
local json = require "mill.json"
local mysql = require "host.mysql"
local output = require "mill.output"
local progress = require "mill.progress"
local replay = require "mill.replay_dead"
local script = require "mill.script"
local session_ = require "mill.session"
local setup = require "mill.setup"

local M = {
  summary = "list, show and replay bad messages",
  usage = "tidemill deadletters ls [PIPELINE] [--all] [--limit N] [--json]\n"
    .. "       tidemill deadletters show ID [--json]\n"
    .. "       tidemill deadletters replay SCRIPT ID [--payload FILE] [--set KEY=VALUE] [--json]",
  takes = 3,
  options = {
    { "all", nil, "ls: also those that were replayed, with when" },
    { "limit", "N", "ls: at most so many, newest first (default 50)", type = "integer" },
    { "payload", "FILE", "replay: the repaired message; - for standard input" },
    { "set", "KEY=VALUE", "replay: override a setting of the script", many = true },
    { "json", nil, "print one JSON object" },
  },
  exits = {
    { 0, "ok" }, { 2, "usage, or no such letter" }, { 3, "the database cannot be reached" },
    { 5, "replay: the message is still bad, or another script wrote the table" },
  },
}

local function open()
  local session = session_.new(config.mysql())
  setup.check("database", session:open())
  progress.require_tables(session)
  return session
end

local function id_of(text)
  local id = math.tointeger(tonumber(text))
  if not id then fault.raise(fault.USAGE, "'%s' is not the id of a dead letter", text) end
  return id
end

local COLUMNS = {
  "id", "pipeline", "kind", "code", "reason", "path", "topic", "partition", "offset", "created_at",
}

local function list(opts, rest)
  local columns = { table.unpack(COLUMNS) }
  if opts.all then columns[#columns + 1] = "replayed_at" end
  local session = open()
  local where = {}
  if rest[2] then where[#where + 1] = session:bind("pipeline = ?", rest[2]) end
  if not opts.all then where[#where + 1] = "replayed_at is null" end
  local filter = #where > 0 and " where " .. table.concat(where, " and ") or ""
  local result = fault.check(fault.SERVER, "dead letters", session:query(([[select id, pipeline,
    kind, code, reason, path, topic, `partition`, `offset`, created_at%s from mill_dead_letters%s
    order by id desc limit %d]]):format(opts.all and ", replayed_at" or "", filter, opts.limit or 50)))
  local total = fault.check(fault.SERVER, "dead letters",
    session:query("select count(*) from mill_dead_letters" .. filter)).rows[1][1]
  session:close()
  if opts.json then
    local letters = json.array {}
    for i, row in ipairs(result.rows) do
      letters[i] = {}
      for c, name in ipairs(columns) do
        letters[i][name] = row[c] ~= mysql.null and row[c] or nil
      end
    end
    print(json.encode { total = total, letters = letters })
  elseif total == 0 then
    print "no dead letters"
  else
    print(output.table({ columns = columns, rows = result.rows }, { null = mysql.null }))
    print(("%d of %d"):format(#result.rows, total))
  end
  return 0
end

local SHOWN = {
  "id", "pipeline", "kind", "code", "reason", "path", "cluster_id", "topic", "partition", "offset",
  "stamp_ms", "result_table", "result_key", "window_start_ms", "result_value", "payload_length",
  "sha256", "created_at", "replayed_at", "message_key", "payload",
}

local function show(opts, rest)
  if not rest[2] then fault.raise(fault.USAGE, "usage: %s", M.usage) end
  local id = id_of(rest[2])
  local session = open()
  local letter = replay.letter(session, id)
  session:close()
  if not letter then fault.raise(fault.USAGE, "there is no dead letter %d", id) end
  if opts.json then
    for _, name in ipairs { "payload", "message_key" } do
      if letter[name] and not utf8.len(letter[name]) then
        letter[name .. "_hex"] = letter[name]:gsub(".", function(c)
          return ("%02x"):format(c:byte())
        end)
        letter[name] = nil
      end
    end
    print(json.encode(letter))
    return 0
  end
  for _, name in ipairs(SHOWN) do
    if letter[name] ~= nil then
      print(("%16s: %s"):format(name, output.clean(tostring(letter[name]))))
    end
  end
  return 0
end

local function read_payload(path)
  if not path then return nil end
  if path == "-" then return io.stdin:read("a") end
  local file, message = io.open(path, "rb")
  if not file then fault.raise(fault.USAGE, "--payload: %s", message) end
  local text = file:read("a")
  file:close()
  return text
end

local function replay_one(opts, rest)
  if not rest[3] then fault.raise(fault.USAGE, "usage: %s", M.usage) end
  local id = id_of(rest[3])
  local pipeline = script.pipeline(rest[2], opts.set)
  local done = replay.run(pipeline, id, read_payload(opts.payload))
  if opts.json then
    print(json.encode { id = id, windows = done.windows, late = done.late })
  elseif done.late > 0 then
    print(("dead letter %d: its window takes no more rows; it went to mill_late"):format(id))
  else
    print(("dead letter %d was added to %d window%s"):format(id, done.windows,
      done.windows == 1 and "" or "s"))
  end
  return 0
end

function M.run(opts, rest)
  local verb = rest[1] or "ls"
  if verb ~= "replay" and rest[3] then
    fault.raise(fault.USAGE, "unexpected argument '%s'", rest[3])
  end
  if verb == "ls" then return list(opts, rest) end
  if verb == "show" then return show(opts, rest) end
  if verb == "replay" then return replay_one(opts, rest) end
  fault.raise(fault.USAGE, "unknown verb '%s'\nusage: %s", verb, M.usage)
end

return M
