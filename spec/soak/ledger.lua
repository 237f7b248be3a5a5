--- What a table of averages must hold: exact sums of whole numbers, kept window by window.
--
-- Prices are written with 8 decimals and counted as integers in units of 10^-8. A window that has
-- ended is written to a file and forgotten, so a ledger stays as small as the present.

local M = {}

local Ledger = {}
Ledger.__index = Ledger

--- @param path file to write ended windows to: start in ms, symbol, samples, sum
-- @param size_ms length of a window
function M.new(path, size_ms)
  return setmetatable({
    file = assert(io.open(path, "w")), size_ms = size_ms, windows = {}, count = 0,
  }, Ledger)
end

--- Count one price, in units of 10^-8.
function Ledger:add(symbol, ms, price)
  local start = ms - ms % self.size_ms
  local window = self.windows[start]
  if not window then
    window = {}
    self.windows[start] = window
  end
  local row = window[symbol]
  if row then
    row[1], row[2] = row[1] + 1, row[2] + price
  else
    window[symbol] = { 1, price }
  end
  self.count = self.count + 1
end

--- Write and forget the windows that ended before `ms`.
function Ledger:settle(ms)
  for start, window in pairs(self.windows) do
    if start + self.size_ms <= ms then
      for symbol, row in pairs(window) do
        self.file:write(("%d\t%s\t%d\t%d\n"):format(start, symbol, row[1], row[2]))
      end
      self.windows[start] = nil
    end
  end
end

function Ledger:close()
  self:settle(math.maxinteger)
  self.file:close()
end

local function decimal(units)
  return ("%d.%08d"):format(units // 100000000, units % 100000000)
end

--- Compare a table with a ledger's file, row by row.
-- @param rows array of { start_ms, symbol, samples, price_sum, average_price, is_final }
-- @return rows that were right, array of what is wrong (20 lines at most), messages counted
function M.compare(path, rows)
  local want, right, wrong, messages = {}, 0, {}, 0
  local function say(fmt, ...)
    if #wrong < 20 then wrong[#wrong + 1] = fmt:format(...) end
  end
  for line in io.lines(path) do
    local start, symbol, samples, sum = line:match("^(%d+)\t([^\t]+)\t(%d+)\t(%d+)$")
    samples, sum = math.tointeger(samples), math.tointeger(sum)
    want[start .. " " .. symbol] = {
      tostring(samples), decimal(sum), decimal((2 * sum + samples) // (2 * samples)), "1",
    }
    messages = messages + samples
  end
  for _, row in ipairs(rows) do
    local key = ("%d %s"):format(row[1], row[2])
    local expected = want[key]
    local got = { tostring(row[3]), row[4], row[5], tostring(row[6]) }
    want[key] = nil
    if not expected then
      say("%s is no window of ours", key)
    elseif table.concat(got, " ") ~= table.concat(expected, " ") then
      say("%s: %s instead of %s (samples, sum, average, final)", key, table.concat(got, " "),
        table.concat(expected, " "))
    else
      right = right + 1
    end
  end
  for key in pairs(want) do say("%s is missing", key) end
  return right, wrong, messages
end

return M
