--- Checks: what each found, how bad it is, and what to do.
--
--   { id = "kafka.topic", component = "kafka", ref = "RB3.1b", needs = { "kafka.brokers" },
--     run = function(ctx) return check.critical("topic x is missing", { fix = ... }) end }
--
-- A check whose need is not OK or WARN is not run: it is "blocked by" that one,
-- so that one root cause gives one failure. A check that raises is UNKNOWN.

local clock = require "host.clock"
local fault = require "mill.fault"
local output = require "mill.output"

local M = {}

--- Version of a result's form.
M.SCHEMA = "check/v1"

--- Exit status of each verdict.
M.EXIT = { OK = 0, WARN = 1, CRIT = 2, UNKNOWN = 3 }

local RANK = { SKIPPED = 0, OK = 1, WARN = 2, UNKNOWN = 3, CRIT = 4 }
local COLOUR = { OK = "green", WARN = "yellow", CRIT = "bold red", UNKNOWN = "magenta",
  SKIPPED = "dim" }
local WORDS = { OK = "OK", WARN = "WARNING", CRIT = "CRITICAL", UNKNOWN = "COULD NOT CHECK" }

local NEEDS_FIX = { WARN = true, CRIT = true, UNKNOWN = true }
local FIELDS = { detail = true, metrics = true, fix = true }

local function finding(status, summary, more)
  local result = { status = status, summary = summary }
  for key, value in pairs(more or {}) do
    if not FIELDS[key] then
      error(("unknown field '%s' of a check's result"):format(key), 3)
    end
    result[key] = value
  end
  if type(result.fix) == "string" then
    result.fix = { text = result.fix }
  elseif not result.fix and NEEDS_FIX[status] then
    error(("a result that is %s must say what to do: fix"):format(status), 3)
  end
  return result
end

-- What each takes: a summary, and `detail` (array of lines), `metrics` (array of
-- {name=, value=, unit=, warn=, crit=}), `fix` (text, or {text=, cmd=}), which all
-- but a passed or skipped check must have.

function M.ok(summary, more) return finding("OK", summary, more) end
function M.warn(summary, more) return finding("WARN", summary, more) end
function M.critical(summary, more) return finding("CRIT", summary, more) end

--- The check could not find out.
function M.unknown(summary, more) return finding("UNKNOWN", summary, more) end

--- The check does not apply here; it counts neither as passed nor as failed.
function M.skip(why) return finding("SKIPPED", why) end

local function blocker(check, by_id)
  for _, need in ipairs(check.needs or {}) do
    local other = by_id[need] or error(("check '%s' needs '%s', which did not run before it")
      :format(check.id, need))
    if other.status == "SKIPPED" and other.blocked_by then
      return other.blocked_by
    elseif other.status ~= "OK" and other.status ~= "WARN" then
      return need
    end
  end
end

