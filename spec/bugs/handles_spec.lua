--- Handles given to functions of another kind, and what runs in the middle of a call. Each of these
-- ended the process, or read memory that was no longer there, before it was mended.
local batch = require "host.batch"
local clock = require "host.clock"
local digest = require "host.digest"
local http = require "host.http"
local json = require "host.json"
local process = require "host.process"
local window = require "host.window"

local function decoded(fields, value)
  local b = batch.new()
  b:add { partition = 0, offset = 0, value = value }
  local decoder <close> = json.decoder { fields = fields, extra = 0 }
  decoder:decode(b)
  return b
end

local STRING = { { name = "s", type = "string" } }
local SHAPE = { { name = "s", type = "string" } }

describe("a handle", function()
  it("is closed by its own kind's close only", function()
    local d <close> = digest.sha256()
    local file <close> = assert(io.tmpfile())
    assert.has_error(function() d.close(file) end)
    assert.has_error(function() d.close(nil) end)
    assert.has_error(function() d.close(batch.new()) end)
    file:write("still open")
  end)

  it("ends and shows nothing that it is not", function()
    local meta = getmetatable(digest.sha256())
    local file <close> = assert(io.tmpfile())
    meta.__gc(file)
    meta.__close(nil)
    setmetatable({}, { __gc = meta.__gc })
    collectgarbage()
    assert.has_error(function() meta.__tostring(file) end)
    assert.has_error(function() meta.__tostring(nil) end)
    file:write("still open")
  end)
end)

describe("a table of options", function()
  it("is not asked through its metatable", function()
    local fresh = setmetatable({}, { __index = function() return ("x"):rep(1000) end })
    local server <close> = assert(http.server(fresh))
    assert.is_true(server:port() > 0)
  end)

  it("is as long as it is, whatever its metatable says", function()
    for _, n in ipairs { -1, -5, (1 << 61) - 1, math.mininteger } do
      local argv = setmetatable({}, { __len = function() return n end })
      assert.has_error(function() process.spawn { argv = argv } end)
      assert.has_error(function()
        process.spawn { argv = { "true" }, pass_fds = argv, cwd = {} }
      end)
      assert.same({}, (process.wait_fds(argv, 0)))
      assert.has_error(function() json.decoder { fields = argv } end)
      batch.shape(argv)
    end
  end)

  it("holds no NUL where a text ends at one", function()
    assert.has_error(function() http.server { address = "127.0.0.1\0.example" } end,
      "option 'address' contains a NUL")
  end)
end)

describe("a development broker", function()
  it("has no partitions below zero", function()
    local dev <close> = assert(require("host.kafka").broker { topics = { { name = "t" } } })
    for _, partition in ipairs { -1, -(1 << 31), 1 << 30, math.mininteger } do
      assert.has_error(function() dev:leader("t", partition, 1) end)
    end
  end)
end)

describe("a row", function()
  it("is gone with its batch, also after an error in the function", function()
    local b = decoded(STRING, '{"s":"abc"}')
    local stolen
    assert.has_error(function()
      b:apply(batch.shape(SHAPE), function(row)
        stolen = row
        error "on the way"
      end, nil, {})
    end)
    b:close()
    assert.has_error(function() return stolen.s end,
      "a row is only valid inside the function it was given to")
  end)

  it("does not outlive a batch that its function closes or empties", function()
    for _, name in ipairs { "close", "reset" } do
      local b = decoded(STRING, '{"s":"abc"}')
      assert.has_error(function()
        b:apply(batch.shape(SHAPE), function() b[name](b) end, nil, {})
      end)
    end
  end)

  it("has no text where the decoder put a number", function()
    local b <close> = decoded({ { name = "s", type = "integer" } }, '{"s":123456789012345}')
    assert.has_error(function()
      b:apply(batch.shape(SHAPE), function(row) return row.s end, nil, {})
    end)
  end)

  it("takes no batch that was not decoded", function()
    local b <close> = decoded(STRING, '{"s":"abc"}')
    for i = 1, 1000 do b:add { partition = 0, offset = i, value = "" } end
    assert.has_error(function() b:apply(batch.shape(SHAPE), nil, function() end, {}) end)
  end)

  it("takes no scale that a decimal has not", function()
    for _, scale in ipairs { -1, 39, 1 << 31, math.mininteger } do
      assert.has_error(function()
        batch.shape { { name = "s", type = "decimal", precision = 38, scale = scale } }
      end)
    end
  end)
end)

describe("a window store", function()
  local function store(part, out)
    return window.store { time = 0, windows = { {
      size_ms = 1000, lateness_ms = 0, key = 1, parts = { part }, outs = { out },
    } } }
  end

  it("takes no batch without the cells it reads", function()
    local s <close> = store({ op = "sum", cell = 900 }, { kind = "sum", part = 0 })
    s:open(0, 0)
    local b <close> = batch.new()
    b:add { partition = 0, offset = 0, value = "{}" }
    assert.has_error(function() s:add(b, clock.wall_ms()) end)
    local c <close> = decoded(STRING, '{"s":"abc"}')
    assert.has_error(function() s:add(c, clock.wall_ms()) end)
  end)

  it("has places of first and last only", function()
    assert.has_error(function()
      store({ op = "min", cell = 0 }, { kind = "place", part = 0 })
    end, "kind 'place' is of a part 'first' or 'last'")
  end)

  it("puts no row into more windows than can be counted", function()
    assert.has_error(function()
      window.store { windows = { { size_ms = 1 << 60, hop_ms = 1, parts = {}, outs = {} } } }
    end, "option 'hop_ms': a row would be in more than 10000 windows")
  end)

  it("is not taken beyond the calendar", function()
    local s <close> = store({ op = "min", cell = 0 }, { kind = "value", part = 0 })
    assert.has_error(function() s:open(0, 0, math.maxinteger) end)
    local b <close> = batch.new()
    assert.has_error(function() s:add(b, math.mininteger) end)
  end)
end)
