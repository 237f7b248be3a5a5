-- The curves of var/bench/curves.json as doc/curves-*.png, by gnuplot. Run by `make bench-plots`.

local json = require "mill.json"
local process = require "host.process"

local LOG <const> = { keys = true, bytes = true, ["window ms"] = true }

local file <close> = assert(io.open("var/bench/curves.json"), "run `make bench NAME=curves` first")
local curves, order = {}, {}
for _, p in ipairs(json.decode(file:read "a").figures) do
  if not curves[p.curve] then
    curves[p.curve] = {}
    order[#order + 1] = p.curve
  end
  table.insert(curves[p.curve], ("%d %.0f %.0f %.0f"):format(p.x, p.messages_per_second,
    p.drain_messages_per_second, p.cpu_ns))
end
for _, name in ipairs(order) do
  local script = ([[
$points << EOD
%s
EOD
set terminal pngcairo size 800,420 font "sans,10"
set output "doc/curves-%s.png"
set title "Throughput and cost by %s"
set xlabel "%s"
set ylabel "messages a second"
set y2label "CPU nanoseconds a message"
set y2tics
set ytics nomirror
set yrange [0:*]
set y2range [0:*]
set key outside bottom horizontal
%s
plot $points using 1:2 with linespoints lw 2 title "tidemill", \
  $points using 1:3 with linespoints dt 2 title "raw drain", \
  $points using 1:4 axes x1y2 with linespoints dt 3 title "tidemill, CPU ns"
]]):format(table.concat(curves[name], "\n"), (name:gsub(" .*", "")), name, name,
    LOG[name] and "set logscale x" or "")
  local child <close> = assert(process.spawn { argv = { "gnuplot" }, stdin = "pipe",
    stdout = "inherit", stderr = "inherit" })
  child:write(script)
  child:close_stdin()
  assert((child:wait(30000) or {}).code == 0, "gnuplot failed")
end
