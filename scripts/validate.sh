#!/usr/bin/env bash
# The real-time validation of a running pipeline. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/validate.sh [ARGUMENT OF tidemill-lab validate]...

Validates the pipeline that runs (scripts/demo.sh starts one): looks at databases, broker, services and slot, sends an
order of its own through PENDING, SHIPPED and COMPLETED, looks into every layer, compares the sink with the source value
by value, and measures each hop. The exit code is 0 if all of it is right.

  --timeout-s SECONDS   longest wait for one change to reach the sink   30

Where the pipeline runs is said by the variables that scripts/servers.sh env prints, or by flags: all of them are in
  tidemill-lab validate --help
CARGO_TARGET_DIR is heeded; the program is built where it is missing.
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
esac
cd "$CHECKOUT"
lab=${CARGO_TARGET_DIR:-target}/release/tidemill-lab
[ -x "$lab" ] || cargo build --release -p lab >&2
exec "$lab" validate "$@"
