--- The tables mill_pipelines and mill_progress: registration, claims, finality.
--
-- Every function takes a session (mill.session) and may run in a task. `run` is
-- { name = pipeline, cluster = Kafka cluster id, topic = topic, outputs = {...} }.

local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local mysql = require "host.mysql"

local M = {}

M.REGISTER_TRIES = 10

local WHERE = "pipeline = ? and cluster_id = ? and topic = ?"

local function scope(session, run, sql, ...)
  return session:bind(sql, run.name, run.cluster, run.topic, ...)
end

local function value(v)
  if v == mysql.null then return nil end
  return v
end

--- The rows of mill_pipelines for the run's result tables: table -> row.
-- @param suffix SQL after the condition, for a lock
function M.pipelines(session, run, suffix)
  local out = {}
  for _, output in ipairs(run.outputs) do
    local result, message, code = session:query(session:bind([[select pipeline, fingerprint,
      final_ms, adopted_until, purged_ms, cut_ms, frozen from mill_pipelines
      where result_table = ?]], output.table) .. (suffix or ""))
    if not result then return nil, message, code end
    local row = result.rows[1]
    if row then
      out[output.table] = {
        pipeline = row[1], fingerprint = row[2], final_ms = value(row[3]),
        adopted_until = value(row[4]), purged_ms = value(row[5]), cut_ms = value(row[6]),
        frozen = row[7],
      }
    end
  end
  return out
end

--- Take over what the tables say about finality and floors, as of registration or of a claim.
-- Raises a fault when they are not for this script any more. A floor that a purge has raised holds for
-- what is read from now on; with rows of other claims in the store it stays news to their commit.
-- @param known what M.pipelines gave
function M.apply(run, known)
  for index, output in ipairs(run.outputs) do
    local row = known[output.table]
    if not row or row.pipeline ~= run.name or row.fingerprint ~= output.fingerprint then
      fault.raise(fault.POLICY, "table %s is not this script's any more: another run has accepted a "
        .. "change of pipeline '%s', or has given the table away; start again with the new script",
        output.table, run.name)
    end
    output.final_ms, output.frozen = row.final_ms, row.frozen
    if next(run.claims) == nil then output.purged_ms = row.purged_ms end
    run.store:floor(index, "cut", row.cut_ms)
    run.store:floor(index, "adopted", row.adopted_until)
    run.store:floor(index, "purged", row.purged_ms)
  end
end

--- The rows of mill_progress of this pipeline, topic and cluster: partition -> row.
function M.read(session, run, suffix)
  local result, message, code = session:query(scope(session, run, [[select `partition`, position,
    watermark_ms, idle_ms, at_end, last_offset, last_hash, owner, instance, epoch, commit_seq,
    timestampdiff(microsecond, updated_at, current_timestamp(3)) div 1000
    from mill_progress where ]] .. WHERE .. (suffix or "")))
  if not result then return nil, message, code end
  local out = {}
  for _, row in ipairs(result.rows) do
    out[row[1]] = {
      partition = row[1], position = row[2], watermark_ms = value(row[3]), idle_ms = value(row[4]),
      at_end = row[5] == 1, last_offset = value(row[6]), last_hash = value(row[7]),
      owner = value(row[8]), instance = value(row[9]), epoch = row[10], commit_seq = row[11],
      age_ms = row[12],
    }
  end
  return out
end

--- The clusters that this pipeline has read the topic of, if not of the run's. Empty: it has read the
-- run's log, or none.
function M.others(session, run)
  local result, message, code = session:query(session:bind([[select distinct cluster_id
    from mill_progress where pipeline = ? and topic = ?]], run.name, run.topic))
  if not result then return nil, message, code end
  local out = {}
  for i, row in ipairs(result.rows) do
    if row[1] == run.cluster then return {} end
    out[i] = row[1]
  end
  return out
end

--- SQL that forgets where the pipeline stood in the logs of other clusters.
function M.forget(session, run)
  return session:bind("delete from mill_progress where pipeline = ? and cluster_id <> ?", run.name,
    run.cluster)
end

--- What a read ends with that waits for, and keeps out, whoever writes the rows.
function M.lock()
  return failpoint.off "for-update" and "" or " for update"
end

