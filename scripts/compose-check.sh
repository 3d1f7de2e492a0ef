#!/usr/bin/env bash
# The pipeline of docker-compose.yml from nothing, validated, disturbed and compared. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/compose-check.sh [--no-build] [--keep]

Starts all of docker-compose.yml as a project of its own ("tidemill-check", with data of its own), validates it, restarts
each service while orders flow, makes each anew, scales each up to two instances and down to one while orders flow, has a
second cdc-ingest take over, compares the sink with the source, value by value, and takes all of it down again.
The exit code is 0 if all of it is right. It wants Docker 20.10 or newer with Compose 2; no Rust.

  --no-build   take the images as they are
  --keep       leave it running at the end

Environment: the ports of docker-compose.yml, TIDEMILL_SOURCE_PORT and the like; COMPOSE_FILE, for an override.
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/lasting_load.sh
. "$CHECKOUT/scripts/servers/lasting_load.sh"

SERVICES='cdc-ingest dwd-cleaner dim-joiner pg-sinker'
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
tidemill_lab() { compose run --rm --no-deps -T lab "$@"; }

# So many instances of each service, all healthy: a Kafka stage is when it has its partitions.
up() { # INSTANCES
  local service scales=()
  for service in $SERVICES; do scales+=(--scale "$service=$1"); done
  compose up -d --no-build --wait --wait-timeout 120 "${scales[@]}"
}

capturing() { # prints the container of the cdc-ingest that captures
  local container
  for container in $(compose ps -q cdc-ingest); do
    ! docker exec "$container" cdc-ingest health ready >/dev/null 2>&1 || echo "$container"
  done
}

clean_up() {
  local status=$?
  give_up_load
  # shellcheck disable=SC2086 # a list
  [ "$status" -eq 0 ] || { compose ps -a >&2; compose logs --tail 15 $SERVICES >&2; } || true
  [ "$keep" = yes ] || compose down --volumes >&2 || status=1
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
tidemill_lab ready --timeout-s 120
tidemill_lab compare --timeout-s 60
tidemill_lab validate
headline "restarting each service while orders flow"
begin_load
for service in $SERVICES; do
  sleep 3
  say "restarting $service"
  compose restart "$service"
done
say 'killing pg-sinker'
docker kill --signal KILL "$(compose ps -q pg-sinker)" >/dev/null
up 1 # Docker takes a kill by hand for a wish, and does not restart
end_load
headline "each service is made anew while orders flow"
begin_load
for service in $SERVICES; do
  sleep 3
  compose up -d --no-build --no-deps --force-recreate --wait --wait-timeout 120 "$service"
done
end_load
headline "two instances of each and one again, while orders flow"
begin_load
sleep 3
up 2
sleep 3
up 1
end_load
headline 'two cdc-ingest; the one that captures is killed'
up 2
docker kill --signal KILL "$(capturing)" >/dev/null
tidemill_lab ready
tidemill_lab validate
headline 'comparing'
up 1
tidemill_lab ready
tidemill_lab compare --timeout-s 60
headline 'all of it is right'
