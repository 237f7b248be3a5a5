--- The state of one run of a pipeline, and what its parts tell each other.
--
-- The committer says what was committed or lost, the control task what was claimed; the events of
-- the consumer come in through `assigned_`, `revoked` and `trouble`.

local clock = require "host.clock"
local counts = require "mill.counts"
local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local gaps = require "mill.gaps"
local idle = require "mill.idle"
local log = require "mill.log"
local progress = require "mill.progress"
local source = require "mill.source"

local M = {}

local Run = {}
Run.__index = Run

-- After a pause of this long the log is looked at before it is read on.
M.LOOK_AFTER_MS = 10000

-- How long a claim waits for its partitions' offsets.
M.MARKS_MS = 2000

-- How long lost partitions are given to be committed, or fenced.
M.LOST_BUDGET_MS = 2000

-- A loop that did not turn for this long was stopped, or starved; others may have gone on without us.
M.AWAY_MS = 2000

-- How long after that what the servers say is told with it.
M.AFTER_MS = 10000

-- How long the leaders of silent partitions are given to answer, once a second.
M.LISTEN_MS = 500

-- What the group's session lasts, where the settings do not say (host/kafka_consumer.c).
M.SESSION_MS = 10000

--- @param fields { name, id, instance, topic, cluster, partitions, outputs, consumer, store, ... }
function M.new(fields)
  local self = setmetatable(fields, Run)
  self.log = log
  self.counts = counts.new()
  self.assigned = {} -- partition -> generation, while Kafka assigns it to us
  self.claims = {} -- partition -> { epoch, seq, idle = {...} }
  self.generation = 0
  self.dirty = false
  self.looks = {} -- partition -> true: to be claimed again once what was read is committed
  self.beyond = {} -- partition -> since when its position lies beyond the end of the log
  self.remade = {} -- partition -> offset of the record that is another one now
  self.told = {} -- partition -> the last position that was given to the group
  return self
end

local function at(run, partition, offset)
  return { topic = run.topic, partition = partition, offset = offset }
end

-- ---- time -------------------------------------------------------------------------------------

--- The loop turns; says so when it did not for long.
function Run:alive()
  local now = clock.mono_ms()
  local gap = now - (self.turned or now)
  self.turned = now
  if gap < M.AWAY_MS then return end
  self.gap = { ms = gap, at = now }
  self.log.warn("this process did not run for %.1f s: it was stopped, or starved", gap / 1000)
end

--- It was busy, in a call that may take long.
function Run:busy()
  self.turned = clock.mono_ms()
end

--- For how long did it not run, a moment ago? Milliseconds, or nil.
function Run:was_away()
  local gap = self.gap
  return gap and clock.mono_ms() - gap.at < M.AFTER_MS and gap.ms or nil
end

-- ---- assignment -------------------------------------------------------------------------------

-- To a static member that comes back the broker gives what it had, also when it read another topic
-- then, and asks nobody for a new assignment. Who takes that for its own topic's claims partitions
-- that are not there. Having left the group, or timed out, the next start is a new member.
local function not_ours(run, partitions)
  for _, item in ipairs(partitions) do
    if item.topic ~= run.topic then
      if not run.consumer:leave() then
        run.consumer:close()
        run.consumer = nil
        clock.sleep(tonumber(run.kafka_conf["session.timeout.ms"]) or M.SESSION_MS)
      end
      fault.raise(fault.SERVER, "the Kafka group gives instance '%s' partitions of topic '%s', which "
        .. "it read before; it leaves the group: start it again, and it gets those of '%s'",
        run.instance, item.topic, run.topic)
    end
  end
end

