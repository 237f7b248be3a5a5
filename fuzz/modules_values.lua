--- Random values for fuzz/modules.lua: of every type, at the edges, and hostile.
--
-- No text begins with "/" or holds "..": a worker's files stay in its scratch folder. Names of hosts
-- are never made up here; see HOSTS.
local M = {}

local random = math.random

local function choose(list) return list[random(#list)] end
M.choose = choose

M.INTEGERS = {
  0, 1, -1, 2, 3, 7, 10, 38, 39, 64, 100, 127, 128, 255, 256, 1000, 65535, 65536, 1 << 31,
  (1 << 31) - 1, -(1 << 31), (1 << 32) - 1, 1 << 32, 1 << 53, 1 << 62, math.maxinteger,
  math.mininteger, math.maxinteger - 1, 1723161255342, -62135596800000, 253402300799999,
}
local FLOATS = {
  0.0, -0.0, 0.5, -1.5, 1e15, 2 ^ 53, 2 ^ 63, -2 ^ 63, 1e308, -1e308, 5e-324, math.huge,
  -math.huge, 0 / 0, 1723161255.342,
}
local WORDS = {
  "", " ", "a", "x", "0", "1", "-1", "1.5", "61837.63000000", "1e5", "1e999", "NaN", "null", "\0",
  "a\0b", "%s%n%d", "é", "😀", "\xFF\xFE", "\xC0\x80", "\xED\xA0\x80", "\r\n", "a: b", "'", '"', "`",
  "\\", "{}", "[]", '{"a":1}', "[1,2", "symbol", "price", "BTCUSDT", "1m", "90s", "1h30m", "100ms",
  "sum(price)", "sum(price * qty)", "avg(price)", "first(price)", "2024-08-09T12:00:00Z",
  "2024-08-09 12:00:00.123456", "Europe/Berlin", "r", "w", "rw", "null", "pipe", "inherit",
  "stdout", "TERM", "string", "decimal", "integer", "time", "earliest", "latest", "file", "dir/file",
  "mysql://u:p@127.0.0.1:1/db", "mysql://u@/db?socket=none", "a,b,,c", '"a ""b""",c', "--flag=1",
}
--- The only addresses there are: of this machine, or none at all.
M.HOSTS = {
  "127.0.0.1:1", "127.0.0.1:99999", "127.0.0.1:", "", ":", "[::1]:1", "127.0.0.1", "localhost:1",
  "127.0.0.1:1,127.0.0.1:2",
}
M.URLS = {
  "http://127.0.0.1:1/", "http://127.0.0.1:99999/", "http://[::1]:1/a?b=c", "ftp://127.0.0.1/", "",
  "http://", "file:none", "http://127.0.0.1:1/\1", "http://u:p@127.0.0.1:1/#x", "://",
}

local function bytes()
  local out = {}
  for i = 1, random(0, 40) do out[i] = string.char(random(0, 255)) end
  local s = table.concat(out)
  return (s:gsub("^/", "_"):gsub("%.%.", "._"))
end

function M.text()
  local kind = random(12)
  if kind == 1 then return bytes() end
  if kind == 2 then return choose(WORDS):rep(random(0, 300)) end
  if kind == 3 then return ("x"):rep(choose { 255, 256, 1023, 4096, 65536, 300000 }) end
  return choose(WORDS)
end

local FUNCTIONS = {
  function() return function() end end,
  function() return function(...) return ... end end,
  function() return function() return true end end,
  function() return function() error "raised by a function" end end,
  function() return function() error { code = "TABLE" } end end,
  function() return function() error() end end,
  function() return function() coroutine.yield(1) end end,
  function() return function() collectgarbage() end end,
  function() return string.rep end,
  function(pool)
    return function()
      local h = pool.any()
      if h then pcall(function() h:close() end) end
    end
  end,
}

function M.callable(pool) return choose(FUNCTIONS)(pool) end

local META = { "__index", "__newindex", "__len", "__call", "__tostring", "__eq", "__lt", "__pairs",
  "__name", "__concat", "__metatable", "__close" }

local function hostile(pool)
  local meta = {}
  for _ = 1, random(3) do
    local name = choose(META)
    local kind = random(4)
    meta[name] = kind == 1 and choose(M.INTEGERS) or kind == 2 and M.text() or M.callable(pool)
  end
  if random(4) == 1 then meta.__len = function() return choose(M.INTEGERS) end end
  -- A finalizer that allocates and collects; what it raises is a warning.
  if random(6) == 1 then meta.__gc = function() collectgarbage("step") local _ = { {} } end end
  return setmetatable(random(2) == 1 and {} or { M.text() }, meta)
end

local KEYS = { "name", "type", "fields", "key", "value", "topic", "partition", "offset", "body",
  "headers", "status", "timeout_ms", "id", "a", "events", "fd", "1" }

function M.table(pool, depth)
  local kind, out = random(10), {}
  if kind == 1 then return hostile(pool) end
  if kind == 2 then
    out.self, out[1] = out, out
    return setmetatable(out, random(2) == 1 and { __index = out } or nil)
  end
  if kind == 3 then return setmetatable({}, pool.metatable()) end
  if kind <= 6 then
    for i = 1, random(0, 6) do out[i] = M.value(pool, depth + 1) end
  else
    for _ = 1, random(0, 4) do
      local key = random(8) == 1 and M.value(pool, depth + 1) or choose(KEYS)
      if key ~= nil and key == key then out[key] = M.value(pool, depth + 1) end
    end
  end
  return out
end

--- Any value. @param pool .any() a handle or nil, .metatable() one of the known ones
function M.value(pool, depth)
  depth = depth or 0
  local kind = random(depth > 3 and 13 or 16)
  if kind == 1 then return nil end
  if kind == 2 then return random(2) == 1 end
  if kind <= 5 then return random(4) == 1 and random(-1000, 1000) or choose(M.INTEGERS) end
  if kind == 6 then return choose(FLOATS) end
  if kind <= 10 then return M.text() end
  if kind == 11 then return M.callable(pool) end
  if kind == 12 then return pool.any() end
  if kind == 13 then
    return random(2) == 1 and coroutine.create(M.callable(pool)) or io.stdout
  end
  return M.table(pool, depth)
end

-- Copies of a sample, so that what a call does to it is not seen by the next.
local function copy(v)
  if type(v) ~= "table" or getmetatable(v) then return v end
  local out = {}
  for k, x in pairs(v) do out[k] = copy(x) end
  return out
end

local function spoil(t, pool)
  local keys = {}
  for k in next, t do
    if type(k) == "string" or math.type(k) == "integer" then keys[#keys + 1] = k end
  end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  local key = #keys > 0 and choose(keys) or "a"
  if type(t[key]) == "table" and not getmetatable(t[key]) and random(2) == 1 then
    return spoil(t[key], pool)
  end
  if random(8) == 1 then key = choose(KEYS) end
  t[key] = M.value(pool, 1)
end

--- Arguments made of a sample, with up to two of them spoilt.
function M.spoilt(sample, pool)
  local args = { n = sample.n or #sample }
  for i = 1, args.n do args[i] = copy(sample[i]) end
  for _ = 1, choose { 0, 0, 1, 1, 2 } do
    local i = random(math.max(1, args.n))
    if type(args[i]) == "table" and not getmetatable(args[i]) and random(3) > 1 then
      spoil(args[i], pool)
    else
      args[i] = M.value(pool)
      args.n = math.max(args.n, i)
    end
  end
  return args
end

function M.arguments(pool)
  local args = { n = random(0, 5) }
  for i = 1, args.n do args[i] = M.value(pool) end
  return args
end

return M
