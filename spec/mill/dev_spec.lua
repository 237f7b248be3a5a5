local clock = require "host.clock"
local dev = require "mill.dev"
local fault = require "mill.fault"
local folder = require "spec.support.folder"
local mysql = require "host.mysql"
local process = require "host.process"
local supervisor = require "mill.supervisor"

local DEADLINE_MS = 60000 * require "spec.support.slow"

describe("the development servers", function()
  local dir

  before_each(function() dir = folder.make() end)
  after_each(function() folder.clear(dir) end)

  local function new(var)
    return dev.new {
      var = var or dir, exe = process.exe(), home = process.home(), cwd = process.home(),
    }
  end

  local function supervise()
    return supervisor.new { logs = dir }
  end

  local function in_state(sup, name, state)
    local deadline = clock.mono_ms() + DEADLINE_MS
    while sup:get(name).state ~= state do
      assert(clock.mono_ms() < deadline, name .. " never came to be " .. state)
      sup:step(50)
    end
  end

  local function connect(servers)
    return assert(mysql.connect {
      socket = servers.socket, user = "root", database = dev.DATABASE })
  end

  it("install the database once and keep its data", function()
    for round = 1, 2 do
      local servers <close> = new()
      local sup <close> = supervise()
      servers:add_database(sup)
      in_state(sup, "mysql", "running")
      local db = connect(servers)
      if round == 1 then
        assert(db:query("create table kept (n int)"))
        assert(db:query("insert into kept values (42)"))
        assert.equal("done", sup:get("install").state)
      else
        assert.equal(42, assert(db:query("select n from kept")).rows[1][1])
      end
      local durable = assert(db:query("select @@innodb_flush_log_at_trx_commit, @@skip_networking"))
      assert.same({ 1, 1 }, durable.rows[1])
      db:close()
      local pid = sup:get("mysql").pid
      assert.equal(pid, dev.lock_holder(servers.data .. "/ibdata1"))
      sup:stop_all(DEADLINE_MS)
      assert.is_falsy(sup:get("mysql").killed)
      assert.is_false(process.alive(pid))
    end
  end)

  it("forget the positions of an old log once, before anybody is answered", function()
    local tables = [[create table mill_progress (n int);
      create table mill_dead_letters (cluster_id varchar(64), n int);
      create table mill_late (cluster_id varchar(64), n int);
      create table mill_gaps (cluster_id varchar(64), n int)]]
    do
      local servers <close> = new()
      local sup <close> = supervise()
      servers:add_database(sup)
      in_state(sup, "mysql", "running")
      local db = connect(servers)
      for statement in tables:gmatch("[^;]+") do assert(db:query(statement)) end
      assert(db:query("insert into mill_progress values (1)"))
      assert(db:query("insert into mill_late values ('mock', 1), ('mock@1', 2)"))
      db:close()
      sup:stop_all(DEADLINE_MS)
    end
    local servers <close> = new()
    local sup <close> = supervise()
    servers:add_database(sup)
    in_state(sup, "mysql", "running")
    local db = connect(servers)
    assert.same({}, assert(db:query("select n from mill_progress")).rows)
    local names = assert(db:query("select cluster_id from mill_late order by n")).rows
    assert.matches("^mock@%x+$", names[1][1])
    assert.equal("mock@1", names[2][1])
    -- What the new log has brought is kept when the server is started anew.
    assert(db:query("insert into mill_progress values (2)"))
    process.kill(sup:get("mysql").pid, "KILL")
    in_state(sup, "mysql", "backoff")
    db:close()
    in_state(sup, "mysql", "running")
    local again <close> = connect(servers)
    assert.equal(2, assert(again:query("select n from mill_progress")).rows[1][1])
    -- Unless the broker is started anew.
    servers.address.broker = "127.0.0.1:1"
    servers:begin_log()
    assert.equal(1, #assert(again:query("select n from mill_progress")).rows)
    servers.address.broker = "127.0.0.1:2"
    servers:begin_log()
    assert.equal(0, #assert(again:query("select n from mill_progress")).rows)
    sup:stop_all(DEADLINE_MS)
  end)

  it("come up again after a kill, and after an interrupted installation", function()
    assert(process.mkdir_p(dir .. "/dev/mysql/data.new/half"))
    assert(process.atomic_write(dir .. "/dev/mysql/data.new/ibdata1", "x", { sync = false }))
    local servers <close> = new()
    local sup <close> = supervise()
    servers:add_database(sup)
    in_state(sup, "mysql", "running")
    local db = connect(servers)
    assert(db:query("create table t (n int)"))
    local pid = sup:get("mysql").pid
    process.kill(pid, "KILL")
    in_state(sup, "mysql", "backoff")
    db:close()
    in_state(sup, "mysql", "running")
    local again <close> = connect(servers)
    assert.same({}, assert(again:query("select n from t")).rows)
    assert.not_equal(pid, sup:get("mysql").pid)
    sup:stop_all(DEADLINE_MS)
  end)

  it("live in a folder with blanks and quotes in its name", function()
    local odd = dir .. "/it's 100% odd?&#"
    local servers <close> = new(odd)
    servers.address.broker = "127.0.0.1:4711"
    local sup <close> = supervise()
    servers:add_database(sup)
    in_state(sup, "mysql", "running")
    assert(servers:write_env())
    local child <close> = assert(process.spawn { stdout = "pipe", argv = { "sh", "-c",
      '. "$1/dev/env"; printf %s "$TIDEMILL_MYSQL"', "sh", odd } })
    local url = ""
    repeat
      local bytes = child:read("stdout", 1000)
      url = url .. (bytes or "")
    until not bytes
    local options = assert(require "mill.mysqlurl".parse(url))
    assert.equal(servers.socket, options.socket)
    assert(mysql.connect(options)):close()
    sup:stop_all(DEADLINE_MS)
  end)

  it("put the socket elsewhere when the path is too long, and clean up", function()
    local long = dir .. "/" .. ("long"):rep(30)
    local servers = new(long)
    local sup <close> = supervise()
    assert.is_true(#servers.socket <= 100)
    servers:add_database(sup)
    in_state(sup, "mysql", "running")
    connect(servers):close()
    local sockets = servers.socket_dir
    assert.equal(448, process.stat(sockets).mode)
    sup:stop_all(DEADLINE_MS)
    servers:close()
    assert.is_nil(process.stat(sockets))
    assert.is_nil(process.stat(long .. "/dev/mysql/socket-folder"))
  end)

  it("remove the socket's folder that a killed run left", function()
    local long = dir .. "/" .. ("long"):rep(30)
    local first = new(long)
    local left = first.socket_dir
    first.lock:close() -- as its death would
    local second <close> = new(long)
    assert.is_nil(process.stat(left))
    assert.is_truthy(process.stat(second.socket_dir))
  end)

  it("are refused a second time in the same folder, naming the process", function()
    local first <close> = new()
    local ok, err = pcall(new)
    assert.is_false(ok)
    assert.is_true(fault.is(err))
    assert.equal(fault.RUNNING, err.status)
    assert.equal(("up --dev already runs in this folder as process %d; stop it first (its data is "
      .. "in %s/dev)"):format(process.pid(), dir), err.message)
    assert.truthy(first)
  end)

  it("tell another shell the addresses", function()
    local servers <close> = new()
    servers.address.broker = "127.0.0.1:4711"
    servers.address.exchange = "127.0.0.1:4712"
    assert(servers:write_env())
    local child <close> = assert(process.spawn { stdout = "pipe", argv = { "sh", "-c",
      ". " .. dir .. "/dev/env; echo $TIDEMILL_KAFKA $TIDEMILL_MYSQL $TIDEMILL_EXCHANGE" } })
    local text = ""
    repeat
      local bytes = child:read("stdout", 1000)
      text = text .. (bytes or "")
    until not bytes
    assert.equal("127.0.0.1:4711 mysql://root@localhost/tidemill?socket=" .. servers.socket
      .. " http://127.0.0.1:4712\n", text)
    servers:close()
    assert.is_nil(process.stat(dir .. "/dev/env"))
  end)
end)
