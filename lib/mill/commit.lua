--- One commit: the deltas and the position, in one MySQL transaction.
--
-- Order matters. First a compare-and-set for every partition, in order; nothing more is sent before
-- its counts are read, so a fenced instance changes nothing. Then results, bad rows and late rows,
-- then COMMIT, all in one packet when they are few: the server stops at the first that fails. After
-- any error the transaction is rolled back before anything else is sent.

local clock = require "host.clock"
local failpoint = require "mill.failpoint"
local frozen = require "mill.frozen"
local mysql = require "host.mysql"
local notes = require "mill.notes"
local packets_ = require "mill.packets"
local derived = require "mill.derived"
local progress = require "mill.progress"

local M = {}

M.ROWS_PER_STATEMENT = 2000
M.BYTES_PER_STATEMENT = 1 << 20

--- From this many rows on they are sent as arrays, to a server that takes them.
M.ARRAY_ROWS = 100

-- The first packet: begin, compare-and-set, and what the tables say about finality.
local function begin(session, run, sealed, lock)
  -- Or each literal would wait in vain for a server that is away.
  local db, message, code = session:open()
  if not db then return nil, message, code end
  local statements = { "start transaction" }
  for _, item in ipairs(sealed) do
    statements[#statements + 1] = progress.advance(session, run, item.claim, item)
  end
  local names = {}
  for i, output in ipairs(run.outputs) do names[i] = session:literal(output.table) end
  statements[#statements + 1] = ([[select result_table, final_ms, frozen, purged_ms,
    timestampdiff(microsecond, '1970-01-01', utc_timestamp(3)) div 1000 from mill_pipelines
    where result_table in (%s) order by pipeline, result_table %s]]):format(
    table.concat(names, ", "), lock and "for update" or "lock in share mode")
  return session:run(statements)
end

-- Take over what a purge and the finalisers have done. Returns false when a floor was raised, under
-- which the sealed rows may be.
local function read_pipelines(run, result)
  local same = true
  for _, row in ipairs(result.rows) do
    for index, output in ipairs(run.outputs) do
      if output.table == row[1] then
        output.final_ms = row[2] ~= mysql.null and row[2] or nil
        output.frozen = row[3]
        if row[4] ~= mysql.null and row[4] ~= output.purged_ms then
          output.purged_ms, same = row[4], false
          run.store:floor(index, "purged", row[4])
        end
      end
    end
  end
  return same
end

-- Are the rows of one output to be sent as arrays? nil, message, code, errno, sql when the server is away.
local function as_arrays(packets, run, index, bound)
  local session = packets.session
  if run.store:rows(index) < M.ARRAY_ROWS or not session:takes_arrays() then return false end
  local ok, message, code, errno, sql = packets:flush()
  if not ok then return nil, message, code, errno, sql end
  ok, message, code, errno = session:prepares(bound.prepared)
  return ok, message, code, errno, bound.prepared
end

-- The rows of one output by the upsert, as text or as arrays of values: the same statement.
local function upsert(packets, run, index, output)
  local bound, store = output.bound, run.store
  local arrays, why, which, number, what = as_arrays(packets, run, index, bound)
  if arrays == nil then return nil, why, which, number, what end
  local at = 1
  while true do
    local rows, after = store:render(index, output.final_ms or math.mininteger, at,
      M.ROWS_PER_STATEMENT, M.BYTES_PER_STATEMENT, arrays)
    if not rows then return true end
    local ok, message, code, errno, sql
    if arrays then
      ok, message, code, errno, sql = packets:rows(bound.prepared, rows, bound.types)
    else
      ok, message, code, errno, sql = packets:add(bound.prefix .. rows .. bound.suffix)
    end
    if not ok then return nil, message, code, errno, sql end
    run.written = run.written + (after - at)
    at = after
  end
end

