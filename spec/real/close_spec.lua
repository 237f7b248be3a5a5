-- A consumer that is closed while it joins its group: librdkafka 2.0.2 aborts the process then, if
-- nothing is done about it. In a child, since an abort would take the specs along.

local process = require "host.process"
local real = require "spec.support.real"

local CHILD = [[
  local clock, kafka = require "host.clock", require "host.kafka"
  for i = 1, 60 do
    local consumer = kafka.consumer {
      brokers = os.getenv "TIDEMILL_KAFKA", group = arg[1] .. i, instance = "a/0",
      topics = { arg[2] },
    }
    clock.sleep(i % 30)
    if i % 2 == 0 then consumer:leave() end
    consumer:close()
  end
  print "closed"
]]

describe("a consumer that joins", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  it("can be closed at any moment", function()
    local folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-close-"))
    local path = folder .. "/child.lua"
    assert(process.atomic_write(path, CHILD, { sync = false }))
    local topic = real.topic { partitions = 3 }
    for _ = 1, 5 do
      local r = real.tidemill({ "exec", path, real.name "close", topic }, { cwd = process.home() })
        :finish(60000)
      assert.equal("closed\n", r.out, r.err)
      assert.equal(0, r.status, r.err)
    end
    os.remove(path)
    os.remove(folder)
    real.close()
  end)
end)
