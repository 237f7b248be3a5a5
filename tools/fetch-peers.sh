#!/usr/bin/env bash
# Prints how to start a peer of bench/peers: one argument a line. What it needs
# is fetched on first use, by Maven or by pip into a venv, into the cache that
# clones share; a Java program is compiled against its jars.
#
#   fetch-peers.sh PEER         a folder of bench/peers with a program
set -euo pipefail

peer=${1:-}
here=$(cd "$(dirname "$0")" && pwd)
source=$here/../bench/peers/$peer
cache=${TIDEMILL_CACHE:-$HOME/.cache/tidemill}
if [ -z "$peer" ] || { [ ! -e "$source/pom.xml" ] &&
  [ ! -e "$source/requirements.txt" ]; }; then
  echo "usage: tools/fetch-peers.sh PEER (a folder of bench/peers)" >&2
  exit 2
fi

mkdir -p "$cache"
exec 9>"$cache/peer-$peer.lock"
flock 9

# fetch FOLDER COMMAND...: runs it, unless the folder is there; FOLDER.part is
# what it fills. Only a whole folder gets the final name.
fetch() {
  local folder=$1
  shift
  [ ! -d "$folder" ] || return 0
  echo "peers: fetching $peer (once)" >&2
  rm -rf "$folder.part"
  if ! "$@" >"$folder.log" 2>&1; then
    tail -n 20 "$folder.log" >&2
    exit 1
  fi
  [ ! -d "$folder.part" ] || mv "$folder.part" "$folder"
  rm -f "$folder.log"
}

hash_of() { cat "$@" | sha256sum | cut -c1-12; }

if [ -e "$source/requirements.txt" ]; then
  venv=$cache/peer-$peer-$(hash_of "$source/requirements.txt")
  # A venv knows its own path, so it is made where it stays.
  # shellcheck disable=SC2317  # called by fetch
  make_venv() {
    python3 -m venv "$venv.new" && "$venv.new/bin/pip" install -q -r \
      "$source/requirements.txt" && mkdir "$venv.part" &&
      ln -s "$venv.new" "$venv.part/venv"
  }
  fetch "$venv" make_venv
  printf '%s\n' env PYTHONPATH="$here/../bench/peers/python" \
    PYTHONDONTWRITEBYTECODE=1 "$venv/venv/bin/python" "$source/averages.py"
  exit
fi

jars=$cache/peer-$peer-$(hash_of "$source/pom.xml")
fetch "$jars" mvn -q -B -f "$source/pom.xml" \
  org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
  -DoutputDirectory="$jars.part"
code=("$source/Averages.java" "$here/../bench/peers/java/Peer.java")
classes=$jars/classes-$(hash_of "${code[@]}")
if [ ! -d "$classes" ]; then
  javac -nowarn -d "$classes.part" -cp "$jars/*" "${code[@]}" >&2
  mv "$classes.part" "$classes"
fi
opens=()
for package in java.lang java.lang.invoke java.lang.reflect java.io java.net \
  java.nio java.util java.util.concurrent java.util.concurrent.atomic \
  sun.nio.ch sun.nio.cs sun.security.action sun.util.calendar; do
  opens+=("--add-opens=java.base/$package=ALL-UNNAMED")
done
heap=512m
[ "$peer" != spark ] || heap=1g
printf '%s\n' java "-Xmx$heap" -XX:+UseParallelGC -Duser.timezone=UTC \
  -Dorg.slf4j.simpleLogger.defaultLogLevel=error "${opens[@]}" \
  -cp "$classes:$jars/*" Averages
