--- Bounds of time that a loaded machine keeps: a process that gets no time for a while is no failure,
-- one that is held up by what it waits for is.
--
--   local bound = require "spec.support.bound"
--   bound.within(2000, "close", function() p:close() end)

local clock = require "host.clock"
local slow = require "spec.support.slow"

local M = {}

-- What gets no time may be late by this much; what is really held up takes a minute or for ever.
local SPARE_MS = 8000
local TRIES = 5

local function timed(f)
  local began = clock.mono_ms()
  local a, b, c = f()
  return clock.mono_ms() - began, a, b, c
end

--- What can be done once only.
-- @param ms integer what it takes at most where it gets the processor
-- @param what string what is done, for the message
-- @param f function
-- @param spare_ms integer how late it may be beside, default 8000
-- @return up to three values of f
function M.within(ms, what, f, spare_ms)
  local took, a, b, c = timed(f)
  assert(took <= ms * slow + (spare_ms or SPARE_MS), ("%s took %d ms"):format(what, took))
  return a, b, c
end

--- What can be done again: f is called until it kept to the bound. What is held up is so each time.
-- @param ms, what, f as above
-- @param tries integer how often f is called at most, default 5
-- @return up to three values of the f that kept to it
function M.soon(ms, what, f, tries)
  local took, a, b, c
  for _ = 1, tries or TRIES do
    took, a, b, c = timed(f)
    if took <= ms * slow then return a, b, c end
  end
  error(("%s took %d ms, and no less before"):format(what, took), 2)
end

return M
