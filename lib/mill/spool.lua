--- The producer's spool: every message is on disk before it is sent.
--
-- A folder of its own, locked by the process that uses it. Messages have numbers that go on
-- through restarts; Kafka is told up to which number it has them (mill.ledger). Where the disk
-- takes nothing, messages wait in a small part of memory and are sent from there: they lack the
-- safety against a crash, which is said loudly. What no longer fits anywhere is counted as lost.
--
-- Kafka's position counts in our numbers only once a transaction of ours was committed: the folder
-- may be an older copy, or Kafka may have messages that were in memory only. Until then the file
-- `unclaimed` says from which number on nothing was sent, also to a later run.

local clock = require "host.clock"
local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local log = require "mill.log"
local process = require "host.process"
local spool = require "host.spool"

local M = {}

local MEMORY_MAX = 1000 -- messages the disk did not take
local SEGMENT_MAX, SEGMENT_MIN = 16 << 20, 16 << 10
local SEGMENTS = 8 -- of a full spool at least
local OVERHEAD = 64 -- of a message, at most
local RETRY_MS = 1000 -- after a failed sync

local UNITS = { [""] = 1, b = 1, kb = 1000, mb = 1000000, gb = 1000000000, tb = 1000000000000 }

--- Bytes that a text like "1GB", "256 MB" or "65536" means (powers of 1000), or nil.
function M.size(text)
  local number, unit = text:match("^(%d+%.?%d*)%s*(%a*)$")
  local factor = unit and UNITS[unit:lower()]
  return factor and math.floor(tonumber(number) * factor) or nil
end

local Spool = {}
Spool.__index = Spool

-- The number in the file `unclaimed`, or nil.
local function unclaimed(path)
  local file = io.open(path, "r")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return math.tointeger(tonumber(text))
end

local function lock(path)
  local held, message, code, pid = process.lock(path .. "/lock")
  if held then return held end
  if code == "LOCKED" then
    fault.raise(fault.RUNNING, "the spool %s is in use by process %s: another producer of this name "
      .. "runs here; stop it, or give this one another name or folder (--set name=, --set spool=)",
      path, pid and tostring(pid) or "(unknown)")
  end
  fault.raise(fault.FAILED, "the spool cannot be locked: %s", message)
end

