# shellcheck shell=bash
# One Kafka node, broker and controller in one process (KRaft), all in $STATE/kafka.

KAFKA_FOLDER=$STATE/kafka
KAFKA_LOG=$LOG_FOLDER/kafka.log
KAFKA_USER=${TIDEMILL_KAFKA_USER:-tidemill} KAFKA_PASSWORD=${TIDEMILL_KAFKA_PASSWORD:-tidemill}

kafka_pid() { cat "$KAFKA_FOLDER/pid" 2>/dev/null || true; }

kafka_is_running() { is_running "$(kafka_pid)" "$KAFKA_FOLDER/server.properties"; }

kafka_running_port() {
  sed -n 's/^listeners=[A-Z_]*:\/\/127.0.0.1:\([0-9]*\),.*/\1/p' "$KAFKA_FOLDER/server.properties"
}

# Listeners for clients that reach the broker through something between: it tells such a client to come back by the same way.
name_listeners_behind() { # fills LISTENERS, ADVERTISED and PROTOCOLS, each beginning with a comma where there are any
  local pair number=0
  LISTENERS='' ADVERTISED='' PROTOCOLS=''
  for pair in ${TIDEMILL_KAFKA_BEHIND-}; do
    [[ $pair =~ ^[0-9]+:[0-9]+$ ]] || fail "TIDEMILL_KAFKA_BEHIND wants LISTEN:ADVERTISED pairs of ports, and '$pair' is none"
    number=$((number + 1))
    LISTENERS="$LISTENERS,BEHIND$number://127.0.0.1:${pair%%:*}"
    ADVERTISED="$ADVERTISED,BEHIND$number://127.0.0.1:${pair##*:}"
    PROTOCOLS="$PROTOCOLS,BEHIND$number:PLAINTEXT"
  done
}

# With TIDEMILL_TLS no client comes in without TLS, and at this port none without a password. Where TIDEMILL_KAFKA_SSL_PORT is given, a
# certificate does there.
write_tls_settings() { # fills KAFKA_PROTOCOL, and adds to LISTENERS, ADVERTISED and TLS_SETTINGS
  local login=org.apache.kafka.common.security listener=listener.name.sasl_ssl
  KAFKA_PROTOCOL=PLAINTEXT TLS_SETTINGS=''
  [ -n "${TIDEMILL_TLS-}" ] || return 0
  KAFKA_PROTOCOL=SASL_SSL
  cat "$TIDEMILL_TLS/server.key" "$TIDEMILL_TLS/server.crt" >"$KAFKA_FOLDER/server.pem"
  cp "$TIDEMILL_TLS/ca.crt" "$KAFKA_FOLDER/ca.pem"
  PROTOCOLS="$PROTOCOLS,SASL_SSL:SASL_SSL,SSL:SSL"
  if [ -n "${TIDEMILL_KAFKA_SSL_PORT-}" ]; then
    LISTENERS="$LISTENERS,SSL://127.0.0.1:$TIDEMILL_KAFKA_SSL_PORT"
    ADVERTISED="$ADVERTISED,SSL://localhost:$TIDEMILL_KAFKA_SSL_PORT"
  fi
  TLS_SETTINGS=$(cat <<EOF
ssl.keystore.type=PEM
ssl.keystore.location=$KAFKA_FOLDER/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=$KAFKA_FOLDER/ca.pem
listener.name.ssl.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=PLAIN
$listener.plain.sasl.jaas.config=$login.plain.PlainLoginModule required username="$KAFKA_USER" password="$KAFKA_PASSWORD" user_$KAFKA_USER="$KAFKA_PASSWORD";
$listener.scram-sha-256.sasl.jaas.config=$login.scram.ScramLoginModule required;
$listener.scram-sha-512.sasl.jaas.config=$login.scram.ScramLoginModule required;
EOF
  )
}

write_kafka_settings() { # PORT CONTROLLER_PORT
  local host=127.0.0.1
  name_listeners_behind
  write_tls_settings
  # A certificate is for a name.
  [ "$KAFKA_PROTOCOL" = PLAINTEXT ] || host=localhost
  cat >"$KAFKA_FOLDER/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$2
listeners=$KAFKA_PROTOCOL://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2$LISTENERS
advertised.listeners=$KAFKA_PROTOCOL://$host:$1,CONTROLLER://127.0.0.1:$2$ADVERTISED
inter.broker.listener.name=$KAFKA_PROTOCOL
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT$PROTOCOLS
log.dirs=$KAFKA_FOLDER/data
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=1
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
min.insync.replicas=1
group.initial.rebalance.delay.ms=${TIDEMILL_KAFKA_REBALANCE_DELAY_MS:-0}
log.segment.bytes=268435456
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
$TLS_SETTINGS
EOF
  cat >"$KAFKA_FOLDER/log4j2.yaml" <<'EOF'
Configuration:
  status: WARN
  Appenders:
    Console:
      name: STDOUT
      PatternLayout: {pattern: "[%d] %p %m (%c)%n"}
  Loggers:
    Root:
      level: WARN
      AppenderRef: {ref: STDOUT}
    Logger:
      - {name: kafka.server.KafkaRaftServer, level: INFO}
EOF
}

