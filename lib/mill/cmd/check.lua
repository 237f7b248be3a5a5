--- tidemill check SCRIPT: compile it, validate options and select; --connect: tables and servers too.

local brokers_ = require "mill.brokers"
local config = require "mill.config"
local fault = require "mill.fault"
local json = require "mill.json"
local progress = require "mill.progress"
local schema = require "mill.schema"
local script = require "mill.script"
local setup = require "mill.setup"
local source = require "mill.source"

local M = {
  summary = "validate a script, and with --connect its tables and servers",
  usage = "tidemill check SCRIPT [--connect] [--set KEY=VALUE] [--json]",
  takes = 1,
  options = {
    { "connect", nil, "look at the tables and the topic too" },
    { "set", "KEY=VALUE", "override a setting of the script", many = true },
    { "json", nil, "print one JSON object" },
  },
  exits = {
    { 0, "the script can run" },
    { 2, "the script, an option, a setting or a table is wrong" },
    { 3, "a server cannot be reached, or lacks the topic or a table" },
  },
}

-- Every table is looked at before anything is raised, so that one look tells all.
-- A table that is missing is a server's lack, as for `run`; one that does not fit is wrong.
local function tables(pipeline, found)
  local status = fault.USAGE
  local session = setup.session(setup.database(pipeline))
  progress.require_tables(session)
  for _, output in ipairs(pipeline.outputs) do
    local have = schema.read(session, output.table)
    if not have then
      status = fault.SERVER
      found[#found + 1] = ("table %s does not exist; `create table %s like moving_averages` makes "
        .. "one"):format(output.table, output.table)
    else
      for _, message in ipairs(schema.check(output.table, have, output.plan, output.sink,
        output.window)) do
        found[#found + 1] = message
      end
    end
  end
  session:close()
  return status
end

local function connect(pipeline, conf, out)
  local found = {}
  local status = tables(pipeline, found)
  if #found > 0 then
    local all = fault.new(status, "%s", table.concat(found, "\n"))
    all.errors = found
    error(all, 0)
  end
  local brokers = pipeline.source.brokers or config.kafka()
  local topic = source.describe(brokers, conf, pipeline.source.topic)
  topic.admin:close()
  out.cluster, out.partitions = topic.cluster, topic.partitions
end

local function look(opts, path)
  local object = script.load(path, opts.set)
  local out = { script = path, kind = object.kind, name = object.name, ok = true }
  if object.kind == "pipeline" then
    out.topic, out.tables = object.source.topic, json.array {}
    for i, output in ipairs(object.outputs) do out.tables[i] = output.table end
    local conf = source.conf(object.source)
    brokers_.check_conf(conf)
    if opts.connect then connect(object, conf, out) end
  elseif object.check then
    local more = object:check { connect = opts.connect or false, config = config }
    for key, value in pairs(more or {}) do out[key] = value end
  end
  return out
end

local function described(out)
  local text = ("%s: %s '%s'"):format(out.script, out.kind or "script", out.name or out.script)
  if out.topic then
    text = ("%s %s topic %s%s"):format(text, out.tables and "reads" or "writes to", out.topic,
      out.partitions and (" (%d partitions)"):format(out.partitions) or "")
  end
  if out.tables then text = text .. " into " .. table.concat(out.tables, ", ") end
  return text .. ": ok"
end

-- With --json, what is wrong is told on stdout too.
local function look_json(opts, path)
  local ok, err = pcall(look, opts, path)
  if ok then return err end
  local errors, mask = json.array {}, require("mill.mask").mask
  for i, text in ipairs(fault.is(err) and err.errors or { tostring(err) }) do
    errors[i] = mask(text)
  end
  print(json.encode { script = path, ok = false, errors = errors })
  error(err, 0)
end

function M.run(opts, rest)
  if not rest[1] then fault.raise(fault.USAGE, "usage: %s", M.usage) end
  local out = (opts.json and look_json or look)(opts, rest[1])
  print(opts.json and json.encode(out) or described(out))
  return 0
end

return M
