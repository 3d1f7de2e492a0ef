//! A producer, and the thread that takes in the broker's answers to it. The thread sleeps while nothing is on its way. Who sends many records
//! takes the answers in between them: memory is given back soonest by the thread that took it.
//!
//! The client's own such producer (`ThreadedProducer`) looks ten times a second and spends the last part of a millisecond of each look in a
//! loop: more than half of what a service used at rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};

use super::KafkaConfig;
use super::topics::unreachable_broker;
use crate::failure::{Failure, FailureKind};

/// The thread looks at least this often while something is on its way.
const LONGEST_LOOK: Duration = Duration::from_millis(100);
/// And this often while nothing is: what the client has to say of the broker is told by then.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How long it leaves the answers to who sends many records, counted anew for as long as those go on.
const REST: Duration = Duration::from_millis(5);

/// A record that was not queued, and why.
type Unsent<'a, O> = (KafkaError, BaseRecord<'a, [u8], [u8], O>);

pub(super) struct Sender<C: ProducerContext + 'static> {
    shared: Arc<Shared<C>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<C: ProducerContext> {
    producer: BaseProducer<C>,
    sleeps: AtomicBool,
    /// Who sends has taken answers in since the thread last rested.
    may_rest: AtomicBool,
    stopping: AtomicBool,
}

impl<C: ProducerContext + Send + Sync + 'static> Sender<C> {
    pub(super) fn new(config: &KafkaConfig, client: &ClientConfig, context: C) -> Result<Self, Failure> {
        let producer = client.create_with_context(context).map_err(|error| unreachable_broker(config, error))?;
        let [sleeps, may_rest, stopping] = [false; 3].map(AtomicBool::new);
        let shared = Arc::new(Shared { producer, sleeps, may_rest, stopping });
        let answered = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("kafka-answers".into()).spawn(move || answered.run()).map_err(
            |error| {
                Failure::new(FailureKind::Broken, "the thread of the broker's answers cannot start").caused_by(error)
            },
        )?;
        Ok(Sender { shared, thread: Some(thread) })
    }
}

impl<C: ProducerContext> Sender<C> {
    /// Queues a record; gives it back where it finds no place. It never waits.
    #[expect(clippy::result_large_err, reason = "the record that was refused goes back to the caller")]
    pub(super) fn send<'a>(
        &self,
        record: BaseRecord<'a, [u8], [u8], C::DeliveryOpaque>,
    ) -> Result<(), Unsent<'a, C::DeliveryOpaque>> {
        self.shared.producer.send(record)?;
        self.wake();
        Ok(())
    }

    /// Takes back what is not acknowledged: it counts as failed.
    pub(super) fn purge(&self) {
        self.shared.producer.purge(PurgeConfig::default().queue().inflight());
    }

    /// Takes in the answers that are there. The thread leaves them to the caller for a while.
    pub(super) fn take_answers(&self) {
        self.shared.may_rest.store(true, Ordering::SeqCst);
        self.shared.take_answers();
    }

    fn wake(&self) {
        if self.shared.sleeps.load(Ordering::SeqCst)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }
}

impl<C: ProducerContext> Shared<C> {
    /// The thread.
    fn run(&self) {
        while !self.stopping.load(Ordering::SeqCst) {
            self.sleep_while_idle();
            if self.may_rest.swap(false, Ordering::SeqCst) {
                std::thread::park_timeout(REST);
                continue;
            }
            let wait = if self.is_idle() { Duration::ZERO } else { LONGEST_LOOK };
            self.producer.poll(wait);
        }
    }

    /// A look takes in one answer: that of a request, for one partition. Each makes less what is on its way.
    fn take_answers(&self) {
        let mut before = i32::MAX;
        loop {
            let left = self.producer.in_flight_count();
            if left == 0 || left >= before {
                return;
            }
            before = left;
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Who queues a record does so first and then looks whether this thread sleeps; here it is the other way round, so that one of both sees the other.
    fn sleep_while_idle(&self) {
        self.sleeps.store(true, Ordering::SeqCst);
        if self.is_idle() && !self.stopping.load(Ordering::SeqCst) {
            std::thread::park_timeout(LONGEST_SLEEP);
            // Said before it slept.
            self.may_rest.store(false, Ordering::SeqCst);
        }
        self.sleeps.store(false, Ordering::SeqCst);
    }

    fn is_idle(&self) -> bool {
        self.producer.in_flight_count() == 0
    }
}

impl<C: ProducerContext + 'static> Drop for Sender<C> {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the thread of the broker's answers panicked");
            }
        }
    }
}
