--- Runs a pipeline: one loop that polls, decodes, counts, and commits.
--
--   POLL -> DECODE -> WINDOW (deltas) -> SINK (one MySQL transaction)
--
-- No Lua runs per message unless the script has `where` or `map`. Commits and claims are tasks that
-- the loop steps while it goes on polling.

local attach = require "mill.attach"
local batch = require "host.batch"
local clock = require "host.clock"
local committer = require "mill.committer"
local config = require "mill.config"
local control = require "mill.control"
local dealt = require "mill.dealt"
local digest = require "host.digest"
local fault = require "mill.fault"
local gaps = require "mill.gaps"
local instance = require "mill.instance"
local log = require "mill.log"
local policy = require "mill.policy"
local process = require "host.process"
local progress = require "mill.progress"
local register = require "mill.register"
local report = require "mill.report"
local run_ = require "mill.run"
local session_ = require "mill.session"
local setup = require "mill.setup"
local source = require "mill.source"
local starting = require "mill.starting"

local M = {}

-- Near the end of the log also when nothing has come for this long: records of open transactions
-- look like more to come.
M.QUIET_MS = 50
-- Batches counted before the loop looks at anything else.
M.BATCHES = 4
M.WAIT_MS = 100
M.REVOKE_BUDGET_MS = 5000
M.CLOSE_BUDGET_MS = 30000
M.SETTLE_BUDGET_MS = 10000
-- Whether the end is reached is asked again this long after the database gave no answer.
M.AWAY_CHECK_MS = 5000
-- With the database away this long, reading stops; the group is kept by polling on.
M.HOLD_AFTER_MS = 1000
-- So does it with a full buffer and no answer for this long: a commit may hang without an error, on
-- a lock.
M.FULL_AFTER_MS = 5000
-- And with answers that lead to no commit for this long: one that meets a lock again and again.
M.STUCK_AFTER_MS = 30000
M.MAX_BYTES = 32 << 20
-- A run that is to end by itself waits this long at most for the group to give it partitions.
M.JOIN_MS = 15000
-- A line of progress is drawn this often.
M.LINE_MS = 250

local function handle_event(run, event)
  if event.type == "assign" then
    run:given(event.partitions)
  elseif event.type == "revoke" or event.type == "lost" then
    run:taken(event.partitions, event.type == "lost", M.REVOKE_BUDGET_MS)
  elseif event.type == "error" then
    policy.kafka_error(run, event)
  elseif event.type == "log" then
    log.debug("librdkafka %s: %s", event.facility, event.text)
  end
end

-- Returns whether there were any.
local function handle_events(run)
  local any = false
  for _, from in ipairs { run.consumer, run.reader } do
    for _, event in ipairs(from:events()) do
      any = true
      handle_event(run, event)
    end
  end
  return any
end

-- Poll the group, which hands over no records.
local function attend(run)
  run.consumer:poll(run.nothing, 1, 0)
  run.polls = run.polls + 1
  if run.polls == 1 then run.startup_ms = process.uptime_ms() end
end

-- Take a batch and count it. Returns the number of messages.
local function take(run)
  local n = run.reader:poll(run.batch, 0)
  if n == 0 and #run.batch:ends() == 0 then return 0 end
  if n > 0 then run:kafka_answers() end
  if n > 0 and not run.first_message_ms then run.first_message_ms = process.uptime_ms() end
  if run.functions then run.functions(run.batch) end
  local counted, dead, late, too_late, dropped, skipped, stale =
    run.store:add(run.batch, run:judge_ms())
  run.counts.polled = run.counts.polled + n - stale
  policy.bad_rows(run, counted + too_late + dropped + skipped, dead, late)
  run:touch(clock.mono_ms())
  if stale > 0 then gaps.look_at_log(run) end
  return n
end

