--- General JSON on the control path (the data path decodes in C).
--
-- Decoding is lua-cjson's, made strict about what it returns; encoding is done here, because cjson
-- prints numbers with 14 digits and would cut an offset or a time in milliseconds.

local cjson = require("cjson.safe").new()
cjson.decode_max_depth(200)
cjson.decode_invalid_numbers(false)

local M = {}

--- JSON null, as decode returns it and encode writes it.
M.null = cjson.null

local ESCAPES = {
  ['"'] = '\\"', ["\\"] = "\\\\", ["\b"] = "\\b", ["\f"] = "\\f", ["\n"] = "\\n",
  ["\r"] = "\\r", ["\t"] = "\\t",
}

local function quote(text)
  return '"' .. text:gsub('[%c"\\\127]', function(c)
    return ESCAPES[c] or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

local function number(value)
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if value ~= value or value == math.huge or value == -math.huge then
    error("json: cannot encode " .. tostring(value), 0)
  end
  local text = ("%.15g"):format(value)
  if tonumber(text) ~= value then text = ("%.17g"):format(value) end
  return text
end

local function sorted_keys(value)
  local keys = {}
  for key in next, value do
    if type(key) ~= "string" then
      error("json: object keys must be strings, got a " .. type(key), 0)
    end
    keys[#keys + 1] = key
  end
  table.sort(keys)
  return keys
end

local encode

local function encode_table(value, indent, depth)
  if depth > 100 then error("json: nested too deeply (a cycle?)", 0) end
  local open, sep, close = "", ",", ""
  if indent then
    open = "\n" .. indent:rep(depth + 1)
    sep = "," .. open
    close = "\n" .. indent:rep(depth)
  end
  local items = {}
  local n = rawlen(value) -- what is in it, whatever a metatable says
  if n > 0 or getmetatable(value) == M.array_mt then
    for i = 1, n do items[i] = encode(value[i], indent, depth + 1) end
    if #items == 0 then return "[]" end
    return "[" .. open .. table.concat(items, sep) .. close .. "]"
  end
  for i, key in ipairs(sorted_keys(value)) do
    items[i] = quote(key) .. (indent and ": " or ":") .. encode(value[key], indent, depth + 1)
  end
  if #items == 0 then return "{}" end
  return "{" .. open .. table.concat(items, sep) .. close .. "}"
end

function encode(value, indent, depth)
  local kind = type(value)
  if value == nil or value == M.null then return "null" end
  if kind == "string" then return quote(value) end
  if kind == "number" then return number(value) end
  if kind == "boolean" then return tostring(value) end
  if kind == "table" then return encode_table(value, indent, depth) end
  if kind == "userdata" then return "null" end -- SQL NULL is the only userdata in results
  error("json: cannot encode a " .. kind, 0)
end

M.array_mt = {}

--- Mark a table as an array, so that an empty one is written as [].
function M.array(value)
  return setmetatable(value or {}, M.array_mt)
end

--- Encode on one line; keys are sorted, integers exact.
function M.encode(value)
  return encode(value, nil, 0)
end

--- Encode with two spaces of indent.
function M.encode_pretty(value)
  return encode(value, "  ", 0)
end

local function normalise(value)
  local kind = type(value)
  if kind == "number" then return math.tointeger(value) or value end
  if kind == "table" then
    for key, item in pairs(value) do value[key] = normalise(item) end
  end
  return value
end

--- Decode JSON text; whole numbers up to 2^53 come back as integers.
-- @return value, or nil, message, "SYNTAX"
function M.decode(text)
  local value, message = cjson.decode(text)
  if value == nil then return nil, "json: SYNTAX: " .. tostring(message), "SYNTAX" end
  return normalise(value)
end

return M
