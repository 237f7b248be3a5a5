-- When the next commit is due. Commits themselves: commit_spec.

local clock = require "host.clock"
local committer = require "mill.committer"

describe("the next commit", function()
  local MAX_ROWS, MAX_BYTES = 200000, 1 << 20
  local behind, rows, bytes, it_

  before_each(function()
    behind, rows, bytes = 60000, 2000, 1000
    local store = {
      size = function() return rows, bytes end,
      behind = function() return behind end,
    }
    it_ = committer.new({ store = store, commit_every_ms = 1000 }, {})
  end)

  -- `ms` after the last one, with the end of the log near or not.
  local function due(ms, near)
    return it_:due(near, it_.last_ms + ms, MAX_ROWS, MAX_BYTES) or false
  end

  it("comes at once near the end of the log when nothing waits to be read", function()
    behind = 100
    assert.is_true(due(0, true))
    assert.is_false(due(999, false))
    assert.is_true(due(1000, false))
    it_.more = true -- partitions that had to wait
    assert.is_true(due(0, false))
  end)

  it("comes far behind when enough is merged", function()
    it_.rate = 20 -- 2000 rows take 100 ms
    assert.is_false(due(199, true))
    assert.is_true(due(200, true))
    assert.is_false(due(200, false)) -- commit_every, until the end is near
    assert.is_true(due(1000, false))
    rows = 40000
    assert.is_false(due(3999, false))
    assert.is_true(due(4000, false))
    rows = committer.FEW_ROWS
    assert.is_true(due(0, true))
    rows = 190000
    assert.is_false(due(committer.MERGE_MS - 1, false))
    assert.is_true(due(committer.MERGE_MS, false))
  end)

  it("comes with commit_every where all was read, however old that is", function()
    it_.rate, rows = 10, 20000
    assert.is_false(due(999, true))
    assert.is_true(due(1000, true))
    assert.is_false(due(1000, false))
  end)

  it("comes at a limit, however far behind", function()
    rows = MAX_ROWS
    assert.is_true(due(0, false))
    rows, bytes = 1, MAX_BYTES
    assert.is_true(due(0, false))
  end)

  it("writes what was there at the beginning of a round without a pause", function()
    it_.rate, it_.more, it_.round = 1, true, 500
    assert.is_true(due(0, false))
    it_.round = 0
    assert.is_false(due(3999, false))
    assert.is_true(due(4000, false))
  end)

  it("never comes while one is under way", function()
    rows, it_.unresolved = MAX_ROWS, {}
    assert.is_false(due(5000, true))
  end)

  it("counts from a monotonic clock", function()
    assert.is_true(math.abs(clock.mono_ms() - it_.last_ms) < 5000)
  end)
end)
