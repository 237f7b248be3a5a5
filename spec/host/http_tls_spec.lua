-- The client against a real TLS server: openssl's, with a certificate of its own.

local http = require "host.http"
local process = require "host.process"
local support = require "spec.support.http"

describe("an http client over TLS", function()
  local folder, server, base

  local function openssl(argv, out)
    return assert(process.spawn {
      argv = { "openssl", table.unpack(argv) }, stdin = "null", stdout = out or "null",
      stderr = "null",
    })
  end

  setup(function()
    if not process.which("openssl") then return end
    folder = assert(process.mkdtemp((os.getenv("TMPDIR") or "/tmp") .. "/tidemill-tls-"))
    local made <close> = openssl { "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1",
      "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
      "-keyout", folder .. "/key.pem", "-out", folder .. "/cert.pem" }
    assert.equal(0, assert(made:wait(60000)).code)
    server = openssl({ "s_server", "-accept", "127.0.0.1:0", "-cert", folder .. "/cert.pem",
      "-key", folder .. "/key.pem", "-www" }, "pipe")
    local said = ""
    local port = support.wait(function()
      said = said .. (server:read("stdout", 50) or error("openssl ended: " .. said))
      return said:match("ACCEPT 127.0.0.1:(%d+)")
    end, "openssl s_server", 30000)
    base = "https://127.0.0.1:" .. port
  end)

  teardown(function()
    if not folder then return end
    if server then server:close() end
    os.remove(folder .. "/key.pem")
    os.remove(folder .. "/cert.pem")
    os.remove(folder)
  end)

  local function check(description, fn)
    it(description, function()
      if not folder then return pending("the program openssl is not here") end
      fn()
    end)
  end

  check("takes a certificate that it was told to trust", function()
    local client <close> = http.client {}
    local r = assert(client:fetch { url = base .. "/", ca = folder .. "/cert.pem" })
    assert.equal(200, r.status)
    assert.is_true(r.timings.tls_us > r.timings.connect_us)
  end)

  check("refuses one that nobody signed, and takes it only when told not to look", function()
    local client <close> = http.client {}
    local r, message, code = client:fetch { url = base .. "/" }
    assert.is_nil(r)
    assert.equal("TLS", code)
    assert.matches("certificate", message)
    assert.equal(200, assert(client:fetch { url = base .. "/", verify = false }).status)
  end)

  check("refuses one of another name", function()
    local client <close> = http.client { ca = folder .. "/cert.pem" }
    local url = base:gsub("127%.0%.0%.1", "127.0.0.2")
    local _, _, code = client:fetch { url = url }
    assert.is_true(code == "TLS" or code == "REFUSED", code)
    assert.equal(200, assert(client:fetch { url = base:gsub("127%.0%.0%.1", "localhost") }).status)
  end)

  check("tells a file of certificates that is missing", function()
    local client <close> = http.client {}
    local _, _, code = client:fetch { url = base .. "/", ca = folder .. "/none.pem" }
    assert.equal("TLS", code)
  end)
end)
