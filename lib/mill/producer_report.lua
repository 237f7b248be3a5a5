--- What a producer tells: counters, metrics, health page, status file, summary.

local clock = require "host.clock"
local config = require "mill.config"
local heap = require "host.heap"
local http = require "host.http"
local json = require "mill.json"
local log = require "mill.log"
local metrics = require "host.metrics"
local process = require "host.process"

local M = {}

local TURN_MS = 1000
local SILENT_MS = 10000 -- unhealthy when nothing was acknowledged for this long (and 3 ticks)

local Report = {}
Report.__index = Report

local function open_server(self, address)
  local at = config.listen(address)
  local server, message = http.server(at)
  if not server then
    log.warn("no /metrics and /health: %s", message)
    return
  end
  self.server = server
  log.info("serving /metrics and /health on %s:%d", at.address, server:port())
end

--- @param options name, topic, status_file, http
function M.open(producer, options)
  local labels = { producer = options.name }
  local self = setmetatable({
    name = options.name, topic = options.topic, status_file = options.status_file,
    counts = {
      fetched = 0, published = 0, recovered = 0, failed = 0, dropped = 0, errors = 0, ticks = 0,
      missed = 0,
    },
    by_class = {}, requests = 0, switches = 0, began_ms = clock.mono_ms(), turn_ms = 0,
    acked_ms = clock.mono_ms(), silent_ms = math.max(SILENT_MS, 3 * producer.every_ms),
  }, Report)
  self.counters = {}
  for name, help in pairs {
    fetched = "Prices that came from the exchange and were good.",
    published = "Messages that Kafka acknowledged.",
    recovered = "Messages of an earlier run, out of the spool, that Kafka acknowledged.",
    failed = "Messages that were lost on the way to Kafka.",
    dropped = "Messages of those that a full spool dropped.",
    ticks = "Ticks begun.", missed = "Ticks left out or not answered in time.",
  } do
    self.counters[name] = metrics.counter("tidemill_producer_" .. name .. "_total", help, labels)
  end
  self.gauges = {
    weight = metrics.gauge("tidemill_producer_used_weight", "Request weight of this minute.",
      labels),
    offset = metrics.gauge("tidemill_producer_clock_offset_seconds",
      "The exchange's clock less ours.", labels),
    queued = metrics.gauge("tidemill_producer_queued", "Messages not yet acknowledged.", labels),
    heap = metrics.gauge("tidemill_lua_heap_bytes", "Memory of Lua in use.", labels),
    spool = metrics.gauge("tidemill_producer_spool_bytes", "Size of the spool.", labels),
    oldest = metrics.gauge("tidemill_producer_spool_oldest_seconds",
      "Age of the oldest message that Kafka has not acknowledged.", labels),
  }
  self.sync = metrics.histogram("tidemill_producer_spool_sync_seconds",
    "Time to bring the spool to the disk.", labels)
  self.latency = metrics.histogram("tidemill_producer_latency_seconds",
    "From the exchange's answer to Kafka's acknowledgement.", labels)
  self.way = metrics.histogram("tidemill_producer_request_seconds",
    "From the start of a request to the end of its answer.", labels)
  if options.http then open_server(self, options.http) end
  return self
end

local function count(self, name, n)
  self.counts[name] = self.counts[name] + n
  self.counters[name]:add(n)
end

function Report:fetched(n)
  count(self, "fetched", n)
end

--- A message was acknowledged `seconds` after the exchange's answer.
function Report:published(seconds)
  count(self, "published", 1)
  self.latency:observe(seconds)
  self.acked_ms = clock.mono_ms()
end

--- One that an earlier run had fetched was acknowledged.
function Report:recovered()
  count(self, "recovered", 1)
  self.acked_ms = clock.mono_ms()
end

function Report:failed(n)
  count(self, "failed", n)
end

--- A full spool dropped `n`, which are lost.
function Report:dropped(n)
  count(self, "dropped", n)
  self:failed(n)
end

function Report:synced(seconds)
  self.sync:observe(seconds)
end

function Report:tick(missed)
  count(self, "ticks", 1)
  count(self, "missed", missed)
end

--- Something went wrong; `class` is of mill.retry, mill.ticker or a code of Kafka.
function Report:error(class)
  self.counts.errors = self.counts.errors + 1
  self.by_class[class] = (self.by_class[class] or 0) + 1
  metrics.counter("tidemill_producer_errors_total", "What went wrong, by class.",
    { producer = self.name, class = class }):add(1)
end

function Report:weight(used, limit)
  self.used_weight, self.weight_limit = used, limit
  self.gauges.weight:set(used)
end

function Report:request(response)
  self.way:observe(response.timings.total_us / 1e6)
end

--- "limit 3, timeout 1"
function Report:errors_text()
  local names = {}
  for class, n in pairs(self.by_class) do names[#names + 1] = class .. " " .. n end
  table.sort(names)
  return table.concat(names, ", ")
end

local function quantiles(histogram)
  if histogram:count() == 0 then return nil end
  local function ms(q) return math.floor(histogram:quantile(q) * 100000 + 0.5) / 100 end
  return { p50 = ms(0.5), p99 = ms(0.99) }
end

local function round(x)
  return math.floor(x * 10 + 0.5) / 10
end

--- The object that --json prints.
function Report:summary(producer)
  local out = {
    kind = "producer", name = self.name, topic = self.topic, symbols = producer.symbols,
    requests = self.requests, errors_by = self.by_class, switches = self.switches,
    seconds = (clock.mono_ms() - self.began_ms) / 1000, queued = producer.outbox:queued(),
    latency_ms = quantiles(self.latency), request_ms = quantiles(self.way),
    weight = { used = self.used_weight or 0, limit = producer.weight_limit },
    offset_ms = round(producer.sync:offset_ms()),
    development = producer.outbox:development(), spool = producer.outbox.spool:summary(),
    sync_ms = quantiles(self.sync),
    endpoint = producer.endpoints.current and producer.endpoints.current.url or json.null,
  }
  for name, value in pairs(self.counts) do out[name] = value end
  return out
end

-- Well, or "degraded" and why: a text for each reason.
local function health(self, producer)
  local reasons = producer.outbox:reasons()
  local age = clock.mono_ms() - self.acked_ms
  if age > self.silent_ms then
    table.insert(reasons, 1, ("nothing was published for %d s"):format(age // 1000))
  end
  return reasons
end

local function write(self, status, producer)
  local reasons = health(self, producer)
  status.health, status.reasons = #reasons == 0 and "ok" or "degraded", json.array(reasons)
  if self.status_file then
    process.atomic_write(self.status_file, json.encode(status) .. "\n", { sync = false })
  end
  if self.server then
    self.server:page("/health", {
      status = #reasons == 0 and 200 or 503, type = "application/json", body = json.encode(status) .. "\n",
      fresh_ms = 5 * TURN_MS,
    })
  end
end

--- Once a second: gauges, the status file, the health page.
function Report:turn(producer)
  local now = clock.mono_ms()
  if now < self.turn_ms then return end
  self.turn_ms = now + TURN_MS
  self.gauges.offset:set(producer.sync:offset_ms() / 1000)
  self.gauges.queued:set(producer.outbox:queued())
  self.gauges.heap:set(heap.used())
  local spool = producer.outbox.spool:summary()
  self.gauges.spool:set(spool.bytes)
  self.gauges.oldest:set(spool.oldest_s)
  if self.status_file or self.server then write(self, self:summary(producer), producer) end
end

--- The last words, after which nothing changes.
function Report:last(producer, summary)
  write(self, summary, producer)
end

function Report:close()
  if self.server then self.server:close() end
end

return M
