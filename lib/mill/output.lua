--- What commands show: tables fitted to a width, colour, progress, masked
-- secrets. Results go to stdout, chatter and progress to stderr; nothing here
-- prints by itself except a progress line. Text from outside (a message, a
-- cell) is cleaned first: control characters never reach the terminal.

local mask = require "mill.mask"

local M = {}

local ESC = "\27["
local STYLES = {
  bold = "1", dim = "2", red = "31", green = "32", yellow = "33", blue = "34",
  magenta = "35", cyan = "36",
}

local BOX = {
  top = { "┌", "─", "┬", "┐" }, mid = { "├", "─", "┼", "┤" }, low = { "└", "─", "┴", "┘" },
  bar = "│", more = "…",
}
local ASCII = {
  top = { "+", "-", "+", "+" }, mid = { "+", "-", "+", "+" }, low = { "+", "-", "+", "+" },
  bar = "|", more = "~",
}

local NUMERIC = { int = true, decimal = true, real = true }
local WHOLE = { datetime = true, date = true, time = true } -- with numbers: never cut

-- Code points that take no column, and those that take two. Sorted pairs.
local ZERO = {
  0x0300, 0x036F, 0x0483, 0x0489, 0x0591, 0x05BD, 0x0610, 0x061A, 0x064B, 0x065F,
  0x06D6, 0x06DC, 0x093C, 0x093C, 0x0941, 0x0948, 0x0E31, 0x0E31, 0x0E34, 0x0E3A,
  0x0E47, 0x0E4E, 0x1AB0, 0x1AFF, 0x1DC0, 0x1DFF, 0x200B, 0x200F, 0x202A, 0x202E,
  0x2060, 0x2064, 0x20D0, 0x20FF, 0xFE00, 0xFE0F, 0xFE20, 0xFE2F, 0xFEFF, 0xFEFF,
  0x1F3FB, 0x1F3FF, 0xE0100, 0xE01EF,
}
local WIDE = {
  0x1100, 0x115F, 0x231A, 0x231B, 0x2329, 0x232A, 0x23E9, 0x23EC, 0x25FD, 0x25FE,
  0x2614, 0x2615, 0x26A1, 0x26A1, 0x2705, 0x2705, 0x274C, 0x274C, 0x2753, 0x2755,
  0x2E80, 0x303E, 0x3041, 0x33FF, 0x3400, 0x4DBF, 0x4E00, 0x9FFF, 0xA000, 0xA4CF,
  0xA960, 0xA97F, 0xAC00, 0xD7A3, 0xF900, 0xFAFF, 0xFE30, 0xFE6F, 0xFF00, 0xFF60,
  0xFFE0, 0xFFE6, 0x1F300, 0x1F3FA, 0x1F400, 0x1F64F, 0x1F680, 0x1F6FF, 0x1F900, 0x1F9FF,
  0x1FA70, 0x1FAFF, 0x20000, 0x3FFFD,
}

local colour_flag = "auto" -- what --color said

local function within(ranges, code)
  local low, high = 1, #ranges // 2
  while low <= high do
    local mid = (low + high) // 2
    if code < ranges[2 * mid - 1] then
      high = mid - 1
    elseif code > ranges[2 * mid] then
      low = mid + 1
    else
      return true
    end
  end
  return false
end

local function code_width(code)
  if code < 0x300 then
    return 1
  elseif within(ZERO, code) then
    return 0
  elseif within(WIDE, code) then
    return 2
  end
  return 1
end

--- The columns that `text` takes on a terminal; `text` is clean UTF-8.
function M.columns(text)
  if not text:find("[\128-\255]") then
    return #text
  end
  local width = 0
  for _, code in utf8.codes(text) do
    width = width + code_width(code)
  end
  return width
end

local NAMED = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r" }

local function escape_byte(byte)
  return NAMED[byte] or ("\\x%02X"):format(byte:byte())
end

-- Also C1 controls and the marks that turn the direction of writing.
local function escape_code(char)
  local code = utf8.codepoint(char)
  if (code >= 0x80 and code < 0xA0) or (code >= 0x202A and code <= 0x202E)
     or (code >= 0x2066 and code <= 0x2069) or code == 0x2028 or code == 0x2029 then
    return ("\\u{%X}"):format(code)
  end
  return char
end

