--- Lua values as readable text: `{ 1, 2, a = { b = true } }`, on one line when
-- it fits, else indented. Cycles, depth and size are capped, and what was left
-- out is counted. For people; data for programs goes through mill.json.

local json = require "mill.json"
local output = require "mill.output"

local M = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or
  repeat return then true until while]]):gmatch("%a+") do
  KEYWORDS[word] = true
end

local RANK = { number = 1, string = 2, boolean = 3 }
local ESCAPES = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }

--- Whether `key` can be written as a field, without brackets and quotes.
function M.is_name(key)
  return type(key) == "string" and key:find("^[%a_][%w_]*$") ~= nil and not KEYWORDS[key]
end

local function quote(text, limit)
  local rest = #text - limit
  if rest > 0 then
    text = text:sub(1, (utf8.offset(text, 0, limit + 1) or limit + 1) - 1)
  end
  local plain = text:gsub('[\n\t\r"\\]', ESCAPES)
  plain = '"' .. output.clean(plain) .. '"'
  if rest > 0 then
    plain = ("%s... %s more bytes"):format(plain, output.count(rest))
  end
  return plain
end

local function before(a, b)
  local ta, tb = type(a), type(b)
  if ta ~= tb then
    return (RANK[ta] or 9) < (RANK[tb] or 9)
  elseif ta == "number" or ta == "string" then
    return a < b
  end
  return tostring(a) < tostring(b)
end

local function has_tostring(value)
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__tostring") ~= nil
end

local function scalar(value, o)
  if type(value) == "string" then
    return quote(value, o.string)
  elseif value == json.null then
    return "null"
  end
  local ok, text = pcall(tostring, value)
  return output.clean(ok and text or type(value) .. ": " .. tostring(text))
end

local render

local function key_text(key, o)
  if M.is_name(key) then
    return key
  end
  return "[" .. (type(key) == "table" and "table" or scalar(key, o)) .. "]"
end

-- The rendered items of a table and how many were left out.
local function items_of(value, o, depth, path)
  local items, keys = {}, {}
  local border = rawlen(value)
  for i = 1, math.min(border, o.items) do
    items[i] = render(rawget(value, i), o, depth + 1, path)
  end
  for key in next, value do
    if not (math.type(key) == "integer" and key >= 1 and key <= border) then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, before)
  for _, key in ipairs(keys) do
    if #items >= o.items then
      break
    end
    items[#items + 1] = key_text(key, o) .. " = " .. render(rawget(value, key), o, depth + 1, path)
  end
  return items, border + #keys - #items
end

local function join(items, hidden, o, depth)
  if hidden > 0 then
    items[#items + 1] = ("... %s more"):format(output.count(hidden))
  end
  local width, broken = 2 * depth + 4, false
  for _, item in ipairs(items) do
    width = width + output.columns(item:match("^[^\n]*")) + 2
    broken = broken or item:find("\n", 1, true) ~= nil
  end
  if not broken and width <= o.width then
    return "{ " .. table.concat(items, ", ") .. " }"
  end
  local indent = ("  "):rep(depth + 1)
  return "{\n" .. indent .. table.concat(items, ",\n" .. indent) .. "\n" .. ("  "):rep(depth) .. "}"
end

function render(value, o, depth, path)
  if type(value) ~= "table" or has_tostring(value) then
    return scalar(value, o)
  elseif path[value] then
    return "<cycle>"
  elseif next(value) == nil then
    return "{}"
  elseif depth >= o.depth then
    return "{...}"
  end
  path[value] = true
  local items, hidden = items_of(value, o, depth, path)
  path[value] = nil
  return join(items, hidden, o, depth)
end

--- `value` as text. Options: width (of the terminal, 80), depth (4), items (of
-- a table, 50), string (bytes of a string, 1000).
function M.inspect(value, options)
  local o = options or {}
  return render(value, {
    width = o.width or 80, depth = o.depth or 4, items = o.items or 50, string = o.string or 1000,
  }, 0, {})
end

return M
