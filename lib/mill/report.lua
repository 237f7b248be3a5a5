--- What a run tells: its status file each second, its metrics, its summary at the end.

local clock = require "host.clock"
local heap = require "host.heap"
local json = require "mill.json"
local metrics_ = require "host.metrics"
local mysql = require "host.mysql"
local policy = require "mill.policy"
local process = require "host.process"

local M = {}

local NEWEST_ROWS = 10
local LAG_EVERY_MS = 2000
-- A loop that hangs stops setting the page; then it answers 503 by itself.
local HEALTH_FRESH_MS = 10000
-- So many rows must have come before a run is called unhealthy for bad ones.
local BAD_AFTER_ROWS = 100

-- Gauges and counters of the run, made when the run opens.
local function metrics(run)
  local labels = { pipeline = run.name }
  local m = {}
  for _, name in ipairs { "consumed", "dead", "late", "too_late", "commits", "rows", "retries",
    "rebalances" } do
    m[name] = metrics_.counter("tidemill_" .. name .. "_total", "messages, rows or commits: "
      .. name, labels)
  end
  m.lag = metrics_.gauge("tidemill_lag", "messages not yet accounted for", labels)
  m.watermark = metrics_.gauge("tidemill_watermark_ms", "least watermark of our partitions",
    labels)
  m.heap = metrics_.gauge("tidemill_lua_heap_bytes", "Memory of Lua in use.", labels)
  return m
end

--- Open what the run reports to.
function M.open(run)
  run.metrics, run.reported = metrics(run), {}
  if os.getenv("TIDEMILL_STATUS_FILE") then
    run.wants_newest = function(session) return M.newest_job(run, session) end
  end
  local config = require "mill.config"
  local address = config.get("http")
  if address then
    local http = require "host.http"
    local at = config.listen(address)
    local message
    run.http, message = http.server(at)
    if run.http then
      run.log.info("serving /metrics and /health on %s:%d", at.address, run.http:port())
    else
      run.log.warn("no /metrics and /health: %s", message)
    end
  end
end

