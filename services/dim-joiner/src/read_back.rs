//! Reads the facts of partitions back from the output, on a thread beside the chain: fresh facts are joined meanwhile. Only sending
//! again waits for it.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use actix::Message;
use shared::batch::Record;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::tail::TailReader;
use shared::record::dead_letter::Rejection;
use shared::record::header::Header;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

use crate::fact::FactReader;
use crate::facts::{Kept, PartitionFacts};
use crate::room::Room;
use crate::shapes::Packed;

/// Whoever holds it owns the partition. It is another one at each assignment.
#[derive(Debug, Default)]
pub struct Ticket(Arc<()>);

/// Tells one ticket from another, and whether it is still held.
#[derive(Debug, Clone)]
pub struct Stub(Weak<()>);

impl Ticket {
    pub fn stub(&self) -> Stub {
        Stub(Arc::downgrade(&self.0))
    }

    pub fn is_of(&self, stub: &Stub) -> bool {
        std::ptr::eq(Arc::as_ptr(&self.0), stub.0.as_ptr())
    }
}

impl Stub {
    fn is_void(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// A partition whose facts are to be read back.
#[derive(Debug)]
pub struct Wanted {
    pub partition: i32,
    pub stub: Stub,
}

/// The facts that the output has of a partition.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReadBack {
    pub partition: i32,
    pub stub: Stub,
    pub facts: PartitionFacts,
}

/// Reads the output of a partition.
pub struct OutputReader {
    pub tail: TailReader,
    pub topic: String,
    pub reader: FactReader,
    pub room: Room,
}

/// The thread.
pub struct ReadingBack {
    pub output: OutputReader,
    /// As many as there are partitions to be taken over.
    pub wanted: UnboundedReceiver<Wanted>,
    pub done: Sender<ReadBack>,
    pub fate: Fate,
    /// The thread waits on the runtime that built the chain.
    pub runtime: Handle,
}

impl ReadingBack {
    pub fn spawn(self) -> Result<JoinHandle<()>, Failure> {
        let fate = self.fate.clone();
        std::thread::Builder::new()
            .name("facts".into())
            .spawn(move || {
                if let Err(failure) = self.run()
                    && !fate.has_ended()
                {
                    fate.end(failure);
                }
            })
            .map_err(|error| Failure::new(FailureKind::Broken, "a reading thread cannot start").caused_by(error))
    }

    fn run(mut self) -> Result<(), Failure> {
        while let Some(Wanted { partition, stub }) = self.next() {
            if stub.is_void() {
                continue;
            }
            // Given up meanwhile: the rest is passed over.
            let facts = self.output.read(partition, || stub.is_void())?;
            if self.done.blocking_send(ReadBack { partition, stub, facts }).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the next partition; `None` when the generation has ended.
    fn next(&mut self) -> Option<Wanted> {
        let (fate, wanted) = (&self.fate, &mut self.wanted);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = fate.ended() => None,
                wanted = wanted.recv() => wanted,
            }
        })
    }
}

impl OutputReader {
    /// All facts that the output has of a partition. Which keys are gone is still known: the caller says when that is over.
    pub fn read(&self, partition: i32, is_void: impl Fn() -> bool) -> Result<PartitionFacts, Failure> {
        let mut facts = PartitionFacts::incomplete(self.room.clone());
        let mut reader = self.reader.clone();
        let minute = u32::try_from(shared::record::time::now().as_second() / 60).unwrap_or_default();
        self.tail.scan(&self.topic, &[(partition, 0)], &mut |record| match is_void() {
            true => Ok(()),
            false => self.take(&mut reader, record, minute, &mut facts),
        })?;
        tracing::info!(topic = self.topic, partition, facts = facts.len(), "facts are read back");
        Ok(facts)
    }

    fn take(
        &self,
        reader: &mut FactReader,
        record: &Record<'_>,
        minute: u32,
        facts: &mut PartitionFacts,
    ) -> Result<(), Failure> {
        if let Err(rejection) = restore(reader, record, minute, facts)? {
            // Somebody else wrote it: no fact of ours is lost with it.
            let (topic, partition, offset) = (&self.topic, record.partition, record.offset);
            tracing::warn!(topic, partition, offset, why = rejection.detail, "a foreign record is passed over");
        }
        self.room.within_bounds(facts.len())
    }
}

/// Takes a record of the output topic back into the state. The newest version of a key counts, whatever the order: a record of a writer
/// that hung may stand behind newer ones.
pub fn restore(
    reader: &mut FactReader,
    record: &Record<'_>,
    minute: u32,
    facts: &mut PartitionFacts,
) -> Result<Result<(), Rejection>, Failure> {
    let header = match Header::parse(record.header) {
        Ok(header) => header,
        Err(error) => return Ok(Err(Rejection::new("unreadable_header", error.to_string()))),
    };
    facts.input_offset = facts.input_offset.max(header.input_offset);
    facts.handled = facts.handled.max(header.partition_version());
    let key = record.key.unwrap_or_default();
    if facts.has_newer(key, &header.result_version())? {
        return Ok(Ok(()));
    }
    let Some(value) = record.value else {
        return facts.delete(key, header.version).map(Ok);
    };
    let Some(open_row) = header.cleaned_bytes.and_then(|bytes| value.get(..bytes)) else {
        return Ok(Err(Rejection::new("unreadable_header", "the header does not say where the cleaned row ends")));
    };
    let mut values = Vec::new();
    let (fact, form) = match reader.read(&[open_row, b"}"].concat(), &mut values) {
        Ok(read) => read,
        Err(error) => return Ok(Err(Rejection::new(error.reason(), error.to_string()))),
    };
    let kept = Kept::new(key, header.version, &fact, &header.joined, open_row);
    if kept.is_old(minute) {
        return facts.forget(&kept).map(Ok);
    }
    let packed = form.and_then(|number| reader.form(number)).map(|form| Packed { form, values: &values });
    facts.put(&kept, &facts.address_of(&kept), packed).map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_known_by_its_stub_for_as_long_as_it_is_held() {
        let (first, second) = (Ticket::default(), Ticket::default());
        let stub = first.stub();
        assert!(first.is_of(&stub) && !second.is_of(&stub) && !stub.is_void());
        drop(first);
        assert!(stub.is_void());
    }
}
