--- The worker of fuzz/modules.lua: finds functions, makes calls, looks at what is left over.
--
-- Each round repeats the same calls with the same seed. Calls run in a coroutine of their own, so that
-- a hook that raises "interrupted" dies with it. What is said goes to stdout as @@C (a call begins),
-- @@F (a finding) and @@D (done).
local clock = require "host.clock"
local heap = require "host.heap"
local process = require "host.process"
local samples = require "modules_samples"
local values = require "modules_values"

local M = {}

local random = math.random
-- Growth over the rounds that is none: of Lua's heap, and of the process.
local HEAP_SLACK, RSS_SLACK_KB = 256 * 1024, 48 * 1024

local function say(kind, number, text)
  io.stdout:write(("@@%s%d %s\n"):format(kind, number, (text:gsub("%c", " "))))
  io.stdout:flush()
end

local function modules(part)
  local names = {}
  if part == "host" then
    for name in pairs(package.preload) do
      if name:find("^host%.") then names[#names + 1] = name end
    end
  else
    names[1] = "mill"
    for _, file in ipairs(assert(process.list(process.home() .. "/lib/mill"))) do
      local path = type(file) == "table" and file.name or file
      local name = path:match("^([%w_]+)%.lua$")
      if name and name ~= "init" then names[#names + 1] = "mill." .. name end
    end
  end
  table.sort(names)
  return names
end

-- Is this the metatable of one of our types? Lua's own (its files, its buffers' boxes) are out of
-- reach of a script, and crash on what is none of theirs.
local function ours(name, meta)
  return type(name) == "string" and type(meta) == "table" and rawget(meta, "__name") == name
    and name ~= "FILE*" and name ~= "_UBOX*"
end

-- Functions as { name, f, self = type of its handle }, in one order.
local function targets(part, only)
  local out = {}
  local function add(name, f, self)
    local module = name:match("^(.*)%.[^.]*$") or ""
    if samples.SKIPPED[name] or samples.SKIPPED[module] then return end
    if not only or name:find(only, 1, true) then
      out[#out + 1] = { name = name, f = f, self = self,
        plain = samples.PLAIN[module] and not samples.INNER[name] }
    end
  end
  for _, module in ipairs(modules(part)) do
    if not samples.SKIPPED[module] then
      for key, f in pairs(require(module)) do
        if type(f) == "function" then add(module .. "." .. key, f) end
      end
    end
  end
  if part == "host" then
    for name, meta in pairs(debug.getregistry()) do
      if ours(name, meta) then
        for _, methods in ipairs { meta, type(meta.__index) == "table" and meta.__index or {} } do
          for key, f in pairs(methods) do
            if type(f) == "function" then add(name .. ":" .. key, f, name) end
          end
        end
      end
    end
  end
  table.sort(out, function(a, b) return a.name < b.name end)
  return out
end

-- Handles by type: open ones, and some that are closed already.
local function new_pool(all)
  local pool, held, metas = {}, {}, {}
  local makers = { batch = "host.batch.new", decoder = "host.json.decoder", digest = "host.digest.sha256",
    ["line reader"] = "host.gzip.open", ["http client"] = "host.http.client",
    ["http server"] = "host.http.server", broker = "host.kafka.broker", consumer = "host.kafka.consumer",
    ["kafka reader"] = "host.kafka.reader",
    producer = "host.kafka.producer", admin = "host.kafka.admin", counter = "host.metrics.counter",
    gauge = "host.metrics.gauge", histogram = "host.metrics.histogram", lock = "host.process.lock",
    ["child process"] = "host.process.spawn", ["window store"] = "host.window.store",
    ["row shape"] = "host.batch.shape" }
  for name, meta in pairs(debug.getregistry()) do
    if ours(name, meta) then
      metas[#metas + 1] = name
    end
  end
  table.sort(metas)

  local function kind_of(v)
    local meta = type(v) == "userdata" and debug.getmetatable(v)
    return meta and rawget(meta, "__name")
  end
  function pool.keep(v)
    local kind = kind_of(v)
    if not kind or kind == "FILE*" or kind == "row" then return end
    held[kind] = held[kind] or {}
    local list = held[kind]
    if #list < 3 then
      list[#list + 1] = v
    else
      local i = random(#list)
      local old = list[i]
      list[i] = v
      -- Some are closed, the others are left to the collector.
      if random(2) == 1 and getmetatable(old).__gc then old:close() end
    end
  end
  function pool.open(kind)
    for _, v in ipairs(held[kind] or {}) do
      if not tostring(v):find("closed", 1, true) then return v end
    end
  end
  function pool.one(kind)
    local list = held[kind]
    if makers[kind] and (not list or #list == 0 or random(4) == 1 and not pool.open(kind)) then
      local target = all[makers[kind]]
      local sample = values.choose(samples.CALLS[makers[kind]] or { {} })
      local args = pool.resolve(sample)
      samples.fence(makers[kind], args, pool)
      local made = table.pack(pcall(target, table.unpack(args, 1, args.n)))
      if made[1] then pool.keep(made[2]) end
      list = held[kind]
    end
    return list and #list > 0 and values.choose(list) or nil
  end
  function pool.any()
    local kinds = {}
    for kind in pairs(held) do kinds[#kinds + 1] = kind end
    if #kinds == 0 then return nil end
    table.sort(kinds)
    local list = held[values.choose(kinds)]
    return list[random(#list)]
  end
  function pool.metatable() return debug.getregistry()[values.choose(metas)] end
  function pool.bootstrap()
    local b = pool.open "broker"
    return b and b:bootstrap() or "127.0.0.1:1"
  end
  -- A sample with its functions of the pool called.
  function pool.resolve(sample)
    local function walk(v, depth)
      if type(v) == "function" and depth < 3 then
        local info = debug.getinfo(v, "S")
        if info.source:find("modules_samples", 1, true) then return v(pool) end
      end
      if type(v) ~= "table" or getmetatable(v) then return v end
      local out = {}
      for k, x in pairs(v) do out[k] = walk(x, depth + 1) end
      return out
    end
    local out = { n = sample.n or #sample }
    for i = 1, out.n do out[i] = walk(sample[i], 1) end
    return out
  end
  function pool.close()
    for _, list in pairs(held) do
      for _, v in ipairs(list) do
        local meta = getmetatable(v)
        if meta and meta.__gc then v:close() end
      end
    end
    held = {}
  end
  return pool
end

local function arguments(target, pool)
  local known = samples.CALLS[target.name]
  local args
  if known and random(10) > 1 then
    args = values.spoilt(pool.resolve(values.choose(known)), pool)
  elseif target.self and random(3) > 1 then
    args = { n = random(0, 2) }
    for i = 1, args.n do args[i] = values.value(pool) end
  else
    args = values.arguments(pool)
  end
  if target.self then
    local self = random(12) > 1 and pool.one(target.self)
    if not self then self = values.value(pool) end
    table.insert(args, 1, self)
    if args[1] ~= self then args[1] = self end
    args.n = args.n + 1
  end
  return args
end

-- One call; its findings are texts.
local function call(target, args, pool)
  local co = coroutine.create(target.f)
  process.graceful(false)
  local r = table.pack(coroutine.resume(co, table.unpack(args, 1, args.n)))
  process.graceful(true)
  process.reset_stop()
  coroutine.close(co)
  for i = 2, r.n do pool.keep(r[i]) end
  if not r[1] and target.plain and type(r[2]) == "string" and r[2]:find("lib/mill/", 1, true)
    and r[2]:find("^[^\n]*: attempt to [^\n]*%((%a+) '") or not r[1] and r[2] == nil then
    -- What a function of ours raised is not the library's message.
    if type(r[2]) == "string" then return r[2]:match("^[^\n]*") end
  end
end

local function descriptors()
  local n = 0
  for _ in pairs(assert(process.list("/proc/self/fd"))) do n = n + 1 end
  return n
end

local function measure()
  for _ = 1, 3 do collectgarbage() end
  return { heap = heap.used(), fds = descriptors(), rss = process.rss_kb(process.pid()) }
end

-- Wait until the descriptors are those of before: libraries close theirs on their own threads.
local function settled(before)
  local deadline = clock.mono_ms() + 15000
  local now = measure()
  while now.fds > before.fds and clock.mono_ms() < deadline do
    process.wait_fds({}, 50)
    now = measure()
  end
  return now
end

-- AddressSanitizer keeps freed memory back; it looks for leaks by itself.
local function sanitized()
  local file <close> = assert(io.open("/proc/self/maps"))
  return file:read("a"):find("asan", 1, true) ~= nil
end

local function round(o, list, all, number)
  clock.set_wall(nil)
  local pool, seen = new_pool(all), {}
  for i = 1, o.calls do
    -- Each call chooses by itself: what an earlier one did differently changes no later choice.
    math.randomseed(o.seed, i)
    local target = values.choose(list)
    local args = arguments(target, pool)
    samples.fence(target.name, args, pool)
    say("C", i + number * o.calls, target.name)
    local found = call(target, args, pool)
    if found and not seen[target.name] then
      seen[target.name] = true
      say("F", i, ("%s: %s"):format(target.name, found))
    end
    if i % 50 == 0 then collectgarbage() end
  end
  heap.limit(0)
  pool.close()
end

M.targets, M.new_pool = targets, new_pool

--- Make the calls of one part. @param o part, seed, calls, rounds, only @return exit code
function M.run(o)
  assert(process.mkdir_p("dir/file"))
  assert(process.atomic_write("file", "a line\nanother\n"))
  process.graceful(true)
  local list, all = targets(o.part, o.only), {}
  if #list == 0 then return 2 end
  for _, t in ipairs(targets(o.part)) do all[t.name] = t.f end
  local before
  for number = 0, o.rounds - 1 do
    round(o, list, all, number)
    -- The first fills what is kept: modules, names of series, buffers of libraries.
    if number == 1 then before = measure() end
  end
  local after = before and settled(before)
  if before and after.fds > before.fds then
    say("F", 0, ("descriptors grew from %d to %d"):format(before.fds, after.fds))
  end
  if before and after.heap > before.heap + HEAP_SLACK then
    say("F", 0, ("Lua's heap grew from %d to %d bytes"):format(before.heap, after.heap))
  end
  if before and not sanitized() and after.rss > before.rss + RSS_SLACK_KB then
    say("F", 0, ("the process grew from %d to %d KiB"):format(before.rss, after.rss))
  end
  process.reset_stop() -- one may have come meanwhile
  say("D", 0, "done")
  return 0
end

return M
