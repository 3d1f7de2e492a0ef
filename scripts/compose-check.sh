#!/usr/bin/env bash
# The pipeline of docker-compose.yml from nothing, validated, disturbed and compared. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/compose-check.sh [--no-build] [--keep]

Starts all of docker-compose.yml as a project of its own ("tidemill-check", with data of its own), validates it, restarts
each service while orders flow, has a second cdc-ingest take over, compares the sink with the source, value by value, and
takes all of it down again.
The exit code is 0 if all of it is right. It wants Docker 20.10 or newer with Compose 2; no Rust.

  --no-build   take the images as they are
  --keep       leave it running at the end

Environment: the ports of docker-compose.yml, TIDEMILL_SOURCE_PORT and the like; COMPOSE_FILE, for an override.
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"

ORDERS=2000
RATE=200 # changes a second: the load lasts half a minute
build=yes
keep=no

for argument in "$@"; do
  case $argument in
    --no-build) build=no ;;
    --keep) keep=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail "unknown argument '$argument': see scripts/compose-check.sh --help" ;;
  esac
done

compose() { docker compose --project-name tidemill-check --project-directory "$CHECKOUT" "$@"; }
lab() { compose run --rm --no-deps -T lab "$@"; }

clean_up() {
  local status=$?
  [ "$status" -eq 0 ] || { compose ps -a >&2; compose logs --tail 15 cdc-ingest dwd-cleaner dim-joiner pg-sinker >&2; } || true
  [ "$keep" = yes ] || compose --profile replicas down --volumes >&2 || status=1
  exit "$status"
}

cd "$CHECKOUT"
if [ "$build" = yes ]; then
  headline 'building the images'
  compose --profile tools build
fi
trap clean_up EXIT
headline 'starting everything'
compose up -d --no-build --wait --wait-timeout 300
headline 'validating'
lab ready --timeout-s 120
lab compare --timeout-s 60
lab validate
headline "restarting each service while $ORDERS orders flow"
lab load --orders "$ORDERS" --rate "$RATE" &
load=$!
for service in cdc-ingest dwd-cleaner dim-joiner pg-sinker; do
  sleep 3
  say "restarting $service"
  compose restart "$service"
done
say "killing pg-sinker"
docker kill --signal KILL "$(compose ps -q pg-sinker)" >/dev/null
compose up -d --no-build --wait --wait-timeout 120 # Docker takes a kill by hand for a wish, and does not restart
wait "$load" || fail 'the load was not carried whole, see above'
headline 'a second instance of each; the capturing cdc-ingest is killed'
compose --profile replicas up -d --no-build --wait --wait-timeout 120
docker kill --signal KILL "$(compose ps -q cdc-ingest)" >/dev/null
lab ready --cdc-ingest-url http://cdc-ingest-2:8081
lab validate --cdc-ingest-url http://cdc-ingest-2:8081
compose up -d --no-build --wait --wait-timeout 120 cdc-ingest # a standby now
headline 'comparing'
lab compare --timeout-s 60
headline 'all of it is right'
