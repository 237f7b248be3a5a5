local command = require "spec.support.command"
local json = require "mill.json"

local function task_file(text)
  local path = os.tmpname() .. ".lua"
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

local function run_task(text, ...)
  local path = task_file(text)
  local r = command { "runbook", path, ... }
  os.remove(path)
  return r
end

local FINDING = [[
--- A task for a test.
local check = require "mill.check"
return { settings = { { "level", "ok", "what to find" }, { "n", 3, "a number", type = "integer" },
    { "wait", "2s", "a time", type = "duration" } },
  options = { { "loud", nil, "shout" } }, arguments = "[X]",
  run = function(task)
    local text = ("%d %d %s %s"):format(task.set.n, task.set.wait, tostring(task.opts.loud),
      tostring(task.args[1]))
    return check.run { { id = "a.b", component = "a", ref = "RB0", run = function()
      return check[task.set.level](text, { fix = "do it" })
    end } }, { extra = 7 }
  end }
]]

describe("tidemill runbook", function()
  it("lists its tasks with one line each", function()
    local r = command { "runbook" }
    assert.equal(0, r.status)
    for _, name in ipairs { "backup", "health", "restore" } do
      assert.truthy(r.out:find("\n?" .. name .. " +%u"), name)
    end
    local list = assert(json.decode(command({ "runbook", "--json" }).out))
    assert.equal("backup", list[1].name)
  end)

  it("shows the operator's manual of a task and its settings", function()
    for _, argv in ipairs { { "runbook", "show", "health" }, { "runbook", "health", "--help" } } do
      local r = command(argv)
      assert.equal(0, r.status)
      assert.truthy(r.out:find("^Daily check: "))
      assert.truthy(r.out:find("producer_age +the newest record", 1))
    end
  end)

  it("shows the same as one JSON object", function()
    local doc = assert(json.decode(command({ "runbook", "show", "health", "--json" }).out))
    assert.same({ "health", "topic", "crypto_prices" }, { doc.task, doc.settings[1].name,
      doc.settings[1].default })
    assert.matches("^Daily check: ", doc.manual)
    assert.matches("^tidemill runbook health ", doc.usage)
    local path = task_file(FINDING)
    doc = assert(json.decode(command({ "runbook", "show", path, "--json" }).out))
    os.remove(path)
    assert.same({ { name = "loud", value = json.null, meaning = "shout" } }, doc.options)
  end)

  it("exits with the worst status", function()
    for level, status in pairs { ok = 0, warn = 1, critical = 2, unknown = 3, skip = 3 } do
      local r = run_task(FINDING, "--set", "level=" .. level)
      assert.equal(status, r.status, level)
      assert.equal("", r.err)
    end
  end)

  it("hands settings, options and arguments to the task", function()
    local r = run_task(FINDING, "-v", "--set", "n=5", "--set", "wait=1m", "--loud", "arg")
    assert.truthy(r.out:find("OK       a.b: 5 60000 true arg", 1, true))
  end)

  it("prints one JSON document", function()
    local r = run_task(FINDING, "--json", "--set", "level=critical")
    local doc = assert(json.decode(r.out))
    assert.same({ 2, "runbook/v1", "CRIT", 2, 7, 1 },
      { r.status, doc.schema, doc.status, doc.exit, doc.extra, doc.counts.critical })
    assert.same({ "check/v1", "a.b", "a", "CRIT", "RB0", "do it" }, {
      doc.results[1].schema, doc.results[1].id, doc.results[1].component, doc.results[1].status,
      doc.results[1].seed_ref, doc.results[1].fix.text })
  end)

  it("exits 3, never 1, for wrong use and for a crash", function()
    local path = task_file(FINDING)
    for _, case in ipairs {
      { { "runbook", "nonsense" }, "there is no task 'nonsense' (known: backup, health, restore)" },
      { { "runbook", "show" }, "show what?" },
      { { "runbook", "show", "health", "backup" }, "unexpected argument 'backup'" },
      { { "runbook", "list", "x" }, "unexpected argument 'x'" },
      { { "runbook", "health", "--nonsense" }, "unknown option --nonsense" },
      { { "runbook", "health", "extra" }, "health takes no arguments, got 'extra'" },
      { { "runbook", path, "--set", "x=1" }, "no such setting (known: level, n, wait)" },
      { { "runbook", path, "--set", "x" }, "write it as key=value" },
      { { "runbook", path, "--set", "n=many" }, "--set n: 'many' is not a whole number, such as 3" },
      { { "runbook", path, "--set", "wait=soon" }, "'soon' is not a duration, such as 2s" },
    } do
      local r = command(case[1])
      assert.equal(3, r.status, case[2])
      assert.truthy(r.err:find(case[2], 1, true), r.err)
    end
    os.remove(path)
    for text, said in pairs {
      ["return { run = function() error 'oops' end }"] = "oops",
      ["return { run = function() return {} end }"] = "no check ran",
      ["return 1"] = "does not return a task", ["return {"] = "near <eof>",
    } do
      local r = run_task(text)
      assert.equal(3, r.status, text)
      assert.truthy((r.out .. r.err):find(said, 1, true), r.out .. r.err)
    end
  end)
end)
