-- What becomes of single messages: forms that are accepted, forms that are refused, names and
-- numbers that need care. The tables must equal the oracle's answer; where it matters, the expected
-- row stands here as well, so that the oracle is judged too.

local clock = require "host.clock"
local real = require "spec.support.real"

local T0 = 1723161600000 -- 2024-08-09T00:00:00Z
local MINUTE = 60000

local function message(symbol, price, time)
  return ('{"symbol":"%s","price":%s,"timestamp":%s}'):format(symbol, price, time)
end

-- What a reader must refuse, with a word about each. Times are those of the good rows around them.
local BAD = {
  { "an empty payload", "" },
  { "a null payload", nil },
  { "text", "hello" },
  { "HTML", "<html><body>503 Service Unavailable</body></html>" },
  { "an array", '[{"symbol":"BAD","price":"1","timestamp":1723161600}]' },
  { "an empty array", "[]" },
  { "an empty object", "{}" },
  { "null", "null" },
  { "a number", "1723161600" },
  { "a string", '"BAD"' },
  { "blanks", "  \n" },
  { "a truncated object", '{"symbol":"BAD","price":"1","timestamp":17231616' },
  { "text behind the object", message("BAD", '"1"', "1723161600") .. "x" },
  { "two objects", message("BAD", '"1"', "1723161600") .. message("BAD", '"1"', "1723161600") },
  { "a comma too many", '{"symbol":"BAD","price":"1","timestamp":1723161600,}' },
  { "single quotes", "{'symbol':'BAD','price':'1','timestamp':1723161600}" },
  { "a comment", '{"symbol":"BAD",/* */"price":"1","timestamp":1723161600}' },
  { "no symbol", '{"price":"1","timestamp":1723161600}' },
  { "no price", '{"symbol":"BAD","timestamp":1723161600}' },
  { "no timestamp", '{"symbol":"BAD","price":"1"}' },
  { "fields one level down", '{"data":{"symbol":"BAD","price":"1","timestamp":1723161600}}' },
  { "names in capitals", '{"Symbol":"BAD","Price":"1","Timestamp":1723161600}' },
  { "an empty symbol", message("", '"1"', "1723161600") },
  { "a null symbol", '{"symbol":null,"price":"1","timestamp":1723161600}' },
  { "a number as symbol", '{"symbol":7,"price":"1","timestamp":1723161600}' },
  { "an object as symbol", '{"symbol":{"a":"BAD"},"price":"1","timestamp":1723161600}' },
  { "a symbol of 33 characters", message(("B"):rep(33), '"1"', "1723161600") },
  { "half a surrogate pair", '{"symbol":"BAD\\ud83d","price":"1","timestamp":1723161600}' },
  { "invalid UTF-8 in the symbol", message("BAD\xff", '"1"', "1723161600") },
  { "invalid UTF-8 elsewhere",
    '{"symbol":"BAD","price":"1","timestamp":1723161600,"note":"\xc3("}' },
  { "an overlong form", message("BAD\xc0\xaf", '"1"', "1723161600") },
  { "a bare line feed in a string", message("BA\nD", '"1"', "1723161600") },
  { "an unknown escape", message("BA\\xD", '"1"', "1723161600") },
  { "price -1", message("BAD", '"-1"', "1723161600") },
  { "price -1 as a number", message("BAD", "-1", "1723161600") },
  { "price 0", message("BAD", '"0"', "1723161600") },
  { "price 0.00000000", message("BAD", '"0.00000000"', "1723161600") },
  { "price -0", message("BAD", "-0", "1723161600") },
  { "price 0e5", message("BAD", "0e5", "1723161600") },
  { "an empty price", message("BAD", '""', "1723161600") },
  { "a null price", message("BAD", "null", "1723161600") },
  { "price NaN in quotes", message("BAD", '"NaN"', "1723161600") },
  { "price Infinity in quotes", message("BAD", '"Infinity"', "1723161600") },
  { "price NaN", message("BAD", "NaN", "1723161600") },
  { "price -Infinity", message("BAD", "-Infinity", "1723161600") },
  { "price true", message("BAD", "true", "1723161600") },
  { "a nested price", message("BAD", '{"value":"1"}', "1723161600") },
  { "a price in an array", message("BAD", '["1"]', "1723161600") },
  { "a decimal comma", message("BAD", '"61837,63"', "1723161600") },
  { "thousands in a price", message("BAD", '"61,837.63"', "1723161600") },
  { "a price with a unit", message("BAD", '"61837.63 USDT"', "1723161600") },
  { "a price in words", message("BAD", '"one"', "1723161600") },
  { "a hexadecimal price", message("BAD", '"0x10"', "1723161600") },
  { "a bare leading point", message("BAD", ".5", "1723161600") },
  { "a bare leading zero", message("BAD", "01", "1723161600") },
  { "a bare plus", message("BAD", "+1", "1723161600") },
  { "a ninth decimal", message("BAD", '"1.000000001"', "1723161600") },
  { "a ninth decimal by exponent", message("BAD", "1e-9", "1723161600") },
  { "a price of 13 digits", message("BAD", '"1000000000000"', "1723161600") },
  { "a price of 13 digits by exponent", message("BAD", "1e12", "1723161600") },
  { "a price that overflows any exponent", message("BAD", "1e999999999999", "1723161600") },
  { "a null timestamp", message("BAD", '"1"', "null") },
  { "an empty timestamp", message("BAD", '"1"', '""') },
  { "timestamp true", message("BAD", '"1"', "true") },
  { "a timestamp in an array", message("BAD", '"1"', "[1723161600]") },
  { "a timestamp in words", message("BAD", '"1"', '"yesterday"') },
  { "the 30th of February", message("BAD", '"1"', '"2024-02-30T00:00:00Z"') },
  { "the 29th of February of 2023", message("BAD", '"1"', '"2023-02-29 00:00:00"') },
  { "month 13", message("BAD", '"1"', '"2024-13-01T00:00:00Z"') },
  { "hour 25", message("BAD", '"1"', '"2024-08-09T25:00:00Z"') },
  { "minute 61", message("BAD", '"1"', '"2024-08-09 00:61:00"') },
  { "a day and month in the other order", message("BAD", '"1"', '"09/08/2024 00:00:00"') },
  { "a time without a date", message("BAD", '"1"', '"12:00:00"') },
  { "a name of a zone", message("BAD", '"1"', '"2024-08-09 12:00:00 Europe/Madrid"') },
  { "a time before 1970", message("BAD", '"1"', "-1") },
  { "a time of long ago", message("BAD", '"1"', '"0999-01-01T00:00:00Z"') },
  { "text behind the time", message("BAD", '"1"', '"2024-08-09T00:00:00Zulu"') },
  { "junk of 1 MB", ("x"):rep(900000) },
  { "a long array", "[" .. ("0,"):rep(50000) .. "0]" },
  { "deep brackets", ("["):rep(100000) },
}

