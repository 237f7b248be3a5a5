--- Loads a pipeline script: a Lua file that returns something with a run function.

local args = require "mill.args"
local fault = require "mill.fault"
local process = require "host.process"
local settings = require "mill.settings"

local M = {}

-- A path as given, or the same below the folder that holds lib/.
local function find(path)
  if process.stat(path) then return path end
  local beside = process.home() .. "/" .. path
  if process.stat(beside) then return beside end
  fault.raise(fault.USAGE, "there is no script %s", path)
end

-- Globals of a script that are not Lua's are typing errors.
local function environment()
  return setmetatable({}, {
    __index = function(_, name)
      local value = _G[name]
      if value == nil then error(("undefined name '%s'"):format(name), 2) end
      return value
    end,
    __newindex = function(_, name)
      error(("assignment to the global '%s'; make it local"):format(name), 2)
    end,
  })
end

-- Where tidemill's own Lua lies, as Lua names its sources.
local OWN = debug.getinfo(1, "S").source:match("^.*/")

-- The lines of the script, and of modules of its own, that led to an error; and whether it arose in
-- one of them (or in what they called of the host) and not in ours.
local function places()
  local list, theirs, level = {}, nil, 4 -- after this function, mistake and its caller
  local info = debug.getinfo(level, "Slf")
  while info and info.func ~= M.load do
    if info.what ~= "C" then
      local own = info.source:sub(1, #OWN) == OWN
      if theirs == nil then theirs = not own end
      if not own then list[#list + 1] = ("%s:%d"):format(info.short_src, info.currentline) end
    end
    level = level + 1
    info = debug.getinfo(level, "Slf")
  end
  return list, theirs
end

-- Without the places where a module was looked for.
local function module_named(before, name)
  local names = { "mill" }
  for _, modules in ipairs { package.loaded, package.preload } do
    for known in pairs(modules) do names[#names + 1] = known end
  end
  return before .. args.meant(name, names)
end

-- A mistake in the script in words for who wrote it: line, message, and from where that was called;
-- nil when the error is not the script's.
local function mistake(text)
  local list, theirs = places()
  local at
  for i, place in ipairs(list) do
    if not at and text:sub(1, #place + 1) == place .. ":" then at = i end
  end
  if not at and not theirs then return nil end
  if not at then at, text = 1, list[1] .. ": " .. text end
  text = text:gsub("^(.-module '([^'\n]*)' not found):\n.*$", module_named)
  for i = at + 1, #list do text = text .. "\n  called from " .. list[i] end
  return text
end

--- Load and evaluate a script.
-- @param path string
-- @param set array of "key=value" from --set, or nil
-- @return the object it returns, with run(self, ctx); a mistake in it raises a fault with its line
function M.load(path, set)
  local file = find(path)
  settings.given(set)
  local chunk, message = loadfile(file, "t", environment())
  if not chunk then fault.raise(fault.USAGE, "%s", message) end
  local ok, object = xpcall(chunk, function(err)
    if fault.is(err) then return fault.new(err.status, "%s: %s", path, err.message) end
    local text = tostring(err)
    if text:find("interrupted$") then return text end
    local words = mistake(text)
    return words and fault.new(fault.USAGE, "%s", words)
      or fault.new(fault.FAILED, "%s", debug.traceback(text, 2))
  end, file)
  if not ok then error(object, 0) end
  if type(object) ~= "table" or not object.run then
    fault.raise(fault.USAGE, "%s must return a pipeline, as mill.pipeline { ... } makes it, not a %s",
      path, type(object))
  end
  return object
end

--- The same of a script that must return a pipeline. Raises a fault where it is something else.
-- @param path, set as for M.load
-- @return pipeline
function M.pipeline(path, set)
  local object = M.load(path, set)
  if object.kind ~= "pipeline" then fault.raise(fault.USAGE, "%s is no pipeline", path) end
  return object
end

return M
