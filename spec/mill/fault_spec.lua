local fault = require "mill.fault"

describe("fault.traced", function()
  local function caught(f) return select(2, xpcall(f, fault.traced)) end

  it("leaves a fault what it is, and shows where anything else was raised", function()
    local f = fault.new(fault.USAGE, "no such %s", "thing")
    assert.equal(f, caught(function() error(f, 0) end))
    local function place() error("broken", 0) end
    assert.matches("^broken\nstack traceback:.*in [^\n]*'place'", caught(function()
      place()
      return 1
    end))
    assert.matches("^nil\nstack traceback:", caught(function() error(nil) end))
  end)

  it("shows where a task was that died of it", function()
    local function place() error("broken", 0) end
    local task = coroutine.create(function()
      place()
      return 1
    end)
    local _, err = coroutine.resume(task)
    assert.matches("^broken\nstack traceback:.*in [^\n]*'place'", fault.traced(err, task))
  end)

  it("traces once, however often it is handed on", function()
    local text = caught(function() error("broken", 0) end)
    assert.equal(text, caught(function() error(text, 0) end))
  end)

  it("names the place also as the last word of another handler", function()
    local function place() error("broken", 0) end
    local _, text = xpcall(function()
      place()
      return 1
    end, function(err) return fault.traced(err) end)
    assert.matches("^broken\nstack traceback:\n[^\n]*%[C%]: in function 'error'", text)
  end)
end)
