local http = require "host.http"
local support = require "spec.support.http"

describe("an http client", function()
  local server, client

  before_each(function()
    server = assert(http.server { dynamic = true })
    client = assert(http.client {})
  end)

  after_each(function()
    client:close()
    server:close()
  end)

  local function ask(options, answer)
    return support.exchange(client, server, options, answer)
  end

  it("gives status, lower-case headers, body and timings", function()
    local r = ask({ url = "/a" }, {
      status = 201, body = "hello",
      headers = { ["X-MBX-USED-WEIGHT-1M"] = "7", ["Content-Type"] = "text/plain" },
    })
    assert.equal(201, r.status)
    assert.equal("hello", r.body)
    assert.equal("7", r.headers["x-mbx-used-weight-1m"])
    assert.equal("text/plain", r.headers["content-type"])
    assert.is_nil(r.error)
    local t = r.timings
    assert.equal("integer", math.type(r.finished_us))
    assert.is_true(t.connect_us <= t.sent_us and t.sent_us <= t.first_byte_us)
    assert.is_true(t.first_byte_us <= t.total_us and t.total_us > 0)
  end)

  it("sends method, headers and body", function()
    local _, seen = ask({
      url = "/p?a=%5B1%5D", method = "POST", body = "x\0y",
      headers = { ["X-One"] = "1", ["X-Empty"] = "" },
    }, { status = 200 })
    assert.equal("POST", seen.method)
    assert.equal("/p", seen.path)
    assert.equal("[1]", seen.query.a)
    assert.equal("x\0y", seen.body)
    assert.equal("1", seen.headers["x-one"])
    assert.equal("", seen.headers["x-empty"])
    assert.matches("^tidemill/", seen.headers["user-agent"])
    assert.matches("gzip", seen.headers["accept-encoding"])
  end)

  it("keeps its connection for the next request", function()
    for _ = 1, 3 do ask({}, { status = 200 }) end
    assert.equal(3, client:stats().requests)
    assert.equal(1, client:stats().connects)
  end)

  it("runs many requests at once", function()
    local base = "http://127.0.0.1:" .. server:port()
    local open = {}
    for i = 1, 20 do open[assert(client:get { url = base .. "/" .. i })] = "/" .. i end
    local finished = 0
    support.wait(function()
      for _, q in ipairs(server:poll(5)) do server:respond(q.id, { body = q.path }) end
      for _, r in ipairs(client:poll(5)) do
        assert.equal(open[r.id], r.body)
        finished = finished + 1
      end
      return finished == 20
    end)
  end)

  it("does not follow a redirect", function()
    local r = ask({}, { status = 301, headers = { Location = "http://127.0.0.1:1/" } })
    assert.equal(301, r.status)
    assert.equal("http://127.0.0.1:1/", r.headers.location)
  end)

  describe("failing", function()
    local function failure(answer, options)
      local r = ask(options or {}, answer)
      assert.is_nil(r.body)
      assert.equal("http: " .. r.code .. ": ", r.error:match("^http: [A-Z]+: "))
      return r.code, r
    end

    it("tells a body shorter than its length", function()
      local code, r = failure { status = 200, body = '{"a":1}', truncate = 3 }
      assert.equal("TRUNCATED", code)
      assert.equal(200, r.status)
    end)

    it("tells a chunked body without its end", function()
      assert.equal("TRUNCATED", (failure { body = "abcdef", chunked = true, truncate = 3 }))
    end)

    it("reads a whole chunked body", function()
      assert.equal("abcdef", ask({}, { body = "abcdef", chunked = true }).body)
    end)

    it("tells a dropped connection", function()
      assert.equal("RESET", (failure { drop = true }))
    end)

    it("tells a body that is not what its encoding says", function()
      assert.equal("ENCODING", (failure { body = "no gzip",
        headers = { ["Content-Encoding"] = "gzip" } }))
    end)

    it("tells a body over the limit, and takes one at the limit", function()
      assert.equal("TOOBIG", (failure({ body = ("x"):rep(101) }, { max_body = 100 })))
      assert.equal(100, #ask({ max_body = 100 }, { body = ("x"):rep(100) }).body)
    end)

    it("tells an answer that does not come in time", function()
      local code, r = failure({ delay_ms = 60000 }, { timeout_ms = 50 })
      assert.equal("TIMEOUT", code)
      assert.is_true(r.timings.total_us < 20000000)
    end)

    local cases = {
      { "a port where nobody listens", "http://127.0.0.1:1/", "REFUSED" },
      { "a host without an address", "http://" .. ("a"):rep(64) .. ".invalid/", "DNS" },
      { "a protocol that is not HTTP", "file:///etc/passwd", "URL" },
      { "a URL that is none", "http://[::1/", "URL" },
    }
    for _, case in ipairs(cases) do
      it("tells " .. case[1], function()
        local r, message, code, response = client:fetch { url = case[2] }
        assert.is_nil(r)
        assert.equal(case[3], code)
        assert.matches("^http: " .. case[3] .. ": ", message)
        assert.equal(case[2], response.url)
        assert.is_nil(response.status)
      end)
    end

    it("tells a server without TLS", function()
      local _, _, code = client:fetch { url = "https://127.0.0.1:" .. server:port() .. "/" }
      assert.equal("TLS", code)
    end)
  end)

  describe("and a signal", function()
    local process = require "host.process"

    after_each(function()
      process.reset_stop()
      process.graceful(false)
    end)

    it("goes on waiting after one that came before, in the graceful mode", function()
      process.graceful(true)
      process.raise_stop()
      assert.equal("late", ask({}, { delay_ms = 250, body = "late" }).body)
      server:page("/page", { body = "page" })
      assert.equal("page", assert(client:fetch {
        url = "http://127.0.0.1:" .. server:port() .. "/page",
      }).body)
    end)
  end)

  it("fetches in one call while other requests wait for poll", function()
    server:page("/page", { body = "page" })
    local base = "http://127.0.0.1:" .. server:port()
    local id = client:get { url = base .. "/page" }
    assert.equal("page", assert(client:fetch { url = base .. "/page" }).body)
    local response = support.wait(function() return client:poll(100)[1] end)
    assert.equal(id, response.id)
  end)

  it("gives an empty list when the time is up, and at once without a request", function()
    assert.same({}, client:poll(60000))
    client:get { url = "http://127.0.0.1:" .. server:port() .. "/" }
    assert.same({}, client:poll(1))
  end)

  it("cancels a request", function()
    local id = client:get { url = "http://127.0.0.1:" .. server:port() .. "/" }
    assert.is_true(client:cancel(id))
    assert.is_false(client:cancel(id))
    assert.same({}, client:poll(10))
    assert.equal(0, client:stats().active)
  end)

  it("asks the proxy it was given", function()
    local proxied <close> = http.client { proxy = "http://127.0.0.1:1" }
    local _, _, code = proxied:fetch { url = "http://127.0.0.1:" .. server:port() .. "/page" }
    assert.equal("REFUSED", code)
  end)

  it("does not send loopback requests through a proxy of the environment #child", function()
    local process = require "host.process"
    server:page("/page", { body = "direct" })
    local child <close> = assert(process.spawn {
      argv = { assert(process.realpath("/proc/self/exe")), "exec", "spec/support/fetch.lua",
               "http://127.0.0.1:" .. server:port() .. "/page" },
      env = { http_proxy = "http://127.0.0.1:1", no_proxy = false, NO_PROXY = false },
      stdout = "pipe",
    })
    local text = ""
    support.wait(function()
      local chunk = child:read("stdout", 100)
      text = text .. (chunk or "")
      return chunk == nil
    end, "the end of the child")
    assert.equal("direct", text)
  end)

  it("raises on misuse and names it", function()
    assert.error_matches(function() client:get { url = "http://x/", retries = 3 } end,
      "unknown option 'retries'")
    assert.error_matches(function() client:get {} end, "option 'url' is required")
    assert.error_matches(function()
      client:get { url = "http://127.0.0.1/", headers = { ["X-A"] = "1\r\nX-B: 2" } }
    end, "header 'X%-A' is not well formed")
    assert.error_matches(function() client:get { url = "http://x/", method = "GE T" } end,
      "'method' is not a method")
    assert.error_matches(function() http.client { pool = 1 } end, "unknown option 'pool'")
  end)

  it("closes with requests under way, twice, and is refused afterwards", function()
    client:get { url = "http://127.0.0.1:" .. server:port() .. "/" }
    client:poll(1)
    client:close()
    client:close()
    assert.has_error(function() client:poll() end, "attempt to use a closed http client")
    assert.equal("http client (closed)", tostring(client))
  end)

  it("is collected with requests under way", function()
    do
      local c = http.client {}
      c:get { url = "http://127.0.0.1:" .. server:port() .. "/" }
      c:poll(1)
    end
    collectgarbage()
    collectgarbage()
  end)
end)

describe("http text", function()
  it("is percent-encoded", function()
    assert.equal("%5B%22BTCUSDT%22%2C%22%C3%A9%22%5D", http.escape('["BTCUSDT","é"]'))
    assert.equal("Az09-._~", http.escape("Az09-._~"))
    assert.equal("%00%20", http.escape("\0 "))
  end)

  it("has dates", function()
    assert.equal(784111777, http.date("Sun, 06 Nov 1994 08:49:37 GMT"))
    assert.is_nil(http.date("soon"))
  end)
end)
