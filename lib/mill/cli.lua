--- The command line: finds the command, parses its flags, turns failures into exit codes.
--
-- A command is a module mill.cmd.NAME with `summary`, `usage`, `options`, `exits` (see mill.args)
-- and `run(opts, rest)`, which returns the exit status. `raw = true` gives run the plain arguments;
-- `graceful` is the mode of signals it begins in (see process.graceful), else they raise.

local args = require "mill.args"
local fault = require "mill.fault"
local process = require "host.process"

local M = {}

M.COMMANDS = {
  "run", "up", "check", "migrate", "progress", "deadletters", "config", "runbook", "repl",
  "exec", "version",
}

local function usage()
  local lines = { "usage: tidemill COMMAND [options]\n\ncommands:" }
  for _, name in ipairs(M.COMMANDS) do
    lines[#lines + 1] = ("  %-12s %s"):format(name, require("mill.cmd." .. name).summary)
  end
  lines[#lines + 1] = "\n`tidemill COMMAND --help` tells more."
  return table.concat(lines, "\n") .. "\n"
end

local function known(name)
  for _, command in ipairs(M.COMMANDS) do
    if command == name then return true end
  end
  return false
end

-- Loaded only for an error: a run that ends well does without.
local function mask(text) return require("mill.mask").mask(text) end

-- Said by every command but `config`, which says it with the rest, whether it logs or not.
local function look_at_level(name)
  if name == "config" or not os.getenv "TIDEMILL_LOG" then return end
  local log = require "mill.log"
  local problem = log.problem()
  if problem then log.warn("%s", problem) end
end

local function run(name, argv)
  look_at_level(name)
  local command = require("mill.cmd." .. name)
  -- Until here a signal was only counted: one that stops what is just starting is no failure.
  process.graceful(command.graceful or false)
  if command.raw then return command.run(argv) end
  local opts, rest = args.parse(command, argv)
  if opts.help then
    io.stdout:write(args.help(command))
    return 0
  end
  return command.run(opts, rest)
end

--- Run the command line.
-- @param argv table: argv[0] is the program, argv[1..] its arguments.
-- @return integer: the exit status.
function M.main(argv)
  local name = argv[1]
  -- `help COMMAND` is `COMMAND --help`.
  if name == "help" and argv[2] and argv[2]:sub(1, 1) ~= "-" then
    if argv[3] then
      io.stderr:write(("tidemill: unexpected argument '%s'\n"):format(argv[3]))
      return fault.USAGE
    end
    name, argv = argv[2], { argv[2], "--help" }
  end
  if name == nil or name == "help" or name == "--help" or name == "-h" then
    (name and io.stdout or io.stderr):write(usage())
    return name and 0 or fault.USAGE
  end
  if name == "--version" then name = "version" end
  if not known(name) then
    io.stderr:write(("tidemill: unknown command '%s'%s\n`tidemill --help` lists the commands\n"):format(
      name, args.meant(name, M.COMMANDS)))
    return fault.USAGE
  end
  local ok, status = xpcall(run, function(err)
    process.graceful(true) -- a signal has raised: what is to be said about it is not to be raised in
    return fault.traced(err)
  end, name, table.move(argv, 2, #argv, 1, {}))
  if ok then return status or 0 end
  if fault.is(status) then
    io.stderr:write("tidemill: ", mask(status.message), "\n")
    return status.status
  end
  if fault.is_interrupt(status) then
    io.stderr:write "tidemill: interrupted\n"
    return 130
  end
  io.stderr:write("tidemill: ", mask(status), "\n")
  return fault.FAILED
end

return M
