-- Wrong input: one clear message that names the thing and the way out, and the documented exit
-- status (lib/mill/cmd/run.lua). Nothing is counted.

local process = require "host.process"
local real = require "spec.support.real"

local USAGE, SERVER, RUNNING, POLICY = 2, 3, 4, 5

local SCRIPT = [[
local mill = require "mill"
return mill.pipeline {
  name = "NAME",
  source = mill.kafka { topic = "TOPIC" },
  decode = mill.json { symbol = "string", price = "decimal(20,8)", timestamp = "time" },
  window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol" },
  select = {
    symbol = "key", start_time = "window.start", end_time = "window.end",
    average_price = "avg(price)", price_sum = "sum(price)", samples = "count()",
  },
  sink = mill.mysql { table = "TABLE", key = { "symbol", "start_time" } },
}
]]

describe("wrong input", function()
  local why = real.missing()
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local folder, topic

  setup(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-input-"))
    topic = real.topic { partitions = 1 }
    real.send(topic, {
      { value = '{"symbol":"A","price":"1","timestamp":1723161600}' },
    })
  end)
  teardown(function()
    real.close()
    for _, name in ipairs(process.list(folder)) do os.remove(folder .. "/" .. name) end
    os.remove(folder)
  end)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      -- The script with some of its text replaced, as a file.
      local function script(from, to, o)
        local text, n = SCRIPT, 1
        if from then
          local at, stop = SCRIPT:find(from, 1, true)
          n = at and 1 or 0
          text = at and SCRIPT:sub(1, at - 1) .. to .. SCRIPT:sub(stop + 1)
        end
        assert(n == 1, from)
        text = text:gsub("NAME", o.name):gsub("TOPIC", topic):gsub("TABLE", o.table)
        local path = folder .. "/" .. o.name .. ".lua"
        assert(process.atomic_write(path, text, { sync = false }))
        return path
      end

      -- Run, and expect this status and one message with all these words.
      local function refused(o, status, words)
        o.topic = o.script and nil or o.topic or topic
        local r = place:start(o):finish(60000)
        local said = {}
        for line in r.err:gmatch("[^\n]+") do
          if not line:find("Z INFO ", 1, true) then said[#said + 1] = line end
        end
        local message = table.concat(said, "\n")
        assert.equal(status, r.status, message)
        for _, word in ipairs(words) do
          assert(message:find(word, 1, true), ("no '%s' in: %s"):format(word, message))
        end
        assert.is_nil(message:find("stack traceback", 1, true), message)
        local _, count = message:gsub("tidemill: ", "")
        assert.equal(1, count, message)
        assert.is_nil(message:find("tide-pass", 1, true), "a password is shown")
        assert.equal("", r.out)
        return message
      end

      local function refused_script(from, to, status, words)
        local o = { name = real.name "input", table = place:table() }
        o.script, o.name, o.table = script(from, to, o), nil, o.table
        local name = o.table
        o.table = nil
        refused(o, status, words)
        assert.same({}, place:results(name))
      end

      it("the script as it stands is right", function()
        local o = { name = real.name "input", table = place:table() }
        local r = place:start({ script = script(nil, nil, o) }):finish(60000)
        assert.equal(0, r.status, r.err)
        assert.is_true(#place:results(o.table) >= 1)
      end)

      it("a syntax error: file and line", function()
        refused_script("window = mill.tumbling {", "window = mill.tumbling ", USAGE, { ".lua:6:" })
      end)

      it("an error at run time of the script: what and where", function()
        local o = { name = real.name "input", table = place:table() }
        local path = script('require "mill"', 'require "mill" .. nil', o)
        local message = refused({ script = path }, USAGE, { "attempt to concatenate" })
        assert.matches("input_%x+%.lua:1:", message)
      end)

      it("an unknown option of each stage: its name, and the known ones", function()
        refused_script('size = "1m"', 'sise = "1m"', USAGE, { "mill.tumbling", "'sise'", "size" })
        refused_script('{ topic = "TOPIC" }', '{ topic = "TOPIC", topics = {} }', USAGE,
          { "mill.kafka", "'topics'", "topic" })
        refused_script('sink = mill.mysql { table', 'sink = mill.mysql { tabel', USAGE,
          { "mill.mysql", "'tabel'", "table" })
        refused_script('name = "NAME",', 'name = "NAME", windows = 1,', USAGE, { "'windows'" })
      end)

      it("an option with a value that cannot be meant", function()
        refused_script('size = "1m"', 'size = "1 fortnight"', USAGE, { "'size'", "fortnight" })
        refused_script('size = "1m"', 'size = 60', USAGE, { "'size'", "60" })
        refused_script('size = "1m"', 'size = "0s"', USAGE, { "size" })
        refused_script('"decimal(20,8)"', '"decimal(99,8)"', USAGE, { "'price'", "99" })
        refused_script('"decimal(20,8)"', '"float"', USAGE, { "'price'", "float" })
      end)

      it("a misspelt field: its name", function()
        refused_script('time = "timestamp"', 'time = "timestanp"', USAGE, { "timestanp" })
        refused_script('key = "symbol"', 'key = "simbol"', USAGE, { "simbol" })
        refused_script('avg(price)', 'avg(prize)', USAGE, { "prize" })
        refused_script('avg(price)', 'mean(price)', USAGE, { "mean" })
        refused_script('"window.start"', '"window.begin"', USAGE, { "window.begin" })
      end)

      it("a misspelt column: its name, and the table's", function()
        refused_script('average_price = "avg', 'avarage_price = "avg', USAGE, { "avarage_price" })
        refused_script('key = { "symbol", "start_time" }', 'key = { "symbol", "start" }', USAGE,
          { "start" })
      end)

      it("an aggregate without its parts among the columns", function()
        refused_script(', price_sum = "sum(price)"', '', USAGE, { "sum(price)", "average_price" })
      end)

      it("a missing script, setting, flag", function()
        refused({ script = "scripts/nope.lua" }, USAGE, { "scripts/nope.lua" })
        refused({ args = { "--set", "sise=1m" } }, USAGE, { "sise", "size" })
        refused({ args = { "--set", "size" } }, USAGE, { "key=value" })
        refused({ args = { "--unitl-end" } }, USAGE, { "--unitl-end" })
        refused({ args = { "--on-gap", "jump" } }, USAGE, { "on-gap", "stop", "skip" })
        refused({ name = real.name "a", table = place:table(), start = "yesterday" }, USAGE,
          { "yesterday", "earliest", "latest" })
      end)

      it("a missing topic: its name and where it was looked for", function()
        local missing = real.name "missing"
        local message = refused({ topic = missing, name = real.name "a", table = place:table() },
          SERVER, { missing, real.kafka() })
        assert.matches("create", message)
      end)

      it("a wrong password: whose, and where to set it; never itself", function()
        local url = place.url:gsub("^(mysql://[^:]*:)[^@]*@", "%1wrong-secret@")
        local message = refused({ env = { TIDEMILL_MYSQL = url } }, SERVER,
          { "tidemill@", "TIDEMILL_MYSQL" })
        assert.is_nil(message:find("wrong-secret", 1, true))
      end)

      it("a missing database, table, or set of tables", function()
        local url = place.url:gsub("/spec_%x+$", "/spec_none")
        refused({ env = { TIDEMILL_MYSQL = url } }, SERVER, { "spec_none", "TIDEMILL_MYSQL" })
        refused({ name = real.name "a", table = "no_such_table" }, SERVER,
          { "no_such_table", "create table" })
        local empty = real.place(base, { empty = true })
        local r = empty:start({ topic = topic }):finish()
        empty:close()
        assert.equal(SERVER, r.status)
        assert.matches("tidemill migrate", r.err, 1, true)
      end)

      it("servers that do not answer: which, and where", function()
        refused({ env = { TIDEMILL_KAFKA = "127.0.0.1:1" }, name = real.name "a",
          table = place:table() }, SERVER, { "Kafka", "127.0.0.1:1", "TIDEMILL_KAFKA" })
        refused({ env = { TIDEMILL_MYSQL = "mysql://me@127.0.0.1:1/db" } }, SERVER,
          { "127.0.0.1:1", "TIDEMILL_MYSQL" })
        refused({ env = { TIDEMILL_MYSQL = "postgres://me@127.0.0.1/db" } }, USAGE, { "mysql://" })
        refused({ env = { TIDEMILL_KAFKA_CONF = "fetch.max.bytes=abc" } }, USAGE,
          { "fetch.max.bytes" })
        refused({ env = { TIDEMILL_KAFKA_CONF = "no.such.option=1" } }, USAGE,
          { "no.such.option" })
      end)

      for _, case in ipairs {
        { "average_price", "modify average_price double" },
        { "average_price", "modify average_price varchar(30)" },
        { "price_sum", "modify price_sum double" },
        { "samples", "modify samples varchar(10)" },
        { "start_time", "modify start_time varchar(30) not null" },
        { "start_time", "modify start_time timestamp not null default current_timestamp" },
        { "symbol", "modify symbol int not null" },
        { "symbol", "modify symbol varchar(32) character set utf8mb4 collate utf8mb4_general_ci "
          .. "not null" },
        { "price_sum", "drop column price_sum" },
        { "is_final", "drop column is_final" },
        { "revision", "drop column revision" },
        { "key", "drop primary key, add primary key (symbol, start_time, end_time)" },
        { "key", "drop primary key" },
        { "engine = InnoDB", "engine = MyISAM" },
        { "symbol(3), start_time", "drop primary key, add primary key (symbol(3), start_time)" },
        { "one_time (start_time)", "add unique key one_time (start_time)" },
      } do
        it("a table with another column: " .. case[2], function()
          local name = place:table()
          place:query("alter table %s %s", name, case[2])
          refused({ name = real.name "a", table = name }, USAGE, { case[1], name })
        end)
      end

      it("a view, and check finds the same", function()
        local o = { name = real.name "input", table = real.name "view" }
        place:query("create view %s as select * from moving_averages", o.table)
        refused({ script = script(nil, nil, o) }, USAGE, { o.table, "view", "InnoDB" })
        local r = real.tidemill({ "check", script(nil, nil, o), "--connect" },
          { env = place:env() }):finish(60000)
        place:query("drop view %s", o.table)
        assert.equal(USAGE, r.status)
        assert.truthy(r.err:find(("table %s is a view"):format(o.table), 1, true), r.err)
      end)

      it("a number that its column cannot hold: a dead letter that names it", function()
        local o = { name = real.name "input", table = place:table() }
        place:query("alter table %s add low tinyint, add high smallint unsigned", o.table)
        local numbers = real.topic { partitions = 1 }
        real.send(numbers, {
          { value = '{"symbol":"A","n":-128,"k":65535,"timestamp":1723161600}' },
          { value = '{"symbol":"A","n":-129,"k":0,"timestamp":1723161600}' },
          { value = '{"symbol":"A","n":0,"k":-1,"timestamp":1723161600}' },
        })
        local path = script('average_price = "avg(price)", price_sum = "sum(price)"',
          'low = "min(n)", high = "max(k)"', o)
        local file = assert(io.open(path))
        local text = file:read("a"):gsub('price = "decimal%(20,8%)"', 'n = "integer", k = "integer"')
          :gsub(topic, numbers)
        file:close()
        assert(process.atomic_write(path, text, { sync = false }))
        local r = place:start({ script = path }):finish(60000)
        assert.equal(0, r.status, r.err)
        assert.same({ { 1, -128, 65535 } }, place:query("select samples, low, high from %s", o.table))
        assert.same({ { 1, "column 'low' holds at least -128, got -129" },
          { 2, "column 'high' holds at least 0, got -1" } }, place:query("select `offset`, reason from "
          .. "mill_dead_letters where pipeline = '%s' order by 1", o.name))
      end)

      it("windows that the columns cannot tell apart: DATETIME(3) is needed", function()
        refused({ name = real.name "a", table = place:table(), size_ms = 100 }, USAGE,
          { "start_time", "3" })
      end)

      it("somebody else's table: whose", function()
        local o = { name = real.name "owner", table = place:table(), topic = topic }
        place:average(o)
        refused({ name = real.name "other", table = o.table }, USAGE, { o.table, o.name })
      end)

      it("a changed script: what changed, and how to accept it", function()
        local o = { name = real.name "changed", table = place:table(), topic = topic }
        place:average(o)
        local before = place:results(o.table)
        refused({ name = o.name, table = o.table, size_ms = 30000 }, POLICY,
          { "60000", "30000", o.name, "--accept-change" })
        refused({ name = o.name, table = o.table, topic = real.topic() }, POLICY,
          { topic, "--accept-change" })
        assert.same(before, place:results(o.table))
      end)

      it("a second run of the same instance name: host, pid, and how to join", function()
        local o = { name = real.name "twice", table = place:table(), topic = topic,
          until_end = false, instance = "one" }
        local child = place:start(o)
        real.wait(function()
          local row = place:progress(o.name)[0]
          return row and type(row.owner) == "string"
        end, "the claim of the first run")
        refused({ name = o.name, table = o.table, instance = "one" }, RUNNING,
          { "'one'", process.hostname(), tostring(child:pid()), "--instance" })
        -- The first one goes on undisturbed: it claims nothing anew and counts what comes.
        local before = place:progress(o.name)[0]
        real.send(topic, { { value = '{"symbol":"B","price":"1","timestamp":1723161600}' } })
        real.wait(function()
          return place:value("select count(*) from %s where symbol = 'B'", o.table) == 1
        end, "the next row")
        assert.equal(before.owner, place:progress(o.name)[0].owner)
        child:kill "TERM"
        local r = child:finish(20000)
        assert.equal(0, r.status, r.err)
        -- The name is free at once.
        place:average { name = o.name, table = o.table, topic = topic, instance = "one" }
      end)

      it("nothing but bad rows, and many: what a typical one is", function()
        local bad, records = real.topic { partitions = 1 }, {}
        for i = 1, 12000 do records[i] = { value = '{"symbol":"A","cost":1}' } end
        real.send(bad, records)
        local o = { name = real.name "bad", table = place:table(), topic = bad }
        refused(o, POLICY, { "price" })
        assert.equal(0, place:value("select count(*) from %s", o.table))
      end)
    end)
  end
end)
