--- Servers of a spec's own, in a private folder, to be stopped and killed at will.
--
--   local own = servers.up { "kafka", "mysql" }
--   own.env.TIDEMILL_KAFKA; own "kafka-kill"; own "kafka-start"; own:close()
--
-- They are started by a copy of tools/servers.sh; nobody else's are touched.

local clock = require "host.clock"
local process = require "host.process"

local M = {}

local Own = {}
Own.__index = Own

local DEADLINE_MS = 180000

--- Run a command to its good end; returns what it wrote to stdout.
function M.run(argv)
  local child <close> = assert(process.spawn {
    argv = argv, stdin = "null", stdout = "pipe", stderr = "null",
  })
  local out, deadline = {}, clock.mono_ms() + DEADLINE_MS
  while true do
    assert(clock.mono_ms() < deadline, table.concat(argv, " ") .. " did not end")
    local bytes = child:read("stdout", 100)
    if not bytes then break end
    out[#out + 1] = bytes
  end
  local ended = assert(child:wait(10000))
  assert(ended.code == 0, table.concat(argv, " ") .. " failed")
  return table.concat(out)
end

--- Start servers. `names`: kafka, mysql, mariadb.
-- @return own, with env (the addresses by the names of the environment) and folder
function M.up(names)
  local folder = assert(process.mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/tidemill-servers-"))
  M.run { "cp", "-r", process.home() .. "/tools", folder .. "/tools" }
  local self = setmetatable({ folder = folder, env = {} }, Own)
  local ok, text = pcall(self, "up", table.unpack(names))
  if not ok then
    self:close()
    error(text, 0)
  end
  for name, value in text:gmatch("export (%S-)=(%S+)") do self.env[name] = value end
  return self
end

--- A command of tools/servers.sh: own "kafka-kill".
Own.__call = function(self, ...)
  return M.run { "bash", self.folder .. "/tools/servers.sh", ... }
end

--- Send a signal to a server.
function Own:signal(server, name)
  local file = assert(io.open(("%s/var/servers/%s/pid"):format(self.folder, server)))
  local pid = file:read("a"):match("^%d+")
  file:close()
  M.run { "kill", "-" .. name, pid }
end

--- Where a server keeps its data.
function Own:data(server)
  return ("%s/var/servers/%s/data"):format(self.folder, server)
end

--- Stop them, and remove all they had.
function Own:close()
  pcall(self, "wipe")
  M.run { "rm", "-rf", self.folder }
end

return M