-- What a reader must accept: payload, symbol, price to add, time in ms.
local GOOD = {
  { "the producer's message",
    '{"symbol":"A1","price":"61837.63000000","timestamp":1723161600.342}', "A1", "61837.63000000" },
  { "a short price", message("A2", '"61825.1"', "1723161600"), "A2", "61825.10000000" },
  { "a price as a number", message("A3", "61825.1", "1723161600"), "A3", "61825.10000000" },
  { "an exponent", message("A4", "1.2e-05", "1723161600"), "A4", "0.00001200" },
  { "an exponent in quotes", message("A5", '"1.2E-05"', "1723161600"), "A5", "0.00001200" },
  { "a positive exponent", message("A6", "6.1837e+4", "1723161600"), "A6", "61837.00000000" },
  { "zeros beyond the scale", message("A7", '"1.10000000000000000000"', "1723161600"), "A7",
    "1.10000000" },
  { "the least price", message("A8", '"0.00000001"', "1723161600"), "A8", "0.00000001" },
  { "the greatest price", message("A9", '"999999999999.99999999"', "1723161600"), "A9",
    "999999999999.99999999" },
  { "digits a double cannot hold", message("A10", '"61837.63000001"', "1723161600"), "A10",
    "61837.63000001" },
  { "whole seconds", message("B1", "1", "1723161600"), "B1" },
  { "milliseconds", message("B2", "1", "1723161600001"), "B2" },
  { "microseconds", message("B3", "1", "1723161600001002"), "B3" },
  { "nanoseconds", message("B4", "1", "1723161600001002003"), "B4" },
  { "seconds in quotes", message("B5", "1", '"1723161600.001"'), "B5" },
  { "milliseconds in quotes", message("B6", "1", '"1723161600001"'), "B6" },
  { "seconds with an exponent", message("B7", "1", "1.7231616e9"), "B7" },
  { "seconds with many decimals", message("B8", "1", "1723161659.99999999999"), "B8" },
  { "ISO with Z", message("B9", "1", '"2024-08-09T00:00:00Z"'), "B9" },
  { "ISO with ms", message("B10", "1", '"2024-08-09T00:00:00.123Z"'), "B10" },
  { "ISO with us", message("B11", "1", '"2024-08-09T00:00:59.999999Z"'), "B11" },
  { "ISO with an offset", message("B12", "1", '"2024-08-09T05:30:00+05:30"'), "B12" },
  { "ISO with a negative offset", message("B13", "1", '"2024-08-08T19:00:59.999-05:00"'), "B13" },
  { "ISO with hours only", message("B15", "1", '"2024-08-09T02:00:00+02"'), "B15" },
  { "ISO in small letters", message("B16", "1", '"2024-08-09t00:00:00z"'), "B16" },
  { "the replaced system's text", message("B14", "1", '"2024-08-09 00:00:00"'), "B14" },
  { "blanks and line ends", ' \t\r\n{ "symbol" : "C1" ,\n"price":\t"1" , "timestamp":1723161600 }\n',
    "C1" },
  { "a byte order mark", "\xef\xbb\xbf" .. message("C2", "1", "1723161600"), "C2" },
  { "fields in another order", '{"timestamp":1723161600,"price":1,"symbol":"C3"}', "C3" },
  { "further fields", '{"symbol":"C4","x":[1,{"price":2}],"price":1,"y":null,"z":"}",'
    .. '"timestamp":1723161600,"u":9007199254740993}', "C4" },
  { "the same names further down", '{"d":{"symbol":"BAD","price":-1,"timestamp":0},"symbol":"C5",'
    .. '"price":1,"timestamp":1723161600}', "C5" },
  { "escaped text", '{"symbol":"\\u00436","price":1,"timestamp":1723161600}', "C6" },
  { "an escaped name", '{"symbol":"C7","pri\\u0063e":1,"timestamp":1723161600}', "C7" },
  { "an escaped price", '{"symbol":"C8","price":"1\\u002e0","timestamp":1723161600}', "C8" },
  { "huge numbers elsewhere", '{"symbol":"C9","price":1,"timestamp":1723161600,"n":-1.5e+99999}',
    "C9" },
}

