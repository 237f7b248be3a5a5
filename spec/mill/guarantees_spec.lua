-- doc/guarantees.md names files that exist, and its tables are whole.

local process = require "host.process"

local function read(path)
  local file = assert(io.open(path, "r"))
  local text = file:read("a")
  file:close()
  return text
end

describe("the page of guarantees", function()
  local home = process.home()
  local text = read(home .. "/doc/guarantees.md")

  it("names files that exist", function()
    local seen = 0
    for path in text:gmatch("`(%l+/[%w_./]+%.%l+)`") do
      assert(process.stat(home .. "/" .. path), path .. " does not exist")
      seen = seen + 1
    end
    assert.is_true(seen > 30)
  end)

  it("names a test for each guarantee", function()
    for line in text:gmatch("[^\n]+") do
      if line:find("^| ") and not line:find("proved by", 1, true) then
        local cells = {}
        for cell in line:gmatch("|([^|]*)") do cells[#cells + 1] = cell end
        if #cells == 4 and not line:find("| run |", 1, true) and not line:find("`make ", 1, true) then
          assert(cells[3]:find("`spec/", 1, true), line)
        end
      end
    end
  end)

  it("names targets that the Makefile has", function()
    local makefile = read(home .. "/Makefile")
    for target in text:gmatch("`make (%l+)") do
      assert(makefile:find("\n" .. target .. ":", 1, true), "make " .. target)
    end
  end)
end)
