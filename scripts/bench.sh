#!/usr/bin/env bash
# The benchmark: how fast the pipeline is, and how soon it goes on after something broke. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/bench.sh STAGE [OPTION]...
       scripts/bench.sh --against flink [OPTION]...

Builds what is measured (release), starts servers of its own on free ports, measures, prints a table, stops the servers
and removes their data. Whatever else the machine does meanwhile is in the figures, and it costs a pipeline of many
threads more than a single reader: believe the ratios of a machine that has nothing else to do.

Stages:
  whole     the four services together: the copy of a million orders, streams of inserts, updates and users that change, single
            changes at rising rates, memory, processor time, rest, start to first row; each held against its goal
  capture   cdc-ingest into Kafka against pg_recvlogical to /dev/null, both reading the same WAL: rows a second,
            processor time, memory; one change from its commit to its record; a large transaction
  recovery  the whole pipeline under a steady rate of changes: how soon after each fault a new change is in the sink, and
            whether all is there in the end, once
  restore   dim-joiner started on topics that hold many users and orders: seconds until it joins and until it is ready,
            memory
  reemission  a user who owns very many orders changes, twice, while others place orders at a steady rate: how long those
            take to the sink, before and meanwhile, whether the first change stops when the second comes, and whether all is
            there in the end; also with dim-joiner killed in the middle
  stages    dwd-cleaner and dim-joiner against a process that copies the same records unchanged with jemalloc, as they have it,
            beside one with the system's allocator, one that only reads and one that only writes; pg-sinker (one table; trail and
            latest; these and two roll-ups) against one connection that writes the same rows: rows a second, processor time, memory
  profile   STAGE (cleaner, joiner or sinker): what the service does with its time, as a flame graph and a list of functions;
            the options of stages go behind it
  micro     what a row costs in the plain functions of each stage, without Kafka and without PostgreSQL (criterion; the options
            are its own: the name of a benchmark, --save-baseline NAME, --baseline NAME)
  scale     two instances of dwd-cleaner and of dim-joiner against one, beside two copying processes against one
  growth    dwd-cleaner and dim-joiner with more partitions, more users and wider rows, beside a process that copies the same
            records unchanged
  reconcile  pg-sinker compares large tables of source and sink, equal ones and with a few rows that differ: rows a second,
            processor time of the servers

  --against flink  stage whole with one table and the Flink pipeline that Tidemill replaces (lab/flink: Flink CDC, Flink SQL,
            Kafka, JDBC), in turns: how many times better each figure is

Options of every stage:
  --json FILE          write the figures to this file as well

Options of whole:
  --copied N             orders that are copied at the start                   1000000
  --users N                                                                    10000
  --inserts N            orders that are placed then, 5,000 in a transaction   500000
  --warm-inserts N       orders that are placed before those and do not count  0
  --updates N            orders whose status changes                           200000
  --user-changes N       users whose city changes; 0: none                     1000
  --rates N,...          single changes a second                               5,100,1000,5000
  --rate-s SECONDS       of each rate                                          30
  --warm-s SECONDS       of a rate above 100 that pass before they count       40
  --one-table            the sink keeps the latest state of each order in one table, as Flink's job does, and no more

Options of capture:
  --rows N             orders that every reader reads                          500000
  --transaction N      orders in a transaction                                 1000
  --rounds N           how often every reader reads them; 0: not at all        3
  --variant 'NAME SECTION.KEY=VALUE...'
  --variant 'NAME program=PATH'
                       another cdc-ingest in every round: with other settings, or another build; can be repeated
  --changes N          single changes for the latency; 0: none                 200
  --rate R             single changes a second                                 5
  --big N              rows of the large transaction; 0: none                  2000000
  --calm-s SECONDS     longest wait, before each reading, for others on the    30
                       machine to become quiet

