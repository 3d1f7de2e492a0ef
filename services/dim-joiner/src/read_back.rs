//! Reads the orders of partitions back from the output, on a thread beside the chain: fresh orders are joined meanwhile. Only sending
//! again waits for it.

use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use actix::Message;
use shared::batch::Record;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::tail::TailReader;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};

use crate::join::{OrderReader, within};
use crate::orders::PartitionOrders;

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

/// A partition whose orders are to be read back.
#[derive(Debug)]
pub struct Wanted {
    pub partition: i32,
    pub stub: Stub,
}

/// The orders that the output has of a partition.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReadBack {
    pub partition: i32,
    pub stub: Stub,
    pub orders: PartitionOrders,
}

/// The thread.
pub struct ReadingBack {
    pub tail: TailReader,
    pub output: String,
    pub held_max: usize,
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
            .name("orders".into())
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
        let mut handed_on: Vec<(Stub, usize)> = Vec::new();
        while let Some(Wanted { partition, stub }) = self.next() {
            handed_on.retain(|(stub, _)| !stub.is_void());
            let held_beside = handed_on.iter().map(|(_, orders)| orders).sum();
            let orders = self.read(partition, &stub, held_beside)?;
            handed_on.push((stub.clone(), orders.len()));
            if self.done.blocking_send(ReadBack { partition, stub, orders }).is_err() {
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

    fn read(&self, partition: i32, stub: &Stub, held_beside: usize) -> Result<PartitionOrders, Failure> {
        let mut gathered = Gathered::new(held_beside, self.held_max);
        self.tail.scan(&self.output, &[(partition, 0)], &mut |record| {
            // Given up meanwhile: the rest is passed over.
            if stub.is_void() { Ok(()) } else { gathered.take(&self.output, record) }
        })?;
        tracing::info!(topic = self.output, partition, orders = gathered.orders.len(), "orders are read back");
        Ok(gathered.orders)
    }
}

/// The orders of a partition while its records are read.
struct Gathered {
    reader: OrderReader,
    orders: PartitionOrders,
    held_beside: usize,
    held_max: usize,
}

impl Gathered {
    fn new(held_beside: usize, held_max: usize) -> Self {
        Gathered { reader: OrderReader::default(), orders: PartitionOrders::incomplete(), held_beside, held_max }
    }

    fn take(&mut self, topic: &str, record: &Record<'_>) -> Result<(), Failure> {
        if let Err(rejection) = self.reader.restore(record, &mut self.orders) {
            // Somebody else wrote it: no order of ours is lost with it.
            let (partition, offset, why) = (record.partition, record.offset, rejection.detail);
            tracing::warn!(topic, partition, offset, why, "a foreign record is passed over");
        }
        within("orders", self.held_beside + self.orders.len(), self.held_max, "orders.held_max")
    }
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

    #[test]
    fn more_orders_than_may_be_held_end_the_reading() {
        let take = |gathered: &mut Gathered, id: u32| {
            let key = format!("{{\"order_id\":{id}}}");
            let row = format!("{{\"order_id\":{id},\"user_id\":1");
            let header = format!("op=c v=1.{id}.0.0 in={id} n={}", row.len());
            let (key, value) = (Some(key.as_bytes()), format!("{row}}}"));
            let value = Some(value.as_bytes());
            gathered.take("t", &Record { partition: 0, offset: 0, key, value, header: Some(header.as_bytes()) })
        };
        let mut gathered = Gathered::new(1, 3);
        for id in [1, 2, 2] {
            take(&mut gathered, id).unwrap();
        }
        let failure = take(&mut gathered, 3).unwrap_err();
        assert_eq!(failure.kind, FailureKind::Settings, "another try would end in the same way");
        assert!(failure.chain().contains("4 orders") && failure.chain().contains("raise orders.held_max"), "{failure}");
    }
}
