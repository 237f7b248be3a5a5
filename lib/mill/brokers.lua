--- Kafka clients made from the user's options, and why brokers do not answer, in words that help.
--
-- librdkafka tells of its connections in events; a request only fails with "transport failure".
-- What is said here names the server, the reason and the way out, and never holds an option's value.

local clock = require "host.clock"
local fault = require "mill.fault"
local process = require "host.process"

local M = {}

local FIRST_LOOK_MS = 2500

-- What to look at, by the code of the event; the first that there is tells most.
local ORDER = { "SSL", "AUTHENTICATION", "RESOLVE", "TRANSPORT", "ALL_BROKERS_DOWN" }
local HOPELESS = { SSL = true, AUTHENTICATION = true }
local OPTIONS = "in kafka_conf (TIDEMILL_KAFKA_CONF)"
local WAY_OUT = {
  certificate = "name the authority that signed it with ssl.ca.location %s, and the broker as its "
    .. "certificate does",
  expired = "renew it, or see whether a clock is wrong; other TLS options stand %s",
  handshake = "does it take TLS at this port? security.protocol %s says so",
  password = "set sasl.username and sasl.password %s",
  mechanism = "set sasl.mechanisms and security.protocol %s to what this port takes",
  hangs_up = "if it wants TLS or a password, say so with security.protocol %s",
}

--- Make a client; librdkafka's word about an option is for the user, and no bug of ours.
-- @param make kafka.admin, kafka.consumer or kafka.producer
function M.client(make, options)
  local ok, made, message = pcall(make, options)
  if ok then return fault.check(fault.SERVER, "kafka", made, message) end
  local option = type(made) == "string" and made:match("(kafka options?:? .*)$")
  if not option then error(made, 0) end
  fault.raise(fault.USAGE, "%s (from TIDEMILL_KAFKA_CONF, or conf of mill.kafka)", option)
end

--- Is this a list of brokers, as the option brokers takes it?
-- @return true, or nil, what is wrong
function M.addresses(list)
  for item in (list .. ","):gmatch("([^,]*),") do
    local rest = item:match("^%s*(.-)%s*$"):gsub("^%a[%w_]*://", "")
    local host, port = rest:match("^([%w._-]+)(.*)$")
    if not host then host, port = rest:match("^(%[[%x:.%%%w]+%])(.*)$") end
    local number = port and math.tointeger(tonumber(port:match("^:(%d+)$")))
    if not host or port ~= "" and not (number and number > 0 and number < 65536) then
      return nil, ("'%s' is no broker; write host:port[,host:port]"):format(item)
    end
  end
  return true
end

--- Raise a fault where librdkafka would not take these options. No broker is asked: the client that
-- is made, and ended, knows of none.
function M.check_conf(conf)
  local own = {}
  for key, value in pairs(conf) do own[key] = value end
  own["bootstrap.servers"], own["metadata.broker.list"] = nil, nil
  local consumer = require("host.kafka").consumer
  M.client(consumer, { brokers = "127.0.0.1:0", conf = own }):close()
end

-- "ssl://db:9093/bootstrap: SSL handshake failed: x (after 3ms in state y)" without its noise.
local function plain(text)
  text = text:gsub("^%l[%w_]*://", ""):gsub("^(%S-)/%w+: ", "%1: ")
  text = text:gsub(" ?%(after %d+ms in state [^)]*%)", "")
  return (text:gsub("error:%x+:[%w ]*:[%w_ ]*:", ""))
end

local function way_out(event)
  local text = event.message
  if event.code == "SSL" then
    if text:find("has expired", 1, true) then return WAY_OUT.expired end
    return text:find("certificate", 1, true) and WAY_OUT.certificate or WAY_OUT.handshake
  elseif event.code == "AUTHENTICATION" then
    return text:find("mechanism handshake", 1, true) and WAY_OUT.mechanism or WAY_OUT.password
  elseif event.code == "ALL_BROKERS_DOWN" then
    return WAY_OUT.hangs_up
  end
end

--- Why a client's brokers do not answer, from its events, which are taken.
-- @return text, way out (or nil), code; or nil when nothing is known
function M.reason(client)
  local first = {}
  for _, event in ipairs(client:events()) do
    if event.type == "error" and not first[event.code] then first[event.code] = event end
  end
  for _, code in ipairs(ORDER) do
    local event = first[code]
    if event then
      local out = way_out(event)
      local text = code == "ALL_BROKERS_DOWN" and "it takes connections and ends them"
        or plain(event.message)
      return text, out and out:format(OPTIONS), code
    end
  end
end

--- Ask for metadata. Raises a fault with brokers, reason and way out when there is no answer. A refused
-- certificate or password is not waited out, and nothing is after a signal.
-- @param topic name, or nil for all
function M.metadata(client, brokers, topic, wait_ms)
  local deadline = clock.mono_ms() + wait_ms
  local reason, out, code
  while true do
    local left = deadline - clock.mono_ms()
    local found, message = client:metadata(topic, math.max(1, math.min(left, FIRST_LOOK_MS)))
    if found then return found end
    local text, way, kind = M.reason(client)
    if text then reason, out, code = text, way, kind end
    if process.stop_requested() > 0 then
      fault.raise(fault.SERVER, "Kafka at %s had not answered yet", brokers)
    elseif HOPELESS[code] or clock.mono_ms() >= deadline then
      fault.raise(fault.SERVER, "Kafka at %s does not answer: %s; %s", brokers,
        reason or message, out or "is it running, and is TIDEMILL_KAFKA right?")
    end
  end
end

return M
