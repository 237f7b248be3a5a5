--- A soak: the whole job at a steady rate for a long time, and whether every process stays flat.
--
--   tidemill exec spec/soak/soak.lua [--minutes N] [--rate N] [--out DIR] [--json]
--
-- Run by `make soak`, which starts the real servers. Three lines run side by side on real Kafka and
-- MySQL: a few keys at a steady rate; keys that come and go; and a simulated exchange with the
-- producer. Each is averaged by a pipeline of its own in windows of 10 s. It ends with a verdict for
-- each process and with the tables compared row by row with what was sent.

package.path = "./?.lua;" .. package.path

local args = require "mill.args"
local clock = require "host.clock"
local http = require "host.http"
local json = require "mill.json"
local lines = require "spec.soak.lines"
local process = require "host.process"
local sample = require "spec.soak.sample"
local tell = require "spec.soak.tell"
local verdict = require "spec.soak.verdict"

local opts = args.parse({
  usage = "tidemill exec spec/soak/soak.lua [options]",
  options = {
    { "minutes", "N", "how long (30)" },
    { "rate", "N", "messages a second of the steady line (2000)", type = "integer" },
    { "churn", "N", "messages a second of keys that come and go (500)", type = "integer" },
    { "every", "DURATION", "between two samples (5s)", type = "duration" },
    { "out", "DIR", "where samples and plot go (var/soak)" },
    { "json", nil, "print one JSON object" },
  },
  exits = {
    { 0, "every process was flat and every number right" },
    { 1, "one was not" },
  },
}, arg)

local seconds = (tonumber(opts.minutes) or 30) * 60
local every_ms = opts.every or 5000
local out = opts.out or "var/soak"
assert(process.mkdir_p(out))

local function say(fmt, ...)
  io.stderr:write("soak: ", fmt:format(...), "\n")
end

-- Take one sample of every process.
local function look(soak, client, began)
  local t = (clock.mono_ms() - began) / 1000
  for _, member in ipairs(soak.members) do
    local result = member.child:result(0)
    if result then
      return nil, ("%s ended with %s: %s"):format(member.name, tostring(result.status or
        result.signal), result.err:sub(-500))
    end
    local now = assert(sample.process(member.child:pid()), member.name .. " is not in /proc")
    now.t = t
    if member.url then
      local ok, message = sample.metrics(client, member.url, now)
      if not ok then
        member.unanswered = (member.unanswered or 0) + 1
        say("%s: no metrics: %s", member.name, message)
      end
    end
    table.insert(member.samples, now)
  end
  return t
end

-- Sample until the time is over; true, or nil and what went wrong.
local function watch(soak, client)
  local began, next_say = clock.mono_ms(), 60
  for turn = 0, math.huge do
    clock.sleep(math.max(0, began + turn * every_ms - clock.mono_ms()))
    if clock.mono_ms() - began >= seconds * 1000 then return true end
    local t, message = look(soak, client, began)
    if not t then return nil, message end
    if process.stop_requested() > 0 then return nil, "stopped by a signal" end
    if t >= next_say then
      next_say = t + 60
      say("%3.0f min: %s", t / 60, tell.line(soak.members))
    end
  end
end

local function main()
  process.graceful(true)
  local soak <close> = lines.start {
    seconds = seconds, rate = opts.rate or 2000, churn = opts.churn or 500, out = out, say = say,
  }
  local client <close> = assert(http.client {})
  local report = { seconds = seconds, problems = json.array {} }
  local function problem(fmt, ...)
    table.insert(report.problems, fmt:format(...))
  end
  local ok, message = watch(soak, client)
  if ok then
    report.tables = soak:check(problem)
  else
    problem("%s", message)
  end
  report.processes = {}
  for _, member in ipairs(soak.members) do
    local judged = verdict.judge(member.samples)
    judged.name, judged.lag = member.name, verdict.lag(member.samples)
    for _, text in ipairs(judged.problems) do problem("%s: %s", member.name, text) end
    judged.problems = nil
    table.insert(report.processes, judged)
  end
  report.flat = #report.problems == 0
  tell.files(out, soak.members, report)
  print(opts.json and json.encode(report) or tell.text(report))
  if not report.flat then error("soak: not flat, or not right", 0) end
end

main()