-- Sleep until something can be done: a message, an answer of the database, or `ms` are over.
local function wait(run, ms, reads)
  local fds = { { fd = run.consumer:fd(), events = "r" } }
  if reads then fds[2] = { fd = run.reader:fd(), events = "r" } end
  local a, b = run.committer:waits(), run.control:waits()
  if b then fds[#fds + 1] = b end
  if run.attach then fds[#fds + 1] = run.attach:waits() end
  local at, deadline = #fds + 1, a and clock.mono_ms() + ms
  repeat
    fds[at] = a
    local ready, n = process.wait_fds(fds, ms)
    -- A commit's answers come one by one. A turn of the loop for each would only find that nothing
    -- else has changed.
    local alone = a and n == 1 and ready[a.fd]
    if alone then
      run.committer:step()
      a = run.committer:waits()
    end
  until not alone or not a or clock.mono_ms() >= deadline
  run.consumer:drain_fd()
end

-- Is the end of the log near: has all been taken that the brokers told of?
local function near_the_end(run, polled, now)
  return not run.reader:behind() or polled == 0 and now - run.came_ms >= M.QUIET_MS
end

local function full(run)
  local rows, bytes = run.store:size()
  local more_rows, more_bytes = run.committer:tried_again()
  return rows + more_rows >= run.max_rows or bytes + more_bytes >= M.MAX_BYTES
end
M.full = full -- for specs

-- Backpressure: reading stops while the database is away or slow, or the clocks disagree. The group
-- is polled on, so that it does not think us dead and its rebalances are answered.
local function flow(run, now)
  local away = run.committer:away()
  local answers = run.committer.session.answers
  if not full(run) then
    run.full_since, run.full_from = nil, nil
  elseif not run.full_since or answers ~= run.full_answers then
    run.full_since, run.full_answers = now, answers
    run.full_from = run.full_from or now
  end
  local stuck = run.full_since
    and now - math.max(run.full_from, run.committer.last_ms) > M.STUCK_AFTER_MS
  if run.skewed then
    run:hold("the clocks disagree")
  elseif away and now - away > M.HOLD_AFTER_MS and full(run) then
    run:hold("the database is away and the buffer is full")
  elseif stuck or run.full_since and now - run.full_since > M.FULL_AFTER_MS then
    run:hold("the buffer is full and the database does not take it")
  elseif run.held and not away and not run.full_since then
    run:let_go()
  end
end
M.flow = flow -- for specs

-- How long there is nothing to do but wait.
local function until_commit(run, now)
  if run.committer:waits() then return 20 end
  if now - run.came_ms < M.QUIET_MS then return M.QUIET_MS - (now - run.came_ms) end
  return M.WAIT_MS
end

-- One turn of the loop; returns how many messages came.
local function turn(run)
  if run.unseated == "ours" then
    run:join_again("the name is ours: it was our own membership that had timed out")
    run:busy()
  end
  run:alive()
  handle_events(run)
  local commits = run.counts.commits
  run.committer:step()
  run.control:step()
  local now = clock.mono_ms()
  flow(run, now)
  gaps.step(run)
  run:claim_again(now)
  dealt.step(run, now)
  attend(run)
  local polled, reads = 0, false
  for _ = 1, M.BATCHES do
    reads = not run.held and not full(run)
    local n = reads and take(run) or 0
    if n == 0 then break end
    polled = polled + n
  end
  now = clock.mono_ms()
  if polled > 0 then run.came_ms = now end
  if run.committer:due(near_the_end(run, polled, now), now, run.max_rows, M.MAX_BYTES) then
    run.committer:start()
  end
  run.committer:step()
  -- Not to be slept over: a rebalance that came with the poll, and what follows a commit.
  local more = handle_events(run) or run.counts.commits > commits
  run.control:step()
  if polled == 0 and not more then wait(run, until_commit(run, now), reads) end
  return polled
end

M.turn = turn -- for specs

-- Positions that lay beyond the end of the log at the start are a gap, not an end: wait for the
-- claim, which names it.
local function beyond_the_end(run, now)
  for p, position in pairs(run.ahead) do
    if run.claims[p] then
      run.ahead[p] = nil
    elseif now - run.began_ms > gaps.BEYOND_MS + M.CLOSE_BUDGET_MS then
      fault.raise(fault.POLICY, "topic '%s' partition %d: our position %d lies beyond its end %d, and "
        .. "no instance has claimed it", run.topic, p, position, run.ends[p])
    end
  end
  return next(run.ahead) ~= nil
end

-- Have the partitions that Kafka gives us been claimed? A claim looks whether the log is still ours,
-- also where nothing is left to read. Instances beyond the number of partitions may be given none.
local function looked(run, now)
  if run.counts.rebalances == 0 then return now - run.began_ms > M.JOIN_MS end
  for p in pairs(run.assigned) do
    if not run.claims[p] then return false end
  end
  return true
end

-- Have all partitions reached the end they had at the start, whoever owns them?
local function at_the_end(run, now)
  if now < (run.end_check or 0) then return false end
  if next(run.remade) or next(run.looks) or not looked(run, now) then return false end
  local passed = true -- are all our ends committed, whatever has come since?
  for p, claim in pairs(run.claims) do
    local state = run.store:state(p)
    -- A partition that the topic got since has no end to be reached.
    local end_ = run.ends[p] or 0
    local past = (claim.committed or 0) >= end_
    passed = passed and past
    if state and (state.verifying or state.next < end_ or state.changed and not past) then
      return false
    end
  end
  -- A control job may wait for what the commit under way holds.
  if run.committer:busy() and (not passed or run.control.task) then return false end
  run.end_check = now + 50
  if beyond_the_end(run, now) then return false end
  run.control:finish_job(1000)
  local rows = progress.read(run.control.session, run)
  if not rows then
    -- That may have taken its time, and will again: the loop is to turn meanwhile.
    run:busy()
    run.end_check = clock.mono_ms() + M.AWAY_CHECK_MS
    return false
  end
  for p, end_ in pairs(run.ends) do
    local row = rows[p]
    if not row or row.position < end_ then return false end
    -- Without a row it takes no part in finality, but only once its end is known to the table.
    if not row.watermark_ms and not row.at_end then return false end
  end
  return true
end

M.at_the_end = at_the_end -- for specs

local function finished(run, ctx)
  if process.stop_requested() > 0 then return true end
  local now = clock.mono_ms()
  if ctx.for_ms and now - run.began_ms >= ctx.for_ms then return true end
  return ctx.until_end and at_the_end(run, now)
end

-- Mark what is final, once more where the server has ended the transaction.
local function settle(run, session)
  local deadline
  while true do
    local ok, message, code = progress.finalise(session, run)
    if ok ~= nil then return end
    deadline = deadline or clock.mono_ms() + M.SETTLE_BUDGET_MS
    local again = session_.AWAY[code] or session_.AGAIN[code]
    if not again or clock.mono_ms() >= deadline then
      log.warn("finality could not be brought up to date: %s", message)
      return
    end
    clock.sleep(50)
  end
end
M.settle = settle -- for specs

-- Commit what is left, mark what is final, leave. Returns whether all was committed.
local function finish(run, ctx)
  run.reader:finish()
  local clean = run.committer:drain(M.CLOSE_BUDGET_MS)
  run:tell_group()
  run.control:finish_job(2000)
  local control_session = run.control.session
  if clean then settle(run, control_session) end
  run.summary = report.summary(run, ctx, control_session)
  instance.leave(control_session, run)
  if ctx.until_end or ctx.leave then
    local left, message = run.consumer:leave()
    if not left then
      run.log.warn("the group was not left: %s; others get our partitions when our session ends", message)
    end
  end
  return clean
end

-- After a failure: free the instance's name, if the database can be reached at all.
local function give_up(run)
  run.control.task = nil -- it may be what failed; its statement may still be under way
  run.control.session:close()
  pcall(instance.leave, run.control.session, run)
end

local function close(run)
  if run.committer then run.committer.session:close() end
  if run.control then run.control.session:close() end
  if run.reader then run.reader:finish() end
  if run.consumer then run.consumer:close() end
  if run.reader then run.reader:close() end
  if run.http then run.http:close() end
  if run.attach then run.attach:close() end
end

-- On a terminal, for a run that is to end by itself; else nil.
local function progress_line(run)
  if not run.ends or not process.isatty(2) then return nil end
  return log.line(require("mill.output").progress { label = run.name, unit = "messages" })
end

-- How far to the ends that our partitions had at the start. Returns false while there is nothing to tell.
local function come(run, line)
  local at, total = 0, 0
  for p in pairs(run.claims) do
    local state, begin, end_ = run.store:state(p), run.begins[p] or 0, run.ends[p] or 0
    if state and end_ > begin then
      at, total = at + math.max(0, math.min(state.next, end_) - begin), total + end_ - begin
    end
  end
  if total == 0 then return false end
  line.total = total
  line:set(at)
  return true
end

local function loop(run, ctx)
  run.began_ms = clock.mono_ms()
  local next_report, next_line = 0, 0
  local line <close> = progress_line(run)
  repeat
    turn(run)
    if run.attach then run.attach:serve() end
    local now = clock.mono_ms()
    if now >= next_report then
      next_report = now + 1000
      report.tick(run, ctx)
    end
    if line and now >= next_line and come(run, line) then next_line = now + M.LINE_MS end
  until finished(run, ctx)
end

-- A session on a database that has our tables. At the start of everything it may still be on its
-- way up: with `wait_ms` it is asked again for so long; `meanwhile` is called when that begins.
local function first_session(run, options, wait_ms, meanwhile)
  local deadline, said = clock.mono_ms() + (wait_ms or 0), false
  while true do
    local session
    local ok, err = xpcall(function()
      session = setup.session(options)
      setup.tables(run, session)
    end, fault.traced)
    if ok then return session end
    if session then session:close() end
    local later = fault.is(err) and err.status == fault.SERVER and clock.mono_ms() < deadline
    if not later or process.stop_requested() > 0 then error(err, 0) end
    if not said then
      log.info("waiting for the database and its tables")
      meanwhile()
    end
    said = true
    clock.sleep(20)
  end
end

local function open(pipeline, ctx)
  local run = run_.new {
    name = pipeline.name, id = digest.random_hex(16), topic = pipeline.source.topic,
    group = pipeline.source.group or pipeline.name,
    start = pipeline.source.start, outputs = pipeline.outputs, until_end = ctx.until_end,
    on_gap = ctx.on_gap or "stop", reclaim = {}, polls = 0, came_ms = 0,
    instance = ctx.instance or config.get("instance") or process.hostname(),
    commit_every_ms = pipeline.outputs[1].sink.commit_every_ms,
    max_rows = pipeline.outputs[1].sink.max_rows, max_bad = pipeline.max_bad,
  }
  log.name(pipeline.name)
  local brokers, conf = pipeline.source.brokers or config.kafka(), source.conf(pipeline.source)
  run.brokers, run.kafka_conf = brokers, conf
  local options = setup.database(pipeline)
  function run.join() return source.consumer(run, pipeline.source, brokers, conf) end
  local function join() run.consumer = run.consumer or run.join() end
  local ok, err = xpcall(function()
    -- While there is no database the group is joined already. Otherwise our name comes first: Kafka
    -- would fence the run that has it, also if we are refused a moment later.
    local control_session = first_session(run, options, ctx.wait_ms, join)
    run.control = control.new(run, control_session)
    instance.enter(control_session, run)
    run.entered = true
    join()
    run.reader = source.reader(pipeline.source, brokers, conf)
    local topic = source.describe(brokers, conf, run.topic)
    run.cluster, run.partitions, run.admin = topic.cluster, topic.partitions, topic.admin
    setup.stages(run, pipeline)
    register.register(control_session, run, ctx)
    run.committer = committer.new(run, setup.session(options))
    run.batch, run.nothing = batch.new(), batch.new()
    run.reader:decode(run.decoder)
    if ctx.until_end then
      run.ends, run.begins, run.ahead = {}, {}, {}
      for p, mark in pairs(source.marks(run.consumer, run.topic, run.partitions)) do
        run.ends[p] = mark.high
      end
      local rows = fault.check(fault.SERVER, "progress", progress.read(control_session, run))
      for p, row in pairs(rows) do
        run.begins[p] = row.position
        if row.position > (run.ends[p] or row.position) then run.ahead[p] = row.position end
      end
    end
    report.open(run)
    run.attach = attach.open(run.name .. "@" .. run.instance, {
      status = function() return report.status(run) end,
      partitions = function() return report.partitions(run) end,
    })
  end, fault.traced)
  if not ok then
    if run.entered then give_up(run) end
    close(run)
    error(err, 0)
  end
  return run
end

--- Run a pipeline until its end, a signal or a failure.
-- @param pipeline from mill.pipeline
-- @param ctx { for_ms=, until_end=, instance=, on_gap=, accept_change=, new_log=, from=, leave=,
--   wait_ms= (for the database at the start) }
-- @return summary table (of one that a signal stopped while it started: pipeline, stopped), exit
--   status
function M.run(pipeline, ctx)
  process.graceful(true)
  local run, stopped = starting.call(open, pipeline, ctx)
  if not run then return { pipeline = pipeline.name, stopped = stopped }, 0 end
  log.info("pipeline '%s' reads topic '%s' (%d partitions) into %s as instance '%s'", run.name,
    run.topic, run.partitions, setup.table_names(run), run.instance)
  local clean
  local ok, err = xpcall(function()
    loop(run, ctx)
    clean = finish(run, ctx)
  end, fault.traced)
  if not ok then give_up(run) end
  close(run)
  -- A signal that came has been answered; in the raising mode it would now raise.
  if process.stop_requested() == 0 then process.graceful(false) end
  if not ok then error(err, 0) end
  if not clean then
    log.warn("not everything could be committed; the rest is read again at the next start")
  end
  return run.summary, clean and 0 or fault.SERVER
end

return M
