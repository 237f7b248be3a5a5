-- What a run does about what its group has dealt out. Brokers, group and run are tables.

local clock = require "host.clock"
local dealt = require "mill.dealt"

local function member(id, ...)
  local partitions = {}
  for i, p in ipairs { ... } do partitions[i] = { topic = "t", partition = p } end
  return { id = id, partitions = partitions }
end

describe("a run and its group", function()
  local run, done, group, topics

  before_each(function()
    done, topics = {}, { t = { partitions = { {}, {}, {} } } }
    group = { state = "Stable", members = { member("a", 0, 1, 2) } }
    run = {
      topic = "t", group = "g", assigned = { [0] = 1 }, generation = 1, busy = function() end,
      log = { warn = function() end },
      admin = {
        metadata = function() return topics and { topics = topics } end,
        describe_group = function() return group end,
      },
      consumer = {
        member = function() return "a" end,
        rejoin = function()
          done[#done + 1] = "rejoin"
          return true
        end,
      },
      join_again = function() done[#done + 1] = "new client" end,
    }
  end)

  -- `count` looks, each when it is due.
  local function look(count)
    if not run.dealt then dealt.step(run, clock.mono_ms()) end
    for _ = 1, count do dealt.step(run, run.dealt.due) end
    return table.concat(done, ", ")
  end

  it("agree, and it looks seldom while it has partitions", function()
    assert.equal("", look(20))
    assert.is_true(run.dealt.due - clock.mono_ms() > dealt.HELD_MS - 1000)
    dealt.step(run, run.dealt.due - 1)
    run.assigned = {}
    look(1)
    assert.is_true(run.dealt.due - clock.mono_ms() <= dealt.LOOK_MS)
  end)

  it("differ: partitions of nobody are dealt out anew, later each time that does not help", function()
    group.members = { member("a", 0) }
    assert.equal("", look(dealt.LOOKS - 1))
    assert.equal("rejoin", look(1))
    assert.equal("rejoin", look(2 * dealt.LOOKS - 1))
    assert.equal("rejoin, rejoin", look(1))
  end)

  it("differ, and another member comes first", function()
    group.members = { member("A"), member("a", 0), member("b", 1) }
    assert.equal("", look(dealt.LOOKS))
    assert.equal("rejoin", look(1))
  end)

  it("differ for a while only: other partitions, another assignment, a rebalance, no answer", function()
    local good = group
    for _, other in ipairs {
      function() group.members = { member("a", 0, 1) } end,
      function() run.generation = run.generation + 1 end,
      function() group = { state = "PreparingRebalance", members = {} } end,
      function() group = nil end,
      function() topics = nil end,
      function() group = good end,
    } do
      run.dealt, topics = nil, { t = { partitions = { {}, {}, {} } } }
      group = { state = "Stable", members = { member("a", 0) } }
      look(dealt.LOOKS - 1)
      other()
      assert.equal("", look(1))
    end
  end)

  it("differ: whom the group does not know becomes a member by a new client", function()
    for i, other in ipairs {
      { state = "Stable", members = { member("b", 0, 1, 2) } }, { state = "Empty", members = {} },
    } do
      run.dealt, group = nil, other
      look(dealt.LOOKS - 1)
      assert.equal(i - 1, #done)
      look(1)
      assert.equal("new client", done[i])
    end
  end)

  it("are left alone while the database is asked whose the name is", function()
    group.members, run.unseated = {}, "asked"
    for _ = 1, 20 do dealt.step(run, clock.mono_ms() + 1000000) end
    assert.same({}, done)
  end)
end)
