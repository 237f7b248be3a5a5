--- Failures that a user can act on: one message, one exit status, no traceback.
--
-- Raised as a table, so that call_protected adds no traceback; a plain Lua error stays what it is,
-- a bug, and keeps its traceback.

local expect = require "mill.expect"

local M = {}

--- Exit statuses of tidemill (README, "Exit codes").
M.FAILED = 1 -- a script or runtime error
M.USAGE = 2 -- bad option, syntax error, table that does not fit
M.SERVER = 3 -- a server could not be reached, or refused; a missing topic, table or schema
M.RUNNING = 4 -- another run of the same instance name is alive
M.POLICY = 5 -- stopped by the failure policy: too many bad rows, a gap, a changed script
M.FENCED = 6 -- another producer of the same name took over

local meta = {}
meta.__index = meta
meta.__tostring = function(self) return self.message end

--- Build a fault without raising it.
-- @param status integer exit status, one of the constants above
-- @param fmt string, ... as for string.format
function M.new(status, fmt, ...)
  expect.a("string", fmt, "message")
  local message = select("#", ...) > 0 and fmt:format(...) or fmt
  return setmetatable({ status = status, message = message }, meta)
end

--- Raise a fault.
function M.raise(status, fmt, ...)
  error(M.new(status, fmt, ...), 0)
end

--- Is this error value a signal that was raised, and no failure?
function M.is_interrupt(value)
  return type(value) == "string" and value:match("^[^\n]*"):find("interrupted$") ~= nil
end

--- Is this error value a fault?
function M.is(value)
  return getmetatable(value) == meta
end

--- A message handler for xpcall: a fault as it is, anything else as text with the traceback of the place
-- that raised it. What an inner handler has traced stays as it is.
-- @param task coroutine that died of it, or nil: the running one
function M.traced(err, task)
  if M.is(err) or type(err) == "string" and err:find("\nstack traceback:", 1, true) then return err end
  if task then return debug.traceback(task, tostring(err)) end
  return debug.traceback(tostring(err), 2)
end

--- Return the values of a call that answers nil, message, code; raise a fault on nil.
-- @param status integer exit status of the fault
-- @param what string what was tried, put before the message
function M.check(status, what, value, message, ...)
  if value == nil then M.raise(status, "%s: %s", what, message) end
  return value, message, ...
end

return M
