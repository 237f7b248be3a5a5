-- The window store: lateness row by row, sealing, merging back, the SQL rows.

describe("a window store", function()
  local batch = require "host.batch"
  local json = require "host.json"
  local window = require "host.window"

  local MINUTE = 60000
  local NOW = 1800000000000
  local FIELDS = {
    { name = "price", type = "decimal", precision = 20, scale = 8 },
    { name = "symbol", type = "string" },
    { name = "time", type = "time", unit = "ms" },
  }
  local OUTS = {
    { kind = "key" }, { kind = "start" }, { kind = "end" },
    { kind = "avg", part = 0, scale = 8, column_scale = 8 }, { kind = "sum", part = 0, scale = 8 },
    { kind = "count" }, { kind = "late" }, { kind = "final" },
  }
  local decoder = json.decoder { fields = FIELDS }

  local function store(change)
    local kind = {
      size_ms = MINUTE, lateness_ms = 5 * MINUTE, key = 1, parts = { { op = "sum", cell = 0 } },
      outs = OUTS,
    }
    for key, value in pairs(change or {}) do kind[key] = value end
    return window.store { time = 2, max_delay_ms = 0, max_future_ms = MINUTE, windows = { kind } }
  end

  -- Add { partition, offset, time_ms, price, symbol } rows; returns store:add's counts.
  local function add(s, ...)
    local b <close> = batch.new()
    for _, row in ipairs { ... } do
      b:add { partition = row[1], offset = row[2], stamp_ms = row[3], value =
        ('{"symbol":"%s","price":"%s","time":%d}'):format(row[5] or "A", row[4] or "1", row[3]) }
    end
    decoder:decode(b)
    return s:add(b, NOW)
  end

  local function rendered(s)
    return (s:render(1, math.mininteger, 1, 1000, 1 << 20))
  end

  it("judges a row by the rows before it, then lets it move the watermark", function()
    local s <close> = store()
    s:open(0, 0)
    local counts = table.pack(add(s, { 0, 0, 0 }, { 0, 1, 7 * MINUTE }, { 0, 2, 2 * MINUTE },
      { 0, 3, 1000 }))
    -- counted, dead, late, too_late: [0,1m) ended 6 minutes before 7m, [2m,3m) ended 4 before.
    assert.same({ 3, 0, 1, 1, 0, 0, 0 }, { table.unpack(counts, 1, 7) })
    assert.equal(7 * MINUTE, s:state(0).watermark_ms)
    s:seal()
    local notes = s:notes(0, 1, 100)
    assert.same({ 1, "too-late", 3, 0, 6 * MINUTE, "A" }, { #notes, notes[1].code, notes[1].offset,
      notes[1].start_ms, notes[1].lateness_ms, notes[1].row_key })
  end)

  it("knows how far behind the newest row is that is not sealed", function()
    local s <close> = store()
    s:open(0, 0)
    s:open(1, 0)
    assert.equal(0, s:behind(NOW)) -- nothing is known
    add(s, { 0, 0, MINUTE }, { 0, 1, 3 * MINUTE })
    assert.equal(7 * MINUTE, s:behind(10 * MINUTE))
    add(s, { 1, 0, 2 * MINUTE })
    assert.equal(7 * MINUTE, s:behind(10 * MINUTE))
    assert.equal(0, s:behind(MINUTE)) -- Kafka's clock may be ahead
    local b <close> = batch.new()
    b:finish(1, 1)
    s:add(b, NOW)
    assert.equal(7 * MINUTE, s:behind(10 * MINUTE)) -- the other goes on
    b:finish(0, 2)
    s:add(b, NOW)
    assert.equal(0, s:behind(10 * MINUTE)) -- all have reached their ends
    s:seal()
    s:settle()
    assert.equal(0, s:behind(10 * MINUTE))
    add(s, { 0, 2, 4 * MINUTE })
    assert.equal(6 * MINUTE, s:behind(10 * MINUTE))
  end)

  it("is late exactly from the window's end on, too late exactly from lateness on", function()
    local s <close> = store()
    s:open(0, 0)
    local _, _, late = add(s, { 0, 0, MINUTE - 1 }, { 0, 1, 0 })
    assert.equal(0, late)
    _, _, late = add(s, { 0, 2, MINUTE }, { 0, 3, 0 })
    assert.equal(1, late)
    local _, _, _, too_late = add(s, { 0, 4, 6 * MINUTE - 1 }, { 0, 5, 0 })
    assert.equal(0, too_late)
    _, _, _, too_late = add(s, { 0, 6, 6 * MINUTE }, { 0, 7, 0 })
    assert.equal(1, too_late)
  end)

  it("keeps a watermark for each partition", function()
    local s <close> = store()
    s:open(0, 0)
    s:open(1, 0)
    local _, _, late, too_late = add(s, { 0, 0, 100 * MINUTE }, { 1, 0, 0 })
    assert.same({ 0, 0 }, { late, too_late })
  end)

  it("merges partitions, sorts by key and window, and rounds half away from zero", function()
    local s <close> = store()
    s:open(0, 0)
    s:open(1, 0)
    add(s, { 0, 0, 0, "0.00000001", "A" }, { 0, 1, MINUTE, "1", "B" },
      { 1, 0, 1, "0.00000002", "A" }, { 1, 1, MINUTE, "-0.00000001", "A" },
      { 0, 2, MINUTE, "-0.00000002", "A" })
    s:seal()
    assert.equal(table.concat({
      "('A','1970-01-01 00:00:00','1970-01-01 00:01:00',0.00000002,0.00000003,2,0,0)",
      "('A','1970-01-01 00:01:00','1970-01-01 00:02:00',-0.00000002,-0.00000003,2,0,0)",
      "('B','1970-01-01 00:01:00','1970-01-01 00:02:00',1.00000000,1.00000000,1,0,0)",
    }, ","), rendered(s))
  end)

  it("fills one buffer while the other is sealed, and merges a failed one back", function()
    local s <close> = store()
    s:open(0, 0)
    add(s, { 0, 0, 0, "1" })
    local sealed = s:seal()
    assert.same({ 1, 1, 0, 1 }, { #sealed, sealed[1].position, sealed[1].last_offset,
      sealed[1].counted })
    add(s, { 0, 1, 1, "2" })
    assert.has_error(function() s:seal() end, "window store: already sealed")
    s:unseal()
    sealed = s:seal()
    assert.same({ 2, 1, 2 }, { sealed[1].position, sealed[1].last_offset, sealed[1].counted })
    assert.truthy(rendered(s):find(",1.50000000,3.00000000,2,", 1, true))
    s:settle()
    assert.same({}, s:seal())
  end)

  it("seals some partitions in turn when there is a limit of rows", function()
    local s <close> = store()
    for p = 0, 2 do s:open(p, 0) end
    add(s, { 0, 0, 0, "1" }, { 1, 0, 0, "1" }, { 1, 1, 60000, "1" }, { 2, 0, 0, "1" })
    local function seal(limit)
      local list = {}
      for i, item in ipairs(s:seal(limit)) do list[i] = item.partition end
      return list
    end
    assert.same({ 0 }, seal(2))
    s:settle()
    add(s, { 0, 1, 0, "1" })
    assert.same({ 1 }, seal(1)) -- one at least, and not partition 0 again
    s:unseal()
    assert.same({ 0, 2 }, seal(2))
    s:settle()
    assert.same({ 1 }, seal(2))
    s:settle()
    assert.same({}, seal(2))
    assert.has_error(function() s:seal(-1) end)
  end)

  it("drops what a lost partition holds, sealed or not", function()
    local s <close> = store()
    s:open(0, 0)
    s:open(1, 0)
    add(s, { 0, 0, 0, "1" }, { 1, 0, 0, "5" })
    s:seal()
    add(s, { 0, 1, 0, "1" })
    s:drop(0)
    s:unseal()
    s:seal()
    assert.truthy(rendered(s):find(",5.00000000,5.00000000,1,", 1, true))
    assert.is_nil(s:state(0))
  end)

  it("ignores rows below the position and of partitions that are not open", function()
    local s <close> = store()
    s:open(0, 5)
    local counts = table.pack(add(s, { 0, 4, 0 }, { 0, 5, 0 }, { 3, 0, 0 }))
    assert.same({ 1, 2 }, { counts[1], counts[7] })
  end)

  it("recognises the record it read last, and another one in its place", function()
    local s <close> = store()
    s:open(0, 0)
    add(s, { 0, 0, 0, "1" })
    local hash = s:seal()[1].last_hash
    for _, case in ipairs { { "1", false }, { "2", true } } do
      local t <close> = store()
      t:open(0, 1)
      t:verify(0, 0, hash)
      add(t, { 0, 0, 0, case[1] })
      assert.equal(case[2], t:state(0).mismatch)
    end
  end)

  it("refuses rows from the future, which move nothing", function()
    local s <close> = store()
    s:open(0, 0)
    local counted, dead = add(s, { 0, 0, NOW + MINUTE + 1 }, { 0, 1, NOW + MINUTE })
    assert.same({ 1, 1 }, { counted, dead })
    assert.equal(NOW + MINUTE, s:state(0).watermark_ms)
    s:seal()
    assert.equal("future", s:notes(0, 1, 100)[1].code)
  end)

  it("counts a row into each hopping window, by partition of time from the epoch", function()
    local s <close> = store { hop_ms = 25000 }
    s:open(0, 0)
    add(s, { 0, 0, 60000 })
    s:seal()
    assert.equal(2, s:rows(1)) -- [25s, 85s) and [50s, 110s)
    assert.same({ 25000, 50000 }, { s:row(1, 1, 0).start_ms, s:row(1, 2, 0).start_ms })
  end)

  it("counts a message too late only when it is so for all its windows", function()
    local s <close> = store { hop_ms = MINUTE // 2, lateness_ms = 0 }
    s:open(0, 0)
    local counted, _, late, too_late = add(s, { 0, 0, 100000 }, { 0, 1, 65000 })
    -- [30s, 90s) has passed, [60s, 120s) has not.
    assert.same({ 2, 1, 0 }, { counted, late, too_late })
    s:seal()
    assert.equal(1, #s:notes(0, 1, 100))
  end)

  it("sends rows below a floor to the late rows, with the floor's reason", function()
    local s <close> = store()
    s:open(0, 0)
    s:floor(1, "adopted", MINUTE)
    local _, _, _, too_late = add(s, { 0, 0, 0 }, { 0, 1, MINUTE })
    assert.equal(1, too_late)
    s:seal()
    assert.equal("adopted", s:notes(0, 1, 100)[1].code)
  end)

  it("goes to the end of a partition that ends with holes", function()
    local s <close> = store()
    s:open(0, 3)
    local b <close> = batch.new()
    b:finish(0, 7)
    decoder:decode(b)
    s:add(b, NOW)
    local sealed = s:seal()
    assert.same({ 7, true, nil }, { sealed[1].position, sealed[1].at_end, sealed[1].last_offset })
  end)

  it("quotes keys, whatever they hold", function()
    local s <close> = store()
    s:open(0, 0)
    add(s, { 0, 0, 0, "1", [[a'b\\\"\u0000\n]] })
    s:seal()
    assert.equal([[('a\'b\\\"\0\n',]], rendered(s):sub(1, 16))
  end)

  it("writes milliseconds where the columns have them", function()
    local s <close> = store { size_ms = 100, outs = { { kind = "start", fraction = 3 } } }
    s:open(0, 0)
    add(s, { 0, 0, 1723161255342 })
    s:seal()
    assert.equal("('2024-08-08 23:54:15.300')", rendered(s))
  end)

  it("renders in chunks of rows and of bytes", function()
    local s <close> = store { outs = { { kind = "key" } } }
    s:open(0, 0)
    for i = 0, 9 do add(s, { 0, i, 0, "1", ("k%d"):format(i) }) end
    s:seal()
    local text, after = s:render(1, 0, 1, 3, 1 << 20)
    assert.same({ "('k0'),('k1'),('k2')", 4 }, { text, after })
    text, after = s:render(1, 0, after, 100, 10)
    assert.same({ "('k3'),('k4')", 6 }, { text, after })
    assert.is_nil(s:render(1, 0, 11, 3, 100))
  end)

  it("names what is wrong with its options, and closes", function()
    assert.error_matches(function() window.store { windos = {} } end, "unknown option 'windos'")
    local s = store()
    s:close()
    s:close()
    assert.has_error(function() s:seal() end, "attempt to use a closed window store")
  end)
end)
