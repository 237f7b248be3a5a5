--- The live view of `tidemill up`: stages, newest averages, messages; redrawn in place.
--
-- M.lines turns a model into lines that fit a width and height, and knows no terminal. M.screen
-- draws such lines on one: on the alternate screen, each frame in one write, nothing is erased
-- before it is overwritten, so nothing flickers.

local output = require "mill.output"
local process = require "host.process"

local M = {}

local GAP = 2
local STYLES = { failed = "red bold", backoff = "yellow", stopping = "yellow", running = "green",
                 done = "green" }

-- Columns of the stages; those with the greatest `drop` go first when it is narrow.
local STAGE_COLUMNS = {
  { key = "name", title = "stage", drop = 0 },
  { key = "rate", title = "rate/s", right = true, drop = 0 },
  { key = "total", title = "total", right = true, drop = 0 },
  { key = "lag", title = "lag", right = true, drop = 2 },
  { key = "errors", title = "errors", right = true, drop = 1 },
  { key = "state", title = "state", drop = 3 },
  { key = "note", title = "", drop = 4 },
}

-- Columns of results in their order; others follow by name, and are the first to go.
local RESULT_ORDER = {
  { "symbol", 0 }, { "start_time", 1 }, { "average_price", 0, right = true },
  { "samples", 2, right = true }, { "is_final", 3 }, { "revision", 4 },
}

local function rate_text(rate)
  if not rate then return "-" end
  if rate >= 10 or rate == 0 then return output.count(math.floor(rate + 0.5)) end
  return ("%.1f"):format(rate)
end

local function stage_cells(stage)
  return {
    name = output.clean(stage.name), rate = rate_text(stage.rate),
    total = stage.total and output.count(stage.total) or "-",
    lag = stage.lag and output.count(stage.lag) or "-",
    errors = output.count(stage.errors or 0), state = output.clean(stage.state or ""),
    note = output.clean(stage.note or ""),
  }
end

local function width_of(columns, cells)
  local total = 0
  for _, column in ipairs(columns) do
    column.width = output.columns(column.title)
    for _, row in ipairs(cells) do
      column.width = math.max(column.width, output.columns(row[column.key] or ""))
    end
    if column.width > 0 then total = total + column.width + GAP end
  end
  return total - GAP
end

local NAME_MIN = 8

