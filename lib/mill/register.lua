--- Registration of a pipeline: whose table it is, what script wrote it, which log it reads.
--
-- Reading a log again is destructive when the state is additive, so nothing here does it unasked:
-- a changed script and another cluster stop with a message that names the option to give.

local fault = require "mill.fault"
local progress = require "mill.progress"
local reset = require "mill.reset"
local source = require "mill.source"

local M = {}

-- The first lines in which two fingerprints differ.
local function diff(old, new)
  local function lines(text)
    local out = {}
    for line in (text .. "\n"):gmatch("(.-)\n") do out[#out + 1] = line end
    return out
  end
  local a, b, seen_a, seen_b, out = lines(old), lines(new), {}, {}, {}
  for _, line in ipairs(a) do seen_a[line] = (seen_a[line] or 0) + 1 end
  for _, line in ipairs(b) do seen_b[line] = (seen_b[line] or 0) + 1 end
  for _, line in ipairs(a) do
    if not seen_b[line] then out[#out + 1] = "  - " .. line:gsub("^%s+", "") end
  end
  for _, line in ipairs(b) do
    if not seen_a[line] then out[#out + 1] = "  + " .. line:gsub("^%s+", "") end
  end
  return table.concat(out, "\n")
end

local function check_owner(run, known)
  for _, output in ipairs(run.outputs) do
    local row = known[output.table]
    if row and row.pipeline ~= "" and row.pipeline ~= run.name then
      fault.raise(fault.USAGE, "table %s belongs to pipeline '%s'; give pipeline '%s' a table of "
        .. "its own (create table NAME like %s)", output.table, row.pipeline, run.name, output.table)
    end
  end
end

local function check_script(session, run, ctx, known)
  for _, output in ipairs(run.outputs) do
    local row = known[output.table]
    if row and row.pipeline == run.name and row.fingerprint ~= output.fingerprint then
      if not ctx.accept_change then
        fault.raise(fault.POLICY, "the script of pipeline '%s' is not the one that wrote table %s:\n"
          .. "%s\nGo back to the old script, use another table and name, or accept the change with "
          .. "--accept-change --from TIME (results from TIME on are deleted and computed anew)",
          run.name, output.table, diff(row.fingerprint, output.fingerprint))
      end
      reset.confirm(session, run, ctx.from, "--accept-change", false, ctx.execute)
      reset.run(session, run, ctx.from, "--accept-change")
      return
    end
  end
end

-- Is it a log that the pipeline has read, or has it read none?
local function check_log(session, run, ctx)
  local others = fault.check(fault.SERVER, "progress", progress.others(session, run))
  if #others == 0 or ctx.new_log then return end
  fault.raise(fault.POLICY, "pipeline '%s' has read topic '%s' of Kafka cluster %s; this is cluster "
    .. "%s. Is TIDEMILL_KAFKA right? If the cluster really is a new one, begin its log with "
    .. "--new-log --from TIME", run.name, run.topic, table.concat(others, ", "), run.cluster)
end

local function check_cut(session, run, ctx)
  if not (ctx.new_log and ctx.from) then return end
  reset.confirm(session, run, ctx.from, "--new-log", true, ctx.execute)
  reset.cut(session, run, ctx.from)
end

--- Raise a fault where the script does not own its tables, or is not the one that wrote them.
-- @param known what mill.progress.pipelines gave
function M.match(run, known)
  check_owner(run, known)
  for _, output in ipairs(run.outputs) do
    local row = known[output.table]
    if not row or row.pipeline == "" then
      fault.raise(fault.USAGE, "pipeline '%s' has not written table %s yet; are --set name=NAME and "
        .. "table=NAME those of the run?", run.name, output.table)
    end
    if row.fingerprint ~= output.fingerprint then
      fault.raise(fault.POLICY, "the script of pipeline '%s' is not the one that wrote table %s:\n"
        .. "%s\nGive the settings of the run (--set KEY=VALUE), or accept the change with "
        .. "`tidemill run SCRIPT --accept-change --from TIME`", run.name, output.table,
        diff(row.fingerprint, output.fingerprint))
    end
  end
end

--- What a command needs that changes what a pipeline has counted: the script owns its tables and is
-- the one that wrote them, and (with `log`) its log is the one that was read. Raises a fault if not.
-- @param session mill.session, used directly
-- @param log boolean
-- @return what mill.progress.pipelines gave
function M.require(session, run, log)
  local known = fault.check(fault.SERVER, "progress", progress.pipelines(session, run))
  M.match(run, known)
  if not log then return known end
  check_log(session, run, {})
  if next(fault.check(fault.SERVER, "progress", progress.read(session, run))) == nil then
    fault.raise(fault.USAGE, "pipeline '%s' has read nothing of topic '%s' of Kafka cluster %s",
      run.name, run.topic, run.cluster)
  end
  return known
end

--- Make sure the pipeline is registered and may run; set the floors of its windows.
-- @param session mill.session, used directly
function M.register(session, run, ctx)
  local known = fault.check(fault.SERVER, "progress", progress.pipelines(session, run))
  check_owner(run, known)
  check_log(session, run, ctx)
  check_script(session, run, ctx, known)
  local rows = fault.check(fault.SERVER, "progress", progress.read(session, run))
  if next(rows) == nil then
    check_cut(session, run, ctx)
    local starts = source.starts(run.consumer, run.topic, run.partitions, run.start)
    fault.check(fault.SERVER, "register", progress.register(session, run, starts))
    known = fault.check(fault.SERVER, "progress", progress.pipelines(session, run))
    check_owner(run, known)
  else
    -- A table may have been given to this pipeline since.
    fault.check(fault.SERVER, "register", progress.register(session, run, {}))
    known = fault.check(fault.SERVER, "progress", progress.pipelines(session, run))
  end
  progress.apply(run, known)
end

return M
