#!/usr/bin/env bash
# Runs the C tests and the specs, and adds up what really ran.
#
#   TIDEMILL=PROGRAM tools/test.sh BUILD_DIR SPEC...
#
# Each spec file runs in a process of its own, so that a crash is one failure
# and not the end of the run. The last line is `N passed, N failed` (and
# `, N skipped`); the exit code is 0 only without failures.
set -u
build=$1
shift
passed=0 failed=0 skipped=0
# What failed is told where it happened, and again at the end: a long output is
# often seen from its end only.
broken=()
told() {
  broken+=("$1")
  tail -n 60 "$log" >"$kept/${#broken[@]}"
}
log=$(mktemp)
kept=$(mktemp -d)
trap 'rm -rf "$log" "$kept"' EXIT

for test in "$build"/c/*_test; do
  [ -x "$test" ] || continue
  ${TIDEMILL_UNDER:+"$TIDEMILL_UNDER"} "$test" >"$log" 2>&1
  code=$?
  line=$(tail -n 1 "$log")
  if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
    passed=$((passed + BASH_REMATCH[1]))
    failed=$((failed + BASH_REMATCH[2]))
    if [ "$code" -ne 0 ] && [ "${BASH_REMATCH[2]}" -eq 0 ]; then
      failed=$((failed + 1))
    fi
  else
    failed=$((failed + 1))
  fi
  [ "$code" -eq 0 ] || { echo "-- $test (exit $code)"; cat "$log"; told "$test"; }
done

specs=()
for path in "$@"; do
  [ -e "$path" ] || continue
  while IFS= read -r file; do specs+=("$file"); done \
    < <(find "$path" -name '*_spec.lua' | sort)
done

# The plain handler has no colours: its summary line is read below.
for spec in "${specs[@]}"; do
  "$TIDEMILL" exec spec/run.lua -o plainTerminal \
    ${TIDEMILL_LEAVE_OUT:+"--exclude-tags=$TIDEMILL_LEAVE_OUT"} "$spec" >"$log" 2>&1
  code=$?
  line=$(grep -aE '^[0-9]+ success(es)? / [0-9]+ failures? / [0-9]+ errors? / [0-9]+ pending' \
    "$log" | tail -n 1)
  if [[ $line =~ ^([0-9]+)[^/]*/\ ([0-9]+)[^/]*/\ ([0-9]+)[^/]*/\ ([0-9]+) ]]; then
    bad=$((BASH_REMATCH[2] + BASH_REMATCH[3]))
    passed=$((passed + BASH_REMATCH[1]))
    failed=$((failed + bad))
    skipped=$((skipped + BASH_REMATCH[4]))
    if [ "$code" -ne 0 ] && [ "$bad" -eq 0 ]; then
      failed=$((failed + 1))
    fi
  else
    failed=$((failed + 1))
  fi
  if [ "$code" -ne 0 ]; then
    echo "-- $spec (exit $code)"
    cat "$log"
    told "$spec"
  else
    echo "ok $spec: $line"
  fi
  # Where the servers are required, a spec that lacks one has failed.
  if [ "${TIDEMILL_SERVERS:-}" = required ] && [[ $spec == spec/real/* ]] &&
    grep -aA3 '^Pending' "$log" | grep -qE 'TIDEMILL_(KAFKA|MYSQL|MARIADB)'; then
    failed=$((failed + 1))
    echo "-- $spec lacks a required server"
    grep -aA3 '^Pending' "$log"
    told "$spec"
  fi
done

echo
for i in "${!broken[@]}"; do
  echo "-- again: ${broken[i]}"
  cat "$kept/$((i + 1))"
done
if [ "$skipped" -gt 0 ]; then
  echo "$passed passed, $failed failed, $skipped skipped"
else
  echo "$passed passed, $failed failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
