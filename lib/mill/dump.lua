--- Runs the standard dump and client programs of MySQL and MariaDB, and the
-- compressor, joined by pipes; no shell. The password goes through a file that
-- only we can read and that is gone with the program, never through argv.

local clock = require "host.clock"
local digest = require "host.digest"
local process = require "host.process"

local M = {}

local PRIVATE = 384 -- 0600
local VERSION_MS = 10000
local TAIL = 256
local SLICE_MS = 100
local SANDBOX = "^/%*M!999999\\%- enable the sandbox mode %*/[^\n]*\n"

-- Dump programs and clients; what a server's own kin comes first.
local PROGRAMS = {
  dump = { mysql = { "mysqldump", "mariadb-dump" }, mariadb = { "mariadb-dump", "mysqldump" } },
  client = { mysql = { "mysql", "mariadb" }, mariadb = { "mariadb", "mysql" } },
}

local OPTIONS = {
  "--single-transaction", "--quick", "--hex-blob", "--routines", "--triggers", "--events",
  "--skip-lock-tables", "--no-tablespaces", "--default-character-set=utf8mb4", "--comments",
  "--dump-date",
}

local COMPRESSORS = {
  zstd = { suffix = ".zst", pack = { "-q", "-3", "-c" }, unpack = { "-q", "-d", "-c" } },
  gzip = { suffix = ".gz", pack = { "-c" }, unpack = { "-d", "-c" } },
}

local function fail(code, text, ...)
  return nil, ("dump: %s: " .. text):format(code, ...), code
end

