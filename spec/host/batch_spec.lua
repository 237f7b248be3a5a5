describe("a batch", function()
  local batch = require "host.batch"

  it("keeps records as they were added", function()
    local b <close> = batch.new()
    b:add { partition = 2, offset = 7, key = "k", value = "v" }
    b:add { partition = 2, offset = 8 }
    assert.equal(2, #b)
    local r = b:record(1)
    assert.same({ 2, 7, "k", "v", "good" }, { r.partition, r.offset, r.key, r.value, r.state })
    assert.is_nil(b:record(2).value)
    assert.is_nil(b:record(3))
  end)

  it("refuses use after close, and closes twice", function()
    local b = batch.new()
    b:close()
    b:close()
    assert.has_error(function() return #b end, "attempt to use a closed batch")
  end)
end)

describe("row functions", function()
  local batch, json = require "host.batch", require "host.json"
  local fields = {
    { name = "price", type = "decimal", precision = 20, scale = 8 },
    { name = "symbol", type = "string" },
    { name = "time", type = "time" },
  }

  local function decoded(extra, ...)
    local b = batch.new()
    for i, value in ipairs { ... } do b:add { partition = 1, offset = i, value = value } end
    local decoder = json.decoder { fields = fields, extra = extra }
    decoder:decode(b)
    return b, decoder
  end

  local A = '{"symbol":"A","price":"1.50","time":1723161255.342}'
  local B = '{"symbol":"B","price":2,"time":1723161256}'

  it("drops what where refuses, and says so in the state", function()
    local b <close> = decoded(0, A, B)
    b:apply(batch.shape(fields), function(row) return row.symbol == "A" end, nil, {})
    assert.same({ "good", "dropped" }, { b:record(1).state, b:record(2).state })
  end)

  it("lets map set fields, exactly", function()
    local b, decoder = decoded(0, A)
    b:apply(batch.shape(fields), nil, function(row)
      row.symbol = row.symbol:lower()
      row.price = "0.00000001"
      row.time = row.time + 1
    end, {})
    assert.same({ symbol = "a", price = "0.00000001", time = 1723161255343 },
      decoder:cells(b, 1))
    b:close()
  end)

  it("offers the record's own fields, unless a field of the decoder has the name", function()
    local own <close> = decoded(0, A)
    local seen
    own:apply(batch.shape(fields), function(row)
      seen = { row.partition, row.offset, row.key, row.value, row.stamp_ms }
    end, nil, {})
    assert.same({ 1, 1, nil, A, -1 }, seen)
    local named = { { name = "offset", type = "string" } }
    local b <close> = batch.new()
    b:add { partition = 1, offset = 7, value = '{"offset":"mine"}' }
    json.decoder({ fields = named }):decode(b)
    b:apply(batch.shape(named), nil, function(row) seen = { row.offset, row.partition } end, {})
    assert.same({ "mine", 1 }, seen)
    local ok, message = pcall(b.apply, b, batch.shape(named), nil,
      function(row) row.partition = 2 end, {})
    assert.is_false(ok)
    assert.truthy(message:find("a row has no field 'partition' to set", 1, true))
  end)

  it("leaves no garbage of its own", function()
    local values = {}
    for i = 1, 1000 do values[i] = i % 2 == 0 and A or B end
    local b, decoder = decoded(1, table.unpack(values))
    local shape = batch.shape(fields, { {} })
    local function where(row) return row.symbol ~= "none" and row.time > 0 end
    local function map(row) row.symbol, row.time = row.symbol, row.time end
    local keys = { function(row) return row.symbol end }
    local function bytes()
      decoder:decode(b)
      collectgarbage()
      collectgarbage "stop"
      local before = collectgarbage "count"
      b:apply(shape, where, map, keys)
      local made = (collectgarbage "count" - before) * 1024
      collectgarbage "restart"
      return made
    end
    bytes() -- the strings are made once
    assert.is_true(bytes() < 1000)
    b:close()
  end)

  it("takes no method of a row for anything else", function()
    local b <close> = decoded(0, A)
    local index
    b:apply(batch.shape(fields), function(row)
      index = debug.getmetatable(row).__index
      return true
    end, nil, {})
    for _, value in ipairs { b, io.stdout, "text", {} } do
      assert.has_error(function() index(value, "symbol") end)
    end
    assert.has_error(function() index(nil, "symbol") end)
  end)

  it("makes a bad row of a value that does not fit", function()
    local b <close> = decoded(0, A)
    b:apply(batch.shape(fields), nil, function(row) row.price = "x" end, {})
    local r = b:record(1)
    assert.same({ "bad", "map" }, { r.state, r.code })
  end)

  it("computes keys, and a row without one is bad", function()
    local b <close> = decoded(1, A, B)
    b:apply(batch.shape(fields), nil, nil, {
      function(row) return row.symbol == "A" and row.symbol .. "!" or nil end,
    })
    assert.same({ "good", "bad" }, { b:record(1).state, b:record(2).state })
  end)

  it("gives no row outside the call, and names an unknown field", function()
    local b <close> = decoded(0, A)
    local kept
    b:apply(batch.shape(fields), function(row) kept = row; return true end, nil, {})
    assert.has_error(function() return kept.price end,
      "a row is only valid inside the function it was given to")
    assert.error_matches(function()
      b:apply(batch.shape(fields), function(row) return row.nope end, nil, {})
    end, "a row has no field 'nope'")
    -- Its metatable on something else makes no row of that.
    assert.error_matches(function()
      b:apply(batch.shape(fields), function(row)
        return setmetatable({}, getmetatable(row)).price
      end, nil, {})
    end, "row expected")
  end)
end)
