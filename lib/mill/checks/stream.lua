--- The checks of what flows: brokers, topic, producer, aggregation, lag.
--
-- They share a context: ctx.set (settings of the task), ctx.brokers, ctx.conf;
-- what one check found out (metadata, bounds, connections) later ones use.
-- The numbers of `ref` are those of the operations runbook that this replaces.

local brokers = require "mill.brokers"
local check = require "mill.check"
local clock = require "host.clock"
local dealt = require "mill.dealt"
local kafka = require "host.kafka"
local lag = require "mill.lag"
local output = require "mill.output"
local process = require "host.process"
local topics = require "mill.topic"

local M = {}

local SLICE_MS = 200
local MAX_DETAIL = 10

local function listed(lines, format, ...)
  if #lines < MAX_DETAIL then
    lines[#lines + 1] = format:format(...)
  elseif #lines == MAX_DETAIL then
    lines[#lines + 1] = "..."
  end
end

local function plural(n, noun)
  return ("%s %s%s"):format(output.count(n), noun, n == 1 and "" or "s")
end

local function agree(n, one, many)
  return ("%s %s"):format(output.count(n), n == 1 and one or many)
end

-- Brokers of the list that do not answer at the address they advertise.
local function silent_brokers(ctx)
  local silent = {}
  for _, broker in ipairs(ctx.metadata.brokers) do
    local address = ("%s:%d"):format(broker.host, broker.port)
    local admin <close> = kafka.admin { brokers = address, conf = ctx.conf }
    local ok, message = admin:metadata(nil, ctx.set.timeout)
    if not ok then
      silent[#silent + 1] = ("broker %d does not answer at %s, the address it advertises: %s")
        :format(broker.id, address, brokers.reason(admin) or message)
    end
  end
  return silent
end

local function brokers_run(ctx)
  ctx.admin = brokers.client(kafka.admin, { brokers = ctx.brokers, conf = ctx.conf })
  local metadata, _, code = ctx.admin:metadata(nil, ctx.set.timeout)
  if not metadata then
    local reason, way_out = brokers.reason(ctx.admin)
    return check.critical(("no broker answers at %s within %s: %s"):format(ctx.brokers,
      output.seconds(ctx.set.timeout / 1000), code), {
        detail = { reason },
        fix = way_out and { text = way_out } or { text = "start the broker, or say where it is with "
          .. "TIDEMILL_KAFKA=host:port; with Docker:", cmd = "docker compose up -d kafka" },
      })
  end
  ctx.metadata, ctx.development = metadata, topics.is_development(metadata)
  local silent = silent_brokers(ctx)
  local metrics = { { name = "brokers", value = #metadata.brokers } }
  if #silent == #metadata.brokers then
    return check.critical("the brokers do not answer at the addresses they advertise", {
      detail = silent, metrics = metrics,
      fix = "set advertised.listeners to addresses that clients can reach",
    })
  elseif #silent > 0 then
    return check.warn(("%d of %d brokers do not answer"):format(#silent, #metadata.brokers), {
      detail = silent, metrics = metrics, fix = "start them; their partitions have other leaders",
    })
  end
  return check.ok(("%s at %s%s"):format(agree(#metadata.brokers, "broker answers",
    "brokers answer"), ctx.brokers, ctx.development and " (development broker)" or ""),
    { metrics = metrics })
end

local function topic_fix(ctx)
  local create = "kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions 3"
  return {
    text = "create it (or start the producer with --set create_topic=true)",
    cmd = create:format(ctx.brokers, ctx.set.topic),
  }
end

local function topic_run(ctx)
  local name = ctx.set.topic
  local topic = ctx.metadata.topics[name]
  if not topic or topic.code then
    return check.critical(("topic %s does not exist at %s"):format(name, ctx.brokers), {
      detail = topic and { topic.error } or nil, fix = topic_fix(ctx),
    })
  end
  local headless, short = {}, {}
  ctx.partitions = {}
  for i, p in ipairs(topic.partitions) do
    ctx.partitions[i] = { topic = name, partition = p.id }
    if p.leader < 0 then
      listed(headless, "partition %d has no leader", p.id)
    elseif #p.isrs < #p.replicas then
      listed(short, "partition %d has %d of %d replicas in sync", p.id, #p.isrs, #p.replicas)
    end
  end
  local metrics = { { name = "partitions", value = #topic.partitions } }
  if #headless > 0 then
    return check.critical(("topic %s has partitions without a leader"):format(name), {
      detail = headless, metrics = metrics, fix = "start the brokers that hold their replicas",
    })
  end
  ctx.reader = lag.reader { brokers = ctx.brokers, conf = ctx.conf }
  local bounds, message = lag.ends(ctx.reader, ctx.partitions, ctx.set.timeout)
  if not bounds then
    return check.unknown(("the ends of topic %s are not known"):format(name), {
      detail = { message }, fix = "look at the broker's log",
    })
  elseif #short > 0 then
    return check.warn(("topic %s has replicas out of sync"):format(name), {
      detail = short, metrics = metrics, fix = "start or repair the brokers that are behind",
    })
  end
  return check.ok(("topic %s has %s, all with a leader"):format(name,
    plural(#topic.partitions, "partition")), { metrics = metrics })
end

-- Whether the end of any partition moves within the time that is left.
local function advances(ctx, wait_ms)
  local before, deadline = {}, clock.mono_ms() + wait_ms
  for _, p in ipairs(ctx.partitions) do
    before[p.partition] = p.high
  end
  repeat
    clock.sleep(SLICE_MS)
    local now = {}
    for i, p in ipairs(ctx.partitions) do
      now[i] = { topic = p.topic, partition = p.partition }
    end
    for _, p in ipairs(lag.ends(ctx.reader, now, ctx.set.timeout) or {}) do
      if p.high and before[p.partition] and p.high > before[p.partition] then
        return true
      end
    end
  until clock.mono_ms() >= deadline
  return false
end

local function producer_fix(ctx)
  return {
    text = "start the producer and look at its last lines; it names the exchange's answer",
    cmd = "tidemill run scripts/prices.lua"
      .. (ctx.set.topic ~= "crypto_prices" and " --set topic=" .. ctx.set.topic or ""),
  }
end

local function producer_result(ctx, newest, total, complete)
  local name = ctx.set.topic
  if not newest then
    if total > 0 and not complete then
      return check.unknown(("the newest record of topic %s could not be read in time"):format(name),
        { fix = "raise --set timeout=..., and look at the broker's log" })
    end
    return check.critical(total == 0 and ("nothing was ever published to topic %s"):format(name)
      or ("topic %s holds no record any more"):format(name), { fix = producer_fix(ctx) })
  end
  local age = (clock.wall_ms() - newest.stamp_ms) / 1000
  local metrics = { { name = "newest_record_age", value = age, unit = "s",
    crit = ctx.set.producer_age / 1000 } }
  local detail = { ("newest record: partition %d offset %d at %s UTC"):format(newest.partition,
    newest.offset, lag.time_text(newest.stamp_ms)) }
  if age < -ctx.set.max_future / 1000 then
    return check.warn(("the newest record of topic %s is stamped %s ahead of our clock"):format(
      name, output.seconds(-age)), { detail = detail, metrics = metrics,
        fix = "compare the clocks of the producer's machine and this one (chronyc tracking)" })
  elseif age <= ctx.set.producer_age / 1000 then
    return check.ok(("the newest record of topic %s is %s old"):format(name,
      output.seconds(math.max(0, age))), { metrics = metrics })
  elseif advances(ctx, ctx.set.watch) then
    return check.ok(("topic %s grows (its newest record is stamped %s ago)"):format(name,
      output.seconds(age)), { metrics = metrics })
  end
  return check.critical(("the producer is silent: nothing new in topic %s for %s"):format(name,
    output.seconds(age)), { detail = detail, metrics = metrics, fix = producer_fix(ctx) })
end

local function producer_run(ctx)
  ctx.published = 0
  for _, p in ipairs(ctx.partitions) do
    ctx.published = ctx.published + (p.high or 0)
  end
  local records, complete = lag.newest(ctx.reader, ctx.partitions, 1, ctx.set.timeout)
  if not records then
    return check.unknown(("topic %s could not be read"):format(ctx.set.topic), {
      detail = { complete }, fix = "look at the broker's log",
    })
  end
  return producer_result(ctx, records[#records], ctx.published, complete)
end

-- A line on an instance that does not run any more.
local function dead_line(row)
  local here = row.host == process.hostname() and row.boot_id == process.boot_id()
  local gone = here and not process.alive(row.pid)
  return ("instance %s: last sign %s ago from host %s, pid %d%s"):format(row.instance,
    output.seconds(row.age_s), row.host, row.pid, gone and ", which is not there any more" or "")
end

local function instances(ctx)
  local result, message, code = ctx.db:query(("select instance, host, boot_id, pid, "
    .. "timestampdiff(microsecond, heartbeat_at, now(3)) from mill_instances where pipeline = %s "
    .. "order by instance"):format(ctx.db:quote(ctx.set.pipeline)), ctx.set.timeout)
  if not result then
    return nil, message, code
  end
  local rows = {}
  for i, row in ipairs(result.rows) do
    rows[i] = { instance = row[1], host = row[2], boot_id = row[3], pid = row[4],
      age_s = row[5] / 1e6 }
  end
  return rows
end

local function last_commit(ctx)
  local youngest
  for _, p in ipairs(ctx.progress or {}) do
    youngest = math.min(youngest or math.huge, p.age_s)
  end
  return youngest and ("its last commit was %s ago"):format(output.seconds(youngest))
    or ("pipeline %s has never committed"):format(ctx.set.pipeline)
end

local function alive_run(ctx)
  local rows, message = instances(ctx)
  local progress, why = lag.positions(ctx.db, ctx.set.pipeline)
  if not rows or not progress then
    return check.unknown("the tables of the pipeline's state cannot be read", {
      detail = { message or why }, fix = ctx.make_tables
        or { text = "make them", cmd = "tidemill migrate" },
    })
  end
  ctx.progress = progress
  local live, dead = 0, {}
  for _, row in ipairs(rows) do
    if row.age_s <= ctx.set.heartbeat / 1000 then
      live = live + 1
    else
      listed(dead, "%s", dead_line(row))
    end
  end
  local metrics = { { name = "instances", value = live } }
  if live == 0 then
    listed(dead, "%s", last_commit(ctx))
    return check.critical(("no instance of pipeline %s runs"):format(ctx.set.pipeline), {
      detail = dead, metrics = metrics,
      fix = { text = "start the aggregation; it goes on where it stopped",
        cmd = "tidemill run " .. (ctx.set.pipeline == "averages" and "scripts/averages.lua" or "SCRIPT") },
    })
  elseif #dead > 0 then
    return check.warn(("%s for pipeline %s, others died"):format(agree(live, "instance runs",
      "instances run"), ctx.set.pipeline), { detail = dead, metrics = metrics,
        fix = "start them again, or remove their rows from mill_instances" })
  end
  return check.ok(("%s for pipeline %s"):format(agree(live, "instance runs", "instances run"),
    ctx.set.pipeline), { metrics = metrics })
end

-- The consumer group once it is at rest; what it is like at the end otherwise.
local function settled_group(ctx)
  local deadline = clock.mono_ms() + ctx.set.timeout
  while true do
    local group, message, code = ctx.admin:describe_group(ctx.set.pipeline, ctx.set.timeout)
    if not group or group.state == "Stable" or clock.mono_ms() > deadline then
      return group, message, code
    end
    clock.sleep(SLICE_MS)
  end
end

local function group_run(ctx)
  if ctx.development then
    return check.skip("not offered by the development broker")
  end
  local group, message = settled_group(ctx)
  if not group then
    return check.unknown("the consumer group could not be looked at", { detail = { message },
      fix = "grant this client describe on the group" })
  end
  local metrics = { { name = "members", value = #group.members } }
  if group.state == "Empty" or group.state == "Dead" then
    return check.critical(("no consumer is in group %s though an instance runs"):format(
      ctx.set.pipeline), { metrics = metrics,
        fix = "does it use these brokers? Look at its log; restart it if it says nothing" })
  elseif group.state ~= "Stable" then
    return check.warn(("group %s is being rebalanced (%s)"):format(ctx.set.pipeline, group.state),
      { metrics = metrics, fix = "look again; if it goes on, an instance comes and goes: its log" })
  end
  local missing = dealt.to_nobody(group, ctx.set.topic, #ctx.partitions)
  if #missing > 0 then
    return check.critical(("partition %s of topic %s is assigned to nobody"):format(
      table.concat(missing, ", "), ctx.set.topic), { metrics = metrics,
        fix = "an instance sees it within two minutes; else: is another program in this group?" })
  end
  return check.ok(("group %s is stable with %s"):format(ctx.set.pipeline,
    plural(#group.members, "member")), { metrics = metrics })
end

-- What is wrong with one partition's position, or nil.
local function position_fault(p)
  if p.error then
    return ("partition %d: %s"):format(p.partition, p.error)
  elseif p.position < p.low then
    return ("partition %d: offsets %d..%d are gone before they were read"):format(p.partition,
      p.position, p.low - 1)
  elseif p.position > p.high then
    return ("partition %d: position %d is beyond the end %d; the topic was made anew?"):format(
      p.partition, p.position, p.high)
  end
end

-- The stored positions of this topic in this cluster, and partitions without.
local function own_progress(ctx)
  local own, seen, missing = {}, {}, {}
  for _, p in ipairs(ctx.progress) do
    if p.topic == ctx.set.topic and p.cluster_id == ctx.metadata.cluster_id then
      own[#own + 1] = p
      seen[p.partition] = true
    end
  end
  for _, p in ipairs(ctx.partitions) do
    if not seen[p.partition] then
      missing[#missing + 1] = p.partition
    end
  end
  return own, missing
end

-- `complete`: was the age of all that lag read?
local function lag_verdict(ctx, own, missing, complete)
  local total, seconds, detail, bad = 0, 0, {}, {}
  for _, p in ipairs(own) do
    local wrong = position_fault(p)
    if wrong then
      listed(bad, "%s", wrong)
    else
      total, seconds = total + p.lag, math.max(seconds, p.lag_s or 0)
      if p.lag > 0 then
        listed(detail, "partition %d: %s behind%s", p.partition, plural(p.lag, "record"),
          p.lag_s and (", the first of them %s old"):format(output.seconds(p.lag_s)) or "")
      end
    end
  end
  local metrics = {
    { name = "lag", value = total }, { name = "lag_s", value = seconds, unit = "s",
      warn = ctx.set.lag_warn / 1000, crit = ctx.set.lag_crit / 1000 },
  }
  if #bad > 0 then
    return check.critical("the positions do not fit the topic", { detail = bad, metrics = metrics,
      fix = { text = "see what was lost; --on-gap=skip goes on and records it",
        cmd = "tidemill progress" } })
  end
  local text = ("%s behind, %s"):format(plural(total, "record"), output.seconds(seconds))
  local more = { detail = detail, metrics = metrics,
    fix = "start more instances (--instance NAME, at most one a partition), or see what holds "
      .. "the database up" }
  if seconds * 1000 > ctx.set.lag_crit then
    return check.critical("the aggregation lags: " .. text, more)
  elseif seconds * 1000 > ctx.set.lag_warn then
    return check.warn("the aggregation lags: " .. text, more)
  elseif not complete then
    return check.unknown(("the aggregation is %s behind, and how old they are was not read in time")
      :format(plural(total, "record")), { detail = detail, metrics = { metrics[1] },
        fix = "is the broker slow, or this user held to a quota? --set timeout=30s waits longer" })
  elseif #missing > 0 then
    return check.warn(("partition %s of topic %s is not read by pipeline %s"):format(
      table.concat(missing, ", "), ctx.set.topic, ctx.set.pipeline), { metrics = metrics,
        fix = "wait for the next rebalance, then restart the aggregation" })
  end
  return check.ok("the aggregation is " .. text, { metrics = metrics })
end

local function lag_run(ctx)
  local progress, message = lag.positions(ctx.db, ctx.set.pipeline)
  if not progress then
    return check.unknown("the positions cannot be read", { detail = { message },
      fix = "read the message; `tidemill progress` asks the same" })
  end
  ctx.progress = progress
  local own, missing = own_progress(ctx)
  if #own == 0 and ctx.published == 0 then
    return check.skip(("topic %s is empty"):format(ctx.set.topic))
  elseif #own == 0 then
    return check.critical(("pipeline %s has read nothing of topic %s in this cluster"):format(
      ctx.set.pipeline, ctx.set.topic), {
        detail = { "cluster " .. tostring(ctx.metadata.cluster_id) },
        fix = "see that it reads this topic and these brokers: tidemill progress",
      })
  end
  local ok, complete = lag.ends(ctx.reader, own, ctx.set.timeout)
  if ok then ok, complete = lag.seconds(ctx.reader, ctx.set.topic, own, ctx.set.timeout) end
  if not ok then
    return check.unknown("the lag could not be measured", { detail = { complete }, -- the message then
      fix = "look at the broker's log" })
  end
  return lag_verdict(ctx, own, missing, complete)
end

--- The checks, in their order; they need those of mill.checks.store before them.
M.CHECKS = {
  { id = "kafka.brokers", component = "kafka", title = "brokers answer", ref = "RB3.1a",
    run = brokers_run },
  { id = "kafka.topic", component = "kafka", title = "the topic exists and is led",
    ref = "RB3.1b", needs = { "kafka.brokers" }, run = topic_run },
  { id = "producer.alive", component = "producer", title = "records are published",
    ref = "RB3.3a", needs = { "kafka.topic" }, run = producer_run },
  { id = "aggregation.alive", component = "aggregation", title = "an instance runs",
    ref = "RB3.2a", needs = { "mysql.connect" }, run = alive_run },
  { id = "aggregation.group", component = "aggregation", title = "its partitions are assigned",
    ref = "RB3.2a", needs = { "kafka.topic", "aggregation.alive" }, run = group_run },
  { id = "aggregation.lag", component = "aggregation", title = "it keeps up", ref = "RB3.2c",
    needs = { "kafka.topic", "aggregation.alive" }, run = lag_run },
}

--- Settings that these checks read.
M.SETTINGS = {
  { "topic", "crypto_prices", "the topic of the prices" },
  { "pipeline", "averages", "the name of the aggregation's pipeline" },
  { "producer_age", "15s", "the newest record may be this old", type = "duration" },
  { "max_future", "1m", "a record may be stamped this far ahead", type = "duration" },
  { "heartbeat", "10s", "an instance without a sign for longer is dead", type = "duration" },
  { "lag_warn", "2m", "warn when the first unread record is older", type = "duration" },
  { "lag_crit", "5m", "critical when it is older than this", type = "duration" },
  { "watch", "2s", "how long to watch whether the topic grows", type = "duration" },
  { "timeout", "5s", "for each question to a server", type = "duration" },
}

return M
