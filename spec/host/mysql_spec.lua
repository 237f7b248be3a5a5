local mariadb = require "spec.support.mariadb"
local cases = require "spec.support.mysql_cases" (_ENV)
local clock = require "host.clock"
local mysql = require "host.mysql"
local process = require "host.process"
local wait = require "spec.support.wait"

-- Under a sanitizer on a busy machine a TLS handshake alone has taken more than the default of 5 s.
local PATIENCE_S = 5 * require "spec.support.slow"

local function options()
  local copy = { connect_timeout = PATIENCE_S }
  for k, v in pairs(mariadb.start().options) do copy[k] = v end
  return copy
end

cases.describe("a private MariaDB", { flavor = "mariadb", options = options })

describe("mysql.connect", function()
  it("names the option it does not know", function()
    assert.has_error(function() mysql.connect { user = "x", hots = "y" } end,
      "unknown option 'hots' (known: host, port, socket, user, password, database, ssl, multi, "
      .. "found_rows, connect_timeout, init, wait)")
    assert.has_error(function() mysql.connect { user = "x", ssl = { cafile = "y" } } end,
      "unknown option 'cafile' (known: ca, cert, key, verify)")
  end)

  it("refuses options of a wrong type or value, and says nothing of passwords", function()
    for _, case in ipairs {
      { {}, "option 'user' is required" },
      { { user = "x", port = 0 }, "option 'port' must be between 1 and 65535, got 0" },
      { { user = "x", port = "3306" }, "option 'port' must be a whole number, got a string" },
      { { user = "x", password = 12345 }, "option 'password' must be a string, got a number" },
      { { user = "x", host = "a,b" }, "option 'host' must be one host name" },
      { { user = "x", host = "" }, "option 'host' must be one host name" },
      { { user = "x", password = "a\0b" }, "option 'password' must not hold a NUL byte" },
      { { user = "x", init = { 1 } }, "option 'init' must be a list of strings" },
      { { user = "x", init = "select 1" }, "option 'init' must be a table, got a string" },
    } do
      assert.has_error(function() mysql.connect(case[1]) end, case[2])
    end
  end)

  it("is REFUSED where nobody listens, naming user, host, port and database", function()
    local server <close> = mariadb.new()
    server.kill()
    local db, message, code, errno = mysql.connect {
      user = "me", password = "secret-9", port = server.port, database = "d",
    }
    assert.same({ nil, "REFUSED", 2002 }, { db, code, errno })
    assert.equal(("mysql: REFUSED: me@127.0.0.1:%d/d: Can't connect to server on '127.0.0.1' "
      .. "(refused, or no way to get there)"):format(server.port), message)
    db, message, code = mysql.connect(server.options)
    assert.same({ nil, "REFUSED" }, { db, code })
    assert.is_truthy(message:find("root@localhost/test?socket=" .. server.socket, 1, true))
  end)

  it("is REFUSED when the host has no address", function()
    local host = ("a"):rep(64) .. ".invalid" -- too long a label: no name server is asked
    local db, message, code, errno = mysql.connect { user = "me", host = host }
    assert.same({ nil, "REFUSED", 2005 }, { db, code, errno })
    local want = ("mysql: REFUSED: me@%s:3306/: Unknown server host "):format(host)
    assert.equal(want, message:sub(1, #want))
  end)

  it("gives up after connect_timeout when nobody answers", function()
    -- A listener that never accepts stands for a server that hangs: its own port, from a child.
    local dir = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-deaf-"))
    local child <close> = assert(process.spawn {
      argv = { "perl", "-MIO::Socket::UNIX", "-e", [[
        my $s = IO::Socket::UNIX->new(Local => "$ARGV[0]/socket", Listen => 5) or die;
        open my $f, ">", "$ARGV[0]/up"; close $f; sleep 3600]], dir },
    })
    finally(function()
      child:close()
      os.execute("rm -rf '" .. dir .. "'")
    end)
    wait("the listener", function() return process.stat(dir .. "/up") end)
    local before = clock.mono_ms()
    local db, message, code = mysql.connect {
      user = "me", socket = dir .. "/socket", connect_timeout = 1,
    }
    assert.is_true(clock.mono_ms() - before >= 1000)
    assert.same({ nil, "TIMEOUT" }, { db, code })
    assert.equal(("mysql: TIMEOUT: me@localhost/?socket=%s/socket: no connection within 1 s")
      :format(dir), message)
  end)

  it("uses TCP unless a socket is named, also for localhost", function()
    local server = mariadb.start()
    local db <close> = assert(mysql.connect {
      user = "root", host = "127.0.0.1", port = server.port, database = "test",
    })
    assert.equal(("root@127.0.0.1:%d/test"):format(server.port), db:target())
    cases.fails("REFUSED", mysql.connect { user = "root", host = "localhost", port = 1 })
  end)
end)

describe("mysql.name", function()
  it("doubles backticks", function()
    assert.equal("`a`", mysql.name("a"))
    assert.equal("`a``b```", mysql.name("a`b`"))
    assert.equal("`" .. ("ж"):rep(64) .. "`", mysql.name(("ж"):rep(64)))
  end)

  it("refuses what no identifier can be", function()
    for _, case in ipairs {
      { "", "an identifier cannot be empty" },
      { "a\0b", "an identifier cannot hold a NUL byte" },
      { "a ", "an identifier cannot end in a space" },
      { ("ж"):rep(65), "an identifier has at most 64 characters" },
    } do
      assert.has_error(function() mysql.name(case[1]) end,
        "bad argument #1 to 'name' (" .. case[2] .. ")")
    end
  end)
end)

describe("mysql.blob", function()
  it("writes any bytes as a literal", function()
    assert.equal("x''", mysql.blob(""))
    assert.equal("x'00FF2761'", mysql.blob("\0\255'a"))
  end)
end)

describe("a server that goes away", function()
  local server

  local function stands(pid)
    local tasks = ("/proc/%d/task/"):format(pid)
    for _, task in ipairs(assert(process.list(tasks))) do
      local file = io.open(tasks .. task .. "/stat")
      local state = file and file:read("a"):match("^.*%) (%a)")
      if file then file:close() end
      if state and state ~= "T" then return false end
    end
    return true
  end

  setup(function() server = mariadb.new() end)
  teardown(function() server.remove() end)
  before_each(function()
    if not server.running() then server.restart() end
  end)

  it("in the middle of a statement is GONE, then REFUSED, then back", function()
    local db <close> = assert(mysql.connect(server.options))
    assert(db:send("select sleep(600)"))
    assert.is_false(db:ready(20))
    server.kill()
    local result, message, code = cases.await(db)
    assert.same({ nil, "GONE" }, { result, code })
    assert.matches("^mysql: GONE: root@localhost/test%?socket=", message)
    cases.fails("REFUSED", mysql.connect(server.options))
    server.restart()
    local again <close> = assert(mysql.connect(server.options))
    assert.equal(1, cases.one(again, "select 1"))
  end)

  it("in an orderly way is GONE as well", function()
    local db <close> = assert(mysql.connect(server.tcp))
    local idle <close> = assert(mysql.connect(server.tcp))
    assert(db:send("select sleep(600)"))
    server.stop()
    cases.fails("GONE", cases.await(db))
    wait("the idle one noticed", function() return not idle:alive() end)
    cases.fails("GONE", idle:query("select 1"))
  end)

  it("frozen does not keep a bounded request", function()
    local db <close> = assert(mysql.connect(server.options))
    assert(process.kill(server.pid(), "STOP"))
    finally(function() process.kill(server.pid(), "CONT") end)
    wait("all its threads stand", function() return stands(server.pid()) end)
    cases.fails("TIMEOUT", db:query("select 1", 200))
    cases.fails("GONE", db:ping(100))
  end)

  it("takes no more clients than it has room for", function()
    local root <close> = assert(mysql.connect(server.options))
    assert(root:query("create or replace user few@'127.0.0.1' with max_user_connections 1"))
    local few = { user = "few", port = server.port }
    local first <close> = assert(mysql.connect(few))
    local second, message, code = mysql.connect(few)
    assert.same({ nil, "TOOMANY" }, { second, code })
    assert.is_truthy(message:find(first:target(), 1, true))
    cases.fails("DENIED", first:query("create database not_mine"))
  end)

  it("may be read only", function()
    local root = assert(mysql.connect(server.options))
    assert(root:query("create or replace user writer@'127.0.0.1'"))
    assert(root:query("grant all on test.* to writer@'127.0.0.1'"))
    assert(root:query("set global read_only = 1"))
    finally(function()
      assert(root:query("set global read_only = 0"))
      root:close()
    end)
    local db <close> = assert(mysql.connect {
      user = "writer", port = server.port, database = "test",
    })
    cases.fails("READONLY", db:query("create table nope (i int)"))
  end)
end)

describe("an interrupt", function()
  local SCRIPT = [[
    local mysql = require "host.mysql"
    local db = assert(mysql.connect { socket = %q, user = "root", database = "test" })
    io.stdout:write(db:thread_id(), "\n")
    io.stdout:flush()
    local ok, err = pcall(function() return db:query("select sleep(600)") end)
    io.stdout:write(tostring(err), "\n")
  ]]

  it("ends a statement here and on the server", function()
    local server = mariadb.start()
    local dir = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-script-"))
    local file = assert(io.open(dir .. "/wait.lua", "w"))
    file:write(SCRIPT:format(server.socket))
    file:close()
    local child <close> = assert(process.spawn {
      argv = { process.exe(), "exec", dir .. "/wait.lua" }, stdout = "pipe", stderr = "null",
      env = { TIDEMILL_HOME = process.home() },
    })
    finally(function() os.execute("rm -rf '" .. dir .. "'") end)
    local watcher <close> = assert(mysql.connect(server.options))
    local id = wait("it is connected", function()
      local text = child:read("stdout", 1000)
      return text and text:match("^(%d+)\n")
    end)
    local function running()
      return cases.one(watcher, "select count(*) from information_schema.processlist "
        .. "where info like 'select sleep%' and id = " .. id) == 1
    end
    wait("it waits", running)
    child:kill("INT")
    local status = wait("it ended", function() return child:wait(1000) end)
    assert.is_nil(status.signal)
    wait("the server ended it", function() return not running() end)
  end)
end)

describe("TLS", function()
  local server, dir, cannot
  local function tls(ssl)
    return mysql.connect {
      user = "root", port = server.port, database = "test", ssl = ssl,
      connect_timeout = PATIENCE_S,
    }
  end

  local function certificate(name)
    local child <close> = assert(process.spawn {
      argv = { "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        "-subj", "/CN=" .. name, "-addext", "subjectAltName=IP:127.0.0.1",
        "-keyout", dir .. "/" .. name .. ".key", "-out", dir .. "/" .. name .. ".pem" },
      stdout = "null", stderr = "null",
    })
    local status = child:wait(60000)
    return status and status.code == 0
  end

  setup(function()
    cannot = not process.which("openssl")
    if cannot then return end
    dir = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-tls-"))
    assert(certificate("right") and certificate("wrong"))
    server = mariadb.new { "--ssl-cert=" .. dir .. "/right.pem", "--ssl-key=" .. dir .. "/right.key" }
  end)
  teardown(function()
    if server then server.remove() end
    if dir then os.execute("rm -rf '" .. dir .. "'") end
  end)

  local function tls_it(what, test)
    it(what, function()
      if cannot then return pending("openssl is not installed") end
      test()
    end)
  end

  tls_it("is verified with the server's authority", function()
    local db <close> = assert(tls { ca = dir .. "/right.pem" })
    assert.is_truthy(#assert(db:query("show status like 'Ssl_cipher'")).rows[1][2] > 0)
    assert.is_true(db:alive())
  end)

  tls_it("refuses a server it cannot verify, unless told not to look", function()
    for _, ssl in ipairs { {}, { ca = dir .. "/wrong.pem" } } do
      local db, message, code = tls(ssl)
      assert.is_nil(db)
      assert.equal("TLS", code, message)
    end
    local db <close> = assert(tls { verify = false })
    assert.is_truthy(#assert(db:query("show status like 'Ssl_cipher'")).rows[1][2] > 0)
  end)

  tls_it("never blocks either", function()
    local o = {
      user = "root", port = server.port, database = "test", ssl = { verify = false },
      connect_timeout = PATIENCE_S,
    }
    local db <close> = assert(mysql.connect(o))
    local release = cases.blocked(o, db)
    for _ = 1, 50 do assert.is_false(db:ready(0)) end
    release()
    assert.equal(1, assert(cases.await(db)).rows[1][1])
    cases.fails("TIMEOUT", db:query("select sleep(600)", 100))
    local other <close> = assert(mysql.connect(o))
    assert(other:send("select repeat('x', 8000000)"))
    assert.equal(8000000, #assert(cases.await(other)).rows[1][1])
    assert(other:send("select '" .. ("y"):rep(8000000) .. "'"))
    assert.equal(8000000, #assert(cases.await(other)).rows[1][1])
  end)

  it("asked for but not offered is refused, not dropped silently", function()
    local plain = mariadb.start()
    for _, ssl in ipairs { {}, { verify = false } } do
      cases.fails("TLS", mysql.connect { user = "root", port = plain.port, ssl = ssl })
    end
  end)
end)
