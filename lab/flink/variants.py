"""The pipeline's variants: what goes into the SQL templates and into Flink's configuration."""

CKPT = """SET 'parallelism.default' = '1';
SET 'execution.checkpointing.interval' = '10s';
SET 'execution.checkpointing.timeout' = '1min';
SET 'execution.checkpointing.mode' = 'EXACTLY_ONCE';"""

# The guide reads Kafka with the plain 'kafka' connector and writes changes with 'upsert-kafka'.
APPEND = dict(
    FACT_PK="", FACT_CONNECTOR="'connector' = 'kafka', 'scan.startup.mode' = 'earliest-offset'",
    FACT_FORMAT=", 'format' = 'json'", DWD_SINK_CONNECTOR="'connector' = 'kafka'",
    DWD_SINK_FORMAT=", 'format' = 'json'")
# Every topic is read as a changelog, so deletes and corrections go through.
UPSERT = dict(
    FACT_PK=",\n  PRIMARY KEY (order_id) NOT ENFORCED", FACT_CONNECTOR="'connector' = 'upsert-kafka'",
    FACT_FORMAT=", 'key.format' = 'json', 'value.format' = 'json'",
    DWD_SINK_CONNECTOR="'connector' = 'upsert-kafka'",
    DWD_SINK_FORMAT=", 'key.format' = 'json', 'value.format' = 'json'")
PLAIN = dict(
    KSOURCE="", KSINK_ODS_ORDERS="", KSINK_ODS_USERS="", KSINK_DWD="", KSINK_RESULT="",
    JDBC_URL_ARGS="", JDBC_SINK="")

PGOUTPUT = ", 'decoding.plugin.name' = 'pgoutput'"

TUNED_SET = CKPT + """
SET 'execution.buffer-timeout' = '2ms';
SET 'pipeline.object-reuse' = 'true';
SET 'table.exec.mini-batch.enabled' = 'false';
SET 'table.exec.sink.upsert-materialize' = 'NONE';"""


def _cdc_tuned(what):
    # A server name of its own for each source: two sources of one name in one JVM clash over a JMX name, and the
    # second one streams nothing for 60 s (Debezium's 12 tries, 5 s apart). A poll of 1 ms kept a third of a core
    # busy for each source while idle; 5 ms is cheaper and hardly slower.
    return (PGOUTPUT + ",\n  'debezium.poll.interval.ms' = '5', 'debezium.max.batch.size' = '8192',"
            f" 'debezium.max.queue.size' = '32768', 'debezium.database.server.name' = 'src_{what}',"
            f" 'debezium.publication.name' = 'pub_{what}', 'debezium.publication.autocreate.mode' = 'filtered'")


TUNED = dict(
    SETTINGS=TUNED_SET, CDC_ORDERS=_cdc_tuned("orders"), CDC_USERS=_cdc_tuned("users"),
    KSOURCE=", 'properties.fetch.max.wait.ms' = '100', 'properties.max.poll.records' = '5000'",
    JDBC_URL_ARGS="?reWriteBatchedInserts=true",
    JDBC_SINK=", 'sink.buffer-flush.interval' = '2ms', 'sink.buffer-flush.max-rows' = '2000'")
for _k in ("ODS_ORDERS", "ODS_USERS", "DWD", "RESULT"):
    TUNED["KSINK_" + _k] = ", 'properties.linger.ms' = '0', 'properties.batch.size' = '131072'"


FLINK_COMMON = {"state.backend.type": "hashmap"}
# One TaskManager of eight slots, the guide's "production" heap, quick failure detection.
FLINK_TUNED = dict(FLINK_COMMON, **{
    "taskmanager.numberOfTaskSlots": "8", "taskmanager.memory.process.size": "4096m",
    "taskmanager.memory.task.heap.size": "2560m", "taskmanager.memory.managed.size": "128m",
    "heartbeat.interval": "1000", "heartbeat.timeout": "5000",
    "restart-strategy.type": "fixed-delay", "restart-strategy.fixed-delay.attempts": "2147483647",
    "restart-strategy.fixed-delay.delay": "200ms"})

VARIANTS = {
    # Every latency knob turned, and changelogs read as changelogs (deletes and user changes come out right).
    "tuned-upsert": dict(sql={**PLAIN, **UPSERT, **TUNED}, flink=FLINK_TUNED),
    # The guide's cheaper plan, turned for rows per second and not for latency: larger batches everywhere.
    "throughput": dict(
        sql={**PLAIN, **APPEND, **TUNED,
             "SETTINGS": TUNED_SET.replace("'execution.buffer-timeout' = '2ms'", "'execution.buffer-timeout' = '100ms'"),
             "CDC_ORDERS": _cdc_tuned("orders").replace("'debezium.poll.interval.ms' = '5'", "'debezium.poll.interval.ms' = '100'"),
             "CDC_USERS": _cdc_tuned("users").replace("'debezium.poll.interval.ms' = '5'", "'debezium.poll.interval.ms' = '100'"),
             "KSOURCE": ", 'properties.fetch.min.bytes' = '65536', 'properties.fetch.max.wait.ms' = '100',"
                        " 'properties.max.poll.records' = '5000'",
             **{"KSINK_" + k: ", 'properties.linger.ms' = '20', 'properties.batch.size' = '262144',"
                              " 'properties.compression.type' = 'lz4'" for k in ("ODS_ORDERS", "ODS_USERS", "DWD", "RESULT")},
             "JDBC_SINK": ", 'sink.buffer-flush.interval' = '200ms', 'sink.buffer-flush.max-rows' = '5000'"},
        flink=FLINK_TUNED),
}
