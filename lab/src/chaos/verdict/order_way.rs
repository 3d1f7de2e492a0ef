//! The records of one order, stage by stage, and how each is held against the stage before.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use shared::position::{ResultVersion, Version};

use super::suffix::{Seen, is_same_change};

/// The row of a record without its last brace: what the next stage's row begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    bytes: u32,
    print: u64,
}

impl Open {
    pub fn of(row: &str) -> Self {
        let open = row.trim_ascii_end();
        let open = open.strip_suffix('}').unwrap_or(open);
        Open { bytes: u32::try_from(open.len()).unwrap_or(u32::MAX), print: print(open) }
    }

    /// Whether the row begins with it, and goes on with further columns.
    pub fn begins(self, row: &str) -> bool {
        let bytes = self.bytes as usize;
        let goes_on = row.as_bytes().get(bytes) == Some(&b',');
        goes_on && row.get(..bytes).is_some_and(|begin| print(begin) == self.print)
    }

    pub fn bytes(self) -> usize {
        self.bytes as usize
    }
}

fn print(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A version of the order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    pub seen: Seen,
    /// The row in ODS, and once DWD is read, the row there; `None` where it is gone.
    pub open: Option<Open>,
    /// By number, see [`Statuses`].
    pub status: u8,
}

/// The newest record of the result that shows the order in a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InStatus {
    pub status: u8,
    pub version: ResultVersion,
    pub user_id: i64,
}

/// An order on its way.
#[derive(Debug, Default)]
pub struct OrderWay {
    /// What ODS brought, oldest first; what every reader drops is not among it.
    pub passed: Vec<Passed>,
    /// So many of these are in DWD.
    cleaned: usize,
    /// So many of these are in the result.
    joined: usize,
    /// The newest in the result, and its user where it is a row.
    pub last: Option<(ResultVersion, Option<i64>)>,
    pub in_statuses: Vec<InStatus>,
}

/// What a record of a later stage is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Came {
    /// The version at this place of [`OrderWay::passed`], for the first time.
    Next(usize),
    /// The same version of the order again, for a newer one of the user.
    Again(usize),
    Repeat,
    /// So many versions before it did not come.
    Lost(u64, usize),
    Wrong(String),
    /// No such version went in.
    Surplus,
}

impl OrderWay {
    pub fn new(passed: Vec<Passed>) -> Self {
        OrderWay { passed, ..OrderWay::default() }
    }

    pub fn knows(&self, version: Version) -> bool {
        self.passed.iter().rev().any(|passed| is_same_change(passed.seen.version, version))
    }

    fn find(&self, from: usize, version: Version) -> Option<usize> {
        let later = self.passed.get(from..).unwrap_or_default();
        later.iter().position(|passed| passed.seen.version == version).map(|at| from + at)
    }

    /// A record of DWD. `grew`: its version is above all before in its partition.
    pub fn cleaned(&mut self, version: Version, grew: bool) -> Came {
        if !grew {
            let is_known = self.passed.iter().take(self.cleaned).rev().any(|passed| passed.seen.version == version);
            return if is_known { Came::Repeat } else { older() };
        }
        let Some(at) = self.find(self.cleaned, version) else { return Came::Surplus };
        let missed = at - self.cleaned;
        self.cleaned = at + 1;
        if missed == 0 { Came::Next(at) } else { Came::Lost(missed as u64, at) }
    }

    /// A record of the result. `user_id`: of its row; `None` where it is gone.
    pub fn joined(&mut self, version: &ResultVersion, user_id: Option<i64>) -> Came {
        if let Some((last, _)) = &self.last
            && version <= last
        {
            let is_known = self.passed.iter().take(self.joined).rev().any(|passed| passed.seen.version == version.fact);
            return if is_known { Came::Repeat } else { older() };
        }
        if let Some(at) = self.joined.checked_sub(1)
            && let Some(passed) = self.passed.get(at).filter(|passed| passed.seen.version == version.fact)
        {
            if passed.open.is_none() {
                return Came::Wrong("a deleted order came again".to_owned());
            }
            self.last = Some((version.clone(), user_id));
            return Came::Again(at);
        }
        let Some(at) = self.find(self.joined, version.fact) else { return Came::Surplus };
        let missed = at - self.joined;
        self.joined = at + 1;
        self.last = Some((version.clone(), user_id));
        if missed == 0 { Came::Next(at) } else { Came::Lost(missed as u64, at) }
    }

    /// Versions that are not in DWD at its end.
    pub fn not_cleaned(&self) -> u64 {
        (self.passed.len() - self.cleaned.min(self.passed.len())) as u64
    }

    /// Versions that are not in the result at its end.
    pub fn not_joined(&self) -> u64 {
        (self.passed.len() - self.joined.min(self.passed.len())) as u64
    }

    /// Keeps the newest record for each status.
    pub fn note(&mut self, record: InStatus) {
        match self.in_statuses.iter_mut().find(|known| known.status == record.status) {
            Some(known) if known.version < record.version => *known = record,
            Some(_) => {}
            None => self.in_statuses.push(record),
        }
    }
}

fn older() -> Came {
    Came::Wrong("an older version came behind a newer one".to_owned())
}