Options of recovery:
  --faults NAME,...      what is broken                                        all of these:
                         kill-SERVICE    kill -9 of cdc-ingest, dwd-cleaner, dim-joiner, pg-sinker; started again at once
                         stop-SERVICE    SIGTERM; started again as soon as it has ended
                         cut-wal         the source ends the connection that brings the WAL
                         crash-SERVER    source, sink, kafka end at once, and are started again
  --rounds N             how often each is broken                              10
  --rate R               changes a second, each a commit of its own            1000
  --orders N             orders that are changed in turn                       3000
  --pause-ms MS          time between the end of a round and the next fault    2000

Options of restore:
  --users N                                                                    1000000
  --orders N                                                                   2000000
  --rounds N             how often dim-joiner is started                       3

Options of reemission:
  --owned N              orders of the user who changes                        1000000
  --rate R               orders that others place in a second                  1000
  --calm-s SECONDS       before the change, to compare with                    20
  --second-change-s SECONDS   between the two changes                          20
  --kill-s SECONDS       after the second change dim-joiner is killed and      0
                         started again; 0: never

Options of stages:
  --stages NAME,...      what is measured                                      cleaner,joiner,sinker
  --rows N               orders in the first topic                             2000000
  --users N                                                                    100000
  --sink-rows N          results that are written to the sink                  200000
  --rounds N             how often each takes its turn                         5
  --variant 'SERVICE NAME SECTION.KEY=VALUE...'
  --variant 'SERVICE NAME program=PATH'
                         another of the services in every round: with other settings, or another build; can be repeated
  --calm-s SECONDS       longest wait, before each turn, for others on the     30
                         machine to become quiet

Options of reconcile:
  --rows N             rows on both sides                                      1000000
  --differing N        rows that differ, in the second half of the rounds      10
  --rounds N           how often, with equal tables and with others            3
  --load-percent N     of the time so much the source works at most            50
  --rate N             orders that change in a second meanwhile, through the   0
                       pipeline; 0: nobody writes, and there is no pipeline

Options of growth:
  --rows N             orders                                                  300000
  --partitions N,...   of each topic                                           1,2,4,8
  --users N,...                                                                10000,100000,500000,2000000
  --note-bytes N,...   bytes of a further column of each order                 0,500,2000,8000
  --rounds N           how often each takes its turn                           3
  --calm-s SECONDS     as of stages

Options of --against flink:
  --rounds N           how often each takes its turn                           1
  --rows N             orders of each load                                     200000
  --copied N           orders that are there at the start, at most a million   as --rows

Options of scale: --rows, --users, --rounds (3), --calm-s, as of stages

--against flink wants root, Java, Maven and Python, 12 GiB of memory and some ten minutes a round; what it brings, 400 MB once,
goes to TIDEMILL_DOWNLOADS. capture wants pg_recvlogical, which comes with PostgreSQL's client programs; profile wants perf and inferno (cargo install
inferno). The benchmark wants Linux.

Environment (further variables: scripts/servers.sh --help):
  TIDEMILL_STATE            the servers' data and the logs go to a new folder in it   <checkout>/.tidemill
  TIDEMILL_PG_RECVLOGICAL   the program pg_recvlogical
  TIDEMILL_PROFILES         folder of the profiles                                    <checkout>/.tidemill/profiles
  CARGO_TARGET_DIR          folder of the build                                       <checkout>/target
  CDC_INGEST__...           settings of every cdc-ingest that is measured; those of a --variant win
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/ports.sh
. "$CHECKOUT/scripts/servers/ports.sh"
# shellcheck source=scripts/servers/java.sh
. "$CHECKOUT/scripts/servers/java.sh"
# shellcheck source=scripts/servers/prerequisites.sh
. "$CHECKOUT/scripts/servers/prerequisites.sh"

CALLED_IN=$PWD
programs='' # folder of the built programs
group=''    # process group of what measures

servers() { "$CHECKOUT/scripts/servers.sh" "$@"; }

# --- surroundings of every stage --------------------------------------------------------------------------------------

