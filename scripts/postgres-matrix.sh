#!/usr/bin/env bash
# The tests that depend on the version of PostgreSQL, on one version after the other. See --help.
set -euo pipefail

# The end-to-end tests of capture, by pieces of their names: MODULE::TEST.
FILTERS='capture first_copy:: source_changes:: rolled_up:: warehouse::'
VERSIONS='14 15 16 17 18'

usage() {
  cat <<EOT
Usage: scripts/postgres-matrix.sh [--versions "MAJOR..."] [ARGUMENT OF cargo test]...

Builds once, runs the tests on each of these PostgreSQL versions in turn, with servers of their own, and ends with a
line for each version: how many tests passed, how many failed, how long it took. The exit code is 0 if on every version
some test ran and none failed. The logs of versions that failed stay in .tidemill/postgres-matrix.

  --versions "MAJOR..."   on these versions only   $VERSIONS

Without arguments of cargo test, the end-to-end tests of capture run:
  --test e2e -- $FILTERS

What scripts/test.sh heeds is heeded here.
EOT
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/java.sh
. "$CHECKOUT/scripts/servers/java.sh"
# shellcheck source=scripts/servers/prerequisites.sh
. "$CHECKOUT/scripts/servers/prerequisites.sh"

LOGS=$CHECKOUT/.tidemill/postgres-matrix

versions=$VERSIONS
arguments=() # of cargo test
summary=''   # a line for each version that is done
failed=no    # whether one of them has failed

read_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --versions)
        [ -n "${2-}" ] || fail "--versions wants major versions: see scripts/postgres-matrix.sh --help"
        versions=$2
        shift
        ;;
      *) break ;;
    esac
    shift
  done
  # shellcheck disable=SC2086 # a list
  [ $# -gt 0 ] || set -- --test e2e -- $FILTERS
  arguments=("$@")
}

# The programs and tests of all versions: a failure of the build is said once. What stands before "--" says what is built.
build() {
  local argument selection=()
  for argument in "${arguments[@]}"; do
    [ "$argument" != -- ] || break
    selection+=("$argument")
  done
  headline "build"
  cargo build --workspace --bins
  cargo test --workspace --no-run ${selection[@]+"${selection[@]}"} # an empty list is an error to older bash
}

run_tests() { # MAJOR
  export TIDEMILL_FAILED_TEST_LOGS=$LOGS/$1
  "$CHECKOUT/scripts/test.sh" --tests-only --postgres "$1" "${arguments[@]}" | tee "$(output_of "$1")"
}

output_of() { echo "$LOGS/$1.out"; }

count_of() { # MAJOR passed|failed: the sum over all test programs
  sed -n "s/^test result:.* \([0-9]*\) $2;.*/\1/p" "$(output_of "$1")" | awk '{ sum += $1 } END { print sum + 0 }'
}

run_version() { # MAJOR
  local began status=0 passed
  began=$(now_ms)
  headline "PostgreSQL $1"
  run_tests "$1" || status=$?
  [ "$status" -lt 128 ] || exit "$status" # a signal has ended it
  passed=$(count_of "$1" passed)
  [ "$passed" -gt 0 ] || status=1
  [ "$status" -eq 0 ] || failed=yes
  summary+=$(summary_line "$1" "$status" "$passed" "$(count_of "$1" failed)" "$(($(now_ms) - began))")$'\n'
}

summary_line() { # MAJOR STATUS PASSED FAILED MILLISECONDS
  local colour=$GREEN
  [ "$2" -eq 0 ] || colour=$RED
  printf '%sPostgreSQL %s   %3d passed   %3d failed   %4d.%d s%s' \
    "$colour" "$1" "$3" "$4" $(($5 / 1000)) $(($5 % 1000 / 100)) "$PLAIN"
}

main() {
  local version
  read_arguments "$@"
  cd "$CHECKOUT"
  require_prerequisites
  rm -rf "$LOGS"
  mkdir -p "$LOGS"
  build
  for version in $versions; do
    run_version "$version"
  done
  printf '\n%s' "$summary"
  [ "$failed" = no ] || fail "the tests do not pass on every version; output and logs are in $LOGS"
}

main "$@"
