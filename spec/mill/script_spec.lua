-- Mistakes in a script, as who wrote it is told of them: by `check` and by `run`, which need no server
-- for that. One message with the line, exit code 2, and no traceback unless the mistake is ours.

local command = require "spec.support.command"
local process = require "host.process"

describe("a script with a mistake", function()
  local folder

  setup(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-script-"))
  end)
  teardown(function()
    for _, name in ipairs(process.list(folder)) do os.remove(folder .. "/" .. name) end
    os.remove(folder)
  end)

  local function write(name, text)
    assert(process.atomic_write(folder .. "/" .. name, text, { sync = false }))
  end

  local function tidemill(verb, text, vars)
    write("script.lua", text)
    local env = { TIDEMILL_KAFKA = "127.0.0.1:1", TIDEMILL_MYSQL = "mysql://me@127.0.0.1:1/db",
      TIDEMILL_KAFKA_CONF = false, TIDEMILL_KAFKA_CONF_FILE = false, LUA_PATH = "./?.lua;;" }
    for key, value in pairs(vars or {}) do env[key] = value end
    return command({ verb, "script.lua" }, { env = env, cwd = folder })
  end

  -- Both commands say exactly this.
  local function said(text, message)
    for _, verb in ipairs { "check", "run" } do
      local r = tidemill(verb, text)
      assert.same({ 2, "tidemill: " .. message .. "\n", "" }, { r.status, r.err, r.out })
    end
  end

  it("is told its line", function()
    said('local mill = require "mill"\nreturn mill.piplne {}',
      "script.lua:2: mill has no 'piplne'; did you mean pipeline?")
    said('local mill = require "mill"\nreturn mill.nothing_of_the_kind {}',
      "script.lua:2: mill has no 'nothing_of_the_kind'")
    said("x = 5", "script.lua:1: assignment to the global 'x'; make it local")
    said("return mil.pipeline {}", "script.lua:1: undefined name 'mil'")
    said("local x = nil\nreturn x.y",
      "script.lua:2: attempt to index a nil value (local 'x')")
    said('local m = require "milll"',
      "script.lua:1: module 'milll' not found; did you mean mill?")
    said("local x =\n= 5", "script.lua:2: unexpected symbol near '='")
    said('local f = assert(io.open("none"))', "script.lua:1: none: No such file or directory")
    said('local mill = require "mill"\nlocal set = mill.settings(5)',
      "script.lua:2: defaults must be a table, got a number")
  end)

  it("is told the lines of the script that led there, and no others", function()
    said("local function f() return nil + 1 end\nlocal function g() local n = f() return n end\n"
      .. "local n = g()", "script.lua:1: attempt to perform arithmetic on a nil value\n"
      .. "  called from script.lua:2\n  called from script.lua:3")
    write("helper.lua", "local x = nil\nlocal y = x.z")
    said('\nlocal h = require "helper"',
      "./helper.lua:2: attempt to index a nil value (local 'x')\n  called from script.lua:2")
  end)

  it("keeps the traceback of what is not its mistake", function()
    local r = tidemill("check", [[local mill = require "mill"
      require("mill.duration").parse = nil
      local w = mill.tumbling { size = "1m", time = "t", key = "k" }]])
    assert.equal(1, r.status)
    assert.matches("lib/mill/stage.lua:%d+: attempt to call a nil value", r.err)
    assert.matches("stack traceback:", r.err, 1, true)
    assert.matches("script.lua:3:", r.err, 1, true)
  end)

  local SCRIPT = [[local mill = require "mill"
    return mill.pipeline { name = "p", source = mill.kafka { topic = "t" KAFKA },
      decode = mill.json { symbol = "string", price = "decimal(20,8)", timestamp = "time" },
      window = mill.tumbling { size = "1m", time = "timestamp", key = "symbol" },
      select = { symbol = "key", start_time = "window.start", end_time = "window.end",
        samples = "count()" },
      sink = mill.mysql { table = "x", key = { KEY } }, OUTPUTS
    }]]

  local function script(more)
    return (SCRIPT:gsub("%u%u%u+", { KAFKA = more.kafka or "", OUTPUTS = more.outputs or "",
      KEY = more.key or '"symbol", "start_time"' }))
  end

  it("is told which columns the key has", function()
    local want = "script.lua: mill.mysql: option 'key' must be the columns of \"key\" and "
      .. '"window.start" in select, (symbol, start_time), got '
    said(script { key = '"symbol", "start"' }, want .. "(symbol, start)")
    said(script { key = '"symbol"' }, want .. "(symbol)")
    said(script { key = '"symbol", "symbol"' }, want .. "(symbol, symbol)")
    said(script { outputs = "outputs = 5" },
      "script.lua: mill.pipeline: option 'outputs' must be a list of outputs, got a number")
    assert.equal(0, tidemill("check", script { key = '"start_time", "symbol"' }).status)
  end)

  it("is told of options that librdkafka does not take, without a server", function()
    for conf, words in pairs {
      ['["no.such"] = 1'] = "'no.such'", ['["fetch.max.bytes"] = "abc"'] = "'fetch.max.bytes'",
      ['["security.protocol"] = "ssl", ["ssl.ca.location"] = "/none"'] = "ssl.ca.location",
    } do
      local r = tidemill("check", script { kafka = ", conf = { " .. conf .. " }" })
      assert.equal(2, r.status, r.err)
      assert.matches(words, r.err, 1, true)
      assert.is_nil(r.err:find("traceback", 1, true), r.err)
    end
    local r = tidemill("check", script {}, { TIDEMILL_KAFKA_CONF = "no.such=1" })
    assert.equal(2, r.status, r.err)
    r = tidemill("check", script { kafka = ', conf = { ["security.protocol"] = "plaintext" }' },
      { TIDEMILL_KAFKA_CONF = "security.protocol=ssl,ssl.ca.location=/none" })
    assert.equal(0, r.status, r.err)
  end)
end)
