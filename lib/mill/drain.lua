--- Brings the spool's messages to Kafka, each exactly once.
--
-- A machine of states, stepped by the producer's loop; no step waits for Kafka. Each transaction
-- carries the next messages and, last, the position behind them (mill.ledger). What went wrong with
-- a transaction is settled by aborting it; where that is impossible, by a new client, whose
-- init_transactions ends what the old one left, and the ledger then says what was committed.
--
-- librdkafka 2.0.2 takes a transaction that Kafka timed out for one that was fenced. So one that is
-- told it was fenced looks into the ledger: another process of this name leaves its claim there
-- before it sends anything. Only then this one is over.

local brokers_ = require "mill.brokers"
local clock = require "host.clock"
local digest = require "host.digest"
local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local kafka = require "host.kafka"
local ledger = require "mill.ledger"
local log = require "mill.log"
local topics = require "mill.topic"

local M = {}

local BATCH = 5000 -- messages in a transaction at most
local AGAIN_MS = 1000 -- between two tries to reach Kafka
-- For its list of topics, once it has answered something: at least and at most, twice as long as the
-- last took. Nothing else is done meanwhile, so a rest of so many times follows.
local ASK_MS, ASK_MOST_MS, ASK_REST = 200, 1000, 5
local ABORT_MS = 5000
local STUCK_MS = 30000 -- below Kafka's transaction timeout, so that it is not taken for fencing
local SUSPECT_MS = 10000 -- how long the one that fenced us has to show itself
local LOOK_MS = 500

-- After these another copy of this producer may have taken over.
local FENCED = { FENCED = true, PRODUCER_FENCED = true, INVALID_PRODUCER_EPOCH = true }
-- After these another try does not help.
local DENIED = {
  TRANSACTIONAL_ID_AUTHORIZATION_FAILED = true, CLUSTER_AUTHORIZATION_FAILED = true,
  TOPIC_AUTHORIZATION_FAILED = true, INVALID_TRANSACTION_TIMEOUT = true,
}

-- Kafka will never take the message, as it is; it does not say which one of many it means.
local UNWANTED = {
  INVALID_RECORD = true, MSG_SIZE_TOO_LARGE = true, INVALID_MSG_SIZE = true,
  RECORD_LIST_TOO_LARGE = true,
}

local DEFAULTS = {
  acks = "all", ["enable.idempotence"] = true, ["compression.type"] = "lz4",
  partitioner = "murmur2_random", ["linger.ms"] = 0, ["message.timeout.ms"] = 0,
  ["queue.buffering.max.messages"] = 500000, ["queue.buffering.max.kbytes"] = 131072,
}

local Drain = {}
Drain.__index = Drain

local STEPS = {}

local function go(self, state)
  self.state, self.since_ms = state, clock.mono_ms()
  if state == "begin" or state == "open" then self.blame, self.refused = nil, nil end
end

local function close_client(self)
  if self.producer then self.producer:close() end
  self.producer = nil
  if self.reader then self.reader:close() end
  self.reader = nil
end

-- One that is broken may take seconds to end: that is not waited for.
local function abandon(self)
  if self.producer then self.producer:abandon() end
  self.producer = nil
  close_client(self)
end

-- What Kafka is, and its topics, are looked up anew: it may be another cluster by then.
local function reopen(self, why)
  log.trouble(self.name .. " client", "Kafka: %s; going on with a new client", why)
  abandon(self)
  self.patient, self.development, self.transactional = true, nil, true
  self.again_ms = clock.mono_ms() + AGAIN_MS
  go(self, "open")
end

-- An error that ends the client.
local function broken(self, code, message)
  self.report:error(code)
  if DENIED[code] then
    fault.raise(fault.SERVER, "Kafka refuses this producer: %s (%s); its messages stay in the spool",
      message, code)
  end
  if not FENCED[code] or not self.transactional then return reopen(self, message) end
  log.trouble(self.name .. " fenced", "Kafka says this producer was fenced (%s); looking for "
    .. "another copy of it", message)
  abandon(self)
  self.suspect_ms = clock.mono_ms() + SUSPECT_MS
  go(self, "suspect")
