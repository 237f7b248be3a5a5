--- tidemill progress: how far pipelines have come; reset: go back to a time; purge: delete old results.

local brokers_ = require "mill.brokers"
local config = require "mill.config"
local digest = require "host.digest"
local duration = require "mill.duration"
local fault = require "mill.fault"
local instance = require "mill.instance"
local json = require "mill.json"
local mysql = require "host.mysql"
local output = require "mill.output"
local process = require "host.process"
local progress = require "mill.progress"
local purge = require "mill.purge"
local register = require "mill.register"
local reset = require "mill.reset"
local run_ = require "mill.run"
local script = require "mill.script"
local session_ = require "mill.session"
local setup = require "mill.setup"
local source = require "mill.source"

local M = {
  summary = "show how far pipelines have come, go back to a time, or delete old results",
  usage = "tidemill progress [PIPELINE] [--json]\n"
    .. "       tidemill progress reset SCRIPT --from TIME [--set KEY=VALUE] [--execute]\n"
    .. "       tidemill progress purge SCRIPT --before TIME [--set KEY=VALUE] [--execute]",
  takes = 2,
  options = {
    { "from", "TIME", "reset: start of a window, e.g. 2024-08-09T12:00:00Z" },
    { "before", "TIME", "purge: results of windows that start before it are deleted" },
    { "set", "KEY=VALUE", "reset, purge: override a setting of the script", many = true },
    { "execute", nil, "reset, purge: do it; without it, only say what would be done" },
    { "json", nil, "print one JSON object" },
  },
  exits = {
    { 0, "ok" }, { 2, "usage, or --execute is missing" }, { 3, "a server cannot be reached" },
    { 4, "reset: the pipeline is running" },
    { 5, "the script is not the one that wrote the table; reset: another log was read; purge: windows "
      .. "before TIME may still take rows" },
  },
}

local COLUMNS = { "partition", "position", "end", "lag", "watermark", "instance", "written" }

local function moment_text(ms)
  if ms == nil or ms == mysql.null then return nil end
  return require("host.moment").format(ms, "iso")
end

-- Ends of the topics, as far as Kafka answers: topic -> partition -> end.
local function ends_of(rows)
  local kafka = require "host.kafka"
  local topics, out = {}, {}
  for _, row in ipairs(rows) do
    topics[row.topic] = topics[row.topic] or {}
    table.insert(topics[row.topic], { topic = row.topic, partition = row.partition })
  end
  if next(topics) == nil then return out end
  local admin <close> = brokers_.client(kafka.admin, {
    brokers = config.kafka(), conf = config.kafka_conf(),
  })
  for topic, list in pairs(topics) do
    local marks = admin:watermarks(list, 3000)
    out[topic] = {}
    for _, mark in ipairs(marks or {}) do out[topic][mark.partition] = mark.high end
  end
  return out
end

