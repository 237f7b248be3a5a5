-- The embedded default as a whole: broker, database, exchange, producer, aggregation.

local attach = require "mill.attach"
local folder = require "spec.support.folder"
local json = require "mill.json"
local mysql = require "host.mysql"
local process = require "host.process"
local wait = require "spec.support.wait"

local DEADLINE_MS = 120000 * require "spec.support.slow"

describe("tidemill up --dev", function()
  local dir

  before_each(function() dir = folder.make() end)
  after_each(function() folder.clear(dir) end)

  local function up(env, ...)
    local all = { TIDEMILL_HOME = process.home(), TIDEMILL_VAR = dir .. "/var", LIVE = false,
                  TIDEMILL_CONFIG = false, TIDEMILL_INSTANCE = false, TIDEMILL_HTTP = false }
    for k, v in pairs(env) do all[k] = v end
    return assert(process.spawn {
      argv = { process.exe(), "up", "--dev", ... }, cwd = dir, stdout = "pipe",
      stderr = dir .. "/stderr", env = all,
    })
  end

  local function text_of(name) return folder.text(dir .. "/" .. name) end

  local function eventually(what, ask)
    return wait(what, ask, DEADLINE_MS, function() return text_of "stderr" end)
  end

  local function output_of(child)
    local parts = {}
    eventually("the end of up", function()
      local bytes = child:read("stdout", 500)
      if not bytes then return true end
      parts[#parts + 1] = bytes
    end)
    return table.concat(parts), assert(child:wait(DEADLINE_MS))
  end

  --- The samples in moving_averages now; 0 while there is no such table.
  local function samples()
    local socket = dir .. "/var/dev/mysql/mysqld.sock"
    if not process.stat(socket) then return 0 end
    local db = mysql.connect {
      socket = socket, user = "root", database = "tidemill", connect_timeout = 2 }
    if not db then return 0 end
    local result = db:query("select cast(coalesce(sum(samples), 0) as signed) from moving_averages")
    db:close()
    return result and result.rows[1][1] or 0
  end

  --- The processes that were started with our folder in their environment: `up` and its children.
  local function processes()
    local found = {}
    for _, entry in ipairs(process.list("/proc")) do
      local pid = math.tointeger(tonumber(entry))
      local f = pid and process.alive(pid) and io.open("/proc/" .. pid .. "/environ")
      local text = f and f:read("a")
      if f then f:close() end
      if text and text:find(dir, 1, true) then found[#found + 1] = process.cmdline(pid) end
    end
    return found
  end

  local function signal(what, name)
    for _, entry in ipairs(process.list("/proc")) do
      local pid = math.tointeger(tonumber(entry))
      local line = pid and process.cmdline(pid)
      if line and line:find(dir, 1, true) and line:find(what, 1, true) then
        return assert(process.kill(pid, name))
      end
    end
    error("there is no " .. what)
  end

  it("ends with a result that is right, and the next run goes on", function()
    local child <close> = up({}, "--json", "--for", "30s")
    local text, status = output_of(child)
    local result = assert(json.decode(text), text .. text_of("stderr"))
    assert.same({}, result.problems)
    assert.equal(0, status.code)
    assert.is_true(result.ok)
    assert.is_true(result.published > 0)
    assert.equal(result.published, result.consumed)
    assert.equal(result.fetched, result.published)
    assert.equal(0, result.dead)
    assert.is_true(result.rows > 0)
    assert.is_true(result.latency_ms.p50 > 0 and result.latency_ms.p99 >= result.latency_ms.p50)
    for _, name in ipairs { "up", "prices", "averages", "broker", "exchange", "mysql" } do
      assert.is_true(result.peak_rss_mb[name] > 1, name)
    end
    assert.same({}, processes())

    local again <close> = up({}, "--json")
    eventually("more averages than the first run made", function()
      return samples() > result.consumed
    end)
    again:kill("INT")
    local text2, status2 = output_of(again)
    assert.equal(0, status2.code, text_of("stderr"))
    assert.is_true(json.decode(text2).ok)
    assert.same({}, processes())
  end)

  it("is refused twice in a folder, and leaves nothing when it is killed", function()
    local first <close> = up({})
    eventually("averages", function() return samples() > 0 end)
    local second <close> = up({})
    local _, status = output_of(second)
    assert.equal(4, status.code)
    assert.matches("already runs in this folder as process " .. first:pid(), text_of("stderr"),
      1, true)
    assert.equal(6, #processes())
    local before = samples()
    first:kill("KILL")
    assert(first:wait(DEADLINE_MS))
    eventually("all its processes are gone", function() return #processes() == 0 end)
    local third <close> = up({})
    eventually("the averages are there and grow", function() return samples() > before end)
    third:kill("TERM")
    local _, status3 = output_of(third)
    assert.equal(0, status3.code)
    assert.same({}, processes())
  end)

  it("comes through the death of the database, the exchange and the broker", function()
    local child <close> = up({}, "--json")
    eventually("averages", function() return samples() > 0 end)
    for what, name in pairs { mariadbd = "mysql", ["exchange.lua"] = "exchange",
                              ["broker.lua"] = "broker" } do
      signal(what, "KILL")
      eventually(name .. " is missed", function()
        return text_of("stderr"):find(name .. " was killed by signal KILL", 1, true)
      end)
      local before
      eventually("averages go on after " .. what, function()
        local now = samples()
        before = before or (now > 0 and now or nil)
        return before and now >= before + 10
      end)
    end
    child:kill("TERM")
    local text, status = output_of(child)
    local result = json.decode(text)
    assert.equal(0, status.code, text .. text_of("stderr"))
    -- The pipeline and the producer lived through it; the broker's new log started them anew.
    assert.same({ mysql = 1, exchange = 1, broker = 1 }, result.restarts)
  end)

  it("misses nothing that only the broker had when it died", function()
    local child <close> = up({}, "--json")
    eventually("averages", function() return samples() > 0 end)
    local function ask(name, code)
      local path = attach.find(name, dir .. "/var/state")
      local reply = path and attach.ask(path, code, {})
      return reply and math.tointeger(tonumber(reply.output)) or 0
    end
    local pid = ask("averages", "process.pid()")
    assert(process.kill(pid, "STOP"))
    local before = ask("prices", "status().published")
    eventually("messages that nobody reads", function()
      return ask("prices", "status().published") > before + 5
    end)
    signal("broker.lua", "KILL")
    assert(process.kill(pid, "CONT"))
    eventually("the broker is missed", function()
      return text_of("stderr"):find("broker was killed by signal KILL", 1, true)
    end)
    local read = samples()
    eventually("averages go on", function() return samples() >= read + 10 end)
    child:kill("TERM")
    local text, status = output_of(child)
    local result = json.decode(text)
    assert.same({ broker = 1 }, result.restarts)
    assert.is_true(result.consumed < result.published, text)
    assert.same({}, result.problems)
    assert.equal(0, status.code, text_of("stderr"))
  end)

  it("asks the real exchange when told, and says so", function()
    -- Nothing but loopback is asked here: the endpoint is ours, and nobody listens.
    local child <close> = up({ LIVE = "1" }, "--json", "--set", "prices.endpoints=http://127.0.0.1:9",
      "--for", "15s")
    local text, status = output_of(child)
    local result = assert(json.decode(text), text .. text_of("stderr"))
    assert.equal(1, status.code)
    assert.is_false(result.ok)
    assert.is_nil(result.peak_rss_mb.exchange)
    assert.matches("nothing was published", table.concat(result.problems, "|"), 1, true)
    assert.matches("REAL exchange (LIVE=1)", text_of("stderr"), 1, true)
  end)
end)
