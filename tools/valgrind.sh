#!/usr/bin/env bash
# tidemill under memcheck: what tools/sanitize.sh starts in its place. The
# processes it starts are left alone, but for those of tidemill itself.
#
#   VALGRIND_PROGRAM=tidemill VALGRIND_REPORTS=DIR tools/valgrind.sh ARGUMENT...
#   VALGRIND_REPORTS=DIR tools/valgrind.sh BUILD/c/NAME_test
#
# Errors and definite leaks go to DIR/report.PID; a file without any is removed
# at the end. Exit code: that of the program.
set -u
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
*/*_test)
  VALGRIND_PROGRAM=$1
  shift
  ;;
esac
report=$VALGRIND_REPORTS/report.$$
valgrind --quiet --tool=memcheck --leak-check=full --show-leak-kinds=definite \
  --errors-for-leak-kinds=definite --suppressions="$here/valgrind.supp" \
  --log-file="$report" --num-callers=30 --fair-sched=try \
  "$VALGRIND_PROGRAM" "$@"
code=$?
# Its own warnings, of system calls younger than it, begin otherwise.
grep -qs '^==' "$report" || rm -f "$report"
exit "$code"
