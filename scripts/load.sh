#!/usr/bin/env bash
# The continuous test of a running pipeline. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/load.sh [ARGUMENT OF tidemill-lab load]...

Sends many orders, each through PENDING, SHIPPED and COMPLETED, through the pipeline that runs (scripts/demo.sh starts
one), waits until all have arrived, and compares every row of them with the source, value by value. Ends with counts,
throughput and latency percentiles. The exit code is 0 if nothing is missing and nothing wrong.

  --orders N            how many orders                                       1000
  --rate R              changes a second, each its own commit;                0
                        0: as fast as possible, up to 100 orders in a commit
  --users U             how many users they belong to                         100
  --timeout-s SECONDS   give up when nothing new reached the sink for so long 120
  --json                one line of JSON instead of the report

Where the pipeline runs is said by the variables that scripts/servers.sh env prints, or by flags: all of them are in
  tidemill-lab load --help
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
exec "$lab" load "$@"
