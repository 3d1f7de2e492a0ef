# shellcheck shell=bash
# PostgreSQL servers, each in a folder with its name below $POSTGRES_HOME, which is $STATE/postgres.
#
# PostgreSQL refuses to run as root, so for root it runs as an unprivileged user. Where that user cannot get to the state
# root (a checkout in root's home), $STATE/postgres is a link to a folder below /var/tmp.

POSTGRES_USER=postgres
POSTGRES_PASSWORD=${TIDEMILL_POSTGRES_PASSWORD:-postgres}
POSTGRES_LINK=$STATE/postgres
POSTGRES_HOME=$(cd "$POSTGRES_LINK" 2>/dev/null && pwd -P || echo "$POSTGRES_LINK")
UNPRIVILEGED_USER='' # empty: we are not root, and PostgreSQL runs as we do
AS_POSTGRES=(env)    # the command that runs another one as that user
POSTGRES_BIN=''

# --- the user ---------------------------------------------------------------------------------------------------------

choose_user() {
  [ "$(id -u)" -eq 0 ] || return 0
  if ! id tidemill >/dev/null 2>&1; then
    useradd --system --no-create-home --home-dir / --shell /bin/false tidemill >/dev/null 2>&1 || true
  fi
  if id tidemill >/dev/null 2>&1; then UNPRIVILEGED_USER=tidemill; else UNPRIVILEGED_USER=nobody; fi
  choose_way_to_become_user
}

choose_way_to_become_user() {
  local uid gid
  uid=$(id -u "$UNPRIVILEGED_USER")
  gid=$(id -g "$UNPRIVILEGED_USER")
  AS_POSTGRES=(setpriv "--reuid=$uid" "--regid=$gid" --clear-groups)
  ! becomes_user || return 0
  AS_POSTGRES=(runuser -u "$UNPRIVILEGED_USER" --)
  ! becomes_user || return 0
  # shellcheck disable=SC2016 # for the other shell to expand
  AS_POSTGRES=(su -s /bin/sh -c 'exec "$0" "$@"' "$UNPRIVILEGED_USER" --)
  ! becomes_user || return 0
  AS_POSTGRES=(sudo -u "$UNPRIVILEGED_USER" --)
  becomes_user || fail "PostgreSQL does not run as root, and none of setpriv, runuser, su, sudo can run it as $UNPRIVILEGED_USER: run this as another user"
}

becomes_user() { [ "$(cd / && "${AS_POSTGRES[@]}" id -un 2>/dev/null)" = "$UNPRIVILEGED_USER" ]; }

give_to_user() { # FILE
  [ -z "$UNPRIVILEGED_USER" ] || chown "$UNPRIVILEGED_USER" "$1"
}

user_can_enter() { # FOLDER
  [ -z "$UNPRIVILEGED_USER" ] || (cd / && "${AS_POSTGRES[@]}" test -x "$1")
}

# --- the folders ------------------------------------------------------------------------------------------------------

folder_outside() { echo "/var/tmp/tidemill-$(printf '%s' "$STATE" | cksum | cut -d ' ' -f 1)"; }

prepare_home() {
  choose_user
  if [ ! -e "$POSTGRES_LINK" ]; then
    if user_can_enter "$STATE"; then mkdir -p "$POSTGRES_LINK"; else make_home_outside; fi
  fi
  POSTGRES_HOME=$(cd "$POSTGRES_LINK" && pwd -P)
}

make_home_outside() {
  local outside
  outside=$(folder_outside)
  mkdir -m 755 "$outside" || fail "$outside is in the way and not ours: remove it, or set TIDEMILL_STATE to another folder"
  echo "PostgreSQL's part of $STATE" >"$outside/README"
  ln -sfn "$outside" "$POSTGRES_LINK"
}

# Somebody has removed the state root by hand, and with it the link: what the link led to goes too.
drop_forgotten_home() {
  local outside
  outside=$(folder_outside)
  [ ! -e "$POSTGRES_LINK" ] && [ -d "$outside" ] && [ -O "$outside" ] && [ ! -L "$outside" ] || return 0
  POSTGRES_HOME=$outside
  end_all_postgres kill
  rm -rf "$outside"
  POSTGRES_HOME=$POSTGRES_LINK
}

