describe("the Lua heap", function()
  local heap = require "host.heap"

  after_each(function() heap.limit(0) end)

  it("is limited: what does not fit raises, and the program goes on", function()
    collectgarbage()
    heap.limit(heap.used() + (8 << 20))
    local ok, message = pcall(string.rep, "x", 64 << 20)
    assert.is_false(ok)
    assert.equal("not enough memory", message)
    heap.limit(0)
    assert.equal(64 << 20, #("x"):rep(64 << 20))
  end)

  it("counts back to where it was", function()
    collectgarbage()
    collectgarbage()
    local before = heap.used()
    for _ = 1, 1000 do local _ = { {} } end
    collectgarbage()
    collectgarbage()
    assert.is_true(math.abs(heap.used() - before) < 65536)
  end)

  it("refuses a negative limit", function()
    assert.has_error(function() heap.limit(-1) end)
  end)
end)
