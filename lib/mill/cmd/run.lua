--- tidemill run SCRIPT: run a pipeline or producer script.

local config = require "mill.config"
local fault = require "mill.fault"
local heap = require "host.heap"
local json = require "mill.json"
local script = require "mill.script"

local M = {
  summary = "run a script: a pipeline, a producer, a replay",
  usage = "tidemill run SCRIPT [options]",
  takes = 1,
  graceful = true,
  options = {
    { "for", "DURATION", "stop after this long, e.g. 30s", type = "duration" },
    { "until-end", nil, "stop when every partition has reached the end it had at the start" },
    { "set", "KEY=VALUE", "override a setting of the script", many = true },
    { "instance", "NAME", "instance name; default: the host's name" },
    { "leave", nil, "leave the consumer group at the end" },
    { "wait", "DURATION", "wait this long at the start for the database and its tables",
      type = "duration" },
    { "on-gap", "stop|skip", "what to do about offsets that are gone (default stop)",
      choices = { "stop", "skip" } },
    { "accept-change", nil, "go on with a changed script; needs --from" },
    { "new-log", nil, "begin the log of another Kafka cluster; --from deletes results from there" },
    { "from", "TIME", "start of a window, e.g. 2024-08-09T12:00:00Z" },
    { "execute", nil, "with --from: delete also results that the log cannot bring again" },
    { "json", nil, "print one JSON object at the end" },
  },
  exits = {
    { 0, "ended as asked: --for, --until-end, SIGTERM, Ctrl-C" },
    { 1, "an error in a function of the script, or a bug" },
    { 2, "wrong use: an option, a setting, a mistake in the script, a table that does not fit" },
    { 3, "a server: not reached, refused, or lacks a topic, table or right" },
    { 4, "this instance name is already running" },
    { 5, "stopped by policy: too many bad rows, a gap, a changed script, another cluster" },
    { 6, "another producer of this name took over" },
    { 130, "aborted by a second signal" },
  },
}

function M.run(opts, rest)
  local path = rest[1]
  if not path then fault.raise(fault.USAGE, "usage: %s", M.usage) end
  if opts.new_log and not opts.from then
    fault.raise(fault.USAGE, "--new-log needs --from TIME, a window's start: what the other log has "
      .. "brought from there on is deleted, or it would be counted twice")
  end
  if opts.from and not (opts.new_log or opts.accept_change) then
    fault.raise(fault.USAGE, "--from goes with --new-log or --accept-change; to read again, use "
      .. "`tidemill progress reset`")
  end
  if opts.execute and not opts.from then
    fault.raise(fault.USAGE, "--execute goes with --from")
  end
  heap.limit(config.memory())
  local object = script.load(path, opts.set)
  local summary, status = object:run {
    for_ms = opts["for"], until_end = opts.until_end or false, instance = opts.instance,
    on_gap = opts.on_gap, accept_change = opts.accept_change, from = opts.from,
    new_log = opts.new_log or os.getenv("TIDEMILL_NEW_LOG") == "1",
    execute = opts.execute or false, leave = opts.leave, wait_ms = opts.wait,
    json = opts.json or false, config = config,
  }
  if opts.json and summary then print(json.encode(summary)) end
  return status or 0
end

return M
