//! Dead letters put back in: cleaned by the rules of now, each with its own old version, and never behind a newer one of its key.
//!
//! The record goes out with the version that the source gave it. `re=` in its header names the version that the partition has come to and
//! `in=` the input offset, so that neither falls: a restart goes on where it would have without the replay.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::batch::Outgoing;
use shared::metrics;
use shared::position::Version;
use shared::record::header::Header;
use shared::record::time;

use crate::cleaner::{Cleaner, OUTPUT, Standing};
use crate::rules::Unwatched;

/// A dead letter that may go back in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub partition: i32,
    /// Of the record that was rejected, in the input.
    pub offset: i64,
    pub key: Box<[u8]>,
    pub value: Option<Box<[u8]>>,
    pub header: Header,
    /// `None` where that cannot be read.
    pub rejected_at: Option<Timestamp>,
}

/// The newest version of each key in the output; `None` for a key that it does not have.
pub type Newest = HashMap<Box<[u8]>, Option<Version>>;

/// Now, and since when every tombstone is still in the output.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub now: Timestamp,
    pub tombstones_since: Timestamp,
}

/// What became of the letters.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub put_back: u64,
    /// A newer version of the key is in the output: putting the old one back in would undo it.
    pub superseded: u64,
    /// This very version is in the output.
    pub back_already: u64,
    pub still_rejected: u64,
    /// Why, with the count.
    pub still_rejected_by: BTreeMap<String, u64>,
    /// Another instance owns the partition.
    pub of_other_instances: u64,
    /// The record comes again by itself: the letter was written, and the process ended before its batch was done.
    pub not_handled_yet: u64,
    /// The output does not have the key, and the letter is older than the tombstones that are kept: the key may have been deleted since.
    pub too_old: u64,
}

impl Report {
    pub fn add(&mut self, other: Report) {
        self.put_back += other.put_back;
        self.superseded += other.superseded;
        self.back_already += other.back_already;
        self.still_rejected += other.still_rejected;
        for (why, count) in other.still_rejected_by {
            *self.still_rejected_by.entry(why).or_default() += count;
        }
        self.of_other_instances += other.of_other_instances;
        self.not_handled_yet += other.not_handled_yet;
        self.too_old += other.too_old;
    }

    /// Enters it into the metrics.
    fn count(&self) {
        for (outcome, count) in [
            ("put_back", self.put_back),
            ("superseded", self.superseded),
            ("back_already", self.back_already),
            ("still_rejected", self.still_rejected),
            ("too_old", self.too_old),
        ] {
            metrics::REPLAYED.with_label_values(&[outcome]).inc_by(count);
        }
    }
}

/// Why a letter stays where it is, by its place in the history of its key and partition.
#[derive(Debug, PartialEq, Eq)]
enum Stays {
    Superseded,
    BackAlready,
    OfOtherInstance,
    NotHandledYet,
    TooOld,
}

/// Where the letter may be put back in, or why not. A tombstone that was written since `tombstones_since` is still in the output.
fn place(
    letter: &Letter,
    standing: Option<&Standing>,
    newest: Option<Version>,
    tombstones_since: Timestamp,
) -> Result<Standing, Stays> {
    let standing = standing.ok_or(Stays::OfOtherInstance)?;
    if standing.offset.is_none_or(|handled| letter.offset > handled) {
        return Err(Stays::NotHandledYet);
    }
    match newest.map(|newest| newest.cmp(&letter.header.version)) {
        Some(std::cmp::Ordering::Greater) => Err(Stays::Superseded),
        Some(std::cmp::Ordering::Equal) => Err(Stays::BackAlready),
        Some(std::cmp::Ordering::Less) => Ok(*standing),
        None if letter.rejected_at.is_some_and(|at| at >= tombstones_since) => Ok(*standing),
        None => Err(Stays::TooOld),
    }
}

