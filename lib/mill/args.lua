--- Command line flags: one table describes them, --help is made from it.
--
--   local opts, rest = args.parse({
--     usage = "tidemill run SCRIPT [options]",
--     options = {
--       { "for", "DURATION", "stop after this long", type = "duration" },
--       { "json", nil, "print one JSON object at the end" },
--       { "set", "KEY=VALUE", "override a setting of the script", many = true },
--     },
--     exits = { { 0, "ok" } },
--     takes = 1, -- so many arguments that are no options at most; nil: any
--   }, argv)
--
-- A value may follow as --for 30s or --for=30s. `opts` has underscores for dashes.

local duration = require "mill.duration"
local expect = require "mill.expect"
local fault = require "mill.fault"

local M = {}

local function find(spec, name)
  for _, option in ipairs(spec.options or {}) do
    if option[1] == name then return option end
  end
end

local function convert(option, text)
  if option.type == "duration" then
    local ms, message = duration.parse(text)
    if not ms then fault.raise(fault.USAGE, "--%s: %s", option[1], message) end
    return ms
  end
  if option.type == "integer" then
    local n = math.tointeger(tonumber(text))
    if not n then fault.raise(fault.USAGE, "--%s: '%s' is not a whole number", option[1], text) end
    return n
  end
  if option.choices then
    for _, choice in ipairs(option.choices) do
      if choice == text then return text end
    end
    fault.raise(fault.USAGE, "--%s: '%s' is not one of %s", option[1], text,
      table.concat(option.choices, ", "))
  end
  return text
end

--- The text of --help.
function M.help(spec)
  expect.a("table", spec, "spec")
  expect.a("string", spec.usage, "spec.usage")
  local lines = { "usage: " .. spec.usage }
  if spec.summary then lines[#lines + 1] = spec.summary end
  local rows = {}
  for _, option in ipairs(spec.options or {}) do
    rows[#rows + 1] = { "--" .. option[1] .. (option[2] and " " .. option[2] or ""), option[3] }
  end
  rows[#rows + 1] = { "--help", "show this text" }
  lines[#lines + 1] = "\noptions:"
  for _, row in ipairs(rows) do
    lines[#lines + 1] = ("  %-24s %s"):format(row[1], row[2])
  end
  if spec.exits then
    lines[#lines + 1] = "\nexit status:"
    for _, exit in ipairs(spec.exits) do
      lines[#lines + 1] = ("  %-4d %s"):format(exit[1], exit[2])
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

local function store(opts, option, value)
  local key = option[1]:gsub("-", "_")
  if option.many then
    opts[key] = opts[key] or {}
    table.insert(opts[key], value)
  else
    opts[key] = value
  end
end

-- The options' names.
local function names(spec)
  local out = { "help" }
  for _, option in ipairs(spec.options or {}) do out[#out + 1] = option[1] end
  return out
end

-- How many letters are to be put in, left out, replaced or swapped with the next to make `a` of
-- `b` (optimal string alignment: Levenshtein with neighbours that changed places).
local function distance(a, b)
  local above, row = {}, {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local last = row
    row = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j - 1] + (same and 0 or 1), last[j] + 1, row[j - 1] + 1)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], above[j - 2] + 1)
      end
    end
    above = last
  end
  return row[#b]
end

--- "; did you mean --until-end?" or "".
-- @param word what was written
-- @param known array of what there is
-- @param prefix text before the name that is proposed
function M.meant(word, known, prefix)
  expect.a("string", word, "word")
  expect.strings(known, "known")
  if prefix ~= nil then expect.a("string", prefix, "prefix") end
  local best, least = nil, #word < 4 and 2 or 3
  for _, name in ipairs(known) do
    local d = distance(word, name)
    if d < least then best, least = name, d end
  end
  return best and ("; did you mean %s%s?"):format(prefix or "", best) or ""
end

--- Parse arguments.
-- @param spec table as above
-- @param argv array of strings
-- @return opts table, rest array of what is no flag; opts.help is true for --help
function M.parse(spec, argv)
  expect.a("table", spec, "spec")
  expect.strings(argv, "argv")
  local opts, rest, i = {}, {}, 1
  while i <= #argv do
    local word = argv[i]
    local name, value = word:match("^%-%-([%w%-]+)=?(.*)$")
    if word == "-h" then name, value = "help", "" end
    if word == "--" then
      table.move(argv, i + 1, #argv, #rest + 1, rest)
      break
    elseif spec.short and spec.short[word] then
      name, value = spec.short[word], ""
    end
    if name == "help" then
      opts.help = true
    elseif name then
      local option = find(spec, name)
      if not option then
        fault.raise(fault.USAGE, "unknown option --%s%s\nusage: %s\n--help lists the options", name,
          M.meant(name, names(spec), "--"), spec.usage)
      end
      if option[2] then
        if not word:find("=", 1, true) then
          i = i + 1
          value = argv[i]
          if not value then fault.raise(fault.USAGE, "--%s needs %s", name, option[2]) end
        end
        store(opts, option, convert(option, value))
      else
        if word:find("=", 1, true) then
          fault.raise(fault.USAGE, "--%s takes no value", name)
        end
        store(opts, option, true)
      end
    else
      rest[#rest + 1] = word
    end
    i = i + 1
  end
  if spec.takes and #rest > spec.takes and not opts.help then
    fault.raise(fault.USAGE, "unexpected argument '%s'", rest[spec.takes + 1])
  end
  return opts, rest
end

return M
