#!/usr/bin/env bash
# Real servers for tests: Apache Kafka, MySQL and MariaDB, all on free ports
# of 127.0.0.1 with everything they own under var/servers of this clone, or
# under the folder that TIDEMILL_SERVERS_DIR names.
#
#   servers.sh up [NAME...]     start what is not running (default: all three)
#   servers.sh down             stop all of them; their data stays
#   servers.sh wipe             down, and remove their data
#   servers.sh env              print the addresses of the running servers
#   servers.sh NAME-stop        stop one (NAME: kafka, mysql, mariadb)
#   servers.sh NAME-start       start it again: same port, same data
#   servers.sh NAME-kill        kill -9 it, as a crash would
#
# `up` and `env` print lines for `eval "$(tools/servers.sh up)"` on stdout and
# nothing else; they are also kept in var/servers/env. Progress and errors are
# on stderr. Beside the plain ports there are:
#
#   TIDEMILL_KAFKA_TLS, _SASL, _SASL_TLS  more ways to the same broker; SASL is
#       SCRAM-SHA-256 and -512 with TIDEMILL_KAFKA_SASL_USER and _PASSWORD
#   TIDEMILL_KAFKA_EXPIRED  TLS with a certificate that ran out in 2020
#   TIDEMILL_TLS_CA         who signed the certificates of these and of MySQL
#       and MariaDB, whose ports take TLS as well as plain connections; what
#       else lies beside it is told in certificates.sh
#
# Exit codes: 0 done, 1 a server did not start, 2 usage.
#
# A server is known by its pid, the moment that process started and this
# folder: a pid used again by something else, or one in a copy of this clone,
# is never taken for it and never killed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
base=${TIDEMILL_SERVERS_DIR:-$(cd "$here/.." && pwd)/var/servers}
names=(kafka mysql mariadb)
user=tidemill
password=tide-pass-1
start_deadline=${TIDEMILL_SERVERS_DEADLINE:-90}
# mariadbd is there; a Debian user who is not root does not look there.
PATH=$PATH:/usr/sbin

say() { echo "servers: $*" >&2; }

# --- processes ---------------------------------------------------------------

# When process $1 started, in ticks since boot; fails if there is none. A
# zombie has ended, and its ports are free, once its last thread is gone.
started_at() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- $stat
  { [ "$1" != Z ] || ((${18} > 1)); } && echo "${20}"
}

# The pid of server $1 if it runs.
pid_of() {
  local pid since folder
  read -r pid since folder 2>/dev/null <"$base/$1/pid" || return 1
  [ "$folder" = "$base" ] && [ "$(started_at "$pid")" = "$since" ] &&
    echo "$pid"
}

# launch NAME COMMAND...: in a session of its own, so that Ctrl-C at the
# terminal does not reach it; descriptor 9 is the lock.
launch() {
  local name=$1 pid
  shift
  setsid "$@" </dev/null >>"$base/$name/log" 2>&1 9>&- &
  pid=$!
  echo "$pid $(started_at "$pid") $base" >"$base/$name/pid"
}

stop() {
  local name=$1 signal=${2:-TERM} pid deadline
  if ! pid=$(pid_of "$name"); then
    rm -f "$base/$name/pid"
    return 0
  fi
  kill -s "$signal" "$pid"
  deadline=$((SECONDS + 30))
  while pid_of "$name" >/dev/null; do
    if ((SECONDS > deadline)); then
      say "$name (pid $pid) does not end: killed"
      kill -KILL "$pid" || true
      deadline=$((SECONDS + 30))
    fi
    sleep 0.05
  done
  rm -f "$base/$name/pid"
  say "$name stopped"
}

# --- ports -------------------------------------------------------------------

# Prints $1 free ports for $2. They are below the range that the kernel gives
# to outgoing connections: a client that keeps dialling a stopped server there
# would sooner or later get that very port as its own, and block it. No two
# names may get the same port, though they choose before either listens.
free_ports() {
  local class
  case $2 in
    kafka) class=0 ;;
    kafka-proxied) class=1 ;;
    mysql) class=2 ;;
    *) class=3 ;;
  esac
  perl -MIO::Socket::INET -e '
    open my $f, "<", "/proc/sys/net/ipv4/ip_local_port_range";
    my ($low) = split " ", <$f>;
    $low = 32768 if $low < 20000;
    my @open;
    for (1 .. 8000) {
      last if @open == $ARGV[0];
      my $port = 10000 + int rand($low - 10000);
      next if $port % 4 != $ARGV[1];
      my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1",
                                    LocalPort => $port) or next;
      push @open, $s;
    }
    print join(" ", map { $_->sockport } @open), "\n"' "$1" "$class"
}