end

-- Begun ahead of the messages: Kafka hears of a transaction with its first message only.
local function next_transaction(self)
  if not self.transactional then return go(self, "idle") end
  self.producer:transact "begin"
  go(self, "begin")
end

-- ---- reaching Kafka ---------------------------------------------------------------------------

local HINT = "; producers keep there up to where Kafka has their spools. Create it (compacted, one "
  .. "partition), or give this user the right to"

-- The topics; nil while Kafka does not answer. Each request is given `ask_ms` where it may be away.
local function look_up(self, ask_ms)
  local options = self.options
  self.admin = self.admin or brokers_.client(kafka.admin, {
    brokers = options.brokers, conf = options.conf or {},
  })
  local function ensure(more)
    more.brokers, more.conf, more.admin = options.brokers, options.conf, self.admin
    more.patient, more.wait_ms = self.patient, self.patient and ask_ms or options.wait_ms
    more.later = self.started ~= nil -- it was there: what comes meanwhile goes into the spool
    return topics.ensure(more)
  end
  local found, message = ensure {
    topic = options.topic, create = options.create_topic, partitions = options.partitions,
  }
  if not found then return nil, message end
  if found.created then
    log.info("topic '%s' was created with %d partitions", options.topic, found.partitions)
  end
  if found.development then return found end
  local positions
  positions, message = ensure {
    topic = ledger.TOPIC, create = true, partitions = 1, config = ledger.CONFIG, hint = HINT,
  }
  if not positions then return nil, message end
  return found
end

-- Positions must not go by age.
local function check_policy(self)
  local config = self.admin:topic_config(ledger.TOPIC, ASK_MOST_MS)
  local policy = config and config["cleanup.policy"]
  policy = type(policy) == "table" and policy.value or policy
  if policy and policy ~= "compact" then
    log.warn("topic '%s' has cleanup.policy=%s instead of compact: positions may be deleted by age, "
      .. "and messages then be sent twice after a long pause", ledger.TOPIC, policy)
  end
end

local function read_position(self)
  self.reader = ledger.reader {
    brokers = self.options.brokers, conf = self.options.conf, name = self.name, committed = true,
    spool = self.spool.id,
  }
  go(self, "position")
end

function STEPS.connect(self)
  local began = clock.mono_ms()
  if began < self.again_ms then return end
  local found, message = look_up(self, self.ask_ms)
  local now = clock.mono_ms()
  local took = now - began
  self.ask_ms = math.max(ASK_MS, math.min(2 * took, ASK_MOST_MS))
  if not found then
    self.why, self.again_ms = message, now + math.max(AGAIN_MS, ASK_REST * took)
    return
  end
  self.development, self.transactional = found.development, not found.development
  if found.development then
    log.info("Kafka at %s is the development broker: the producer is idempotent only, without "
      .. "transactions and fencing", self.options.brokers)
  else
    check_policy(self)
  end
  self.admin:close()
  self.admin, self.again_ms = nil, 0
  if self.producer and found.development then close_client(self) end
  if not self.producer then return go(self, "open") end
  read_position(self)
end

-- A client of our name: init_transactions shuts out all earlier ones.
function STEPS.open(self)
  if clock.mono_ms() < self.again_ms then return end
  local conf = {}
  for key, value in pairs(DEFAULTS) do conf[key] = value end
  if self.transactional then conf["transactional.id"] = "tidemill-producer-" .. self.name end
  for key, value in pairs(self.options.conf or {}) do conf[key] = value end
  self.producer = brokers_.client(kafka.producer, { brokers = self.options.brokers, conf = conf })
  if self.transactional then
    self.producer:transact "init_transactions"
    return go(self, "init")
  end
  self.spool:rewind()
  self.started = self.spool.position
  go(self, "idle")
end

function STEPS.init(self)
  local what, message, code, kind = self.producer:outcome()
  if what and self.development == nil then return go(self, "connect") end
  if what then return read_position(self) end
  if what == nil and kind == "retry" then
    self.why = message
    self.producer:transact "init_transactions"
  elseif what == nil then
    broken(self, code, message)
  end
