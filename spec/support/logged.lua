--- The log's lines, for specs that read them.
--
--   local lines = logged.take()     -- from now on, until log.to(nil)
--   logged.count(lines, " WARN ")

local log = require "mill.log"

local M = {}

--- Take the log's lines. @return array that they are added to
function M.take()
  local lines = {}
  log.to { write = function(_, ...) lines[#lines + 1] = table.concat { ... } end }
  return lines
end

--- How many of `lines` have the pattern.
function M.count(lines, pattern)
  local n = 0
  for _, line in ipairs(lines) do n = n + (line:find(pattern) and 1 or 0) end
  return n
end

return M
