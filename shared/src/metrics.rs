//! Every metric of the pipeline, by name and label. All carry the prefix `tidemill_`.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder, register_histogram,
    register_int_counter, register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

/// Upper bounds of the buckets of latencies.
const LATENCY_BUCKETS_S: [f64; 24] = [
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

macro_rules! metric {
    ($name:ident, $type:ty, $register:expr) => {
        pub static $name: LazyLock<$type> = LazyLock::new(|| $register.expect("metric names are unique"));
    };
}

metric!(
    RECORDS_IN,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_records_in_total",
        "Records taken in, by topic or source table and operation (r, c, u, d).",
        &["table", "operation"]
    )
);
metric!(
    RECORDS_OUT,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_records_out_total",
        "Records acknowledged by Kafka or committed to the sink, by topic or sink table and operation.",
        &["table", "operation"]
    )
);
metric!(
    REJECTED,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_rejected_total",
        "Records set aside in the dead-letter topic, by reason.",
        &["reason"]
    )
);
metric!(
    RULE_ROWS,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_rule_rows_total",
        "dwd-cleaner: rows that came to a rule, by outcome (passed, rejected, marked, defaulted).",
        &["rule", "outcome"]
    )
);
metric!(
    REPLAYED,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_replayed_total",
        "dwd-cleaner: dead letters that a replay looked at, by outcome (put_back, and why others were not).",
        &["outcome"]
    )
);
metric!(
    REPEATS_DROPPED,
    IntCounter,
    register_int_counter!(
        "tidemill_repeats_dropped_total",
        "Records (in pg-sinker: rows of each table) dropped because the same or a newer version was there before."
    )
);
metric!(
    END_TO_END,
    Histogram,
    register_histogram!(
        HistogramOpts::new(
            "tidemill_end_to_end_seconds",
            "From the commit at the source until this stage's output was acknowledged or committed."
        )
        .buckets(LATENCY_BUCKETS_S.to_vec())
    )
);
metric!(
    STAGE,
    Histogram,
    register_histogram!(
        HistogramOpts::new(
            "tidemill_stage_seconds",
            "From the moment a batch was taken in until all that it became was acknowledged or committed."
        )
        .buckets(LATENCY_BUCKETS_S.to_vec())
    )
);
metric!(
    LAG,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_lag_records",
        "Records of the input that are not yet handled and acknowledged, by topic and partition.",
        &["topic", "partition"]
    )
);
metric!(
    WAITING_MICROSECONDS,
    IntCounter,
    register_int_counter!(
        "tidemill_waiting_microseconds_total",
        "Time that the source of the chain waited for the next stage to take a batch."
    )
);
metric!(
    GENERATIONS,
    IntCounter,
    register_int_counter!(
        "tidemill_generations_total",
        "Generations of the chain that were started; the first one counts too."
    )
);
metric!(
    GENERATION_FAILURES,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_generation_failures_total",
        "Generations that ended with a failure, by kind.",
        &["kind"]
    )
);
metric!(
    MISSING_ROWS,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_missing_rows",
        "dim-joiner: rows of a dimension that facts name and that are not known; their facts carry the defaults.",
        &["dimension"]
    )
);
metric!(
    MISSING_ROWS_OLDEST,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_missing_rows_oldest_seconds",
        "dim-joiner: for how long the oldest of the missing rows has been missed.",
        &["dimension"]
    )
);
metric!(
    REEMISSIONS_WAITING,
    IntGauge,
    register_int_gauge!(
        "tidemill_reemissions_waiting",
        "dim-joiner: changed rows of dimensions whose facts are still to be sent again."
    )
);
metric!(
    REEMISSIONS_FORGOTTEN,
    IntCounter,
    register_int_counter!(
        "tidemill_reemissions_forgotten_total",
        "dim-joiner: facts that a change of a row did not reach, because they had expired; their results stay as they were."
    )
);
metric!(
    FACTS_HELD,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_facts_held",
        "dim-joiner: facts that a change of a row reaches, by where they are held.",
        &["place"]
    )
);
metric!(
    FACTS_DISK_SIZE,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_facts_disk_size_bytes",
        "dim-joiner: size of the file system on which facts are kept beyond memory, by folder.",
        &["folder"]
    )
);
metric!(
    FACTS_DISK_FREE,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_facts_disk_free_bytes",
        "dim-joiner: what is free of the file system on which facts are kept beyond memory, by folder.",
        &["folder"]
    )
);
metric!(
    SINK_DATABASE_BYTES,
    IntGauge,
    register_int_gauge!("tidemill_sink_database_bytes", "pg-sinker: size of the sink database.")
);
metric!(
    FACTS_FORGOTTEN,
    IntCounter,
    register_int_counter!(
        "tidemill_facts_forgotten_total",
        "dim-joiner: facts that expired; a change of a row that they name reaches them no more."
    )
);
metric!(
    FACTS_WAITING,
    IntGauge,
    register_int_gauge!(
        "tidemill_facts_waiting",
        "dim-joiner: facts that wait for a row that is not known (mode wait)."
    )
);
metric!(
    WAITS_CUT_SHORT,
    IntCounter,
    register_int_counter!(
        "tidemill_waits_cut_short_total",
        "dim-joiner: facts that went out with the defaults before their wait was over, because too many waited."
    )
);
metric!(
    SLOT_LAG_BYTES,
    IntGauge,
    register_int_gauge!(
        "tidemill_slot_lag_bytes",
        "cdc-ingest: WAL that the source has sent or announced and that is not confirmed yet."
    )
);
metric!(
    SLOT_LAG_SECONDS,
    IntGauge,
    register_int_gauge!(
        "tidemill_slot_lag_seconds",
        "cdc-ingest: for how long the source has had WAL that is not confirmed; 0 when all is."
    )
);
metric!(
    SLOT_RETAINED_WAL_BYTES,
    IntGauge,
    register_int_gauge!(
        "tidemill_slot_retained_wal_bytes",
        "cdc-ingest: WAL that the source keeps for the slot (from restart_lsn to the present position)."
    )
);
metric!(
    SLOT_SAFE_WAL_BYTES,
    IntGauge,
    register_int_gauge!(
        "tidemill_slot_safe_wal_bytes",
        "cdc-ingest: WAL that can still be written before the slot is in danger (safe_wal_size); -1 where the source sets no bound."
    )
);
metric!(
    SLOT_MINUTES_LEFT,
    IntGauge,
    register_int_gauge!(
        "tidemill_slot_minutes_left",
        "cdc-ingest: minutes until the slot is in danger at the present rate of WAL; -1 where there is no bound or no WAL is written."
    )
);
metric!(
    SLOT_INTERRUPTIONS,
    IntCounter,
    register_int_counter!(
        "tidemill_slot_interruptions_total",
        "cdc-ingest: times that the source's history was interrupted (slot lost, invalidated, server restored) and every table was read again."
    )
);
metric!(
    SNAPSHOT_PERCENT,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_snapshot_percent",
        "cdc-ingest: how far the copy of a table has come, by the planner's estimate; 100 when it is done.",
        &["table"]
    )
);
metric!(
    CHUNKS_RETAKEN,
    IntCounter,
    register_int_counter!(
        "tidemill_snapshot_chunks_retaken_total",
        "cdc-ingest: chunks that were read again, since a commit was not visible yet or the stream changed too much meanwhile."
    )
);
metric!(
    SCHEMA_CHANGES,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_schema_changes_total",
        "cdc-ingest: changes of a table's columns, key or name that the stream or the catalog brought.",
        &["table"]
    )
);
metric!(
    TABLE_STOPPED,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_table_stopped",
        "cdc-ingest: 1 while a table is not carried; /api/v1/state says why and what to do.",
        &["table"]
    )
);
metric!(
    PASSED_OVER,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_passed_over_total",
        "cdc-ingest: changes of tables that are stopped or not captured; a stopped table is read again when it goes on.",
        &["table"]
    )
);
metric!(
    SNAPSHOT_ROWS,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_snapshot_rows",
        "cdc-ingest: rows that the last copy of a table brought into its topic.",
        &["table"]
    )
);
metric!(
    TOAST_REREADS,
    IntCounter,
    register_int_counter!(
        "tidemill_toast_rereads_total",
        "cdc-ingest: rows read again because an unchanged TOASTed value was not in the stream."
    )
);
metric!(
    TOAST_ROWS_GONE,
    IntCounter,
    register_int_counter!(
        "tidemill_toast_rows_gone_total",
        "cdc-ingest: updates that are not in the topic, because the row was gone when it was read again; its tombstone is."
    )
);
metric!(
    COMMITS,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_position_commits_total",
        "Positions that were to be made durable (slot confirmed, group offsets or sink offsets committed), by outcome (ok, failed, refused).",
        &["outcome"]
    )
);
metric!(
    BACKFILL_RECORDS,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_backfill_records_total",
        "pg-sinker: records that were read again and written, by table.",
        &["table"]
    )
);
metric!(
    BACKFILL_REMAINING,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_backfill_remaining_offsets",
        "pg-sinker: offsets that are still to be read again in this step, by table.",
        &["table"]
    )
);
metric!(
    BACKFILL_FAILED,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_backfill_failed",
        "pg-sinker: 1 while the last job of a table has failed, or an open one rests after a failure, by table.",
        &["table"]
    )
);
metric!(
    RECONCILIATION_ROWS,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_reconciliation_rows",
        "pg-sinker: rows that the last comparison with the source found, by kind (differ, rejected, changing).",
        &["pair", "kind"]
    )
);
metric!(
    RECONCILIATION_COMPARED,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_reconciliation_rows_compared",
        "pg-sinker: rows of the last comparison with the source.",
        &["pair"]
    )
);
metric!(
    RECONCILIATION_FINISHED,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_reconciliation_finished_timestamp_seconds",
        "pg-sinker: when the last comparison with the source ended, whatever it found; 0: never.",
        &["pair"]
    )
);
metric!(
    RECONCILIATION_MILLISECONDS,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_reconciliation_milliseconds",
        "pg-sinker: how long the last comparison with the source took.",
        &["pair"]
    )
);
metric!(
    RECONCILIATION_FAILED,
    IntGaugeVec,
    register_int_gauge_vec!(
        "tidemill_reconciliation_failed",
        "pg-sinker: 1 while the last comparison with the source could not be done.",
        &["pair"]
    )
);
metric!(
    RECONCILIATION_FAILURES,
    IntCounter,
    register_int_counter!(
        "tidemill_reconciliation_failures_total",
        "pg-sinker: comparisons with the source that this instance could not do."
    )
);
metric!(
    RECONCILIATION_INTERVAL,
    IntGauge,
    register_int_gauge!(
        "tidemill_reconciliation_interval_seconds",
        "pg-sinker: how often the sink is compared with the source; 0: it is not."
    )
);
metric!(
    TRACE_SPANS,
    IntCounterVec,
    register_int_counter_vec!(
        "tidemill_trace_spans_total",
        "Spans of traces, by what became of them (exported, rejected by the collector, given_up, queue_full).",
        &["outcome"]
    )
);
metric!(
    TRACE_EXPORT_FAILURES,
    IntCounter,
    register_int_counter!(
        "tidemill_trace_export_failures_total",
        "Tries to send spans that the collector did not take."
    )
);
metric!(READY, IntGauge, register_int_gauge!("tidemill_ready", "1 while /health/ready says ready."));
metric!(
    UP,
    IntGaugeVec,
    register_int_gauge_vec!("tidemill_up", "1; the labels say which service and version.", &["service", "version"])
);

