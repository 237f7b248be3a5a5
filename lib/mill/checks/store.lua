--- The checks of what is stored: the database, its schema, the result rows.
--
-- They share a context with mill.checks.stream: ctx.set, ctx.mysql (connect
-- options); ctx.db is the connection the first of them opens. Result tables are
-- made like moving_averages: symbol, start_time, end_time, average_price and,
-- unless another system made them, price_sum and samples.

local check = require "mill.check"
local clock = require "host.clock"
local json = require "mill.json"
local moment = require "host.moment"
local mysql = require "host.mysql"
local output = require "mill.output"

local M = {}

local MAX_DETAIL = 10
local STATE = { "mill_progress", "mill_instances" }
local RESULT = { "symbol", "start_time", "end_time", "average_price" }

local function plural(n, noun)
  return ("%s %s%s"):format(output.count(n), noun, n == 1 and "" or "s")
end

local function address(options)
  return options.socket or ("%s:%d"):format(options.host or "127.0.0.1", options.port or 3306)
end

local function whole(value)
  return value ~= json.null and math.tointeger(tonumber(value)) or 0
end

-- A scan gets its own limit on the server, so that it ends there as well.
local function limit_scans(ctx)
  local seconds = ctx.set.scan / 1000
  local sql = ctx.db:server().flavor == "mariadb"
    and ("set session max_statement_time = %f"):format(seconds)
    or ("set session max_execution_time = %d"):format(ctx.set.scan)
  return ctx.db:query(sql) and ctx.db:query("set session div_precision_increment = 22")
end

