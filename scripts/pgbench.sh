#!/usr/bin/env bash
# pgbench's workloads through cdc-ingest, and all of it compared. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/pgbench.sh [OPTION]...

Makes a database of its own on the source server, fills it with pgbench's four tables, has a cdc-ingest of its own capture them,
and runs two workloads of pgbench: the default one, and -N, which leaves out tellers and branches. Then it compares each topic
with its table, row by row and column by column, and takes down what it has made. The exit code is 0 if nothing differs.

  --scale N      size of the tables: N times 100,000 accounts   1
  --clients N    connections of pgbench                         4
  --seconds N    how long each workload runs                    60
  --timeout-s N  how long a difference may last at the end      120

The first copy of the tables begins with the first workload. Before each workload pgbench empties its history by TRUNCATE.

The servers are those of scripts/servers.sh; source and kafka are started where they do not run, and stopped again in the end.
pgbench and psql come with PostgreSQL's packages. CARGO_TARGET_DIR is heeded; the programs are built where they are missing.
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/ports.sh
. "$CHECKOUT/scripts/servers/ports.sh"
# shellcheck source=scripts/servers/processes.sh
. "$CHECKOUT/scripts/servers/processes.sh"

TABLES='accounts branches tellers history'
NAME=tidemill_pgbench_$$ # of the database and the slot; the topics' names begin with it
STOP_SECONDS=15

scale=1
clients=4
seconds=60
timeout_s=120
programs=''     # folder of the built programs
our_servers=''  # names of the servers that this run has started
database=''     # the database, once it may be there
cdc_ingest=''   # process of cdc-ingest
report=''       # what was measured, a line each

servers() { "$CHECKOUT/scripts/servers.sh" "$@"; }

topic_of() { echo "${NAME}_$1"; }

log_of() { echo "$TIDEMILL_STATE/log/$1.log"; }

# --- before the start -------------------------------------------------------------------------------------------------

read_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      --scale | --clients | --seconds | --timeout-s) require_number "$1" "${2-}" ;;
    esac
    case $1 in
      --scale) scale=$2 ;;
      --clients) clients=$2 ;;
      --seconds) seconds=$2 ;;
      --timeout-s) timeout_s=$2 ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) fail "unknown argument '$1': see scripts/pgbench.sh --help" ;;
    esac
    shift 2
  done
}

require_number() { # OPTION VALUE
  case $2 in
    '' | 0* | *[!0-9]*) fail "$1 wants a number from 1, not '$2'" ;;
  esac
}

require_pgbench() {
  local program
  [ -z "${TIDEMILL_POSTGRES_BIN-}" ] || PATH=$TIDEMILL_POSTGRES_BIN:$PATH
  for program in pgbench psql; do
    command -v "$program" >/dev/null || fail "$program is not installed: it comes with PostgreSQL's packages (Debian: postgresql, which" \
      "starts a server of its own on port 5432; Fedora: postgresql-contrib; Homebrew: postgresql@18)"
  done
}

build() {
  programs=${CARGO_TARGET_DIR:-target}/release
  [ -x "$programs/cdc-ingest" ] && [ -x "$programs/tidemill-lab" ] || cargo build --release -p cdc-ingest -p lab >&2
  programs=$(cd "$programs" && pwd -P)
}

# --- servers, database, capture ---------------------------------------------------------------------------------------

start_servers() {
  local name
  for name in source kafka; do
    servers status "$name" >/dev/null || our_servers="$our_servers $name"
  done
  # shellcheck disable=SC2086 # a list
  [ -z "$our_servers" ] || servers start $our_servers
  eval "$(servers env)"
}

on_source() { # DATABASE COMMAND...
  PGHOST=$TIDEMILL_SOURCE_HOST PGPORT=$TIDEMILL_SOURCE_PORT PGUSER=$TIDEMILL_SOURCE_USER PGPASSWORD=$TIDEMILL_SOURCE_PASSWORD \
    PGDATABASE=$1 "${@:2}"
}

query() { # DATABASE SQL
  on_source "$1" psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$2"
}

# Runs pgbench, with its words in its log.
pgbench_run() { # ARGUMENT...
  on_source "$NAME" pgbench "$@" >"$(log_of pgbench)" 2>&1 && return 0
  end_of_log "$(log_of pgbench)"
  fail "pgbench $* failed, see above"
}

make_database() {
  local role=${CDC_INGEST__SOURCE__USER:-tidemill_capture}
  headline "making $NAME with pgbench's tables, scale $scale"
  database=$NAME
  query postgres "CREATE DATABASE $NAME TEMPLATE template0"
  pgbench_run --initialize --scale "$scale"
  query "$NAME" 'ALTER TABLE pgbench_history ADD COLUMN hid bigserial PRIMARY KEY'
  query "$NAME" "GRANT SELECT ON pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history TO \"$role\""
  query "$NAME" 'CREATE PUBLICATION tidemill FOR TABLE pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history'
}

