--- The control socket of a live process: `tidemill repl --attach NAME` asks, here it is answered.
--
-- A file NAME.sock in the state folder, for the same user only. Requests are served between turns of
-- the process's loop; each may run for a second at most, so that the stream goes on. What is answered
-- passes the mask: a password in use is never shown.

local clock = require "host.clock"
local control = require "host.control"
local expect = require "mill.expect"
local json = require "mill.json"
local live = require "mill.live"
local log = require "mill.log"
local mask = require "mill.mask"
local process = require "host.process"

local M = {}

local PRIVATE = 448 -- 0700
local LIMIT_MS = 1000
local EVERY_MS = 50
local GROWTH = 64 << 20 -- by which the Lua heap may grow meanwhile
local OUTPUT_MAX, ERROR_MAX = 1 << 20, 64 << 10 -- written as JSON six times that
local SECRET_MAX = 4096
local COMPLETE_MS = 1500
local REFUSAL = json.encode { refused = "only the user it runs as, and root, may attach" }
local SUFFIX = ".sock"

local Socket = {}
Socket.__index = Socket

--- The folder of the sockets.
function M.folder()
  return (os.getenv("TIDEMILL_VAR") or "var") .. "/state"
end

-- ---- the side of the live process ----------------------------------------------------------------

local function settings()
  local config = require "mill.config"
  local rows = {}
  for i, row in ipairs(config.all()) do
    rows[i] = { row.key, require("mill.cmd.config").shown(row) or json.null, row.origin }
  end
  return { columns = { "key", "value", "origin" }, types = { "string", "string", "string" },
    rows = rows }
end

local HELP = [[
You are in a live process; each input may take a second.

  status()     what it is doing: rates, lag, commits, health
  partitions() a pipeline's partitions: position, watermark
  metrics()    all metrics
  settings()   the settings, secrets masked
  and the names of the shell: see `tidemill repl` and help() there
]]

