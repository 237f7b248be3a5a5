--- Kafka's handles: what a development broker does when its port is wanted by others, and what is
-- left of a call that was interrupted. Found by fuzz/modules.lua.
local clock = require "host.clock"
local http = require "host.http"
local kafka = require "host.kafka"
local process = require "host.process"

local function port_of(broker)
  return math.tointeger(tonumber(broker:bootstrap():match("^127%.0%.0%.1:(%d+)$")))
end

local function descriptors()
  return #assert(process.list("/proc/self/fd"))
end

describe("a development broker", function()
  it("says so when its port was taken while it was down", function()
    local broker <close> = assert(kafka.broker { topics = { { name = "t" } } })
    assert.is_true(broker:broker_down(1))
    assert.is_true(broker:broker_down(1))
    local other = assert(http.server { port = port_of(broker) })
    local ok, message, code = broker:broker_up(1)
    assert.is_nil(ok)
    assert.matches("^kafka: IN_USE: port %d+ of broker 1 is taken by another program$", message)
    assert.equal("IN_USE", code)
    other:close()
    assert.is_true(broker:broker_up(1))
    assert.is_true(broker:broker_up(1))
    local admin <close> = kafka.admin { brokers = broker:bootstrap() }
    assert.truthy(assert(admin:metadata("t", 10000)).topics.t)
  end)

  it("keeps its port while it goes down, also without a client", function()
    local perl = process.which("perl")
    if not perl or (os.getenv("TIDEMILL_LEAVE_OUT") or ""):find("child", 1, true) then
      pending("no perl can be started here")
      return
    end
    local broker <close> = assert(kafka.broker { brokers = 1 })
    -- Takes the port at the first moment it is nobody's.
    local thief <close> = assert(process.spawn {
      argv = { perl, "-MSocket", "-e", [[
        socket(my $s, PF_INET, SOCK_STREAM, 0) or die; $| = 1; print "ready\n";
        my $at = pack_sockaddr_in(shift, INADDR_LOOPBACK);
        until (bind($s, $at)) {} print "taken\n"; sleep 60]], tostring(port_of(broker)) },
      stdin = "null", stdout = "pipe",
    })
    local deadline = clock.mono_ms() + 30000
    local said = ""
    while not said:find("ready", 1, true) and clock.mono_ms() < deadline do
      said = said .. assert(thief:read("stdout", 100))
    end
    for _ = 1, 30 do
      assert.is_true(broker:broker_down(1))
      assert.is_true(broker:broker_up(1))
    end
    assert.equal("", thief:read("stdout", 0))
  end)
end)

describe("a call to Kafka that was interrupted", function()
  after_each(function()
    process.reset_stop()
    process.graceful(false)
  end)

  -- Nothing listens there.
  local function dead()
    local server <close> = assert(http.server {})
    return "127.0.0.1:" .. server:port()
  end

  local AT = { { topic = "t", partition = 0 } }
  for name, call in pairs {
    metadata = function(admin) return admin:metadata("t", 3600000) end,
    watermarks = function(admin) return admin:watermarks("t", 0, 3600000) end,
    offsets_for_time = function(admin) return admin:offsets_for_time(AT, 5, 3600000) end,
  } do
    it("does not keep its client for the rest of its time: " .. name, function()
      local before = descriptors()
      local admin <close> = kafka.admin { brokers = dead() }
      process.graceful(true)
      process.raise_stop()
      local _, _, code = call(admin)
      assert.equal("INTERRUPTED", code)
      admin:close()
      local deadline = clock.mono_ms() + 30000
      while descriptors() > before do
        assert(clock.mono_ms() < deadline, "its descriptors are still open")
        process.wait_fds({}, 20)
      end
    end)
  end
end)

describe("the metatable of a consumer", function()
  it("ends nothing that is no consumer", function()
    local consumer <close> = kafka.consumer { brokers = "127.0.0.1:1" }
    local meta = getmetatable(consumer)
    meta.__gc(io.stdout)
    meta.__gc(setmetatable({}, { __name = "consumer" }))
    meta.__gc()
  end)
end)
