-- Into the table of the replaced system: symbol VARCHAR(10), duplicate windows, local rows that
-- nobody may add to.

local json = require "mill.json"
local mysql = require "host.mysql"
local real = require "spec.support.real"

local BIG = "replay_arrival_order_20240809"
local ROWS = 80000 -- of six symbols, one of them of 11 characters; 2024-08-08 23:54:15 and on
local MINUTE = 60000
local FIRST = 1723161240000 -- 23:54:00

local OLD = [[create table %s (id int auto_increment primary key, start_time datetime,
  end_time datetime, symbol varchar(10), average_price decimal(20,8),
  created_at timestamp default current_timestamp)]]

describe("an adopted table", function()
  local why = real.missing(true)
  if why then
    it("needs servers and recordings", function() pending(why) end)
    return
  end

  local topic, last_ms

  setup(function()
    topic = real.topic { partitions = 3 }
    local records = {}
    last_ms = 0
    for i, row in ipairs(real.rows(BIG)) do
      if i > ROWS then break end
      last_ms = math.max(last_ms, math.tointeger(tonumber(row[1])))
      records[i] = { partition = i % 3, value =
        ('{"symbol":"%s","price":%s,"timestamp":"%s"}'):format(row[2], row[3], row[1]) }
    end
    real.send(topic, records)
  end)
  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      before_each(function() place = real.place(base, { empty = true }) end)
      after_each(function() place:close() end)

      -- An old table with a row for each of `minutes` (from FIRST on), the first one three times.
      local function old_table(name, minutes)
        place:query(OLD, name)
        place:query "set time_zone = '+00:00'"
        for _, minute in ipairs(minutes) do
          for n = 1, minute == minutes[1] and 3 or 1 do
            place:query("insert into %s (start_time, end_time, symbol, average_price) values "
              .. "(from_unixtime(%d), from_unixtime(%d), 'BTCUSDT', %d.5)", name,
              (FIRST + minute * MINUTE) // 1000, (FIRST + (minute + 1) * MINUTE) // 1000, n)
          end
        end
      end

      local function adopt(name)
        local refused = place:migrate("--from-zone", "UTC", "--table", name, "--json")
        assert.equal(5, refused.status, refused.err)
        local r = place:migrate("--execute", "--from-zone", "UTC", "--table", name, "--json")
        assert.equal(0, r.status, r.err)
        return json.decode(r.out)
      end

      -- The old rows as they must stay.
      local function kept(name)
        return place:query("select symbol, timestampdiff(second, '1970-01-01', start_time), "
          .. "average_price, samples, price_sum, revision from %s where samples is null order by "
          .. "start_time", name)
      end

      local function run(name, o)
        o.topic, o.table, o.where = topic, name, "samples is not null"
        o.runs = { place:average(o) }
        return real.verify(place, o)
      end

      it("of older days: equal, row by row, next to the old rows", function()
        old_table("moving_averages", { -3000, -2999 })
        local done = adopt "moving_averages"
        assert.equal(2, done.adopted.moved)
        local want = run("moving_averages", {})
        assert.is_true(#want.results > 10)
        assert.equal(0, #want.late_rows)
        assert.same({
          { "BTCUSDT", (FIRST - 3000 * MINUTE) // 1000, "3.50000000", mysql.null, mysql.null, 0 },
          { "BTCUSDT", (FIRST - 2999 * MINUTE) // 1000, "1.50000000", mysql.null, mysql.null, 0 },
        }, kept "moving_averages")
        assert.equal(2, place:value "select count(*) from moving_averages_duplicates")
      end)

      it("of the same minutes: old rows stay, new ones begin behind them", function()
        old_table("moving_averages", { 0 })
        adopt "moving_averages"
        local before = kept "moving_averages"
        local until_ms = FIRST + MINUTE
        assert.is_true(last_ms > until_ms)
        local want = run("moving_averages", { adopted_until_ms = until_ms })
        assert.is_true(#want.late_rows > 1000 and #want.results > 0)
        assert.same(before, kept "moving_averages")
        assert.equal(until_ms, place:value "select adopted_until from mill_pipelines")
      end)

      it("of another name, in hopping windows", function()
        assert.equal(0, place:migrate().status)
        old_table("averages_old", { 0 })
        -- On MySQL and MariaDB a row format of MyISAM is none of InnoDB.
        place:query "alter table averages_old engine = MyISAM, row_format = fixed"
        adopt "averages_old"
        local want = run("averages_old", { adopted_until_ms = FIRST + MINUTE, name = "other",
          size_ms = MINUTE, hop_ms = 30000, max_delay_ms = 200, lateness_ms = 100 })
        assert.is_true(#want.results > 0)
        assert.same({ { "averages_old", "InnoDB" }, { "averages_old_duplicates", "InnoDB" } },
          place:query("select table_name, engine from information_schema.tables where table_schema = "
          .. "database() and table_name in ('averages_old', 'averages_old_duplicates') order by 1"))
      end)
    end)
  end
end)
