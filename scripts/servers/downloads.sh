# shellcheck shell=bash
# The servers' programs, fetched by Maven into $DOWNLOADS once.
# A download is unpacked beside its place ($unfinished) and moved there when it is whole.

version_in_pom() { # PROPERTY
  sed -n "s:.*<$1>\(.*\)</$1>.*:\1:p" "$SERVERS_FOLDER/pom.xml"
}

postgres_majors_in_pom() {
  sed -n 's:.*<postgres\.\([0-9]*\)\.version>.*:\1:p' "$SERVERS_FOLDER/pom.xml" | paste -s -d ' ' -
}

postgres_platform() {
  case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) echo linux-amd64 ;;
    Linux-aarch64 | Linux-arm64) echo linux-arm64v8 ;;
    Darwin-x86_64) echo darwin-amd64 ;;
    Darwin-arm64) echo darwin-arm64v8 ;;
    *) echo unknown ;;
  esac
}

KAFKA_VERSION=$(version_in_pom kafka.version)
KAFKA_LIBS=$DOWNLOADS/kafka-$KAFKA_VERSION
FLUSS_VERSION=$(version_in_pom fluss.version)
FLUSS_LIBS=$DOWNLOADS/fluss-$FLUSS_VERSION
POSTGRES_MAJOR=${TIDEMILL_POSTGRES_VERSION:-18}
POSTGRES_VERSION=$(version_in_pom "postgres.$POSTGRES_MAJOR.version")
POSTGRES_PLATFORM=$(postgres_platform)
POSTGRES_DOWNLOAD=$DOWNLOADS/postgres-$POSTGRES_VERSION-$POSTGRES_PLATFORM

run_maven() { # ARGUMENT...
  local log=$DOWNLOADS/maven.log
  command -v mvn >/dev/null || fail "Maven (mvn) is not installed, and the servers are fetched with it: install maven"
  mvn -q -B -ntp -Dstyle.color=never -f "$SERVERS_FOLDER/pom.xml" "$@" >"$log" 2>&1 && return 0
  grep -m 3 '^\[ERROR\]' "$log" >&2 || cat "$log" >&2
  fail "Maven could not fetch the servers (all of it in $log): check the network, or Maven's proxy and mirror settings"
}

move_into_place() { # FROM TO
  [ -e "$2" ] || mv "$1" "$2"
  rm -rf "$1"
}

fetch_kafka() {
  [ ! -d "$KAFKA_LIBS" ] || return 0
  unfinished="$KAFKA_LIBS.unfinished.$$"
  say "fetching Kafka $KAFKA_VERSION (54 MB)"
  run_maven -P kafka dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$unfinished"
  move_into_place "$unfinished" "$KAFKA_LIBS"
  say "Kafka $KAFKA_VERSION is fetched"
}

require_known_major() {
  [ -n "${TIDEMILL_POSTGRES_BIN-}" ] || [ -n "$POSTGRES_VERSION" ] \
    || fail "there is no PostgreSQL '$POSTGRES_MAJOR' to download: set TIDEMILL_POSTGRES_VERSION to one of $(postgres_majors_in_pom)"
}

fetch_postgres() {
  [ -z "${TIDEMILL_POSTGRES_BIN-}" ] || return 0
  [ ! -d "$POSTGRES_DOWNLOAD" ] || return 0
  [ "$POSTGRES_PLATFORM" != unknown ] \
    || fail "there is no PostgreSQL to download for $(uname -s) on $(uname -m): install PostgreSQL 14 or newer and set TIDEMILL_POSTGRES_BIN to its bin folder"
  unfinished="$POSTGRES_DOWNLOAD.unfinished.$$"
  say "fetching PostgreSQL $POSTGRES_VERSION for $POSTGRES_PLATFORM (15 MB)"
  run_maven -P postgres dependency:unpack-dependencies \
    -Dpostgres.version="$POSTGRES_VERSION" -Dpostgres.platform="$POSTGRES_PLATFORM" \
    -DoutputDirectory="$unfinished/jar" -Dmdep.includes='**/*.txz' -DmarkersDirectory="$unfinished/markers"
  mkdir "$unfinished/server"
  tar --no-same-owner -xJf "$unfinished"/jar/*.txz -C "$unfinished/server" \
    || fail "could not unpack PostgreSQL: is xz installed? (package xz-utils or xz)"
  "$unfinished/server/bin/postgres" --version >/dev/null \
    || fail "the downloaded PostgreSQL does not run here: install PostgreSQL 14 or newer and set TIDEMILL_POSTGRES_BIN to its bin folder"
  move_into_place "$unfinished/server" "$POSTGRES_DOWNLOAD"
  say "PostgreSQL $POSTGRES_VERSION is fetched"
}

fetch_fluss() {
  [ ! -d "$FLUSS_LIBS" ] || return 0
  unfinished="$FLUSS_LIBS.unfinished.$$"
  say "fetching Fluss $FLUSS_VERSION (85 MB)"
  run_maven -P fluss dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$unfinished"
  move_into_place "$unfinished" "$FLUSS_LIBS"
  say "Fluss $FLUSS_VERSION is fetched"
}

fetch_whole() ( # FUNCTION...: what is cut off leaves nothing behind
  unfinished=$DOWNLOADS/nothing
  trap 'rm -rf "$unfinished"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  mkdir -p "$DOWNLOADS"
  for fetch_one in "$@"; do
    "$fetch_one"
  done
)

fetch() {
  require_known_major
  fetch_whole fetch_kafka fetch_postgres
}
