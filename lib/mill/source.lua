--- The Kafka side of a pipeline: the topic, its cluster, its offsets, the consumer.

local brokers_ = require "mill.brokers"
local clock = require "host.clock"
local config = require "mill.config"
local fault = require "mill.fault"
local kafka = require "host.kafka"
local mask = require "mill.mask"
local process = require "host.process"

local M = {}

-- How long one leader is given where all of them together did not answer.
M.LEADER_MS = 500

-- How long offsets are asked for at a start, and the pause between two tries.
M.OFFSETS_MS = 10000
M.AGAIN_MS = 100

--- Threads that fetch, and as many that decode.
M.THREADS = 2

--- librdkafka's options for every client of a pipeline: those of mill.kafka over the settings'.
-- @param source from mill.kafka
function M.conf(source)
  local conf = config.kafka_conf()
  for key, value in pairs(source.conf) do
    conf[key] = value
    if mask.is_secret_option(key) then mask.hide(value) end
  end
  return conf
end

--- What the brokers say about the topic. Raises a fault that names brokers and topic.
-- @return { cluster=, partitions=, admin= }
function M.describe(brokers, conf, topic, timeout_ms)
  local admin = brokers_.client(kafka.admin, { brokers = brokers, conf = conf })
  local meta = brokers_.metadata(admin, brokers, topic, timeout_ms or 10000)
  local found = meta.topics[topic]
  if not found or found.code then
    local code = found and found.code or "missing"
    if code == "UNKNOWN_TOPIC_OR_PART" or code == "missing" then
      fault.raise(fault.SERVER, "topic '%s' does not exist on %s; make it with `kafka-topics.sh "
        .. "--create --topic %s --partitions 3 ...`, or start the producer with --set "
        .. "create_topic=true", topic, brokers, topic)
    end
    fault.raise(fault.SERVER, "topic '%s' on %s: %s", topic, brokers, found.error or code)
  end
  return { cluster = meta.cluster_id, partitions = #found.partitions, admin = admin }
end

--- The id of the cluster that is there now, or nil when none answers.
function M.cluster(brokers, conf, timeout_ms)
  local admin <close> = brokers_.client(kafka.admin, { brokers = brokers, conf = conf })
  local meta = admin:metadata(nil, timeout_ms)
  return meta and meta.cluster_id
end

-- What brokers say of a partition that is being made, or whose leader changes. librdkafka passes it on.
local PASSING = {
  NOT_LEADER_FOR_PARTITION = true, LEADER_NOT_AVAILABLE = true, REPLICA_NOT_AVAILABLE = true,
  OFFSET_NOT_AVAILABLE = true, UNKNOWN_TOPIC_OR_PART = true, UNKNOWN_LEADER_EPOCH = true,
  FENCED_LEADER_EPOCH = true,
}

-- The answer of `ask(wait_ms)`, an array of entries that may have a code, once none of it is passing.
-- Asked again for OFFSETS_MS, or until a signal.
local function settled(ask)
  local deadline = clock.mono_ms() + M.OFFSETS_MS
  while true do
    local list, message, code = ask(math.max(1, deadline - clock.mono_ms()))
    local passing = PASSING[code]
    for _, item in ipairs(list or {}) do passing = passing or PASSING[item.code] end
    if not passing or clock.mono_ms() >= deadline or process.stop_requested() > 0 then
      return list, message, code
    end
    clock.sleep(M.AGAIN_MS)
  end
end

-- Ends, per partition, read-committed: partition -> { low, high }.
function M.marks(consumer, topic, partitions)
  local list = {}
  for p = 0, partitions - 1 do list[#list + 1] = { topic = topic, partition = p } end
  local marks, message = settled(function(wait_ms) return consumer:watermarks(list, wait_ms) end)
  if not marks then fault.raise(fault.SERVER, "offsets of topic '%s': %s", topic, message) end
  local out = {}
  for _, mark in ipairs(marks) do
    if mark.code then
      fault.raise(fault.SERVER, "offsets of topic '%s', partition %d: %s", topic, mark.partition,
        mark.error or mark.code)
    end
    out[mark.partition] = { low = mark.low, high = mark.high }
  end
  return out
end

-- What the brokers say of `list`, an entry for each; also where they say nothing.
local function ask(consumer, list, timeout_ms)
  local marks, message, code = consumer:watermarks(list, timeout_ms)
  if marks then return marks, true end
  local out = {}
  for i, item in ipairs(list) do
    out[i] = { partition = item.partition, error = message, code = code }
  end
  return out, false
end

-- Entries of `list` by their leaders, as far as the brokers know them.
local function by_leader(run, list)
  local meta = run.admin:metadata(run.topic, M.LEADER_MS)
  local topic, leaders, groups = meta and meta.topics[run.topic], {}, {}
  for _, part in ipairs(topic and topic.partitions or {}) do leaders[part.id] = part.leader end
  for _, item in ipairs(list) do
    local leader = leaders[item.partition] or -1
    if leader >= 0 then
      groups[leader] = groups[leader] or {}
      table.insert(groups[leader], item)
    end
  end
  return groups
end

--- Where partitions begin and end. librdkafka has no answer for any of them while one leader is
-- away; then each leader is asked for its own.
-- @param run with its topic, consumer and admin
-- @return array of { partition=, low=, high= } or { partition=, error=, code= }, one for each
function M.bounds(run, list, timeout_ms)
  local marks, answered = ask(run.consumer, list, timeout_ms)
  if answered or #list == 1 then return marks end
  local places = {}
  for i, item in ipairs(list) do places[item.partition] = i end
  for _, group in pairs(by_leader(run, list)) do
    for _, mark in ipairs((ask(run.consumer, group, M.LEADER_MS))) do
      marks[places[mark.partition]] = mark
    end
  end
  return marks
end

-- A start given as a time: ISO text or milliseconds.
local function time_of(text)
  local moment = require "host.moment"
  return moment.parse(text)
end
M.time_of = time_of

--- Offsets to begin at: earliest, latest, or the first at or after a time.
-- @param or_earliest whether the earliest will do for a time where brokers cannot be asked for one
-- @return table partition -> offset
function M.starts(consumer, topic, partitions, start, or_earliest)
  local marks, out = M.marks(consumer, topic, partitions), {}
  if start == "earliest" or start == "latest" then
    for p, mark in pairs(marks) do out[p] = start == "earliest" and mark.low or mark.high end
    return out
  end
  local ms = time_of(start)
  if not ms then
    fault.raise(fault.USAGE,
      "start = \"%s\": write earliest, latest or a time such as 2024-08-09T12:00:00Z", start)
  end
  local list = {}
  for p = 0, partitions - 1 do list[#list + 1] = { topic = topic, partition = p } end
  local found, message, code = settled(function(wait_ms)
    return consumer:offsets_for_time(list, ms, wait_ms)
  end)
  if not found and code == "UNSUPPORTED" and or_earliest then
    return M.starts(consumer, topic, partitions, "earliest")
  elseif not found then
    fault.raise(fault.SERVER, "offsets of topic '%s': %s", topic, message)
  end
  for p, mark in pairs(marks) do out[p] = mark.high end
  for _, item in ipairs(found) do
    if item.offset and item.offset >= 0 then out[item.partition] = item.offset end
  end
  return out
end

--- Join the group. The member is assigned partitions and reads none of them.
function M.consumer(run, source, brokers, conf)
  return brokers_.client(kafka.consumer, {
    brokers = brokers, group = run.group, instance = run.instance .. "/0",
    topics = { source.topic }, conf = conf,
  })
end

--- What reads the partitions that were claimed.
function M.reader(source, brokers, conf)
  return brokers_.client(kafka.reader, {
    brokers = brokers, topic = source.topic, conf = conf, threads = M.THREADS,
  })
end

return M
