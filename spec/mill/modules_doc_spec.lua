-- doc/modules.md has one entry for each function of the host's modules, doc/libraries.md only
-- entries of functions that exist.

local process = require "host.process"

local home = process.home()

local function read(path)
  local file = assert(io.open(home .. "/" .. path, "r"))
  local text = file:read("a")
  file:close()
  return text
end

-- How the page calls a handle, by the name of its type.
local HANDLES = {
  batch = "batch", digest = "digest", ["line reader"] = "reader", ["kafka reader"] = "reader",
  ["http client"] = "client",
  ["http server"] = "server",
  ["control socket"] = "server", decoder = "decoder", broker = "broker", admin = "admin",
  consumer = "consumer", producer = "producer", counter = "counter", gauge = "gauge",
  histogram = "histogram", ["mysql connection"] = "db", ["mysql statement"] = "statement",
  ["child process"] = "child", ["window store"] = "store", spool = "spool",
}

-- Types of other libraries that busted brings.
local FOREIGN = {
  ["directory metatable"] = true, ["lock metatable"] = true,
}

-- The types in the registry, with the names of their methods but close.
local function types()
  local out = {}
  for name, meta in pairs(debug.getregistry()) do
    local methods = type(name) == "string" and type(meta) == "table" and rawget(meta, "__name")
      and rawget(meta, "__index")
    if type(methods) == "table" and name ~= "FILE*" then
      local list = {}
      for method in pairs(methods) do
        if type(method) == "string" and method ~= "close" and method:find("^%l") then
          list[#list + 1] = method
        end
      end
      if #list > 0 then out[name] = list end
    end
  end
  return out
end

local function modules()
  local out = {}
  for name in pairs(package.preload) do
    local short = name:match("^host%.(%l+)$")
    if short then out[short] = require(name) end
  end
  return out
end

local function headings(text)
  local out = {}
  for title in text:gmatch("\n#### ([^\n]+)") do out[title] = true end
  return out
end

describe("doc/modules.md", function()
  local text = read "doc/modules.md"
  local told = headings(text)

  it("has a section for each module", function()
    for name in pairs(modules()) do
      assert(text:find("\n## host." .. name .. "\n", 1, true), "no section for host." .. name)
    end
  end)

  it("has an entry for each function and method, and no other", function()
    local there = {}
    for name, module in pairs(modules()) do
      for key in pairs(module) do there[name .. "." .. key] = true end
    end
    for name, methods in pairs(types()) do
      local handle = HANDLES[name]
      assert(handle or FOREIGN[name], "HANDLES does not know the type " .. name)
      if handle then
        for _, method in ipairs(methods) do there[handle .. ":" .. method] = true end
      end
    end
    for name in pairs(there) do assert(told[name], "no entry for " .. name) end
    for name in pairs(told) do assert(there[name], "there is no " .. name) end
  end)

  it("begins each entry with its syntax", function()
    for title, line in text:gmatch("\n#### ([^\n]+)\n([^\n]+)\n") do
      local name = title:match("[.:]([%w_]+)$")
      assert(line:find("`", 1, true) and line:find(name, 1, true) or line:find("^As ")
        or line:find("^The ") or line:find("^An integer"), title .. ": " .. line)
    end
  end)
end)

describe("doc/libraries.md", function()
  local text = read "doc/libraries.md"

  it("names functions that exist", function()
    local count = 0
    for title in pairs(headings(text)) do
      local library, name = title:match("^(%l+)%.([%w_]+)$")
      if library then
        local module = require("mill." .. library)
        assert(module[name] ~= nil, "there is no mill." .. title)
        count = count + 1
      else
        local method = assert(title:match("^session:(%l+)$"), title)
        assert(require("mill.session").new({})[method], "there is no " .. title)
      end
    end
    assert.is_true(count > 50)
  end)

  it("has a task that can be shown", function()
    local code = assert(text:match("\n```lua\n(%-%-%- .-)\n```"))
    local task = assert(load(code, "task", "t"))()
    assert.is_function(task.run)
    assert.are.equal("limit", task.settings[1][1])
  end)
end)
