--- Bans of an exchange that outlive the process, in a small file: { [group] = wall ms of its end }.

local clock = require "host.clock"
local json = require "mill.json"
local log = require "mill.log"
local process = require "host.process"

local M = {}

local Bans = {}
Bans.__index = Bans

--- @param dir folder, made when it is needed; @param name of the producer
-- @param endpoints of mill.endpoints
function M.new(dir, name, endpoints)
  return setmetatable({ dir = dir, path = dir .. "/" .. name .. ".ban", endpoints = endpoints },
    Bans)
end

--- Write down the bans that go on.
function Bans:save()
  local bans = self.endpoints:bans(clock.mono_ms(), clock.wall_ms())
  if next(bans) == nil then return end
  local ok, message = process.mkdir_p(self.dir)
  if ok then ok, message = process.atomic_write(self.path, json.encode(bans) .. "\n") end
  if not ok then
    log.warn("a ban cannot be remembered for a restart: %s", message)
    return
  end
  self.saved = true
end

--- Take up the bans of an earlier process. Returns how many milliseconds the longest has left.
function Bans:load()
  local file = io.open(self.path, "rb")
  if not file then return 0 end
  local bans = json.decode(file:read("a"))
  file:close()
  self.saved = true
  if type(bans) ~= "table" then
    log.warn("%s is damaged and is ignored", self.path)
    return 0
  end
  return self.endpoints:resume(bans, clock.mono_ms(), clock.wall_ms())
end

--- Remove the file when no ban is left.
function Bans:forget()
  if not self.saved or next(self.endpoints:bans(clock.mono_ms(), clock.wall_ms())) then return end
  self.saved = false
  os.remove(self.path)
end

return M
