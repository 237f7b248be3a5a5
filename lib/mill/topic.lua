--- Looking a topic up before anything is sent to it, and creating it when asked.
--
-- All topics are listed instead of asking for the one: a broker that creates topics on their own
-- would make a missing one, with whatever partitions it likes, and a misspelt name would be lost.

local brokers_ = require "mill.brokers"
local clock = require "host.clock"
local fault = require "mill.fault"
local kafka = require "host.kafka"

local M = {}

local WAIT_MS = 5000
local PATIENT_MS = 1000 -- for a topic to be made, of who has other things to do
local LIST_MS = 20 -- between two looks at a topic that was just made

-- nil, message when Kafka does not answer and the caller is patient.
local function metadata(admin, options, wait_ms)
  if options.patient then return admin:metadata(nil, wait_ms) end
  return brokers_.metadata(admin, options.brokers, nil, wait_ms)
end

-- "made", or "there" when it was already; nil, message when it is neither and the caller is patient: a
-- controller may be on its way, or somebody else make it.
local function create(admin, options)
  local topic = options.topic
  local ok, message, code = admin:create_topic {
    name = topic, partitions = options.partitions or 3, config = options.config,
    timeout_ms = options.patient and PATIENT_MS or nil,
  }
  if ok then return "made" end
  if code == "TOPIC_ALREADY_EXISTS" then return "there" end
  -- The development broker has no such request, but makes a topic that is asked for by name.
  if code == "UNSUPPORTED" and admin:metadata(topic, WAIT_MS) then return "made" end
  message = ("topic '%s' could not be created: %s%s"):format(topic, message, options.hint or "")
  if options.patient then return nil, message end
  fault.raise(fault.SERVER, "%s", message)
end

--- Is this the development broker, which is neither durable nor able to fence?
function M.is_development(found)
  return (found.cluster_id or ""):find("^mockCluster") ~= nil
end

-- A topic that was just made is not listed at once by every broker.
local function created(admin, options, wait_ms)
  local deadline = clock.mono_ms() + wait_ms
  while true do
    local found, message = metadata(admin, options, wait_ms)
    local entry = found and found.topics[options.topic]
    if not found or entry and not entry.code or clock.mono_ms() >= deadline then
      return found, message
    end
    clock.sleep(LIST_MS)
  end
end

--- Make sure that the topic is there.
-- @param options table: brokers, conf (librdkafka options), topic, create (bool), partitions (of a
--   topic to create, default 3), config (of such a topic), hint (put behind the error when that
--   fails), wait_ms (for an answer, default 5 s), admin (a client to use), patient (bool: an answer
--   that does not come is no fault, nor is a topic that cannot be created), later (bool: nor is one
--   that is not there)
-- @return table: partitions (integer), created (bool), development (bool), cluster_id; or nil,
--   message when it is to be tried again (patient, later)
function M.ensure(options)
  if not options.admin then
    local admin <close> = brokers_.client(kafka.admin, {
      brokers = options.brokers, conf = options.conf or {},
    })
    local again = setmetatable({ admin = admin }, { __index = options })
    return M.ensure(again)
  end
  local topic, admin, made = options.topic, options.admin, nil
  local wait_ms = options.wait_ms or WAIT_MS
  local found, message = metadata(admin, options, wait_ms)
  if not found then return nil, message end
  if not found.topics[topic] then
    if not options.create and options.later then
      return nil, ("topic '%s' does not exist"):format(topic)
    elseif not options.create then
      fault.raise(fault.SERVER, "topic '%s' does not exist at %s; create it, or let this script do "
        .. "so with --set create_topic=true", topic, options.brokers)
    end
    made, message = create(admin, options)
    if not made then return nil, message end
    found, message = created(admin, options, wait_ms)
    if not found then return nil, message end
  end
  local entry = found.topics[topic]
  if not entry or entry.code then
    message = entry and entry.error or made == "there" and "it is there, but not shown to this user: "
      .. "the right to describe, read and write it is missing" or "it is not listed after it was created"
    if options.patient then return nil, message end
    fault.raise(fault.SERVER, "topic '%s' at %s: %s", topic, options.brokers, message)
  end
  return {
    partitions = #entry.partitions, created = made ~= nil, cluster_id = found.cluster_id,
    development = M.is_development(found),
  }
end

return M
