--- Where a pipeline stands in its topic, and what the topic's newest records
-- are. For diagnosis (the shell, the runbook); the data path does not come here.

local batch = require "host.batch"
local clock = require "host.clock"
local json = require "mill.json"

local M = {}

local POLL_MAX, POLL_MS = 1000, 100
local BACK = { 1, 100, 10000 } -- how far before the end to look for a last record

local function number(value)
  return value ~= json.null and value or nil
end

--- Milliseconds since 1970 as "2024-08-09 12:00:00.123".
function M.time_text(ms)
  if not ms or ms < 0 then
    return "none"
  end
  return os.date("!%Y-%m-%d %H:%M:%S", ms // 1000) .. (".%03d"):format(ms % 1000)
end

--- The stored positions: array of { pipeline, cluster_id, topic, partition,
-- position, watermark_ms, owner, age_s }, or nil, message, code.
function M.positions(db, pipeline)
  local where = pipeline and " where pipeline = " .. db:quote(pipeline) or ""
  local result, message, code = db:query("select pipeline, cluster_id, topic, `partition`, "
    .. "position, watermark_ms, owner, timestampdiff(microsecond, updated_at, now(3)) "
    .. "from mill_progress" .. where .. " order by 1, 2, 3, 4")
  if not result then
    return nil, message, code
  end
  local list = {}
  for i, row in ipairs(result.rows) do
    list[i] = { pipeline = row[1], cluster_id = row[2], topic = row[3], partition = row[4],
      position = row[5], watermark_ms = number(row[6]), owner = number(row[7]),
      age_s = row[8] / 1e6 }
  end
  return list
end

--- A consumer that belongs to no group, for looking. `o`: brokers, conf.
function M.reader(o)
  return require("host.kafka").consumer { brokers = o.brokers, conf = o.conf }
end

local function entries_of(list)
  local entries = {}
  for i, p in ipairs(list) do
    entries[i] = { topic = p.topic, partition = p.partition }
  end
  return entries
end

--- Add low, high and lag to each of `list` (entries with topic, partition and
-- position); one whose bounds are not known gets error and code.
-- Returns the list, or nil, message, code.
function M.ends(reader, list, timeout_ms)
  if #list == 0 then
    return list
  end
  local bounds, message, code = reader:watermarks(entries_of(list), timeout_ms)
  if not bounds then
    return nil, message, code
  end
  for i, bound in ipairs(bounds) do
    local p = list[i]
    p.low, p.high, p.error, p.code = bound.low, bound.high, bound.error, bound.code
    if p.high and p.position then
      p.lag = math.max(0, p.high - p.position)
    end
  end
  return list
end

--- Positions with their lag. Returns an array as positions() does, with low,
-- high, lag or error; or nil, message, code.
function M.of(db, reader, pipeline, timeout_ms)
  local list, message, code = M.positions(db, pipeline)
  if not list then
    return nil, message, code
  end
  return M.ends(reader, list, timeout_ms)
end

-- Read from the given offsets; `take(record)` says whether that partition is
-- done. Stops when all are, or at `deadline`.
local function read(reader, topic, from, deadline, take)
  local entries, open, waiting = {}, {}, 0
  for partition, offset in pairs(from) do
    entries[#entries + 1] = { topic = topic, partition = partition, offset = offset }
    open[partition], waiting = true, waiting + 1
  end
  if waiting == 0 then
    return true
  end
  local ok, message, code = reader:manual(entries)
  if not ok then
    return nil, message, code
  end
  local b <close> = batch.new()
  local function close(partition)
    if open[partition] then
      open[partition], waiting = nil, waiting - 1
    end
  end
  while waiting > 0 and clock.mono_ms() < deadline do
    for i = 1, reader:poll(b, POLL_MAX, POLL_MS) do
      local record = b:record(i)
      if open[record.partition] and take(record) then
        close(record.partition)
      end
    end
    for _, finished in ipairs(b:ends()) do
      close(finished.partition)
    end
  end
  return waiting == 0
end

--- The newest records of each partition. `list`: entries with topic, partition,
-- low and high (see ends); all of one topic. `count`: how many a partition.
-- Control records and aborted ones take up offsets, so it looks further back
-- when there is none at the very end. Returns an array of records, and whether
-- every partition was read to its end in time; or nil, message, code.
function M.newest(reader, list, count, timeout_ms)
  local deadline = clock.mono_ms() + timeout_ms
  local kept, complete = {}, true
  for _, back in ipairs(BACK) do
    local from = {}
    for _, p in ipairs(list) do
      local start = p.high and math.max(p.low, p.high - back * count)
      local known = kept[p.partition]
      if start and start < p.high and (not known or #known < count and known.from > p.low) then
        from[p.partition] = start
        kept[p.partition] = { from = start }
      end
    end
    if next(from) == nil then
      break
    end
    local ok, message, code = read(reader, list[1].topic, from, deadline, function(record)
      local own = kept[record.partition]
      own[#own + 1] = record
      if #own > count then
        table.remove(own, 1)
      end
      return false
    end)
    if ok == nil then
      return nil, message, code
    end
    complete = complete and ok
  end
  local records = {}
  for _, own in pairs(kept) do
    table.move(own, 1, #own, #records + 1, records)
  end
  table.sort(records, function(a, b)
    return a.stamp_ms < b.stamp_ms or a.stamp_ms == b.stamp_ms and a.offset < b.offset
  end)
  return records, complete
end

--- The Kafka timestamp of the first record that each partition of `list` (topic, partition, low,
-- high) still has: adds first_ms to those that have one. Returns the list, or nil, message, code: also
-- where one was not read in time.
function M.first(reader, topic, list, timeout_ms)
  local from, by_partition = {}, {}
  for _, p in ipairs(list) do
    if p.high > p.low then from[p.partition], by_partition[p.partition] = p.low, p end
  end
  local ok, message, code = read(reader, topic, from, clock.mono_ms() + timeout_ms, function(record)
    local p = by_partition[record.partition]
    p.first_ms = record.stamp_ms
    return true
  end)
  if ok == nil then return nil, message, code end
  if not ok then return nil, ("not read within %g s"):format(timeout_ms / 1000), "TIMED_OUT" end
  return list
end

--- How old the first record is that each partition has not accounted for, in
-- seconds: adds lag_s to the entries of `list` (as of() returns them) that lag.
-- Returns the list, and whether all of them were read in time; or nil, message, code.
function M.seconds(reader, topic, list, timeout_ms)
  local from, by_partition = {}, {}
  for _, p in ipairs(list) do
    if p.topic == topic and p.lag and p.lag > 0 then
      from[p.partition] = math.max(p.position, p.low)
      by_partition[p.partition] = p
    end
  end
  local deadline = clock.mono_ms() + timeout_ms
  local now = clock.wall_ms()
  local ok, message, code = read(reader, topic, from, deadline, function(record)
    local p = by_partition[record.partition]
    if record.stamp_ms >= 0 then
      p.lag_s = math.max(0, (now - record.stamp_ms) / 1000)
    end
    return true
  end)
  if ok == nil then
    return nil, message, code
  end
  return list, ok
end

return M