--- Register the pipeline and its partitions, if nobody has: one transaction, tried again when it
-- meets another one, of a run that starts at the same moment or commits.
-- @param starts table partition -> offset to begin at
-- @return true, or nil, message, code
function M.register(session, run, starts)
  local statements = { "start transaction" }
  for _, output in ipairs(run.outputs) do
    statements[#statements + 1] = session:bind([[insert into mill_pipelines
      (pipeline, result_table, fingerprint) values (?, ?, ?) on duplicate key update
      fingerprint = if(pipeline = '', values(fingerprint), fingerprint),
      pipeline = if(pipeline = '', values(pipeline), pipeline)]], run.name, output.table,
      output.fingerprint)
  end
  local partitions = {}
  for partition in pairs(starts) do partitions[#partitions + 1] = partition end
  table.sort(partitions)
  for _, partition in ipairs(partitions) do
    statements[#statements + 1] = scope(session, run, [[insert into mill_progress
      (pipeline, cluster_id, topic, `partition`, position) values (?, ?, ?, ?, ?)
      on duplicate key update position = position]], partition,
      starts[partition])
  end
  statements[#statements + 1] = "commit"
  local results, message, code
  failpoint.hit "register.before"
  for _ = 1, M.REGISTER_TRIES do
    results, message, code = session:run(statements)
    if results then
      failpoint.hit "register.after"
      return true
    end
    session:rollback()
    if code ~= "DEADLOCK" and code ~= "LOCKWAIT" then break end
  end
  return nil, message, code
end

-- One try: one transaction for all of `list`.
-- @return rows, known as of M.claim; false when one is not current any more; or nil, message, code
local function try_claim(session, run, list, current)
  local function all_current()
    for _, partition in ipairs(list) do
      if not current(partition) then return false end
    end
    return true
  end
  local these = " and `partition` in (" .. table.concat(list, ", ") .. ")"
  local ok, message, code = session:run("start transaction")
  if not ok then return nil, message, code end
  -- In order, as commits lock them.
  local rows
  rows, message, code = M.read(session, run, these .. " order by `partition`" .. M.lock())
  if not rows then return nil, message, code end
  failpoint.hit "claim.locked"
  if not all_current() then return false end
  local new = {}
  for _, partition in ipairs(list) do
    local row = rows[partition]
    if not row then
      -- All partitions are registered when a log is begun: where none is, another one was begun since.
      local others
      others, message, code = M.others(session, run)
      if not others then return nil, message, code end
      if #others > 0 then
        session:rollback()
        fault.raise(fault.POLICY, "pipeline '%s' reads topic '%s' of Kafka cluster %s now, no longer "
          .. "that of cluster %s: another run has begun a new log", run.name, run.topic,
          table.concat(others, ", "), run.cluster)
      end
      -- The topic has grown: what is new begins at its beginning.
      row = { partition = partition, position = 0, epoch = 0, commit_seq = 0, at_end = false }
      rows[partition], new[#new + 1] = row, scope(session, run, "(?, ?, ?, ?, 0)", partition)
    end
    row.epoch, row.owner, row.instance = row.epoch + 1, run.id, run.instance
  end
  local statements = { session:bind("update mill_progress set owner = ?, instance = ?, "
    .. "epoch = epoch + 1 where ", run.id, run.instance) .. scope(session, run, WHERE) .. these }
  if #new > 0 then
    table.insert(statements, 1, "insert into mill_progress (pipeline, cluster_id, topic, "
      .. "`partition`, position) values " .. table.concat(new, ", "))
  end
  ok, message, code = session:run(statements)
  if not ok then return nil, message, code end
  -- A reset takes the locks we hold: behind it the windows may begin elsewhere.
  local known
  known, message, code = M.pipelines(session, run)
  if not known then return nil, message, code end
  failpoint.hit "claim.written"
  if not all_current() then return false end
  ok, message, code = session:run("commit")
  if not ok then return nil, message, code end
  failpoint.hit "claim.committed"
  return rows, known
end

--- Claim partitions, in one transaction. One that is not current any more is left out; the others
-- are then tried again without it.
-- @param current function(partition) that tells whether the assignment is still the current one
-- @return rows as M.read gives them, by partition, with the new epoch and owner, and what
--   M.pipelines gives (nil without any row); or nil, message, code
function M.claim(session, run, partitions, current)
  failpoint.hit "claim.before"
  while true do
    local list = {}
    for _, partition in ipairs(partitions) do
      if current(partition) then list[#list + 1] = partition end
    end
    if #list == 0 then return {} end
    table.sort(list)
    local rows, known, code = try_claim(session, run, list, current)
    if rows then return rows, known end
    session:rollback()
    if rows == nil then return nil, known, code end
  end
end

--- The compare-and-set that moves one partition; its count says whether we still own it.
function M.advance(session, run, claim, sealed)
  local sets = "update mill_progress set "
    .. (failpoint.off "position" and "" or session:bind("position = ?, ", sealed.position))
    .. session:bind("watermark_ms = ?, at_end = ?, commit_seq = ?", sealed.watermark_ms,
      sealed.at_end, claim.seq + 1)
  if sealed.last_offset then
    sets = sets .. session:bind(", last_offset = ?, last_hash = ?", sealed.last_offset,
      sealed.last_hash)
  end
  return sets .. scope(session, run, " where " .. WHERE
    .. " and `partition` = ? and owner = ? and epoch = ?", sealed.partition, run.id, claim.epoch)
    .. (failpoint.off "commit-seq" and "" or session:bind(" and commit_seq = ?", claim.seq))
end

--- Store how far the idle clocks of our partitions have come; finality looks at it.
function M.store_idle(session, run, idle)
  if next(idle) == nil then return true end
  local db, message, code = session:open() -- once, and not for each literal
  if not db then return nil, message, code end
  local statements = {}
  for partition, item in pairs(idle) do
    statements[#statements + 1] = session:bind("update mill_progress set idle_ms = ? where ",
      item.idle_ms) .. scope(session, run, WHERE
      .. " and `partition` = ? and owner = ? and epoch = ?", partition, run.id, item.epoch)
  end
  return session:run(statements)
end

-- The least event time all partitions have reached, or nil while one of them holds back.
local function least(rows)
  local min
  for _, row in pairs(rows) do
    local reached = row.watermark_ms
    if row.idle_ms and (not reached or row.idle_ms > reached) then reached = row.idle_ms end
    if reached then
      min = min and math.min(min, reached) or reached
    elseif not row.at_end then
      return nil
    end
  end
  return min
end
M.least = least

-- The end of the newest window that a row of any partition is in; nil when there is none.
local function newest_end(run, rows)
  local newest
  for _, row in pairs(rows) do
    for _, output in ipairs(row.watermark_ms and run.outputs or {}) do
      local w = output.window
      local at = row.watermark_ms + w.max_delay_ms
      newest = math.max(newest or math.mininteger, at // w.hop_ms * w.hop_ms + w.size_ms)
    end
  end
  return newest
end

-- Did a window end of this output pass between two times?
local function passed(output, final_ms, reached)
  if not final_ms then return true end
  local window = output.window
  local function ends(at) return (at - window.size_ms) // window.hop_ms end
  return ends(reached) > ends(final_ms)
end

--- One look, and if a window end was passed, one transaction that marks rows final.
-- @return true when something was marked, false when not, or nil, message, code
function M.finalise(session, run)
  local rows, message, code = M.read(session, run)
  if not rows then return nil, message, code end
  run.newest_end_ms = newest_end(run, rows)
  local reached = least(rows)
  if not reached then return false end
  local due = {}
  for _, output in ipairs(run.outputs) do
    if passed(output, output.final_ms, reached) then due[#due + 1] = output end
  end
  if #due == 0 then return false end
  local function undo(...)
    session:rollback()
    return ...
  end
  local ok
  ok, message, code = session:run("start transaction")
  if not ok then return undo(nil, message, code) end
  -- Locked in order, so that no commit is under way: two finalisers that each saw only the other's
  -- old row would both leave the window open.
  rows, message, code = M.read(session, run, " order by `partition` for update")
  if not rows then return undo(nil, message, code) end
  failpoint.hit "finalise.locked"
  reached = least(rows)
  if not reached then return undo(false) end
  local statements = {}
  for _, output in ipairs(due) do
    statements[#statements + 1] = session:bind([[update mill_pipelines set
      final_ms = greatest(coalesce(final_ms, ?), ?) where result_table = ?]], reached, reached,
      output.table)
    statements[#statements + 1] = session:bind(([[update %s set is_final = 1
      where is_final = 0 and %s <= timestampadd(microsecond, ? * 1000, '1970-01-01')]]):format(
      mysql.name(output.table), mysql.name(output.plan.end_.column)), reached)
  end
  statements[#statements + 1] = "commit"
  ok, message, code = session:run(statements)
  if not ok then return undo(nil, message, code) end
  failpoint.hit "finalise.after"
  for _, output in ipairs(due) do output.final_ms = math.max(output.final_ms or reached, reached) end
  return true
end

--- Do the tables exist? Raises a fault naming the command when not.
function M.require_tables(session)
  local result, message = session:query([[select count(*) from information_schema.tables
    where table_schema = database() and table_name in ('mill_pipelines', 'mill_progress',
    'mill_dead_letters', 'mill_late', 'mill_gaps', 'mill_instances')]])
  if not result then fault.raise(fault.SERVER, "%s", message) end
  if result.rows[1][1] < 6 then
    fault.raise(fault.SERVER, "the database lacks tidemill's tables (mill_progress and others); "
      .. "run `tidemill migrate` first")
  end
end

return M
