-- Planted passwords are looked for in everything that a person or another program can see.

local clock = require "host.clock"
local command = require "spec.support.command"
local http = require "host.http"
local json = require "mill.json"
local process = require "host.process"
local real = require "spec.support.real"

describe("secrets", function()
  local why = real.missing()
  if not why and not os.getenv "TIDEMILL_KAFKA_SASL" then
    why = "TIDEMILL_KAFKA_SASL is not set"
  end
  if why then
    it("needs servers", function() pending(why) end)
    return
  end

  local PLANTED = "Pl4nt3d!s3cr3t"
  local scram = os.getenv "TIDEMILL_KAFKA_SASL_PASSWORD"
  local conf = ("security.protocol=SASL_PLAINTEXT,sasl.mechanisms=SCRAM-SHA-256,sasl.username=%s,"
    .. "sasl.password="):format(os.getenv "TIDEMILL_KAFKA_SASL_USER")
  local topic, folder

  setup(function()
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-secrets-"))
    topic = real.topic {}
    local records = {}
    for n = 1, 100 do
      records[n] = { key = "A", value = ('{"symbol":"A","price":"1","timestamp":%d}'):format(n) }
    end
    real.send(topic, records)
  end)
  teardown(function()
    real.close()
    os.execute("rm -rf '" .. folder .. "'")
  end)

  local function slurp(path)
    local file = io.open(path, "rb")
    local text = file and file:read("a") or ""
    if file then file:close() end
    return text
  end

  local function clean(what, text, secrets)
    for _, secret in ipairs(secrets or { PLANTED, "Pl4nt3d%21s3cr3t", scram }) do
      local at = text:find(secret, 1, true)
      assert.is_nil(at, at and ("%s holds a secret: %s"):format(what,
        text:sub(math.max(1, at - 80), at + 40)))
    end
  end

  local function said(what, r)
    clean(what .. " (stdout)", r.out)
    clean(what .. " (stderr)", r.err)
    return r
  end

  -- The arguments of every process of this machine. The broker's password is known to those who
  -- start brokers with it: there only what descends from us is looked at, by its environment.
  local function arguments()
    for _, pid in ipairs(process.list("/proc")) do
      if pid:find("^%d+$") then
        local ours = slurp("/proc/" .. pid .. "/environ"):find("TIDEMILL_HOME=" .. process.home(), 1, true)
        clean("the command line of " .. pid, slurp("/proc/" .. pid .. "/cmdline"),
          not ours and { PLANTED, "Pl4nt3d%21s3cr3t" } or nil)
      end
    end
  end

  for _, base in ipairs(real.databases()) do
    describe("with " .. base.name, function()
      local place, user, url

      setup(function()
        place = real.place(base)
        user = real.name "u"
        place:query("create user %s@'%%' identified by '%s'", user, PLANTED)
        place:query("grant all on *.* to %s@'%%'", user)
        url = place.url:gsub("//[^@]*@", "//" .. user .. ":Pl4nt3d%%21s3cr3t@")
      end)
      teardown(function()
        place:query("drop user " .. user)
        place:close()
      end)

      local function env(more)
        local vars = { TIDEMILL_MYSQL = url .. "?connect-timeout=10",
          TIDEMILL_KAFKA = os.getenv "TIDEMILL_KAFKA_SASL",
          TIDEMILL_KAFKA_CONF = conf .. scram, TIDEMILL_LOG = "debug", TIDEMILL_CONFIG = false }
        for key, value in pairs(more or {}) do vars[key] = value end
        return vars
      end

      it("are in nothing that a run shows", function()
        local status = folder .. "/status"
        local run = real.tidemill({ "run", "scripts/averages.lua", "--json", "--set", "topic=" .. topic,
          "--set", "name=" .. real.name "p" }, { cwd = process.home(), env = env {
            TIDEMILL_STATUS_FILE = status, TIDEMILL_HTTP = "127.0.0.1:0",
            TIDEMILL_KAFKA_CONF = conf .. scram .. ",debug=all",
          } })
        local port = real.wait(function()
          assert(run:result() == nil, "it ended: " .. run:log())
          return run:log():match("/health on [%d.]+:(%d+)")
        end, "the run")
        real.wait(function() return slurp(status):find('"consumed": ?100') end, "its status")
        arguments()
        clean("the status file", slurp(status))
        local client <close> = http.client {}
        for _, path in ipairs { "/metrics", "/health", "/" } do
          local r = assert(client:fetch { url = "http://127.0.0.1:" .. port .. path })
          clean(path, r.body .. json.encode(r.headers))
        end
        assert.matches("Max core file size +0 ", slurp(("/proc/%d/limits"):format(run:pid())))
        run:kill("TERM")
        local r = said("run", run:finish())
        assert.equal(0, r.status, r.err)
        assert.matches("librdkafka", r.err, 1, true) -- the log of all was there
      end)

      it("are in no error", function()
        local wrong = url:gsub("Pl4nt3d%%21", "x%0")
        local file = folder .. "/password"
        assert(process.atomic_write(file, "x" .. PLANTED .. "\n"))
        for name, vars in pairs {
          ["a wrong password in the URL"] = { TIDEMILL_MYSQL = wrong },
          ["a wrong password"] = { TIDEMILL_MYSQL_PASSWORD = "x" .. PLANTED },
          ["a wrong password in a file"] = { TIDEMILL_MYSQL_PASSWORD_FILE = file },
          ["no server"] = { TIDEMILL_MYSQL = url:gsub("127.0.0.1:%d+", "127.0.0.1:1") },
          ["a URL that is none"] = { TIDEMILL_MYSQL = url:gsub("@", "@@"):gsub("mysql:", "mysqll:") },
          ["an unknown option"] = { TIDEMILL_MYSQL = url .. "?colour=" .. PLANTED },
          ["a wrong SASL password"] = { TIDEMILL_KAFKA_CONF = conf .. "x" .. PLANTED .. ",debug=all" },
          ["no broker"] = { TIDEMILL_KAFKA = "127.0.0.1:1" },
          ["a broken list of options"] = { TIDEMILL_KAFKA_CONF = conf .. scram .. "," .. PLANTED },
          ["an option that is none"] = { TIDEMILL_KAFKA_CONF = "ssl.key.pem=" .. PLANTED },
        } do
          local r = said(name, real.tidemill({ "check", "scripts/averages.lua", "--connect", "--set",
            "topic=" .. topic }, { cwd = process.home(), env = env(vars) }):finish())
          assert.is_true(r.status == 2 or r.status == 3, name .. ": " .. r.err)
          assert.is_nil(r.err:find("traceback", 1, true), r.err)
          local more = { { "config" }, { "config", "--json" } }
          if name:find "wrong" then more[3] = { "runbook", "health" } end
          for _, argv in ipairs(more) do
            said(name .. ", " .. table.concat(argv, " "), real.tidemill(argv, { cwd = process.home(),
              env = env(vars) }):finish())
          end
        end
      end)

      it("are in no other command's output", function()
        for _, argv in ipairs {
          { "config" }, { "config", "--json" }, { "migrate" }, { "progress", "--json" },
          { "deadletters", "ls" }, { "runbook", "health", "--json" }, { "runbook", "smoke" },
          { "repl", "-e", "return topics()" }, { "repl", "-e", "error(config.mysql().password)" },
          { "repl", "-e", "sql('no such statement ' .. config.kafka_conf()['sasl.password'])" },
          { "run", "scripts/replay.lua", "--set", "file=" .. folder .. "/none" },
        } do
          said(table.concat(argv, " "), real.tidemill(argv, { env = env(), cwd = process.home() })
            :finish())
        end
      end)

      it("are not in the history of the shell, nor in what a live process answers", function()
        local state = assert(process.mkdtemp(folder .. "/history-"))
        local vars = env { XDG_STATE_HOME = state }
        vars.TIDEMILL_LOG = nil
        for _, argv in ipairs { { "repl" }, { "repl", "--attach", "live" } } do
          local run
          if argv[2] then
            run = real.tidemill({ "run", "scripts/averages.lua", "--instance", "a", "--set",
              "topic=" .. topic, "--set", "name=live",
              "--set", "table=" .. place:table() }, { cwd = process.home(),
                env = env { TIDEMILL_VAR = state } })
            vars.TIDEMILL_VAR = state
            real.wait(function()
              assert(run:result() == nil, "it ended: " .. run:log())
              return process.stat(state .. "/state/live@a.sock")
            end, "the run")
          end
          local steps = { { expect = "tm> " } }
          for i, line in ipairs {
            "x = '" .. PLANTED .. "'", "y = \"" .. scram .. "\" -- first", "print('" .. PLANTED .. "')",
            "mysql.connect { password = 'other-pw-1' }", "sql('select ?', '" .. scram .. "')",
            "error('" .. PLANTED .. "')", "config.mysql().password", "config.kafka_conf()",
          } do
            steps[#steps + 1] = { send = line .. " --" .. i .. "\r" }
            steps[#steps + 1] = { expect = "--" .. i }
            steps[#steps + 1] = { expect = "tm> " }
          end
          steps[#steps + 1] = { send = "\4" }
          local r = command.terminal(argv, steps, { env = vars, columns = 200 })
          assert(r.ok, r.output)
          for line in r.output:gmatch "[^\n]+" do -- what is printed in one's own shell is one's own
            if run and not line:find("tm> ", 1, true) then clean("the screen", line) end
          end
          local history = slurp(state .. "/tidemill/history")
          assert.matches("y = .*first", history)
          clean("the history", history)
          assert.is_nil(history:find("other-pw-1", 1, true))
          if run then
            run:kill("TERM")
            said("attached", run:finish())
          end
        end
      end)

      it("are in no backup and in no argument of the programs that make it", function()
        local to = folder .. "/backup-" .. base.name
        local looks = 0
        local deadline = clock.mono_ms() + 120000
        repeat -- it is quick, and we may not run meanwhile
          local child = real.tidemill({ "runbook", "backup", "--set", "dir=" .. to },
            { env = env(), cwd = process.home() })
          while not child:result(0) and clock.mono_ms() < deadline do
            arguments()
            looks = looks + 1
          end
          local r = said("backup", child:finish())
          assert.equal(0, r.status, r.out .. r.err)
        until looks > 3
        local seen = 0
        for _, name in ipairs(process.list(to)) do
          clean(name, slurp(to .. "/" .. name))
          seen = seen + 1
        end
        assert.is_true(seen >= 2)
      end)
    end)
  end
end)
