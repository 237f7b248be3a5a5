local clock = require "host.clock"
local metrics = require "host.metrics"

--- The lines of the rendered text that hold `name`.
local function lines(name)
  local out = {}
  for line in metrics.render():gmatch("[^\n]+") do
    if line:find(name, 1, true) then out[#out + 1] = line end
  end
  return out
end

describe("a counter", function()
  it("adds whole numbers and is one series for one name and labels", function()
    local c = metrics.counter("spec_c_total", "Things counted.", { kind = "a" })
    c:add()
    c:add(41)
    assert.equal(42, c:value())
    assert.equal("integer", math.type(c:value()))
    assert.equal(42, metrics.counter("spec_c_total", "", { kind = "a" }):value())
    assert.equal(0, metrics.counter("spec_c_total", "", { kind = "b" }):value())
    assert.same({
      "# HELP spec_c_total Things counted.", "# TYPE spec_c_total counter",
      'spec_c_total{kind="a"} 42', 'spec_c_total{kind="b"} 0',
    }, lines("spec_c_total"))
  end)

  it("never falls and takes no fraction", function()
    local c = metrics.counter("spec_falls_total", "")
    assert.error_matches(function() c:add(-1) end, "a counter only grows")
    assert.error_matches(function() c:add(0.5) end, "no integer representation")
  end)
end)

describe("a gauge", function()
  it("is set and moved, and shows whole numbers plainly", function()
    local g = metrics.gauge("spec_gauge", "Level.")
    g:set(2.5)
    g:add(-0.25)
    assert.equal(2.25, g:value())
    assert.same({ "# HELP spec_gauge Level.", "# TYPE spec_gauge gauge", "spec_gauge 2.25" },
      lines("spec_gauge"))
    for value, text in pairs { [1e9] = "1000000000", [0.1] = "0.1", [1 / 3] = "0.33333333333333331",
                               [math.huge] = "+Inf", [-math.huge] = "-Inf" } do
      g:set(value)
      assert.equal("spec_gauge " .. text, lines("spec_gauge")[3])
    end
  end)
end)

describe("a histogram", function()
  it("renders cumulative buckets, sum and count", function()
    local h = metrics.histogram("spec_seconds", "Time.", { op = "x" }, { 0.1, 1 })
    for _, x in ipairs { 0.05, 0.1, 0.5, 3 } do h:observe(x) end
    assert.same({
      "# HELP spec_seconds Time.", "# TYPE spec_seconds histogram",
      'spec_seconds_bucket{op="x",le="0.1"} 2', 'spec_seconds_bucket{op="x",le="1"} 3',
      'spec_seconds_bucket{op="x",le="+Inf"} 4', 'spec_seconds_sum{op="x"} 3.65',
      'spec_seconds_count{op="x"} 4',
    }, lines("spec_seconds"))
    assert.equal(4, h:count())
    assert.equal(3.65, h:sum())
  end)

  it("tells quantiles finer than its buckets", function()
    local h = metrics.histogram("spec_quantile", "")
    assert.equal(0, h:quantile(0.5))
    for i = 1, 1000 do h:observe(i / 1000) end
    for _, q in ipairs { 0.01, 0.5, 0.9, 0.99, 1 } do
      assert.near(q, h:quantile(q), q * 0.016)
    end
    assert.is_true(h:quantile(0) > 0)
  end)

  it("bears values out of every range", function()
    local h = metrics.histogram("spec_wild", "", nil, { 1 })
    for _, x in ipairs { 0, -1, 1e300, math.huge, 0 / 0 } do h:observe(x) end
    assert.equal(4, h:count())
    assert.equal(0, h:quantile(0.25))
  end)

  it("keeps the buckets of its family", function()
    metrics.histogram("spec_family", "", { a = "1" }, { 1, 2 })
    metrics.histogram("spec_family", "", { a = "2" })
    assert.equal(3, #lines('spec_family_bucket{a="2"'))
    assert.error_matches(function() metrics.histogram("spec_family", "", nil, { 5 }) end,
      "bucket bounds")
  end)
end)

describe("metrics", function()
  it("escape label values and help", function()
    metrics.gauge("spec_escaped", 'a\\b"c\nd', { v = 'x\\y"z\nw' })
    local found = lines("spec_escaped")
    assert.equal('# HELP spec_escaped a\\\\b"c\\nd', found[1])
    assert.equal('spec_escaped{v="x\\\\y\\"z\\nw"} 0', found[3])
  end)

  it("sort labels, whatever the order they were given in", function()
    metrics.gauge("spec_sorted", "", { b = "1", a = "2", c = "3" })
    assert.equal('spec_sorted{a="2",b="1",c="3"} 0', lines("spec_sorted")[2])
  end)

  it("raise on misuse", function()
    metrics.counter("spec_kind", "")
    local cases = {
      { function() metrics.gauge("spec_kind", "") end, "taken by a metric of another kind" },
      { function() metrics.counter("1x", "") end, "1x: not a metric name" },
      { function() metrics.counter("spec_label", "", { ["a-b"] = "1" }) end, "a label name" },
      { function() metrics.counter("spec_label", "", { le = "1" }) end, "a label name" },
      { function() metrics.counter("spec_label", "", { a = 1 }) end, "must be strings" },
      { function() metrics.histogram("spec_b", "", nil, { 2, 1 }) end, "bucket bounds" },
      { function() metrics.histogram("spec_q", ""):quantile(2) end, "within 0 and 1" },
    }
    for _, case in ipairs(cases) do assert.error_matches(case[1], case[2]) end
  end)

  it("give a snapshot as data", function()
    metrics.counter("spec_snap_total", "", { x = "y" }):add(5)
    metrics.histogram("spec_snap_seconds", ""):observe(2)
    local found = {}
    for _, s in ipairs(metrics.snapshot()) do found[s.name] = s end
    assert.same({ name = "spec_snap_total", kind = "counter", labels = { x = "y" }, value = 5 },
      found.spec_snap_total)
    assert.equal(1, found.spec_snap_seconds.count)
    assert.near(2, found.spec_snap_seconds.p99, 0.032)
  end)

  it("include the process itself", function()
    local text = metrics.render()
    for _, name in ipairs { "process_cpu_seconds_total", "process_open_fds",
                            "process_resident_memory_bytes", "process_start_time_seconds" } do
      assert.is_true(tonumber(text:match("\n" .. name .. " (%S+)")) > 0)
    end
  end)

  it("tell of one start, whenever they are asked", function()
    local first
    local until_ms = clock.mono_ms() + 1100
    repeat
      local start = tonumber(metrics.render():match("\nprocess_start_time_seconds (%S+)"))
      first = first or start
      assert.near(first, start, 0.1)
      clock.sleep(10)
    until clock.mono_ms() > until_ms
  end)
end)
