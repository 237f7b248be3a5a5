--- Dead letters and late rows of a commit, written in its transaction.

local mysql = require "host.mysql"

local M = {}

local BATCH_BYTES = 1 << 20

local function blob(text)
  if text == nil then return "null" end
  return mysql.blob(text)
end

-- Cut at `max` characters without breaking one.
local function cut(text, max)
  local stop = utf8.len(text) and utf8.offset(text, max + 1)
  if stop then return text:sub(1, stop - 1) end
  return utf8.len(text) and text or text:sub(1, max):gsub("[\128-\255]", "?")
end

local function dead_row(session, run, note)
  -- The store, which knows the clock, does not know the name of the field.
  local path = note.code == "future" and "$." .. run.outputs[1].window.time or note.path
  return session:bind("(?, 'message', ?, ?, ?, ?, ?, ?, ?, ?, ", run.name, note.code,
    cut(note.text, 500), cut(path, 64), run.cluster, run.topic, note.partition, note.offset,
    note.stamp_ms) .. blob(note.key) .. ", " .. blob(note.value)
    .. (", %d, "):format(note.value_length) .. blob(note.sha256) .. ")"
end

local function late_row(session, run, note)
  local output = run.outputs[note.window]
  local lateness = note.code == "too-late" and note.lateness_ms or nil
  return session:bind("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ", run.name, output.table, note.code,
    run.cluster, run.topic, note.partition, note.offset, cut(note.row_key, 255), note.time_ms,
    note.start_ms, note.start_ms + output.window.size_ms, lateness) .. blob(note.value)
    .. (", %d)"):format(note.value_length)
end

M.TABLES = {
  dead = {
    prefix = [[insert into mill_dead_letters (pipeline, kind, code, reason, path, cluster_id,
      topic, `partition`, `offset`, stamp_ms, message_key, payload, payload_length, payload_sha256)
      values ]],
    row = dead_row,
  },
  late = {
    prefix = [[insert into mill_late (pipeline, result_table, reason, cluster_id, topic,
      `partition`, `offset`, row_key, time_ms, window_start_ms, window_end_ms, lateness_ms, payload,
      payload_length) values ]],
    row = late_row,
  },
}

--- How many notes are in Lua's memory at once.
M.AT_ONCE = 200

-- A reset that reads rows again finds their notes there already; those stay.
local SUFFIX = " on duplicate key update id = id"

-- The sealed notes, some at a time: one batch of rows that hopping windows do not take makes so many
-- for each row that they fit into the store's memory, but not into Lua's.
local function sealed(store)
  local partitions, at, from = store:noted(), 1, 1
  local list, i = {}, 0
  return function()
    i = i + 1
    while not list[i] do
      local partition = partitions[at]
      if not partition then return nil end
      list, i = store:notes(partition, from, M.AT_ONCE), 1
      from = from + #list
      if #list < M.AT_ONCE then at, from = at + 1, 1 end
    end
    return list[i]
  end
end

--- Write the sealed notes.
-- @param out mill.packets
-- @return true, or nil, message, code, errno, sql
function M.write(out, run)
  local session = out.session
  local pending = { dead = {}, late = {} }
  local bytes = { dead = 0, late = 0 }
  local function flush(kind)
    if #pending[kind] == 0 then return true end
    local sql = M.TABLES[kind].prefix .. table.concat(pending[kind], ",") .. SUFFIX
    pending[kind], bytes[kind] = {}, 0
    return out:add(sql)
  end
  for note in sealed(run.store) do
    local kind = note.kind
    local row = M.TABLES[kind].row(session, run, note)
    table.insert(pending[kind], row)
    bytes[kind] = bytes[kind] + #row
    if bytes[kind] > BATCH_BYTES then
      local ok, message, code, errno, sql = flush(kind)
      if not ok then return nil, message, code, errno, sql end
    end
  end
  for _, kind in ipairs { "dead", "late" } do
    local ok, message, code, errno, sql = flush(kind)
    if not ok then return nil, message, code, errno, sql end
  end
  return true
end

return M