port_is_free() {
  perl -MIO::Socket::INET -e 'exit !IO::Socket::INET->new(Listen => 1,
    ReuseAddr => 1, LocalAddr => "127.0.0.1", LocalPort => $ARGV[0])' "$1"
}

# ports NAME COUNT MODE: the ports of a server. They are kept while its data
# is; taken by somebody else, `up` chooses new ones and NAME-start fails.
ports() {
  local name=$1 count=$2 mode=$3 kept port
  if kept=$(cat "$base/$name/ports" 2>/dev/null); then
    for port in $kept; do
      port_is_free "$port" && continue
      if [ "$mode" = same ]; then
        say "$name: its port $port is in use by another program"
        return 1
      fi
      kept=
      break
    done
  fi
  # shellcheck disable=SC2086
  set -- $kept
  if [ $# -lt "$count" ]; then # none yet, or made when there were fewer
    echo "$* $(free_ports $((count - $#)) "$name")" | sed 's/^ //' >"$base/$name/ports"
  fi
  cat "$base/$name/ports"
}

# --- Kafka -------------------------------------------------------------------

scram_user=tidemill
scram_password=scram-pass-1

# One KRaft node. Group and transaction settings are those of a small, quick
# test system; isolation, fencing and compaction are the real thing.
#
# With TIDEMILL_KAFKA_PROXY="PORT PORT" (of proxies that the caller runs) there
# are two listeners besides, plain and with TLS, on the ports that are kept in
# kafka-proxied/ports; they send their clients on to those PORTs: who bootstraps
# at a proxy stays behind it.
kafka_config() {
  local controller=$2
  cat <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=CONTROLLER://127.0.0.1:$controller,$(kafka_listeners "$@")
advertised.listeners=$(kafka_listeners "${@:1:6}" ${7:+$TIDEMILL_KAFKA_PROXY})
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=$(kafka_protocols)
ssl.keystore.type=PEM
ssl.keystore.location=$base/tls/server.pem
listener.name.expired.ssl.keystore.type=PEM
listener.name.expired.ssl.keystore.location=$base/tls/expired.pem
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512
$(kafka_scram sasl)
$(kafka_scram sasl_tls)
log.dirs=$base/kafka/data
auto.create.topics.enable=false
num.partitions=3
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.check.interval.ms=1000
# Not log.segment.delete.delay.ms: a file that is deleted before it is flushed ends the broker.
log.cleaner.backoff.ms=1000
num.network.threads=2
num.io.threads=4
EOF
}

# What clients may reach; the arguments are those of kafka_config.
kafka_listeners() {
  echo "PLAINTEXT://127.0.0.1:$1,TLS://127.0.0.1:$3,SASL://127.0.0.1:$4,$(
  )SASL_TLS://127.0.0.1:$5,EXPIRED://127.0.0.1:$6$(
  )${7:+,PROXIED://127.0.0.1:$7,PROXIED_TLS://127.0.0.1:$8}"
}

kafka_protocols() {
  echo "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TLS:SSL,EXPIRED:SSL,$(
  )SASL:SASL_PLAINTEXT,SASL_TLS:SASL_SSL,PROXIED:PLAINTEXT,PROXIED_TLS:SSL"
}

# Listener $1 finds its users in the cluster's own metadata.
kafka_scram() {
  local mechanism login=org.apache.kafka.common.security.scram.ScramLoginModule
  for mechanism in scram-sha-256 scram-sha-512; do
    echo "listener.name.$1.$mechanism.sasl.jaas.config=$login required;"
  done
}

kafka_java() {
  local jars=$1 class=$2
  shift 2
  # As Kafka's own script does, but for a smaller heap.
  exec java -Xms512m -Xmx512m -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExitOnOutOfMemoryError \
    -Djava.awt.headless=true -Dorg.slf4j.simpleLogger.defaultLogLevel=warn \
    -cp "$jars/*" "$class" "$@"
}

