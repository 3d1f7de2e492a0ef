#!/usr/bin/env bash
# Fetches, starts and stops an Apache Fluss, for dimensions that are read from it. See --help.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: scripts/fluss.sh COMMAND

Apache Fluss on 127.0.0.1, for dimensions that are read from its tables (docs/joining.md): a coordinator, one tablet server, and the
ZooKeeper that they need. Nothing else of Tidemill wants it.

  fetch    download what is not there yet (Maven, about 85 MB)
  start    start what does not run
  stop     stop all; the data stays
  kill     end the coordinator and the tablet server at once, as a crash would; start brings them back
  status   say what runs; exit code 0 if all does
  env      print an export line: TIDEMILL_FLUSS_SERVERS, what clients are given
  wipe     stop all and remove data and logs; the download stays

Environment:
  TIDEMILL_STATE                 folder for data and logs       <checkout>/.tidemill
  TIDEMILL_DOWNLOADS             folder for downloads           <checkout>/.tidemill/downloads
  TIDEMILL_FLUSS_PORT            port of the coordinator        9123
  TIDEMILL_FLUSS_TABLET_PORT     port of the tablet server      9124
  TIDEMILL_FLUSS_ZOOKEEPER_PORT  port of ZooKeeper              2181
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
# shellcheck source=scripts/servers/fluss.sh
. "$SERVERS_FOLDER/fluss.sh"

port_variable() {
  case $1 in
    zookeeper) echo TIDEMILL_FLUSS_ZOOKEEPER_PORT ;;
    coordinator) echo TIDEMILL_FLUSS_PORT ;;
    tablet) echo TIDEMILL_FLUSS_TABLET_PORT ;;
  esac
}

wanted_port() {
  case $1 in
    zookeeper) echo "${TIDEMILL_FLUSS_ZOOKEEPER_PORT:-2181}" ;;
    coordinator) echo "${TIDEMILL_FLUSS_PORT:-9123}" ;;
    tablet) echo "${TIDEMILL_FLUSS_TABLET_PORT:-9124}" ;;
  esac
}

port_of() { if fluss_part_is_running "$1"; then fluss_part_running_port "$1"; else wanted_port "$1"; fi; }

check_ports() {
  local part bad=0
  for part in $FLUSS_PARTS; do
    fluss_part_is_running "$part" || check_port "Fluss ($part)" "$(wanted_port "$part")" "$(port_variable "$part")=..." || bad=1
  done
  return "$bad"
}

start() {
  local part
  if fluss_is_running; then
    say "Fluss runs already on 127.0.0.1:$(port_of coordinator)"
    return 0
  fi
  check_ports || exit 1
  require_java
  fetch_whole fetch_fluss
  mkdir -p "$LOG_FOLDER" "$FLUSS_FOLDER"
  write_fluss_log_settings
  for part in $FLUSS_PARTS; do
    start_fluss_part "$part" "$(wanted_port "$part")" "$(port_of zookeeper)"
  done
  say "Fluss is up on 127.0.0.1:$(port_of coordinator)"
}

end_parts() { # stop|kill PART...
  local how=$1 part
  shift
  for part in "$@"; do
    end_fluss_part "$part" "$how"
  done
}

status() {
  local part missing=0
  for part in $FLUSS_PARTS; do
    if fluss_part_is_running "$part"; then
      printf '%-11s runs on 127.0.0.1:%s\n' "$part" "$(port_of "$part")"
    else
      printf '%-11s does not run\n' "$part"
      missing=1
    fi
  done
  return "$missing"
}

wipe() {
  end_parts kill tablet coordinator zookeeper
  rm -rf "$FLUSS_FOLDER" "$LOG_FOLDER"/fluss-*.log
  rmdir "$LOG_FOLDER" "$STATE" 2>/dev/null || true # stays if others are in it
  say "the data of Fluss is removed"
}

main() {
  case ${1:-} in
    fetch) fetch_whole fetch_fluss ;;
    start) start ;;
    stop)
      end_parts stop tablet coordinator zookeeper
      say "Fluss is stopped"
      ;;
    kill)
      end_parts kill tablet coordinator
      say "Fluss is killed"
      ;;
    status) status ;;
    env) printf 'export TIDEMILL_FLUSS_SERVERS=127.0.0.1:%s\n' "$(port_of coordinator)" ;;
    wipe) wipe ;;
    -h | --help) usage ;;
    '')
      usage >&2
      exit 2
      ;;
    *) fail "there is no command '$1': see scripts/fluss.sh --help" ;;
  esac
}

main "$@"
