--- Adopts the result table of the replaced system.
--
-- The old table is never changed: its rows are copied into a new one (times in UTC, one row for a
-- window, wider columns, a unique key), the copies of a window go to TABLE_duplicates, and one
-- atomic RENAME puts the new table in place. The old one stays as TABLE_before_tidemill, and with it
-- the rows that lack symbol or window. So a kill at any moment leaves either the old table or the new
-- one, and a second run begins again.

local fault = require "mill.fault"
local migrate = require "mill.migrate"
local mysql = require "host.mysql"
local zone = require "mill.zone"

local M = {}

local function must(db, sql)
  local result, message = db:query(sql)
  if not result then
    fault.raise(fault.SERVER, "migrate: %s\n  in: %s", message, sql:sub(1, 300))
  end
  return result
end

local function columns(db, name)
  local out = {}
  local result = must(db, ([[select lower(column_name), column_type from information_schema.columns
    where table_schema = database() and table_name = %s]]):format(db:quote(name)))
  for _, row in ipairs(result.rows) do out[row[1]] = row[2] end
  return next(out) and out or nil
end

--- Is there a table of the replaced system, not adopted yet?
function M.needed(db, name)
  local have = columns(db, name)
  return have ~= nil and have.id ~= nil and have.start_time ~= nil and have.samples == nil
end