kafka_launch() {
  local dir=$base/kafka jars where id
  jars=$("$here/fetch-kafka.sh") || return
  where=$(ports kafka 6 "$1") || return
  "$here/certificates.sh" "$base/tls" || return
  if [ -n "${TIDEMILL_KAFKA_PROXY:-}" ]; then
    mkdir -p "$base/kafka-proxied"
    where+=" $(ports kafka-proxied 2 "$1")" || return
  fi
  # shellcheck disable=SC2086
  kafka_config $where >"$dir/server.properties"
  if [ ! -f "$dir/data/meta.properties" ]; then
    rm -rf "$dir/data"
    id=$(perl -MMIME::Base64 -e 'open my $f, "<", "/dev/urandom";
      read $f, my $b, 16; $_ = encode_base64($b, ""); tr{+/}{AA}; s/=+$//;
      print')
    (kafka_java "$jars" kafka.tools.StorageTool format -t "$id" \
      -c "$dir/server.properties" \
      -S "SCRAM-SHA-256=[name=$scram_user,password=$scram_password]" \
      -S "SCRAM-SHA-512=[name=$scram_user,password=$scram_password]") \
      >>"$dir/log" 2>&1 || return
    touch "$dir/data/scram"
  fi
  export -f kafka_java
  launch kafka bash -c 'kafka_java "$@"' bash "$jars" kafka.Kafka \
    "$dir/server.properties"
}

# The broker answers, and counts itself as a member of its cluster.
kafka_ready() {
  kcat -q -L -m 1 -b "$(kafka_address)" 2>/dev/null | grep -q ' 1 brokers:'
}

kafka_port() { echo "127.0.0.1:$(cut -d' ' -f"$1" "$base/kafka/ports")"; }
kafka_address() { kafka_port 1; }

# The other ways to it. Data made before there were users has none.
kafka_more() {
  echo "export TIDEMILL_KAFKA_TLS=$(kafka_port 3)"
  echo "export TIDEMILL_KAFKA_EXPIRED=$(kafka_port 6)"
  [ -f "$base/kafka/data/scram" ] || return 0
  echo "export TIDEMILL_KAFKA_SASL=$(kafka_port 4)"
  echo "export TIDEMILL_KAFKA_SASL_TLS=$(kafka_port 5)"
  echo "export TIDEMILL_KAFKA_SASL_USER=$scram_user"
  echo "export TIDEMILL_KAFKA_SASL_PASSWORD=$scram_password"
}

# --- MySQL and MariaDB -------------------------------------------------------

# Run by the server at each start. `user` may create databases and users.
sql_init() {
  cat <<EOF
CREATE DATABASE IF NOT EXISTS tidemill CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '$user'@'%' IDENTIFIED BY '$password';
GRANT ALL PRIVILEGES ON *.* TO '$user'@'%' WITH GRANT OPTION;
EOF
}

# Options that both servers understand. The socket is relative to the data
# folder: a path from / could be longer than a socket's may be.
sql_options() {
  local dir=$1 port=$2
  # A starting server deletes what looks like a temporary table in its tmpdir.
  echo --no-defaults "--datadir=$dir/data" "--tmpdir=$dir"
  echo --bind-address=127.0.0.1 "--port=$port" --socket=server.sock
  echo "--pid-file=$dir/data/server.pid" --skip-name-resolve
  echo --innodb-buffer-pool-size=64M --max-connections=100
  echo "--ssl-ca=$base/tls/ca.crt" "--ssl-cert=$base/tls/server.crt"
  echo "--ssl-key=$base/tls/server.key"
  [ "$(id -u)" != 0 ] || echo --user=root
}

mysql_launch() {
  local dir=$base/mysql root port options
  root=$("$here/fetch-mysql.sh") || return
  port=$(ports mysql 1 "$1") || return
  "$here/certificates.sh" "$base/tls" || return
  sql_init >"$dir/init.sql"
  read -r -d '' -a options < <(sql_options "$dir" "$port") || true
  options+=("--basedir=$root/usr" "--lc-messages-dir=$root/usr/share/mysql"
    --secure-file-priv= --mysqlx=OFF --innodb-redo-log-capacity=32M)
  if [ ! -f "$dir/created" ]; then
    rm -rf "$dir/data"
    "$root/run-mysql" mysqld "${options[@]}" --initialize-insecure \
      >>"$dir/log" 2>&1 || return
    touch "$dir/created"
  fi
  # Left by a kill, it names a pid that another process may have by now.
  rm -f "$dir/data/server.sock" "$dir/data/server.sock.lock"
  launch mysql "$root/run-mysql" mysqld "${options[@]}" \
    "--init-file=$dir/init.sql"
}

mariadb_launch() {
  local dir=$base/mariadb port options own
  port=$(ports mariadb 1 "$1") || return
  "$here/certificates.sh" "$base/tls" || return
  sql_init >"$dir/init.sql"
  read -r -d '' -a options < <(sql_options "$dir" "$port") || true
  options+=(--innodb-log-file-size=32M)
  if [ ! -f "$dir/created" ]; then
    rm -rf "$dir/data"
    own=$(id -un)
    mariadb-install-db --no-defaults "--datadir=$dir/data" "--user=$own" \
      "--tmpdir=$dir" \
      --auth-root-authentication-method=normal --skip-test-db \
      --innodb-log-file-size=32M >>"$dir/log" 2>&1 || return
    touch "$dir/created"
  fi
  launch mariadb mariadbd "${options[@]}" "--init-file=$dir/init.sql"
}

# Ready when the user can log in, so after the init file has been run.
sql_ready() {
  mariadb --no-defaults --connect-timeout=3 -h 127.0.0.1 -P "$(cat "$base/$1/ports")" -u "$user" \
    "-p$password" -e 'select 1' tidemill >/dev/null 2>&1
}
mysql_ready() { sql_ready mysql; }
mariadb_ready() { sql_ready mariadb; }

sql_address() {
  echo "mysql://$user:$password@127.0.0.1:$(cat "$base/$1/ports")/tidemill"
}
mysql_address() { sql_address mysql; }
mariadb_address() { sql_address mariadb; }

# --- commands ----------------------------------------------------------------

# start NAME MODE: launches and waits until it answers. (Its caller looks at
# its result, which turns `set -e` off in here: each step says `|| return`.)
start() {
  local name=$1 mode=$2 deadline=$((SECONDS + start_deadline)) since=$SECONDS
  if pid_of "$name" >/dev/null; then
    return 0
  fi
  mkdir -p "$base/$name"
  : >"$base/$name/log"
  if ! "${name}_launch" "$mode"; then
    failed "$name" "could not be started"
    return 1
  fi
  until "${name}_ready"; do
    if ! pid_of "$name" >/dev/null; then
      failed "$name" "ended while it started"
      return 1
    fi
    if ((SECONDS > deadline)); then
      failed "$name" "did not answer within $start_deadline s"
      stop "$name"
      return 1
    fi
    sleep 0.1
  done
  say "$name is up at $("${name}_address" | sed 's/.*@//')" \
    "($((SECONDS - since)) s, pid $(pid_of "$name"))"
}

failed() {
  say "$1 $2"
  if [ -s "$base/$1/log" ]; then
    say "the end of $base/$1/log:"
    tail -n 15 "$base/$1/log" | sed 's/^/    /' >&2
  fi
}

# Starts several at the same time; fails if one of them does. A port that was
# free may be taken by the time a server listens: once more then, with others.
start_all() {
  local name jobs=() job result=0
  for name in "$@"; do
    { start "$name" new || start "$name" new; } &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do
    wait "$job" || result=1
  done
  return "$result"
}

addresses() {
  local name any=
  for name in "${names[@]}"; do
    pid_of "$name" >/dev/null || continue
    echo "export TIDEMILL_${name^^}=$("${name}_address")"
    [ "$name" != kafka ] || kafka_more
    any=1
  done
  [ -z "$any" ] || echo "export TIDEMILL_TLS_CA=$base/tls/ca.crt"
}

write_env() {
  addresses >"$base/env.new"
  mv "$base/env.new" "$base/env"
}

need() {
  local missing=() program
  for program in "$@"; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  if [ "${#missing[@]}" -gt 0 ]; then
    say "missing programs: ${missing[*]}; tools/deps.sh servers installs them"
    exit 1
  fi
}

known() {
  local name
  for name in "${names[@]}"; do
    [ "$name" != "$1" ] || return 0
  done
  say "unknown server '$1' (${names[*]})"
  exit 2
}

usage() {
  sed -n '2,/^# on stderr/s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

command=${1:-}
[ $# -eq 0 ] || shift
mkdir -p "$base"
# One command at a time.
exec 9>"$base/lock"
flock 9

case $command in
  up)
    need perl java mvn kcat openssl mariadb mariadbd mariadb-install-db dpkg apt-get
    for name in "$@"; do known "$name"; done
    result=0
    start_all "${@:-${names[@]}}" || result=1
    write_env
    cat "$base/env"
    exit "$result"
    ;;
  down | wipe)
    for name in "${names[@]}"; do stop "$name" & done
    wait
    rm -f "$base/env"
    [ "$command" = down ] || rm -rf "${base:?}"/{kafka,mysql,mariadb,tls}
    ;;
  env) addresses ;;
  *-stop | *-kill | *-start)
    name=${command%-*}
    known "$name"
    case ${command##*-} in
      stop) stop "$name" ;;
      kill) stop "$name" KILL ;;
      start) start "$name" same ;;
    esac
    write_env
    ;;
  *) usage ;;
esac
