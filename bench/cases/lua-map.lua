-- One Lua function per message: `map` reads and sets a field; `where` and `key` read one.

return function(b)
  local topic = b.topic { messages = b.scaled(5000000), keys = 5, partitions = 3 }
  b.expected(topic)
  local sides = { { "drain", function() return b.drain(topic) end } }
  for _, kind in ipairs { "", "map", "where", "key" } do
    sides[#sides + 1] = { kind == "" and "no function" or kind, function()
      return b.whole(topic, { script = "bench/pipeline.lua", set = { lua = kind } })
    end }
  end
  local r = b.alternate(sides)
  local rows = {}
  for _, side in ipairs(sides) do
    local list = r[side[1]]
    rows[#rows + 1] = { side[1], b.spread(list, "messages_per_second"),
      b.spread(list, "cpu_seconds", "%.2f"), b.spread(list, "peak_rss_mb", "%.1f") }
  end
  local rate = b.median(r.map, "messages_per_second")
  local ratio = rate / b.median(r.drain, "messages_per_second")
  return { figures = r, table = { columns = { "what", "msg/s", "CPU s", "peak MB" }, rows = rows },
    goals = {
      { what = "with one Lua map a message", text = ("%.0f msg/s"):format(rate), value = rate,
        goal = ">= 300,000", met = rate >= 300000 },
      { what = "with one Lua map / raw drain", text = ("%.2f"):format(ratio), value = ratio,
        goal = ">= 0.25", met = ratio >= 0.25 },
    } }
end
