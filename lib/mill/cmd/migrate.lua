--- tidemill migrate: create the tables, or adopt those of the replaced system.

local adopt = require "mill.adopt"
local config = require "mill.config"
local fault = require "mill.fault"
local json = require "mill.json"
local migrate = require "mill.migrate"
local mysql = require "host.mysql"
local setup = require "mill.setup"

local M = {
  summary = "create the tables, or adopt those of the replaced system",
  usage = "tidemill migrate [--execute] [--from-zone ZONE] [--table NAME] [--json]",
  takes = 0,
  options = {
    { "execute", nil, "adopt an existing table; without it, only say what would be done" },
    { "from-zone", "ZONE", "zone of the local times in the adopted table, e.g. Europe/Madrid" },
    { "table", "NAME", "the table to adopt (default moving_averages)" },
    { "json", nil, "print one JSON object" },
  },
  exits = {
    { 0, "the tables are there" },
    { 2, "an option is missing or wrong" },
    { 3, "the database cannot be reached, or refused a statement" },
    { 5, "a table waits to be adopted: run again with --execute" },
  },
}

local function say(out, fmt, ...)
  out.lines[#out.lines + 1] = fmt:format(...)
end

local function describe(out, report)
  say(out, "%s is a table of the replaced system: %d rows", report.table, report.rows)
  say(out, "  windows with more than one row: %d (%d rows too many)", report.duplicate_windows,
    report.duplicate_rows)
  for _, example in ipairs(report.examples) do
    say(out, "    %s %s UTC: %d rows, id %s is kept", example.symbol, example.start_time,
      example.rows, tostring(example.kept))
  end
  if report.incomplete > 0 then
    say(out, "  rows without symbol, start_time or end_time: %d; they stay in %s_before_tidemill alone",
      report.incomplete, report.table)
  end
  for _, hour in ipairs(report.ambiguous) do
    say(out, "  ambiguous local hour %s to %s: %d rows, told apart by created_at", hour.from,
      hour.to, hour.rows)
  end
end

local function adopt_table(db, name, opts, out)
  if not adopt.needed(db, name) then return 0 end
  local report = adopt.report(db, name, opts.from_zone)
  describe(out, report)
  out.result.report = {
    table = name, rows = report.rows, incomplete = report.incomplete,
    duplicate_windows = report.duplicate_windows, duplicate_rows = report.duplicate_rows,
    examples = json.array(report.examples),
    ambiguous = json.array(report.ambiguous),
  }
  if not opts.execute then
    say(out, "  nothing was changed; run again with --execute to adopt it")
    return fault.POLICY
  end
  local done = adopt.execute(db, name, report)
  out.result.adopted = done
  say(out, "  adopted: %d rows kept, %d moved to %s_duplicates; the old table is %s", done.kept,
    done.moved, name, done.before)
  -- The table was tidemill's before: its old positions go on.
  local owner = adopt.owner(db, name)
  if owner then
    out.result.resumes = owner
    say(out, "  WARNING: pipeline '%s' owned this table before and goes on at its positions of %s UTC:",
      owner.pipeline, owner.updated_at)
    say(out, "    what came since then is read again; rows of windows that begin before the end of the "
      .. "adopted ones go to mill_late, none is added twice")
    say(out, "    offsets that retention has removed meanwhile stop it with exit 5; see "
      .. "`tidemill progress %s`", owner.pipeline)
  end
  return 0, done
end

function M.run(opts)
  local name = opts.table or "moving_averages"
  local options = config.mysql()
  local db <close> = setup.check("migrate", mysql.connect(options))
  migrate.lock(db)
  local out = { lines = {}, result = {} }
  local status, done = adopt_table(db, name, opts, out)
  if status == 0 then
    out.result.applied = json.array(migrate.apply(db))
    for _, file in ipairs(out.result.applied) do say(out, "applied %s", file) end
    local until_ms = done and done.adopted_until or adopt.forgotten(db, name)
    if done or until_ms then adopt.remember(db, name, until_ms) end
    if #out.result.applied == 0 and not done then say(out, "nothing to do: the tables are there") end
  end
  if opts.json then
    print(json.encode(out.result))
  else
    print(table.concat(out.lines, "\n"))
  end
  return status
end

return M
