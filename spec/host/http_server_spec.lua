local http = require "host.http"
local metrics = require "host.metrics"
local support = require "spec.support.http"

describe("an http server", function()
  local server, client

  before_each(function()
    client = assert(http.client {})
  end)

  after_each(function()
    client:close()
    if server then server:close() end
  end)

  local function start(options)
    server = assert(http.server(options))
    return "http://127.0.0.1:" .. server:port()
  end

  it("listens on a free loopback port and tells which", function()
    local base = start {}
    assert.is_true(server:port() > 0)
    local r = assert(client:fetch { url = base .. "/" })
    assert.equal(404, r.status)
  end)

  it("tells a port that is taken", function()
    start {}
    local other, message, code = http.server { port = server:port() }
    assert.is_nil(other)
    assert.equal("INUSE", code)
    assert.matches("^http: INUSE: 127.0.0.1 port %d+: ", message)
  end)

  it("tells an address that this machine has not", function()
    local _, _, code = http.server { address = "192.0.2.1" }
    assert.equal("ADDRESS", code)
    _, _, code = http.server { address = "not an address" }
    assert.equal("ADDRESS", code)
  end)

  it("answers pages without Lua, replaces them, refuses other methods", function()
    local base = start {}
    server:page("/health", { body = "fine" })
    assert.equal("fine", client:fetch({ url = base .. "/health" }).body)
    server:page("/health", { body = "{}", status = 503, type = "application/json" })
    local r = client:fetch { url = base .. "/health" }
    assert.equal(503, r.status)
    assert.equal("application/json", r.headers["content-type"])
    r = client:fetch { url = base .. "/health", method = "DELETE" }
    assert.equal(405, r.status)
    assert.equal("GET, HEAD", r.headers.allow)
    r = client:fetch { url = base .. "/health", method = "HEAD" }
    assert.equal(503, r.status)
    assert.equal("", r.body)
  end)

  it("answers 503 for a page that was not set again in time", function()
    local base = start {}
    server:page("/health", { body = "fine", fresh_ms = 1 })
    support.wait(function()
      return client:fetch({ url = base .. "/health" }).status == 503
    end)
    server:page("/health", { body = "fine", fresh_ms = 60000 })
    assert.equal(200, client:fetch({ url = base .. "/health" }).status)
  end)

  it("renders the metrics of the process", function()
    metrics.counter("spec_server_pages_total", "Pages."):add(3)
    local base = start {}
    local r = client:fetch { url = base .. "/metrics" }
    assert.equal("text/plain; version=0.0.4; charset=utf-8", r.headers["content-type"])
    assert.matches("\nspec_server_pages_total 3\n", r.body)
    assert.matches("\nprocess_resident_memory_bytes %d", r.body)
  end)

  it("hands other requests to Lua when it is dynamic", function()
    start { dynamic = true }
    local r, seen = support.exchange(client, server,
      { url = "/x/y%20z?b=2&a=1&b=3&flag", method = "PUT", body = "data" },
      function(q) return { status = 202, body = q.body:upper(), headers = { ["X-A"] = "b" } } end)
    assert.equal(202, r.status)
    assert.equal("DATA", r.body)
    assert.equal("b", r.headers["x-a"])
    assert.equal("/x/y z", seen.path)
    assert.equal("2", seen.query.b)
    assert.equal("", seen.query.flag)
    local order = {}
    for i, p in ipairs(seen.params) do order[i] = p.name .. "=" .. p.value end
    assert.same({ "b=2", "a=1", "b=3", "flag=" }, order)
  end)

  it("sends a delayed answer later", function()
    start { dynamic = true }
    local r = support.exchange(client, server, {}, { delay_ms = 30, body = "late" })
    assert.equal("late", r.body)
    assert.is_true(r.timings.total_us >= 30000)
  end)

  it("refuses a body over its limit", function()
    local base = start { dynamic = true, max_body = 10 }
    local r = assert(client:fetch { url = base .. "/", method = "POST", body = ("x"):rep(11) })
    assert.equal(413, r.status)
    r = support.exchange(client, server, { method = "POST", body = ("x"):rep(10) }, { body = "ok" })
    assert.equal("ok", r.body)
  end)

  it("refuses headers over its limit", function()
    local base = start {}
    local r = assert(client:fetch { url = base .. "/", headers = { ["X-Big"] = ("x"):rep(60000) } })
    assert.equal(431, r.status)
  end)

  it("answers 504 to a request that Lua forgot", function()
    local base = start { dynamic = true, timeout_s = 1 }
    local id = client:get { url = base .. "/" }
    local request
    support.wait(function() client:poll(0) request = server:poll(10)[1] return request end)
    local r = support.wait(function() server:poll(10) return client:poll(10)[1] end)
    assert.equal(id, r.id)
    assert.equal(504, r.status)
    assert.equal(1, server:stats().timed_out)
    local ok, _, code = server:respond(request.id, { body = "too late" })
    assert.is_nil(ok)
    assert.equal("GONE", code)
  end)

  it("gives an empty list when nobody asks", function()
    start { dynamic = true }
    assert.same({}, server:poll(1))
  end)

  it("has a descriptor that is readable while a request waits", function()
    local process = require "host.process"
    local base = start { dynamic = true }
    client:get { url = base .. "/" }
    support.wait(function()
      client:poll(0)
      return process.wait_fds({ { fd = server:fd(), events = "r" } }, 10)[server:fd()] == "r"
    end)
    assert.equal(1, #server:poll(0))
    assert.same({}, (process.wait_fds({ { fd = server:fd(), events = "r" } }, 0)))
  end)

  it("closes with requests waiting, taken and delayed", function()
    local base = start { dynamic = true }
    for i = 1, 3 do client:get { url = base .. "/" .. i } end
    local taken = {}
    support.wait(function()
      client:poll(0)
      for _, q in ipairs(server:poll(5)) do taken[#taken + 1] = q end
      return #taken == 3
    end)
    server:respond(taken[1].id, { delay_ms = 60000 })
    client:get { url = base .. "/4" }
    client:poll(1)
    server:close()
    server:close()
    local codes = {}
    support.wait(function()
      for _, r in ipairs(client:poll(10)) do codes[#codes + 1] = r.code or r.status end
      return #codes == 4
    end)
    for i = 1, 3 do assert.equal("RESET", codes[i]) end
    assert.has_error(function() server:port() end, "attempt to use a closed http server")
  end)

  it("is collected while a request waits", function()
    do
      local s = http.server { dynamic = true }
      client:get { url = "http://127.0.0.1:" .. s:port() .. "/" }
      client:poll(1)
    end
    collectgarbage()
    collectgarbage()
    local r = support.wait(function() return client:poll(10)[1] end)
    assert.is_not_nil(r.code)
  end)

  it("raises on misuse and names it", function()
    start { dynamic = true }
    assert.error_matches(function() http.server { adress = "x" } end, "unknown option 'adress'")
    assert.error_matches(function() server:page("x", {}) end, "a path starts with /")
    local headers = { ["Content-Length"] = "3" }
    assert.error_matches(function() server:respond(1, { headers = headers }) end,
      "'Content%-Length' is set by the server")
    assert.error_matches(function() server:respond(1, { status = 99 }) end,
      "option 'status' must be between 200 and 599")
  end)
end)
