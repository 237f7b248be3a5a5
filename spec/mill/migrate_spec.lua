-- Migration and adoption on a private MariaDB; the same statements run on MySQL in spec/real.

local mariadb = require "spec.support.mariadb"
local mysql = require "host.mysql"

local OLD = [[create table moving_averages (id int auto_increment primary key, start_time datetime,
  end_time datetime, symbol varchar(10), average_price decimal(20,8),
  created_at timestamp default current_timestamp)]]

describe("migrate", function()
  local adopt = require "mill.adopt"
  local migrate = require "mill.migrate"
  local server, db

  setup(function() server = mariadb.start() end)

  before_each(function()
    local _, options = server.fresh_database()
    db = assert(mysql.connect(options))
  end)

  after_each(function() db:close() end)

  local function rows(sql)
    return assert(db:query(sql)).rows
  end

  local function old_row(start, symbol, average, created)
    assert(db:query(([[insert into moving_averages (start_time, end_time, symbol, average_price,
      created_at) values ('%s', '%s' + interval 1 minute, '%s', %s, '%s')]]):format(start, start,
      symbol, average, created or start)))
  end

  it("applies the numbered files once", function()
    assert.same({ "0001_moving_averages.sql", "0002_mill.sql" }, migrate.apply(db))
    assert.same({}, migrate.apply(db))
    assert.equal(2, rows("select count(*) from mill_migrations")[1][1])
  end)

  local function engines()
    return rows [[select table_name, engine from information_schema.tables
      where table_schema = database() and engine <> 'InnoDB' order by 1]]
  end

  it("makes InnoDB tables where the server's default is another engine", function()
    assert(db:query "set default_storage_engine = MyISAM")
    migrate.apply(db)
    assert.same({}, engines())
  end)

  for _, options in ipairs { "engine = MyISAM row_format = fixed",
    "engine = Aria transactional = 1 row_format = page", "engine = InnoDB row_format = compressed" } do
    it("adopts a table into InnoDB ones: " .. options, function()
      assert(db:query((OLD:gsub("varchar%(10%)", "char(10)") .. options)))
      old_row("2024-08-09 02:00:00", "A", 1)
      old_row("2024-08-09 02:00:00", "A", 2)
      adopt.execute(db, "moving_averages", adopt.report(db, "moving_averages", "UTC"))
      local others = {}
      for _, row in ipairs(engines()) do others[#others + 1] = row[1] end
      assert.same(options:find("InnoDB", 1, true) and {} or { "moving_averages_before_tidemill" }, others)
      assert.equal(1, rows("select count(*) from moving_averages_duplicates")[1][1])
    end)
  end

  it("splits statements and leaves out comments", function()
    assert.same({ "select 1", "select 2,\n 3" },
      migrate.statements("-- no;\nselect 1;\n\nselect 2,\n 3;\n"))
  end)

  it("gives result keys a collation that is binary and does not pad", function()
    migrate.apply(db)
    assert(db:query [[insert into moving_averages (symbol, start_time, end_time) values
      ('A', '2024-01-01', '2024-01-01'), ('a', '2024-01-01', '2024-01-01'),
      ('A ', '2024-01-01', '2024-01-01')]])
    assert.equal(3, rows("select count(*) from moving_averages")[1][1])
  end)

  it("needs the zone of an old table that has rows", function()
    assert(db:query(OLD))
    assert.is_true(adopt.needed(db, "moving_averages"))
    old_row("2024-01-01 00:00:00", "A", 1)
    assert.error_matches(function() adopt.report(db, "moving_averages") end, "%-%-from%-zone")
    assert.error_matches(function() adopt.report(db, "moving_averages", "Mars/Base") end,
      "zone: UNKNOWN: 'Mars/Base'")
  end)

  it("keeps the greatest id of a window, moves the others, loses nothing", function()
    assert(db:query(OLD))
    old_row("2024-08-09 02:00:00", "A", 1)
    old_row("2024-08-09 02:00:00", "A", 2)
    old_row("2024-08-09 02:01:00", "A", 3)
    local report = adopt.report(db, "moving_averages", "Europe/Madrid")
    assert.same({ 3, 1, 1 }, { report.rows, report.duplicate_windows, report.duplicate_rows })
    local done = adopt.execute(db, "moving_averages", report)
    assert.same({ 2, 1 }, { done.kept, done.moved })
    assert.same({ { 2, "2024-08-09 00:00:00", "2024-08-09 00:01:00", "2.00000000", mysql.null, 1 },
      { 3, "2024-08-09 00:01:00", "2024-08-09 00:02:00", "3.00000000", mysql.null, 1 } },
      rows [[select id, start_time, end_time, average_price, samples, is_final
        from moving_averages order by id]])
    assert.same({ { 1 } }, rows "select id from moving_averages_duplicates")
    assert.equal(3, rows("select count(*) from moving_averages_before_tidemill")[1][1])
    assert.same({ { "bigint(20) unsigned" }, { "varchar(32)" } }, rows [[select column_type from
      information_schema.columns where table_schema = database() and table_name =
      'moving_averages' and column_name in ('id', 'symbol') order by column_name]])
    assert.is_false(adopt.needed(db, "moving_averages"))
  end)

  it("leaves rows without a window aside, and takes names as the new key does", function()
    assert(db:query(OLD))
    old_row("2024-08-09 02:00:00", "A", 1)
    old_row("2024-08-09 02:00:00", "a", 2)
    old_row("2024-08-09 02:01:00", "A", "null")
    assert(db:query [[insert into moving_averages (start_time, end_time, symbol, average_price)
      values ('2024-08-09 02:00:00', '2024-08-09 02:01:00', null, 1), (null, null, 'A', 2)]])
    local report = adopt.report(db, "moving_averages", "UTC")
    assert.same({ 5, 2, 0 }, { report.rows, report.incomplete, report.duplicate_windows })
    local done = adopt.execute(db, "moving_averages", report)
    assert.same({ 3, 0 }, { done.kept, done.moved })
    assert.same({ { 1, "A" }, { 2, "a" }, { 3, "A" } },
      rows "select id, symbol from moving_averages order by id")
    assert.same({ { 4 }, { 5 } }, rows [[select id from moving_averages_before_tidemill
      where symbol is null or start_time is null order by id]])
  end)

  it("adopts a table whose indexes have the names of ours, and again after a failure", function()
    assert(db:query(OLD))
    assert(db:query [[alter table moving_averages add index symbol_start_time (symbol, start_time),
      add index is_final_end_time (end_time)]])
    old_row("2024-08-09 02:00:00", "A", 1)
    old_row("2024-08-09 02:00:00", "A", 2)
    -- Half of an attempt that failed.
    assert(db:query "create table moving_averages_adopting (x int)")
    local report = adopt.report(db, "moving_averages", "UTC")
    local done = adopt.execute(db, "moving_averages", report)
    assert.same({ 1, 1 }, { done.kept, done.moved })
    assert.same({ { "is_final_end_time", "is_final" }, { "is_final_end_time", "end_time" },
      { "symbol_start_time", "symbol" }, { "symbol_start_time", "start_time" } },
      rows [[select index_name, column_name from information_schema.statistics where table_schema =
      database() and table_name = 'moving_averages' and index_name <> 'PRIMARY'
      order by index_name, seq_in_index]])
    assert.equal(0, rows [[select count(*) from information_schema.tables where table_schema =
      database() and table_name = 'moving_averages_adopting']][1][1])
  end)

  it("leaves no half of a table when a copy fails", function()
    assert(db:query(OLD))
    assert(db:query "alter table moving_averages add column revision json")
    old_row("2024-08-09 02:00:00", "A", 1)
    assert(db:query "alter table moving_averages modify symbol text")
    assert(db:query(("update moving_averages set symbol = '%s'"):format(("x"):rep(40))))
    local report = adopt.report(db, "moving_averages", "UTC")
    assert.has_error(function() adopt.execute(db, "moving_averages", report) end)
    assert.equal(0, rows [[select count(*) from information_schema.tables where table_schema =
      database() and table_name = 'moving_averages_adopting']][1][1])
    assert.equal(1, rows("select count(*) from moving_averages")[1][1])
  end)

  it("knows whose positions go on in a table that is adopted again", function()
    migrate.apply(db)
    assert.is_nil(adopt.owner(db, "moving_averages"))
    assert(db:query [[insert into mill_pipelines (pipeline, result_table, fingerprint)
      values ('averages', 'moving_averages', '')]])
    assert(db:query [[insert into mill_progress (pipeline, cluster_id, topic, `partition`, position)
      values ('averages', 'c', 't', 0, 1200)]])
    local owner = adopt.owner(db, "moving_averages")
    assert.equal("averages", owner.pipeline)
    assert.matches("^%d%d%d%d%-", owner.updated_at)
  end)

  it("adopts a table of nothing but rows without a window", function()
    assert(db:query(OLD))
    assert(db:query "insert into moving_averages (symbol, average_price) values ('A', 2)")
    local report = adopt.report(db, "moving_averages", "UTC")
    local done = adopt.execute(db, "moving_averages", report)
    assert.same({ 1, 1, 0 }, { report.rows, report.incomplete, done.kept })
  end)

  it("tells the two hours of an autumn night apart by when rows were written", function()
    assert(db:query(OLD))
    assert(db:query "set time_zone = '+00:00'")
    -- 2024-10-27: 02:30 local came at 00:30 UTC (summer) and at 01:30 UTC (winter).
    old_row("2024-10-27 02:30:00", "A", 1, "2024-10-27 00:31:02")
    old_row("2024-10-27 02:30:00", "A", 2, "2024-10-27 01:31:02")
    old_row("2024-10-27 01:59:00", "A", 3, "2024-10-27 00:00:02")
    old_row("2024-10-27 03:00:00", "A", 4, "2024-10-27 02:01:02")
    local report = adopt.report(db, "moving_averages", "Europe/Madrid")
    assert.equal(0, report.duplicate_windows)
    assert.same({ { rows = 2, from = "2024-10-27 02:00:00", to = "2024-10-27 03:00:00" } },
      report.ambiguous)
    adopt.execute(db, "moving_averages", report)
    assert.same({ { "2024-10-27 00:30:00" }, { "2024-10-27 01:30:00" }, { "2024-10-26 23:59:00" },
      { "2024-10-27 02:00:00" } }, rows "select start_time from moving_averages order by id")
  end)

  it("remembers up to where rows are the old system's, also after a kill", function()
    assert(db:query(OLD))
    old_row("2024-08-09 02:00:00", "A", 1)
    adopt.execute(db, "moving_averages", adopt.report(db, "moving_averages", "UTC"))
    migrate.apply(db)
    local until_ms = adopt.forgotten(db, "moving_averages")
    assert.equal(1723168860000, until_ms)
    adopt.remember(db, "moving_averages", until_ms)
    assert.is_nil(adopt.forgotten(db, "moving_averages"))
    assert.same({ { "", 1723168860000 } }, rows "select pipeline, adopted_until from mill_pipelines")
  end)
end)

describe("zones", function()
  local zone = require "mill.zone"

  it("finds the changes of a zone to the second", function()
    assert.same({ { at = 1711846800, before = 3600, after = 7200 },
      { at = 1729990800, before = 7200, after = 3600 } },
      (zone.changes("Europe/Madrid", 1704067200, 1735689600)))
  end)

  it("has no change in UTC", function()
    assert.same({ { offset = 0 } }, zone.spans("UTC", 0, 1735689600))
  end)
end)
