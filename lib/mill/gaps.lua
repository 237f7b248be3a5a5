--- Offsets that are gone, and logs that are not the one we read: named, and stopped at, or with
-- --on-gap=skip recorded in mill_gaps and gone over.
--
-- Three signs, looked at with every claim: our position lies below the start of the log; it lies
-- beyond its end, for BEYOND_MS; the record we read last is another one now. What can be wrong is
-- claimed again first, so that there is one place that judges.

local clock = require "host.clock"
local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local session_ = require "mill.session"
local source = require "mill.source"

local M = {}

-- How long a position may lie beyond the end of the log before it counts as a gap.
M.BEYOND_MS = 30000

local WHY = {
  below = "below the start of the log: retention, or deleted records",
  beyond = "the log ends before our position: it was truncated or made anew",
  remade = "the record at offset %d is another one now: the topic was made anew",
}

local WAY_OUT = {
  below = "Go on without them with --on-gap=skip, which records the gap in mill_gaps",
  beyond = "If the log was truncated, go on from its end with --on-gap=skip, which records the gap "
    .. "in mill_gaps; if the topic was made anew, begin it with `tidemill progress reset SCRIPT "
    .. "--from TIME`",
  remade = "Begin the new log with `tidemill progress reset SCRIPT --from TIME`; or go on from "
    .. "offset %d of it with --on-gap=skip, which records the gap in mill_gaps",
}

--- Is it still the cluster we know? An address may lead to another one after its servers were changed.
-- Raises a fault where it is not; while none answers there is nothing to tell.
-- @param wait_ms for the answer, default 5000
function M.same_cluster(run, wait_ms)
  if not run.brokers then return end
  local now = source.cluster(run.brokers, run.kafka_conf, wait_ms or 5000)
  if now and now ~= run.cluster then
    fault.raise(fault.POLICY, "Kafka at %s is cluster %s now; pipeline '%s' has read topic '%s' of "
      .. "cluster %s. Is TIDEMILL_KAFKA right? If the cluster really is a new one, begin its log "
      .. "with --new-log --from TIME", run.brokers, now, run.name, run.topic, run.cluster)
  end
end

-- Without leave to go on: say what is gone, and stop.
local function stop(run, partition, from, to, kind, reason)
  fault.raise(fault.POLICY, "topic '%s' partition %d: offsets %d..%d are gone (%s); nothing was "
    .. "counted past them. %s", run.topic, partition, from, to - 1, reason,
    WAY_OUT[kind]:format(to))
end

-- Record the gap and move the position to `next`, in one transaction and while the claim is ours: a
-- run that is killed in it finds the gap again, or the position behind it.
-- @return true; false when the claim is not ours any more; nil when the database is to be asked again
local function record(run, row, gap)
  local session = run.control.session
  failpoint.hit "gap.before"
  local statements = {
    "start transaction",
    session:bind([[update mill_progress set position = ?, last_offset = null, last_hash = null
      where pipeline = ? and cluster_id = ? and topic = ? and `partition` = ? and owner = ?
      and epoch = ? and position = ?]], gap.next, run.name, run.cluster, run.topic, row.partition,
      run.id, row.epoch, row.position),
    session:bind([[insert into mill_gaps (pipeline, cluster_id, topic, `partition`, from_offset,
      to_offset, reason) values (?, ?, ?, ?, ?, ?, ?)]], run.name, run.cluster, run.topic,
      row.partition, gap.from, gap.to, gap.reason),
  }
  if gap.next < row.position then
    -- Offsets come a second time. What the tables keep of the first is named by the gap, or the
    -- second would be taken for it.
    for _, name in ipairs { "mill_dead_letters", "mill_late" } do
      statements[#statements + 1] = session:bind(([[update %s set cluster_id =
        concat(left(cluster_id, 36), '/gap-', last_insert_id()) where pipeline = ? and cluster_id = ?
        and topic = ? and `partition` = ? and `offset` >= ?]]):format(name), run.name, run.cluster,
        run.topic, row.partition, gap.next)
    end
  end
  local ok, message, code = session:run(statements)
  local ours = ok and ok[2].affected == 1
  if ours then ok, message, code = session:run("commit") end
  if not ok or not ours then session:rollback() end
  if ok then
    failpoint.hit "gap.after"
    return ours
  end
  if session_.AWAY[code] or session_.AGAIN[code] then
    run.log.trouble("control", "the database is away for claims and heartbeats: %s", message)
    return nil
  end
  fault.raise(fault.SERVER, "mill_gaps: %s", message)
end

-- Go over a gap, if that is allowed. Returns whether the claim holds.
local function go_over(run, row, kind, from, to, next)
  local reason = WHY[kind]:format(row.last_offset)
  M.same_cluster(run)
  if run.on_gap ~= "skip" then stop(run, row.partition, from, to, kind, reason) end
  local done = record(run, row, { from = from, to = to, next = next, reason = reason })
  if not done then return false end
  row.last_offset = nil
  run.log.warn("topic '%s' partition %d: offsets %d..%d are gone (%s); skipped, recorded in mill_gaps",
    run.topic, row.partition, from, to - 1, reason)
  return true
end

--- Where to read on from, for a claim of the database.
-- @param row as mill.progress.claim gives it; its last_offset is nil after a gap
-- @param low, high the start and the end of the log
-- @return offset; or nil when it is too early to tell, or the claim does not hold
function M.position(run, row, low, high)
  local p, position = row.partition, row.position
  if position < low then
    run.beyond[p] = nil
    return go_over(run, row, "below", position, low, low) and low or nil
  end
  if position > high then
    local since = run.beyond[p] or clock.mono_ms()
    run.beyond[p] = since
    if clock.mono_ms() - since < M.BEYOND_MS then
      run.log.trouble("beyond" .. p, "partition %d: our position %d lies beyond the end %d; waiting "
        .. "%d s for the log to come back", p, position, high, M.BEYOND_MS // 1000)
      return nil
    end
    if not go_over(run, row, "beyond", high, position, high) then return nil end
    position = high
  end
  if run.remade[p] then
    if run.remade[p] == row.last_offset
      and not go_over(run, row, "remade", low, position, position) then
      return nil
    end
    run.remade[p] = nil
  end
  run.beyond[p] = nil
  run.log.over("beyond" .. p, "partition %d: the log reaches our position again", p)
  return position
end

--- Is any partition's log another one than the one we read? Claim it again: the claim judges.
function M.look_at_log(run)
  for p, claim in pairs(run.claims) do
    local state = run.store:state(p)
    if state and state.mismatch then
      run.remade[p] = claim.verified
      M.look_again(run, p)
    end
  end
end

--- Something is wrong with a partition, or may be: claim it again once what was read is committed.
-- It is read no further until then: the rows may be another log's.
function M.look_again(run, partition)
  if not run.claims[partition] or run.looks[partition] then return end
  run.looks[partition] = true
  run:stop_reading { partition }
end

--- The same for all of them; after all brokers were away they may be others now.
function M.look_at_all(run)
  for p in pairs(run.claims) do M.look_again(run, p) end
end

--- Claim again what is to be looked at, as far as nothing uncommitted would be lost.
function M.step(run)
  if next(run.looks) == nil or run.committer:busy() then return end
  for p in pairs(run.looks) do
    local state = run.claims[p] and run.store:state(p)
    if not state then
      run.looks[p] = nil
    elseif not state.changed and not state.sealed then
      run.looks[p] = nil
      run.store:drop(p)
      run.claims[p] = nil
      run.reclaim[p] = clock.mono_ms()
    end
  end
end

return M
