--- tidemill config: each setting, its value and where it came from, and what is wrong with it. Secrets
-- are masked.

local config = require "mill.config"
local fault = require "mill.fault"
local json = require "mill.json"
local log = require "mill.log"

local M = {
  summary = "show each setting, where it came from, and what is wrong with it",
  usage = "tidemill config [--json]",
  takes = 0,
  options = { { "json", nil, "print one JSON array" } },
  exits = { { 0, "ok" }, { 2, "a setting, or the configuration file, is wrong" } },
}

-- Options of Kafka clients; of those that may hold secrets the name only.
local function options()
  local mask = require "mill.mask"
  local read, conf = pcall(config.kafka_conf)
  if not read then return "********" end
  local items = {}
  for key, value in pairs(conf) do
    items[#items + 1] = key .. "=" .. (mask.is_secret_option(key) and "********" or value)
  end
  table.sort(items)
  return table.concat(items, ",")
end

--- The value of a row of config.all() as it may be seen.
function M.shown(row)
  if row.value == nil then return nil end
  if row.key == "kafka_conf" then return options() end
  if row.secret then return "********" end
  if row.key == "mysql" then return require("mill.mysqlurl").mask(row.value) end
  return row.value
end

-- What librdkafka says of its options, once they can be read.
local function refused_options()
  local ok, err = pcall(function() require("mill.brokers").check_conf(config.kafka_conf()) end)
  if ok then return nil end
  if not fault.is(err) then error(err, 0) end
  return err.message
end

-- Everything that is wrong, a line each.
local function problems(all)
  local lines, readable = {}, true
  for _, row in ipairs(all) do
    local problem = config.problem(row)
    if problem then
      lines[#lines + 1] = ("%s = %s (%s): %s"):format(row.key, M.shown(row), row.origin, problem)
      readable = readable and not row.key:find("^kafka_conf")
    end
  end
  if readable then lines[#lines + 1] = refused_options() end
  lines[#lines + 1] = log.problem()
  return lines
end

-- Raised when all has been shown.
local function refuse(all)
  local lines = problems(all)
  if #lines > 0 then fault.raise(fault.USAGE, "%s", table.concat(lines, "\n")) end
end

function M.run(opts)
  local rows, all = json.array {}, config.all()
  for i, row in ipairs(all) do
    rows[i] = { key = row.key, value = M.shown(row), origin = row.origin, meaning = row.meaning }
  end
  if opts.json then
    print(json.encode(rows))
    refuse(all)
    return 0
  end
  for _, row in ipairs(rows) do
    print(("%-20s %-48s %s"):format(row.key, row.value or "-", row.origin))
  end
  refuse(all)
  return 0
end

return M
