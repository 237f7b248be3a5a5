-- The control socket, asked by `tidemill repl --attach` and by rude clients.

local attach = require "mill.attach"
local clock = require "host.clock"
local control = require "host.control"
local json = require "mill.json"
local log = require "mill.log"
local mask = require "mill.mask"
local process = require "host.process"
local support = require "spec.support.http"

local home = process.home()

describe("a control socket", function()
  local folder, state, socket, children

  before_each(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-attach-"))
    state = folder .. "/state"
    children = {}
    socket = assert(attach.open("prices@a", {
      status = function() return { rate = 17, name = "prices" } end,
    }, state))
  end)
  after_each(function()
    for _, child in ipairs(children) do child:close() end
    socket:close()
    os.execute("rm -rf '" .. folder .. "'")
  end)

  local path = function() return state .. "/prices@a.sock" end

  local function spawn(argv)
    local child = assert(process.spawn {
      argv = argv, stdin = "pipe", stdout = "pipe", stderr = folder .. "/err",
      env = { TIDEMILL_VAR = folder, TIDEMILL_HOME = home, NO_COLOR = "1" },
    })
    children[#children + 1] = child
    return child
  end

  -- Serve until a child has ended: its exit status, output, errors, and the longest turn in ms.
  local function serve(child)
    local out, longest = "", 0
    local ended = support.wait(function()
      local began = clock.mono_ms()
      socket:serve()
      longest = math.max(longest, clock.mono_ms() - began)
      out = out .. (child:read("stdout", 10) or "")
      return child:wait(0)
    end, "the client", 30000)
    out = out .. (child:read("stdout", 50) or "")
    local file = io.open(folder .. "/err", "r")
    local err = file and file:read("a") or ""
    if file then file:close() end
    return ended.code, out, err, longest
  end

  local function repl(name, ...)
    return serve(spawn { process.exe(), "repl", "--attach", name, ... })
  end

  local function client(...)
    local _, out, err = serve(spawn { "python3", home .. "/spec/support/rude.py", ... })
    return assert(json.decode(out:match("{.*}")), err)
  end

  local function rude(...) return client(path(), ...) end

  local function answers()
    local code, out, err = repl("prices", "-e", "status().rate")
    assert.equal("17\n", out, err)
    assert.equal(0, code, err)
  end

  it("is for its user alone", function()
    local st = assert(process.stat(path()))
    assert.equal("socket", st.type)
    assert.equal(tonumber("600", 8), st.mode & 4095)
    assert.equal(tonumber("700", 8), process.stat(state).mode & 4095)
    assert.is_nil(process.stat(path() .. ".new"))
  end)

  it("runs code in the process and prints as the shell does", function()
    local here = 5
    socket.globals.here = function() here = here + 1 return here end
    for code, want in pairs {
      ["1, 'two', nil"] = "1  \"two\"  nil\n", ["here()"] = "6\n", ["print('x', 1)"] = "x\t1\n",
      ["status()"] = "{ name = \"prices\", rate = 17 }\n", ["x = 1"] = "",
      ["process.pid()"] = process.pid() .. "\n",
    } do
      local status, out, err = repl("prices@a", "-e", code)
      assert.equal(want, out, code .. err)
      assert.equal(0, status)
    end
    local _, out = repl("prices", "--json", "-e", "status().rate", "-e", "'a'")
    assert.equal("17\n\"a\"\n", out)
    _, out = repl("prices", "-e", "settings()")
    assert.matches("mysql_password", out, 1, true)
    _, out = repl("prices", "-e", "help()")
    assert.matches("partitions()", out, 1, true)
  end)

  it("shows all rows where stdout is no terminal", function()
    local _, out = repl("prices", "-e", "r = { columns = { 'a' }, rows = {} } for i = 1, 250 do "
      .. "r.rows[i] = { ('x'):rep(90) .. i } end return r")
    assert.matches(("x"):rep(90) .. "250", out, 1, true)
    assert.is_nil(out:find("more", 1, true))
  end)

  it("takes inputs on stdin up to the first that fails", function()
    local child = spawn { process.exe(), "repl", "--attach", "prices" }
    assert(child:write("x = 5\nfor i = 1, 2 do\nprint(i)\nend\nx\nlocal y = 6\ny\nerror 'no'\n7\n"))
    child:close_stdin()
    local status, out, err = serve(child)
    assert.same({ 1, "1\n2\n5\n6\n" }, { status, out }, err)
    assert.matches("stdin:8: repl:1: no", err, 1, true)
    answers()
  end)

  it("tells errors, and goes on", function()
    for code, want in pairs { ["error('no')"] = "no", ["nil + 1"] = "arithmetic", ["x ="] = "near <eof>",
      ["error({})"] = "{}", ["nil, 'unit: CODE: what', 'CODE'"] = "unit: CODE: what" } do
      local status, _, err = repl("prices", "-e", code)
      assert.equal(1, status, code)
      assert.matches(want, err, 1, true)
    end
    answers()
  end)

  it("stops code that does not end", function()
    for _, code in ipairs {
      "while true do end", "while true do pcall(function() while true do end end) end",
      "coroutine.wrap(function() while true do end end)()", "clock.sleep(60000)",
      "local co = coroutine.wrap(function() while true do pcall(coroutine.yield) end end) "
        .. "while true do co() end",
      "setmetatable({}, { __tostring = function() while true do end end })",
    } do
      local status, out, err, longest = repl("prices", "-e", code)
      assert.is_true(longest < 12000, code .. ": " .. longest .. " ms")
      if not code:find "__" then
        assert.equal(1, status, code .. out)
        assert.matches("it ran for too long", err, 1, true)
      end
      answers()
    end
  end)

  it("refuses what nothing could stop, what waits for others and what ends the process", function()
    local before = process.pid()
    for _, code in ipairs {
      "setmetatable({}, { __gc = function() while true do end end })",
      "_G.setmetatable({}, { __close = function() while true do end end })",
      "load('setmetatable({}, { __gc = function() end })')()", "os.exit(0)", "os.execute('sleep 60')",
      "io.popen('sleep 60'):read()", "io.read()", "debug.sethook()", "debug.debug()",
      "collectgarbage('stop')", "os.setlocale('C')", "loadfile()",
    } do
      local status, _, err, longest = repl("prices", "-e", code)
      assert.equal(1, status, code)
      assert.is_truthy(err:find "is not offered in a live process" or err:find "needs a path", err)
      assert.is_true(longest < 12000, code .. ": " .. longest .. " ms")
    end
    for _, code in ipairs {
      "local loop = function() while true do end end xpcall(loop, loop)",
      "xpcall(error, function() while true do end end)",
      "coroutine.wrap(function() xpcall(function() while true do end end, function() error('x') end) end)()",
    } do
      local _, _, _, longest = repl("prices", "-e", code)
      assert.is_true(longest < 12000, code .. ": " .. longest .. " ms")
    end
    assert.equal(before, process.pid())
    local _, out = repl("prices", "-e", "setmetatable({}, { __index = { a = 5 } }).a",
      "-e", "xpcall(error, function(e) return e .. '!' end, 'x')", "-e", "y = 7",
      "-e", "load('return _G.y')(), os.time() > 0, io.write('a', 1, '\\n') == nil")
    assert.equal('5\nfalse  "x!"\na1\n7  true  true\n', out)
    answers()
  end)

  it("stops code that takes the memory", function()
    for _, code in ipairs { "('x'):rep(1 << 30)", "local t = {} for i = 1, 1 << 40 do t[i] = i end",
      "local s = 'x' while true do s = s .. s end",
      "local s = 'x' while true do pcall(function() s = s .. s end) end" } do
      local status, _, err, longest = repl("prices", "-e", code)
      assert.equal(1, status)
      assert.is_truthy(err:find "not enough memory" or err:find "it ran for too long", err)
      assert.is_true(longest < 12000, code .. ": " .. longest .. " ms")
    end
    collectgarbage()
    answers()
  end)

  it("cuts an answer that is too long, and never within a password", function()
    mask.hide "hush-hush-77"
    for _, code in ipairs {
      "print(('\\0'):rep(4 << 20))", "error(('\\1'):rep(4 << 20))", "print(('a=\"'):rep(1 << 20))",
      "for i = 1, 100 do print(('\\1'):rep(50000)) end", "print(('\\xff'):rep(4 << 20))",
      "print(('hush-hush-77 '):rep(1 << 18))",
    } do
      local status, out, err, longest = repl("prices", "-e", code)
      assert.equal(code:find "error" and 1 or 0, status, err:sub(-500))
      assert.matches("(cut: the answer is too long)", (out .. err):sub(-100), 1, true)
      assert.is_true(longest < 10000, code .. ": " .. longest .. " ms")
    end
    for _, edge in ipairs { 1 << 20, (1 << 20) + 4096, (1 << 20) + 4097 } do
      for before = 1, 13, 3 do
        local _, out = repl("prices", "-e",
          ("print(('x'):rep(%d) .. 'hush-hush-77' .. ('y'):rep(9000))"):format(edge - before))
        assert.is_nil(out:find("hush", 1, true), edge .. " " .. before)
      end
    end
    answers()
  end)

  it("answers two clients, and goes on after one that was killed", function()
    for round = 1, 3 do
      local busy = spawn { process.exe(), "repl", "--attach", "prices", "-e",
        "clock.sleep(50) return 'first'" }
      local killed = spawn { process.exe(), "repl", "--attach", "prices", "-e",
        round == 1 and "while true do end" or "print(('x'):rep(1 << 20)) clock.sleep(100)" }
      local until_ms = clock.mono_ms() + round * 100
      support.wait(function() socket:serve() return clock.mono_ms() > until_ms end)
      killed:kill("KILL")
      answers()
      local status, out, err = serve(busy)
      assert.equal('"first"\n', out, err)
      assert.equal(0, status)
    end
  end)

  it("hears no other user, but root", function()
    if process.uid() ~= 0 then
      pending("only root can try it as another user")
      return
    end
    local said = {}
    log.to { write = function(_, ...) said[#said + 1] = table.concat({ ... }) end }
    finally(function() log.to(nil) end)
    -- The folder is closed to others already.
    assert.is_true(client("--user", "65534", path(), "send:x", "read:100").denied)
    assert.equal(0, socket.server:stats().refused)
    -- For once it is open, as is the file: the peer's user is looked at.
    assert(os.execute(("chmod 711 '%s' '%s' && chmod 666 '%s'"):format(folder, state, path())))
    for n, request in ipairs { "send:\\x00\\x00\\x00\\x0c{\"code\":\"1\"}",
      "send:x", "shut" } do
      local r = client("--user", "65534", path(), request, "read:30000")
      assert.is_nil(r.denied)
      assert.is_true(r.closed and r.ms < 20000)
      assert.matches("only the user it runs as, and root, may attach", r.text, 1, true)
      assert.equal(n, socket.server:stats().refused)
    end
    assert.equal(0, socket.server:stats().dropped)
    assert.equal(1, #said)
    assert.matches("another user asked", said[1], 1, true)
    answers() -- this is root
  end)

  it("completes words as the shell does", function()
    socket.globals.prices_of = { apple = 1, apricot = 2 }
    local script = folder .. "/complete.lua"
    assert(process.atomic_write(script, [[
      local attach = require "mill.attach"
      for _, text in ipairs { "prices_of.ap", "x = prices_", "status():", "clock.mono_", "(" } do
        local words, at = attach.complete(assert(attach.find "prices"), text)
        print(text, table.concat(words, " "), at)
      end]]))
    local want = "prices_of.ap\tprices_of.apple prices_of.apricot\t1\nx = prices_\tprices_of\t5\n"
      .. "status():\t\t10\nclock.mono_\tclock.mono_ms clock.mono_us\t1\n(\t\t2\n"
    -- A word that is not known in time is not completed.
    local function in_time(ask)
      local ok, said
      for _ = 1, 3 do
        ok, said = ask()
        if ok then return end
      end
      error(said, 2)
    end
    in_time(function()
      local _, out, err = serve(spawn { process.exe(), "exec", script })
      return out == want, out .. err
    end)
    in_time(function()
      local shell = spawn { "python3", home .. "/spec/support/terminal.py" }
      assert(shell:write(json.encode { argv = { process.exe(), "repl", "--attach", "prices" }, steps = {
        { expect = "tm> " }, { send = "prices_of.ap\t\t" }, { expect = "prices_of.apricot" },
        { send = "ple\r" }, { expect = "\n1\n" }, { expect = "tm> " }, { send = "\4" } } }))
      shell:close_stdin()
      local _, out, err = serve(shell)
      local r = assert(json.decode(out), err)
      return r.ok and r.status == 0, out
    end)
  end)

  it("shows no password in use", function()
    mask.hide "hush-hush-77"
    local _, out, err = repl("prices", "-e", "'hush-hush-77', { a = 'hush-hush-77' }", "-e",
      "print('hush-hush-77')", "-e", "error('hush-hush-77')")
    assert.is_nil((out .. err):find("hush-hush-77", 1, true))
    assert.matches("***", out, 1, true)
  end)

  it("is found by name, and clearly not found", function()
    local other <close> = assert(attach.open("averages@a", {}, state))
    local third <close> = assert(attach.open("averages@b", {}, state))
    local stale = state .. "/gone.sock"
    assert.equal(0, assert(assert(process.spawn { argv = { "python3", "-c",
      "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", stale } }):wait(20000)).code)
    local status, _, err = repl("nobody", "-e", "1")
    assert.equal(3, status)
    assert.matches("nothing named 'nobody' runs here; in " .. state
      .. ": averages@a, averages@b, prices@a", err, 1, true)
    assert.is_nil(process.stat(stale))
    status, _, err = repl("averages", "-e", "1")
    assert.equal(3, status)
    assert.matches("several run by the name 'averages': averages@a, averages@b", err, 1, true)
    assert.is_truthy(third and other)
  end)

  it("replaces what a killed process left, and is refused where a live one listens", function()
    local again, message, code = control.listen { path = path() }
    assert.is_nil(again)
    assert.equal("INUSE", code, message)
    socket:close()
    assert.is_nil(process.stat(path()))
    assert(assert(process.spawn { argv = { "python3", "-c",
      "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])", path() } }):wait(20000))
    socket = assert(attach.open("prices@a", { status = function() return { rate = 17 } end }, state))
    answers()
  end)

  it("takes a path of any length", function()
    local long = state .. "/" .. ("d"):rep(150)
    local deep <close> = assert(attach.open("x", {}, long))
    assert.is_truthy(deep)
    assert.same({ "x" }, attach.names(long))
  end)

  it("drops who sends too much, nothing, or hangs up", function()
    assert.is_true(rude("send:\\x7f\\xff\\xff\\xff", "fill:100000", "read:30000").closed)
    assert.is_true(rude("send:\\x00\\x01\\x00\\x01", "read:30000").closed)
    rude("send:\\x00\\x00\\x00\\x40half")
    rude("send:\\x00\\x00\\x00\\x20{\"code\":\"('x'):rep(1000000)\"}")
    assert.matches("not what this version sends", rude("send:\\x00\\x00\\x00\\x02{}", "read:30000").text)
    local slow = rude("send:\\x00\\x00\\x01\\x00", "drip:100:x")
    assert.is_true(slow.ms > 4000 and slow.ms < 20000, slow.ms .. " ms")
    answers()
  end)

  it("answers others while clients hold connections", function()
    local child = spawn { "python3", home .. "/spec/support/rude.py", path(), "hold:30", "wait" }
    support.wait(function() socket:serve() return (child:read("stdout", 20) or ""):find "ready" end)
    local began = clock.mono_ms()
    repeat
      local status = repl("prices", "-e", "1")
    until status == 0 or clock.mono_ms() - began > 30000
    assert.is_true(clock.mono_ms() - began < 30000)
    child:close_stdin()
  end)
end)
