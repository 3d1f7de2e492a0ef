#!/usr/bin/env bash
# Holds the dependencies against deny.toml: licences, bans, sources, and known holes. See --help.
set -euo pipefail

usage() {
  cat <<'EOF'
Usage: scripts/audit.sh [--install]

Runs "cargo deny check" with deny.toml: the licences of all crates, crates that are not wanted, where crates come from, and the
advisories of RustSec (those that cargo audit reads). Licences, bans and sources need no network but for crates that no build has fetched.

The advisories are fetched from https://github.com/RustSec/advisory-db. Where they cannot be had, this says NOT CHECKED, and the exit
code is 0 all the same; with TIDEMILL_AUDIT=strict it is 3. Anything that is found is exit code 1.

  --install   compile cargo-deny first where it is missing (some minutes, once), into TIDEMILL_TOOLS
EOF
}

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
# shellcheck source=scripts/servers/console.sh
. "$CHECKOUT/scripts/servers/console.sh"

TOOLS=${TIDEMILL_TOOLS:-$HOME/.cache/tidemill-ci/tools}
DENY_VERSION=0.20.2

deny() { PATH=$TOOLS/bin:$PATH cargo deny --all-features "$@"; }

is_there() { deny --version >/dev/null 2>&1; }

not_checked() { # WHY
  complain "NOT CHECKED: $1"
  [ "${TIDEMILL_AUDIT-}" != strict ] || exit 3
}

# Whether the advisories can be had: what is found in them is another matter.
fetch_advisories() { deny fetch db >/dev/null 2>&1; }

main() {
  case ${1-} in
    '') ;;
    --install) is_there || { say "compiling cargo-deny $DENY_VERSION" && cargo install -q --locked --root "$TOOLS" "cargo-deny@$DENY_VERSION"; } ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) fail "there is no option '$1': see scripts/audit.sh --help" ;;
  esac
  cd "$CHECKOUT"
  if ! is_there; then
    not_checked "cargo-deny is not installed, so nothing was looked at: scripts/audit.sh --install"
    return 0
  fi
  # What no build has wanted so far, of features that are off, is not on a fresh machine.
  cargo fetch --quiet --locked || fail "the crates of Cargo.lock cannot be fetched, see above"
  headline "licences, bans, sources"
  deny --offline check --hide-inclusion-graph licenses bans sources || fail "a dependency is not what deny.toml allows, see above"
  headline "advisories"
  if fetch_advisories; then
    deny --offline check --hide-inclusion-graph advisories || fail "a dependency has a known hole, see above"
  else
    not_checked "the advisories cannot be fetched from here, so known holes were not looked for"
  fi
}

main "$@"
