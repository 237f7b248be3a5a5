local fault = require "mill.fault"
local folder_ = require "spec.support.folder"
local log = require "mill.log"
local logged_ = require "spec.support.logged"
local process = require "host.process"
local slow = require "spec.support.slow"
local spool = require "mill.spool"

local function run(...)
  local child <close> = assert(process.spawn {
    argv = { ... }, stdin = "null", stdout = "null", stderr = "null",
  })
  return assert(child:wait(10000)).code == 0
end

describe("mill.spool", function()
  local folder, lines, counts

  before_each(function()
    folder = folder_.make()
    lines = logged_.take()
  end)

  after_each(function()
    log.to(nil)
    folder_.clear(folder)
  end)

  local function open(o)
    o = o or {}
    counts = { failed = 0, dropped = 0 }
    return spool.open {
      path = o.path or folder .. "/s", limit = o.limit or 1000000000, name = folder, report = {
        failed = function(_, n) counts.failed = counts.failed + n end,
        dropped = function(_, n) counts.dropped = counts.dropped + n end,
        synced = function() end,
      },
    }
  end

  local function append(s, from, to)
    for i = from, to do s:append("t", "k", ("v%d"):format(i), 1000 + i, i) end
  end

  local function sync(s)
    repeat s:sync() until not s:wait(100) and s:ready() >= s.store:stats().next
  end

  local function read(s, max)
    local out = {}
    for i, m in ipairs(s:read(max or 100000)) do out[i] = m.value end
    return table.concat(out, " ")
  end

  local function expected(from, to)
    local out = {}
    for i = from, to do out[#out + 1] = "v" .. i end
    return table.concat(out, " ")
  end

  it("reads sizes", function()
    for text, bytes in pairs {
      ["1GB"] = 1000000000, ["1.5 MB"] = 1500000, ["65536"] = 65536, ["10kB"] = 10000, ["7B"] = 7,
    } do
      assert.equal(bytes, spool.size(text))
    end
    for _, text in ipairs { "", "GB", "-1", "1XB", "1 GB 2" } do assert.is_nil(spool.size(text)) end
  end)

  it("gives messages only when they are on disk, and again after a rewind", function()
    local s = open()
    append(s, 1, 5)
    assert.is_false(s:has_more())
    sync(s)
    assert.is_true(s:has_more())
    assert.equal("v1 v2", read(s, 2))
    assert.equal("v3 v4 v5", read(s))
    assert.is_false(s:has_more())
    s:acknowledge(3)
    s:rewind()
    assert.equal("v3 v4 v5", read(s))
    assert.equal(3, s:waiting())
    assert.equal(3, s:summary().waiting)
    s:close()
  end)

  it("begins where Kafka says, and not before", function()
    local s = open()
    s:acknowledge(1)
    append(s, 1, 10)
    sync(s)
    s:close()
    s = open()
    assert.equal(11, s.base)
    s:start(4)
    sync(s)
    assert.equal(expected(4, 10), read(s))
    s:close()
  end)

  it("begins behind what was acknowledged where Kafka has no position", function()
    local s = open()
    s:start(nil)
    append(s, 1, 10)
    sync(s)
    read(s)
    s:acknowledge(8)
    s:close()
    s = open()
    s:start(nil)
    sync(s)
    assert.equal(expected(8, 10), read(s))
    s:close()
  end)

  it("says when Kafka has forgotten what it acknowledged", function()
    local s = open()
    s:start(nil)
    append(s, 1, 10)
    sync(s)
    read(s)
    s:acknowledge(8)
    s:close()
    s = open()
    s:start(4)
    sync(s)
    assert.matches("ERROR .*acknowledged the messages below 8 and now knows of those below 4 only",
      table.concat(lines))
    assert.equal(expected(4, 10), read(s))
    s:close()
  end)

  -- The limit is reached while messages 1 to 100 are on their way.
  local function overfull()
    local s = open { limit = 200000 }
    s:start(nil)
    s:acknowledge(1)
    append(s, 1, 1000)
    sync(s)
    read(s, 100)
    local n = 1000
    while counts.dropped == 0 do
      n = n + 1
      append(s, n, n)
    end
    return s, s.store:stats().first
  end

  it("counts what was dropped on its way and did not arrive", function()
    local s, first = overfull()
    assert.equal(first - 101, counts.dropped)
    s:rewind()
    assert.equal(first - 1, counts.dropped)
    assert.equal(first - 1, s.dropped)
    assert.matches("messages 1%.%.100 %(100%) were on their way", table.concat(lines))
    s:rewind()
    s:start(1)
    assert.equal(first - 1, counts.dropped)
    s:close()
  end)

  it("does not count what was dropped on its way and arrived", function()
    local s, first = overfull()
    s:acknowledge(101)
    s:rewind()
    assert.equal(first - 101, counts.dropped)
    s:close()
    folder_.clear(folder .. "/s")
    s, first = overfull()
    s:start(101)
    assert.equal(first - 101, counts.dropped)
    s:close()
  end)

  it("takes a position beyond its end for an older copy, and goes on with what is new", function()
    local s = open()
    s:acknowledge(1)
    append(s, 1, 10)
    sync(s)
    s:close()
    s = open()
    append(s, 11, 12)
    s:start(1000)
    sync(s)
    assert.equal("v11 v12", read(s))
    assert.matches("ERROR .*Kafka has messages up to 999, this spool had only up to 10",
      table.concat(lines))
    -- A client that was begun anew: nothing was committed yet.
    append(s, 13, 14)
    s:start(1000)
    sync(s)
    assert.equal(expected(11, 14), read(s))
    s:acknowledge(12)
    s:start(12) -- and here it was
    assert.equal(expected(12, 14), read(s))
    s:close()
    s = open()
    s:start(12)
    sync(s)
    assert.equal(expected(12, 14), read(s))
    s:close()
  end)

  -- Kafka has the numbers up to 10, which were in memory only, or in a folder that is lost.
  it("takes nothing for sent that was appended before a transaction was committed", function()
    local s, n = open(), 3
    s:acknowledge(1)
    append(s, 1, 3)
    sync(s)
    s:close()
    -- Each of these is killed before its claim is committed; at last, the numbers go beyond.
    for round = 1, 4 do
      s = open()
      append(s, n + 1, n + 3)
      n = n + 3
      if round ~= 2 then s:start(11) end
      sync(s)
      if round ~= 2 then assert.equal(expected(4, n), read(s)) end
      s:close()
    end
    s = open()
    s:start(11)
    s:acknowledge(4) -- and this one right after it
    append(s, n + 1, n + 1)
    s:close()
    s = open()
    s:start(4)
    sync(s)
    assert.equal(expected(4, n + 1), read(s))
    s:acknowledge(11)
    s:close()
    s = open() -- as always from here on
    append(s, n + 2, n + 2)
    s:start(13)
    sync(s)
    assert.equal(expected(13, n + 2), read(s))
    s:close()
  end)

  it("takes nothing for sent when it comes back after another spool of its name, either", function()
    local s = open()
    append(s, 1, 5)
    s:start(nil, 11)
    sync(s)
    assert.equal(expected(1, 5), read(s))
    s:close()
    s = open()
    s:start(nil, 11)
    sync(s)
    assert.equal(expected(1, 5), read(s))
    s:acknowledge(1)
    s:close()
    s = open()
    s:start(nil, 4)
    sync(s)
    assert.equal("v4 v5", read(s))
    s:close()
  end)

  it("takes its own progress for no older copy", function()
    local s = open()
    s:start(nil)
    append(s, 1, 20)
    sync(s)
    read(s)
    s:acknowledge(11)
    s:start(11) -- a client that was begun anew
    assert.equal(expected(11, 20), read(s))
    assert.same({}, lines)
    s:close()
  end)

  it("drops the oldest when it is full, and counts what was not sent", function()
    local s = open { limit = 200000 }
    append(s, 1, 1000)
    sync(s)
    read(s, 100)
    s:acknowledge(51)
    local n = 1000
    while counts.dropped == 0 do
      n = n + 1
      append(s, n, n)
    end
    assert.is_true(s.store:stats().bytes <= 200000)
    assert.equal(s.store:stats().first - 101, counts.dropped) -- 51 to 100 are on their way
    assert.equal(1, #s:reasons())
    sync(s)
    assert.equal(expected(s.store:stats().first, n), read(s))
    s:acknowledge(n + 1)
    assert.same({ 0, {} }, { s:waiting(), s:reasons() })
    assert.matches("WARN .*the spool is full.*INFO .*has room again", table.concat(lines))
    s:close()
  end)

  it("refuses a second process", function()
    local s = open()
    local ok, err = pcall(open)
    assert.is_false(ok)
    assert.equal(fault.RUNNING, err.status)
    s:close()
    open():close()
  end)

  it("keeps memory flat while messages pile up", function()
    local s = open()
    append(s, 1, 1000)
    collectgarbage()
    collectgarbage()
    local kb, rss = collectgarbage "count", process.rss_kb()
    append(s, 1001, 101000)
    collectgarbage()
    collectgarbage()
    assert.is_true(collectgarbage "count" - kb < 200)
    -- A sanitizer keeps what was freed for a while.
    if slow == 1 then
      assert.is_true(process.rss_kb() - rss < 8000, process.rss_kb() - rss .. " kB more")
    end
    assert.equal(101000, s:waiting())
    s:close()
  end)

  describe("on a full disk", function()
    local disk

    before_each(function()
      disk = folder .. "/disk"
      assert(process.mkdir_p(disk))
      if not run("mount", "-t", "tmpfs", "-o", "size=200k", "none", disk) then
        disk = nil
      end
    end)

    after_each(function()
      if disk then run("umount", disk) end
    end)

    it("sends what it cannot write, in order, and is whole afterwards", function()
      if not disk then return pending "a tmpfs cannot be mounted here" end
      local filler = assert(io.open(disk .. "/filler", "w"))
      filler:write(("x"):rep(100000))
      filler:close()
      local s = open { path = disk .. "/s" }
      s:start(nil)
      s:acknowledge(1)
      local n = 0
      while not s.unwritable do
        n = n + 1
        append(s, n, n)
      end
      append(s, n + 1, n + 10)
      sync(s)
      assert.matches("the spool cannot be written: .*No space left", table.concat(lines))
      assert.matches("the spool cannot be written", s:reasons()[1])
      assert.equal(expected(1, n + 10), read(s)) -- on disk, then in memory
      s:acknowledge(n + 6)
      s:rewind()
      assert.equal(expected(n + 6, n + 10), read(s))
      assert.equal(11, s.unspooled)
      s:save() -- not yet
      assert.equal(5, s:summary().memory)
      -- There is room again: what waits is written, then the next.
      assert(os.remove(disk .. "/filler"))
      append(s, n + 11, n + 12)
      assert.is_nil(s.unwritable)
      sync(s)
      assert.equal("v" .. n + 11 .. " v" .. n + 12, read(s))
      s:close()
      s = open { path = disk .. "/s" }
      s:start(n + 6)
      sync(s)
      assert.equal(expected(n + 6, n + 12), read(s))
      assert.equal(0, counts.failed)
      s:close()
    end)

    it("takes what is in memory along into a later run, when there is room at the end", function()
      if not disk then return pending "a tmpfs cannot be mounted here" end
      local s = open { path = disk .. "/s" }
      s:start(nil)
      local n = 0
      while s.unspooled < 5 do
        n = n + 1
        append(s, n, n)
      end
      assert.equal(5, s:summary().memory)
      assert(run("mount", "-o", "remount,size=8m", disk))
      s:save()
      assert.equal(0, s:summary().memory)
      s:close()
      s = open { path = disk .. "/s" }
      s:start(1)
      sync(s)
      assert.equal(expected(1, n), read(s))
      s:close()
    end)

    it("sends what is in memory after all that is on disk, however much that is", function()
      if not disk then return pending "a tmpfs cannot be mounted here" end
      assert(run("mount", "-o", "remount,size=3m", disk))
      local s, long, n = open { path = disk .. "/s" }, ("x"):rep(2000), 0
      s:start(nil)
      repeat
        n = n + 1
        s:append("t", "k", n .. long, n, n)
      until s.unspooled == 5
      sync(s)
      local got = 0
      while s:has_more() do
        for _, m in ipairs(s:read(5000)) do
          got = got + 1
          assert.equal(got, m.seq)
        end
      end
      assert.equal(n, got)
      s:close()
    end)

    it("counts what fits nowhere", function()
      if not disk then return pending "a tmpfs cannot be mounted here" end
      local s = open { path = disk .. "/s" }
      s:start(nil)
      local n = 0
      while counts.failed < 5 do
        n = n + 1
        append(s, n, n)
      end
      assert.equal(5, s.lost)
      assert.equal(1000, s.unspooled)
      sync(s)
      assert.equal(expected(1, n - 5), read(s))
      s:close()
    end)
  end)
end)
