--- The engine of scripts/prices.lua: asks an exchange on a grid of wall time, publishes to Kafka.
--
-- One loop steps two things that never block: requests to the exchange, and records on their way
-- to Kafka. A tick asks for all symbols; what fails is asked for again after a backoff until the
-- next tick takes its place. Only a price that was judged good, with the symbol it was asked for,
-- becomes a message; all else is counted by class, logged when it begins and when it is over.

local bans = require "mill.bans"
local brokers_ = require "mill.brokers"
local clock = require "host.clock"
local config = require "mill.config"
local duration = require "mill.duration"
local endpoints = require "mill.endpoints"
local fault = require "mill.fault"
local http = require "host.http"
local log = require "mill.log"
local outbox = require "mill.outbox"
local process = require "host.process"
local producer_report = require "mill.producer_report"
local retry = require "mill.retry"
local starting = require "mill.starting"
local ticker = require "mill.ticker"
local timesync = require "mill.timesync"
local topics = require "mill.topic"

local M = {}

local WAIT_MS = 100
local FLUSH_MS = 10000
local BUSY_MS = 5 -- while both the exchange and Kafka owe an answer
local MAX_BODY = 1024 * 1024
local DEFAULT_LIMIT = 6000
local RESERVE = 50 -- of the weight, for others behind our address
local INFO_PATH = "/api/v3/exchangeInfo?symbol="

local Producer = {}
Producer.__index = Producer

-- ---- troubles: each is logged when it begins and when it is over ------------------------------

local function trouble(self, key, class, fmt, ...)
  self.report:error(class)
  self.troubles[key] = true
  log.trouble(self.name .. " " .. key, fmt, ...)
end

