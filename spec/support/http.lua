--- A client and a server on one thread: helpers for specs.

local clock = require "host.clock"

local DEADLINE_MS = 60000 * require "spec.support.slow"

local M = {}

--- Poll until `done()` gives something true, or fail after `ms` (default 60 s, more under a sanitizer).
function M.wait(done, what, ms)
  local deadline = clock.mono_ms() + (ms or DEADLINE_MS)
  repeat
    local value = done()
    if value then return value end
  until clock.mono_ms() > deadline
  error("gave up waiting for " .. (what or "a condition"), 2)
end

--- Send one request and answer it: returns the response and the request that the server saw.
-- @param options table: of client:request; its url is a path here.
-- @param answer table or function(request): what server:respond sends.
function M.exchange(client, server, options, answer)
  options.url = "http://127.0.0.1:" .. server:port() .. (options.url or "/")
  local id = assert(client:request(options))
  local seen
  local response = M.wait(function()
    for _, request in ipairs(server:poll(5)) do
      seen = request
      local a = type(answer) == "function" and answer(request) or answer
      assert(server:respond(request.id, a))
    end
    for _, r in ipairs(client:poll(5)) do
      if r.id == id then return r end
    end
  end, "a response")
  return response, seen
end

return M
