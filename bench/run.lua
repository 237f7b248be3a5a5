-- The benchmarks: each compares tidemill with a control in the same run, checks the results of every
-- timed run for exactness, and ends with ratios and their goals. Run by `make bench`.
--
--   tidemill exec bench/run.lua [NAME ...] [--runs N] [--scale X] [--server mysql|mariadb]
--
-- NAME is a file of bench/cases; without one, all of them but the curves. Each writes its figures to
-- var/bench/NAME.json.

package.path = "./?.lua;" .. package.path

local args = require "mill.args"
local common = require "bench.common"
local fault = require "mill.fault"
local json = require "mill.json"
local output = require "mill.output"
local process = require "host.process"

local WIDTH <const> = 140 -- columns of the tables, wherever they go

local ORDER = { "whole", "keys", "lua-map", "startup", "latency-100", "latency-1000", "latency-100k",
  "sink", "producer", "spool-latency" }

local SPEC = {
  usage = "tidemill exec bench/run.lua [NAME ...] [options]",
  options = {
    { "runs", "N", "runs of each side (3)", type = "integer" },
    { "scale", "X", "multiply the number of messages, e.g. 0.1" },
    { "server", "NAME", "only with this database", choices = { "mysql", "mariadb" } },
    { "peers", "LIST", "of the peers only these, e.g. streams,python-json" },
    { "tools", "DIR", "where the control programs are (build/bench)" },
    { "json", nil, "print the figures as JSON" },
  },
}

local opts, names = args.parse(SPEC, arg)
if opts.help then
  io.write(args.help(SPEC))
  return 0
end
if (opts.runs or 1) < 1 then fault.raise(fault.USAGE, "--runs: at least 1") end
common.runs = opts.runs or common.runs
common.scale = tonumber(opts.scale or 1) or fault.raise(fault.USAGE, "--scale: not a number")
common.server, common.peers = opts.server, opts.peers
common.tools = opts.tools or common.tools

if #names == 0 then names = ORDER end
local cases = {}
for _, name in ipairs(names) do
  local path = ("bench/cases/%s.lua"):format(name)
  local chunk, message = loadfile(path)
  if not chunk then fault.raise(fault.USAGE, "no benchmark '%s' (%s)", name, message) end
  cases[name] = chunk()
end

local function run_case(name)
  common.say("%s", name)
  local out = cases[name](common)
  out.name, out.runs, out.scale = name, common.runs, common.scale
  process.mkdir_p("var/bench")
  process.atomic_write(("var/bench/%s.json"):format(name), json.encode_pretty(out) .. "\n")
  return out
end

-- One line for each goal: "whole job / raw drain: 0.62 (goal >= 1.4)"
local function goal_line(g)
  local mark = g.met == nil and "" or g.met and "  met" or "  not met"
  return ("%s: %s%s%s"):format(g.what, g.text, g.goal and (" (goal %s)"):format(g.goal) or "", mark)
end

local function show(out)
  print(("== %s"):format(out.name))
  if out.table then print(output.table(out.table, { width = WIDTH })) end
  for _, g in ipairs(out.goals or {}) do print(goal_line(g)) end
end

local failed = false
local done = json.array {}
for _, name in ipairs(names) do
  local ok, result = xpcall(run_case, function(e)
    return fault.is(e) and e.message or debug.traceback(tostring(e), 2)
  end, name)
  if ok then
    done[#done + 1] = result
    if not opts.json then show(result) end
  else
    failed = true
    common.say("%s: %s", name, result)
  end
end
common.drop_topics()
if opts.json then print(json.encode(done)) end
return failed and 1 or 0
