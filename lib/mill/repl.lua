--- A session of the Lua shell: compiles input, keeps its variables, shows
-- results, completes words. It knows nothing of the terminal; the command
-- mill.cmd.repl gives it lines.
--
-- Variables live in a table of the session's own: what is typed does not leak
-- into the modules that scripts use. A local at top level stays for the next
-- input (a copy: closures keep their own).

local inspect = require "mill.inspect"
local json = require "mill.json"
local output = require "mill.output"
local readline = require "host.readline"

local M = {}

local CHUNK = "=repl"
local KEEP = '\n;_ENV["\\0keep"]()'
local ROWS = 200 -- of a result set that are shown on a terminal
local ALL = { depth = math.huge, items = math.huge, string = math.huge }

--- Modules that need no require: name -> module.
M.MODULES = {
  clock = "host.clock", digest = "host.digest", gzip = "host.gzip", http = "host.http",
  kafka = "host.kafka", metrics = "host.metrics", mysql = "host.mysql", process = "host.process",
  config = "mill.config", duration = "mill.duration", json = "mill.json", mill = "mill",
}

local KEYWORDS = { "and", "break", "do", "else", "elseif", "end", "false", "for", "function",
  "goto", "if", "in", "local", "nil", "not", "or", "repeat", "return", "then", "true", "until",
  "while" }

local Session = {}
Session.__index = Session

-- Copies the locals of the calling chunk into the session.
local function keeper(env)
  return function()
    local i = 1
    while true do
      local name, value = debug.getlocal(2, i)
      if not name then
        return
      end
      if name:find("^[%a_]") and name ~= "_" and name ~= "__" then
        env[name] = value
      end
      i = i + 1
    end
  end
end

--- A new session. `o`: write (function of a text; stdout), json (boolean),
-- width (columns; the terminal's), whole (show all rows and whole values: the output is no
-- terminal), globals (extra names the shell offers), call (as readline.call, which calls protected).
function M.new(o)
  o = o or {}
  local env = {}
  local base = setmetatable({ ["\0keep"] = keeper(env) }, { __index = function(_, name)
    local module = M.MODULES[name]
    if module and rawget(_G, name) == nil then
      return require(module)
    end
    return _G[name]
  end })
  for name, value in pairs(o.globals or {}) do
    base[name] = value
  end
  return setmetatable({
    env = setmetatable(env, { __index = base }), base = base, json = o.json, width = o.width,
    whole = o.whole, write = o.write or function(text) io.stdout:write(text) end,
    call = o.call or readline.call,
  }, Session)
end

-- A quoted string cannot go on in the next line, unless its line ends so.
local function is_incomplete(message, code)
  if message:find("unfinished string near <eof>$") then
    return code:find("\\$") ~= nil or code:find("\\z%s*$") ~= nil
  end
  return message:find("near <eof>$") ~= nil
end

--- Compile input: first as an expression, then as statements.
-- Returns the chunk; or nil, message, and true when more lines may complete it.
function Session:compile(code)
  code = code:gsub("^%s*=", "")
  local chunk, why = load("return " .. code, CHUNK, "t", self.env)
  if chunk then
    return chunk
  end
  local statements, message = load(code, CHUNK, "t", self.env)
  if not statements then
    if is_incomplete(why, code) then
      return nil, why, true
    end
    return nil, message, is_incomplete(message, code)
  end
  return load(code .. KEEP, CHUNK, "t", self.env) or statements
end

