-- The loop of a run: when it may sleep. Against a private MariaDB; the consumer is a table.

local batch = require "host.batch"
local clock = require "host.clock"
local failpoint = require "mill.failpoint"
local hand = require "spec.support.hand_run"
local mariadb = require "spec.support.mariadb"
local migrate = require "mill.migrate"
local mill = require "mill"
local mysql = require "host.mysql"
local process = require "host.process"
local runner = require "mill.runner"

describe("the loop of a run", function()
  local db, run, waits, counts, wait_fds

  setup(function() mill.log.level("error") end)
  teardown(function() mill.log.level("info") end)

  before_each(function()
    local server = mariadb.start()
    local name, options = server.fresh_database()
    db = assert(mysql.connect(options))
    migrate.apply(db)
    run = hand.new(options, server.url_of(name), "a", 2)
    run.batch, run.nothing = batch.new(), batch.new()
    run.polls, run.came_ms = 0, 0
    for _, client in ipairs { run.consumer, run.reader } do
      function client:events()
        local events = self.given or {}
        self.given = nil
        return events
      end
      function client:poll()
        if self.on_poll then self.on_poll() end
        return 0
      end
      client.fd = function() return run.control.session:open():fd() end
      client.drain_fd = function() end
    end
    wait_fds, waits, counts = process.wait_fds, 0, function() return false end
    process.wait_fds = function(...)
      if counts() then waits = waits + 1 end
      return wait_fds(...)
    end
  end)

  after_each(function()
    process.wait_fds = wait_fds
    run.batch:close()
    run.nothing:close()
    run.committer.session:close()
    run.control.session:close()
    db:close()
  end)

  -- Turn until `done`; how often it has slept since then.
  local function turn_until(done)
    local deadline = clock.mono_ms() + 30000
    waits, counts = 0, done
    repeat
      assert(clock.mono_ms() < deadline, "not in time")
      runner.turn(run)
    until done()
    return waits
  end

  it("does not sleep over a rebalance that came with a poll", function()
    function run.consumer.on_poll()
      run.consumer.given, run.consumer.on_poll = { { type = "assign", partitions = {
        { topic = "t", partition = 0 }, { topic = "t", partition = 1 } } } }, nil
    end
    assert.equal(0, turn_until(function() return run.assigned[0] end))
    turn_until(function() return run.claims[0] and run.claims[1] end)
  end)

  it("does not sleep when a commit is done", function()
    hand.give(run, 0, 1)
    hand.add(run, { 0, 0, "5" })
    assert.equal(0, turn_until(function() return run.counts.commits == 1 end))
  end)

  it("counts nothing by a wrong clock, nor once it is right again", function()
    finally(function() clock.set_wall(nil) end)
    local real, read, from = clock.wall_ms(), run.reader, nil
    run.max_bad = 1
    function read.start(_, list)
      from = list[1].offset
      return list, true
    end
    function read.stop(_, list)
      from = nil
      return list, true
    end
    function read.poll(_, into)
      if from ~= 0 then return 0 end
      from = 1
      if run.counts.polled == 0 then clock.set_wall(real - 2 * 1000 * 3600) end
      into:add { partition = 0, offset = 0, stamp_ms = 1, value =
        ('{"symbol":"A","price":"5","timestamp":%d}'):format(real) }
      run.decoder:decode(into)
      return 1
    end
    hand.give(run, 0)
    run.consumer.high = 1
    run.committer.retry_at = math.maxinteger -- no commit sees the wrong clock
    turn_until(function() return run.counts.polled == 1 and run.skewed end)
    clock.set_wall(nil)
    turn_until(function() return not run.skewed end)
    run.batch:close()
    run.batch = batch.new() -- a reader would have emptied it
    run.committer.retry_at = 0
    turn_until(function() return run.counts.commits == 1 end)
    assert.same({ { 1 } }, db:query("select position from mill_progress where `partition` = 0").rows)
    assert.same({}, db:query("select * from mill_dead_letters").rows)
    assert.same({ { "5.00000000" } }, db:query("select price_sum from moving_averages").rows)
  end)

  it("is at the end once that is committed, though more comes without a pause", function()
    hand.give(run, 0, 1)
    run.ends, run.ahead = { [0] = 1, [1] = 1 }, {}
    hand.add(run, { 0, 0, "5" }, { 1, 0, "7" })
    assert.is_false(runner.at_the_end(run, clock.mono_ms()))
    hand.commit(run)
    run.control:finish_job(30000)
    run.control.next_job = function() end
    hand.add(run, { 0, 1, "5" })
    run.committer:start()
    hand.add(run, { 1, 1, "7" })
    assert.is_true(run.committer:busy())
    run.control.task = {} -- it may wait for what this commit holds
    assert.is_false(runner.at_the_end(run, clock.mono_ms() + 1000))
    run.control.task = nil
    assert.is_true(runner.at_the_end(run, clock.mono_ms() + 1000))
  end)

  it("is at the end too with a partition that an earlier run has read to its end", function()
    assert(db:query("update mill_progress set position = 1, at_end = 1 where `partition` = 1"))
    run.consumer.high = 1
    hand.give(run, 0, 1)
    run.ends, run.ahead = { [0] = 1, [1] = 1 }, {}
    hand.add(run, { 0, 0, "5" })
    hand.commit(run)
    run.control:finish_job(30000)
    run.control.next_job = function() end
    hand.add(run, { 0, 1, "5" })
    run.committer:start()
    assert.is_true(run.committer:busy())
    assert.is_true(runner.at_the_end(run, clock.mono_ms() + 1000))
  end)

  it("ends with what is final marked, though the server ended its transaction", function()
    hand.give(run, 0, 1)
    run.control.next_job = function() end -- it would mark them
    hand.add(run, { 0, 0, "5" }, { 1, 0, "7" }, { 0, 1, "6", 180000 }, { 1, 1, "8", 180000 })
    hand.commit(run)
    local session, hit, killed = run.control.session, failpoint.hit, 0
    finally(function() failpoint.hit = hit end)
    function failpoint.hit(name)
      if name ~= "finalise.locked" or killed > 0 then return end
      killed = killed + 1
      assert(db:query("kill " .. session.db:thread_id()))
    end
    runner.settle(run, session)
    assert.equal(1, killed)
    assert.same({ { "12.00000000", 1 }, { "14.00000000", 0 } },
      db:query("select price_sum, is_final from moving_averages order by start_time").rows)
  end)

  it("does not sleep over jobs that need no answer", function()
    local done, jobs = {}, { "a", "b", "c" }
    run.control.next_job = function()
      local name = table.remove(jobs, 1)
      return name and function()
        done[#done + 1] = name
        return true
      end
    end
    run.control:step()
    assert.same({ "a", "b", "c" }, done)
    assert.is_nil(run.control.task)
  end)

  it("runs no further job when only the one under way is to be ended", function()
    local answered = false
    run.control.next_job = function()
      if answered then error "another job" end
      return function()
        coroutine.yield "db"
        answered = true
        return true
      end
    end
    run.control:step()
    run.control:finish_job(5000)
    assert.is_true(answered)
    assert.is_nil(run.control.task)
  end)
end)