--- Kafka gives us partitions: take them paused, and claim them in MySQL.
function Run:given(partitions)
  not_ours(self, partitions)
  local list = {}
  self.counts.rebalances = self.counts.rebalances + 1
  for _, item in ipairs(partitions) do
    self.generation = self.generation + 1
    self.assigned[item.partition] = self.generation
    list[#list + 1] = at(self, item.partition, 0)
  end
  local ok, message = self.consumer:assign(list)
  if not ok then fault.raise(fault.SERVER, "assignment: %s", message) end
  for _, item in ipairs(list) do self.control:claim(item.partition) end
end

--- Kafka takes partitions away. What is uncommitted is committed first, within a deadline; with
-- `lost` they are gone already: the database knows whether somebody has claimed them, and fences us
-- then.
function Run:taken(partitions, lost, budget_ms)
  failpoint.hit "revoke.before"
  local any = false
  for _, item in ipairs(partitions) do any = any or self.claims[item.partition] ~= nil end
  if any and lost then
    local names = {}
    for i, item in ipairs(partitions) do names[i] = ("%d"):format(item.partition) end
    local away = self:was_away()
    self.log.warn("lost partition%s %s: the group went on without us%s", #names == 1 and "" or "s",
      table.concat(names, ", "), away and (" while we did not run for %.1f s"):format(away / 1000) or "")
    self.control:look(partitions)
  end
  if any and not self.committer:drain(lost and M.LOST_BUDGET_MS or budget_ms) then
    self.log.warn("could not commit within %d ms of a revocation; its rows are read again by the "
      .. "next owner", lost and M.LOST_BUDGET_MS or budget_ms)
    self.committer:abandon()
  end
  failpoint.hit "revoke.committed"
  local stopped = {}
  for _, item in ipairs(partitions) do
    self.assigned[item.partition] = nil
    self.claims[item.partition] = nil
    self.beyond[item.partition], self.remade[item.partition] = nil, nil
    self.reclaim[item.partition], self.looks[item.partition] = nil, nil
    self.told[item.partition] = nil
    self.store:drop(item.partition)
    stopped[#stopped + 1] = item.partition
  end
  self:stop_reading(stopped)
  self.consumer:unassign(partitions)
  failpoint.hit "revoke.after"
end

local function lose_all(run)
  local list = {}
  for p in pairs(run.assigned) do list[#list + 1] = { topic = run.topic, partition = p } end
  if #list > 0 then run:taken(list, true, 0) end
end

--- The group takes another member for us. Either another run has our name, which the database
-- knows, or the group holds on to the member that we were before it lost sight of us: brokers fence
-- a static member so after an outage that was longer than the session timeout, and librdkafka is
-- of no use afterwards. The next heartbeat in the database tells which.
function Run:group_fenced()
  if self.unseated then return end
  self.unseated = "asked"
  self.log.warn("the group has another member of our name; asking the database whose name it is")
  lose_all(self)
  self.control.due.beat = 0
end

--- Be a member again, by a new client.
-- @param why for the log
function Run:join_again(why)
  self.log.warn("%s; joining the group again", why)
  lose_all(self) -- what the old client was still given
  self.consumer:close()
  self.consumer = self.join()
  self.unseated = nil
  if self.held then self.log.over("held", "reading again") end
  self.held = nil
end

-- Who has a partition, as its row says.
local function holder(run, row)
  if not row then return "its row is gone" end
  if not row.owner then return "a reset took it back" end
  if row.owner == run.id then return "we have claimed it again" end
  return ("instance '%s' claimed it"):format(row.instance or row.owner)
end

--- A partition was lost to another instance, as the database says.
-- @param row its row as it is now, or nil: not known
-- @param epoch of our claim
function Run:fenced(partition, row, epoch)
  local away = self:was_away()
  self.claims[partition], self.told[partition] = nil, nil
  self:stop_reading { partition }
  self.log.warn("partition %d: fenced by the database: %s (epoch %s, ours was %d)%s; what was not "
    .. "committed is dropped, and read again by its owner", partition, holder(self, row),
    row and row.epoch or "unknown", epoch,
    away and (" while we did not run for %.1f s"):format(away / 1000) or "")
  -- While Kafka still assigns it to us it is ours to claim again.
  if self.assigned[partition] then self.reclaim[partition] = clock.mono_ms() + 1000 end
end

--- Say who has the partitions that Kafka took from us.
function Run:say_owners(partitions, rows)
  for _, item in ipairs(partitions) do
    local p = item.partition
    local row = rows[p]
    if not self.assigned[p] and row and row.owner ~= self.id then
      self.log.info("partition %d: %s (epoch %d)", p, holder(self, row), row.epoch)
    end
  end
end

--- Ask again for partitions that were fenced while Kafka goes on assigning them to us.
function Run:claim_again(now)
  if self.skewed then return end
  for partition, due in pairs(self.reclaim) do
    if now >= due then
      self.reclaim[partition] = nil
      if self.assigned[partition] then self.control:claim(partition) end
    end
  end
end

-- ---- claims and gaps --------------------------------------------------------------------------

-- The reader does what it is told, or the run ends.
local function told(run, list, ok, code)
  run:busy()
  if not list then fault.raise(fault.SERVER, "%s (%s)", ok, code) end
  return list, ok
end

--- Nothing more of these partitions comes, until they are claimed again.
-- @param partitions array of numbers
function Run:stop_reading(partitions)
  if #partitions == 0 then return end
  local list = {}
  for i, p in ipairs(partitions) do list[i] = { topic = self.topic, partition = p } end
  told(self, self.reader:stop(list))
end

-- Where the store begins with a claimed partition, and from where it is to be read.
-- @param row as mill.progress.claim gives it
local function open(run, row, position, mark)
  local p, now = row.partition, clock.mono_ms()
  -- At its end since then, and nothing came: it has been silent all the time.
  local at_end = row.at_end and position == row.position and position >= mark.high
  local clockwork = idle.new(now, row.idle_ms, at_end and row.age_ms and math.max(0, row.age_ms))
  clockwork.next = position
  if run.held then idle.stop(clockwork, now, "held") end
  run.claims[p] = {
    epoch = row.epoch, seq = row.commit_seq, idle = clockwork,
    committed = row.position == position and position or nil,
  }
  run.store:open(p, position, row.watermark_ms, at_end)
  if row.last_offset and row.last_offset >= mark.low and row.last_offset < position then
    run.store:verify(p, row.last_offset, row.last_hash)
    run.claims[p].verified = row.last_offset
    return row.last_offset
  end
  return position
end

-- Let opened partitions flow, each from its offset.
local function start(run, list)
  for _, item in ipairs((told(run, run.reader:start(list)))) do
    local p = item.partition
    if item.code then
      run.claims[p] = nil
      run.store:drop(p)
      run.reclaim[p] = clock.mono_ms() + 500
    else
      local claim = run.claims[p]
      run.log.debug("claimed partition %d at offset %d, epoch %d", p, claim.idle.next, claim.epoch)
    end
  end
end

--- The database says that partitions are ours: let them flow. What goes wrong with one
-- of them concerns no other.
-- @param rows, known as mill.progress.claim gives them
-- @param current function(partition) that tells whether the assignment is still the current one
function Run:claimed(rows, known, current)
  progress.apply(self, known)
  local list, found, failed = {}, {}, false
  for p in pairs(rows) do list[#list + 1] = at(self, p) end
  table.sort(list, function(a, b) return a.partition < b.partition end)
  for _, mark in ipairs(source.bounds(self, list, M.MARKS_MS)) do
    local p = mark.partition
    if mark.code then
      failed = true
      self.log.trouble("marks", "partition %d: its offsets cannot be asked for: %s (%s)", p,
        mark.error, mark.code)
    else
      found[p] = mark
    end
  end
  if not failed then
    self.log.over("topic", "topic '%s' is there again", self.topic)
    self.log.over("marks", "offsets are answered again")
  end
  self:busy()
  -- To record a gap takes its time: see who is ours afterwards.
  local positions = {}
  for _, item in ipairs(list) do
    local p = item.partition
    positions[p] = found[p] and gaps.position(self, rows[p], found[p].low, found[p].high)
    if not positions[p] and current(p) then self.reclaim[p] = clock.mono_ms() + 1000 end
  end
  local ours = {}
  for _, item in ipairs(list) do
    local p = item.partition
    if positions[p] and current(p) then
      ours[#ours + 1] = at(self, p, open(self, rows[p], positions[p], found[p]))
    end
  end
  if #ours == 0 then return end
  start(self, ours)
  failpoint.hit "claim.reading"
end

-- ---- flow -------------------------------------------------------------------------------------

--- Stop taking what is read; the idle clocks stand.
function Run:hold(why)
  if self.held then return end
  self.held, self.held_since = why, clock.mono_ms()
  self.log.trouble("held", "paused: %s", why)
  for _, claim in pairs(self.claims) do idle.stop(claim.idle, clock.mono_ms(), "held") end
end

function Run:let_go()
  if not self.held then return end
  self.held = nil
  if clock.mono_ms() - self.held_since > M.LOOK_AFTER_MS then gaps.look_at_all(self) end
  self.log.over("held", "reading again")
  for _, claim in pairs(self.claims) do idle.go(claim.idle, clock.mono_ms(), "held") end
end

--- The wall clock, for a batch to be judged by. How far it and the monotonic clock, which nobody sets,
-- were apart is kept until the commit, which looks whether it was right.
function Run:judge_ms()
  local now = clock.wall_ms()
  local apart = now - clock.mono_ms()
  self:judged_by { least = apart, most = apart }
  return now
end

--- Rows in the store were judged by such a clock.
-- @param range { least=, most= } of wall less monotonic time
function Run:judged_by(range)
  local judged = self.judged or range
  self.judged = judged
  judged.least, judged.most = math.min(judged.least, range.least), math.max(judged.most, range.most)
end

--- Does our clock differ from the database's by more than half of max_future?
-- @param asked_ms monotonic time before the database told its `db_ms`
-- @param judged { least=, most= } of wall less monotonic time: did it then? nil: does it now?
-- @return by how much ours is ahead, or nil
function Run:clock_differs(asked_ms, db_ms, judged)
  local now = clock.mono_ms()
  local apart = clock.wall_ms() - now
  judged = judged or { least = apart, most = apart }
  -- It was told some time in between.
  local ahead, behind = judged.most - (db_ms - asked_ms), db_ms - now - judged.least
  local limit = self.outputs[1].window.max_future_ms / 2
  return ahead > limit and ahead or behind > limit and -behind or nil
end

--- Stop reading while the clocks differ: which rows are of the future is a matter of the clock.
-- @param ms what clock_differs gave
function Run:clock_skew(ms)
  if ms then
    local limit = self.outputs[1].window.max_future_ms / 2
    self.skewed = true
    self:hold("the clocks disagree")
    self.log.trouble("clock", "our clock is %.1f s %s the database's: one of them is wrong; no "
      .. "row is counted until they agree within %.1f s", math.abs(ms) / 1000,
      ms > 0 and "ahead of" or "behind", limit / 1000)
    self.control.due.clock = clock.mono_ms() + 5000
  elseif self.skewed then
    self.skewed = nil
    self.log.over("clock", "the clocks agree again")
  end
end

--- Drop what is not committed, and claim the partitions again.
function Run:read_again()
  local list = {}
  for partition in pairs(self.claims) do
    self.store:drop(partition)
    self.claims[partition] = nil
    self.reclaim[partition] = clock.mono_ms()
    list[#list + 1] = partition
  end
  self.judged = nil
  self:stop_reading(list)
end

--- Positions are in the database: let the Kafka group know, for ordinary lag tools. librdkafka sends
-- them every five seconds, between rebalances.
function Run:committed(group)
  if #group == 0 then return end
  for _, item in ipairs(group) do
    self.told[item.partition] = item
    local claim = self.claims[item.partition]
    if claim then claim.committed = item.offset end
  end
  self.consumer:store(group)
end

--- The run ends: send the last positions now.
function Run:tell_group()
  local list = {}
  for p, item in pairs(self.told) do
    if self.claims[p] then list[#list + 1] = item end
  end
  self.told = {}
  if #list > 0 then self.consumer:commit(list) end
end

-- ---- idle clocks ------------------------------------------------------------------------------

--- Rows or an end came: start the clocks of their partitions anew.
function Run:touch(now)
  for p, claim in pairs(self.claims) do
    local state = self.store:state(p)
    if state and state.next ~= claim.idle.next then
      claim.idle.next = state.next
      idle.touch(claim.idle, now)
    end
  end
end

-- Partitions of ours whose clocks run, or would if their leaders answered.
local function quiet(run, now)
  local list = {}
  for p, claim in pairs(run.claims) do
    local state = run.store:state(p)
    local silent = state and idle.silent(claim.idle, state, now)
    if claim.idle.why.deaf or silent and silent >= run.outputs[1].window.idle_ms then
      list[#list + 1] = { topic = run.topic, partition = p }
    end
  end
  return list
end

--- Kafka has answered; its trouble, if there was any, is over.
function Run:kafka_answers()
  if not self.kafka_trouble then return end
  self.kafka_trouble = nil
  self.log.over("kafka", "Kafka answers again")
end

--- Ask the leaders of silent partitions whether they are still there and have nothing more; without
-- their word a partition is not silent. Returns whether any clock runs.
function Run:listen()
  if self.until_end or self.held then return false end
  local now = clock.mono_ms()
  local list = quiet(self, now)
  if #list == 0 then return false end
  local marks, any = self.consumer:watermarks(list, M.LISTEN_MS), false
  now = clock.mono_ms()
  for i, item in ipairs(list) do
    local claim, state = self.claims[item.partition], self.store:state(item.partition)
    local mark = marks and marks[i]
    if not mark or not mark.high then
      idle.stop(claim.idle, claim.idle.heard, "deaf")
    else
      idle.go(claim.idle, now, "deaf")
      self:kafka_answers()
      claim.idle.heard = now
      if mark.high > state.next then idle.touch(claim.idle, now) end
      any = true
    end
  end
  return any
end

--- What the idle clocks have reached and the database does not know yet.
-- @return partition -> { idle_ms=, epoch=, clockwork= }
function Run:idle_due()
  local out, now = {}, clock.mono_ms()
  for p, claim in pairs(self.claims) do
    local state = self.store:state(p)
    local reached = state and idle.reached(claim.idle, state, now, self.outputs[1].window.idle_ms,
      self.newest_end_ms)
    -- What it holds is not in the database yet: windows must not be final before that.
    local known = state and not state.changed and not state.sealed
    if reached and known and reached > (claim.idle.stored or math.mininteger)
      and reached > state.watermark_ms then
      out[p] = { idle_ms = reached, epoch = claim.epoch, clockwork = claim.idle }
    end
  end
  return out
end

return M
