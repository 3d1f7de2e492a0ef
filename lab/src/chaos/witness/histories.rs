//! What happened to each key, in short.

use std::collections::BTreeMap;

use shared::position::Lsn;

use super::Made;

/// One state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub made: Made,
    /// The commit stands behind this.
    pub lsn: Lsn,
    /// Of the row; `None` where it is gone.
    pub digest: Option<u64>,
}

/// The states of all keys, oldest first.
#[derive(Debug, Default)]
pub struct Histories {
    by_key: BTreeMap<i64, Vec<Moment>>,
}

impl Histories {
    pub fn push(&mut self, key: i64, moment: Moment) {
        self.by_key.entry(key).or_default().push(moment);
    }

    /// All live keys are gone.
    pub fn truncate(&mut self, lsn: Lsn) {
        for moments in self.by_key.values_mut() {
            if moments.last().is_some_and(|last| last.digest.is_some()) {
                moments.push(Moment { made: Made::Truncated, lsn, digest: None });
            }
        }
    }

    pub fn of(&self, key: i64) -> &[Moment] {
        self.by_key.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (i64, &[Moment])> {
        self.by_key.iter().map(|(key, moments)| (*key, moments.as_slice()))
    }

    pub fn keys(&self) -> usize {
        self.by_key.len()
    }

    /// Keys that have a row now.
    pub fn live(&self) -> usize {
        self.by_key.values().filter(|moments| moments.last().is_some_and(|last| last.digest.is_some())).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncating_ends_the_keys_that_are_live_and_no_other() {
        let mut histories = Histories::default();
        let moment = |made, digest| Moment { made, lsn: Lsn(1), digest };
        histories.push(1, moment(Made::Stood, Some(10)));
        histories.push(2, moment(Made::Inserted, Some(20)));
        histories.push(2, moment(Made::Gone, None));
        histories.truncate(Lsn(9));
        histories.push(3, moment(Made::Inserted, Some(30)));
        let gone = Moment { made: Made::Truncated, lsn: Lsn(9), digest: None };
        assert_eq!(histories.of(1), [moment(Made::Stood, Some(10)), gone]);
        assert_eq!((histories.of(2).len(), histories.of(3).len(), histories.of(4).len()), (2, 1, 0));
        assert_eq!((histories.keys(), histories.live()), (3, 1));
    }
}
