# shellcheck shell=bash
# Fluss with one tablet server, and the ZooKeeper that it needs: three processes, all in $STATE/fluss.

FLUSS_FOLDER=$STATE/fluss
FLUSS_PARTS='zookeeper coordinator tablet' # in the order of their start
ZOOKEEPER_MAIN=org.apache.fluss.shaded.zookeeper3.org.apache.zookeeper.server.quorum.QuorumPeerMain

fluss_part_folder() { echo "$FLUSS_FOLDER/$1"; }

# The last word of a part's command line, which tells it from others.
fluss_part_mark() { if [ "$1" = zookeeper ]; then echo "$FLUSS_FOLDER/zookeeper/zoo.cfg"; else fluss_part_folder "$1"; fi; }

fluss_part_pid() { cat "$FLUSS_FOLDER/$1/pid" 2>/dev/null || true; }

fluss_part_is_running() { is_running "$(fluss_part_pid "$1")" "$(fluss_part_mark "$1")"; }

fluss_is_running() {
  local part
  for part in $FLUSS_PARTS; do
    fluss_part_is_running "$part" || return 1
  done
}

fluss_part_running_port() { cat "$FLUSS_FOLDER/$1/port" 2>/dev/null || true; }

write_zookeeper_settings() { # PORT
  cat >"$FLUSS_FOLDER/zookeeper/zoo.cfg" <<EOF
dataDir=$FLUSS_FOLDER/zookeeper/data
clientPort=$1
clientPortAddress=127.0.0.1
tickTime=500
maxClientCnxns=0
admin.enableServer=false
EOF
}

# Small log segments, and short intervals of what is done by them: a test must see a log that does not go back to its beginning.
write_fluss_settings() { # PART PORT ZOOKEEPER_PORT
  cat >"$FLUSS_FOLDER/$1/server.yaml" <<EOF
zookeeper.address: 127.0.0.1:$3
zookeeper.client.session-timeout: 4s
bind.listeners: FLUSS://127.0.0.1:$2
tablet-server.id: 0
data.dir: $FLUSS_FOLDER/$1/data
remote.data.dir: $FLUSS_FOLDER/remote
default.bucket.number: 1
default.replication.factor: 1
netty.server.num-network-threads: 1
netty.server.num-worker-threads: 2
server.buffer.memory-size: 32mb
log.segment.file-size: 64kb
remote.log.task-interval-duration: 1s
kv.snapshot.interval: 1s
EOF
}

write_fluss_log_settings() {
  cat >"$FLUSS_FOLDER/log4j2.xml" <<'EOF'
<Configuration status="WARN">
  <Appenders><Console name="STDOUT"><PatternLayout pattern="[%d] %p %m (%c)%n"/></Console></Appenders>
  <Loggers><Root level="WARN"><AppenderRef ref="STDOUT"/></Root></Loggers>
</Configuration>
EOF
}

fluss_java() { # HEAP; fills FLUSS_JAVA, the command up to the main class
  FLUSS_JAVA=("$(java_program)" -XX:+UseSerialGC -Djava.awt.headless=true "-Xmx$1"
    --add-opens=java.base/java.nio=ALL-UNNAMED
    "-Dlog4j2.configurationFile=file:$FLUSS_FOLDER/log4j2.xml" -cp "$FLUSS_LIBS/*")
}

await_fluss_part() { # PART PORT
  local tenths=900 log=$LOG_FOLDER/fluss-$1.log
  until port_is_taken "$2"; do
    fluss_part_is_running "$1" || { end_of_log "$log"; fail "Fluss ($1) ended while it started"; }
    [ "$tenths" -gt 0 ] || { end_of_log "$log"; fail "Fluss ($1) is not up after 90 s"; }
    tenths=$((tenths - 1))
    sleep 0.1
  done
}

start_fluss_part() { # PART PORT ZOOKEEPER_PORT
  local part=$1 log=$LOG_FOLDER/fluss-$1.log
  ! fluss_part_is_running "$part" || return 0
  mkdir -p "$FLUSS_FOLDER/$part"
  echo "$2" >"$FLUSS_FOLDER/$part/port"
  case $part in
    zookeeper)
      write_zookeeper_settings "$2"
      fluss_java 128m
      start_detached "$log" "${FLUSS_JAVA[@]}" -Dzookeeper.jmx.log4j.disable=true "$ZOOKEEPER_MAIN" "$FLUSS_FOLDER/zookeeper/zoo.cfg"
      ;;
    coordinator)
      write_fluss_settings "$part" "$2" "$3"
      fluss_java 256m
      start_detached "$log" "${FLUSS_JAVA[@]}" org.apache.fluss.server.coordinator.CoordinatorServer --configDir "$FLUSS_FOLDER/$part"
      ;;
    tablet)
      write_fluss_settings "$part" "$2" "$3"
      fluss_java 384m
      start_detached "$log" "${FLUSS_JAVA[@]}" org.apache.fluss.server.tablet.TabletServer --configDir "$FLUSS_FOLDER/$part"
      ;;
  esac
  echo "$DETACHED_PID" >"$FLUSS_FOLDER/$part/pid"
  await_fluss_part "$part" "$2"
}

end_fluss_part() { # PART stop|kill
  local pid mark
  fluss_part_is_running "$1" || return 0
  pid=$(fluss_part_pid "$1")
  mark=$(fluss_part_mark "$1")
  if [ "$2" = kill ] || ! signal_and_wait TERM "$pid" "$mark" 30; then
    signal_and_wait KILL "$pid" "$mark" 10 || fail "Fluss ($1, process $pid) does not end"
  fi
  rm -f "$FLUSS_FOLDER/$1/pid"
  await_free_port "$(fluss_part_running_port "$1")"
}
