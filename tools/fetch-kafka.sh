#!/usr/bin/env bash
# Prints the folder with the jars of a real Kafka broker; fetches them with
# Maven on first use. The folder is in the cache that clones share, and is
# named after tools/pom.xml's content, so that a new version is fetched anew.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cache=${TIDEMILL_CACHE:-$HOME/.cache/tidemill}
pom=$here/pom.xml
jars=$cache/kafka-$(sha256sum "$pom" | cut -c1-12)

mkdir -p "$cache"
exec 9>"$cache/kafka.lock"
flock 9
if [ ! -d "$jars" ]; then
  echo "servers: fetching Kafka's jars with Maven (once)" >&2
  part=$jars.part
  for try in 1 2 3; do
    rm -rf "$part"
    # Maven writes colour codes even when it is told to be quiet. -U: it
    # remembers what it could not get.
    ! mvn -q -B -U -f "$pom" \
      org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
      -DoutputDirectory="$part" >"$part.log" 2>&1 || break
    cat "$part.log" >&2
    [ "$try" -lt 3 ] || exit 1
  done
  # Only a whole folder gets the final name.
  mv "$part" "$jars"
  rm -f "$part.log"
fi
echo "$jars"