remove_home() {
  [ ! -L "$POSTGRES_LINK" ] || [ "$POSTGRES_HOME" != "$(folder_outside)" ] || rm -rf "$POSTGRES_HOME"
  rm -rf "$POSTGRES_LINK"
}

choose_programs() {
  if [ -n "${TIDEMILL_POSTGRES_BIN-}" ]; then
    POSTGRES_BIN=$TIDEMILL_POSTGRES_BIN
    check_installed_postgres
  elif user_can_enter "$POSTGRES_DOWNLOAD/bin"; then
    POSTGRES_BIN=$POSTGRES_DOWNLOAD/bin
  else
    POSTGRES_BIN=$POSTGRES_HOME/.programs/$POSTGRES_VERSION/bin
    copy_programs
  fi
}

installed_major() { # nothing, if there is no PostgreSQL
  "$TIDEMILL_POSTGRES_BIN/postgres" --version 2>/dev/null | sed 's/[^0-9]*\([0-9]*\).*/\1/' || true
}

check_installed_postgres() {
  local program version
  for program in initdb postgres; do
    [ -x "$POSTGRES_BIN/$program" ] || fail "TIDEMILL_POSTGRES_BIN=$POSTGRES_BIN has no program '$program': set it to the bin folder of PostgreSQL 14 or newer"
  done
  version=$(installed_major)
  [ "$version" -ge 14 ] || fail "TIDEMILL_POSTGRES_BIN=$POSTGRES_BIN is PostgreSQL $version: 14 or newer is needed"
  [ "${TIDEMILL_POSTGRES_VERSION:-$version}" = "$version" ] \
    || fail "TIDEMILL_POSTGRES_BIN=$POSTGRES_BIN is PostgreSQL $version and not TIDEMILL_POSTGRES_VERSION=$TIDEMILL_POSTGRES_VERSION: unset one of them"
  user_can_enter "$POSTGRES_BIN" || fail "the user $UNPRIVILEGED_USER cannot get to TIDEMILL_POSTGRES_BIN=$POSTGRES_BIN: install PostgreSQL where all may read it"
}

copy_programs() {
  local whole=$POSTGRES_HOME/.programs/$POSTGRES_VERSION unfinished
  [ ! -d "$whole" ] || return 0
  unfinished=$whole.unfinished.$$
  mkdir -p "$unfinished"
  cp -R "$POSTGRES_DOWNLOAD/." "$unfinished/"
  chmod -R a+rX "$POSTGRES_HOME/.programs"
  move_into_place "$unfinished" "$whole"
}

# --- the major version ------------------------------------------------------------------------------------------------

wanted_major() { if [ -n "${TIDEMILL_POSTGRES_BIN-}" ]; then installed_major; else echo "$POSTGRES_MAJOR"; fi; }

way_to_major() { # MAJOR
  if [ -z "${TIDEMILL_POSTGRES_BIN-}" ] && [ -n "$(version_in_pom "postgres.$1.version")" ]; then
    echo "TIDEMILL_POSTGRES_VERSION=$1"
  else
    echo "TIDEMILL_POSTGRES_BIN to the bin folder of PostgreSQL $1"
  fi
}

# A major version cannot start on the data of another. A server that runs is left alone, unless the caller names a version.
check_data() { # NAME...
  local name made wanted
  require_known_major
  wanted=$(wanted_major)
  for name in "$@"; do
    made=$(cat "$POSTGRES_HOME/$name/PG_VERSION" 2>/dev/null || true)
    [ "${made:-$wanted}" != "${wanted:-$made}" ] || continue
    [ -n "${TIDEMILL_POSTGRES_VERSION-}${TIDEMILL_POSTGRES_BIN-}" ] || ! postgres_is_running "$name" || continue
    complain "the data of $name was made by PostgreSQL $made, and PostgreSQL $wanted cannot start on it: set $(way_to_major "$made"), or remove the data of all servers with scripts/servers.sh wipe"
    return 1
  done
}

# --- one server -------------------------------------------------------------------------------------------------------

