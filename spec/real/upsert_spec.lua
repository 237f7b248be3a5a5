-- The same rows added as text and as arrays of values: equal to the last digit and byte, on every
-- server.

local batch = require "host.batch"
local commit = require "mill.commit"
local hand = require "spec.support.hand_run"
local json = require "mill.json"
local migrate = require "mill.migrate"
local mill = require "mill"
local mysqlurl = require "mill.mysqlurl"
local real = require "spec.support.real"

local ROWS, COMMITS = 150, 6

local KEYS = { "plain", "it's", 'say "x"', "back\\slash\\", "\\'", "new\nline\r\26", "nul\0byte", "tab\t?",
  "\u{1F600}\u{10FFFF}", "\u{e9}\u{4e2d}", " pads ", "PLAIN", "('x',1),", "-- ", "%d%s", ("k"):rep(250),
  ("\u{1F680}"):rep(60), "NULL", "none" }

local SELECT = {
  symbol = "key", start_time = "window.start", end_time = "window.end",
  average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
  low = "min(price)", high = "max(price)", open = "first(price)", close = "last(price)",
  open_at = "first_position()", close_at = "last_position()", weighted = "vwap(price,qty)",
  turnover = "sum(price*qty)", quantity = "sum(qty)", spread = "stddev_samp(qty)",
  squares = "sum(qty*qty)",
}

local COLUMNS = {}
for name in pairs(SELECT) do COLUMNS[#COLUMNS + 1] = name end
table.sort(COLUMNS)

-- Digits of a number with up to `whole` before the point and 8 behind it.
local function number(random, whole)
  local digits = {}
  for i = 1, random(1, whole) do digits[i] = random(i == 1 and 1 or 0, 9) end
  return (random(3) == 1 and "-" or "") .. table.concat(digits)
    .. (random(4) == 1 and "" or (".%08d"):format(random(0, 99999999)))
end

local function random_rows()
  local draw, commits, offset = real.random "rows of an upsert", {}, 0
  local function random(low, high)
    if not high then low, high = 1, low end
    return low + draw(high - low + 1)
  end
  for n = 1, COMMITS do
    local list = {}
    for i = 1, ROWS do
      local key = KEYS[random(#KEYS)]
      list[i] = { partition = 0, offset = offset, stamp_ms = 1, value = json.encode {
        symbol = key, price = number(random, random(2) == 1 and 28 or 5),
        -- Some weights of nothing at all: their average is NULL.
        qty = key == "none" and "0" or (number(random, 6):gsub("^-", "")),
        timestamp = hand.START + random(0, 5) * 60000 + random(0, 59999),
      } }
      offset = offset + 1
    end
    commits[n] = list
  end
  return commits
end

local function pipeline(url, name)
  return mill.pipeline {
    name = name, source = mill.kafka { topic = "t" },
    decode = mill.json { symbol = "string", price = "decimal(36,8)", qty = "decimal(20,8)",
      timestamp = "time" },
    outputs = {
      { window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol", max_future = "1h" },
        select = SELECT,
        sink = mill.mysql { table = name .. "_1", key = { "symbol", "start_time" }, url = url } },
      { window = mill.hopping { size = "2m", hop = "30s", time = "timestamp", key = "symbol",
          max_future = "1h" },
        select = SELECT,
        sink = mill.mysql { table = name .. "_2", key = { "symbol", "start_time" }, url = url } },
    },
  }
end

local function prepare(place, name)
  for n = 1, 2 do
    place:query("create table %s_%d like moving_averages", name, n)
    place:query("alter table %s_%d modify symbol varchar(255) character set utf8mb4 collate %s not null,"
      .. " modify average_price decimal(36,8), add low decimal(36,8), add high decimal(36,8), add open "
      .. "decimal(36,8), add close decimal(36,8), add open_at binary(20), add close_at binary(20), add "
      .. "weighted decimal(36,8), add turnover decimal(65,16), add quantity decimal(38,8), add spread "
      .. "decimal(36,8), add squares decimal(60,16)", name, n, migrate.collation(place.db:server()))
  end
end

describe("rows of a result table", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end
  local commits, rows_at, size = random_rows(), commit.ARRAY_ROWS, commit.ROWS_PER_STATEMENT
  local want

  teardown(function() commit.ARRAY_ROWS, commit.ROWS_PER_STATEMENT = rows_at, size end)

  -- Add all rows in commits of their own; what the tables hold.
  local function add(place, name)
    local options = assert(mysqlurl.parse(place.url))
    local sent
    prepare(place, name)
    local run = hand.new(options, place.url, name, 1, 0, pipeline(place.url, name))
    local session = run.committer.session
    function session:start_rows(...)
      sent = true
      return getmetatable(self).start_rows(self, ...)
    end
    finally(function()
      run.committer.session:close()
      run.control.session:close()
    end)
    hand.give(run, 0)
    run.control.next_job = function() end -- what is final is told by hand
    for n, list in ipairs(commits) do
      local b <close> = batch.new()
      for _, row in ipairs(list) do b:add(row) end
      run.decoder:decode(b)
      local counted = run.store:add(b, hand.START + 600000)
      assert.equal(ROWS, counted)
      place:query("update mill_pipelines set final_ms = %d where pipeline = '%s'",
        hand.START + 30000 * n, name)
      hand.commit(run)
    end
    local out = {}
    for n = 1, 2 do
      out[n] = place:query("select symbol, start_time, revision, is_final, %s from %s_%d",
        table.concat(COLUMNS, ", "), name, n)
    end
    return out, sent
  end

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place
      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      local function check(out)
        want = want or out
        for n = 1, 2 do
          assert.is_true(#out[n] > 80)
          real.same(want[n], out[n], 2, "table " .. n)
        end
      end

      it("are the same as text", function()
        commit.ARRAY_ROWS, commit.ROWS_PER_STATEMENT = math.huge, 7
        local out, sent = add(place, "words")
        assert.is_nil(sent)
        check(out)
      end)

      it("are the same as arrays, where the server takes them", function()
        commit.ARRAY_ROWS, commit.ROWS_PER_STATEMENT = 1, 31
        local out, sent = add(place, "arrays")
        assert.equal(base.name == "MariaDB" or nil, sent)
        check(out)
      end)

      it("freeze the window that does not fit, whichever way they go", function()
        for n, rows in ipairs { 1, math.huge } do
          commit.ARRAY_ROWS, commit.ROWS_PER_STATEMENT = rows, 31
          place:query "delete from moving_averages"
          place:query "alter table moving_averages modify price_sum decimal(10,8)"
          for _, t in ipairs { "mill_pipelines", "mill_progress", "mill_dead_letters" } do
            place:query("delete from " .. t)
          end
          local run = hand.new(assert(mysqlurl.parse(place.url)), place.url, "run" .. n, 1)
          hand.give(run, 0)
          run.control.next_job = function() end
          for i, price in ipairs { "90", "20", "5" } do
            hand.add(run, { 0, 2 * i, price }, { 0, 2 * i + 1, "1", 60000 })
            assert.is_true(run.committer:drain(30000))
          end
          assert.same({ { "90.00000000", 1 }, { "3.00000000", 3 } },
            place:query "select price_sum, samples from moving_averages order by start_time", n)
          assert.same({ { '{"price_sum":"115.00000000","samples":"3"}' } },
            place:query "select result_value from mill_dead_letters where kind = 'result'", n)
          run.committer.session:close()
          run.control.session:close()
        end
      end)
    end)
  end
end)
