--- The second connection: claims, finality, heartbeats, idle clocks, the clock check.
--
-- Jobs run one after the other in a task. Claims come first. While the database is away they wait
-- and are tried again.

local backoff = require "mill.backoff"
local clock = require "host.clock"
local fault = require "mill.fault"
local instance = require "mill.instance"
local progress = require "mill.progress"
local session_ = require "mill.session"

local M = {}

local Control = {}
Control.__index = Control

M.HEARTBEAT_MS = 2000
M.TICK_MS = 1000
M.CLOCK_MS = 60000
-- Wall and monotonic time that part by more than this from one look to the next show a clock set.
M.PART_MS = 200

local AGAIN = setmetatable({ DUPLICATE = true }, { __index = session_.AGAIN })

--- @param run the run
-- @param session mill.session for everything but commits
function M.new(run, session)
  return setmetatable({
    run = run, session = session, claims = {}, due = {}, retry_at = 0,
    backoff = backoff.new { base_ms = 50, cap_ms = 3000 },
  }, Control)
end

--- Ask for a claim of an assigned partition. All that wait are claimed together.
function Control:claim(partition)
  for _, waiting in ipairs(self.claims) do
    if waiting == partition then return end
  end
  table.insert(self.claims, partition)
end

--- Ask for who has partitions that were lost.
function Control:look(partitions)
  self.lost = partitions
end

function Control:look_job(partitions)
  local rows, message, code = progress.read(self.session, self.run)
  if not rows then
    self:look(partitions)
    return nil, message, code
  end
  self.run:say_owners(partitions, rows)
  return true
end

function Control:claim_job(partitions)
  local run, generations = self.run, {}
  for _, partition in ipairs(partitions) do generations[partition] = run.assigned[partition] end
  local function current(partition)
    local generation = generations[partition]
    return generation ~= nil and run.assigned[partition] == generation and not self.gives_way
  end
  local rows, known, code = progress.claim(self.session, run, partitions, current)
  if rows and next(rows) and not self.gives_way then run:claimed(rows, known, current) end
  if self.gives_way or AGAIN[code] or session_.AWAY[code] then
    for _, partition in ipairs(partitions) do self:claim(partition) end
  end
  if rows then return true end
  return nil, known, code
end

-- Has one of our clocks been set? Wall and monotonic time then part.
local function clock_was_set(self)
  local apart = clock.wall_ms() - clock.mono_ms()
  local before = self.apart or apart
  self.apart = apart
  return math.abs(apart - before) > M.PART_MS
end

-- Compare our clock with the database's.
function Control:clock_job()
  local asked = clock.mono_ms()
  local result, message, code = self.session:query(
    "select timestampdiff(microsecond, '1970-01-01', utc_timestamp(3)) div 1000")
  if not result then return nil, message, code end
  self.run:clock_skew(self.run:clock_differs(asked, result.rows[1][1]))
  return true
end

function Control:finalise_job()
  self.run.dirty = false
  local done, message, code = progress.finalise(self.session, self.run)
  if done == nil then
    self.run.dirty = true
    return nil, message, code
  end
  return true
end

function Control:beat_job()
  local unseated = self.run.unseated
  local alive, message, code = instance.beat(self.session, self.run)
  if alive == nil then
    if unseated then self.due.beat = 0 end
    return nil, message, code
  end
  if not alive then
    fault.raise(fault.RUNNING, "pipeline '%s' instance '%s' was taken over by another run",
      self.run.name, self.run.instance)
  end
  -- The loop joins again: a task may be in the middle of the consumer's business.
  if unseated then self.run.unseated = "ours" end
  return true
end

function Control:idle_job()
  local run = self.run
  if not run:listen() then return true end
  local due = run:idle_due()
  local ok, message, code = progress.store_idle(self.session, run, due)
  if not ok then return nil, message, code end
  for _, item in pairs(due) do
    item.clockwork.stored = item.idle_ms
    run.dirty = true
  end
  return true
