//! The worker: a batch of ODS records in, DWD records and dead letters out, in the same order.

use std::collections::BTreeMap;

use jiff::Timestamp;
use shared::batch::{Batch, Outgoing, Record};
use shared::metrics;
use shared::position::Version;
use shared::record::dead_letter::{self, Rejection};
use shared::record::header::{Header, Operation};
use shared::record::time;

use crate::plan::Plan;
use crate::quality::Quality;
use crate::rules::{Desk, Unwatched};
use crate::settings::QualityConfig;

/// Indexes of the publisher's topics.
pub const OUTPUT: usize = 0;
pub const DEAD_LETTERS: usize = 1;

/// What a row gets, more or less: columns, and a longer header.
const COLUMNS_BYTES: usize = 400;

/// Offsets behind the records of a batch, by partition.
pub type Offsets = Vec<(i32, i64)>;

/// How far a partition has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// The highest version that was handled: what is not above it was handled before.
    pub version: Version,
    /// The offset of the last record that was handled; `None` where there was none.
    pub offset: Option<i64>,
}

/// What was rejected of a batch; place and reason are those of the first.
struct Rejected {
    records: u64,
    partition: i32,
    offset: i64,
    version: Option<Version>,
    first: Rejection,
}

impl Rejected {
    fn first(record: &Record<'_>, first: Rejection) -> Self {
        let version = Header::version_in(record.header);
        Rejected { records: 0, partition: record.partition, offset: record.offset, version, first }
    }

    fn tell(&self, topic: &str) {
        tracing::warn!(
            topic,
            partition = self.partition,
            offset = self.offset,
            version = self.version.map(tracing::field::display),
            reason = self.first.reason,
            records = self.records,
            "rejected; the first of the batch: {}",
            self.first.detail
        );
    }
}

/// Cleans batches. It knows no client; time comes with the call.
pub struct Cleaner {
    pub(crate) plan: Plan,
    pub(crate) desk: Desk,
    quality: Quality,
    topic: String,
    /// By partition that is owned.
    standings: BTreeMap<i32, Standing>,
}

impl Cleaner {
    pub fn new(plan: Plan, quality: &QualityConfig, topic: String) -> Self {
        let quality = Quality::new(&plan, quality);
        Cleaner { desk: Desk::new(&plan), plan, quality, topic, standings: BTreeMap::new() }
    }

    pub fn assigned(&mut self, partitions: Vec<(i32, Standing)>) {
        self.standings.extend(partitions);
    }

    pub fn revoked(&mut self, partitions: &[i32]) {
        self.standings.retain(|partition, _| !partitions.contains(partition));
    }

    /// The output has these versions in it: what is put back in stands behind them.
    pub fn have_come_to(&mut self, highest: &BTreeMap<i32, Version>) {
        for (partition, standing) in &mut self.standings {
            standing.version = standing.version.max(highest.get(partition).copied().unwrap_or_default());
        }
    }

    pub fn standing(&self, partition: i32) -> Option<&Standing> {
        self.standings.get(&partition)
    }

    /// The partitions that are owned.
    pub fn owned(&self) -> Vec<i32> {
        self.standings.keys().copied().collect()
    }

    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// Cleans a batch. Its position is that of the whole batch, whatever became of its records.
    pub fn clean(&mut self, batch: &Batch, now: Timestamp) -> Outgoing<Offsets> {
        let now_text = time::milliseconds(now);
        let mut out = Outgoing::at(batch.next_offsets());
        out.begin(batch, COLUMNS_BYTES);
        let mut taken: BTreeMap<Operation, u64> = BTreeMap::new();
        let mut rejected: Option<Rejected> = None;
        for record in batch.records() {
            match self.record(&record, &now_text, &mut out) {
                Ok(operation) => *taken.entry(operation).or_default() += 1,
                Err(rejection) => {
                    self.reject(&record, &rejection, &now_text, &mut out);
                    rejected.get_or_insert_with(|| Rejected::first(&record, rejection)).records += 1;
                }
            }
        }
        for (operation, count) in taken {
            metrics::RECORDS_IN.with_label_values(&[&self.topic, operation.as_str()]).inc_by(count);
        }
        if let Some(rejected) = rejected {
            rejected.tell(&self.topic);
        }
        let (rows, tallies) = self.desk.take_tallies();
        self.quality.enter(rows, &tallies, now.as_second());
        out
    }

