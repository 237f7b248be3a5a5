--- The processes of a soak: started, stopped, and their tables checked.

local batch = require "host.batch"
local clock = require "host.clock"
local json = require "mill.json"
local kafka = require "host.kafka"
local ledger = require "spec.soak.ledger"
local real = require "spec.support.real"

local M = {}

local SIZE_MS = 10000
local READY_MS = 60000
local DRAIN_MS = 120000
local STATUS_STOP_MS = 60000

local Soak = {}
Soak.__index = Soak

local function member(self, name, argv, env)
  local vars = { TIDEMILL_KAFKA = real.kafka(), TIDEMILL_MYSQL = self.place.url,
                 TIDEMILL_HTTP = "127.0.0.1:0", TIDEMILL_VAR = self.out .. "/" .. name }
  for key, value in pairs(env or {}) do vars[key] = value end
  local child = real.tidemill(argv, { env = vars })
  local m = { name = name, child = child, samples = {} }
  self.members[#self.members + 1] = m
  self.by_name[name] = m
  return m
end

-- Wait for a line on stderr; its capture.
local function said(m, pattern)
  return real.wait(function()
    local found = m.child:log():match(pattern)
    if not found then
      local result = m.child:result(0)
      if result then error(("%s ended: %s"):format(m.name, result.err), 0) end
    end
    return found
  end, ("'%s' of %s"):format(pattern, m.name), READY_MS)
end

local function pipeline(self, name, topic)
  local table_name = "avg_" .. name
  self.place:query("create table %s like moving_averages", table_name)
  local m = member(self, "averages " .. name, { "run", "scripts/averages.lua", "--json", "--set",
    "topic=" .. topic, "--set", "name=" .. name, "--set", "table=" .. table_name, "--set",
    "size=" .. SIZE_MS // 1000 .. "s" })
  m.table = table_name
end

local function source(self, name, rate, keys, life_s)
  local m = member(self, "source " .. name, { "exec", "spec/soak/fill.lua", self.topics[name],
    tostring(rate), tostring(keys), tostring(life_s), tostring(SIZE_MS),
    tostring(self.seconds + 86400), self.out .. "/" .. name .. ".ledger" })
  m.source = true
end

local function start_exchange(self)
  local exchange = member(self, "exchange", { "run", "scripts/exchange.lua", "--set", "limit=100000",
    "--set", "address_file=" .. self.out .. "/exchange.address" })
  local address = real.wait(function()
    local file = io.open(self.out .. "/exchange.address")
    local text = file and file:read("l")
    if file then file:close() end
    return text
  end, "the exchange", READY_MS)
  exchange.last = true
  local prices = member(self, "prices", { "run", "scripts/prices.lua", "--json", "--set", "topic="
    .. self.topics.prices, "--set", "endpoints=http://" .. address, "--set", "every=200ms", "--set",
    "weight_limit=100000", "--set", "name=" .. self.topics.prices })
  prices.source = true
end

--- Start everything.
-- @param o table: seconds, rate, churn, out (folder), say
function M.start(o)
  local url = os.getenv "TIDEMILL_MYSQL" or error("TIDEMILL_MYSQL is not set", 0)
  if not real.kafka() then error("TIDEMILL_KAFKA is not set", 0) end
  local self = setmetatable({ members = {}, by_name = {}, topics = {}, out = o.out, say = o.say,
                              seconds = o.seconds }, Soak)
  os.remove(o.out .. "/exchange.address")
  self.place = real.place { name = "MySQL", url = url }
  for _, name in ipairs { "steady", "churn", "prices" } do
    self.topics[name] = real.topic { partitions = 3 }
  end
  source(self, "steady", o.rate, 20, 0)
  source(self, "churn", o.churn, 200, 60)
  start_exchange(self)
  for _, name in ipairs { "steady", "churn", "prices" } do pipeline(self, name, self.topics[name]) end
  for _, m in ipairs(self.members) do
    if m.table or m.name == "prices" then
      m.url = "http://" .. said(m, "serving /metrics and /health on (%S+)") .. "/metrics"
    end
  end
  o.say("%d processes run for %.1f min", #self.members, o.seconds / 60)
  return self
end

-- Ask a process to end; its summary.
local function stop(m, problem)
  m.child:kill("TERM")
  local result = m.child:finish(STATUS_STOP_MS)
  if result.status ~= 0 then
    problem("%s ended with %s: %s", m.name, tostring(result.status or result.signal),
      result.err:sub(-500))
  end
  return result.summary or {}
end

-- The ledger of a topic that somebody else filled: read it whole, with a reader of its own.
local function recount(topic, path)
  local book = ledger.new(path, SIZE_MS)
  real.settled(topic) -- the marks of the last commit come after its answer
  local ends, list, left = real.ends(topic), {}, 0
  for p, e in pairs(ends) do
    list[#list + 1] = { topic = topic, partition = p, offset = "earliest" }
    if e[2] > e[1] then left = left + 1 end
  end
  local consumer <close> = assert(kafka.consumer {
    brokers = real.kafka(), conf = { ["enable.partition.eof"] = true },
  })
  assert(consumer:manual(list))
  local rows, deadline = batch.new(), clock.mono_ms() + DRAIN_MS
  local ended = {}
  while left > 0 and clock.mono_ms() < deadline do
    for i = 1, consumer:poll(rows, 10000, 100) do
      local r = rows:record(i)
      local whole, part = r.value:match('"price":"(%d+)%.(%d%d%d%d%d%d%d%d)"')
      local s, ms = r.value:match('"timestamp":(%d+)%.(%d%d%d)')
      book:add(r.value:match('"symbol":"([^"]+)"'), math.tointeger(s .. ms),
        math.tointeger(whole .. part))
    end
    for _, e in ipairs(rows:ends()) do
      if not ended[e.partition] and e.offset >= ends[e.partition][2] and ends[e.partition][2] > 0
      then
        ended[e.partition], left = true, left - 1
      end
    end
    rows:reset()
  end
  assert(left == 0, "the topic of prices could not be read to its end")
  book:close()
  return book.count
end

local function drained(self, name, sent)
  real.wait(function()
    local counted = self.place:value("select coalesce(sum(samples), 0) from avg_%s", name)
    local open = self.place:value("select count(*) from avg_%s where is_final = 0", name)
    return math.tointeger(tonumber(counted)) == sent and math.tointeger(open) == 0
  end, ("table avg_%s to hold %d messages, all final"):format(name, sent), DRAIN_MS)
end

local function check_table(self, name, sent, problem)
  local ok, message = pcall(drained, self, name, sent)
  if not ok then problem("%s", message) end
  local rows = self.place:query("select timestampdiff(microsecond, '1970-01-01', start_time) div "
    .. "1000, symbol, samples, price_sum, average_price, is_final from avg_%s", name)
  local right, wrong, messages = ledger.compare(self.out .. "/" .. name .. ".ledger", rows)
  for _, text in ipairs(wrong) do problem("avg_%s: %s", name, text) end
  if messages ~= sent then problem("%s: the ledger holds %d of %d", name, messages, sent) end
  return { table = "avg_" .. name, messages = sent, rows = #rows, right = right }
end

--- Stop the sources, wait for the pipelines, compare the tables, stop the pipelines.
-- @param problem function(fmt, ...) told what is wrong
-- @return array of { table =, messages =, rows =, right = }
function Soak:check(problem)
  local sent = {}
  for _, name in ipairs { "steady", "churn" } do
    sent[name] = stop(self.by_name["source " .. name], problem).sent or -1
  end
  local summary = stop(self.by_name.prices, problem)
  sent.prices = recount(self.topics.prices, self.out .. "/prices.ledger")
  if summary.published ~= sent.prices then
    problem("prices: %s published, %d in the topic", tostring(summary.published), sent.prices)
  end
  local tables = json.array {}
  for _, name in ipairs { "steady", "churn", "prices" } do
    tables[#tables + 1] = check_table(self, name, sent[name], problem)
  end
  for _, m in ipairs(self.members) do
    if m.table then
      local done = stop(m, problem)
      if done.consumed ~= sent[m.table:sub(5)] or done.dead ~= 0 or done.too_late ~= 0 then
        problem("%s: consumed %s, dead %s, too late %s", m.name, tostring(done.consumed),
          tostring(done.dead), tostring(done.too_late))
      end
    elseif m.last then
      stop(m, problem)
    end
  end
  return tables
end

--- Kill what still runs; remove the topics and the database.
function Soak:close()
  for _, m in ipairs(self.members) do m.child:kill("KILL") end
  real.close()
  self.place:close()
end

Soak.__close = Soak.close

return M
