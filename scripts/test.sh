#!/usr/bin/env bash
# Runs the linters and all tests, with servers of their own. See --help.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: scripts/test.sh [--tests-only] [--postgres MAJOR] [--fluss] [ARGUMENT OF cargo test]...

Checks the formatting, runs clippy, builds all, starts PostgreSQL and Kafka on free ports with data of their own, runs
"cargo test --workspace ARGUMENT..." against them, stops them and removes the data. The exit code is that of cargo test;
where the tests fail, the logs stay, and the last line says where.

  --tests-only       leave out formatting and clippy
  --postgres MAJOR   run on this major version of PostgreSQL, 14 to 18 (sets TIDEMILL_POSTGRES_VERSION)
  --fluss            build with the feature "fluss", start an Apache Fluss as well, and run the tests of dimensions that are read from it,
                     where no ARGUMENT names others

These come first, in any order. The end-to-end tests of the first copy alone, on PostgreSQL 14:
  scripts/test.sh --tests-only --postgres 14 --test e2e -- first_copy

The tests find the servers by what scripts/servers.sh env prints, the script itself by TIDEMILL_SERVERS_SH, and the
programs by TIDEMILL_BIN_DIR. CARGO_TARGET_DIR, TIDEMILL_DOWNLOADS and TIDEMILL_FAILED_TEST_LOGS (a folder, for the logs
of tests that failed) are heeded.

The tests of the console want Chromium, that of the dashboard Prometheus (apt-get install chromium prometheus).
EOF
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"
# shellcheck source=scripts/servers/ports.sh
. "$CHECKOUT/scripts/servers/ports.sh"
# shellcheck source=scripts/servers/java.sh
. "$CHECKOUT/scripts/servers/java.sh"
# shellcheck source=scripts/servers/prerequisites.sh
. "$CHECKOUT/scripts/servers/prerequisites.sh"

lints=yes
fluss=no
features=()  # of cargo
arguments=() # of cargo test

read_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --tests-only) lints=no ;;
      --postgres)
        [ -n "${2-}" ] || fail "--postgres wants a major version: see scripts/test.sh --help"
        export TIDEMILL_POSTGRES_VERSION=$2
        shift
        ;;
      --fluss)
        fluss=yes
        features=(--features 'dim-joiner/fluss e2e/fluss')
        ;;
      *) break ;;
    esac
    shift
  done
  [ $# -gt 0 ] || [ "$fluss" = no ] || set -- --lib --test e2e -- fluss
  arguments=("$@")
}

lint() {
  headline "formatting"
  cargo fmt --all --check || fail "the formatting is not rustfmt's: run cargo fmt --all"
  headline "clippy"
  cargo clippy --workspace --all-targets ${features[@]+"${features[@]}"} -- -D warnings || fail "clippy has found something, see above"
  # A workspace of its own, with the same rules and the same versions.
  cp Cargo.lock lab/micro/Cargo.lock
  cargo fmt --manifest-path lab/micro/Cargo.toml --check || fail "the formatting of lab/micro is not rustfmt's"
  cargo clippy --manifest-path lab/micro/Cargo.toml --all-targets -- -D warnings || fail "clippy has found something in lab/micro, see above"
}

choose_places() {
  local ports
  # shellcheck disable=SC2207 # seven numbers
  ports=($(free_ports 7))
  export TIDEMILL_STATE="$CHECKOUT/.tidemill/test-$$"
  export TIDEMILL_SOURCE_PORT=${ports[0]} TIDEMILL_SINK_PORT=${ports[1]}
  export TIDEMILL_KAFKA_PORT=${ports[2]} TIDEMILL_KAFKA_CONTROLLER_PORT=${ports[3]}
  export TIDEMILL_FLUSS_PORT=${ports[4]} TIDEMILL_FLUSS_TABLET_PORT=${ports[5]} TIDEMILL_FLUSS_ZOOKEEPER_PORT=${ports[6]}
  export TIDEMILL_KAFKA_HEAP=${TIDEMILL_KAFKA_HEAP:-256m}
  export TIDEMILL_SERVERS_SH="$CHECKOUT/scripts/servers.sh" TIDEMILL_FLUSS_SH="$CHECKOUT/scripts/fluss.sh"
  export TIDEMILL_BIN_DIR="$CARGO_TARGET_DIR/debug"
}

start_servers() {
  choose_places
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  "$TIDEMILL_SERVERS_SH" start
  eval "$("$TIDEMILL_SERVERS_SH" env)"
  [ "$fluss" = yes ] || return 0
  "$TIDEMILL_FLUSS_SH" start
  eval "$("$TIDEMILL_FLUSS_SH" env)"
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  if [ "$status" -eq 0 ]; then
    [ "$fluss" = no ] || "$TIDEMILL_FLUSS_SH" wipe
    "$TIDEMILL_SERVERS_SH" wipe
  else
    [ "$fluss" = no ] || "$TIDEMILL_FLUSS_SH" stop || true
    "$TIDEMILL_SERVERS_SH" kill || true
    keep_logs_only
  fi
  exit "$status"
}

keep_logs_only() {
  local kept=${TIDEMILL_FAILED_TEST_LOGS:-$CHECKOUT/.tidemill/failed-test-logs}
  rm -rf "$kept"
  cp -R "$TIDEMILL_STATE/log" "$kept" 2>/dev/null || return 0
  [ "$fluss" = no ] || "$TIDEMILL_FLUSS_SH" wipe >/dev/null 2>&1 || true
  "$TIDEMILL_SERVERS_SH" wipe >/dev/null 2>&1 || true
  say "that failed; the logs are in $kept"
}

main() {
  read_arguments "$@"
  cd "$CHECKOUT"
  mkdir -p "${CARGO_TARGET_DIR:=target}"
  CARGO_TARGET_DIR=$(cd "$CARGO_TARGET_DIR" && pwd -P)
  export CARGO_TARGET_DIR
  require_prerequisites
  "$CHECKOUT/scripts/servers.sh" fetch
  [ "$fluss" = no ] || "$CHECKOUT/scripts/fluss.sh" fetch
  [ "$lints" = no ] || lint
  headline "build"
  cargo build --workspace --bins ${features[@]+"${features[@]}"}
  headline "servers"
  start_servers
  headline "tests"
  cargo test --workspace ${features[@]+"${features[@]}"} ${arguments[@]+"${arguments[@]}"} # an empty list is an error to older bash
}

main "$@"