end

-- What the ledger says, and where we begin.
local function begin_at(self, found, own)
  local spool = self.spool
  if found and found.bad then
    fault.raise(fault.SERVER, "topic '%s', offset %d: the record of producer '%s' is no position: %s",
      ledger.TOPIC, found.offset, self.name, found.bad:sub(1, 100))
  end
  if found and found.spool == spool.id then
    spool:start(found.position)
    if spool:waiting() > 0 and not self.started then
      log.info("spool: %d messages of an earlier run wait, from %d on", spool:waiting(),
        found.position)
    end
  elseif found then
    spool:start(nil, own)
    log.warn("spool: Kafka knows another spool (%s) of producer '%s'; this one (%s) begins at its "
      .. "start, message %d. What the other still holds is not sent by this one", found.spool,
      self.name, spool.id, spool.position)
  else
    local told = spool.position
    spool:start(nil)
    if told > spool.position then
      log.warn("spool: Kafka knows no position of producer '%s', though %d messages were "
        .. "acknowledged: it begins at message %d, and some may be sent again",
        self.name, told - 1, spool.position)
    end
  end
  self.started = spool.position
end

-- The messages of the transaction are acknowledged.
local function count(self)
  local mono = clock.mono_us()
  for _, m in ipairs(self.batch) do
    if m.refused then
      self.report:failed(1)
      log.error("a message of %s is left out, Kafka refuses it: %s", m.key, m.refused)
    elseif m.seq >= self.spool.base then
      self.report:published((mono - m.since_us) / 1e6)
    else
      self.report:recovered()
    end
  end
  self.batch = {}
end

-- Has the reader of positions come no further for STUCK_MS? The topic may have gone with its cluster,
-- and nobody else makes it: look it up, for a reader to begin anew.
local function stuck(self)
  local now, at = clock.mono_ms(), self.reader.next
  if at ~= self.read_at then self.read_at, self.since_ms = at, now end
  if now - self.since_ms < STUCK_MS then return false end
  self.reader:close()
  self.reader, self.since_ms, self.patient = nil, now, true
  local _, message = look_up(self, ASK_MOST_MS)
  self.why = message or self.why
  self.admin:close()
  self.admin = nil
  return true
end

function STEPS.position(self)
  local result = self.reader:step(0)
  if not result then
    self.why = self.reader.why or self.why
    if stuck(self) then read_position(self) end
    return
  end
  self.reader:close()
  self.reader = nil
  self.base = result.high
  local found = result.found
  begin_at(self, found, result.own)
  -- The transaction whose end was not heard of was committed after all.
  if found and self.upto == found.position and found.run == self.run then count(self) end
  self.batch, self.claim, self.upto = {}, true, self.spool.position
  next_transaction(self)
end

-- Fenced: by another copy, whose claim is in the ledger, or by a timeout.
function STEPS.suspect(self)
  local now = clock.mono_ms()
  if now < self.again_ms then return end
  self.reader = self.reader or ledger.reader {
    brokers = self.options.brokers, conf = self.options.conf, name = self.name, committed = false,
  }
  local result = self.reader:step(0)
  if not result then
    stuck(self)
    return
  end
  self.reader:close()
  self.reader = nil
  local found = result.found
  self.base = self.base or result.high -- shut out before it looked: only what comes now tells
  if found and found.run ~= self.run and found.offset >= self.base then
    fault.raise(fault.FENCED, "another copy of producer '%s' took over (spool %s); %d messages in "
      .. "this one's spool were not sent and stay there", self.name, tostring(found.spool),
      self.spool:waiting())
  end
  self.again_ms = now + LOOK_MS
  if now < self.suspect_ms then return end
  log.over(self.name .. " fenced", "no other copy has shown itself: Kafka had timed a transaction "
    .. "out; going on")
  self.again_ms = 0
  go(self, "open")
end

