--- A private MariaDB server for specs, one for the whole test process.
--
--   local server = require "spec.support.mariadb".start()
--   local name, options = server.fresh_database()
--   local db = assert(mysql.connect(options))
--
-- It lives in a folder of its own under TMPDIR, listens on a unix socket and on a free port of
-- 127.0.0.1, takes root without a password, and dies with the test process however that ends; a
-- normal end removes the folder as well. A spec that stops the server for longer than its own
-- `it` uses `new()` and stops what it started.

local clock = require "host.clock"
local process = require "host.process"
local mysql = require "host.mysql"

local M = {}

local START_DEADLINE_MS = 60000 * require "spec.support.slow"
local STOP_DEADLINE_MS = 30000 * require "spec.support.slow"
local PORT_TRIES = 10
-- busted takes package.loaded back after each spec file; the registry stays.
local SHARED = "tidemill.spec.mariadb"

local function shell(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text
end

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  file:close()
end

-- A port below those the kernel gives to outgoing connections and that nobody listens on. Somebody
-- else may still take it first; then the server ends and the next one is tried.
local function free_port()
  local low = tonumber(read("/proc/sys/net/ipv4/ip_local_port_range"):match("%d+")) or 32768
  local used = {}
  for hex in (read("/proc/net/tcp") .. read("/proc/net/tcp6")):gmatch("%x:(%x%x%x%x) ") do
    used[tonumber(hex, 16)] = true
  end
  while true do
    local port = math.random(10000, math.max(low, 20000) - 1)
    if not used[port] then return port end
  end
end

-- Only root has to say as whom the server runs.
local function as_user(argv)
  if process.uid() == 0 then argv[#argv + 1] = "--user=root" end
  return argv
end

-- A server clears the temporary tables out of its tmpdir when it starts, those of others too.
local function own_tmp(dir) return "--tmpdir=" .. dir .. "/tmp" end

local function install(dir)
  assert(process.mkdir_p(dir .. "/tmp"))
  local child = assert(process.spawn {
    argv = as_user {
      "mariadb-install-db", "--no-defaults", "--datadir=" .. dir .. "/data", "--skip-test-db",
      "--auth-root-authentication-method=normal", "--skip-name-resolve",
      "--innodb-log-file-size=8M", own_tmp(dir),
    },
    env = { TMPDIR = dir .. "/tmp" },
    stdout = dir .. "/install.log", stderr = "stdout",
  })
  local status = child:wait(START_DEADLINE_MS)
  child:close()
  if not status or status.code ~= 0 then
    error("mariadb-install-db failed:\n" .. read(dir .. "/install.log"))
  end
  write(dir .. "/init.sql", [[
create database if not exists test;
create user if not exists root@'127.0.0.1';
grant all privileges on *.* to root@'127.0.0.1' with grant option;
]])
end

local function launch(dir, port, extra)
  local argv = as_user {
    "mariadbd", "--no-defaults", "--datadir=" .. dir .. "/data", "--socket=" .. dir .. "/socket",
    "--pid-file=" .. dir .. "/pid", "--port=" .. port, "--bind-address=127.0.0.1",
    "--init-file=" .. dir .. "/init.sql", "--skip-name-resolve", "--skip-log-bin", own_tmp(dir),
    "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=8M",
    "--innodb-flush-log-at-trx-commit=2", "--innodb-fast-shutdown=1",
    "--character-set-server=utf8mb4", "--max-allowed-packet=16M",
  }
  table.move(extra, 1, #extra, #argv + 1, argv)
  return assert(process.spawn {
    argv = argv, stdout = dir .. "/log", stderr = "stdout", group = true,
  })
end

-- Wait until it answers; false when it ended before.
local function await(child, options, log)
  local deadline = clock.mono_ms() + START_DEADLINE_MS
  while true do
    local db, message = mysql.connect(options)
    if db then
      db:close()
      return true
    end
    if child:wait(50) then return false end
    if clock.mono_ms() > deadline then
      error(("MariaDB did not answer within %d s: %s\n%s"):format(START_DEADLINE_MS // 1000,
        message, read(log)))
    end
  end
end

local function remove(server)
  server.kill()
  os.execute("rm -rf " .. shell(server.dir))
end

--- Start a server of one's own.
-- @param extra array of further mariadbd options, or nil
-- @return server: dir, port, socket, pid(), url, options (for host.mysql's connect), tcp (the same
-- through the port), stop(), kill(), restart(), fresh_database() -> name, options, url_of(name),
-- remove()
function M.new(extra)
  local dir = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-mariadb-"))
  local server = { dir = dir, socket = dir .. "/socket" }
  local child
  local databases = 0

  local function finish(signal)
    if not child then return end
    if tostring(child):find("(closed)", 1, true) then -- at the end of the process, by the collector
      child = nil
      return
    end
    child:kill(signal)
    if not child:wait(STOP_DEADLINE_MS) then
      child:kill("KILL")
      child:wait(STOP_DEADLINE_MS)
    end
    child:close()
    child = nil
  end

  -- Shut down in order; the data stays.
  function server.stop() finish("TERM") end

  -- End it at once, as a crash would; the data stays.
  function server.kill() finish("KILL") end

  -- Start it again, on the same port.
  function server.restart()
    finish("TERM")
    child = launch(dir, server.port, extra or {})
    if not await(child, server.options, dir .. "/log") then
      error("MariaDB ended while it started:\n" .. read(dir .. "/log"))
    end
  end

  function server.running() return child ~= nil and child:wait(0) == nil end

  function server.pid() return child and child:pid() end

  function server.url_of(name) return ("mysql://root@127.0.0.1:%d/%s"):format(server.port, name) end

  -- A new empty database of this process.
  function server.fresh_database()
    databases = databases + 1
    local name = ("fresh_%d"):format(databases)
    local db <close> = assert(mysql.connect(server.options))
    assert(db:query("create database " .. mysql.name(name)))
    return name, { socket = server.socket, user = "root", database = name }
  end

  function server.remove() remove(server) end

  setmetatable(server, { __gc = remove, __close = remove })
  install(dir)
  server.options = { socket = server.socket, user = "root", database = "test" }
  for try = 1, PORT_TRIES do
    server.port = free_port()
    child = launch(dir, server.port, extra or {})
    if await(child, server.options, dir .. "/log") then break end
    child:close()
    child = nil
    if try == PORT_TRIES or not read(dir .. "/log"):find("Address already in use", 1, true) then
      error("MariaDB ended while it started:\n" .. read(dir .. "/log"))
    end
    os.remove(dir .. "/log")
  end
  server.url = server.url_of("test")
  server.tcp = { host = "127.0.0.1", port = server.port, user = "root", database = "test" }
  return server
end

--- The server all specs of this process share; started now if it does not run.
function M.start()
  local registry = debug.getregistry()
  local server = registry[SHARED]
  if not server then
    server = M.new()
    registry[SHARED] = server
  elseif not server.running() then
    server.restart()
  end
  return server
end

return M
