--- Applies sql/ to a database: numbered files, recorded, safe to run twice.

local clock = require "host.clock"
local fault = require "mill.fault"
local process = require "host.process"

local M = {}

--- The collation whose comparisons are by bytes and do not pad, by server.
function M.collation(server)
  return server.flavor == "mariadb" and "utf8mb4_nopad_bin" or "utf8mb4_0900_bin"
end

local function read(path)
  local file = assert(io.open(path, "r"))
  local text = file:read("a")
  file:close()
  return text
end

--- The migrations, in order: { {number=, name=, path=} }.
function M.list(folder)
  folder = folder or process.home() .. "/sql"
  local found = {}
  for _, name in ipairs(assert(process.list(folder))) do
    local number = name:match("^(%d%d%d%d)_[%w_]+%.sql$")
    if number then
      found[#found + 1] = { number = math.tointeger(number), name = name, path = folder .. "/" .. name }
    end
  end
  table.sort(found, function(a, b) return a.number < b.number end)
  return found
end

--- Split a file into statements: comments go, a statement ends with ";" at the end of a line.
function M.statements(text)
  local out, lines = {}, {}
  for line in (text .. "\n"):gmatch("(.-)\n") do
    if not line:match("^%s*%-%-") and line:match("%S") then
      lines[#lines + 1] = line
      if line:match(";%s*$") then
        out[#out + 1] = (table.concat(lines, "\n"):gsub(";%s*$", ""))
        lines = {}
      end
    end
  end
  return out
end

local function must(db, sql)
  local result, message = db:query(sql)
  if not result then
    fault.raise(fault.SERVER, "migrate: %s\n  in: %s", message, sql:sub(1, 200))
  end
  return result
end

--- Names and times of what was applied: number -> row.
function M.applied(db)
  local found = must(db, "select count(*) from information_schema.tables"
    .. " where table_schema = database() and table_name = 'mill_migrations'")
  local out = {}
  if found.rows[1][1] == 0 then return out end
  for _, row in ipairs(must(db, "select number, name, applied_at from mill_migrations").rows) do
    out[row[1]] = { name = row[2], applied_at = row[3] }
  end
  return out
end

--- Apply what is missing.
-- @param db open host.mysql connection
-- @return array of the names applied now
function M.apply(db, folder)
  local collation = M.collation(db:server())
  must(db, ([[create table if not exists mill_migrations (number int not null primary key,
    name varchar(128) not null, applied_at datetime(3) not null default current_timestamp(3))
    engine = InnoDB default character set utf8mb4 collate %s]]):format(collation))
  local done, now = M.applied(db), {}
  for _, item in ipairs(M.list(folder)) do
    if not done[item.number] then
      -- DDL commits by itself, so each file is written to be safe to run again.
      for _, sql in ipairs(M.statements(read(item.path))) do
        must(db, (sql:gsub("%${collation}", collation)))
      end
      must(db, ("insert into mill_migrations (number, name) values (%d, %s)"):format(item.number,
        db:quote(item.name)))
      now[#now + 1] = item.name
    end
  end
  return now
end

--- Hold the lock that keeps two migrations apart, for the life of the connection.
function M.lock(db)
  local deadline = clock.mono_ms() + 30000
  repeat
    local got = must(db, "select get_lock(concat('tidemill.migrate.', database()), 1)")
    if got.rows[1][1] == 1 then return end
  until clock.mono_ms() > deadline
  fault.raise(fault.RUNNING, "migrate: another migration of this database is running")
end

return M
