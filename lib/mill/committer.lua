--- Drives commits: one at a time, in a task, while the other buffer fills.
--
-- Waiting cures some failures (a server away, a deadlock), a look at the tables settles an unknown
-- outcome, everything else stops the run. Nothing is lost in any of them: what was not committed is
-- merged back into the filling buffer.

local clock = require "host.clock"
local commit = require "mill.commit"
local failpoint = require "mill.failpoint"
local fault = require "mill.fault"
local process = require "host.process"
local retry = require "mill.backoff"
local session = require "mill.session"

local M = {}

local Committer = {}
Committer.__index = Committer

--- Rows of one transaction, if there are several partitions to choose from: locks are short.
M.ROWS_AT_ONCE = 50000

--- Far behind the end of the log, reading goes on this many times as long as the next commits are
-- expected to take: a row that many messages are merged into is written once. Otherwise the same rows
-- would be written again and again, by a server that takes the processor from the reading.
M.MERGE_FACTOR = 2
--- But no longer than this.
M.MERGE_MS = 10000
--- So few rows are written at once: the time of a topic's messages may be wrong for good.
M.FEW_ROWS = 1000
--- Newest rows this old (by Kafka's time) are far behind.
M.FAR_MS = 2000

-- Rows a millisecond, until a commit has told.
local FIRST_RATE <const> = 20
-- Commits of fewer rows tell nothing: the answers take longer than the rows.
local TELLING_ROWS <const> = 2000

local AGAIN = session.AGAIN

--- @param run the run
-- @param data session for commits
function M.new(run, data)
  return setmetatable({
    run = run, session = data, backoff = retry.new { base_ms = 50, cap_ms = 5000 },
    retry_at = 0, last_ms = clock.mono_ms(), rate = FIRST_RATE, round = 0,
  }, Committer)
end

--- Is a commit under way, or its outcome unknown?
function Committer:busy()
  return self.task ~= nil or self.unresolved ~= nil
end

--- Is it time to commit? Near the end of the log as soon as possible. While catching up, when
-- commit_every has passed or the deltas have reached their limit; far behind not before enough is
-- merged. What was there when the first of several transactions began is written without a pause.
-- @param near whether the end of the log is near
-- @param now monotonic ms
-- @param max_rows, max_bytes the limits
function Committer:due(near, now, max_rows, max_bytes)
  if self:busy() then return false end
  local store, rows, bytes = self.run.store, self.run.store:size()
  if rows >= max_rows or bytes >= max_bytes then return true end
  -- However old what it reads is, as in an import.
  if near and now - self.last_ms >= self.run.commit_every_ms then return true end
  local wait = rows > M.FEW_ROWS and math.min(rows / self.rate * M.MERGE_FACTOR, M.MERGE_MS) or 0
  if now - self.last_ms >= wait or store:behind(clock.wall_ms()) < M.FAR_MS then
    return near or self.more or now - self.last_ms >= self.run.commit_every_ms
  end
  return self.more and self.round > 0
end

--- Rows and bytes of a commit that is being tried again: they may come back into the filling buffer,
-- which must have room for them.
function Committer:tried_again()
  if not self.again or not self:busy() then return 0, 0 end
  return self.rows, self.bytes
end

--- Is the database away? nil, or since when (monotonic ms).
function Committer:away()
  return self.away_since
end

--- Seal and begin a commit, if there is something to commit and the time has come.
-- @return true when one was begun
function Committer:start()
  if self:busy() or clock.mono_ms() < self.retry_at then return false end
  local rows, bytes = self.run.store:size()
  local sealed = self.run.store:seal(M.ROWS_AT_ONCE)
  local rows_left, bytes_left = self.run.store:size()
  self.more, self.rows, self.bytes = rows_left > 0, rows - rows_left, bytes - bytes_left
  if self.round <= 0 then self.round = rows end
  self.round = self.round - self.rows
  if #sealed == 0 then
    self.round = 0
    self.again = false
    -- What could not be committed was lost with its partitions: no commit will find out.
    if self.away_since and self.run.control.session.answers > self.answers_then then self:answered() end
    return false
  end
  -- A partition may be lost and claimed anew before the outcome is known; the outcome is about
  -- the claim it was sealed under.
  for _, item in ipairs(sealed) do item.claim = self.run.claims[item.partition] end
  -- Of all that is in the store: this commit judges also for those that wait for the next.
  sealed.judged, self.run.judged = self.run.judged, nil
  self.sealed, self.began_ms = sealed, clock.mono_ms()
  self.task = coroutine.create(function() return commit.run(self.session, self.run, sealed) end)
  return true
end

-- What was not committed comes back into the filling buffer.
function Committer:unseal()
  local judged = self.sealed.judged
  if judged then self.run:judged_by(judged) end
  self.run.store:unseal()
end

local function hint(err)
  if err.code == "DENIED" then return "grant the user SELECT, INSERT, UPDATE and DELETE" end
  if err.code == "NOTABLE" or err.code == "NOCOLUMN" then
    return "the table changed while running; `tidemill check SCRIPT --connect` says how"
  end
  return "the transaction was rolled back and nothing is lost; mend the cause and start again"
end

-- The database has answered.
function Committer:answered()
  self.backoff:reset()
  if not self.away_since then return end
  self.away_since = nil
  self.run.log.over("mysql", "database is back")
end

-- A commit that looks at every row of the partitions whose results did not fit has been made, or
-- they were lost.
local function looked_at(run, sealed)
  if not run.careful then return end
  for _, item in ipairs(sealed) do run.careful[item.partition] = nil end
  for p, claim in pairs(run.careful) do
    if run.claims[p] ~= claim then run.careful[p] = nil end
  end
  if next(run.careful) == nil then run.careful = nil end
end

function Committer:settled()
  local run = self.run
  local now, group = clock.wall_ms(), {}
  for _, item in ipairs(self.sealed) do
    item.claim.seq = item.claim.seq + 1
    if run.claims[item.partition] == item.claim then
      group[#group + 1] = { topic = run.topic, partition = item.partition, offset = item.position }
    end
    run.counts:commit(item, now)
  end
  run.counts.commits = run.counts.commits + 1
  run.counts.rows = run.counts.rows + run.written
  run.store:settle()
  looked_at(run, self.sealed)
  self.again = false
  run.dirty = true
  self.last_ms = clock.mono_ms()
  run.counts:committing(self.began_ms, self.last_ms)
  if self.rows >= TELLING_ROWS then
    self.rate = self.rows / math.max(1, self.last_ms - self.began_ms)
  end
  self:answered()
  run:committed(group)
  failpoint.hit "commit.settled"
end

function Committer:failed(err)
  local run = self.run
  self.again = true
  if err.code == "RANGE" and not run.careful then
    self:unseal()
    -- Others may have their turn first.
    run.careful = {}
    for _, item in ipairs(self.sealed) do run.careful[item.partition] = item.claim end
  elseif AGAIN[err.code] then
    self:unseal()
    run.counts.retries = run.counts.retries + 1
    self.retry_at = clock.mono_ms() + math.random(1, 20)
  elseif err.code == "GONE" and run:was_away() and self.gap ~= run.gap then
    -- Once for each time we were away: the next failure is one of the database.
    self.gap = run.gap
    run.log.warn("the database has ended our transaction meanwhile: %s", err.message)
    if err.unknown then self.unresolved = self.sealed else self:unseal() end
  elseif session.AWAY[err.code] then
    self.away_since = self.away_since or clock.mono_ms()
    self.answers_then = run.control.session.answers
    run.log.trouble("mysql", "database is away, will try again: %s", err.message)
    if err.unknown then self.unresolved = self.sealed else self:unseal() end
    self.retry_at = clock.mono_ms() + self.backoff:next()
  else
    self:unseal()
    fault.raise(fault.SERVER, "commit: %s\n  statement: %s\n  %s", err.message,
      tostring(err.sql):sub(1, 300), hint(err))
  end
end

function Committer:fenced(items)
  local run = self.run
  self:answered()
  for _, item in ipairs(items) do
    -- Not when we lost it ourselves, or have claimed it again since.
    if run.claims[item.partition] == item.claim then
      run.store:drop(item.partition)
      run:fenced(item.partition, item.row, item.claim.epoch)
    end
  end
  self:unseal()
end

-- Which rows are of the future was judged by a clock that may be wrong: read them again.
function Committer:skewed(ms)
  if ms then
    self.run:clock_skew(ms)
  else
    self.run.log.warn("our clock was set: it differed from the database's when rows were judged by it; "
      .. "they are read again")
  end
  self:unseal()
  self.run:read_again()
end

-- A purge has raised a floor: windows it deleted must not come to life again with a part of their
-- rows. Read again, they go to mill_late.
function Committer:purged()
  self:unseal()
  self.run:read_again()
end

-- The outcome of a COMMIT whose answer never came.
function Committer:resolved(outcome, err)
  if outcome == "committed" then
    self.unresolved = nil
    self:settled()
  elseif outcome then
    -- Not committed, or not ours any more; the next compare-and-set tells which.
    self.unresolved = nil
    self:answered()
    self:unseal()
  elseif session.AWAY[err.code] or AGAIN[err.code] then
    self.retry_at = clock.mono_ms() + self.backoff:next()
  else
    fault.raise(fault.SERVER, "commit: cannot find out what became of it: %s", err.message)
  end
end

function Committer:finish(ok, outcome, detail)
  local resolving = self.resolving
  self.task, self.resolving = nil, nil
  self.run:alive()
  if not ok then error(outcome, 0) end
  if resolving then return self:resolved(outcome, detail) end
  if outcome == "committed" then return self:settled() end
  if outcome == "fenced" then return self:fenced(detail) end
  if outcome == "purged" then return self:purged() end
  if outcome == "skewed" then return self:skewed(detail) end
  return self:failed(detail)
end

-- One of the sealed partitions that tells what became of all: best one nobody else can have claimed.
local function still_ours(run, sealed)
  for _, item in ipairs(sealed) do
    if run.claims[item.partition] == item.claim then return item end
  end
  return sealed[1]
end

--- Go on with what is under way; returns at once.
function Committer:step()
  if not self.task and self.unresolved and clock.mono_ms() >= self.retry_at then
    local item = still_ours(self.run, self.unresolved)
    self.resolving = true
    self.task = coroutine.create(function()
      local outcome, message, code = commit.resolve(self.session, self.run, item)
      return outcome, { message = message, code = code }
    end)
  end
  local task = self.task
  if not task then return end
  local ok, outcome, detail = coroutine.resume(task)
  if not ok then outcome = fault.traced(outcome, task) end
  if not ok or coroutine.status(task) == "dead" then self:finish(ok, outcome, detail) end
end

--- What to wait for: { fd=, events= }, or nil.
function Committer:waits()
  return self.task and self.session:waits() or nil
end

--- Commit all there is, waiting for at most `budget_ms`. What the control session is about goes on: the
-- commit may wait for its locks.
-- @return true when nothing is left uncommitted
function Committer:drain(budget_ms)
  local deadline, control = clock.mono_ms() + budget_ms, self.run.control
  repeat
    self:step()
    if not self:busy() and clock.mono_ms() >= self.retry_at and not self:start() then
      return true
    end
    self:step()
    control:give_way()
    local fds = { self:waits() }
    fds[#fds + 1] = control:waits()
    process.wait_fds(fds, math.max(1, math.min(deadline - clock.mono_ms(), 20)))
    self.run:alive()
  until clock.mono_ms() >= deadline or process.stop_requested() > 1
  return false
end

--- Give up what is under way: its outcome is unknown until it is resolved.
function Committer:abandon()
  if not self.task then return end
  self.session:close()
  if self.resolving then
    self.resolving = nil
  else
    self.unresolved, self.again = self.sealed, true
  end
  self.task = nil
end

return M
