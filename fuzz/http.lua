--- The Lua side of fuzz/http.c: the server under test, what it is asked, and what is answered.
--
-- fuzz/http.c sends the bytes of `request` and calls `step` while the connection lives. An input
-- with its lowest bit set is made into a request that is well formed: then what the server shows
-- must be what was sent. Anything else only has to be within the limits.
local http = require "host.http"

local M = {}

local MAX_BODY = 2000
local server, expected, mode, served

local function open()
  server = assert(http.server { dynamic = true, max_connections = 8, timeout_s = 2,
    max_body = MAX_BODY })
  assert(server:page("/page", { body = "a page" }))
  assert(server:page("/stale", { body = "old", fresh_ms = 1 }))
  return server:port()
end

--- (Re)start the server. @return its port
function M.open()
  if server then server:close() end
  return open()
end

-- Cut `data` into pieces at a byte.
local function pieces(data, at)
  local out = {}
  for piece in (data .. at):gmatch("(.-)" .. at) do out[#out + 1] = piece end
  return out
end

local function chunked(body, size)
  local out = {}
  for at = 1, #body, size do
    local part = body:sub(at, at + size - 1)
    out[#out + 1] = ("%x\r\n%s\r\n"):format(#part, part)
  end
  return table.concat(out) .. "0\r\n\r\n"
end

-- A well formed request of the pieces of `data`, and what must be seen of it.
local function well_formed(data)
  local p = pieces(data, "\255")
  local methods = { "GET", "POST", "PUT", "DELETE", "PATCH", "X-OTHER" }
  local e = { method = methods[#data % #methods + 1], params = {}, headers = {} }
  local path = (p[1] or ""):gsub("%z", "0")
  e.path = "/d/" .. path
  local query = {}
  for i = 2, math.min(#p, 6) do
    local name, value = ("n%d"):format(i), p[i]:gsub("%z", "0")
    e.params[#e.params + 1] = { name = name, value = value }
    query[#query + 1] = name .. "=" .. http.escape(value)
  end
  local head = {}
  for i = 7, math.min(#p, 12) do
    local value = p[i]:gsub("[^!-~]", "")
    if value ~= "" then
      e.headers["x-" .. i] = value
      head[#head + 1] = ("X-%d: %s\r\n"):format(i, value)
    end
  end
  local body = e.method ~= "GET" and table.concat(p, ",", math.min(#p, 3)) or ""
  e.body = body:sub(1, MAX_BODY)
  local target = "/d/" .. http.escape(path) .. (#query > 0 and "?" .. table.concat(query, "&") or "")
  local tail
  if e.body == "" then
    tail = "\r\n"
  elseif #data % 3 == 0 then
    tail = "Transfer-Encoding: chunked\r\n\r\n" .. chunked(e.body, 1 + #data % 97)
  else
    tail = ("Content-Length: %d\r\n\r\n%s"):format(#e.body, e.body)
  end
  return ("%s %s HTTP/1.1\r\nHost: h\r\n%s%s"):format(e.method, target, table.concat(head), tail), e
end

--- The bytes to send for an input. @param flags integer, its first byte
function M.request(flags, data)
  mode, expected, served = flags, nil, 0
  http.escape(data)
  http.date((data:gsub("%z", " ")))
  if flags & 1 == 0 then return data end
  local text
  text, expected = well_formed(data)
  return text
end

local function same(what, got, want)
  if got ~= want then
    error(("%s: got %q, sent %q"):format(what, tostring(got), tostring(want)), 0)
  end
end

local function compare(r, e)
  same("method", r.method, e.method)
  same("path", r.path, e.path)
  same("body", r.body, e.body)
  same("parameters", #r.params, #e.params)
  for i, p in ipairs(e.params) do
    same("parameter " .. i, r.params[i].name, p.name)
    same("value " .. i, r.params[i].value, p.value)
  end
  for name, value in pairs(e.headers) do same("header " .. name, r.headers[name], value) end
end

local function check(r)
  assert(math.type(r.id) == "integer" and r.method ~= "", "a request without a method")
  assert(#r.body <= MAX_BODY, "a body beyond the limit")
  for name, value in pairs(r.headers) do
    assert(name == name:lower() and type(value) == "string", "a header that is none")
  end
  for i, p in ipairs(r.params) do assert(r.query[p.name], "parameter " .. i .. " is not in the query") end
end

local ANSWERS = {
  { status = 200, body = "answer" }, { status = 204 }, { status = 200, body = ("x"):rep(5000) },
  { status = 500, body = "truncated here", truncate = 5 }, { body = "in chunks", chunked = true },
  { drop = true }, { body = "later", delay_ms = 1 }, { body = "cut", chunked = true, truncate = 1 },
  { status = 301, headers = { Location = "/x", ["X-A"] = "" } },
}

--- Answer what waits; some inputs leave it waiting. @return requests seen so far
function M.step()
  for _, r in ipairs(server:poll(1)) do
    check(r)
    served = served + 1
    if expected then
      compare(r, expected)
      expected = nil
    end
    if mode & 0x80 == 0 then
      local answer = ANSWERS[(mode >> 1 & 15) % #ANSWERS + 1]
      local ok, message, code = server:respond(r.id, answer)
      assert(ok or code == "GONE", message)
      assert(select(3, server:respond(r.id, answer)) == "GONE", "a request was answered twice")
    end
  end
  return served
end

--- What was well formed has come. @param in_time boolean the server had no reason to cut it off
-- @return true
function M.finish(in_time)
  assert(expected == nil or not in_time, "a good request did not come")
  local s = server:stats()
  assert(s.waiting >= 0 and s.requests >= 0, "counts below zero")
  return true
end

return M
