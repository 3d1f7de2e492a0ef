//! The history of one key as the witness has it, held against its records in ODS.
//!
//! The capture begins at some moment, so the records of the stream are the last so many changes, all of them. What was there before is in
//! a copy, if the row was still there when it was read. A TRUNCATE is a tombstone for each key that is live in the topic: for one that the
//! copy has not come to, it is nothing.

use shared::position::{Lsn, Version};
use shared::record::header::Operation;

use crate::chaos::witness::Made;
use crate::chaos::witness::histories::Moment;

/// A record of ODS, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub version: Version,
    pub operation: Operation,
    /// Of the row; `None` where it is gone.
    pub digest: Option<u64>,
}

impl Seen {
    /// It was not in the stream: a row of a copy, or a tombstone for a row that a copy did not find.
    fn is_copied(&self) -> bool {
        self.version.index == Version::SNAPSHOT
    }
}

/// One change, whatever it became: the tombstones of a TRUNCATE may be numbered otherwise when they are sent again.
pub fn is_same_change(one: Version, other: Version) -> bool {
    let of = |version: Version| (version.epoch, version.lsn, version.index);
    one == other || (one.index != Version::SNAPSHOT && of(one) == of(other))
}

/// What is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// So many changes are not there.
    Lost(u64, String),
    Wrong(String),
    /// So many records are of no change.
    Surplus(u64, String),
}

/// Holds the records of a key against its history. A change whose row was written behind `since` was committed when the capture ran
/// already. Answers how many records came again under a further version.
pub fn held_against(history: &[Moment], seen: &[Seen], since: Lsn) -> Result<u64, Mismatch> {
    let stream = stream_of(seen)?;
    let before = history_before(history, &stream, since)?;
    for (place, record) in stream.iter().enumerate() {
        check_change(history.get(before + place), record, place + 1)?;
    }
    check_copies(history, seen, before)?;
    let stands = history.last().is_some_and(|last| last.digest.is_some());
    if stands && seen.is_empty() {
        return Err(Mismatch::Lost(1, "the row stands at the source, and ODS has no record of it".to_owned()));
    }
    let streamed = seen.iter().filter(|record| !record.is_copied()).count();
    Ok((streamed - stream.len()) as u64)
}

/// The records of the stream; the same change once.
fn stream_of(seen: &[Seen]) -> Result<Vec<&Seen>, Mismatch> {
    let mut stream: Vec<&Seen> = Vec::new();
    for record in seen.iter().filter(|record| !record.is_copied()) {
        match stream.last() {
            Some(last) if is_same_change(last.version, record.version) => {
                if (last.operation, last.digest) != (record.operation, record.digest) {
                    let what = format!("change {} came again as another one, {}", last.version, record.version);
                    return Err(Mismatch::Wrong(what));
                }
            }
            _ => stream.push(record),
        }
    }
    Ok(stream)
}

/// How many changes came before the capture.
fn history_before(history: &[Moment], stream: &[&Seen], since: Lsn) -> Result<usize, Mismatch> {
    let changes = history.iter().filter(|moment| moment.made != Made::Stood).count();
    let sure = history.iter().filter(|moment| moment.made != Made::Stood && moment.lsn > since).count();
    if stream.len() > changes {
        let what = format!("{} records of changes, and {changes} changes were made", stream.len());
        return Err(Mismatch::Surplus((stream.len() - changes) as u64, what));
    }
    let before = history.len() - stream.len();
    let is_unseen =
        sure == stream.len() + 1 && before.checked_sub(1).is_some_and(|last| is_truncation(history.get(last)));
    if stream.len() < sure && !is_unseen {
        let what = format!("{} records of changes, and {sure} changes were made since the capture began", stream.len());
        return Err(Mismatch::Lost((sure - stream.len()) as u64, what));
    }
    Ok(before)
}

fn is_truncation(moment: Option<&Moment>) -> bool {
    moment.is_some_and(|moment| moment.made == Made::Truncated)
}

fn check_change(moment: Option<&Moment>, record: &Seen, place: usize) -> Result<(), Mismatch> {
    let wanted = moment.map(|moment| {
        let operation = match moment.made {
            Made::Inserted => Operation::Insert,
            Made::Updated => Operation::Update,
            Made::Gone | Made::Truncated => Operation::Delete,
            Made::Stood => Operation::Snapshot,
        };
        (operation, moment.digest)
    });
    if wanted == Some((record.operation, record.digest)) {
        return Ok(());
    }
    let what = match wanted {
        Some((operation, _)) if operation != record.operation => {
            format!("op={}, where the source has op={}", record.operation.as_str(), operation.as_str())
        }
        _ => "not the row of that change".to_owned(),
    };
    Err(Mismatch::Wrong(format!("record {place} of the stream (version {}) is {what}", record.version)))
}

/// A copied row is the state at its place.
fn check_copies(history: &[Moment], seen: &[Seen], before: usize) -> Result<(), Mismatch> {
    let mut passed = before;
    let mut last: Option<Version> = None;
    for record in seen {
        if !record.is_copied() {
            passed += usize::from(last.is_none_or(|last| !is_same_change(last, record.version)));
            last = Some(record.version);
            continue;
        }
        let state = passed.checked_sub(1).and_then(|at| history.get(at)).and_then(|moment| moment.digest);
        if state != record.digest {
            let what = match (state, record.digest) {
                (Some(_), Some(_)) => "is not the row as it was then",
                (None, _) => "is a row, and there was none then",
                (Some(_), None) => "says that the row is gone, and it was there",
            };
            return Err(Mismatch::Wrong(format!("the copy's record with version {} {what}", record.version)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
