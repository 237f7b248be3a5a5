local log = require "mill.log"
local logged_ = require "spec.support.logged"

describe("log", function()
  local lines

  before_each(function()
    lines = logged_.take()
  end)
  after_each(function() log.to(nil) end)

  it("says a trouble once, and when it is over how often it was", function()
    for _ = 1, 3 do log.trouble("disk", "no room on %s", "var") end
    assert.is_true(log.in_trouble "disk")
    log.over("disk", "room again")
    log.over("disk", "room again")
    assert.is_false(log.in_trouble "disk")
    assert.equal(2, #lines)
    assert.matches(" WARN [%w_]+: no room on var\n$", lines[1])
    assert.matches(" INFO [%w_]+: room again %(3 times in %d+%.%d s%)\n$", lines[2])
  end)

  -- Found by fuzz/modules.lua: a table as a key stayed for good, with all that it held.
  it("names a trouble by a string, and keeps nothing else", function()
    local weak = setmetatable({ {} }, { __mode = "v" })
    for _, name in ipairs { "trouble", "over", "in_trouble" } do
      assert.error_matches(function() log[name](weak[1], "text") end,
        "log: KEY: a trouble is named by a string, not by a table", 1, true)
    end
    collectgarbage()
    assert.is_nil(weak[1])
    assert.same({}, lines)
  end)

  it("does not count a trouble that it could not say", function()
    assert.has_error(function() log.trouble("half", "%d", "no number") end)
    assert.is_false(log.in_trouble "half")
  end)
end)
