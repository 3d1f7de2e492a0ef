#!/usr/bin/env bash
# Fetches, starts and stops the PostgreSQL and Kafka servers that the demo and the tests need. See --help.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: scripts/servers.sh COMMAND

The servers that the demo and the tests need, on 127.0.0.1 only: the PostgreSQL "source" (database source_db), the
PostgreSQL "sink" (database sink_db), and "kafka".

  fetch                        download what is not there yet (Maven, about 70 MB)
  start  [source|sink|kafka]...  start these (all three, if none is named); quick if they run already
  stop   [NAME]...             stop these (all, if none is named); the data stays
  kill   [NAME]...             end them at once, as a crash would
  freeze [NAME]...             hold all their processes (SIGSTOP), as a machine that stands still would
  thaw   [NAME]...             let them go on (SIGCONT)
  status [source|sink|kafka]...  say what runs; exit code 0 if all of these (all three) do
  check  [source|sink|kafka]...  say whether the ports of these are free or already theirs
  env                          print export lines: host, port, user, password, database of each
  wipe                         stop all and remove their data and logs; the downloads stay
  postgres NAME PORT start [SETTING=VALUE]...
  postgres NAME PORT stop|kill  a further PostgreSQL, with an empty database "postgres"; give the settings at each start
  postgres NAME PORT save COPY
  postgres NAME PORT restore|standby COPY
                               keep a copy of a stopped further PostgreSQL's data, and begin its data, or another's, from
                               that copy; "standby" has it start as one: give primary_conninfo with the settings
  kafka-tool topics|consume|groups|offsets [ARGUMENT]...
                               Kafka's own tool for that, e.g. kafka-tool consume --topic ods_orders --from-beginning

Environment:
  TIDEMILL_STATE               folder for data and logs          <checkout>/.tidemill
  TIDEMILL_DOWNLOADS           folder for downloads              <checkout>/.tidemill/downloads
  TIDEMILL_SOURCE_PORT         port of the source                5432
  TIDEMILL_SINK_PORT           port of the sink                  5433
  TIDEMILL_KAFKA_PORT          port of the broker                9092
  TIDEMILL_KAFKA_CONTROLLER_PORT  port of Kafka's controller     9093
  TIDEMILL_KAFKA_HEAP          heap of Kafka                     512m
  TIDEMILL_KAFKA_REBALANCE_DELAY_MS
                               how long a new consumer group waits for further members   0
  TIDEMILL_KAFKA_BEHIND        further ports of the broker, "LISTEN:ADVERTISED ...": clients that come to LISTEN are told
                               to come back to ADVERTISED, where a proxy leads to LISTEN; none
  TIDEMILL_TLS                 a folder with server.crt (with its chain), server.key and ca.crt, PEM: the servers that are started
                               take clients over TLS only, Kafka with user and password (PLAIN, SCRAM) and further PostgreSQL
                               servers by the folder's pg_hba.conf; give it at each start; none
  TIDEMILL_KAFKA_SSL_PORT      with TIDEMILL_TLS: a further port of the broker, for clients with a certificate of ca.crt; none
  TIDEMILL_KAFKA_USER          with TIDEMILL_TLS: the user of Kafka, as TIDEMILL_KAFKA_PASSWORD; both count when the data is made   tidemill
  TIDEMILL_POSTGRES_PASSWORD   password of the user postgres; counts when the data is made   postgres
  TIDEMILL_POSTGRES_VERSION    major version of PostgreSQL, 14 to 18; none starts on the data of another   18
  TIDEMILL_POSTGRES_BIN        bin folder of an installed PostgreSQL (14 or newer), to use instead of a download
EOF
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
SERVERS_FOLDER=$CHECKOUT/scripts/servers

