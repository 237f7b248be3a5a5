--- What host.mysql must do with every server, MariaDB and MySQL alike.
--
--   local cases = require "spec.support.mysql_cases" (_ENV)
--   cases.describe("a private MariaDB", { flavor = "mariadb", options = function() ... end })
--
-- The spec passes its _ENV, because describe, it and so on are known to spec files alone.
-- The tables it makes are its own and are dropped; the database may be anybody's.

local mysql = require "host.mysql"
local process = require "host.process"
local wait = require "spec.support.wait"

return function(_ENV) -- luacheck: ignore

local M = {}

--- Wait for the result of what was sent.
function M.await(db)
  wait("a result", function() return db:ready(100) end)
  return db:receive()
end

--- Assert that a call failed with this code.
function M.fails(want, value, message, code)
  assert.is_nil(value)
  assert.equal(want, code, message)
end

local function connect(options, more)
  local copy = {}
  for k, v in pairs(options) do copy[k] = v end
  for k, v in pairs(more or {}) do copy[k] = v end
  return assert(mysql.connect(copy))
end
M.connect = connect

local function one(db, sql)
  return assert(db:query(sql)).rows[1][1]
end
M.one = one

-- Lock names are the server's; ours must not be somebody else's.
local function lock_name()
  return ("spec-%d-%d"):format(process.pid(), math.random(1 << 30))
end

--- Make `db` wait on the server until the function returned here is called.
local function blocked(options, db)
  local holder = connect(options)
  local name = holder:quote(lock_name())
  assert.equal(1, one(holder, ("select get_lock(%s, 60)"):format(name)))
  assert(db:send(("select get_lock(%s, 60) as got"):format(name)))
  return function() holder:close() end
end
M.blocked = blocked

local PARTS = {
  "spec.support.mysql_values", "spec.support.mysql_requests", "spec.support.mysql_handles",
}

--- Describe all of it for one server.
-- @param title string
-- @param server table: flavor, options() -> a new table for mysql.connect
function M.describe(title, server)
  describe("host.mysql with " .. title, function()
    for _, part in ipairs(PARTS) do require(part)(_ENV, M)(server) end
  end)
end

return M

end
