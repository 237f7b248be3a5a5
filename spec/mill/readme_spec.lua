-- The README and the pages of doc/ are held against the program: commands, options, exit codes,
-- settings, keys, functions, tables and links that are named there exist, and the other way round.

local cli = require "mill.cli"
local config = require "mill.config"
local process = require "host.process"

local home = process.home()
local PAGES = {
  "README.md", "doc/commands.md", "doc/guarantees.md", "doc/libraries.md", "doc/modules.md",
  "doc/moving-over.md", "doc/operating.md", "doc/performance.md", "doc/pipelines.md",
  "doc/scripts.md", "doc/security.md", "doc/tables.md",
}

local function read(path)
  local file = assert(io.open(home .. "/" .. path, "r"))
  local text = file:read("a")
  file:close()
  return text
end

local pages = {}
for _, path in ipairs(PAGES) do pages[path] = read(path) end

-- The text below a heading, up to the next one of the same or a higher rank.
local function section(text, heading)
  local rank = #heading:match("^#+")
  local out, inside, fenced = {}, false, false
  for line in (text .. "\n"):gmatch("(.-)\n") do
    if line:find("^```") then fenced = not fenced end
    local marks = not fenced and line:match("^(#+) ")
    if line == heading then
      inside = true
    elseif inside and marks and #marks <= rank then
      break
    elseif inside then
      out[#out + 1] = line
    end
  end
  assert(inside, "there is no section " .. heading)
  return table.concat(out, "\n") .. "\n"
end

-- The rows of the first table whose first header is `first`: arrays of cells.
local function rows(text, first)
  local out, inside = {}, false
  for line in text:gmatch("(.-)\n") do
    if line:find("^| " .. first .. " |") then
      inside = true
    elseif inside and not line:find("^|") then
      break
    elseif inside and not line:find("^|%-") then
      local cells = {}
      for cell in line:gsub("\\|", "\1"):gmatch("|([^|]*)") do
        cells[#cells + 1] = (cell:match("^%s*(.-)%s*$"):gsub("\1", "|"))
      end
      out[#out + 1] = cells
    end
  end
  return out
end

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function blocks(text, language)
  local out = {}
  for block in ("\n" .. text):gmatch("\n%s*```" .. language .. "\n(.-)\n%s*```") do
    out[#out + 1] = block
  end
  return out
end

-- `mill.cmd.NAME` with the options that tasks of the runbook add.
local function command(name)
  local module = require("mill.cmd." .. name)
  local known = { help = true }
  for _, option in ipairs(module.options or {}) do known[option[1]] = true end
  if name == "runbook" then
    for _, task in ipairs { "health", "backup", "restore" } do
      for _, option in ipairs(dofile(home .. "/runbook/" .. task .. ".lua").options or {}) do
        known[option[1]] = true
      end
    end
  end
  return known
end

local function is_command(name)
  for _, known in ipairs(cli.COMMANDS) do
    if known == name then return true end
  end
  return false
end

-- Every `tidemill ...` of a page: in shell blocks and between backquotes.
local function invocations(text)
  local out = {}
  local function take(line)
    for rest in line:gsub("#.*$", ""):gmatch("tidemill (%l[^|;&]*)") do out[#out + 1] = rest end
  end
  for _, block in ipairs(blocks(text, "sh")) do
    for line in (block:gsub("\\\n", " ") .. "\n"):gmatch("(.-)\n") do
      if line:find("^%s*%.?/?tidemill ") or line:find("=%S+ tidemill ") then take(line) end
    end
  end
  for code in text:gsub("\n```.-\n```", ""):gmatch("`%.?/?(tidemill %l[^`]*)`") do take(code) end
  return out
end

describe("the documentation", function()
  it("names commands and options that exist", function()
    local seen = 0
    for path, text in pairs(pages) do
      for _, line in ipairs(invocations(text)) do
        local name = line:match("^%l+")
        assert(is_command(name), ("%s: there is no command 'tidemill %s'"):format(path, line))
        local known = command(name)
        -- Quoted code may hold anything.
        for option in line:gsub("'.-'", ""):gmatch("%-%-([%l-]+)") do
          assert(known[option], ("%s: tidemill %s has no option --%s"):format(path, name, option))
        end
        seen = seen + 1
      end
    end
    assert.is_true(seen > 40)
  end)

  it("names scripts and make targets that exist", function()
    local makefile = read "Makefile"
    for path, text in pairs(pages) do
      for script in text:gmatch("[%w_]*/?scripts/[%w_]+%.lua") do
        local found = script:find "NAME" or process.stat(home .. "/" .. script:match("scripts/.*"))
        assert(found, path .. ": there is no " .. script)
      end
      for _, block in ipairs(blocks(text, "sh")) do
        for target in block:gsub("make %-s ", "make "):gmatch("make (%l[%l-]*)") do
          assert(makefile:find("\n" .. target .. ":", 1, true), path .. ": no target " .. target)
        end
      end
    end
  end)

  it("has every make target in `make help`, and every program in `make clean`", function()
    local makefile = read "Makefile"
    local help, clean = makefile:match "\nhelp:(.-)\n\n", makefile:match "\nclean:(.-)\n\n"
    local inner = { help = true, ctests = true, fuzzers = true, deps = true }
    for target in makefile:gmatch "\n%.PHONY: (%S+)" do
      assert(inner[target] or help:find("%f[%w-]" .. target:gsub("%-", "%%-") .. "%f[^%w-]"),
        target .. " is not in make help")
    end
    for program in makefile:gmatch "tidemill%-%l+[%l-]*" do
      assert((clean .. " "):find(program:gsub("%-", "%%-") .. "%s"), program .. " is left by make clean")
    end
    assert(clean:find("$(BIN)-heap", 1, true))
    assert(pages["README.md"]:find("TIDEMILL_CACHE", 1, true))
  end)

  it("has links that lead somewhere", function()
    for path, text in pairs(pages) do
      local folder = path:match("^(.*/)") or ""
      for target in text:gmatch("%]%(([^)]+)%)") do
        local file, anchor = target:match("^([^#]*)#?(.*)$")
        local there = file == "" and path or (folder .. file):gsub("%w+/%.%./", "")
        assert(pages[there] or process.stat(home .. "/" .. there),
          ("%s: the link %s leads nowhere"):format(path, target))
        local found = anchor == ""
        for title in (pages[there] or ""):gmatch("\n#+ ([^\n]+)") do
          local slug = title:lower():gsub("[^%w _-]", ""):gsub(" ", "-")
          found = found or slug == anchor
        end
        assert(found, ("%s: no heading for %s"):format(path, target))
      end
    end
  end)
end)

describe("doc/commands.md", function()
  local text = pages["doc/commands.md"]

  for _, name in ipairs(cli.COMMANDS) do
    it("lists the options and exit codes of " .. name, function()
      local part = section(text, "## tidemill " .. name)
      local module = require("mill.cmd." .. name)
      local told, there = {}, {}
      for _, row in ipairs(rows(part, "option")) do
        told[assert(row[1]:match("^`(.*)`$"), row[1])] = true
      end
      for _, o in ipairs(module.options or {}) do
        there["--" .. o[1] .. (o[2] and " " .. o[2] or "")] = true
      end
      assert.are.same(sorted(there), sorted(told))
      local codes, exits = {}, {}
      for _, row in ipairs(rows(part, "exit")) do codes[row[1]] = true end
      for _, exit in ipairs(module.exits or {}) do exits[tostring(exit[1])] = true end
      assert.are.same(sorted(exits), sorted(codes))
    end)
  end

  it("is summed up by the README's table", function()
    local told = {}
    for _, row in ipairs(rows(pages["README.md"], "command")) do
      told[row[1]:match("^`tidemill (%l+)`$")] = true
    end
    local there = {}
    for _, name in ipairs(cli.COMMANDS) do there[name] = true end
    assert.are.same(sorted(there), sorted(told))
  end)
end)

describe("the README", function()
  it("lists every configuration key with its variable and default", function()
    local told, there = {}, {}
    for _, row in ipairs(rows(pages["README.md"], "key")) do
      local name, env = row[1]:match("^`(.*)`$"), row[2]:match("^`(.*)`$")
      told[name] = { env, row[3]:match("^`(.*)`$") }
    end
    for _, spec in ipairs(config.KEYS) do there[spec[1]] = { spec[2], spec[3] } end
    assert.are.same(there, told)
  end)

  local function pipelines(path)
    local found = 0
    for _, block in ipairs(blocks(pages[path], "lua")) do
      if block:find("mill.pipeline", 1, true) then
        local name = os.tmpname()
        local file = assert(io.open(name, "w"))
        file:write(block, "\n")
        file:close()
        local ok, object = pcall(require("mill.script").load, name)
        os.remove(name)
        assert(ok, tostring(object))
        assert.are.equal("pipeline", object.kind)
        found = found + 1
      end
    end
    return found
  end

  it("has a pipeline script that compiles", function()
    assert.are.equal(1, pipelines "README.md")
    assert.are.equal(1, pipelines "doc/pipelines.md")
  end)

  it("has a pipeline script of about 15 lines", function()
    local block = blocks(pages["README.md"], "lua")[1]
    local _, breaks = block:gsub("\n", "")
    assert.is_true(breaks + 1 <= 16, breaks + 1 .. " lines")
  end)
end)

describe("doc/scripts.md", function()
  -- What a script declares, by loading it.
  local function declared(path)
    local mill = require "mill"
    local kept, given = mill.settings, nil
    mill.settings = function(defaults)
      given = defaults
      return kept(defaults)
    end
    require("mill.settings").given {}
    local ok, message = pcall(dofile, home .. "/" .. path)
    mill.settings = kept
    assert(ok, tostring(message))
    return given
  end

  for _, name in ipairs { "prices", "averages", "exchange", "replay", "broker" } do
    it("lists the settings of scripts/" .. name .. ".lua", function()
      local path = "scripts/" .. name .. ".lua"
      local told = {}
      for _, row in ipairs(rows(section(pages["doc/scripts.md"], "## " .. path), "setting")) do
        told[row[1]:match("^`(.*)`$")] = row[2]
      end
      local defaults = declared(path)
      assert.are.same(sorted(defaults), sorted(told))
      for key, default in pairs(defaults) do
        local value = told[key]:match("^`(.*)`$") or told[key]
        -- Long and empty ones are described in words.
        if default ~= "" and key ~= "endpoints" then
          assert.are.equal(tostring(default), value, path .. ": " .. key)
        end
      end
    end)
  end

  it("lists the faults of the simulated exchange", function()
    local part = section(pages["doc/scripts.md"], "## scripts/exchange.lua"):match("Kinds: .*$")
    for kind in pairs(require("mill.exchange_faults").KINDS) do
      assert(part:find("`" .. kind .. "`", 1, true), "the fault " .. kind .. " is not listed")
    end
  end)
end)

describe("doc/pipelines.md", function()
  local text = pages["doc/pipelines.md"]

  -- The options that a constructor says it knows when it is given another one.
  local function known(constructor, ...)
    local ok, message = pcall(constructor, ...)
    assert(not ok)
    local out = {}
    for name in tostring(message):match("known: ([^)]*)"):gmatch("[%w_]+") do out[name] = true end
    return out
  end

  local function told(heading)
    local out = {}
    for _, row in ipairs(rows(section(text, heading), "option")) do
      for name in row[1]:gmatch("`([%w_]+)`") do out[name] = true end
    end
    return sorted(out)
  end

  it("lists the options of every stage", function()
    local mill = require "mill"
    local wrong = { nonsense = 1 }
    assert.are.same(sorted(known(mill.pipeline, wrong)), told "## mill.pipeline")
    assert.are.same(sorted(known(mill.kafka, wrong)), told "## mill.kafka")
    assert.are.same(sorted(known(mill.mysql, wrong)), told "## mill.mysql")
    assert.are.same(sorted(known(mill.hopping, wrong)), told "## mill.tumbling and mill.hopping")
  end)

  it("lists every expression of select", function()
    local _, message = require("mill.select").parse "nonsense"
    local part = section(text, "## select")
    for name in message:match("known: (.*)$"):gsub("%b()", ""):gmatch("[%w_.]+") do
      assert(part:find("`" .. name, 1, true), name .. " is not listed")
    end
  end)
end)

describe("doc/tables.md", function()
  it("has every column of every table", function()
    for _, file in ipairs { "sql/0001_moving_averages.sql", "sql/0002_mill.sql" } do
      for name, body in read(file):gmatch("create table if not exists ([%w_]+) (%b())") do
        local part = section(pages["doc/tables.md"], "## " .. name)
        for column in body:gmatch("\n  `?([%l_%d]+)`? %l+[ (]") do
          if not ({ primary = 1, unique = 1, key = 1, id = 1, created_at = 1 })[column] then
            assert(part:find("`" .. column .. "`", 1, true), name .. "." .. column)
          end
        end
      end
    end
  end)
end)
