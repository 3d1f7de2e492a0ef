//! Reads what a replay needs from the topics: the dead letters of a range, and the newest version of each of their keys.

use std::collections::{BTreeMap, HashMap};

use shared::failure::{Failure, FailureKind};
use shared::kafka::tail::TailReader;
use shared::position::Version;
use shared::record::dead_letter;
use shared::record::header::Header;
use shared::record::time;

use crate::put_back::{Letter, Newest};

/// Which letters are wanted: offsets of the dead-letter topic, both included.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub from: i64,
    pub to: i64,
    /// Only those of records of this partition of the input.
    pub partition: Option<i32>,
    /// So many at a time,
    pub letters_max: usize,
    /// and so many bytes; one letter more than that is taken.
    pub bytes_max: usize,
}

/// The letters of a range.
#[derive(Debug, Default)]
pub struct Letters {
    /// In the order in which their records came.
    pub letters: Vec<Letter>,
    /// How many were looked at.
    pub looked_at: u64,
    /// Those that no replay can put back in: without key or header, of another topic, or not written by a stage.
    pub unfit: u64,
    /// Where the next look goes on; `None` when the range is done.
    pub next: Option<i64>,
}

impl Letters {
    pub fn read(tail: &TailReader, topic: &str, input: &str, range: Range) -> Result<Self, Failure> {
        let mut found = Letters::default();
        let (mut stopped, mut bytes) = (false, 0);
        let scanned = tail.scan(topic, &[(0, range.from)], &mut |record| {
            let is_full = found.letters.len() >= range.letters_max || bytes >= range.bytes_max;
            if record.offset > range.to || is_full {
                stopped = true;
                found.next = (record.offset <= range.to).then_some(record.offset);
                return Err(Failure::new(FailureKind::Broken, "the rest is not wanted"));
            }
            let value = record.value.unwrap_or_default();
            bytes += value.len();
            found.take(value, input, range.partition);
            Ok(())
        });
        if !stopped {
            scanned?;
        }
        // A crash may have had a record rejected twice.
        found.letters.sort_by_key(|letter| (letter.partition, letter.offset));
        found.letters.dedup_by_key(|letter| (letter.partition, letter.offset));
        Ok(found)
    }

    fn take(&mut self, value: &[u8], input: &str, partition: Option<i32>) {
        let told = dead_letter::Letter::read(value);
        if told.as_ref().is_some_and(|told| partition.is_some_and(|wanted| wanted != told.partition)) {
            return;
        }
        self.looked_at += 1;
        match told.filter(|told| told.topic == input).and_then(fit) {
            Some(letter) => self.letters.push(letter),
            None => self.unfit += 1,
        }
    }
}

fn fit(told: dead_letter::Letter) -> Option<Letter> {
    let header = Header::parse(told.header.as_deref()).ok()?;
    let rejected_at = time::parse(&told.rejected_at);
    let (key, value) = (told.key?.into_boxed_slice(), told.value.map(Vec::into_boxed_slice));
    Some(Letter { partition: told.partition, offset: told.offset, key, value, header, rejected_at })
}

/// The newest version of each key in the output, as far as the output was read.
#[derive(Debug, Default)]
pub struct Known {
    pub newest: HashMap<i32, Newest>,
    /// The highest version that each partition of the output has come to: a record of a writer that hung may stand behind it.
    pub highest: BTreeMap<i32, Version>,
    /// Where reading goes on, by partition.
    next: BTreeMap<i32, i64>,
}

impl Known {
    /// Nothing is known yet of the keys of these letters.
    pub fn of(letters: &[Letter]) -> Self {
        let mut known = Known::default();
        for letter in letters {
            known.newest.entry(letter.partition).or_default().insert(letter.key.clone(), None);
            known.next.insert(letter.partition, 0);
        }
        known
    }

    /// Reads the output on to the end that stands now.
    pub fn read_on(&mut self, tail: &TailReader, topic: &str) -> Result<(), Failure> {
        let from: Vec<(i32, i64)> = self.next.iter().map(|(partition, next)| (*partition, *next)).collect();
        tail.scan(topic, &from, &mut |record| {
            self.next.insert(record.partition, record.offset + 1);
            let Ok(header) = Header::parse(record.header) else { return Ok(()) };
            let highest = self.highest.entry(record.partition).or_default();
            *highest = header.partition_version().max(*highest);
            let newest = self.newest.get_mut(&record.partition);
            if let Some(known) = newest.and_then(|newest| newest.get_mut(record.key.unwrap_or_default())) {
                *known = (*known).max(Some(header.version));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::batch::Record;
    use shared::record::dead_letter::Rejection;

    #[test]
    fn letters_that_a_replay_cannot_use_are_counted() {
        let value = |topic: &str, partition, key: Option<&[u8]>, header: Option<&[u8]>| {
            let record = Record { partition, offset: 5, key, value: Some(b"{}"), header };
            dead_letter::value("dwd-cleaner", topic, &record, &Rejection::new("no_key", ""), "now")
        };
        let (key, header): (Option<&[u8]>, Option<&[u8]>) = (Some(b"k"), Some(b"op=u v=1.2.3.4"));
        let mut letters = Letters::default();
        for letter in [
            value("ods", 1, key, header),
            value("ods", 2, key, header),
            value("other", 1, key, header),
            value("ods", 1, None, header),
            value("ods", 1, key, None),
            b"no letter".to_vec(),
        ] {
            letters.take(&letter, "ods", Some(1));
        }
        assert_eq!((letters.letters.len(), letters.looked_at, letters.unfit), (1, 5, 4));
        assert_eq!(&*letters.letters[0].key, b"k");
    }
}
