#!/usr/bin/env bash
# The pipeline of k8s/dev in the cluster of kubectl, validated, disturbed and compared. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/k8s-check.sh [--keep]

Applies k8s/dev (namespace "tidemill", with databases and broker of its own), waits until all of it is ready, validates it,
kills a pod of each service and rolls each service over while orders flow, compares the sink with the source, value by
value, and removes the namespace again. The exit code is 0 if all of it is right.

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

tidemill_lab() { k exec lab -- tidemill-lab "$@"; }

lab() { # the same, for what asks the one that captures
  local found
  found=$(capturing)
  tidemill_lab "$@" --cdc-ingest-url "http://${found#* }:8081"
}

wait_until_ready() {
  local workload
  for workload in "$@"; do
    k rollout status "$workload" --timeout=300s
  done
}

clean_up() {
  local status=$?
  give_up_load
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
wait_until_ready statefulset/source statefulset/sink statefulset/kafka $WORKLOADS
k wait --for=condition=Ready pod/lab --timeout=120s
headline 'validating'
lab ready --timeout-s 120
lab compare --timeout-s 60
lab validate
headline "killing a pod of each service, and rolling each over, while orders flow"
begin_load
sleep 3
found=$(capturing)
for pod in "${found% *}" dwd-cleaner-0 dim-joiner-1 pg-sinker-0; do
  k delete pod "$pod" --force --grace-period=0 # a kill: it is not asked to stop
  # shellcheck disable=SC2086
  wait_until_ready $WORKLOADS
done
for workload in $WORKLOADS; do
  k rollout restart "$workload"
  wait_until_ready "$workload"
done
say 'the last rollout is complete'
end_load
headline 'comparing'
lab ready
lab compare --timeout-s 60
headline 'all of it is right'
