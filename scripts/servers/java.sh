# shellcheck shell=bash
# The Java that runs Kafka: the one of JAVA_HOME, or else the one in the path.

OLDEST_JAVA=17

java_program() {
  if [ -n "${JAVA_HOME-}" ] && [ -x "$JAVA_HOME/bin/java" ]; then
    echo "$JAVA_HOME/bin/java"
  else
    echo java
  fi
}

java_version() { # the major number, 0 if there is none
  local version
  version=$("$(java_program)" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1) || true
  echo "${version:-0}"
}

require_java() {
  [ "$(java_version)" -ge "$OLDEST_JAVA" ] || fail "Kafka needs Java $OLDEST_JAVA or newer: install a JDK, or set JAVA_HOME to one"
}