# shellcheck source=scripts/servers/places.sh
. "$SERVERS_FOLDER/places.sh"
# shellcheck source=scripts/servers/console.sh
. "$SERVERS_FOLDER/console.sh"
# shellcheck source=scripts/servers/ports.sh
. "$SERVERS_FOLDER/ports.sh"
# shellcheck source=scripts/servers/processes.sh
. "$SERVERS_FOLDER/processes.sh"
# shellcheck source=scripts/servers/java.sh
. "$SERVERS_FOLDER/java.sh"
# shellcheck source=scripts/servers/downloads.sh
. "$SERVERS_FOLDER/downloads.sh"
# shellcheck source=scripts/servers/kafka.sh
. "$SERVERS_FOLDER/kafka.sh"
# shellcheck source=scripts/servers/postgres.sh
. "$SERVERS_FOLDER/postgres.sh"

# --- what is known of each server by its name -------------------------------------------------------------------------

ALL='source sink kafka'

require_known() { # NAME...
  local name
  for name in "$@"; do
    case " $ALL " in
      *" $name "*) ;;
      *) fail "no server is called '$name': there are source, sink, kafka" ;;
    esac
  done
}

port_variable() {
  case $1 in
    source) echo TIDEMILL_SOURCE_PORT ;;
    sink) echo TIDEMILL_SINK_PORT ;;
    kafka) echo TIDEMILL_KAFKA_PORT ;;
  esac
}

wanted_port() {
  case $1 in
    source) echo "${TIDEMILL_SOURCE_PORT:-5432}" ;;
    sink) echo "${TIDEMILL_SINK_PORT:-5433}" ;;
    kafka) echo "${TIDEMILL_KAFKA_PORT:-9092}" ;;
  esac
}

controller_port() { echo "${TIDEMILL_KAFKA_CONTROLLER_PORT:-9093}"; }

runs() { if [ "$1" = kafka ]; then kafka_is_running; else postgres_is_running "$1"; fi; }

running_port() { if [ "$1" = kafka ]; then kafka_running_port; else postgres_running_port "$1"; fi; }

# The port at which the server can be reached: where it runs, or else where it would be started.
port_of() { if runs "$1"; then running_port "$1"; else wanted_port "$1"; fi; }

# --- start ------------------------------------------------------------------------------------------------------------

# A server that runs is left alone, but must not be somewhere else than the caller asked for.
check_place() { # NAME
  local variable
  variable=$(port_variable "$1")
  if runs "$1"; then
    [ -z "${!variable-}" ] || [ "${!variable}" = "$(running_port "$1")" ] || {
      complain "$1 runs already, on port $(running_port "$1") and not on $variable=${!variable}: stop it first (scripts/servers.sh stop $1)"
      return 1
    }
  else
    check_port "$1" "$(wanted_port "$1")" "$variable=..." || return 1
    [ "$1" != kafka ] || check_port "kafka's controller" "$(controller_port)" TIDEMILL_KAFKA_CONTROLLER_PORT=...
  fi
}

check_places() { # NAME...
  local name bad=0
  for name in "$@"; do
    check_place "$name" || bad=1
  done
  check_data "$@" || bad=1
  return "$bad"
}

prepare_state() {
  mkdir -p "$LOG_FOLDER" || fail "cannot write to $STATE: set TIDEMILL_STATE to a folder of your own"
  [ -O "$STATE" ] || fail "$STATE belongs to another user, who has run this before: run it as that user, or set TIDEMILL_STATE to another folder"
}

start_one() { # NAME
  case $1 in
    source)
      start_postgres source "$(wanted_port source)" source_db "$CHECKOUT/postgres_source/init" \
        wal_level=logical max_wal_senders=40 max_replication_slots=40 max_connections=200
      ;;
    sink)
      start_postgres sink "$(wanted_port sink)" sink_db "$CHECKOUT/postgres_sink/init" \
        track_commit_timestamp=on max_connections=200
      ;;
    kafka) start_kafka "$(wanted_port kafka)" "$(controller_port)" ;;
  esac
  say "$1 is up on 127.0.0.1:$(wanted_port "$1")"
}

