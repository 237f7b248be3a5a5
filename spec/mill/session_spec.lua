-- Sessions: a quiet connection that the server closed, one lost within a transaction, and one lost
-- without a word while it is set up.

local broker = require "spec.support.broker"
local clock = require "host.clock"
local kafka = require "host.kafka"
local mariadb = require "spec.support.mariadb"
local migrate = require "mill.migrate"
local mysql = require "host.mysql"
local process = require "host.process"
local session_ = require "mill.session"
local support = require "spec.support.real"
local transaction = require "mill.transaction"

describe("a session", function()
  local server, db, session

  setup(function() server = mariadb.start() end)

  before_each(function()
    local _, options = server.fresh_database()
    db = assert(mysql.connect(options))
    assert(db:query "create table t (a int primary key)")
    session = session_.new(options)
    session.on_open = { "set session innodb_lock_wait_timeout = 1" }
    assert(session:open())
  end)

  after_each(function()
    session:close()
    db:close()
  end)

  local function rows() return assert(db:query "select a from t order by a").rows end

  local function kill()
    assert(db:query(("kill %d"):format(session.db:thread_id())))
    local deadline = clock.mono_ms() + 5000
    while session.db:alive() do
      assert(clock.mono_ms() < deadline, "the connection lives on")
      clock.sleep(5)
    end
  end

  it("comes back without an error after the server closed a quiet connection", function()
    assert(session:run { "set session wait_timeout = 5", "start transaction", "commit" })
    kill()
    assert(session:query "insert into t values (1)")
    assert.equal(2, session.opened)
    assert(session:run { "start transaction", "insert into t values (2)" })
    session:rollback()
    kill()
    assert.same({ { 1 } }, session:query("select a from t").rows)
  end)

  it("does not go on with a transaction on another connection", function()
    assert(session:run { "start transaction", "insert into t values (1)" })
    kill()
    for _ = 1, 2 do
      local result, _, code = session:query "insert into t values (2)"
      assert.same({ nil, "GONE" }, { result, code })
      assert.equal("x'41'", session:literal "A")
    end
    session:rollback()
    assert.same({}, rows())
    assert(session:run { "start transaction", "insert into t values (3)", "commit" })
    assert.same({ { 3 } }, rows())
  end)

  it("gives up a statement that is not answered", function()
    local before = session_.ANSWER_MS
    session_.ANSWER_MS = 150
    finally(function() session_.ANSWER_MS = before end)
    local task = coroutine.wrap(function() return { session:query "select sleep(60)" } end)
    local began, result = clock.mono_ms(), task()
    while type(result) ~= "table" do
      clock.sleep(5)
      result = task()
    end
    assert.equal("TIMEOUT", result[3])
    assert.is_true(clock.mono_ms() - began < 20000)
    assert.is_nil(session.db)
    session_.ANSWER_MS = before
    assert(session:query "select 1")
  end)
end)