/// Registers every metric, so that a page has them before the first event.
pub fn start() {
    LazyLock::force(&RECORDS_IN);
    LazyLock::force(&RECORDS_OUT);
    LazyLock::force(&REJECTED);
    LazyLock::force(&RULE_ROWS);
    LazyLock::force(&REPLAYED);
    LazyLock::force(&REPEATS_DROPPED);
    LazyLock::force(&END_TO_END);
    LazyLock::force(&STAGE);
    LazyLock::force(&LAG);
    LazyLock::force(&WAITING_MICROSECONDS);
    LazyLock::force(&GENERATIONS);
    LazyLock::force(&GENERATION_FAILURES);
    LazyLock::force(&MISSING_ROWS);
    LazyLock::force(&MISSING_ROWS_OLDEST);
    LazyLock::force(&REEMISSIONS_WAITING);
    LazyLock::force(&REEMISSIONS_FORGOTTEN);
    LazyLock::force(&FACTS_HELD);
    LazyLock::force(&FACTS_DISK_SIZE);
    LazyLock::force(&FACTS_DISK_FREE);
    LazyLock::force(&SINK_DATABASE_BYTES);
    LazyLock::force(&FACTS_FORGOTTEN);
    LazyLock::force(&FACTS_WAITING);
    LazyLock::force(&WAITS_CUT_SHORT);
    LazyLock::force(&SLOT_LAG_BYTES);
    LazyLock::force(&SLOT_LAG_SECONDS);
    LazyLock::force(&SLOT_RETAINED_WAL_BYTES);
    LazyLock::force(&SLOT_SAFE_WAL_BYTES);
    LazyLock::force(&SLOT_MINUTES_LEFT);
    LazyLock::force(&SLOT_INTERRUPTIONS);
    LazyLock::force(&SNAPSHOT_ROWS);
    LazyLock::force(&SNAPSHOT_PERCENT);
    LazyLock::force(&CHUNKS_RETAKEN);
    LazyLock::force(&SCHEMA_CHANGES);
    LazyLock::force(&TABLE_STOPPED);
    LazyLock::force(&PASSED_OVER);
    LazyLock::force(&TOAST_REREADS);
    LazyLock::force(&TOAST_ROWS_GONE);
    // A counter that comes to be with its first failure shows Prometheus no increase.
    for outcome in ["ok", "failed"] {
        COMMITS.with_label_values(&[outcome]);
    }
    LazyLock::force(&BACKFILL_RECORDS);
    LazyLock::force(&BACKFILL_REMAINING);
    LazyLock::force(&BACKFILL_FAILED);
    LazyLock::force(&RECONCILIATION_ROWS);
    LazyLock::force(&RECONCILIATION_COMPARED);
    LazyLock::force(&RECONCILIATION_FINISHED);
    LazyLock::force(&RECONCILIATION_MILLISECONDS);
    LazyLock::force(&RECONCILIATION_FAILED);
    LazyLock::force(&RECONCILIATION_FAILURES);
    LazyLock::force(&RECONCILIATION_INTERVAL);
    LazyLock::force(&TRACE_SPANS);
    LazyLock::force(&TRACE_EXPORT_FAILURES);
    LazyLock::force(&READY);
    LazyLock::force(&UP);
}

/// The page of `/metrics`.
pub fn render() -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&prometheus::gather())
}
