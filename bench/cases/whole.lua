-- The whole job (poll, decode, exact windows, exactly-once MySQL) against a raw drain of the same topic
-- with the same librdkafka settings, and with the drain's own best ones.

return function(b)
  local topic = b.topic { messages = b.scaled(5000000), keys = 5, partitions = 3 }
  b.expected(topic)
  local sides = {
    { "drain", function() return b.drain(topic) end },
  }
  for _, server in ipairs(b.servers()) do
    sides[#sides + 1] = { server.name, function() return b.whole(topic, { server = server }) end }
  end
  -- librdkafka's own defaults, a greater queue, larger fetches: the best of them is the best drain.
  for _, conf in ipairs {
    { "fetch.wait.max.ms=500" }, -- as it is
    { "queued.max.messages.kbytes=65536" },
    { "queued.max.messages.kbytes=65536", "fetch.message.max.bytes=4194304" },
    { "queued.max.messages.kbytes=32768", "check.crcs=false", "fetch.wait.max.ms=50" },
  } do
    sides[#sides + 1] = { table.concat(conf, " "), function() return b.drain(topic, conf) end }
  end
  local r = b.alternate(sides)
  local rows, best = {}, b.median(r.drain, "messages_per_second")
  for _, side in ipairs(sides) do
    local list = r[side[1]]
    local is_job = list[1].commits ~= nil
    if not is_job then best = math.max(best, b.median(list, "messages_per_second")) end
    rows[#rows + 1] = {
      is_job and "whole job, " .. side[1] or side[1] == "drain" and "raw drain"
        or side[1] == "fetch.wait.max.ms=500" and "raw drain, librdkafka's defaults"
        or "raw drain, " .. side[1]:gsub("queued.max.messages.kbytes", "queue"),
      b.spread(list, "messages_per_second"), b.spread(list, "cpu_seconds", "%.2f"),
      b.spread(list, "peak_rss_mb", "%.1f"), is_job and b.spread(list, "startup_ms") or "",
      is_job and b.spread(list, "first_message_ms") or "",
    }
  end
  local goals = {}
  for _, server in ipairs(b.servers()) do
    local list = r[server.name]
    local rate, cpu = b.median(list, "messages_per_second"), b.median(list, "cpu_seconds")
    local ratio = rate / b.median(r.drain, "messages_per_second")
    local cpus = cpu / b.median(r.drain, "cpu_seconds")
    local rss = b.median(list, "peak_rss_mb")
    goals[#goals + 1] = { what = server.name .. ": peak memory", text = ("%.1f MB"):format(rss),
      value = rss, goal = "<= 80 MB", met = rss <= 80 }
    goals[#goals + 1] = { what = server.name .. ": CPU seconds / the drain's", text = ("%.2f"):format(cpus),
      value = cpus, goal = "<= 1.0", met = cpus <= 1 }
    goals[#goals + 1] = { what = server.name .. ": whole job / best drain",
      text = ("%.2f"):format(rate / best), value = rate / best }
    goals[#goals + 1] = { what = server.name .. ": whole job / raw drain", text = ("%.2f"):format(ratio),
      value = ratio, goal = ">= 1.4", met = ratio >= 1.4 }
  end
  return { goals = goals, figures = r, table = {
    columns = { "what", "msg/s", "CPU s", "peak MB", "first poll ms", "first message ms" },
    rows = rows,
  } }
end
