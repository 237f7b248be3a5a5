--- tidemill exec FILE [ARG ...]: run a Lua file with the host's modules, as `lua FILE` would.

local fault = require "mill.fault"

local M = {
  summary = "run a Lua file with the host's modules",
  usage = "tidemill exec FILE [ARG ...]",
  raw = true, -- what follows FILE is the file's own
}

function M.run(argv)
  local file = argv[1]
  if file == "--help" or file == "-h" then
    io.stdout:write(("usage: %s\n%s\n"):format(M.usage, M.summary))
    return 0
  end
  if not file then fault.raise(fault.USAGE, "usage: %s", M.usage) end
  local chunk, message = loadfile(file)
  if not chunk then fault.raise(fault.USAGE, "%s", message) end
  arg = { [0] = file, table.unpack(argv, 2) } -- luacheck: ignore 111 121
  local status = chunk(table.unpack(arg))
  return math.type(status) == "integer" and status or 0
end

return M