describe("a session whose connection is lost after the login", function()
  local MANY_MS = 12000 -- less than the proxy's patience
  local TRIES = 3
  local proxy, port, name, db, session

  local function said(pattern)
    local text = ""
    return support.wait(function()
      text = text .. assert(proxy:read("stdout", 20))
      return text:match(pattern)
    end, "the proxy")
  end

  -- Does the network lose what comes after the login? Connections of before are ended.
  local function lose(word)
    proxy:write(word .. "\n")
    said(word .. "\n")
  end

  before_each(function()
    local server = mariadb.start()
    name = server.fresh_database()
    proxy = assert(process.spawn {
      argv = { "python3", process.home() .. "/spec/support/swallow.py", tostring(server.port),
        "transaction isolation level" },
      stdin = "pipe", stdout = "pipe",
    })
    port = math.tointeger(said "^(%d+)\n")
    db = assert(mysql.connect { socket = server.socket, user = "root", database = name })
    session = session_.new { host = "127.0.0.1", port = port, user = "root", database = name,
      connect_timeout = 1 }
    session.on_open = { "set session transaction isolation level read committed" }
  end)

  after_each(function()
    session:close()
    db:close()
    proxy:kill "KILL"
    proxy:close()
  end)

  it("gives up within the time for connecting, and comes back", function()
    lose "on"
    local began = clock.mono_ms()
    local opened, message, code = session:open()
    assert.same({ nil, "TIMEOUT" }, { opened, code })
    assert.matches("no connection within 1 s", message, 1, true)
    assert.is_true(clock.mono_ms() - began < MANY_MS)
    assert.is_nil(session.db)
    lose "off"
    local result = support.wait(function() return (session:query "select @@tx_isolation") end, "an answer")
    assert.same({ { "READ-COMMITTED" } }, result.rows)
    assert.equal(1, session.opened)
  end)

  -- Resume a task until it has given up: how often, and the longest that it took.
  local function turned(call)
    local task, turns, longest, result = coroutine.create(call), 0, 0, nil
    support.wait(function()
      local began = clock.mono_ms()
      local _, first, _, code = assert(coroutine.resume(task))
      longest = math.max(longest, clock.mono_ms() - began)
      if coroutine.status(task) == "dead" then
        result = { first, code }
        return true
      end
      turns = turns + 1
      local waits = session:waits()
      assert.same({ "number", "r" }, { type(waits.fd), waits.events })
      process.wait_fds({ waits }, 20)
    end, "the end of the task")
    assert.same({ nil, "TIMEOUT" }, result)
    assert.is_nil(session:waits())
    return turns, longest
  end

  it("lets the loop of a task turn meanwhile", function()
    lose "on"
    for _, call in ipairs {
      function() return session:open() end,
      function() return session:query "select 1" end,
      function() return session:query(session:bind("select ?", "a")) end,
    } do
      local turns, longest
      for _ = 1, TRIES do -- the processor may be away for most of the time
        turns, longest = turned(call)
        if turns > 5 and longest < 900 then break end
      end
      assert.is_true(turns > 5, turns)
      assert.is_true(longest < 900, longest)
    end
    -- One that is given up in the middle leaves nothing behind.
    coroutine.wrap(function() session:open() end)()
    session:close()
    lose "off"
    session.options.connect_timeout = 10
    local task = coroutine.wrap(function() return session:query("select 1").rows end)
    local rows
    support.wait(function()
      rows = task()
      return type(rows) == "table"
    end, "the answer")
    assert.same({ { 1 } }, rows)
  end)

  it("waits longer for a command's statement", function()
    local before = session_.ANSWER_MS
    session_.ANSWER_MS = 100
    finally(function() session_.ANSWER_MS = before end)
    local slow, endless = "select sleep(0.5)", "select sleep(60)"
    local result, message, code = session:query(endless)
    assert.same({ nil, "TIMEOUT" }, { result, code }, message)
    assert.same({ { 0 } }, assert(session:patiently(session.query, session, slow)).rows)
    assert.same({ { 0 } }, transaction.run(session, "it", function(must)
      return must(session:query(slow))
    end).rows)
    assert.equal("TIMEOUT", select(3, session:query(endless)))
    assert.has_error(function() session:patiently(error, "it failed", 0) end, "it failed")
    assert.equal("TIMEOUT", select(3, session:query(endless)))
  end)

  it("does not keep a run from turning and from ending", function()
    migrate.apply(db)
    local dev <close> = broker.start { crypto_prices = 1 }
    local producer <close> = kafka.producer { brokers = dev:bootstrap() }
    assert(producer:send { topic = "crypto_prices", partition = 0,
      value = '{"symbol":"A","price":"1.5","timestamp":1723161240}' })
    assert.equal(0, producer:flush(10000))
    local run = support.tidemill({ "run", "scripts/averages.lua" }, { env = {
      TIDEMILL_KAFKA = dev:bootstrap(),
      TIDEMILL_MYSQL = ("mysql://root@127.0.0.1:%d/%s"):format(port, name) } })
    finally(function() run:kill "KILL" end)
    local function committed()
      local rows = assert(db:query "select position, at_end from mill_progress").rows
      return rows[1] and rows[1][1] == 1 and rows[1][2] == 1
    end
    support.wait(committed, "all there is") -- or the end would wait for it, and be a failure
    lose "on"
    support.wait(function()
      return run:log():find("the database is away for claims", 1, true)
    end, "the trouble")
    said "lost.*lost.*lost" -- it is tried again
    run:kill "TERM"
    local began = clock.mono_ms()
    local r = run:finish()
    assert.equal(0, r.status, r.err)
    assert.is_true(clock.mono_ms() - began < 60000, r.err) -- eight waits of 3 s make 26 s
    -- A loaded machine may starve it, but not each time for as long as a connect takes.
    local long = 0
    for gap in r.err:gmatch "did not run for ([%d.]+) s" do
      if tonumber(gap) >= 3 then long = long + 1 end
    end
    assert.is_true(long < 2, r.err)
  end)
end)
