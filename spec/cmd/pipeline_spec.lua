-- The commands around a pipeline, as a user runs them: run, check, migrate, progress, deadletters,
-- config, version. Development broker and a private MariaDB.

local broker = require "spec.support.broker"
local command = require "spec.support.command"
local json = require "mill.json"
local kafka = require "host.kafka"
local mariadb = require "spec.support.mariadb"
local mysql = require "host.mysql"

describe("the commands of a pipeline", function()
  local server, dev, env, folder, db
  local process = require "host.process"

  setup(function()
    server = mariadb.start()
    dev = broker.start { crypto_prices = 1, empty = 1 }
    local name, options = server.fresh_database()
    db = assert(mysql.connect(options))
    env = { TIDEMILL_KAFKA = dev:bootstrap(), TIDEMILL_MYSQL = server.url_of(name) }
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-cmd-"))
    local producer <close> = kafka.producer { brokers = dev:bootstrap() }
    for _, value in ipairs {
      '{"symbol":"A","price":"1.5","timestamp":1723161240}', '{"symbol":"A","price":"x"}',
    } do
      assert(producer:send { topic = "crypto_prices", partition = 0, value = value })
    end
    assert.equal(0, producer:flush(10000))
    assert.equal(0, command.run({ "migrate" }, { env = env }).status)
  end)

  teardown(function()
    os.remove(folder .. "/script.lua")
    os.remove(folder .. "/payload.json")
    os.remove(folder)
    db:close()
    dev:close()
  end)

  local function tidemill(...)
    return command.run({ ... }, { env = env })
  end

  local function write(name, text)
    local file = assert(io.open(folder .. "/" .. name, "w"))
    file:write(text)
    file:close()
    return folder .. "/" .. name
  end

  -- Run the averages under a name and into a table of its own, to the end.
  local function ran(name)
    assert(db:query(("create table %s like moving_averages"):format(name)))
    local settings = { "--set", "name=" .. name, "--set", "table=" .. name }
    local r = tidemill("run", "scripts/averages.lua", "--until-end", "--json",
      table.unpack(settings))
    assert.equal(0, r.status, r.err)
    return assert(json.decode(r.out)), settings
  end

  it("say that the tables are missing, make them, and make them once", function()
    local empty = { env = { TIDEMILL_KAFKA = env.TIDEMILL_KAFKA,
      TIDEMILL_MYSQL = server.url_of((server.fresh_database())) } }
    local r = command.run({ "run", "scripts/averages.lua" }, empty)
    assert.equal(3, r.status)
    assert.truthy(r.err:find("tidemill migrate", 1, true))
    r = command.run({ "migrate" }, empty)
    assert.truthy(r.out:find("applied 0001_moving_averages.sql", 1, true))
    r = command.run({ "migrate", "--json" }, empty)
    assert.same({ 0, { applied = {} } }, { r.status, json.decode(r.out) })
  end)

  it("check a script and its tables", function()
    local r = tidemill("check", "scripts/averages.lua", "--connect", "--json")
    assert.equal(0, r.status)
    assert.same({ true, "crypto_prices", 1 }, { json.decode(r.out).ok, json.decode(r.out).topic,
      json.decode(r.out).partitions })
  end)

  it("tell what is wrong with a script as JSON too", function()
    local path = write("script.lua", "return 1")
    local r = tidemill("check", path, "--json")
    local out = assert(json.decode(r.out))
    assert.same({ 2, false, path, 1 }, { r.status, out.ok, out.script, #out.errors })
    assert.matches("must return a pipeline", out.errors[1])
    assert.matches("must return a pipeline", r.err)
    r = tidemill("check", path .. "x", "--json")
    assert.matches("there is no script", json.decode(r.out).errors[1])
    -- All that does not fit, each for itself.
    assert(db:query "create table p_misfit (symbol int)")
    r = tidemill("check", "scripts/averages.lua", "--connect", "--set", "table=p_misfit", "--json")
    out = assert(json.decode(r.out))
    assert.is_true(r.status == 2 and not out.ok and #out.errors > 1, r.out)
  end)

  it("name a misspelt option, a misspelt column and a wrong line", function()
    local start = 'local mill = require "mill"\nreturn mill.pipeline { name = "p", '
    for text, expected in pairs {
      [start .. "soruce = 1 }"] = "mill.pipeline: unknown option 'soruce'",
      [start .. "]"] = "script.lua:2: unexpected symbol near ']'",
      ["return 1"] = "must return a pipeline",
      ["x = 1"] = "assignment to the global 'x'",
    } do
      local r = tidemill("check", write("script.lua", text))
      assert.truthy(r.err:find(expected, 1, true), r.err)
      assert.equal(2, r.status)
      assert.is_nil(r.err:find("traceback", 1, true), r.err)
    end
    assert.truthy(tidemill("check", "scripts/averages.lua", "--connect", "--set",
      "table=moving_averges").err:find("table moving_averges does not exist", 1, true))
  end)

  it("run to the end, print one JSON object, and show progress", function()
    local out = ran "p_run"
    assert.same({ 2, 1, 0, 0, 1, 1 }, { out.consumed, out.dead, out.late, out.too_late, out.rows,
      out.windows })
    for _, name in ipairs { "commits", "seconds", "commit_seconds", "messages_per_second", "startup_ms",
      "first_message_ms", "peak_rss_mb" } do
      assert.is_number(out[name], name)
    end
    local row = json.decode(tidemill("progress", "p_run", "--json").out).progress[1]
    assert.same({ "p_run", 0, 2, 2, 0 }, { row.pipeline, row.partition, row.position, row["end"],
      row.lag })
    assert.truthy(tidemill("progress", "nope").out:find("no progress of a pipeline named 'nope'",
      1, true))
  end)

  it("print null for numbers that there are none of", function()
    assert(db:query "create table p_none like moving_averages")
    local r = tidemill("run", "scripts/averages.lua", "--until-end", "--json", "--set", "name=p_none",
      "--set", "table=p_none", "--set", "topic=empty")
    assert.equal(0, r.status, r.err)
    local out = json.decode(r.out)
    assert.same({ 0, json.null, { p50 = json.null, p99 = json.null } },
      { out.consumed, out.first_message_ms, out.latency_ms })
  end)

  it("give every client the script's options of librdkafka, over those of the settings", function()
    local SCRIPT = [[local mill = require "mill"
      return mill.pipeline { name = "p_conf",
        source = mill.kafka { topic = "crypto_prices", conf = { ["security.protocol"] = "%s" } },
        decode = mill.json { symbol = "string", price = "decimal(20,8) > 0", timestamp = "time" },
        window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol" },
        select = { symbol = "key", start_time = "window.start", end_time = "window.end",
          average_price = "avg(price)", price_sum = "sum(price)", samples = "count()" },
        sink = mill.mysql { table = "p_conf", key = { "symbol", "start_time" } },
      }]]
    assert(db:query "create table p_conf like moving_averages")
    local path = write("script.lua", SCRIPT:format "plaintext")
    -- Each client of these would ask for TLS, which the broker does not speak.
    env.TIDEMILL_KAFKA_CONF = "security.protocol=ssl"
    local check = tidemill("check", path, "--connect")
    local run = tidemill("run", path, "--until-end")
    local reset = tidemill("progress", "reset", path, "--from", "2024-08-08T23:54:00Z", "--execute")
    env.TIDEMILL_KAFKA_CONF = "security.protocol=plaintext"
    path = write("script.lua", SCRIPT:format 'sasl_plaintext", ["sasl.mechanisms"] = "PLAIN')
    local refused = {}
    for _, words in ipairs { { "check", path, "--connect" }, { "run", path, "--until-end" },
      { "progress", "reset", path, "--from", "2024-08-08T23:54:00Z" } } do
      refused[#refused + 1] = tidemill(table.unpack(words))
    end
    env.TIDEMILL_KAFKA_CONF = nil
    for _, r in ipairs { check, run, reset } do assert.equal(0, r.status, r.err) end
    assert.matches("1 result rows deleted", reset.out, 1, true)
    for _, r in ipairs(refused) do
      assert.equal(2, r.status, r.err)
      assert.matches("sasl.username and sasl.password must be set", r.err, 1, true)
    end
  end)

  it("tell on a terminal how far a run to the end has come", function()
    assert(db:query "create table p_line like moving_averages")
    local r = command.terminal({ "run", "scripts/averages.lua", "--until-end", "--json", "--set",
      "name=p_line", "--set", "table=p_line" }, {}, { env = env, columns = 100 })
    assert.equal(0, r.status, r.output)
    assert.matches("p_line: %d of 2 messages, %d+%%", r.output)
    assert.equal(2, json.decode(r.output:match("({[^\n]*})%s*$")).consumed)
  end)

  it("list, show and replay a dead letter", function()
    local _, settings = ran "p_dead"
    local listed = json.decode(tidemill("deadletters", "ls", "p_dead", "--json").out)
    assert.equal(1, listed.total)
    local id = tostring(listed.letters[1].id)
    local shown = json.decode(tidemill("deadletters", "show", id, "--json").out)
    assert.same({ '{"symbol":"A","price":"x"}', 0, 1 }, { shown.payload, shown.partition,
      shown.offset })
    local function replay(...)
      local words = { "deadletters", "replay", "scripts/averages.lua", id, ... }
      return tidemill(table.unpack(table.move(settings, 1, #settings, #words + 1, words)))
    end
    local r = replay()
    assert.same({ 5, true }, { r.status, r.err:find("still bad", 1, true) ~= nil })
    local file = write("payload.json", '{"symbol":"A","price":"2.5","timestamp":1723161241}')
    r = replay("--payload", file)
    assert.equal(0, r.status, r.err)
    assert.equal(0, json.decode(tidemill("deadletters", "ls", "p_dead", "--json").out).total)
    assert.same({ { "2.00000000", 2 } },
      assert(db:query "select average_price, samples from p_dead").rows)
  end)

  it("go back to a time only with --execute", function()
    local _, settings = ran "p_back"
    local function reset(...)
      local words = { "progress", "reset", "scripts/averages.lua", ... }
      return tidemill(table.unpack(table.move(settings, 1, #settings, #words + 1, words)))
    end
    local at = "2024-08-08T23:54:00Z"
    local r = reset("--from", at)
    assert.same({ 2, true }, { r.status, r.err:find("--execute", 1, true) ~= nil })
    r = reset("--from", "2024-08-08T23:54:01Z")
    assert.truthy(r.err:find("not the start of a window", 1, true))
    r = reset("--from", at, "--execute", "--json")
    assert.same({ 0, 1 }, { r.status, (json.decode(r.out) or {}).deleted }, r.err)
    assert.equal(0, json.decode(tidemill("progress", "p_back", "--json").out).progress[1].position)
  end)

  it("go back only with the script and the settings of the run", function()
    local _, settings = ran "p_mine"
    local before = json.decode(tidemill("progress", "p_mine", "--json").out).progress
    local function reset(...)
      local words = { "progress", "reset", "scripts/averages.lua", "--from", "2024-08-08T23:54:00Z",
        "--execute" }
      table.move(settings, 1, #settings, #words + 1, words)
      return tidemill(table.unpack(table.move({ ... }, 1, select("#", ...), #words + 1, words)))
    end
    local topic = "other_" .. #settings
    assert(dev:create_topic(topic, 1))
    for what, r in pairs {
      ["belongs to pipeline 'p_mine'"] = reset("--set", "name=p_thine"),
      ["is not the one that wrote table p_mine"] = reset("--set", "size=2m"),
      [topic] = reset("--set", "topic=" .. topic),
      ["has not written table moving_averages yet"] = reset("--set", "table=moving_averages"),
    } do
      assert.is_true(r.status == 2 or r.status == 5, what)
      assert.truthy(r.err:find(what, 1, true), r.err)
    end
    assert.same(before, json.decode(tidemill("progress", "p_mine", "--json").out).progress)
    assert.same({ { 1 } }, assert(db:query "select samples from p_mine").rows)
  end)

  it("show where each setting comes from, and no password", function()
    env.TIDEMILL_MYSQL_PASSWORD = "s3cret-planted"
    local r = tidemill("config", "--json")
    env.TIDEMILL_MYSQL_PASSWORD = nil
    assert.is_nil((r.out .. r.err):find("s3cret-planted", 1, true))
    local origins = {}
    for _, row in ipairs(json.decode(r.out)) do origins[row.key] = row.origin end
    assert.same({ "environment TIDEMILL_KAFKA", "default" }, { origins.kafka, origins.memory_mb })
  end)

  it("say what to do when the database cannot be had", function()
    local name, options = server.fresh_database()
    local root <close> = assert(mysql.connect(options))
    assert(root:query "create user cmd_spec identified by 'right'")
    local port = server.url_of(name):match("@[^/]*")
    for _, case in ipairs {
      { "mysql://cmd_spec:wrong" .. port .. "/" .. name, "TIDEMILL_MYSQL_PASSWORD_FILE" },
      { "mysql://root@/" .. name .. "?socket=" .. folder .. "/none", "is it running" },
    } do
      for _, argv in ipairs { { "migrate" }, { "progress" }, { "deadletters" },
        { "deadletters", "show", "1" } } do
        local r = command.run(argv, { env = { TIDEMILL_KAFKA = env.TIDEMILL_KAFKA,
          TIDEMILL_MYSQL = case[1] } })
        assert.equal(3, r.status, r.err)
        assert.truthy(r.err:find(case[2], 1, true), r.err)
      end
    end
    assert(root:query "drop user cmd_spec")
  end)

  it("refuse arguments that they do not take", function()
    for _, argv in ipairs { { "migrate", "x" }, { "config", "x" }, { "version", "x" }, { "--version", "x" },
      { "run", "a.lua", "x" }, { "check", "a.lua", "x" }, { "progress", "a", "x" },
      { "progress", "reset", "a.lua", "x" }, { "deadletters", "ls", "a", "x" },
      { "deadletters", "show", "1", "x" }, { "deadletters", "replay", "a.lua", "1", "x" },
      { "help", "run", "x" },
    } do
      local r = tidemill(table.unpack(argv))
      assert.same({ 2, "", "tidemill: unexpected argument 'x'\n" }, { r.status, r.out, r.err })
    end
    local r = tidemill("deadletters", "show")
    assert.equal(2, r.status)
    assert.matches("^tidemill: usage: tidemill deadletters ls", r.err)
  end)

  it("tell their versions and their help", function()
    local versions = json.decode(tidemill("version", "--json").out)
    assert.truthy(versions.librdkafka)
    local file = assert(io.open "/proc/self/maps")
    local linked = file:read("a"):find("libmimalloc", 1, true) ~= nil
    file:close()
    assert.equal(linked, versions.mimalloc ~= nil)
    for _, name in ipairs(require("mill.cli").COMMANDS) do
      local r = tidemill(name, "--help")
      assert.same({ 0, "" }, { r.status, r.err }, name)
      assert.truthy(r.out:find("usage: tidemill " .. name, 1, true))
      assert.equal(r.out, tidemill("help", name).out)
    end
    assert.equal(tidemill("nope").err, tidemill("help", "nope").err)
    assert.same({ 2, 2 }, { tidemill("nope").status, tidemill("help", "nope").status })
  end)
end)
