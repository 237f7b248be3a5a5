local fault = require "mill.fault"
local instance = require "mill.instance"

-- A session that gives an answer after the other: a code of failure, or true.
local function session(answers)
  local s = { asked = {}, rolled = 0 }
  function s.bind(_, sql) return sql end
  function s.query(_, sql)
    s.asked[#s.asked + 1] = sql:match "^%a+"
    local answer = table.remove(answers, 1)
    if answer ~= true then return nil, "mysql: " .. answer, answer end
    return { rows = {} }
  end
  function s.rollback() s.rolled = s.rolled + 1 end
  return s
end

describe("the entry of an instance", function()
  local run = { name = "p", instance = "a", id = "r" }

  -- A run that was killed in the middle of a heartbeat holds the row until its server sees that.
  it("begins anew when the row is locked for long, or another one was first to write", function()
    local s = session { true, "LOCKWAIT", true, true, "DUPLICATE", true, true, true, true }
    instance.enter(s, run)
    assert.equal("start select start select insert start select insert commit", table.concat(s.asked, " "))
    assert.equal(2, s.rolled)
  end)

  it("gives up after ten times, and at once where the server refuses", function()
    local answers = {}
    for i = 1, 20 do answers[i] = i % 2 == 1 or "LOCKWAIT" end
    for _, s in ipairs { session(answers), session { true, "DENIED" } } do
      local ok, err = pcall(instance.enter, s, run)
      assert.is_false(ok)
      assert.equal(fault.SERVER, err.status)
      assert.matches("^instance: mysql: %u+$", err.message)
    end
    assert.same({}, answers)
  end)
end)
