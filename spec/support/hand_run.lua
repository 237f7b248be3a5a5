--- Runs whose rows are put into the store by hand, for specs that try every order of events. The
-- consumer only writes down, the database is real.

local batch = require "host.batch"
local clock = require "host.clock"
local committer = require "mill.committer"
local control = require "mill.control"
local instance = require "mill.instance"
local mariadb = require "spec.support.mariadb"
local migrate = require "mill.migrate"
local mill = require "mill"
local mysql = require "host.mysql"
local progress = require "mill.progress"
local run_ = require "mill.run"
local stages = require "mill.setup"

local M = {}

local function pipeline(url)
  return mill.pipeline {
    name = "p", source = mill.kafka { topic = "t" },
    decode = mill.json { symbol = "string", price = "decimal(20,8)", timestamp = "time" },
    window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol",
      max_future = "1h", idle = "200ms" },
    select = { symbol = "key", start_time = "window.start", end_time = "window.end",
      average_price = "avg(price)", price_sum = "sum(price)", samples = "count()" },
    sink = mill.mysql { table = "moving_averages", key = { "symbol", "start_time" }, url = url },
  }
end

-- A consumer of a log whose partitions end at `high`.
local function consumer(high)
  return {
    watermarks = function(self, list)
      if self.away then return nil, "away", "TIMED_OUT" end
      if type(list) ~= "table" then return 0, self.high or high end
      local out = {}
      for i, item in ipairs(list) do
        out[i] = { partition = item.partition, low = 0, high = self.high or high }
      end
      return out
    end,
    assign = function() return true end,
    commit = function() end,
    store = function() end,
    unassign = function() end,
  }
end

-- A reader that does as it is told.
local function reader()
  return {
    start = function(_, list) return list, true end, stop = function(_, list) return list, true end,
    behind = function() return false end,
  }
end

--- A run of pipeline "p" over topic "t".
-- @param options for host.mysql.connect, of a database with our tables; url the same as text
-- @param high where its partitions end, as the consumer says
-- @param p pipeline or nil: averages in moving_averages
function M.new(options, url, id, partitions, high, p)
  p = p or pipeline(url)
  local run = run_.new {
    name = p.name, id = id, instance = id, topic = "t", cluster = "c", outputs = p.outputs,
    partitions = partitions, consumer = consumer(high or 0), reader = reader(), reclaim = {},
    beyond = {}, on_gap = "stop", max_rows = 1000, commit_every_ms = p.outputs[1].sink.commit_every_ms,
    began_ms = clock.mono_ms(),
  }
  run.control = control.new(run, stages.session(options))
  stages.tables(run, run.control.session)
  stages.stages(run, p)
  instance.enter(run.control.session, run)
  run.committer = committer.new(run, stages.session(options))
  local starts = {}
  for i = 0, partitions - 1 do starts[i] = 0 end
  assert(progress.register(run.control.session, run, starts))
  return run
end

local World = {}
World.__index = World

--- Where such runs live: a private MariaDB and in it, before each spec, a fresh database.
--
--   local world = hand.world()
--   setup(function() world:open() end)
--   before_each(function() world:fresh() end)
--   after_each(function() world:clear() end)
--   teardown(function() world:close() end)
function M.world()
  return setmetatable({}, World)
end

--- Start the server. What the runs say of their troubles is expected: only errors are shown.
function World:open()
  mill.log.level "error"
  self.server = mariadb.start()
end

function World:close() -- luacheck: ignore 212
  mill.log.level "info"
end

--- A new database with our tables, and `db`, a connection to it.
function World:fresh()
  local name
  name, self.options = self.server.fresh_database()
  self.db, self.url = assert(mysql.connect(self.options)), self.server.url_of(name)
  migrate.apply(self.db)
  self.runs = {}
end

--- A run in it (M.new). clear() closes its sessions.
function World:run(id, partitions, high)
  local run = M.new(self.options, self.url, id, partitions, high)
  self.runs[#self.runs + 1] = run
  return run
end

function World:clear()
  for _, run in ipairs(self.runs) do
    run.committer.session:close()
    run.control.session:close()
  end
  self.db:close()
end

function World:rows(sql)
  return assert(self.db:query(sql)).rows
end

--- Step both tasks until `done`.
function M.until_(done, ...)
  local deadline = clock.mono_ms() + 30000
  while not done() do
    assert(clock.mono_ms() < deadline, "not in time")
    for _, run in ipairs { ... } do
      run.committer:step()
      run.control:step()
      run:claim_again(clock.mono_ms())
    end
    clock.sleep(1)
  end
end

function M.give(run, ...)
  local list = {}
  for _, p in ipairs { ... } do list[#list + 1] = { topic = "t", partition = p } end
  run:given(list)
  M.until_(function()
    for _, item in ipairs(list) do
      if not run.claims[item.partition] then return false end
    end
    return not run.control.task
  end, run)
end

-- When the first window starts.
local START = 1723161240000
M.START = START

--- Add { partition, offset, price, ms after START } rows.
function M.add(run, ...)
  local b <close> = batch.new()
  for _, row in ipairs { ... } do
    b:add { partition = row[1], offset = row[2], stamp_ms = 1, value =
      ('{"symbol":"A","price":"%s","timestamp":%d}'):format(row[3], START + (row[4] or 0)) }
  end
  run.decoder:decode(b)
  run:judge_ms()
  run.store:add(b, START + 60000)
  run:touch(clock.mono_ms())
end

--- Begin a commit and stop before its results are sent: the compare-and-set has been answered.
function M.half(run)
  local session, answered = run.committer.session, false
  session.run = function(_, ...)
    session.run = nil -- only the first
    local results = table.pack(session:run(...))
    answered = true
    coroutine.yield "db"
    return table.unpack(results, 1, results.n)
  end
  assert(run.committer:start())
  M.until_(function()
    run.committer:step()
    return answered
  end)
  assert(run.committer:busy())
end

function M.commit(run)
  run.committer:start()
  M.until_(function() return not run.committer:busy() end, run)
end

--- Say that the end of a partition was reached.
function M.ends(run, ...)
  local b <close> = batch.new()
  for _, item in ipairs { ... } do b:finish(item[1], item[2]) end
  run.store:add(b, START)
  run:touch(clock.mono_ms())
end

return M
