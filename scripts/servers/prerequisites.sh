# shellcheck shell=bash
# What must be installed before anything can be built or run: what of it is missing, and how to install that here.
# Wants CHECKOUT and java.sh.

OLDEST_RUST=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$CHECKOUT/Cargo.toml")

rust_is_there() {
  local version
  version=$(cd "$CHECKOUT" && rustc --version 2>/dev/null | cut -d ' ' -f 2) || return 1
  command -v cargo >/dev/null && [ -n "$version" ] && is_at_least "${version%%-*}" "$OLDEST_RUST"
}

is_at_least() { # VERSION OLDEST, both MAJOR.MINOR[.PATCH]
  local major=${1%%.*} minor=${1#*.} oldest_major=${2%%.*} oldest_minor=${2#*.}
  minor=${minor%%.*}
  oldest_minor=${oldest_minor%%.*}
  [ "$major" -gt "$oldest_major" ] || { [ "$major" -eq "$oldest_major" ] && [ "$minor" -ge "$oldest_minor" ]; }
}

unpacks_xz() { [ "$(uname -s)" = Darwin ] || command -v xz >/dev/null || [ -n "${TIDEMILL_POSTGRES_BIN-}" ]; }

openssl_is_there() {
  if [ "$(uname -s)" = Darwin ]; then [ -d "$(brew --prefix openssl@3 2>/dev/null)" ]; else pkg-config --exists openssl 2>/dev/null; fi
}

# One line for each thing that is missing: its name, and its packages for apt-get, dnf and brew ("-" where none is needed).
missing_prerequisites() {
  rust_is_there || echo "Rust $OLDEST_RUST or newer|rustup|rustup|rustup"
  command -v cc >/dev/null || echo "a C compiler (cc)|build-essential|gcc gcc-c++|xcode"
  openssl_is_there || echo "OpenSSL's headers|libssl-dev pkg-config|openssl-devel pkgconf|openssl@3"
  command -v make >/dev/null || echo "make|build-essential|make|xcode"
  [ "$(java_version)" -ge "$OLDEST_JAVA" ] || echo "a JDK $OLDEST_JAVA or newer|$(apt_jdk)|java-latest-openjdk-headless|openjdk"
  command -v mvn >/dev/null || echo "Maven (mvn)|maven|maven|maven"
  unpacks_xz || echo "xz|xz-utils|xz|-"
}

apt_jdk() {
  if apt-cache show openjdk-17-jdk-headless >/dev/null 2>&1; then echo openjdk-17-jdk-headless; else echo default-jdk-headless; fi
}

missing_names() { missing_prerequisites | cut -d '|' -f 1 | paste -s -d ',' - | sed 's/,/, /g'; }

missing_packages() { # COLUMN: 2 apt-get, 3 dnf, 4 brew
  missing_prerequisites | cut -d '|' -f "$1" | tr ' ' '\n' | grep -v -x -e - -e rustup -e xcode | sort -u | paste -s -d ' ' - || true
}

install_line() {
  local line='' packages sudo='' rust='curl -sSf https://sh.rustup.rs | sh -s -- -y && . ~/.cargo/env'
  [ "$(id -u)" -eq 0 ] || sudo='sudo '
  if command -v apt-get >/dev/null; then
    packages=$(missing_packages 2)
    line=${packages:+"${sudo}apt-get update && ${sudo}apt-get install -y $packages"}
  elif command -v dnf >/dev/null; then
    packages=$(missing_packages 3)
    line=${packages:+"${sudo}dnf install -y $packages"}
  else
    packages=$(missing_packages 4)
    line=${packages:+"brew install $packages"}
    case $(missing_prerequisites) in *'|xcode'*) line="xcode-select --install${line:+; $line}" ;; esac
  fi
  ! command -v rustup >/dev/null || rust='rustup toolchain install stable && rustup default stable'
  case $(missing_prerequisites) in *'|rustup|'*) line="${line:+$line && }$rust" ;; esac
  echo "$line"
}

require_prerequisites() {
  local names
  names=$(missing_names)
  [ -n "$names" ] || return 0
  complain "missing here: $names. This installs it:"
  install_line >&2
  exit 1
}