local function read_all(child)
  local parts, deadline = {}, clock.mono_ms() + VERSION_MS
  while clock.mono_ms() < deadline do
    local bytes = child:read("stdout", SLICE_MS)
    if not bytes then
      break
    end
    parts[#parts + 1] = bytes
  end
  return table.concat(parts)
end

local function version_of(path)
  local child <close>, message, code = process.spawn {
    argv = { path, "--version" }, stdout = "pipe", stderr = "null",
  }
  if not child then
    return nil, message, code
  end
  local text = read_all(child)
  child:wait(VERSION_MS)
  return text:match("[^\n]+") or ""
end

local function describe(path)
  local version = version_of(path)
  return version and { path = path, version = version,
    flavor = version:find("MariaDB", 1, true) and "mariadb" or "mysql" }
end

--- The program to use with a server of this flavor: its own kin's if there is
-- one, else the other's. `kind`: "dump" or "client"; `given`: a path to use.
-- @return { path=, version=, flavor= } | nil, message, "NOPROGRAM"
function M.program(kind, flavor, given)
  if given and given ~= "" then
    local path = process.which(given)
    if not path then
      return fail("NOPROGRAM", "%s is not a program here", given)
    end
    return describe(path)
  end
  local fallback
  for _, name in ipairs(PROGRAMS[kind][flavor]) do
    local path = process.which(name)
    local found = path and describe(path)
    if found and found.flavor == flavor then
      return found
    end
    fallback = fallback or found
  end
  if fallback then
    return fallback
  end
  return fail("NOPROGRAM", "none of %s is installed (package mariadb-client or "
    .. "mysql-client)", table.concat(PROGRAMS[kind][flavor], ", "))
end

--- The compressor: `name`, or with "auto" zstd if it is there, else gzip.
-- @return { name=, path=, suffix=, pack=, unpack= } | nil, message, "NOPROGRAM"
function M.compressor(name)
  for _, candidate in ipairs(name == "auto" and { "zstd", "gzip" } or { name }) do
    local known = COMPRESSORS[candidate]
    local path = known and process.which(candidate)
    if path then
      return { name = candidate, path = path, suffix = known.suffix, pack = known.pack,
        unpack = known.unpack }
    end
  end
  return fail("NOPROGRAM", "there is no compressor '%s' here (known: zstd, gzip)", name)
end

local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quoted(value)
  return '"' .. tostring(value):gsub('[\\"\n\r\t]', ESCAPES) .. '"'
end

local function ssl_lines(ssl, flavor, lines)
  if not ssl then
    return
  end
  for _, key in ipairs { "ca", "cert", "key" } do
    if ssl[key] then
      lines[#lines + 1] = ("ssl-%s=%s"):format(key, quoted(ssl[key]))
    end
  end
  if flavor == "mysql" then
    lines[#lines + 1] = "ssl-mode=" .. (ssl.verify and "VERIFY_IDENTITY" or "REQUIRED")
  else
    lines[#lines + 1] = "ssl=1"
    lines[#lines + 1] = ssl.verify and "ssl-verify-server-cert=1" or nil
  end
end

local function option_file(options, flavor)
  local lines = { "[client]" }
  for _, key in ipairs { "host", "port", "socket", "user", "password" } do
    if options[key] then
      lines[#lines + 1] = ("%s=%s"):format(key, quoted(options[key]))
    end
  end
  if not options.socket then
    lines[#lines + 1] = "protocol=tcp"
  end
  ssl_lines(options.ssl, flavor, lines)
  return table.concat(lines, "\n") .. "\n"
end

local Workspace = {}
Workspace.__index = Workspace

--- A private folder for the option file and the programs' complaints; in memory
-- where the system offers that. Closing it removes everything.
function M.workspace()
  local base = os.getenv("XDG_RUNTIME_DIR")
  if not base or not process.stat(base) then
    base = process.stat("/dev/shm") and "/dev/shm" or os.getenv("TMPDIR") or "/tmp"
  end
  local path, message, code = process.mkdtemp(base .. "/tidemill-dump-")
  if not path then
    return nil, message, code
  end
  return setmetatable({ path = path }, Workspace)
end

function Workspace:close()
  for _, name in ipairs(process.list(self.path) or {}) do
    os.remove(self.path .. "/" .. name)
  end
  os.remove(self.path)
end

Workspace.__close = Workspace.close

--- What a program complained of, at most the last lines.
function Workspace:complaints(name)
  local file = io.open(self.path .. "/" .. name .. ".err", "r")
  if not file then
    return ""
  end
  local text = file:read("a")
  file:close()
  return (text:sub(-1000):gsub("%s+$", ""):gsub("\n", "; "))
end

local function start(space, name, argv, stdin, stdout)
  return process.spawn {
    argv = argv, stdin = stdin, stdout = stdout, stderr = space.path .. "/" .. name .. ".err",
    group = true,
    env = { MYSQL_TEST_LOGIN_FILE = space.path .. "/none" }, -- else ~/.mylogin.cnf, over our options
  }
end

-- argv of a program that reads our option file and no other.
local function with_options(space, program, options)
  local path = space.path .. "/options.cnf"
  local ok, message, code = process.atomic_write(path, option_file(options, program.flavor),
    { mode = PRIVATE, sync = false })
  if not ok then
    return nil, message, code
  end
  return { program.path, "--defaults-file=" .. path }
end

local function write_all(child, bytes)
  local at = 1
  while at <= #bytes do
    local n, message, code = child:write(at == 1 and bytes or bytes:sub(at), SLICE_MS)
    if not n then
      return nil, message, code
    end
    at = at + n
  end
  return true
end

-- How a program ended: true, or nil, message, code.
local function ended(space, child, name)
  local status
  repeat
    status = child:wait(SLICE_MS)
  until status
  if status.code == 0 then
    return true
  end
  return fail("FAILED", "%s %s: %s", name, status.code and "ended with status " .. status.code
    or "was killed by signal " .. tostring(status.signal_name), space:complaints(name))
end

-- Copies one program's output into another's input; `see(bytes)` may change them, also where none came
-- for a while, or break it off: nil, message, code.
local function copy(from, to, see)
  while true do
    local bytes, message, code = from:read("stdout", SLICE_MS)
    if not bytes then
      to:close_stdin()
      if message then
        return nil, message, code
      end
      return true
    end
    local ok, why, class = see(bytes)
    if ok then
      ok, why, class = write_all(to, ok)
    end
    if not ok then
      return nil, why, class
    end
  end
end

-- Copy between two programs and see both end well: true, or nil, message, code.
-- When the copy breaks off, the one that reads says why (a full disk, bad SQL).
local function join(space, from, from_name, to, to_name, see)
  local copied, message, code = copy(from, to, see)
  if not copied then
    from:kill()
    to:close_stdin()
    local ok, why, class = ended(space, to, to_name)
    return nil, ok and message or why, ok and code or class
  end
  local ok, why, class = ended(space, from, from_name)
  local fine, reason, kind = ended(space, to, to_name)
  if not ok then
    return nil, why, class
  elseif not fine then
    return nil, reason, kind
  end
  return true
end

--- Dump a database into a file that does not exist yet. `o`: program,
-- compressor, options (of the connection, with database), path, on_bytes(n,
-- bytes): called as output comes, with "" while none does; returns true, or
-- nil, message, code to break the dump off.
-- @return { bytes=, sha256= } of the dump before compression
-- | nil, message, code   the file may be there, incomplete
function M.write(o)
  local space <close>, problem, class = M.workspace()
  if not space then
    return nil, problem, class
  end
  local argv, message, code = with_options(space, o.program, o.options)
  if not argv then
    return nil, message, code
  end
  table.move(OPTIONS, 1, #OPTIONS, #argv + 1, argv)
  if o.program.flavor == "mysql" then
    argv[#argv + 1] = "--set-gtid-purged=OFF"
    argv[#argv + 1] = "--column-statistics=0"
  end
  argv[#argv + 1] = o.options.database
  local dump <close>, why, kind = start(space, "dump", argv, "null", "pipe")
  if not dump then
    return nil, why, kind
  end
  local packer <close>, reason, what = start(space, "compressor",
    { o.compressor.path, table.unpack(o.compressor.pack) }, "pipe", o.path)
  if not packer then
    return nil, reason, what
  end
  local hash, total, tail = digest.sha256(), 0, ""
  local ok, text, fault = join(space, dump, "dump", packer, "compressor", function(bytes)
    hash:add(bytes)
    total, tail = total + #bytes, (tail .. bytes):sub(-TAIL)
    local on, why_not, class_of = o.on_bytes(total, bytes)
    return on and bytes, why_not, class_of
  end)
  if not ok then
    return nil, text, fault
  elseif not tail:find("\n-- Dump completed", 1, true) then
    return fail("INCOMPLETE", "the dump has no end mark ('-- Dump completed')")
  end
  return { bytes = total, sha256 = hash:hex() }
end

--- Load a dump file into a database. `o`: program (a client), compressor,
-- options (with database), path, on_bytes(n).
-- @return { bytes=, sha256= } of what was loaded | nil, message, code
function M.read(o)
  local space <close>, problem, class = M.workspace()
  if not space then
    return nil, problem, class
  end
  local argv, message, code = with_options(space, o.program, o.options)
  if not argv then
    return nil, message, code
  end
  argv[#argv + 1] = "--default-character-set=utf8mb4"
  argv[#argv + 1] = "--database=" .. o.options.database
  local client <close>, why, kind = start(space, "client", argv, "pipe", "null")
  if not client then
    return nil, why, kind
  end
  local unpacker_argv = { o.compressor.path, table.unpack(o.compressor.unpack) }
  unpacker_argv[#unpacker_argv + 1] = o.path
  local unpacker <close>, reason, what = start(space, "compressor", unpacker_argv, "null", "pipe")
  if not unpacker then
    return nil, reason, what
  end
  local hash, total = digest.sha256(), 0
  local ok, text, fault = join(space, unpacker, "compressor", client, "client", function(bytes)
    hash:add(bytes)
    local first = total == 0
    total = total + #bytes
    o.on_bytes(total)
    -- MariaDB's dump begins with a line that MySQL's client does not take.
    return first and bytes:gsub(SANDBOX, "") or bytes
  end)
  if not ok then
    return nil, text, fault
  end
  return { bytes = total, sha256 = hash:hex() }
end

return M
