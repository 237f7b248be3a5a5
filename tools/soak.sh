#!/usr/bin/env bash
# The soak of spec/soak on the real servers, and its plot.
#
#   BIN=tidemill tools/soak.sh MINUTES [ARGUMENT of spec/soak/soak.lua...]
#
# Starts the servers that do not run yet, and stops them again if it started
# any. Samples, report.json and soak.png are in var/soak. The exit code is that
# of the soak.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=$1
shift
out=var/soak
own=
[ -n "$(tools/servers.sh env)" ] || own=1
finish() {
  code=$?
  [ -z "$own" ] || tools/servers.sh down >&2
  exit "$code"
}
trap finish EXIT
# The soak ends by itself at a signal; the servers stay until it has.
trap ':' INT TERM
addresses=$(tools/servers.sh up kafka mysql)
eval "$addresses"
mkdir -p "$out"
rm -f "$out"/*.tsv "$out/soak.png" "$out/report.json"
result=0
TIDEMILL_HOME=$PWD "./${BIN:-tidemill}" exec spec/soak/soak.lua \
  --minutes "$minutes" --out "$out" "$@" || result=$?
if [ -f "$out/report.json" ]; then
  label="$minutes minutes, $("./${BIN:-tidemill}" version | head -n 1), $(nproc) cores"
  gnuplot -e "dir='$out'; label='$label'" spec/soak/plot.gp &&
    echo "plot: $out/soak.png ($(stat -c %s "$out/soak.png") bytes)" >&2
fi
(exit "$result")
