local clock = require "host.clock"
local folder = require "spec.support.folder"
local process = require "host.process"
local wait = require "spec.support.wait"

local DEADLINE_MS = 20000 * require "spec.support.slow"

local function sh(script, more)
  local spec = { argv = { "sh", "-c", script } }
  for k, v in pairs(more or {}) do spec[k] = v end
  return assert(process.spawn(spec))
end

--- All that the child writes until it closes the stream.
local function slurp(child, stream)
  local parts = {}
  local deadline = clock.mono_ms() + DEADLINE_MS
  while clock.mono_ms() < deadline do
    local bytes = child:read(stream or "stdout", 1000)
    if not bytes then return table.concat(parts) end
    parts[#parts + 1] = bytes
  end
  error("the child never closed its output")
end

local function ended(child)
  return assert(child:wait(DEADLINE_MS), "the child never ended")
end

describe("a child process", function()
  local dir

  setup(function() dir = assert(process.mkdtemp("/tmp/tidemill-process-")) end)
  teardown(function()
    for _, name in ipairs(process.list(dir)) do os.remove(dir .. "/" .. name) end
    assert(os.remove(dir))
  end)
  after_each(function()
    process.reset_stop()
    process.graceful(false)
  end)

  it("runs a program and gives its exit code", function()
    local child <close> = sh("exit 7")
    assert.equal(7, ended(child).code)
    assert.equal(7, child:wait().code)
    assert.is_nil(child:wait().signal)
  end)

  it("is told what ended it", function()
    local child <close> = sh("kill -KILL $$")
    local status = ended(child)
    assert.equal(9, status.signal)
    assert.equal("KILL", status.signal_name)
    assert.is_nil(status.code)
  end)

  it("speaks through pipes", function()
    local child <close> = sh("cat; echo bad >&2",
      { stdin = "pipe", stdout = "pipe", stderr = "pipe" })
    assert.equal("", child:read("stdout"))
    assert.equal(5, child:write("tide\n", 1000))
    child:close_stdin()
    assert.equal("tide\n", slurp(child))
    assert.equal("bad\n", slurp(child, "stderr"))
    assert.is_nil(child:read("stdout"))
    local n, _, code = child:write("x")
    assert.is_nil(n)
    assert.equal("EPIPE", code)
  end)

  it("joins stderr to stdout, and appends to files", function()
    local path = dir .. "/log"
    for _ = 1, 2 do
      local child <close> = sh("echo out; echo err >&2", { stdout = path, stderr = "stdout" })
      ended(child)
    end
    local f <close> = assert(io.open(path))
    assert.equal("out\nerr\nout\nerr\n", f:read("a"))
  end)

  it("has our environment, with names replaced and taken away", function()
    local child <close> = sh("echo $TIDE-$MOON-${HOME+home}-${PATH+path}", {
      stdout = "pipe", env = { TIDE = "high", MOON = 3, HOME = false } })
    assert.equal("high-3--path\n", slurp(child))
  end)

  it("starts in a folder", function()
    local child <close> = sh("pwd", { stdout = "pipe", cwd = "/" })
    assert.equal("/\n", slurp(child))
  end)

  it("gets no descriptor of ours but those it is given", function()
    local lock <close> = assert(process.lock(dir .. "/lock"))
    local other <close> = sh("cat", { stdin = "pipe", stdout = "pipe" })
    local fd = other:fd("stdout")
    local child <close> = sh("exec cat", { stdin = "pipe", stdout = "pipe", pass_fds = { fd } })
    -- Its answer shows that it has started: a starting program has more files open.
    child:write("ready\n")
    wait("the child's answer", function() return child:read("stdout", 50) ~= "" end)
    local seen = {}
    for _, n in ipairs(process.list(("/proc/%d/fd"):format(child:pid()))) do
      seen[tonumber(n)] = true
    end
    assert.same({ [0] = true, [1] = true, [2] = true, [fd] = true }, seen)
    assert.truthy(tostring(lock))
  end)

  it("starts with the default action for every signal", function()
    -- SIGTERM and SIGINT are caught and SIGPIPE ignored in this process.
    local child <close> = assert(process.spawn {
      argv = { "cat", "/proc/self/status" }, stdout = "pipe" })
    local status = slurp(child)
    for _, what in ipairs { "SigBlk", "SigCgt" } do
      assert.equal(("0"):rep(16), status:match(what .. ":%s*(%x+)"), what)
    end
    local pipe <close> = sh("kill -PIPE $$; exit 5")
    assert.equal("PIPE", ended(pipe).signal_name)
  end)

  it("says what failed to start", function()
    local cases = {
      { { "no-such-program" }, nil, "process: ENOENT: no-such-program: No such file or directory" },
      { { "/etc/passwd" }, nil, "process: EACCES: /etc/passwd: Permission denied" },
      { { "/etc" }, nil, "process: EACCES: /etc: Permission denied" },
      { { "true" }, { cwd = "/no/such" },
        "process: ENOENT: true (folder): No such file or directory" },
      { { "true" }, { stdout = "/no/such/file" },
        "process: ENOENT: true (/no/such/file): No such file or directory" },
    }
    for _, case in ipairs(cases) do
      local spec = { argv = case[1] }
      for k, v in pairs(case[2] or {}) do spec[k] = v end
      local child, message = process.spawn(spec)
      assert.is_nil(child)
      assert.equal(case[3], message)
    end
  end)

  it("says so when the file is no program", function()
    local path = dir .. "/not-a-program"
    assert(process.atomic_write(path, "\1\2\3", { mode = 493, sync = false }))
    local child, message, code = process.spawn { argv = { path } }
    assert.is_nil(child)
    assert.equal("ENOEXEC", code)
    assert.equal("process: ENOEXEC: " .. path .. " (exec): Exec format error", message)
  end)

  it("refuses misuse by name", function()
    assert.has_error(function() process.spawn { argv = {} } end,
      "option 'argv' must name a program")
    assert.has_error(function() process.spawn { argv = { "true", 3 } } end,
      "option 'argv' must hold strings, entry 2 is a number")
    assert.has_error(function() process.spawn { argv = { "tr\0ue" } } end,
      "option 'argv': entry 1 contains a NUL")
    assert.has_error(function() process.spawn { argv = { "true" }, shell = true } end,
      "unknown option 'shell' (known: argv, env, cwd, stdin, stdout, stderr, pass_fds, "
        .. "group, death_signal)")
    assert.has_error(function() process.spawn { argv = { "true" }, death_signal = "LUNCH" } end,
      "unknown signal 'LUNCH'")
    assert.has_error(function() process.spawn { argv = { "true" }, env = { A = true } } end,
      "option 'env': A must be a string or false")
  end)

  it("is asked to end by name or number", function()
    for _, sig in ipairs { "TERM", "sigterm", 15 } do
      local child <close> = assert(process.spawn { argv = { "sleep", "1000" } })
      assert.is_nil(child:wait())
      assert.is_true(child:kill(sig))
      assert.equal("TERM", ended(child).signal_name)
      local ok, _, code = child:kill()
      assert.is_nil(ok)
      assert.equal("ESRCH", code)
    end
  end)

  it("is killed and reaped when its handle is closed", function()
    local child = assert(process.spawn { argv = { "sleep", "1000" } })
    local pid = child:pid()
    assert.is_true(process.alive(pid))
    child:close()
    child:close()
    assert.is_false(process.alive(pid))
    assert.is_nil(process.stat("/proc/" .. pid))
    assert.has_error(function() child:pid() end, "attempt to use a closed child process")
  end)

  it("is killed and reaped when its handle is collected", function()
    local pid = (function() return assert(process.spawn { argv = { "sleep", "1000" } }):pid() end)()
    collectgarbage()
    collectgarbage()
    assert.is_nil(process.stat("/proc/" .. pid))
  end)

  it("dies with the process that started it", function()
    local script = dir .. "/parent.lua"
    assert(process.atomic_write(script, [[
      local process = require "host.process"
      local child = assert(process.spawn { argv = { "sleep", "1000" } })
      io.stdout:write(child:pid(), "\n")
      io.stdout:flush()
      require "host.clock".sleep(1000000)
    ]], { sync = false }))
    local parent <close> = assert(process.spawn {
      argv = { process.exe(), "exec", script }, stdout = "pipe",
      env = { TIDEMILL_HOME = process.home() } })
    local text = ""
    wait("the grandchild's pid", function()
      text = text .. (parent:read("stdout", 100) or "")
      return text:match("\n")
    end)
    local pid = math.tointeger(tonumber(text:match("%d+")))
    assert.is_true(process.alive(pid))
    parent:kill("KILL")
    ended(parent)
    wait("the grandchild is gone", function() return not process.alive(pid) end)
  end)

  it("may be a group of its own", function()
    local child <close> = sh("ps -o pgid= -p $$", { stdout = "pipe", group = true })
    assert.equal(child:pid(), math.tointeger(tonumber(slurp(child))))
  end)

  it("does not block when nobody reads", function()
    local child <close> = assert(process.spawn { argv = { "sleep", "1000" }, stdin = "pipe" })
    local total = 0
    repeat
      local n = child:write(("x"):rep(65536))
      total = total + n
    until n == 0
    assert.is_true(total >= 4096)
  end)
end)

describe("waiting for descriptors", function()
  after_each(function()
    process.reset_stop()
    process.graceful(false)
  end)

  it("tells which are ready, for what", function()
    local a <close> = sh("cat", { stdin = "pipe", stdout = "pipe" })
    local b <close> = sh("exec sleep 1000", { stdout = "pipe" })
    a:write("x")
    local ready, n = process.wait_fds({
      { fd = a:fd("stdout") }, { fd = b:fd("stdout"), events = "r" } }, DEADLINE_MS)
    assert.equal(1, n)
    assert.same({ [a:fd("stdout")] = "r" }, ready)
    ready = process.wait_fds({ { fd = a:fd("stdin"), events = "w" } }, 0)
    assert.same({ [a:fd("stdin")] = "w" }, ready)
    b:kill()
    ready = process.wait_fds({ { fd = b:fd("stdout") } }, DEADLINE_MS)
    assert.same({ [b:fd("stdout")] = "re" }, ready)
    ready = process.wait_fds({ { fd = b:fd() } }, DEADLINE_MS)
    assert.same({ [b:fd()] = "r" }, ready)
  end)

  it("comes back empty when the time is over", function()
    local child <close> = assert(process.spawn { argv = { "sleep", "1000" } })
    local before = clock.mono_ms()
    local ready, n = process.wait_fds({ { fd = child:fd() } }, 120)
    assert.same({}, ready)
    assert.equal(0, n)
    assert.is_true(clock.mono_ms() - before >= 120)
  end)

  it("is ended by a signal, once", function()
    process.graceful(true)
    local child <close> = sh("kill -INT " .. process.pid() .. "; exec sleep 1000")
    wait("the signal", function()
      local _, n = process.wait_fds({ { fd = child:fd() } }, 200)
      assert.equal(0, n)
      return process.stop_requested() == 1
    end)
    local before = clock.mono_ms()
    process.wait_fds({ { fd = child:fd() } }, 30)
    assert.is_true(clock.mono_ms() - before >= 30)
  end)

  it("refuses misuse", function()
    assert.has_error(function() process.wait_fds({ { fd = -1 } }, 0) end,
      "entry 1: -1 is no descriptor")
    assert.has_error(function() process.wait_fds({ { fd = 0, events = "x" } }, 0) end,
      "events must be 'r', 'w' or 'rw', got 'x'")
  end)
end)

describe("signals to stop", function()
  --- Run Lua in a process of its own.
  local function run(text, more)
    local path = os.tmpname()
    assert(process.atomic_write(path, text, { sync = false }))
    local spec = { stdout = "pipe", env = { TIDEMILL_HOME = process.home() } }
    for k, v in pairs(more or {}) do spec[k] = v end
    -- The specs themselves may run under nohup; `hup` says what the child is to find.
    spec.argv = { "env", ("--%s-signal=HUP"):format(spec.hup or "default"), process.exe(), "exec",
                  path }
    spec.hup = nil
    local child = assert(process.spawn(spec))
    return child, path
  end

  local LOOP = [[
    local process, clock = require "host.process", require "host.clock"
    process.graceful(%s)
    io.stdout:write("ready\n") io.stdout:flush()
    local said = 0
    while true do
      clock.sleep(10)
      local n = process.stop_requested()
      if n ~= said then said = n io.stdout:write(n, "\n") io.stdout:flush() end
    end
  ]]

  local function await(child, text)
    local seen = ""
    wait("'" .. text .. "' from the child", function()
      seen = seen .. (child:read("stdout", 50) or "")
      return seen:find(text, 1, true)
    end)
  end

  it("raise in a process that asked for nothing, also out of a wait", function()
    local child <close>, path = run([[
      io.stdout:write("ready\n") io.stdout:flush()
      local process = require "host.process"
      while true do pcall(process.wait_fds, {}, 60000) end
    ]], { stderr = "pipe" })
    await(child, "ready\n")
    child:kill("INT")
    assert.not_equal(0, ended(child).code)
    assert.matches("interrupted", slurp(child, "stderr"))
    os.remove(path)
  end)

  it("are counted once and then end a graceful process with 130", function()
    local child <close>, path = run(LOOP:format("true"))
    await(child, "ready\n")
    child:kill("INT")
    await(child, "1\n")
    child:kill("INT")
    assert.equal(130, ended(child).code)
    os.remove(path)
  end)

  it("are counted twice by a process that asks for it", function()
    local child <close>, path = run(LOOP:format("'counted'"))
    await(child, "ready\n")
    child:kill("HUP")
    await(child, "1\n")
    child:kill("TERM")
    await(child, "2\n")
    child:kill("TERM")
    assert.equal(130, ended(child).code)
    os.remove(path)
  end)

  it("leave out SIGHUP under nohup", function()
    local child <close>, path = run(LOOP:format("true"), { hup = "ignore" })
    await(child, "ready\n")
    child:kill("HUP")
    child:kill("TERM")
    await(child, "1\n")
    child:kill("TERM")
    assert.equal(130, ended(child).code)
    os.remove(path)
  end)
end)

describe("files", function()
  local dir

  before_each(function() dir = folder.make() end)
  after_each(function() folder.clear(dir) end)

  it("are replaced as a whole, and leave no temporary file", function()
    local path = dir .. "/state"
    for _, options in ipairs { {}, { sync = false }, { mode = 384 } } do
      assert.is_true(process.atomic_write(path, "a\0b" .. tostring(options.mode), options))
      local f <close> = assert(io.open(path, "rb"))
      assert.equal("a\0b" .. tostring(options.mode), f:read("a"))
    end
    assert.equal(384, process.stat(path).mode)
    assert.same({ "state" }, process.list(dir))
  end)

  it("are not replaced when that fails", function()
    assert(process.mkdir_p(dir .. "/folder/full"))
    local ok, message, code = process.atomic_write(dir .. "/folder", "x")
    assert.is_nil(ok)
    assert.equal("EISDIR", code)
    assert.equal("process: EISDIR: " .. dir .. "/folder: Is a directory", message)
    assert.same({ "folder" }, process.list(dir))
  end)

  it("are written to, not replaced, when they are no files", function()
    local pipe = dir .. "/pipe"
    local made <close> = assert(process.spawn { argv = { "mkfifo", pipe } })
    assert.equal(0, made:wait(10000).code)
    local reader <close> = assert(process.spawn { argv = { "cat", pipe }, stdout = "pipe" })
    local deadline = clock.mono_ms() + 10000
    local ok, _, code
    repeat -- until it reads
      ok, _, code = process.atomic_write(pipe, "text")
      if not ok then clock.sleep(1) end
    until ok or code ~= "ENXIO" or clock.mono_ms() > deadline
    assert.is_true(ok)
    assert.equal("text", reader:read("stdout", 10000))
    assert.same({ "pipe" }, process.list(dir))
    assert.equal("fifo", process.stat(pipe).type)
    assert.is_true(process.atomic_write("/dev/null", "text"))
    assert.is_not.equal("file", process.stat("/dev/null").type)
  end)

  it("are made with the folders above them", function()
    assert.is_true(process.mkdir_p(dir .. "/a/b/c"))
    assert.is_true(process.mkdir_p(dir .. "/a/b/c"))
    assert.equal("dir", process.stat(dir .. "/a/b/c").type)
    assert(process.atomic_write(dir .. "/file", "", { sync = false }))
    assert.equal("ENOTDIR", select(3, process.mkdir_p(dir .. "/file")))
    assert.equal("ENOTDIR", select(3, process.mkdir_p(dir .. "/file/x")))
  end)

  it("are described", function()
    assert(process.atomic_write(dir .. "/f", "12345", { sync = false }))
    local st = process.stat(dir .. "/f")
    assert.equal("file", st.type)
    assert.equal(5, st.size)
    assert.is_true(math.abs(st.mtime_ms - os.time() * 1000) < 60000)
    assert.equal("ENOENT", select(3, process.stat(dir .. "/none")))
    assert.equal("ENOENT", select(3, process.list(dir .. "/none")))
    assert.equal(dir .. "/f", process.realpath(dir .. "/../" .. dir:match("[^/]+$") .. "/./f"))
    local disk = process.disk(dir)
    assert.is_true(disk.total > 0 and disk.free >= 0 and disk.free <= disk.total)
  end)

  it("are locked by one process at a time", function()
    local path = dir .. "/lock"
    local lock = assert(process.lock(path))
    local second, message, code, pid = process.lock(path)
    assert.is_nil(second)
    assert.equal("process: LOCKED: " .. path .. " is held by process " .. process.pid(), message)
    assert.equal("LOCKED", code)
    assert.equal(process.pid(), pid)
    -- A child that outlives the lock must not keep it.
    local child <close> = assert(process.spawn { argv = { "sleep", "1000" } })
    lock:close()
    lock:close()
    local third <close> = assert(process.lock(path))
    assert.is_nil(child:wait())
    assert.truthy(tostring(third))
  end)
end)

describe("facts about processes", function()
  it("are those of the kernel", function()
    local child <close> = assert(process.spawn { argv = { "sleep", "1000" } })
    assert.is_true(process.rss_kb() > 1000)
    assert.is_true(process.peak_rss_kb() >= process.rss_kb() - 512)
    -- exec puts the arguments in place a moment after it let us go on.
    wait("the command line", function()
      return process.cmdline(child:pid()) == "sleep 1000"
    end)
    assert.is_true(process.started(child:pid()) >= process.started())
    child:kill("KILL")
    -- Ended, but not reaped: it is not alive.
    wait("the child is a zombie", function() return not process.alive(child:pid()) end)
    assert.is_nil(process.rss_kb(child:pid()))
    assert.is_true(process.alive(process.pid()))
    assert.is_true(process.alive(1))
  end)

  it("name the machine, its boot and this program", function()
    local f <close> = assert(io.open("/proc/sys/kernel/hostname"))
    assert.equal(f:read("l"), process.hostname())
    assert.matches("^%x+%-%x+%-%x+%-%x+%-%x+/%d+$", process.boot_id())
    assert.equal("file", process.stat(process.exe()).type)
    assert.equal("file", process.stat(process.home() .. "/lib/mill/cli.lua").type)
  end)

  it("tell a terminal from a file", function()
    local child <close> = assert(process.spawn { argv = { "sleep", "1000" }, stdin = "pipe" })
    assert.is_false(process.isatty(child:fd("stdin")))
    assert.equal("ENOTTY", select(3, process.winsize(child:fd("stdin"))))
  end)

  it("find programs in the sbin folders too", function()
    assert.matches("/sh$", process.which("sh"))
    assert.equal("/bin/sh", process.which("/bin/sh"))
    assert.equal("ENOENT", select(3, process.which("no-such-program")))
  end)
end)