-- An expression for the UTC of local column `column`, by the spans of the zone.
local function utc_of(spans, column)
  if #spans == 1 then
    return ("%s - interval %d second"):format(column, spans[1].offset)
  end
  local cases = {}
  for _, span in ipairs(spans) do
    local seconds = tostring(span.offset)
    if span.other then
      -- The clock showed this hour twice; the row was written shortly after its window's end.
      seconds = ([[if(abs(timestampdiff(second, end_time - interval %d second, created_at))
        <= abs(timestampdiff(second, end_time - interval %d second, created_at)), %d, %d)]]):format(
        span.offset, span.other, span.offset, span.other)
    end
    if span.below then
      cases[#cases + 1] = ("when start_time < timestampadd(second, %d, '1970-01-01') then %s")
        :format(span.below, seconds)
    else
      cases[#cases + 1] = "else " .. seconds
    end
  end
  return ("%s - interval (case %s end) second"):format(column, table.concat(cases, " "))
end

local function span_of_rows(db, name)
  local row = must(db, ([[select count(*), timestampdiff(second, '1970-01-01', min(start_time)),
    timestampdiff(second, '1970-01-01', max(start_time)) from %s]]):format(mysql.name(name))).rows[1]
  return row[1], row[2], row[3]
end

local function ambiguous(db, name, spans)
  local out = {}
  for _, span in ipairs(spans) do
    if span.other then
      local row = must(db, ([[select count(*), timestampadd(second, %d, '1970-01-01'),
        timestampadd(second, %d, '1970-01-01') from %s where start_time >=
        timestampadd(second, %d, '1970-01-01') and start_time < timestampadd(second, %d, '1970-01-01')]])
        :format(span.from, span.below, mysql.name(name), span.from, span.below)).rows[1]
      if row[1] > 0 then out[#out + 1] = { rows = row[1], from = row[2], to = row[3] } end
    end
  end
  return out
end

-- Its columns may be null in the old table; a row without a window cannot have a key in the new one.
local COMPLETE = "symbol is not null and start_time is not null and end_time is not null"

--- Look at the table: what adopting it would do.
-- @return { table, rows, incomplete, duplicate_windows, duplicate_rows, examples, ambiguous, spans }
function M.report(db, name, from_zone)
  local rows, low, high = span_of_rows(db, name)
  local report = { table = name, rows = rows, incomplete = 0, duplicate_windows = 0,
    duplicate_rows = 0, examples = {}, ambiguous = {}, spans = { { offset = 0 } } }
  if rows == 0 then return report end
  report.incomplete = must(db, ("select count(*) from %s where not (%s)"):format(mysql.name(name),
    COMPLETE)).rows[1][1]
  if low == mysql.null then return report end
  if not from_zone then
    fault.raise(fault.USAGE, "migrate: the rows of %s carry local times of an unnamed zone; say "
      .. "which with --from-zone, for example --from-zone UTC or --from-zone Europe/Madrid", name)
  end
  report.spans = zone.spans(from_zone, low - 86400, high + 86400)
  report.ambiguous = ambiguous(db, name, report.spans)
  -- Compared as the new key will be: the old collation may take 'btcusdt' for 'BTCUSDT'.
  local grouped = ([[select convert(symbol using utf8mb4) collate %s as name, %s as utc,
    count(*) as n, max(id) as kept from %s where %s group by name, utc having n > 1]]):format(
    migrate.collation(db:server()), utc_of(report.spans, "start_time"), mysql.name(name), COMPLETE)
  local total = must(db, ("select count(*), coalesce(sum(n - 1), 0) from (%s) as d"):format(grouped))
  report.duplicate_windows = total.rows[1][1]
  report.duplicate_rows = math.tointeger(tonumber(total.rows[1][2]))
  for _, row in ipairs(must(db, grouped .. " order by n desc, name, utc limit 5").rows) do
    report.examples[#report.examples + 1] = { symbol = row[1], start_time = row[2], rows = row[3],
      kept = row[4] }
  end
  return report
end

-- Indexes that the new table gets; the old one may have some of these names.
local OURS = { "symbol_start_time", "is_final_end_time" }

local function free_names(db, fresh, changes)
  for _, index in ipairs(OURS) do
    local has = must(db, ([[select count(*) from information_schema.statistics where
      table_schema = database() and table_name = %s and index_name = %s]]):format(db:quote(fresh),
      db:quote(index))).rows[1][1] > 0
    if has then changes[#changes + 1] = "drop key " .. mysql.name(index) end
  end
end

local function new_table(db, name, fresh, spans)
  local collation = migrate.collation(db:server())
  local have = columns(db, name)
  must(db, "drop table if exists " .. mysql.name(fresh))
  must(db, ("create table %s like %s"):format(mysql.name(fresh), mysql.name(name)))
  -- A row format of the old engine need not be one of InnoDB.
  local changes = {
    "engine = InnoDB", "row_format = default", "modify id bigint unsigned not null auto_increment",
    ("modify symbol varchar(32) character set utf8mb4 collate %s not null"):format(collation),
    "modify start_time datetime not null", "modify end_time datetime not null",
  }
  local missing = {
    { "price_sum", "decimal(38,8) null" }, { "samples", "bigint null" },
    { "revision", "int unsigned not null default 0" },
    { "is_final", "tinyint(1) not null default 0" },
    { "updated_at", "datetime(3) not null default current_timestamp(3)"
      .. " on update current_timestamp(3)" },
  }
  for _, column in ipairs(missing) do
    if not have[column[1]] then
      changes[#changes + 1] = ("add column %s %s"):format(column[1], column[2])
    end
  end
  free_names(db, fresh, changes)
  changes[#changes + 1] = "add key is_final_end_time (is_final, end_time)"
  must(db, ("alter table %s %s"):format(mysql.name(fresh), table.concat(changes, ", ")))
  local names, values = {}, {}
  for column in pairs(have) do names[#names + 1] = column end
  table.sort(names)
  for i, column in ipairs(names) do
    local quoted = mysql.name(column)
    values[i] = (column == "start_time" or column == "end_time") and utc_of(spans, quoted) or quoted
    names[i] = quoted
  end
  must(db, ("insert into %s (%s, is_final) select %s, 1 from %s where %s"):format(
    mysql.name(fresh), table.concat(names, ", "), table.concat(values, ", "), mysql.name(name),
    COMPLETE))
end

-- Copies of a window: all but the greatest id.
local function split_duplicates(db, name, fresh)
  local copies = name .. "_duplicates"
  must(db, ("create table if not exists %s like %s"):format(mysql.name(copies), mysql.name(fresh)))
  local losers = ([[from %s as t join (select symbol, start_time, max(id) as kept from %s
    group by symbol, start_time having count(*) > 1) as d
    on t.symbol = d.symbol and t.start_time = d.start_time and t.id < d.kept]]):format(
    mysql.name(fresh), mysql.name(fresh))
  must(db, ("insert ignore into %s select t.* %s"):format(mysql.name(copies), losers))
  local moved = must(db, "delete t " .. losers).affected
  must(db, ("alter table %s add unique key symbol_start_time (symbol, start_time)"):format(
    mysql.name(fresh)))
  return moved
end

--- Adopt the table.
-- @return { moved = rows moved to TABLE_duplicates, kept = rows, adopted_until = ms | nil }
function M.execute(db, name, report)
  local fresh, before = name .. "_adopting", name .. "_before_tidemill"
  if columns(db, before) then
    fault.raise(fault.USAGE, "migrate: table %s exists already: an earlier adoption left it; "
      .. "rename or drop it first", before)
  end
  local triggers = must(db, ([[select count(*) from information_schema.triggers where
    event_object_schema = database() and event_object_table = %s]]):format(db:quote(name)))
  if triggers.rows[1][1] > 0 then
    fault.raise(fault.USAGE, "migrate: %s has triggers, which a copy would lose; drop them first",
      name)
  end
  local ok, err = pcall(new_table, db, name, fresh, report.spans)
  if not ok then
    db:query("drop table if exists " .. mysql.name(fresh))
    error(err, 0)
  end
  local moved = split_duplicates(db, name, fresh)
  local counts = must(db, ("select (select count(*) from %s where %s), (select count(*) from %s)")
    :format(mysql.name(name), COMPLETE, mysql.name(fresh))).rows[1]
  if counts[1] ~= counts[2] + moved then
    fault.raise(fault.SERVER, "migrate: %s has %d whole rows, but %d + %d were copied: is the old system "
      .. "still writing? Stop it and run again; nothing was changed", name, counts[1], counts[2], moved)
  end
  local until_ms = must(db, ("select timestampdiff(second, '1970-01-01', max(end_time)) * 1000 from %s")
    :format(mysql.name(fresh))).rows[1][1]
  must(db, ("rename table %s to %s, %s to %s"):format(mysql.name(name), mysql.name(before),
    mysql.name(fresh), mysql.name(name)))
  return { moved = moved, kept = counts[2],
    adopted_until = until_ms ~= mysql.null and until_ms or nil, before = before }
end

--- Remember up to where the rows are the replaced system's; for the pipeline that will own it.
function M.remember(db, name, adopted_until)
  must(db, ([[insert into mill_pipelines (pipeline, result_table, fingerprint, adopted_until)
    values ('', %s, '', %s) on duplicate key update adopted_until = values(adopted_until)]]):format(
    db:quote(name), adopted_until and ("%d"):format(adopted_until) or "null"))
end

--- The pipeline that owned the table before it was adopted again, and when it last wrote; or nil.
-- @return { pipeline =, updated_at = } | nil
function M.owner(db, name)
  if not columns(db, "mill_progress") then return nil end
  local row = must(db, ([[select p.pipeline, max(p.updated_at) from mill_pipelines as m join
    mill_progress as p on p.pipeline = m.pipeline where m.result_table = %s and m.pipeline <> ''
    group by p.pipeline]]):format(db:quote(name))).rows[1]
  return row and { pipeline = row[1], updated_at = row[2] }
end

--- Was the table adopted but not remembered (a kill between the two)? Its end, or nil.
function M.forgotten(db, name)
  local have = columns(db, name)
  if not (have and have.id and have.samples) then return nil end
  local row = must(db, ([[select (select count(*) from mill_pipelines where result_table = %s),
    (select timestampdiff(second, '1970-01-01', max(end_time)) * 1000 from %s
      where samples is null)]]):format(db:quote(name), mysql.name(name))).rows[1]
  if row[1] == 0 and row[2] ~= mysql.null then return row[2] end
end

return M
