--- A development broker and what stands in its topics: helpers for specs.

local batch = require "host.batch"
local clock = require "host.clock"
local kafka = require "host.kafka"

local M = {}

--- Start a development broker in this process; close it.
-- @param topics table name -> partitions
function M.start(topics)
  local list = {}
  for name, count in pairs(topics) do list[#list + 1] = { name = name, partitions = count } end
  return assert(kafka.broker { topics = list })
end

--- All records of a topic up to its ends, as { partition=, offset=, key=, value=, stamp_ms= }.
function M.records(bootstrap, topic, partitions)
  local consumer <close> = kafka.consumer {
    brokers = bootstrap, conf = { ["fetch.wait.max.ms"] = 10 },
  }
  local b <close> = batch.new()
  local entries, open, out = {}, partitions, {}
  local ended = {}
  for p = 0, partitions - 1 do
    entries[#entries + 1] = { topic = topic, partition = p, offset = 0 }
  end
  assert(consumer:manual(entries))
  local deadline = clock.mono_ms() + 20000
  while open > 0 do
    assert(clock.mono_ms() < deadline, "the topic's ends were not reached in time")
    for i = 1, consumer:poll(b, 10000, 100) do out[#out + 1] = b:record(i) end
    for _, e in ipairs(b:ends()) do
      if not ended[e.partition] then
        ended[e.partition] = true
        open = open - 1
      end
    end
  end
  return out
end

return M
