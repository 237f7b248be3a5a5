--- MySQL addresses as people write them: mysql://user:password@host:port/database?option=value
--
-- Also mysql://user@/database?socket=/run/mysqld/mysqld.sock. What a URL cannot hold as it is (in
-- a password: : / ? # @ and %) is written %XX. No message ever shows the password, nor a part of a
-- malformed URL that may be one.

local M = {}

local OPTIONS = {
  ["connect-timeout"] = "whole seconds",
  socket = "a path",
  ssl = "require or verify",
  ["ssl-ca"] = "a file",
  ["ssl-cert"] = "a file",
  ["ssl-key"] = "a file",
  ["ssl-verify"] = "true or false",
}

local function failure(fmt, ...)
  return nil, ("mysql url: SYNTAX: " .. fmt):format(...), "SYNTAX"
end

-- The text with %XX decoded, or nil when a % is not followed by two digits or means NUL.
local function decode(text)
  local left = text:gsub("%%%x%x", "")
  if left:find("%", 1, true) or text:find("%00", 1, true) then return nil end
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function option_names()
  local names = {}
  for name in pairs(OPTIONS) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

local function set_ssl(options, key, value)
  options.ssl = options.ssl or {}
  if key == "ssl" then
    if value ~= "require" and value ~= "verify" then return false end
    options.ssl.verify = value == "verify"
  elseif key == "ssl-verify" then
    if value ~= "true" and value ~= "false" then return false end
    options.ssl.verify = value == "true"
  else
    options.ssl[key:sub(5)] = value
  end
  return value ~= ""
end

local function set_option(options, key, value)
  if key:sub(1, 3) == "ssl" then return set_ssl(options, key, value) end
  if key == "socket" then
    options.socket = value
    return value ~= ""
  end
  options.connect_timeout = value:find("^%d+$") and math.tointeger(tonumber(value))
  return options.connect_timeout and options.connect_timeout >= 1
    and options.connect_timeout <= 3600
end

local function parse_query(options, query)
  for item in query:gmatch("[^&]+") do
    local key, value = item:match("^([^=]*)=(.*)$")
    key, value = decode(key or item), value and decode(value)
    key = key and key:gsub("_", "-")
    if not key or not key:find("^[%w-]+$") then -- perhaps a part of the password
      return failure("what is behind ? is not OPTION=VALUE (in a password, ? is written as %%3F)")
    elseif not OPTIONS[key] then
      return failure("unknown option '%s' (known: %s)", key, option_names())
    end
    if not value or not set_option(options, key, value) then
      return failure("option '%s' takes %s", key, OPTIONS[key])
    end
  end
  return options
end

local function parse_address(options, address)
  local host, port = address:match("^(%[[%x:.]+%])(.*)$")
  if not host then host, port = address:match("^([^:]*)(.*)$") end
  if port ~= "" then
    local number = port:match("^:(%d%d?%d?%d?%d?)$")
    options.port = number and math.tointeger(tonumber(number))
    if not options.port or options.port < 1 or options.port > 65535 then
      return failure("the port is a number from 1 to 65535 (in a password, : / ? # @ and %% are "
        .. "written as %%3A %%2F %%3F %%23 %%40 and %%25)")
    end
  end
  host = decode((host:gsub("^%[(.*)%]$", "%1")))
  if not host or host:find("[%c%s,/]") then return failure("the host is not a host name") end
  if host ~= "" then options.host = host end
  return options
end

local function parse_user(options, text)
  local user, password = text:match("^([^:]*):(.*)$")
  options.user = decode(user or text)
  if options.user == nil or options.user == "" then
    return failure("it names no user; write mysql://USER@HOST/DATABASE")
  end
  if password then
    options.password = decode(password)
    if not options.password then
      return failure("the password has a %% that is not followed by two hexadecimal digits "
        .. "(write %% as %%25)")
    end
  end
  return options
end

--- Parse a URL into the options of host.mysql's connect.
-- @param url string mysql://user[:password]@[host[:port]]/[database][?options]; mariadb:// is the
-- same. Options: socket, connect-timeout (s), ssl=require (encrypted) or verify (and the server's
-- certificate checked), ssl-ca, ssl-cert, ssl-key, ssl-verify; `_` may stand for `-` in their names
-- @return table, or nil, message, "SYNTAX"
function M.parse(url)
  if type(url) ~= "string" then return failure("expected text, got a %s", type(url)) end
  local scheme, rest = url:match("^(%a+)://(.*)$")
  if not scheme or (scheme:lower() ~= "mysql" and scheme:lower() ~= "mariadb") then
    return failure("it does not look like mysql://USER:PASSWORD@HOST:3306/DATABASE")
  end
  local authority, path, query = rest:match("^([^/?#]*)([^?#]*)%??(.*)$")
  local user, address = authority:match("^(.*)@(.*)$")
  if not user or rest:find("#", 1, true) then
    if rest:find("[@#]") then
      return failure("in a user name or password, : / ? # @ and %% are written as %%3A %%2F %%3F "
        .. "%%23 %%40 and %%25")
    end
    return failure("it names no user; write mysql://USER@HOST/DATABASE")
  end
  local options, message, code = parse_user({}, user)
  if options then options, message, code = parse_address(options, address) end
  if options then
    local database = decode((path:gsub("^/", "")))
    if not database or database:find("/", 1, true) then
      return failure("the database is one name after the host: mysql://USER@HOST/DATABASE")
    end
    if database ~= "" then options.database = database end
    options, message, code = parse_query(options, query)
  end
  if not options then return nil, message, code end
  if not options.host and not options.socket then
    return failure("it names no host; write mysql://USER@HOST/DATABASE, or ?socket=PATH")
  end
  return options
end

--- The URL with its password hidden, for display. Of a text that is no such URL only the beginning
-- is shown, for any part of it may be the password.
-- @param url string
-- @return string
function M.mask(url)
  url = tostring(url)
  local scheme, user, rest = url:match("^(%a+://)([^/?#@]*)@([^@]*)$")
  if not scheme then
    scheme = url:match("^%a+://")
    if scheme and not url:find("[@#]") and M.parse(scheme .. "u@" .. url:sub(#scheme + 1)) then
      return url -- only the user is missing
    end
    return (scheme or "") .. "***"
  end
  -- An option that is none, such as password=, may hold anything.
  rest = rest:gsub("([?&])([^=&]*)=([^&]*)", function(mark, key, value)
    return mark .. key .. "=" .. (OPTIONS[(key:gsub("_", "-"))] and value or "***")
  end)
  local name = user:match("^([^:]*):")
  return scheme .. (name and name .. ":***" or user) .. "@" .. rest
end

return M
