--- Differential fuzz: host.json's scanner and decoder against lua-cjson.
--
--   tidemill exec fuzz/differential.lua DOCUMENTS [SEED [SECONDS]]
--
-- Random documents, half of them mutated. A text that both take must mean the same to both; where
-- only one takes it, the reason must be one of the known ones below. A finding is saved in
-- var/fuzz and ends the run with exit code 1. The last line tells what was tried.
local batch = require "host.batch"
local cjson = require "cjson.safe"
local clock = require "host.clock"
local json = require "host.json"
local process = require "host.process"

local DOCUMENTS = tonumber(arg[1]) or 100000
local SEED = math.tointeger(tonumber(arg[2]) or os.time())
local DEADLINE_MS = clock.mono_ms() + (tonumber(arg[3]) or 1 << 31) * 1000
local BATCH = 50

cjson = cjson.new()
cjson.decode_invalid_numbers(false)
cjson.decode_max_depth(json.max_depth)
math.randomseed(SEED)
local random = math.random

local function choose(list) return list[random(#list)] end

-- Generator ------------------------------------------------------------------

local PIECES = {
  "a", "Z", "0", " ", "/", "BTCUSDT", "symbol", "é", "€", "😀", "\127", '\\"', "\\\\", "\\/", "\\b",
  "\\f", "\\n", "\\r", "\\t", "\\u0000", "\\u0041", "\\u00E9", "\\u20ac", "\\ud83d\\ude00",
}
local RARE = { "\\ud83d", "\\ude00", "\\ude00\\ud83d", "\\ud83d\\u0041" }

local function text()
  local out = {}
  for i = 1, random(0, 12) do
    out[i] = random(400) == 1 and choose(RARE) or choose(PIECES)
  end
  return '"' .. table.concat(out) .. '"'
end

local function digits(n)
  local out = {}
  for i = 1, n do out[i] = random(0, 9) end
  return table.concat(out)
end

local function number()
  local out = random(4) == 1 and "-" or ""
  out = out .. (random(3) == 1 and "0" or random(9) .. digits(random(0, random(2) == 1 and 4 or 20)))
  if random(2) == 1 then out = out .. "." .. digits(random(1, 12)) end
  if random(4) == 1 then
    out = out .. choose { "e", "E" } .. choose { "", "+", "-" } .. digits(random(1, 2))
  end
  return out
end

local function space() return random(6) == 1 and choose { " ", "\n", "\r\n", "\t", "  " } or "" end

local value

local KEYS = { '"symbol"', '"price"', '"data"', '"qty"', '"id"', '"i\\u0064"', '"x"', '""' }

local function object(depth)
  local out = {}
  for i = 1, random(0, 5) do
    out[i] = space() .. (random(4) == 1 and text() or choose(KEYS)) .. space() .. ":" ..
      value(depth + 1)
  end
  return "{" .. (#out == 0 and space() or table.concat(out, ",")) .. "}"
end

local function array(depth)
  local out = {}
  for i = 1, random(0, 4) do out[i] = value(depth + 1) end
  return "[" .. (#out == 0 and space() or table.concat(out, ",")) .. "]"
end

function value(depth)
  local kind = random(depth > 4 and 6 or 10)
  local out = kind <= 2 and text() or kind <= 4 and number()
    or kind <= 6 and choose { "true", "false", "null", '"1.5"', '"7"' }
    or kind <= 8 and object(depth) or array(depth)
  return space() .. out .. space()
end

-- Messages as they come, so that rows are often good.
local function message()
  local fields = {
    '"symbol":' .. space() .. text(), '"price":' .. number(), '"id":' .. random(0, 1 << 40),
    '"data":{"qty":' .. number() .. space() .. "}",
  }
  for i = #fields, 2, -1 do
    local k = random(i)
    fields[i], fields[k] = fields[k], fields[i]
  end
  if random(3) == 1 then table.insert(fields, random(#fields), choose(KEYS) .. ":" .. value(2)) end
  return "{" .. table.concat(fields, space() .. ",") .. "}"
end

local NOISE = {
  "{", "}", "[", "]", ":", ",", '"', "\\", "0", ".", "-", "+", "e", "t", "null", "\0", "\1", "\31",
  "\127", "\128", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\xE2\x82", "\\u12", "\v",
  "NaN", "Infinity", "0x1", "//", "'",
}

local MUTATIONS = {
  function(s, at) return s:sub(1, at) .. choose(NOISE) .. s:sub(at + 1) end,
  function(s, at) return s:sub(1, at) .. s:sub(at + 2) end,
  function(s, at) return s:sub(1, at) .. string.char(random(0, 255)) .. s:sub(at + 2) end,
  function(s, at) return s:sub(1, at) end,
  function(s, at)
    local to = random(at, #s)
    return s:sub(1, to) .. s:sub(at + 1, to) .. s:sub(to + 1)
  end,
}

local function document()
  if random(2000) == 1 then -- around the greatest depth
    local n = json.max_depth + random(-1, 1)
    local open, close = "[", "]"
    if random(2) == 1 then open, close = '{"a":', "}" end
    return open:rep(n) .. "1" .. close:rep(n)
  end
  local s = random(3) == 1 and value(0) or message()
  if random(2) == 1 then return s end
  for _ = 1, random(3) do s = choose(MUTATIONS)(s, random(0, #s)) end
  return s
end

-- Comparison -----------------------------------------------------------------

local decoder <close> = json.decoder { fields = {
  { name = "symbol", type = "string" },
  { name = "price", type = "decimal", precision = 38, scale = 15 },
  { name = "id", type = "integer" },
  { name = "data.qty", type = "decimal", precision = 38, scale = 15 },
} }
local both, ours, theirs, good = 0, 0, 0, 0

local function finding(doc, fmt, ...)
  local path = ("var/fuzz/differential-%d.json"):format(SEED)
  process.mkdir_p("var/fuzz")
  local file <close> = assert(io.open(path, "wb"))
  file:write(doc)
  io.stderr:write(("differential: seed %d: %s (saved in %s)\n"):format(SEED, fmt:format(...), path))
  os.exit(1, true)
end

-- lua-cjson takes bytes that are not UTF-8, bare control characters, numbers like "1." and "-.5", and
-- anything behind a NUL.
local function known_lenient(doc, why, place)
  return why:find("not valid UTF-8", 1, true) or why:find("an escaped control character", 1, true)
    or why:find("expected the end, got 0x00", 1, true)
    or (why:find("expected a digit", 1, true)
      and (doc:sub(place - 1, place - 1) == "." or doc:sub(place - 1, place) == "-."))
end

-- It refuses a byte order mark and the escape of a lone surrogate.
local function known_strict(doc, why)
  return doc:sub(1, 3) == "\xEF\xBB\xBF" or why:find("invalid unicode escape code", 1, true)
end

local function number_of(x)
  return type(x) == "number" and x or type(x) == "string" and tonumber(x) or nil
end

local function compare_row(doc, cells, theirs_value)
  local data = theirs_value.data
  if cells.symbol ~= theirs_value.symbol then finding(doc, "another symbol") end
  if tonumber(cells.price) ~= number_of(theirs_value.price) then finding(doc, "another price") end
  if tonumber(cells["data.qty"]) ~= number_of(data.qty) then finding(doc, "another quantity") end
  local id = number_of(theirs_value.id)
  if math.abs(id) < 1 << 53 and id ~= cells.id then finding(doc, "another id") end
  good = good + 1
end

local MISSING = {
  ["$.symbol"] = function(v) return v.symbol end,
  ["$.price"] = function(v) return v.price end,
  ["$.id"] = function(v) return v.id end,
  ["$.data.qty"] = function(v) return type(v.data) == "table" and v.data.qty or nil end,
}

local function compare(doc, b, i)
  local valid, why, place = json.valid(doc)
  local got, message_of_theirs = cjson.decode(doc)
  local record = b:record(i)
  if valid and got == nil then
    ours = ours + 1
    if not known_strict(doc, message_of_theirs) then
      finding(doc, "only tidemill takes it: %s", message_of_theirs)
    end
  elseif not valid and got ~= nil then
    theirs = theirs + 1
    if not known_lenient(doc, why, place) then finding(doc, "only cjson takes it: %s", why) end
  elseif valid then
    both = both + 1
    local cells = decoder:cells(b, i)
    if cells then
      compare_row(doc, cells, got)
    elseif record.code == "missing" and MISSING[record.path](got) ~= nil then
      finding(doc, "%s is not missing", record.path)
    end
  end
  if not valid and record.code ~= "json" and record.code ~= "utf8" and record.code ~= "empty" then
    finding(doc, "not JSON, but the row is %s", record.code or record.state)
  end
end

local done = 0
while done < DOCUMENTS and clock.mono_ms() < DEADLINE_MS do
  local docs = {}
  local b <close> = batch.new()
  for i = 1, math.min(BATCH, DOCUMENTS - done) do
    docs[i] = document()
    b:add { partition = 0, offset = i, value = docs[i] }
  end
  decoder:decode(b)
  for i, doc in ipairs(docs) do compare(doc, b, i) end
  done = done + #docs
end
print(("differential: seed %d, %d documents: %d taken by both, %d good rows, %d only by tidemill, "
  .. "%d only by cjson"):format(SEED, done, both, good, ours, theirs))
