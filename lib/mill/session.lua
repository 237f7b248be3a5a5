--- A database connection that comes back: used from a task (a coroutine) without blocking, or
-- directly, waiting.
--
-- In a task, a query is sent and the task yields until its answer is there, so that the one thread
-- goes on polling Kafka meanwhile. After an error that leaves the connection in doubt it is closed;
-- the next use opens a new one, as it does when the server has closed a quiet one. Only a
-- transaction never goes on elsewhere: until it is rolled back every statement fails.

local clock = require "host.clock"
local failpoint = require "mill.failpoint"
local mysql = require "host.mysql"

local M = {}

local Session = {}
Session.__index = Session

-- Codes after which the connection cannot be used any more.
local BROKEN = {
  GONE = true, REFUSED = true, TIMEOUT = true, INTERRUPTED = true, TOOMANY = true, AUTH = true,
  TLS = true, READONLY = true,
}

--- A statement without an answer for this long is given up: the network may have lost the server
-- without a word. Lock waits end by themselves long before.
M.ANSWER_MS = 60000

--- The same for a command that somebody waits for, and that may delete millions of rows.
M.COMMAND_MS = 4 * 3600 * 1000

--- Codes that waiting may cure.
M.AWAY = {
  GONE = true, REFUSED = true, TIMEOUT = true, TOOMANY = true, READONLY = true,
  FULL = true,
  TLS = true, -- a handshake cut off by a server on its way down
}

--- Codes after which the same transaction is tried again at once.
M.AGAIN = { DEADLOCK = true, LOCKWAIT = true, KILLED = true }

--- A new session; it connects at its first use.
-- @param options table for host.mysql.connect
-- @return session
function M.new(options)
  local copy = {}
  for key, value in pairs(options) do copy[key] = value end
  copy.multi = true
  copy.connect_timeout = copy.connect_timeout or 3
  return setmetatable({ options = copy, opened = 0, answers = 0 }, Session)
end

-- A new connection, with `on_open` done, all within its connect_timeout: in a task by yielding until
-- it is there, elsewhere waiting.
local function connect(self)
  local options = self.options
  options.init = self.on_open or options.init
  options.wait = not coroutine.isyieldable()
  local db, message, code = mysql.connect(options)
  if not db or options.wait then return db, message, code end
  local made
  self.dialling = db
  while not db:ready() do coroutine.yield("db") end
  made, message, code = db:receive()
  self.dialling = nil
  if made then return db end
  db:close()
  return nil, message, code
end

--- The open connection, made now if there is none.
-- @return db, or nil, message, code
function Session:open()
  if self.inside and not self.db then
    return nil, "the connection was lost within a transaction", "GONE"
  end
  if self.db and not self.inside and not self.db:alive() then self:drop() end
  if not self.db then
    local db, message, code = connect(self)
    if not db then return nil, message, code end
    self.db = db
    self.opened = self.opened + 1
  end
  return self.db
end

-- Close the connection; a transaction in it stays lost until it is rolled back.
function Session:drop()
  for _, db in pairs { self.dialling, self.db } do db:close() end
  self.dialling, self.db = nil, nil
  self.statements, self.arrays, self.sent = nil, nil, nil
end

function Session:close()
  self:drop()
  self.inside = false
end

--- What a task that has yielded in here waits for: { fd=, events= }, or nil.
function Session:waits()
  local db = self.dialling or self.db
  local fd = db and db:fd()
  return fd and { fd = fd, events = db:wants() } or nil
end

