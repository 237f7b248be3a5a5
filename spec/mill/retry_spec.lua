local endpoints = require "mill.endpoints"
local fault = require "mill.fault"
local retry = require "mill.retry"

describe("retry.judge", function()
  local NOW = 1723161255000 -- 15 s into its minute

  local function judge(response)
    response.headers = response.headers or {}
    return retry.judge(response, NOW)
  end

  it("has nothing to say of a complete 2xx", function()
    assert.is_nil(judge { status = 200, body = "" })
  end)

  local cases = {
    { { code = "TIMEOUT" }, "timeout", "retry" },
    { { code = "REFUSED" }, "network", "retry" },
    { { code = "RESET" }, "network", "retry" },
    { { code = "SOMETHING_NEW" }, "network", "retry" },
    { { code = "TRUNCATED", status = 200 }, "answer", "retry" },
    { { code = "TOOBIG", status = 200 }, "answer", "retry" },
    { { code = "ENCODING", status = 200 }, "answer", "retry" },
    { { code = "DNS" }, "dns", "switch" },
    { { code = "TLS" }, "tls", "switch" },
    { { code = "URL" }, "request", "config" },
    { { status = 301 }, "redirect", "switch" },
    { { status = 400 }, "request", "config" },
    { { status = 403 }, "blocked", "switch" },
    { { status = 404 }, "request", "config" },
    { { status = 408 }, "timeout", "retry" },
    { { status = 418 }, "ban", "wait" },
    { { status = 429 }, "limit", "wait" },
    { { status = 451 }, "region", "switch" },
    { { status = 500 }, "server", "retry" },
    { { status = 599 }, "server", "retry" },
    { { status = 418, code = "TRUNCATED" }, "ban", "wait" },
    { { status = 429, code = "TOOBIG" }, "limit", "wait" },
    { { status = 403, code = "ENCODING" }, "blocked", "switch" },
    { { status = 200, code = "TRUNCATED" }, "answer", "retry" },
    { { status = 404, code = "RESET" }, "network", "retry" },
  }
  for _, case in ipairs(cases) do
    it(("calls %s %s: %s"):format(case[1].code or "status", case[1].status or "", case[2]),
      function()
        local found = judge(case[1])
        assert.equal(case[2], found.class)
        assert.equal(case[3], found.action)
        assert.equal(case[3] == "wait", found.wait_ms ~= nil)
      end)
  end

  local waits = {
    { 503, "2", nil, 2000 },
    { 503, nil, nil, nil },
    { 429, "2", nil, 2000 },
    { 429, "0", nil, 0 },
    { 429, "Thu, 08 Aug 2024 23:54:25 GMT", nil, 10000 },
    { 429, "Thu, 08 Aug 2024 23:54:05 GMT", nil, 0 },
    { 429, nil, nil, 45000 },
    { 429, "soon", nil, 45000 },
    { 418, "120", "IP banned until 1723161999000.", 120000 },
    { 418, nil, '{"code":-1003,"msg":"IP banned until 1723161256500. x"}', 1500 },
    { 418, nil, "", 120000 },
    { 418, "99999999999", nil, 3 * 86400000 },
    { 418, nil, "IP banned until 9999999999999", 3 * 86400000 },
  }
  for _, case in ipairs(waits) do
    it(("waits %s ms after %d with Retry-After %s"):format(tostring(case[4]), case[1], tostring(case[2])),
      function()
        local found = judge { status = case[1], headers = { ["retry-after"] = case[2] },
                              body = case[3] }
        assert.equal(case[4], found.wait_ms)
      end)
  end
end)