impl Cleaner {
    /// Puts back in what can be, in the given order. `newest` holds all that was sent before for the keys, by partition.
    pub fn put_back(
        &mut self,
        letters: &[Letter],
        newest: &mut HashMap<i32, Newest>,
        times: Times,
        out: &mut Outgoing<impl Sized>,
    ) -> Report {
        let now = time::milliseconds(times.now);
        let mut report = Report::default();
        for letter in letters {
            let known = newest.entry(letter.partition).or_default().entry(letter.key.clone()).or_default();
            match place(letter, self.standing(letter.partition), *known, times.tombstones_since) {
                Ok(standing) => match self.put_back_one(letter, standing, &now, out) {
                    Ok(()) => {
                        *known = Some(letter.header.version);
                        report.put_back += 1;
                    }
                    Err(why) => {
                        report.still_rejected += 1;
                        *report.still_rejected_by.entry(why).or_default() += 1;
                    }
                },
                Err(Stays::Superseded) => report.superseded += 1,
                Err(Stays::BackAlready) => report.back_already += 1,
                Err(Stays::OfOtherInstance) => report.of_other_instances += 1,
                Err(Stays::NotHandledYet) => report.not_handled_yet += 1,
                Err(Stays::TooOld) => report.too_old += 1,
            }
        }
        // The rows of a replay are old ones: the quality of the rows that come now is another matter.
        self.desk.take_tallies();
        report.count();
        report
    }

