--- Is a process flat? Judges samples of its memory, descriptors and threads.

local M = {}

--- Tolerances, of the time that is judged: all but the warm-up.
M.WARM_UP = 0.2 -- the first part of the run
M.MEMORY = 0.04 -- memory may rise by this part of itself,
M.MEMORY_KB = 1024 -- or by this much, whatever is more
M.COUNT = 4 -- descriptors and threads may for a moment be this many above their median

local function median(list)
  table.sort(list)
  return list[(#list + 1) // 2]
end

local function part(samples, field, from, to)
  local out = {}
  for i = from, to do out[#out + 1] = samples[i][field] end
  return median(out)
end

-- Slope of the fitted line (least squares), in units a second.
local function slope(samples, field)
  local n, st, sx, stt, stx = #samples, 0, 0, 0, 0
  for _, s in ipairs(samples) do
    local t, x = s.t - samples[1].t, s[field]
    st, sx, stt, stx = st + t, sx + x, stt + t * t, stx + t * x
  end
  local below = n * stt - st * st
  return below == 0 and 0 or (n * stx - st * sx) / below
end

-- First and last quarter by their medians, the slope, the peak; nil when a sample lacks the field.
local function measure(samples, field)
  local n, peak = #samples, 0
  for _, s in ipairs(samples) do
    if not s[field] then return nil end
    peak = math.max(peak, s[field])
  end
  local quarter = math.max(1, n // 4)
  return {
    first = part(samples, field, 1, quarter), last = part(samples, field, n - quarter + 1, n),
    median = part(samples, field, 1, n), peak = peak, per_second = slope(samples, field),
  }
end

local function judge_memory(out, what, m, seconds)
  local allowed = math.max(M.MEMORY_KB, M.MEMORY * m.first)
  local fitted = m.per_second * seconds
  if fitted > allowed then
    out[#out + 1] = ("%s rises by %.0f KB in %.0f s (the fitted line; %.0f allowed)"):format(what,
      fitted, seconds, allowed)
  elseif m.last - m.first > allowed then
    out[#out + 1] = ("%s rose from %.0f to %.0f KB (first and last quarter; %.0f allowed)"):format(
      what, m.first, m.last, allowed)
  end
end

local function judge_count(out, what, m)
  if m.last > m.first then
    out[#out + 1] = ("%s rose from %d to %d (first and last quarter)"):format(what, m.first,
      m.last)
  elseif m.peak > m.median + M.COUNT then
    out[#out + 1] = ("%d %s at once, %d as a rule"):format(m.peak, what, m.median)
  end
end

--- Judge one process.
-- @param samples array of { t = seconds, rss_kb =, descriptors =, threads =, heap_kb = (or nil) }
-- @return { samples =, seconds =, rss =, heap =, descriptors =, threads = (each first, last, median,
--   peak, per_second), problems = {texts} }
function M.judge(samples)
  local problems, kept = {}, {}
  local out = { problems = problems }
  if #samples > 0 then
    local first, last = samples[1].t, samples[#samples].t
    for _, s in ipairs(samples) do
      if s.t >= first + (last - first) * M.WARM_UP then kept[#kept + 1] = s end
    end
  end
  out.samples = #kept
  if #kept < 8 then
    problems[1] = ("only %d samples to judge"):format(#kept)
    return out
  end
  out.seconds = kept[#kept].t - kept[1].t
  out.rss, out.heap = measure(kept, "rss_kb"), measure(kept, "heap_kb")
  out.descriptors, out.threads = measure(kept, "descriptors"), measure(kept, "threads")
  judge_memory(problems, "memory", out.rss, out.seconds)
  if out.heap then judge_memory(problems, "the Lua heap", out.heap, out.seconds) end
  judge_count(problems, "descriptors", out.descriptors)
  judge_count(problems, "threads", out.threads)
  return out
end

--- The median and the greatest lag of all samples; nil where none was told.
function M.lag(samples)
  local list = {}
  for _, s in ipairs(samples) do list[#list + 1] = s.lag end
  if #list == 0 then return nil end
  local middle = median(list)
  return { median = middle, peak = list[#list] }
end

return M