export_settings() {
  local table variable
  export CDC_INGEST__SOURCE__HOST=$TIDEMILL_SOURCE_HOST CDC_INGEST__SOURCE__PORT=$TIDEMILL_SOURCE_PORT
  export CDC_INGEST__SOURCE__DATABASE=$NAME CDC_INGEST__SLOT__NAME=$NAME CDC_INGEST__SLOT__PUBLICATION=tidemill
  export CDC_INGEST__KAFKA__BROKERS=$TIDEMILL_KAFKA_BROKERS CDC_INGEST__HTTP__PORT
  CDC_INGEST__STATE__TOPIC=$(topic_of cdc_state)
  CDC_INGEST__HTTP__PORT=$(free_ports 1)
  export CDC_INGEST__STATE__TOPIC
  for table in $TABLES; do
    variable=CDC_INGEST__TABLES__$(printf '%s' "$table" | tr 'a-z' 'A-Z')
    export "${variable}__TABLE=public.pgbench_$table" "${variable}__TOPIC=$(topic_of "$table")"
  done
}

start_capture() {
  local log
  log=$(log_of pgbench-cdc-ingest)
  headline "starting cdc-ingest"
  export_settings
  "$programs/cdc-ingest" check >"$log" 2>&1 || { end_of_log "$log"; fail "cdc-ingest cannot capture these tables, see above"; }
  start_detached "$log" "$programs/cdc-ingest"
  cdc_ingest=$DETACHED_PID
}

require_capture() {
  ! is_running "$cdc_ingest" "$programs/cdc-ingest" || return 0
  end_of_log "$(log_of pgbench-cdc-ingest)"
  fail "cdc-ingest has ended by itself; all it said is in $(log_of pgbench-cdc-ingest)"
}

# --- the test ---------------------------------------------------------------------------------------------------------

run_workload() { # NAME ARGUMENT...
  local rate count
  headline "pgbench, $1: $clients clients, $seconds s"
  pgbench_run --client "$clients" --time "$seconds" "${@:2}"
  require_capture
  count=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' "$(log_of pgbench)")
  rate=$(sed -n 's/^tps = \([0-9]*\).*/\1/p' "$(log_of pgbench)")
  report=$report$(printf '  pgbench, %-16s %8s transactions, %6s a second' "$1" "$count" "$rate")$'\n'
}

compare() { # 0 if all topics are their tables
  local table status=0
  for table in $TABLES; do
    "$programs/tidemill-lab" captured --source-database "$NAME" --table "public.pgbench_$table" --topic "$(topic_of "$table")" \
      --timeout-s "$timeout_s" || status=1
    require_capture
  done
  return "$status"
}

# --- the end ----------------------------------------------------------------------------------------------------------

stop_capture() {
  [ -n "$cdc_ingest" ] || return 0
  signal_and_wait TERM "$cdc_ingest" "$programs/cdc-ingest" "$STOP_SECONDS" && return 0
  say "cdc-ingest does not stop within $STOP_SECONDS s, so it is killed"
  signal_and_wait KILL "$cdc_ingest" "$programs/cdc-ingest" 5 || complain "cdc-ingest (process $cdc_ingest) does not end"
}

# The server notices a moment later that the slot's reader is gone.
drop_slot() {
  local tries=50 slots="FROM pg_replication_slots WHERE slot_name = '$NAME'"
  while [ "$(query postgres "SELECT count(*) $slots" 2>/dev/null)" != 0 ]; do
    [ "$tries" -gt 0 ] || return 1
    query postgres "SELECT pg_drop_replication_slot(slot_name) $slots AND NOT active" >/dev/null 2>&1 || true
    tries=$((tries - 1))
    sleep 0.1
  done
}

take_down() {
  stop_capture
  [ -n "$database" ] || return 0
  drop_slot || complain "slot $NAME could not be dropped: it keeps the source's WAL until it is"
  query postgres "DROP DATABASE IF EXISTS $NAME WITH (FORCE)" || complain "database $NAME could not be dropped"
  servers kafka-tool topics --delete --if-exists --topic "${NAME}_.*" >/dev/null || complain "the topics ${NAME}_* could not be deleted"
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  take_down
  # shellcheck disable=SC2086 # a list
  [ -z "$our_servers" ] || servers stop $our_servers || status=1
  exit "$status"
}

main() {
  local equal=yes
  read_arguments "$@"
  require_pgbench
  cd "$CHECKOUT"
  build
  trap clean_up EXIT
  trap 'echo >&2; exit 130' INT
  trap 'exit 143' TERM HUP
  start_servers
  make_database
  start_capture
  run_workload default
  run_workload -N -N
  headline "comparing"
  compare || equal=no
  printf '%s' "$report"
  [ "$equal" = yes ] || fail "the topics are not as their tables, see above; cdc-ingest's log is $(log_of pgbench-cdc-ingest)"
  echo "  the topics are as their tables"
}

main "$@"
