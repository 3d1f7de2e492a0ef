//! Reads a table: what is in it, then every change for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fluss::client::{FlussConnection, LogScanner};
use fluss::error::Error;
use fluss::metadata::{TableBucket, TableInfo};
use fluss::record::{ChangeType, ScanRecord};
use fluss::row::ColumnarRow;
use fluss::rpc::message::OffsetSpec;
use shared::batch::{Batch, Record};
use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;
use shared::kafka::table::{FromTable, TableNews};
use shared::position::Version;
use shared::record::header::{Header, Operation};
use tokio::sync::mpsc;

use super::FlussTable;
use super::form::Form;
use super::load::{Load, Older, epoch, of_change, of_older};
use crate::plan::problem;

/// So long a poll waits for records; it is answered at once when there are any.
const LONG_POLL: Duration = Duration::from_millis(500);

/// Reads for as long as it is polled.
pub async fn read(table: &FlussTable, number: usize, sender: &mpsc::Sender<FromTable>) -> Result<(), Failure> {
    let connection = table.connect().await?;
    let found = table.find(&connection).await?;
    let info = found.get_table_info();
    let form = Form::new(info, &table.dimension)?;
    // In this order: what the table has is then in the log up to its end, or was before its start.
    let starts = table.offsets(&connection, info, OffsetSpec::Earliest).await?;
    let older = older_rows(table, &found, &form, &starts).await?;
    let ends = table.offsets(&connection, info, OffsetSpec::Latest).await?;
    let scanner = found.new_scan().create_log_scanner().map_err(|error| table.failure(error))?;
    table.answer(scanner.subscribe_buckets(&starts)).await?;
    let epoch = epoch(info.get_table_id()).ok_or_else(|| {
        Failure::new(FailureKind::Data, format!("table id {} of Fluss is none", info.get_table_id()))
            .cure("make the table in another Fluss cluster")
    })?;
    let outlet = Outlet::new(number, sender, &table.kafka, form, epoch);
    let load = Some(Load::new(&starts, ends, older));
    Following { table, connection: &connection, info, outlet, load }.run(&scanner).await
}

/// All rows of the buckets whose log does not go back to the first change, by key.
async fn older_rows(
    table: &FlussTable,
    found: &fluss::client::FlussTable<'_>,
    form: &Form,
    starts: &HashMap<i32, i64>,
) -> Result<HashMap<Box<[u8]>, Older>, Failure> {
    let (info, mut older) = (found.get_table_info(), HashMap::new());
    for (&bucket, &log_start) in starts.iter().filter(|(_, log_start)| **log_start > 0) {
        let limit = i32::try_from(table.config.bucket_rows_max).unwrap_or(i32::MAX);
        let mut scanner = found
            .new_scan()
            .limit(limit)
            .and_then(|scan| scan.create_bucket_batch_scanner(TableBucket::new(info.get_table_id(), bucket)))
            .map_err(|error| table.failure(error))?;
        let Some(batch) = table.answer(scanner.next_batch()).await? else { continue };
        let rows = batch.num_records();
        if rows >= usize::try_from(limit).unwrap_or(usize::MAX) {
            let what =
                format!("bucket {bucket} of Fluss table `{}` has {rows} rows or more", table.dimension.read_from());
            return Err(problem(what, "raise bucket_rows_max in [dimensions.fluss]"));
        }
        if rows > 0 {
            let mut row =
                ColumnarRow::new(Arc::new(batch.into_batch()), Arc::new(info.get_row_type().clone()), 0, None)
                    .map_err(unreadable)?;
            for at in 0..rows {
                row.set_row_id(at);
                let (mut key, mut value) = (Vec::new(), Vec::new());
                form.key(&row, &mut key).and_then(|()| form.row(&row, &mut value)).map_err(unreadable)?;
                older.insert(key.into(), Older { bucket, log_start, row: value.into() });
            }
        }
    }
    Ok(older)
}

/// A value that is not of its column's type: client and servers do not understand each other.
fn unreadable(error: Error) -> Failure {
    Failure::new(FailureKind::Data, "a row of a Fluss table cannot be read")
        .caused_by(error)
        .cure("compare the versions of Fluss and of its client: docs/joining.md")
}

struct Following<'a> {
    table: &'a FlussTable,
    connection: &'a FlussConnection,
    info: &'a TableInfo,
    outlet: Outlet<'a>,
    /// Until the table is loaded.
    load: Option<Load>,
}

