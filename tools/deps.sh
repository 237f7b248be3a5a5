#!/usr/bin/env bash
# Installs the Debian packages that a group of tasks needs and that are
# missing. `make` calls it; run twice it finds nothing to do and asks no one.
#
#   tools/deps.sh [--list] GROUP...
#
# --list prints the packages of the groups and installs nothing.
# Exit codes: 0 all there, 1 could not be installed, 2 usage.
set -euo pipefail

# No server starts by itself through these packages: of MariaDB only the
# programs are taken (-core), not the package with the system service.
# mariadb-client has mariadb-dump; libmariadb3, which libmariadb-dev brings,
# has the plugins for MySQL's passwords.
build="gcc libc6-dev make pkg-config lua5.4 liblua5.4-dev lua-cjson
       librdkafka-dev libcurl4-openssl-dev libmariadb-dev libmicrohttpd-dev
       libgmp-dev libsodium-dev zlib1g-dev libreadline-dev libmimalloc-dev
       ca-certificates"
mariadb="mariadb-server-core mariadb-client"
declare -A groups=(
  [build]=$build
  # Build tidemill and run `tidemill up --dev`; migrate reads time zones.
  [run]="$build $mariadb tzdata"
  # The specs (lua-yaml: the deployment files, procps: ps), their controls.
  [test]="lua-busted lua-yaml python3 git kcat procps openssl"
  # libFuzzer, and what turns its reports' addresses into names.
  [fuzz]="clang libclang-rt-14-dev llvm"
  # The fault laboratory: its own clients of the servers.
  [chaos]="python3 python3-confluent-kafka python3-pymysql"
  # memcheck, and names for what it finds in the C library.
  [valgrind]="valgrind libc6-dbg"
  # Draws the plot of a soak.
  [soak]="gnuplot-nox"
  [lint]="lua-check clang-format shellcheck pyflakes3 git"
  # The other systems of bench/peers.
  [peers]="openjdk-17-jdk-headless maven python3-venv python3-dev gcc
           pkg-config libmariadb-dev"
  # Real Kafka, MySQL and MariaDB: see tools/servers.sh.
  [servers]="openjdk-17-jre-headless maven kcat debian-archive-keyring
             ca-certificates openssl $mariadb"
)

usage() {
  echo "usage: tools/deps.sh [--list] GROUP... (groups: build run test valgrind fuzz chaos lint peers soak servers)" >&2
  exit 2
}

list=
if [ "${1:-}" = --list ]; then
  list=1
  shift
fi
[ $# -gt 0 ] || usage
wanted=()
for group in "$@"; do
  [ -n "${groups[$group]:-}" ] || usage
  read -r -d '' -a packages <<<"${groups[$group]}" || true
  wanted+=("${packages[@]}")
done
if [ -n "$list" ]; then
  printf '%s\n' "${wanted[@]}" | sort -u
  exit 0
fi

if ! command -v dpkg-query >/dev/null; then
  echo "deps: this is not a Debian system; tidemill needs what these" \
    "packages of Debian 12 contain: ${wanted[*]}" >&2
  # Whoever installed them by hand goes on: the build tells what lacks.
  exit 0
fi

# dpkg-query fails when it does not know a package; that one is missing too.
installed=" $(dpkg-query -W -f '${db:Status-Status}=${Package} ' \
  "${wanted[@]}" 2>/dev/null || true)"
missing=()
for package in "${wanted[@]}"; do
  case $installed in
    *" installed=$package "*) ;;
    *) [[ " ${missing[*]} " == *" $package "* ]] || missing+=("$package") ;;
  esac
done
[ "${#missing[@]}" -gt 0 ] || exit 0

root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "deps: missing packages; as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
    -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1
}

echo "deps: installing ${missing[*]} (a minute or two)" >&2
# A fresh system has no package lists, an old one has stale ones that name
# files which the mirror no longer has: both are cured by an update.
if ! apt-cache show "${missing[@]}" >/dev/null 2>&1 ||
  ! apt install --no-install-recommends "${missing[@]}"; then
  if ! { apt update && apt install --no-install-recommends "${missing[@]}"; }
  then
    echo "deps: apt-get failed:" >&2
    tail -n 20 "$log" | sed 's/^/    /' >&2
    exit 1
  fi
fi
echo "deps: installed" >&2
