-- Two runs share partitions while everything happens to them at random moments: lost connections,
-- revocations, claims of others, floors raised, memberships lost. After every step the table holds
-- exactly the rows below the positions.

local clock = require "host.clock"
local committer = require "mill.committer"
local gaps = require "mill.gaps"
local hand = require "spec.support.hand_run"
local run_ = require "mill.run"

-- 30 seeds of 1500 steps were tried; these are for every day.
local PARTITIONS, ROWS, STEPS, SEEDS = 4, 40, 600, 2

describe("two runs to which everything happens", function()
  local world = hand.world()
  local runs
  local at_once, budget = committer.ROWS_AT_ONCE, run_.LOST_BUDGET_MS

  setup(function()
    world:open()
    committer.ROWS_AT_ONCE, run_.LOST_BUDGET_MS = 3, 30
  end)

  teardown(function()
    world:close()
    committer.ROWS_AT_ONCE, run_.LOST_BUDGET_MS = at_once, budget
  end)

  before_each(function()
    world:fresh()
    runs = {}
    for i, id in ipairs { "a", "b" } do
      local run = world:run(id, PARTITIONS, ROWS)
      local backoff = { next = function() return 2 end, reset = function() end }
      run.committer.backoff, run.control.backoff = backoff, backoff
      run.consumer.close = function() end
      function run.join() return run.consumer end
      local session = run.committer.session
      local send = session.start
      function session:start(statements, ...)
        self.last = statements[#statements]
        return send(self, statements, ...)
      end
      runs[i] = run
    end
  end)

  after_each(function() world:clear() end)

  local function rows(sql)
    return world:rows(sql)
  end

  local function item(p) return { topic = "t", partition = p } end

  -- As the consumer would hand them over: from where the partition is to be read.
  local function read(run, p, n)
    local state = run.claims[p] and run.store:state(p)
    if not state then return end
    local list = {}
    for offset = state.next, math.min(state.next + n, ROWS) - 1 do
      list[#list + 1] = { p, offset, tostring(100 * p + offset), offset % 5 * 60000 }
    end
    hand.add(run, table.unpack(list))
    if state.next + n >= ROWS then hand.ends(run, { p, ROWS }) end
  end

  -- COMMIT was sent: its answer never comes, now and then, whatever became of it.
  local function lose_answer(run)
    if run.committer.task and run.committer.session.last == "commit" and math.random(4) == 1 then
      clock.sleep(math.random(0, 3))
      run.committer:abandon()
      run.committer.retry_at = clock.mono_ms() + math.random(0, 40)
    end
  end

  local function step(run)
    run.committer:step()
    lose_answer(run)
    run.control:step()
    gaps.step(run)
    run:claim_again(clock.mono_ms() + 5000)
    if run.unseated == "ours" then run:join_again "unseated" end
  end

  local function kill(session)
    if session.db then world.db:query("kill " .. session.db:thread_id()) end
  end

  local purged = hand.START - 1000 * 60000
  local happenings = {
    function(run, p) run:taken({ item(p) }, math.random(2) == 1, math.random(0, 30)) end,
    function(run, p) if not run.assigned[p] then run:given { item(p) } end end,
    function(run, p) if not run.assigned[p] then run:given { item(p) } end end,
    function(run) kill(run.committer.session) end,
    function(run) kill(run.committer.session) end,
    function(run) kill(run.control.session) end,
    function(run) run.committer:abandon() end,
    function(run) run.control:finish_job(1) end,
    function(run, p) gaps.look_again(run, p) end,
    function(run) if math.random(4) == 1 then run:group_fenced() end end,
    function(run) if not run.committer:busy() then run:read_again() end end,
    function(_, p)
      world.db:query("update mill_progress set owner = 'x', epoch = epoch + 1 where `partition` = "
        .. ("%d and position < %d"):format(p, ROWS))
    end,
    function()
      purged = purged + 60000
      world.db:query(("update mill_pipelines set purged_ms = %d"):format(purged))
    end,
  }

  local function exact(seed, at)
    local got = rows [[select (select coalesce(sum(samples), 0) from moving_averages),
      (select sum(position) from mill_progress)]][1]
    assert.equal(tostring(got[2]), tostring(got[1]), ("seed %d, step %d"):format(seed, at))
  end

  local function positions()
    return rows("select count(*) from mill_progress where position = " .. ROWS)[1][1]
  end

  for seed = 1, SEEDS do
    it("count every row once, seed " .. seed, function()
      math.randomseed(seed)
      assert(world.db:query "set session innodb_lock_wait_timeout = 1")
      for p = 0, PARTITIONS - 1 do runs[p % 2 + 1]:given { item(p) } end
      for i = 1, STEPS do
        local run, p = runs[math.random(2)], math.random(0, PARTITIONS - 1)
        local what = math.random(20)
        if what == 1 then
          happenings[math.random(#happenings)](run, p)
        elseif what <= 4 then
          if math.random(4) == 1 then read(run, p, math.random(3)) end
        elseif what <= 7 then
          run.committer:start()
        else
          step(run)
        end
        if i % 10 == 0 then exact(seed, i) end
        if math.random(4) == 1 then clock.sleep(1) end
      end
      -- Peace.
      for p = 0, PARTITIONS - 1 do
        runs[1]:taken({ item(p) }, false, 1000)
        if not runs[2].assigned[p] then runs[2]:given { item(p) } end
      end
      local deadline = clock.mono_ms() + 30000
      while positions() < PARTITIONS do
        assert(clock.mono_ms() < deadline, "not in time")
        step(runs[2])
        for p = 0, PARTITIONS - 1 do
          if not runs[2].assigned[p] then runs[2]:given { item(p) } end
          read(runs[2], p, 10)
        end
        runs[2].committer:start()
      end
      exact(seed, STEPS)
      local sum = 0
      for p = 0, PARTITIONS - 1 do
        for offset = 0, ROWS - 1 do sum = sum + 100 * p + offset end
      end
      assert.same({ { ("%d.00000000"):format(sum), PARTITIONS * ROWS } },
        rows "select sum(price_sum), cast(sum(samples) as signed) from moving_averages")
      assert.same({ { 0 } }, rows "select count(*) from mill_dead_letters")
    end)
  end
end)
