#!/usr/bin/env bash
# The pipeline of docker-compose.yml from nothing, validated, disturbed and compared. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/compose-check.sh [--no-build] [--keep]

Starts all of docker-compose.yml as a project of its own ("tidemill-check", with data of its own), looks at the images and
at what Prometheus sees, validates it, kills a service's process and waits until Docker has brought it back, restarts each
service while orders flow, makes each anew, scales each up to two instances and down to one while orders flow, has a
second cdc-ingest take over, compares the sink with the source, value by value, and takes all of it down again.
The exit code is 0 if all of it is right. It wants Docker 20.10 or newer with Compose 2, and curl; no Rust. The process is
killed from this machine, so the engine must run on it, and the user be root.

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
IMAGE_MB_MAX=50
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

container_of() { compose ps -q "$1"; }

inspected() { # CONTAINER FORMAT
  docker inspect -f "$2" "$1"
}

# Each service: a user that is not root, a root file system that nobody writes to, no shell, a small image.
images_are_sound() {
  local service container image bytes
  for service in $SERVICES; do
    container=$(container_of "$service")
    image=$(inspected "$container" '{{.Image}}')
    case $(inspected "$container" '{{.Config.User}}') in
      '' | 0 | 0:* | root | root:*) fail "$service runs as root" ;;
    esac
    [ "$(inspected "$container" '{{.HostConfig.ReadonlyRootfs}}')" = true ] || fail "$service may write to its root file system"
    ! docker exec "$container" sh -c true >/dev/null 2>&1 || fail "the image of $service has a shell"
    bytes=$(docker image inspect -f '{{.Size}}' "$image")
    say "$service: $((bytes / 1000000)) MB"
    [ "$bytes" -lt $((IMAGE_MB_MAX * 1000000)) ] || fail "the image of $service has $IMAGE_MB_MAX MB or more"
  done
}

prometheus() { # PATH
  curl -fsS "http://127.0.0.1:${TIDEMILL_PROMETHEUS_PORT:-9090}/api/v1/$1"
}

# How often Prometheus says that a target or a rule has this health.
healthy() { # PATH HEALTH
  prometheus "$1" | grep -o "\"health\":\"$2\"" | wc -l
}

# Prometheus reaches each service, and has evaluated each rule without an error.
prometheus_sees_all() {
  local deadline=$((SECONDS + 60)) rules
  rules=$(grep -c -- '- alert:' monitoring/alerts.yml)
  until [ "$(healthy targets up)" -eq 4 ] && [ "$(healthy rules ok)" -eq "$rules" ]; do
    [ "$SECONDS" -lt "$deadline" ] ||
      fail "Prometheus reaches $(healthy targets up) of 4 services, and $(healthy rules ok) of $rules rules are right"
    sleep 1
  done
}

# The process dies, which is no wish of anybody: the restart policy brings the service back.
comes_back_by_itself() { # SERVICE
  local container deadline=$((SECONDS + 120))
  container=$(container_of "$1")
  kill -KILL "$(inspected "$container" '{{.State.Pid}}')" || fail "the process of $1 cannot be killed from here: see --help"
  until [ "$(inspected "$container" '{{.RestartCount}} {{.State.Health.Status}}')" = '1 healthy' ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "$1 was not brought back within 120 s"
    sleep 1
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
headline 'looking at the images, and at what Prometheus sees'
images_are_sound
prometheus_sees_all
headline 'validating'
tidemill_lab ready --timeout-s 120
tidemill_lab compare --timeout-s 60
tidemill_lab validate
headline 'a process is killed, and Docker brings its service back'
begin_load
comes_back_by_itself dwd-cleaner
end_load
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