postgres_line() { # NAME LINE: of the file that a running server keeps (1 its process, 4 its port, 8 its state)
  sed -n "$2p" "$POSTGRES_HOME/$1/postmaster.pid" 2>/dev/null | tr -d ' ' || true
}

postgres_pid() { postgres_line "$1" 1; }
postgres_running_port() { postgres_line "$1" 4; }
postgres_is_running() { is_running "$(postgres_pid "$1")" "-D $POSTGRES_HOME/$1"; }
postgres_is_ready() { [ "$(postgres_line "$1" 8)" = ready ] && postgres_is_running "$1"; }

postgres_names() { # of all servers that have data
  local version
  for version in "$POSTGRES_HOME"/*/PG_VERSION; do
    [ ! -f "$version" ] || basename "$(dirname "$version")"
  done
}

write_postgres_settings() { # FOLDER PORT SETTING=VALUE...; ALTER SYSTEM overrules them
  local folder=$1 port=$2 setting
  shift 2
  {
    echo "port = $port"
    echo "listen_addresses = '127.0.0.1'"
    echo "unix_socket_directories = ''"
    echo "timezone = 'UTC'"
    echo "log_timezone = 'UTC'"
    for setting in "$@"; do
      printf "%s = '%s'\n" "${setting%%=*}" "$(printf '%s' "${setting#*=}" | sed "s/'/''/g")"
    done
  } >"$folder/tidemill.conf"
  give_to_user "$folder/tidemill.conf"
}

# Makes the server's data in a folder beside, and moves it to its place when all is done: a start that is cut off begins anew.
create_postgres() { # NAME DATABASE FOLDER_OF_SQL SETTING=VALUE...; DATABASE may be empty
  local name=$1 database=$2 sql_folder=$3 new="$POSTGRES_HOME/.new-$1" file
  shift 3
  rm -rf "$new"
  mkdir -m 700 "$new"
  give_to_user "$new"
  run_initdb "$name" "$new"
  echo "include 'tidemill.conf'" >>"$new/postgresql.conf"
  write_postgres_settings "$new" 5432 "$@"
  if [ -n "$database" ]; then
    leave_system_oids "$name" "$new"
    echo "CREATE DATABASE $database" | apply_sql "$name" "$new" postgres "the statement that makes $database"
    # shellcheck disable=SC2094 # the second $file is its name, for the error
    for file in "$sql_folder"/*.sql; do
      [ ! -f "$file" ] || apply_sql "$name" "$new" "$database" "${file#"$CHECKOUT"/}" <"$file"
    done
  fi
  mv "$new" "$POSTGRES_HOME/$name"
}

run_initdb() { # NAME FOLDER
  local log=$LOG_FOLDER/$1.log password_file="$2.password"
  (umask 077 && printf '%s\n' "$POSTGRES_PASSWORD" >"$password_file")
  give_to_user "$password_file"
  if ! (cd / && "${AS_POSTGRES[@]}" "$POSTGRES_BIN/initdb" -D "$2" -U "$POSTGRES_USER" -E UTF8 --locale=C \
    --auth=scram-sha-256 --pwfile="$password_file") >>"$log" 2>&1 </dev/null; then
    rm -f "$password_file"
    end_of_log "$log"
    fail "initdb could not make the data folder of $1"
  fi
  rm -f "$password_file"
}

# Runs the SQL on stdin in PostgreSQL's single-user mode, so that nobody can connect before it is done. That mode goes on
# after an error and ends well, hence the look at what it wrote.
apply_sql() { # NAME FOLDER DATABASE WHAT
  local log=$LOG_FOLDER/$1.log errors="$LOG_FOLDER/$1.sql-errors" status=0
  (cd / && "${AS_POSTGRES[@]}" "$POSTGRES_BIN/postgres" --single -j -D "$2" "$3") >>"$log" 2>"$errors" || status=$?
  cat "$errors" >>"$log"
  if [ "$status" -ne 0 ] || grep -E '(ERROR|FATAL|PANIC): ' "$errors" >&2; then
    rm -f "$errors"
    fail "$4 failed, so $1 is not started (all of it in $log); a statement there ends with a semicolon and an empty line"
  fi
  rm -f "$errors"
}

# In single-user mode the server gives out OIDs below 16384, PostgreSQL's own range, and logical replication passes over tables
# there without a word. So the numbers are used up until the range of users begins.
leave_system_oids() { # NAME FOLDER
  local block='DO $$ DECLARE given oid; BEGIN LOOP given := lo_create(0); PERFORM lo_unlink(given); EXIT WHEN given >= 16384; END LOOP; END $$;'
  echo "$block" | apply_sql "$1" "$2" postgres "the statement that leaves the system's OIDs"
}

await_postgres() { # NAME
  local log=$LOG_FOLDER/$1.log tenths=1200
  until postgres_is_ready "$1"; do
    kill -0 "$DETACHED_PID" 2>/dev/null || postgres_is_running "$1" || { end_of_log "$log"; fail "$1 ended while it started"; }
    [ "$tenths" -gt 0 ] || { end_of_log "$log"; fail "$1 is not up after 120 s"; }
    tenths=$((tenths - 1))
    sleep 0.1
  done
}

# With TIDEMILL_TLS: its certificate, and who comes in and how.
take_tls_files() { # FOLDER
  local file
  for file in server.crt server.key ca.crt pg_hba.conf; do
    cp "$TIDEMILL_TLS/$file" "$1/$file"
    give_to_user "$1/$file"
    chmod 600 "$1/$file"
  done
}

start_postgres() { # NAME PORT DATABASE FOLDER_OF_SQL SETTING=VALUE...
  local name=$1 port=$2 database=$3 sql_folder=$4
  shift 4
  [ -f "$POSTGRES_HOME/$name/PG_VERSION" ] || create_postgres "$name" "$database" "$sql_folder" "$@"
  write_postgres_settings "$POSTGRES_HOME/$name" "$port" "$@"
  [ -z "${TIDEMILL_TLS-}" ] || [ -n "$database" ] || take_tls_files "$POSTGRES_HOME/$name"
  cd /
  start_detached "$LOG_FOLDER/$name.log" "${AS_POSTGRES[@]}" "$POSTGRES_BIN/postgres" -D "$POSTGRES_HOME/$name"
  await_postgres "$name"
}

# "stop" lets clients' transactions go and writes a checkpoint (SIGINT); "kill" drops everything at once, and the next
# start recovers from the WAL (SIGQUIT).
end_postgres() { # NAME stop|kill
  local pid port mark="-D $POSTGRES_HOME/$1"
  postgres_is_running "$1" || return 0
  pid=$(postgres_pid "$1")
  port=$(postgres_running_port "$1")
  if [ "$2" = kill ] || ! signal_and_wait INT "$pid" "$mark" 30; then
    signal_and_wait QUIT "$pid" "$mark" 10 || signal_and_wait KILL "$pid" "$mark" 10 || fail "$1 (process $pid) does not end"
  fi
  await_free_port "$port"
}

# --- copies of a server's data ----------------------------------------------------------------------------------------

copy_of_postgres() { echo "$POSTGRES_HOME/.copies/$1"; } # COPY

save_postgres() { # NAME COPY
  [ -f "$POSTGRES_HOME/$1/PG_VERSION" ] || fail "$1 has no data"
  mkdir -p "$POSTGRES_HOME/.copies"
  rm -rf "$(copy_of_postgres "$2")"
  cp -a "$POSTGRES_HOME/$1" "$(copy_of_postgres "$2")"
}

restore_postgres() { # NAME COPY restore|standby
  [ -d "$(copy_of_postgres "$2")" ] || fail "there is no copy '$2': make it with save"
  choose_user
  rm -rf "${POSTGRES_HOME:?}/$1"
  cp -a "$(copy_of_postgres "$2")" "$POSTGRES_HOME/$1"
  [ "$3" = standby ] || return 0
  : >"$POSTGRES_HOME/$1/standby.signal"
  give_to_user "$POSTGRES_HOME/$1/standby.signal"
}

end_all_postgres() { # stop|kill
  local name
  for name in $(postgres_names); do
    end_postgres "$name" "$1"
  done
}
