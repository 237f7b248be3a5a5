--- The stages of a pipeline as data: checked options, durations in milliseconds.
--
-- Each constructor raises on an unknown option, naming it, and on a value that cannot be meant.

local brokers = require "mill.brokers"
local duration = require "mill.duration"
local fault = require "mill.fault"
local json = require "host.json"
local moment = require "host.moment"

local M = {}

--- Raise when `options` has a key that is not in `known`.
function M.check_keys(what, options, known)
  if type(options) ~= "table" then
    fault.raise(fault.USAGE, "%s takes one table of options", what)
  end
  local names = {}
  for name in pairs(known) do names[#names + 1] = name end
  table.sort(names)
  for key in pairs(options) do
    if not known[key] then
      fault.raise(fault.USAGE, "%s: unknown option '%s' (known: %s)", what, tostring(key),
        table.concat(names, ", "))
    end
  end
end

-- A value as a message shows it.
local function shown(value)
  local kind = type(value)
  if kind == "string" then return '"' .. value .. '"' end
  return (kind == "number" or kind == "boolean") and tostring(value) or "a " .. kind
end

local function text(what, options, key, default)
  local value = options[key]
  if value == nil then value = default end
  if value == nil then fault.raise(fault.USAGE, "%s: option '%s' is required", what, key) end
  if type(value) ~= "string" or value == "" then
    fault.raise(fault.USAGE, "%s: option '%s' must be text, got %s", what, key, shown(value))
  end
  return value
end

local function text_or_nil(what, options, key)
  return options[key] ~= nil and text(what, options, key) or nil
end

local function period(what, options, key, default)
  local value = options[key] or default
  if value == nil then fault.raise(fault.USAGE, "%s: option '%s' is required", what, key) end
  local ms, message = duration.parse(value)
  if not ms then fault.raise(fault.USAGE, "%s: option '%s': %s", what, key, message) end
  return ms
end

-- Where the first run begins; mill.source finds the offsets.
local function start_of(what, options)
  local start = text(what, options, "start", "earliest")
  if start ~= "earliest" and start ~= "latest" and not moment.parse(start) then
    fault.raise(fault.USAGE, "%s: option 'start': write \"earliest\", \"latest\" or a time such as "
      .. "\"2024-08-09T12:00:00Z\", got %s", what, shown(start))
  end
  return start
end

local function brokers_of(what, options)
  local list = text_or_nil(what, options, "brokers")
  local ok, message = brokers.addresses(list or "host")
  if not ok then fault.raise(fault.USAGE, "%s: option 'brokers': %s", what, message) end
  return list
end

-- Options of librdkafka. Which there are, it says itself: see mill.brokers. No value is shown, for it
-- may be a password.
local function conf_of(what, options)
  local conf = options.conf
  if conf == nil then return {} end
  if type(conf) ~= "table" then
    fault.raise(fault.USAGE, "%s: option 'conf' must be a table of [\"option\"] = value, got a %s",
      what, type(conf))
  end
  for key, value in pairs(conf) do
    if type(key) ~= "string" then
      fault.raise(fault.USAGE, "%s: option 'conf' must be a table of [\"option\"] = value, got the "
        .. "key %s", what, shown(key))
    end
    if type(value) ~= "string" and type(value) ~= "number" and type(value) ~= "boolean" then
      fault.raise(fault.USAGE, "%s: conf[\"%s\"] must be text, a number or a boolean, got a %s", what,
        key, type(value))
    end
  end
  return conf
end

--- mill.kafka { topic=, start="earliest"|"latest"|TIME, group=, conf={librdkafka options} }
function M.kafka(options)
  local what = "mill.kafka"
  M.check_keys(what, options, { topic = 1, start = 1, group = 1, conf = 1, brokers = 1 })
  return {
    stage = "kafka",
    topic = text(what, options, "topic"),
    start = start_of(what, options),
    group = text_or_nil(what, options, "group"),
    brokers = brokers_of(what, options),
    conf = conf_of(what, options),
  }
end

local function field(name, spec)
  local what = ("mill.json: field '%s'"):format(name)
  if type(spec) ~= "string" then fault.raise(fault.USAGE, "%s: its type must be text", what) end
  local kind, rest = spec:match("^%s*(%a+)%s*(.-)%s*$")
  local out = { name = name, type = kind }
  if kind == "decimal" then
    local p, s, tail = rest:match("^%((%d+)%s*,%s*(%d+)%)%s*(.*)$")
    if not p then
      fault.raise(fault.USAGE, "%s: write decimal(precision,scale), got '%s'", what, spec)
    end
    out.precision, out.scale, rest = math.tointeger(p), math.tointeger(s), tail
    if out.precision < 1 or out.precision > 38 or out.scale > out.precision then
      fault.raise(fault.USAGE, "%s: %s: precision is 1 to 38, scale at most the precision", what,
        spec)
    end
  elseif kind == "time" then
    local unit = rest:match('^%(%s*["\']?(%a+)["\']?%s*%)$')
    if rest ~= "" and not (unit and ({ s = 1, ms = 1, us = 1, ns = 1 })[unit]) then
      fault.raise(fault.USAGE, "%s: write time, time(s), time(ms), time(us) or time(ns), got '%s'",
        what, spec)
    end
    out.unit, rest = unit or "auto", ""
  elseif kind ~= "string" and kind ~= "integer" then
    fault.raise(fault.USAGE,
      "%s: unknown type '%s' (known: string, integer, decimal(p,s), time)", what, spec)
  end
  if rest == "> 0" or rest == ">0" then
    if kind == "string" then fault.raise(fault.USAGE, "%s: '> 0' is for numbers", what) end
    out.positive = true
  elseif rest ~= "" then
    fault.raise(fault.USAGE, "%s: cannot read '%s' in '%s'", what, rest, spec)
  end
  return out
end

--- mill.json { field = "type", ..., tombstones = "bad"|"skip" }
-- Types: string, integer, decimal(p,s), time, time(ms); "> 0" after a number's type.
function M.json(options)
  if type(options) ~= "table" then
    fault.raise(fault.USAGE, "mill.json takes one table of fields")
  end
  local names = {}
  for name in pairs(options) do
    if type(name) ~= "string" then
      fault.raise(fault.USAGE, "mill.json: fields must be named, as in price = \"decimal(20,8)\"")
    end
    if name ~= "tombstones" then names[#names + 1] = name end
  end
  table.sort(names)
  local out = { stage = "json", fields = {}, by_name = {} }
  out.tombstones = options.tombstones or "bad"
  if out.tombstones ~= "bad" and out.tombstones ~= "skip" then
    fault.raise(fault.USAGE, "mill.json: tombstones is \"bad\" or \"skip\"")
  end
  local told = {}
  for i, name in ipairs(names) do
    local f = field(name, options[name])
    told[i] = { name = name, type = f.type, precision = f.precision, scale = f.scale }
    f.cell = i - 1
    out.fields[i] = f
    out.by_name[name] = f
  end
  -- How many there may be, and under which names, the decoder knows.
  local ok, made = pcall(json.decoder, { fields = told })
  if not ok then fault.raise(fault.USAGE, "mill.json: %s", made) end
  made:close()
  return out
end

local WINDOW_KEYS = {
  size = 1, hop = 1, time = 1, key = 1, max_delay = 1, idle = 1, max_future = 1, lateness = 1,
}

local function window(what, options, hopping)
  M.check_keys(what, options, WINDOW_KEYS)
  local size = period(what, options, "size")
  local hop = hopping and period(what, options, "hop") or size
  if not hopping and options.hop then
    fault.raise(fault.USAGE, "%s: 'hop' is for mill.hopping", what)
  end
  if size <= 0 or hop <= 0 or hop > size then
    fault.raise(fault.USAGE, "%s: size and hop must be positive, and hop at most size", what)
  end
  if size // hop > 10000 then
    fault.raise(fault.USAGE, "%s: a row would be in more than 10000 windows", what)
  end
  local key = options.key
  if type(key) ~= "function" then key = text(what, options, "key") end
  return {
    stage = "window", size_ms = size, hop_ms = hop,
    time = text(what, options, "time"), key = key,
    max_delay_ms = period(what, options, "max_delay", "0"),
    idle_ms = period(what, options, "idle", "5s"),
    max_future_ms = period(what, options, "max_future", "1m"),
    lateness_ms = period(what, options, "lateness", "1d"),
  }
end

--- mill.tumbling { size=, time=field, key=field, max_delay=, idle=, max_future=, lateness= }
function M.tumbling(options)
  return window("mill.tumbling", options, false)
end

--- mill.hopping { size=, hop=, time=field, key=field, ... }
function M.hopping(options)
  return window("mill.hopping", options, true)
end

local function columns_of(what, options)
  local key = options.key
  if type(key) ~= "table" or #key == 0 then
    fault.raise(fault.USAGE, "%s: option 'key' must list the columns of the table's key", what)
  end
  for i, column in pairs(key) do
    if math.type(i) ~= "integer" or type(column) ~= "string" then
      fault.raise(fault.USAGE, "%s: option 'key' must be a list of column names, got [%s] = %s", what,
        shown(i), shown(column))
    end
  end
  return key
end

local function url_of(what, options)
  local url = text_or_nil(what, options, "url")
  local ok, message = true, nil
  if url then ok, message = require("mill.mysqlurl").parse(url) end
  if not ok then fault.raise(fault.USAGE, "%s: option 'url': %s", what, message) end
  return url
end

--- mill.mysql { table=, key={columns}, commit_every="1s", max_rows=, url= }
function M.mysql(options)
  local what = "mill.mysql"
  M.check_keys(what, options, { table = 1, key = 1, commit_every = 1, max_rows = 1, url = 1 })
  local key = columns_of(what, options)
  local max_rows = options.max_rows or 200000
  if math.type(max_rows) ~= "integer" or max_rows < 1 then
    fault.raise(fault.USAGE, "%s: option 'max_rows' must be a whole number above 0", what)
  end
  return {
    stage = "mysql", table = text(what, options, "table"), key = key,
    commit_every_ms = period(what, options, "commit_every", "1s"),
    max_rows = max_rows, url = url_of(what, options),
  }
end

return M