-- Wait for the next answer: in a task by yielding, elsewhere in slices.
local function await(self, db)
  local in_task = coroutine.isyieldable()
  local limit_ms = self.answer_ms or M.ANSWER_MS
  local deadline = clock.mono_ms() + limit_ms
  while not db:ready(in_task and 0 or 100) do
    if clock.mono_ms() >= deadline then
      return nil, ("%s: no answer within %d s"):format(db:target(), limit_ms // 1000), "TIMEOUT"
    end
    if in_task then coroutine.yield("db") end
  end
  return db:receive()
end

--- Call `f(...)`; meanwhile answers may take as long as a command may.
-- @return what it returns
function Session:patiently(f, ...)
  local before = self.answer_ms
  self.answer_ms = M.COMMAND_MS
  local _ <close> = setmetatable({}, { __close = function() self.answer_ms = before end })
  return f(...)
end

-- Statements that begin or end a transaction: whether one is open after them.
local OPENS = { ["start transaction"] = true, commit = false, rollback = false }

--- Send statements together; `take` reads their results. What a caller does in between is done while
-- the server works.
-- @param statements array of SQL text
-- @param point string or nil: the fail point between sending and the first answer
-- @return true, or nil, message, code, errno, number of the statement that failed
function Session:start(statements, point)
  local db, message, code = self:open()
  if not db then return nil, message, code, nil, 1 end
  local sent, errno
  sent, message, code, errno = db:send(table.concat(statements, ";\n"))
  if sent and point and failpoint.hit(point) then
    sent, message, code = nil, "the connection was cut by a fail point", "GONE"
  end
  if not sent then
    if BROKEN[code] then self:drop() end
    return nil, message, code, errno, 1
  end
  self.sent = statements
  return true
end

--- Every result of what was sent.
-- @return array of results, or nil, message, code, errno, number of the statement that failed
function Session:take()
  local db, statements, results = self.db, self.sent, {}
  local message, code, errno
  self.sent = nil
  repeat
    local result
    result, message, code, errno = await(self, db)
    if not result then
      if BROKEN[code] then self:drop() end
      return nil, message, code, errno, #results + 1
    end
    results[#results + 1] = result
    self.answers = self.answers + 1
    local opens = OPENS[statements[#results]]
    if opens ~= nil then self.inside = opens end
  until not db:more()
  return results
end

--- Run statements sent together; every result is read before the call returns.
-- @param statements array of SQL text, or one text
-- @param point see `start`
-- @return array of results, or nil, message, code, errno, number of the statement that failed
function Session:run(statements, point)
  if type(statements) == "string" then statements = { statements } end
  local sent, message, code, errno, at = self:start(statements, point)
  if not sent then return nil, message, code, errno, at end
  return self:take()
end

--- Does the server take arrays of values? False while there is no connection.
function Session:takes_arrays()
  if self.arrays == nil and self.db then self.arrays = self.db:server().bulk or false end
  return self.arrays or false
end

-- A statement is prepared once for each connection.
local function prepared(self, sql)
  local statement = self.statements and self.statements[sql]
  if statement then return statement end
  local db, message, code = self:open()
  if not db then return nil, message, code end
  local errno, ok
  statement, message, code, errno = db:send_prepare(sql)
  if statement then
    ok, message, code, errno = await(self, db)
    if ok then
      self.statements = self.statements or {}
      self.statements[sql] = statement
      return statement
    end
    statement:close()
  end
  return nil, message, code, errno
end

--- Will this statement take arrays of rows? It is prepared for that; nothing may be under way. A server
-- that refuses to prepare it, as one with too many statements, gets text from then on.
-- @return bool; or nil, message, code, errno: the server is away
function Session:prepares(sql)
  local statement, message, code, errno = prepared(self, sql)
  if statement then return true end
  if BROKEN[code] then self:drop() end
  if BROKEN[code] or M.AWAY[code] or M.AGAIN[code] then return nil, message, code, errno end
  self.arrays = false
  return false
end

--- Send many rows for a statement with a `?` for each value; `take` has the one result.
-- @param rows, types see statement:send of host.mysql
-- @return true, or nil, message, code, errno, 1
function Session:start_rows(sql, rows, types)
  local statement, message, code, errno = prepared(self, sql)
  local sent
  if statement then sent, message, code, errno = statement:send(rows, types) end
  if not sent then
    if BROKEN[code] then self:drop() end
    return nil, message, code, errno, 1
  end
  self.sent = { sql }
  return true
end

--- One statement, one result.
function Session:query(sql)
  local results, message, code, errno = self:run(sql)
  if not results then return nil, message, code, errno end
  return results[1]
end

--- Undo an open transaction. When that fails the connection is closed, which undoes it as well.
function Session:rollback()
  if self.db and not self:run("rollback") then self:drop() end
  self.inside = false
end

-- See Session:literal; `db` may be nil.
local function literal(db, value)
  if value == nil then return "null" end
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if type(value) == "boolean" then return value and "1" or "0" end
  if db then return db:quote(value) end
  -- The statement will fail with the right code; until then it needs a text that is never wrong.
  return "x'" .. value:gsub(".", function(c) return ("%02x"):format(c:byte()) end) .. "'"
end

--- A quoted literal; nil is SQL null, integers stand for themselves.
function Session:literal(value)
  return literal(self.db or self:open(), value)
end

--- Fill ? in `sql` with literals.
function Session:bind(sql, ...)
  -- Not from within gsub, where a task cannot yield.
  local db = self.db or self:open()
  local args, i = table.pack(...), 0
  return (sql:gsub("%?", function()
    i = i + 1
    return literal(db, args[i])
  end))
end

return M
