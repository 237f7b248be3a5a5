-- host.decimal: exact arithmetic on decimal text. The random checks against
-- GMP are in spec/c/exact_test.c.
local decimal = require "host.decimal"

describe("host.decimal", function()
  local cases = {
    { "add", { "61837.63000000", "0.00000001" }, "61837.63000001" },
    { "add", { "0.1", "0.2" }, "0.3" },
    { "add", { "1.50", -2 }, "-0.50" },
    { "add", { math.maxinteger, 1 }, "9223372036854775808" },
    { "sub", { "1", "1.000" }, "0.000" },
    { "mul", { "-1.5", "0.02" }, "-0.030" },
    { "ratio", { "1", "3", 8 }, "0.33333333" },
    { "ratio", { "-2", "3", 8 }, "-0.66666667" },
    { "ratio", { "0.00000001", 2, 8 }, "0.00000001" },
    { "round", { "2.5", 0 }, "3" },
    { "round", { "-2.5", 0 }, "-3" },
    { "round", { "1.2e-05", 8 }, "0.00001200" },
    { "stddev", { 4, "10", "30", false, 8 }, "1.11803399" },
    { "stddev", { 4, "10", "30", true, 8 }, "1.29099445" },
    { "compare", { "1.50", "1.5" }, 0 },
    { "compare", { "-1", "1e-9" }, -1 },
    { "compare", { "99999999999999999999.1", "99999999999999999999" }, 1 },
  }
  for _, case in ipairs(cases) do
    local name, args, want = table.unpack(case)
    it(("computes %s(%s)"):format(name, table.concat({ tostring(args[1]), tostring(args[2]) },
      ", ")), function()
      assert.same({ want }, { decimal[name](table.unpack(args)) })
    end)
  end

  local failures = {
    { "add", { "", "1" }, "SYNTAX" },
    { "add", { "1", "NaN" }, "SYNTAX" },
    { "sub", { "1\0", "1" }, "SYNTAX" },
    { "mul", { "+1", "1" }, "SYNTAX" },
    { "ratio", { "1", "0.00", 2 }, "ZERO" },
    { "stddev", { 1, "5", "25", true, 8 }, "ZERO" },
    { "stddev", { 0, "0", "0", false, 8 }, "ZERO" },
    { "stddev", { 2, "2", "1", false, 8 }, "NEGATIVE" },
    { "stddev", { "1.5", "2", "1", false, 8 }, "SYNTAX" },
    { "round", { "1e9999999999999", 2 }, "RANGE" },
    { "compare", { "1", "one" }, "SYNTAX" },
  }
  for _, case in ipairs(failures) do
    local name, args, want = table.unpack(case)
    it(("fails with %s for %s(%q, ...)"):format(want, name, args[1]), function()
      local value, message, code = decimal[name](table.unpack(args))
      assert.is_nil(value)
      assert.equal(want, code)
      assert.matches("^decimal: " .. want .. ": %S", message)
    end)
  end

  it("refuses floats, which have lost digits already", function()
    assert.error_matches(function() decimal.add(0.1, "1") end, "got a float")
    assert.error_matches(function() decimal.compare("1", 2.0) end, "got a float")
    assert.error_matches(function() decimal.add({}, "1") end, "decimal text or an integer")
    assert.error_matches(function() decimal.ratio("1", "3", -1) end, "scale out of range")
    assert.error_matches(function() decimal.stddev(1, "1", "1", nil, 8) end, "boolean expected")
  end)
end)
