local clock = require "host.clock"
local command = require "spec.support.command"
local json = require "mill.json"
local process = require "host.process"

local INTERRUPT, TERMINATE = 2, 15

describe("tidemill repl -e", function()
  it("prints results and exits 0", function()
    local r = command { "repl", "-e", "local a = 20", "-e", "a + 1, 'x'" }
    assert.same({ 0, '21  "x"\n', "" }, { r.status, r.out, r.err })
  end)

  it("exits 1 at the first error, and says it on stderr", function()
    local r = command { "repl", "-e", "print 'first' error 'boom'", "-e", "print 'never'" }
    assert.same({ 1, "first\n", "repl:1: boom\n" }, { r.status, r.out, r.err })
    r = command { "repl", "-e", "1 +" }
    assert.equal(1, r.status)
    assert.truthy(r.err:find("near <eof>", 1, true), r.err)
  end)

  it("prints JSON", function()
    local r = command { "repl", "--json", "-e", "{ a = { 1, 2 } }" }
    assert.same({ 0, '{"a":[1,2]}\n' }, { r.status, r.out })
  end)

  it("does not go on past what failed, unless it is caught", function()
    for _, code in ipairs { "sql 'selec 1'; print(1)", "sql 'selec 1'", "lag() print(1)",
      "db():query 'select 1' print(1)" } do
      local r = command({ "repl", "-e", code, "-e", "print(2)" },
        { env = { TIDEMILL_MYSQL = "mysql://me@127.0.0.1:1/x", TIDEMILL_KAFKA = "127.0.0.1:1" } })
      assert.same({ 1, "" }, { r.status, r.out }, code)
      assert.matches("^%l+: %u+: [^\n]+\n$", r.err)
    end
    local r = command({ "repl", "-e", "ok, err = pcall(sql, 'selec 1')", "-e", "ok, err.code" },
      { env = { TIDEMILL_MYSQL = "mysql://me@127.0.0.1:1/x" } })
    assert.same({ 0, 'false  "REFUSED"\n', "" }, { r.status, r.out, r.err })
  end)

  it("shows all of a result where stdout is no terminal", function()
    local r = command { "repl", "-e", "r = { columns = { 'a' }, rows = {} } "
      .. "for i = 1, 250 do r.rows[i] = { ('x'):rep(90) .. i } end return r" }
    assert.truthy(r.out:find(("x"):rep(90) .. "250", 1, true))
    assert.is_nil(r.out:find("more", 1, true))
  end)

  it("names the server it cannot reach, and hides the password", function()
    local r = command({ "repl", "-e", "sql 'select 1'" },
      { env = { TIDEMILL_MYSQL = "mysql://me:hidden-pw@127.0.0.1:1/x" } })
    assert.equal(1, r.status)
    assert.truthy(r.err:find("REFUSED", 1, true))
    assert.falsy(r.err:find("hidden-pw", 1, true))
  end)

  it("refuses wrong use with 2", function()
    assert.equal(2, command { "repl", "file.lua" }.status)
    assert.equal(2, command { "repl", "--nonsense" }.status)
    assert.equal(0, command { "repl", "--help" }.status)
  end)
end)

