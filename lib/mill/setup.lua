--- What must be there before a pipeline runs: connections, tables that fit, decoder and store.

local config = require "mill.config"
local fault = require "mill.fault"
local json = require "host.json"
local progress = require "mill.progress"
local rows = require "mill.rows"
local schema = require "mill.schema"
local session_ = require "mill.session"
local upsert = require "mill.upsert"
local window = require "host.window"

local M = {}

-- An instance frozen within a transaction must not keep rows locked: the server ends it after this
-- long. It ends quiet connections as well, which their next statement opens again.
M.WAIT_S = 5

--- Connect options of a pipeline's sink.
function M.database(pipeline)
  local url = pipeline.outputs[1].sink.url
  if not url then return config.mysql() end
  local options, message = require("mill.mysqlurl").parse(url)
  if not options then fault.raise(fault.USAGE, "mill.mysql: %s", message) end
  return options
end

--- What to do when the database cannot be had, by the code of the failure.
M.WAY_OUT = {
  TLS = "TIDEMILL_MYSQL takes ?ssl-ca=FILE (the authority of the server's certificate) and "
    .. "?ssl=require (encrypted, whoever it is); the host must be named as in the certificate",
  AUTH = "set the user in TIDEMILL_MYSQL, and the password in the file that "
    .. "TIDEMILL_MYSQL_PASSWORD_FILE names",
  NODB = "create it and run `tidemill migrate`, or name another one in TIDEMILL_MYSQL",
  REFUSED = "is it running, and is TIDEMILL_MYSQL right?",
  DENIED = "grant the user of TIDEMILL_MYSQL what it lacks",
}

--- Return what a call that reaches the database did; raise a fault with the way out on nil.
-- @param what string what was tried, put before the message
function M.check(what, db, message, code)
  if db then return db end
  fault.raise(fault.SERVER, "%s: %s%s", what, message,
    M.WAY_OUT[code] and "; " .. M.WAY_OUT[code] or "")
end

--- A session set up for exact averages, connected now. Raises a fault when it cannot be.
function M.session(options)
  local session = session_.new(options)
  -- 22 digits more than the sum's: rounding to the column is then exact.
  session.on_open = {
    "set session transaction isolation level read committed",
    "set session div_precision_increment = 22",
    "set session innodb_lock_wait_timeout = 5",
    ("set session wait_timeout = %d"):format(M.WAIT_S),
  }
  M.check("database", session:open())
  return session
end

--- Check the result tables and bind the plans to them.
function M.tables(run, session)
  progress.require_tables(session)
  local server = session:open():server()
  for _, output in ipairs(run.outputs) do
    local have = schema.read(session, output.table)
    if not have then
      fault.raise(fault.SERVER, "table %s does not exist; `tidemill migrate` makes "
        .. "moving_averages, and `create table %s like moving_averages` another one like it",
        output.table, output.table)
    end
    local wrong = schema.check(output.table, have, output.plan, output.sink, output.window)
    if #wrong > 0 then fault.raise(fault.USAGE, "%s", table.concat(wrong, "\n")) end
    output.have = have
    output.bound = upsert.bind(output.plan, output.table, have, server)
  end
end

function M.table_names(run)
  local names = {}
  for i, output in ipairs(run.outputs) do names[i] = output.table end
  return table.concat(names, ", ")
end

--- A decoder for the pipeline's fields.
function M.decoder(pipeline)
  local fields = {}
  for i, f in ipairs(pipeline.decode.fields) do
    fields[i] = { name = f.name, type = f.type, precision = f.precision, scale = f.scale,
      positive = f.positive, unit = f.unit }
  end
  return json.decoder {
    fields = fields, tombstones = pipeline.decode.tombstones, extra = #rows.keys(pipeline),
  }
end

local function store(outputs)
  local windows = {}
  for i, output in ipairs(outputs) do
    local w, parts = output.window, {}
    for n, part in ipairs(output.plan.parts) do
      parts[n] = { op = part.op, cell = part.cell, cell_b = part.cell_b, integer = part.integer }
    end
    windows[i] = {
      size_ms = w.size_ms, hop_ms = w.hop_ms, lateness_ms = w.lateness_ms,
      key = output.key and output.key.cell or output.key_cell,
      key_integer = output.key ~= nil and output.key.type == "integer",
      parts = parts, outs = output.bound.outs,
    }
  end
  local first = outputs[1]
  return window.store {
    time = first.time.cell, max_delay_ms = first.window.max_delay_ms,
    max_future_ms = first.window.max_future_ms, windows = windows,
  }
end

--- Make the decoder, the store, and the script's functions.
function M.stages(run, pipeline)
  run.decoder = M.decoder(pipeline)
  run.store = store(run.outputs)
  -- A value that a column cannot hold is known before it is sent.
  for name, limit in pairs(schema.limits(run.outputs, pipeline.decode.by_name)) do
    run.decoder:limit(name, limit)
  end
  run.functions = rows.functions(pipeline)
end

return M
