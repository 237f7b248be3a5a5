-- The development broker in a process of its own (scripts/broker.lua), and kcat as its client.

local broker_ = require "spec.support.broker"
local clock = require "host.clock"
local kafka_ = require "spec.support.kafka"
local process = require "host.process"

local folder, child, address

local function start(topics, ...)
  local file = folder .. "/address"
  os.remove(file)
  child = assert(process.spawn {
    argv = {
      process.exe(), "run", process.home() .. "/scripts/broker.lua", "--set", "topics=" .. topics,
      "--set", "address_file=" .. file, ...,
    },
    env = { TIDEMILL_HOME = process.home() }, stdin = "null", stdout = "null", stderr = "null",
  })
  kafka_.await("the address", function()
    local f = io.open(file)
    address = f and f:read("l")
    if f then f:close() end
    return address or child:wait(20)
  end)
  return address
end

-- The exit code of the process.
local function ended()
  local how = assert(child:wait(20000), "it did not end")
  child:close()
  return how.code
end

local function stop()
  child:kill("TERM")
  return ended()
end

local function kcat(args, input)
  local c <close> = assert(process.spawn {
    argv = { "kcat", "-b", address, table.unpack(args) },
    stdin = input and "pipe" or "null", stdout = "pipe", stderr = "null",
  })
  if input then
    assert(c:write(input))
    c:close_stdin()
  end
  local out, deadline = {}, clock.mono_ms() + 60000
  while true do
    assert(clock.mono_ms() < deadline, "kcat did not end")
    local bytes = c:read("stdout", 100)
    if not bytes then break end
    out[#out + 1] = bytes
  end
  assert(c:wait(10000))
  return table.concat(out)
end

setup(function()
  folder = assert(process.mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/tidemill-broker-"))
end)
teardown(function()
  os.remove(folder .. "/address")
  os.remove(folder)
end)

describe("scripts/broker.lua", function()
  it("serves its topics until SIGTERM, then ends with 0", function()
    start "prices:3,other:1"
    assert.matches("^127%.0%.0%.1:%d+$", address)
    kafka_.fill(address, "prices", 3, 30)
    assert.equal(30, #broker_.records(address, "prices", 3))
    assert.equal(0, stop())
  end)

  it("ends by itself after --for", function()
    start("prices:1", "--for", "300ms")
    assert.equal(0, ended())
  end)

  it("says how topics are written", function()
    start "prices"
    assert.is_nil(address)
    assert.equal(2, ended())
  end)
end)

describe("kcat", function()
  local there = io.popen("command -v kcat"):read("l")

  it("produces, lists, consumes and joins a group", function()
    if not there then return pending("kcat is not installed") end
    start "prices:3"
    kcat({ "-P", "-t", "prices", "-K", ":" }, "a:1\nb:2\nc:3\n")
    assert.matches('topic "prices" with 3 partitions', kcat { "-L" })
    local lines = {}
    for line in kcat({ "-C", "-t", "prices", "-e", "-q", "-f", "%k=%s\n" }):gmatch("[^\n]+") do
      lines[#lines + 1] = line
    end
    table.sort(lines)
    assert.same({ "a=1", "b=2", "c=3" }, lines)
    assert.equal(3, #broker_.records(address, "prices", 3))
    local read = kcat {
      "-G", "kcat", "-q", "-c", "3", "-X", "auto.offset.reset=earliest", "-f", "%s\n", "prices",
    }
    assert.equal(3, select(2, read:gsub("\n", "\n")))
    assert.equal(0, stop())
  end)
end)
