--- What code that is sent to a live process may name: the shell's names, without what would hold up
-- or end the process by accident. It is no sandbox: who may send code has the process's rights.
--
-- Each input is stopped after a time by a hook. Lua calls no hook in a finalizer (__gc), in the
-- __close of a coroutine that was stopped, or in the handler of xpcall once it stopped; so those are
-- refused or wrapped. Calls that wait for the outside (os.execute, io.read) or end the process are
-- not offered, and what is written goes to the answer.

local control = require "host.control"

local M = {}

-- Of a library of Lua only these; "not offered" is said for the others.
local OFFERED = {
  os = { "clock", "date", "difftime", "getenv", "remove", "rename", "time" },
  io = { "open", "type" },
  debug = { "getinfo", "getlocal", "getmetatable", "getupvalue", "traceback" },
}

local UNHOOKED = { "__gc", "__close" }
local COLLECTING = { collect = true, count = true, step = true, isrunning = true }

local function refuse(what)
  return function() error(what .. " is not offered in a live process", 2) end
end

local function part_of(name)
  local out = {}
  for key, value in pairs(_G[name]) do
    out[key] = type(value) == "function" and refuse(name .. "." .. key) or nil
  end
  for _, key in ipairs(OFFERED[name]) do out[key] = _G[name][key] end
  return out
end

local function set_metatable(t, meta)
  if type(meta) == "table" then
    for _, key in ipairs(UNHOOKED) do
      if type(rawget(meta, key)) == "function" and debug.getinfo(meta[key], "S").what ~= "C" then
        error(key .. " is not offered in a live process: nothing could stop it", 2)
      end
    end
  end
  return setmetatable(t, meta)
end

-- A handler is not called for what stopped the input: it could not be stopped in turn.
local function call_handled(f, handler, ...)
  return xpcall(f, function(err)
    if control.late() then return err end
    return handler(err)
  end, ...)
end

local function collect(option, ...)
  if not COLLECTING[option or "collect"] then
    error(("collectgarbage '%s' is not offered in a live process"):format(tostring(option)), 2)
  end
  return collectgarbage(option, ...)
end

--- The names, for the globals of a session of mill.repl.
-- @param write function of a text, for what is printed
-- @param env function that gives the session's environment, for what is loaded
function M.globals(write, env)
  local names = { setmetatable = set_metatable, xpcall = call_handled, collectgarbage = collect }
  for name in pairs(OFFERED) do names[name] = part_of(name) end
  function names.print(...)
    local parts = table.pack(...)
    for i = 1, parts.n do parts[i] = tostring(parts[i]) end
    write(table.concat(parts, "\t") .. "\n")
  end
  function names.io.write(...)
    for _, part in ipairs { ... } do write(tostring(part)) end
  end
  function names.load(chunk, name, mode, ...)
    if select("#", ...) > 0 then return load(chunk, name, mode, ...) end
    return load(chunk, name, mode, env())
  end
  function names.loadfile(path, mode, ...)
    if type(path) ~= "string" then error("loadfile needs a path", 2) end
    if select("#", ...) > 0 then return loadfile(path, mode, ...) end
    return loadfile(path, mode, env())
  end
  function names.dofile(path)
    return assert(names.loadfile(path))()
  end
  return names
end

return M
