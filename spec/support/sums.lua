--- What windows must hold, from the rows that were sent: an oracle of its own, in whole numbers.
--
--   local sums = require "spec.support.sums".new(60000)
--   sums:add("A", 1500, ms)          -- a price of 1.500
--   real.same(sums:rows(), place:query(sums.SQL:format(table)), 2, "results")

local M = {}

local Sums = {}
Sums.__index = Sums

--- The rows of a table in the form of rows().
Sums.SQL = "select symbol, timestampdiff(microsecond, '1970-01-01', start_time) div 1000, "
  .. "average_price, price_sum, samples, revision from %s"

--- Windows of `size_ms`.
function M.new(size_ms)
  return setmetatable({ size_ms = size_ms, windows = {} }, Sums)
end

--- A row: its symbol, its price in units of 0.001, its time.
function Sums:add(symbol, price, ms)
  local start = ms - ms % self.size_ms
  local at = symbol .. " " .. start
  local window = self.windows[at]
  if not window then
    window = { symbol, start, 0, 0 }
    self.windows[at] = window
  end
  window[3], window[4] = window[3] + price, window[4] + 1
end

-- A whole number of units of 10^-8 as a DECIMAL's text.
local function text(n) return ("%d.%08d"):format(n // 100000000, n % 100000000) end

--- Symbol, start, average, sum, samples, revision 0.
function Sums:rows()
  local out = {}
  for _, window in pairs(self.windows) do
    local scaled, n = window[3] * 100000, window[4]
    local average = scaled // n + (scaled % n * 2 >= n and 1 or 0)
    out[#out + 1] = { window[1], window[2], text(average), text(scaled), n, 0 }
  end
  return out
end

--- The message of a row.
function M.message(symbol, price, ms)
  return ('{"symbol":"%s","price":"%d.%03d","timestamp":%d}'):format(symbol, price // 1000,
    price % 1000, ms)
end

return M