-- Names that must not be taken for one another, nor spoil a statement.
local NAMES = {
  "BTCUSDT", "btcusdt", "BtcUsdt", "BTCUSDT ", " BTCUSDT", "BTCUSDT\\u0000", "BTC\\\\USDT",
  "BTC'USDT", 'BTC\\"USDT', "BTC`USDT", "BTC%s%d", "'); drop table t; --", "BTC\\nUSDT",
  "\\u20bfTC", "\xe2\x82\xbfTC2", "\\ud83d\\ude80", "\xf0\x9f\x9a\x80\xf0\x9f\x9a\x80",
  "e\xcc\x81", "\xc3\xa9", "E\xcc\x81", "SS", "\xc3\x9f", "\xe5\xb8\x81\xe5\xae\x89",
  "1000SHIBUSDT", "BTCUSDT.P", "BTC-USDT-SWAP", "XBT/USDT", ("x"):rep(32),
  ("\xf0\x9f\x9a\x80"):rep(32), "null", "NULL", "0", "\\u0041\\u0308", "\xc3\x84", "\\u200b",
}

describe("messages", function()
  local why = real.missing()
  if why then
    it("need servers", function() pending(why) end)
    return
  end

  teardown(real.close)

  for _, base in ipairs(real.databases()) do
    describe("in " .. base.name, function()
      local place

      setup(function() place = real.place(base) end)
      teardown(function() place:close() end)

      local function run(topic, o)
        o = o or {}
        o.topic, o.name, o.table = topic, o.name or real.name "averages", o.table or place:table()
        o.runs = { place:average(o) }
        return real.verify(place, o), o
      end

      it("that cannot be read are dead letters, once each, and in no average", function()
        local topic = real.topic { partitions = 2 }
        local records = {}
        local function good(partition, n)
          records[#records + 1] = { partition = partition, key = "k",
            value = message("GOOD", "2.5", ("%d"):format(T0 + n)) }
        end
        for n = 1, #BAD do
          good(n % 2, n)
          records[#records + 1] = { partition = n % 2, value = BAD[n][2] }
          good(0, n)
        end
        real.send(topic, records)
        local want, o = run(topic)
        local refused = {}
        for _, d in ipairs(want.dead) do refused[d[1] .. "/" .. d[2]] = true end
        local at = { [0] = 0, 0 }
        for _, record in ipairs(records) do
          local p = record.partition
          assert.equal(record.key == nil, refused[p .. "/" .. at[p]] == true, record.value)
          at[p] = at[p] + 1
        end
        assert.equal(#BAD, #want.dead)
        assert.same({ { "GOOD", "2.50000000", 2 * #BAD } },
          place:query("select symbol, average_price, samples from %s", o.table))
        -- The payload is kept, cut at 64 KB, and named by length and hash.
        assert.equal(65536, place:value("select max(length(payload)) from mill_dead_letters "
          .. "where pipeline = '%s'", o.name))
        assert.equal(#BAD, place:value("select count(*) from mill_dead_letters where pipeline = "
          .. "'%s' and (payload_length > 65536 or hex(payload_sha256) = "
          .. "sha2(coalesce(payload, ''), 256))", o.name))
        assert.equal(1, place:value("select count(*) from mill_dead_letters where pipeline = '%s' "
          .. "and payload is null", o.name))
      end)

      it("are refused with the field that is wrong", function()
        local topic = real.topic { partitions = 1 }
        local cases = {
          { "symbol", message("", "1", "1723161600") },
          { "symbol", message(("B"):rep(33), "1", "1723161600") },
          { "price", message("X", "-1", "1723161600") },
          { "price", message("X", '"NaN"', "1723161600") },
          { "price", message("X", "1e-9", "1723161600") },
          { "timestamp", message("X", "1", '"yesterday"') },
          { "timestamp", message("X", "1", "null") },
          { "timestamp", message("X", "1", tostring(clock.wall_ms() + 3600000)) },
          { "price", '{"symbol":"X","timestamp":1723161600}' },
        }
        local records = {}
        for i, case in ipairs(cases) do
          records[i] = { value = case[2] }
          records[#cases + i] = { value = message("X", "1", "1723161600") }
        end
        real.send(topic, records)
        local _, o = run(topic)
        for _, row in ipairs(place:query("select `offset`, path, reason from mill_dead_letters "
          .. "where pipeline = '%s' order by `offset`", o.name)) do
          assert.matches(cases[row[1] + 1][1], row[2], 1, true)
        end
      end)

      it("in every accepted form are counted", function()
        local topic = real.topic { partitions = 1 }
        local records = {}
        for i, case in ipairs(GOOD) do records[i] = { value = case[2] } end
        real.send(topic, records)
        local want, o = run(topic)
        assert.same({}, want.dead)
        local sums = {}
        for _, row in ipairs(place:results(o.table)) do
          assert.equal(T0, row[2], row[1])
          sums[row[1]] = row[5]
        end
        for _, case in ipairs(GOOD) do
          assert.equal(case[4] or "1.00000000", sums[case[3]], case[1])
        end
      end)

      it("keep names apart", function()
        local topic = real.topic { partitions = 3 }
        local records = {}
        for i, name in ipairs(NAMES) do
          for n = 1, i do
            records[#records + 1] = { partition = n % 3, value = message(name, i, "1723161600") }
          end
        end
        real.send(topic, records)
        local want = run(topic)
        assert.equal(#NAMES, #want.results)
        assert.same({}, want.dead)
      end)

      it("belong to the window that begins at their time", function()
        local topic = real.topic { partitions = 1 }
        local times = { "1723161600", "1723161659.999", "1723161659.9999999", "1723161660",
          "1723161719999", "1723161720000", '"2024-08-09T00:02:59.999999999Z"',
          '"2024-08-09T00:03:00Z"', "0", "59.999", "60", "951782399.999", "951782400" }
        local records = {}
        for i, time in ipairs(times) do
          records[i] = { value = message("EDGE" .. i, "1", time) }
        end
        real.send(topic, records)
        local _, o = run(topic, { lateness_ms = 4000000000000 })
        local starts = {}
        for _, row in ipairs(place:results(o.table)) do
          starts[math.tointeger(tonumber(row[1]:sub(5)))] = row[2]
        end
        assert.same({ T0, T0, T0, T0 + MINUTE, T0 + MINUTE, T0 + 2 * MINUTE, T0 + 2 * MINUTE,
          T0 + 3 * MINUTE, 0, 0, MINUTE, 951782340000, 951782400000 }, starts)
      end)

      it("from the future are refused, those a little ahead are not", function()
        local topic = real.topic { partitions = 1 }
        local now = clock.wall_ms()
        real.send(topic, {
          { value = message("NOW", "1", now) },
          { value = message("AHEAD", "1", now + 30000) },
          { value = message("FUTURE", "1", now + 3600000) },
          { value = message("FUTURE", "1", now + 86400000) },
        })
        local want = run(topic)
        assert.equal(2, #want.dead)
        assert.equal(2, want.counted)
      end)

      it("are averaged without rounding twice, whatever the commits", function()
        local topic = real.topic { partitions = 2 }
        local random = real.random "prices with ties"
        local name, target = real.name "averages", place:table()
        local runs, time = {}, T0
        for part = 1, 6 do
          local records = {}
          for i = 1, 400 do
            time = time + random(100)
            -- Few digits at the end of the scale: quotients that end in a 5 are common.
            local price = ("%d.0000000%d"):format(random(3), 1 + random(9))
            if random(50) == 0 then price = "999999999999.99999999" end
            records[i] = { partition = random(2), value = message("S" .. random(40),
              '"' .. price .. '"', time) }
          end
          real.send(topic, records)
          local o = { topic = topic, name = name, table = target, size_ms = 5000, max_delay_ms = 0,
            commit_every = "1ms" }
          runs[part] = place:average(o)
          o.runs = runs
          local want = real.verify(place, o)
          assert.equal(400 * part, want.counted)
        end
      end)
    end)
  end
end)
