--- The start of what runs until a signal: one that comes while it waits for its servers is no failure.

local fault = require "mill.fault"
local log = require "mill.log"
local process = require "host.process"

local M = {}

--- Call `open(...)`, in the graceful mode of signals.
-- @return what it gives; or nil and "before it began" where a server kept it waiting and a signal came.
--   What else it raises is raised again.
function M.call(open, ...)
  local ok, result = xpcall(open, fault.traced, ...)
  if ok then return result end
  if process.stop_requested() == 0 or not fault.is(result) or result.status ~= fault.SERVER then
    error(result, 0)
  end
  log.warn("stopped before it began: %s", result.message)
  return nil, "before it began"
end

return M
