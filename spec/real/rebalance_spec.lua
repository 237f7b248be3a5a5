-- Telling the Kafka group of positions while members come and go: a rebalance only moves what has to
-- move, and no member loses all it has.

local batch = require "host.batch"
local kafka = require "host.kafka"
local real = require "spec.support.real"

local JOINS = 20
local PARTITIONS = 6

describe("positions told to the group during joins and leaves", function()
  local why = real.missing()
  if why then
    it("need servers", function() pending(why) end)
    return
  end

  teardown(real.close)

  for strategy, joins in pairs { ["cooperative-sticky"] = JOINS, range = JOINS // 4 } do
    it("lose no assignment, " .. strategy, function()
      local topic = real.topic { partitions = PARTITIONS }
      local group = real.name "rebalance"
      local members, lost, told, joined = {}, 0, 0, 0

      local function join(slot)
        joined = joined + 1
        local name = ("%s%d"):format(slot, joined)
        members[slot] = {
          batch = batch.new(), mine = {},
          consumer = kafka.consumer {
            brokers = real.kafka(), group = group, instance = name, topics = { topic },
            conf = { ["partition.assignment.strategy"] = strategy, ["session.timeout.ms"] = 30000,
              ["heartbeat.interval.ms"] = 200, ["auto.commit.interval.ms"] = 5 },
          },
        }
      end

      -- As a run does it: answer rebalances at once, tell positions between them.
      local function serve(member)
        local c = member.consumer
        c:poll(member.batch, 100, 5)
        for _, event in ipairs(c:events()) do
          if event.type == "assign" then
            local list = {}
            for i, p in ipairs(event.partitions) do
              list[i] = { topic = topic, partition = p.partition, offset = 0 }
              member.mine[p.partition] = true
            end
            assert(c:assign(list))
          elseif event.type == "revoke" or event.type == "lost" then
            if event.type == "lost" then lost = lost + 1 end
            for _, p in ipairs(event.partitions) do member.mine[p.partition] = nil end
            c:unassign(event.partitions)
          end
        end
        member.offset = (member.offset or 0) + 1
        local list = {}
        for p in pairs(member.mine) do
          list[#list + 1] = { topic = topic, partition = p, offset = member.offset }
        end
        if #list > 0 then
          c:store(list)
          told = told + 1
        end
      end

      local function shared(count)
        real.wait(function()
          local owned, owners = 0, 0
          for _, member in pairs(members) do
            serve(member)
            local some = next(member.mine) ~= nil
            for _ in pairs(member.mine) do owned = owned + 1 end
            if some then owners = owners + 1 end
          end
          return owned == PARTITIONS and owners == count
        end, ("%d members to share"):format(count), 60000)
      end

      join "a"
      join "b"
      shared(2)
      for i = 1, joins do
        join "c"
        shared(3)
        local leaver = members.c
        if i % 3 == 0 then
          -- Another one than the one that came last.
          leaver, members.a, members.c = members.a, leaver, nil
        else
          members.c = nil
        end
        leaver.consumer:leave()
        leaver.consumer:close()
        shared(2)
      end
      local admin <close> = kafka.admin { brokers = real.kafka() }
      real.wait(function()
        for _, member in pairs(members) do serve(member) end
        local known = 0
        for _, e in ipairs(assert(admin:group_offsets(group, nil, 10000))) do
          if e.offset and e.offset > 1 then known = known + 1 end
        end
        return known == PARTITIONS
      end, "the group to know of all")
      assert.are.equal(0, lost, ("%d assignments lost, positions told %d times"):format(lost, told))
      for _, member in pairs(members) do member.consumer:close() end
    end)
  end
end)