    fn put_back_one(
        &mut self,
        letter: &Letter,
        standing: Standing,
        now: &str,
        out: &mut Outgoing<impl Sized>,
    ) -> Result<(), String> {
        let header =
            Header { input_offset: standing.offset, put_back_at: Some(standing.version), ..letter.header.clone() };
        let Some(row) = &letter.value else {
            out.push(OUTPUT, letter.partition, &letter.key, &header, None);
            return Ok(());
        };
        let cleaned =
            self.plan.clean(row, now, &mut self.desk, &mut Unwatched).map_err(|rejection| match rejection.rule {
                Some(rule) => format!("rule `{rule}`: {}", rejection.reason),
                None => rejection.reason.to_owned(),
            })?;
        out.push_with(OUTPUT, letter.partition, &letter.key, &header, |value| {
            cleaned.write(value);
            true
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use proptest::prelude::*;
    use shared::batch::{Batch, Record};
    use shared::position::Lsn;
    use shared::record::header::Operation;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const TIMES: Times = Times { now: NOW, tombstones_since: NOW };

    fn version(lsn: u64) -> Version {
        Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() }
    }

    fn cleaner() -> Cleaner {
        let settings = Settings::default();
        Cleaner::new(settings.plan().unwrap(), &settings.quality, "ods_orders".into())
    }

    fn row(id: u8, amount: &str) -> Vec<u8> {
        format!(r#"{{"order_id":{id},"product_category":null,"total_amount":{amount},"order_status":"PAID","order_time":"2025-01-01 00:00:00.000"}}"#).into_bytes()
    }

    fn letter(id: u8, offset: i64, lsn: u64, amount: &str) -> Letter {
        let header = Header { transaction: 7, ..Header::new(Operation::Update, version(lsn)) };
        Letter {
            partition: 0,
            offset,
            key: [id].into(),
            value: Some(row(id, amount).into()),
            header,
            rejected_at: Some(NOW),
        }
    }

    fn put(cleaner: &mut Cleaner, letters: &[Letter], newest: &[(u8, u64)]) -> (Report, Vec<Header>) {
        let newest = newest.iter().map(|(id, lsn)| (Box::from([*id]), Some(version(*lsn)))).collect();
        let mut out = Outgoing::at(());
        let report = cleaner.put_back(letters, &mut HashMap::from([(0, newest)]), TIMES, &mut out);
        (report, out.records().map(|record| Header::parse(Some(record.header)).unwrap()).collect())
    }

    #[test]
    fn old_versions_go_out_in_order_and_the_partition_stands_where_it_stood() {
        let mut cleaner = cleaner();
        cleaner.assigned(vec![(0, Standing { version: version(90), offset: Some(40) })]);
        let (report, headers) =
            put(&mut cleaner, &[letter(1, 10, 20, "1"), letter(1, 12, 22, "2"), letter(2, 13, 23, "3")], &[]);
        assert_eq!(report, Report { put_back: 3, ..Report::default() });
        assert_eq!(headers.iter().map(|header| header.version.lsn.0).collect::<Vec<_>>(), [20, 22, 23]);
        for header in headers {
            assert_eq!(
                (header.partition_version(), header.input_offset, header.transaction),
                (version(90), Some(40), 7)
            );
        }
    }

    #[test]
    fn what_is_behind_its_key_ahead_of_the_partition_or_elsewhere_stays() {
        let mut cleaner = cleaner();
        cleaner.assigned(vec![(0, Standing { version: version(90), offset: Some(40) })]);
        let letters = [
            letter(1, 10, 20, "1"),
            letter(2, 11, 21, "1"),
            letter(3, 12, 22, "\"bad\""),
            letter(4, 41, 91, "1"),
            Letter { partition: 3, ..letter(5, 14, 24, "1") },
        ];
        let (report, headers) = put(&mut cleaner, &letters, &[(1, 30), (2, 21)]);
        let by = BTreeMap::from([("rule `amount_text`: wrong_type".to_owned(), 1)]);
        assert_eq!(
            report,
            Report {
                superseded: 1,
                back_already: 1,
                still_rejected: 1,
                still_rejected_by: by,
                not_handled_yet: 1,
                of_other_instances: 1,
                ..Report::default()
            }
        );
        assert!(headers.is_empty());
    }

    #[test]
    fn a_key_that_may_have_been_deleted_long_ago_stays_away() {
        let mut cleaner = cleaner();
        cleaner.assigned(vec![(0, Standing { version: version(90), offset: Some(40) })]);
        let old = |id| Letter { rejected_at: Timestamp::from_second(-1).ok(), ..letter(id, 10, 20, "1") };
        let unknown = Letter { rejected_at: None, ..letter(3, 12, 22, "1") };
        let (report, headers) = put(&mut cleaner, &[old(1), old(2), unknown], &[(2, 5)]);
        assert_eq!((report, headers.len()), (Report { put_back: 1, too_old: 2, ..Report::default() }, 1));
    }

    /// The topic as a reader would hold it, and whether it ever went back.
    #[derive(Default)]
    struct Output {
        newest: BTreeMap<u8, Version>,
        partition: Version,
        offset: Option<i64>,
    }

    impl Output {
        fn take(&mut self, out: &Outgoing<impl Sized>) {
            for record in out.records().filter(|record| record.topic == OUTPUT) {
                let header = Header::parse(Some(record.header)).unwrap();
                let before = self.newest.insert(record.key[0], header.version);
                assert!(before.is_none_or(|before| before < header.version), "a key went back");
                assert!(self.partition <= header.partition_version(), "the partition went back");
                assert!(self.offset <= header.input_offset, "the position went back");
                (self.partition, self.offset) = (header.partition_version(), header.input_offset);
            }
        }
    }

    proptest! {
        /// Rows come, some of them bad; now and then letters are replayed by rules that take more of them, in any order, any number of
        /// times, with restarts between: no key, no partition and no position ever goes back, and the last replay leaves each key at its
        /// newest version that is good.
        #[test]
        fn nothing_ever_goes_back(steps in prop::collection::vec((0u8..4, 0u8..3, any::<bool>(), any::<bool>()), 1..40)) {
            let (mut worker, mut output) = (cleaner(), Output::default());
            worker.assigned(vec![(0, Standing::default())]);
            let mut letters: Vec<Letter> = Vec::new();
            let mut newest_good: BTreeMap<u8, Version> = BTreeMap::new();
            let replay = |worker: &mut Cleaner, letters: &[Letter], output: &mut Output| {
                let newest = output.newest.iter().map(|(id, version)| (Box::from([*id]), Some(*version))).collect();
                let mut out = Outgoing::at(());
                let report = worker.put_back(letters, &mut HashMap::from([(0, newest)]), TIMES, &mut out);
                output.take(&out);
                report
            };
            for (offset, (id, badness, replays, restarts)) in (0i64..).zip(steps) {
                let lsn = u64::try_from(offset).unwrap() + 1;
                let text = Header::new(Operation::Update, version(lsn)).text();
                // A bad row is one that the rules of then refused; those of now take all but the worst.
                let value = if badness == 0 { row(id, "1") } else { b"refused".to_vec() };
                let mut batch = Batch::default();
                batch.push(Record { partition: 0, offset, key: Some(&[id]), value: Some(&value), header: Some(text.as_bytes()) });
                output.take(&worker.clean(&batch, Timestamp::UNIX_EPOCH));
                if badness > 0 {
                    let amount = if badness == 1 { "1" } else { "\"NaN\"" };
                    letters.push(letter(id, offset, lsn, amount));
                }
                if badness < 2 {
                    newest_good.insert(id, version(lsn));
                }
                if restarts {
                    worker = cleaner();
                    worker.assigned(vec![(0, Standing { version: output.partition, offset: Some(offset) })]);
                }
                if replays {
                    let half = letters.len() / 2;
                    replay(&mut worker, &letters[half..], &mut output);
                }
            }
            replay(&mut worker, &letters, &mut output);
            prop_assert_eq!(&output.newest, &newest_good);
            prop_assert_eq!(replay(&mut worker, &letters, &mut output).put_back, 0, "a second replay changes nothing");
        }
    }
}
