#!/usr/bin/env bash
# Runs fuzz targets, two at a time, and adds up what they tried.
#
#   TIDEMILL=PROGRAM tools/fuzz.sh BUILD_DIR SECONDS SEED TARGET...
#
# SEED may be empty: one is chosen and printed. What a target learned stays in
# var/fuzz/corpus, so that longer runs go on from there. A finding is saved in
# var/fuzz, shown, and repeated by BUILD_DIR/fuzz/TARGET FILE.
# The last line is `fuzz: N targets, M executions, K findings`; the exit code
# is 0 only without findings.
set -u
build=$1
seconds=$2
seed=${3:-$((RANDOM * 32768 + RANDOM + 1))}
shift 3
out=var/fuzz
mkdir -p "$out/corpus"
export UBSAN_OPTIONS=print_stacktrace=1

# More than the Lua scripts get done in that time; it is what ends them.
documents=$((seconds * 100000))
calls=$((seconds * 10000))

libfuzzer() {
  local target=$1 length=4096 args=()
  mkdir -p "$out/corpus/$target"
  case $target in
  scan | decode) args+=(-dict=fuzz/seeds/json.dict) ;;
  http) args+=(-dict=fuzz/seeds/http.dict -detect_leaks=0) ;;
  # A play of a few steps shows nothing: long ones from the start.
  store) args+=(-len_control=0) length=400 ;;
  spool) args+=(-len_control=0) ;;
  # What Lua's collector frees later would be looked at as a leak each time;
  # `make asan` looks for those of the module.
  csv | gzip) args+=(-detect_leaks=0) ;;
  esac
  args+=("$out/corpus/$target")
  [ ! -d "fuzz/seeds/$target" ] || args+=("fuzz/seeds/$target")
  # The target ends by itself; `timeout` is for one that does not.
  timeout -k 5 $((seconds * 2 + 60)) "$build/fuzz/$target" \
    -max_total_time="$seconds" -seed="$seed" -max_len="$length" -timeout=20 \
    -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$out/$target-" "${args[@]}"
}

one() {
  local target=$1 log=$out/$1.log code runs began=$EPOCHSECONDS
  if [ "$target" = differential ]; then
    timeout -k 5 $((seconds * 10 + 60)) \
      "$TIDEMILL" exec fuzz/differential.lua "$documents" "$seed" "$seconds" >"$log" 2>&1
  elif [ "$target" = modules ]; then
    timeout -k 5 $((seconds * 10 + 60)) \
      "$TIDEMILL" exec fuzz/modules.lua "$calls" "$seed" "" "$seconds" >"$log" 2>&1
  elif [ "$target" = heap ]; then
    timeout -k 5 $((seconds * 10 + 160)) \
      "$TIDEMILL-heap" exec spec/heap/steps.lua "$((seconds > 100 ? seconds : 101))" \
      >"$log" 2>&1
  else
    libfuzzer "$target" >"$log" 2>&1
  fi
  code=$?
  runs=$(sed -nE 's/^stat::number_of_executed_units: ([0-9]+)$/\1/p;
    s/^differential: seed [0-9]+, ([0-9]+) documents: .*/\1/p
    s/^modules: seed [0-9]+, ([0-9]+) calls: .*/\1/p
    s/^heap: [0-9]+ functions, ([0-9]+) steps: .*/\1/p' "$log" | tail -n 1)
  # A target that tried nothing has shown nothing.
  [ "${runs:-0}" -gt 0 ] || [ "$code" -ne 0 ] || code=1
  printf '%-14s %10d executions %5d s\n' "$target" "${runs:-0}" \
    $((EPOCHSECONDS - began))
  if [ "$code" -ne 0 ]; then
    echo "-- $target (exit $code), see $log:"
    grep -avE '^(#[0-9]+\s+(NEW|REDUCE|RELOAD|pulse)|stat::|INFO:)' "$log" |
      tail -n 60
  fi
  echo "${runs:-0} $((code != 0))" >"$out/$target.result"
}

echo "fuzz: seed $seed, $seconds s a target"
for target in "$@"; do
  rm -f "$out/$target.result"
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
  one "$target" &
done
wait

total=0 findings=0
for target in "$@"; do
  runs=0 bad=1
  [ ! -e "$out/$target.result" ] || read -r runs bad <"$out/$target.result"
  total=$((total + runs))
  findings=$((findings + bad))
done
echo "fuzz: $# targets, $total executions, $findings findings"
[ "$findings" -eq 0 ]
