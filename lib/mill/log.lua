--- Log lines on stderr: time, level, who, text.
--
--   2024-08-09T12:00:00.123Z INFO averages: claimed partition 2 at offset 1200
--
-- TIDEMILL_LOG=debug|info|warn|error sets the least level shown (default info).

local clock = require "host.clock"
local mask = require "mill.mask"

local M = {}

local LEVELS = { debug = 1, info = 2, warn = 3, error = 4 }
local least = LEVELS[os.getenv("TIDEMILL_LOG") or "info"] or LEVELS.info
local name = "tidemill"
local sink = io.stderr
local said = {}
local line -- of progress

--- Name the process in its lines: the pipeline's or the producer's name.
function M.name(text)
  name = text
end

--- Send lines elsewhere (tests): an object with write(text), or nil for stderr.
function M.to(target)
  sink = target or io.stderr
end

--- What is wrong with TIDEMILL_LOG; nil when nothing is.
function M.problem()
  local level = os.getenv "TIDEMILL_LOG"
  if not level or level == "" or LEVELS[level] then return nil end
  return ("TIDEMILL_LOG = %s: it is no level (debug, info, warn or error); info is taken"):format(level)
end

--- A line of progress on stderr (output.progress), taken away before each line; it is drawn again by
-- itself.
-- @return the same
function M.line(progress)
  line = progress
  return progress
end

--- Set the least level shown.
function M.level(level)
  least = assert(LEVELS[level], "unknown log level")
end

local function stamp()
  local ms = clock.wall_ms()
  return os.date("!%Y-%m-%dT%H:%M:%S", ms // 1000) .. (".%03dZ"):format(ms % 1000)
end

local function write(level, fmt, ...)
  if LEVELS[level] < least then return end
  local text = select("#", ...) > 0 and fmt:format(...) or fmt
  text = mask.mask(text):gsub("[\r\n]+", " | ")
  if line then line:close() end
  sink:write(stamp(), " ", level:upper(), " ", name, ": ", text, "\n")
end

function M.debug(fmt, ...) write("debug", fmt, ...) end
function M.info(fmt, ...) write("info", fmt, ...) end
function M.warn(fmt, ...) write("warn", fmt, ...) end
function M.error(fmt, ...) write("error", fmt, ...) end

-- A table as a key would be kept for good, and be found by nobody who has only its like.
local function entry_of(key)
  if type(key) ~= "string" then
    error("log: KEY: a trouble is named by a string, not by a " .. type(key), 3)
  end
  return said[key]
end

--- Log a trouble once: the first call with `key` (a string) writes, later ones are counted until
-- M.over(key).
function M.trouble(key, fmt, ...)
  local entry = entry_of(key)
  if entry then
    entry.count = entry.count + 1
    return
  end
  write("warn", fmt, ...) -- first: what was not said is no trouble yet
  said[key] = { count = 1, since = clock.mono_ms() }
end

--- The trouble `key` is over: say so once, with how often and how long. No-op when there was none.
function M.over(key, fmt, ...)
  local entry = entry_of(key)
  if not entry then return end
  said[key] = nil
  local text = select("#", ...) > 0 and fmt:format(...) or fmt
  write("info", "%s (%d time%s in %.1f s)", text, entry.count, entry.count == 1 and "" or "s",
    (clock.mono_ms() - entry.since) / 1000)
end

--- Is this trouble going on?
function M.in_trouble(key)
  return entry_of(key) ~= nil
end

return M
