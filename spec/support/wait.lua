--- Ask again until the answer is true, and return it: specs wait for a state, never for a time.
--
--   local wait = require "spec.support.wait"
--   local pid = wait("the child's pid", function() return tonumber(folder:text "pid") end)

local clock = require "host.clock"

local DEADLINE_MS = 60000 * require "spec.support.slow"
local NAP_MS = 10

--- @param what string what is waited for, for the message
-- @param ask function
-- @param ms integer deadline, default 60 s (more under a sanitizer)
-- @param more function what else to say when it did not come: text
return function(what, ask, ms, more)
  local deadline = clock.mono_ms() + (ms or DEADLINE_MS)
  repeat
    local last = clock.mono_ms() > deadline -- asked once more after it: nobody may have run for a while
    local value = ask()
    if value then return value end
    clock.sleep(NAP_MS)
  until last
  error("gave up waiting for " .. what .. (more and "\n" .. more() or ""), 2)
end
