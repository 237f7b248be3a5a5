-- Claims of many partitions at once, against a private MariaDB; the consumer only writes down.

local clock = require "host.clock"
local hand = require "spec.support.hand_run"
local kafka = require "host.kafka"
local source = require "mill.source"

local until_ = hand.until_

describe("a claim of many partitions", function()
  local world = hand.world()

  setup(function() world:open() end)

  teardown(function() world:close() end)

  before_each(function() world:fresh() end)

  after_each(function() world:clear() end)

  local function new_run(id, partitions, high)
    local run = world:run(id, partitions, high)
    run.control.due.clock = clock.mono_ms() + 60000
    return run
  end

  local function list(first, last)
    local out = {}
    for p = first, last do out[#out + 1] = { topic = "t", partition = p } end
    return out
  end

  -- Write down what the control session and the consumer are asked.
  local function watched(run)
    local asked, session = {}, run.control.session
    function session:run(statements, ...)
      for _, sql in ipairs(type(statements) == "table" and statements or { statements }) do
        local word = sql:match("^start transaction$") or sql:match("^commit$")
          or sql:match("^rollback$") or sql:match("^update mill_progress")
        if word then asked[#asked + 1] = word end
      end
      return getmetatable(self).run(self, statements, ...)
    end
    for name, object in pairs { watermarks = run.consumer, start = run.reader } do
      local f = object[name]
      object[name] = function(self, items, ...)
        if #items > 0 then asked[#asked + 1] = ("%s of %d"):format(name, #items) end
        return f(self, items, ...)
      end
    end
    return asked
  end

  local function claims(run)
    local out = {}
    for p in pairs(run.claims) do out[#out + 1] = p end
    table.sort(out)
    return out
  end

  -- "partition owner epoch" of every row.
  local function table_of_claims()
    local out = {}
    for i, row in ipairs(assert(world.db:query [[select concat(`partition`, ' ', coalesce(owner, '-'), ' ',
      epoch) from mill_progress order by `partition`]]).rows) do
      out[i] = row[1]
    end
    return out
  end

  local function settled(run)
    until_(function() return #run.control.claims == 0 and not run.control.task end, run)
  end

  it("is one transaction and one question to Kafka", function()
    local run = new_run("a", 60) -- the topic has grown by four since
    local asked = watched(run)
    run:given(list(0, 63))
    until_(function() return #claims(run) == 64 end, run)
    assert.same({ "start transaction", "update mill_progress", "commit", "watermarks of 64",
      "start of 64" }, table.move(asked, 1, 5, 1, {}))
    for p, row in ipairs(table_of_claims()) do
      assert.equal(("%d a 1"):format(p - 1), row)
      assert.equal(1, run.claims[p - 1].epoch)
    end
  end)

  -- Let partition 1 be taken away while the statement `when` is under way.
  local function taken_in(run, when)
    local session, done = run.control.session, false
    function session:run(statements, ...)
      local sql = type(statements) == "table" and table.concat(statements, ";") or statements
      local results, message, code = getmetatable(self).run(self, statements, ...)
      if not done and sql:find(when) then
        done = true
        run:taken(list(1, 1), false, 1000)
      end
      return results, message, code
    end
  end

  for what, when in pairs {
    ["is locked"] = "for update", ["is written"] = "^update mill_progress",
    ["is asked for its table"] = "from mill_pipelines",
  } do
    it("goes on without one that is taken away while it " .. what, function()
      local run = new_run("a", 3)
      taken_in(run, when)
      run:given(list(0, 2))
      settled(run)
      assert.same({ 0, 2 }, claims(run))
      assert.same({ "0 a 1", "1 - 0", "2 a 1" }, table_of_claims())
      assert.is_nil(run.store:state(1))
    end)
  end

  it("claims one that was taken away in the middle and given back by its second assignment", function()
    local run = new_run("a", 3)
    local taken = run.taken
    function run:taken(...)
      taken(self, ...)
      self:given(list(1, 1))
    end
    taken_in(run, "^update mill_progress")
    run:given(list(0, 2))
    until_(function() return #claims(run) == 3 end, run)
    assert.same({ "0 a 1", "1 a 1", "2 a 1" }, table_of_claims())
  end)

  it("asks nothing when none is left", function()
    local run = new_run("a", 2)
    run:given(list(0, 1))
    run:taken(list(0, 1), false, 1000)
    local asked = watched(run)
    settled(run)
    assert.same({}, asked)
    assert.same({ "0 - 0", "1 - 0" }, table_of_claims())
  end)

  -- All but partition 1 are claimed at once, and that one later.
  local function only_1_waits(run, mend)
    run:given(list(0, 2))
    until_(function() return #claims(run) > 0 and not run.control.task end, run)
    assert.same({ 0, 2 }, claims(run))
    assert.is_nil(run.store:state(1))
    assert.is_truthy(run.reclaim[1])
    assert.is_nil(run.reclaim[0])
    mend()
    until_(function() return run.claims[1] end, run)
    assert.same({ "0 a 1", "1 a 2", "2 a 1" }, table_of_claims())
  end

  it("leaves out one whose leader does not tell its offsets", function()
    local run = new_run("a", 3)
    local watermarks = run.consumer.watermarks
    function run.consumer:watermarks(items)
      local out = watermarks(self, items)
      for i, item in ipairs(items) do
        if item.partition == 1 then out[i] = { partition = 1, code = "X", error = "x" } end
      end
      return out
    end
    only_1_waits(run, function() run.consumer.watermarks = watermarks end)
  end)

  it("leaves out one whose position lies beyond the end of the log", function()
    local run = new_run("a", 3)
    assert(world.db:query "update mill_progress set position = 7 where `partition` = 1")
    only_1_waits(run, function() run.consumer.high = 7 end)
  end)

  it("leaves out one that the reader could not start", function()
    local run = new_run("a", 3)
    local start = run.reader.start
    function run.reader:start(items)
      local out = {}
      for i, item in ipairs(start(self, items)) do
        out[i] = { topic = "t", partition = item.partition, offset = item.offset,
          code = item.partition == 1 and "UNKNOWN_PARTITION" or nil }
      end
      return out, false
    end
    only_1_waits(run, function() run.reader.start = start end)
  end)
end)

describe("the bounds of partitions", function()
  it("are told by the leaders that are there while one is not", function()
    local broker <close> = kafka.broker { brokers = 3, topics = { { name = "t", partitions = 6 } } }
    local o = { brokers = broker:bootstrap() }
    local consumer <close> = kafka.consumer(o)
    local admin <close> = kafka.admin(o)
    local run, items = { topic = "t", consumer = consumer, admin = admin }, {}
    for p = 0, 5 do items[#items + 1] = { topic = "t", partition = p } end
    for _, mark in ipairs(source.bounds(run, items, 5000)) do assert.equal(0, mark.high) end
    local gone = {}
    for _, part in ipairs(assert(admin:metadata("t", 5000)).topics.t.partitions) do
      gone[part.id] = part.leader == 2
    end
    assert(broker:broker_down(2))
    local marks
    for _ = 1, 5 do -- on a busy machine one that is there may answer too late
      marks = source.bounds(run, items, 1000)
      local missed = false
      for i, mark in ipairs(marks) do missed = missed or mark.code and not gone[i - 1] end
      if not missed then break end
    end
    assert.equal(6, #marks)
    for i, mark in ipairs(marks) do
      assert.equal(i - 1, mark.partition)
      if gone[i - 1] then
        assert.is_truthy(mark.code)
        assert.is_nil(mark.high)
      else
        assert.equal(0, mark.high)
      end
    end
  end)
end)
