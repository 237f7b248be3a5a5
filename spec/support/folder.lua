--- A folder of its own for one spec.
--
--   local folder = require "spec.support.folder"
--   local dir = folder.make()                     -- a path
--   folder.text(dir .. "/stderr")                 -- "" where there is no such file
--   folder.clear(dir)

local process = require "host.process"

local M = {}

--- A new, empty folder. Its path is short enough for the sockets in it.
function M.make()
  return assert(process.mkdtemp "/tmp/tidemill-spec-")
end

--- Remove a folder with all that is in it.
function M.clear(path)
  for _, name in ipairs(process.list(path)) do
    local inner = path .. "/" .. name
    if process.stat(inner).type == "dir" then M.clear(inner) else os.remove(inner) end
  end
  assert(os.remove(path))
end

--- A file's text; "" where there is none.
function M.text(path)
  local file <close> = io.open(path, "rb")
  return file and file:read("a") or ""
end

return M
