-- The whole job on other systems (bench/peers) and on tidemill, same topic, same database, same run.
-- The tables are compared row by row with what they must hold first: who is wrong is in the table. Slow
-- systems take a part of the messages (`share`), from a topic of its own: the table says so.

local peers = require "bench.peer"

return function(b)
  local function topic_of(share)
    return b.topic { messages = b.scaled(5000000 * share), keys = 5, partitions = 3 }
  end
  local topic = topic_of(1)
  local server = b.servers()[#b.servers()] -- MariaDB, if it is there
  local function run(item)
    local part = topic_of(item.share or 1)
    local want = b.expected(part)
    local name = peers.table(b, server)
    local env = peers.environment(b, item, server, part.name, name, part.messages)
    -- Their logs are long, and nobody wants them unless one fails.
    local argv = { "sh", "-c", 'exec "$@" 2>"var/bench/$0.log"', item.peer,
      table.unpack(peers.command(b, item.peer)) }
    local out = b.measured(argv, env)
    out.messages_per_second = part.messages / out.wall_seconds
    out.wrong = b.wrong(server, name, want)
    if out.wrong then b.say("%s is wrong: %s", item.name, out.wrong) end
    b.sql(server, "drop table %s", name)
    peers.clean(b, env)
    return out
  end
  local sides = {
    { "raw drain", function() return b.drain(topic) end },
    { "tidemill", function()
      local out = b.whole(topic, { server = server })
      out.warm_messages_per_second = out.loop_messages_per_second
      return out
    end },
  }
  for _, item in ipairs(peers.wanted(b)) do
    peers.command(b, item.peer)
    topic_of(item.share or 1)
    local of = item.share and (", %g of the messages"):format(item.share) or ""
    sides[#sides + 1] = { item.name .. of, function() return run(item) end }
  end
  local r = b.alternate(sides)
  local rows, best, best_warm = {}, 0, 0
  for i, side in ipairs(sides) do
    local list = r[side[1]]
    local rate = b.median(list, "messages_per_second")
    local warm = list[1].warm_messages_per_second and b.median(list, "warm_messages_per_second")
    if i > 2 then best, best_warm = math.max(best, rate), math.max(best_warm, warm) end
    rows[i] = { side[1], b.spread(list, "messages_per_second"),
      warm and b.spread(list, "warm_messages_per_second") or "",
      b.spread(list, "cpu_seconds", "%.1f"), b.spread(list, "peak_rss_mb"),
      list[1].first_message_ms and b.spread(list, "first_message_ms") or "",
      i == 1 and "" or list[1].wrong and "WRONG" or "exact" }
  end
  local ours = r.tidemill
  local function goal(what, ratio)
    return { what = what, text = ("%.1f"):format(ratio), value = ratio, goal = "> 1", met = ratio > 1 }
  end
  return { figures = r, server = server.name, table = {
    columns = { "what", "msg/s, whole run", "warm", "CPU s", "peak MB", "first message ms", "result" },
    rows = rows }, goals = {
      goal("tidemill / best peer, whole run", b.median(ours, "messages_per_second") / best),
      goal("tidemill / best peer, warm", b.median(ours, "warm_messages_per_second") / best_warm),
    } }
end
