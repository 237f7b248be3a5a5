--- Asking an exchange for prices, and judging its answer: nothing doubtful passes.

local http = require "host.http"
local fault = require "mill.fault"
local json = require "mill.json"

local M = {}

local PATH = "/api/v3/ticker/price"

--- Request weight of the call.
M.WEIGHT_ONE = 2
M.WEIGHT_LIST = 4

--- Read the setting: comma separated symbols.
function M.symbols(text)
  local list, seen = {}, {}
  for symbol in text:gmatch("[^,]+") do
    symbol = symbol:match("^%s*(.-)%s*$")
    if symbol == "" or #symbol > 64 or symbol:find('[%c%s"\\]') then
      fault.raise(fault.USAGE, "'%s' is not a symbol", symbol)
    end
    if seen[symbol] then fault.raise(fault.USAGE, "symbol %s stands twice", symbol) end
    seen[symbol] = true
    list[#list + 1] = symbol
  end
  if #list == 0 then fault.raise(fault.USAGE, "the list of symbols is empty") end
  return list
end

--- The path that asks for all of them at once.
function M.path_list(symbols)
  return PATH .. "?symbols=" .. http.escape('["' .. table.concat(symbols, '","') .. '"]')
end

--- The path that asks for one.
function M.path_one(symbol)
  return PATH .. "?symbol=" .. http.escape(symbol)
end

--- Is the text an exact positive price that DECIMAL(20,8) holds? No sign, no exponent.
function M.is_price(text)
  if type(text) ~= "string" then return false end
  local whole, fraction = text:match("^(%d+)%.(%d+)$")
  whole = whole or text:match("^%d+$")
  if not whole or #whole > 12 or (#whole > 1 and whole:byte() == 48) then return false end
  if fraction and fraction:sub(9):find("[^0]") then return false end
  return text:find("[1-9]") ~= nil
end

local function problem(class, text, symbol)
  return { class = class, text = text, symbol = symbol }
end

-- The rows of an answer, or nil and what is wrong with it as a whole.
local function rows_of(response, alone)
  local body = response.body
  local content_type = (response.headers["content-type"] or ""):lower()
  if body == "" then return nil, problem("answer", "an empty answer") end
  if content_type:find("html", 1, true) or body:find("^%s*<") then
    return nil, problem("answer", "a page instead of prices")
  end
  if body:sub(1, 3) == "\xEF\xBB\xBF" then body = body:sub(4) end
  local value, message = json.decode(body)
  if type(value) ~= "table" then
    return nil, problem("answer", "no JSON: " .. tostring(message or body:sub(1, 40)))
  end
  if math.type(value.code) then
    return nil, problem("answer", ("error %s: %s"):format(value.code, tostring(value.msg)))
  end
  if alone then return { value } end
  for key in pairs(value) do
    if math.type(key) ~= "integer" then
      return nil, problem("answer", "an object instead of a list")
    end
  end
  return value
end

local function shown(value)
  if type(value) == "string" then return ("'%s'"):format(value:sub(1, 40)) end
  if value == nil then return "nothing" end
  if value == json.null then return "null" end
  return type(value) == "table" and "a structure" or tostring(value)
end

--- Judge a complete 2xx answer.
-- @param asked array of the symbols that were asked for
-- @param alone boolean: one symbol was asked for by `symbol=`, the answer is an object
-- @return array of { symbol, price text } in the order of `asked`; array of problems
--   { class = "answer" | "type" | "missing" | "extra" | "double", text =, symbol = }
function M.judge(response, asked, alone)
  local rows, whole = rows_of(response, alone)
  if not rows then return {}, { whole } end
  local wanted, found, good, problems = {}, {}, {}, {}
  for _, symbol in ipairs(asked) do wanted[symbol] = true end
  for _, row in ipairs(rows) do
    local symbol = type(row) == "table" and row.symbol or nil
    if wanted[symbol or false] then
      if found[symbol] then found[symbol].double = true end
      found[symbol] = found[symbol] or row
    elseif symbol ~= nil or not alone then -- one alone without a symbol is told as missing
      problems[#problems + 1] = problem("extra", "a row that was not asked for: " .. shown(symbol))
    end
  end
  for _, symbol in ipairs(asked) do
    local row = found[symbol]
    if not row then
      problems[#problems + 1] = problem("missing", symbol .. " is left out", symbol)
    elseif row.double then
      problems[#problems + 1] = problem("double", symbol .. " stands twice", symbol)
    elseif not M.is_price(row.price) then
      problems[#problems + 1] = problem("type", ("the price of %s is %s"):format(symbol,
        shown(row.price)), symbol)
    else
      good[#good + 1] = { symbol, row.price }
    end
  end
  return good, problems
end

--- Code and text of the exchange's error body, or nil: {"code":-1121,"msg":"Invalid symbol."}.
function M.error_code(response)
  local value = response.body and json.decode(response.body)
  if type(value) ~= "table" or math.type(value.code) ~= "integer" then return nil end
  return value.code, type(value.msg) == "string" and value.msg or tostring(value.code)
end

return M
