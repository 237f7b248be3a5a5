# Draws the samples of a soak: gnuplot -e 'dir="var/soak"; label="..."' plot.gp
# Files DIR/NAME.tsv: seconds, RSS MB, descriptors, threads, Lua heap MB, lag.
set terminal pngcairo size 760,900 font "Sans,9" background "#ffffff"
set output dir."/soak.png"
names = "'source steady' 'averages steady' 'source churn' 'averages churn' \
exchange prices 'averages prices'"
file(n) = dir."/".n.".tsv"
set linetype 1 lc rgb "#1f77b4" lw 1
set linetype 2 lc rgb "#d62728" lw 1
set linetype 3 lc rgb "#17becf" lw 1
set linetype 4 lc rgb "#ff7f0e" lw 1
set linetype 5 lc rgb "#7f7f7f" lw 1
set linetype 6 lc rgb "#2ca02c" lw 1
set linetype 7 lc rgb "#9467bd" lw 1
set grid ytics lc rgb "#e0e0e0" lt 1
set border 3 lc rgb "#666666"
set tics nomirror
set key outside right center Left reverse samplen 1.5
set lmargin at screen 0.07
set rmargin at screen 0.80
set yrange [0:*]
set offsets 0, 0, graph 0.1, 0
set multiplot layout 5,1 title "tidemill soak: ".label
set title "resident memory, MB" offset 0,-0.7
plot for [n in names] file(n) using ($1/60):2 with lines title n
set key off
set title "Lua heap, MB"
plot for [n in names] file(n) using ($1/60):5 with lines
set title "open descriptors"
plot for [n in names] file(n) using ($1/60):3 with lines
set title "threads"
plot for [n in names] file(n) using ($1/60):4 with lines
set title "lag, messages"
set xlabel "minutes"
plot for [n in names] file(n) using ($1/60):6 with lines
unset multiplot
