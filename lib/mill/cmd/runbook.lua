--- tidemill runbook: lists, shows and runs the tasks of runbook/.
--
-- A task is a Lua file; the comment at its top is the operator's manual. It
-- returns { run = function(ctx), settings = { {name, default, meaning, type},
-- ... }, options = { as mill.args has them }, arguments = "[FILE]" when it takes
-- any, steps = true when its results are steps, all to be shown }. run returns
-- an array of results (see mill.check) and a table of facts that --json adds to
-- its document. Whatever could not be done or checked, a crash too, is 3 and
-- never 1, which is a warning.

local args = require "mill.args"
local check = require "mill.check"
local clock = require "host.clock"
local duration = require "mill.duration"
local fault = require "mill.fault"
local json = require "mill.json"
local output = require "mill.output"
local process = require "host.process"

local M = {
  summary = "list, show or run the tasks of the runbook",
  usage = "tidemill runbook                     list the tasks\n"
    .. "       tidemill runbook show TASK           its manual and settings\n"
    .. "       tidemill runbook TASK [ARG] [options]  run it",
  raw = true, -- its exit statuses are its own
  options = {
    { "json", nil, "print one JSON document" },
    { "set", "KEY=VALUE", "override a setting of the task", many = true },
    { "verbose", nil, "spell out what passed; also -v" },
    { "color", "WHEN", "always, never or auto", choices = { "always", "never", "auto" } },
  },
  short = { ["-v"] = "verbose" },
  exits = {
    { 0, "ok" }, { 1, "warning" }, { 2, "critical, or the task failed" },
    { 3, "could not check, or wrong use" }, { 130, "interrupted" },
  },
}

local KINDS = { duration = "a duration", integer = "a whole number", boolean = "true or false" }
local COULD_NOT = check.EXIT.UNKNOWN
local INTERRUPTED = 130

local function folder()
  return process.home() .. "/runbook"
end