describe("tidemill repl with inputs on stdin", function()
  local NOWHERE = { TIDEMILL_MYSQL = "mysql://me@127.0.0.1:1/x", TIDEMILL_KAFKA = "127.0.0.1:1" }

  it("runs and shows them one by one", function()
    for input, want in pairs {
      ["1+1\nx = 5\nx, 'y'\n"] = '2\n5  "y"\n', ["for i = 1, 2 do\n\nprint(i)\nend\n\n3"] = "1\n2\n3\n",
      ["local a = 1\nlocal function f()\n  return a + 1\nend\nf()\n"] = "2\n",
      ["s = [[\n a\n]]\ns\n-- done\n"] = '" a\\n"\n', ["1\nexit\n2\n"] = "1\n", ["1\nexit()\n2\n"] = "1\n",
      ["line = io.read()\nfor you\nline\n"] = '"for you"\n', [""] = "",
    } do
      local r = command({ "repl" }, { stdin = input })
      assert.same({ 0, want, "" }, { r.status, r.out, r.err }, input)
    end
    assert.equal('2\n{"a":1}\n', command({ "repl", "--json" }, { stdin = "1 + 1\n{ a = 1 }\n" })
      .out)
  end)

  it("ends with 1 at the first that fails, and names its line", function()
    for input, want in pairs {
      ["1\n\nif true then\nerror 'boom'\nend\n2\n"] = "stdin:3: repl:2: boom",
      ["1\n2 2\n3\n"] = "stdin:2: repl:1: ",
      ["1\nfor i = 1, 2 do\nprint(i)\n"] = "stdin:2: repl:2: 'end' expected",
      ["1\nsql 'selec'\nprint(2)\n"] = "stdin:2: mysql: REFUSED: ",
      ["1\ntopics() print(2)\n3\n"] = "stdin:2: kafka: ",
      ["1\nlag()\n2\n"] = "stdin:2: mysql: REFUSED: ",
    } do
      local r = command({ "repl" }, { stdin = input, env = NOWHERE })
      assert.same({ 1, "1\n", 1 }, { r.status, r.out, (r.err:find(want, 1, true)) }, input .. r.err)
    end
  end)

  it("answers before the next is there, is interrupted while it waits, and ends with its reader", function()
    local child <close> = assert(process.spawn { argv = { process.exe(), "repl" }, stdin = "pipe",
      stdout = "pipe", stderr = "null", env = { TIDEMILL_HOME = process.home() } })
    local out, deadline = "", clock.mono_ms() + 60000
    assert(child:write("6 * 7\n"))
    while out ~= "42\n" do
      out = out .. (child:read("stdout", 50) or "")
      assert(clock.mono_ms() < deadline, out)
    end
    local ended
    while not ended do -- a signal just before it waits is seen at the next one
      child:kill(INTERRUPT)
      ended = child:wait(50)
      assert(clock.mono_ms() < deadline)
    end
    assert.equal(130, ended.code)
    local r = command.program { argv = { "sh", "-c",
      "yes 1 | { timeout -s KILL 60 '" .. process.exe() .. "' repl; echo $? >&2; } | head -1" } }
    assert.same({ 0, "1\n", "repl: stdout: Broken pipe\n1\n" }, { r.status, r.out, r.err })
  end)

  it("takes a script with its locals", function()
    local script = "local n = 0\nfor i = 1, 3 do n = n + i end\nprint(n)"
    local r = command({ "repl" }, { stdin = script })
    assert.same({ 0, "6\n", "" }, { r.status, r.out, r.err })
    assert.equal(1, command({ "repl" }, { stdin = "error 'x'" }).status)
    assert.same({ 0, "3\n" }, { 0, command({ "repl" }, { stdin = "1 + 2\n" }).out })
  end)
end)

