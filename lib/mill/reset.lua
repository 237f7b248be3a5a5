--- Reading again, on request: delete results from a time on, and go back in the log.
--
-- All in one transaction. Rows of windows before the time then go to mill_late (`before-cut`).

local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local lag = require "mill.lag"
local moment = require "host.moment"
local mysql = require "host.mysql"
local progress = require "mill.progress"
local source = require "mill.source"
local transaction = require "mill.transaction"

local M = {}

--- A time that is the start of a window of every output; raises a fault where it is not.
-- @param ms the time, written as `text` after `option`
-- @return ms
function M.aligned(run, ms, option, text)
  for _, output in ipairs(run.outputs) do
    if ms % output.window.hop_ms ~= 0 then
      fault.raise(fault.USAGE, "%s %s is not the start of a window of %s", option, text, output.table)
    end
  end
  return ms
end

--- Parse a window-aligned time.
-- @return integer ms; raises a fault when it is no time, or within a window
function M.time(run, text, option)
  if not text then
    fault.raise(fault.USAGE, "%s needs --from TIME, a window's start such as 2024-08-09T12:00:00Z",
      option)
  end
  local ms = moment.parse(text)
  if not ms then fault.raise(fault.USAGE, "--from %s: not a time; write 2024-08-09T12:00:00Z", text) end
  return M.aligned(run, ms, "--from", text)
end

