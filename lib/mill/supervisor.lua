--- Runs programs as children and keeps them running: start order, readiness, restarts, stopping.
--
--   local sup <close> = supervisor.new { logs = "var/log", say = say, echo = echo }
--   sup:add { name = "averages", command = { argv = { exe, "run", script } } }
--   repeat sup:step(100) until done
--   sup:stop({ "averages" }, 5000)
--
-- Nothing runs in the background: all happens in step. Children die with this process, however it
-- ends, and leaving the scope kills what still runs. It knows nothing of Kafka or MySQL.

local clock = require "host.clock"
local process = require "host.process"

local M = {}

local BACKOFF_MS, BACKOFF_CAP_MS = 250, 30000
local STEADY_MS = 20000 -- a run this long was no part of a crash loop
local READY_MS = 60000 -- a start that takes longer has failed
local POLL_MS = 10 -- between two looks whether a starting service is ready
local STOP_MS = 10000
local SAMPLE_MS = 500 -- between two looks at memory
local LINE_MAX = 65536
local OUTPUT_MAX = 1048576
local LOG_MAX = 16 * 1024 * 1024

local KNOWN = {
  name = true, command = true, needs = true, follows = true, ready = true, once = true,
  ends = true, final = true, limitless = true, done = true, max_failures = true, rank = true,
  quiet = true, stop_signal = true,
}

local Supervisor = {}
Supervisor.__index = Supervisor

--- A supervisor without services.
-- @param options table: logs (folder of NAME.log; none: no files), say(service, level, text) hears
--   what happens to services, echo(service, line) hears each line a service writes to stderr,
--   steady_ms, backoff_ms, log_max (bytes; an older part is kept as NAME.log.1)
function M.new(options)
  return setmetatable({
    services = {}, by_name = {}, logs = options.logs,
    say = options.say or function() end, echo = options.echo or function() end,
    steady_ms = options.steady_ms or STEADY_MS, backoff_ms = options.backoff_ms or BACKOFF_MS,
    log_max = options.log_max or LOG_MAX,
  }, Supervisor)
end

