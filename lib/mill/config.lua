--- Configuration: flags over environment over tidemill.conf.lua over defaults.
--
-- Every value knows where it came from; secrets are masked when shown. The file tidemill.conf.lua
-- returns a table with the keys below, for example { kafka = "broker1:9092,broker2:9092" }.

local expect = require "mill.expect"
local fault = require "mill.fault"
local mask = require "mill.mask"

local M = {}

--- Every setting: key, environment variable, default, meaning.
M.KEYS = {
  { "kafka", "TIDEMILL_KAFKA", "127.0.0.1:9092", "bootstrap brokers, host:port[,host:port]" },
  { "mysql", "TIDEMILL_MYSQL", "mysql://root@127.0.0.1:3306/crypto_streaming",
    "database URL: mysql://user@host:port/database[?socket=PATH]" },
  { "mysql_password_file", "TIDEMILL_MYSQL_PASSWORD_FILE", nil,
    "file that holds the database password" },
  { "mysql_password", "TIDEMILL_MYSQL_PASSWORD", nil, "the database password", secret = true },
  { "kafka_conf", "TIDEMILL_KAFKA_CONF", nil,
    "librdkafka options for every client: key=value,key=value; \\, is a comma in a value",
    secret = true },
  { "kafka_conf_file", "TIDEMILL_KAFKA_CONF_FILE", nil,
    "file of librdkafka options, key=value a line; those of kafka_conf win" },
  { "instance", "TIDEMILL_INSTANCE", nil, "instance name; default: the host's name" },
  { "memory_mb", "TIDEMILL_MEMORY_MB", "256", "limit of the Lua heap of a run, in MiB; 0: none" },
  { "http", "TIDEMILL_HTTP", nil, "address:port for /metrics and /health; none when not set" },
}

local function read_file(path)
  local chunk, message = loadfile(path, "t", {})
  if not chunk then fault.raise(fault.USAGE, "configuration: %s", message) end
  local ok, values = pcall(chunk)
  if not ok then fault.raise(fault.USAGE, "configuration: %s", values) end
  if type(values) ~= "table" then
    fault.raise(fault.USAGE, "configuration: %s must return a table", path)
  end
  return values
end

local function config_file()
  local path = os.getenv("TIDEMILL_CONFIG")
  if path then return path end
  local file = io.open("tidemill.conf.lua", "r")
  if not file then return nil end
  file:close()
  return "tidemill.conf.lua"
end

