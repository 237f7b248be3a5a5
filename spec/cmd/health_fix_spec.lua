-- What `runbook health` tells to do is a command that runs, and that mends what was found.
-- Development broker and a private MariaDB.

local broker = require "spec.support.broker"
local command = require "spec.support.command"
local json = require "mill.json"
local kafka = require "host.kafka"
local mariadb = require "spec.support.mariadb"
local mysql = require "host.mysql"
local process = require "host.process"

local OLD = [[create table %s (id int auto_increment primary key, start_time datetime,
  end_time datetime, symbol varchar(10), average_price decimal(20,8),
  created_at timestamp default current_timestamp)]]
local OLD_ROWS = [[insert into %s (start_time, end_time, symbol, average_price) values
  ('2024-08-09 02:00:00', '2024-08-09 02:01:00', 'A', 1),
  ('2024-08-09 02:00:00', '2024-08-09 02:01:00', 'A', 2)]]

describe("a fix of the daily check", function()
  local server, dev, db, env

  setup(function() server = mariadb.start() end)

  -- Each has a broker of its own: a group of the development broker is slow to form again.
  before_each(function()
    local name, options = server.fresh_database()
    db = assert(mysql.connect(options))
    dev = broker.start { crypto_prices = 1 }
    local producer <close> = kafka.producer { brokers = dev:bootstrap() }
    for i = 0, 2 do
      assert(producer:send { topic = "crypto_prices", partition = 0,
        value = ('{"symbol":"A","price":"1.5","timestamp":%d}'):format(1723161240 + i * 60) })
    end
    assert.equal(0, producer:flush(10000))
    env = { TIDEMILL_KAFKA = dev:bootstrap(), TIDEMILL_MYSQL = server.url_of(name) }
  end)

  after_each(function()
    db:close()
    dev:close()
  end)

  local function query(sql) return assert(db:query(sql)).rows end

  local function tidemill(...)
    local r = command.run({ ... }, { env = env })
    assert.equal(0, r.status, r.err)
  end

  -- The result of one check.
  local function found(id, ...)
    local r = command.run({ "runbook", "health", "--json", "--set", "watch=0s", ... }, { env = env })
    for _, result in ipairs(assert(json.decode(r.out), r.err).results) do
      if result.id == id then return result end
    end
  end

  -- Runs the command of a result, with words for its placeholders.
  local function apply(result, words)
    local cmd = result.fix.cmd:gsub("%u%u%u+", words or {})
    assert.matches("^tidemill ", cmd)
    local with = { TIDEMILL_HOME = process.home() }
    for name, value in pairs(env) do with[name] = value end
    local r = command.program { env = with, cwd = process.home(),
      argv = { "sh", "-c", (cmd:gsub("^tidemill", "exec " .. process.exe())) } }
    assert.equal(0, r.status, cmd .. "\n" .. r.err)
  end

  it("makes the tables", function()
    local result = found "mysql.schema"
    assert.equal("CRIT", result.status)
    apply(result)
    assert.equal("OK", found("mysql.schema").status)
  end)

  it("adopts the table of the replaced system", function()
    query(OLD:format "moving_averages")
    query(OLD_ROWS:format "moving_averages")
    local result = found "mysql.schema"
    assert.equal("CRIT", result.status)
    apply(result, { ZONE = "Europe/Madrid" })
    assert.equal("OK", found("rows.duplicates").status)
    assert.same({ { "2024-08-09 00:00:00", "2.00000000" } },
      query "select start_time, average_price from moving_averages")
  end)

  it("adopts another table of it that has windows twice, or no key", function()
    tidemill "migrate"
    query(OLD:format "twice")
    query(OLD_ROWS:format "twice")
    query(OLD:format "keyless")
    for name, text in pairs { twice = "has duplicate windows", keyless = "has no unique key" } do
      local result = found("rows.duplicates", "--set", "table=" .. name)
      assert.equal("CRIT", result.status)
      assert.truthy(result.summary:find(text, 1, true), result.summary)
      apply(result, { ZONE = "UTC" })
      assert.equal("OK", found("rows.duplicates", "--set", "table=" .. name).status)
    end
  end)

  it("adds the key, once windows that are there twice are away", function()
    tidemill "migrate"
    tidemill("run", "scripts/averages.lua", "--until-end")
    query "alter table moving_averages drop primary key"
    local result = found "rows.duplicates"
    assert.truthy(result.summary:find("has no unique key", 1, true), result.summary)
    apply(result)
    assert.equal("OK", found("rows.duplicates").status)
    query "alter table moving_averages drop key symbol_start_time"
    query [[insert into moving_averages (symbol, start_time, end_time, average_price, price_sum, samples)
      select symbol, start_time, end_time, average_price, price_sum, samples from moving_averages
      where start_time = '2024-08-08 23:55:00']]
    result = found "rows.duplicates"
    assert.truthy(result.fix.text:find("tidemill progress reset scripts/averages.lua --from "
      .. "2024-08-08T23:55:00Z --execute", 1, true), result.fix.text)
    query "delete from moving_averages where start_time = '2024-08-08 23:55:00'"
    apply(result)
    assert.equal("OK", found("rows.duplicates").status)
    apply { fix = { cmd = result.fix.text:match "tidemill progress reset .*" } }
    assert.same({ { "2024-08-08 23:54:00" } }, query "select start_time from moving_averages")
    assert.same({ { 0 } }, query "select position from mill_progress")
  end)

  it("computes corrupt rows again, from the first of them on", function()
    tidemill "migrate"
    tidemill("run", "scripts/averages.lua", "--until-end")
    query "update moving_averages set average_price = -1 where start_time > '2024-08-08 23:54:00'"
    local result = found "rows.corrupt"
    assert.equal("CRIT", result.status)
    assert.equal("tidemill progress reset scripts/averages.lua --from 2024-08-08T23:55:00Z --execute",
      result.fix.cmd)
    apply(result)
    assert.same({ { "2024-08-08 23:54:00", "1.50000000" } },
      query "select start_time, average_price from moving_averages")
    assert.same({ { 0 } }, query "select position from mill_progress")
    assert.equal("OK", found("rows.corrupt").status)
    -- Rows of another system are in no topic.
    query "update moving_averages set average_price = null, samples = null"
    result = found "rows.corrupt"
    assert.is_nil(result.fix.cmd)
    assert.truthy(result.fix.text:find("cannot be computed again", 1, true))
  end)

  it("starts what does not run, the pipeline of that name alone", function()
    tidemill "migrate"
    assert.equal("tidemill run scripts/averages.lua", found("aggregation.alive").fix.cmd)
    assert.equal("tidemill run SCRIPT", found("aggregation.alive", "--set", "pipeline=other").fix.cmd)
  end)
end)
