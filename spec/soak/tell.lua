--- What a soak says: a line a minute, the samples as files, the table at the end.

local json = require "mill.json"
local output = require "mill.output"

local M = {}

local function mb(kb)
  return ("%.1f"):format(kb / 1024)
end

--- One line: memory of each process now, and the lags.
function M.line(members)
  local parts = {}
  for _, m in ipairs(members) do
    local s = m.samples[#m.samples]
    parts[#parts + 1] = ("%s %s MB%s"):format(m.name, mb(s.rss_kb),
      s.lag and (" lag %d"):format(s.lag) or "")
  end
  return table.concat(parts, ", ")
end

--- NAME.tsv of each process (seconds, RSS in MB, descriptors, threads, Lua heap in MB, lag, messages;
-- nan where unknown), and report.json.
function M.files(folder, members, report)
  for _, m in ipairs(members) do
    local file = assert(io.open(("%s/%s.tsv"):format(folder, m.name), "w"))
    for _, s in ipairs(m.samples) do
      local function number(x, format) return x and format:format(x) or "nan" end
      file:write(table.concat({ ("%.1f"):format(s.t), ("%.3f"):format(s.rss_kb / 1024),
        tostring(s.descriptors), tostring(s.threads),
        number(s.heap_kb and s.heap_kb / 1024, "%.3f"), number(s.lag, "%.0f"),
        number(s.done, "%.0f") }, "\t"), "\n")
    end
    file:close()
  end
  local file = assert(io.open(folder .. "/report.json", "w"))
  file:write(json.encode(report), "\n")
  file:close()
end

--- The report as text.
function M.text(report)
  local rows, out = {}, {}
  for _, p in ipairs(report.processes) do
    if p.rss then
      rows[#rows + 1] = { p.name, mb(p.rss.first), mb(p.rss.last), mb(p.rss.peak),
        ("%+.2f"):format(p.rss.per_second * 3600 / 1024), p.heap and mb(p.heap.first) or "",
        p.heap and mb(p.heap.last) or "",
        ("%d / %d"):format(p.descriptors.median, p.descriptors.peak),
        ("%d / %d"):format(p.threads.median, p.threads.peak),
        p.lag and ("%d / %d"):format(p.lag.median, p.lag.peak) or "" }
    end
  end
  out[1] = output.table({
    columns = { "process", "MB first", "last", "peak", "MB/hour", "heap first", "last",
                "fds / peak", "threads / peak", "lag / peak" }, rows = rows,
  }, { width = 140 })
  for _, t in ipairs(report.tables or {}) do
    out[#out + 1] = ("%s: %d messages, %d rows, %d right"):format(t.table, t.messages, t.rows,
      t.right)
  end
  for _, text in ipairs(report.problems) do out[#out + 1] = "PROBLEM " .. text end
  out[#out + 1] = ("soak: %.1f minutes, %s"):format(report.seconds / 60, report.flat
    and "flat and right" or #report.problems .. " problems")
  return table.concat(out, "\n")
end

return M
