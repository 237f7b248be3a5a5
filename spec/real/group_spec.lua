-- What the Kafka group remembers of a member is not always about this run.

local real = require "spec.support.real"

describe("a group that remembers another topic", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local place
  setup(function() place = real.place(real.databases()[1]) end)
  teardown(function()
    place:close()
    real.close()
  end)

  local function rows(topic, partitions)
    local list = {}
    for i = 0, 299 do
      list[#list + 1] = { partition = i % partitions, value =
        ('{"symbol":"S%d","price":"%d.5","timestamp":%d}'):format(i % 7, i + 1, 1723161600000 + i) }
    end
    real.send(topic, list)
  end

  -- The broker hands a static member that comes back what it had, though it reads another topic now.
  it("is left, and the next start reads its own topic and no other", function()
    local old, new = real.topic { partitions = 6 }, real.topic { partitions = 3 }
    rows(old, 6)
    rows(new, 3)
    local name, before, after = real.name "moved", place:table(true), place:table(true)
    local first = place:start { topic = old, name = name, table = before, until_end = false }
    real.wait(function() return #place:results(before) > 0 end, "the first topic")
    first:kill "TERM"
    assert.equal(0, first:finish(30000).status)

    local o = { topic = new, name = name, table = after, until_end = false }
    local child = place:start(o)
    local function done()
      local ended = child:result(0)
      if ended then
        -- As a supervisor does, which starts again what ended for a server's sake.
        assert.equal(3, ended.status, ended.err)
        assert.matches("partitions of topic '" .. old .. "'", ended.err, 1, true)
        child = place:start(o)
      end
      local sum = 0
      for _, row in ipairs(place:query("select position from mill_progress where topic = '%s'", new)) do
        sum = sum + row[1]
      end
      return sum == 300
    end
    real.wait(done, "the second topic", 60000)
    child:kill "TERM"
    assert.equal(0, child:finish(30000).status)
    assert.equal(3, place:value("select count(*) from mill_progress where topic = '%s'", new))
    assert.equal(300, math.tointeger(place:value("select cast(sum(samples) as signed) from %s",
      after)))
  end)
end)
