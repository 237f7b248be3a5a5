--- A short run of fuzz/modules.lua; `make fuzz TARGETS=modules` is the long
-- one, with seeds of its own. Under `make asan` it runs with the sanitizers.
local bound = require "spec.support.bound"
local clock = require "host.clock"
local process = require "host.process"

local function run(...)
  local child <close> = assert(process.spawn {
    argv = { assert(process.exe()), "exec", "fuzz/modules.lua", ... }, stdout = "pipe",
    stderr = "stdout", env = { TIDEMILL_HOME = process.home() },
  })
  local out, deadline = {}, clock.mono_ms() + 300000
  while true do
    assert(clock.mono_ms() < deadline, "it did not end in time")
    local bytes = child:read("stdout", 100)
    if not bytes then break end
    out[#out + 1] = bytes
  end
  return table.concat(out), assert(child:wait(10000)).code
end

describe("the modules", function()
  it("take random values without crash, hang or leak", function()
    if (os.getenv("TIDEMILL_LEAVE_OUT") or ""):find("child", 1, true) then
      pending("no child can be started here")
      return
    end
    local text, code = run("1000", "20240810")
    assert.equal(0, code, text)
    assert.truthy(text:find(" 0 findings", 1, true), text)
  end)
end)

describe("the mask", function()
  it("takes its time by the length of the text, not by its square", function()
    local mask = require "mill.mask"
    mask.hide("a-secret-that-repeats")
    bound.within(5000, "the mask", function()
      mask.mask(("x"):rep(300000))
      mask.mask(("a-secret-that-repeats"):rep(20000))
    end)
    assert.equal("password=*** u://a:***@h", mask.mask("password=abc u://a:b@h"))
  end)
end)

describe("a csv picker", function()
  local csv = require "mill.csv"

  it("gives all columns, also more than eight", function()
    local names = {}
    for i = 1, 12 do names[i] = "c" .. i end
    local pick = csv.picker(assert(csv.header(table.concat(names, ","), names)), 12, names)
    assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 },
      (function(...) local t = { ... } for i = 1, #t do t[i] = tonumber(t[i]) end return t end)(
        pick("1,2,3,4,5,6,7,8,9,10,11,12")))
  end)

  it("is not made for more columns than a line has", function()
    assert.has_error(function() csv.picker({}, 1 << 40, {}) end,
      "count must be 1 to 10000, got 1099511627776")
  end)
end)
