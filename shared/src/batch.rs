//! What one message between actors carries: many records and their positions, in one buffer.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use crate::record::header::{Header, Operation};

/// One record of a batch, borrowed from its buffer.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The text of the header `tidemill`.
    pub header: Option<&'a [u8]>,
}

struct Slot {
    partition: i32,
    offset: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    header: Option<Range<usize>>,
}

/// Records as they were read from one topic, in order for each partition.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    slots: Vec<Slot>,
    /// When the first record was read.
    pub since: Option<Instant>,
}

fn append(buffer: &mut Vec<u8>, bytes: Option<&[u8]>) -> Option<Range<usize>> {
    let bytes = bytes?;
    let start = buffer.len();
    buffer.extend_from_slice(bytes);
    Some(start..buffer.len())
}

impl Batch {
    /// An empty one with room for as much as this one holds: the next is most often as large.
    pub fn next(&self) -> Self {
        Batch { bytes: Vec::with_capacity(self.bytes.len()), slots: Vec::with_capacity(self.slots.len()), since: None }
    }

    pub fn push(&mut self, record: Record<'_>) {
        let slot = Slot {
            partition: record.partition,
            offset: record.offset,
            key: append(&mut self.bytes, record.key),
            value: append(&mut self.bytes, record.value),
            header: append(&mut self.bytes, record.header),
        };
        self.slots.push(slot);
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of keys, values and headers.
    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets the records of partitions that were taken away before the batch was sent on.
    pub fn remove_partitions(&mut self, revoked: &[i32]) {
        self.slots.retain(|slot| !revoked.contains(&slot.partition));
    }

    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let slice = |range: &Option<Range<usize>>| range.clone().and_then(|range| self.bytes.get(range));
        self.slots.iter().map(move |slot| Record {
            partition: slot.partition,
            offset: slot.offset,
            key: slice(&slot.key),
            value: slice(&slot.value),
            header: slice(&slot.header),
        })
    }

    /// For each partition of the batch the offset behind its last record.
    pub fn next_offsets(&self) -> Vec<(i32, i64)> {
        let mut next: Vec<(i32, i64)> = Vec::new();
        for slot in &self.slots {
            match next.iter_mut().find(|(partition, _)| *partition == slot.partition) {
                Some((_, offset)) => *offset = slot.offset + 1,
                None => next.push((slot.partition, slot.offset + 1)),
            }
        }
        next
    }
}

/// Counts, never rows: a batch in a log must not show personal data.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} records, {} bytes)", self.slots.len(), self.bytes.len())
    }
}

/// One record on its way out of a stage.
#[derive(Debug, Clone, Copy)]
pub struct OutRecord<'a> {
    /// Index in the publisher's list of topics.
    pub topic: usize,
    pub partition: i32,
    pub operation: Operation,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
    pub header: &'a [u8],
}

struct OutSlot {
    topic: usize,
    partition: i32,
    operation: Operation,
    key: Range<usize>,
    value: Option<Range<usize>>,
    header: Range<usize>,
}

/// Records that a stage sends, and the position that holds once all of them, and all before them, are acknowledged.
pub struct Outgoing<P> {
    bytes: Vec<u8>,
    slots: Vec<OutSlot>,
    /// Commit times at the source of the records, microseconds since 1970, for the latency histogram.
    pub commit_times_us: Vec<i64>,
    /// When the records of the input that these are made of were read; `None` of what a stage sends by itself.
    pub since: Option<Instant>,
    pub position: P,
}

impl<P: Default> Default for Outgoing<P> {
    fn default() -> Self {
        Outgoing::at(P::default())
    }
}

impl<P> Outgoing<P> {
    /// No records yet, on the way to `position`.
    pub fn at(position: P) -> Self {
        Outgoing { bytes: Vec::new(), slots: Vec::new(), commit_times_us: Vec::new(), since: None, position }
    }

    /// The records of a batch come next: makes room for them, made longer by `columns` bytes each.
    pub fn begin(&mut self, batch: &Batch, columns: usize) {
        self.since = batch.since;
        self.bytes.reserve(batch.size_bytes() + batch.len() * columns);
        self.slots.reserve(batch.len());
        self.commit_times_us.reserve(batch.len());
    }

