#!/usr/bin/env bash
# The whole demo by one command: builds, starts servers and services, shows, validates and measures. See --help.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: scripts/demo.sh [--docker] [--once] [--fresh]

Builds Tidemill, starts PostgreSQL, Kafka and the four services on this machine, shows the source orders and the result
rows, validates the pipeline with an order of its own, measures the latency of single changes, and keeps all of it
running until Ctrl-C. The data stays for the next time.

  --docker   the same in containers, by docker-compose.yml, with data of its own: no Rust, no Java. Where Java is missing and
             Docker answers, this is the way without being asked for
  --once     end after the report; the exit code says whether validation and measurement went well
  --fresh    remove the data of earlier runs first

Environment (further variables: scripts/servers.sh --help):
  TIDEMILL_CDC_INGEST_PORT    port of cdc-ingest, and of its console   8081
  TIDEMILL_DWD_CLEANER_PORT   port of dwd-cleaner                      8082
  TIDEMILL_DIM_JOINER_PORT    port of dim-joiner                       8083
  TIDEMILL_PG_SINKER_PORT     port of pg-sinker                        8084
  CARGO_TARGET_DIR            folder of the build                      <checkout>/target
EOF
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/demonstration.sh
. "$CHECKOUT/scripts/servers/demonstration.sh"
# shellcheck source=scripts/servers/ports.sh
. "$CHECKOUT/scripts/servers/ports.sh"
# shellcheck source=scripts/servers/processes.sh
. "$CHECKOUT/scripts/servers/processes.sh"
# shellcheck source=scripts/servers/java.sh
. "$CHECKOUT/scripts/servers/java.sh"
# shellcheck source=scripts/servers/prerequisites.sh
. "$CHECKOUT/scripts/servers/prerequisites.sh"

SERVICES='cdc-ingest dwd-cleaner dim-joiner pg-sinker'
STOP_SECONDS=15

once=no
fresh=no
docker=no
programs=''       # folder of the built programs
our_servers=''    # names of the servers that this run has started
our_services=''   # "NAME PID" of each service that this run has started, a line each
foreground=''     # process of the step that is being waited for
interruptible=yes # whether that step may be ended in its middle

servers() { "$CHECKOUT/scripts/servers.sh" "$@"; }

# --- names ------------------------------------------------------------------------------------------------------------

shout() { printf '%s' "$1" | tr 'a-z-' 'A-Z_'; } # cdc-ingest -> CDC_INGEST

service_port() { # SERVICE
  local variable
  variable=TIDEMILL_$(shout "$1")_PORT
  case $1 in
    cdc-ingest) echo "${!variable:-8081}" ;;
    dwd-cleaner) echo "${!variable:-8082}" ;;
    dim-joiner) echo "${!variable:-8083}" ;;
    pg-sinker) echo "${!variable:-8084}" ;;
  esac
}

service_log() { echo "$TIDEMILL_STATE/log/$1.log"; }

# --- steps that can be interrupted ------------------------------------------------------------------------------------

# Runs a step in a process group of its own and waits for it: a signal is heeded at once, and ends the group if it may.
await_step() {
  local status=0
  start_step "$@"
  wait "$foreground" || status=$?
  foreground=''
  return "$status"
}

start_step() {
  set -m
  "$@" </dev/null &
  foreground=$!
  set +m
}

# The same for a step of servers.sh, which must come to its end, so that it is known what runs.
await_servers() {
  local status=0
  interruptible=no
  await_step servers "$@" || status=$?
  interruptible=yes
  return "$status"
}

# Runs tidemill-lab; if a service dies meanwhile, says so and ends.
lab() {
  local status=0
  start_step "$programs/tidemill-lab" "$@"
  while kill -0 "$foreground" 2>/dev/null; do
    require_services
    sleep 0.2
  done
  wait "$foreground" || status=$?
  foreground=''
  return "$status"
}

end_foreground() {
  [ -n "$foreground" ] || return 0
  [ "$interruptible" = no ] || kill -s TERM -- "-$foreground" 2>/dev/null || true
  wait "$foreground" 2>/dev/null || true
}

# --- before the start -------------------------------------------------------------------------------------------------

read_arguments() {
  local argument
  for argument in "$@"; do
    case $argument in
      --docker) docker=yes ;;
      --once) once=yes ;;
      --fresh) fresh=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) fail "unknown argument '$argument': see scripts/demo.sh --help" ;;
    esac
  done
}

# Without Java there is no Kafka here, but Docker has both.
is_for_docker() {
  [ "$docker" = no ] || return 0
  [ "$(java_version)" -lt "$OLDEST_JAVA" ] && docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 &&
    say "Java $OLDEST_JAVA is not here, and Docker answers: the demo runs in containers"
}

run_in_containers() {
  local arguments=()
  [ "$once" = no ] || arguments+=(--once)
  [ "$fresh" = no ] || arguments+=(--fresh)
  exec "$CHECKOUT/scripts/demo-docker.sh" ${arguments[@]+"${arguments[@]}"}
}

