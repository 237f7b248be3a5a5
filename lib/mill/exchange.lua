--- A simulated exchange: the shapes, headers, limits and faults of the real market data API.
--
-- It serves /api/v3/ping, time, ticker/price, avgPrice and exchangeInfo on loopback, with made-up
-- or recorded prices, and is told what to do wrong by requests to /_sim/fault. Every answer carries
-- X-Tidemill-Simulated: 1. It is a tool for development and tests and no source of prices.

local clock = require "host.clock"
local duration = require "mill.duration"
local fault = require "mill.fault"
local faults = require "mill.exchange_faults"
local gzip = require "host.gzip"
local http = require "host.http"
local json = require "mill.json"
local log = require "mill.log"
local prices = require "mill.exchange_prices"
local process = require "host.process"

local M = {}

local PACK_FROM = 200 -- bytes; smaller answers are not packed
local BAN_S = 120
local BAN_MAX_S = 3 * 86400
local BAN_AFTER = 10 -- requests after the first 429 of a minute

local SYMBOL = "^[A-Z0-9%-_%.]+$"
local SYMBOL_RANGE = "^[A-Z0-9-_.]{1,20}$"
local LIST_RANGE = [[^\[("[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}){0,1}\]$]]
local STATUSES = { TRADING = true, HALT = true, BREAK = true }

local Exchange = {}
Exchange.__index = Exchange

local function answer(value)
  return { status = 200, body = json.encode(value) }
end

local function refuse(code, fmt, ...)
  return { status = 400, body = json.encode { code = code, msg = fmt:format(...) } }
end

-- ---- parameters -------------------------------------------------------------------------------

-- An error answer when a parameter is unknown, empty or stands twice.
local function check_params(request, known)
  local seen, read = {}, 0
  for _, p in ipairs(request.params) do
    if seen[p.name] then
      return refuse(-1101, "Duplicate values for parameter '%s'.", p.name)
    end
    seen[p.name] = true
    if known[p.name] then read = read + 1 end
    if known[p.name] and p.value == "" then
      return refuse(-1105, "Parameter '%s' was empty.", p.name)
    end
  end
  if next(known) == nil and #request.params > 0 then
    return refuse(-1101, "Too many parameters; expected '0' and received '%d'.", #request.params)
  end
  if read < #request.params then
    return refuse(-1104, "Not all sent parameters were read; read '%d' parameter(s) but was sent "
      .. "'%d'.", read, #request.params)
  end
end

local function illegal(name, range)
  return refuse(-1100, "Illegal characters found in parameter '%s'; legal range is '%s'.", name,
    range)
end

-- The symbols of ["A","B"], exactly as the exchange takes it: no spaces. Or nil, an error answer.
local function parse_list(text)
  local inner = text:match("^%[(.*)%]$")
  if not inner then return nil, illegal("symbols", LIST_RANGE) end
  local list, seen, at = {}, {}, 1
  while at <= #inner do
    local symbol, stop = inner:match('^"([^"]*)"()', at)
    if not symbol or not symbol:find(SYMBOL) or #symbol > 20 then
      return nil, illegal("symbols", LIST_RANGE)
    end
    if seen[symbol] then
      return nil, refuse(-1151, "Symbol is present multiple times in the list.")
    end
    seen[symbol] = true
    list[#list + 1] = symbol
    if stop <= #inner and (inner:sub(stop, stop) ~= "," or stop == #inner) then
      return nil, illegal("symbols", LIST_RANGE)
    end
    at = stop + 1
  end
  return list
end

-- What a request asks for: an array of symbols and whether it is one alone; or nil, error answer.
local function asked(self, query)
  if query.symbol and query.symbols then
    return nil, refuse(-1128, "Combination of optional parameters invalid.")
  end
  local list = self.prices:symbols()
  if query.symbol then
    if not query.symbol:find(SYMBOL) or #query.symbol > 20 then
      return nil, illegal("symbol", SYMBOL_RANGE)
    end
    list = { query.symbol }
  elseif query.symbols then
    local given, refusal = parse_list(query.symbols)
    if not given then return nil, refusal end
    list = given
  end
  for _, symbol in ipairs(list) do
    if not self.prices:price(symbol, 0) then return nil, refuse(-1121, "Invalid symbol.") end
  end
  return list, query.symbol ~= nil
end

-- ---- the API ----------------------------------------------------------------------------------

local function ticker_price(self, query)
  local status = query.symbolStatus
  if status and not STATUSES[status] then return refuse(-1122, "Invalid symbolStatus.") end
  local list, alone = asked(self, query)
  if not list then return alone end
  if status and status ~= "TRADING" then -- every symbol here is trading
    if alone then
      return refuse(-1220, "The symbol's status does not match the requested symbolStatus.")
    end
    return { status = 200, body = "[]" }
  end
  local rows, ms = {}, clock.mono_ms() - self.began_ms
  for i, symbol in ipairs(list) do
    local price = self.prices:price(symbol, ms)
    rows[i] = ('{"symbol":"%s","price":"%s"}'):format(symbol, price)
    if self.served then self.served[symbol .. " " .. price] = true end
  end
  local body = table.concat(rows, ",")
  return { status = 200, body = alone and body or "[" .. body .. "]" }
end

local function server_time(self)
  return answer { serverTime = self:now_ms() }
end

local function average_price(self, query)
  if not query.symbol then
    return refuse(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
  end
  local list, refusal = asked(self, query)
  if not list then return refusal end
  return answer {
    mins = 5, price = self.prices:price(list[1], clock.mono_ms() - self.began_ms),
    closeTime = self:now_ms(),
  }
end

local function exchange_info(self, query)
  local list, refusal = asked(self, query)
  if not list then return refusal end
  local symbols = json.array {}
  for i, symbol in ipairs(list) do
    symbols[i] = {
      symbol = symbol, status = "TRADING", baseAssetPrecision = 8, quotePrecision = 8,
      isSpotTradingAllowed = true, permissions = json.array { "SPOT" },
    }
  end
  return answer {
    timezone = "UTC", serverTime = self:now_ms(), exchangeFilters = json.array {},
    rateLimits = {
      { rateLimitType = "REQUEST_WEIGHT", interval = "MINUTE", intervalNum = 1,
        limit = self.limit },
      { rateLimitType = "RAW_REQUESTS", interval = "MINUTE", intervalNum = 5, limit = 61000 },
    },
    symbols = symbols,
  }
end

local NONE = {}
local SYMBOLS = { symbol = true, symbols = true, symbolStatus = true }

--- Path -> parameters, weight (of one symbol, otherwise), function.
local ROUTES = {
  ["/api/v3/ping"] = { NONE, 1, 1, function() return { status = 200, body = "{}" } end },
  ["/api/v3/time"] = { NONE, 1, 1, server_time },
  ["/api/v3/ticker/price"] = { SYMBOLS, 2, 4, ticker_price },
  ["/api/v3/avgPrice"] = { { symbol = true }, 2, 2, average_price },
  ["/api/v3/exchangeInfo"] = { { symbol = true, symbols = true }, 20, 20, exchange_info },
}

-- ---- weights and bans -------------------------------------------------------------------------

local function over_limit(self, now)
  self.refused = self.refused + 1
  if self.refused > BAN_AFTER then
    self.ban_s = math.min(self.ban_s and self.ban_s * 2 or BAN_S, BAN_MAX_S)
    self.banned_ms = now + self.ban_s * 1000
    log.warn("a client went on after 429 and is banned for %d s", self.ban_s)
    return nil
  end
  local wait = 60 - now // 1000 % 60
  return {
    status = 429, headers = { ["Retry-After"] = tostring(wait) },
    body = json.encode { code = -1003, msg = ("Too much request weight used; current limit is %d "
      .. "request weight per 1 MINUTE."):format(self.limit) },
  }
end

-- Count the weight; an answer when the client is over its limit or banned.
local function weigh(self, weight)
  local now = self:now_ms()
  if now // 60000 ~= self.minute then
    self.minute, self.used, self.refused = now // 60000, 0, 0
  end
  self.used = self.used + weight
  local refusal
  if self.used > self.limit and now >= self.banned_ms then refusal = over_limit(self, now) end
  if now < self.banned_ms then
    refusal = {
      status = 418,
      headers = { ["Retry-After"] = tostring((self.banned_ms - now + 999) // 1000) },
      body = json.encode { code = -1003, msg = ("Way too much request weight used; IP banned until "
        .. "%d."):format(self.banned_ms) },
    }
  end
  return refusal
end

local function api(self, request)
  local route = ROUTES[request.path]
  if not route or request.method ~= "GET" then
    return { status = 404, headers = { ["Content-Type"] = "text/html" },
             body = "<html><body>404 Not Found (simulated)</body></html>\n" }
  end
  local refusal = weigh(self, request.query.symbol and route[2] or route[3])
  local given = refusal or check_params(request, route[1]) or route[4](self, request.query)
  given = self.faults:apply(given, request, self:now_ms())
  given.headers = given.headers or {}
  given.headers["X-MBX-USED-WEIGHT"] = tostring(self.used)
  given.headers["X-MBX-USED-WEIGHT-1M"] = tostring(self.used)
  return given
end

-- ---- control ----------------------------------------------------------------------------------

local function add_fault(self, query)
  local ms, message = duration.parse(query["for"] or "5s")
  local delay
  if ms and query.delay then delay, message = duration.parse(query.delay) end
  local seconds = query.retry_after and math.tointeger(tonumber(query.retry_after))
  if query.retry_after and not seconds then message = "retry_after is not a whole number" end
  local ok
  if not message then
    ok, message = self.faults:add {
      kind = query.kind, for_ms = ms, retry_after = seconds, delay_ms = delay, path = query.path,
    }
  end
  if not ok then return { status = 400, body = json.encode { error = message } } end
  return answer(self.faults:show())
end

local function control(self, request)
  local what = request.method .. " " .. request.path
  if what == "POST /_sim/fault" or what == "POST /_sim/faults" then
    return add_fault(self, request.query)
  elseif what == "GET /_sim/faults" then
    return answer(self.faults:show())
  elseif what == "DELETE /_sim/faults" or what == "DELETE /_sim/fault" then
    self.faults:clear()
    return answer(self.faults:show())
  elseif what == "GET /_sim/stats" then
    return answer { requests = self.requests, used_weight = self.used }
  end
  return { status = 404, body = json.encode { error = "POST /_sim/fault?kind=K&for=5s, "
    .. "GET /_sim/faults, DELETE /_sim/faults or GET /_sim/stats" } }
end

-- ---- serving ----------------------------------------------------------------------------------

local function pack(request, given)
  local accepts = request.headers["accept-encoding"] or ""
  if #given.body < PACK_FROM or given.truncate or not accepts:find("gzip", 1, true) then return end
  given.body = gzip.pack(given.body)
  given.headers["Content-Encoding"] = "gzip"
end

local function handle(self, request)
  local simulated = request.path:find("^/_sim/") ~= nil
  local given = simulated and control(self, request) or api(self, request)
  given.headers = given.headers or {}
  given.headers["Content-Type"] = given.headers["Content-Type"] or "application/json;charset=UTF-8"
  given.headers["X-Tidemill-Simulated"] = "1"
  if not simulated then self.requests = self.requests + 1 end
  pack(request, given)
  self.server:respond(request.id, given)
end

--- Milliseconds since 1970 on the exchange's clock.
function Exchange:now_ms()
  return clock.wall_ms() + self.skew_ms
end

--- Serve what has come; wait up to `timeout_ms` for a request.
function Exchange:step(timeout_ms)
  self.faults:turn()
  for _, request in ipairs(self.server:poll(timeout_ms)) do handle(self, request) end
end

--- "http://127.0.0.1:PORT"
function Exchange:url()
  return "http://" .. self.address .. ":" .. self.server:port()
end

function Exchange:close()
  self.server:close()
end

Exchange.__close = Exchange.close

--- Start an exchange.
-- @param options table: address ("127.0.0.1"), port (0: a free one), seed, file (a recording
--   instead of the walk), speed (of the recording), limit (weight a minute), skew_ms (its clock
--   against ours), fault (text for mill.exchange_faults plan), remember (keep what was served)
function M.new(options)
  local address = options.address or "127.0.0.1"
  local port = options.port or 0
  if math.type(port) ~= "integer" or port < 0 or port > 65535 then
    fault.raise(fault.USAGE, "--set port: %s is no port; write 1 to 65535, or 0 for a free one", port)
  end
  local market = (options.file or "") ~= "" and prices.recording(options.file, options.speed or 1)
    or prices.walk(options.seed or 1)
  local server, message = http.server {
    address = address, port = port, dynamic = true, metrics = false,
    timeout_s = 60, -- a slow answer is longer than an ordinary one
  }
  if not server then fault.raise(fault.SERVER, "exchange: %s", message) end
  local self = setmetatable({
    server = server, address = address, prices = market, faults = faults.new(),
    limit = options.limit or 6000, skew_ms = options.skew_ms or 0, began_ms = clock.mono_ms(),
    minute = 0, used = 0, refused = 0, banned_ms = 0, requests = 0,
    served = options.remember and {} or nil,
  }, Exchange)
  local ok, problem = self.faults:plan(options.fault or "")
  if not ok then
    server:close()
    fault.raise(fault.USAGE, "--set fault: %s", problem)
  end
  return self
end

--- Serve until a signal, or for `limit_ms`.
-- @param options as for new, and address_file: where to write "127.0.0.1:PORT"
-- @return summary table, exit status
function M.run(options)
  process.graceful(true)
  log.name("exchange")
  local self <close> = M.new(options)
  log.info("SIMULATED exchange on %s: its prices are %s", self:url(),
    (options.file or "") ~= "" and "those of " .. options.file
      or ("made up (seed %d)"):format(options.seed))
  if (options.address_file or "") ~= "" then
    local ok, message = process.atomic_write(options.address_file,
      ("%s:%d\n"):format(self.address, self.server:port()), { sync = false })
    if not ok then fault.raise(fault.USAGE, "exchange: %s", message) end
  end
  local deadline = options.limit_ms and clock.mono_ms() + options.limit_ms
  while process.stop_requested() == 0 and not (deadline and clock.mono_ms() >= deadline) do
    self:step(100)
  end
  return { requests = self.requests, simulated = true }, 0
end

return M