/// The statuses that were seen, as numbers.
#[derive(Debug, Default)]
pub struct Statuses(Vec<String>);

impl Statuses {
    pub fn number(&mut self, status: &str) -> u8 {
        let known = self.find(status);
        known.unwrap_or_else(|| {
            self.0.push(status.to_owned());
            u8::try_from(self.0.len() - 1).unwrap_or(u8::MAX)
        })
    }

    pub fn find(&self, status: &str) -> Option<u8> {
        self.0.iter().position(|known| known == status).and_then(|at| u8::try_from(at).ok())
    }

    pub fn name(&self, number: u8) -> &str {
        self.0.get(usize::from(number)).map_or("?", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::position::Lsn;
    use shared::record::header::Operation;

    fn version(lsn: u64) -> Version {
        Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() }
    }

    fn result(order: u64, user: u64) -> ResultVersion {
        ResultVersion { fact: version(order), joined: std::iter::once(version(user)).collect() }
    }

    /// Versions 1, 2, …; a tombstone where `rows` says so.
    fn way(rows: &[bool]) -> OrderWay {
        let passed = rows.iter().enumerate().map(|(at, is_row)| Passed {
            seen: Seen { version: version(at as u64 + 1), operation: Operation::Update, digest: None },
            open: is_row.then(|| Open::of("{\"a\":1}")),
            status: 0,
        });
        OrderWay::new(passed.collect())
    }

    #[test]
    fn a_row_begins_with_the_row_of_the_stage_before() {
        let open = Open::of("{\"a\":\"京\"}");
        assert!(open.begins("{\"a\":\"京\",\"b\":2}"));
        for other in
            ["{\"a\":\"京\"}", "{\"a\":\"北\",\"b\":2}", "{\"a\":\"京都\",\"b\":2}", "{}", "{\"b\":2,\"a\":\"京\"}"]
        {
            assert!(!open.begins(other), "{other}");
        }
    }

    #[test]
    fn dwd_has_each_version_once_in_order() {
        let mut way = way(&[true, true, false]);
        assert_eq!(way.cleaned(version(1), true), Came::Next(0));
        assert_eq!(way.cleaned(version(1), false), Came::Repeat);
        assert_eq!(way.cleaned(version(2), false), older(), "it was not there, and something newer is");
        assert_eq!(way.cleaned(version(3), true), Came::Lost(1, 2));
        assert_eq!(way.cleaned(version(4), true), Came::Surplus);
        assert_eq!(way.cleaned(version(2), true), Came::Surplus, "too late");
        assert_eq!(way.not_cleaned(), 0);
    }

    #[test]
    fn what_is_lost_at_the_end_is_seen_at_the_end() {
        let mut way = way(&[true, true, true]);
        way.cleaned(version(1), true);
        way.joined(&result(1, 0), Some(7));
        assert_eq!((way.not_cleaned(), way.not_joined()), (2, 2));
    }

    #[test]
    fn the_result_has_each_version_and_again_for_newer_users() {
        let mut way = way(&[true, true, false, true]);
        assert_eq!(way.joined(&result(1, 5), Some(7)), Came::Next(0));
        assert_eq!(way.joined(&result(1, 9), Some(7)), Came::Again(0));
        assert_eq!(way.joined(&result(1, 9), Some(7)), Came::Repeat);
        assert_eq!(way.joined(&result(1, 5), Some(7)), Came::Repeat);
        assert_eq!(way.joined(&result(2, 3), Some(8)), Came::Next(1), "another user may have an older version");
        assert_eq!(way.joined(&result(3, 0), None), Came::Next(2));
        assert_eq!(way.joined(&result(3, 4), Some(8)), Came::Wrong("a deleted order came again".into()));
        assert_eq!(way.joined(&result(9, 0), Some(8)), Came::Surplus);
        assert_eq!(way.joined(&result(4, 1), Some(8)), Came::Next(3));
        assert_eq!(way.last, Some((result(4, 1), Some(8))));
    }

    #[test]
    fn a_lost_or_strange_result_is_found() {
        let mut way = way(&[true, true, true]);
        assert_eq!(way.joined(&result(2, 1), Some(7)), Came::Lost(1, 1));
        assert_eq!(way.joined(&result(2, 0), Some(7)), Came::Repeat);
        assert_eq!(
            way.joined(&ResultVersion { fact: Version { part: 1, ..version(1) }, ..result(1, 1) }, None),
            older()
        );
        assert_eq!(way.not_joined(), 1);
    }

    #[test]
    fn each_status_keeps_its_newest_record() {
        let mut way = OrderWay::default();
        let record = |status, order| InStatus { status, version: result(order, 0), user_id: order as i64 };
        [record(0, 1), record(1, 2), record(0, 4), record(0, 3)].into_iter().for_each(|record| way.note(record));
        assert_eq!(way.in_statuses, [record(0, 4), record(1, 2)]);
        let mut statuses = Statuses::default();
        assert_eq!((statuses.number("PAID"), statuses.number("SHIPPED"), statuses.number("PAID")), (0, 1, 0));
        assert_eq!((statuses.name(1), statuses.find("LOST")), ("SHIPPED", None));
    }
}