impl Following<'_> {
    async fn run(mut self, scanner: &LogScanner) -> Result<(), Failure> {
        let look_interval = Duration::from_millis(self.table.config.look_interval_ms);
        let (mut looked_at, mut came_at) = (Instant::now(), Instant::now());
        loop {
            self.load_when_read(came_at).await?;
            let records = self.table.answer(scanner.poll(LONG_POLL)).await?;
            if !records.is_empty() {
                came_at = Instant::now();
            }
            for (bucket, records) in records.records_by_buckets() {
                for record in records {
                    self.take(bucket.bucket_id(), record).await?;
                }
            }
            self.outlet.flush().await?;
            if looked_at.elapsed() >= look_interval {
                self.table.look(self.connection, self.info).await?;
                looked_at = Instant::now();
            }
        }
    }

    /// Says that the table is loaded, once it is. The end of a log may have no record (the deletion of a row that was not there), and
    /// nobody says that it was passed: then it is that nothing came for a while, from servers that answer.
    async fn load_when_read(&mut self, came_at: Instant) -> Result<(), Failure> {
        let settle = Duration::from_millis(self.table.config.settle_ms);
        let is_read = match &self.load {
            None => return Ok(()),
            Some(load) => load.is_read(),
        };
        if !is_read {
            if came_at.elapsed() < settle {
                return Ok(());
            }
            self.table.look(self.connection, self.info).await?;
        }
        let older = self.load.take().map(Load::into_older).unwrap_or_default();
        if !older.is_empty() {
            let (table, rows) = (self.table.dimension.read_from(), older.len());
            tracing::info!(table, rows, "rows whose change the log has no more");
        }
        for (key, row) in older {
            self.outlet.older(&key, &row).await?;
        }
        self.outlet.loaded().await
    }

    async fn take(&mut self, bucket: i32, record: &ScanRecord) -> Result<(), Failure> {
        let mut key = Vec::new();
        self.outlet.form.key(record.row(), &mut key).map_err(unreadable)?;
        if let Some(before) = self.load.as_mut().and_then(|load| load.take(bucket, record.offset(), &key)) {
            self.outlet.older(&key, &before).await?;
        }
        self.outlet.change(bucket, record, &key).await
    }
}

/// What goes to the joiner, in batches within the bounds of those from Kafka.
struct Outlet<'a> {
    number: usize,
    sender: &'a mpsc::Sender<FromTable>,
    kafka: &'a KafkaConfig,
    form: Form,
    epoch: u32,
    batch: Batch,
    /// Rows of the table have no offset; each has a number of its own below all offsets.
    next_below: i64,
}

impl<'a> Outlet<'a> {
    fn new(number: usize, sender: &'a mpsc::Sender<FromTable>, kafka: &'a KafkaConfig, form: Form, epoch: u32) -> Self {
        Outlet { number, sender, kafka, form, epoch, batch: Batch::default(), next_below: -1 }
    }

    async fn change(&mut self, bucket: i32, record: &ScanRecord, key: &[u8]) -> Result<(), Failure> {
        let operation = match record.change_type() {
            ChangeType::UpdateBefore => return Ok(()),
            ChangeType::Insert | ChangeType::AppendOnly => Operation::Insert,
            ChangeType::UpdateAfter => Operation::Update,
            ChangeType::Delete => Operation::Delete,
        };
        let mut value = Vec::new();
        if operation != Operation::Delete {
            self.form.row(record.row(), &mut value).map_err(unreadable)?;
        }
        let value = (operation != Operation::Delete).then_some(value.as_slice());
        let time = Some(record.timestamp()).filter(|ms| *ms >= 0).and_then(|ms| ms.checked_mul(1000));
        let header = Header { commit_time_us: time, ..Header::new(operation, self.version(record)) };
        self.push(bucket, record.offset(), key, value, &header).await
    }

    fn version(&self, record: &ScanRecord) -> Version {
        of_change(self.epoch, record.offset())
    }

    async fn older(&mut self, key: &[u8], older: &Older) -> Result<(), Failure> {
        let header = Header::new(Operation::Snapshot, of_older(self.epoch, older.log_start));
        let offset = self.next_below;
        self.next_below -= 1;
        self.push(older.bucket, offset, key, Some(&older.row), &header).await
    }

    async fn push(
        &mut self,
        partition: i32,
        offset: i64,
        key: &[u8],
        value: Option<&[u8]>,
        header: &Header,
    ) -> Result<(), Failure> {
        let mut text = Vec::new();
        header.write(&mut text);
        self.batch.push(Record { partition, offset, key: Some(key), value, header: Some(&text) });
        let is_full =
            self.batch.len() >= self.kafka.batch_records_max || self.batch.size_bytes() >= self.kafka.batch_bytes_max;
        if is_full { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.send(TableNews::Batch(batch)).await
    }

    async fn loaded(&mut self) -> Result<(), Failure> {
        self.flush().await?;
        self.send(TableNews::Loaded).await
    }

    async fn send(&self, what: TableNews) -> Result<(), Failure> {
        let message = FromTable { table: self.number, what };
        let gone = |_| Failure::new(FailureKind::Broken, "the first actor of the chain is gone");
        self.sender.send(message).await.map_err(gone)
    }
}
