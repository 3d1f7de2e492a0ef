#!/usr/bin/env bash
# Brings everything the baseline needs to $FLINKBASE (default: flinkbase in the temporary folder): Flink from PyPI, the connector
# jars and the Kafka broker from Maven Central, psycopg from PyPI.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
B=${FLINKBASE:-${TMPDIR:-/tmp}/flinkbase}
FLINK=1.18.1
mkdir -p "$B/dl" "$B/jars-kafka" "$B/jars-flink"

command -v java >/dev/null || { echo "Java 17 is needed (apt-get install openjdk-17-jdk-headless)" >&2; exit 1; }
command -v mvn >/dev/null || { echo "Maven is needed (apt-get install maven)" >&2; exit 1; }

cd "$B/dl"
# The jars are in apache-flink-libraries, the shell scripts and the default conf in apache-flink.
[ -f "apache-flink-libraries-$FLINK.tar.gz" ] || pip download -q --no-deps -d . "apache-flink-libraries==$FLINK"
ls apache_flink-$FLINK-*.whl >/dev/null 2>&1 || pip download -q --no-deps --only-binary=:all: --python-version 3.10 \
  --platform manylinux1_x86_64 --platform manylinux2014_x86_64 -d . "apache-flink==$FLINK"

mvn -q -B -f "$HERE/maven/kafka-pom.xml" dependency:copy-dependencies -DoutputDirectory="$B/jars-kafka" -DincludeScope=runtime
mvn -q -B -f "$HERE/maven/flink-pom.xml" dependency:copy-dependencies -DoutputDirectory="$B/jars-flink" -DexcludeTransitive=true

rm -rf "$B/flink" "$B/x" && mkdir -p "$B/flink/bin" "$B/flink/conf" "$B/flink/log" "$B/x"
tar xzf "apache-flink-libraries-$FLINK.tar.gz" -C "$B/x"
cp -r "$B/x/apache-flink-libraries-$FLINK/deps/." "$B/flink/"
python3 -m zipfile -e apache_flink-$FLINK-*.whl "$B/x/whl"
cp "$B"/x/whl/pyflink/bin/*.sh "$B/x/whl/pyflink/bin/flink" "$B/flink/bin/"
cp "$B"/x/whl/pyflink/conf/* "$B/flink/conf/"
chmod +x "$B"/flink/bin/*
cp "$B"/jars-flink/*.jar "$B/flink/lib/"
mv "$B"/flink/lib/flink-sql-gateway-*.jar "$B/flink/opt/"
rm -rf "$B/x"

[ -x "$B/venv/bin/python" ] || python3 -m venv "$B/venv"
"$B/venv/bin/pip" install -q 'psycopg[binary]==3.2.*'
echo "ready: $B"
