--- What the group has dealt out, looked at from outside.
--
-- The leader of a group deals out the partitions that it sees in that moment, and librdkafka deals
-- again when their number is another one than it knew. So partitions stay with nobody for good: of a
-- topic that was not there while members joined, and then is back as it was; and those that a topic got
-- just before a member with a name of its own was restarted, to whom the brokers give what it had. A
-- member may also be out of its group without knowing it. Each run looks for both, now and then.

local clock = require "host.clock"
local gaps = require "mill.gaps"

local M = {}

-- How long between looks: of a run that has nothing, or has seen something wrong; and of any other.
M.LOOK_MS = 5000
M.HELD_MS = 30000

-- How long the brokers are given for each answer.
M.ASK_MS = 1000

-- How often in a row it is seen before anything is done. Partitions are nobody's between the two halves
-- of a rebalance, which may wait for a database, while a member that ended keeps its place, and until
-- the leader has seen that the topic grew: it looks every 30 s (host/kafka_consumer.c).
M.LOOKS = 8

--- Partitions of a topic that no member of the group has.
-- @param group as admin:describe_group gives it
-- @param partitions how many the topic has
-- @return array of numbers
function M.to_nobody(group, topic, partitions)
  local held, out = {}, {}
  for _, member in ipairs(group.members) do
    for _, item in ipairs(member.partitions) do
      if item.topic == topic then held[item.partition] = true end
    end
  end
  for p = 0, partitions - 1 do
    if not held[p] then out[#out + 1] = p end
  end
  return out
end

-- How many members come before ours, by their ids; nil when we are none.
local function rank(run, group)
  local id, before, found = run.consumer:member(), 0, false
  for _, member in ipairs(group.members) do
    found = found or member.id == id
    if id and member.id < id then before = before + 1 end
  end
  return found and before or nil
end

-- What is wrong: { what = text to compare, partitions = of nobody, before = how many members come before
-- us }, or { what = "absent" } when we are none; nil when nothing is, or it cannot be told.
local function look(run)
  local meta = run.admin:metadata(run.topic, M.ASK_MS)
  if not meta then return nil end
  local topic = meta.topics[run.topic]
  if not topic or topic.code then
    -- A cluster that never had it: no claim will find that out.
    gaps.same_cluster(run, M.ASK_MS)
    return nil
  end
  -- The development broker cannot tell.
  local group = run.admin:describe_group(run.group, M.ASK_MS)
  if not group then return nil end
  local before = rank(run, group)
  if group.state == "Empty" or group.state == "Dead" or group.state == "Stable" and not before then
    return { what = "absent", before = 0 }
  end
  if group.state ~= "Stable" then return nil end
  local partitions = M.to_nobody(group, run.topic, #topic.partitions)
  if #partitions == 0 then return nil end
  return { what = table.concat(partitions, " "), partitions = partitions, before = before }
end

local function mend(run, wrong)
  if not wrong.partitions then
    return run:join_again("the group does not know this member, and it was not told")
  end
  run.log.warn("the group has given %d partition%s of topic '%s' to nobody: joining it anew",
    #wrong.partitions, #wrong.partitions == 1 and "" or "s", run.topic)
  local ok, message = run.consumer:rejoin()
  if not ok then run.log.warn("the group cannot be joined anew: %s", message) end
end

--- Look, when it is time, and join anew where the same has been wrong for long enough: for longer each
-- time that this has not helped. One that joins anew is enough, so the others leave it to the first.
-- @param run state of a run: admin, consumer, topic, group, assigned, generation, unseated, log
-- @param now monotonic milliseconds
function M.step(run, now)
  if run.unseated then
    run.dealt = nil
    return
  end
  local dealt = run.dealt or { due = now + M.LOOK_MS, times = 0, looks = M.LOOKS }
  run.dealt = dealt
  if now < dealt.due then return end
  local wrong = look(run)
  run:busy()
  dealt.due = clock.mono_ms() + ((wrong or not next(run.assigned)) and M.LOOK_MS or M.HELD_MS)
  if not wrong then
    dealt.what, dealt.times, dealt.looks = nil, 0, M.LOOKS
    return
  end
  -- With an assignment that has changed since, it is something else.
  local same = wrong.what == dealt.what and dealt.generation == run.generation
  dealt.times = same and dealt.times + 1 or 1
  dealt.what, dealt.generation = wrong.what, run.generation
  if dealt.times < dealt.looks + wrong.before then return end
  dealt.times, dealt.looks = 0, dealt.looks * 2
  mend(run, wrong)
  run:busy()
end

return M