local function run_one(check, ctx)
  local ok, result = xpcall(check.run, fault.traced, ctx)
  if not ok and fault.is_interrupt(result) then
    error(result, 0)
  elseif not ok then
    local summary, trace = tostring(result):match("^([^\n]*)\n?(.*)$")
    local detail = {}
    for line in trace:gmatch("[^\n]+") do
      detail[#detail + 1] = (line:gsub("\t", "  "))
    end
    return M.unknown("the check itself failed: " .. summary, {
      detail = detail, fix = "report this with the lines above",
    })
  elseif type(result) ~= "table" or not RANK[result.status] then
    error(("check '%s' returned no result"):format(check.id), 0)
  end
  return result
end

--- Run checks in their order. Returns an array of results; `on_result(result)`
-- is called after each.
function M.run(checks, ctx, on_result)
  local results, by_id = {}, {}
  for i, check in ipairs(checks) do
    local began = clock.mono_ms()
    local blocked = blocker(check, by_id)
    local result = blocked and M.skip("blocked by " .. blocked) or run_one(check, ctx)
    result.blocked_by = blocked
    result.schema, result.id, result.component = M.SCHEMA, check.id, check.component
    result.title, result.seed_ref = check.title, check.ref
    result.duration_ms = clock.mono_ms() - began
    results[i], by_id[check.id] = result, result
    if on_result then
      on_result(result)
    end
  end
  return results
end

--- The worst status of results: OK < WARN < UNKNOWN < CRIT. Without a single
-- check that ran it is UNKNOWN. Also returns how many there are of each.
function M.worst(results)
  local counts = { OK = 0, WARN = 0, CRIT = 0, UNKNOWN = 0, SKIPPED = 0 }
  local worst = "SKIPPED"
  for _, result in ipairs(results) do
    counts[result.status] = counts[result.status] + 1
    if RANK[result.status] > RANK[worst] then
      worst = result.status
    end
  end
  return worst == "SKIPPED" and "UNKNOWN" or worst, counts
end

local function plural(n, noun)
  return ("%d %s%s"):format(n, noun, n == 1 and "" or "s")
end

--- One line that says it all.
function M.verdict(results)
  local worst, counts = M.worst(results)
  local parts = {}
  for _, item in ipairs {
    { "CRIT", "critical" }, { "UNKNOWN", "not checked" }, { "WARN", "warning" }, { "OK", "ok" },
    { "SKIPPED", "skipped" },
  } do
    if counts[item[1]] > 0 then
      parts[#parts + 1] = ("%d %s"):format(counts[item[1]], item[2])
    end
  end
  local ran = #results - counts.SKIPPED
  if ran == 0 then
    return WORDS.UNKNOWN .. ": no check ran"
      .. (#results > 0 and (" (%d skipped)"):format(#results) or "")
  end
  local first = ""
  for _, result in ipairs(results) do
    if result.status == worst and worst ~= "OK" then
      first = " - " .. output.clean(result.summary)
      break
    end
  end
  return ("%s: %s of %s%s"):format(WORDS[worst], table.concat(parts, ", "),
    plural(#results, "check"), first)
end

local function word(status)
  return output.paint(output.pad(status, 8), COLOUR[status])
end

local function metric_text(m)
  return ("%s = %s%s"):format(m.name, tostring(m.value), m.unit and " " .. m.unit or "")
end

local function failure_lines(lines, result)
  lines[#lines + 1] = ("%s %s: %s"):format(word(result.status), result.id,
    output.clean(result.summary))
  for _, detail in ipairs(result.detail or {}) do
    lines[#lines + 1] = "         " .. output.clean(detail)
  end
  if result.fix then
    lines[#lines + 1] = "    fix: " .. output.clean(result.fix.text)
    if result.fix.cmd then
      lines[#lines + 1] = "         $ " .. output.clean(result.fix.cmd)
    end
  end
end

local function passed_lines(lines, results, verbose)
  local names = {}
  for _, result in ipairs(results) do
    if result.status == "OK" and verbose then
      lines[#lines + 1] = ("%s %s: %s"):format(word("OK"), result.id, output.clean(result.summary))
      for _, metric in ipairs(result.metrics or {}) do
        lines[#lines + 1] = "         " .. output.clean(metric_text(metric))
      end
    elseif result.status == "OK" then
      names[#names + 1] = result.id
    end
  end
  if #names > 0 then
    lines[#lines + 1] = ("%s %s: %s"):format(word("OK"), plural(#names, "check"),
      table.concat(names, ", "))
  end
end

-- Skipped checks with one reason share a line.
local function skipped_lines(lines, results)
  local reasons, by_reason = {}, {}
  for _, result in ipairs(results) do
    if result.status == "SKIPPED" then
      if not by_reason[result.summary] then
        by_reason[result.summary] = {}
        reasons[#reasons + 1] = result.summary
      end
      table.insert(by_reason[result.summary], result.id)
    end
  end
  for _, reason in ipairs(reasons) do
    lines[#lines + 1] = ("%s %s: %s"):format(word("SKIPPED"), output.clean(reason),
      table.concat(by_reason[reason], ", "))
  end
end

--- Results for people: failures first, each with its evidence and its fix, then
-- what was skipped and passed, then the verdict. `verbose` spells out passes.
function M.text(results, verbose)
  local lines = {}
  for _, status in ipairs { "CRIT", "UNKNOWN", "WARN" } do
    for _, result in ipairs(results) do
      if result.status == status then
        failure_lines(lines, result)
      end
    end
  end
  skipped_lines(lines, results)
  passed_lines(lines, results, verbose)
  lines[#lines + 1] = M.verdict(results)
  return table.concat(lines, "\n") .. "\n"
end

return M