    /// Adds a record. `value` writes the row behind what the buffer holds; it returns false for a tombstone.
    pub fn push_with(
        &mut self,
        topic: usize,
        partition: i32,
        key: &[u8],
        header: &Header,
        value: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        self.push_slot(topic, partition, key, value, header, |out| header.write(out));
    }

    /// As [`Outgoing::push_with`], of a record of the input at `offset` whose header, and its text, are these. The text goes on as it is.
    pub fn push_onward(
        &mut self,
        topic: usize,
        partition: i32,
        key: &[u8],
        (header, text, offset): (&Header, &[u8], i64),
        value: impl FnOnce(&mut Vec<u8>) -> bool,
    ) {
        self.push_slot(topic, partition, key, value, header, |out| header.write_onward(text, offset, out));
    }

    fn push_slot(
        &mut self,
        topic: usize,
        partition: i32,
        key: &[u8],
        value: impl FnOnce(&mut Vec<u8>) -> bool,
        header: &Header,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let key = append(&mut self.bytes, Some(key)).unwrap_or_default();
        let start = self.bytes.len();
        let has_value = value(&mut self.bytes);
        let value = has_value.then_some(start..self.bytes.len());
        let start = self.bytes.len();
        write(&mut self.bytes);
        let written = start..self.bytes.len();
        self.commit_times_us.extend(header.commit_time_us);
        self.slots.push(OutSlot { topic, partition, operation: header.operation, key, value, header: written });
    }

    /// Adds a record whose value stands already.
    pub fn push(&mut self, topic: usize, partition: i32, key: &[u8], header: &Header, value: Option<&[u8]>) {
        self.push_with(topic, partition, key, header, |out| {
            out.extend_from_slice(value.unwrap_or_default());
            value.is_some()
        });
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The record at `index`.
    pub fn record(&self, index: usize) -> Option<OutRecord<'_>> {
        let slot = self.slots.get(index)?;
        Some(OutRecord {
            topic: slot.topic,
            partition: slot.partition,
            operation: slot.operation,
            key: self.bytes.get(slot.key.clone())?,
            value: match &slot.value {
                Some(range) => Some(self.bytes.get(range.clone())?),
                None => None,
            },
            header: self.bytes.get(slot.header.clone())?,
        })
    }

    pub fn records(&self) -> impl Iterator<Item = OutRecord<'_>> {
        (0..self.slots.len()).filter_map(|index| self.record(index))
    }

    /// The records without their position, and the position.
    pub fn into_parts(self) -> (Outgoing<()>, P) {
        let Outgoing { bytes, slots, commit_times_us, since, position } = self;
        (Outgoing { bytes, slots, commit_times_us, since, position: () }, position)
    }

    /// The same records, on the way to another position.
    pub fn map<Q>(self, other: impl FnOnce(P) -> Q) -> Outgoing<Q> {
        let (Outgoing { bytes, slots, commit_times_us, since, .. }, position) = self.into_parts();
        Outgoing { bytes, slots, commit_times_us, since, position: other(position) }
    }
}

impl<P: fmt::Debug> fmt::Debug for Outgoing<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outgoing({} records, {} bytes, {:?})", self.slots.len(), self.bytes.len(), self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Version;

    #[test]
    fn a_batch_knows_where_each_partition_goes_on() {
        let mut batch = Batch::default();
        for (partition, offset) in [(0, 5), (1, 9), (0, 6), (2, 1)] {
            batch.push(Record { partition, offset, key: Some(b"k"), value: None, header: None });
        }
        assert_eq!(batch.next_offsets(), [(0, 7), (1, 10), (2, 2)]);
        batch.remove_partitions(&[0]);
        assert_eq!(batch.next_offsets(), [(1, 10), (2, 2)]);
    }

    #[test]
    fn a_tombstone_is_not_an_empty_value() {
        let header = Header::new(Operation::Delete, Version::default());
        let mut outgoing = Outgoing::<()>::default();
        outgoing.push(0, 3, b"a", &header, None);
        outgoing.push(0, 3, b"b", &header, Some(b""));
        let values: Vec<_> = outgoing.records().map(|record| (record.key, record.value)).collect();
        assert_eq!(values, [(&b"a"[..], None), (&b"b"[..], Some(&b""[..]))]);
    }
}
