--- Compares a place's tables with what the oracle says.

local json = require "mill.json"
local mysql = require "host.mysql"

return function(real)
  local function check_letters(place, o, want)
    local rows = {}
    for i, d in ipairs(want.dead) do rows[i] = { d[1], d[2], d[5], d[6] } end
    real.same(rows, place:dead(o.name), 2, "dead letters")
    local cluster = real.cluster_id()
    for _, row in ipairs(place:query("select `partition`, `offset`, reason, path, topic, cluster_id, "
      .. "code from mill_dead_letters where pipeline = " .. place.db:quote(o.name))) do
      local at = ("dead letter %d:%d"):format(row[1], row[2])
      assert(row[3] ~= "" and row[3] ~= mysql.null, at .. " has no reason")
      assert(row[4] ~= "" and row[4] ~= mysql.null, at .. " has no path")
      assert(row[5] == o.topic, at .. " names topic " .. tostring(row[5]))
      assert(row[6] == cluster, at .. " names cluster " .. tostring(row[6]))
      assert(row[7] ~= "", at .. " has no code")
    end
  end

  local function check_counts(o, want)
    local sums = {}
    for _, run in ipairs(o.runs) do
      for key, value in pairs(run.summary) do
        if math.type(value) == "integer" then sums[key] = (sums[key] or 0) + value end
      end
    end
    local function is(key, value)
      if sums[key] ~= value then
        error(("%s: %s expected, the runs say %s"):format(key, value, tostring(sums[key])), 3)
      end
    end
    is("consumed", want.consumed)
    is("dead", #want.dead)
    is("late", want.late)
    is("too_late", want.too_late)
  end

  local function check_progress(place, o, want)
    local progress, ends = place:progress(o.name), real.ends(o.topic)
    for partition, e in pairs(ends) do
      local row = progress[partition]
      assert(row, ("partition %d has no progress row"):format(partition))
      assert(row.position == e[2], ("partition %d: position %d, end %d"):format(partition,
        row.position, e[2]))
      local w = want.watermarks[tostring(partition)]
      assert(row.watermark_ms == (w or mysql.null), ("partition %d: watermark %s, expected %s"):format(
        partition, tostring(row.watermark_ms), tostring(w)))
    end
    local final = place:query("select final_ms from mill_pipelines where pipeline = %s",
      place.db:quote(o.name))
    assert(#final == 1, "the pipeline has " .. #final .. " rows in mill_pipelines")
    -- It is moved when a window's end was passed, so it may lag within a window.
    local size, hop = o.size_ms or 60000, o.hop_ms or o.size_ms or 60000
    local function nth(ms) return ms and (ms - size) // hop end
    local stored = final[1][1] ~= mysql.null and final[1][1] or nil
    local wanted = want.final_ms ~= json.null and want.final_ms or nil
    assert(nth(stored) == nth(wanted) and (stored or 0) <= (wanted or 0),
      ("final_ms %s, the least watermark is %s"):format(stored, wanted))
  end

  local function verify(place, o)
    o.name = o.name or "averages"
    local want = o.want or real.expect(o)
    real.same(want.results, place:results(o.table or "moving_averages", o.where), 2, "results")
    local late = {}
    for i, r in ipairs(want.late_rows) do
      late[i] = { r[2], r[3], r[6], r[1], r[4], r[5], r[7], r[8] }
    end
    real.same(late, place:late(o.name), 3, "mill_late")
    check_letters(place, o, want)
    if o.runs then check_counts(o, want) end
    check_progress(place, o, want)
    return want
  end

  return verify
end
