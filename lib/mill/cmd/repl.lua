--- tidemill repl: a Lua shell with the host's modules, for diagnosis.
--
-- On a terminal it edits lines, keeps a history and completes words; with -e,
-- or with inputs on stdin, it runs those and prints the results, up to the first
-- that fails.

local args = require "mill.args"
local config = require "mill.config"
local fault = require "mill.fault"
local output = require "mill.output"
local process = require "host.process"
local readline = require "host.readline"
local repl = require "mill.repl"

local M = {
  summary = "a Lua shell with the host's modules, for diagnosis",
  usage = "tidemill repl [-e CODE ...] [options]     (or inputs on stdin)",
  options = {
    { "eval", "CODE", "run CODE and print its results; also written -e", many = true },
    { "attach", "NAME", "run the code in the live process of that name: a pipeline, producer or up" },
    { "json", nil, "print results as JSON, one line for each input" },
    { "color", "WHEN", "always, never or auto", choices = { "always", "never", "auto" } },
  },
  short = { ["-e"] = "eval" },
  exits = {
    { 0, "ok" }, { 1, "an input failed; none after it was run" }, { 2, "wrong use" },
    { 3, "--attach: nothing of that name runs here, or it does not answer" }, { 130, "interrupted" },
  },
}

local PROMPT, MORE = "tm> ", "..> "
local HISTORY_LINES, HISTORY_BYTES = 1000, 1000000
local PRIVATE = 448 -- 0700
local INTERRUPTED = 130

local function history_path()
  local state = os.getenv("XDG_STATE_HOME")
  if not state or state == "" then
    local home = os.getenv("HOME")
    if not home or home == "" then
      return nil
    end
    state = home .. "/.local/state"
  end
  return state .. "/tidemill/history"
end

local ENCODE = { ["\\"] = "\\\\", ["\n"] = "\\n" }
local DECODE = { ["\\"] = "\\", n = "\n" }

-- Reads the file; one that has grown large is cut to its newest entries.
local function load_history(path)
  local file = io.open(path, "r")
  if not file then
    return
  end
  local lines = {}
  for line in file:lines() do
    lines[#lines + 1] = line
  end
  local size = file:seek("end")
  file:close()
  local first = math.max(1, #lines - HISTORY_LINES + 1)
  for i = first, #lines do
    readline.add((lines[i]:gsub("\\([\\n])", DECODE)))
  end
  if size > HISTORY_BYTES then
    local text = table.concat(lines, "\n", first) .. "\n"
    if readline.append(path .. ".new", text) then
      os.rename(path .. ".new", path)
    end
  end
end

-- The passwords that are set are hidden from the first line on, not from the first use of them. What
-- is wrong with a setting is told where it is used.
local function know_secrets()
  pcall(config.mysql)
  pcall(config.kafka_conf)
end

-- Keeps an input: as typed in memory, without secrets in the file. One that
-- starts with a blank is kept nowhere.
local function remember(state, code)
  if code:find("^%s") or not readline.add(code) or not state.history then
    return
  end
  local ok, message = readline.append(state.history,
    output.mask(code):gsub("[\\\n]", ENCODE) .. "\n")
  if not ok then
    io.stderr:write("history is not kept: ", message, "\n")
    state.history = nil
  end
end

local function open_history()
  local path = history_path()
  if not path then
    return nil
  end
  local ok, message = process.mkdir_p(path:match("^(.*)/"), PRIVATE)
  if not ok then
    io.stderr:write("history is not kept: ", message, "\n")
    return nil
  end
  load_history(path)
  return path
end

local function complain(text)
  io.stdout:flush()
  io.stderr:write(output.paint(output.mask(text), "red", 2), "\n")
end

-- Runs an input. Returns the exit status: 0 when it is well.
local function evaluate(session, code, place)
  local ok, message, interrupted = session:execute(code)
  if not ok then
    complain((place or "") .. message)
    return interrupted and INTERRUPTED or fault.FAILED
  end
  local written, why = io.stdout:flush()
  if not written then -- nobody reads any more, or the disk is full
    complain("repl: stdout: " .. why)
    return fault.FAILED
  end
  return 0
end

-- Adds a line to what is pending. Returns the input that it completes, if any.
local function collect(state, line)
  local code = state.pending and state.pending .. "\n" .. line or line
  if code:find("^%s*$") then
    return nil
  end
  local _, _, incomplete = state.session:compile(code)
  state.pending = incomplete and code or nil
  return not incomplete and code or nil
end

local function is_leave(code)
  return code == "exit" or code == "quit"
end

local function input(state, line)
  local code = collect(state, line)
  if is_leave(code) then
    return false
  elseif code then
    remember(state, code)
    evaluate(state.session, code)
  end
  return not state.leaving
end

local function interactive(state)
  state.history = open_history()
  local complete = function(text) return state.session:complete(text) end
  local banner = process.isatty(1) and io.stdout or io.stderr -- as host.readline with its prompts
  banner:write("tidemill shell, ", _VERSION, ". help() tells more, Ctrl-D leaves.\n")
  banner:flush()
  readline.loop(function()
    local line = readline.read(state.pending and MORE or PROMPT, complete)
    if line == nil then
      return false
    elseif line == false then
      state.pending = nil
      return true
    end
    return input(state, line)
  end)
  return 0
end

-- Stands for a session, in a live process. Only that process knows whether an input is complete: here
-- it is compiled without being run.
local function attached(name, opts, whole)
  local attach = require "mill.attach"
  local path, message = attach.find(name)
  if not path then fault.raise(fault.SERVER, "repl: %s", message) end
  local session = { compile = repl.new({}).compile, env = {} }
  function session.complete(_, text) return attach.complete(path, text) end
  function session.execute(_, code)
    local reply, why = attach.ask(path, code,
      { json = opts.json, width = output.width(1), whole = whole })
    if not reply then fault.raise(fault.SERVER, "repl: %s", why) end
    io.stdout:write(reply.output or "")
    return reply.ok, reply.error, false
  end
  return session
end

-- The inputs on stdin, each run when its last line is there.
local function piped(state)
  local number, first = 0, 1
  while true do
    local line, why = io.read()
    if process.stop_requested() > 0 then
      return INTERRUPTED
    elseif not line and why then
      fault.raise(fault.FAILED, "repl: stdin: %s", why)
    end
    number = number + 1
    first = state.pending and first or number
    local code = line and collect(state, line) or not line and state.pending
    if is_leave(code) then
      return 0
    end
    local status = code and evaluate(state.session, code, ("stdin:%d: "):format(first)) or 0
    if status ~= 0 or state.leaving or not line then
      return status
    end
  end
end

local function given(state, inputs)
  for _, code in ipairs(inputs) do
    local status = evaluate(state.session, code)
    if status ~= 0 or state.leaving then
      return status
    end
  end
  return 0
end

function M.run(opts, rest)
  if #rest > 0 then
    fault.raise(fault.USAGE, "repl takes no arguments, got '%s'\n%s", rest[1], args.help(M))
  end
  if opts.color then
    output.set_colour(opts.color)
  end
  know_secrets()
  local state, whole = {}, not process.isatty(1)
  local globals = require("mill.shell").globals(function() state.leaving = true end)
  state.session = opts.attach and attached(opts.attach, opts, whole)
    or repl.new { json = opts.json, whole = whole, globals = globals }
  if opts.eval then
    return given(state, opts.eval)
  end
  return process.isatty(0) and interactive(state) or piped(state)
end

return M
