local check = require "mill.check"
local fault = require "mill.fault"

local function fixed(id, result, needs)
  return { id = id, component = "x", ref = "RB0", needs = needs,
    run = function() return type(result) == "function" and result() or result end }
end

local function statuses(results)
  local list = {}
  for i, result in ipairs(results) do list[i] = result.status end
  return table.concat(list, " ")
end

describe("a run of checks", function()
  it("gives each result its identity", function()
    local found = check.ok("fine", { metrics = { { name = "n", value = 1 } } })
    local r = check.run({ fixed("a.b", found) })[1]
    assert.same({ "check/v1", "a.b", "x", "OK", "fine", "RB0" },
      { r.schema, r.id, r.component, r.status, r.summary, r.seed_ref })
    assert.truthy(math.type(r.duration_ms) == "integer")
  end)

  it("blocks what depends on a failure, and names the root", function()
    local results = check.run {
      fixed("root", check.critical("down", { fix = "start it" })),
      fixed("child", check.ok("?"), { "root" }), fixed("grandchild", check.ok("?"), { "child" }),
      fixed("other", check.warn("meh", { fix = "-" })), fixed("after warning", check.ok("yes"), { "other" }),
    }
    assert.equal("CRIT SKIPPED SKIPPED WARN OK", statuses(results))
    assert.equal("blocked by root", results[3].summary)
    assert.equal("root", results[3].blocked_by)
  end)

  it("turns a check that raises into UNKNOWN, with its traceback", function()
    local results = check.run {
      fixed("bug", function() error("oops") end),
      fixed("fault", function() fault.raise(fault.SERVER, "no schema") end),
    }
    assert.equal("UNKNOWN UNKNOWN", statuses(results))
    assert.truthy(results[1].summary:find("the check itself failed: .*oops"))
    assert.truthy(#results[1].detail > 1)
    assert.equal("the check itself failed: no schema", results[2].summary)
  end)

  it("passes an interrupt on", function()
    assert.has_error(function()
      check.run { fixed("loop", function() error("interrupted", 0) end) }
    end)
  end)

  it("refuses a need that did not run, and a result that is none", function()
    assert.has_error(function() check.run { fixed("a", check.ok("x"), { "b" }) } end,
      "check 'a' needs 'b', which did not run before it")
    assert.has_error(function() check.run { fixed("a", function() return {} end) } end,
      "check 'a' returned no result")
    assert.has_error(function() check.ok("x", { fixx = 1 }) end,
      "unknown field 'fixx' of a check's result")
    assert.has_error(function() check.critical("down") end,
      "a result that is CRIT must say what to do: fix")
  end)
end)

describe("the verdict", function()
  local FIX = { fix = "-" }
  local ok, warn = check.ok("a"), check.warn("slow", { fix = "-" })
  local crit, unknown, skip = check.critical("down", FIX), check.unknown("?", FIX), check.skip("blocked by x")

  it("is the worst status, and without a check that ran it is UNKNOWN", function()
    for _, case in ipairs {
      { "OK", 0, { ok, ok, skip } }, { "WARN", 1, { ok, warn } },
      { "UNKNOWN", 3, { warn, unknown } },
      { "CRIT", 2, { unknown, crit, ok } }, { "UNKNOWN", 3, {} }, { "UNKNOWN", 3, { skip } },
    } do
      local worst = check.worst(case[3])
      assert.equal(case[1], worst)
      assert.equal(case[2], check.EXIT[worst])
    end
  end)

  it("is one line with counts and the first thing to look at", function()
    assert.equal("OK: 2 ok, 1 skipped of 3 checks", check.verdict { ok, ok, skip })
    assert.equal("CRITICAL: 1 critical, 1 warning of 2 checks - down", check.verdict { warn, crit })
    assert.equal("COULD NOT CHECK: no check ran", check.verdict {})
    assert.equal("COULD NOT CHECK: no check ran (1 skipped)", check.verdict { skip })
  end)
end)

describe("the text", function()
  it("has failures first, with evidence and fix, and the verdict last", function()
    local results = check.run {
      fixed("good", check.ok("fine")), fixed("good2", check.ok("fine too")),
      fixed("slow", check.warn("late", { detail = { "by 3 s" }, fix = "hurry" })),
      fixed("bad", check.critical("down\27[2J", { fix = { text = "start it", cmd = "run x" } })),
      fixed("child", check.ok("?"), { "bad" }), fixed("child2", check.ok("?"), { "bad" }),
    }
    assert.equal(table.concat({
      "CRIT     bad: down\\x1B[2J",
      "    fix: start it",
      "         $ run x",
      "WARN     slow: late",
      "         by 3 s",
      "    fix: hurry",
      "SKIPPED  blocked by bad: child, child2",
      "OK       2 checks: good, good2",
      "CRITICAL: 1 critical, 1 warning, 2 ok, 2 skipped of 6 checks - down\\x1B[2J",
    }, "\n"), (check.text(results):gsub("\n$", "")))
    assert.truthy(check.text(results, true):find("OK       good2: fine too", 1, true))
  end)
end)