describe("a circuit breaker", function()
  local function breaker() return retry.breaker { threshold = 3, base_ms = 1000, cap_ms = 8000 } end

  it("opens after its failures in a row, not before", function()
    local b = breaker()
    b:failure(0)
    b:failure(0)
    b:success()
    b:failure(0)
    b:failure(0)
    assert.equal("closed", b:state(0))
    b:failure(0)
    assert.equal("open", b:state(0))
    assert.equal("open", b:state(499))
    assert.equal("half-open", b:state(1000))
  end)

  it("opens at once when told to", function()
    local b = breaker()
    b:failure(0, true)
    assert.equal("open", b:state(0))
  end)

  it("doubles its time with each failed probe, up to its cap, and forgets it all", function()
    local b = breaker()
    local now = 0
    b:failure(now, true)
    for _, top in ipairs { 1000, 2000, 4000, 8000, 8000 } do
      assert.equal("open", b:state(now + top // 2 - 1))
      assert.equal("half-open", b:state(now + top))
      now = now + top
      b:failure(now)
    end
    b:success()
    assert.equal("closed", b:state(now))
    b:failure(now)
    assert.equal("closed", b:state(now))
  end)
end)

describe("a list of endpoints", function()
  local RETRY = { action = "retry" }
  local SWITCH = { action = "switch" }
  local OPTIONS = { threshold = 2, base_ms = 10, cap_ms = 10, open_base_ms = 1000,
                    open_cap_ms = 1000 }

  local function urls(list)
    local out = {}
    for i, e in ipairs(list.list) do out[i] = e.url end
    return out
  end

  it("takes URLs with and without a scheme", function()
    assert.same({ "https://api.example.com", "http://127.0.0.1:8080", "http://localhost",
                  "https://other.example.org:8443", "http://[::1]:80" },
      urls(endpoints.new("api.example.com, http://127.0.0.1:8080/,localhost,"
        .. "https://other.example.org:8443,[::1]:80")))
    for _, text in ipairs { "", "ftp://x.example", "http://a/b", "http://", "http://a!b" } do
      local ok, err = pcall(endpoints.new, text)
      assert.is_false(ok, text)
      assert.is_true(fault.is(err), tostring(err))
    end
    assert.error_matches(function() endpoints.new("http://a,http://a/") end, "stands twice")
  end)

  it("stays with the first, through a backoff, until its breaker opens", function()
    local e = endpoints.new("http://a.example,http://b.example", OPTIONS)
    local a, b = e.list[1], e.list[2]
    assert.equal(a, e:choose(0))
    e:failed(a, RETRY, 0)
    local none, at = e:choose(0)
    assert.is_nil(none)
    assert.is_true(at >= 1 and at <= 10)
    assert.equal(a, e:choose(10))
    e:failed(a, RETRY, 10)
    assert.equal(b, e:choose(10))
    e:succeeded(b)
    assert.equal(b, e:choose(400))
    assert.equal(a, e:choose(1010)) -- a probe
    e:failed(a, RETRY, 1010)
    assert.equal(b, e:choose(1010))
    assert.equal(a, e:choose(2010))
    assert.is_true(e:succeeded(a))
    assert.is_false(e:succeeded(a))
    assert.equal(a, e:choose(2010))
  end)

  it("goes to the next at once when one blocks us", function()
    local e = endpoints.new("http://a.example,http://b.example", OPTIONS)
    e:failed(e.list[1], SWITCH, 0)
    assert.equal(e.list[2], e:choose(0))
  end)

  it("goes on trying after backoffs when all are open", function()
    local e = endpoints.new("http://a.example,http://b.example", OPTIONS)
    e:failed(e.list[1], SWITCH, 0)
    e:failed(e.list[2], SWITCH, 0)
    local none, at = e:choose(0)
    assert.is_nil(none)
    assert.is_true(at <= 10)
    assert.is_not_nil(e:choose(10))
  end)

  it("leaves a banned domain alone, with all its hosts, and asks another", function()
    local e = endpoints.new("https://api.ex.com,https://api1.ex.com,https://data.ex.vision",
      OPTIONS)
    e:failed(e.list[1], { action = "wait", wait_ms = 500 }, 0)
    assert.equal("https://data.ex.vision", e:choose(0).url)
    e:failed(e.list[3], { action = "wait", wait_ms = 900 }, 0)
    assert.same({ nil, 500 }, { e:choose(0) })
    assert.equal(e.list[1], e:choose(500))
  end)

  it("rests after a ban of no time, longer each time, and as long as a server's error asks", function()
    local e = endpoints.new("http://a.example", { base_ms = 8000, cap_ms = 8000 })
    local longest = 0
    for _ = 1, 50 do
      local wait = { action = "wait", wait_ms = 0 }
      e:failed(e.list[1], wait, 0)
      longest = math.max(longest, wait.wait_ms)
      assert.is_true(wait.wait_ms >= 250)
      assert.is_nil(e:choose(249))
    end
    assert.is_true(longest > 250)
    e = endpoints.new("http://a.example", { base_ms = 10, cap_ms = 10 })
    e:failed(e.list[1], { action = "retry", wait_ms = 2000 }, 0)
    assert.same({ nil, 2000 }, { e:choose(1999) })
    assert.has_error(function() endpoints.new("https://api.ex.com.", {}) end)
  end)

  it("takes up the bans of an earlier process", function()
    local e = endpoints.new("https://api.ex.com,http://127.0.0.1:80,http://127.0.0.1:81", OPTIONS)
    e:failed(e.list[1], { action = "wait", wait_ms = 500 }, 100)
    e:failed(e.list[2], { action = "wait", wait_ms = 700 }, 100)
    local bans = e:bans(100, 1000000)
    assert.same({ ["ex.com"] = 1000500, ["127.0.0.1:80"] = 1000700 }, bans)
    local other = endpoints.new("https://api1.ex.com,http://127.0.0.1:80", OPTIONS)
    assert.equal(600, other:resume(bans, 5, 1000100))
    assert.same({ nil, 405 }, { other:choose(5) })
    assert.equal(0, other:resume({ ["ex.com"] = 1 }, 5, 1000100))
    assert.equal(0, other:resume({ ["ex.com"] = "x" }, 5, 1000100))
  end)
end)