local function check_keys(values, path)
  for key in pairs(values) do
    local found = false
    for _, spec in ipairs(M.KEYS) do found = found or spec[1] == key end
    if not found then
      local names = {}
      for _, spec in ipairs(M.KEYS) do names[#names + 1] = spec[1] end
      fault.raise(fault.USAGE, "%s: unknown key '%s' (known: %s)", path, tostring(key),
        table.concat(names, ", "))
    end
  end
end

-- A value of the file as text; kafka_conf may be a table of librdkafka's options.
local function from_file(key, value, path)
  if type(value) ~= "table" then return tostring(value) end
  if key ~= "kafka_conf" then fault.raise(fault.USAGE, "%s: %s must not be a table", path, key) end
  local items = {}
  for option, setting in pairs(value) do
    if type(option) ~= "string" or type(setting) == "table" then
      fault.raise(fault.USAGE, "%s: kafka_conf is a table of [\"option\"] = value", path)
    end
    items[#items + 1] = option .. "=" .. tostring(setting):gsub("[\\,]", "\\%0")
  end
  table.sort(items)
  return table.concat(items, ",")
end

--- All values with their origins: { {key, value, origin, meaning, secret} }.
-- @param flags table of values given on the command line, or nil
function M.all(flags)
  if flags ~= nil then expect.a("table", flags, "flags") end
  local path = config_file()
  local file = path and read_file(path) or {}
  if path then check_keys(file, path) end
  local rows = {}
  for _, spec in ipairs(M.KEYS) do
    local key, env, default, meaning = spec[1], spec[2], spec[3], spec[4]
    local value, origin = default, "default"
    if file[key] ~= nil then value, origin = from_file(key, file[key], path), path end
    local from_env = os.getenv(env)
    if from_env and from_env ~= "" then value, origin = from_env, "environment " .. env end
    if flags and flags[key] ~= nil then value, origin = tostring(flags[key]), "flag" end
    rows[#rows + 1] = {
      key = key, value = value, origin = value and origin or "not set", meaning = meaning,
      secret = spec.secret or false,
    }
  end
  return rows
end

--- One value, or nil.
function M.get(key, flags)
  for _, row in ipairs(M.all(flags)) do
    if row.key == key then return row.value end
  end
  error("config: unknown key " .. tostring(key), 2)
end

--- Bootstrap brokers.
function M.kafka(flags)
  return M.get("kafka", flags)
end

-- Items between commas; \, is a comma and \\ a backslash.
local function items_of(text)
  local items, item, at = {}, "", 1
  while at <= #text do
    local plain, mark = text:match("^([^\\,]*)(.?)", at)
    item, at = item .. plain, at + #plain + 1
    if mark == "," then
      items[#items + 1], item = item, ""
    elseif mark == "\\" then
      local escaped = text:match("^[\\,]", at)
      item, at = item .. (escaped or mark), at + (escaped and 1 or 0)
    end
  end
  items[#items + 1] = item
  return items
end

-- Options of a file, a line each; # begins a comment line.
local function conf_of_file(conf, path)
  local file, message = io.open(path, "r")
  if not file then fault.raise(fault.USAGE, "kafka_conf_file: %s", message) end
  local n = 0
  for line in file:lines() do
    n = n + 1
    if line:find("^%s*[^%s#]") then
      local key, value = line:match("^%s*([^%s=]+)%s*=%s*(.-)%s*$")
      if not key then
        file:close()
        fault.raise(fault.USAGE, "kafka_conf_file: %s:%d: the line is not key=value", path, n)
      end
      conf[key] = value
    end
  end
  file:close()
end

-- Options of a text, with commas between them.
local function conf_of_text(conf, text)
  for i, item in ipairs(items_of(text)) do
    local key, value = item:match("^%s*([^%s=]+)=(.*)$")
    if not key and item:find("%S") then -- not shown: it may be a part of a password
      fault.raise(fault.USAGE, "kafka_conf: item %d is not key=value; write it as "
        .. "key=value,key=value, and a comma in a value as \\,", i)
    end
    if key then conf[key] = value end
  end
end

--- librdkafka options for every client, from kafka_conf and kafka_conf_file.
function M.kafka_conf()
  local conf = {}
  local path = M.get("kafka_conf_file")
  if path then conf_of_file(conf, path) end
  conf_of_text(conf, M.get("kafka_conf") or "")
  for key, value in pairs(conf) do
    if mask.is_secret_option(key) then mask.hide(value) end
  end
  return conf
end

--- Where to serve /metrics and /health: options address and port of http.server; a port alone means
-- loopback. Raises a fault when the text is neither.
-- @param text "address:port", "[address]:port" or "port"
function M.listen(text)
  expect.a("string", text, "text")
  local host, port = text:match("^%[?([^%[%]]*)%]?:(%d+)$")
  if not port then host, port = "", text:match("^%d+$") end
  port = math.tointeger(tonumber(port))
  if not port or port > 65535 or (host:find(":", 1, true) and not text:find("]:", 1, true)) then
    fault.raise(fault.USAGE, "http: '%s' is not address:port, such as 127.0.0.1:9464", text)
  end
  return { address = host ~= "" and host or "127.0.0.1", port = port }
end

-- The limit of the heap in bytes; 0 is none.
local function bytes_of(text)
  local megabytes = math.tointeger(tonumber(text))
  if not megabytes or megabytes < 0 or megabytes > math.maxinteger >> 20 then
    fault.raise(fault.USAGE, "memory_mb: '%s' is not a whole number of MiB, 0 for no limit", text)
  end
  return megabytes << 20
end

--- The limit of the Lua heap in bytes; 0 is none. Raises a fault when the setting is no number.
function M.memory()
  return bytes_of(M.get("memory_mb"))
end

local function parse_url(text)
  local options, message = require("mill.mysqlurl").parse(text)
  if not options then fault.raise(fault.USAGE, "%s", message) end
  return options
end

local function parse_brokers(text)
  local ok, message = require("mill.brokers").addresses(text)
  if not ok then fault.raise(fault.USAGE, "%s", message) end
end

local function first_line(path)
  local file, message = io.open(path, "r")
  if not file then fault.raise(fault.USAGE, "mysql_password_file: %s", message) end
  local line = file:read("l")
  file:close()
  return line or ""
end

--- Connect options for host.mysql, from the URL and the password's own settings.
function M.mysql(flags)
  local options = parse_url(M.get("mysql", flags))
  local path = M.get("mysql_password_file", flags)
  options.password = M.get("mysql_password", flags) or (path and first_line(path))
    or options.password
  mask.hide(options.password)
  return options
end

-- What takes a setting's value; each raises a fault that says what is allowed.
local TAKES = {
  kafka = parse_brokers, mysql = parse_url, mysql_password_file = first_line,
  kafka_conf = function(text) conf_of_text({}, text) end,
  kafka_conf_file = function(path) conf_of_file({}, path) end,
  memory_mb = bytes_of, http = M.listen,
}

--- What is wrong with a setting's value, and what is allowed; nil when nothing is.
-- @param row of all()
function M.problem(row)
  expect.a("table", row, "row")
  local take = row.value ~= nil and TAKES[row.key]
  if not take then return nil end
  local ok, err = pcall(take, row.value)
  if ok then return nil end
  if not fault.is(err) then error(err, 0) end
  return (err.message:gsub("^" .. row.key .. ": ", ""))
end

return M
