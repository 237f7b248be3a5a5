#!/usr/bin/env bash
# Runs bench/run.lua against real Kafka, MySQL and MariaDB; called by
# `make bench`. Servers that this starts are stopped again.
set -eu
case " $* " in *" --help "*) exec "./$BIN" exec bench/run.lua --help ;; esac
own=
[ -n "$(tools/servers.sh env)" ] || own=1
stop() { [ -z "$own" ] || tools/servers.sh down; }
trap stop EXIT
addresses=$(tools/servers.sh up)
eval "$addresses"
for url in "$TIDEMILL_MYSQL" "$TIDEMILL_MARIADB"; do
  TIDEMILL_MYSQL=$url "./$BIN" migrate >&2
done
"./$BIN" exec bench/run.lua --tools "$BUILD/bench" "$@"
