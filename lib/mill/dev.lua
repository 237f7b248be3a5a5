--- The servers of `tidemill up --dev`: development broker, private MariaDB, simulated exchange.
--
-- All of them are children of the supervisor, listen on loopback or a socket only, and keep their
-- files under var/dev. The database stays for the next run; the broker's log is new at each start.

local digest = require "host.digest"
local fault = require "mill.fault"
local process = require "host.process"

local M = {}

M.DATABASE = "tidemill"

local SOCKET_MAX = 100 -- the kernel takes 107 bytes; leave room for what clients append
local PRIVATE = 448 -- 0700
local SYSTEM_TABLES = {
  "mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql",
  "maria_add_gis_sp_bootstrap.sql", "mysql_sys_schema.sql",
}
local SHARES = {
  "/usr/share/mysql", "/usr/share/mariadb", "/usr/local/share/mysql", "/usr/local/share/mariadb",
}

local Dev = {}
Dev.__index = Dev

-- --- files -----------------------------------------------------------------------------------

local function remove_tree(path)
  local st = process.stat(path)
  if not st then return end
  if st.type == "dir" then
    for _, name in ipairs(process.list(path) or {}) do remove_tree(path .. "/" .. name) end
  end
  os.remove(path)
end

local function read_text(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

local function need(value, message)
  if not value then fault.raise(fault.SERVER, "up: %s", message) end
  return value
end

local function lock(dir)
  local held, message, code, pid = process.lock(dir .. "/lock")
  if code == "LOCKED" then
    fault.raise(fault.RUNNING, "up --dev already runs in this folder%s; stop it first (its data is"
      .. " in %s)", pid and (" as process " .. pid) or "", dir)
  end
  return need(held, message)
end

-- --- the database ----------------------------------------------------------------------------

--- Who holds a kernel lock on this file: a pid, or nil.
function M.lock_holder(path)
  local st = process.stat(path)
  local locks = st and read_text("/proc/locks")
  for line in (locks or ""):gmatch("[^\n]+") do
    local pid, inode = line:match("(%d+) %x+:%x+:(%d+) ")
    if inode and math.tointeger(tonumber(inode)) == st.inode then
      return math.tointeger(tonumber(pid))
    end
  end
end

-- A server of a run that was killed a moment ago may still be on its way out.
local function refuse_foreign_server(self)
  local clock = require "host.clock"
  local deadline = clock.mono_ms() + 5000
  local pid
  repeat
    pid = M.lock_holder(self.data .. "/ibdata1")
    if not pid then return end
    clock.sleep(20)
  until clock.mono_ms() > deadline
  fault.raise(fault.RUNNING, "up: process %d (%s) uses the database in %s; stop it first: kill %d",
    pid, process.cmdline(pid) or "?", self.data, pid)
end

-- The folder of the socket: beside the data if the path is short enough, else a private temporary
-- one. A link to an old temporary folder of a killed run is followed and both are removed.
local function socket_path(self)
  local note = self.mysql_dir .. "/socket-folder"
  local old = read_text(note)
  if old and old:find("/tidemill%-%w+$") then remove_tree(old) end
  os.remove(note)
  local path = self.mysql_dir .. "/mysqld.sock"
  if #path <= SOCKET_MAX then return path end
  local base = os.getenv("XDG_RUNTIME_DIR")
  if not base or #base > 60 or not process.stat(base) then base = "/tmp" end
  self.socket_dir = need(process.mkdtemp(base .. "/tidemill-"))
  need(process.atomic_write(note, self.socket_dir, { sync = false }))
  return self.socket_dir .. "/mysqld.sock"
end

local function share_dir(server)
  local prefix = server:match("^(.*)/s?bin/[^/]+$")
  local dirs = { prefix and prefix .. "/share/mysql", prefix and prefix .. "/share/mariadb" }
  table.move(SHARES, 1, #SHARES, #dirs + 1, dirs)
  for _, dir in ipairs(dirs) do
    if process.stat(dir .. "/" .. SYSTEM_TABLES[1]) then return dir end
  end
end

local function need_mariadbd()
  local server = process.which("mariadbd") or process.which("mysqld")
  local share = server and share_dir(server)
  if not share then
    fault.raise(fault.SERVER, "up --dev needs the program mariadbd and its tables, which are not "
      .. "here; on Debian: apt-get install mariadb-server-core (or tools/deps.sh run)")
  end
  return server, share
end

-- Small, durable, and reachable through its socket only. A starting server deletes the temporary
-- tables it finds in its tmpdir: /tmp may hold another server's.
local function server_options(self)
  local options = {
    self.server, "--no-defaults", "--datadir=" .. self.data, "--innodb-log-file-size=32M",
    "--tmpdir=" .. self.mysql_dir,
    "--innodb-buffer-pool-size=64M", "--performance-schema=off", "--skip-log-bin",
    "--aria-pagecache-buffer-size=8M", "--innodb-temp-data-file-path=ibtmp1:4M:autoextend",
    "--character-set-server=utf8mb4", "--max-allowed-packet=64M",
  }
  if process.uid() == 0 then options[#options + 1] = "--user=root" end
  return options
end

-- The system tables are made by the server itself, as mariadb-install-db does it; without that
-- shell script no grandchild can outlive us, and the 2 MB of help texts are left out.
local function bootstrap_sql(self)
  local parts = { "create database mysql;\nuse mysql;\nset @auth_root_socket = null;\n" }
  for _, name in ipairs(SYSTEM_TABLES) do
    local text = read_text(self.share .. "/" .. name)
    if text then parts[#parts + 1] = text end
  end
  parts[#parts + 1] = ("\ncreate database %s character set utf8mb4;\n"):format(M.DATABASE)
  return table.concat(parts)
end

local function install_command(self)
  remove_tree(self.data .. ".new")
  need(process.mkdir_p(self.data .. ".new", PRIVATE))
  local sql = self.mysql_dir .. "/bootstrap.sql"
  need(process.atomic_write(sql, bootstrap_sql(self), { sync = false }))
  local argv = server_options(self)
  argv[3] = argv[3] .. ".new"
  for _, option in ipairs { "--bootstrap", "--enforce-storage-engine=", "--log-warnings=0",
                            "--max-allowed-packet=8M" } do
    argv[#argv + 1] = option
  end
  return { argv = argv, stdin = sql }
end

local function add_install(self, sup)
  sup:add {
    name = "install", once = true, quiet = true, rank = 5,
    command = function() return install_command(self) end,
    done = function()
      os.remove(self.mysql_dir .. "/bootstrap.sql")
      return os.rename(self.data .. ".new", self.data)
    end,
  }
end

-- What is stored about an old broker's log. Its positions mean nothing in the new one, and the mock
-- cluster's id is only the address of a structure, which may come back: both logs would be one.
local function forget_log_sql()
  local mark = digest.random_hex(4)
  local lines = { "delete from mill_progress" }
  for _, name in ipairs { "mill_dead_letters", "mill_late", "mill_gaps" } do
    lines[#lines + 1] = ("update %s set cluster_id = concat(cluster_id, '@%s') where cluster_id "
      .. "not like '%%@%%'"):format(name, mark)
  end
  return lines
end

-- Done by the server itself before it answers anybody, at its first start in this run.
local function init_file(self)
  if self.log_begun or not process.stat(self.data .. "/" .. M.DATABASE .. "/mill_gaps.frm") then
    return nil
  end
  local path = self.mysql_dir .. "/init.sql"
  local lines = { "use " .. M.DATABASE }
  for _, line in ipairs(forget_log_sql()) do lines[#lines + 1] = line end
  need(process.atomic_write(path, table.concat(lines, ";\n") .. ";\n", { sync = false }))
  return path
end

local function server_command(self)
  local argv = server_options(self)
  local init = init_file(self)
  if init then argv[#argv + 1] = "--init-file=" .. init end
  for _, option in ipairs { "--socket=" .. self.socket, "--skip-networking", "--skip-name-resolve",
                            "--pid-file=" .. self.mysql_dir .. "/pid", "--max-connections=64",
                            "--default-time-zone=+00:00" } do
    argv[#argv + 1] = option
  end
  return { argv = argv }
end

local function database_answers(self)
  if not process.stat(self.socket) then return false end
  local mysql = require "host.mysql"
  local db = mysql.connect { socket = self.socket, user = "root", connect_timeout = 2 }
  if not db then return false end
  db:close()
  self.log_begun = true
  return true
end

--- Add the database alone: "mysql", and "install" in front of it when there is no data yet.
function Dev:add_database(sup)
  local needs
  if not process.stat(self.data) then
    add_install(self, sup)
    needs = { "install" }
  end
  sup:add {
    name = "mysql", needs = needs, rank = 4, quiet = true,
    command = function() return server_command(self) end,
    ready = function() return database_answers(self) end,
  }
end

local function add_migration(self, sup)
  sup:add {
    name = "migrate", needs = { "mysql" }, once = true, rank = 3,
    command = function()
      return { argv = { self.exe, "migrate" }, env = self:env(), cwd = self.cwd }
    end,
    final = { [2] = "the migration refused its options", [5] = "a table waits to be adopted" },
  }
end

-- --- broker and exchange ---------------------------------------------------------------------

-- An address that a script writes to a file when it serves. The file of an earlier start says
-- nothing, so it is removed before each.
local function add_server(self, sup, name, settings)
  local path = self.dir .. "/" .. name .. ".address"
  sup:add {
    name = name, rank = 3,
    command = function()
      os.remove(path)
      local argv = { self.exe, "run", self.home .. "/scripts/" .. name .. ".lua" }
      for _, setting in ipairs(settings(self)) do
        argv[#argv + 1] = "--set"
        argv[#argv + 1] = setting
      end
      argv[#argv + 1] = "--set"
      argv[#argv + 1] = "address_file=" .. path
      return { argv = argv, cwd = self.cwd }
    end,
    ready = function()
      local text = read_text(path)
      local address = text and text:match("^%s*(%S+)%s*\n") or nil
      if address then self.address[name] = address end
      return address ~= nil
    end,
    final = { [2] = "it was called wrongly" },
  }
end

local function broker_settings(self)
  return { "topics=" .. self.topics }
end

-- Clients of an exchange that was started anew find it where it was.
local function exchange_settings(self)
  local address = self.address.exchange
  return { "port=" .. (address and address:match(":(%d+)$") or "0") }
end

-- --- the whole -------------------------------------------------------------------------------

--- Prepare the development servers in a folder; refuses when another run uses it.
-- @param options table: var (folder for all files), exe, home, cwd, live (the real exchange is
--   used), topics ("crypto_prices:3")
function M.new(options)
  local self = setmetatable({
    exe = options.exe, home = options.home, cwd = options.cwd, live = options.live,
    topics = options.topics or "crypto_prices:3", dir = options.var .. "/dev", address = {},
  }, Dev)
  self.mysql_dir = self.dir .. "/mysql"
  self.data = self.mysql_dir .. "/data"
  self.server, self.share = need_mariadbd()
  need(process.mkdir_p(self.mysql_dir, PRIVATE))
  self.lock = lock(self.dir)
  refuse_foreign_server(self)
  self.socket = socket_path(self)
  return self
end

--- Add the servers to a supervisor.
function Dev:add_to(sup)
  add_server(self, sup, "broker", broker_settings)
  if not self.live then add_server(self, sup, "exchange", exchange_settings) end
  self:add_database(sup)
  add_migration(self, sup)
end

--- The names of the services that a script needs before it starts. The database is not one of
-- them: joining a group takes the broker 3 s, in which the database comes up (`run --wait`).
function Dev:needs()
  local names = { "broker" }
  if not self.live then names[#names + 1] = "exchange" end
  return names
end

-- What a URL cannot hold as it is, as %XX.
local function url_encode(text)
  return (text:gsub("[^%w/._~-]", function(char) return ("%%%02X"):format(char:byte()) end))
end

--- Environment of the scripts, once their servers are ready.
function Dev:env()
  return {
    TIDEMILL_KAFKA = self.address.broker,
    TIDEMILL_MYSQL = ("mysql://root@localhost/%s?socket=%s"):format(M.DATABASE,
      url_encode(self.socket)),
    TIDEMILL_MYSQL_PASSWORD = false, TIDEMILL_MYSQL_PASSWORD_FILE = false,
    -- The broker forgets its log when it ends, and the database is ours alone: begin the new one.
    TIDEMILL_NEW_LOG = "1",
    -- librdkafka's mock answers a waiting fetch when its time is over, not when a message comes;
    -- and it knows no static members: one that was killed is missed until its session ends.
    TIDEMILL_KAFKA_CONF = "fetch.wait.max.ms=5,session.timeout.ms=4000,heartbeat.interval.ms=500",
  }
end

--- Called before a script starts: the first one after the broker was started anew begins a new log.
function Dev:begin_log()
  local address = self.address.broker
  local anew = self.log_address and self.log_address ~= address
  self.log_address = address
  if not anew then return end
  local mysql = require "host.mysql"
  local db = mysql.connect {
    socket = self.socket, user = "root", database = M.DATABASE, connect_timeout = 2,
  }
  if not db then return end
  for _, line in ipairs(forget_log_sql()) do db:query(line, 5000) end
  db:close()
end

--- Does the pipeline run by this process own partitions already? Asked often while it starts.
function Dev:owns_partitions(pid)
  local mysql = require "host.mysql"
  if not process.stat(self.socket) then return false end
  self.db = self.db or mysql.connect {
    socket = self.socket, user = "root", database = M.DATABASE, connect_timeout = 2,
  }
  local result = self.db and self.db:query(([[select 1 from mill_progress p join mill_instances i
    on i.pipeline = p.pipeline and i.run_id = p.owner where i.pid = %d limit 1]]):format(pid), 1000)
  local owns = result ~= nil and #result.rows > 0
  if self.db and (owns or not result) then
    self.db:close()
    self.db = nil
  end
  return owns
end

--- Write var/dev/env, which gives another shell the addresses: `. var/dev/env`.
function Dev:write_env()
  local lines = {}
  for name, value in pairs(self:env()) do
    if value and name ~= "TIDEMILL_NEW_LOG" then
      lines[#lines + 1] = ("export %s='%s'"):format(name, (value:gsub("'", "'\\''")))
    end
  end
  if self.address.exchange then
    lines[#lines + 1] = ("export TIDEMILL_EXCHANGE='http://%s'"):format(self.address.exchange)
  end
  table.sort(lines)
  lines[#lines + 1] = ""
  return process.atomic_write(self.dir .. "/env", table.concat(lines, "\n"), { sync = false })
end

--- Remove what only a running set has: addresses, the socket's folder. The data stays.
function Dev:close()
  if not self.lock then return end
  if self.db then self.db:close() end
  os.remove(self.dir .. "/env")
  os.remove(self.dir .. "/broker.address")
  os.remove(self.dir .. "/exchange.address")
  if self.socket_dir then
    remove_tree(self.socket_dir)
    os.remove(self.mysql_dir .. "/socket-folder")
  end
  self.lock:close()
  self.lock = nil
end

Dev.__close = Dev.close

return M