local function names()
  local list = {}
  for _, file in ipairs(process.list(folder()) or {}) do
    list[#list + 1] = file:match("^([%w_-]+)%.lua$")
  end
  table.sort(list)
  return list
end

local function path_of(name)
  if name:find("/", 1, true) or name:find("%.lua$") then
    return name
  end
  return ("%s/%s.lua"):format(folder(), name)
end

-- The comment at the top of a file, without its dashes.
local function manual(path)
  local lines = {}
  for line in io.lines(path) do
    local text = line:match("^%-%-%-? ?(.*)$")
    if not text then
      break
    end
    lines[#lines + 1] = text
  end
  return lines
end

local function load_task(name)
  local path = path_of(name)
  if not process.stat(path) then
    fault.raise(COULD_NOT, "there is no task '%s' (known: %s)", name, table.concat(names(), ", "))
  end
  local chunk, message = loadfile(path, "t")
  if not chunk then
    fault.raise(COULD_NOT, "%s", message)
  end
  local task = chunk(name)
  if type(task) ~= "table" or type(task.run) ~= "function" then
    fault.raise(COULD_NOT, "%s does not return a task: a table with a function 'run'", path)
  end
  task.name, task.path = name:match("([^/]+)%.lua$") or name, path
  return task
end

local function convert(setting, text)
  local name, default, kind = setting[1], setting[2], setting.type
  local value = text
  if kind == "duration" then
    value = duration.parse(text)
  elseif kind == "integer" then
    value = math.tointeger(tonumber(text))
  elseif kind == "boolean" then
    value = ({ ["true"] = true, yes = true, ["1"] = true, ["false"] = false, no = false,
      ["0"] = false })[text]
  end
  if value == nil then
    fault.raise(COULD_NOT, "--set %s: '%s' is not %s, such as %s", name, text, KINDS[kind],
      tostring(default))
  end
  return value
end

local function settings_of(task, given)
  local values, known = {}, {}
  for _, setting in ipairs(task.settings or {}) do
    known[#known + 1] = setting[1]
    local default = setting[2]
    values[setting[1]] = type(default) == "string" and setting.type and convert(setting, default)
      or default
  end
  for _, pair in ipairs(given or {}) do
    local key, text = pair:match("^([%w_]+)=(.*)$")
    local found
    for _, setting in ipairs(task.settings or {}) do
      found = setting[1] == key and setting or found
    end
    if not key then
      fault.raise(COULD_NOT, "--set %s: write it as key=value", pair)
    elseif not found then
      fault.raise(COULD_NOT, "--set %s: %s has no such setting (known: %s)", key, task.name,
        table.concat(known, ", "))
    end
    values[key] = convert(found, text)
  end
  return values
end

local function list_tasks(opts)
  local rows = {}
  for i, name in ipairs(names()) do
    rows[i] = { name = name, summary = manual(path_of(name))[1] }
  end
  if opts.json then
    io.stdout:write(json.encode(json.array(rows)), "\n")
    return 0
  end
  for _, row in ipairs(rows) do
    io.stdout:write(("%-12s %s\n"):format(row.name, row.summary))
  end
  io.stdout:write("\n`tidemill runbook show TASK` is its manual, `tidemill runbook TASK` runs "
    .. "it.\n")
  return 0
end

-- What `show TASK --json` prints.
local function described(task, usage)
  local options, settings = json.array {}, json.array {}
  for i, option in ipairs(task.options or {}) do
    options[i] = { name = option[1], value = option[2] or json.null, meaning = option[3] }
  end
  for i, setting in ipairs(task.settings or {}) do
    settings[i] = { name = setting[1], default = setting[2], meaning = setting[3] }
  end
  return { task = task.name, manual = table.concat(manual(task.path), "\n"), usage = usage,
    options = options, settings = settings }
end

local function show_task(name, opts)
  local task = load_task(name)
  local usage = ("tidemill runbook %s%s [--set key=value ...] [--json] [-v]"):format(task.name,
    task.arguments and " " .. task.arguments or "")
  if opts.json then
    io.stdout:write(json.encode(described(task, usage)), "\n")
    return 0
  end
  io.stdout:write(table.concat(manual(task.path), "\n"), "\n\nusage: ", usage, "\n")
  for _, option in ipairs(task.options or {}) do
    io.stdout:write(("  --%s %s\n"):format(option[1] .. (option[2] and " " .. option[2] or ""),
      option[3]))
  end
  if task.settings and #task.settings > 0 then
    io.stdout:write("\nsettings:\n")
    for _, setting in ipairs(task.settings) do
      io.stdout:write(("  %-14s %s (%s)\n"):format(setting[1], setting[3],
        setting[2] == "" and "none" or tostring(setting[2])))
    end
  end
  return 0
end

-- The document of --json.
local function document(task, results, facts, began, status)
  local worst, counts = check.worst(results)
  local doc = {
    schema = "runbook/v1", task = task.name, status = worst, exit = status,
    verdict = check.verdict(results), results = json.array(results),
    counts = { ok = counts.OK, warning = counts.WARN, critical = counts.CRIT,
      unknown = counts.UNKNOWN, skipped = counts.SKIPPED },
    at = os.date("!%Y-%m-%dT%H:%M:%SZ", began.wall // 1000),
    duration_ms = clock.mono_ms() - began.mono,
  }
  for key, value in pairs(facts or {}) do
    doc[key] = value
  end
  return output.mask(json.encode(doc))
end

local function run_task(task, opts, rest)
  if #rest > 0 and not task.arguments then
    fault.raise(COULD_NOT, "%s takes no arguments, got '%s'", task.name, rest[1])
  end
  local began = { wall = clock.wall_ms(), mono = clock.mono_ms() }
  local results, facts = task.run {
    set = settings_of(task, opts.set), args = rest,
    opts = opts,
  }
  local status = check.EXIT[(check.worst(results))]
  if opts.json then
    io.stdout:write(document(task, results, facts, began, status), "\n")
  else
    io.stdout:write((output.mask(check.text(results, opts.verbose or task.steps))))
  end
  return status
end

-- The place of the task in the arguments: the first that is no flag and no
-- flag's value.
local function task_at(argv)
  local i = 1
  while i <= #argv do
    if argv[i]:sub(1, 1) ~= "-" then
      return i
    end
    for _, option in ipairs(M.options) do
      if option[2] and argv[i] == "--" .. option[1] then
        i = i + 1
      end
    end
    i = i + 1
  end
end

local function with_options(task)
  local spec = { usage = M.usage, summary = M.summary, short = M.short, exits = M.exits,
    options = {} }
  for _, list in ipairs { M.options, task and task.options or {} } do
    table.move(list, 1, #list, #spec.options + 1, spec.options)
  end
  return spec
end

local function dispatch(argv)
  local at = task_at(argv)
  local word = at and table.remove(argv, at)
  local own = word ~= nil and word ~= "list" and word ~= "show"
  local task = own and load_task(word)
  local opts, rest = args.parse(with_options(task), argv)
  if opts.color then
    output.set_colour(opts.color)
  end
  if opts.help and not task then
    io.stdout:write(args.help(M))
    return 0
  elseif task and not opts.help then
    return run_task(task, opts, rest)
  end
  local surplus = rest[word == "show" and 2 or 1]
  if surplus and not opts.help then
    fault.raise(COULD_NOT, "unexpected argument '%s'", surplus)
  elseif task or word == "show" then
    return show_task(task and word or rest[1]
      or fault.raise(COULD_NOT, "show what? (known: %s)", table.concat(names(), ", ")), opts)
  end
  return list_tasks(opts)
end

function M.run(argv)
  local ok, status = xpcall(dispatch, fault.traced, argv)
  if ok then
    return status
  end
  local interrupted = fault.is_interrupt(status)
  io.stdout:flush()
  io.stderr:write("tidemill runbook: ", interrupted and "interrupted"
    or output.mask(tostring(status)), "\n")
  return interrupted and INTERRUPTED or COULD_NOT
end

return M
