--- Replays one dead letter: the repaired message is added to its window, once.
--
-- One transaction marks the letter (`where replayed_at is null` must match one row) and adds the
-- row. Its window has passed, so it counts as a late row: the revision goes up. Lateness has no
-- limit here; the floors (adopted, purged, cut) still hold, and send it to mill_late.

local batch = require "host.batch"
local fault = require "mill.fault"
local log = require "mill.log"
local commit = require "mill.commit"
local progress = require "mill.progress"
local register = require "mill.register"
local setup = require "mill.setup"
local transaction = require "mill.transaction"

local M = {}

local FOREVER_MS = 1 << 60

--- Read a letter; nil when there is none of this id.
function M.letter(session, id)
  local result = fault.check(fault.SERVER, "dead letters", session:query(session:bind(
    [[select pipeline, kind, code, reason, path, cluster_id, topic, `partition`, `offset`, stamp_ms,
    message_key, payload, payload_length, created_at, replayed_at, result_table, result_key,
    window_start_ms, result_value, hex(payload_sha256) from mill_dead_letters where id = ?]], id)))
  local row = result.rows[1]
  if not row then return nil end
  local mysql = require "host.mysql"
  local letter = { id = id }
  for i, name in ipairs(result.columns) do
    if row[i] ~= mysql.null then letter[name:lower()] = row[i] end
  end
  letter.sha256 = letter["hex(payload_sha256)"]
  letter["hex(payload_sha256)"] = nil
  return letter
end

-- A run that only decodes and counts one record.
local function open(pipeline, session, letter)
  local run = {
    name = pipeline.name, topic = letter.topic, cluster = letter.cluster_id,
    outputs = pipeline.outputs, log = log,
  }
  for _, output in ipairs(run.outputs) do output.window.lateness_ms = FOREVER_MS end
  setup.tables(run, session)
  setup.stages(run, pipeline)
  return run
end

-- What the tables say about finality and floors, within the transaction: a purge or a reset waits
-- until it is over, or we see what it did.
local function floors(run, session, must)
  local known = must(progress.pipelines(session, run, " lock in share mode"))
  register.match(run, known)
  for index, output in ipairs(run.outputs) do
    local row = known[output.table]
    output.final_ms, output.frozen = row.final_ms, row.frozen
    run.store:floor(index, "cut", row.cut_ms)
    run.store:floor(index, "adopted", row.adopted_until)
    run.store:floor(index, "purged", row.purged_ms)
  end
end

-- Decode the payload into the store; raises a fault that says what is still wrong.
local function count(run, session, letter, payload)
  local rows = fault.check(fault.SERVER, "progress", progress.read(session, run))
  local at = rows[letter.partition]
  run.store:open(letter.partition, letter.offset, at and at.watermark_ms)
  local b <close> = batch.new()
  b:add { partition = letter.partition, offset = letter.offset, stamp_ms = letter.stamp_ms,
    key = letter.message_key, value = payload }
  run.decoder:decode(b)
  if run.functions then run.functions(b) end
  run.store:add(b, require("host.clock").wall_ms())
  local record = b:record(1)
  if record.state ~= "good" then
    fault.raise(fault.POLICY, "dead letter %d is still %s: %s: %s; repair it with --payload FILE",
      letter.id, record.state, record.path or "$", record.fault or "")
  end
  run.store:seal()
end

--- Replay letter `id` with its payload, or a repaired one.
-- @return { windows = rows written, late = rows in mill_late }
function M.run(pipeline, id, repaired)
  local session = setup.session(setup.database(pipeline))
  progress.require_tables(session)
  local letter = M.letter(session, id)
  if not letter then fault.raise(fault.USAGE, "there is no dead letter %d", id) end
  if letter.kind ~= "message" then
    fault.raise(fault.USAGE, "dead letter %d is a result, not a message; it cannot be replayed", id)
  end
  if letter.pipeline ~= pipeline.name then
    fault.raise(fault.USAGE, "dead letter %d is of pipeline '%s', not '%s'", id, letter.pipeline,
      pipeline.name)
  end
  local payload = repaired or letter.payload
  if not repaired and letter.payload and #letter.payload < letter.payload_length then
    fault.raise(fault.USAGE, "only %d of the %d bytes of dead letter %d were kept; give the whole "
      .. "message with --payload FILE", #letter.payload, letter.payload_length, id)
  end
  local run
  transaction.run(session, "replay", function(must)
    run = open(pipeline, session, letter)
    local marked = must(session:query(session:bind([[update mill_dead_letters
      set replayed_at = current_timestamp(3) where id = ? and replayed_at is null]], id)))
    if marked.affected ~= 1 then
      fault.raise(fault.USAGE, "dead letter %d was replayed already", id)
    end
    floors(run, session, must)
    count(run, session, letter, payload)
    must(commit.write(session, run))
  end)
  session:close()
  return { windows = run.written, late = #run.store:notes(letter.partition, 1, math.maxinteger) }
end

return M
