--- The library of pipeline scripts: `local mill = require "mill"`.

local fault = require "mill.fault"
local pipeline = require "mill.pipeline"
local settings = require "mill.settings"
local stage = require "mill.stage"

local M = {
  pipeline = pipeline.new,
  settings = settings.declare,
  kafka = stage.kafka,
  json = stage.json,
  tumbling = stage.tumbling,
  hopping = stage.hopping,
  mysql = stage.mysql,
}

--- Stop the script with a message for its user and exit status 2: mill.fail("name the file").
function M.fail(fmt, ...)
  fault.raise(fault.USAGE, fmt, ...)
end

-- What there is, for who mistook a name.
local function names(self)
  local list = {}
  for name in pairs(self) do list[#list + 1] = name end
  local folder = package.searchpath("mill", package.path):match("^(.*)/") or "."
  for _, file in ipairs(require("host.process").list(folder) or {}) do
    list[#list + 1] = file:match("^([%l_]+)%.lua$")
  end
  return list
end

-- The other parts are loaded when a script asks for them: mill.producer, mill.log, ...
return setmetatable(M, {
  __index = function(self, name)
    local found = package.searchpath("mill." .. tostring(name), package.path)
    if not found then
      error(("mill has no '%s'%s"):format(tostring(name),
        require("mill.args").meant(tostring(name), names(self))), 2)
    end
    local module = require("mill." .. name)
    rawset(self, name, module)
    return module
  end,
})
