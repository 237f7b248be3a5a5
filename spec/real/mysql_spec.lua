-- host.mysql with servers that run already: each is asked what spec/host asks of its own MariaDB.

local urls = {}
for _, name in ipairs { "TIDEMILL_MYSQL", "TIDEMILL_MARIADB" } do
  local url = os.getenv(name)
  if url and url ~= "" then
    urls[#urls + 1] = { name = name, url = url }
  else
    describe("host.mysql with the server of " .. name, function()
      pending(name .. " is not set (eval \"$(tools/servers.sh up mysql mariadb)\")")
    end)
  end
end
if #urls == 0 then return end

local cases = require "spec.support.mysql_cases" (_ENV)
local mysql = require "host.mysql"
local mysqlurl = require "mill.mysqlurl"
local slow = require "spec.support.slow"

local function over_tls(options)
  it("logs in over TLS and stays non-blocking", function()
    local o = options()
    o.ssl = { verify = false }
    local db, message, code = mysql.connect(o)
    if code == "TLS" then return pending(message) end
    assert(db, message)
    local release = cases.blocked(o, db)
    for _ = 1, 50 do assert.is_false(db:ready(0)) end
    release()
    assert.equal(1, assert(cases.await(db)).rows[1][1])
    assert(db:send("select repeat('x', 8000000)"))
    assert.equal(8000000, #assert(cases.await(db)).rows[1][1])
    db:close()
  end)
end

local function unknown_types(options)
  it("says so when a prepared statement cannot read a column's type", function()
    local db <close> = assert(mysql.connect(options()))
    if db:server().number < 90000 then return pending("the server has no such type") end
    local st <close> = assert(db:prepare("select to_vector('[1,2]') as v, 2 as w"))
    local result, message, code = st:execute()
    assert.same({ nil, "SQL" }, { result, code })
    assert.equal(
      "mysql: SQL: column 'v' has type 242, which prepared statements cannot read", message)
    assert.equal(1, cases.one(db, "select 1"))
    assert.equal(8, #cases.one(db, "select to_vector('[1,2]')"))
  end)
end

for _, entry in ipairs(urls) do
  local function options()
    local o = assert(mysqlurl.parse(entry.url))
    o.connect_timeout = 5 * slow
    return o
  end
  local flavor
  do
    local db <close> = assert(mysql.connect(options()))
    flavor = db:server().flavor
  end
  cases.describe("the server of " .. entry.name, { flavor = flavor, options = options })
  describe("host.mysql with the server of " .. entry.name, function()
    over_tls(options)
    if flavor == "mysql" then unknown_types(options) end
  end)
end
