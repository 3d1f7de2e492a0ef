#!/usr/bin/env bash
# The pipeline of k8s/dev in the cluster of kubectl, validated, disturbed and compared. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/k8s-check.sh [--keep]

Applies k8s/dev (namespace "tidemill", with databases and broker of its own), waits until all of it is ready, and validates
it. While orders flow, and for each service in turn, it kills a pod, rolls the service over, and restarts all its pods at
once. It compares the sink with the source, value by value, says for each step how long the slowest change took from the
source to the sink, and removes the namespace again. The exit code is 0 if all of it is right, however long that was.

It wants kubectl with the right context, a cluster of which you may make namespaces, and the images of the Dockerfile's five
targets where its nodes find them, as tidemill/cdc-ingest:dev and so on. It refuses a namespace "tidemill" that is there.

  --keep   leave the namespace at the end
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/lasting_load.sh
. "$CHECKOUT/scripts/servers/lasting_load.sh"
# shellcheck source=scripts/servers/ticks.sh
. "$CHECKOUT/scripts/servers/ticks.sh"

WORKLOADS='deployment/cdc-ingest statefulset/dwd-cleaner statefulset/dim-joiner statefulset/pg-sinker'
keep=no

for argument in "$@"; do
  case $argument in
    --keep) keep=yes ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail "unknown argument '$argument': see scripts/k8s-check.sh --help" ;;
  esac
done

k() { kubectl --namespace tidemill "$@"; }

# Of the pair the one that captures; the other waits for the slot. Prints NAME and ADDRESS.
capturing() {
  local pod address tries=120
  while [ "$tries" -gt 0 ]; do
    while read -r pod address; do
      ! k exec "$pod" -- cdc-ingest health ready >/dev/null 2>&1 || { echo "$pod $address"; return 0; }
    done < <(k get pods -l app.kubernetes.io/name=cdc-ingest --field-selector status.phase=Running \
      -o 'jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{"\n"}{end}')
    tries=$((tries - 1))
    sleep 0.5
  done
  fail 'no pod of cdc-ingest captures'
}

on_source() { k exec source-0 -- psql -qtA -v ON_ERROR_STOP=1 -U postgres -d source_db -c "$1"; }
on_sink() { k exec sink-0 -- psql -qtA -v ON_ERROR_STOP=1 -U postgres -d sink_db -c "$1"; }

tidemill_lab() { k exec lab -- tidemill-lab "$@"; }

lab() { # the same, for what asks the one that captures
  local found
  found=$(capturing)
  tidemill_lab "$@" --cdc-ingest-url "http://${found#* }:8081"
}

PODS=8 # two of each service

wait_until_complete() { # WORKLOAD...
  local workload
  for workload in "$@"; do
    k rollout status "$workload" --timeout=300s
  done
}

# Whoever was deleted is gone when kubectl comes back, and its successor is not ready yet: so many can only be the new ones.
wait_until_all_are_ready() {
  local deadline=$((SECONDS + 300))
  until [ "$(k get pods -l app.kubernetes.io/part-of=tidemill \
    -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep -c True)" -eq "$PODS" ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "not all pods are ready after 300 s"
    sleep 0.2
  done
}

# A kill: it is not asked to stop.
kill_pod() { # POD
  k delete pod "$1" --force --grace-period=0
  wait_until_all_are_ready
}

roll_over() { # WORKLOAD
  k rollout restart "$1"
  wait_until_complete "$1"
}

restart_all_at_once() { # SERVICE
  k delete pods -l "app.kubernetes.io/name=$1"
  wait_until_all_are_ready
}

disturb() { # WORKLOAD
  local service=${1#*/} pod
  case $service in
    cdc-ingest) pod=$(capturing) && pod=${pod% *} ;;
    *) pod=$service-0 ;;
  esac
  timed "$service: a pod killed" kill_pod "$pod"
  timed "$service: rolled over" roll_over "$1"
  timed "$service: all pods restarted at once" restart_all_at_once "$service"
}

clean_up() {
  local status=$?
  give_up_load
  [ -z "$ticks" ] || give_up_ticks >/dev/null 2>&1 || true
  if [ "$status" -ne 0 ]; then
    k get pods -o wide >&2 || true
    for workload in $WORKLOADS; do k logs "$workload" --tail=15 >&2 || true; done
  fi
  [ "$keep" = yes ] || kubectl delete namespace tidemill --timeout=180s >&2 || status=1
  exit "$status"
}

! kubectl get namespace tidemill >/dev/null 2>&1 || fail 'there is a namespace "tidemill" already: remove it, or use another cluster'
trap clean_up EXIT
headline 'applying k8s/dev'
kubectl apply -k "$CHECKOUT/k8s/dev"
# shellcheck disable=SC2086 # a list
wait_until_complete statefulset/source statefulset/sink statefulset/kafka $WORKLOADS
k wait --for=condition=Ready pod/lab --timeout=120s
headline 'validating'
lab ready --timeout-s 120
lab compare --timeout-s 60
lab validate
headline 'each service is killed, rolled over and restarted, while orders flow'
begin_load
begin_ticks
timed 'nothing' sleep 10
for workload in $WORKLOADS; do disturb "$workload"; done
say 'the last restart is complete'
end_ticks
end_load
headline 'comparing'
lab ready
lab compare --timeout-s 60
headline 'from the commit at the source to the commit in the sink'
tell_standstills
headline 'all of it is right'
