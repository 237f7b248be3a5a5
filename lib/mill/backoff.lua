--- Waiting times that grow, with full jitter: random(0, min(cap, base * 2^n)).

local expect = require "mill.expect"

local M = {}

local Backoff = {}
Backoff.__index = Backoff

--- @param options { base_ms=, cap_ms= }
function M.new(options)
  expect.a("table", options, "options")
  expect.a("number", options.base_ms, "base_ms")
  expect.a("number", options.cap_ms, "cap_ms")
  return setmetatable({ base = options.base_ms, cap = options.cap_ms, tries = 0 }, Backoff)
end

--- The next waiting time in milliseconds, at least 1.
function Backoff:next()
  local top = math.min(self.cap, self.base * 2 ^ math.min(self.tries, 30))
  self.tries = self.tries + 1
  return math.random(1, math.max(1, math.floor(top)))
end

function Backoff:reset()
  self.tries = 0
end

return M
