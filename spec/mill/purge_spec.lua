-- Results of old windows are deleted: which, when it is refused, and what becomes of rows that come
-- for them later. A private MariaDB; rows are put into the store by hand.

local hand = require "spec.support.hand_run"
local mill = require "mill"
local purge = require "mill.purge"

local add, commit, give, until_ = hand.add, hand.commit, hand.give, hand.until_
local START <const>, MINUTE <const> = hand.START, 60000 -- 2024-08-08T23:54:00Z
local LATEST <const> = "2024-08-09T00:00:00Z" -- START + 6 m

describe("a purge", function()
  local world, run, pipeline = hand.world(), nil, nil

  setup(function() world:open() end)
  teardown(function() world:close() end)

  local function rows(sql) return world:rows(sql) end

  local function output(name, window)
    window.time, window.key, window.max_future = "timestamp", "symbol", "1h"
    return { window = (window.hop and mill.hopping or mill.tumbling)(window),
      select = { symbol = "key", start_time = "window.start", end_time = "window.end",
        average_price = "avg(price)", price_sum = "sum(price)", samples = "count()" },
      sink = mill.mysql { table = name, key = { "symbol", "start_time" }, url = world.url } }
  end

  -- One row a minute, minutes 0 to 10 of partition 0; nothing in partition 1.
  local function minutes()
    for i = 0, 10 do add(run, { 0, i, "1", i * MINUTE }) end
  end

  before_each(function()
    world:fresh()
    for _, name in ipairs { "one", "four" } do
      rows(("create table %s like moving_averages"):format(name))
    end
    pipeline = mill.pipeline {
      name = "p", source = mill.kafka { topic = "t" },
      decode = mill.json { symbol = "string", price = "decimal(20,8)", timestamp = "time" },
      outputs = { output("one", { size = "1m", lateness = "1m" }),
        output("four", { size = "4m", hop = "2m", lateness = "30s" }) },
    }
    run = hand.new(world.options, world.url, "a", 2, 0, pipeline)
    world.runs[#world.runs + 1] = run
    give(run, 0, 1)
    minutes()
    hand.ends(run, { 1, 0 })
    commit(run)
  end)

  after_each(function() world:clear() end)

  -- By the run, which looks by itself.
  local function final()
    until_(function()
      return not run.control.task and rows(("select count(*) from mill_pipelines where final_ms = %d")
        :format(START + 10 * MINUTE))[1][1] == 2
    end, run)
  end

  -- Rows of both tables below the latest possible time, and all.
  local function left()
    local at = ("sum(start_time < timestampadd(minute, 6, from_unixtime(%d)))"):format(START // 1000)
    assert(world.db:query "set time_zone = '+00:00'")
    local out = {}
    for i, name in ipairs { "one", "four" } do
      local row = rows(("select cast(coalesce(%s, 0) as signed), count(*) from %s"):format(at, name))[1]
      out[2 * i - 1], out[2 * i] = row[1], row[2]
    end
    return out
  end

  local function refused(before, status, text, execute, of)
    local ok, err = pcall(purge.run, of or pipeline, before, execute)
    assert.is_false(ok)
    assert.equal(status, err.status, tostring(err))
    assert(err.message:find(text, 1, true), err.message)
    assert.same({ 6, 11, 4, 7 }, left())
    assert.same({ { 0 } }, rows "select count(purged_ms) from mill_pipelines")
  end

  it("is refused while windows may take rows, and names the latest time", function()
    final()
    rows "update mill_pipelines set final_ms = null where result_table = 'one'"
    refused(LATEST, 5, "no result of table one is final yet", true)
    rows(("update mill_pipelines set final_ms = %d"):format(START + 10 * MINUTE))
    for _, execute in ipairs { false, true } do
      refused("2024-08-09T00:02:00Z", 5, "windows before 2024-08-09T00:02:00Z may still take rows "
        .. "(lateness); the latest possible time is " .. LATEST, execute)
    end
    refused("2024-08-08T23:59:00Z", 2, "is not the start of a window of four", true)
    refused(nil, 2, "needs --before TIME", true)
    refused("soon", 2, "needs --before TIME", true)
  end)

  it("is refused to another script and another pipeline", function()
    final()
    rows "update mill_pipelines set fingerprint = 'x' where result_table = 'four'"
    refused(LATEST, 5, "the script of pipeline 'p' is not the one that wrote table four", true)
    rows "update mill_pipelines set pipeline = 'q' where result_table = 'four'"
    refused(LATEST, 2, "table four belongs to pipeline 'q'", true)
  end)

  it("says what it would delete, and deletes it with --execute", function()
    final()
    refused(LATEST, 2, "10 result rows of windows before " .. LATEST .. " would be deleted for good. "
      .. "Nothing was changed", false)
    rows "update one set samples = null limit 3"
    refused(LATEST, 2, "10 result rows (3 of them adopted) of windows before", false)
    -- One of a script with smaller windows, which begins at the time.
    rows(([[insert into four (symbol, start_time, end_time, average_price, price_sum, samples, is_final)
      values ('B', from_unixtime(%d), from_unixtime(%d), 1, 1, 1, 1)]]):format(
      (START + 6 * MINUTE) // 1000, (START + 7 * MINUTE) // 1000))
    assert.equal(10, purge.run(pipeline, LATEST, true))
    assert.same({ 0, 5, 0, 4 }, left())
    assert.same({ { START + 6 * MINUTE }, { START + 6 * MINUTE } },
      rows "select purged_ms from mill_pipelines")
    -- The floor never goes down.
    assert.equal(0, purge.run(pipeline, "2024-08-08T23:58:00Z", true))
    assert.same({ { START + 6 * MINUTE }, { START + 6 * MINUTE } },
      rows "select purged_ms from mill_pipelines")
  end)

  it("sends rows for its windows to mill_late, and those of others into theirs", function()
    final()
    assert.equal(10, purge.run(pipeline, LATEST, true))
    local function more()
      add(run, { 1, 0, "5", 5 * MINUTE }, { 1, 1, "7", 6 * MINUTE })
    end
    more()
    run.consumer.high = 12
    run.committer:start()
    until_(function() return not run.committer:busy() and run.claims[0] and run.claims[1] end, run)
    assert.same({ 11, 0 }, { run.store:state(0).next, run.store:state(1).next })
    more()
    commit(run)
    assert.same({ 0, 5, 0, 3 }, left())
    -- The windows of minute 5: 5 to 6, 4 to 8 and 2 to 6. Those of minute 6: 6 to 7, 6 to 10, 4 to 8.
    local late = {}
    for i, row in ipairs(rows [[select result_table, reason, window_start_ms, `offset` from mill_late
      order by `offset`, result_table desc, window_start_ms]]) do
      late[i] = { row[1], row[2], (row[3] - START) // MINUTE, row[4] }
    end
    assert.same({ { "one", "purged", 5, 0 }, { "four", "purged", 2, 0 }, { "four", "purged", 4, 0 },
      { "four", "purged", 4, 1 } }, late)
    assert.same({ { "8.00000000", 2 } }, rows "select price_sum, samples from one limit 1")
    assert.same({ { "11.00000000", 5 } }, rows "select price_sum, samples from four limit 1")
  end)

  it("waits for a commit that is under way, and deletes what it wrote", function()
    final()
    rows "delete from one"
    add(run, { 1, 0, "5", 0 })
    hand.half(run)
    local task = coroutine.create(function() return purge.run(pipeline, LATEST, true) end)
    local deleted
    local function step()
      if deleted then return end
      local ok, result = coroutine.resume(task)
      assert(ok, tostring(result))
      if coroutine.status(task) == "dead" then deleted = result end
    end
    until_(function()
      step()
      assert.is_nil(deleted)
      return rows([[select count(*) from information_schema.processlist where info like
        '%from mill_pipelines%for update' and id <> connection_id()]])[1][1] > 0
    end)
    until_(function()
      step()
      return deleted and not run.committer:busy()
    end, run)
    -- Minute 0 of `one`; what was there of `four`, to which the commit has added.
    assert.equal(1 + 4, deleted)
    assert.same({ 0, 0, 0, 3 }, left())
  end)

  it("finishes one that was killed, some rows at a time", function()
    final()
    rows(("update mill_pipelines set purged_ms = %d"):format(START + 6 * MINUTE))
    local at_once = purge.ROWS_AT_ONCE
    purge.ROWS_AT_ONCE = 2
    finally(function() purge.ROWS_AT_ONCE = at_once end)
    assert.equal(10, purge.run(pipeline, LATEST, true))
    assert.same({ 0, 5, 0, 3 }, left())
  end)
end)