-- Messages between our positions and the ends of the partitions we hold.
local function lag(run)
  local now = clock.mono_ms()
  if now < (run.lag_due or 0) then return run.lag end
  run.lag_due = now + LAG_EVERY_MS
  local list, total = {}, 0
  for p in pairs(run.claims) do list[#list + 1] = { topic = run.topic, partition = p } end
  if #list == 0 then return run.lag end
  -- At the end of every partition there is nothing to ask for.
  local behind = false
  for p in pairs(run.claims) do
    local state = run.store:state(p)
    behind = behind or not (state and state.at_end)
  end
  if not behind then
    run.lag = 0
    return 0
  end
  local marks = run.consumer:watermarks(list, 1000)
  if not marks then return run.lag end
  for _, mark in ipairs(marks) do
    local state = run.store:state(mark.partition)
    if state and mark.high then total = total + math.max(0, mark.high - state.next) end
  end
  run.lag = total
  return total
end

local function watermark(run)
  local least
  for p in pairs(run.claims) do
    local state = run.store:state(p)
    local w = state and state.watermark_ms
    if w then least = least and math.min(least, w) or w end
  end
  return least
end

--- Read the newest results for the status file; a job of the control task.
-- @return true, or nil, message, code
function M.newest_job(run, session)
  local output = run.outputs[1]
  local plan = output.plan
  local columns = { mysql.name(plan.key.column), mysql.name(plan.start.column) }
  for _, item in ipairs(plan.columns) do
    if item.fn == "avg" or item.fn == "count" then
      columns[#columns + 1] = mysql.name(item.column)
    end
  end
  -- Both maxima and the rows come from the index (is_final, end_time): no scan of a long history.
  local name, end_ = mysql.name(output.table), mysql.name(plan.end_.column)
  local newest = ("select max(%s) as e from %s where is_final = "):format(end_, name)
  local result, message, code = session:query(([[select %s from %s where is_final in (0, 1) and
    %s = (select max(e) from (%s0 union all %s1) as newest) order by %s limit %d]]):format(
    table.concat(columns, ", "), name, end_, newest, newest, columns[1], NEWEST_ROWS))
  if not result then return nil, message, code end
  local rows = json.array {}
  for i, row in ipairs(result.rows) do
    local item = {}
    for c, column in ipairs(result.columns) do
      item[column] = row[c] ~= mysql.null and row[c] or nil
    end
    rows[i] = item
  end
  run.newest = rows
  return true
end

local function update_metrics(run)
  for name, counter in pairs(run.metrics) do
    if run.counts[name] then
      counter:add(run.counts[name] - (run.reported[name] or 0))
      run.reported[name] = run.counts[name]
    end
  end
  run.metrics.lag:set(run.lag or 0)
  run.metrics.watermark:set(watermark(run) or 0)
  run.metrics.heap:set(heap.used())
end

local function health(run)
  local reasons = {}
  if run.committer:away() then reasons[#reasons + 1] = "the database is away" end
  if run.log.in_trouble "control" then reasons[#reasons + 1] = "claims cannot reach the database" end
  if run.held then reasons[#reasons + 1] = "reading is paused: " .. run.held end
  if run.skewed then reasons[#reasons + 1] = "the clocks disagree" end
  for p in pairs(run.beyond) do
    reasons[#reasons + 1] = ("partition %d: our position lies beyond the end of the log"):format(p)
  end
  local bad = policy.mostly_bad(run, BAD_AFTER_ROWS)
  if bad then reasons[#reasons + 1] = bad end
  if run.kafka_trouble then reasons[#reasons + 1] = "Kafka reports errors" end
  return #reasons == 0 and "ok" or "degraded", reasons
end

local function status(run)
  local c = run.counts
  local now = clock.mono_ms()
  local state, reasons = health(run)
  local before = run.status_before or { consumed = 0, ms = run.began_ms }
  local rate = (c.consumed - before.consumed) * 1000 / math.max(1, now - before.ms)
  run.status_before = { consumed = c.consumed, ms = now }
  return {
    kind = "pipeline", name = run.name, pid = process.pid(), health = state,
    reasons = json.array(reasons), consumed = c.consumed, dead = c.dead, late = c.late,
    too_late = c.too_late, rows = c.rows, commits = c.commits, lag = lag(run),
    rebalances = c.rebalances, watermark_ms = watermark(run), rate = rate, errors = c.retries,
    latency_ms = { p50 = c:quantile(0.5), p99 = c:quantile(0.99) },
    peak_rss_mb = (process.peak_rss_kb() or 0) / 1024,
  }
end

--- What the run is doing, as its status file says it; the rate is since the last look by tick.
function M.status(run)
  local before = run.status_before
  local now = status(run)
  run.status_before = before
  now.held, now.instance, now.busy = run.held, run.instance, run.committer:busy()
  return now
end

--- Its partitions, as a result table.
function M.partitions(run)
  local rows = {}
  for p = 0, run.partitions - 1 do
    local state = run.claims[p] and run.store:state(p)
    rows[p + 1] = { p, run.claims[p] and "ours" or run.assigned[p] and "claiming" or "-",
      state and state.next or json.null, state and state.watermark_ms or json.null,
      state and tostring(state.at_end) or json.null }
  end
  return { columns = { "partition", "state", "position", "watermark_ms", "at_end" },
    types = { "int", "string", "int", "int", "string" }, rows = rows }
end

--- Once a second: metrics, the health page, the status file.
function M.tick(run)
  local path = os.getenv("TIDEMILL_STATUS_FILE")
  if not path and not run.http then return end
  local now = status(run)
  update_metrics(run)
  if run.http then
    run.http:page("/health", {
      status = now.health == "ok" and 200 or 503, type = "application/json",
      body = json.encode(now) .. "\n", fresh_ms = HEALTH_FRESH_MS,
    })
  end
  if path then
    now.newest = run.newest
    process.atomic_write(path, json.encode(now) .. "\n", { sync = false })
  end
end

-- Rows and distinct windows of the result tables, as they are now.
local function table_counts(run, session)
  local rows, windows = 0, 0
  for _, output in ipairs(run.outputs) do
    local plan = output.plan
    local result = session:query(("select count(*), count(distinct %s) from %s%s"):format(
      mysql.name(plan.start.column), mysql.name(output.table), plan.count and " where "
      .. mysql.name(plan.count.column) .. " is not null" or ""))
    if result then
      rows, windows = rows + result.rows[1][1], windows + result.rows[1][2]
    end
  end
  return rows, windows
end

local function round(x)
  return x and math.floor(x * 1000 + 0.5) / 1000
end

-- What a run that ends well should still be looked at for.
local function warnings(run)
  local out = json.array {}
  local bad = policy.mostly_bad(run, 1)
  if bad then
    out[1] = bad .. ", more than max_bad allows of 10,000; they are in mill_dead_letters: "
      .. "`tidemill deadletters` shows them"
    run.log.warn("%s", out[1])
  end
  return out
end

--- The object that --json prints.
function M.summary(run, ctx, session)
  local c = run.counts
  local seconds = (clock.mono_ms() - run.began_ms) / 1000
  local out = {
    pipeline = run.name, consumed = c.consumed, counted = c.counted, dead = c.dead, late = c.late,
    too_late = c.too_late, dropped = c.dropped, skipped = c.skipped, upserts = c.rows,
    commits = c.commits, retries = c.retries, seconds = round(seconds),
    commit_seconds = round(c:committing_ms() / 1000),
    messages_per_second = round(seconds > 0 and c.consumed / seconds or 0),
    startup_ms = round(run.startup_ms) or json.null,
    first_message_ms = round(run.first_message_ms) or json.null,
    peak_rss_mb = round((process.peak_rss_kb() or 0) / 1024),
    latency_ms = { p50 = c:quantile(0.5) or json.null, p99 = c:quantile(0.99) or json.null },
    warnings = warnings(run),
  }
  if ctx.until_end then out.rows, out.windows = table_counts(run, session)
  else out.rows = c.rows end
  local path = os.getenv("TIDEMILL_STATUS_FILE")
  if path then
    local final = status(run)
    final.newest, final.lag = run.newest, 0
    process.atomic_write(path, json.encode(final) .. "\n", { sync = false })
  end
  return out
end

return M
