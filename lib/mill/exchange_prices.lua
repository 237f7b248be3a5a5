--- Prices of the simulated exchange: a seeded random walk, or a recording played again.
--
-- Prices are whole numbers of 10^-8, as the exchange's text has 8 decimals. The walk is a function
-- of seed, symbol and the steps since the start, so a test can have the same prices twice.

local csv = require "mill.csv"
local fault = require "mill.fault"
local gzip = require "host.gzip"

local M = {}

M.STEP_MS = 100
local UNIT = 100000000

--- Known symbols: where their walk begins (in 10^-8) and the size of a tick.
local BASE = {
  BTCUSDT = { 61837 * UNIT, UNIT // 100 }, ETHUSDT = { 2683 * UNIT, UNIT // 100 },
  SOLUSDT = { 154 * UNIT, UNIT // 100 }, BNBUSDT = { 512 * UNIT, UNIT // 10 },
  ADAUSDT = { 34500000, 10000 }, XRPUSDT = { 58000000, 10000 }, DOGEUSDT = { 10300000, 1000 },
  DOTUSDT = { 460000000, 100000 }, LINKUSDT = { 1040000000, 100000 },
  LTCUSDT = { 61 * UNIT, UNIT // 100 }, TRXUSDT = { 12900000, 1000 },
  AVAXUSDT = { 21 * UNIT, UNIT // 100 }, BTCUSDC = { 61835 * UNIT, UNIT // 100 },
  ETHBTC = { 4340000, 1000 }, SHIBUSDT = { 1370, 1 },
}

-- The finaliser of splitmix64: one well-mixed number for each input.
local function mix(x)
  x = x + 0x9E3779B97F4A7C15
  x = (x ~ (x >> 30)) * 0xBF58476D1CE4E5B9
  x = (x ~ (x >> 27)) * 0x94D049BB133111EB
  return x ~ (x >> 31)
end

local function hash(text)
  local h = 0xCBF29CE484222325
  for i = 1, #text do h = (h ~ text:byte(i)) * 0x100000001B3 end
  return h
end

--- 6183763000000 -> "61837.63000000".
function M.text(units)
  return ("%d.%08d"):format(units // UNIT, units % UNIT)
end

local Walk = {}
Walk.__index = Walk

-- A step moves at most 0.05 % and is pulled a little to where the walk began.
local function step(self, symbol, state)
  state.step = state.step + 1
  local base, tick = BASE[symbol][1], BASE[symbol][2]
  local r = (mix(self.seed ~ hash(symbol) ~ state.step * 0x632BE59BD9B4E019) >> 44) - (1 << 19)
  local move = base // 2000 * r // (1 << 19) + (base - state.price) // 500
  local price = (state.price + move) // tick * tick
  state.price = math.max(price, tick)
end

--- The price at `ms` since the start, or nil for an unknown symbol.
function Walk:price(symbol, ms)
  if not BASE[symbol] then return nil end
  local state = self.states[symbol]
  if not state then
    state = { step = 0, price = BASE[symbol][1] }
    self.states[symbol] = state
  end
  -- After a long pause the middle of it is left out; it was not seen by anyone.
  local target = ms // M.STEP_MS
  if target - state.step > 100000 then state.step = target - 1000 end
  while state.step < target do step(self, symbol, state) end
  return M.text(state.price)
end

--- All symbols, sorted.
function Walk:symbols()
  return self.names
end

local Recording = {}
Recording.__index = Recording

-- The last row at or before `ms` of the recording, by halving.
local function last_at(times, ms)
  local low, high = 1, #times + 1
  while low < high do
    local middle = (low + high) // 2
    if times[middle] <= ms then low = middle + 1 else high = middle end
  end
  return math.max(low - 1, 1)
end

--- The price at `ms` since the start; the recording begins again when it has ended.
function Recording:price(symbol, ms)
  local rows = self.by_symbol[symbol]
  if not rows then return nil end
  local at = self.first_ms + math.floor(ms * self.speed) % (self.last_ms - self.first_ms + 1)
  return rows.prices[last_at(rows.times, at)]
end

Recording.symbols = Walk.symbols

local function sorted_names(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- "0.2312" -> "0.23120000"; nil for what is no positive price of at most 8 decimals.
local function eight(price)
  local whole, fraction = price:match("^(%d+)%.?(%d*)$")
  if not whole or #fraction > 8 or not price:find("[1-9]") then return nil end
  return whole .. "." .. fraction .. ("0"):rep(8 - #fraction)
end

local function sort_rows(rows)
  local order = {}
  for i = 1, #rows.times do order[i] = i end
  table.sort(order, function(a, b)
    if rows.times[a] ~= rows.times[b] then return rows.times[a] < rows.times[b] end
    return a < b
  end)
  local times, prices = {}, {}
  for i, at in ipairs(order) do times[i], prices[i] = rows.times[at], rows.prices[at] end
  rows.times, rows.prices = times, prices
end

--- A seeded random walk.
function M.walk(seed)
  return setmetatable({ seed = seed, states = {}, names = sorted_names(BASE) }, Walk)
end

--- A recorded CSV (ts_ms, symbol, price) played again, `speed` times as fast as it was.
function M.recording(path, speed)
  local reader <close> = fault.check(fault.USAGE, "exchange", gzip.open(path))
  local wanted = { "ts_ms", "symbol", "price" }
  local index, count = csv.header(reader:line() or "", wanted)
  if not index then fault.raise(fault.USAGE, "%s:1: %s", path, count) end
  local pick = csv.picker(index, count, wanted)
  local self = setmetatable({ by_symbol = {}, speed = speed }, Recording)
  while true do
    local line, message = reader:line()
    if message then fault.raise(fault.USAGE, "%s", message) end
    if not line then break end
    local ms, symbol, price = pick(line)
    local time, text = math.tointeger(tonumber(ms)), price and eight(price)
    if not time or not text then
      fault.raise(fault.USAGE, "%s:%d: not a time in milliseconds and a price of 8 decimals", path,
        reader:number())
    end
    local rows = self.by_symbol[symbol] or { times = {}, prices = {} }
    self.by_symbol[symbol] = rows
    rows.times[#rows.times + 1], rows.prices[#rows.prices + 1] = time, text
    self.first_ms = math.min(self.first_ms or time, time)
    self.last_ms = math.max(self.last_ms or time, time)
  end
  if not self.first_ms then fault.raise(fault.USAGE, "%s: there are no rows", path) end
  for _, rows in pairs(self.by_symbol) do sort_rows(rows) end
  self.names = sorted_names(self.by_symbol)
  return self
end

return M