kafka_java() { # fills KAFKA_JAVA, the command up to the main class
  KAFKA_JAVA=("$(java_program)" -XX:+UseSerialGC -Djava.awt.headless=true
    "-Dlog4j2.configurationFile=file:$KAFKA_FOLDER/log4j2.yaml" -cp "$KAFKA_LIBS/*")
}

# The first character is a letter: an id that begins with a dash would be taken for an option.
random_cluster_id() { echo "T$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c 1-21)"; }

# The file "formatted" says that the data folder is whole; without it a format was cut off and begins anew.
format_kafka_once() {
  local users=()
  [ -z "${TIDEMILL_TLS-}" ] || users=(--add-scram "SCRAM-SHA-256=[name=$KAFKA_USER,password=$KAFKA_PASSWORD]"
    --add-scram "SCRAM-SHA-512=[name=$KAFKA_USER,password=$KAFKA_PASSWORD]")
  [ ! -f "$KAFKA_FOLDER/formatted" ] || return 0
  rm -rf "$KAFKA_FOLDER/data"
  "${KAFKA_JAVA[@]}" -XX:TieredStopAtLevel=1 -Xmx128m kafka.tools.StorageTool format --standalone \
    -t "$(random_cluster_id)" -c "$KAFKA_FOLDER/server.properties" ${users[@]+"${users[@]}"} >>"$KAFKA_LOG" 2>&1 \
    || { end_of_log "$KAFKA_LOG"; fail "Kafka could not format its data folder $KAFKA_FOLDER/data"; }
  touch "$KAFKA_FOLDER/formatted"
}

kafka_says_started() { # LINES_OF_THE_LOG_BEFORE
  sed "1,$1d" "$KAFKA_LOG" | grep 'Kafka Server started' >/dev/null
}

await_kafka() { # LINES_OF_THE_LOG_BEFORE
  local tenths=900
  until kafka_says_started "$1"; do
    kafka_is_running || { end_of_log "$KAFKA_LOG"; fail "Kafka ended while it started"; }
    [ "$tenths" -gt 0 ] || { end_of_log "$KAFKA_LOG"; fail "Kafka is not up after 90 s"; }
    tenths=$((tenths - 1))
    sleep 0.1
  done
}

start_kafka() { # PORT CONTROLLER_PORT
  local lines heap=${TIDEMILL_KAFKA_HEAP:-512m}
  mkdir -p "$KAFKA_FOLDER"
  write_kafka_settings "$1" "$2"
  kafka_java
  echo "--- start, port $1" >>"$KAFKA_LOG"
  format_kafka_once
  lines=$(wc -l <"$KAFKA_LOG")
  start_detached "$KAFKA_LOG" "${KAFKA_JAVA[@]}" "-Xms$heap" "-Xmx$heap" kafka.Kafka "$KAFKA_FOLDER/server.properties"
  echo "$DETACHED_PID" >"$KAFKA_FOLDER/pid"
  await_kafka $((lines))
}

end_kafka() { # stop|kill
  local pid mark=$KAFKA_FOLDER/server.properties
  kafka_is_running || return 0
  pid=$(kafka_pid)
  if [ "$1" = kill ] || ! signal_and_wait TERM "$pid" "$mark" 30; then
    signal_and_wait KILL "$pid" "$mark" 10 || fail "Kafka (process $pid) does not end"
  fi
  rm -f "$KAFKA_FOLDER/pid"
  await_free_port "$(kafka_running_port)"
}

kafka_tool() { # TOOL PORT ARGUMENT...
  local tool=$1 port=$2 class
  shift 2
  case $tool in
    topics) class=org.apache.kafka.tools.TopicCommand ;;
    consume) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
    groups) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
    offsets) class=org.apache.kafka.tools.GetOffsetShell ;;
    *) fail "no Kafka tool is called '$tool': there are topics, consume, groups, offsets" ;;
  esac
  exec "$(java_program)" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx256m -cp "$KAFKA_LIBS/*" \
    "$class" --bootstrap-server "127.0.0.1:$port" "$@"
}
