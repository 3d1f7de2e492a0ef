#!/usr/bin/env bash
# The order analysis report of a running pipeline. See --help.
set -euo pipefail

usage() {
  cat <<'EOT'
Usage: scripts/report.sh [--html FILE]

Prints the order analysis report from the sink of the pipeline that runs (scripts/demo.sh starts one): sales by day, hour,
city, tier, category and price band, the way of orders through their statuses and how long it takes, top products and
users, the share of unknown users, and how fresh all this is. The figures are of one moment, from the views of schema ads.

  --html FILE   write it as one page of HTML as well: plots, light and dark, for a screen, a phone and print; it loads
                nothing from anywhere

Where the sink is, is said by the variables that scripts/servers.sh env prints, or by flags: all of them are in
  tidemill-lab report --help
CARGO_TARGET_DIR is heeded; the program is built where it is missing.
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CALLED_IN=$PWD

case ${1:-} in
  -h | --help)
    usage
    exit 0
    ;;
esac
cd "$CHECKOUT"
lab=${CARGO_TARGET_DIR:-target}/release/tidemill-lab
[ -x "$lab" ] || cargo build --release -p lab >&2
lab=$(realpath "$lab")
cd "$CALLED_IN" # a file that an argument names is there
exec "$lab" report "$@"
