--- A world for specs of the producer: development broker, simulated exchanges, captured log.
--
--   local world = require("spec.support.producer").new()
--   setup(world.open) before_each(world.begin) after_each(world.finish) teardown(world.close)

local broker = require "spec.support.broker"
local clock = require "host.clock"
local exchange = require "mill.exchange"
local folder = require "spec.support.folder"
local log = require "mill.log"
local logged_ = require "spec.support.logged"
local process = require "host.process"
local producer = require "mill.producer"

local M = {}

M.SYMBOLS = "BTCUSDT,ETHUSDT,ADAUSDT"
--- A message: symbol, price, seconds.
M.MESSAGE = '^{"symbol":"([A-Z]+)","price":"(%d+%.%d%d%d%d%d%d%d%d)","timestamp":(%d+%.%d%d%d)}$'

local PARTITIONS = 4 -- of a topic that the development broker makes by itself
local number = 0 -- topics and names of producers: new ones for each test

function M.new()
  local world = {}
  local made

  function world.open()
    world.server = broker.start {}
  end

  function world.begin()
    number = number + 1
    world.number = number
    world.folder = folder.make()
    world.lines, world.sims, made = logged_.take(), {}, {}
  end

  function world.finish()
    for _, p in ipairs(made) do p:close() end
    for _, sim in ipairs(world.sims) do sim:close() end
    log.to(nil)
    log.name("tidemill")
    process.graceful(false)
    folder.clear(world.folder)
  end

  function world.close()
    world.server:close()
  end

  --- Start an exchange that remembers what it served.
  function world.simulate(options)
    options = options or {}
    options.remember = true
    local sim = exchange.new(options)
    world.sims[#world.sims + 1] = sim
    return sim
  end

  --- Make a producer that asks the exchanges started so far.
  function world.make(options)
    local urls = {}
    for i, sim in ipairs(world.sims) do urls[i] = sim:url() end
    local all = {
      name = "p" .. number, endpoints = table.concat(urls, ","), symbols = M.SYMBOLS, mode = "all",
      every_ms = 40, deadline_ms = 15000, clock_every_ms = 60000, weight_limit = 6000,
      topic = "t" .. number, brokers = world.server:bootstrap(), state_dir = world.folder,
      spool = world.folder .. "/spool/p" .. number,
      create_topic = true, -- by asking for it by name, which is fast here
      wait_ms = 15000,
      retry = { base_ms = 5, cap_ms = 40, open_base_ms = 60, open_cap_ms = 60, threshold = 3 },
    }
    if options and options.name then all.spool = world.folder .. "/spool/" .. options.name end
    for key, value in pairs(options or {}) do all[key] = value end
    local p = producer.new(all)
    made[#made + 1] = p
    return p
  end

  --- Let the producer and the exchanges work until `done()`, or fail.
  function world.run(p, done, what)
    local deadline = clock.mono_ms() + 20000
    while not done() do
      assert(clock.mono_ms() < deadline, "gave up waiting for " .. what)
      for _, sim in ipairs(world.sims) do sim:step(1) end
      p:step(2)
    end
  end

  --- Let them work for a while.
  function world.run_for(p, ms)
    local deadline = clock.mono_ms() + ms
    world.run(p, function() return clock.mono_ms() >= deadline end, "the time")
  end

  --- Let them work until `n` more messages are acknowledged.
  function world.run_published(p, n)
    local want = p:summary().published + n
    world.run(p, function() return p:summary().published >= want end, n .. " messages")
  end

  --- How many log lines have the pattern.
  function world.logged(pattern) return logged_.count(world.lines, pattern) end

  --- Every message in the topic is one that an exchange served, word for word. Returns the records
  -- and the summary.
  function world.check_topic(p)
    assert(p:finish(5000) == 0, "messages were not acknowledged")
    local records = broker.records(world.server:bootstrap(), p.outbox.topic, PARTITIONS)
    for _, r in ipairs(records) do
      local symbol, price, time = r.value:match(M.MESSAGE)
      assert(symbol and symbol == r.key, "not a message: " .. tostring(r.value))
      local served = false
      for _, sim in ipairs(world.sims) do
        served = served or sim.served[symbol .. " " .. price]
      end
      assert(served, "no exchange served " .. r.value)
      assert(math.abs(clock.wall_ms() / 1000 - tonumber(time)) < 60, "stamped " .. time)
    end
    local summary = p:summary()
    assert(#records == summary.published, "other messages are in the topic than were counted")
    assert(summary.fetched == summary.published + summary.failed, "the counts do not add up")
    return records, summary
  end

  return world
end

return M
