--- Allocation failure at step 1, 2, 3 ... of every module function, until it passes.
--
--   tidemill-heap exec spec/heap/steps.lua SECONDS [NAME]
--
-- Each function that fuzz/modules_samples.lua has a good call of is called with the n-th allocation
-- failing: of Lua's heap and of our own objects' C heap, once and from there on. It must raise or
-- return that there is no memory; then the same call without a failure must pass, or say that its
-- handle is closed. At the end nothing is left over. The last line tells what was tried.
package.path = "./fuzz/?.lua;" .. package.path

local fault = require "host.heapfault"

-- Opening a module comes before all else: what it registers stays.
local function open_modules()
  local registry, names, opened = debug.getregistry(), {}, 0
  for name in pairs(package.preload) do
    if name:find("^host%.") and name ~= "host.heapfault" then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local n, failed, ok = 0, 1, nil
    while failed > 0 do
      n = n + 1
      fault.arm("lua", n, true)
      ok = pcall(package.preload[name], name)
      failed = fault.disarm()
      opened = opened + 1
    end
    assert(ok, name .. " does not open after failures")
  end
  for name, meta in pairs(registry) do
    if type(name) == "string" and type(meta) == "table" and meta.__name == name
      and type(meta.__index) == "table" and meta.__index.close then
      assert(meta.__gc and meta.__close, name .. " was left without a finalizer")
    end
  end
  return opened
end

local opened = open_modules()

local clock = require "host.clock"
local process = require "host.process"
local samples = require "modules_samples"
local worker = require "modules_worker"

local SECONDS = tonumber(arg[1]) or 60
local ONLY = arg[2]
local STEPS_MAX = 2000
-- What answers a failure otherwise, and why that is right.
local ABSORBED = {
  ["host.metrics.render"] = "an empty answer is an error to the one who asks",
}

local scratch = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-heap-"))
assert(process.mkdir_p(scratch .. "/dir/file"))
assert(process.atomic_write(scratch .. "/file", "a line\nanother\n"))

local findings, steps, functions, cut = 0, 0, 0, 0
local deadline = clock.mono_ms() + SECONDS * 1000

local function finding(name, kind, n, on, text)
  findings = findings + 1
  io.write(("heap: %s: %s request %d%s: %s\n"):format(name, kind, n, on and " and all after" or "",
    (tostring(text):gsub("%c", " "))))
end

-- Relative names of the samples are of the scratch folder.
local function placed(v)
  if type(v) == "table" and not getmetatable(v) then
    for k, x in pairs(v) do v[k] = placed(x) end
  elseif v == "file" or type(v) == "string" and v:find("^dir") then
    return scratch .. "/" .. v
  end
  return v
end

local function no_memory(r)
  if r[1] and r[2] ~= nil then return false end
  local text = r[1] and r[3] or r[2]
  return type(text) == "string" and text:find("memory", 1, true) or r[1] and r[4] == "NOMEM"
end

-- A failure that is returned as one, with its text and code.
local function returned(r)
  return r[1] and r[2] == nil and type(r[3]) == "string" and type(r[4]) == "string"
end

local function closes(name)
  return name:find(":close$") or name:find(":__") or name == "digest:hex"
end

local function closed(r)
  return not r[1] and type(r[2]) == "string" and r[2]:find("closed", 1, true)
end

local failed_requests

-- Nothing is packed into a table before failures are off.
local function disarmed(...)
  failed_requests = fault.disarm()
  process.graceful(true) -- what raises a signal must not stop this
  process.reset_stop()
  return ...
end

-- Room on the stack and for calls, so that the failing ones are the function's own.
local function warm(depth)
  if depth == 0 then return select("#", table.unpack({}, 1, 150)) end
  return (warm(depth - 1))
end

-- Call with the n-th request failing. @return how many failed
local function step(target, sample, pool, kind, n, on)
  local args = placed(pool.resolve(sample))
  if target.self then
    table.insert(args, 1, pool.open(target.self) or pool.one(target.self))
    args.n = args.n + 1
  end
  samples.fence(target.name, args, pool)
  collectgarbage()
  collectgarbage("stop")
  warm(20)
  fault.arm(kind, n, on)
  local r = table.pack(disarmed(pcall(target.f, table.unpack(args, 1, args.n))))
  local failed = failed_requests
  collectgarbage("restart")
  for i = 2, r.n do pool.keep(r[i]) end
  steps = steps + 1
  if failed == 0 then return 0 end
  if closes(target.name) then return failed end
  -- The same without a failure: it passes, or its handle is closed.
  local again = table.pack(disarmed(pcall(target.f, table.unpack(args, 1, args.n))))
  for i = 2, again.n do pool.keep(again[i]) end
  if no_memory(again) and not closed(again) then
    return failed, "is still without memory: " .. tostring(again[2])
  end
  if no_memory(r) or returned(r) then return failed end
  -- What is refused anyway may be refused; what Lua can do without (a larger table of its strings)
  -- is no failure.
  if r[1] and r[2] ~= nil then return failed, "passed" end
  if r[1] == again[1] and (r[1] and r[3] or r[2]) == (again[1] and again[3] or again[2]) then
    return failed
  end
  return failed, r[1] and r[3] or r[2]
end

local function try(target, pool, kind, on)
  for _, sample in ipairs(samples.CALLS[target.name] or { {} }) do
    local n, passed = 0, 0
    repeat
      n = n + 1
      local failed, text = step(target, sample, pool, kind, n, on)
      if text == "passed" then
        passed = passed + 1
      elseif text then
        finding(target.name, kind, n, on, text)
      end
      if clock.mono_ms() > deadline then
        cut = cut + 1
        return
      end
    until failed == 0 or n >= STEPS_MAX
    if passed > 0 and not ABSORBED[target.name] and os.getenv("TIDEMILL_HEAP_VERBOSE") then
      io.write(("heap: %s: %s: passed %d of %d failures\n"):format(target.name, kind, passed, n - 1))
    end
  end
end

-- Those of Kafka wait for threads and a broker: last, and in the long run only.
local KAFKA = { admin = 1, broker = 1, consumer = 1, producer = 1 }
local function slow(t)
  return t.name:find("^host%.kafka") or t.self and (KAFKA[t.self] or t.self:find("^kafka"))
end

local list, all = {}, {}
for pass = 1, SECONDS > 100 and 2 or 1 do
  for _, t in ipairs(worker.targets "host") do
    if (slow(t) ~= nil) == (pass == 2) then list[#list + 1] = t end
  end
end
for _, t in ipairs(worker.targets "host") do all[t.name] = t.f end
local pool = worker.new_pool(all)
math.randomseed(1)
for i = 1, #list do
  local target = list[i]
  if not ONLY or target.name:find(ONLY, 1, true) then
    functions = functions + 1
    for _, kind in ipairs { "lua", "c" } do
      try(target, pool, kind, false)
      try(target, pool, kind, true)
    end
  end
  if clock.mono_ms() > deadline then break end
end
pool.close()
collectgarbage()
assert(os.execute(("rm -rf '%s'"):format(scratch)))
print(("heap: %d functions, %d steps: %d findings%s"):format(functions, steps + opened, findings,
  cut > 0 and ", the time was over" or ""))
return findings == 0 and 0 or 1
