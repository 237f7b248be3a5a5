--- Allocation failure at each step of every module function, in short: spec/heap/steps.lua run by
-- the program that `make test` and `make asan` link for it. `make fuzz TARGETS=heap` is the long one,
-- with Kafka's.
local clock = require "host.clock"
local process = require "host.process"
local slow = require "spec.support.slow"

local program = assert(process.exe()) .. "-heap"

describe("a module function without memory", function()
  it("raises or returns so, at whatever step, and works again", function()
    if (os.getenv("TIDEMILL_LEAVE_OUT") or ""):find("child", 1, true) then
      pending("no child can be started here")
      return
    end
    if not process.stat(program) then
      pending("there is no " .. program .. "; make it")
      return
    end
    local child <close> = assert(process.spawn {
      argv = { program, "exec", "spec/heap/steps.lua", "60" }, stdout = "pipe", stderr = "stdout",
      env = { TIDEMILL_HOME = process.home() },
    })
    local out, deadline = {}, clock.mono_ms() + 300000 * slow
    while true do
      assert(clock.mono_ms() < deadline, "it did not end in time")
      local bytes = child:read("stdout", 100)
      if not bytes then break end
      out[#out + 1] = bytes
    end
    local text = table.concat(out)
    assert.equal(0, assert(child:wait(10000)).code, text)
    assert.truthy(text:find(": 0 findings", 1, true), text)
  end)
end)