-- Drop columns until the rest fits: those with the greatest `drop`, then from the right; the first
-- is cut before the last number goes.
local function fit_columns(columns, cells, width)
  local kept = {}
  for _, column in ipairs(columns) do kept[#kept + 1] = setmetatable({}, { __index = column }) end
  while true do
    local total = width_of(kept, cells)
    if total <= width then return kept end
    local worst
    for i, column in ipairs(kept) do
      if column.drop > 0 and (not worst or column.drop > kept[worst].drop) then worst = i end
    end
    if not worst and (#kept == 1 or kept[1].width - (total - width) >= NAME_MIN) then
      kept[1].width = math.max(1, kept[1].width - (total - width))
      return kept
    end
    table.remove(kept, worst)
  end
end

local function table_line(columns, row, paint)
  local parts = {}
  for i, column in ipairs(columns) do
    if column.width > 0 then
      local text = output.cut(row[column.key] or "", column.width)
      if i < #columns or column.right then
        text = output.pad(text, column.width, column.right)
      end
      parts[#parts + 1] = paint and paint(column, text, row) or text
    end
  end
  return (table.concat(parts, (" "):rep(GAP)):gsub(" +$", ""))
end

local function add_table(lines, columns, cells, width, colour, paint)
  local kept = fit_columns(columns, cells, width)
  local head = {}
  for _, column in ipairs(kept) do head[column.key] = column.title end
  lines[#lines + 1] = table_line(kept, head, colour and function(_, text)
    return output.paint(text, "bold")
  end)
  for _, row in ipairs(cells) do lines[#lines + 1] = table_line(kept, row, colour and paint) end
end

local function clock_text(ms)
  local s = ms // 1000
  return ("%02d:%02d:%02d"):format(s // 3600, s // 60 % 60, s % 60)
end

-- The facts give way, the last ones first, when there are not `room` lines for them.
local function add_facts(lines, facts, width, room)
  local line, first = "", #lines
  local function flush()
    if line ~= "" and #lines - first < room then lines[#lines + 1] = line end
    line = ""
  end
  for _, fact in ipairs(facts) do
    fact = output.cut(output.clean(fact), width)
    if line ~= "" and output.columns(line) + output.columns(fact) + 3 > width then flush() end
    line = line == "" and fact or line .. " - " .. fact
  end
  flush()
end

local function add_head(lines, model, width, colour, room)
  local left = model.title .. "  " .. clock_text(model.elapsed_ms)
  local right = model.hint or ""
  local fill = width - output.columns(left) - output.columns(right)
  left = output.cut(left, width)
  lines[#lines + 1] = (colour and output.paint(left, "bold") or left)
    .. (right ~= "" and fill >= GAP and (" "):rep(fill) .. right or "")
  add_facts(lines, model.facts or {}, width, room)
end

local function add_stages(lines, model, width, colour)
  local cells = {}
  for i, stage in ipairs(model.stages) do cells[i] = stage_cells(stage) end
  add_table(lines, STAGE_COLUMNS, cells, width, colour, function(column, text, row)
    if column.key == "errors" and row.errors ~= "0" then return output.paint(text, "red") end
    local style = column.key == "state" and STYLES[row.state:match("^%a+")]
    return style and output.paint(text, style) or text
  end)
end

local function result_columns(newest)
  local columns, has = {}, {}
  for _, name in ipairs(newest.columns) do has[name] = true end
  for _, known in ipairs(RESULT_ORDER) do
    if has[known[1]] then
      columns[#columns + 1] = {
        key = known[1], title = known[1], drop = known[2], right = known.right,
      }
    end
    has[known[1]] = nil
  end
  for _, name in ipairs(newest.columns) do
    if has[name] then columns[#columns + 1] = { key = name, title = name, drop = 5 } end
  end
  return columns
end

local function add_newest(lines, model, width, colour, room)
  local newest = model.newest
  if not newest or #newest.rows == 0 or room < 3 then return end
  local cells = {}
  for i = 1, math.min(#newest.rows, room - 2) do
    cells[i] = {}
    for c, name in ipairs(newest.columns) do
      local value = newest.rows[i][c]
      cells[i][name] = value == nil and "-" or output.clean(value)
    end
  end
  lines[#lines + 1] = ""
  add_table(lines, result_columns(newest), cells, width, colour)
end

local function add_messages(lines, model, width, colour, room)
  local messages = model.messages or {}
  local n = math.min(#messages, room - 1)
  if n < 1 then return end
  lines[#lines + 1] = ""
  for i = #messages - n + 1, #messages do
    local text = output.cut(output.clean(messages[i]), width)
    lines[#lines + 1] = colour and output.paint(text, "dim") or text
  end
end

--- The frame as lines, none wider than `width`, at most `height` of them.
-- @param model table: title, elapsed_ms, hint, facts (texts), stages (array of { name, rate,
--   total, lag, errors, state, note }), newest ({ columns =, rows = }), messages (texts)
-- @param options table: width, height, colour
function M.lines(model, options)
  local width, height, colour = options.width, options.height, options.colour
  local lines = {}
  local results = model.newest and math.min(#model.newest.rows, 3) + 2 or 0
  add_head(lines, model, width, colour, height - #model.stages - results - 3)
  lines[#lines + 1] = ""
  add_stages(lines, model, width, colour)
  local reserve = math.min(#(model.messages or {}), 5) + 1
  reserve = math.min(reserve, height - #lines - results)
  add_newest(lines, model, width, colour, height - #lines - reserve)
  add_messages(lines, model, width, colour, math.min(height - #lines, reserve))
  while #lines > height do table.remove(lines) end
  return lines
end

local Screen = {}
Screen.__index = Screen

--- Take over the terminal; Screen:close (also as <close>) gives it back as it was.
-- @param options table: for tests: write(text), size() -> columns, rows
function M.screen(options)
  options = options or {}
  local self = setmetatable({
    write = options.write or function(text)
      io.stdout:write(text)
      io.stdout:flush()
    end,
    size = options.size or function() return process.winsize(1) end,
    open = true,
  }, Screen)
  self.write("\27[?1049h\27[?25l\27[?7l\27[2J") -- other screen, no cursor, no wrapping
  return self
end

--- Columns and rows of the terminal now; 80 by 24 when it does not say.
function Screen:dimensions()
  local columns, rows = self.size()
  if not columns then return 80, 24 end
  return columns, rows
end

--- Has the terminal another size than when it was drawn on last?
function Screen:resized()
  local columns, rows = self:dimensions()
  return columns ~= self.columns or rows ~= self.rows
end

--- Draw a model.
function Screen:draw(model)
  local columns, rows = self:dimensions()
  -- One column stays free: erasing behind a full line would take its last character.
  local lines = M.lines(model, {
    width = math.max(columns - 1, 1), height = rows, colour = output.colour(1),
  })
  local parts = { "\27[H" }
  if columns ~= self.columns or rows ~= self.rows then parts[1] = "\27[2J\27[H" end
  for i, line in ipairs(lines) do
    parts[#parts + 1] = line .. "\27[K" .. (i < #lines and "\r\n" or "")
  end
  parts[#parts + 1] = "\27[J"
  self.columns, self.rows = columns, rows
  self.write(table.concat(parts))
end

function Screen:close()
  if not self.open then return end
  self.open = false
  self.write("\27[?7h\27[?25h\27[?1049l")
end

Screen.__close = Screen.close

return M
