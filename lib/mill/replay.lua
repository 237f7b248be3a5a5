--- Sends a recorded CSV file to a topic: scripts/replay.lua.
--
-- The file has a header with at least ts_ms, symbol and price, in any order; it may be gzip. A row
-- becomes the message of the producer, {"symbol":...,"price":"...","timestamp":seconds.mmm}, or the
-- same in another of the forms that the reading side accepts, every digit kept. Records carry the
-- time of sending as Kafka's own timestamp: with the recorded one, retention would delete them.

local clock = require "host.clock"
local csv = require "mill.csv"
local fault = require "mill.fault"
local gzip = require "host.gzip"
local kafka = require "host.kafka"
local log = require "mill.log"
local moment = require "host.moment"
local process = require "host.process"
local starting = require "mill.starting"
local topics = require "mill.topic"

local M = {}

local LINES_AT_ONCE = 1000
local FLUSH_MS = 120000
local SLICE_MS = 100
local KNOWN_MAX = 10000
local BYTES_SHOWN <const> = 1000 -- the unit of the progress line

--- How a time in milliseconds (a string of digits) is written, by name.
local TIMES = {
  seconds = function(ms)
    if #ms < 4 then ms = ("0"):rep(4 - #ms) .. ms end
    return ms:sub(1, -4) .. "." .. ms:sub(-3)
  end,
  ms = function(ms) return ms end,
  us = function(ms) return ms .. "000" end,
  ns = function(ms) return ms .. "000000" end,
  iso = function(ms) return '"' .. moment.format(math.tointeger(ms), "iso") .. '"' end,
  offset = function(ms) -- the same moment as a clock in +05:30 shows it
    local text = moment.format(math.tointeger(ms) + 19800000, "iso")
    return '"' .. text:sub(1, -2) .. '+05:30"'
  end,
  sql = function(ms) return '"' .. moment.format(math.tointeger(ms), "sql3") .. '"' end,
  text = function(ms) return '"' .. ms .. '"' end, -- a number as a string
}
local TIME_ORDER = { "seconds", "ms", "us", "ns", "iso", "offset", "sql", "text" }

--- 61837.63 as 6183763e-2: the same number, exactly.
local function exponent(price)
  local sign, whole, fraction = price:match("^(%-?)(%d+)%.(%d+)$")
  if not whole then return price:find("[eE]") and price or price .. "e0" end
  local digits = (whole .. fraction):gsub("^0+(%d)", "%1")
  return sign .. digits .. "e-" .. #fraction
end

local PRICES = {
  string = function(price) return '"' .. price .. '"' end,
  number = function(price) return price end,
  exponent = exponent,
}
local PRICE_ORDER = { "string", "number", "exponent" }

--- How the three fields are laid out; all are the same JSON object.
local LAYOUTS = {
  function(symbol, price, time, extra)
    return '{"symbol":"' .. symbol .. '","price":' .. price .. ',"timestamp":' .. time
      .. extra .. "}"
  end,
  function(symbol, price, time, extra)
    return '{"timestamp":' .. time .. ',"price":' .. price .. extra .. ',"symbol":"' .. symbol
      .. '"}'
  end,
  function(symbol, price, time, extra)
    return '\r\n{ "source" : {"name":"replay","tags":[1,null,true]} , "symbol" : "' .. symbol
      .. '" ,\t"price" : ' .. price .. ', "timestamp" : ' .. time .. extra .. " }\n"
  end,
  function(symbol, price, time, extra) -- the first letter escaped, where it is one byte
    local first = symbol:byte()
    local name = first < 128 and ("\\u%04x"):format(first) .. symbol:sub(2) or symbol
    return '{"symbol":"' .. name .. '","price":' .. price .. ',"timestamp":' .. time .. extra
      .. "}"
  end,
}

local function names(order)
  return table.concat(order, ", ")
end

