--- tidemill up: run producer and aggregation side by side and keep them running.

local clock = require "host.clock"
local dev = require "mill.dev"
local fault = require "mill.fault"
local fleet = require "mill.fleet"
local json = require "mill.json"
local log = require "mill.log"
local output = require "mill.output"
local process = require "host.process"
local supervisor = require "mill.supervisor"
local view = require "mill.view"

local M = {
  summary = "run producer and aggregation side by side and keep them running",
  usage = "tidemill up [SCRIPT ...] [options]     (default: scripts/prices.lua "
    .. "scripts/averages.lua)",
  graceful = "counted",
  options = {
    { "dev", nil, "bring broker, database and simulated exchange (LIVE=1: the real one)" },
    { "for", "DURATION", "stop after this long", type = "duration" },
    { "json", nil, "print one JSON object at the end" },
    { "set", "KEY=VALUE", "a setting of the scripts; NAME.KEY=VALUE: of one", many = true },
    { "instance", "NAME", "instance name of the scripts; default: the host's name" },
    { "plain", nil, "lines instead of the live view on a terminal" },
    { "verbose", nil, "show the servers' own lines too" },
  },
  exits = {
    { 0, "ended as asked; with --for or --json: and all is well" },
    { 1, "a script failed, or the result is not ok" },
    { 2, "wrong use, or no such script" },
    { 3, "a server of --dev did not start" },
    { 4, "the same is already running in this folder" },
    { 130, "ended at once by a second signal" },
  },
}

local DRAW_MS, LINE_MS = 1000, 5000
local MESSAGES = 50
local STOP_MS = 20000
local READER_MS = 6000 -- --dev: a producer waits this long for a pipeline to get its partitions

-- Files of a clone stay in the clone; an installed program uses the current folder.
local function var_folder(home, exe)
  local var = os.getenv("TIDEMILL_VAR")
  if not var or var == "" then
    local clone = process.realpath(exe:match("^(.*)/[^/]*$") or ".") == home
    var = clone and home .. "/var" or "var"
  end
  local ok, message = process.mkdir_p(var .. "/log")
  if not ok then fault.raise(fault.FAILED, "up: %s", message) end
  return process.realpath(var)
end

local Up = {}
Up.__index = Up

-- --- what is shown ---------------------------------------------------------------------------