--- `text` as one line of valid UTF-8: control characters and broken bytes are
-- shown as escapes, so that no cell can move the cursor or break a table.
function M.clean(text)
  text = tostring(text)
  if not text:find("[%c\128-\255]") then
    return text
  end
  text = text:gsub("%c", escape_byte)
  local parts, from = {}, 1
  while from <= #text do
    local _, bad = utf8.len(text, from)
    local good = text:sub(from, (bad or #text + 1) - 1)
    parts[#parts + 1] = good:gsub(utf8.charpattern, function(char)
      return #char > 1 and escape_code(char) or nil
    end)
    if not bad then
      break
    end
    parts[#parts + 1] = escape_byte(text:sub(bad, bad))
    from = bad + 1
  end
  return table.concat(parts)
end

--- The start of clean `text` that fits `width` columns, marked when cut.
function M.cut(text, width, mark)
  if M.columns(text) <= width then
    return text
  end
  mark = mark or (M.unicode() and BOX.more or ASCII.more)
  local room = width - M.columns(mark)
  if room < 0 then
    return ""
  end
  local used, stop = 0, 0
  for at, code in utf8.codes(text) do
    used = used + code_width(code)
    if used > room then
      break
    end
    stop = at + #utf8.char(code) - 1
  end
  return text:sub(1, stop) .. mark
end

--- Clean `text` filled with blanks to `width` columns; `right` aligns it right.
function M.pad(text, width, right)
  local fill = (" "):rep(width - M.columns(text))
  return right and fill .. text or text .. fill
end

local function env(name)
  local value = os.getenv(name)
  return value ~= nil and value ~= "" and value or nil
end

--- Whether the locale can show box characters.
function M.unicode()
  local locale = env("LC_ALL") or env("LC_CTYPE") or env("LANG") or ""
  return locale:lower():find("utf%-?8") ~= nil
end

--- Whether descriptor `fd` (1: stdout, 2: stderr) is a terminal.
function M.is_terminal(fd)
  return require("host.process").isatty(fd or 1)
end

--- The width of the terminal at `fd`; without one, `COLUMNS` or 80.
function M.width(fd)
  local process = require "host.process"
  local columns
  if process.isatty(fd or 1) then
    columns = process.winsize(fd or 1)
  end
  if not columns or columns <= 0 then
    columns = math.tointeger(tonumber(env("COLUMNS") or ""))
  end
  return columns and columns > 0 and columns or 80
end

--- Store what --color said: "always", "never" or "auto". Returns true, or nil
-- and a message.
function M.set_colour(when)
  if when ~= "always" and when ~= "never" and when ~= "auto" then
    return nil, "output: COLOR: --color takes always, never or auto, not '"
      .. tostring(when) .. "'", "COLOR"
  end
  colour_flag = when
  return true
end

--- Whether output to `fd` is coloured: --color over NO_COLOR over
-- CLICOLOR_FORCE (or FORCE_COLOR) over a terminal that is not dumb.
function M.colour(fd)
  if colour_flag ~= "auto" then
    return colour_flag == "always"
  elseif env("NO_COLOR") then
    return false
  end
  local force = env("CLICOLOR_FORCE") or env("FORCE_COLOR")
  if force and force ~= "0" then
    return true
  end
  return env("TERM") ~= "dumb" and M.is_terminal(fd)
end

--- `text` in a style ("red", "bold", "red bold") if `fd` is coloured.
function M.paint(text, style, fd)
  if not M.colour(fd) then
    return text
  end
  local codes = {}
  for word in style:gmatch("%a+") do
    codes[#codes + 1] = STYLES[word] or error("no such style: " .. word, 2)
  end
  return ESC .. table.concat(codes, ";") .. "m" .. text .. ESC .. "0m"
end

--- 1204567 as "1,204,567"; a float keeps up to two digits.
function M.count(n)
  local whole = math.tointeger(n)
  local text = whole and ("%d"):format(whole) or ("%.2f"):format(n)
  local sign, digits, rest = text:match("^(%-?)(%d+)(.*)$")
  if not digits then
    return text
  end
  digits = digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
  return sign .. digits .. rest
end

--- A number of bytes for people: "512 B", "1.4 MB" (powers of 1000).
function M.bytes(n)
  local unit = { "B", "kB", "MB", "GB", "TB", "PB" }
  local at, value = 1, n
  while value >= 999.95 and at < #unit do
    value, at = value / 1000, at + 1
  end
  return at == 1 and ("%d B"):format(n) or ("%.1f %s"):format(value, unit[at])
end

--- Seconds for people: "0.4 s", "12 s", "3 min 20 s", "2 h 05 min", "3 d 4 h".
function M.seconds(s)
  if s < 0 then
    return "-" .. M.seconds(-s)
  elseif s < 10 then
    return ("%.1f s"):format(s)
  end
  s = math.floor(s + 0.5)
  if s < 120 then
    return ("%d s"):format(s)
  elseif s < 7200 then
    return ("%d min %02d s"):format(s // 60, s % 60)
  elseif s < 172800 then
    return ("%d h %02d min"):format(s // 3600, s % 3600 // 60)
  end
  return ("%d d %d h"):format(s // 86400, s % 86400 // 3600)
end

-- Cells as clean text, which of them are numbers and which are NULL.
local function texts_of(t, options)
  local null = options.null
  local cells, nulls, natural, right = {}, {}, {}, {}
  for c, name in ipairs(t.columns) do
    natural[c] = M.columns(M.clean(name))
    right[c] = t.types and NUMERIC[t.types[c]]
  end
  for r = 1, math.min(#t.rows, options.max_rows or math.huge) do
    cells[r], nulls[r] = {}, {}
    for c = 1, #t.columns do
      local value = t.rows[r][c]
      local is_null = value == nil or (null ~= nil and value == null)
      nulls[r][c] = is_null
      if type(value) == "number" and not t.types then
        right[c] = right[c] == nil and true or right[c]
      elseif not is_null and not t.types then
        right[c] = false
      end
      cells[r][c] = is_null and "NULL" or M.clean(value)
      natural[c] = math.max(natural[c], M.columns(cells[r][c]))
    end
  end
  return cells, nulls, natural, right
end

-- Take from the widest text column until the row fits; numbers and times are
-- never cut.
local function fit(t, natural, right, width)
  local widths, total = {}, 1
  for c, w in ipairs(natural) do
    widths[c] = w
    total = total + w + 3
  end
  while total > width do
    local widest
    for c, w in ipairs(widths) do
      local whole = right[c] or t.types and WHOLE[t.types[c]]
      if not whole and w > 8 and (not widest or w > widths[widest]) then
        widest = c
      end
    end
    if not widest then
      return nil
    end
    widths[widest] = widths[widest] - 1
    total = total - 1
  end
  return widths
end

local function rule(parts, widths)
  local line = {}
  for c, w in ipairs(widths) do
    line[c] = parts[2]:rep(w + 2)
  end
  return parts[1] .. table.concat(line, parts[3]) .. parts[4]
end

local function more_line(t, options)
  local hidden = #t.rows - (options.max_rows or #t.rows)
  return hidden > 0 and ("... %s more"):format(M.count(hidden)) or nil
end

local function box_table(t, options, cells, nulls, widths, right)
  local set = options.ascii and ASCII or BOX
  local paint = options.colour and M.paint or function(text) return text end
  local lines = { rule(set.top, widths) }
  local parts = {}
  local function row()
    lines[#lines + 1] = set.bar .. " " .. table.concat(parts, " " .. set.bar .. " ")
      .. " " .. set.bar
  end
  for c, name in ipairs(t.columns) do
    parts[c] = paint(M.pad(M.cut(M.clean(name), widths[c], set.more), widths[c], right[c]), "bold")
  end
  row()
  lines[#lines + 1] = rule(set.mid, widths)
  for r, cell in ipairs(cells) do
    for c in ipairs(t.columns) do
      parts[c] = M.pad(M.cut(cell[c], widths[c], set.more), widths[c], right[c])
      if nulls[r][c] then
        parts[c] = paint(parts[c], "dim")
      end
    end
    row()
  end
  lines[#lines + 1] = rule(set.low, widths)
  lines[#lines + 1] = more_line(t, options)
  return table.concat(lines, "\n")
end

local function vertical_table(t, options, cells, nulls, width)
  local names, longest = {}, 0
  for c, name in ipairs(t.columns) do
    names[c] = M.clean(name)
    longest = math.max(longest, M.columns(names[c]))
  end
  local set = options.ascii and ASCII or BOX
  local lines = {}
  for r, cell in ipairs(cells) do
    local head = ("%s row %d "):format(set.top[2]:rep(2), r)
    local fill = math.min(width, 40) - M.columns(head)
    lines[#lines + 1] = head .. set.top[2]:rep(math.max(fill, 2))
    for c, name in ipairs(names) do
      local text = cell[c]
      if nulls[r][c] and options.colour then
        text = M.paint(text, "dim")
      end
      lines[#lines + 1] = M.pad(name, longest, true) .. ": " .. text
    end
  end
  lines[#lines + 1] = more_line(t, options)
  return table.concat(lines, "\n")
end

--- A table as text without a final newline.
-- `t`: `{ columns = {names}, rows = { {v, ...}, ... }, types = {..}? }`, as a
-- result of host.mysql. Numbers are right-aligned; they and times are never cut; text columns
-- give way until the table fits `width`; if it still does not, rows are shown
-- one below the other.
-- `options`: width, null (the NULL sentinel; nil is NULL too), max_rows,
-- ascii, colour, vertical (true: always; false: never, may be too wide).
function M.table(t, options)
  options = setmetatable({}, { __index = options or {} })
  if options.ascii == nil then
    options.ascii = not M.unicode()
  end
  if options.colour == nil then
    options.colour = M.colour(1)
  end
  local width = options.width or M.width(1)
  local cells, nulls, natural, right = texts_of(t, options)
  local widths = options.vertical ~= true and fit(t, natural, right, width)
  if not widths and options.vertical ~= false then
    return vertical_table(t, options, cells, nulls, width)
  end
  return box_table(t, options, cells, nulls, widths or natural, right)
end

-- Secrets are hidden by mill.mask; commands find it here with the rest.
M.is_secret, M.hide, M.mask = mask.is_secret, mask.hide, mask.mask

local Progress = {}
Progress.__index = Progress

local REDRAW_MS = 100

--- A progress line on stderr, drawn only on a terminal: label, count, percent,
-- rate, time left. `o`: label, total (nil: unknown), unit; for tests: tty,
-- clock (ms), write, width.
function M.progress(o)
  local self = setmetatable({
    label = o.label or "", total = o.total, unit = o.unit or "", at = 0, drawn = false,
    clock = o.clock, write = o.write, columns = o.width,
  }, Progress)
  self.tty = o.tty
  if self.tty == nil then
    self.tty = M.is_terminal(2) and env("TERM") ~= "dumb"
  end
  self.clock = self.clock or require("host.clock").mono_ms
  self.write = self.write or function(text) io.stderr:write(text) end
  self.began, self.next = self.clock(), 0
  return self
end

--- The line as it would be drawn now.
function Progress:text()
  local elapsed = (self.clock() - self.began) / 1000
  local rate = elapsed > 0 and self.at / elapsed or 0
  local parts = { self.label .. ": " .. M.count(self.at) }
  if self.total then
    parts[1] = parts[1] .. " of " .. M.count(self.total)
  end
  if self.unit ~= "" then
    parts[1] = parts[1] .. " " .. self.unit
  end
  if self.total and self.total > 0 then
    parts[#parts + 1] = ("%d%%"):format(math.min(100, self.at * 100 // self.total))
  end
  if rate > 0 then
    parts[#parts + 1] = M.count(rate >= 10 and math.floor(rate) or rate) .. "/s"
    if self.total and self.total > self.at then
      parts[#parts + 1] = "ETA " .. M.seconds((self.total - self.at) / rate)
    end
  end
  return table.concat(parts, ", ")
end

function Progress:draw()
  if self.tty then
    local width = (self.columns or M.width(2)) - 1
    self.write("\r" .. ESC .. "K" .. M.cut(M.clean(self:text()), width))
    self.drawn = true
  end
end

--- Set the count; redraws at most ten times a second.
function Progress:set(n)
  self.at = n
  local now = self.clock()
  if now >= self.next then
    self.next = now + REDRAW_MS
    self:draw()
  end
end

function Progress:add(n)
  self:set(self.at + (n or 1))
end

--- Remove the line, so that what follows starts on a clean one.
function Progress:close()
  if self.drawn then
    self.write("\r" .. ESC .. "K")
    self.drawn = false
  end
end

Progress.__close = Progress.close

return M
