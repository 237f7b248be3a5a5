--- A producer's outbox on real Kafka: what it tells, counted, and its loop until a state.
--
--   local box, counts = support.open { name = , spool = , ... }   -- as mill.outbox takes it
--   support.serve(box, "the acknowledgements", function() return counts.published == 5 end)

local outbox = require "mill.outbox"
local wait = require "spec.support.wait"

local M = {}

local WAIT_MS = 150000 -- also for a broker that comes back after its sessions have run out

local function none() end

--- Open an outbox. Messages go to the topic of its name, unless another is given.
-- @param counts table what another one has counted, to go on with; nil: from zero
-- @return it, and { published =, recovered =, failed =, dropped = } in messages
function M.open(o, counts)
  counts = counts or { published = 0, recovered = 0, failed = 0, dropped = 0 }
  o.topic, o.wait_ms = o.topic or o.name, 60000
  local box = outbox.open(o, {
    published = function() counts.published = counts.published + 1 end,
    recovered = function() counts.recovered = counts.recovered + 1 end,
    failed = function(_, n) counts.failed = counts.failed + n end,
    dropped = function(_, n) counts.dropped = counts.dropped + n end,
    error = none, synced = none,
  })
  return box, counts
end

--- Run the outbox until `done()`; an error where that does not come.
-- @param more function what else to say then: text
function M.serve(box, what, done, more)
  return wait(what, function()
    if done() then return true end
    box:serve(10)
  end, WAIT_MS, more)
end

return M
