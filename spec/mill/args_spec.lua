local args = require "mill.args"
local fault = require "mill.fault"

local SPEC = {
  usage = "tidemill do THING [options]",
  summary = "does things",
  options = {
    { "for", "DURATION", "stop after this long", type = "duration" },
    { "count", "N", "how many", type = "integer" },
    { "set", "KEY=VALUE", "a setting", many = true },
    { "on-gap", "stop|skip", "what to do", choices = { "stop", "skip" } },
    { "until-end", nil, "stop at the end" },
    { "json", nil, "print JSON" },
  },
  exits = { { 0, "done" }, { 2, "usage" } },
}

local function refused(argv)
  local ok, err = pcall(args.parse, SPEC, argv)
  assert.is_false(ok)
  assert.is_true(fault.is(err), tostring(err))
  assert.equal(fault.USAGE, err.status)
  return err.message
end

describe("arguments", function()
  it("are flags and the rest, in any order", function()
    local opts, rest = args.parse(SPEC, { "--json", "a.lua", "--for", "30s", "b", "--until-end" })
    assert.same({ json = true, ["for"] = 30000, until_end = true }, opts)
    assert.same({ "a.lua", "b" }, rest)
  end)

  it("give a value after a blank or an equals sign", function()
    assert.equal(60000, (args.parse(SPEC, { "--for=1m" }))["for"])
    assert.equal(60000, (args.parse(SPEC, { "--for", "1m" }))["for"])
    assert.same({ "a=b" }, (args.parse(SPEC, { "--set=a=b" })).set)
    assert.same({ "" }, (args.parse(SPEC, { "--set=" })).set)
  end)

  it("may be given many times where that is meant; else the last counts", function()
    local opts = args.parse(SPEC, { "--set", "a=1", "--set", "b=--2", "--count=1", "--count=2" })
    assert.same({ "a=1", "b=--2" }, opts.set)
    assert.equal(2, opts.count)
  end)

  it("end at --", function()
    local opts, rest = args.parse(SPEC, { "x", "--", "--json", "--", "y" })
    assert.same({}, opts)
    assert.same({ "x", "--json", "--", "y" }, rest)
  end)

  it("ask for help", function()
    assert.is_true((args.parse(SPEC, { "--help" })).help)
    assert.is_true((args.parse(SPEC, { "a", "-h" })).help)
  end)

  it("are found again when two letters changed places", function()
    assert.equal("; did you mean run?", args.meant("rnu", { "up", "run", "repl" }))
    assert.equal("; did you mean up?", args.meant("pu", { "up", "run", "repl" }))
    assert.equal("", args.meant("xyz", { "up", "run", "repl" }))
  end)

  it("are refused when they are not known, in few lines, with what may have been meant", function()
    local message = refused { "--jsno" }
    assert.matches("^unknown option %-%-jsno; did you mean %-%-json%?\nusage: tidemill do THING", message)
    assert.equal(2, select(2, message:gsub("\n", "\n")))
    assert.matches("^unknown option %-%-xyzzy\n", refused { "--xyzzy" })
  end)

  it("are refused beyond the number that is taken", function()
    local spec = { usage = "tidemill do [THING]", takes = 1, options = {} }
    local _, rest = args.parse(spec, { "a" })
    assert.same({ "a" }, rest)
    local ok, err = pcall(args.parse, spec, { "a", "b", "c" })
    assert.same({ false, fault.USAGE, "unexpected argument 'b'" }, { ok, err.status, err.message })
    assert.is_true((args.parse(spec, { "a", "b", "--help" })).help)
  end)

  it("are refused without their value, or with one they do not take", function()
    assert.matches("--for needs DURATION", refused { "--for" }, 1, true)
    assert.matches("--json takes no value", refused { "--json=1" }, 1, true)
    assert.matches("--json takes no value", refused { "--json=" }, 1, true)
  end)

  it("are refused with a value of another type", function()
    assert.matches("--for", refused { "--for", "soon" }, 1, true)
    assert.matches("--count: '1.5'", refused { "--count", "1.5" }, 1, true)
    assert.matches("not one of stop, skip", refused { "--on-gap", "jump" }, 1, true)
  end)

  it("have a help text that names every option and exit status", function()
    local text = args.help(SPEC)
    assert.matches("does things", text)
    for _, option in ipairs(SPEC.options) do
      assert.matches("--" .. option[1] .. (option[2] and " " .. option[2] or ""), text, 1, true)
      assert.matches(option[3], text, 1, true)
    end
    assert.matches("\n  2    usage\n", text)
    assert.matches("--help", text, 1, true)
  end)
end)
