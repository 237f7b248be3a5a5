--- Runs `tidemill` as a user would, for specs of the commands.
--
--   local run = require "spec.support.command"
--   local r = run { "repl", "-e", "1 + 1" }       -- r.status, r.out, r.err
--   local r = run.terminal({ "repl" }, { { expect = "tm> " }, { send = "1\r" } })

local clock = require "host.clock"
local json = require "mill.json"
local process = require "host.process"

local M = {}

local DEADLINE_MS = 60000 * require "spec.support.slow"

local function environment(extra)
  local env = { TIDEMILL_HOME = process.home() }
  for name, value in pairs(extra or {}) do
    env[name] = value
  end
  return env
end

-- Feed stdin and take what comes until the end of stdout.
local function talk(child, input)
  local deadline = clock.mono_ms() + DEADLINE_MS
  local at, parts = 1, {}
  while true do
    if input and at <= #input then
      at = at + assert(child:write(input:sub(at, at + 65535), 0))
    elseif input then
      child:close_stdin()
      input = nil
    end
    local bytes, message = child:read("stdout", 20)
    if not bytes then
      assert(message == nil, message)
      return table.concat(parts)
    end
    parts[#parts + 1] = bytes
    assert(clock.mono_ms() < deadline, "the command did not end in time")
  end
end

--- Run a program. `o`: argv, env, stdin (text), cwd. Returns { status, out, err }.
function M.program(o)
  local folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-spec-"))
  local child <close> = assert(process.spawn {
    argv = o.argv, env = o.env, cwd = o.cwd, stdin = o.stdin and "pipe" or "null",
    stdout = "pipe", stderr = folder .. "/err",
  })
  local out = talk(child, o.stdin)
  local ended = assert(child:wait(DEADLINE_MS), "the command did not end in time")
  local file = assert(io.open(folder .. "/err", "rb"))
  local err = file:read("a")
  file:close()
  os.remove(folder .. "/err")
  os.remove(folder)
  return { status = ended.code or -ended.signal, out = out, err = err }
end

--- Run `tidemill` with these arguments. `o`: env, stdin, cwd.
function M.run(argv, o)
  o = o or {}
  return M.program {
    argv = { process.exe(), table.unpack(argv) }, env = environment(o.env), stdin = o.stdin,
    cwd = o.cwd,
  }
end

--- Run `tidemill` on a pseudo terminal. `steps`: see terminal.py. `o`: env, columns,
-- rows. Returns { ok, output, status, failed }.
function M.terminal(argv, steps, o)
  o = o or {}
  local env = environment(o.env)
  env.TERM = env.TERM or "xterm"
  env.LC_ALL = env.LC_ALL or "C.UTF-8"
  env.INPUTRC = "/dev/null"
  local result = M.program {
    argv = { "python3", process.home() .. "/spec/support/terminal.py" }, env = env,
    stdin = json.encode {
      argv = { process.exe(), table.unpack(argv) }, steps = steps, columns = o.columns or 80,
      rows = o.rows or 24,
    },
  }
  return assert(json.decode(result.out), result.err)
end

return setmetatable(M, { __call = function(_, argv, o) return M.run(argv, o) end })
