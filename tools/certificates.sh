#!/usr/bin/env bash
# certificates.sh FOLDER: certificates for tests, made on first use.
#
#   ca.crt          the authority to trust
#   server.crt/key  of it, for 127.0.0.1 and nothing else: reached under the
#                   name localhost, it is the certificate of another host
#   client.crt/key  of it, CN=tidemill, for servers that ask for one
#   expired.crt/key of it, for 127.0.0.1, but ran out in 2020
#   other-ca.crt    another authority, which signed none of them
#
# For each certificate there is a .pem with its key before it, as Java's
# servers take it. The keys are worth nothing: they live under var/.
set -euo pipefail

folder=${1:?usage: certificates.sh FOLDER}
mkdir -p "$(dirname "$folder")"
exec 8>"$folder.lock"
flock 8
[ ! -f "$folder/complete" ] || exit 0
rm -rf "$folder"
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"
mkdir issued

key() {
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"
}

authority() {
  key "$1"
  openssl req -x509 -new -key "$1.key" -subj "/CN=$2" -days 3650 \
    -addext basicConstraints=critical,CA:true -out "$1.crt"
}

# issue NAME CN SUBJECT_ALT_NAME [START END]: only `openssl ca` can make a
# certificate that has run out.
issue() {
  local name=$1 cn=$2 names=$3
  shift 3
  key "$name"
  openssl req -new -key "$name.key" -subj "/CN=$cn" -out "$name.csr"
  cat >"$name.cnf" <<END
[ca]
default_ca = this
[this]
database = index
new_certs_dir = issued
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = extensions
[any]
commonName = supplied
[extensions]
subjectAltName = $names
END
  : >index
  openssl ca -batch -notext -config "$name.cnf" -cert ca.crt -keyfile ca.key \
    -in "$name.csr" -out "$name.crt" "$@" 2>"$name.log" || {
    cat "$name.log" >&2
    return 1
  }
  cat "$name.key" "$name.crt" >"$name.pem"
}

authority ca "tidemill test authority"
authority other-ca "another test authority"
issue server "tidemill test server" IP:127.0.0.1 -days 3650
issue client tidemill DNS:client.test -days 3650
issue expired "expired test server" IP:127.0.0.1 \
  -startdate 20200101000000Z -enddate 20200201000000Z
rm -rf issued index* ./*.csr ./*.cnf ./*.log
touch complete
