--- The table mill_instances: one run for each instance name, with a heartbeat in server time.

local fault = require "mill.fault"
local process = require "host.process"
local transaction = require "mill.transaction"

local M = {}

--- A run without a heartbeat for this long is taken for dead, wherever it ran.
M.DEAD_MS = 10000

--- Enter our run, or refuse because another one of this name is alive. Who was killed in the middle of a
-- heartbeat may hold the row for as long as its server takes: then it is tried anew.
-- @param session mill.session
-- @param run { name, instance, id }
function M.enter(session, run)
  transaction.brief(session, "instance", function(must)
    local found = must(session:query(session:bind([[select run_id, host, boot_id, pid,
      timestampdiff(microsecond, heartbeat_at, current_timestamp(3)) div 1000 from mill_instances
      where pipeline = ? and instance = ? for update]], run.name, run.instance))).rows[1]
    if found then
      local here = found[2] == process.hostname() and found[3] == process.boot_id()
      local dead = (here and not process.alive(found[4])) or found[5] > M.DEAD_MS
      if not dead then
        fault.raise(fault.RUNNING, "pipeline '%s' instance '%s' is already running: host %s, pid %d "
          .. "(heartbeat %.1f s ago); stop it, or join it with --instance NAME", run.name,
          run.instance, found[2], found[4], found[5] / 1000)
      end
    end
    local verb = found and "replace" or "insert"
    local result, message, code = session:query(session:bind(verb .. [[ into mill_instances (pipeline,
      instance, run_id, host, boot_id, pid, started_at, heartbeat_at)
      values (?, ?, ?, ?, ?, ?, current_timestamp(3), current_timestamp(3))]], run.name, run.instance,
      run.id, process.hostname(), process.boot_id(), process.pid()))
    -- Two that start at once both found nobody: the second one to write looks again, as after a deadlock.
    must(result, message, code == "DUPLICATE" and "DEADLOCK" or code)
  end)
end

--- Say that we live. Returns false when another run took the name over.
function M.beat(session, run)
  local result, message, code = session:query(session:bind([[update mill_instances set
    heartbeat_at = current_timestamp(3) where pipeline = ? and instance = ? and run_id = ?]],
    run.name, run.instance, run.id))
  if not result then return nil, message, code end
  return result.affected > 0
end

--- Leave: the name is free at once.
function M.leave(session, run)
  return session:query(session:bind([[delete from mill_instances where pipeline = ? and
    instance = ? and run_id = ?]], run.name, run.instance, run.id))
end

return M
