-- Claims, commits, losses and finality of a run, against a private MariaDB. Rows are put into the
-- store by hand, so that every order of events can be tried; the consumer only writes down.

local clock = require "host.clock"
local gaps = require "mill.gaps"
local hand = require "spec.support.hand_run"
local instance = require "mill.instance"
local mill = require "mill"
local progress = require "mill.progress"
local reset = require "mill.reset"
local run_ = require "mill.run"
local runner = require "mill.runner"

local add, commit, ends, give, half = hand.add, hand.commit, hand.ends, hand.give, hand.half
local until_, START = hand.until_, hand.START

describe("a run", function()
  local world = hand.world()

  -- We may get no time for a while: nobody is to take that for being stopped.
  local away_ms = run_.AWAY_MS

  setup(function()
    world:open()
    run_.AWAY_MS = math.huge
  end)

  teardown(function()
    world:close()
    run_.AWAY_MS = away_ms
  end)

  before_each(function() world:fresh() end)

  after_each(function() world:clear() end)

  local function rows(sql)
    return world:rows(sql)
  end

  local function new_run(id, partitions, high)
    return world:run(id, partitions, high)
  end

  it("keeps the rows of a partition that is lost while they are committed", function()
    local run = new_run("a", 2)
    give(run, 0, 1)
    add(run, { 0, 0, "5" }, { 1, 0, "7" })
    half(run)
    run:taken({ { topic = "t", partition = 0 } }, true, 1000)
    commit(run)
    assert.same({ { "12.00000000", 2 } }, rows "select price_sum, samples from moving_averages")
    assert.same({ { 1 }, { 1 } }, rows "select position from mill_progress order by `partition`")
    -- What comes now belongs to another owner.
    add(run, { 0, 1, "100" }, { 1, 1, "1" })
    commit(run)
    assert.same({ { "13.00000000", 3 } }, rows "select price_sum, samples from moving_averages")
  end)

  -- Break the connection of a commit that waits for its results.
  local function broken(run)
    -- It waits for this lock, however quick the server is and however slow we are.
    assert(world.db:query "start transaction")
    assert(world.db:query "select * from mill_progress for update")
    assert(run.committer:start())
    run.committer:step()
    assert(world.db:query("kill " .. run.committer.session.db:thread_id()))
    until_(function() return run.committer:away() end, run)
    assert(world.db:query "rollback")
  end

  it("counts the rows of a commit when it is done, not while it may fail", function()
    local run = new_run("a", 1)
    give(run, 0)
    add(run, { 0, 0, "5" })
    half(run)
    until_(function() return (run.written or 0) > 0 end, run)
    assert.equal(run.counts.commits, run.counts.rows)
    commit(run)
    assert.equal(1, run.counts.rows)
    add(run, { 0, 1, "5" })
    broken(run)
    assert.equal(1, run.counts.rows)
    until_(function() return run.counts.commits == 2 or run.committer:start() end, run)
    commit(run)
    assert.equal(2, run.counts.rows)
  end)

  it("does not take the database for away when nothing is left to commit", function()
    local run = new_run("a", 1)
    give(run, 0)
    add(run, { 0, 0, "5" })
    broken(run)
    assert.is_true(mill.log.in_trouble "mysql")
    run:taken({ { topic = "t", partition = 0 } }, true, 1000)
    until_(function()
      run.committer:start()
      return not run.committer:away()
    end, run)
    assert.is_false(mill.log.in_trouble "mysql")
  end)

  it("takes being fenced for an answer", function()
    local run = new_run("a", 1)
    give(run, 0)
    add(run, { 0, 0, "5" })
    broken(run)
    local claim = run.claims[0]
    assert(world.db:query "update mill_progress set epoch = epoch + 1, owner = 'other'")
    until_(function()
      run.committer:start()
      return run.claims[0] ~= claim
    end, run)
    assert.is_nil(run.committer:away())
  end)

  it("says which partitions the group took from it, not which it gave up", function()
    local run = new_run("a", 3)
    give(run, 0, 1, 2)
    local said = {}
    run.log = setmetatable({ warn = function(fmt, ...) said[#said + 1] = fmt:format(...) end },
      { __index = mill.log })
    run:taken({ { topic = "t", partition = 0 } }, false, 1000)
    assert.same({}, said)
    run:taken({ { topic = "t", partition = 1 }, { topic = "t", partition = 2 } }, true, 1000)
    assert.equal(1, #said)
    assert.matches("^lost partitions 1, 2: ", said[1])
  end)

  it("counts once what it claims anew while its commit is under way", function()
    local run = new_run("a", 1)
    give(run, 0)
    add(run, { 0, 0, "5" })
    half(run)
    run:taken({ { topic = "t", partition = 0 } }, true, 1000)
    run.consumer.high = 1
    run:given({ { topic = "t", partition = 0 } })
    until_(function() return run.claims[0] and not run.committer:busy() end, run)
    assert.equal(1, run.store:state(0).next)
    add(run, { 0, 1, "1" })
    commit(run)
    assert.same({ { "6.00000000", 2 } }, rows "select price_sum, samples from moving_averages")
  end)

  it("goes on with the others when one partition of a commit was claimed by another run", function()
    local a, b = new_run("a", 2), new_run("b", 2)
    give(a, 0, 1)
    add(a, { 0, 0, "5" }, { 1, 0, "7" })
    give(b, 0)
    a.assigned[0] = nil
    commit(a)
    commit(a)
    assert.same({ { "7.00000000", 1 } }, rows "select price_sum, samples from moving_averages")
    add(b, { 0, 0, "5" })
    commit(b)
    assert.same({ { "12.00000000", 2 } }, rows "select price_sum, samples from moving_averages")
  end)

  local function final()
    return rows [[select cast(start_time as char(19)), is_final from moving_averages
      order by start_time]]
  end

  it("lets no silent partition hold back the windows of the others", function()
    local run = new_run("a", 2, 1)
    give(run, 0, 1)
    add(run, { 0, 0, "1", 59900 }, { 1, 0, "1", 59900 })
    ends(run, { 0, 1 }, { 1, 1 })
    commit(run)
    -- Partition 1 is silent from here on; partition 0 goes on.
    add(run, { 0, 1, "1", 60100 }, { 0, 2, "1", 120200 })
    ends(run, { 0, 3 })
    run.claims[1].idle.since = run.claims[1].idle.since - 60200
    commit(run)
    until_(function() return #rows("select 1 from moving_averages where is_final = 1") == 2 end, run)
    assert.same({ { "2024-08-08 23:54:00", 1 }, { "2024-08-08 23:55:00", 1 },
      { "2024-08-08 23:56:00", 0 } }, final())
  end)

  it("stops the idle clock while the leader does not answer, and until its rows came", function()
    local run = new_run("a", 1, 1)
    give(run, 0)
    add(run, { 0, 0, "1", 59900 })
    ends(run, { 0, 1 })
    commit(run)
    run.consumer.away = true
    local past = clock.mono_ms() + 1500
    until_(function() return clock.mono_ms() > past end, run)
    assert.same({ { "2024-08-08 23:54:00", 0 } }, final())
    run.consumer.away, run.consumer.high = false, 5
    past = clock.mono_ms() + 1500
    until_(function() return clock.mono_ms() > past end, run)
    assert.same({ { "2024-08-08 23:54:00", 0 } }, final())
    run.consumer.high = 1
    until_(function() return final()[1][2] == 1 end, run)
  end)

  it("stores what an idle clock has reached also when the database failed first", function()
    local run = new_run("a", 1, 1)
    give(run, 0)
    add(run, { 0, 0, "1", 59900 })
    ends(run, { 0, 1 })
    commit(run)
    local store_idle, failures = progress.store_idle, 0
    progress.store_idle = function(session, r, idle)
      if next(idle) and failures == 0 then
        failures = 1
        return nil, "away", "GONE"
      end
      return store_idle(session, r, idle)
    end
    finally(function() progress.store_idle = store_idle end)
    until_(function() return failures == 1 end, run)
    until_(function() return final()[1][2] == 1 end, run)
  end)

  it("counts the silence of a partition that nobody held", function()
    local a = new_run("a", 1, 1)
    give(a, 0)
    add(a, { 0, 0, "1", 1000 })
    ends(a, { 0, 1 })
    commit(a)
    rows("update mill_progress set updated_at = current_timestamp(3) - interval 1 hour")
    local b = new_run("b", 1, 1)
    give(b, 0)
    until_(function() return final()[1][2] == 1 end, b)
  end)

  it("keeps to the floors of a reset that came while it ran", function()
    local a = new_run("a", 1)
    give(a, 0)
    add(a, { 0, 0, "5" }, { 0, 1, "7", 60000 })
    commit(a)
    -- What a reset to the second window does.
    rows(("update mill_progress set position = 0, owner = null, epoch = epoch + 1"))
    rows("delete from moving_averages where start_time >= '2024-08-08 23:55:00'")
    rows(("update mill_pipelines set cut_ms = %d"):format(START + 60000))
    a.consumer.high = 3
    add(a, { 0, 2, "1", 60000 })
    commit(a)
    until_(function() return a.claims[0] ~= nil end, a)
    add(a, { 0, 0, "5" }, { 0, 1, "7", 60000 }, { 0, 2, "1", 60000 })
    commit(a)
    assert.same({ { "5.00000000", 1 }, { "8.00000000", 2 } },
      rows "select price_sum, samples from moving_averages order by start_time")
    assert.same({ { "before-cut", 0 } }, rows "select reason, `offset` from mill_late")
  end)

  it("stops when another run accepted a change of the script", function()
    local a = new_run("a", 1)
    give(a, 0)
    rows("update mill_pipelines set fingerprint = 'new'")
    rows("update mill_progress set owner = null, epoch = epoch + 1")
    add(a, { 0, 0, "5" })
    a.consumer.high = 1
    commit(a)
    assert.error_matches(function() until_(function() return a.claims[0] ~= nil end, a) end,
      "not this script's any more")
    assert.same({}, rows "select 1 from moving_averages")
  end)

  it("records no gap for a partition that was claimed by another run meanwhile", function()
    local a, b = new_run("a", 1), new_run("b", 1)
    a.on_gap = "skip"
    give(a, 0)
    give(b, 0)
    a.claims[0] = nil
    local row = progress.read(a.control.session, a)[0]
    row.epoch = row.epoch - 1
    a.consumer.watermarks = function() return { { partition = 0, low = 7, high = 9 } } end
    a:claimed({ [0] = row }, progress.pipelines(a.control.session, a), function() return true end)
    assert.is_nil(a.claims[0])
    assert.same({ { 0 } }, rows "select position from mill_progress")
    assert.same({}, rows "select 1 from mill_gaps")
  end)

  it("takes up a claim again that was broken off", function()
    local run = new_run("a", 1)
    rows("start transaction")
    rows("select * from mill_progress for update")
    run:given({ { topic = "t", partition = 0 } })
    until_(function() return run.control.claiming end, run)
    run.control:step()
    run.control:finish_job(50)
    rows("rollback")
    until_(function() return run.claims[0] end, run)
  end)

  it("registers also while another run registers and commits", function()
    local a = new_run("a", 2)
    rows("start transaction")
    rows("update mill_progress set at_end = 1 where `partition` = 1")
    local task = coroutine.create(function()
      return progress.register(a.control.session, a, { [0] = 0, [1] = 0 })
    end)
    assert(coroutine.resume(task))
    clock.sleep(100)
    -- The other one wants what register holds: one of the two is the victim of the deadlock.
    local result, _, code = world.db:query "select * from mill_pipelines for update"
    assert.is_true(result ~= nil or code == "DEADLOCK")
    world.db:query "rollback"
    local ok, done, message
    local deadline = clock.mono_ms() + 5000
    repeat
      ok, done, message = coroutine.resume(task)
      assert(ok, done)
      clock.sleep(2)
    until coroutine.status(task) == "dead" or clock.mono_ms() > deadline
    assert.is_true(done, message)
  end)

  it("lets one of two runs in that start at once under one name", function()
    local a, b = new_run("a", 1), new_run("b", 1)
    rows("delete from mill_instances")
    a.instance, b.instance = "same", "same"
    local function task(run)
      return coroutine.create(function()
        return pcall(instance.enter, run.control.session, run)
      end)
    end
    local tasks, results = { task(a), task(b) }, {}
    local deadline = clock.mono_ms() + 8000
    repeat
      for i, co in ipairs(tasks) do
        if coroutine.status(co) ~= "dead" then
          local _, ok, err = coroutine.resume(co)
          if coroutine.status(co) == "dead" then results[#results + 1] = { i, ok, tostring(err) } end
        end
      end
    until #results == 2 or clock.mono_ms() > deadline
    assert.equal(1, (results[1][2] and 1 or 0) + (results[2][2] and 1 or 0))
    local refused = results[1][2] and results[2] or results[1]
    assert.matches("already running", refused[3])
    local winner = results[1][2] and results[1][1] or results[2][1]
    assert.same({ { winner == 1 and "a" or "b" } }, rows "select run_id from mill_instances")
  end)

  it("commits nothing while its clock differs from the database's, and reads it again", function()
    finally(function() clock.set_wall(nil) end)
    local run = new_run("a", 1, 1)
    give(run, 0)
    clock.set_wall(clock.wall_ms() + 1000 * 3600)
    add(run, { 0, 0, "5" })
    assert.is_true(run.committer:start())
    until_(function() return run.skewed and not run.committer:busy() end, run)
    assert.equal("the clocks disagree", run.held)
    assert.same({}, rows "select 1 from moving_averages")
    assert.is_nil(run.claims[0])
    clock.set_wall(nil)
    until_(function() return not run.skewed end, run)
    run:let_go()
    until_(function() return run.claims[0] end, run)
    assert.equal(0, run.store:state(0).next)
    add(run, { 0, 0, "5" })
    commit(run)
    assert.same({ { "5.00000000" } }, rows "select price_sum from moving_averages")
  end)

  -- What a wrong clock has judged is read again, and nothing of it committed.
  local function read_again(run)
    until_(function() return not run.committer:busy() and run.claims[0] end, run)
    assert.is_nil(run.skewed)
    assert.equal(0, run.store:state(0).next)
    assert.same({ { 0 } }, rows "select position from mill_progress")
    add(run, { 0, 0, "5" })
    commit(run)
    assert.same({ { "5.00000000" } }, rows "select price_sum from moving_averages")
  end

  it("reads again what was judged by a clock that was set right while the commit waited", function()
    finally(function() clock.set_wall(nil) end)
    local run = new_run("a", 1, 1)
    give(run, 0)
    clock.set_wall(clock.wall_ms() - 2 * 1000 * 3600)
    add(run, { 0, 0, "5" })
    rows("start transaction")
    rows("select * from mill_progress for update")
    assert.is_true(run.committer:start())
    run.committer:step()
    clock.set_wall(nil)
    rows("rollback")
    read_again(run)
  end)

  it("knows in a commit that is tried again by which clock its rows were judged", function()
    finally(function() clock.set_wall(nil) end)
    local run = new_run("a", 1, 1)
    give(run, 0)
    clock.set_wall(clock.wall_ms() + 2 * 1000 * 3600)
    add(run, { 0, 0, "5" })
    clock.set_wall(nil)
    broken(run)
    add(run, { 0, 1, "5" })
    until_(function() return run.committer:start() end, run)
    read_again(run)
  end)

  it("looks at the clocks before its first claim, and when its own was set", function()
    finally(function() clock.set_wall(nil) end)
    clock.set_wall(clock.wall_ms() - 1000 * 3600)
    local run = new_run("a", 1)
    run:given({ { topic = "t", partition = 0 } })
    until_(function() return run.skewed end, run)
    assert.is_nil(run.claims[0])
    clock.set_wall(nil)
    until_(function() return not run.skewed end, run)
    clock.set_wall(clock.wall_ms() + 2 * 1000 * 3600)
    until_(function() return run.skewed end, run)
  end)

  it("polls on without reading while a commit hangs with a full buffer", function()
    local run = new_run("a", 1)
    give(run, 0)
    run.max_rows = 1
    add(run, { 0, 0, "1" })
    rows("start transaction")
    rows("select * from mill_progress for update")
    run.committer:start()
    add(run, { 0, 1, "1" })
    local now = clock.mono_ms()
    runner.flow(run, now)
    assert.is_nil(run.held)
    runner.flow(run, now + 6000)
    assert.matches("buffer is full", run.held)
    rows("rollback")
    until_(function() return not run.committer:busy() end, run)
    commit(run)
    runner.flow(run, now + 7000)
    assert.is_nil(run.held)
  end)

  it("lets a dead letter be replayed again whose result a reset has deleted", function()
    local run = new_run("a", 1)
    rows([[insert into mill_dead_letters (pipeline, kind, code, reason, replayed_at)
      values ('p', 'message', 'x', 'x', now()), ('other', 'message', 'x', 'x', now())]])
    run.consumer.offsets_for_time = function() return { { partition = 0, offset = 0 } } end
    reset.run(run.control.session, run, "2024-08-08T23:55:00Z", "spec")
    assert.same({ { "p", 1 }, { "other", 0 } },
      rows "select pipeline, replayed_at is null from mill_dead_letters order by id")
  end)

  it("has lost its log when another run begins a new one, and does not read it anew", function()
    local a, b = new_run("a", 1), new_run("b", 1)
    give(a, 0)
    add(a, { 0, 0, "5" })
    b.cluster = "d"
    reset.cut(b.control.session, b, "2024-08-08T23:54:00Z")
    commit(a)
    assert.same({}, rows "select * from moving_averages")
    assert.same({}, rows "select * from mill_progress")
    a:given({ { topic = "t", partition = 0 } })
    -- Not yet registered: nothing says that there is another log.
    rows [[insert into mill_progress (pipeline, cluster_id, topic, `partition`, position) values
      ('p', 'd', 't', 0, 0)]]
    assert.error_matches(function()
      until_(function() return a.claims[0] end, a)
    end, "topic 't' of Kafka cluster d now, no longer that of cluster c")
    assert.same({ { "d" } }, rows "select cluster_id from mill_progress")
  end)

  it("has lost its positions in every topic when another script goes back", function()
    local a, b = new_run("a", 1), new_run("b", 1)
    give(a, 0)
    add(a, { 0, 0, "5" })
    b.topic = "t2"
    assert(progress.register(b.control.session, b, { [0] = 0 }))
    b.consumer.offsets_for_time = function() return { { partition = 0, offset = 0 } } end
    reset.run(b.control.session, b, "2024-08-08T23:54:00Z", "spec")
    commit(a)
    assert.same({}, rows "select * from moving_averages")
  end)

  it("keeps what the tables have of offsets that come a second time", function()
    local beyond = gaps.BEYOND_MS
    gaps.BEYOND_MS = 0
    finally(function() gaps.BEYOND_MS = beyond end)
    for n, offset in ipairs { 2, 5 } do
      rows(([[insert into mill_dead_letters (pipeline, kind, code, reason, cluster_id, topic,
        `partition`, `offset`) values ('p', 'message', 'x', 'x', 'c', 't', 0, %d)]]):format(offset))
      rows(([[insert into mill_late (pipeline, result_table, reason, cluster_id, topic, `partition`,
        `offset`, row_key, time_ms, window_start_ms, window_end_ms, payload_length) values
        ('p', 'moving_averages', 'too-late', 'c', 't', 0, %d, 'A', 0, 0, 60000, %d)]])
        :format(offset, n))
    end
    local run = new_run("a", 1, 3) -- the log ends at 3 now
    run.on_gap = "skip"
    rows "update mill_progress set position = 8"
    give(run, 0)
    assert.same({ { 3 } }, rows "select position from mill_progress")
    local id = rows("select id from mill_gaps")[1][1]
    for _, name in ipairs { "mill_dead_letters", "mill_late" } do
      assert.same({ { 2, "c" }, { 5, "c/gap-" .. id } },
        rows("select `offset`, cluster_id from " .. name .. " order by 1"))
    end
  end)

  it("keeps nobody waiting for long when it is frozen within a claim", function()
    local a, b = new_run("a", 1), new_run("b", 1)
    local looks = 0
    local task = coroutine.create(function()
      return progress.claim(a.control.session, a, { 0 }, function()
        looks = looks + 1
        if looks == 2 then coroutine.yield("frozen") end -- it has the lock
        return true
      end)
    end)
    local ok, said
    repeat ok, said = coroutine.resume(task) until not ok or said == "frozen"
    assert(ok, said)
    b:given({ { topic = "t", partition = 0 } })
    until_(function() return b.claims[0] end, b)
    assert.same({ { "b" } }, rows "select owner from mill_progress")
    repeat said = select(2, coroutine.resume(task)) until coroutine.status(task) == "dead"
    assert.is_nil(said)
    assert.same({ { "b" } }, rows "select owner from mill_progress")
  end)

  it("reads again what it holds below a floor that a purge has raised", function()
    local run = new_run("a", 1)
    give(run, 0)
    add(run, { 0, 0, "5" }, { 0, 1, "7", 60000 })
    rows(("update mill_pipelines set purged_ms = %d"):format(START + 60000))
    run.consumer.high = 2
    run.committer:start()
    until_(function() return not run.committer:busy() and run.claims[0] end, run)
    assert.equal(0, run.store:state(0).next)
    add(run, { 0, 0, "5" }, { 0, 1, "7", 60000 })
    commit(run)
    assert.same({ { "7.00000000" } }, rows "select price_sum from moving_averages")
    assert.same({ { "purged", 0 } }, rows "select reason, `offset` from mill_late")
  end)

  it("reads it again also when a claim has seen the floor before the commit", function()
    local run = new_run("a", 2)
    give(run, 0)
    add(run, { 0, 0, "5" })
    rows(("update mill_pipelines set purged_ms = %d"):format(START + 60000))
    give(run, 1)
    commit(run)
    until_(function() return run.claims[0] and run.claims[1] end, run)
    assert.same({ { 0 }, { 0 } }, rows "select position from mill_progress")
    add(run, { 0, 0, "5" })
    commit(run)
    assert.same({}, rows "select 1 from moving_averages")
    assert.same({ { "purged", 0 } }, rows "select reason, `offset` from mill_late")
  end)

  -- Step the control task until it waits for the rows that it locks.
  local function locking(run)
    local session, sent = run.control.session, false
    function session:start(statements, ...)
      sent = sent or statements[1]:find("for update", 1, true) ~= nil
      return getmetatable(self).start(self, statements, ...)
    end
    until_(function()
      if not sent then run.control:step() end
      return sent
    end)
    assert(run.control.task)
  end

  -- How long a revocation takes, against how long one that waits for a lock would.
  local function revoke(run, p)
    assert(run.committer.session:query "set innodb_lock_wait_timeout = 40")
    local began = clock.mono_ms()
    run:taken({ { topic = "t", partition = p } }, false, 60000)
    assert.is_true(clock.mono_ms() - began < 20000)
  end

  it("does not wait in a revocation for locks of its own finality", function()
    local run = new_run("a", 1)
    give(run, 0)
    run.control.next_job = function() end -- finality comes after the commit
    add(run, { 0, 0, "5" })
    commit(run)
    add(run, { 0, 1, "7", 120000 })
    run.control.next_job = nil
    locking(run)
    revoke(run, 0)
    assert.same({ { 2 } }, rows "select position from mill_progress")
  end)

  it("lets no claim read on while a revocation commits, and claims again", function()
    local run = new_run("a", 2)
    give(run, 0)
    add(run, { 0, 0, "5" })
    run:given({ { topic = "t", partition = 1 } })
    locking(run)
    revoke(run, 0)
    assert.is_nil(run.claims[1])
    assert.same({ { 1 }, { 0 } }, rows "select position from mill_progress order by `partition`")
    until_(function() return run.claims[1] end, run)
    assert.is_nil(run.claims[0])
  end)
end)
