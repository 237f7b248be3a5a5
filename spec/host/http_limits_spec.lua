-- The HTTP server against rude clients: each ends in a status or a closed connection within its
-- deadline, and others are answered meanwhile.

local clock = require "host.clock"
local http = require "host.http"
local json = require "mill.json"
local process = require "host.process"
local support = require "spec.support.http"

local RUDE = process.home() .. "/spec/support/rude.py"

describe("the limits of an http server", function()
  local server, client, children

  before_each(function()
    client = assert(http.client {})
    server = assert(http.server { timeout_s = 2, max_body = 1000, max_connections = 16 })
    server:page("/health", { body = "fine" })
    children = {}
  end)
  after_each(function()
    for _, child in ipairs(children) do child:close() end
    client:close()
    server:close()
  end)

  local function rude(...)
    local child = assert(process.spawn {
      argv = { "python3", RUDE, tostring(server:port()), ... }, stdin = "pipe", stdout = "pipe",
    })
    children[#children + 1] = child
    return child
  end

  -- Everybody else is still answered, and how long that took.
  local function others()
    local began = clock.mono_ms()
    local r = assert(client:fetch { url = ("http://127.0.0.1:%d/health"):format(server:port()),
      timeout_ms = 30000 })
    assert.equal("fine", r.body)
    return clock.mono_ms() - began
  end

  -- What a rude client got; meanwhile others are answered.
  local function ended(child)
    local said = ""
    support.wait(function()
      others()
      said = said .. (child:read("stdout", 50) or "")
      return child:wait(0)
    end, "the rude client", 30000)
    return assert(json.decode((said .. (child:read("stdout", 50) or "")):match("{.*}")))
  end

  local function is_ready(child)
    support.wait(function()
      local said = child:read("stdout", 100)
      return said and said:find("ready", 1, true)
    end, "the rude client to be ready", 30000)
  end

  local function statuses(text)
    local out = {}
    for status in text:gmatch("HTTP/1%.[01] (%d+)") do out[#out + 1] = status end
    return table.concat(out, " ")
  end

  it("are on loopback by default", function()
    for line in io.lines "/proc/net/tcp" do
      local address, port, state = line:match("^%s*%d+: (%x+):(%x+) %x+:%x+ (%x+)")
      if state == "0A" and tonumber(port, 16) == server:port() then
        assert.equal("0100007F", address)
      end
    end
    local file <close> = io.open "/proc/net/tcp6" -- not there without IPv6
    for line in (file and file:read "a" or ""):gmatch "[^\n]+" do
      local port, state = line:match("^%s*%d+: %x+:(%x+) %x+:%x+ (%x+)")
      assert.is_false(state == "0A" and tonumber(port, 16) == server:port())
    end
  end)

  for name, drip in pairs {
    ["headers that drip"] = "drip:100:GET / HTTP/1.1\\r\\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ["a body that drips"] = "drip:100:x",
  } do
    it("end " .. name, function()
      local child = name:find "body"
        and rude("send:POST /health HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 900\\r\\n\\r\\n", drip)
        or rude(drip)
      local r = ended(child)
      assert.is_true(r.closed)
      assert.is_true(r.ms >= 1500 and r.ms < 15000, r.ms .. " ms")
    end)
  end

  it("end a client that says nothing", function()
    local r = ended(rude("read:20000"))
    assert.is_true(r.closed)
    assert.is_true(r.ms < 15000, r.ms .. " ms")
  end)

  it("end one that does not read its answer", function()
    server:page("/big", { body = ("x"):rep(30 << 20) })
    local child = rude("send:GET /big HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n", "wait", "read:5000")
    is_ready(child)
    local deadline = clock.mono_ms() + 4000
    while clock.mono_ms() < deadline do others() end
    child:close_stdin()
    local r = ended(child)
    assert.is_true(r.closed)
    assert.is_true(r.size < 30 << 20)
  end)

  it("answer what is too large, malformed or no request of ours", function()
    local get = "GET /health HTTP/1.1\\r\\nHost: a\\r\\n"
    for name, case in pairs {
      ["a huge header"] = { "431", "send:GET / HTTP/1.1\\r\\nHost: a\\r\\nX: ", "fill:200000" },
      ["a huge path"] = { "414", "send:GET /", "fill:200000", "send: HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n" },
      ["a huge body"] = { "413", "send:POST /health HTTP/1.1\\r\\nHost: a\\r\\n"
        .. "Content-Length: 100000000\\r\\n\\r\\n" },
      ["an endless body"] = { "", "send:POST /health HTTP/1.1\\r\\nHost: a\\r\\n"
        .. "Transfer-Encoding: chunked\\r\\n\\r\\n186A0\\r\\n", "fill:100000" },
      ["a length that is none"] = { "4%d%d ?4?%d*", "send:POST /health HTTP/1.1\\r\\nHost: a\\r\\n"
        .. "Content-Length: -1\\r\\n\\r\\nx" },
      ["two lengths"] = { "[24]?%d*", "send:POST /health HTTP/1.1\\r\\nHost: a\\r\\n"
        .. "Content-Length: 1\\r\\nContent-Length: 5\\r\\n\\r\\nx" },
      ["a method of nobody"] = { "405", "send:BREW /health HTTP/1.1\\r\\nHost: a\\r\\n"
        .. "Connection: close\\r\\n\\r\\n" },
      ["a path out of the tree"] = { "404", "send:GET /../../../../etc/passwd HTTP/1.1\\r\\nHost: a\\r\\n"
        .. "Connection: close\\r\\n\\r\\n" },
      ["an escaped path out of the tree"] = { "404", "send:GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\\r\\n"
        .. "Host: a\\r\\nConnection: close\\r\\n\\r\\n" },
      ["junk"] = { "[4]?%d*", "send:\\x00\\xff\\xfe junk \\r\\n\\r\\n" },
      ["a TLS hello"] = { "[4]?%d*", "send:\\x16\\x03\\x01\\x02\\x00\\x01\\x00\\x01\\xfc\\x03\\x03" },
      ["two requests at once, and junk"] = { "200 200 ?4?%d*", "send:" .. get .. "\\r\\n" .. get
        .. "\\r\\nJUNK JUNK\\r\\n\\r\\n" },
      ["a half closed connection"] = { "200", "send:" .. get .. "\\r\\n", "shut" },
    } do
      case[#case + 1] = "read:20000"
      local r = ended(rude(table.unpack(case, 2)))
      assert.is_true(r.closed, name)
      assert.matches("^" .. case[1] .. "$", statuses(r.text), 1, false)
      assert.is_nil(r.text:find("root:", 1, true), name)
      assert.is_true(r.ms < 15000, name .. ": " .. r.ms .. " ms")
    end
  end)

  it("keep a second free for the operator while others hold every connection", function()
    local child = rude("hold:60", "wait")
    is_ready(child)
    local slowest = 0
    for _ = 1, 5 do slowest = math.max(slowest, others()) end
    -- 16 at a time have a second each; those that wait in the kernel's queue come before us.
    assert.is_true(slowest < 20000, slowest .. " ms")
    child:close_stdin()
    assert.is_true(ended(child).held < 60)
  end)

  it("leave requests of a dynamic server the time that Lua needs", function()
    server:close()
    server = assert(http.server { dynamic = true, timeout_s = 1 })
    local r = support.exchange(client, server, {}, { delay_ms = 2500, body = "late" })
    assert.equal("late", r.body)
  end)
end)
