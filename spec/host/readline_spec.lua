local process = require "host.process"
local readline = require "host.readline"

describe("readline.call", function()
  it("returns what the function returns", function()
    assert.same({ true, 1, nil, 3, n = 4 },
      table.pack(readline.call(function(...) return ... end, 1, nil, 3)))
  end)

  it("returns an error with its traceback, and whether it was an interrupt", function()
    local ok, message, interrupted = readline.call(function() error("boom") end)
    assert.is_false(ok)
    assert.truthy(message:find("boom\nstack traceback:", 1, true))
    assert.is_false(interrupted)
  end)

  it("forgets an interrupt, before and after", function()
    process.raise_stop()
    assert.is_true(readline.call(function() for _ = 1, 100000 do end end))
    local ok, _, interrupted = readline.call(function()
      process.raise_stop()
      while true do pcall(function() while true do end end) end
    end)
    assert.is_false(ok)
    assert.is_true(interrupted)
    assert.equal(0, process.stop_requested())
  end)
end)

describe("readline.loop", function()
  it("goes on until its step says no, also over interrupts", function()
    local n = 0
    readline.loop(function()
      n = n + 1
      if n == 2 then
        process.raise_stop()
        while true do end
      end
      return n < 5
    end)
    assert.equal(5, n)
  end)

  it("raises an error of its step", function()
    local ok, message = pcall(readline.loop, function() error("broken", 0) end)
    assert.is_false(ok)
    assert.truthy(message:find("^broken"))
  end)
end)

describe("the history", function()
  it("drops a repetition of the newest entry", function()
    assert.is_true(readline.add("one"))
    assert.is_true(readline.add("two\nlines"))
    assert.is_false(readline.add("two\nlines"))
    local list = readline.history()
    assert.same({ "one", "two\nlines" }, { list[#list - 1], list[#list] })
  end)
end)

describe("readline.append", function()
  it("appends to a file that only its owner reads, whatever it was", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write("a\n")
    file:close()
    os.execute("chmod 644 " .. path)
    assert.is_true(readline.append(path, "b\n"))
    assert.equal("600", ("%o"):format(process.stat(path).mode & 511))
    file = assert(io.open(path))
    assert.equal("a\nb\n", file:read("a"))
    file:close()
    os.remove(path)
  end)

  it("says why it cannot", function()
    local ok, message, code = readline.append("/nonexistent/x", "y")
    assert.same({ nil, "readline: IO: /nonexistent/x: No such file or directory", "IO" },
      { ok, message, code })
  end)
end)
