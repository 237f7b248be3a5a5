local process = require "host.process"
local spool = require "host.spool"

local function remove(path)
  for _, name in ipairs(process.list(path) or {}) do os.remove(path .. "/" .. name) end
  os.remove(path)
end

local function fill(s, from, to)
  for i = from, to do assert(s:append(i, "topic", "key" .. i, "value" .. i, 1000 + i, i)) end
end

describe("host.spool", function()
  local path

  before_each(function()
    path = assert(process.mkdtemp((os.getenv "TMPDIR" or "/tmp") .. "/tidemill-spool-"))
  end)

  after_each(function() remove(path) end)

  it("gives back what was appended, once it is asked for", function()
    local s <close> = assert(spool.open { path = path })
    assert.same({ true, 1, 1, 0 }, { s:stats().new, s:stats().first, s:stats().next,
                                     s:stats().position })
    fill(s, 1, 3)
    assert(s:append(7, "", "", "a\0b", -1, 0))
    local list, next_ = assert(s:read(1, 100, 10))
    assert.equal(8, next_)
    assert.same({ seq = 2, topic = "topic", key = "key2", value = "value2", stamp_ms = 1002,
                  since_us = 2 }, list[2])
    assert.same({ seq = 7, topic = "", key = "", value = "a\0b", stamp_ms = -1, since_us = 0 },
      list[4])
    list, next_ = s:read(2, 3, 10)
    assert.same({ 1, 3 }, { #list, next_ })
    list, next_ = s:read(1, 100, 2)
    assert.same({ 2, 3 }, { #list, next_ })
    list = s:read(1, 100, 10, 1)
    assert.equal(1, #list)
    assert.same({ {}, 8 }, { s:read(8, 100, 10) })
    assert.same({ { kind = "missing", file = ("%020d.seg"):format(1), offset = 138, bytes = 0,
                    from = 4, to = 6 } }, (function()
      local losses = s:losses()
      losses[1].offset = 138
      return losses
    end)())
  end)

  it("syncs on a thread of its own", function()
    local s <close> = assert(spool.open { path = path })
    assert.equal("idle", s:wait())
    assert.equal(1, s:synced())
    fill(s, 1, 10)
    assert.is_true(s:sync())
    local state, us
    repeat state, us = s:wait(100) until state ~= "working"
    assert.equal("done", state)
    assert.is_true(us >= 0)
    assert.equal(11, s:synced())
    assert.equal("idle", s:wait(100))
    assert.is_true(s:sync())
    assert.equal("idle", s:wait(0)) -- there was nothing to sync
  end)

  it("keeps its records, its name and its position", function()
    local s = assert(spool.open { path = path, segment_bytes = 1024 })
    fill(s, 1, 100)
    local id = s:stats().id
    assert.matches("^%x+$", id)
    assert.equal(32, #id)
    assert(s:acknowledge(61))
    assert.is_true(s:stats().first > 40 and s:stats().first <= 61)
    s:close()
    s:close()
    s = assert(spool.open { path = path, segment_bytes = 1024 })
    local stats = s:stats()
    assert.same({ id, 101, 61, false }, { stats.id, stats.next, stats.position, stats.new })
    assert.equal(40, #s:read(61, 1000, 1000))
    assert.is_true(s:drop() > stats.first)
    assert.same({}, s:losses())
    s:close()
  end)

  it("cuts a torn record off, and says where", function()
    local s = assert(spool.open { path = path })
    fill(s, 1, 3)
    local bytes = s:stats().bytes
    s:close()
    local name = ("%020d.seg"):format(1)
    local file = assert(io.open(path .. "/" .. name, "ab"))
    file:write("\xF5TM\xFA\x10\0\0\0")
    file:close()
    s = assert(spool.open { path = path })
    assert.same({ { kind = "torn", file = name, offset = bytes, bytes = 8 } }, s:losses())
    assert.equal(3, #s:read(1, 100, 100))
    s:close()
  end)

  it("reads to its end over a damaged last record", function()
    local s = assert(spool.open { path = path })
    fill(s, 1, 3)
    local file = assert(io.open(path .. "/" .. ("%020d.seg"):format(1), "r+b"))
    file:seek("set", s:stats().bytes - 1)
    file:write "X"
    file:close()
    local list, next_ = s:read(1, 100, 10)
    assert.same({ 2, 4 }, { #list, next_ })
    assert.same({ 3, 3 }, { s:losses()[1].from, 3 })
    assert.same({ {}, 4 }, { s:read(next_, 100, 10) })
    s:close()
  end)

  it("has a place for its position before the disk is full", function()
    local s = assert(spool.open { path = path })
    assert.equal(28, process.stat(path .. "/position").size)
    s:close()
  end)

  it("says what cannot be opened", function()
    for what, code in pairs { ["/nowhere"] = "NOENT", ["/file"] = "IO" } do
      local file = assert(io.open(path .. "/file", "w"))
      file:close()
      local s, message, got = spool.open { path = path .. what }
      assert.same({ nil, code }, { s, got }, what)
      assert.matches("^spool: " .. code .. ": ", message)
    end
  end)

  it("refuses misuse", function()
    assert.has_error(function() spool.open { path = path, size = 1 } end)
    assert.has_error(function() spool.open {} end)
    local s = assert(spool.open { path = path })
    fill(s, 1, 2)
    assert.has_error(function() s:append(2, "t", "k", "v", 0, 0) end)
    assert.has_error(function() s:append(3, ("t"):rep(256), "k", "v", 0, 0) end)
    assert.has_error(function() s:append(3, "t", ("k"):rep(65536), "v", 0, 0) end)
    assert.has_error(function() s:append(3, "t", "k", ("v"):rep(1 << 20), 0, 0) end)
    assert.has_error(function() s:read(0, 1, 1) end)
    assert.has_error(function() s:acknowledge(0) end)
    s:close()
    assert.has_error(function() s:stats() end, "attempt to use a closed spool")
  end)
end)