local function listen(self, wait_ms)
  local report = self.producer:poll(wait_ms)
  for _, event in ipairs(report.events) do
    -- Only the log tells why a transaction may not go on; its messages are just "purged".
    if event.facility == "TXNERR" then
      local why, code = event.text:match "Current transaction failed in state %w+: (.*) %((%u[%u_]+)%)$"
      if why then self.blame = { error = why, code = code } end
    end
    if event.type == "error" then
      self.why = event.message
      self.report:error(event.code)
      if event.fatal then return broken(self, event.code, event.message) end
    end
  end
  if report.failures > 0 and (self.state == "deliver" or self.state == "fill") then
    local first = self.blame or report.failed[1] or {}
    self.refused = { why = first.error or "unknown", code = first.code }
    for _, f in ipairs(report.failed) do
      if UNWANTED[f.code] and f.topic ~= ledger.TOPIC then
        self.refused = { why = f.error, code = f.code, itself = true }
        break
      end
    end
    self.report:error(self.refused.code or "delivery")
  end
end

-- ---- sending ----------------------------------------------------------------------------------

function STEPS.idle(self)
  if clock.mono_ms() < self.again_ms or not self.spool:has_more() then return end
  self.batch = self.spool:read(self.most)
  local first = #self.batch == 1 and self.batch[1]
  if first and first.seq == self.unwanted then first.refused = self.unwanted_why end
  self.upto = self.spool.cursor
  if self.upto == self.spool.position then return end
  failpoint.hit "drain.begin"
  self.at = 1
  go(self, "fill")
end

function STEPS.begin(self)
  local what, message, code = self.producer:outcome()
  if what then
    self.at = 1
    go(self, self.claim and "fill" or "idle")
  elseif what == nil then
    broken(self, code, message)
  elseif clock.mono_ms() - self.since_ms > ABORT_MS then
    reopen(self, "a transaction does not begin")
  end
end

-- false when the queue is full: the rest is for a later step.
local function produce(self, topic, key, value, stamp_ms, partition)
  local ok, message, code = self.producer:produce(topic, key, value, stamp_ms, partition)
  if ok then return true end
  if code == "QUEUE_FULL" then return false end
  if code == "MSG_SIZE_TOO_LARGE" then
    self.batch[self.at].refused = message
    return true
  end
  broken(self, code, message)
  return false
end

function STEPS.fill(self)
  while self.at <= #self.batch do
    local m = self.batch[self.at]
    local stamp_ms = self.restamp and clock.wall_ms() or m.stamp_ms
    if not m.refused and not produce(self, m.topic, m.key, m.value, stamp_ms) then return end
    self.at = self.at + 1
  end
  if self.transactional then
    local spool = self.spool
    local value = ledger.value(spool.id, self.upto, self.run)
    if not produce(self, ledger.TOPIC, self.name, value, clock.wall_ms(), 0) then return end
  end
  failpoint.hit "drain.sent"
  go(self, "deliver")
end

local function settled(self)
  if self.claim then
    log.info("spool %s: producer '%s' holds it, from message %d on", self.spool.id, self.name,
      self.spool.position)
    self.claim = false
  end
  self.spool:acknowledge(self.upto)
  if #self.batch >= self.most then self.most = math.min(BATCH, self.most * 2) end
  self.restamp = nil
  count(self)
  self.progress_ms, self.tries = clock.mono_ms(), 0
  self.why = nil
  for _, key in ipairs { "client", "fenced", "delivery" } do
    log.over(self.name .. " " .. key, "Kafka takes messages again")
  end
  next_transaction(self)
end

-- What Kafka refuses for good is found by halving the batch, and left out alone. For a wrong time it
-- need not be: the clock may have been wrong for a while, and the message tells its own time.
-- Returns true when another try now has a prospect.
local function narrow(self, refused)
  if refused.code == "INVALID_TIMESTAMP" and not self.restamp then
    self.restamp = true
    return true
  elseif not refused.itself or #self.batch == 0 then
    return false
  elseif #self.batch == 1 then
    self.unwanted, self.unwanted_why = self.batch[1].seq, refused.why
  else
    self.most = #self.batch // 2
  end
  return true
