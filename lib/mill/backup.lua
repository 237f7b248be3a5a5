--- Backups as sets of two files: the compressed dump, and a manifest that says
-- what is in it. The manifest is written last: a dump without one is no backup.

local clock = require "host.clock"
local digest = require "host.digest"
local dump = require "mill.dump"
local json = require "mill.json"
local mysql = require "host.mysql"
local output = require "mill.output"
local process = require "host.process"
local tablesum = require "mill.tablesum"

local M = {}

--- How long the dump program may take to its snapshot: writers wait for it.
M.SNAPSHOT_MS = 15000

--- Version of the manifest's form.
M.SCHEMA = "tidemill-backup/v1"

local SUFFIX = ".manifest.json"
local PRIVATE_FILE, PRIVATE_FOLDER = 384, 448 -- 0600, 0700
local LOCK_S = 5 -- how long writers may keep us from the moment of the snapshot
local LOCK_TRIES = 3
local FREE_S = 30 -- after which the server ends the lock of a host that is frozen or gone
local PROGRESS_UNIT = 1000000

local function fail(code, text, ...)
  return nil, ("backup: %s: " .. text):format(code, ...), code
end

--- "20240809_120000" for now, in UTC.
function M.stamp()
  return os.date("!%Y%m%d_%H%M%S", clock.wall_ms() // 1000)
end

--- A progress line counting megabytes of the dump.
function M.progress(label, total)
  local line = output.progress { label = label, unit = "MB",
    total = total and total // PROGRESS_UNIT }
  return line, function(n) line:set(n // PROGRESS_UNIT) end
end

local function must(db, ...)
  for _, sql in ipairs { ... } do
    local result, message, code = db:query(sql)
    if not result then
      return nil, message, code
    end
  end
  return true
end

-- Keep every writer out for the moment in which the snapshots are taken. With
-- autocommit off this also waits for open transactions that have written.
local function lock_tables(db, tables)
  local names = {}
  for i, t in ipairs(tables) do
    names[i] = mysql.name(t.name) .. " read"
  end
  local ok, message, code = must(db, "set autocommit = 0", ("set lock_wait_timeout = %d, "
    .. "innodb_lock_wait_timeout = %d, wait_timeout = %d"):format(LOCK_S, LOCK_S, FREE_S))
  for _ = 1, ok and LOCK_TRIES or 0 do
    ok, message, code = must(db, "lock tables " .. table.concat(names, ", "))
    if ok or code ~= "LOCKWAIT" then
      break
    end
  end
  return ok, message, code
end

-- A snapshot, and one look at each table: from then on nobody can alter them,
-- which would otherwise leave an altered table out of the dump, silently. One
-- who waits to alter them waits for our lock, and this look would wait for him.
local function open_snapshot(db, tables)
  local ok, message, code = must(db,
    "set session wait_timeout = 86400", -- it is idle while the dump runs
    ("set session lock_wait_timeout = %d"):format(LOCK_S),
    "set session transaction isolation level repeatable read",
    "start transaction with consistent snapshot")
  for _, t in ipairs(ok and tables or {}) do
    ok, message, code = must(db, "select 1 from " .. mysql.name(t.name) .. " limit 1")
    if not ok then
      break
    end
  end
  return ok, message, code
end

local function sums_of(db, database, tables)
  local sums = json.array {}
  for i, t in ipairs(tables) do
    local sum, message, code = tablesum.sum(db, database, t.name)
    if not sum then
      return nil, message, code
    end
    sums[i] = sum
  end
  return sums
end

-- A function of the dump's output that lets writers in as soon as the program
-- has its snapshot, which is older than its first table's text. It returns true,
-- or nil, message, code: they have waited long enough, as behind one who waits
-- to alter a table and whom the program waits for; or the lock was lost, and the
-- two snapshots may differ.
local function unlocker(locker)
  local seen, until_ms = "", clock.mono_ms() + M.SNAPSHOT_MS
  return function(bytes)
    seen = seen and seen .. bytes
    if not seen then
      return true
    elseif seen:find("\n-- Table structure for table", 1, true) then
      seen = nil
      return must(locker, "unlock tables")
    elseif clock.mono_ms() > until_ms then
      return fail("LOCKWAIT", "the dump program has not begun within %g s", M.SNAPSHOT_MS / 1000)
    end
    return true
  end
end

--- Dump and count one and the same state. `o`: options (connect options), db,
-- tables, program, compressor, path.
-- @return { bytes, sha256 }, sums | nil, message, code
function M.take(o)
  local locker <close>, message, code = mysql.connect(o.options)
  if not locker then
    return nil, message, code
  end
  local ok
  ok, message, code = lock_tables(locker, o.tables)
  if ok then
    ok, message, code = open_snapshot(o.db, o.tables)
  end
  if not ok then
    return nil, message, code
  end
  local expected = 0
  for _, t in ipairs(o.tables) do
    expected = expected + t.bytes
  end
  local unlock = unlocker(locker)
  local line <close>, show = M.progress("dumping", expected)
  local written, why, kind = dump.write {
    program = o.program, compressor = o.compressor, options = o.options, path = o.path,
    on_bytes = function(n, bytes)
      show(n)
      return unlock(bytes)
    end,
  }
  line:close()
  locker:close()
  if not written then
    return nil, why, kind
  end
  local sums, text, class = sums_of(o.db, o.options.database, o.tables)
  if not sums then
    return nil, text, class
  end
  return written, sums
end

--- A new set's paths in `folder`, which is made if need be; the partial file is
-- there afterwards, empty and private.
-- @return { data=, partial=, manifest=, lock= } | nil, message, code   LOCKED:
-- another backup writes there
function M.paths(folder, database, suffix)
  local ok, message, code = process.mkdir_p(folder, PRIVATE_FOLDER)
  if not ok then
    return nil, message, code
  end
  local lock, why, kind, pid = process.lock(folder .. "/.lock")
  if not lock then
    return nil, kind == "LOCKED" and ("backup: LOCKED: another backup writes to %s (pid %s)")
      :format(folder, pid or "?") or why, kind
  end
  local base = ("%s/%s-%s"):format(folder, database:gsub("[^%w_-]", "_"), M.stamp())
  local name, again = base, 1
  while process.stat(name .. SUFFIX) or process.stat(name .. ".sql" .. suffix) do
    again = again + 1
    name = ("%s_%d"):format(base, again)
  end
  local paths = { lock = lock, data = name .. ".sql" .. suffix, manifest = name .. SUFFIX }
  paths.partial = paths.data .. ".partial"
  os.remove(paths.partial) -- of a run that was killed: nobody else has the lock
  local made, reason, class = process.atomic_write(paths.partial, "", { mode = PRIVATE_FILE,
    sync = false })
  if not made then
    return nil, reason, class
  end
  return paths
end

-- fsync of a file by the standard program: nothing else here opens it.
local function sync(path)
  local child <close>, message, code = process.spawn { argv = { "sync", path } }
  if not child then
    return nil, message, code
  end
  local status
  repeat
    status = child:wait(100)
  until status
  if status.code ~= 0 then
    return fail("SYNC", "%s could not be written to the disk", path)
  end
  return true
end

--- Make a set of a finished dump: checksum, durable, under its name, and the
-- manifest last. `manifest` gets file, bytes and sha256.
-- @return the manifest | nil, message, code
function M.finish(paths, manifest)
  local ok, message, code = sync(paths.partial)
  if not ok then
    return nil, message, code
  end
  local sha256, why, kind = digest.file(paths.partial)
  if not sha256 then
    return nil, why, kind
  end
  manifest.schema, manifest.sha256 = M.SCHEMA, sha256
  manifest.file = paths.data:match("[^/]+$")
  manifest.bytes = process.stat(paths.partial).size
  local renamed, reason = os.rename(paths.partial, paths.data)
  if not renamed then
    return fail("IO", "%s", reason)
  end
  local done, text, class = process.atomic_write(paths.manifest,
    json.encode_pretty(manifest) .. "\n", { mode = PRIVATE_FILE })
  if not done then
    os.remove(paths.data)
    return nil, text, class
  end
  return manifest
end

--- Read a manifest. `path`: of the manifest or of its dump.
-- @return manifest with `path` of the dump | nil, message, code
function M.read(path)
  if not path:find(SUFFIX, 1, true) then
    path = path:gsub("%.sql%.%w+$", "") .. SUFFIX
  end
  local file = io.open(path, "r")
  if not file then
    return fail("NOMANIFEST", "%s is not there: without its manifest a file is no backup", path)
  end
  local manifest, message = json.decode(file:read("a"))
  file:close()
  if type(manifest) ~= "table" or manifest.schema ~= M.SCHEMA then
    return fail("NOMANIFEST", "%s is not a manifest of a backup (%s)", path,
      message or "another schema")
  end
  manifest.manifest = path
  manifest.path = (path:match("^(.*/)") or "") .. manifest.file
  return manifest
end

--- The manifest of the newest backup of a database in a folder; with nil for the
-- database, of the only one that has backups there | nil, message, code
function M.newest(folder, database)
  local newest, names = {}, {}
  for _, name in ipairs(process.list(folder) or {}) do
    local manifest = name:sub(-#SUFFIX) == SUFFIX and M.read(folder .. "/" .. name)
    if manifest then
      local of = manifest.database
      if not newest[of] then
        names[#names + 1] = of
      end
      if not newest[of] or manifest.created_at > newest[of].created_at then
        newest[of] = manifest
      end
    end
  end
  table.sort(names)
  if #names == 0 then
    return fail("NOBACKUP", "there is no backup in %s", folder)
  elseif not database and #names > 1 then
    return fail("NOBACKUP", "%s has backups of several databases: %s", folder, table.concat(names, ", "))
  elseif database and not newest[database] then
    return fail("NOBACKUP", "there is no backup of database %s in %s, but of %s", database, folder,
      table.concat(names, ", "))
  end
  return newest[database or names[1]]
end

return M
