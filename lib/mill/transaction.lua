--- One transaction by hand, for commands: all of it or nothing, and anew where the server asks for it.

local fault = require "mill.fault"
local process = require "host.process"
local session_ = require "mill.session"

local M = {}

local TRIES = 10
local ANEW = {}

-- The tries; each is made by `call(session, body)`.
local function tried(call, session, what, f)
  for try = 1, TRIES do
    local function must(result, message, code)
      if result then return result end
      if session_.AGAIN[code] and try < TRIES and process.stop_requested() == 0 then error(ANEW, 0) end
      fault.raise(fault.SERVER, "%s: %s", what, message)
    end
    local ok, out = xpcall(call, function(e)
      if e == ANEW then return e end
      return fault.traced(e)
    end, session, function()
      must(session:query "start transaction")
      local value = f(must)
      must(session:query "commit")
      return value
    end)
    if ok then return out end
    session:rollback()
    if out ~= ANEW then error(out, 0) end
  end
end

--- Run `f(must)` between `start transaction` and `commit`. `must(session:query(sql))` is the result;
-- where there is none (nil, message, code) the transaction is rolled back, and begun anew after a
-- deadlock or too long a wait for a lock: `f` may run several times. What `f` raises rolls back too.
-- A statement may take as long as a command may (Session:patiently).
-- @param session mill.session, used directly
-- @param what for messages: "reset"
-- @return what `f` returned
function M.run(session, what, f)
  return tried(session.patiently, session, what, f)
end

--- The same for a run that starts: a statement may take as long as the session's own.
function M.brief(session, what, f)
  return tried(function(_, body) return body() end, session, what, f)
end

return M