-- What the log still has of the time from `ms` on: when it begins where its head is gone, or that it
-- begins (`anew`) at all; nil when it reaches back.
local function log_begins(run, anew)
  local marks, list = source.marks(run.consumer, run.topic, run.partitions), {}
  for p, mark in pairs(marks) do
    if anew or mark.low > 0 then
      list[#list + 1] = { topic = run.topic, partition = p, low = mark.low, high = mark.high }
    end
  end
  if #list == 0 then return nil end
  local reader <close> = lag.reader { brokers = run.brokers, conf = run.kafka_conf }
  fault.check(fault.SERVER, "the log's first records", lag.first(reader, run.topic, list, 10000))
  local latest = math.mininteger
  for _, p in ipairs(list) do latest = math.max(latest, p.first_ms or math.maxinteger) end
  return latest
end

-- About how many records before `ms` are read on the way, by Kafka's timestamps.
local function read_before(run, from_ms, ms)
  local text = function(at) return moment.format(math.max(0, at), "iso") end
  local first = source.starts(run.consumer, run.topic, run.partitions, text(from_ms), true)
  local last = source.starts(run.consumer, run.topic, run.partitions, text(ms), true)
  local n = 0
  for p, offset in pairs(last) do n = n + math.max(0, offset - first[p]) end
  return n
end

--- What going back to a time would do; nothing is changed.
-- @param anew boolean another log is begun: what the old one brought is not in it
-- @return { rows = result rows that would be deleted, lost = those of windows that begin before what
--   the log still has, log_from_ms = its beginning | nil, late = about how many records of before go
--   to mill_late, text = all that in words }
function M.preview(session, run, text, option, anew)
  local ms = M.time(run, text, option)
  local begins = log_begins(run, anew)
  local out = { rows = 0, lost = 0, log_from_ms = begins }
  for _, output in ipairs(run.outputs) do
    local start = mysql.name(output.plan.start.column)
    local counted = output.plan.count and mysql.name(output.plan.count.column) .. " is not null and "
      or ""
    local sql = session:bind(([[select count(*),
      coalesce(sum(timestampdiff(microsecond, '1970-01-01', %s) div 1000 < ?), 0) from %s
      where %s%s >= timestampadd(microsecond, ? * 1000, '1970-01-01')]]):format(start,
      mysql.name(output.table), counted, start), begins or ms, ms)
    local row = fault.check(fault.SERVER, "results",
      session:patiently(session.query, session, sql)).rows[1]
    out.rows, out.lost = out.rows + row[1], out.lost + math.tointeger(tonumber(row[2]))
  end
  local margin = anew and ms or run.outputs[1].window.max_future_ms
  out.late = read_before(run, ms - margin, ms)
  local words = { ("%d result row%s of windows from %s on would be deleted"):format(out.rows,
    out.rows == 1 and "" or "s", text) }
  if out.lost > 0 then
    words[#words + 1] = begins == math.maxinteger
      and ("%d of them for good: a partition of topic '%s' has no records any more"):format(out.lost,
        run.topic)
      or ("%d of them for good, in whole or in part: topic '%s' begins at %s now"):format(out.lost,
        run.topic, moment.format(begins, "iso"))
  end
  words[#words + 1] = ("about %d records of before are read on the way and go to mill_late")
    :format(out.late)
  out.text = table.concat(words, "; ")
  return out
end

--- The same, and stop where it would delete what cannot be computed anew, unless `execute`.
function M.confirm(session, run, text, option, anew, execute)
  local would = M.preview(session, run, text, option, anew)
  if would.lost > 0 and not execute then
    fault.raise(fault.POLICY, "%s: %s. Nothing was changed; add --execute to do it", option, would.text)
  end
  run.log.warn("%s: %s", option, (would.text:gsub(" would be ", " are ")))
end

-- Behind a lock: does the table still belong to the pipeline?
local function still_ours(session, run, must)
  local known = must(progress.pipelines(session, run, " for update"))
  for _, output in ipairs(run.outputs) do
    local row = known[output.table]
    if not row or row.pipeline ~= run.name then
      fault.raise(fault.POLICY, "table %s is not of pipeline '%s' any more; nothing was changed",
        output.table, run.name)
    end
  end
end

-- Take the positions from whoever holds them: an instance that thaws later, of another log or of the
-- script before, must not add what it has counted to windows that begin anew.
local function fence(session, run, must)
  must(session:query(session:bind([[select position from mill_progress where pipeline = ?
    order by cluster_id, topic, `partition` for update]], run.name)))
  failpoint.hit "reset.locked"
  must(session:query(session:bind([[update mill_progress set owner = null, epoch = epoch + 1,
    commit_seq = commit_seq + 1 where pipeline = ?]], run.name)))
end

local function delete_results(session, run, must, ms)
  local deleted = 0
  local function ask(sql, ...) return must(session:query(session:bind(sql, ...))) end
  for _, output in ipairs(run.outputs) do
    local count = output.plan.count and mysql.name(output.plan.count.column) .. " is not null and "
      or ""
    deleted = deleted + ask(([[delete from %s where %s%s >=
      timestampadd(microsecond, ? * 1000, '1970-01-01')]]):format(mysql.name(output.table), count,
      mysql.name(output.plan.start.column)), ms).affected
    ask([[delete from mill_late where result_table = ? and window_start_ms >= ?]], output.table, ms)
    ask([[delete from mill_dead_letters where kind = 'result' and result_table = ?
      and window_start_ms >= ?]], output.table, ms)
    ask([[update mill_pipelines set cut_ms = ?, fingerprint = ?,
      final_ms = least(final_ms, ?), frozen = (select count(*) from mill_dead_letters where
      kind = 'result' and result_table = ?) where result_table = ?]], ms, output.fingerprint, ms,
      output.table, output.table)
  end
  -- What replays added to the deleted results can be replayed again. Into the windows that stay it
  -- cannot: they take no more rows.
  ask([[update mill_dead_letters set replayed_at = null where pipeline = ? and kind = 'message'
    and replayed_at is not null]], run.name)
  return deleted
end

--- Begin a new log at a time: results from there on are deleted, and so is where the pipeline stood
-- in the logs it leaves. Who still reads one of them has lost it.
function M.cut(session, run, text)
  local ms = M.time(run, text, "--new-log")
  transaction.run(session, "reset", function(must)
    fence(session, run, must)
    still_ours(session, run, must)
    delete_results(session, run, must, ms)
    must(session:query(progress.forget(session, run)))
  end)
end

--- Go back to a time in the same log. Bad messages from the new positions on are read again: their
-- letters are deleted, and those that are still bad come back.
-- @return { deleted = result rows, positions = partition -> offset }
function M.run(session, run, text, option)
  local ms = M.time(run, text, option)
  local margin = run.outputs[1].window.max_future_ms
  local starts = source.starts(run.consumer, run.topic, run.partitions,
    moment.format(math.max(0, ms - margin), "iso"), true)
  local deleted = transaction.run(session, "reset", function(must)
    fence(session, run, must)
    still_ours(session, run, must)
    local n = delete_results(session, run, must, ms)
    failpoint.hit "reset.deleted"
    for partition, offset in pairs(starts) do
      local at = { run.name, run.cluster, run.topic, partition }
      must(session:query(session:bind([[update mill_progress set position = least(position, ?),
        watermark_ms = null, idle_ms = null, at_end = 0, last_offset = null, last_hash = null
        where pipeline = ? and cluster_id = ? and topic = ? and `partition` = ?]], offset,
        table.unpack(at))))
      for _, name in ipairs { "mill_dead_letters", "mill_late" } do
        must(session:query(session:bind(([[delete from %s where pipeline = ? and cluster_id = ?
          and topic = ? and `partition` = ? and `offset` >= (select position from mill_progress
          where pipeline = ? and cluster_id = ? and topic = ? and `partition` = ?)]]):format(name),
          run.name, run.cluster, run.topic, partition, table.unpack(at))))
      end
    end
    failpoint.hit "reset.before"
    return n
  end)
  failpoint.hit "reset.after"
  return { deleted = deleted, positions = starts }
end

return M