end

-- The next job that is due, or nil.
function Control:next_job()
  local now = clock.mono_ms()
  local function every(name, period)
    if now < (self.due[name] or 0) then return false end
    self.due[name] = now + period
    return true
  end
  -- Before the claims, which may have to wait for locks again and again.
  if every("beat", M.HEARTBEAT_MS) then return function() return self:beat_job() end end
  -- Before the first claim, so that no row is judged by a clock that nobody looked at.
  if clock_was_set(self) then self.due.clock = 0 end
  if every("clock", M.CLOCK_MS) then return function() return self:clock_job() end end
  if self.lost then
    local partitions = self.lost
    self.lost = nil
    return function() return self:look_job(partitions) end
  end
  if #self.claims > 0 then
    local partitions = self.claims
    self.claims, self.claiming = {}, partitions
    return function() return self:claim_job(partitions) end
  end
  if every("idle", M.TICK_MS) then return function() return self:idle_job() end end
  if self.run.wants_newest and every("newest", M.TICK_MS) then
    return function() return self.run.wants_newest(self.session) end
  end
  if self.run.dirty and every("dirty", 100) or every("final", M.TICK_MS) then
    return function() return self:finalise_job() end
  end
end

function Control:finish(ok, done, message, code)
  self.task, self.claiming = nil, nil
  self.run:alive()
  if not ok then error(done, 0) end
  if done then
    -- A job may have had nothing to ask.
    if self.session.answers > self.answers_before then
      self.backoff:reset()
      self.run.log.over("control", "the database answers claims and heartbeats again")
    end
    return
  end
  if session_.AWAY[code] or AGAIN[code] then
    if code == "GONE" and self.run:was_away() and self.gap ~= self.run.gap then
      self.gap = self.run.gap -- ended by the server meanwhile, as it should be
    elseif session_.AWAY[code] then
      self.run.log.trouble("control", "the database is away for claims and heartbeats: %s", message)
    end
    self.session:rollback()
    self.retry_at = clock.mono_ms() + self.backoff:next()
    return
  end
  fault.raise(fault.SERVER, "%s", message)
end

-- Begin the next job, if one is due. Returns whether there is one.
function Control:begin()
  if clock.mono_ms() < self.retry_at then return false end
  local job = self:next_job()
  if not job then return false end
  self.answers_before, self.gives_way = self.session.answers, false
  self.task = coroutine.create(job)
  return true
end

-- Go on with the job under way.
function Control:go_on()
  local task = self.task
  local ok, done, message, code = coroutine.resume(task)
  if not ok then done = fault.traced(done, task) end
  if not ok or coroutine.status(task) == "dead" then self:finish(ok, done, message, code) end
end

--- Go on with the job under way, and begin those that are due, until one waits for the database;
-- returns at once. None is left to the next turn of the loop, which may sleep before.
function Control:step()
  while self.task or self:begin() do
    self:go_on()
    if self.task then return end
  end
end

--- Go on with the job under way while all is being committed: it may hold the locks that a commit
-- waits for. No other is begun, and a claim reads nothing: it is asked for again.
function Control:give_way()
  if not self.task then return end
  self.gives_way = true
  self:go_on()
end

--- What to wait for: { fd=, events= }, or nil.
function Control:waits()
  return self.task and self.session:waits() or nil
end

--- Run the job under way to its end, so that the session can be used directly.
function Control:finish_job(budget_ms)
  local process = require "host.process"
  local deadline = clock.mono_ms() + budget_ms
  while self.task and clock.mono_ms() < deadline do
    self:go_on()
    local waits = self:waits()
    if self.task and waits then process.wait_fds({ waits }, 20) end
  end
  if self.task then
    self.task = nil
    self.session:close()
    for _, partition in ipairs(self.claiming or {}) do self:claim(partition) end
    self.claiming = nil
  end
end

return M