    fn record(&mut self, record: &Record<'_>, now: &str, out: &mut Outgoing<Offsets>) -> Result<Operation, Rejection> {
        let standing = self.standings.entry(record.partition).or_default();
        standing.offset = Some(record.offset);
        let header =
            Header::parse(record.header).map_err(|error| Rejection::new("unreadable_header", error.to_string()))?;
        let key = record.key.ok_or_else(|| Rejection::new("no_key", "the record has no key"))?;
        if header.version <= standing.version {
            metrics::REPEATS_DROPPED.inc();
            return Ok(header.operation);
        }
        standing.version = header.version;
        let onward = (&header, record.header.unwrap_or_default(), record.offset);
        let cleaned = record.value.map(|row| self.plan.clean(row, now, &mut self.desk, &mut Unwatched)).transpose()?;
        out.push_onward(OUTPUT, record.partition, key, onward, |value| {
            if let Some(cleaned) = &cleaned {
                cleaned.write(value);
            }
            cleaned.is_some()
        });
        Ok(header.operation)
    }

    fn reject(&self, record: &Record<'_>, rejection: &Rejection, now: &str, out: &mut Outgoing<Offsets>) {
        metrics::REJECTED.with_label_values(&[rejection.reason]).inc();
        let key = dead_letter::key(&self.topic, record);
        let value = dead_letter::value("dwd-cleaner", &self.topic, record, rejection, now);
        let header = Header { input_offset: Some(record.offset), ..Header::new(Operation::Insert, Version::default()) };
        out.push(DEAD_LETTERS, 0, &key, &header, Some(&value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use shared::position::Lsn;

    const ROW: &[u8] = br#"{"order_id":1,"product_category":null,"total_amount":1,"order_status":"PAID","order_time":"2025-01-01 00:00:00.000"}"#;

    fn cleaner() -> Cleaner {
        let settings = Settings::default();
        Cleaner::new(settings.plan().unwrap(), &settings.quality, "ods_orders".into())
    }

    fn header(lsn: u64) -> String {
        let version = Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
        Header { commit_time_us: Some(5), ..Header::new(Operation::Insert, version) }.text()
    }

    /// Offset, value, header.
    type Given<'a> = (i64, Option<&'a [u8]>, Option<&'a str>);

    fn batch(records: &[Given<'_>]) -> Batch {
        let mut batch = Batch::default();
        for (offset, value, header) in records {
            let header = header.map(str::as_bytes);
            batch.push(Record { partition: 0, offset: *offset, key: Some(b"{\"order_id\":1}"), value: *value, header });
        }
        batch
    }

    #[test]
    fn each_record_names_where_it_came_from() {
        let mut cleaner = cleaner();
        let (first, second) = (header(1), header(2));
        let out =
            cleaner.clean(&batch(&[(7, Some(ROW), Some(&first)), (8, None, Some(&second))]), Timestamp::UNIX_EPOCH);
        let headers: Vec<Header> = out.records().map(|record| Header::parse(Some(record.header)).unwrap()).collect();
        assert_eq!(headers.iter().map(|header| header.input_offset).collect::<Vec<_>>(), [Some(7), Some(8)]);
        assert_eq!(headers[0].commit_time_us, Some(5));
        assert_eq!(out.record(1).unwrap().value, None);
        assert_eq!(out.position, [(0, 9)]);
    }

    #[test]
    fn a_repeat_is_dropped_and_its_position_counts() {
        let mut cleaner = cleaner();
        cleaner.assigned(vec![(
            0,
            Standing { version: Version { epoch: 1, lsn: Lsn(2), ..Version::default() }, offset: Some(6) },
        )]);
        let (old, new) = (header(2), header(3));
        let out =
            cleaner.clean(&batch(&[(7, Some(ROW), Some(&old)), (8, Some(ROW), Some(&new))]), Timestamp::UNIX_EPOCH);
        assert_eq!((out.len(), out.position), (1, vec![(0, 9)]));
    }

    #[test]
    fn a_bad_record_is_set_aside_and_the_next_goes_on() {
        let mut cleaner = cleaner();
        let (first, second) = (header(1), header(2));
        let records = [
            (7, Some(&b"no json"[..]), Some(first.as_str())),
            (8, Some(ROW), None),
            (9, Some(ROW), Some(second.as_str())),
        ];
        let out = cleaner.clean(&batch(&records), Timestamp::UNIX_EPOCH);
        assert_eq!(out.records().map(|record| record.topic).collect::<Vec<_>>(), [DEAD_LETTERS, DEAD_LETTERS, OUTPUT]);
        assert_eq!(out.position, [(0, 10)]);
    }
}
