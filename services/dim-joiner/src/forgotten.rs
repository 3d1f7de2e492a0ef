//! Facts that were forgotten, by the row that they named: as much of them as tells which changes of the row do not reach them.

use std::collections::HashMap;

use shared::position::Version;
use smallvec::SmallVec;

use crate::names::Name;

/// Forgotten facts of one row that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alike {
    /// The version of the row that they were sent with, or the newest that was counted for them.
    pub sent: Version,
    /// The earliest and the latest of their times; none where they have none.
    pub times: Option<(i64, i64)>,
    pub count: u64,
}

impl Alike {
    pub fn one(sent: Version, time: Option<i64>) -> Self {
        Alike { sent, times: time.map(|time| (time, time)), count: 1 }
    }

    /// Takes in others that are alike; false where they are not.
    fn take_in(&mut self, other: &Alike) -> bool {
        let is_like = self.sent == other.sent && self.times.is_some() == other.times.is_some();
        if is_like {
            let both = self.times.zip(other.times);
            self.times = both.map(|((from, until), (first, last))| (from.min(first), until.max(last)));
            self.count = self.count.saturating_add(other.count);
        }
        is_like
    }
}

/// The forgotten facts of one dimension.
#[derive(Debug, Default)]
pub struct Forgotten {
    by_name: HashMap<Name, SmallVec<[Alike; 1]>>,
    bytes: u64,
}

const NAME_BYTES: u64 = size_of::<(Name, SmallVec<[Alike; 1]>)>() as u64 + 24;
const ALIKE_BYTES: u64 = size_of::<Alike>() as u64;

impl Forgotten {
    pub fn note(&mut self, name: &Name, facts: Alike) {
        let known = match self.by_name.get_mut(name) {
            Some(known) => known,
            None => {
                self.bytes += NAME_BYTES + name.len() as u64;
                self.by_name.entry(name.clone()).or_default()
            }
        };
        if !known.iter_mut().any(|known| known.take_in(&facts)) {
            self.bytes += ALIKE_BYTES;
            known.push(facts);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Alike)> {
        self.by_name.iter().flat_map(|(name, known)| known.iter().map(move |facts| (name, facts)))
    }

    /// How many that named this row lack what it is now; each counts once for a version. `newer` gives the newest that one of them would
    /// be sent with, where it lacks it.
    pub fn passed_by(&mut self, name: &str, newer: impl Fn(&Alike) -> Option<Version>) -> u64 {
        let Some(known) = self.by_name.get_mut(name) else { return 0 };
        let mut passed_by = 0;
        for mut facts in std::mem::take(known) {
            if let Some(version) = newer(&facts) {
                passed_by += facts.count;
                facts.sent = version;
            }
            match known.iter_mut().any(|known| known.take_in(&facts)) {
                true => self.bytes = self.bytes.saturating_sub(ALIKE_BYTES),
                false => known.push(facts),
            }
        }
        passed_by
    }

    /// The same of all rows.
    pub fn all_passed_by(&mut self, newer: impl Fn(&str, &Alike) -> Option<Version>) -> u64 {
        let names: Vec<Name> = self.by_name.keys().cloned().collect();
        names.iter().map(|name| self.passed_by(name, |facts| newer(name, facts))).sum()
    }

    /// Bytes that it takes, as they are counted.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::version;

    #[test]
    fn those_that_lack_a_version_count_once_for_it() {
        let (mut forgotten, name) = (Forgotten::default(), Name::from("a"));
        for (sent, time) in [(1, Some(5)), (1, Some(9)), (2, Some(20)), (2, None)] {
            forgotten.note(&name, Alike::one(version(sent), time));
        }
        assert_eq!(forgotten.iter().count(), 3);
        let below = |newest: u64| move |facts: &Alike| (facts.sent < version(newest)).then_some(version(newest));
        assert_eq!((forgotten.passed_by("b", below(9)), forgotten.passed_by("a", below(1))), (0, 0));
        assert_eq!((forgotten.passed_by("a", below(2)), forgotten.passed_by("a", below(2))), (2, 0));
        let alike: Vec<_> = forgotten.iter().map(|(_, facts)| (facts.times, facts.count)).collect();
        assert_eq!(alike, [(Some((5, 20)), 3), (None, 1)]);
        assert_eq!(forgotten.all_passed_by(|_, facts| below(7)(facts)), 4);
        assert_eq!(forgotten.bytes(), NAME_BYTES + 1 + 2 * ALIKE_BYTES);
    }
}
