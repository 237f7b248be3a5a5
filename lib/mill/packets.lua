--- What a transaction writes, in as few packets as are good: small statements go together, and the
-- next packet is made while the server works on the last one.
--
-- The server stops at the first statement of a packet that fails. After a failure nothing more is
-- sent; the caller rolls back.

local M = {}

local Packets = {}
Packets.__index = Packets

--- Statements go together up to this size.
M.BYTES = 128 << 10

--- @param session mill.session, within a transaction
function M.new(session)
  return setmetatable({ session = session, list = {}, bytes = 0 }, Packets)
end

-- Wait for the packet that is under way.
local function settle(self)
  local list = self.under_way
  if not list then return true end
  self.under_way = nil
  local results, message, code, errno, at = self.session:take()
  if not results then return nil, message, code, errno, list[at] end
  return true
end

-- Send what was gathered, and do not wait for it.
local function send(self, point)
  local ok, message, code, errno, sql = settle(self)
  if not ok or #self.list == 0 then return ok, message, code, errno, sql end
  local list = self.list
  self.list, self.bytes = {}, 0
  ok, message, code, errno = self.session:start(list, point)
  if not ok then return nil, message, code, errno, list[1] end
  self.under_way = list
  return true
end

--- A statement; it is sent when enough were gathered.
-- @return true, or nil, message, code, errno, sql (of any statement until now)
function Packets:add(sql)
  if self.bytes > 0 and self.bytes + #sql > M.BYTES then
    local ok, message, code, errno, at = send(self)
    if not ok then return nil, message, code, errno, at end
  end
  self.list[#self.list + 1] = sql
  self.bytes = self.bytes + #sql
  return true
end

--- A statement for many rows: see start_rows of mill.session.
-- @return as add
function Packets:rows(sql, rows, types)
  local ok, message, code, errno, at = self:flush()
  if not ok then return nil, message, code, errno, at end
  ok, message, code, errno = self.session:start_rows(sql, rows, types)
  if not ok then return nil, message, code, errno, sql end
  self.under_way = { sql }
  return true
end

--- Send everything and wait until it is done.
-- @param point string or nil: the fail point before the last answer
-- @return true, or nil, message, code, errno, sql
function Packets:flush(point)
  local ok, message, code, errno, sql = send(self, point)
  if not ok then return nil, message, code, errno, sql end
  return settle(self)
end

--- Everything and COMMIT, which the server comes to only when all before it went well. From then on
-- `committing` is true: after a lost connection the outcome is unknown.
-- @return true, or nil, message, code, errno, sql
function Packets:commit(point)
  local ok, message, code, errno, sql = self:add "commit"
  if ok then ok, message, code, errno, sql = settle(self) end
  if not ok then return nil, message, code, errno, sql end
  self.committing = true
  return self:flush(point)
end

return M