-- The rows of every output; run.written counts them. The last may not have been sent yet.
local function results(packets, run)
  local session = packets.session
  run.written = 0
  for index, output in ipairs(run.outputs) do
    local row_by_row = output.frozen > 0 or run.careful
    local ok, message, code, errno, sql
    if row_by_row then
      ok, message, code, errno, sql = packets:flush()
      if ok then ok, message, code, errno, sql = frozen.write(session, run, index, output) end
    else
      ok, message, code, errno, sql = upsert(packets, run, index, output)
    end
    if ok and #output.bound.derived > 0 then
      ok, message, code, errno, sql = packets:flush()
      if ok then ok, message, code, errno, sql = derived.write(session, run, index, output) end
    end
    if not ok then return nil, message, code, errno, sql end
  end
  return true
end

--- The rows of every output, and what goes with them. For the replay of dead letters.
-- @return true, or nil, message, code, errno, sql
function M.write(session, run)
  local out = packets_.new(session)
  local ok, message, code, errno, sql = results(out, run)
  if ok then ok, message, code, errno, sql = notes.write(out, run) end
  if not ok then return nil, message, code, errno, sql end
  return out:flush()
end

-- What a commit leaves behind when the connection was lost at COMMIT: ask the table.
local function resolve(session, run, item)
  local claim = item.claim
  local ok, message, code = session:run("start transaction")
  if not ok then return nil, message, code end
  local rows
  -- This waits until the server is done with the old transaction.
  rows, message, code = progress.read(session, run,
    session:bind(" and `partition` = ?", item.partition) .. progress.lock())
  if rows then failpoint.hit "resolve.locked" end
  session:rollback()
  if not rows then return nil, message, code end
  local row = rows[item.partition]
  if not row or row.owner ~= run.id or row.epoch ~= claim.epoch then return "fenced" end
  if failpoint.off "commit-seq" then return "lost" end
  return row.commit_seq == claim.seq + 1 and "committed" or "lost"
end
M.resolve = resolve

--- Commit what is sealed. Runs in a task.
-- @param session mill.session
-- @param run the run (see mill.runner)
-- @param sealed what store:seal gave, each with the claim it is committed under
-- @return "committed"; "fenced", the items concerned; "skewed", by how much our clock is ahead, or nil
--   when only the one that judged the rows was wrong; "purged"; or nil, { message, code, errno, sql,
--   unknown }
function M.run(session, run, sealed)
  local function failed(message, code, errno, sql, unknown)
    session:rollback()
    return nil, { message = message, code = code, errno = errno, sql = sql, unknown = unknown }
  end
  failpoint.hit "commit.begin"
  local asked_ms = clock.mono_ms()
  local first, message, code, errno = begin(session, run, sealed, run.careful)
  if not first then return failed(message, code, errno) end
  failpoint.hit "commit.compared"
  local fenced = {}
  for i, item in ipairs(sealed) do
    if first[i + 1].affected == 0 and not failpoint.off "fencing" then
      fenced[#fenced + 1] = item
    end
  end
  if #fenced > 0 then
    session:rollback()
    -- For the log: by whom.
    local rows = progress.read(session, run)
    for _, item in ipairs(fenced) do item.row = rows and rows[item.partition] end
    return "fenced", fenced
  end
  local seen = first[#first].rows[1]
  local skew = seen and run:clock_differs(asked_ms, seen[5])
  if skew or seen and sealed.judged and run:clock_differs(asked_ms, seen[5], sealed.judged) then
    session:rollback()
    return "skewed", skew
  end
  if not read_pipelines(run, first[#first]) then
    session:rollback()
    return "purged"
  end
  local out = packets_.new(session)
  local ok, sql
  ok, message, code, errno, sql = results(out, run)
  if ok then
    failpoint.hit "commit.results"
    ok, message, code, errno, sql = notes.write(out, run)
  end
  if not ok then return failed(message, code, errno, sql) end
  failpoint.hit "commit.before"
  ok, message, code, errno, sql = out:commit "commit.sent"
  if not ok then
    return failed(message, code, errno, sql, out.committing and session.db == nil)
  end
  failpoint.hit "commit.after"
  return "committed"
end

return M