end

local function abort(self, refused)
  log.trouble(self.name .. " delivery", "Kafka refused messages: %s; they are sent again", refused.why)
  if not narrow(self, refused) then
    self.tries = (self.tries or 0) + 1
    self.again_ms = clock.mono_ms() + math.min(5000, 100 << math.min(self.tries, 6))
  end
  if self.transactional then
    self.producer:transact("abort", ABORT_MS)
    go(self, "abort")
  else
    self.spool:rewind()
    go(self, "idle")
  end
end

function STEPS.deliver(self)
  if self.refused then
    local refused = self.refused
    self.refused = nil
    if self.claim and DENIED[refused.code] then
      return broken(self, refused.code, ("topic '%s': %s"):format(ledger.TOPIC, refused.why))
    end
    if self.producer:queued() > 0 and not self.transactional then self.producer:purge() end
    return abort(self, refused)
  end
  if self.producer:queued() > 0 then
    if self.transactional and clock.mono_ms() - self.since_ms > STUCK_MS then
      reopen(self, "a transaction's messages are not acknowledged")
    end
    return
  end
  if not self.transactional then return settled(self) end
  failpoint.hit "drain.before_commit"
  self.producer:transact("commit", STUCK_MS)
  go(self, "commit")
end

function STEPS.commit(self)
  local what, message, code, kind = self.producer:outcome()
  if what then
    failpoint.hit "drain.after_commit"
    settled(self)
  elseif what == nil then
    self.report:error(code)
    self.why = message
    -- Kafka may have committed it for all that, and an abort that only takes a new epoch would not
    -- tell: whatever happens now, the ledger is asked before anything is sent again.
    if kind == "retry" and clock.mono_ms() - self.since_ms < STUCK_MS then
      self.producer:transact("commit", STUCK_MS)
    else
      broken(self, code, message)
    end
  end
end

function STEPS.abort(self)
  local what, message, code = self.producer:outcome()
  if what then
    listen(self, 0) -- what else was refused is not to be taken for the next one's
    if self.state ~= "abort" then return end
    if self.claim then return reopen(self, "the claim was refused") end
    self.spool:rewind()
    next_transaction(self)
  elseif what == nil then
    broken(self, code, message)
  end
end

-- ---- the machine ------------------------------------------------------------------------------

--- Do what can be done, waiting up to `wait_ms` for Kafka in between.
function Drain:step(wait_ms)
  repeat
    local state = self.state
    STEPS[state](self)
  until self.state == state
  if self.reader then
    if wait_ms > 0 then clock.sleep(math.min(wait_ms, 5)) end
  elseif self.producer then
    listen(self, wait_ms)
    repeat
      local state = self.state
      STEPS[state](self)
    until self.state == state
  elseif wait_ms > 0 then
    clock.sleep(wait_ms)
  end
end

--- Is an answer of Kafka's awaited?
function Drain:busy()
  return self.state ~= "idle" and self.state ~= "connect" and self.state ~= "open"
end

--- Is a transaction with messages under way?
function Drain:sending()
  return self.state == "fill" or self.state == "deliver" or self.state == "commit"
    or self.state == "abort"
end

--- Has it come so far that it sends?
function Drain:is_ready()
  return self.started ~= nil and not self.claim
end

function Drain:close()
  close_client(self)
  if self.admin then self.admin:close() end
end

--- @param options table: name, topic, brokers, conf, create_topic, partitions, wait_ms
-- @param spool of mill.spool, @param report of mill.producer_report or what is like it
-- @param patient bool: Kafka may be away
function M.new(options, spool, report, patient)
  local self = setmetatable({
    name = options.name, options = options, spool = spool, report = report, patient = patient,
    run = digest.random_hex(8), again_ms = 0, progress_ms = clock.mono_ms(), batch = {},
    most = BATCH, ask_ms = ASK_MS,
  }, Drain)
  -- Where Kafka may be away the client comes first: it waits for it on a thread of its own.
  self.transactional = patient
  go(self, patient and "open" or "connect")
  return self
end

return M