describe("tidemill repl on a terminal", function()
  local home

  before_each(function()
    home = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-repl-"))
  end)

  after_each(function()
    os.remove(home .. "/tidemill/history")
    os.remove(home .. "/tidemill")
    os.remove(home)
  end)

  local function shell(steps, o)
    o = o or {}
    o.env = { XDG_STATE_HOME = home, TIDEMILL_MYSQL = o.mysql, TIDEMILL_KAFKA = "127.0.0.1:1",
      NO_COLOR = "1" }
    table.insert(steps, 1, { expect = "tm> " })
    local answer = command.terminal({ "repl" }, steps, o)
    assert(answer.ok, ("%s at %s"):format(answer.output,
      json.encode(answer.failed)))
    return answer
  end

  local function history()
    local file = assert(io.open(home .. "/tidemill/history"))
    local text = file:read("a")
    file:close()
    return text
  end

  it("evaluates, goes on over several lines, and leaves at Ctrl-D", function()
    local r = shell {
      { send = "6 * 7\r" }, { expect = "\n42\n" }, { expect = "tm> " },
      { send = "for i = 1, 2 do\r" }, { expect = "..> " }, { send = "print('n' .. i)\r" },
      { expect = "..> " }, { send = "end\r" }, { expect = "n1\nn2\n" }, { expect = "tm> " },
      { send = "\4" },
    }
    assert.equal(0, r.status)
  end)

  it("keeps its banner and prompts out of a stdout that is none", function()
    local r = command.program {
      argv = { "python3", process.home() .. "/spec/support/terminal.py" },
      env = { TIDEMILL_HOME = process.home(), XDG_STATE_HOME = home, TERM = "xterm", INPUTRC = "/dev/null" },
      stdin = json.encode { columns = 80, rows = 24, steps = { { expect = "tm> " }, { send = "6 * 7\r" },
        { expect = "tm> " }, { send = "\4" } },
        argv = { "sh", "-c", "'" .. process.exe() .. "' repl >'" .. home .. "/out'" } },
    }
    assert.is_true(json.decode(r.out).ok, r.out)
    local file = assert(io.open(home .. "/out"))
    local out = file:read("a")
    file:close()
    os.remove(home .. "/out")
    assert.equal("42\n", out)
  end)

  it("leaves at exit, and exit()", function()
    assert.equal(0, shell({ { send = "exit\r" } }).status)
    assert.equal(0, shell({ { send = "exit()\r" } }).status)
  end)

  it("completes words, and lists them at the second TAB", function()
    shell {
      { send = "clock.mo\t" }, { expect = "clock.mono_" }, { send = "m\t() > 0\r" }, { expect = "\ntrue\n" },
      { expect = "tm> " }, { send = "clock.mono_\t\t" }, { expect = "clock.mono_ms" },
      { expect = "clock.mono_us" }, { send = "ms\r" }, { expect = "function: " },
      { expect = "tm> " }, { send = "\4" },
    }
  end)

  it("clears the line at Ctrl-C, also a half-typed block", function()
    shell {
      { send = "garbage(((" }, { expect = "(((" }, { send = "\3" }, { expect = "tm> " },
      { send = "for i = 1, 2 do\r" }, { expect = "..> " }, { send = "\3" }, { expect = "tm> " },
      { send = "'alive'\r" }, { expect = '"alive"' }, { expect = "tm> " }, { send = "\4" },
    }
  end)

  it("interrupts a loop and a wait, and lives on", function()
    shell {
      { send = "print 'go' while true do end\r" }, { expect = "\ngo\n" }, { send = "\3" },
      { expect = "interrupted" }, { expect = "tm> " },
      { send = "print 'go' while true do pcall(function() while true do end end) end\r" },
      { expect = "\ngo\n" }, { send = "\3" }, { expect = "interrupted" }, { expect = "tm> " },
      { send = "print 'go' clock.sleep(600000) print 'woke'\r" }, { expect = "\ngo\n" },
      { send = "\3" }, { expect = "tm> " },
      { send = "'alive'\r" }, { expect = '"alive"' }, { expect = "tm> " }, { send = "\4" },
    }
  end)

  it("shows queries as tables, narrow ones one value a line", function()
    local server = require("spec.support.mariadb").start()
    shell({
      { send = "sql 'select 1 as n, null as x, \\'\u{6771}\\' as s'\r" },
      { expect = "│ n │ x    │ s  │\n├───┼──────┼────┤\n│ 1 │ NULL │ 東 │\n" },
      { expect = "1 row\n" }, { expect = "tm> " },
      { send = "sql 'select 1234567890123 as a, 1234567890123 as b'\r" },
      { expect = "row 1 ──" }, { expect = "a: 1234567890123\nb: 1234567890123\n" },
      { expect = "tm> " }, { send = "sql 'select nonsense'\r" }, { expect = "NOCOLUMN" },
      { expect = "tm> " }, { send = "\4" },
    }, { mysql = server.url, columns = 30 })
  end)

  it("interrupts a long query and a broker that does not answer, and lives on", function()
    local server = require("spec.support.mariadb").start()
    shell({
      { send = "while true do sql 'select sleep(0.3)' print 'go' end\r" }, { expect = "\ngo\n" },
      { send = "\3" }, { expect = "interrupted" }, { expect = "tm> " },
      { send = "sql 'select 40 + 2 as n'\r" }, { expect = "│ 42 │" }, { expect = "tm> " },
      { send = "shell = require 'mill.shell'\r" }, { expect = "tm> " },
      { send = "print 'go' while true do shell.topics() end\r" }, { expect = "\ngo\n" },
      { send = "\3" }, { expect = "interrupted" }, { expect = "tm> " },
      { send = "print 'go' while true do shell.tail 'x' end\r" }, { expect = "\ngo\n" },
      { send = "\3" }, { expect = "interrupted" }, { expect = "tm> " },
      { send = "'alive'\r" }, { expect = '"alive"' }, { expect = "tm> " }, { send = "\4" },
    }, { mysql = server.url })
  end)

  it("leaves at SIGTERM while it waits for a line", function()
    local r = shell { { send = "1\r" }, { expect = "tm> " }, { signal = TERMINATE } }
    assert.equal(0, r.status)
  end)

  it("survives SIGINT sent from outside", function()
    shell {
      { signal = INTERRUPT }, { expect = "tm> " }, { send = "'alive'\r" }, { expect = '"alive"' },
      { expect = "tm> " }, { send = "\4" },
    }
  end)

  it("keeps a private history without secrets, over several lines", function()
    shell {
      { send = "kept = 1\r" }, { expect = "tm> " }, { send = "kept = 1\r" }, { expect = "tm> " },
      { send = " unkept = 1\r" }, { expect = "tm> " },
      { send = "c = { password = 'hidden-pw' }\r" }, { expect = "tm> " },
      { send = "if kept then\r" }, { expect = "..> " }, { send = "s = '\\\\' end\r" },
      { expect = "tm> " }, { send = "\4" },
    }
    assert.equal("kept = 1\nc = { password = '***' }\nif kept then\\ns = '\\\\\\\\' end\n",
      history())
    assert.equal("600", ("%o"):format(process.stat(home .. "/tidemill/history").mode & 511))
    shell {
      { send = "\27[A" }, { expect = "s = '\\\\' end" }, { send = "\27[A\27[A\r" },
      { expect = "tm> " }, { send = "kept\r" }, { expect = "\n1\n" }, { expect = "tm> " },
      { send = "\4" },
    }
  end)

  it("edits characters and not bytes", function()
    shell {
      { send = "'x\u{e9}\u{6771}\127\127y'\r" }, { expect = '\n"xy"\n' }, { expect = "tm> " },
      { send = "\4" },
    }
  end)

  it("stays when a result cannot be shown or code errs", function()
    shell {
      { send = "setmetatable({}, { __tostring = function() error 'no' end })\r" },
      { expect = "tm> " }, { send = "error 'boom'\r" }, { expect = "repl:1: boom" },
      { expect = "tm> " }, { send = "\4" },
    }
  end)
end)
