-- The judge of `make soak` must catch what it is there for.
local ledger = require "spec.soak.ledger"
local process = require "host.process"
local sample = require "spec.soak.sample"
local verdict = require "spec.soak.verdict"
local wait = require "spec.support.wait"

-- 30 minutes of samples, each 5 s; `change` alters one.
local function series(change)
  local out = {}
  for i = 0, 359 do
    local s = { t = i * 5, rss_kb = 16000 + i % 7 * 20, heap_kb = 500 + i % 5 * 40,
                descriptors = 24, threads = 9 }
    if change then change(s, i) end
    out[#out + 1] = s
  end
  return out
end

local function problems(change)
  return table.concat(verdict.judge(series(change)).problems, "; ")
end

describe("the judge of a soak", function()
  it("finds nothing wrong with what is flat", function()
    local judged = verdict.judge(series())
    assert.same({}, judged.problems)
    assert.equal(16060, judged.rss.first)
    assert.equal(16060, judged.rss.last)
    assert.equal(24, judged.descriptors.peak)
    assert.equal("", problems(function(s, i) -- a warm-up, and one thread for a moment
      if i < 60 then s.rss_kb, s.threads = 9000 + 110 * i, 3 end
      if i == 200 then s.threads = s.threads + 1 end
    end))
  end)

  it("sees a leak of a byte a message", function()
    assert.matches("memory rises by 2%d+ KB", problems(function(s)
      s.rss_kb = s.rss_kb + s.t * 2000 / 1024
    end))
    assert.matches("the Lua heap rises by", problems(function(s)
      s.heap_kb = s.heap_kb + s.t * 2000 / 1024
    end), 1, true)
    assert.matches("memory ", problems(function(s, i)
      if i > 270 then s.rss_kb = s.rss_kb + 3000 end
    end), 1, true)
  end)

  it("sees a descriptor or a thread that stays, and many for a moment", function()
    assert.equal("descriptors rose from 24 to 25 (first and last quarter)",
      problems(function(s, i) if i > 250 then s.descriptors = 25 end end))
    assert.equal("threads rose from 9 to 10 (first and last quarter)",
      problems(function(s, i) if i > 250 then s.threads = 10 end end))
    assert.equal("30 threads at once, 9 as a rule",
      problems(function(s, i) if i == 100 then s.threads = 30 end end))
  end)

  it("does not judge a few samples", function()
    assert.same({ "only 1 samples to judge" }, verdict.judge({ series()[1] }).problems)
    assert.same({ "only 0 samples to judge" }, verdict.judge({}).problems)
  end)

  it("sees a real process that grows", function()
    local child <close> = assert(process.spawn {
      argv = { process.exe(), "exec", process.home() .. "/spec/soak/leaky.lua" },
      stdout = "pipe", env = { TIDEMILL_HOME = process.home() },
    })
    assert(child:read("stdout", 20000)) -- it has begun
    local samples, last = {}, nil
    for i = 1, 40 do
      samples[i] = wait("it to grow", function() -- it may get no time for a while
        local now = assert(sample.process(child:pid()))
        local more = not last or now.rss_kb >= last.rss_kb + 200
          and (i % 4 > 0 or now.descriptors > last.descriptors)
        return more and now
      end)
      last = samples[i]
      last.t = i / 20
    end
    child:kill("KILL")
    local text = table.concat(verdict.judge(samples).problems, "; ")
    assert.matches("memory rises by", text, 1, true)
    assert.matches("descriptors rose from", text, 1, true)
  end)
end)

describe("the ledger of a soak", function()
  local path
  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  it("tells a right table from a wrong one", function()
    local book = ledger.new(path, 10000)
    book:add("A", 5000, 100000001)
    book:add("A", 9999, 200000000)
    book:add("B", 10000, 100000001)
    book:add("B", 10001, 100000002)
    book:settle(10000)
    book:add("A", 19999, 1)
    book:close()
    assert.equal(5, book.count)
    local rows = {
      { 0, "A", 2, "3.00000001", "1.50000001", 1 }, -- 1.500000005, half away from zero
      { 10000, "B", 2, "2.00000003", "1.00000002", 1 }, { 10000, "A", 1, "0.00000001", "0.00000001", 1 },
    }
    local right, wrong, messages = ledger.compare(path, rows)
    assert.same({ 3, {}, 5 }, { right, wrong, messages })
    rows[1][3], rows[2][6] = 3, 0
    rows[3] = { 20000, "A", 1, "0.00000001", "0.00000001", 1 }
    right, wrong = ledger.compare(path, rows)
    assert.equal(0, right)
    assert.same({
      "0 A: 3 3.00000001 1.50000001 1 instead of 2 3.00000001 1.50000001 1 (samples, sum, average, "
        .. "final)",
      "10000 B: 2 2.00000003 1.00000002 0 instead of 2 2.00000003 1.00000002 1 (samples, sum, "
        .. "average, final)",
      "20000 A is no window of ours", "10000 A is missing",
    }, wrong)
  end)
end)