require_linux() { [ -r /proc/self/stat ] || fail "the benchmark reads processor time and memory from /proc, which Linux has"; }

build() { # PACKAGE...
  headline "build"
  cd "$CHECKOUT"
  # shellcheck disable=SC2046 # a word for each
  cargo build --release $(printf -- '-p %s ' lab "$@") || fail "the build failed, see above"
  programs=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd -P)
  cd "$CALLED_IN" # files that arguments name are there
}

# A folder of its own, so that the data of no other run is touched.
choose_places() {
  local ports
  # shellcheck disable=SC2207 # four numbers
  ports=($(free_ports 4))
  export TIDEMILL_STATE="${TIDEMILL_STATE:-$CHECKOUT/.tidemill}/bench-$$"
  export TIDEMILL_DOWNLOADS=${TIDEMILL_DOWNLOADS:-$CHECKOUT/.tidemill/downloads}
  export TIDEMILL_SOURCE_PORT=${ports[0]} TIDEMILL_SINK_PORT=${ports[1]}
  export TIDEMILL_KAFKA_PORT=${ports[2]} TIDEMILL_KAFKA_CONTROLLER_PORT=${ports[3]}
}

start_servers() { # NAME...
  headline "servers"
  choose_places
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  servers start "$@"
  eval "$(servers env)"
}

# Runs tidemill-lab in a process group of its own, with all that it starts: a signal is heeded at once, and ends the group.
lab() {
  local status=0
  set -m
  "$programs/tidemill-lab" "$@" </dev/null &
  group=$!
  set +m
  wait "$group" || status=$?
  group=''
  return "$status"
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  if [ -n "$group" ]; then
    kill -s TERM -- "-$group" 2>/dev/null || true
    wait "$group" 2>/dev/null || true
  fi
  [ "$status" -eq 0 ] || keep_logs
  servers wipe || status=1
  exit "$status"
}

keep_logs() {
  local kept="$CHECKOUT/.tidemill/failed-bench-logs"
  rm -rf "$kept"
  mkdir -p "$CHECKOUT/.tidemill"
  cp -R "$TIDEMILL_STATE/log" "$kept" 2>/dev/null || return 0
  say "that did not end well; the logs are in $kept"
}

# --- capture ----------------------------------------------------------------------------------------------------------

