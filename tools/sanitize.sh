#!/usr/bin/env bash
# Runs specs with a program that finds its own faults, and takes every report
# of it and of all processes it started for a failure.
#
#   tools/sanitize.sh asan|tsan|valgrind PROGRAM BUILD_DIR SPEC...
#
# Reports go to files, one a process: a spec that expects a command to fail
# would otherwise take a finding for that failure. What the libraries keep or
# do by themselves is listed, each with its reason, in tools/lsan.supp,
# tools/tsan.supp and tools/valgrind.supp. Before the specs it tries itself: the
# faults of tools/faulty.c must be reported. Exit codes: those of tools/test.sh;
# 1 with any report.
set -u -o pipefail
kind=$1 program=$2 build=$3
shift 3
home=$(cd "$(dirname "$0")/.." && pwd)
reports=$home/var/$kind
flags=() faults=()
# A sanitizer takes its time: what specs wait for may take longer.
slow=4

case $kind in
asan)
  export ASAN_OPTIONS="detect_leaks=1:abort_on_error=0:log_path=$reports/report"
  export UBSAN_OPTIONS=print_stacktrace=1 TIDEMILL_REPORTS=$reports
  export LSAN_OPTIONS="suppressions=$home/tools/lsan.supp:print_suppressions=0"
  flags=("-fsanitize=address,undefined" -fno-sanitize-recover=undefined)
  faults=(leak overflow)
  ;;
tsan)
  export TSAN_OPTIONS="suppressions=$home/tools/tsan.supp:second_deadlock_stack=1:log_path=$reports/report"
  flags=(-fsanitize=thread)
  faults=(race)
  ;;
valgrind)
  slow=20
  # Debian 12's valgrind does not know pidfd_open: no child can be started. And
  # what only moves many records takes it minutes.
  export TIDEMILL_LEAVE_OUT=child,bulk
  faults=(leak unwritten)
  # The program is started through this, and starts itself again through it.
  export VALGRIND_PROGRAM=$program
  program=$home/tools/valgrind.sh
  export VALGRIND_REPORTS=$reports TIDEMILL_UNDER=$program
  ;;
*)
  echo "sanitize: no kind '$kind'" >&2
  exit 2
  ;;
esac
export TIDEMILL_SLOW=${TIDEMILL_SLOW:-$slow} TIDEMILL_HOME=$home
TIDEMILL=$program
export TIDEMILL

fresh() {
  rm -rf "$reports"
  mkdir -p "$reports"
}
count() { find "$reports" -name 'report*' -size +0 | wc -l; }

# Each fault alone must leave a report.
library=$(mktemp --suffix=.so)
log=$(mktemp)
trap 'rm -f "$library" "$log"' EXIT
# shellcheck disable=SC2046
"${CC:-gcc}" -shared -fPIC -g -O0 "${flags[@]}" $(pkg-config --cflags lua5.4) \
  -o "$library" "$home/tools/faulty.c" || exit 1
for fault in "${faults[@]}"; do
  fresh
  "$program" repl -e "package.loadlib('$library', 'faulty_$fault')()" \
    >/dev/null 2>&1 </dev/null
  if [ "$(count)" -eq 0 ]; then
    echo "sanitize: $kind does not report the fault '$fault' of tools/faulty.c" >&2
    exit 1
  fi
done

fresh
"$home/tools/test.sh" "$build" "$@" | tee "$log"
code=$?
found=$(count)
[ "$found" -gt 0 ] || exit "$code"
for file in "$reports"/report*; do
  [ -s "$file" ] || continue
  echo "-- $file"
  sed -n 1,60p "$file"
done
# The last line stays the one that says how many passed and failed.
line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
[[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed(.*)$ ]] &&
  echo "$found reports of $kind in var/$kind" &&
  echo "${BASH_REMATCH[1]} passed, $((BASH_REMATCH[2] + found)) failed${BASH_REMATCH[3]}"
exit 1
