--- A pipeline: source, decode, window, select, sink; checked when it is built, run by mill.runner.

local digest = require "host.digest"
local fault = require "mill.fault"
local json = require "mill.json"
local select_ = require "mill.select"
local stage = require "mill.stage"

local M = {}

local KEYS = {
  name = 1, source = 1, decode = 1, window = 1, select = 1, sink = 1, outputs = 1, where = 1,
  map = 1, max_bad = 1,
}

local Pipeline = {}
Pipeline.__index = Pipeline
Pipeline.kind = "pipeline"

local function need(options, key, stage_name, constructor)
  local value = options[key]
  if type(value) ~= "table" or value.stage ~= stage_name then
    fault.raise(fault.USAGE, "mill.pipeline: '%s' must be made with %s", key, constructor)
  end
  return value
end

local function field_of(decode, name, want, role)
  local field = decode.by_name[name]
  if not field then
    fault.raise(fault.USAGE, "window.%s = \"%s\": the decoder has no such field", role, name)
  end
  if not want[field.type] then
    fault.raise(fault.USAGE, "window.%s = \"%s\": the field is a %s", role, name, field.type)
  end
  return field
end

-- Raised without the database, which would only say the same.
local function check_key(plan, key)
  local want = { [plan.key.column] = true, [plan.start.column] = true }
  local fits = #key == 2 and key[1] ~= key[2]
  for _, column in ipairs(key) do fits = fits and want[column] end
  if not fits then
    fault.raise(fault.USAGE, "mill.mysql: option 'key' must be the columns of \"key\" and "
      .. "\"window.start\" in select, (%s, %s), got (%s)", plan.key.column, plan.start.column,
      table.concat(key, ", "))
  end
end

local function output(decode, window, select, sink)
  local plan, message = select_.plan(select, decode.by_name)
  if not plan then fault.raise(fault.USAGE, "%s", message) end
  check_key(plan, sink.key)
  local out = { window = window, select = select, sink = sink, table = sink.table, plan = plan }
  out.time = field_of(decode, window.time, { time = true }, "time")
  if type(window.key) == "string" then
    out.key = field_of(decode, window.key, { string = true, integer = true }, "key")
  end
  return out
end

local function function_mark(fn)
  return fn and "function " .. digest.sha256_hex(string.dump(fn, true)) or nil
end

-- What a stored pipeline must still be: source, decode, window, key and select.
local function fingerprint(self, out)
  local fields = {}
  for _, f in ipairs(self.decode.fields) do
    fields[f.name] = { type = f.type, precision = f.precision, scale = f.scale,
      positive = f.positive, unit = f.unit }
  end
  local w = out.window
  return json.encode_pretty {
    topic = self.source.topic, decode = fields, tombstones = self.decode.tombstones,
    window = {
      size_ms = w.size_ms, hop_ms = w.hop_ms, time = w.time,
      key = type(w.key) == "string" and w.key or function_mark(w.key),
      max_delay_ms = w.max_delay_ms, idle_ms = w.idle_ms, max_future_ms = w.max_future_ms,
      lateness_ms = w.lateness_ms,
    },
    select = out.select, where = function_mark(self.where), map = function_mark(self.map),
  }
end

-- One watermark serves all windows of a pipeline.
local SHARED = { "time", "max_delay_ms", "idle_ms", "max_future_ms" }

local function check_shared(outputs)
  local first = outputs[1].window
  for _, out in ipairs(outputs) do
    for _, name in ipairs(SHARED) do
      if out.window[name] ~= first[name] then
        fault.raise(fault.USAGE, "mill.pipeline: all windows share one watermark, so '%s' must be "
          .. "the same in all of them", (name:gsub("_ms$", "")))
      end
    end
    for _, other in ipairs(outputs) do
      if other ~= out and other.table == out.table then
        fault.raise(fault.USAGE, "mill.pipeline: two windows cannot share the table %s", out.table)
      end
    end
  end
end

--- Build a pipeline. Raises a fault that names what is wrong.
-- @param options { name=, source=, decode=, window=, select=, sink= }, or `outputs`, a list of
--   { window=, select=, sink= }, instead of the last three; where, map: functions of a row;
--   max_bad: the share of the last 10,000 rows that may be bad (0.5)
function M.new(options)
  stage.check_keys("mill.pipeline", options, KEYS)
  if type(options.name) ~= "string" or not options.name:match("^[%w_.%-]+$")
    or #options.name > 64 then
    fault.raise(fault.USAGE,
      "mill.pipeline: option 'name' must be 1 to 64 letters, digits, '_', '.' or '-'")
  end
  local self = setmetatable({
    name = options.name,
    source = need(options, "source", "kafka", "mill.kafka { ... }"),
    decode = need(options, "decode", "json", "mill.json { ... }"),
    where = options.where, map = options.map, max_bad = options.max_bad or 0.5, outputs = {},
  }, Pipeline)
  for _, name in ipairs { "where", "map" } do
    if self[name] ~= nil and type(self[name]) ~= "function" then
      fault.raise(fault.USAGE, "mill.pipeline: option '%s' must be a function of a row", name)
    end
  end
  if type(self.max_bad) ~= "number" or self.max_bad <= 0 or self.max_bad > 1 then
    fault.raise(fault.USAGE, "mill.pipeline: option 'max_bad' must be above 0 and at most 1")
  end
  local list = options.outputs or { options }
  if type(list) ~= "table" then
    fault.raise(fault.USAGE, "mill.pipeline: option 'outputs' must be a list of outputs, got a %s",
      type(list))
  end
  for i, item in ipairs(list) do
    if item ~= options then
      stage.check_keys("mill.pipeline: outputs[" .. i .. "]", item,
        { window = 1, select = 1, sink = 1 })
    end
    local window = need(item, "window", "window", "mill.tumbling or mill.hopping")
    local sink = need(item, "sink", "mysql", "mill.mysql { ... }")
    if type(item.select) ~= "table" then
      fault.raise(fault.USAGE, "mill.pipeline: 'select' must be a table of columns")
    end
    self.outputs[i] = output(self.decode, window, item.select, sink)
  end
  if #self.outputs == 0 then fault.raise(fault.USAGE, "mill.pipeline: there is no output") end
  check_shared(self.outputs)
  for _, out in ipairs(self.outputs) do out.fingerprint = fingerprint(self, out) end
  return self
end

--- Run it; see mill.runner.
function Pipeline:run(ctx)
  return require("mill.runner").run(self, ctx)
end

return M
