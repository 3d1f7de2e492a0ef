//! Tombstones for rows that are gone without a DELETE in the stream: after a TRUNCATE, and those that a re-read did not find.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use shared::failure::Failure;
use shared::kafka::tail::{self, TailReader};
use shared::position::Version;
use shared::record::header::Header;

use super::Core;
use crate::state::KeyRange;

/// Which live keys of a topic are gone.
#[derive(Debug, Clone, Default)]
pub struct Gone {
    /// Those with an older version than this; all where absent.
    pub below: Option<Version>,
    /// Those in this range.
    pub range: KeyRange,
}

impl Gone {
    pub fn all() -> Self {
        Gone::default()
    }

    fn has(&self, version: Version) -> bool {
        self.below.is_none_or(|below| version < below)
    }
}

/// Newest version and whether the row is there, by key.
type Newest = HashMap<Vec<u8>, (Version, bool)>;

/// A part of a partition's keys, small enough to be held in memory.
#[derive(Debug, Clone, Copy)]
struct Slice {
    partition: i32,
    part: u64,
    parts: u64,
}

impl Slice {
    fn has(self, key: &[u8]) -> bool {
        self.parts == 1 || BuildHasherDefault::<DefaultHasher>::default().hash_one(key) % self.parts == self.part
    }
}

impl Core {
    /// Sends a tombstone for each live key of the table's topic that is gone.
    pub(super) async fn tombstone_live_keys(
        &mut self,
        table: usize,
        number: Option<u32>,
        gone: &Gone,
    ) -> Result<(), Failure> {
        self.send().await?;
        self.drain().await?;
        let mut tombstones = 0;
        for slice in self.slices(table).await? {
            let keys = self.live_keys(table, slice, gone).await?;
            let keys = self.in_range(table, keys, &gone.range).await?;
            tombstones += keys.len();
            for part in keys.chunks(self.settings.kafka.batch_records_max.max(1)) {
                self.assembler.tombstones(table, number, part.iter().map(Vec::as_slice), &mut self.out);
                self.send().await?;
            }
        }
        tracing::info!(table = self.table_name(table), tombstones, "tombstones for rows that are gone");
        Ok(())
    }

    /// A task that reads topics; it blocks.
    async fn read_topic<T: Send + 'static>(
        &self,
        read: impl FnOnce(&TailReader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        tail::read_in_task(&self.settings.kafka, "cdc-ingest", &self.fate, read).await
    }

    /// The parts in which the topic is searched.
    async fn slices(&self, table: usize) -> Result<Vec<Slice>, Failure> {
        let (topic, partitions) = self.topic_of(table);
        let keys_max = self.settings.snapshot.sweep_keys_max as u64;
        let slices = move |reader: &TailReader| {
            let mut slices = Vec::new();
            for (partition, bounds) in reader.bounds(&topic, 0..partitions)? {
                let records = u64::try_from(bounds.end - bounds.first).unwrap_or(0);
                let parts = records.div_ceil(keys_max.max(1)).max(1);
                slices.extend((0..parts).map(|part| Slice { partition, part, parts }));
            }
            Ok(slices)
        };
        self.read_topic(slices).await
    }

    fn topic_of(&self, table: usize) -> (String, i32) {
        let topic = self.tables.get(table).map(|table| table.topic.clone()).unwrap_or_default();
        (topic, self.assembler.tables().get(table).map_or(0, |captured| captured.partitions))
    }

    async fn live_keys(&self, table: usize, slice: Slice, gone: &Gone) -> Result<Vec<Vec<u8>>, Failure> {
        let ((topic, _), gone) = (self.topic_of(table), gone.clone());
        let scan = move |reader: &TailReader| {
            // The newest version counts, whatever the order: a record of a writer that hung may stand behind newer ones.
            let mut newest = Newest::new();
            reader.scan(&topic, &[(slice.partition, 0)], &mut |record| {
                let key = record.key.unwrap_or_default();
                // A foreign record is not ours to delete.
                if let (true, Ok(header)) = (slice.has(key), Header::parse(record.header)) {
                    let known = newest.entry(key.to_vec()).or_default();
                    if header.version >= known.0 {
                        *known = (header.version, record.value.is_some());
                    }
                }
                Ok(())
            })?;
            let found = newest.into_iter().filter(|(_, (version, live))| *live && gone.has(*version));
            Ok(found.map(|(key, _)| key).collect())
        };
        self.read_topic(scan).await
    }
}
