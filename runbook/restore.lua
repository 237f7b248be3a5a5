--- Restore: loads a backup into another schema and proves that it is whole.
---
---   tidemill runbook restore                       the newest of the folder `dir`, of
---                                                  the database in TIDEMILL_MYSQL
---   tidemill runbook restore backups/X.sql.zst     that one (or its manifest)
---   ... --into NAME                                into the schema NAME
---   ... --into NAME --execute                      also if NAME is not empty
---
--- First the file's SHA-256 is compared with the manifest. Then it is loaded
--- into a new schema, DB_restored_TIME unless told otherwise, and the rows and
--- checksum of every table are compared with the manifest. The running system
--- is not touched; so this is also the drill that shows that backups are good.
---
--- A schema that holds tables is left alone, unless --into names it and
--- --execute is given. Then the backup is loaded beside it and verified, and
--- only then the tables change places in one statement; the old ones are kept
--- in NAME_before_TIME. Views, triggers, routines and events cannot change
--- places: a backup that has some is restored into an empty schema. Stop the
--- pipeline first: while an instance gives signs of life in that schema, nothing
--- is replaced.
---
--- To use what was restored: point TIDEMILL_MYSQL at the schema and start the
--- pipeline; results and positions are one set, so it goes on from the moment
--- of the backup and reads the topic from there. Exit status: 0 restored and
--- equal, 2 failed or different, 3 could not be tried.

local backup = require "mill.backup"
local check = require "mill.check"
local config = require "mill.config"
local digest = require "host.digest"
local dump = require "mill.dump"
local fault = require "mill.fault"
local mysql = require "host.mysql"
local output = require "mill.output"
local process = require "host.process"
local tablesum = require "mill.tablesum"

local HEARTBEAT_S = 10
local RESTORE = "a new backup is needed; this one cannot be trusted"
local OTHER_SCHEMA = "restore into another schema, and point TIDEMILL_MYSQL at that"

local function failed(summary, message, fix)
  return check.critical(summary, { detail = type(message) == "table" and message or { message },
    fix = fix })
end