-- Frames of the input and what it called; nothing when that is the input alone.
local function trim_traceback(trace)
  local kept, deeper = {}, false
  for line in trace:gmatch("[^\n]+") do
    kept[#kept + 1] = line
    if line:find("^\trepl:%d+: in main chunk") then
      break
    elseif line:find("^\t%[C%]: in %a+ '[%w.]*call'") then
      kept[#kept] = nil
      break
    end
    deeper = deeper or not line:find("^\t%[C%]: in %a+ 'error'") and not line:find("^\t%.%.%.")
  end
  return deeper and "\n" .. table.concat(kept, "\n") or ""
end

--- The text of an error value, with its traceback cut at the input's chunk.
function M.error_text(err)
  if type(err) ~= "string" then
    return inspect.inspect(err)
  end
  local message, trace = err:match("^(.-)\nstack traceback:\n(.*)$")
  if not message then
    return err
  end
  return message .. trim_traceback(trace)
end

--- Run a compiled chunk. Returns true and its results (packed), which become
-- `_`; or false, the error's text, and whether Ctrl-C ended it.
function Session:run(chunk)
  local results = table.pack(self.call(chunk))
  if not results[1] then
    if results[3] then
      return false, "interrupted", true
    end
    return false, M.error_text(results[2]), false
  end
  local values = table.pack(table.unpack(results, 2, results.n))
  if values.n > 0 then
    self.base.__, self.base._ = self.base._, values[1]
  end
  return true, values
end

--- Whether a value is a result set, as host.mysql returns them.
function M.is_result(value)
  return type(value) == "table" and type(rawget(value, "columns")) == "table"
    and type(rawget(value, "rows")) == "table"
end

local function plural(n, noun)
  return ("%s %s%s"):format(output.count(n), noun, n == 1 and "" or "s")
end

-- Without rows, what is too wide for a table has only its names to show.
local function result_text(self, result, width)
  if #result.columns == 0 then
    return "ok, " .. plural(result.affected or 0, "row") .. " affected"
  end
  local text = output.table(result, {
    width = self.whole and math.huge or width, null = json.null,
    max_rows = not self.whole and ROWS or nil,
  })
  if text == "" then
    text = output.clean(table.concat(result.columns, "  "))
  end
  return text .. "\n" .. plural(#result.rows, "row")
end

local function value_text(self, value, width)
  if M.is_result(value) then
    return result_text(self, value, width)
  end
  local all = self.whole and ALL or {}
  return inspect.inspect(value,
    { width = width, depth = all.depth, items = all.items, string = all.string })
end

-- An error value that is told without a traceback.
local function cannot(...)
  local message = "repl: JSON: " .. string.format(...)
  error(setmetatable({}, { __tostring = function() return message end }), 0)
end

local function rows_as_objects(result)
  local rows, seen = json.array {}, {}
  for _, name in ipairs(result.columns) do
    if seen[name] then
      cannot("two columns are named '%s': name one with AS", name)
    end
    seen[name] = true
  end
  for r, row in ipairs(result.rows) do
    rows[r] = {}
    for c, name in ipairs(result.columns) do
      rows[r][name] = row[c] == nil and json.null or row[c]
    end
  end
  return rows
end

local function is_number(value)
  return math.type(value) == "integer"
    or value == value and value ~= math.huge and value ~= -math.huge
end

-- Whether a table has no keys but those of its list.
local function is_list(value)
  local n = rawlen(value)
  for key in next, value do
    if math.type(key) ~= "integer" or key < 1 or key > n then
      return false
    end
  end
  return n > 0 or getmetatable(value) == json.array_mt
end

--- A value that JSON can say: result sets become arrays of objects, what has
-- no form in JSON becomes its text, a table within itself becomes "<cycle>". A
-- table that is not only a list becomes an object, its keys become their texts;
-- raises when two of them are the same then: nothing is left out.
function M.jsonable(value, path)
  path = path or {}
  if type(value) == "number" then
    return is_number(value) and value or tostring(value)
  elseif value == nil or value == json.null then
    return json.null
  elseif type(value) ~= "table" then
    return type(value) == "function" and tostring(value) or type(value) == "userdata"
      and tostring(value) or value
  elseif path[value] then
    return "<cycle>"
  elseif M.is_result(value) and #value.columns > 0 then
    return rows_as_objects(value)
  end
  path[value] = true
  local copy = {}
  if is_list(value) then
    json.array(copy)
    for i = 1, rawlen(value) do
      copy[i] = M.jsonable(rawget(value, i), path)
    end
  else
    for key, item in next, value do
      local name = tostring(key)
      if copy[name] ~= nil then
        cannot("two keys of a table are written '%s'", name)
      end
      copy[name] = M.jsonable(item, path)
    end
  end
  path[value] = nil
  return copy
end

local function show_json(self, values)
  if values.n == 1 then
    self.write(json.encode(M.jsonable(values[1])) .. "\n")
  elseif values.n > 1 then
    local list = json.array {}
    for i = 1, values.n do
      list[i] = M.jsonable(values[i])
    end
    self.write(json.encode(list) .. "\n")
  end
end

--- Write results: one line for several short values, tables as tables.
function Session:show(values)
  if self.json then
    return show_json(self, values)
  end
  local width = self.width or output.width(1)
  local texts, total, broken = {}, 0, false
  for i = 1, values.n do
    texts[i] = value_text(self, values[i], width)
    total = total + output.columns(texts[i]:match("^[^\n]*")) + 2
    broken = broken or texts[i]:find("\n", 1, true) ~= nil
  end
  if values.n > 0 then
    self.write(table.concat(texts, (broken or total > width) and "\n" or "  ") .. "\n")
  end
end

-- An expected failure as every module returns it: nil, "unit: CODE: text", "CODE".
local function is_failure(values)
  local message, code = values[2], values[3]
  return values.n >= 3 and values[1] == nil and type(message) == "string"
    and type(code) == "string" and message:find(": " .. code .. ": ", 1, true) ~= nil
end

--- Compile, run and show one complete input.
-- Returns true; or false, the error's text, and whether Ctrl-C ended it. An
-- expected failure (nil, message, code) of the input counts as its error.
function Session:execute(code)
  local chunk, message = self:compile(code)
  if not chunk then
    return false, message, false
  end
  local ok, values, interrupted = self:run(chunk)
  if not ok then
    return false, values, interrupted
  elseif is_failure(values) then
    return false, values[2], false
  end
  return self:run_show(values)
end

-- Showing runs protected too: __tostring may fail, a long text be interrupted.
function Session:run_show(values)
  local ok, message, interrupted = self.call(self.show, self, values)
  if ok then
    return true
  end
  return false, interrupted and "interrupted" or M.error_text(message), interrupted
end

-- The table that holds the fields of a value: itself, or what its metatable's
-- __index leads to. No function of the script is called.
local function fields_of(value)
  local sources, seen = {}, {}
  while value ~= nil and not seen[value] do
    seen[value] = true
    if type(value) == "table" then
      sources[#sources + 1] = value
    end
    local meta = debug.getmetatable(value)
    value = type(meta) == "table" and rawget(meta, "__index") or nil
    if type(value) == "function" then
      break
    end
  end
  return sources
end

local function lookup(value, name)
  for _, source in ipairs(fields_of(value)) do
    local found = rawget(source, name)
    if found ~= nil then
      return found
    end
  end
end

local function sorted(set, prefix)
  local words = {}
  for word in pairs(set) do
    words[#words + 1] = prefix .. word
  end
  table.sort(words)
  return words
end

local function add_fields(set, value, start, only_functions)
  for _, source in ipairs(fields_of(value)) do
    for key, item in next, source do
      if inspect.is_name(key) and key:sub(1, #start) == start
         and (not only_functions or type(item) == "function")
         and (start ~= "" or key:sub(1, 2) ~= "__") then
        set[key] = true
      end
    end
  end
end

local function complete_global(self, word)
  local set = {}
  add_fields(set, self.env, word)
  add_fields(set, self.base, word)
  add_fields(set, _G, word)
  for name in pairs(M.MODULES) do
    if name:sub(1, #word) == word then
      set[name] = true
    end
  end
  for _, keyword in ipairs(KEYWORDS) do
    if #word > 0 and keyword:sub(1, #word) == word then
      set[keyword] = true
    end
  end
  return sorted(set, "")
end

local function complete_module(word)
  local set = {}
  for name in pairs(package.preload) do
    set[name] = true
  end
  for name in pairs(package.loaded) do
    set[name] = true
  end
  for name in pairs(set) do
    if name:sub(1, #word) ~= word then
      set[name] = nil
    end
  end
  return sorted(set, "")
end

--- Words that can stand at the end of `text` (the line before the cursor), and
-- the position from which they replace it. Fields are read raw; of the
-- session's own names only modules are loaded.
function Session:complete(text)
  local module_at, module = text:match("require%s*%(?%s*[\"']()([%w_.]*)$")
  if module then
    return complete_module(module), module_at
  end
  local at, chain = text:match("()([%a_][%w_.:]*)$")
  if not chain or text:sub(at - 1, at - 1):find("[%w_.:%]%)\"']") then
    return {}, #text + 1
  end
  local path, separator, start = chain:match("^(.*)([.:])([%w_]*)$")
  if not path then
    return complete_global(self, chain), at
  end
  local value
  for name in path:gmatch("[^.:]+") do
    if value == nil then
      value = self.env[name]
    else
      value = lookup(value, name)
    end
    if value == nil then
      return {}, at
    end
  end
  local set = {}
  add_fields(set, value, start, separator == ":")
  return sorted(set, path .. separator), at
end

return M
