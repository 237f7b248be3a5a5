-- Commits of some partitions at a time, and what is lost, revoked or waits meanwhile. Against a
-- private MariaDB, with rows put into the store by hand.

local clock = require "host.clock"
local committer = require "mill.committer"
local gaps = require "mill.gaps"
local hand = require "spec.support.hand_run"
local progress = require "mill.progress"
local runner = require "mill.runner"

local add, commit, ends, give = hand.add, hand.commit, hand.ends, hand.give
local until_ = hand.until_

describe("a run that commits some partitions at a time", function()
  local world = hand.world()
  local at_once = committer.ROWS_AT_ONCE

  setup(function() world:open() end)

  teardown(function() world:close() end)

  before_each(function()
    world:fresh()
    committer.ROWS_AT_ONCE = 1
  end)

  after_each(function()
    committer.ROWS_AT_ONCE = at_once
    world:clear()
  end)

  local function rows(sql)
    return world:rows(sql)
  end

  local function new_run(id, partitions, high)
    return world:run(id, partitions, high)
  end

  local function positions()
    local out = {}
    for i, row in ipairs(rows "select position from mill_progress order by `partition`") do
      out[i] = row[1]
    end
    return out
  end

  it("moves the positions of just those, and takes the others next", function()
    local run = new_run("a", 3)
    give(run, 0, 1, 2)
    add(run, { 0, 0, "1" }, { 1, 0, "10" }, { 2, 0, "100" })
    commit(run)
    assert.same({ 1, 0, 0 }, positions())
    assert.same({ { "1.00000000", 1 } }, rows "select price_sum, samples from moving_averages")
    assert.is_true(run.committer.more)
    add(run, { 0, 1, "1" })
    commit(run)
    assert.same({ 1, 1, 0 }, positions())
    commit(run)
    assert.same({ 1, 1, 1 }, positions())
    assert.is_true(run.committer:drain(5000))
    assert.same({ 2, 1, 1 }, positions())
    assert.same({ { "112.00000000", 4 } }, rows "select price_sum, samples from moving_averages")
  end)

  it("marks no window final by silence while it holds rows of it", function()
    local run = new_run("a", 2, 2)
    give(run, 0, 1)
    add(run, { 0, 0, "1", 59900 })
    commit(run)
    add(run, { 0, 1, "1", 59900 }, { 1, 0, "1", 59900 }, { 1, 1, "1", 59900 })
    ends(run, { 0, 2 }, { 1, 2 })
    local past = clock.mono_ms() + 4500
    until_(function() return clock.mono_ms() > past end, run)
    assert.same({ { 1, 0 } }, rows "select samples, is_final from moving_averages")
    assert.is_true(run.committer:drain(5000))
    until_(function()
      return #rows "select 1 from moving_averages where samples = 4 and is_final = 1" == 1
    end, run)
  end)

  it("looks at a result that overflows though others are always due", function()
    rows "alter table moving_averages modify price_sum decimal(10, 8)"
    local run = new_run("a", 2)
    give(run, 0, 1)
    for i = 0, 7 do
      add(run, { 0, 3 * i, "90" }, { 0, 3 * i + 1, "90" }, { 0, 3 * i + 2, "90" }, { 1, i, "0.1", 60000 })
      commit(run)
    end
    assert.is_true(positions()[1] > 0)
    assert.equal(1, #rows "select 1 from mill_dead_letters where kind = 'result'")
    assert.is_true(run.committer:drain(5000))
    assert.same({ 24, 8 }, positions())
  end)

  it("takes nothing of a claim whose partition was revoked during its COMMIT", function()
    local run, claim = new_run("a", 1), progress.claim
    progress.claim = function(...)
      local all, known = claim(...)
      run:taken({ { topic = "t", partition = 0 } }, false, 1000)
      return all, known
    end
    finally(function() progress.claim = claim end)
    run:given({ { topic = "t", partition = 0 } })
    until_(function() return #run.control.claims == 0 and not run.control.task end, run)
    assert.is_nil(run.claims[0])
    assert.is_nil(run.store:state(0))
  end)

  it("reads no further in a log that is to be looked at", function()
    local run = new_run("a", 2, 5)
    give(run, 0, 1)
    local flows = { [0] = true, [1] = true }
    local function set(on)
      return function(_, list)
        for _, item in ipairs(list) do flows[item.partition] = on end
        return list, true
      end
    end
    run.reader.stop, run.reader.start = set(false), set(true)
    add(run, { 0, 0, "1" })
    gaps.look_again(run, 0)
    assert.same({ [0] = false, [1] = true }, flows)
    run:hold("a reason")
    run:let_go()
    assert.same({ [0] = false, [1] = true }, flows)
    run.committer:drain(5000)
    gaps.step(run)
    until_(function() return run.claims[0] end, run)
    assert.same({ [0] = true, [1] = true }, flows)
  end)

  it("asks once for a partition that is given back after it was fenced", function()
    local run = new_run("a", 1)
    give(run, 0)
    run.told[0] = { topic = "t", partition = 0, offset = 1 }
    run:fenced(0, nil, 1)
    assert.is_truthy(run.reclaim[0])
    run:taken({ { topic = "t", partition = 0 } }, false, 1000)
    assert.is_nil(run.reclaim[0])
    assert.is_nil(run.told[0])
  end)

  it("is a new member with nothing of what the old one had", function()
    local run = new_run("a", 2)
    give(run, 0)
    run:group_fenced()
    -- What the client still said before it knew.
    run:given({ { topic = "t", partition = 1 } })
    until_(function() return run.claims[1] and run.unseated == "ours" end, run)
    run.consumer.close = function() end
    local new = { close = function() end }
    function run.join() return new end
    run:join_again()
    assert.equal(new, run.consumer)
    assert.same({}, run.assigned)
    assert.same({}, run.claims)
    assert.same({}, run.reclaim)
    assert.is_nil(run.store:state(1))
  end)

  it("keeps to its limit of rows while a lock makes it try again", function()
    local run = new_run("a", 1)
    give(run, 0)
    run.max_rows = 2
    add(run, { 0, 0, "1" }, { 0, 1, "1", 60000 })
    assert.is_true(runner.full(run))
    rows "start transaction"
    rows "select * from mill_progress for update"
    run.committer:start()
    assert.is_false(runner.full(run)) -- while one buffer is committed the other fills
    until_(function() return run.counts.retries == 1 end, run)
    until_(function() return run.committer:start() end, run)
    assert.is_true(runner.full(run))
    rows "rollback"
    until_(function() return not run.committer:busy() end, run)
    commit(run)
    assert.is_false(runner.full(run))
  end)

  it("polls on when its commit is tried again and again with a full buffer", function()
    local run = new_run("a", 1)
    give(run, 0)
    run.max_rows = 1
    add(run, { 0, 0, "1" })
    local now = clock.mono_ms()
    for ms = 0, 90000, 3000 do
      run.committer.session.answers = run.committer.session.answers + 1
      runner.flow(run, now + ms)
    end
    assert.matches("buffer is full", run.held)
    commit(run)
    runner.flow(run, now + 91000)
    assert.is_nil(run.held)
  end)

  it("counts once what another run has taken of a commit whose answer never came", function()
    committer.ROWS_AT_ONCE = 2
    local a, b = new_run("a", 3, 1), new_run("b", 3, 1)
    give(a, 0, 1, 2)
    add(a, { 0, 0, "1" }, { 1, 0, "10" }, { 2, 0, "100" })
    -- It is in the database, and the connection is lost before the answer.
    local session, sent = a.committer.session, false
    function session:start(statements, ...)
      if statements[#statements] ~= "commit" then return getmetatable(self).start(self, statements, ...) end
      assert(self.db:send(table.concat(statements, ";")))
      sent = true
      while true do coroutine.yield "db" end
    end
    a.committer:start()
    until_(function() return sent end, a)
    until_(function() return positions()[1] == 1 end)
    a.committer:abandon()
    session.start = nil
    assert.is_true(a.committer:busy())
    give(b, 0)
    a.assigned[0] = nil
    until_(function() return not a.committer:busy() end, a)
    a.committer:drain(5000)
    until_(function() return a.claims[1] and a.claims[2] end, a)
    for p = 0, 2 do
      local run = p == 0 and b or a
      if run.store:state(p).next == 0 then add(run, { p, 0, tostring(10 ^ p) }) end
    end
    a.committer:drain(5000)
    b.committer:drain(5000)
    assert.same({ { "111.00000000", 3 } }, rows "select price_sum, samples from moving_averages")
    assert.same({ 1, 1, 1 }, positions())
  end)

  it("comes to its end when the topic has got a partition since it began", function()
    local run = new_run("a", 2, 1)
    run.ends, run.ahead = { [0] = 1 }, {}
    give(run, 0, 1)
    add(run, { 0, 0, "1" })
    ends(run, { 0, 1 })
    assert.is_false(runner.at_the_end(run, clock.mono_ms()))
    assert.is_true(run.committer:drain(5000))
    assert.is_true(runner.at_the_end(run, clock.mono_ms()))
  end)
end)
