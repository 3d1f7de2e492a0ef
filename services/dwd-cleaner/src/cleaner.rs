//! The worker: a batch of ODS records in, DWD records and dead letters out, in the same order.

use std::collections::HashMap;

use actix::prelude::*;
use shared::batch::{Batch, Outgoing, Record};
use shared::generation::Fate;
use shared::kafka::reader::FromReader;
use shared::metrics;
use shared::position::Version;
use shared::record::dead_letter::{self, Rejection};
use shared::record::header::{Header, Operation};
use shared::record::time;

use crate::plan::Plan;
use crate::rules::{Desk, Unwatched};

/// Indexes of the publisher's topics.
pub const OUTPUT: usize = 0;
pub const DEAD_LETTERS: usize = 1;

/// Offsets behind the records of a batch, by partition.
pub type Offsets = Vec<(i32, i64)>;

/// What is known of a partition when it is taken over: the version of the last record in the output.
pub type Tail = Option<Version>;

/// Cleans batches. It knows no client; time comes with the call.
pub struct Cleaner {
    plan: Plan,
    desk: Desk,
    topic: String,
    /// The highest version that was handled, by partition: what is not above it was handled before.
    handled: HashMap<i32, Version>,
}

impl Cleaner {
    pub fn new(plan: Plan, topic: String) -> Self {
        Cleaner { plan, desk: Desk::default(), topic, handled: HashMap::new() }
    }

    pub fn assigned(&mut self, partitions: Vec<(i32, Tail)>) {
        for (partition, tail) in partitions {
            self.handled.insert(partition, tail.unwrap_or_default());
        }
    }

    pub fn revoked(&mut self, partitions: &[i32]) {
        self.handled.retain(|partition, _| !partitions.contains(partition));
    }

    /// Cleans a batch. Its position is that of the whole batch, whatever became of its records.
    pub fn clean(&mut self, batch: &Batch, now: &str) -> Outgoing<Offsets> {
        let mut out = Outgoing::at(batch.next_offsets());
        let mut taken: HashMap<Operation, u64> = HashMap::new();
        for record in batch.records() {
            match self.record(&record, now, &mut out) {
                Ok(operation) => *taken.entry(operation).or_default() += 1,
                Err(rejection) => self.reject(&record, &rejection, now, &mut out),
            }
        }
        for (operation, count) in taken {
            metrics::RECORDS_IN.with_label_values(&[&self.topic, operation.as_str()]).inc_by(count);
        }
        out
    }

    fn record(&mut self, record: &Record<'_>, now: &str, out: &mut Outgoing<Offsets>) -> Result<Operation, Rejection> {
        let header =
            Header::parse(record.header).map_err(|error| Rejection::new("unreadable_header", error.to_string()))?;
        let key = record.key.ok_or_else(|| Rejection::new("no_key", "the record has no key"))?;
        let handled = self.handled.entry(record.partition).or_default();
        if header.version <= *handled {
            metrics::REPEATS_DROPPED.inc();
            return Ok(header.operation);
        }
        *handled = header.version;
        let header_out = Header { input_offset: Some(record.offset), ..header };
        let Some(row) = record.value else {
            out.push(OUTPUT, record.partition, key, &header_out, None);
            return Ok(header.operation);
        };
        let cleaned = self.plan.clean(row, now, &mut self.desk, &mut Unwatched)?;
        out.push_with(OUTPUT, record.partition, key, &header_out, |value| {
            cleaned.write(value);
            true
        });
        Ok(header.operation)
    }

    fn reject(&self, record: &Record<'_>, rejection: &Rejection, now: &str, out: &mut Outgoing<Offsets>) {
        metrics::REJECTED.with_label_values(&[rejection.reason]).inc();
        tracing::warn!(
            topic = self.topic,
            partition = record.partition,
            offset = record.offset,
            reason = rejection.reason,
            "record rejected: {}",
            rejection.detail
        );
        let key = dead_letter::key(&self.topic, record);
        let value = dead_letter::value("dwd-cleaner", &self.topic, record, rejection, now);
        let header = Header { input_offset: Some(record.offset), ..Header::new(Operation::Insert, Version::default()) };
        out.push(DEAD_LETTERS, 0, &key, &header, Some(&value));
    }
}

/// The actor around the cleaner.
pub struct CleanerActor {
    pub cleaner: Cleaner,
    pub publisher: Recipient<Outgoing<Offsets>>,
    pub fate: Fate,
}

impl Actor for CleanerActor {
    type Context = Context<Self>;
}

impl Handler<FromReader<Tail>> for CleanerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: FromReader<Tail>, _: &mut Self::Context) -> Self::Result {
        let out = match message {
            FromReader::Assigned(partitions) => {
                self.cleaner.assigned(partitions);
                None
            }
            FromReader::Revoked(partitions) => {
                self.cleaner.revoked(&partitions);
                None
            }
            FromReader::Batch(batch) => Some(self.cleaner.clean(&batch, &time::milliseconds(time::now()))),
        };
        let sent = out.map(|out| self.publisher.send(out));
        let fate = self.fate.clone();
        let send = async move {
            if let Some(sent) = sent
                && sent.await.is_err()
            {
                fate.end_broken("publisher");
            }
        };
        AtomicResponse::new(Box::pin(send.into_actor(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use shared::position::Lsn;

    const ROW: &[u8] = br#"{"order_id":1,"product_category":null,"total_amount":1,"order_status":"PAID","order_time":"2025-01-01 00:00:00.000"}"#;

    fn cleaner() -> Cleaner {
        Cleaner::new(Settings::default().plan().unwrap(), "ods_orders".into())
    }

    fn header(lsn: u64) -> String {
        let mut text = String::new();
        let version = Version { epoch: 1, lsn: Lsn(lsn), ..Version::default() };
        Header { commit_time_us: Some(5), ..Header::new(Operation::Insert, version) }.write(&mut text);
        text
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
        let out = cleaner.clean(&batch(&[(7, Some(ROW), Some(&first)), (8, None, Some(&second))]), "now");
        let headers: Vec<Header> = out.records().map(|record| Header::parse(Some(record.header)).unwrap()).collect();
        assert_eq!(headers.iter().map(|header| header.input_offset).collect::<Vec<_>>(), [Some(7), Some(8)]);
        assert_eq!(headers[0].commit_time_us, Some(5));
        assert_eq!(out.record(1).unwrap().value, None);
        assert_eq!(out.position, [(0, 9)]);
    }

    #[test]
    fn a_repeat_is_dropped_and_its_position_counts() {
        let mut cleaner = cleaner();
        cleaner.assigned(vec![(0, Some(Version { epoch: 1, lsn: Lsn(2), ..Version::default() }))]);
        let (old, new) = (header(2), header(3));
        let out = cleaner.clean(&batch(&[(7, Some(ROW), Some(&old)), (8, Some(ROW), Some(&new))]), "now");
        assert_eq!((out.len(), out.position.as_slice()), (1, &[(0, 9)][..]));
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
        let out = cleaner.clean(&batch(&records), "now");
        assert_eq!(out.records().map(|record| record.topic).collect::<Vec<_>>(), [DEAD_LETTERS, DEAD_LETTERS, OUTPUT]);
        assert_eq!(out.position, [(0, 10)]);
    }
}