-- End the troubles whose keys begin with `prefix`.
local function over(self, prefix, fmt, ...)
  for key in pairs(self.troubles) do
    if key:sub(1, #prefix) == prefix then
      self.troubles[key] = nil
      log.over(self.name .. " " .. key, fmt, ...)
    end
  end
end

-- ---- requests ---------------------------------------------------------------------------------

-- Its moments are of the exchange's clock.
local function judged(self, response)
  return retry.judge(response, self.sync:at(clock.mono_us()))
end

local function ask(self, endpoint, path, what, symbols)
  local id, message = self.http:get {
    url = endpoint.url .. path, timeout_ms = self.deadline_ms, max_body = MAX_BODY, ca = self.ca,
    connect_timeout_ms = self.deadline_ms,
  }
  if not id then fault.raise(fault.FAILED, "%s", message) end
  self.requests[id] = { what = what, endpoint = endpoint, symbols = symbols }
  self.report.requests = self.report.requests + 1
end

-- The weight that endpoint's header told is over when its minute is.
local function minute(self)
  return self.sync:at(clock.mono_us()) // 60000
end

local function note_weight(self, endpoint, response)
  local used = math.tointeger(tonumber(response.headers["x-mbx-used-weight-1m"]
    or response.headers["x-mbx-used-weight"] or ""))
  if used then
    endpoint.weight = { used = used, minute = minute(self) }
    self.report:weight(used, self.weight_limit)
  end
end

-- Is there weight left for a request of this cost? If not, the endpoint rests to the next minute.
local function affordable(self, endpoint, cost)
  local weight = endpoint.weight
  if not weight or weight.minute ~= minute(self) then return true end
  local reserve = math.min(RESERVE, self.weight_limit // 10)
  if weight.used + cost + reserve <= self.weight_limit then return true end
  local left = 60000 - self.sync:at(clock.mono_us()) % 60000 + 100
  self.endpoints:ban(endpoint.group, clock.mono_ms() + left)
  trouble(self, "weight", "weight", "%s: weight %d of %d is used; asking again in %.1f s",
    endpoint.url, weight.used, self.weight_limit, left / 1000)
  return false
end

-- ---- an attempt: the requests for the symbols that are still wanted ---------------------------

local function start_attempt(self, endpoint)
  local each = self.mode == "each"
  self.attempt = { endpoint = endpoint, open = 0, good = 0, failures = {} }
  if each then
    for _, symbol in ipairs(self.wanted) do
      ask(self, endpoint, ticker.path_one(symbol), "price", { symbol })
    end
    self.attempt.open = #self.wanted
  else
    ask(self, endpoint, ticker.path_list(self.wanted), "price", self.wanted)
    self.attempt.open = 1
  end
end

local function got(self, symbol)
  for i, other in ipairs(self.wanted) do
    if other == symbol then
      table.remove(self.wanted, i)
      return
    end
  end
end

local function publish(self, response, good)
  local mono = timesync.middle_us(response)
  local stamp = self.sync:at(mono)
  local seconds = ("%d.%03d"):format(stamp // 1000, stamp % 1000)
  -- Kafka's own timestamp is the moment of the answer: latencies are counted from it.
  local answered = clock.wall_ms() - (clock.mono_us() - response.finished_us) // 1000
  for _, item in ipairs(good) do
    local message = ('{"symbol":"%s","price":"%s","timestamp":%s}'):format(item[1], item[2],
      seconds)
    self.outbox:send(item[1], message, answered, response.finished_us)
    got(self, item[1])
  end
  self.report:fetched(#good)
end

-- A name the exchange does not know: wrong at the start, perhaps delisted later.
local function unknown_symbol(self, request, message)
  if #request.symbols > 1 then
    log.warn("%s refuses the list of symbols (%s): asking for each alone from now on",
      request.endpoint.url, message)
    self.report:error("request")
    self.mode = "each"
    return
  end
  local symbol = request.symbols[1]
  if not self.fetched_any then
    fault.raise(fault.USAGE, "%s does not know the symbol %s (%s); name others with --set "
      .. "symbols=...", request.endpoint.url, symbol, message)
  end
  trouble(self, "symbol " .. symbol .. ";", "request", "%s: %s: %s", request.endpoint.url, symbol,
    message)
  got(self, symbol) -- not again before the next tick
end

-- Codes of the exchange for a symbol that it does not have, or not any more.
local UNKNOWN_SYMBOL = { [-1121] = true, [-1100] = true, [-1220] = true }

local function refused(self, request, response, judgement)
  local code, message = ticker.error_code(response)
  if judgement.class == "request" and UNKNOWN_SYMBOL[code] then
    unknown_symbol(self, request, message)
    return
  end
  local failures = self.attempt.failures
  failures[#failures + 1] = judgement
  judgement.detail = message or response.error
end

local function take_price(self, request, response)
  local attempt = self.attempt
  attempt.open = attempt.open - 1
  local judgement = judged(self, response)
  if judgement then return refused(self, request, response, judgement) end
  local alone = self.mode == "each" and #request.symbols == 1
  local good, problems = ticker.judge(response, request.symbols, alone)
  if #good > 0 then
    attempt.good = attempt.good + #good
    attempt.simulated = response.headers["x-tidemill-simulated"] == "1"
    publish(self, response, good)
    for _, item in ipairs(good) do
      over(self, "symbol " .. item[1] .. ";", "%s is right again", item[1])
    end
  end
  for _, p in ipairs(problems) do
    if p.symbol and (#good > 0 or alone) then
      -- The others may be good: no reason to hurry, it is asked for again at the next tick.
      trouble(self, "symbol " .. p.symbol .. ";", p.class, "%s: %s; it is not published",
        request.endpoint.url, p.text)
      got(self, p.symbol)
    elseif #good > 0 then
      trouble(self, "answer " .. p.class, p.class, "%s: %s; it is not published",
        request.endpoint.url, p.text)
    else
      local failures = attempt.failures
      failures[#failures + 1] = { class = p.class, action = "retry", text = p.text }
    end
  end
  if #problems == 0 then over(self, "answer", "answers are right again") end
end

-- Of several failures the one that asks for the most, or for the longest wait.
local WEIGHTS = { retry = 1, config = 2, switch = 3, wait = 4 }

local function worst(failures)
  local found = failures[1]
  for _, f in ipairs(failures) do
    local more = WEIGHTS[f.action] - WEIGHTS[found.action]
    if more > 0 or more == 0 and (f.wait_ms or 0) > (found.wait_ms or 0) then found = f end
  end
  return found
end
M.worst = worst -- for specs

local function attempt_failed(self, endpoint, failure)
  local now = clock.mono_ms()
  self.endpoints:failed(endpoint, failure, now)
  local text = failure.text .. (failure.detail and " (" .. failure.detail .. ")" or "")
  if failure.action == "wait" then
    text = ("%s; asking again in %.1f s"):format(text, failure.wait_ms / 1000)
    self.bans:save()
  end
  trouble(self, "endpoint " .. endpoint.url .. " " .. failure.class, failure.class, "%s: %s",
    endpoint.url, text)
end

local function attempt_succeeded(self, endpoint)
  if self.endpoints:succeeded(endpoint) then
    log.info("prices come from %s now", endpoint.url)
    self.report.switches = self.report.switches + 1
  end
  over(self, "endpoint " .. endpoint.url .. " ", "%s answers again", endpoint.url)
  over(self, "ban", "the time to stay away is over")
  over(self, "weight", "there is weight again")
  self.bans:forget()
  if not self.fetched_any then
    self.fetched_any = true
    log.info("first prices from %s: %d symbols%s", endpoint.url, self.attempt.good,
      self.attempt.simulated and ", SIMULATED" or "")
  end
end

local function end_attempt(self)
  local attempt = self.attempt
  self.attempt = nil
  if #attempt.failures > 0 then
    attempt_failed(self, attempt.endpoint, worst(attempt.failures))
  elseif attempt.good > 0 then
    self.attempt = attempt
    attempt_succeeded(self, attempt.endpoint)
    self.attempt = nil
  end
end

-- ---- answers to other requests ----------------------------------------------------------------

local function take_time(self, request, response)
  local now, tries = clock.mono_ms(), #self.endpoints.list + 1
  local judgement = judged(self, response)
  if not judgement then
    self.sync:take(response, now, tries)
    return
  end
  -- At the start this is the first we hear of an endpoint; later its prices matter more.
  if judgement.action == "wait" or not self.sync:settled() then
    attempt_failed(self, request.endpoint, judgement)
  end
  self.sync:fail(now, judgement.text, tries)
end

local function take_info(self, request, response)
  local json = require "mill.json"
  local value = not judged(self, response) and json.decode(response.body)
  local limits = type(value) == "table" and value.rateLimits
  for _, limit in ipairs(type(limits) == "table" and limits or {}) do
    if limit.rateLimitType == "REQUEST_WEIGHT" and limit.interval == "MINUTE"
      and math.type(limit.limit) == "integer" and limit.intervalNum == 1 then
      self.weight_limit = limit.limit
    end
  end
  log.info("weight limit: %d a minute%s", self.weight_limit, limits and ""
    or ", the usual one; " .. request.endpoint.url .. " did not tell")
end

local TAKE = { price = take_price, time = take_time, info = take_info }

local function take(self, response)
  local request = self.requests[response.id]
  self.requests[response.id] = nil
  note_weight(self, request.endpoint, response)
  self.report:request(response)
  TAKE[request.what](self, request, response)
  if request.what == "price" and self.attempt.open == 0 then end_attempt(self) end
end

-- ---- ticks ------------------------------------------------------------------------------------

-- Where the grid of wall time stands after `wall`.
local function after(self, wall)
  return (wall // self.every_ms + 1) * self.every_ms
end

-- Begin the tick that is due, if one is; ticks that passed meanwhile are missed.
local function tick(self, wall)
  if wall < self.next_ms - self.every_ms then self.next_ms = after(self, wall) end -- it went back
  if wall < self.next_ms then return end
  local passed = (wall - self.next_ms) // self.every_ms
  self.next_ms = after(self, wall)
  if self.jumped then
    passed, self.jumped = 0, false -- the clock moved, no tick was missed
  end
  -- One that is still unanswered gives way.
  if #self.wanted > 0 then passed = passed + 1 end
  self.report:tick(passed)
  -- In an attempt, its answers belong to the tick that asked; this one has to wait for them.
  if not self.attempt then self.wanted = table.move(self.symbols, 1, #self.symbols, 1, {}) end
end

-- Ask for what is wanted, if anybody may be asked now.
local function begin(self)
  if self.attempt or #self.wanted == 0 or not self.sync:settled() then return end
  local endpoint = self.endpoints:choose(clock.mono_ms())
  if not endpoint then return end
  local cost = self.mode == "each" and ticker.WEIGHT_ONE * #self.wanted or ticker.WEIGHT_LIST
  if affordable(self, endpoint, cost) then start_attempt(self, endpoint) end
end

local function measure(self)
  local now = clock.mono_ms()
  if self.sync:watch() then self.jumped = true end
  if not self.sync:wants(now) then return end
  local endpoint = self.endpoints:choose(now)
  if not endpoint then return end
  self.sync:begin()
  ask(self, endpoint, timesync.PATH, "time")
end

local function learn_limit(self)
  if self.weight_limit > 0 then return end
  local endpoint = self.endpoints:choose(clock.mono_ms())
  self.weight_limit = DEFAULT_LIMIT
  if endpoint then ask(self, endpoint, INFO_PATH .. http.escape(self.symbols[1]), "info") end
end

-- How long nothing of ours is due.
local function idle_ms(self, limit)
  local wait = math.min(limit, self.next_ms - clock.wall_ms())
  if #self.wanted > 0 and not self.attempt then
    local now = clock.mono_ms()
    local endpoint, at = self.endpoints:choose(now)
    if endpoint then return self.sync:settled() and 0 or math.max(0, math.min(wait, 20)) end
    wait = math.min(wait, at - now)
  end
  return math.max(0, wait)
end

--- One turn: take what has come, ask what is due, wait up to `limit_ms` for more.
function Producer:step(limit_ms)
  learn_limit(self)
  measure(self)
  tick(self, clock.wall_ms())
  begin(self)
  local wait = idle_ms(self, limit_ms or WAIT_MS)
  local asking, owing = next(self.requests) ~= nil, self.outbox:busy()
  if asking then
    for _, response in ipairs(self.http:poll(owing and math.min(wait, BUSY_MS) or wait)) do
      take(self, response)
    end
    begin(self)
    self.outbox:serve(0)
  else
    self.outbox:serve(wait)
  end
  self.report:turn(self)
end

--- Stop asking and wait for Kafka's acknowledgements. Returns how many messages are left: they stay
-- in the spool.
function Producer:finish(wait_ms)
  for id in pairs(self.requests) do self.http:cancel(id) end
  self.requests, self.attempt, self.wanted = {}, nil, {}
  local left = self.outbox:drain_all(wait_ms)
  self.outbox.spool:save()
  return left
end

--- The object that --json prints.
function Producer:summary()
  return self.report:summary(self)
end

function Producer:close()
  self.report:close()
  self.outbox:close()
  self.http:close()
end

Producer.__close = Producer.close

local function open_outbox(self, options)
  local ok, opened = pcall(outbox.open, options, self.report)
  if ok then return opened end
  self.report:close()
  error(opened, 0)
end

-- The fields that are made of options alone; raises a fault where one is wrong.
local function fields(options)
  if options.mode ~= "all" and options.mode ~= "each" then
    fault.raise(fault.USAGE, "--set mode=%s: it is 'all' or 'each'", options.mode)
  end
  if not options.name:find("^[%w._-]+$") then
    fault.raise(fault.USAGE, "--set name=%s: letters, digits, '.', '_' and '-' only", options.name)
  end
  return {
    name = options.name, symbols = ticker.symbols(options.symbols), mode = options.mode,
    endpoints = endpoints.new(options.endpoints, options.retry), every_ms = options.every_ms,
    deadline_ms = options.deadline_ms, weight_limit = options.weight_limit, ca = options.ca,
    sync = timesync.new { every_ms = options.clock_every_ms },
    requests = {}, wanted = {}, troubles = {},
  }
end

--- Make a producer.
-- @param options table: name, endpoints (text), symbols (text), mode ("all": one request for all
--   symbols; "each"), every_ms, deadline_ms (of a request), clock_every_ms, weight_limit (0: ask),
--   topic, create_topic, partitions, brokers, conf, state_dir, spool (its folder), spool_limit
--   (bytes), ca (file), retry (options of mill.endpoints), status_file,
--   http (address:port for /metrics and /health)
function M.new(options)
  local self = setmetatable(fields(options), Producer)
  self.next_ms = clock.wall_ms() -- the first tick at once, all others on the grid
  self.report = producer_report.open(self, options)
  self.outbox = open_outbox(self, options)
  self.http = assert(http.client { concurrency = 32 })
  self.bans = bans.new(options.state_dir, options.name, self.endpoints)
  local left = self.bans:load()
  if left > 0 then
    trouble(self, "ban", "ban", "an earlier run was told to stay away: asking again in %.1f s",
      left / 1000)
  end
  return self
end

local function milliseconds(set, key)
  local ms, message = duration.parse(set[key])
  if not ms then fault.raise(fault.USAGE, "--set %s: %s", key, message) end
  if ms < 1 then fault.raise(fault.USAGE, "--set %s: must be more than 0", key) end
  return ms
end

--- The options that the settings of scripts/prices.lua mean.
function M.options(set, ctx)
  local var = os.getenv("TIDEMILL_VAR")
  local state = set.state ~= "" and set.state or (var or "var") .. "/state"
  return {
    name = set.name, symbols = set.symbols, mode = set.mode, endpoints = set.endpoints,
    every_ms = milliseconds(set, "every"), deadline_ms = milliseconds(set, "deadline"),
    clock_every_ms = milliseconds(set, "clock_every"), weight_limit = set.weight_limit,
    topic = set.topic, create_topic = set.create_topic, partitions = set.partitions,
    brokers = config.kafka(), conf = config.kafka_conf(), ca = set.ca ~= "" and set.ca or nil,
    state_dir = state, spool_limit = outbox.limit(set.spool_limit),
    spool = set.spool ~= "" and set.spool or state .. "/spool/" .. set.name,
    limit_ms = ctx.for_ms, status_file = os.getenv("TIDEMILL_STATUS_FILE"),
    http = config.get("http"),
  }
end

--- Could a producer with these options run? Nothing is opened or sent; a fault says what is wrong.
-- @param options as M.run takes them
-- @param connect bool: look at the topic too
-- @return table: topic; with `connect` partitions and cluster, unless it is still to be created
function M.check(options, connect)
  fields(options)
  brokers_.check_conf(options.conf)
  local found = connect and topics.ensure {
    brokers = options.brokers, conf = options.conf, topic = options.topic,
    later = options.create_topic,
  } or {}
  return { topic = options.topic, partitions = found.partitions, cluster = found.cluster_id }
end

--- Run until a signal, or for `limit_ms`.
-- @param options as M.new takes them, and limit_ms, flush_ms (for the last acknowledgements)
-- @return summary table (of one that a signal stopped while it started: kind, name, stopped), exit
--   status
function M.run(options)
  process.graceful(true)
  log.name(options.name)
  local self <close>, stopped = starting.call(M.new, options)
  if not self then return { kind = "producer", name = options.name, stopped = stopped }, 0 end
  local deadline = options.limit_ms and clock.mono_ms() + options.limit_ms
  local socket = require("mill.attach").open(options.name, {
    status = function() return self:summary() end,
  }, options.state_dir)
  while process.stop_requested() == 0 and not (deadline and clock.mono_ms() >= deadline) do
    if socket then socket:serve() end
    self:step(deadline and math.max(0, math.min(WAIT_MS, deadline - clock.mono_ms())) or WAIT_MS)
  end
  if socket then socket:close() end
  local left = self:finish(options.flush_ms or FLUSH_MS)
  local summary = self:summary()
  self.report:last(self, summary)
  local memory = summary.spool and summary.spool.memory or 0
  if left > memory then
    log.warn("%d messages were not acknowledged by Kafka; they stay in the spool for the next run",
      left - memory)
  end
  if memory > 0 then
    log.error("%d messages were lost: neither could the spool be written nor did Kafka take them", memory)
  end
  if summary.published == 0 and summary.errors > 0 then
    log.error("nothing was published: %s", self.report:errors_text())
    return summary, fault.SERVER
  end
  return summary, 0
end

return M