--- Add a service; it starts in step, when what it needs is ready.
-- @param spec table:
--   name      of the service and its log
--   command   options for process.spawn, or a function that returns them at each start
--   needs     names of services that must be ready before it starts
--   follows   names out of needs: when one of them was started anew, this one is too
--   ready     function(service) asked while it starts: true when it is ready; default: at once
--   once      it is a step: it is over when it exits with 0, and then counts as ready
--   done      function(service) -> true | nil, message: called when a step is over
--   ends      an exit with 0 is its end, not a failure
--   final     set of exit codes after which it is not started again: { [2] = "why" }
--   limitless set of exit codes that are tried again for ever: { [3] = true }
--   max_failures  failures in a row before it is given up (default 5)
--   rank      the order in which stop_all stops: small ones first (default 0)
--   quiet     its lines go to the log only
function Supervisor:add(spec)
  for key in pairs(spec) do
    if not KNOWN[key] then error(("supervisor: unknown option '%s'"):format(key), 2) end
  end
  if self.by_name[spec.name] then error("supervisor: a second service " .. spec.name, 2) end
  local service = {
    name = spec.name, spec = spec, state = "waiting", restarts = 0, failures = 0, generation = 0,
    peak_rss_kb = 0, since = clock.mono_ms(), seen = {}, partial = { stderr = "" },
  }
  self.services[#self.services + 1] = service
  self.by_name[spec.name] = service
  return service
end

--- The service of this name: { name, state, pid, restarts, peak_rss_kb, output, last_line, ... }.
-- States: waiting (for what it needs), starting, running, backoff, stopping; and at the end done,
-- stopped, or failed.
function Supervisor:get(name)
  return self.by_name[name] or error("supervisor: no service " .. tostring(name), 2)
end

local ENDED = { done = true, stopped = true, failed = true }

--- Has the service come to its end?
function M.ended(service)
  return ENDED[service.state] or false
end

local function set_state(service, state)
  service.state = state
  service.since = clock.mono_ms()
end

-- --- what services write ---------------------------------------------------------------------

local function open_log(self, service)
  if not self.logs then return end
  local path = self.logs .. "/" .. service.name .. ".log"
  local file, message = io.open(path, "a")
  if not file then
    self.say(service, "warn", "no log is kept: " .. message)
    return
  end
  file:setvbuf("line")
  service.log, service.log_path, service.log_size = file, path, file:seek("end")
end

local function close_log(service)
  if service.log then service.log:close() end
  service.log = nil
end

local function write_line(self, service, line)
  -- What tidemill's own programs die of stands in front of the traceback.
  if not service.verdict then
    service.last_line = line
    service.verdict = line:match("^tidemill: (.+)")
  end
  if service.log then
    service.log:write(line, "\n")
    service.log_size = service.log_size + #line + 1
    if service.log_size > self.log_max then
      close_log(service)
      os.rename(service.log_path, service.log_path .. ".1")
      open_log(self, service)
    end
  end
  if not service.spec.quiet then self.echo(service, line) end
end

local function take_lines(self, service, bytes)
  local text = service.partial.stderr .. bytes
  local at = 1
  while true do
    local stop = text:find("\n", at, true)
    if not stop then break end
    write_line(self, service, text:sub(at, stop - 1))
    at = stop + 1
  end
  text = text:sub(at)
  if #text > LINE_MAX then
    write_line(self, service, text)
    text = ""
  end
  service.partial.stderr = text
end

-- Take what a child wrote, without waiting; at most a little, so that a loud child does not keep
-- the others waiting. At its end (`all`) everything that is left in the pipes.
local function drain(self, service, all)
  local child = service.child
  for _, stream in ipairs { "stderr", "stdout" } do
    local rounds = all and 64 or 4
    while rounds > 0 do
      local bytes = child:read(stream)
      if not bytes or bytes == "" then break end
      if stream == "stderr" then
        take_lines(self, service, bytes)
      elseif #service.output < OUTPUT_MAX then
        service.output = service.output .. bytes
      end
      rounds = rounds - 1
    end
  end
  if all and service.partial.stderr ~= "" then take_lines(self, service, "\n") end
end

-- --- starting and ending ---------------------------------------------------------------------

local function sample(service)
  local kb = service.pid and process.peak_rss_kb(service.pid)
  if kb and kb > service.peak_rss_kb then service.peak_rss_kb = kb end
end

local function is_ready(service)
  return service.state == "running" or (service.state == "done" and service.spec.once)
end

local function needs_met(self, service)
  for _, name in ipairs(service.spec.needs or {}) do
    if not is_ready(self:get(name)) then return false end
  end
  return true
end

local function give_up(self, service, why)
  set_state(service, "failed")
  service.why = why
  self.say(service, "error", why)
end

local function fail_run(self, service, why)
  local now = clock.mono_ms()
  if service.started_ms and now - service.started_ms >= self.steady_ms then
    service.failures = 0
  end
  service.failures = service.failures + 1
  local limitless = service.spec.limitless and service.spec.limitless[service.code]
  if not limitless and service.failures >= (service.spec.max_failures or 5) then
    give_up(self, service, ("%s; %d times in a row, so it is not started again"):format(why,
      service.failures))
    return
  end
  local delay = math.min(BACKOFF_CAP_MS, self.backoff_ms << math.min(service.failures - 1, 20))
  set_state(service, "backoff")
  service.why = why
  service.again_ms = now + delay
  self.say(service, "warn", ("%s; next start in %.1f s"):format(why, delay / 1000))
end

local function start(self, service)
  local command = service.spec.command
  if type(command) == "function" then command = command() end
  local options = { stdout = "pipe", stderr = "pipe", group = true }
  for key, value in pairs(command) do options[key] = value end
  if not service.log then open_log(self, service) end
  service.output, service.code, service.verdict, service.last_line = "", nil, nil, nil
  service.started_ms = clock.mono_ms()
  local child, message = process.spawn(options)
  if not child then
    fail_run(self, service, message)
    return
  end
  service.child, service.pid = child, child:pid()
  for _, name in ipairs(service.spec.follows or {}) do
    service.seen[name] = self:get(name).generation
  end
  set_state(service, "starting")
end

local function become_ready(self, service)
  set_state(service, "running")
  service.generation = service.generation + 1
  service.ready_ms = clock.mono_ms() - service.started_ms
  self.say(service, "debug", ("ready after %d ms, process %d"):format(service.ready_ms,
    service.pid))
end

local function reason(service, status)
  local how
  if status.signal then
    how = "was killed by signal " .. (status.signal_name or tostring(status.signal))
  else
    how = "ended with exit code " .. status.code
  end
  local line = service.verdict or service.last_line
  if line and line ~= "" then how = how .. " (" .. line:sub(1, 300) .. ")" end
  return how
end

local function finish_step(self, service)
  set_state(service, "done")
  service.generation = service.generation + 1
  if not service.spec.done then return end
  local ok, message = service.spec.done(service)
  if not ok then give_up(self, service, message) end
end

-- A child has ended and was reaped: what follows from that.
local function after_end(self, service, status)
  local spec, was_stopping = service.spec, service.state == "stopping"
  service.code, service.signal = status.code, status.signal
  if was_stopping and service.again then
    service.again = nil
    set_state(service, "waiting")
  elseif was_stopping then
    set_state(service, "stopped")
  elseif status.code == 0 and spec.once then
    finish_step(self, service)
  elseif status.code == 0 and spec.ends then
    set_state(service, "done")
    self.say(service, "info", "has ended")
  elseif spec.final and spec.final[status.code] then
    give_up(self, service, ("%s: %s; it is not started again"):format(reason(service, status),
      spec.final[status.code]))
  else
    service.restarts = service.restarts + 1
    fail_run(self, service, reason(service, status))
  end
  if ENDED[service.state] then close_log(service) end
end

local function look_for_end(self, service)
  local status = service.child:wait()
  if not status then return end
  drain(self, service, true)
  service.child:close()
  service.child, service.pid = nil, nil
  if service.on_end then service.on_end(service, status) end
  after_end(self, service, status)
end

local function must_follow(self, service)
  for name, generation in pairs(service.seen) do
    local other = self:get(name)
    if other.generation ~= generation and is_ready(other) then return name end
  end
end

local function advance_starting(self, service, now)
  local ready = service.spec.ready
  if service.spec.once then return end
  if not ready or ready(service) then
    become_ready(self, service)
  elseif now - service.since > READY_MS then
    self.say(service, "warn", ("was not ready after %d s and is killed"):format(READY_MS // 1000))
    service.child:kill("KILL")
  end
end

local function advance(self, service, now)
  if service.child then look_for_end(self, service) end
  if service.state == "waiting" then
    if not self.closing and needs_met(self, service) then start(self, service) end
  elseif service.state == "backoff" then
    if self.closing then
      set_state(service, "stopped")
    elseif now >= service.again_ms and needs_met(self, service) then
      start(self, service)
    end
  elseif service.state == "starting" then
    advance_starting(self, service, now)
  elseif service.state == "running" then
    local name = must_follow(self, service)
    if name then
      self.say(service, "info", name .. " was started anew, so this is too")
      M.ask_to_stop(service, STOP_MS)
      service.again = true
    end
  elseif service.state == "stopping" and service.kill_ms and now >= service.kill_ms then
    service.kill_ms = nil
    service.killed = true
    self.say(service, "warn", "did not stop in time and is killed")
    service.child:kill("KILL")
  end
end

-- How long nothing needs to be done, at most `timeout`.
local function until_next(self, timeout, now)
  for _, service in ipairs(self.services) do
    local at
    if service.state == "starting" and service.spec.ready then at = now + POLL_MS end
    if service.state == "backoff" then at = service.again_ms end
    if service.state == "stopping" then at = service.kill_ms end
    if at then timeout = math.min(timeout, math.max(at - now, 0)) end
  end
  return timeout
end

--- Do what is due, then wait for something to happen, at most `timeout_ms`.
function Supervisor:step(timeout_ms)
  local now = clock.mono_ms()
  if now - (self.sampled_ms or 0) >= SAMPLE_MS then
    self.sampled_ms = now
    for _, service in ipairs(self.services) do sample(service) end
  end
  local before = self:fingerprint()
  for _, service in ipairs(self.services) do advance(self, service, now) end
  if self:fingerprint() ~= before then timeout_ms = 0 end -- one change may allow the next
  local fds = {}
  for _, service in ipairs(self.services) do
    if service.child then
      for _, fd in ipairs { service.child:fd(), service.child:fd("stderr") or false,
                            service.child:fd("stdout") or false } do
        if fd then fds[#fds + 1] = { fd = fd } end
      end
    end
  end
  process.wait_fds(fds, until_next(self, timeout_ms, now))
  for _, service in ipairs(self.services) do
    if service.child then drain(self, service) end
  end
end

-- The states as one string: has anything changed?
function Supervisor:fingerprint()
  local parts = {}
  for i, service in ipairs(self.services) do parts[i] = service.state end
  return table.concat(parts, ",")
end

-- --- stopping --------------------------------------------------------------------------------

--- Ask one service to stop (SIGTERM); it is killed after `grace_ms`.
function M.ask_to_stop(service, grace_ms)
  if not service.child then
    if not ENDED[service.state] then set_state(service, "stopped") end
    return
  end
  service.again = nil -- it was only to be restarted
  if service.state == "stopping" then return end
  sample(service)
  set_state(service, "stopping")
  service.kill_ms = clock.mono_ms() + (grace_ms or STOP_MS)
  service.child:kill(service.spec.stop_signal or "TERM")
end

--- Kill all that runs, at once.
function Supervisor:kill_all()
  self.closing = true
  for _, service in ipairs(self.services) do
    if service.child then
      if service.state ~= "stopping" then set_state(service, "stopping") end
      service.kill_ms, service.again, service.killed = nil, nil, true
      service.child:kill("KILL")
    elseif not ENDED[service.state] then
      set_state(service, "stopped")
    end
  end
end

--- Stop services and wait for their end.
-- @param names array of names
-- @param grace_ms integer how long they may take before they are killed
-- @param tick function called between waits; may be nil
function Supervisor:stop(names, grace_ms, tick)
  for _, name in ipairs(names) do M.ask_to_stop(self:get(name), grace_ms) end
  for _, name in ipairs(names) do
    local service = self:get(name)
    while not ENDED[service.state] do
      self:step(50)
      if tick then tick() end
    end
  end
end

--- Stop everything in the order of ranks; nothing is started any more.
function Supervisor:stop_all(grace_ms, tick)
  self.closing = true
  local ranks, seen = {}, {}
  for _, service in ipairs(self.services) do
    local rank = service.spec.rank or 0
    if not seen[rank] then
      seen[rank] = {}
      ranks[#ranks + 1] = rank
    end
    table.insert(seen[rank], service.name)
  end
  table.sort(ranks)
  for _, rank in ipairs(ranks) do self:stop(seen[rank], grace_ms, tick) end
end

--- Kill and reap what still runs; also when the scope is left by an error.
function Supervisor:close()
  for _, service in ipairs(self.services) do
    if service.child then service.child:close() end
    service.child, service.pid = nil, nil
    close_log(service)
  end
end

Supervisor.__close = Supervisor.close

return M
