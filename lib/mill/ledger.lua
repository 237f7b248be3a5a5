--- The topic mill_spool: up to where Kafka has a producer's spool.
--
-- Compacted, one partition; key: the producer's name, value: {"spool":id,"position":n,"run":id}.
-- The last record of each transaction goes there, so the position moves if and only if the
-- messages below it are in their topic. `run` tells two processes of one name apart.

local batch = require "host.batch"
local json = require "mill.json"
local kafka = require "host.kafka"

local M = {}

M.TOPIC = "mill_spool"
--- Settings of the topic where it is created: kept small, since it is read at each start.
M.CONFIG = {
  ["cleanup.policy"] = "compact", ["min.cleanable.dirty.ratio"] = "0.1",
  ["segment.ms"] = "3600000", ["segment.bytes"] = "16777216",
}

--- The record of a position.
function M.value(spool, position, run)
  return ('{"spool":"%s","position":%d,"run":"%s"}'):format(spool, position, run)
end

local ASK_MS = 500

local Reader = {}
Reader.__index = Reader

local function consumer(options, isolation)
  local conf = { ["fetch.wait.max.ms"] = 20 }
  for key, value in pairs(options.conf or {}) do conf[key] = value end
  conf["isolation.level"] = isolation
  return kafka.consumer { brokers = options.brokers, conf = conf }
end

local function begin(self, isolation)
  if self.consumer then self.consumer:close() end
  self.consumer, self.next, self.ended = consumer(self.options, isolation), 0, nil
  self.found, self.own = nil, nil
  assert(self.consumer:manual { { topic = M.TOPIC, partition = 0, offset = "earliest" } })
end

--- Begin to read the topic to the end that it has now.
-- @param options table: brokers, conf, name (of the producer), spool (our own id, or nil), committed
--   (bool): leave out what is not committed, and wait until all of it is decided
function M.reader(options)
  local self = setmetatable({ options = options, name = options.name, batch = batch.new() }, Reader)
  begin(self, "read_uncommitted")
  return self
end

local function take(self, record)
  self.next = math.max(self.next, record.offset + 1)
  if record.key ~= self.name then return end
  if not record.value then -- somebody took the position away
    self.found = nil
    return
  end
  local value = json.decode(record.value)
  if type(value) ~= "table" or type(value.spool) ~= "string"
    or math.type(value.position) ~= "integer" or value.position < 1 then
    self.found = { bad = record.value, offset = record.offset }
    return
  end
  value.offset = record.offset
  self.found = value
  if value.spool == self.options.spool then self.own = value.position end
end

-- Read on; true once the end `high` was reached, or, without that, any end.
local function read_on(self, wait_ms)
  for i = 1, self.consumer:poll(self.batch, 10000, wait_ms) do
    take(self, self.batch:record(i))
  end
  for _, e in ipairs(self.batch:ends()) do
    self.next, self.ended = math.max(self.next, e.offset), true
  end
  for _, event in ipairs(self.consumer:events()) do
    if event.type == "error" then self.why = event.message end
  end
  return self.high and self.next >= self.high or not self.high and self.ended
end

-- A broker that has just become the leader may not know yet how far its log is committed, and tells
-- too early an end when it is read; asked for it, it does not answer before it knows.
local function is_end(self)
  local _, high, why = self.consumer:watermarks(M.TOPIC, 0, ASK_MS)
  if math.type(high) ~= "integer" then
    self.why = why and tostring(high) or self.why
    return false
  end
  return self.next >= high
end

--- Read on, for up to `wait_ms`, and perhaps ASK_MS more at the end.
-- @return nil while it goes on; else a table: high (the end), found (the last record of our name, as
--   a table of spool, position, run, offset; or bad: its text, where it is none of ours), or nil; own
--   (the last position told there for options.spool, or nil)
function Reader:step(wait_ms)
  if not read_on(self, wait_ms) then return nil end
  if self.options.committed and not self.high then
    if not is_end(self) then return nil end
    -- The read-committed end may lie before an open transaction of somebody else's, and what we
    -- committed after that would be overlooked: so it is read up to the end of everything.
    self.high = self.next
    begin(self, "read_committed")
    return nil
  end
  return { high = self.high or self.next, found = self.found, own = self.own }
end

function Reader:close()
  self.consumer:close()
  self.batch:close()
end

return M
