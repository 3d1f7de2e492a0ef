//! Advisory locks of the sink: who may write beside whom. They are taken in the order of this file.
//!
//! ```text
//!            of all batches   of a topic's batches
//! batch      shared           shared
//! fill       alone                                  a chunk of a roll-up's rows: no batch is open that it did not see
//! backfill   shared           alone                 a chunk of records that are read again: no batch of its topic meets it in a row
//! ```

/// Of all batches. The number is the word `tidemill` in ASCII.
const BATCHES: i64 = 8_388_346_167_744_359_532;

/// A chunk of the fill: no batch is open.
pub const ALONE: &str = "SELECT pg_advisory_xact_lock(8388346167744359532)";
/// Whose turn it is to fill: of all instances one at a time.
pub const TRY_FILL: &str = "SELECT pg_try_advisory_lock(8388346167744359533)";
/// Whose turn it is to read records again, of all instances of a group.
pub const TRY_BACKFILL: &str = "SELECT pg_try_advisory_lock(hashtextextended('tidemill: backfill: ' || $1, 0))";

/// Begins a batch of the topic.
pub fn begin(topic: &str) -> String {
    format!("BEGIN; SELECT pg_advisory_xact_lock_shared({BATCHES}), pg_advisory_xact_lock_shared({})", of_topic(topic))
}

/// Begins a transaction that no batch of the topic runs beside.
pub fn begin_alone(topic: &str) -> String {
    format!("BEGIN; SELECT pg_advisory_xact_lock_shared({BATCHES}), pg_advisory_xact_lock({})", of_topic(topic))
}

fn of_topic(topic: &str) -> String {
    format!("hashtextextended('tidemill: topic: {}', 0)", topic.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_a_lock_of_its_own() {
        assert!(ALONE.contains(&BATCHES.to_string()));
        assert_eq!(
            begin("a'b"),
            "BEGIN; SELECT pg_advisory_xact_lock_shared(8388346167744359532), \
             pg_advisory_xact_lock_shared(hashtextextended('tidemill: topic: a''b', 0))"
        );
        assert!(begin_alone("t").ends_with("pg_advisory_xact_lock(hashtextextended('tidemill: topic: t', 0))"));
    }
}
