//! A chunk of what is read again.

use std::time::Duration;

use shared::batch::Batch;
use shared::failure::Failure;
use shared::kafka::parts::Parts;

use super::job::{Job, Kind, Move, Step};
use crate::settings::OnTombstone;

/// Records of one transaction, and where they lead.
#[derive(Debug)]
pub struct Chunk {
    pub batch: Batch,
    /// For each record of the batch whether it lies in the range of time.
    pub in_time: Vec<bool>,
    pub moves: Vec<Move>,
    /// Records that were read, those that were passed over included.
    pub read: u64,
}

/// The bounds of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub records: usize,
    pub bytes: usize,
}

/// So many records are passed over at most before the positions move.
const READ_MAX: u64 = 50_000;
/// Wait for a record at a time.
pub const WAIT: Duration = Duration::from_millis(100);

/// Whether a step takes a record.
fn is_taken(job: &Job, on_tombstone: OnTombstone, is_gone: bool) -> bool {
    match job.step {
        Step::Deletions => is_gone,
        // One pass in the topic's order.
        _ if job.kind == Kind::Rebuild => !is_gone || on_tombstone.is_heeded(),
        // Deletions that delete were taken before.
        _ => !is_gone || on_tombstone == OnTombstone::Soft,
    }
}

/// The next chunk; empty where the job has read all, or nothing came in time.
pub fn next(
    parts: &mut Parts,
    job: &Job,
    on_tombstone: OnTombstone,
    Limits { records, bytes }: Limits,
) -> Result<Chunk, Failure> {
    let (mut batch, mut in_time, mut read) = (Batch::default(), Vec::new(), 0);
    while batch.len() < records && batch.size_bytes() < bytes && read < READ_MAX && !parts.is_done() {
        let wait = if read == 0 { WAIT } else { Duration::ZERO };
        let some = parts.read(wait, &mut |record, timestamp_ms| {
            read += 1;
            if is_taken(job, on_tombstone, record.value.is_none()) {
                in_time.push(job.step == Step::Deletions || job.span.is_in_time(timestamp_ms));
                batch.push(record);
            }
        })?;
        if !some {
            break;
        }
    }
    Ok(Chunk { batch, in_time, moves: moves(job, parts.places()), read })
}

fn moves(job: &Job, places: impl Iterator<Item = (i32, i64)>) -> Vec<Move> {
    let mut moves = Vec::new();
    for (partition, next) in places {
        let part = job.parts.iter().find(|part| part.partition == partition);
        if let Some(expected) = part.map(|part| part.next).filter(|expected| *expected != next) {
            moves.push(Move { partition, expected, next });
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::super::job::Part;
    use super::super::job::tests::example;
    use super::*;

    #[test]
    fn deletions_that_delete_come_first_and_others_in_their_place() {
        let taken = |kind, step, on_tombstone| {
            let job = Job { step, ..example(kind, &[]) };
            (is_taken(&job, on_tombstone, false), is_taken(&job, on_tombstone, true))
        };
        assert_eq!(taken(Kind::Replay, Step::Deletions, OnTombstone::Delete), (false, true));
        assert_eq!(taken(Kind::Replay, Step::Rows, OnTombstone::Delete), (true, false));
        assert_eq!(taken(Kind::New, Step::Rows, OnTombstone::Soft), (true, true));
        assert_eq!(taken(Kind::New, Step::Rows, OnTombstone::Keep), (true, false));
        assert_eq!(taken(Kind::Rebuild, Step::Rows, OnTombstone::Delete), (true, true));
        assert_eq!(taken(Kind::Rebuild, Step::Rows, OnTombstone::Keep), (true, false));
    }

    #[test]
    fn only_what_moved_is_moved() {
        let part = |partition, next| Part { partition, first: 0, next, until: 100 };
        let job = example(Kind::New, &[part(0, 5), part(1, 7)]);
        let moved = moves(&job, [(0, 5), (1, 9)].into_iter());
        assert_eq!(moved, [Move { partition: 1, expected: 7, next: 9 }]);
    }
}