start() { # NAME...
  local name jobs='' job bad=0 asleep=''
  drop_forgotten_home
  check_places "$@" || exit 1
  for name in "$@"; do
    if runs "$name"; then say "$name runs already on 127.0.0.1:$(running_port "$name")"; else asleep="$asleep $name"; fi
  done
  [ -n "$asleep" ] || return 0
  prepare_state
  prepare_programs_for "$asleep"
  for name in $asleep; do
    (start_one "$name") &
    jobs="$jobs $!"
  done
  for job in $jobs; do
    wait "$job" || bad=1
  done
  return "$bad"
}

prepare_programs_for() { # NAMES
  case " $1 " in
    *' kafka '*) require_java ;;
  esac
  fetch
  case " $1 " in
    *' source '* | *' sink '*) prepare_postgres ;;
  esac
}

prepare_postgres() {
  prepare_home
  choose_programs
}

# --- stop -------------------------------------------------------------------------------------------------------------

end_one() { # NAME stop|kill
  runs "$1" || return 0
  if [ "$1" = kafka ]; then end_kafka "$2"; else end_postgres "$1" "$2"; fi
  case $2 in stop) say "$1 is stopped" ;; kill) say "$1 is killed" ;; esac
}

end_servers() { # stop|kill NAME...
  local how=$1 name jobs='' job bad=0
  shift
  for name in "$@"; do
    (end_one "$name" "$how") &
    jobs="$jobs $!"
  done
  for job in $jobs; do
    wait "$job" || bad=1
  done
  return "$bad"
}

# The processes of a server: PostgreSQL has a process for each connection.
processes_of() { # NAME
  if [ "$1" = kafka ]; then kafka_pid; else postgres_pid "$1" && pgrep -P "$(postgres_pid "$1")"; fi
}

signal_servers() { # STOP|CONT NAME...
  local signal=$1 name
  shift
  for name in "$@"; do
    runs "$name" || continue
    # shellcheck disable=SC2046 # a number for each
    kill -s "$signal" $(processes_of "$name") 2>/dev/null || true # a connection may just have ended
  done
}

every_name() { { postgres_names; echo kafka; } | sort -u; }

wipe() {
  drop_forgotten_home
  # shellcheck disable=SC2046 # names have no spaces
  end_servers kill $(every_name)
  remove_home
  rm -rf "$KAFKA_FOLDER" "$LOG_FOLDER"
  rmdir "$STATE" 2>/dev/null || true # stays if the downloads are in it
  say "the servers' data is removed"
}

# --- what the others see ----------------------------------------------------------------------------------------------

status() { # NAME...
  local name missing=0
  for name in "$@"; do
    if runs "$name"; then
      printf '%-8s runs on 127.0.0.1:%s\n' "$name" "$(running_port "$name")"
    else
      printf '%-8s does not run\n' "$name"
      case " $ALL " in *" $name "*) missing=1 ;; esac
    fi
  done
  return "$missing"
}

export_line() { printf 'export %s=%q\n' "$1" "$2"; }

export_database() { # PREFIX SERVER DATABASE
  export_line "$1_HOST" 127.0.0.1
  export_line "$1_PORT" "$(port_of "$2")"
  export_line "$1_USER" "$POSTGRES_USER"
  export_line "$1_PASSWORD" "$POSTGRES_PASSWORD"
  export_line "$1_DATABASE" "$3"
}

print_env() {
  export_line TIDEMILL_STATE "$STATE"
  export_line TIDEMILL_DOWNLOADS "$DOWNLOADS"
  export_database TIDEMILL_SOURCE source source_db
  export_database TIDEMILL_SINK sink sink_db
  export_line TIDEMILL_POSTGRES_PASSWORD "$POSTGRES_PASSWORD"
  export_line TIDEMILL_KAFKA_HOST 127.0.0.1
  export_line TIDEMILL_KAFKA_PORT "$(port_of kafka)"
  export_line TIDEMILL_KAFKA_CONTROLLER_PORT "$(controller_port)"
  export_line TIDEMILL_KAFKA_BROKERS "127.0.0.1:$(port_of kafka)"
}

# --- a further PostgreSQL ---------------------------------------------------------------------------------------------