-- What is said goes to the answer, as far as there is room.
local function say(self, text)
  local room = OUTPUT_MAX + SECRET_MAX + 1 - self.size
  if #text > room then text = text:sub(1, room) end
  self.size = self.size + #text
  self.said[#self.said + 1] = text
end

local function limited(f, ...)
  return control.limited(LIMIT_MS, GROWTH, f, ...)
end

-- A session whose output goes to the answer.
local function session_of(self, globals)
  local session
  local write = function(text) say(self, text) end
  local offered = require("mill.shell").globals(function() end)
  for name, value in pairs(live.globals(write, function() return session.env end)) do
    offered[name] = value
  end
  offered.metrics = function() return require("host.metrics").snapshot() end
  offered.settings = settings
  offered.help = function() write(HELP) end
  for name, value in pairs(globals) do offered[name] = value end
  session = require("mill.repl").new { globals = offered, write = write, call = limited }
  session.base._G = session.env
  return session
end

--- Open the socket of this process. That it cannot be had is said and is no failure.
-- @param name of the process, such as "averages@host"
-- @param globals names for the session: status (function), ...
-- @param dir the folder, default M.folder()
-- @return socket, or nil
function M.open(name, globals, dir)
  dir = dir or M.folder()
  local path = ("%s/%s%s"):format(dir, name:gsub("[^%w@._-]", "_"), SUFFIX)
  local server, message = process.mkdir_p(dir, PRIVATE), nil
  if server then server, message = control.listen { path = path, refusal = REFUSAL } end
  if not server then
    log.info("no `tidemill repl --attach` here: %s", message or dir .. " cannot be made")
    return nil
  end
  local self = setmetatable({ server = server, globals = globals, due = 0, refused = 0 }, Socket)
  return self
end

-- Without passwords, also at the end of what was cut: there one may have lost its last letters.
local function shown(text, most)
  local cut = #text > most + SECRET_MAX
  text = mask.mask(text:sub(1, most + SECRET_MAX))
  if not cut then return text end
  return text:sub(1, #text - SECRET_MAX) .. "\n... (cut: the answer is too long)\n"
end

local function completed(self, text)
  local ok, words, at = limited(self.session.complete, self.session, text)
  return { ok = ok, words = ok and json.array(words) or nil, at = at }
end

local function executed(self, request)
  self.session.json = request.json == true
  self.session.whole = request.whole == true
  self.session.width = math.type(request.width) == "integer" and request.width or 80
  local ok, message = self.session:execute(request.code)
  return {
    ok = ok, output = shown(table.concat(self.said), OUTPUT_MAX),
    error = not ok and shown(tostring(message), ERROR_MAX) or nil,
  }
end

local function answer(self, text)
  local request = json.decode(text)
  self.session = self.session or session_of(self, self.globals)
  self.said, self.size = {}, 0
  if type(request) == "table" and type(request.complete) == "string" then
    return completed(self, request.complete)
  elseif type(request) == "table" and type(request.code) == "string" then
    return executed(self, request)
  end
  return { ok = false, error = "the request is not what this version sends" }
end

--- Answer what has come; returns at once, or within a second for each request.
function Socket:serve()
  local now = clock.mono_ms()
  if now < self.due then return end
  self.due = now + EVERY_MS
  local requests = self.server:poll()
  if self.refused == 0 and self.server:stats().refused > 0 then
    log.warn("another user asked for `tidemill repl --attach` and was refused; said once")
    self.refused = 1
  end
  for _, request in ipairs(requests) do
    local ok, reply = pcall(answer, self, request.text)
    if not ok then reply = { ok = false, error = shown(tostring(reply), ERROR_MAX) } end
    -- Gone meanwhile: nobody wants the answer any more.
    local coded, text = pcall(json.encode, reply)
    self.server:reply(request.id, coded and text
      or json.encode { ok = false, error = "the answer is no text: " .. tostring(text) })
  end
end

--- What to wait for in a loop: { fd =, events = }, or nil so soon after serving.
function Socket:waits()
  if clock.mono_ms() < self.due then return nil end
  return { fd = self.server:fd(), events = "r" }
end

function Socket:close()
  self.server:close()
end

Socket.__close = Socket.close

-- ---- the side that asks --------------------------------------------------------------------------

--- Names of the processes that have a socket and answer; sockets that nobody serves are removed.
function M.names(dir)
  dir = dir or M.folder()
  local names = {}
  for _, file in ipairs(process.list(dir) or {}) do
    local name = file:match("^(.+)%.sock$")
    if name and not name:find("%.sock%.new$") then
      local path = dir .. "/" .. file
      local found, _, code = control.ask(path, "", 0)
      if found or code == "TIMEOUT" or code == "GONE" then
        names[#names + 1] = name
      elseif code == "REFUSED" then
        os.remove(path)
      end
    end
  end
  table.sort(names)
  return names
end

--- The socket of a name: the name itself, or NAME@INSTANCE when there is one such.
-- @return path; or nil, message
function M.find(name, dir)
  dir = dir or M.folder()
  local listed, message, code = process.list(dir)
  if not listed and code ~= "NOENT" then return nil, message end
  local names, matches = M.names(dir), {}
  for _, known in ipairs(names) do
    if known == name then return ("%s/%s%s"):format(dir, known, SUFFIX) end
    if known:match("^(.-)@") == name then matches[#matches + 1] = known end
  end
  if #matches == 1 then return ("%s/%s%s"):format(dir, matches[1], SUFFIX) end
  if #matches > 1 then
    return nil, ("several run by the name '%s': %s"):format(name, table.concat(matches, ", "))
  end
  return nil, ("nothing named '%s' runs here; in %s: %s"):format(name, dir,
    #names > 0 and table.concat(names, ", ") or "nothing (set TIDEMILL_VAR to the folder it runs in)")
end

local function ask(path, request, timeout_ms)
  local text, message, kind = control.ask(path, json.encode(request), timeout_ms)
  if not text then return nil, message, kind end
  local reply = json.decode(text)
  if type(reply) ~= "table" then
    return nil, "control: GARBLED: the answer is not what this version sends", "GARBLED"
  elseif reply.refused then
    return nil, ("control: DENIED: %s: %s"):format(path, tostring(reply.refused)), "DENIED"
  end
  return reply
end

--- Run code in the process behind a socket.
-- @return { ok =, output =, error = }, or nil, message, code
function M.ask(path, code, options)
  return ask(path, { code = code, json = options.json or false, width = options.width,
    whole = options.whole or false },
    options.timeout_ms or 10000)
end

--- Words that can stand at the end of a line, as Session:complete of mill.repl; none when the
-- process does not answer soon.
-- @return words, position
function M.complete(path, text)
  expect.a("string", text, "text")
  local reply = ask(path, { complete = text }, COMPLETE_MS)
  if not reply or type(reply.words) ~= "table" or math.type(reply.at) ~= "integer" then
    return {}, #text + 1
  end
  return reply.words, reply.at
end

return M
