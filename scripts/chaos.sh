#!/usr/bin/env bash
# Breaks the whole system again and again under load, and proves that nothing is lost, doubled or wrong. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/chaos.sh [OPTION]...

Builds Tidemill, and for each seed starts servers of its own on free ports, two instances of each service behind network
proxies, and a random load at the source. Then it breaks something every few seconds: kills, stops, freezes and scales
services; kills, restarts, freezes and slows servers; cuts connections and has them swallow everything; fills the sink's
disk; steps the clock; writes records by hand that are no rows. One fault or two at a time, in every phase: live, while a
table is copied, catching up, draining, re-emitting. At the end all is mended, and it waits for rest and compares:
sink with source, value by value; every topic with the history that triggers wrote down at the source; the dead letters
with what was written by hand. The exit code says whether all of it is right; if not, the seed and the whole way of the
first wrong key are printed.

  --seeds N,N,...      a round for each                                  one, by the clock
  --seconds N          how long things are broken in each round          300
  --rate N             changes a second at the source                    300
  --owned-orders N     orders of the user whose changes are re-emitted   5000
  --partitions N       of every topic                                    8
  --rest-s N           longest wait for rest at the end of a round       180
  --report FILE        write the report as Markdown
  --json FILE          write it as JSON
  --debug              the programs of the debug build, which the tests have built
  --step-clock         step the machine's clock by half a minute now and then, and put it right again (root)

As root it mounts a small tmpfs for the sink's tables; else no disk is filled. The report says what was left out.

Environment (further variables: scripts/servers.sh --help):
  TIDEMILL_STATE         the servers' data and the logs go to a new folder in it   <checkout>/.tidemill
  CARGO_TARGET_DIR       folder of the build                                       <checkout>/target
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
COMMAND="scripts/chaos.sh $*"
INSTANCES=11         # each has a port of the broker and a proxy before it
DISK_MEGABYTES=1024

profile=release
programs=''    # folder of the built programs
group=''       # process group of what runs
disk=''        # folder of the small file system, if there is one
options=()     # of tidemill-lab

servers() { "$CHECKOUT/scripts/servers.sh" "$@"; }

read_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --debug) profile=debug ;;
      --step-clock) options+=("$1") ;;
      --seeds | --seconds | --rate | --owned-orders | --partitions | --rest-s | --report | --json)
        [ -n "${2-}" ] || fail "$1 wants a value: see scripts/chaos.sh --help"
        options+=("$1" "$2")
        shift
        ;;
      *) fail "there is no option '$1': see scripts/chaos.sh --help" ;;
    esac
    shift
  done
}

build() {
  local arguments=()
  headline "build"
  cd "$CHECKOUT"
  [ "$profile" = debug ] || arguments=(--release)
  cargo build "${arguments[@]}" -p lab -p cdc-ingest -p dwd-cleaner -p dim-joiner -p pg-sinker || fail "the build failed, see above"
  programs=$(cd "${CARGO_TARGET_DIR:-target}/$profile" && pwd -P)
  cd "$CALLED_IN" # files that arguments name are there
}

# A folder of its own, so that the data of no other run is touched.
choose_places() {
  local ports behind=() at
  # shellcheck disable=SC2207 # a number for each
  ports=($(free_ports $((4 + 2 * INSTANCES))))
  export TIDEMILL_STATE="${TIDEMILL_STATE:-$CHECKOUT/.tidemill}/chaos-$$"
  export TIDEMILL_DOWNLOADS=${TIDEMILL_DOWNLOADS:-$CHECKOUT/.tidemill/downloads}
  export TIDEMILL_SOURCE_PORT=${ports[0]} TIDEMILL_SINK_PORT=${ports[1]}
  export TIDEMILL_KAFKA_PORT=${ports[2]} TIDEMILL_KAFKA_CONTROLLER_PORT=${ports[3]}
  for ((at = 0; at < INSTANCES; at++)); do
    behind+=("${ports[4 + 2 * at]}:${ports[5 + 2 * at]}")
  done
  export TIDEMILL_KAFKA_BEHIND="${behind[*]}"
  mkdir -p "$TIDEMILL_STATE"
}

# PostgreSQL's user owns what the tablespace is made in, whoever that is: all may write to the folder.
mount_disk() {
  [ "$(id -u)" -eq 0 ] || { say "not root: the disk of the sink is not filled"; return 0; }
  disk=$(mktemp -d /var/tmp/tidemill-disk-XXXXXX)
  if ! mount -t tmpfs -o "size=${DISK_MEGABYTES}m,mode=777" tmpfs "$disk" 2>/dev/null; then
    rmdir "$disk"
    disk=''
    say "no tmpfs can be mounted here: the disk of the sink is not filled"
    return 0
  fi
  chmod 777 "$disk"
  options+=(--small-disk "$disk")
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
  servers thaw >/dev/null 2>&1 || true
  servers wipe || status=1
  if [ -n "$disk" ]; then
    umount "$disk" && rmdir "$disk" || status=1
  fi
  rm -rf "$TIDEMILL_STATE"
  exit "$status"
}

keep_logs() {
  local kept="${TIDEMILL_FAILED_TEST_LOGS:-$CHECKOUT/.tidemill/failed-chaos-logs}"
  rm -rf "$kept"
  mkdir -p "$kept"
  cp -R "$TIDEMILL_STATE/log" "$kept/servers" 2>/dev/null || true
  cp -R "$TIDEMILL_STATE/services" "$kept/services" 2>/dev/null || true
  say "that did not end well; the logs are in $kept"
}

main() {
  read_arguments "$@"
  require_prerequisites
  build
  choose_places
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mount_disk
  servers fetch
  eval "$(servers env)"
  mkdir -p "$TIDEMILL_STATE/services"
  lab chaos --servers-script "$CHECKOUT/scripts/servers.sh" --programs "$programs" --logs "$TIDEMILL_STATE/services" \
    --command "$COMMAND" "${options[@]}"
}

main "$@"
