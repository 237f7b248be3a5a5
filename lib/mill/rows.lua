--- The functions of a script that see each row: `where`, `map`, `key`. The only Lua per message.

local batch = require "host.batch"

local M = {}

--- The `key` functions of a pipeline's windows, in order; each fills one extra cell of a row.
function M.keys(pipeline)
  local keys = {}
  for _, output in ipairs(pipeline.outputs) do
    if type(output.window.key) == "function" then
      keys[#keys + 1] = output.window.key
      output.key_cell = #pipeline.decode.fields + #keys - 1
    end
  end
  return keys
end

-- The decoder's fields and the key functions, with what the tables' columns can hold: functions give
-- texts that the decoder has not seen.
local function limited(pipeline)
  local fields, keys, by_name = {}, {}, {}
  for i, f in ipairs(pipeline.decode.fields) do
    fields[i] = { name = f.name, type = f.type, precision = f.precision, scale = f.scale }
    by_name[f.name] = fields[i]
  end
  for _, output in ipairs(pipeline.outputs) do
    local column = output.have and output.have.columns[output.plan.key.column]
    local limit = { max_chars = column and column.chars, column = column and column.name }
    if type(output.window.key) == "function" then
      keys[#keys + 1] = limit
    elseif column then
      local field = by_name[output.key.name]
      if not field.max_chars or limit.max_chars < field.max_chars then
        field.max_chars, field.column = limit.max_chars, limit.column
      end
    end
  end
  return fields, keys
end

--- One function that applies the script's functions to a decoded batch, or nil when it has none.
function M.functions(pipeline)
  local where, map, keys = pipeline.where, pipeline.map, M.keys(pipeline)
  if not where and not map and #keys == 0 then return nil end
  local shape = batch.shape(limited(pipeline))
  return function(rows) rows:apply(shape, where, map, keys) end
end

return M
