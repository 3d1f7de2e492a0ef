//! The table as it stood at the start: which changes must be read before it is loaded, and which rows no change tells of. The versions
//! of both.
//!
//! The log says of each change which one it is, and the table does not. So rows come from the log, and from the table only those whose
//! last change the log has no more.

use std::collections::{BTreeSet, HashMap};

use shared::position::{Lsn, Version};

/// The epoch of a table: a table that was made later has a higher one, also under the same name. `None` for more tables than there are
/// epochs.
pub fn epoch(table_id: i64) -> Option<u32> {
    u32::try_from(table_id).ok()?.checked_add(1)
}

/// The version of a row by its change in the log. A key stays in its bucket, so it only grows.
pub fn of_change(epoch: u32, offset: i64) -> Version {
    Version { epoch, lsn: Lsn(u64::try_from(offset).unwrap_or_default() + 1), ..Version::default() }
}

/// The version of a row whose last change was in the log before where it begins now: as if that change had been the last one there. What it was when the
/// change was still in the log is not above it, and what the next change makes of it is.
pub fn of_older(epoch: u32, log_start: i64) -> Version {
    Version { epoch, lsn: Lsn(u64::try_from(log_start).unwrap_or_default()), ..Version::default() }
}

/// A row as the table had it.
#[derive(Debug, PartialEq, Eq)]
pub struct Older {
    pub bucket: i32,
    /// Where the bucket's log begins.
    pub log_start: i64,
    pub row: Box<[u8]>,
}

/// What is still to be read.
#[derive(Debug)]
pub struct Load {
    /// By bucket where its log ended. The table was looked at before that.
    ends: HashMap<i32, i64>,
    open: BTreeSet<i32>,
    /// By key.
    older: HashMap<Box<[u8]>, Older>,
}

impl Load {
    /// `older` are all rows of the buckets whose log does not go back to the first change.
    pub fn new(starts: &HashMap<i32, i64>, ends: HashMap<i32, i64>, older: HashMap<Box<[u8]>, Older>) -> Self {
        let is_open = |(bucket, end): &(&i32, &i64)| starts.get(*bucket).is_none_or(|start| start < *end);
        let open = ends.iter().filter(is_open).map(|(bucket, _)| *bucket).collect();
        Load { ends, open, older }
    }

    /// A change was read. The row as it was before, where it is an older one and must go out in front: a change behind the end was made after the table was
    /// looked at, any other is in what the table had.
    pub fn take(&mut self, bucket: i32, offset: i64, key: &[u8]) -> Option<Older> {
        let end = self.ends.get(&bucket).copied().unwrap_or_default();
        if offset + 1 >= end {
            self.open.remove(&bucket);
        }
        self.older.remove(key).filter(|_| offset >= end)
    }

    /// All changes that stood at the start have been read.
    pub fn is_read(&self) -> bool {
        self.open.is_empty()
    }

    /// The rows that no change told of.
    pub fn into_older(self) -> HashMap<Box<[u8]>, Older> {
        self.older
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_from_never_known_to_the_next_table() {
        let (first, next) = (epoch(0).unwrap(), epoch(1).unwrap());
        let growing = [
            Version::UNKNOWN,
            of_change(first, 0),
            of_change(first, 1),
            of_change(first, 99),
            of_change(first, 100),
            of_older(next, 1),
            of_change(next, 1),
        ];
        assert!(growing.is_sorted_by(|a, b| a < b), "{growing:?}");
        assert_eq!((epoch(i64::from(u32::MAX)), epoch(-1), epoch(i64::MAX)), (None, None, None));
    }

    #[test]
    fn a_row_that_has_left_the_log_is_not_below_what_it_was_and_below_its_next_change() {
        // The log begins at 100: the change was at 99 or before, the next one is at 100 or behind.
        assert!(of_older(1, 100) >= of_change(1, 99));
        assert!(of_older(1, 100) < of_change(1, 100));
    }

    fn load(buckets: &[(i32, i64, i64)], older: &[(i32, &str)]) -> Load {
        let of = |take: fn(&(i32, i64, i64)) -> i64| buckets.iter().map(|bucket| (bucket.0, take(bucket))).collect();
        let row = |&(bucket, key): &(i32, &str)| {
            let older = Older { bucket, log_start: 5, row: key.as_bytes().into() };
            (key.as_bytes().into(), older)
        };
        Load::new(&of(|bucket| bucket.1), of(|bucket| bucket.2), older.iter().map(row).collect())
    }

    #[test]
    fn it_is_read_when_every_bucket_has_come_to_its_end() {
        let mut load = load(&[(0, 0, 2), (1, 7, 7), (2, 0, 0), (3, 4, 6)], &[]);
        assert!(!load.is_read());
        load.take(0, 0, b"a");
        load.take(0, 1, b"b");
        assert!(!load.is_read());
        // The last offset had no record; the next one is behind the end.
        load.take(3, 6, b"c");
        assert!(load.is_read());
    }

    #[test]
    fn a_row_of_the_table_is_left_to_the_log_where_the_log_tells_of_it() {
        let mut load = load(&[(0, 5, 8)], &[(0, "told"), (0, "not told"), (0, "changed later")]);
        assert_eq!(load.take(0, 5, b"told"), None);
        let before = load.take(0, 8, b"changed later").unwrap();
        assert_eq!((before.bucket, &*before.row), (0, &b"changed later"[..]));
        assert_eq!(load.take(0, 9, b"changed later"), None);
        let left: Vec<_> = load.into_older().into_keys().collect();
        assert_eq!(left, [Box::from(&b"not told"[..])]);
    }
}
