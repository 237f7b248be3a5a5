--- Keeping a result table small, on request: delete results of windows that take no more rows.
--
-- One transaction stores `purged_ms`, under a lock that every commit shares: behind it no commit
-- writes to a window that starts before it, and rows of such windows go to mill_late (`purged`). So
-- the pipeline may run. Then the results are deleted, some at a time; what a purge that was killed
-- has left, the next one deletes.

local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local moment = require "host.moment"
local mysql = require "host.mysql"
local progress = require "mill.progress"
local register = require "mill.register"
local reset = require "mill.reset"
local setup = require "mill.setup"
local transaction = require "mill.transaction"

local M = {}

--- Rows of one transaction: commits that want one of them do not wait for long.
M.ROWS_AT_ONCE = 10000

local function text_of(ms)
  return (moment.format(math.max(0, ms), "iso"):gsub("%.000Z$", "Z"))
end

local function lcm(a, b)
  local x, y = a, b
  while y ~= 0 do x, y = y, x % y end
  return a // x * b
end

local function parse(run, text)
  local ms = moment.parse(text or "")
  if not ms then
    fault.raise(fault.USAGE, "progress purge needs --before TIME, a window's start such as "
      .. "2024-08-09T12:00:00Z")
  end
  return reset.aligned(run, ms, "--before", text)
end

-- Raises a fault when a window that starts before `ms` may still take rows: one that does not end by
-- final_ms - lateness.
local function check(run, known, ms)
  local latest, step = math.maxinteger, 1
  for _, output in ipairs(run.outputs) do
    local row, w = known[output.table], output.window
    if not row.final_ms then
      fault.raise(fault.POLICY, "no result of table %s is final yet", output.table)
    end
    latest = math.min(latest, row.final_ms - w.lateness_ms - w.size_ms + w.hop_ms)
    step = lcm(step, w.hop_ms)
  end
  latest = latest // step * step
  if ms > latest then
    fault.raise(fault.POLICY, "windows before %s may still take rows (lateness); the latest possible "
      .. "time is %s", text_of(ms), text_of(latest))
  end
end

-- Rows to delete. The end finds them by the finaliser's index.
local function condition(session, output, ms)
  local w, plan = output.window, output.plan
  local at = "timestampadd(microsecond, ? * 1000, '1970-01-01')"
  return session:bind(("is_final in (0, 1) and %s <= %s and %s < %s"):format(
    mysql.name(plan.end_.column), at, mysql.name(plan.start.column), at), ms + w.size_ms - w.hop_ms, ms)
end

local function preview(session, run, ms)
  local rows, adopted = 0, 0
  for _, output in ipairs(run.outputs) do
    local count = output.plan.count
    local row = fault.check(fault.SERVER, "results", session:query(([[select count(*),
      cast(coalesce(sum(%s), 0) as signed) from %s where %s]]):format(
      count and mysql.name(count.column) .. " is null" or "0", mysql.name(output.table),
      condition(session, output, ms)))).rows[1]
    rows, adopted = rows + row[1], adopted + row[2]
  end
  return ("%d result row%s%s"):format(rows, rows == 1 and "" or "s",
    adopted > 0 and (" (%d of them adopted)"):format(adopted) or "")
end

local function raise_floor(session, run, ms)
  transaction.run(session, "purge", function(must)
    local known = must(progress.pipelines(session, run, " for update"))
    -- A reset may have taken final_ms back since, another run may have changed the script.
    register.match(run, known)
    check(run, known, ms)
    for _, output in ipairs(run.outputs) do
      must(session:query(session:bind([[update mill_pipelines set
        purged_ms = greatest(coalesce(purged_ms, ?), ?) where result_table = ?]], ms, ms,
        output.table)))
    end
  end)
end

local function delete(session, output, ms)
  local sql = ("delete from %s where %s order by is_final, %s limit %d"):format(
    mysql.name(output.table), condition(session, output, ms), mysql.name(output.plan.end_.column),
    M.ROWS_AT_ONCE)
  local deleted = 0
  repeat
    local gone = transaction.run(session, "purge", function(must)
      return must(session:query(sql)).affected
    end)
    deleted = deleted + gone
  until gone < M.ROWS_AT_ONCE
  return deleted
end

--- Delete the results of windows that start before a time, for good. Without `execute` it raises a
-- fault that says how many that would be.
-- @param before text of the time, the start of a window
-- @return how many rows were deleted
function M.run(pipeline, before, execute)
  local run = { name = pipeline.name, outputs = pipeline.outputs }
  local ms = parse(run, before)
  local session = setup.session(setup.database(pipeline))
  progress.require_tables(session)
  check(run, register.require(session, run), ms)
  if not execute then
    fault.raise(fault.USAGE, "%s of windows before %s would be deleted for good. Nothing was changed; "
      .. "run again with --execute to do it", session:patiently(preview, session, run, ms), before)
  end
  raise_floor(session, run, ms)
  failpoint.hit "purge.stored"
  local deleted = 0
  for _, output in ipairs(run.outputs) do deleted = deleted + delete(session, output, ms) end
  session:close()
  return deleted
end

return M
