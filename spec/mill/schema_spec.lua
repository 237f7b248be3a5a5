-- What a result table must be like: tables that fit and that do not, on a private MariaDB; the same
-- on MySQL in spec/real/input_spec.lua.

local mariadb = require "spec.support.mariadb"
local migrate = require "mill.migrate"
local mill = require "mill"
local mysql = require "host.mysql"
local schema = require "mill.schema"
local session_ = require "mill.session"

local SELECT = {
  symbol = "key", start_time = "window.start", end_time = "window.end",
  average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
}

describe("a result table", function()
  local server, options, db, session

  setup(function() server = mariadb.start() end)

  before_each(function()
    local _
    _, options = server.fresh_database()
    db = assert(mysql.connect(options))
    session = session_.new(options)
    migrate.apply(db)
  end)

  after_each(function()
    session:close()
    db:close()
  end)

  local function sql(text)
    return assert(db:query(text)).rows
  end

  local function pipeline(change)
    local o = change or {}
    return mill.pipeline {
      name = "p", source = mill.kafka { topic = "t" },
      decode = mill.json(o.decode or { symbol = "string", price = "decimal(20,8)",
        qty = "decimal(20,8)", count = "integer", timestamp = "time" }),
      outputs = o.outputs or { {
        window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol" },
        select = o.select or SELECT,
        sink = mill.mysql { table = o.table or "moving_averages", key = { "symbol", "start_time" } },
      } },
    }
  end

  -- The complaints about the table of a pipeline, as one text.
  local function complaints(change)
    local output = pipeline(change).outputs[1]
    local have = assert(schema.read(session, output.table))
    return table.concat(schema.check(output.table, have, output.plan, output.sink, output.window),
      "\n")
  end

  it("fits as migrate makes it, and with an id that is counted up, as adopted ones have it", function()
    assert.equal("", complaints())
    sql [[alter table moving_averages drop primary key, add unique key symbol_start_time (symbol,
      start_time), add column id bigint unsigned not null auto_increment primary key first]]
    assert.equal("", complaints())
    sql "alter table moving_averages add unique key later (start_time, end_time, symbol)"
    assert.equal("", complaints())
  end)

  for _, engine in ipairs { "MyISAM", "Aria", "MEMORY" } do
    it("must be of InnoDB, not of " .. engine, function()
      sql("alter table moving_averages engine = " .. engine)
      assert.equal(("table moving_averages has engine %s, which may keep rows when a commit fails, so "
        .. "that they are counted twice; `alter table moving_averages engine = InnoDB` mends that")
        :format(engine), complaints())
      sql(complaints():match("`(.-)`"))
      assert.equal("", complaints())
    end)
  end

  it("must not be a view", function()
    sql "create view seen as select * from moving_averages"
    assert.equal("table seen is a view; results need a table with engine = InnoDB",
      complaints { table = "seen" })
  end)

  it("must have the whole columns in its key, and the way out mends it", function()
    sql "alter table moving_averages drop primary key, add primary key (symbol(3), start_time)"
    local said = complaints()
    assert.equal([[
table moving_averages has no unique key on (symbol, start_time); `alter table moving_averages add ]]
      .. [[unique key (symbol, start_time)` makes one
table moving_averages: under its unique key PRIMARY (symbol(3), start_time) different windows can ]]
      .. [[share a row, since it does not have all of (symbol, start_time); `alter table ]]
      .. [[moving_averages drop primary key` removes it]], said)
    for alter in said:gmatch("`(.-)`") do sql(alter) end
    assert.equal("", complaints())
  end)

  for _, case in ipairs {
    { "another unique key", "add unique key one_time (start_time)", "one_time (start_time)" },
    { "a unique key on a part of a column", "add unique key part (start_time, symbol(3))",
      "part (start_time, symbol(3))" },
    { "a unique key on a column with a default", "add column kind int not null default 0, "
      .. "add unique key kinds (kind)", "kinds (kind)" },
  } do
    it("must not have " .. case[1] .. ", under which windows share a row", function()
      sql("alter table moving_averages " .. case[2])
      local said = complaints()
      assert.truthy(said:find("under its unique key " .. case[3], 1, true), said)
      sql(said:match("`(.-)`"))
      assert.equal("", complaints())
    end)
  end

  for _, collation in ipairs { "latin1_nopad_bin", "utf8mb3_nopad_bin", "utf8mb4_bin",
    "utf8mb4_nopad_bin" } do
    it("has a key of every character, each another one: " .. collation, function()
      sql(("alter table moving_averages modify symbol varchar(32) character set %s collate %s not null")
        :format(collation:match("^[^_]+"), collation))
      if collation == "utf8mb4_nopad_bin" then
        assert.equal("", complaints())
      else
        assert.matches("has collation " .. collation .. ", .* must be utf8mb4_0900_bin", complaints())
      end
    end)
  end

  it("takes null where an aggregate has none", function()
    sql [[alter table moving_averages add quantity decimal(38,8), add turnover decimal(60,16),
      add squares decimal(60,16), add weighted decimal(20,8) not null, add spread decimal(20,8) not null,
      add spread_samp decimal(20,8) not null]]
    local select = { quantity = "sum(qty)", turnover = "sum(price*qty)", squares = "sum(price*price)",
      weighted = "vwap(price,qty)", spread = "stddev(price)", spread_samp = "stddev_samp(price)" }
    for column, text in pairs(SELECT) do select[column] = text end
    local said = complaints { select = select }
    assert.equal([[
table moving_averages: column 'spread_samp' is NOT NULL, but stddev_samp(price) has no value when a ]]
      .. [[window has a single row; `alter table moving_averages modify spread_samp decimal(20,8) ]]
      .. [[null` lets it be
table moving_averages: column 'weighted' is NOT NULL, but vwap(price,qty) has no value when a ]]
      .. [[window's sum(qty) is 0; `alter table moving_averages modify weighted decimal(20,8) null` ]]
      .. [[lets it be]], said)
    sql(said:match("`(.-)`"))
    -- A quantity that is more than 0 has no such sum.
    assert.equal("", complaints { select = select, decode = { symbol = "string",
      price = "decimal(20,8)", qty = "decimal(20,8) > 0", timestamp = "time" } })
  end)

  describe("limits its fields", function()
    local function limits(columns, select, more)
      sql("alter table moving_averages " .. columns)
      for column, text in pairs(SELECT) do select[column] = text end
      local p = pipeline { select = select, outputs = more and more(select) }
      for _, output in ipairs(p.outputs) do output.have = schema.read(session, output.table) end
      return schema.limits(p.outputs, p.decode.by_name)
    end

    for _, case in ipairs {
      { "tinyint", "-128", "127" }, { "tinyint unsigned", "0", "255" },
      { "smallint", "-32768", "32767" }, { "smallint unsigned", "0", "65535" },
      { "mediumint", "-8388608", "8388607" }, { "mediumint unsigned", "0", "16777215" },
      { "int", "-2147483648", "2147483647" }, { "int unsigned zerofill", "0", "4294967295" },
      { "bigint" }, { "bigint unsigned", "0" }, { "decimal(18,0)", "-" .. ("9"):rep(18), ("9"):rep(18) },
      { "decimal(19,0)" }, { "decimal(4,1) unsigned", "0", "999" }, { "decimal(2,2)", "-0", "0" },
    } do
      it("to what it can hold: " .. case[1], function()
        local got = limits("add top " .. case[1], { top = "max(count)" }).count
        assert.same({ min = case[2], min_column = case[2] and "top", max = case[3],
          max_column = case[3] and "top" }, got)
      end)
    end

    it("to the narrowest of its columns, in any of the tables", function()
      sql "create table wider like moving_averages"
      sql "alter table wider modify symbol varchar(40) character set utf8mb4 collate utf8mb4_nopad_bin"
      local got = limits("add low smallint unsigned, add high tinyint, add price_low decimal(10,8)",
        { low = "min(count)", high = "max(count)", price_low = "min(price)" }, function(select)
          local function output(name, columns)
            return {
              window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol" },
              select = columns,
              sink = mill.mysql { table = name, key = { "symbol", "start_time" } },
            }
          end
          return { output("moving_averages", select), output("wider", SELECT) }
        end)
      assert.same({
        symbol = { max_chars = 32, max_chars_column = "symbol" },
        count = { min = "0", min_column = "low", max = "127", max_column = "high" },
        price = { min = "-99.99999999", min_column = "price_low", max = "99.99999999",
          max_column = "price_low" },
      }, got)
    end)
  end)
end)
