--- Messages on their way to Kafka: into the spool, then out of it; nothing is lost quietly.
--
-- While Kafka is away they wait on disk, up to the spool's limit.

local clock = require "host.clock"
local drain = require "mill.drain"
local fault = require "mill.fault"
local log = require "mill.log"
local spool = require "mill.spool"

local M = {}

local SILENT_MS = 3000 -- unacknowledged for this long: Kafka is away
local AWAY_WAIT_MS = 1000 -- at the end, for a Kafka that is away
local LIMIT = 1000000000
local TURN_MS = 5 -- while both the disk and Kafka owe an answer

local Outbox = {}
Outbox.__index = Outbox

-- Steps until the messages can be sent; a fault where Kafka does not let it.
local function get_ready(self, wait_ms)
  local deadline = clock.mono_ms() + wait_ms
  while not self.drain:is_ready() and clock.mono_ms() < deadline do self.drain:step(20) end
end

--- Open the spool and the way to a topic. With a new spool Kafka must answer: an address that is
-- wrong is told at once. With one that was in use before, messages are collected until it does.
-- @param options table: name, topic, brokers, conf, create_topic, partitions, wait_ms, spool
--   (folder), spool_limit (bytes)
-- @param report of mill.producer_report
function M.open(options, report)
  local self = setmetatable({
    name = options.name, topic = options.topic, report = report, progress_ms = clock.mono_ms(),
  }, Outbox)
  self.spool = spool.open {
    path = options.spool, limit = options.spool_limit or LIMIT, name = options.name, report = report,
  }
  self.drain = drain.new(options, self.spool, report, not self.spool.new)
  local ok, err = pcall(get_ready, self, self.spool.new and (options.wait_ms or 5000) or 0)
  if not ok then
    self:close()
    error(err, 0)
  end
  if self.spool:waiting() > 0 then
    log.info("spool %s: %d messages of an earlier run may wait in it", options.spool,
      self.spool:waiting())
  end
  return self
end

--- Take one message. It is synced and sent by `serve`.
-- @param stamp_ms Kafka's timestamp, @param since_us monotonic time its latency counts from
function Outbox:send(key, message, stamp_ms, since_us)
  if not self:owes() then self.drain.progress_ms = clock.mono_ms() end
  if self.spool:append(self.topic, key, message, stamp_ms, since_us) then return end
  self.report:error "spool"
  log.trouble(self.name .. " lost", "neither the disk nor Kafka takes messages: new ones are lost")
end

--- Does Kafka owe an acknowledgement?
function Outbox:owes()
  return self.spool:waiting() > 0
end

--- Is an answer likely to come soon?
function Outbox:busy()
  return self.drain:busy() and not log.in_trouble(self.name .. " kafka")
end

-- The age of what waits tells that Kafka is away, whatever its errors say.
local function look(self)
  if not self:owes() then
    log.over(self.name .. " kafka", "Kafka acknowledges again")
    log.over(self.name .. " lost", "messages are taken again")
    return
  end
  local age_ms = clock.mono_ms() - self.drain.progress_ms
  if age_ms < SILENT_MS then
    -- It is back, with much to catch up with.
    if self.drain:is_ready() then log.over(self.name .. " kafka", "Kafka acknowledges again") end
    return
  end
  local why = self.drain.why
  log.trouble(self.name .. " kafka", "Kafka has acknowledged nothing for %.1f s%s; messages wait in "
    .. "the spool", age_ms / 1000, why and " (" .. why .. ")" or "")
end

--- Sync and send what waits; wait up to `wait_ms` for something to happen. Raises a fault after an
-- error that lets this producer send nothing more.
function Outbox:serve(wait_ms)
  local deadline = clock.mono_ms() + wait_ms
  self.spool:sync()
  self.drain:step(0)
  -- The disk is awaited first, so that its messages are sent right after; while a transaction is
  -- under way, the two are looked at in turns.
  if self.spool:wait(self.drain:sending() and 0 or wait_ms) then
    wait_ms = math.min(wait_ms, TURN_MS)
  end
  self.drain:step(math.max(0, math.min(wait_ms, deadline - clock.mono_ms())))
  look(self)
end

--- Wait for all acknowledgements, up to `wait_ms`, not as long when Kafka is away. Returns how many
-- are missing; they stay in the spool.
function Outbox:drain_all(wait_ms)
  local began = clock.mono_ms()
  while self:owes() do
    local left = began + wait_ms - clock.mono_ms()
    if log.in_trouble(self.name .. " kafka") then
      left = math.min(left, began + AWAY_WAIT_MS - clock.mono_ms())
    end
    if left <= 0 then break end
    self:serve(math.min(100, left))
  end
  return self.spool:waiting()
end

--- Messages not yet acknowledged.
function Outbox:queued()
  return self.spool:waiting()
end

--- Why it is not well: an array of texts.
function Outbox:reasons()
  local out = self.spool:reasons()
  if log.in_trouble(self.name .. " kafka") then
    local why = self.drain.why
    table.insert(out, 1, ("Kafka has acknowledged nothing for %d s%s"):format(
      (clock.mono_ms() - self.drain.progress_ms) // 1000, why and (" (%s)"):format(why) or ""))
  end
  return out
end

--- Is Kafka the development broker? nil while it is not known.
function Outbox:development()
  return self.drain.development
end

function Outbox:close()
  self.drain:close()
  self.spool:close()
end

--- The bytes that the setting spool_limit means.
function M.limit(text)
  local bytes = spool.size(text)
  if not bytes or bytes < 100000 then
    fault.raise(fault.USAGE, "--set spool_limit=%s: write a size of at least 100kB, as 500MB or 1GB",
      text)
  end
  return bytes
end

return M
