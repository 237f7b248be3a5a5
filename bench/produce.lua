-- The producer as a script uses it: the messages of bench/produce.c, made before, sent one by one.
--
--   tidemill exec bench/produce.lua FILE TOPIC MESSAGES
--
-- FILE holds a key, a tab and a value a line. Prints the JSON object that bench/produce.c prints.

local clock = require "host.clock"
local config = require "mill.config"
local json = require "mill.json"
local kafka = require "host.kafka"

local path, topic, messages = arg[1], arg[2], math.tointeger(tonumber(arg[3]))
local keys, values, n = {}, {}, 0
for line in io.lines(path) do
  n = n + 1
  keys[n], values[n] = line:match "^([^\t]*)\t(.*)$"
end
local producer <close> = assert(kafka.producer { brokers = config.kafka() })
local delivered, failures = 0, 0

local function serve(ms)
  local got = producer:poll(ms)
  delivered, failures = delivered + got.delivered, failures + got.failures
end

-- As by the control: the first waits for the topic and the producer's id.
assert(producer:produce(topic, keys[1], values[1]))
producer:flush(120000)
local began = clock.mono_us()

for i = 1, messages - 1 do
  local k = i % n + 1
  local ok, message, code = producer:produce(topic, keys[k], values[k])
  while not ok do
    assert(code == "_QUEUE_FULL" or code == "QUEUE_FULL", message)
    serve(5)
    ok, message, code = producer:produce(topic, keys[k], values[k])
  end
  if i % 1000 == 0 then serve(0) end
end
producer:flush(120000)
serve(0)
local seconds = (clock.mono_us() - began) / 1e6
assert(delivered == messages and failures == 0, "not every message was delivered")
print(json.encode { messages = delivered, seconds = seconds,
  messages_per_second = delivered / seconds })
