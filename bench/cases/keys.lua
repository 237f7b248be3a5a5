-- Catching up with 100,000 keys and with 5, all messages within one window.

return function(b)
  local function topic(keys)
    local t = b.topic { messages = b.scaled(5000000), keys = keys, partitions = 3, span_ms = 59000 }
    b.expected(t)
    return t
  end
  local few, many = topic(5), topic(100000)
  local sides = {}
  for _, server in ipairs(b.servers()) do
    sides[#sides + 1] = { server.name .. ", 5 keys",
      function() return b.whole(few, { server = server }) end }
    sides[#sides + 1] = { server.name .. ", 100,000 keys",
      function() return b.whole(many, { server = server }) end }
  end
  local r = b.alternate(sides)
  local rows, goals = {}, {}
  for _, side in ipairs(sides) do
    local list = r[side[1]]
    rows[#rows + 1] = { side[1], b.spread(list, "messages_per_second"),
      b.spread(list, "upserts"), b.spread(list, "upserts_per_second"), b.spread(list, "commits"),
      b.spread(list, "cpu_seconds", "%.2f"), b.spread(list, "peak_rss_mb", "%.1f") }
  end
  for _, server in ipairs(b.servers()) do
    local ratio = b.median(r[server.name .. ", 100,000 keys"], "messages_per_second")
      / b.median(r[server.name .. ", 5 keys"], "messages_per_second")
    goals[#goals + 1] = { what = server.name .. ": 100,000 keys / 5 keys", text = ("%.2f"):format(ratio),
      value = ratio, goal = ">= 0.25", met = ratio >= 0.25 }
  end
  return { goals = goals, figures = r, table = {
    columns = { "what", "msg/s", "upserts", "upserts/s", "commits", "CPU s", "peak MB" },
    rows = rows,
  } }
end
