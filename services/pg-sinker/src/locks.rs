//! Advisory locks of the sink: who may write beside whom.
//!
//! ```text
//!            of a topic's batches
//! batch      shared
//! fill       alone                 a chunk of a roll-up's rows: no batch is open that it did not see
//! backfill   alone                 a chunk of records that are read again: no batch of its topic meets it in a row
//! ```
//!
//! Rows of a table come from one topic, so what holds up one topic holds up no other.

/// Whose turn it is to fill: of all instances one at a time.
pub const TRY_FILL: &str = "SELECT pg_try_advisory_lock(8388346167744359533)";
/// Whose turn it is to read records again, of all instances of a group.
pub const TRY_BACKFILL: &str = "SELECT pg_try_advisory_lock(hashtextextended('tidemill: backfill: ' || $1, 0))";

/// Begins a batch of the topic.
pub fn begin(topic: &str) -> String {
    format!("BEGIN; SELECT pg_advisory_xact_lock_shared({})", of_topic(topic))
}

/// Begins a transaction that no batch of the topic runs beside.
pub fn begin_alone(topic: &str) -> String {
    format!("BEGIN; SELECT pg_advisory_xact_lock({})", of_topic(topic))
}

fn of_topic(topic: &str) -> String {
    format!("hashtextextended('tidemill: topic: {}', 0)", topic.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_a_lock_of_its_own() {
        assert_eq!(
            begin("a'b"),
            "BEGIN; SELECT pg_advisory_xact_lock_shared(hashtextextended('tidemill: topic: a''b', 0))"
        );
        assert!(begin_alone("t").ends_with("pg_advisory_xact_lock(hashtextextended('tidemill: topic: t', 0))"));
    }
}
