-- Late rows of a commit: as many as one batch may make of them, in little of Lua's memory.

local batch = require "host.batch"
local json = require "host.json"
local notes = require "mill.notes"
local window = require "host.window"

local MINUTE = 60000
local ROWS, OVERLAP = 1000, 60

-- A store whose hopping windows are all below a floor, with ROWS rows sealed in each of two partitions.
local function filled()
  local store = window.store { time = 2, max_delay_ms = 0, max_future_ms = MINUTE, windows = { {
    size_ms = OVERLAP * 1000, hop_ms = 1000, lateness_ms = 0, key = 1, outs = { { kind = "key" } },
    parts = { { op = "sum", cell = 0 } },
  } } }
  store:floor(1, "adopted", 10 * MINUTE)
  local decoder = json.decoder { fields = {
    { name = "price", type = "decimal", precision = 20, scale = 8 }, { name = "symbol", type = "string" },
    { name = "time", type = "time", unit = "ms" },
  } }
  local b <close> = batch.new()
  for p = 0, 1 do
    store:open(p, 0)
    for i = 0, ROWS - 1 do
      b:add { partition = p, offset = i, stamp_ms = MINUTE, value =
        ('{"symbol":"A","price":"1","time":%d,"more":"%s"}'):format(MINUTE, ("x"):rep(200)) }
    end
  end
  decoder:decode(b)
  store:add(b, MINUTE)
  store:seal()
  return store
end

describe("the late rows of a commit", function()
  it("are all written, a few at a time", function()
    local store <close> = filled()
    local run = { store = store, name = "p", topic = "t", cluster = "c",
      outputs = { { table = "t", window = { size_ms = OVERLAP * 1000 } } } }
    collectgarbage()
    local before, most, seen = collectgarbage "count", 0, {}
    local out = { session = {} }
    function out.session.bind(_, sql, ...)
      local values, i = table.pack(...), 0
      return (sql:gsub("%?", function()
        i = i + 1
        local value = values[i]
        return type(value) == "string" and "'" .. value .. "'" or value and tostring(value) or "null"
      end))
    end
    function out.add(_, sql)
      most = math.max(most, collectgarbage "count" - before)
      for row in sql:gmatch "%(('p',[^()]*)" do
        local p, offset, start = row:match "'c', 't', (%d), (%d+), 'A', %d+, (%-?%d+),"
        seen[#seen + 1] = p .. " " .. offset .. " " .. start
      end
      return true
    end
    assert.is_true(notes.write(out, run))
    assert.equal(2 * ROWS * OVERLAP, #seen)
    local unique, count = {}, 0
    for _, row in ipairs(seen) do
      if not unique[row] then unique[row], count = true, count + 1 end
    end
    assert.equal(#seen, count)
    assert.is_true(most < 40000, most .. " kB")
  end)
end)
