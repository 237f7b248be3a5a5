--- Backup: dumps the database into one compressed, checksummed file.
---
--- Takes results and the pipeline's state (all tables of the database) in one
--- consistent moment: the standard dump program of the server (mysqldump or
--- mariadb-dump) reads a snapshot, and beside it every table's rows are counted
--- and summed up in the same state. Writers wait only for the moment in which
--- the snapshots are taken, 15 s at most. The pipeline may go on running.
---
--- Writes two files into the folder `dir`, readable by this user only:
---
---   DB-YYYYmmdd_HHMMSS.sql.zst        the dump (.gz without zstd)
---   DB-YYYYmmdd_HHMMSS.manifest.json  server, program, sizes, SHA-256, and
---                                     rows and checksum of every table, and
---                                     how many views, triggers and so on
---
--- The dump is written under another name, made durable and renamed; the
--- manifest comes last. A file without a manifest is no backup. Nothing is
--- overwritten. The password is never in a program's arguments.
---
--- Needs the privileges select, lock tables, show view, trigger and event on
--- the database. Afterwards: copy both files off this machine, and try
--- `tidemill runbook restore` now and then. Exit status: 0 done, 2 failed,
--- 3 could not be tried.

local backup = require "mill.backup"
local check = require "mill.check"
local clock = require "host.clock"
local config = require "mill.config"
local dump = require "mill.dump"
local mysql = require "host.mysql"
local output = require "mill.output"
local process = require "host.process"
local tablesum = require "mill.tablesum"
local version = require "host.version"

local function failed(summary, message, fix)
  return check.critical(summary, { detail = { message }, fix = fix })
end