# On Debian the one in the path is a script that looks for the newest of these.
pg_recvlogical_places() {
  if [ -n "${TIDEMILL_PG_RECVLOGICAL-}" ]; then
    echo "$TIDEMILL_PG_RECVLOGICAL"
    return 0
  fi
  [ -z "${TIDEMILL_POSTGRES_BIN-}" ] || echo "$TIDEMILL_POSTGRES_BIN/pg_recvlogical"
  printf '%s\n' /usr/lib/postgresql/*/bin/pg_recvlogical | sort -rV
  command -v pg_recvlogical || true
}

find_pg_recvlogical() {
  local place
  while read -r place; do
    [ ! -x "$place" ] || { echo "$place"; return 0; }
  done < <(pg_recvlogical_places)
  fail "pg_recvlogical is not there: install PostgreSQL's client programs (postgresql-client on Debian, postgresql on Fedora), or set TIDEMILL_PG_RECVLOGICAL to it"
}

capture() { # OPTION...
  local pg_recvlogical
  pg_recvlogical=$(find_pg_recvlogical) || exit 1
  build cdc-ingest
  start_servers source kafka
  headline "capture"
  lab bench capture --program "$programs/cdc-ingest" --pg-recvlogical "$pg_recvlogical" \
    --broker-pid "$(cat "$TIDEMILL_STATE/kafka/pid")" --logs "$TIDEMILL_STATE/log" "$@"
}

# --- recovery and restore ---------------------------------------------------------------------------------------------

recovery() { # OPTION...
  build cdc-ingest dwd-cleaner dim-joiner pg-sinker
  start_servers source sink kafka
  headline "recovery"
  lab bench recovery --programs "$programs" --servers "$CHECKOUT/scripts/servers.sh" --logs "$TIDEMILL_STATE/log" "$@"
}

restore() { # OPTION...
  build dim-joiner
  start_servers kafka
  headline "restore"
  lab bench restore --program "$programs/dim-joiner" --logs "$TIDEMILL_STATE/log" "$@"
}

# --- whole -----------------------------------------------------------------------------------------------------------

whole() { # OPTION...
  build cdc-ingest dwd-cleaner dim-joiner pg-sinker
  start_servers source sink kafka
  headline "whole"
  lab bench whole --programs "$programs" --logs "$TIDEMILL_STATE/log" "$@"
}

# --- reemission -------------------------------------------------------------------------------------------------------

reemission() { # OPTION...
  build cdc-ingest dwd-cleaner dim-joiner pg-sinker
  start_servers source sink kafka
  headline "reemission"
  lab bench reemission --programs "$programs" --logs "$TIDEMILL_STATE/log" "$@"
}

# --- stages and scale -------------------------------------------------------------------------------------------------

stages() { # OPTION...
  build dwd-cleaner dim-joiner pg-sinker
  start_servers sink kafka
  headline "stages"
  lab bench stages --programs "$programs" --broker-pid "$(cat "$TIDEMILL_STATE/kafka/pid")" --logs "$TIDEMILL_STATE/log" "$@"
}

# perf walks the stack by its frame pointers: the service is built with them, in a folder of its own.
build_with_frame_pointers() { # PACKAGE
  headline "build with frame pointers"
  cd "$CHECKOUT"
  CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/profiled" RUSTFLAGS='-C force-frame-pointers=yes' \
    CFLAGS='-O2 -fno-omit-frame-pointer' cargo build --release -p "$1" || fail "the build failed, see above"
  profiled=$(cd "${CARGO_TARGET_DIR:-target}/profiled/release" && pwd -P)/$1
  cd "$CALLED_IN"
}

draw() { # FILE.data
  local picture=${1%.data}.svg
  perf script --no-inline --input "$1" 2>/dev/null | inferno-collapse-perf | inferno-flamegraph --title "$(basename "${1%.data}")" >"$picture"
  perf report --no-inline --no-children --sort comm,symbol --call-graph none --stdio --input "$1" 2>/dev/null \
    | grep -v '^#' | grep -v '^$' | head -40
  say "the flame graph is in $picture"
}

profile() { # STAGE OPTION...
  local service profiled folder data stage=${1:-}
  case $stage in
    cleaner) service=dwd-cleaner ;;
    joiner) service=dim-joiner ;;
    sinker) service=pg-sinker ;;
    *) fail "name the stage that is profiled: cleaner, joiner or sinker" ;;
  esac
  shift
  command -v perf >/dev/null || fail "perf is not there: install it (linux-perf on Debian, perf on Fedora)"
  command -v inferno-flamegraph >/dev/null || fail "inferno is not there: cargo install inferno"
  build dwd-cleaner dim-joiner pg-sinker
  build_with_frame_pointers "$service"
  start_servers sink kafka
  folder=${TIDEMILL_PROFILES:-$CHECKOUT/.tidemill/profiles}
  mkdir -p "$folder"
  headline "profile"
  lab bench stages --programs "$programs" --broker-pid "$(cat "$TIDEMILL_STATE/kafka/pid")" --logs "$TIDEMILL_STATE/log" \
    --stages "$stage" --rounds 1 --variant "$service profiled program=$profiled" --profiles "$folder" "$@"
  for data in "$folder/$service-profiled"*.data; do
    headline "$(basename "${data%.data}")"
    draw "$data"
  done
}

scale() { # OPTION...
  build dwd-cleaner dim-joiner
  # Both instances are to begin together, with their own partitions.
  export TIDEMILL_KAFKA_REBALANCE_DELAY_MS=2000
  start_servers kafka
  headline "scale"
  lab bench scale --programs "$programs" --broker-pid "$(cat "$TIDEMILL_STATE/kafka/pid")" --logs "$TIDEMILL_STATE/log" "$@"
}

growth() { # OPTION...
  build dwd-cleaner dim-joiner
  start_servers kafka
  headline "growth"
  lab bench growth --programs "$programs" --broker-pid "$(cat "$TIDEMILL_STATE/kafka/pid")" --logs "$TIDEMILL_STATE/log" "$@"
}

# --- micro ------------------------------------------------------------------------------------------------------------

micro() { # OPTION...
  headline "micro"
  cd "$CHECKOUT"
  cp Cargo.lock lab/micro/Cargo.lock # the versions of the services
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target} cargo bench --manifest-path lab/micro/Cargo.toml --bench micro -- "$@"
}

# --- reconcile --------------------------------------------------------------------------------------------------------

reconcile() { # OPTION...
  build cdc-ingest dwd-cleaner dim-joiner pg-sinker
  start_servers source sink kafka
  headline "reconcile"
  lab bench reconcile --programs "$programs" --logs "$TIDEMILL_STATE/log" "$@"
}

# --- against -----------------------------------------------------------------------------------------------------------

against() { # flink OPTION...
  local rounds=1 rows=200000 copied round here="$CHECKOUT/lab/flink" folder
  [ "${1:-}" = flink ] || fail "there is nothing to compare with but flink"
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      --rounds) rounds=${2:?a number} ;;
      --rows) rows=${2:?a number} ;;
      --copied) copied=${2:?a number} ;;
      *) fail "--against flink has no option '$1': see scripts/bench.sh --help" ;;
    esac
    shift 2
  done
  copied=${copied:-$rows}
  export TIDEMILL_DOWNLOADS=${TIDEMILL_DOWNLOADS:-$CHECKOUT/.tidemill/downloads}
  export FLINKBASE=$TIDEMILL_DOWNLOADS/flink PYTHONDONTWRITEBYTECODE=1
  [ -x "$FLINKBASE/venv/bin/python" ] || { headline "Flink is brought" && "$here/get.sh"; } || fail "Flink could not be brought, see above"
  folder=$(mktemp -d)
  for round in $(seq "$rounds"); do
    "$CHECKOUT/scripts/bench.sh" whole --one-table --copied "$copied" --warm-inserts "$rows" --inserts "$rows" --updates 50000 --user-changes 0 --rates 5 \
      --rate-s 40 --json "$folder/tidemill-$round.json"
    headline "Flink, throughput"
    flink throughput "$rows" --loads-only
    headline "Flink, tuned-upsert"
    flink tuned-upsert "$rows"
  done
  "$FLINKBASE/venv/bin/python" "$here/ratios.py" "$folder"
  say "the figures of each run are in $folder"
}

flink() { # VARIANT ROWS OPTION...
  local variant=$1 rows=$2
  shift 2
  "$FLINKBASE/venv/bin/python" "$here/bench.py" "$variant" --rows "$rows" --copied "$copied" --updates 50000 --quiet-wait 20 \
    --out "$folder/$variant-$round.json" "$@" >/dev/null
}

# --- the command ------------------------------------------------------------------------------------------------------

main() {
  local stage=${1:-}
  case " $* " in
    *' -h '* | *' --help '*)
      usage
      exit 0
      ;;
  esac
  [ $# -eq 0 ] || shift
  case $stage in
    --against) stage=against ;;
    whole | capture | recovery | restore | reemission | stages | profile | micro | scale | growth | reconcile) ;;
    '')
      usage >&2
      exit 2
      ;;
    *) fail "there is no stage '$stage': see scripts/bench.sh --help" ;;
  esac
  require_linux
  require_prerequisites
  "$stage" "$@"
}

main "$@"
