#!/usr/bin/env bash
# Prints the folder of a real MySQL server; unpacks it there on first use.
#
# Debian 12 ships MariaDB only. MySQL's packages of Debian sid, with all that
# they depend on, the C library included, are downloaded by apt against a
# source list and state of their own and unpacked into the cache that clones
# share. Nothing is installed and the machine's own apt state is not touched.
# Run programs of that folder with tools/servers.sh or its run-mysql file.
set -euo pipefail

cache=${TIDEMILL_CACHE:-$HOME/.cache/tidemill}
root=$cache/mysql
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# The mirror that this machine gets its own Debian from.
mirror() {
  local codename
  codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
  # shellcheck disable=SC2016  # apt expands these
  apt-get indextargets --no-release-info --format '$(RELEASE) $(REPO_URI)' \
      'Created-By: Packages' |
    awk -v name="$codename" '
      $2 ~ /security/ { next }
      $1 == name { print $2; found = 1; exit }
      first == "" { first = $2 }
      END { if (!found && first != "") print first }'
}

download() {
  local part=$1 uri
  uri=$(mirror)
  if [ -z "$uri" ]; then
    echo "servers: apt names no Debian mirror on this machine" >&2
    return 1
  fi
  mkdir -p "$part/apt/lists/partial" "$part/apt/archives/partial"
  # An empty status file: apt takes nothing for installed, so that every
  # library comes along.
  : >"$part/apt/status"
  echo "deb [signed-by=$keyring] $uri sid main" >"$part/apt/sources.list"
  local apt=(apt-get -qq
    -o "Dir::Etc::sourcelist=$part/apt/sources.list"
    -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferences=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null
    -o "Dir::State=$part/apt"
    -o "Dir::State::lists=$part/apt/lists"
    -o "Dir::State::status=$part/apt/status"
    -o "Dir::Cache=$part/apt"
    -o "Dir::Cache::archives=$part/apt/archives"
    -o "APT::Sandbox::User=$(id -un)"
    -o Acquire::Retries=3
    -o Debug::NoLocking=1)
  "${apt[@]}" update >&2
  "${apt[@]}" -y -d --no-install-recommends install \
    mysql-server-core mysql-client-core >&2
}

unpack() {
  local part=$1 deb
  for deb in "$part"/apt/archives/*.deb; do
    dpkg -x "$deb" "$part"
  done
  rm -rf "$part/apt" "$part"/usr/share/{doc,man,locale,perl}
  cat >"$part/run-mysql" <<'EOF'
#!/bin/sh
# run-mysql PROGRAM [ARG...]: runs usr/bin/PROGRAM or usr/sbin/PROGRAM of this
# folder with this folder's own loader and libraries.
root=$(cd "$(dirname "$0")" && pwd)
program=$root/usr/bin/$1
[ -x "$program" ] || program=$root/usr/sbin/$1
shift
libs=$(echo "$root"/usr/lib/*-linux-*)
exec "$libs"/ld-linux*.so.* --library-path "$libs" "$program" "$@"
EOF
  chmod +x "$part/run-mysql"
  "$part/run-mysql" mysqld --no-defaults --version >"$part/version"
}

mkdir -p "$cache"
exec 9>"$cache/mysql.lock"
flock 9
if [ ! -d "$root" ]; then
  echo "servers: fetching MySQL from Debian sid (once)" >&2
  rm -rf "$root.part"
  download "$root.part"
  unpack "$root.part"
  # Only a whole folder gets the final name.
  mv "$root.part" "$root"
fi
echo "$root"