-- A table for each pipeline and log, under a line that names them: it fits into 80 columns.
local function tables(rows)
  local out, cells, head = {}, {}, nil
  local function close()
    local text = head and output.table { columns = COLUMNS, rows = cells }
    if head then out[#out + 1] = head .. "\n" .. text end
    cells = {}
  end
  for _, row in ipairs(rows) do
    local name = ("pipeline %s, topic %s of cluster %s\nresults are final up to %s"):format(
      row.pipeline, row.topic, row.cluster_id, row.final or "none yet")
    if name ~= head then
      close()
      head = name
    end
    local line = {}
    for c, column in ipairs(COLUMNS) do line[c] = row[column] end
    cells[#cells + 1] = line
  end
  close()
  return out
end

local function show(opts, rest)
  local session = session_.new(config.mysql())
  setup.check("database", session:open())
  progress.require_tables(session)
  local where = rest[1] and session:bind(" where p.pipeline = ?", rest[1]) or ""
  local result = fault.check(fault.SERVER, "progress", session:query([[select p.pipeline, p.topic,
    p.`partition`, p.position, p.watermark_ms, (select min(final_ms) from mill_pipelines as m where
    m.pipeline = p.pipeline), p.instance, p.updated_at, p.cluster_id, timestampdiff(second,
    p.updated_at, current_timestamp(3)) from mill_progress as p]] .. where
    .. " order by p.pipeline, p.topic, p.cluster_id, p.`partition`"))
  local rows, ages = {}, {}
  for i, r in ipairs(result.rows) do
    rows[i] = { pipeline = r[1], topic = r[2], partition = r[3], position = r[4],
      watermark = moment_text(r[5]), final = moment_text(r[6]),
      instance = r[7] ~= mysql.null and r[7] or nil, updated_at = r[8], cluster_id = r[9] }
    ages[i] = r[10]
  end
  local ends = ends_of(rows)
  for _, row in ipairs(rows) do
    row["end"] = ends[row.topic] and ends[row.topic][row.partition]
    row.lag = row["end"] and math.max(0, row["end"] - row.position)
  end
  session:close()
  if opts.json then
    print(json.encode { progress = json.array(rows) })
    return 0
  end
  if #rows == 0 then
    print(rest[1] and ("no progress of a pipeline named '%s'"):format(rest[1])
      or "no pipeline has run against this database yet")
    return 0
  end
  for i, row in ipairs(rows) do
    row.written = duration.format(math.max(0, ages[i]) * 1000) .. " ago"
    row.watermark = row.watermark and row.watermark:gsub("%.000Z$", "Z")
  end
  print(table.concat(tables(rows), "\n\n"))
  return 0
end

-- A run that only has what a reset needs: no group is joined.
local function open(pipeline)
  local kafka = require "host.kafka"
  local brokers, conf = pipeline.source.brokers or config.kafka(), source.conf(pipeline.source)
  local session = setup.session(setup.database(pipeline))
  progress.require_tables(session)
  local topic = source.describe(brokers, conf, pipeline.source.topic)
  local run = run_.new {
    name = pipeline.name, id = digest.random_hex(16), topic = pipeline.source.topic,
    cluster = topic.cluster, partitions = topic.partitions, outputs = pipeline.outputs,
    instance = "reset@" .. process.hostname(),
    brokers = brokers, kafka_conf = conf, consumer = kafka.admin { brokers = brokers, conf = conf },
  }
  return run, session
end

local function refuse_running(session, run)
  local result = fault.check(fault.SERVER, "mill_instances", session:query(session:bind(
    [[select instance, host, pid from mill_instances where pipeline = ? and
    timestampdiff(microsecond, heartbeat_at, current_timestamp(3)) < ?]], run.name,
    instance.DEAD_MS * 1000)))
  local row = result.rows[1]
  if row then
    fault.raise(fault.RUNNING, "pipeline '%s' is running (instance '%s', host %s, pid %d); stop it "
      .. "first", run.name, row[1], row[2], row[3])
  end
end

local function go_back(opts, rest)
  if not rest[2] then fault.raise(fault.USAGE, "usage: %s", M.usage) end
  local pipeline = script.pipeline(rest[2], opts.set)
  local run, session = open(pipeline)
  reset.time(run, opts.from, "progress reset")
  register.require(session, run, true)
  local would = reset.preview(session, run, opts.from, "progress reset")
  if not opts.execute then
    fault.raise(fault.USAGE, "pipeline '%s' would count the log anew from %s: %s. Nothing was "
      .. "changed; run again with --execute to do it", run.name, opts.from, would.text)
  end
  refuse_running(session, run)
  local done = reset.run(session, run, opts.from, "progress reset")
  session:close()
  run.consumer:close()
  if opts.json then
    local positions = json.array {}
    for p, offset in pairs(done.positions) do
      positions[#positions + 1] = { partition = p, position = offset }
    end
    print(json.encode { deleted = done.deleted, lost = would.lost, positions = positions })
  else
    print(("%d result rows deleted, %d of them for good; '%s' counts again from %s"):format(
      done.deleted, would.lost, run.name, opts.from))
  end
  return 0
end

local function purge_results(opts, rest)
  if not rest[2] then fault.raise(fault.USAGE, "usage: %s", M.usage) end
  local pipeline = script.pipeline(rest[2], opts.set)
  local deleted = purge.run(pipeline, opts.before, opts.execute)
  if opts.json then
    print(json.encode { deleted = deleted })
  else
    print(("%d result rows deleted; windows of '%s' before %s take no more rows"):format(deleted,
      pipeline.name, opts.before))
  end
  return 0
end

function M.run(opts, rest)
  if rest[1] == "reset" then return go_back(opts, rest) end
  if rest[1] == "purge" then return purge_results(opts, rest) end
  if rest[2] then fault.raise(fault.USAGE, "unexpected argument '%s'", rest[2]) end
  return show(opts, rest)
end

return M