local function database_run(ctx)
  local database = ctx.options.database
  if not database then
    return check.unknown("no database is named", {
      fix = "name it in TIDEMILL_MYSQL=mysql://user@host:port/DATABASE" })
  end
  local db, message = mysql.connect(ctx.options)
  if not db then
    return failed("the database cannot be reached", message, "start MySQL, or mend TIDEMILL_MYSQL")
  end
  ctx.db = db
  local tables, why = tablesum.tables(db, database)
  if not tables then
    return failed("the tables cannot be listed", why, "grant select on the database to this user")
  elseif #tables == 0 then
    return failed(("database %s has no tables"):format(database), nil,
      "is it the right one? See `tidemill config`")
  end
  for _, t in ipairs(tables) do
    if t.engine ~= "InnoDB" then
      return failed(("table %s is %s: it has no snapshot"):format(t.name, t.engine), nil,
        ("alter table %s engine = InnoDB"):format(mysql.name(t.name)))
    end
  end
  ctx.tables, ctx.others = tables, why
  return check.ok(("database %s has %d tables"):format(database, #tables))
end

local function programs_run(ctx)
  local server = ctx.db:server()
  local program, message = dump.program("dump", server.flavor, ctx.set.program)
  if not program then
    return failed("no dump program is installed", message,
      server.flavor == "mariadb" and "apt-get install mariadb-client"
      or "apt-get install mysql-client (or mariadb-client)")
  end
  local compressor, why = dump.compressor(ctx.set.compress)
  if not compressor then
    return failed("no compressor is installed", why, "apt-get install zstd")
  end
  ctx.program, ctx.compressor = program, compressor
  return check.ok(("%s with %s"):format(program.version, compressor.name))
end

local DUMP_FIX = {
  AUTH = "mend the user and its password",
  DENIED = "grant select, lock tables, show view, trigger, event on the database to this user",
  LOCKWAIT = "a transaction holds the tables for long: see show processlist, try again",
}

local function dump_run(ctx)
  local folder = process.realpath(ctx.set.dir) or ctx.set.dir
  local disk = process.disk(folder)
  local paths, message, why = backup.paths(folder, ctx.options.database, ctx.compressor.suffix)
  if not paths and why == "LOCKED" then
    return check.unknown("another backup is running", { detail = { message },
      fix = "wait until it has ended" })
  elseif not paths then
    return failed("the backup cannot be written", message, "choose another folder: --set dir=...")
  end
  ctx.paths = paths
  local began = clock.mono_ms()
  local written, sums, code = backup.take {
    options = ctx.options, db = ctx.db, tables = ctx.tables, program = ctx.program,
    compressor = ctx.compressor, path = paths.partial,
  }
  if not written then
    return failed("the dump failed; nothing was kept", sums, DUMP_FIX[code]
      or ctx.program.flavor ~= ctx.db:server().flavor
      and "install the dump program of the server's own kind, or name it: --set program=..."
      or disk and disk.free < 100000000 and "make room on the disk"
      or "read what the program said, mend it, run the backup again")
  end
  ctx.written, ctx.sums, ctx.took_ms = written, sums, clock.mono_ms() - began
  local rows = 0
  for _, sum in ipairs(sums) do
    rows = rows + sum.rows
  end
  ctx.rows = rows
  return check.ok(("%s rows of %d tables dumped"):format(output.count(rows), #sums), {
    metrics = { { name = "rows", value = rows },
      { name = "bytes", value = written.bytes, unit = "B" } },
  })
end

local function file_run(ctx)
  local server = ctx.db:server()
  local charset = ctx.db:query("select default_character_set_name, default_collation_name "
    .. "from information_schema.schemata where schema_name = database()")
  local defaults = charset and charset.rows[1] or {}
  local manifest, message = backup.finish(ctx.paths, {
    database = ctx.options.database, created_at = os.date("!%Y-%m-%dT%H:%M:%SZ"),
    charset = defaults[1], collation = defaults[2],
    server = { flavor = server.flavor, version = server.version },
    program = { path = ctx.program.path, version = ctx.program.version },
    compressor = ctx.compressor.name, tidemill = version.all().tidemill,
    dump_bytes = ctx.written.bytes, dump_sha256 = ctx.written.sha256, tables = ctx.sums,
    others = ctx.others,
    rows = ctx.rows, took_ms = ctx.took_ms,
  })
  if not manifest then
    return failed("the backup could not be finished; nothing was kept", message,
      "make room on the disk, or choose another folder: --set dir=...")
  end
  ctx.manifest = manifest
  return check.ok(("%s, %s, SHA-256 %s"):format(ctx.paths.data, output.bytes(manifest.bytes),
    manifest.sha256:sub(1, 16)), { metrics = {
      { name = "file_bytes", value = manifest.bytes, unit = "B" },
      { name = "took", value = ctx.took_ms / 1000, unit = "s" } } })
end

local CHECKS = {
  { id = "backup.database", component = "mysql", ref = "RB4.3", run = database_run },
  { id = "backup.programs", component = "backup", ref = "RB4.3", needs = { "backup.database" },
    run = programs_run },
  { id = "backup.dump", component = "backup", ref = "RB4.3", needs = { "backup.programs" },
    run = dump_run },
  { id = "backup.file", component = "backup", ref = "RB4.3", needs = { "backup.dump" },
    run = file_run },
}

-- Whatever happens, an unfinished dump does not stay.
local function guard(ctx)
  return setmetatable({}, { __close = function()
    if ctx.paths then
      os.remove(ctx.paths.data .. ".partial")
      ctx.paths.lock:close()
    end
    if ctx.db then
      ctx.db:close()
    end
  end })
end

local function run(task)
  local ctx = { set = task.set, options = config.mysql() }
  output.hide(ctx.options.password)
  local _ <close> = guard(ctx)
  local results = check.run(CHECKS, ctx)
  return results, ctx.manifest and { backup = ctx.manifest, path = ctx.paths.data,
    manifest = ctx.paths.manifest }
end

return {
  steps = true,
  settings = {
    { "dir", "backups", "the folder of the backups" },
    { "compress", "auto", "zstd, gzip, or auto: the first that is installed" },
    { "program", "", "the dump program; none: the server's own kind" },
  },
  run = run,
}