-- A scan of the result table; nil and an UNKNOWN result when it did not end.
local function scan(ctx, sql)
  local result, message = ctx.db:query(sql, ctx.set.scan + ctx.set.timeout)
  if result then
    return result
  end
  return nil, check.unknown(("table %s could not be read through"):format(ctx.set.table), {
    detail = { message },
    fix = ("look at newer rows only (--set since=7d), or allow more time than --set scan=%ds")
      :format(ctx.set.scan // 1000),
  })
end

local CONNECT = {
  REFUSED = { "critical", "MySQL does not answer at %s",
    "start it, or say where it is with TIDEMILL_MYSQL=mysql://user@host:port/database" },
  AUTH = { "unknown", "MySQL at %s refuses our user or password",
    "set the user in TIDEMILL_MYSQL and the password in TIDEMILL_MYSQL_PASSWORD_FILE" },
  NODB = { "critical", "MySQL at %s has no such database",
    "create it, then run `tidemill migrate`; or restore a backup: `tidemill runbook restore`" },
  TLS = { "critical", "no trusted connection to MySQL at %s", require("mill.setup").WAY_OUT.TLS },
  TOOMANY = { "critical", "MySQL at %s takes no more connections",
    "see who holds them (show processlist), or raise max_connections" },
}

local function connect_run(ctx)
  local began = clock.mono_ms()
  local db, message, code = mysql.connect(ctx.mysql)
  if not db then
    local known = CONNECT[code] or { "unknown", "MySQL at %s could not be asked",
      "read the message; the server's log has more" }
    return check[known[1]](known[2]:format(address(ctx.mysql)), {
      detail = { message }, fix = known[3],
    })
  end
  ctx.db = db
  local ms = clock.mono_ms() - began
  local result, why = db:query("select @@global.read_only", ctx.set.timeout)
  if not result or not limit_scans(ctx) then
    return check.unknown("MySQL does not answer a plain question", { detail = { why },
      fix = "read the message; the server's log has more" })
  end
  local server = db:server()
  local metrics = { { name = "connect", value = ms, unit = "ms" } }
  if whole(result.rows[1][1]) == 1 then
    return check.critical(("MySQL at %s is read-only: nothing can be written"):format(
      address(ctx.mysql)), { metrics = metrics,
        fix = { text = "is it a replica? If it is meant to be written to:",
          cmd = "mysql -e 'set global read_only = off'" } })
  end
  return check.ok(("%s %s answers at %s"):format(server.flavor == "mariadb" and "MariaDB" or "MySQL",
    server.version, address(ctx.mysql)), { metrics = metrics })
end

-- Window size and hop in milliseconds, as the pipeline that owns the table was
-- declared; else the size that most rows have.
local function learn_window(ctx)
  local owner = ctx.db:query(("select fingerprint from mill_pipelines where result_table = %s")
    :format(ctx.db:quote(ctx.set.table)))
  local declared = owner and owner.rows[1] and json.decode(owner.rows[1][1])
  if declared and declared.window then
    ctx.size_ms = declared.window.size_ms
    ctx.hop_ms = declared.window.hop_ms or ctx.size_ms
    return
  end
  local common = ctx.db:query(("select timestampdiff(microsecond, start_time, end_time) div 1000 "
    .. "as size, count(*) as n from (select start_time, end_time from %s limit 10000) as some "
    .. "group by size order by n desc limit 1"):format(ctx.name))
  ctx.size_ms = common and common.rows[1] and whole(common.rows[1][1])
  ctx.hop_ms = ctx.size_ms
end

-- A table of the replaced system that was not adopted; see mill.adopt.
local function is_old(columns)
  return columns ~= nil and columns.id ~= nil and columns.samples == nil
end

local function adopt_fix(ctx, text)
  return { text = text .. "; ZONE is that of its local times, such as Europe/Madrid; without --execute it "
    .. "only says what it would do", cmd = ("tidemill migrate%s --from-zone ZONE --execute"):format(
      ctx.set.table ~= "moving_averages" and " --table " .. ctx.set.table or "") }
end

-- Counts the results again from the window on in which `ms` is.
local function reset_command(ctx, ms)
  local usual = ctx.set.pipeline == "averages" and ctx.set.table == "moving_averages"
  local hop_ms = ctx.hop_ms and ctx.hop_ms > 0 and ctx.hop_ms or 1
  return ("tidemill progress reset %s --from %s --execute"):format(
    usual and "scripts/averages.lua" or "SCRIPT",
    (moment.format(ms - ms % hop_ms, "iso"):gsub("%.000Z$", "Z")))
end

local function schema_run(ctx)
  local names = { ctx.set.table, table.unpack(STATE) }
  local quoted = {}
  for i, name in ipairs(names) do
    quoted[i] = ctx.db:quote(name)
  end
  local result, message = ctx.db:query("select table_name, column_name, numeric_scale "
    .. "from information_schema.columns where table_schema = database() and table_name in ("
    .. table.concat(quoted, ", ") .. ")", ctx.set.timeout)
  if not result then
    return check.unknown("the schema could not be read", { detail = { message },
      fix = "grant select on the database to this user" })
  end
  local found, detail = {}, {}
  for _, row in ipairs(result.rows) do
    found[row[1]] = found[row[1]] or {}
    found[row[1]][row[2]] = { scale = row[3] ~= json.null and row[3] or nil }
  end
  ctx.make_tables = is_old(found[ctx.set.table]) and adopt_fix(ctx, "stop the replaced system and adopt "
    .. "its table") or { text = "make moving_averages and the pipeline's tables; another result table "
    .. "is made like moving_averages", cmd = "tidemill migrate" }
  for _, name in ipairs(names) do
    if not found[name] then
      detail[#detail + 1] = ("table %s is missing in database %s"):format(name,
        ctx.mysql.database or "(none)")
    end
  end
  for _, column in ipairs(found[ctx.set.table] and RESULT or {}) do
    if not found[ctx.set.table][column] then
      detail[#detail + 1] = ("table %s has no column %s"):format(ctx.set.table, column)
    end
  end
  if #detail > 0 then
    return check.critical(detail[1], { detail = { table.unpack(detail, 2) },
      fix = ctx.make_tables })
  end
  ctx.columns, ctx.name = found[ctx.set.table], mysql.name(ctx.set.table)
  learn_window(ctx)
  return check.ok(("table %s and the pipeline's state are there"):format(ctx.set.table))
end

-- A condition that leaves out rows older than the setting `since`.
local function since(ctx, joined)
  if ctx.set.since == "" then
    return ""
  end
  return (" %s start_time >= utc_timestamp() - interval %d second"):format(joined or "where",
    ctx.set.since_ms // 1000)
end

local function symbols(ctx)
  local result, bad = scan(ctx, ("select symbol, cast(max(end_time) as char), "
    .. "timestampdiff(microsecond, max(end_time), utc_timestamp(6)) div 1000 from %s "
    .. "where start_time >= utc_timestamp() - interval 1 day group by symbol order by symbol")
    :format(ctx.name))
  if not result then
    return nil, bad
  end
  local list = {}
  for i, row in ipairs(result.rows) do
    list[i] = { symbol = row[1], newest_end = row[2], age_ms = whole(row[3]) }
  end
  return list
end

local FRESH_FIX = {
  text = "the aggregation runs but its rows do not arrive: look at its log and positions",
  cmd = "tidemill progress",
}

local function fresh_run(ctx)
  local list, bad = symbols(ctx)
  if not list then
    return bad
  elseif #list == 0 then
    return check.critical(("table %s has no row of the last day"):format(ctx.set.table),
      { fix = FRESH_FIX })
  end
  local youngest, stale = math.huge, {}
  for _, s in ipairs(list) do
    youngest = math.min(youngest, s.age_ms)
    if s.age_ms > ctx.set.rows_age + (ctx.size_ms or 0) and #stale < MAX_DETAIL then
      stale[#stale + 1] = ("%s: its newest window ended %s UTC, %s ago"):format(s.symbol,
        s.newest_end, output.seconds(s.age_ms / 1000))
    end
  end
  local age = math.max(0, youngest / 1000)
  local metrics = {
    { name = "symbols", value = #list },
    { name = "newest_window_age", value = age, unit = "s", crit = ctx.set.rows_age / 1000 },
  }
  if youngest > ctx.set.rows_age then
    return check.critical(("no new row in table %s: its newest window ended %s ago"):format(
      ctx.set.table, output.seconds(age)), { detail = stale, metrics = metrics, fix = FRESH_FIX })
  elseif #stale > 0 then
    return check.warn(("table %s: no new row for %d of %s"):format(ctx.set.table, #stale,
      plural(#list, "symbol")), { detail = stale, metrics = metrics,
        fix = "does the exchange still have them, and does the producer still ask for them?" })
  end
  return check.ok(("new rows arrive for %s"):format(plural(#list, "symbol")),
    { metrics = metrics })
end

-- Times at which a symbol has no row while it has earlier and later ones.
local function holes(ctx)
  return scan(ctx, ("select symbol, cast(before_it as char), cast(start_time as char) "
    .. "from (select symbol, start_time, lag(start_time) over (partition by symbol "
    .. "order by start_time) as before_it from %s "
    .. "where start_time >= utc_timestamp() - interval %d second) as steps "
    .. "where timestampdiff(microsecond, before_it, start_time) div 1000 >= %d "
    .. "order by start_time desc limit 50"):format(ctx.name, ctx.set.gaps_since // 1000,
      ctx.hop_ms + ctx.set.gap))
end

local function gaps_run(ctx)
  if not ctx.hop_ms or ctx.hop_ms == 0 then
    return check.skip("table " .. ctx.set.table .. " has no rows to compare")
  end
  local result, bad = holes(ctx)
  if not result then
    return bad
  end
  local partial, silence = {}, 0
  for _, row in ipairs(result.rows) do
    local others, why = scan(ctx, ("select 1 from %s where start_time > %s and start_time < %s "
      .. "limit 1"):format(ctx.name, ctx.db:quote(row[2]), ctx.db:quote(row[3])))
    if not others then
      return why
    elseif #others.rows == 0 then
      silence = silence + 1 -- nobody has rows there: the input was silent
    elseif #partial < MAX_DETAIL then
      partial[#partial + 1] = ("%s: nothing between %s and %s UTC"):format(row[1], row[2], row[3])
    end
  end
  local metrics = { { name = "gaps", value = #partial }, { name = "silences", value = silence } }
  if #partial > 0 then
    return check.warn("windows are missing for some symbols while others have them", {
      detail = partial, metrics = metrics,
      fix = "look for bad messages of that time (tidemill deadletters ls) and at the producer's log",
    })
  end
  return check.ok(silence == 0 and "no window is missing"
    or "windows are missing only where the whole input was silent", { metrics = metrics })
end

-- Whether a key keeps each window single (its columns cannot be NULL then).
local function has_unique_key(ctx)
  local result, message = ctx.db:query(("select index_name, group_concat(column_name "
    .. "order by column_name), max(nullable) from information_schema.statistics "
    .. "where table_schema = database() and table_name = %s and non_unique = 0 "
    .. "group by index_name"):format(ctx.db:quote(ctx.set.table)), ctx.set.timeout)
  if not result then
    return nil, check.unknown("the keys could not be read", { detail = { message },
      fix = "grant select on the database to this user" })
  end
  for _, row in ipairs(result.rows) do
    if row[2] == "start_time,symbol" and row[3] ~= "YES" then
      return true
    end
  end
  return false
end

-- The way out without the key. The copies in a table of ours are parts of one sum, so no single one
-- of them is right; those of the replaced system are whole, and adopting the table keeps the newest.
-- @param from_ms the first window with copies, or nil
local function mend(ctx, from_ms)
  if is_old(ctx.columns) then
    return adopt_fix(ctx, from_ms and "adopt the table: the newest row of each is kept, the others are "
      .. "moved away, and the unique key is added" or "without it windows have several rows; adopt the table")
  end
  local alter = ("alter table %s add unique key symbol_start_time (symbol, start_time)")
    :format(ctx.name)
  local cmd = ("tidemill repl -e 'sql \"%s\"'"):format(alter)
  if not from_ms then
    return { text = "without it every commit adds rows; stop the pipeline and add it", cmd = cmd }
  end
  return { cmd = cmd, text = "stop the pipeline, delete the rows of these windows, add the key (below), "
    .. "and count them again from the first of them on: " .. reset_command(ctx, from_ms) }
end

-- No key forbids duplicates: look for them.
local function without_key(ctx)
  local found, bad = scan(ctx, ("select min(symbol), cast(start_time as char), count(*) from %s%s "
    .. "group by symbol, start_time having count(*) > 1 order by start_time desc limit %d")
    :format(ctx.name, since(ctx), MAX_DETAIL + 1))
  if not found then
    return bad
  end
  local lines = {}
  for i, row in ipairs(found.rows) do
    lines[i] = i <= MAX_DETAIL and ("%s %s UTC: %s rows"):format(row[1], row[2], row[3]) or "..."
  end
  local metrics = { { name = "duplicates", value = #lines, crit = 0 } }
  if #lines > 0 then
    local first, why = scan(ctx, ("select timestampdiff(microsecond, '1970-01-01', min(start_time)) div "
      .. "1000 from (select start_time from %s%s group by symbol, start_time having count(*) > 1) as copies")
      :format(ctx.name, since(ctx)))
    if not first then
      return why
    end
    return check.critical(("table %s has duplicate windows: %s"):format(ctx.set.table, lines[1]), {
      detail = { table.unpack(lines, 2) }, metrics = metrics, fix = mend(ctx, whole(first.rows[1][1])),
    })
  end
  return check.critical(("table %s has no unique key (symbol, start_time)"):format(ctx.set.table), {
    metrics = metrics, fix = mend(ctx),
  })
end

-- Spellings of one symbol: to the key, 'btc' and 'BTC ' are others than 'BTC'.
local function spellings(ctx)
  local result, bad = scan(ctx, "select distinct symbol from " .. ctx.name .. since(ctx))
  if not result then
    return nil, bad
  end
  local first, lines = {}, {}
  for _, row in ipairs(result.rows) do
    local plain = row[1]:upper():match("^%s*(.-)%s*$")
    if first[plain] and #lines < MAX_DETAIL then
      lines[#lines + 1] = ("'%s' and '%s'"):format(first[plain], row[1])
    end
    first[plain] = first[plain] or row[1]
  end
  return lines
end

local function duplicates_run(ctx)
  local unique, bad = has_unique_key(ctx)
  if unique == nil then
    return bad
  elseif not unique then
    return without_key(ctx)
  end
  local lines, why = spellings(ctx)
  if not lines then
    return why
  elseif #lines > 0 then
    return check.warn(("table %s has symbols that differ only by case or blanks"):format(
      ctx.set.table), { detail = lines, fix = "make the producer write one spelling" })
  end
  return check.ok("each symbol and window has one row, and a key keeps it so",
    { metrics = { { name = "duplicates", value = 0, crit = 0 } } })
end

-- Conditions that no good row fulfils: what it means, SQL.
local function corruptions(ctx)
  local list = {
    { "its average is missing or not above zero", "average_price is null or average_price <= 0" },
    { "its window ends before it starts", "end_time <= start_time" },
    { "its symbol is empty or has blanks", "symbol <> trim(symbol) or symbol = ''" },
  }
  local length = "timestampdiff(microsecond, start_time, end_time)"
  if ctx.size_ms and ctx.size_ms > 0 then
    list[#list + 1] = { "its window has another length than the others",
      ("%s <> %d"):format(length, ctx.size_ms * 1000) }
    list[#list + 1] = { "its window does not start at a multiple of its size",
      ("mod(timestampdiff(microsecond, '1970-01-01', start_time), %d) <> 0"):format(
        ctx.hop_ms * 1000) }
  end
  if ctx.columns.samples and ctx.columns.price_sum then
    list[#list + 1] = { "its average is not its sum divided by its samples",
      ("samples is not null and (samples <= 0 or price_sum is null or average_price <> "
        .. "round(price_sum / nullif(samples, 0), %d))"):format(ctx.columns.average_price.scale or 8) }
  end
  return list
end

local function corrupt_rows(ctx, condition)
  local result = scan(ctx, ("select symbol, cast(start_time as char), cast(end_time as char), "
    .. "average_price from %s where (%s)%s order by start_time desc limit 3"):format(ctx.name,
      condition, since(ctx, "and")))
  local texts = {}
  for i, row in ipairs(result and result.rows or {}) do
    texts[i] = ("%s %s..%s %s"):format(row[1], row[2], row[3],
      row[4] == json.null and "NULL" or row[4])
  end
  return table.concat(texts, "; ")
end

-- Adopted rows have no samples: they are in no log of ours.
local function corrupt_fix(ctx, from_ms)
  if not from_ms then
    return "who wrote them? They are not from the topic and cannot be computed again: mend or delete them"
  end
  return { text = "who wrote them? To compute them again from the topic, from the first of them on, stop "
    .. "the pipeline and go back; without --execute it only says what would be deleted",
    cmd = reset_command(ctx, from_ms) }
end

local function corrupt_run(ctx)
  local list, sums, any = corruptions(ctx), { "count(*)" }, {}
  for i, item in ipairs(list) do
    sums[i + 1], any[i] = ("sum(%s)"):format(item[2]), ("(%s)"):format(item[2])
  end
  sums[#sums + 1] = ctx.columns.samples and ("timestampdiff(microsecond, '1970-01-01', min(if(samples is "
    .. "not null and (%s), start_time, null))) div 1000"):format(table.concat(any, " or ")) or "null"
  local result, bad = scan(ctx, ("select %s from %s%s"):format(table.concat(sums, ", "), ctx.name,
    since(ctx)))
  if not result then
    return bad
  end
  local row, total, detail = result.rows[1], 0, {}
  for i, item in ipairs(list) do
    local n = whole(row[i + 1])
    if n > 0 then
      total = total + n
      detail[#detail + 1] = ("%s: %s (%s)"):format(plural(n, "row"), item[1],
        corrupt_rows(ctx, item[2]))
    end
  end
  local metrics = { { name = "rows", value = whole(row[1]) },
    { name = "corrupt", value = total, crit = 0 } }
  if total > 0 then
    return check.critical(("table %s has corrupt rows: %s"):format(ctx.set.table, detail[1]), {
      detail = { table.unpack(detail, 2) }, metrics = metrics,
      fix = corrupt_fix(ctx, math.tointeger(row[#list + 2])),
    })
  end
  return check.ok(("%s, none corrupt"):format(plural(whole(row[1]), "row")), { metrics = metrics })
end

local function skew(ctx)
  local before = clock.wall_ms()
  local result, message = ctx.db:query("select timestampdiff(microsecond, '1970-01-01', "
    .. "utc_timestamp(6)) div 1000", ctx.set.timeout)
  if not result then
    return nil, message
  end
  local after = clock.wall_ms()
  local ahead = whole(result.rows[1][1]) - (before + after) // 2
  return ahead, math.max(0, math.abs(ahead) - (after - before))
end

local function times_run(ctx)
  local ahead, sure = skew(ctx)
  if not ahead then
    return check.unknown("the database does not tell its time", { detail = { sure },
      fix = "read the message; the server's log has more" })
  end
  local future, bad = scan(ctx, ("select symbol, cast(start_time as char) from %s where start_time "
    .. "> utc_timestamp() + interval %d second order by start_time desc limit 3"):format(ctx.name,
      ctx.set.max_future // 1000))
  if not future then
    return bad
  end
  local metrics = { { name = "clock_skew", value = ahead / 1000, unit = "s",
    warn = ctx.set.skew / 1000, crit = ctx.set.max_future / 2000 } }
  local text = ("the database's clock is %s %s ours"):format(output.seconds(math.abs(ahead) / 1000),
    ahead < 0 and "behind" or "ahead of")
  local fix = { text = "see which of the two is wrong, and let it follow a time server",
    cmd = "chronyc tracking" }
  if #future.rows > 0 then
    return check.critical(("table %s has rows from the future: %s at %s UTC"):format(ctx.set.table,
      future.rows[1][1], future.rows[1][2]), { detail = { text }, metrics = metrics, fix = fix })
  elseif sure > ctx.set.max_future // 2 then
    return check.critical(text .. ": the aggregation pauses", { metrics = metrics, fix = fix })
  elseif sure > ctx.set.skew then
    return check.warn(text, { metrics = metrics, fix = fix })
  end
  return check.ok("no row is from the future; our clock and the database's agree",
    { metrics = metrics })
end

--- The connection and the schema; everything else needs them.
M.BASE = {
  { id = "mysql.connect", component = "mysql", title = "the database answers", ref = "RB3.4",
    run = connect_run },
  { id = "mysql.schema", component = "mysql", title = "the tables are there", ref = "RB3.4",
    needs = { "mysql.connect" }, run = schema_run },
}

--- The rows; they need those of mill.checks.stream before them.
M.ROWS = {
  { id = "rows.fresh", component = "rows", title = "new rows arrive", ref = "RB3.4c",
    needs = { "mysql.schema", "producer.alive", "aggregation.alive", "aggregation.lag" },
    run = fresh_run },
  { id = "rows.gaps", component = "rows", title = "no window is missing", ref = "RB3.4f",
    needs = { "mysql.schema" }, run = gaps_run },
  { id = "rows.duplicates", component = "rows", title = "one row a symbol and window",
    ref = "RB3.4d", needs = { "mysql.schema" }, run = duplicates_run },
  { id = "rows.corrupt", component = "rows", title = "every row is sound", ref = "RB3.4e",
    needs = { "mysql.schema" }, run = corrupt_run },
  { id = "rows.times", component = "rows", title = "timestamps are right", ref = "RB3.4f",
    needs = { "mysql.schema" }, run = times_run },
}

--- Settings that these checks read.
M.SETTINGS = {
  { "table", "moving_averages", "the result table" },
  { "rows_age", "2m", "the newest window may have ended this long ago", type = "duration" },
  { "gap", "1m", "a symbol may lack windows up to this long", type = "duration" },
  { "gaps_since", "1h", "look for missing windows in this time", type = "duration" },
  { "since", "", "look for duplicate and corrupt rows in this time only, such as 7d" },
  { "skew", "2s", "clocks may differ by this", type = "duration" },
  { "scan", "60s", "for each look through the table", type = "duration" },
}

return M