--- Open the spool, or make one; its folder too.
-- @param options table: path (folder), limit (bytes), name (in the log)
function M.open(options)
  fault.check(fault.FAILED, "the spool", process.mkdir_p(options.path))
  local self = setmetatable({
    name = options.name, path = options.path, limit = options.limit, lock = lock(options.path),
    memory = {}, memory_first = 1, memory_last = 0, dropped = 0, lost = 0, unspooled = 0, forced = 1,
    sync_again_ms = 0, report = options.report, risk_from = 0, risk_to = 0,
  }, Spool)
  local store, message, code = spool.open {
    path = options.path, verify = not failpoint.off "spool-checksum",
    segment_bytes = math.max(SEGMENT_MIN, math.min(SEGMENT_MAX, options.limit // SEGMENTS)),
  }
  if not store then
    self.lock:close()
    fault.raise(fault.FAILED, "the spool %s cannot be opened: %s%s", options.path, message,
      code == "NOSPACE" and "; make room on its disk" or "")
  end
  self.store = store
  local stats = store:stats()
  self.id, self.new = stats.id, stats.new
  self.next, self.base = stats.next, stats.next
  self.mark_path = options.path .. "/unclaimed"
  local marked = unclaimed(self.mark_path)
  self.unclaimed, self.marked = math.min(marked or stats.next, stats.next), marked ~= nil
  self.position = math.max(stats.position, stats.first)
  self.cursor = self.position
  self:tell_losses()
  return self
end

-- ---- losses -----------------------------------------------------------------------------------

local LOSS = {
  torn = "%s: the last record was not written to its end (a crash): %d bytes at offset %d are cut off",
  damaged = "%s: %d bytes at offset %d are damaged; the file is kept as damaged-%s",
  foreign = "%s: a file of another spool, %d bytes; it is put aside",
  missing = "%s: messages are missing before offset %d",
}

local function loss_text(loss)
  if loss.kind == "missing" then return LOSS.missing:format(loss.file, loss.offset) end
  return LOSS[loss.kind]:format(loss.file, loss.bytes, loss.offset, loss.file)
end

--- Say what the store found to be lost since the last time, and count it.
function Spool:tell_losses()
  for _, loss in ipairs(self.store:losses()) do
    local text = loss_text(loss)
    if loss.from then
      local n = loss.to - loss.from + 1
      self.lost = self.lost + n
      if self.report then self.report:failed(n) end
      log.error("spool: %s; messages %d..%d (%d) are lost", text, loss.from, loss.to, n)
    else
      log.warn("spool: %s", text)
    end
  end
end

local function count_dropped(self, n)
  self.dropped = self.dropped + n
  if self.report then self.report:dropped(n) end
end

-- Those on their way to Kafka when their file was dropped; `position`: Kafka has all below.
local function settle_risk(self, position)
  local from, to = math.max(self.risk_from, position), self.risk_to
  self.risk_from, self.risk_to = 0, 0
  if from >= to then return end
  count_dropped(self, to - from)
  log.error("spool: messages %d..%d (%d) were on their way to Kafka when the full spool dropped them, "
    .. "and did not arrive", from, to - 1, to - from)
end

-- The oldest go, to let newer ones in.
local function make_room(self, need)
  local stats = self.store:stats()
  while stats.bytes + need > self.limit and stats.next > stats.first do
    local from = math.max(self.cursor, stats.first)
    local begun = math.max(self.position, stats.first)
    local first, message = self.store:drop()
    if not first then
      log.trouble(self.name .. " drop", "spool: old messages cannot be removed: %s", message)
      return
    end
    local sent = math.min(first, self.cursor)
    if sent > begun then
      self.risk_from = self.risk_to > 0 and self.risk_from or begun
      self.risk_to = sent
    end
    local n = first - from
    if n > 0 then
      self.cursor = first
      self.position = math.max(self.position, first)
      count_dropped(self, n)
      log.trouble(self.name .. " full", "the spool is full (limit %d bytes): the oldest messages "
        .. "are dropped, first %d..%d (%d)", self.limit, from, first - 1, n)
      self.full = true
    end
    stats = self.store:stats()
  end
end

-- ---- appending --------------------------------------------------------------------------------

-- On disk before the first message that it speaks of.
local function mark(self)
  if not self.unclaimed or self.marked then return true end
  local ok, message = process.atomic_write(self.mark_path, ("%d\n"):format(self.unclaimed))
  self.marked = ok
  return ok, message
end

local function write(self, m)
  failpoint.hit "spool.append"
  local ok, message = mark(self)
  if ok then
    ok, message = self.store:append(m.seq, m.topic, m.key, m.value, m.stamp_ms, m.since_us)
  end
  if not ok then
    self.unwritable = message
    log.trouble(self.name .. " disk", "the spool cannot be written: %s; messages are sent without "
      .. "it while Kafka takes them, and are lost where it does not", message)
    return false
  end
  return true
end

-- Put on disk what waits in memory only; true when nothing does any more.
local function write_back(self)
  while self.memory_first <= self.memory_last do
    if not write(self, self.memory[self.memory_first]) then return false end
    self.memory[self.memory_first] = nil
    self.memory_first = self.memory_first + 1
  end
  return true
end

--- Append a message. It is ready to be sent after the next sync.
-- @return true, or false: it is lost
function Spool:append(topic, key, value, stamp_ms, since_us)
  local m = {
    seq = self.next, topic = topic, key = key, value = value, stamp_ms = stamp_ms,
    since_us = since_us,
  }
  make_room(self, #topic + #key + #value + OVERHEAD)
  if write_back(self) and write(self, m) then
    self.next = m.seq + 1
    if self.unwritable then
      self.unwritable = nil
      log.over(self.name .. " disk", "the spool can be written again")
    end
    return true
  end
  if self.memory_last - self.memory_first + 1 >= MEMORY_MAX then
    self.lost = self.lost + 1
    if self.report then self.report:failed(1) end
    return false
  end
  self.next = m.seq + 1
  self.unspooled = self.unspooled + 1
  self.memory_last = self.memory_last + 1
  self.memory[self.memory_last] = m
  return true
end

--- The end is near: put on disk what waits in memory only, if there is room by now.
function Spool:save()
  write_back(self)
end

-- ---- syncing ----------------------------------------------------------------------------------

local function take_sync(self, state, message_or_us)
  if state == "done" then
    if self.report then self.report:synced(message_or_us / 1e6) end
    if self.unsynced then
      self.unsynced = nil
      log.over(self.name .. " sync", "the spool is synced again")
    end
    failpoint.hit "spool.sync"
  elseif state == nil then
    -- Nobody knows what is on disk; the system still has it, so it is sent.
    self.unsynced = message_or_us
    self.forced = self.store:stats().next
    self.sync_again_ms = clock.mono_ms() + RETRY_MS
    log.trouble(self.name .. " sync", "the spool cannot be synced: %s; messages are sent without "
      .. "that, and may be lost if the machine fails before Kafka has them", message_or_us)
  end
  return state
end

--- Wait up to `wait_ms` for a sync under way. Returns true while one is.
function Spool:wait(wait_ms)
  return take_sync(self, self.store:wait(wait_ms)) == "working"
end

--- Begin to sync what was appended, unless that goes on already.
function Spool:sync()
  if self:wait(0) or clock.mono_ms() < self.sync_again_ms then return end
  local ok, message = self.store:sync()
  if not ok then take_sync(self, nil, message) end
end

-- ---- sending ----------------------------------------------------------------------------------

--- The number below which messages may be sent.
function Spool:ready()
  return math.max(self.store:synced(), self.forced)
end

--- Is there a message to read?
function Spool:has_more()
  local ready, next_ = self:ready(), self.store:stats().next
  if self.cursor < math.min(ready, next_) then return true end
  local last = self.memory[self.memory_last]
  return last ~= nil and last.seq >= self.cursor and ready >= next_
end

--- The next messages, at most `max`: an array of tables seq, topic, key, value, stamp_ms, since_us.
function Spool:read(max)
  local list, next_ = self.store:read(self.cursor, self:ready(), max)
  if not list then
    log.trouble(self.name .. " read", "the spool cannot be read: %s", next_)
    return {}
  end
  log.over(self.name .. " read", "the spool can be read again")
  self:tell_losses()
  self.cursor = math.max(self.cursor, next_)
  local first = self.memory[self.memory_first]
  local disk = self.store:stats().next -- those in memory come after all that is on disk
  if first and #list < max and self.cursor >= disk and self:ready() >= disk then
    for i = self.memory_first, self.memory_last do
      local m = self.memory[i]
      if #list >= max then break end
      if m.seq >= self.cursor then
        list[#list + 1] = m
        self.cursor = m.seq + 1
      end
    end
  end
  if list[1] then self.oldest_ms = list[1].stamp_ms end
  return list
end

-- Messages below `next_` are in Kafka, or given up.
local function settle(self, next_)
  settle_risk(self, next_)
  if next_ <= self.position then return end
  self.position = next_
  self.cursor = math.max(self.cursor, next_)
  local ok, message = self.store:acknowledge(next_)
  if ok then
    log.over(self.name .. " position", "the spool's position can be kept again")
  else
    log.trouble(self.name .. " position", "the spool's position cannot be kept: %s", message)
  end
  while self.memory_first <= self.memory_last and self.memory[self.memory_first].seq < next_ do
    self.memory[self.memory_first] = nil
    self.memory_first = self.memory_first + 1
  end
  self.oldest_ms = nil
  if self.full and self.store:stats().bytes < self.limit // 2 then
    self.full = false
    log.over(self.name .. " full", "the spool has room again; %d messages were dropped", self.dropped)
  end
end

-- What was appended before any transaction of ours was committed is surely not in Kafka: where that
-- knows of more, it does not speak of these messages.
local function believed(self, position)
  local known = self.unclaimed or self.next
  if position <= known then return position end
  log.error("spool: Kafka has messages up to %d, this spool had only up to %d: an older copy was "
    .. "put back, or the last ones were never on disk? It goes on with those that came since",
    position - 1, known - 1)
  return known
end

--- Begin where Kafka says. Messages below the position are not sent again.
-- @param position integer, or nil: Kafka has none, and it begins behind what was acknowledged, as
--   far as this is known here
-- @param own integer or nil: what Kafka said of this spool before it knew another one
function Spool:start(position, own)
  local first, told = self.store:stats().first, self.store:stats().position
  if position then
    position = believed(self, position)
    if position < told then
      log.error("spool: Kafka had acknowledged the messages below %d and now knows of those below %d "
        .. "only: it lost some, or a copy of this spool was used elsewhere. Those since are sent again",
        told, position)
    end
    if position < first then
      log.error("spool: messages %d..%d (%d) are no longer here and were not acknowledged", position,
        first - 1, first - position)
    end
  end
  settle_risk(self, position or 0)
  position = position or math.max(told, own and believed(self, own) or 0)
  self.position, self.cursor = 0, math.max(position, first)
  settle(self, self.cursor)
end

--- Read again from the first message that was not acknowledged.
function Spool:rewind()
  settle_risk(self, 0)
  self.cursor = self.position
end

-- From now on Kafka's position counts in our numbers.
local function claimed(self)
  self.unclaimed = nil
  if not self.marked then return end
  -- Durable where there is room; removed, it is gone at least for all but a failure of the machine.
  local ok, message = process.atomic_write(self.mark_path, "")
  if os.remove(self.mark_path) then ok = true end
  if ok then
    self.marked = false
    log.over(self.name .. " mark", "the spool's file 'unclaimed' is removed")
  else
    log.trouble(self.name .. " mark", "the spool's file 'unclaimed' cannot be removed: %s; messages "
      .. "may be sent twice after a crash", message)
  end
end

--- A transaction was committed: Kafka has all messages below `next_`, and its position with it.
-- What was appended before the first one of a run is sent only after that.
function Spool:acknowledge(next_)
  claimed(self)
  settle(self, next_)
end

--- Messages that Kafka has not acknowledged.
function Spool:waiting()
  return self.next - self.position
end

-- The time of the oldest message that waits, or nil.
local function oldest(self)
  if self:waiting() <= 0 then return nil end
  if not self.oldest_ms then
    local list = self.store:read(self.position, self.store:stats().next, 1)
    local first = list and list[1] or self.memory[self.memory_first]
    self.oldest_ms = first and first.stamp_ms
  end
  return self.oldest_ms
end

--- What a summary tells of it.
function Spool:summary()
  local stats, ms = self.store:stats(), oldest(self)
  return {
    path = self.path, bytes = stats.bytes, limit = self.limit, segments = stats.segments,
    waiting = self:waiting(), position = self.position, dropped = self.dropped, lost = self.lost,
    unspooled = self.unspooled, memory = self.memory_last - self.memory_first + 1,
    oldest_s = ms and math.max(0, clock.wall_ms() - ms) / 1000 or 0,
  }
end

--- Why it is not well: an array of texts.
function Spool:reasons()
  local out, bytes = {}, self.store:stats().bytes
  if self.unwritable then out[#out + 1] = "the spool cannot be written: " .. self.unwritable end
  if self.unsynced then out[#out + 1] = "the spool cannot be synced: " .. self.unsynced end
  if self.full then
    out[#out + 1] = ("the spool is full: %d messages were dropped"):format(self.dropped)
  elseif bytes > self.limit // 2 then
    out[#out + 1] = ("the spool is filling: %d %% of its limit"):format(bytes * 100 // self.limit)
  end
  return out
end

function Spool:close()
  self.store:close()
  self.lock:close()
end

return M