local function remember(self, text)
  local messages = self.messages
  messages[#messages + 1] = text
  if #messages > MESSAGES then table.remove(messages, 1) end
end

local function heard(self, service, line)
  if not self.screen then
    io.stderr:write(service.name, " | ", output.clean((line:gsub("\t", "  "))), "\n")
  elseif line:find(" WARN ", 1, true) or line:find(" ERROR ", 1, true)
      or line:find("^tidemill: ") then
    remember(self, service.name .. ": " .. line:gsub("^%S+Z ", ""))
  end
end

local function said(self, service, level, text)
  log[level]("%s %s", service.name, text)
  if level ~= "debug" and self.screen then remember(self, service.name .. " " .. text) end
end

local function facts(self)
  local list = {}
  for _, service in ipairs(self.sup.services) do
    local is_script = false
    for _, script in ipairs(self.fleet.scripts) do
      is_script = is_script or script.service == service
    end
    if not is_script and not (service.spec.once and service.state == "done") then
      local where = self.dev and self.dev.address[service.name]
      list[#list + 1] = ("%s %s%s"):format(service.name, service.state,
        where and service.state == "running" and " " .. where or "")
    end
  end
  list[#list + 1] = "logs in " .. self.var .. "/log"
  return list
end

local function state_text(service)
  if service.state == "backoff" then
    local left = math.max(0, service.again_ms - clock.mono_ms())
    return ("backoff %.0f s"):format(left / 1000)
  end
  return service.state .. (service.restarts > 0 and (" (%d restarts)"):format(service.restarts)
    or "")
end

local function model(self)
  local stages, newest = {}, nil
  for _, script in ipairs(self.fleet.scripts) do
    for _, stage in ipairs(script.tally:stages(state_text(script.service))) do
      stages[#stages + 1] = stage
    end
    newest = newest or script.tally:newest()
  end
  return {
    title = "tidemill up" .. (self.dev and (self.live and " --dev, REAL exchange (LIVE=1)"
      or " --dev, simulated exchange") or ""),
    elapsed_ms = clock.mono_ms() - self.started_ms,
    hint = self.stopping and "stopping; Ctrl-C again: at once" or "Ctrl-C stops",
    facts = facts(self), stages = stages, newest = newest, messages = self.messages,
  }
end

local function show_lines(self)
  for _, script in ipairs(self.fleet.scripts) do
    local line = script.tally:line()
    if line then
      if self.json then log.info("%s", line) else self.lines(line) end
    end
  end
end

-- Called between waits: read the counts, show them when it is time. A second signal kills all.
local function tick(self)
  self.fleet:update()
  if self.dev and not self.announced and self.sup:get("migrate").state == "done"
      and self.sup:get("broker").state == "running" then
    self.announced = true
    self.dev:write_env()
    log.info("broker %s, database %s, %s; another shell: . %s/dev/env", self.dev.address.broker,
      self.dev.socket, self.live and "the REAL exchange (LIVE=1)"
        or "a simulated exchange", self.var)
  end
  if process.stop_requested() > 1 and not self.aborted then
    self.aborted = true
    self.sup:kill_all()
  end
  local now = clock.mono_ms()
  if self.screen then
    if now >= (self.draw_ms or 0) or self.screen:resized() then
      self.draw_ms = now + DRAW_MS
      self.screen:draw(model(self))
    end
  elseif now >= self.line_ms then
    self.line_ms = now + LINE_MS
    show_lines(self)
  end
end

-- --- the run ---------------------------------------------------------------------------------

-- A server that is given up ends everything: scripts that wait for it would wait for ever.
local function failed_server(self)
  for _, service in ipairs(self.sup.services) do
    local script = false
    for _, other in ipairs(self.fleet.scripts) do script = script or other.service == service end
    if service.state == "failed" and not script then return service end
  end
end

-- Does the log hold what the producers published, and nothing else? The development broker has it in
-- memory: one that died took with it what nobody had read.
local function own_log(self)
  if not self.dev then return false end
  for _, service in ipairs(self.sup.services) do
    if service.name == "broker" and service.restarts > 0 then return false end
  end
  return true
end

local function supervise(self)
  local until_ms = self.duration_ms and self.started_ms + self.duration_ms
  self.attach = require("mill.attach").open("up", {
    status = function()
      return self.fleet:result(self.sup, own_log(self), clock.mono_ms() - self.started_ms)
    end,
  }, self.var .. "/state")
  while true do
    local now = clock.mono_ms()
    if self.attach then self.attach:serve() end
    if process.stop_requested() > 0 or (until_ms and now >= until_ms) then return end
    if failed_server(self) or self.fleet:over() then return end
    self.sup:step(until_ms and math.min(100, until_ms - now) or 100)
    tick(self)
  end
end

local function stop(self)
  self.stopping, self.draw_ms = true, 0
  local function waiting() tick(self) end
  self.fleet:stop(self.sup, own_log(self), waiting)
  self.sup:stop_all(STOP_MS, waiting)
end

local function open_screen(self, opts)
  if opts.json or opts.plain or not process.isatty(1) or os.getenv("TERM") == "dumb" then
    return
  end
  local file, message = io.open(self.var .. "/log/up.log", "a")
  if not file then fault.raise(fault.FAILED, "up: %s", message) end
  file:setvbuf("line")
  log.to(file)
  return view.screen()
end

local function build(opts, paths)
  local exe, home = process.exe(), process.realpath(process.home())
  local self = setmetatable({
    messages = {}, json = opts.json, duration_ms = opts["for"], started_ms = clock.mono_ms(),
    line_ms = clock.mono_ms() + LINE_MS, live = os.getenv("LIVE") == "1",
    lines = function(line)
      io.stdout:write(line, "\n")
      io.stdout:flush()
    end,
  }, Up)
  self.var = var_folder(home, exe)
  local cwd = process.realpath(".")
  self.fleet = fleet.new {
    paths = #paths > 0 and paths or { "scripts/prices.lua", "scripts/averages.lua" },
    var = self.var, exe = exe, home = home, cwd = cwd, set = opts.set, instance = opts.instance,
    wait = opts.dev and "60s" or nil,
    before = function() if self.dev then self.dev:begin_log() end end,
    env = function() return self.dev and self.dev:env() or {} end,
    extra = function(script)
      local address = self.dev and script.base == "prices" and self.dev.address.exchange
      return address and { "endpoints=http://" .. address } or {}
    end,
  }
  self.sup = supervisor.new {
    logs = self.var .. "/log",
    say = function(...) said(self, ...) end,
    echo = function(...) heard(self, ...) end,
  }
  if opts.dev then
    self.dev = dev.new {
      var = self.var, exe = exe, home = home, cwd = cwd, live = self.live,
    }
    self.dev:add_to(self.sup)
    for _, service in ipairs(self.sup.services) do
      service.spec.quiet = service.spec.quiet and not opts.verbose
    end
  end
  return self
end

-- The first join of a group takes the development broker 3 s. A producer that did not wait for it
-- would make the first messages as old as that. Elsewhere nobody waits: producers must go on.
local function reads(self, script)
  local service, kind = script.service, script.tally:kind()
  return kind == "producer" or clock.mono_ms() - service.started_ms > READER_MS
    or self.dev:owns_partitions(service.pid)
end

--- Kill what still runs, release locks, give the terminal back.
function Up:close()
  self.sup:close()
  if self.screen then self.screen:close() end
  if self.attach then self.attach:close() end
  log.to(nil)
  self.fleet:close()
  if self.dev then self.dev:close() end
end

Up.__close = Up.close

local function finish(self, opts)
  if self.screen then self.screen:close() end
  log.to(nil)
  local result = self.fleet:result(self.sup, own_log(self),
    clock.mono_ms() - self.started_ms)
  if opts.json then
    self.lines(json.encode(result))
  else
    show_lines(self)
  end
  if self.aborted then return 130 end
  local server = failed_server(self)
  if server then
    fault.raise(fault.SERVER, "up: %s %s (see %s/log/%s.log)", server.name, server.why, self.var,
      server.name)
  end
  if not result.ok and not opts.json then
    for _, problem in ipairs(result.problems) do log.error("%s", problem) end
  end
  if opts.json or opts["for"] then return result.ok and 0 or fault.FAILED end
  for _, script in ipairs(self.fleet.scripts) do
    if script.service.state == "failed" then return fault.FAILED end
  end
  return 0
end

function M.run(opts, rest)
  log.name("up")
  local self <close> = build(opts, rest)
  self.fleet:take()
  self.fleet:add_to(self.sup, self.dev and self.dev:needs(), self.dev and { "broker" },
    self.dev and function(script) return reads(self, script) end)
  self.screen = open_screen(self, opts)
  supervise(self)
  stop(self)
  return finish(self, opts)
end

return M
