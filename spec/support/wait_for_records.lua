-- Waits ten minutes for records that do not come; a signal ends it.
--   tidemill exec spec/support/wait_for_records.lua BOOTSTRAP
local kafka, batch = require "host.kafka", require "host.batch"

local consumer <close> = kafka.consumer { brokers = (...) }
local b <close> = batch.new()
assert(consumer:manual { { topic = "slow", partition = 0, offset = "latest" } })
io.stdout:write("waiting\n")
io.stdout:flush()
for _ = 1, 2 do consumer:poll(b, 1, 600000) end -- the first ends with the partition's end
