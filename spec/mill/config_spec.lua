-- Where settings come from: flags over environment over file over defaults. In a child, since a
-- process cannot change its own environment.

local command = require "spec.support.command"
local json = require "mill.json"
local process = require "host.process"

describe("configuration", function()
  local folder

  before_each(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-config-"))
  end)
  after_each(function()
    for _, name in ipairs(process.list(folder)) do os.remove(folder .. "/" .. name) end
    os.remove(folder)
  end)

  local NONE = {
    TIDEMILL_KAFKA = false, TIDEMILL_MYSQL = false, TIDEMILL_CONFIG = false, TIDEMILL_HTTP = false,
    TIDEMILL_MYSQL_PASSWORD_FILE = false, TIDEMILL_MYSQL_PASSWORD = false,
    TIDEMILL_KAFKA_CONF = false, TIDEMILL_KAFKA_CONF_FILE = false,
    TIDEMILL_INSTANCE = false, TIDEMILL_MEMORY_MB = false, TIDEMILL_LOG = false,
  }

  local function env(more)
    local out = {}
    for key, value in pairs(NONE) do out[key] = value end
    for key, value in pairs(more or {}) do out[key] = value end
    return out
  end

  local function write(name, text)
    assert(process.atomic_write(folder .. "/" .. name, text, { sync = false }))
    return folder .. "/" .. name
  end

  -- The settings by key, as `tidemill config` shows them.
  local function config(vars)
    local r = command({ "config", "--json" }, { env = env(vars), cwd = folder })
    assert.equal(0, r.status, r.err)
    local out = {}
    for _, row in ipairs(json.decode(r.out)) do out[row.key] = row end
    return out, r.out
  end

  -- What a script sees.
  local function ask(expr, vars)
    local path = write("ask.lua", "local config = require 'mill.config'\n"
      .. "print(require('mill.json').encode(" .. expr .. "))")
    local r = command({ "exec", path }, { env = env(vars), cwd = folder })
    return r.status == 0 and json.decode(r.out), r
  end

  it("has a default or is not set", function()
    local rows = config()
    assert.equal("127.0.0.1:9092", rows.kafka.value)
    assert.equal("default", rows.kafka.origin)
    assert.is_nil(rows.http.value)
    assert.equal("not set", rows.http.origin)
  end)

  it("comes from tidemill.conf.lua of the folder, or from the file that is named", function()
    write("tidemill.conf.lua", 'return { kafka = "here:1", memory_mb = 64 }')
    local rows = config()
    assert.equal("here:1", rows.kafka.value)
    assert.equal("tidemill.conf.lua", rows.kafka.origin)
    assert.equal("64", rows.memory_mb.value)
    local other = write("other.lua", 'return { kafka = "there:2" }')
    rows = config { TIDEMILL_CONFIG = other }
    assert.equal("there:2", rows.kafka.value)
    assert.equal(other, rows.kafka.origin)
    assert.equal("256", rows.memory_mb.value)
  end)

  it("comes from the environment before the file; an empty variable is none", function()
    write("tidemill.conf.lua", 'return { kafka = "here:1" }')
    local rows = config { TIDEMILL_KAFKA = "env:3" }
    assert.equal("env:3", rows.kafka.value)
    assert.equal("environment TIDEMILL_KAFKA", rows.kafka.origin)
    assert.equal("here:1", config({ TIDEMILL_KAFKA = "" }).kafka.value)
  end)

  it("comes from a flag before all", function()
    local value = ask('config.get("kafka", { kafka = "flag:4" })', { TIDEMILL_KAFKA = "env:3" })
    assert.equal("flag:4", value)
  end)

  it("shows no secret", function()
    local _, text = config {
      TIDEMILL_MYSQL = "mysql://me:hush-1@h/db", TIDEMILL_MYSQL_PASSWORD = "hush-2",
      TIDEMILL_KAFKA_CONF = "sasl.password=hush-3",
    }
    assert.is_nil(text:find("hush", 1, true))
    assert.matches("me", text)
  end)

  it("takes the password from its file, before the URL's", function()
    local path = write("password", "from-file\nmore\n")
    local url = "mysql://me:from-url@db.example:3307/prices"
    local options = ask("config.mysql()", { TIDEMILL_MYSQL = url,
      TIDEMILL_MYSQL_PASSWORD_FILE = path })
    assert.equal("from-file", options.password)
    assert.equal("db.example", options.host)
    assert.equal(3307, options.port)
    assert.equal("prices", options.database)
    assert.equal("from-url", ask("config.mysql()", { TIDEMILL_MYSQL = url }).password)
    assert.equal("direct", ask("config.mysql()", { TIDEMILL_MYSQL = url,
      TIDEMILL_MYSQL_PASSWORD_FILE = path, TIDEMILL_MYSQL_PASSWORD = "direct" }).password)
  end)

  it("reads librdkafka's options", function()
    local conf = ask("config.kafka_conf()", { TIDEMILL_KAFKA_CONF = "a.b=1, c=x=y,d=" })
    assert.same({ ["a.b"] = "1", c = "x=y", d = "" }, conf)
    assert.same({}, ask("config.kafka_conf()"))
  end)

  it("takes a comma and a backslash in a value of librdkafka's options", function()
    local conf = ask("config.kafka_conf()", { TIDEMILL_KAFKA_CONF = [[p=a\,b\\,q=\d,r=\]] })
    assert.same({ p = [[a,b\]], q = [[\d]], r = [[\]] }, conf)
  end)

  it("takes librdkafka's options as a table and from a file of their own", function()
    local path = write("kafka.conf", "# comment\n\n sasl.password = a,b=c\n x=file\n")
    local conf = ask("config.kafka_conf()", { TIDEMILL_KAFKA_CONF_FILE = path,
      TIDEMILL_CONFIG = write("c.lua",
        [[return { kafka_conf = { x = "1,2\\3", ["enable.y"] = true, z = 5 } }]]) })
    assert.same({ ["sasl.password"] = "a,b=c", x = [[1,2\3]], ["enable.y"] = "true", z = "5" }, conf)
  end)

  it("shows librdkafka's options, of secret ones the names", function()
    local path = write("kafka.conf", "sasl.password=hush1\n")
    local value = ask([[(function()
      local said = {}
      print = function(text) said[#said + 1] = text end
      pcall(require("mill.cmd.config").run, { json = false }) -- it refuses the PEM text
      return table.concat(said, "\n")
    end)()]], { TIDEMILL_KAFKA_CONF_FILE = path,
      TIDEMILL_KAFKA_CONF = "security.protocol=ssl,ssl.key.pem=hush2,ssl.keystore.password=hush3" })
    assert.matches("sasl.password=********,security.protocol=ssl,ssl.key.pem=********,"
      .. "ssl.keystore.password=********", value, 1, true)
    assert.is_nil(value:find("hush", 1, true))
  end)

  it("listens on loopback unless an address is named", function()
    for text, want in pairs {
      ["9464"] = "127.0.0.1 9464", [":9464"] = "127.0.0.1 9464", ["0.0.0.0:1"] = "0.0.0.0 1",
      ["[::1]:80"] = "::1 80", ["localhost:0"] = "localhost 0",
    } do
      local at = ask(("config.listen(%q)"):format(text))
      assert.equal(want, at.address .. " " .. at.port)
    end
    for _, text in ipairs { "", "x", "1.2.3.4:", "1:70000", "::1:80", "127.0.0.1", "a1" } do
      local value, r = ask(("config.listen(%q)"):format(text))
      assert.is_false(value)
      assert.equal(2, r.status, text)
      assert.matches("is not address:port", r.err, 1, true)
    end
    local _, r = ask "config.listen(9464)"
    assert.equal(1, r.status)
    assert.matches("text must be a string, got a number", r.err, 1, true)
  end)

  it("is shown with everything that is wrong with it: value, origin, and what is allowed", function()
    local function shown(vars)
      local r = command({ "config", "--json" }, { env = env(vars), cwd = folder })
      assert.is_table(json.decode(r.out))
      return r
    end
    local r = shown {
      TIDEMILL_KAFKA = "a:b", TIDEMILL_MYSQL = "http://me:hush@x", TIDEMILL_KAFKA_CONF = "a=1,hush",
      TIDEMILL_KAFKA_CONF_FILE = folder .. "/none", TIDEMILL_HTTP = "abc", TIDEMILL_LOG = "loud",
      TIDEMILL_MYSQL_PASSWORD_FILE = folder .. "/nope",
      TIDEMILL_CONFIG = write("c.lua", 'return { memory_mb = "abc" }'),
    }
    assert.equal(2, r.status, r.err)
    for _, words in ipairs {
      "kafka = a:b (environment TIDEMILL_KAFKA): 'a:b' is no broker; write host:port",
      "mysql = http://me:***@x (environment TIDEMILL_MYSQL): ", "mysql://USER",
      "kafka_conf = ******** (environment TIDEMILL_KAFKA_CONF): item 2 is not key=value",
      "/none (environment TIDEMILL_KAFKA_CONF_FILE): ", "/nope: No such file",
      "memory_mb = abc (" .. folder .. "/c.lua): 'abc' is not a whole number of MiB",
      "http = abc (environment TIDEMILL_HTTP): 'abc' is not address:port",
      "TIDEMILL_LOG = loud: it is no level (debug, info, warn or error)",
    } do
      assert.matches(words, r.err, 1, true)
    end
    assert.is_nil((r.out .. r.err):find("hush", 1, true))
    r = shown { TIDEMILL_KAFKA_CONF = "no.such.option=1" }
    assert.equal(2, r.status, r.err)
    assert.matches("'no.such.option'", r.err, 1, true)
    r = shown { TIDEMILL_KAFKA_CONF = "security.protocol=SASL_PLAINTEXT,sasl.mechanisms=PLAIN" }
    assert.equal(2, r.status, r.err)
    assert.matches("sasl.username and sasl.password must be set", r.err, 1, true)
    assert.equal(2, shown({ TIDEMILL_MEMORY_MB = "99999999999999999" }).status)
    r = shown { TIDEMILL_LOG = "debug", TIDEMILL_HTTP = "9464", TIDEMILL_MEMORY_MB = "0",
      TIDEMILL_KAFKA = "h1:1,[::1]:2", TIDEMILL_KAFKA_CONF = "bootstrap.servers=h:1" }
    assert.same({ 0, "" }, { r.status, r.err })
  end)

  it("warns of a level of the log that is none, in every command", function()
    local r = command({ "version" }, { env = env { TIDEMILL_LOG = "loud" } })
    assert.equal(0, r.status)
    assert.matches("WARN tidemill: TIDEMILL_LOG = loud: it is no level", r.err, 1, true)
    assert.equal("", command({ "version" }, { env = env { TIDEMILL_LOG = "warn" } }).err)
  end)

  it("refuses what it cannot read, and names it", function()
    local function refused(vars, word, expr)
      local value, r = ask(expr or "config.all()", vars)
      assert.is_false(value)
      assert.equal(2, r.status, r.err)
      assert.matches(word, r.err, 1, true)
      return r.err
    end
    refused({ TIDEMILL_CONFIG = write("c.lua", "return { kafak = 1 }") }, "kafak")
    refused({ TIDEMILL_CONFIG = write("c.lua", "return {") }, "c.lua:1:")
    refused({ TIDEMILL_CONFIG = write("c.lua", "return 7") }, "must return a table")
    refused({ TIDEMILL_CONFIG = write("c.lua", "return { kafka = nothing.here }") }, "c.lua:1:")
    refused({ TIDEMILL_CONFIG = folder .. "/none.lua" }, "none.lua")
    refused({ TIDEMILL_MYSQL_PASSWORD_FILE = folder .. "/none" }, "/none", "config.mysql()")
    refused({ TIDEMILL_MYSQL = "http://db" }, "mysql://", "config.mysql()")
    local said = refused({ TIDEMILL_KAFKA_CONF = "a=1,hush,b=2" }, "item 2", "config.kafka_conf()")
    assert.is_nil(said:find("hush", 1, true))
    refused({ TIDEMILL_KAFKA_CONF_FILE = folder .. "/none" }, "/none", "config.kafka_conf()")
    said = refused({ TIDEMILL_KAFKA_CONF_FILE = write("kafka.conf", "a=1\nhush\n") },
      "kafka.conf:2", "config.kafka_conf()")
    assert.is_nil(said:find("hush", 1, true))
  end)
end)
