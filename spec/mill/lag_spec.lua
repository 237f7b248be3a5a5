-- How old the first record is that a partition has not accounted for. The reader is a table.

local lag = require "mill.lag"
local stream = require "mill.checks.stream"

describe("the age of what lags", function()
  local reader

  before_each(function()
    reader = {
      manual = function() return true end,
      poll = function() return 0 end, -- nothing comes
      watermarks = function(_, list)
        local out = {}
        for i, p in ipairs(list) do out[i] = { partition = p.partition, low = 0, high = 5000000 } end
        return out
      end,
    }
  end)

  local function list() return { { topic = "t", partition = 0, position = 0, low = 0, lag = 5000000 } } end

  it("is told to be incomplete when it was not read in time", function()
    local out, complete = lag.seconds(reader, "t", list(), 20)
    assert.is_false(complete)
    assert.is_nil(out[1].lag_s)
    assert.same({ nil, "not read within 0.02 s", "TIMED_OUT" },
      { lag.first(reader, "t", { { partition = 0, low = 0, high = 5 } }, 20) })
  end)

  it("is UNKNOWN to health then, not small", function()
    local run
    for _, c in ipairs(stream.CHECKS) do run = c.id == "aggregation.lag" and c.run or run end
    local null = require("mill.json").null
    local result = run {
      set = { pipeline = "p", topic = "t", timeout = 20, lag_warn = 1000, lag_crit = 2000 },
      db = { quote = function(_, text) return text end, query = function()
        return { rows = { { "p", "c", "t", 0, 0, null, null, 0 } } }
      end },
      metadata = { cluster_id = "c" }, partitions = { { partition = 0 } }, reader = reader,
    }
    assert.equal("UNKNOWN", result.status)
    assert.matches("5,000,000 records behind", result.summary, 1, true)
  end)
end)
