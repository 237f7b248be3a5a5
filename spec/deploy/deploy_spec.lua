-- The deployment files are data about this tree: images, commands, scripts, variables and exit
-- codes are compared with what is there. No container engine and no systemd is needed.

local yaml = require "lyaml"
local cli = require "mill.cli"
local config = require "mill.config"
local fault = require "mill.fault"

local SHARE = "/usr/local/share/tidemill/"

local function read(path)
  local file <close> = assert(io.open(path))
  return file:read("a")
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function set(list)
  local members = {}
  for _, member in ipairs(list) do members[member] = true end
  return members
end

local function words(text)
  local list = {}
  for word in text:gmatch("%S+") do list[#list + 1] = word end
  return list
end

-- ${NAME:-default} with no variable set.
local function defaults(text)
  return (text:gsub("%${[%w_]+:%-(.-)}", "%1"))
end

local function variables()
  local names = { TIDEMILL_LOG = true, TIDEMILL_CONFIG = true, TIDEMILL_HOME = true }
  for _, spec in ipairs(config.KEYS) do names[spec[2]] = true end
  return names
end

-- What a file starts tidemill with: a known command, and a script of this tree.
local function check_command(argv)
  assert.is_true(set(cli.COMMANDS)[argv[1]], tostring(argv[1]) .. " is not a command")
  if argv[1] ~= "run" then return end
  local script = argv[2]:match("^" .. SHARE .. "(.*)$")
  assert.is_truthy(script, argv[2] .. " is not where the image has its scripts")
  assert.is_true(exists(script), script .. " does not exist")
end


describe("docker-compose.yml", function()
  local compose = yaml.load(defaults(read("docker-compose.yml")))
  local services = compose.services
  local ours = {}
  for name, service in pairs(services) do
    if service.build then ours[name] = service end
  end

  it("runs commands and scripts that exist", function()
    local n = 0
    for _, service in pairs(ours) do
      check_command(service.command)
      assert.is_true(exists(service.build.dockerfile))
      n = n + 1
    end
    assert.equal(3, n)
  end)

  it("sets only variables that tidemill reads", function()
    for _, service in pairs(ours) do
      for name in pairs(service.environment) do
        assert.is_true(variables()[name], name .. " is read by nothing")
      end
    end
  end)

  it("waits for services that can become what is waited for", function()
    for name, service in pairs(services) do
      for other, on in pairs(service.depends_on or {}) do
        local awaited = assert(services[other], name .. " waits for unknown " .. other)
        if on.condition == "service_healthy" then
          assert.is_table(awaited.healthcheck, other)
        else
          assert.equal("service_completed_successfully", on.condition)
          assert.equal("no", awaited.restart)
        end
      end
    end
  end)

  it("advertises Kafka to containers and host at the addresses they use", function()
    local env = services.kafka.environment
    local listeners, advertised = {}, {}
    for name, port in env.KAFKA_LISTENERS:gmatch("(%u+)://:(%d+)") do listeners[name] = port end
    for name, address in env.KAFKA_ADVERTISED_LISTENERS:gmatch("(%u+)://([^,]+)") do
      advertised[name] = address
      assert.is_truthy(listeners[name], name .. " is advertised but not listened on")
    end
    assert.equal("kafka:" .. listeners.INTERNAL, advertised.INTERNAL)
    local host, container = services.kafka.ports[1]:match("^127%.0%.0%.1:(%d+):(%d+)$")
    assert.equal("localhost:" .. host, advertised.HOST)
    assert.equal(listeners.HOST, container)
    assert.is_nil(advertised.CONTROLLER)
    for _, service in pairs(ours) do
      assert.equal(advertised.INTERNAL, service.environment.TIDEMILL_KAFKA)
    end
  end)

  it("connects to the database it creates, as the user it creates", function()
    local env = services.mysql.environment
    local url = ("mysql://%s@mysql:3306/%s"):format(env.MYSQL_USER, env.MYSQL_DATABASE)
    for _, service in pairs(ours) do assert.equal(url, service.environment.TIDEMILL_MYSQL) end
  end)

  it("has its password in a secret file only", function()
    local path = "/run/secrets/mysql_password"
    assert.equal("deploy/secrets/mysql_password", compose.secrets.mysql_password.file)
    assert.equal(path, services.mysql.environment.MYSQL_PASSWORD_FILE)
    for _, service in pairs(ours) do
      assert.equal(path, service.environment.TIDEMILL_MYSQL_PASSWORD_FILE)
      assert.same({ "mysql_password" }, service.secrets)
    end
    assert.is_truthy(read("deploy/secrets/.gitignore"):find("\n*\n", 1, true))
  end)

  it("publishes nothing beyond this machine and declares its volumes", function()
    for _, service in pairs(services) do
      for _, port in ipairs(service.ports or {}) do
        assert.is_truthy(port:find("^127%.0%.0%.1:"), port)
      end
      for _, volume in ipairs(service.volumes or {}) do
        assert.is_not_nil(compose.volumes[volume:match("^[^:]+")], volume)
      end
    end
  end)
end)


describe("the image", function()
  local docker = read("deploy/Dockerfile")

  it("gets everything that make needs", function()
    local kept = set(words((read(".dockerignore"):gsub("#[^\n]*", ""))))
    assert.is_true(kept["*"])
    local copied = read("Makefile"):match("cp %-R ([%w ]+) %$%(DESTDIR%)")
    for _, name in ipairs(words("Makefile host tools " .. copied)) do
      assert.is_true(kept["!" .. name], name .. " is not sent to the engine")
      assert.is_true(exists(name), name .. " does not exist")
    end
    for source in docker:gmatch("\nCOPY ([%w%./]+) ") do
      assert.is_true(exists(source), source .. " does not exist")
    end
  end)

  it("asks for health where the server listens", function()
    local port = docker:match("TIDEMILL_HTTP=0%.0%.0%.0:(%d+)")
    assert.equal(port, docker:match("\nEXPOSE (%d+)"))
    assert.equal(port, docker:match("http://127%.0%.0%.1:(%d+)/health"))
    assert.is_truthy(docker:find("\nUSER tidemill\n", 1, true))
  end)

  it("installs the packages of the libraries the program is linked to", function()
    local install = docker:match("no%-install%-recommends(.-)&&"):gsub("\\", "")
    local packages = set(words(install))
    local needed = io.popen("readelf -d /proc/$PPID/exe"):read("a")
    local n = 0
    for soname in needed:gmatch("%(NEEDED%)[^\n]-%[([^\n]-)%]") do
      -- The C library is there; sanitizers are not in a release.
      if not soname:find("^lib[cm]%.so") and not soname:find("san%.so") then
        local owner = io.popen("dpkg -S '*/" .. soname .. "' 2>/dev/null"):read("l")
        owner = assert(owner, soname .. " belongs to no package"):match("^[^:]+")
        assert.is_true(packages[owner], soname .. " is in " .. owner .. ", not installed")
        n = n + 1
      end
    end
    assert.is_true(n >= 5)
  end)
end)


describe("a systemd unit", function()
  for _, name in ipairs { "producer", "aggregation" } do
    local path = "deploy/tidemill-" .. name .. ".service"
    local unit = read(path)

    it("of the " .. name .. " runs what exists with variables that are read", function()
      local argv = words(unit:match("\nExecStart=/usr/local/bin/tidemill ([^\n]+)"))
      check_command(argv)
      for variable in unit:gmatch("\nEnvironment=([%w_]+)=") do
        assert.is_true(variables()[variable], variable .. " is read by nothing")
      end
    end)

    it("of the " .. name .. " is not restarted where that cannot help", function()
      local statuses = { fault.USAGE, fault.RUNNING, fault.POLICY, fault.FENCED }
      assert.equal(table.concat(statuses, " "), unit:match("\nRestartPreventExitStatus=([%d ]+)"))
      assert.equal("on-failure", unit:match("\nRestart=([%w-]+)"))
    end)
  end
end)
