#!/usr/bin/env bash
# The demo of scripts/demo.sh on Docker Compose: that script calls this one. See --help there.
set -euo pipefail

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/demonstration.sh
. "$CHECKOUT/scripts/servers/demonstration.sh"

once=no
fresh=no
ours=no # whether this run has started it, so that it is for this run to stop it

compose() { docker compose --project-directory "$CHECKOUT" "$@"; }
lab() { compose run --rm --no-deps -T lab "$@"; }

read_arguments() {
  local argument
  for argument in "$@"; do
    case $argument in
      --once) once=yes ;;
      --fresh) fresh=yes ;;
      *) fail "unknown argument '$argument': see scripts/demo.sh --help" ;;
    esac
  done
}

require_docker() {
  docker info >/dev/null 2>&1 || fail "Docker does not answer: start it, and see that you may use it (docker info)"
  docker compose version >/dev/null 2>&1 || fail "Docker has no Compose: install the plugin docker-compose-plugin, version 2"
}

start() {
  headline "building the images (several minutes the first time)"
  compose --profile tools build || fail "the build failed, see above"
  headline "starting servers and services"
  [ -n "$(compose ps -q)" ] || ours=yes
  compose up -d --no-build --wait --wait-timeout 300 || {
    compose logs --tail 15 >&2 || true
    fail "not all of it became healthy, see above"
  }
}

address() { echo "127.0.0.1:${!1:-$2}"; } # VARIABLE PORT

tell_addresses() {
  local password=${TIDEMILL_POSTGRES_PASSWORD:-postgres}
  print_addresses "http://$(address TIDEMILL_CDC_INGEST_PORT 8081)/" \
    "postgres://postgres:$password@$(address TIDEMILL_SOURCE_PORT 5432)/source_db" \
    "postgres://postgres:$password@$(address TIDEMILL_SINK_PORT 5433)/sink_db" \
    "$(address TIDEMILL_KAFKA_PORT 9092)" "docker compose logs -f"
}

keep_running() {
  if [ "$ours" = no ]; then
    say "it ran before, and goes on: docker compose stop ends it"
    return
  fi
  say "all of it keeps running until Ctrl-C"
  while :; do
    sleep 3600 &
    wait $! || true
  done
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  if [ "$ours" = yes ]; then
    say "stopping; the data stays for the next time"
    compose stop >&2 || status=1
  fi
  exit "$status"
}

main() {
  local status=0
  read_arguments "$@"
  cd "$CHECKOUT"
  require_docker
  [ "$fresh" = no ] || compose down --volumes
  trap clean_up EXIT
  trap 'echo >&2; exit 130' INT
  trap 'exit 143' TERM HUP
  start
  demonstrate || status=$?
  tell_addresses
  [ "$once" = no ] || exit "$status"
  keep_running
}

main "$@"