--- Read the setting `format`: "string,seconds", "number,iso", ... or "mixed".
-- @return function(row number, symbol, price, ms, extra) -> message
local function writer(format)
  if format == "mixed" then
    return function(n, symbol, price, ms, extra)
      local time = TIMES[TIME_ORDER[n % #TIME_ORDER + 1]]
      local value = PRICES[PRICE_ORDER[n // #TIME_ORDER % #PRICE_ORDER + 1]]
      local layout = LAYOUTS[n // (#TIME_ORDER * #PRICE_ORDER) % #LAYOUTS + 1]
      return layout(symbol, value(price), time(ms), extra)
    end
  end
  local price_name, time_name = "string", "seconds"
  for word in format:gmatch("[^,]+") do
    if PRICES[word] then
      price_name = word
    elseif TIMES[word] then
      time_name = word
    else
      fault.raise(fault.USAGE, "--set format=%s: '%s' is no format (price: %s; time: %s; or mixed)",
        format, word, names(PRICE_ORDER), names(TIME_ORDER))
    end
  end
  local price_text, time_text, layout = PRICES[price_name], TIMES[time_name], LAYOUTS[1]
  if price_name == "string" and time_name == "seconds" then
    -- The usual one, without texts in between.
    local sub = string.sub
    return function(_, symbol, price, ms, extra)
      if #ms < 4 then return layout(symbol, price_text(price), time_text(ms), extra) end
      return '{"symbol":"' .. symbol .. '","price":"' .. price .. '","timestamp":'
        .. sub(ms, 1, -4) .. "." .. sub(ms, -3) .. extra .. "}"
    end
  end
  return function(_, symbol, price, ms, extra)
    return layout(symbol, price_text(price), time_text(ms), extra)
  end
end

local function words(list)
  local out = {}
  for word in (list or ""):gmatch("[^,]+") do out[#out + 1] = word end
  return out
end

--- Is the text a number as JSON writes it? Its value is not judged: recordings hold odd ones.
local function is_number(text)
  if text:find("^[1-9]%d*%.%d+$") then return true end -- most are
  local rest = text:match("^%-?0(.*)$") or text:match("^%-?[1-9]%d*(.*)$")
  if not rest then return false end
  rest = rest:match("^%.%d+(.*)$") or rest
  return rest == "" or rest:find("^[eE][+-]?%d+$") ~= nil
end

--- Rows of the file: a function that gives line number, ms, symbol, price, extra fields as JSON.
-- A line that is no row raises a fault that names file and line.
local function rows(path, reader, extra_names)
  local wanted = { "ts_ms", "symbol", "price", table.unpack(extra_names) }
  local number = 1
  local function bad(fmt, ...)
    fault.raise(fault.FAILED, "%s:%d: " .. fmt, path, number, ...)
  end
  local function lines()
    local some, message = reader:lines(LINES_AT_ONCE)
    if not some and message then fault.raise(fault.FAILED, "%s", message) end
    return some
  end
  local header, message = reader:line()
  if message then fault.raise(fault.FAILED, "%s", message) end
  if not header then fault.raise(fault.FAILED, "%s: the file is empty", path) end
  local index, count = csv.header(header, wanted)
  if not index then bad("%s", count) end
  local pick = csv.picker(index, count, wanted)
  local find, block, at = string.find, {}, 0
  -- The last symbols that were looked at; they come again and again.
  local known, known_count = {}, 0
  local function check_symbol(symbol)
    if symbol == "" or find(symbol, '[%c"\\]') then bad("symbol '%s' is none", symbol) end
    if known_count == KNOWN_MAX then known, known_count = {}, 0 end
    known[symbol], known_count = true, known_count + 1
  end
  return function()
    at = at + 1
    if not block[at] then
      block, at = lines(), 1
      if not block then
        block, at = {}, 0
        return nil
      end
    end
    number = number + 1
    local ms, symbol, price, a, b, c, d, e = pick(block[at])
    if not ms then bad("%s", symbol) end
    if not find(ms, "^%d+$") or #ms > 15 then bad("ts_ms '%s' is not whole milliseconds", ms) end
    if not known[symbol] then check_symbol(symbol) end
    if not is_number(price) then bad("price '%s' is not a number", price) end
    local extra = ""
    if a then
      for i, value in ipairs { a, b, c, d, e } do
        if find(value, '[%c"\\]') then bad("%s '%s' cannot be sent", extra_names[i], value) end
        extra = extra .. (',"%s":"%s"'):format(extra_names[i], value)
      end
    end
    return number, ms, symbol, price, extra
  end
end

local Run = {}
Run.__index = Run

--- Take the producer's reports; the first failure is kept for the end.
function Run:serve(wait_ms)
  local report = self.producer:poll(wait_ms)
  self.failed = self.failed + report.failures
  if report.failed[1] and not self.first_failure then self.first_failure = report.failed[1] end
  for _, event in ipairs(report.events) do
    if event.type == "error" then log.trouble("kafka", "Kafka: %s", event.message) end
  end
  if report.delivered > 0 then log.over("kafka", "Kafka answers again") end
  if self.line then self.line:set(self.file:taken() // BYTES_SHOWN) end
  if process.stop_requested() > 0 then self.stopped = "signal" end
  if self.deadline and clock.mono_ms() >= self.deadline then self.stopped = "for" end
end

--- Wait until the row is due; speed 0 never waits.
function Run:pace(ms)
  if self.speed == 0 then return end
  local at = math.tointeger(ms)
  self.first_ms = self.first_ms or at
  local due = self.start + math.floor((at - self.first_ms) / self.speed)
  local left = due - clock.mono_ms()
  while left > 0 and not self.stopped do
    self:serve(math.min(left, SLICE_MS))
    left = due - clock.mono_ms()
    -- poll ends early on a report; nothing is due yet, so wait for the rest
  end
end

function Run:send(number, key, partition, message)
  while not self.stopped and self.failed == 0 do
    local ok, text, code = self.producer:produce(self.topic, key, message, 0, partition)
    if ok then
      self.lines = self.lines + 1
      return
    end
    if code ~= "QUEUE_FULL" then fault.raise(fault.SERVER, "row %d: %s", number, text) end
    self:serve(SLICE_MS)
  end
end

function Run:rows(next_row, write, keyed, partitions)
  for number, ms, symbol, price, extra in next_row do
    self:pace(ms)
    if self.stopped or self.failed > 0 then return end
    local n = number - 2
    local message = write(n, symbol, price, ms, extra)
    self:send(number, keyed and symbol or nil, not keyed and n % partitions or nil, message)
    if self.lines % LINES_AT_ONCE == 0 then self:serve(0) end
  end
end

--- Wait for all reports, unless a second signal or the time limit ends it.
function Run:finish()
  local deadline = clock.mono_ms() + FLUSH_MS
  repeat
    local left = self.producer:flush(SLICE_MS)
    self:serve(0)
  until left == 0 or clock.mono_ms() > deadline
end

local function open_producer(options)
  local conf = {
    acks = "all", ["enable.idempotence"] = true, ["compression.type"] = "lz4",
    partitioner = "murmur2_random", ["linger.ms"] = options.speed == 0 and 20 or 0,
    ["batch.size"] = 262144, ["queue.buffering.max.messages"] = 200000,
    ["queue.buffering.max.kbytes"] = 65536,
  }
  for key, value in pairs(options.conf or {}) do conf[key] = value end
  return kafka.producer { brokers = options.brokers, conf = conf }
end

-- How much of the file was read, on a terminal and not of a pipe; else nil.
local function progress_line(path, file)
  if not process.isatty(2) or not file:taken() then return nil end
  local size = (process.stat(path) or {}).size or 0
  return log.line(require("mill.output").progress { label = "replay", unit = "kB",
    total = math.max(1, size // BYTES_SHOWN) })
end

local function summary(run, seconds)
  local delivered = run.producer:stats().delivered
  return {
    lines = run.lines, published = delivered, failed = run.lines - delivered, seconds = seconds,
    messages_per_second = math.floor(delivered / math.max(seconds, 0.001)), topic = run.topic,
    complete = run.stopped == nil and delivered == run.lines,
  }
end

--- Send the file.
-- @param options table: file, topic, brokers, conf, speed (0: as fast as it goes, 1: in real time),
--   keyed (bool), format, extra (columns sent besides), create_topic (bool), partitions (of a topic
--   to create), limit_ms (stop after that time), wait_ms (for Kafka's first answer)
-- @return summary table, integer exit status: 0 only if every row was delivered
function M.run(options)
  local write = writer(options.format)
  local extra_names = words(options.extra)
  if #extra_names > 5 then fault.raise(fault.USAGE, "--set extra: more than 5 columns") end
  if options.file == "" then
    fault.raise(fault.USAGE, "replay: name the recording with --set file=PATH")
  end
  if options.speed < 0 then fault.raise(fault.USAGE, "--set speed: must not be negative") end
  local file <close> = fault.check(fault.USAGE, "replay", gzip.open(options.file))
  local next_row = rows(options.file, file, extra_names)
  process.graceful(true)
  log.name("replay")
  local topic, stopped = starting.call(topics.ensure, {
    brokers = options.brokers, conf = options.conf, topic = options.topic,
    create = options.create_topic, partitions = options.partitions, wait_ms = options.wait_ms,
  })
  if not topic then return { topic = options.topic, complete = false, stopped = stopped }, 0 end
  local producer <close> = open_producer(options)
  local line <close> = progress_line(options.file, file)
  local run = setmetatable({
    producer = producer, topic = options.topic, speed = options.speed, start = clock.mono_ms(),
    lines = 0, failed = 0, file = file, line = line,
    deadline = options.limit_ms and clock.mono_ms() + options.limit_ms,
  }, Run)
  run:rows(next_row, write, options.keyed, topic.partitions)
  run:finish()
  if line then line:close() end
  local result = summary(run, (clock.mono_ms() - run.start) / 1000)
  if result.failed == 0 then return result, 0 end
  local first = run.first_failure
  log.error("%d of %d rows were not delivered%s", result.failed, run.lines,
    first and (", the first: " .. first.error) or " in time")
  return result, fault.SERVER
end

return M