further_postgres() { # NAME PORT start|stop|kill|save|restore|standby SETTING=VALUE...|COPY
  [ $# -ge 3 ] || fail "postgres wants NAME PORT start|stop|kill|save|restore|standby [SETTING=VALUE|COPY]..."
  local name=$1 port=$2 action=$3
  shift 3
  case $name in
    source | sink | kafka) fail "'$name' is the name of a server that start and stop know: choose another" ;;
    *[!a-z0-9_-]* | '' | -*) fail "'$name' is not a name for a server: use small letters, digits, - and _" ;;
  esac
  case $action in
    start) start_further_postgres "$name" "$port" "$@" ;;
    stop | kill) end_one "$name" "$action" ;;
    save | restore | standby) copy_further_postgres "$name" "$action" "${1-}" ;;
    *) fail "postgres $name $port can start, stop, kill, save, restore or standby, not '$action'" ;;
  esac
}

copy_further_postgres() { # NAME save|restore|standby COPY
  case $3 in
    *[!a-z0-9_-]* | '' | -*) fail "'$3' is not a name for a copy: use small letters, digits, - and _" ;;
  esac
  ! runs "$1" || fail "$1 runs: stop it first, a copy is made of data at rest"
  case $2 in
    save)
      save_postgres "$1" "$3"
      say "the data of $1 is kept as $3"
      ;;
    restore | standby)
      restore_postgres "$1" "$3" "$2"
      say "the data of $1 is that of $3"
      ;;
  esac
}

start_further_postgres() { # NAME PORT SETTING=VALUE...
  local name=$1 port=$2 setting
  drop_forgotten_home
  for setting in "${@:3}"; do
    case $setting in [a-z]*=*) ;; *) fail "'$setting' is not a SETTING=VALUE" ;; esac
  done
  check_data "$name" || exit 1
  if runs "$name"; then
    [ "$port" = "$(running_port "$name")" ] || fail "$name runs already, on port $(running_port "$name"): stop it first"
    say "$name runs already on 127.0.0.1:$port"
    return 0
  fi
  check_port "$name" "$port" "the argument PORT" || exit 1
  prepare_state
  fetch
  prepare_postgres
  local tls=()
  [ -z "${TIDEMILL_TLS-}" ] || tls=(ssl=on ssl_cert_file=server.crt ssl_key_file=server.key ssl_ca_file=ca.crt)
  start_postgres "$name" "$port" '' '' ${tls[@]+"${tls[@]}"} "${@:3}"
  say "$name is up on 127.0.0.1:$port"
}

# --- the command ------------------------------------------------------------------------------------------------------

main() {
  local command=${1:-}
  [ $# -eq 0 ] || shift
  case $command in
    start | status | check)
      require_known "$@"
      # shellcheck disable=SC2086,SC2046 # names have no spaces
      [ $# -gt 0 ] || { if [ "$command" = status ]; then set -- $ALL $(further_names); else set -- $ALL; fi; }
      ;;
    stop | kill | freeze | thaw)
      # shellcheck disable=SC2046
      [ $# -gt 0 ] || set -- $(every_name)
      ;;
  esac
  case $command in
    fetch) fetch ;;
    start) start "$@" ;;
    stop | kill) end_servers "$command" "$@" ;;
    freeze) signal_servers STOP "$@" ;;
    thaw) signal_servers CONT "$@" ;;
    status) status "$@" ;;
    check) check_places "$@" ;;
    env) print_env ;;
    wipe) wipe ;;
    postgres) further_postgres "$@" ;;
    kafka-tool)
      runs kafka || fail "kafka does not run: start it with scripts/servers.sh start kafka"
      kafka_tool "${1:-}" "$(port_of kafka)" "${@:2}"
      ;;
    -h | --help) usage ;;
    '')
      usage >&2
      exit 2
      ;;
    *) fail "there is no command '$command': see scripts/servers.sh --help" ;;
  esac
}

further_names() { postgres_names | grep -v -x -e source -e sink || true; }

main "$@"
