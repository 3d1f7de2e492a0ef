#!/usr/bin/env bash
# Holds the manifests in k8s/ against the schemas of Kubernetes and against our own rules. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/k8s-validate.sh [--install] [--write]

Builds k8s/dev and k8s/production with kustomize, and holds each object against the schemas of the newest three versions of Kubernetes
(unknown keys are refused) and against rules of our own: the Pod Security level "restricted", probes, resources, disruption budgets,
network policies, spreading, ports and topics as in config/, no more replicas by lag than partitions. Looks whether the alert rules for
the Prometheus Operator are those of monitoring/alerts.yml. No cluster is needed. The exit code is 0 if all of it was looked at and is right.

It wants kustomize, or kubectl 1.24 or newer, and the Python package kubernetes-validate.

  --install   get what is missing first, into TIDEMILL_TOOLS: kubernetes-validate by pip (some seconds), kustomize by go install
  --write     make the alert rules for the Prometheus Operator from monitoring/alerts.yml anew
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"

TOOLS=${TIDEMILL_TOOLS:-$HOME/.cache/tidemill-ci/tools}
KUSTOMIZE_VERSION=v5.7.1
SCHEMAS_VERSION=1.37.0 # of kubernetes-validate; its newest version of Kubernetes is the same
SCHEMAS=$TOOLS/kubernetes-validate-$SCHEMAS_VERSION
RULE=k8s/components/prometheus-operator/prometheus-rule.yaml

install=no
write=no

read_arguments() {
  local argument
  for argument in "$@"; do
    case $argument in
      --install) install=yes ;;
      --write) write=yes ;;
      -h | --help)
        usage
        exit 0
        ;;
      *) fail "there is no option '$argument': see scripts/k8s-validate.sh --help" ;;
    esac
  done
}

kustomize_is_there() { command -v kustomize >/dev/null || [ -x "$TOOLS/bin/kustomize" ] || command -v kubectl >/dev/null; }

not_checked() { fail "NOT CHECKED: $1"; } # WHY

install_missing() {
  if ! kustomize_is_there; then
    command -v go >/dev/null || not_checked 'neither kustomize nor kubectl is there, and no Go to compile kustomize'
    say "compiling kustomize $KUSTOMIZE_VERSION"
    GOBIN=$TOOLS/bin go install "sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE_VERSION" || not_checked 'kustomize cannot be compiled, see above'
  fi
  if [ ! -e "$SCHEMAS/complete" ]; then
    say "installing kubernetes-validate $SCHEMAS_VERSION"
    python3 -m venv --clear "$SCHEMAS"
    "$SCHEMAS/bin/pip" install -q --disable-pip-version-check "kubernetes-validate==$SCHEMAS_VERSION" ||
      not_checked 'kubernetes-validate cannot be installed, see above'
    touch "$SCHEMAS/complete"
  fi
}

require_tools() {
  [ "$install" = no ] || install_missing
  kustomize_is_there || not_checked 'neither kustomize nor kubectl is there: scripts/k8s-validate.sh --install, which wants Go'
  [ -e "$SCHEMAS/complete" ] || not_checked 'kubernetes-validate is not there: scripts/k8s-validate.sh --install, which wants python3-venv'
}

built() { # OVERLAY
  PATH=$PATH:$TOOLS/bin
  if command -v kustomize >/dev/null; then kustomize build "$1"; else kubectl kustomize "$1"; fi
}

# The same groups, two steps further in.
rule() {
  cat <<'EOT'
# Made from monitoring/alerts.yml by scripts/k8s-validate.sh --write.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: tidemill
spec:
EOT
  sed -n '/^groups:/,$s/^\(.\)/  \1/p' monitoring/alerts.yml
}

main() {
  local overlay bad=0
  read_arguments "$@"
  cd "$CHECKOUT"
  [ "$write" = no ] || rule >"$RULE"
  require_tools
  rule | diff "$RULE" - >&2 || fail "$RULE is not monitoring/alerts.yml: scripts/k8s-validate.sh --write"
  for overlay in k8s/dev k8s/production; do
    headline "$overlay"
    built "$overlay" | "$SCHEMAS/bin/python" scripts/k8s-rules.py || bad=1
  done
  [ "$bad" -eq 0 ] || fail 'manifests are wrong, see above'
}

main "$@"
