-- Process start to first poll and to first message, with little to read; size of the program, and its
-- memory at rest.

local process = require "host.process"

return function(b)
  local topic = b.topic { messages = 10000, keys = 5, partitions = 3 }
  b.expected(topic)
  local sides = { { "version", function()
    return b.measured { "sh", "-c", process.exe() .. " version >/dev/null && echo '{}'" }
  end } }
  for _, server in ipairs(b.servers()) do
    sides[#sides + 1] = { server.name, function() return b.whole(topic, { server = server }) end }
  end
  local before = b.runs
  b.runs = math.max(5, before)
  local r = b.alternate(sides)
  b.runs = before
  local rows, goals = {}, {}
  for _, side in ipairs(sides) do
    local list = r[side[1]]
    local is_job = list[1].commits ~= nil
    rows[#rows + 1] = { side[1], is_job and b.spread(list, "startup_ms") or "",
      is_job and b.spread(list, "first_message_ms") or "",
      b.spread(list, "wall_seconds", "%.3f"), b.spread(list, "peak_rss_mb", "%.1f") }
    if is_job then
      local ms = b.median(list, "startup_ms")
      goals[#goals + 1] = { what = side[1] .. ": process start to first poll",
        text = ("%.0f ms"):format(ms), value = ms, goal = "<= 50 ms", met = ms <= 50 }
    end
  end
  local size = process.stat(process.exe()).size / 1048576
  goals[#goals + 1] = { what = "size of the program (not stripped)", text = ("%.1f MB"):format(size),
    value = size }
  return { figures = r, goals = goals, table = {
    columns = { "what", "first poll ms", "first message ms", "whole process s", "peak MB" },
    rows = rows } }
end