check_ports() {
  local service bad=0
  servers check || bad=1
  for service in $SERVICES; do
    check_port "$service" "$(service_port "$service")" "TIDEMILL_$(shout "$service")_PORT=..." || bad=1
  done
  [ "$bad" -eq 0 ] || exit 1
}

build() {
  headline "building the services (several minutes the first time)"
  await_step cargo build --release --workspace || fail "the build failed, see above"
  programs=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd -P)
}

# --- start ------------------------------------------------------------------------------------------------------------

start_servers() {
  local name
  headline "starting the servers"
  for name in source sink kafka; do
    servers status "$name" >/dev/null || our_servers="$our_servers $name"
  done
  await_servers start || fail "the servers did not start, see above"
}

export_addresses() {
  local service name
  eval "$(servers env)"
  export CDC_INGEST__SOURCE__PORT=$TIDEMILL_SOURCE_PORT PG_SINKER__SINK__PORT=$TIDEMILL_SINK_PORT
  for service in $SERVICES; do
    name=$(shout "$service")
    export "${name}__KAFKA__BROKERS=$TIDEMILL_KAFKA_BROKERS"
    export "${name}__HTTP__PORT=$(service_port "$service")"
    export "${name}__CONSOLE__RECORDS=open" # all of it is on this machine, and made up
    export "TIDEMILL_${name}_URL=http://127.0.0.1:$(service_port "$service")"
  done
}

start_services() {
  local service
  headline "starting the services"
  for service in $SERVICES; do
    start_detached "$(service_log "$service")" "$programs/$service" --config "config/$service.toml"
    our_services="$our_services$service $DETACHED_PID"$'\n'
  done
}

# --- while it runs ----------------------------------------------------------------------------------------------------

dead_service() { # prints the name of one that should run and does not
  local service pid
  while read -r service pid; do
    [ -z "$service" ] || is_running "$pid" "$programs/$service" || { echo "$service"; return 0; }
  done <<EOF
$our_services
EOF
}

require_services() {
  local dead
  dead=$(dead_service)
  [ -n "$dead" ] || return 0
  end_of_log "$(service_log "$dead")"
  fail "$dead has ended by itself, so the demo ends; all it said is in $(service_log "$dead")"
}

report() { # 0 if validation and measurement went well
  lab ready || fail "not all services became ready, see above; their logs are in $TIDEMILL_STATE/log"
  say "all services are ready"
  demonstrate
}

tell_addresses() {
  print_addresses "http://127.0.0.1:$(service_port cdc-ingest)/" \
    "postgres://$TIDEMILL_SOURCE_USER:$TIDEMILL_SOURCE_PASSWORD@127.0.0.1:$TIDEMILL_SOURCE_PORT/$TIDEMILL_SOURCE_DATABASE" \
    "postgres://$TIDEMILL_SINK_USER:$TIDEMILL_SINK_PASSWORD@127.0.0.1:$TIDEMILL_SINK_PORT/$TIDEMILL_SINK_DATABASE" \
    "$TIDEMILL_KAFKA_BROKERS" "$TIDEMILL_STATE/log"
}

keep_running() {
  say "all of it keeps running until Ctrl-C"
  while :; do
    require_services
    sleep 1 &
    wait $! || true
  done
}

# --- the end ----------------------------------------------------------------------------------------------------------

stop_services() {
  local service pid
  [ -n "$our_services" ] || return 0
  while read -r service pid; do
    [ -z "$service" ] || kill -s TERM "$pid" 2>/dev/null || true
  done <<EOF
$our_services
EOF
  while read -r service pid; do
    [ -z "$service" ] || stop_service "$service" "$pid"
  done <<EOF
$our_services
EOF
  say "the services are stopped"
}

stop_service() { # SERVICE PID
  signal_and_wait TERM "$2" "$programs/$1" "$STOP_SECONDS" && return 0
  say "$1 does not stop within $STOP_SECONDS s, so it is killed"
  signal_and_wait KILL "$2" "$programs/$1" 5 || complain "$1 (process $2) does not end"
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  end_foreground
  stop_services
  # shellcheck disable=SC2086 # a list
  [ -z "$our_servers" ] || servers stop $our_servers || status=1
  exit "$status"
}

main() {
  local status=0
  read_arguments "$@"
  cd "$CHECKOUT"
  ! is_for_docker || run_in_containers
  require_prerequisites
  trap clean_up EXIT
  trap 'echo >&2; exit 130' INT
  trap 'exit 143' TERM HUP
  [ "$fresh" = no ] || await_servers wipe
  check_ports
  await_step servers fetch || exit 1
  build
  start_servers
  export_addresses
  start_services
  report || status=$?
  tell_addresses
  [ "$once" = no ] || exit "$status"
  keep_running
}

main "$@"
