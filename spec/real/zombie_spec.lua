-- Instances that are frozen past their session and thawed, in both ways of assignment, and topics
-- that grow: the database fences who comes back, who says so, and every row is counted once.

local clock = require "host.clock"
local fail = require "spec.support.failpoints"
local real = require "spec.support.real"

describe("several instances", function()
  local why = real.missing() or not real.faults() and "`make faults` was not run"
  if why then
    it("need servers and the test build", function() pending(why) end)
    return
  end

  teardown(real.close)

  -- A pipeline whose topic is being written to: { o =, send(count), caught_up(), close() }.
  local function live(place, conf, partitions)
    local topic = real.topic { partitions = partitions or fail.PARTITIONS }
    local producer = real.producer()
    local self = { sent = 0, partitions = partitions or fail.PARTITIONS, topic = topic }
    self.o = fail.options(place, topic, { until_end = false, idle_ms = 60000 })
    self.o.env.TIDEMILL_KAFKA_CONF = fail.CONF .. (conf or "")
    function self.send(count)
      for _ = 1, count do
        self.sent = self.sent + 1
        -- Unkeyed: the rows of a symbol are spread over the partitions.
        real.put(producer, { topic = topic, partition = self.sent % self.partitions, value =
          ('{"symbol":"S%d","price":"%d.5","timestamp":%d}'):format(self.sent % 5, self.sent,
          fail.T0 + self.sent * 10) })
      end
      producer:poll(0)
    end
    function self.caught_up()
      local sum = 0
      for _, row in pairs(place:progress(self.o.name)) do sum = sum + row.position end
      return sum == self.sent
    end
    function self.grow(total)
      real.flush(producer)
      producer:close()
      real.grow(topic, total)
      producer, self.partitions = real.producer(), total
    end
    function self.owners()
      local seen, count = {}, 0
      for _, row in pairs(place:progress(self.o.name)) do
        if not seen[row.owner] then
          seen[row.owner], count = true, count + 1
        end
      end
      return count
    end
    -- Does this instance own all partitions?
    function self.owned_by(name)
      return place:value("select count(*) from mill_progress where pipeline = '%s' and instance = '%s'",
        self.o.name, name) == self.partitions
    end
    function self.start(name, point)
      return place:start(fail.with(self.o, { instance = name, fail = point }))
    end
    -- End these, read what is left, and compare.
    function self.finish(...)
      for _, child in ipairs { ... } do child:kill "TERM" end
      for i, child in ipairs { ... } do fail.ended(child, "instance " .. i) end
      real.flush(producer)
      producer:close()
      place:average(fail.with(self.o, { until_end = true }))
      local want = real.verify(place, self.o)
      assert.equal(self.sent, want.consumed)
    end
    return self
  end

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      for how, conf in pairs { cooperative = "", eager = ",partition.assignment.strategy=range" } do
        it("frozen within a transaction and thawed, " .. how, function()
          local p = live(place, conf)
          p.send(500)
          local a = p.start("a", "commit.compared=stop:4")
          local b = p.start "b"
          real.wait(function()
            p.send(5)
            return real.is_stopped(a)
          end, "a to stop")
          local since = clock.mono_ms()
          real.wait(function()
            p.send(2)
            return p.owned_by "b" and clock.mono_ms() - since > fail.WAIT_MS + 500
          end, "b to own all", 60000)
          a:kill "CONT"
          for _, text in ipairs {
            "WARN [^\n]*: this process did not run for %d+%.%d s: it was stopped, or starved\n",
            "WARN [^\n]*: the database has ended our transaction meanwhile: ",
            "WARN [^\n]*: partition %d: fenced by the database: instance 'b' claimed it "
              .. "%(epoch %d+, ours was %d+%) while we did not run for %d+%.%d s; what was not ",
          } do
            real.wait(function()
              -- Where the database was slow to answer, the group's word came before its own.
              return a:log():find(text) or text:find "fenced" and a:log():find "could not commit within"
            end, text .. " in:\n" .. a:log())
          end
          real.wait(function()
            p.send(1)
            return p.owners() == 2
          end, "a to have a part again", 60000)
          assert.is_nil(a:log():find("database is away", 1, true), a:log())
          real.wait(p.caught_up, "all to be read")
          p.finish(a, b)
        end)
      end

      it("frozen and thawed at random, three of them", function()
        local random = real.random "frozen at random"
        local p = live(place)
        local children = { p.start "a", p.start "b", p.start "c" }
        for _, child in ipairs(children) do -- frozen while it enters its name, it would end with 3
          real.wait(function() return child:log():find("reads topic", 1, true) end, "its start")
        end
        local until_ms, thaw = clock.mono_ms() + 20000, {}
        local frozen = 0
        while clock.mono_ms() < until_ms or frozen < 3 do
          p.send(20)
          local i = 1 + random(#children)
          if not thaw[i] and random(10) == 0 then
            children[i]:kill "STOP"
            thaw[i], frozen = clock.mono_ms() + random(7000), frozen + 1
          end
          for n, at in pairs(thaw) do
            if clock.mono_ms() >= at then
              children[n]:kill "CONT"
              thaw[n] = nil
            end
          end
          clock.sleep(50)
        end
        for n in pairs(thaw) do children[n]:kill "CONT" end
        p.finish(table.unpack(children))
      end)

      it("see a topic grow while they run: what is new begins at 0", function()
        local p = live(place, ",topic.metadata.refresh.interval.ms=1000", 2)
        p.send(100)
        local a = p.start "a"
        local b = p.start "b"
        real.wait(function()
          p.send(1)
          return p.owners() == 2
        end, "both to own one", 60000)
        p.grow(5)
        -- An empty partition takes no part in finality: it is in it before more comes.
        p.send(5)
        real.wait(p.caught_up, "the first rows of the new partitions", 30000)
        p.send(1000)
        real.wait(p.caught_up, "the new partitions to be read", 30000)
        p.finish(a, b)
      end)
    end)
  end
end)