local function file_run(ctx)
  local manifest, message
  if ctx.file then
    manifest, message = backup.read(ctx.file)
  else
    manifest, message = backup.newest(ctx.set.dir, ctx.database)
  end
  if not manifest then
    return check.unknown("there is no backup to restore", { detail = { message },
      fix = "name one, or its folder: --set dir=..." })
  end
  local path = process.realpath(manifest.path)
  local found = path and process.stat(path) -- a link's is not the file's
  if not found then
    return failed(("%s is missing"):format(manifest.path), nil, "copy it beside its manifest")
  end
  local sha256, why = digest.file(path)
  if not sha256 then
    return failed(("%s cannot be read"):format(manifest.path), why, RESTORE)
  elseif sha256 ~= manifest.sha256 or found.size ~= manifest.bytes then
    return failed(("%s is not what was written: its SHA-256 differs"):format(manifest.path),
      { ("manifest %s, %d bytes"):format(manifest.sha256, manifest.bytes),
        ("file     %s, %d bytes"):format(sha256, found.size) }, RESTORE)
  end
  ctx.manifest, ctx.path = manifest, path
  return check.ok(("%s of %s: %s rows of %d tables, SHA-256 as written"):format(manifest.path,
    manifest.created_at, output.count(manifest.rows), #manifest.tables))
end

local function programs_run(ctx)
  local db, message = mysql.connect(ctx.options)
  if not db then
    return failed("the database cannot be reached", message, "start MySQL, or mend TIDEMILL_MYSQL")
  end
  ctx.db = db
  local client, why = dump.program("client", db:server().flavor, ctx.set.program)
  if not client then
    return failed("no client program is installed", why, "apt-get install mariadb-client")
  end
  local compressor, reason = dump.compressor(ctx.manifest.compressor)
  if not compressor then
    return failed(("%s is not installed"):format(ctx.manifest.compressor), reason,
      "apt-get install " .. ctx.manifest.compressor)
  end
  ctx.program, ctx.compressor = client, compressor
  return check.ok(client.version)
end

-- "2 views, 1 event": what there is beside tables, or nil.
local function beside(others)
  local words = {}
  for _, kind in ipairs { "views", "triggers", "routines", "events" } do
    local n = (others or {})[kind] or 0
    if n > 0 then
      words[#words + 1] = ("%d %s"):format(n, n == 1 and kind:sub(1, -2) or kind)
    end
  end
  return #words > 0 and table.concat(words, ", ") or nil
end

-- The tables of a schema, and whether it exists.
local function schema(ctx, name)
  local result, message = ctx.db:query("select count(*) from information_schema.schemata "
    .. "where schema_name = " .. ctx.db:quote(name))
  if not result then
    return nil, message
  end
  local tables, others = tablesum.tables(ctx.db, name)
  if not tables then
    return nil, others
  end
  return { exists = result.rows[1][1] > 0, tables = tables, beside = beside(others) }
end

local function lives_in(ctx, name)
  local result = ctx.db:query(("select pipeline, instance, host, pid from %s.mill_instances where "
    .. "heartbeat_at > now(3) - interval %d second"):format(mysql.name(name), HEARTBEAT_S))
  local row = result and result.rows[1]
  return row and ("pipeline %s, instance %s, host %s, pid %d"):format(row[1], row[2], row[3], row[4])
end

-- Whether the tables of a schema can be moved out of it by renaming.
local function replace_run(ctx, name, found)
  local alive, more = lives_in(ctx, name), beside(ctx.manifest.others)
  if not ctx.execute then
    return failed(("schema %s is not empty: it holds %d tables"):format(name, #found.tables), nil,
      { text = "restore into another one, or replace its tables (the old ones are kept):",
        cmd = ("tidemill runbook restore %s --into %s --execute"):format(ctx.manifest.path, name) })
  elseif alive then
    return failed(("a pipeline runs on schema %s"):format(name), alive, "stop it first")
  elseif found.beside then
    return failed(("schema %s holds what cannot change places: %s"):format(name, found.beside), nil,
      OTHER_SCHEMA)
  elseif more then
    return failed(("the backup holds what cannot change places: %s"):format(more), nil, OTHER_SCHEMA)
  end
  local stamp = backup.stamp()
  ctx.target, ctx.replaces = ("%s_restore_%s"):format(name, stamp), name
  ctx.keep, ctx.old_tables = ("%s_before_%s"):format(name, stamp), found.tables
  return check.ok(("into %s, then in place of %s, whose tables go to %s"):format(ctx.target, name,
    ctx.keep))
end

-- A schema that does not exist yet, unless the operator named one.
local function choose(ctx)
  local base = ("%s_restored_%s"):format(ctx.manifest.database, backup.stamp())
  local name, again = ctx.into or base, 1
  local found, message = schema(ctx, name)
  while found and found.exists and not ctx.into do
    again = again + 1
    name = ("%s_%d"):format(base, again)
    found, message = schema(ctx, name)
  end
  return name, found, message
end

local function target_run(ctx)
  local name, found, message = choose(ctx)
  if not found then
    return failed("the schemas cannot be listed", message, "grant this user to see them")
  elseif #found.tables > 0 or found.beside then
    return replace_run(ctx, name, found)
  end
  ctx.target = name
  return check.ok(("into schema %s"):format(name))
end

local function create(ctx, name)
  local known = ctx.db:query("select 1 from information_schema.collations where collation_name = "
    .. ctx.db:quote(ctx.manifest.collation or ""))
  local collation = known and known.rows[1] and " collate " .. ctx.manifest.collation or ""
  return ctx.db:query(("create database if not exists %s%s"):format(mysql.name(name), collation))
end

local function load_run(ctx)
  local before = schema(ctx, ctx.target)
  local made, why = create(ctx, ctx.target)
  if not made then
    return failed(("schema %s cannot be made"):format(ctx.target), why,
      ("grant all on `%s\\_%%`.* to this user"):format(ctx.manifest.database))
  end
  local options = setmetatable({ database = ctx.target }, { __index = ctx.options })
  local line <close>, show = backup.progress("loading", ctx.manifest.dump_bytes)
  local read, message = dump.read {
    program = ctx.program, compressor = ctx.compressor, options = options,
    path = ctx.path, on_bytes = show,
  }
  line:close()
  if read and read.sha256 ~= ctx.manifest.dump_sha256 then
    read, message = nil, "what came out of the compressor is not what went in"
  end
  if not read then
    if before and not before.exists then
      ctx.db:query("drop database " .. mysql.name(ctx.target))
    end
    return failed(("the backup could not be loaded into %s"):format(ctx.target), message,
      "read what the client said; a schema that was made for this is gone again")
  end
  return check.ok(("%s loaded into schema %s"):format(output.bytes(read.bytes), ctx.target))
end

local function verify_run(ctx)
  if #ctx.manifest.tables == 0 then
    return check.unknown("the manifest names no table: nothing could be compared",
      { fix = "take a new backup" })
  end
  local lines, message = tablesum.compare(ctx.db, ctx.target, ctx.manifest.tables)
  if not lines then
    return check.unknown("the restored tables cannot be read", { detail = { message },
      fix = "grant select on the schema to this user" })
  elseif #lines > 0 then
    return failed(("schema %s differs from the backup: %s"):format(ctx.target, lines[1]),
      { table.unpack(lines, 2) }, RESTORE)
  end
  local found, why = schema(ctx, ctx.target)
  local more = beside(ctx.manifest.others)
  if not found then
    return check.unknown("the restored schema cannot be read", { detail = { why },
      fix = "grant select on the schema to this user" })
  elseif ctx.manifest.others and found.beside ~= more then
    return failed(("schema %s has %s beside its tables, the backup %s"):format(ctx.target,
      found.beside or "nothing", more or "nothing"), nil,
      "grant create view, trigger, create routine and event on the schema to this user")
  elseif ctx.replaces and found.beside then -- of a backup whose manifest did not tell
    return failed(("the backup holds what cannot change places: %s"):format(found.beside), nil,
      ("it is in schema %s: point TIDEMILL_MYSQL at that"):format(ctx.target))
  end
  return check.ok(("%d tables with %s rows are equal to the backup"):format(#ctx.manifest.tables,
    output.count(ctx.manifest.rows)), {
      metrics = { { name = "tables", value = #ctx.manifest.tables },
        { name = "rows", value = ctx.manifest.rows } } })
end

-- All tables change places in one statement, or none does.
local function replace_tables(ctx)
  local moves = {}
  local function move(from, to, tables)
    for _, t in ipairs(tables) do
      moves[#moves + 1] = ("%s.%s to %s.%s"):format(mysql.name(from), mysql.name(t.name),
        mysql.name(to), mysql.name(t.name))
    end
  end
  move(ctx.replaces, ctx.keep, ctx.old_tables)
  move(ctx.target, ctx.replaces, ctx.manifest.tables)
  local alive = lives_in(ctx, ctx.replaces)
  if alive then
    return failed(("a pipeline runs on schema %s again; nothing was changed"):format(ctx.replaces),
      alive, ("stop it; the restored tables are in schema %s"):format(ctx.target))
  end
  local ok, message = create(ctx, ctx.keep)
  if ok then
    ok, message = ctx.db:query("rename table " .. table.concat(moves, ", "))
  end
  if not ok then
    return failed(("the tables of %s could not be replaced; nothing was changed"):format(
      ctx.replaces), message, ("the restored ones are in schema %s"):format(ctx.target))
  end
  ctx.db:query("drop database " .. mysql.name(ctx.target))
  return check.ok(("schema %s holds the backup; its old tables are in %s"):format(ctx.replaces,
    ctx.keep))
end

local function place_run(ctx)
  if not ctx.replaces then
    return check.skip(("schema %s was empty: there is nothing to replace"):format(ctx.target))
  end
  return replace_tables(ctx)
end

local SYSTEM = { mysql = true, information_schema = true, performance_schema = true, sys = true }

local CHECKS = {
  { id = "restore.file", component = "backup", ref = "RB4.3", run = file_run },
  { id = "restore.programs", component = "backup", ref = "RB4.3", needs = { "restore.file" },
    run = programs_run },
  { id = "restore.target", component = "mysql", ref = "RB4.3", needs = { "restore.programs" },
    run = target_run },
  { id = "restore.load", component = "mysql", ref = "RB4.3", needs = { "restore.target" },
    run = load_run },
  { id = "restore.verify", component = "mysql", ref = "RB4.3", needs = { "restore.load" },
    run = verify_run },
}
local REPLACE = { id = "restore.replace", component = "mysql", ref = "RB4.3",
  needs = { "restore.verify" }, run = place_run }

-- The checks of this run.
local function plan(opts)
  local list = table.move(CHECKS, 1, #CHECKS, 1, {})
  if opts.execute then
    list[#list + 1] = REPLACE
  end
  return list
end

local function run(task)
  if #task.args > 1 then
    fault.raise(check.EXIT.UNKNOWN, "restore takes one backup, got %d", #task.args)
  end
  if SYSTEM[(task.opts.into or ""):lower()] then
    fault.raise(check.EXIT.UNKNOWN, "--into %s: that schema is the server's own", task.opts.into)
  end
  local options = config.mysql()
  output.hide(options.password)
  local database = options.database
  options.database = nil -- it may be gone; that is when this is needed
  local ctx = { database = database, set = task.set, file = task.args[1], into = task.opts.into,
    execute = task.opts.execute, options = options }
  local results = check.run(plan(task.opts), ctx)
  if ctx.db then
    ctx.db:close()
  end
  if not ctx.target then
    return results
  end
  return results, { schema_name = ctx.replaces or ctx.target, replaced = ctx.replaces ~= nil,
    kept = ctx.keep, backup = ctx.manifest.path }
end

return {
  steps = true,
  arguments = "[FILE]",
  options = {
    { "into", "NAME", "the schema to restore into" },
    { "execute", nil, "replace the tables of a schema that is not empty" },
  },
  settings = {
    { "dir", "backups", "the folder of the backups" },
    { "program", "", "the client program; none: the server's own kind" },
  },
  run = run,
}
