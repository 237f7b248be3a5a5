--- Lua-side fuzz: random values at every public function and method of every module.
--
--   tidemill exec fuzz/modules.lua CALLS [SEED [NAME [SECONDS]]]
--
-- Functions are found in the modules and methods in the metatables, so that a new one is tried
-- without being listed; NAME takes those whose names contain it. What must not be tried freely is
-- fenced in fuzz/modules_samples.lua. Calls are made by worker processes, one for each part of the
-- modules, in a scratch folder of its own with a PATH of four harmless programs. This process
-- watches them: a worker that dies, that does not answer a SIGINT in a call, or whose memory and
-- descriptors grow over repetitions of the same calls is a finding, and so is a message that
-- speaks of a library's inner variable. A finding names its part, seed and call. The last line
-- tells what was tried.
local clock = require "host.clock"
local process = require "host.process"

local HERE = assert(process.realpath(arg[0]:match("^(.*)/") or "."))

if arg[1] == "--worker" then
  package.path = HERE .. "/?.lua;" .. package.path
  return require("modules_worker").run {
    part = arg[2], seed = math.tointeger(tonumber(arg[3])), calls = math.tointeger(tonumber(arg[4])),
    rounds = math.tointeger(tonumber(arg[5])), only = arg[6] ~= "" and arg[6] or nil,
  }
end

local CALLS = math.tointeger(tonumber(arg[1])) or 20000
local SEED = math.tointeger(tonumber(arg[2])) or os.time()
local ONLY = arg[3] or ""
local DEADLINE_MS = clock.mono_ms() + (tonumber(arg[4]) or 1 << 31) * 1000
-- A call is interrupted after a while, and has to end soon after that.
local PATIENCE_MS, HANG_MS = 1000, 30000
-- So many different calls a round, and the same round so many times in one process.
local ROUND, ROUNDS = 250, 4
local PROGRAMS = { "true", "false", "cat", "sleep" }

local program = assert(process.exe())
local scratch = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-fuzz-"))
local findings, done, started = 0, 0, clock.mono_ms()

local function shell(fmt, ...) assert(os.execute(fmt:format(...))) end

local known = {}

local function finding(job, text)
  local what = text:match("^[%w_.]+: ") or text
  if known[what] then return end
  known[what] = true
  findings = findings + 1
  io.write(("modules: part %s, seed %d: %s\n  repeat: tidemill exec fuzz/modules.lua %d %d %s\n")
    :format(job.part, job.seed, text, job.calls * ROUNDS, job.seed, ONLY))
  io.flush()
end

local function start(job)
  job.folder = ("%s/%s-%d"):format(scratch, job.part, job.seed)
  shell("mkdir -p '%s' '%s/bin'", job.folder, scratch)
  job.child = assert(process.spawn {
    argv = { program, "exec", HERE .. "/modules.lua", "--worker", job.part, tostring(job.seed),
      tostring(job.calls), tostring(ROUNDS), ONLY },
    cwd = job.folder, stdin = "null", stdout = "pipe", stderr = job.folder .. "/stderr",
    group = true,
    env = { PATH = scratch .. "/bin", HOME = job.folder, TMPDIR = job.folder,
      TIDEMILL_HOME = process.home(), TIDEMILL_MYSQL = false, TIDEMILL_KAFKA = false,
      TIDEMILL_CONFIG = job.folder .. "/none.conf" },
  })
  job.text, job.at, job.call, job.name = "", clock.mono_ms(), 0, "its start"
end

-- Take what the worker said: the call it is in, and what it found itself.
local function listen(job)
  local bytes = job.child:read("stdout", 50)
  if not bytes then return false end
  if bytes == "" then return true end
  job.text = job.text .. bytes
  local from = 1
  while true do
    local a, b, kind, number, text = job.text:find("@@(%u)(%d+) ([^\n]*)\n", from)
    if not a then break end
    from = b + 1
    job.at, job.poked = clock.mono_ms(), false
    if kind == "C" then
      job.call, job.name = math.tointeger(tonumber(number)), text
      done = done + 1
    elseif kind == "F" then
      finding(job, text)
    elseif kind == "D" then
      job.complete = true
    end
  end
  job.text = job.text:sub(from):sub(-4096)
  return true
end

local function tail(job)
  local file = io.open(job.folder .. "/stderr", "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  local report = text:find("==%d+==ERROR", 1) or text:find("runtime error:", 1, true)
  return report and text:sub(report, report + 3500) or text:sub(-1500)
end

local function watch(job)
  while listen(job) do
    local waited = clock.mono_ms() - job.at
    if waited > HANG_MS then
      finding(job, ("call %d, %s: does not end"):format(job.call, job.name))
      job.child:kill("ABRT")
      job.hung = true
      job.at = math.maxinteger
    elseif waited > PATIENCE_MS and not job.poked and job.call > 0 and not job.complete then
      job.poked = true
      job.child:kill("INT")
    end
  end
  local ended = job.child:wait(HANG_MS)
  if job.hung or ONLY ~= "" and ended and ended.code == 2 then return end
  if not ended then
    finding(job, "does not exit")
  elseif ended.code ~= 0 or not job.complete then
    finding(job, ("call %d, %s: ended with %s %s\n%s"):format(job.call, job.name,
      ended.signal and "signal" or "code", tostring(ended.signal or ended.code), tail(job)))
  end
end

shell("mkdir -p '%s/bin'", scratch)
for _, name in ipairs(PROGRAMS) do
  shell("ln -s \"$(command -v %s)\" '%s/bin/%s'", name, scratch, name)
end
math.randomseed(SEED)
local parts = { "host", "mill" }
local seed = SEED
while done < CALLS and findings < 10 and clock.mono_ms() < DEADLINE_MS do
  for _, part in ipairs(parts) do
    local job = { part = part, seed = seed, calls = math.min(ROUND, CALLS) }
    start(job)
    watch(job)
    job.child:close()
  end
  seed = seed + 1
end
shell("rm -rf '%s'", scratch)
print(("modules: seed %d, %d calls: %d findings, %d s"):format(SEED, done, findings,
  (clock.mono_ms() - started) // 1000))
return findings == 0 and 0 or 1
