-- Upserts a second of a run in which nearly every message is a row of its own, against a C loop of the
-- same rows; the loop tries several ways, and the best of them counts. The run's time is from the
-- beginning of its first transaction to the end of its last; it polls, decodes and merges meanwhile,
-- which the loop has done before its time begins. The loop's transactions are no larger than the
-- run's, which have a limit of about 50,000 rows.

local WAYS = {
  { "way=text", "statement=500", "commit=20000" },
  { "way=text", "statement=2000", "commit=20000" },
  { "way=text", "statement=2000", "commit=50000" },
  { "way=prepared", "statement=500", "commit=50000" },
  { "way=staging", "statement=2000", "commit=50000" },
  { "way=bulk", "statement=2000", "commit=20000", only = "mariadb" },
  { "way=bulk", "statement=2000", "commit=50000", only = "mariadb" },
}

return function(b)
  local messages, keys = b.scaled(1000000), b.scaled(1000000)
  local topic = b.topic { messages = messages, keys = keys, partitions = 3, span_ms = 59000 }
  b.expected(topic)
  local function loop(server, way)
    local name = b.table(server)
    local out = b.measured({ b.tool "upsert", server.url, name, ("rows=%d"):format(messages),
      ("keys=%d"):format(keys), table.unpack(way) })
    b.sql(server, "drop table %s", name)
    return out
  end
  local function run(server)
    local out = b.whole(topic, { server = server })
    out.rows_per_second = out.upserts / out.commit_seconds
    return out
  end
  local sides, best = {}, {}
  for _, server in ipairs(b.servers()) do
    sides[#sides + 1] = { server.name .. " tidemill", function() return run(server) end }
    for _, way in ipairs(WAYS) do
      if not way.only or way.only == server.name then
        sides[#sides + 1] = { server.name .. " C loop, " .. table.concat(way, " "),
          function() return loop(server, way) end }
      end
    end
  end
  local r = b.alternate(sides)
  local rows, goals = {}, {}
  for _, side in ipairs(sides) do
    local name, list = side[1], r[side[1]]
    rows[#rows + 1] = { name, b.spread(list, "rows_per_second"),
      b.spread(list, "cpu_seconds", "%.2f") }
    local server = name:match "^%S+"
    if name:find "C loop" then
      best[server] = math.max(best[server] or 0, b.median(list, "rows_per_second"))
    end
  end
  for _, server in ipairs(b.servers()) do
    local ratio = b.median(r[server.name .. " tidemill"], "rows_per_second") / best[server.name]
    goals[#goals + 1] = { what = server.name .. ": upserts a second / best C loop",
      text = ("%.2f"):format(ratio), value = ratio, goal = ">= 0.9", met = ratio >= 0.9 }
  end
  return { figures = r, goals = goals,
    table = { columns = { "what", "rows/s", "client's CPU s" }, rows = rows } }
end
