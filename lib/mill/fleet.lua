--- The scripts of one `tidemill up`: their processes, their counts, and how they end together.
--
-- A producer is stopped first; a pipeline may then read to the end of the log; then it stops too.
-- What a script is, it says itself in its status file.

local clock = require "host.clock"
local fault = require "mill.fault"
local process = require "host.process"
local supervisor = require "mill.supervisor"
local tally = require "mill.tally"

local M = {}

local DRAIN_MS, STOP_MS = 10000, 15000

-- Exit codes after which another start cannot help; code 3, a server that is away, always may.
local FINAL = {
  [fault.USAGE] = "it was called wrongly or its script has an error",
  [fault.RUNNING] = "another run of the same name is alive",
  [fault.POLICY] = "its failure policy stopped it",
  [fault.FENCED] = "another producer of the same name took over",
}
local LIMITLESS = { [fault.SERVER] = true }

local Fleet = {}
Fleet.__index = Fleet

local function find_script(path, home)
  for _, candidate in ipairs { path, home .. "/" .. path } do
    local real = process.realpath(candidate)
    if real and process.stat(real).type == "file" then return real end
  end
  fault.raise(fault.USAGE, "up: there is no script %s", path)
end

-- "--set averages.size=10s" is for one script, "--set size=10s" for all.
local function settings_of(name, given)
  local argv = {}
  for _, setting in ipairs(given or {}) do
    local whose, rest = setting:match("^([%w_%-]+)%.(.*)$")
    if not whose or whose == name then
      argv[#argv + 1] = "--set"
      argv[#argv + 1] = whose and rest or setting
    end
  end
  return argv
end

local function check_settings(given, scripts)
  for _, setting in ipairs(given or {}) do
    local whose = setting:match("^([%w_%-]+)%.[^=]*=")
    local found = not whose
    for _, script in ipairs(scripts) do found = found or script.base == whose end
    if not found then
      fault.raise(fault.USAGE, "up: --set %s: no script here is called %s", setting, whose)
    end
  end
end

local function lock_of(self, script)
  local path = self.run_dir .. "/" .. script.name .. ".lock"
  local held, message, code, pid = process.lock(path)
  if held then return held end
  if code == "LOCKED" then
    fault.raise(fault.RUNNING, "up: %s is already supervised in this folder%s", script.name,
      pid and (" by process " .. pid) or "")
  end
  fault.raise(fault.FAILED, "up: %s", message)
end

--- The scripts to run.
-- @param options table: paths (array), var, exe, home, cwd, set (array of settings), instance,
--   env (function -> table, asked at each start), extra (function(script) -> array of settings),
--   wait (how long they may wait for the database when they start), before (function called before
--   each start)
function M.new(options)
  local self = setmetatable({
    scripts = {}, options = options, run_dir = options.var .. "/run", locks = {}, behind = {},
  }, Fleet)
  local seen = {}
  for _, path in ipairs(options.paths) do
    local base = path:match("([^/]+)%.lua$") or path:match("([^/]+)$") or path
    seen[base] = (seen[base] or 0) + 1
    self.scripts[#self.scripts + 1] = {
      path = find_script(path, options.home), base = base, copy = seen[base],
      name = seen[base] == 1 and base or base .. "-" .. seen[base],
    }
  end
  check_settings(options.set, self.scripts)
  local ok, message = process.mkdir_p(self.run_dir)
  if not ok then fault.raise(fault.FAILED, "up: %s", message) end
  return self
end

--- Take the names of the scripts in this folder; refuses when another up has one of them.
function Fleet:take()
  for _, script in ipairs(self.scripts) do
    self.locks[#self.locks + 1] = lock_of(self, script)
    script.tally = tally.new(script.name, self.run_dir .. "/" .. script.name .. ".status.json")
  end
end

local function command_of(self, script)
  local options = self.options
  local argv = { options.exe, "run", script.path, "--json" }
  local instance = options.instance
  if script.copy > 1 then
    instance = (instance or process.hostname()) .. "-" .. script.copy
  end
  if instance then
    argv[#argv + 1] = "--instance"
    argv[#argv + 1] = instance
  end
  if options.wait then
    argv[#argv + 1] = "--wait"
    argv[#argv + 1] = options.wait
  end
  local given = settings_of(script.base, options.set)
  for _, setting in ipairs(options.extra and options.extra(script) or {}) do
    argv[#argv + 1] = "--set"
    argv[#argv + 1] = setting
  end
  table.move(given, 1, #given, #argv + 1, argv)
  local env = { TIDEMILL_STATUS_FILE = script.tally.path, TIDEMILL_VAR = options.var }
  for key, value in pairs(options.env and options.env() or {}) do env[key] = value end
  return { argv = argv, env = env, cwd = options.cwd }
end

-- Scripts are named in the order in which the data flows; each may wait for those that read it.
local function needs_of(self, index, servers, ready)
  local needs = table.move(servers, 1, #servers, 1, {})
  for i = index + 1, ready and #self.scripts or 0 do needs[#needs + 1] = self.scripts[i].name end
  return needs
end

--- Add the scripts to a supervisor.
-- @param servers names of the services they need, or nil
-- @param follows names out of these that start the scripts anew, or nil
-- @param ready function(script) -> boolean; with it a script starts when those after it are ready
function Fleet:add_to(sup, servers, follows, ready)
  for index, script in ipairs(self.scripts) do
    local service = sup:add {
      name = script.name, needs = needs_of(self, index, servers or {}, ready), follows = follows,
      ends = true, final = FINAL, limitless = LIMITLESS, rank = 1,
      ready = ready and function() return ready(script) end,
      command = function()
        script.tally:begin()
        if self.options.before then self.options.before() end
        return command_of(self, script)
      end,
    }
    service.on_end = function(ended, status)
      script.tally:update()
      script.tally:finish(ended.output, status.signal ~= nil)
    end
    script.service = service
  end
end

--- Read what the scripts say about themselves.
function Fleet:update()
  for _, script in ipairs(self.scripts) do
    if script.service.child then script.tally:update() end
  end
end

local function sum(self, kind, key)
  local total = 0
  for _, script in ipairs(self.scripts) do
    if script.tally:kind() == kind then total = total + script.tally:count(key) end
  end
  return total
end

--- Have all scripts come to their end, by themselves or given up?
function Fleet:over()
  for _, script in ipairs(self.scripts) do
    if not supervisor.ended(script.service) then return false end
  end
  return true
end

-- What the copies of each pipeline have read, and how far they lag.
local function pipelines(self)
  local groups, by_path = {}, {}
  for _, script in ipairs(self.scripts) do
    if script.tally:kind() == "pipeline" then
      local group = by_path[script.path]
      if not group then
        group = { name = script.base, consumed = 0, lag = 0, updates = 0 }
        by_path[script.path] = group
        groups[#groups + 1] = group
      end
      group.consumed = group.consumed + script.tally:count "consumed"
      group.updates = group.updates + script.tally.updates
      local lag = script.tally.status.lag
      group.lag = group.lag + (math.type(lag) == "integer" and lag or 0)
      group.running = group.running or script.service.child ~= nil
    end
  end
  return groups
end

local function restarted(self)
  for _, script in ipairs(self.scripts) do
    if script.service.restarts > 0 then return true end
  end
  return false
end

-- A log of our own is as long as what was published; but a script that was killed may have done
-- more than it last told, and then only the lag says where the pipelines are.
local function length_known(self, own_log)
  return own_log and not restarted(self)
end

-- Have the pipelines read all that was published? Where others publish too they have when they
-- have read as much as ours did and told since, twice, that nothing is left.
local function drained(self, own_log, told)
  local known = length_known(self, own_log)
  local comparable = not restarted(self)
  local published = sum(self, "producer", "published")
  for _, group in ipairs(pipelines(self)) do
    local behind = comparable and group.consumed < published
    if not known then
      behind = behind or group.lag > 0 or group.updates < (told[group.name] or 0) + 2
    end
    if group.running and behind then return false end
  end
  return true
end

-- How often each pipeline has told about itself.
local function updates(self)
  local told = {}
  for _, group in ipairs(pipelines(self)) do told[group.name] = group.updates end
  return told
end

--- End together: producers, then what is left in the log is read, then all others.
-- @param sup the supervisor
-- @param own_log boolean: the log holds only what these producers published
-- @param tick function called while waiting; returns true to stop waiting
function Fleet:stop(sup, own_log, tick)
  local producers, others = {}, {}
  for _, script in ipairs(self.scripts) do
    local names = script.tally:kind() == "producer" and producers or others
    names[#names + 1] = script.name
  end
  sup.closing = true
  sup:stop(producers, STOP_MS, tick)
  local deadline, told = clock.mono_ms() + DRAIN_MS, updates(self)
  while #producers > 0 and clock.mono_ms() < deadline and not drained(self, own_log, told) do
    sup:step(20)
    self:update()
    if tick then tick() end
  end
  self.behind = {}
  for _, group in ipairs(pipelines(self)) do self.behind[group.name] = group.lag end
  sup:stop(others, STOP_MS, tick)
end

local function round_mb(kb)
  return math.floor(kb / 1024 * 10 + 0.5) / 10
end

local function memory(sup)
  local mb = { up = round_mb(process.peak_rss_kb() or 0) }
  for _, service in ipairs(sup.services) do
    if service.peak_rss_kb > 0 and not service.spec.once then
      mb[service.name] = round_mb(service.peak_rss_kb)
    end
  end
  return mb
end

-- What is not as it should be, as texts.
local function problems(self, sup, own_log, result)
  local list = {}
  local function add(fmt, ...) list[#list + 1] = fmt:format(...) end
  for _, service in ipairs(sup.services) do
    if service.state == "failed" then add("%s: %s", service.name, service.why or "failed") end
    if service.state == "backoff" then add("%s was not running at the end", service.name) end
    if service.killed then add("%s did not stop in time and was killed", service.name) end
  end
  local has_producer = false
  for _, script in ipairs(self.scripts) do
    has_producer = has_producer or script.tally:kind() == "producer"
    if not script.tally:kind() then add("%s never reported anything", script.name) end
  end
  if has_producer and result.published == 0 then add("nothing was published") end
  local groups = pipelines(self)
  for _, group in ipairs(groups) do
    if has_producer and length_known(self, own_log) then
      if group.consumed ~= result.published then
        add("%s consumed %d of %d published messages", group.name, group.consumed,
          result.published)
      end
    elseif (self.behind[group.name] or 0) > 0 then
      add("%s was %d messages behind when it stopped", group.name, self.behind[group.name])
    end
  end
  if #groups > 0 and result.rows == 0 then add("no row was written") end
  if result.dead > 0 then add("%d messages are dead letters", result.dead) end
  return list
end

--- The result of the whole run, for --json.
function Fleet:result(sup, own_log, elapsed_ms)
  local json = require "mill.json"
  local result = { seconds = math.floor(elapsed_ms / 100 + 0.5) / 10, restarts = {} }
  for _, key in ipairs { "fetched", "published", "failed" } do
    result[key] = sum(self, "producer", key)
  end
  for _, key in ipairs { "consumed", "rows", "commits", "dead", "late", "too_late" } do
    result[key] = sum(self, "pipeline", key)
  end
  result.latency_ms = { p50 = json.null, p99 = json.null }
  result.exact = true
  for _, script in ipairs(self.scripts) do
    result.exact = result.exact and script.tally.exact
    local latency = script.tally:latency()
    if latency then
      result.latency_ms.p50 = latency.p50 or json.null
      result.latency_ms.p99 = latency.p99 or json.null
    end
  end
  for _, service in ipairs(sup.services) do
    if service.restarts > 0 then result.restarts[service.name] = service.restarts end
  end
  result.peak_rss_mb = memory(sup)
  result.problems = json.array(problems(self, sup, own_log, result))
  result.ok = #result.problems == 0
  return result
end

--- Release the names and remove the status files.
function Fleet:close()
  for _, script in ipairs(self.scripts) do
    if script.tally then os.remove(script.tally.path) end
  end
  for _, lock in ipairs(self.locks) do lock:close() end
  self.locks = {}
end

Fleet.__close = Fleet.close

return M
