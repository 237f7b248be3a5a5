--- Members of consumer groups, for specs: they answer rebalances and check what they read.

local batch = require "host.batch"
local clock = require "host.clock"
local json = require "mill.json"
local kafka = require "host.kafka"

local M = {}

M.DEADLINE_MS = 60000 * require "spec.support.slow"

--- Call `step` until it returns something true; raises after the deadline.
function M.await(what, step, deadline_ms)
  local deadline = clock.mono_ms() + (deadline_ms or M.DEADLINE_MS)
  repeat
    local value = step()
    if value then return value end
  until clock.mono_ms() >= deadline
  error(what .. " did not happen in time", 2)
end

local Member = {}
Member.__index = Member

local function count(t)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  return n
end

--- A consumer that starts each partition at the next offset of `log`, which members of a group
-- share: log.next[partition]. What it reads is checked against it.
-- @param o table: brokers, group, topic, instance, conf, log, paused (do not resume)
function M.member(o)
  local self = setmetatable({ own = {}, events = {}, read = 0, errors = {} }, Member)
  self.log = o.log or { next = {}, gaps = {}, repeats = 0, read = 0 }
  self.paused = o.paused
  self.batch = batch.new()
  self.consumer = kafka.consumer {
    brokers = o.brokers, group = o.group, topics = { o.topic }, instance = o.instance,
    conf = o.conf,
  }
  return self
end

--- What members of one group share.
function M.log()
  return { next = {}, gaps = {}, repeats = 0, read = 0 }
end

local function answer(self, event)
  self.events[#self.events + 1] = event
  if event.type == "assign" then
    for _, p in ipairs(event.partitions) do
      p.offset = self.log.next[p.partition] or 0
      self.own[p.partition] = true
    end
    assert(self.consumer:assign(event.partitions))
    if not self.paused then self.consumer:resume(event.partitions) end
  elseif event.type == "revoke" or event.type == "lost" then
    for _, p in ipairs(event.partitions) do self.own[p.partition] = nil end
    assert(self.consumer:unassign(event.partitions))
  elseif event.type == "error" then
    self.errors[#self.errors + 1] = event
  end
end

--- Poll once, check the offsets, answer the events. Returns how many records came.
function Member:step(timeout_ms, max)
  local n = self.consumer:poll(self.batch, max or 10000, timeout_ms or 20)
  local log = self.log
  for i = 1, n do
    local r = self.batch:record(i)
    local want = log.next[r.partition] or 0
    if r.offset > want and not self.holes then
      log.gaps[#log.gaps + 1] = ("partition %d: %d..%d"):format(r.partition, want, r.offset - 1)
    elseif r.offset < want then
      log.repeats = log.repeats + 1
    end
    log.next[r.partition] = r.offset + 1
    if self.each then self.each(r) end
  end
  log.read = log.read + n
  self.read = self.read + n
  for _, event in ipairs(self.consumer:events()) do answer(self, event) end
  return n
end

--- How many partitions it has.
function Member:owned() return count(self.own) end

function Member:close()
  self.consumer:close()
  self.batch:close()
end

Member.__close = Member.close

-- What a member that did not get what it waits for had seen.
local function describe(self)
  local lines = {}
  for i, event in ipairs(self.events) do
    lines[i] = ("%s %s %s"):format(event.type, event.code or "", event.message or "")
  end
  local log = self.log
  return ("read %d, gaps %d, repeats %d, owns %d, next %s; events:\n  %s"):format(log.read, #log.gaps,
    log.repeats, self:owned(), json.encode(log.next), table.concat(lines, "\n  "))
end

--- Poll all members until `done()`.
function M.drive(members, what, done, deadline_ms)
  local ok, message = pcall(M.await, what, function()
    for _, member in ipairs(members) do member:step(5) end
    return done()
  end, deadline_ms)
  if ok then return end
  local told = { tostring(message) }
  for i, member in ipairs(members) do told[i + 1] = describe(member) end
  error(table.concat(told, "\n"), 2)
end

--- Produce `count` records of values "v1".. to one partition each in turn.
function M.fill(brokers, topic, partitions, n, conf)
  local p <close> = kafka.producer { brokers = brokers, conf = conf }
  for i = 1, n do
    assert(p:produce(topic, "k" .. i, "v" .. i, nil, (i - 1) % partitions))
  end
  assert(p:flush(30000) == 0, "not all records were delivered")
end

return M
