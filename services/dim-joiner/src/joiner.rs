//! The actor around the join: orders, users, and the lane between them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::prelude::*;
use shared::batch::Outgoing;
use shared::failure::Failure;
use shared::generation::Fate;
use shared::health::Health;
use shared::kafka::progress::Progress;
use shared::kafka::reader::FromReader;
use shared::kafka::table::FromTable;
use shared::metrics;
use shared::record::time;
use tokio::sync::{mpsc, oneshot};

use crate::join::{Joiner, Offsets, TakenOver};
use crate::read_back::{ReadBack, Wanted};

/// The health latch that is held until the orders of all partitions are read back.
pub const ORDERS_LATCH: &str = "orders";

/// Missing users that `/api/state` names.
const MISSING_SHOWN: usize = 20;

/// The worker.
pub struct JoinerActor {
    pub joiner: Joiner,
    pub publisher: Recipient<Outgoing<Offsets>>,
    pub progress: Progress,
    pub fate: Fate,
    pub health: Health,
    /// Told when the users are read to the end that stood at the start.
    pub users_loaded: Option<oneshot::Sender<()>>,
    /// Partitions whose orders are to be read back. The actor asks for it itself: the answer must not come before it knows the partition.
    pub wanted: mpsc::UnboundedSender<Wanted>,
    /// Messages of the actor's own (re-emissions) that are not acknowledged.
    pub own_in_flight: Arc<AtomicUsize>,
    /// The lane is being worked on: one message to itself is on its way.
    pub walking: bool,
}

/// Work on the lane. Fresh orders come between two of these.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Walk;

impl Actor for JoinerActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(Duration::from_secs(1), |actor, _| actor.report());
    }
}

impl JoinerActor {
    fn now() -> String {
        time::milliseconds(time::now())
    }

    /// Sends what a step made, then goes on with the lane. Records of the actor's own are counted as in flight.
    fn send(
        &mut self,
        made: Result<Outgoing<Offsets>, Failure>,
        own: bool,
        context: &mut Context<Self>,
    ) -> AtomicResponse<Self, ()> {
        let made = match made {
            Ok(out) if own && out.is_empty() => None,
            Ok(out) => Some(out),
            Err(failure) => {
                self.fate.end(failure);
                None
            }
        };
        if own && made.is_some() {
            self.progress.issue();
            self.own_in_flight.fetch_add(1, Ordering::SeqCst);
        }
        if self.joiner.has_reemissions() && !self.walking && !self.fate.is_draining() {
            self.walking = true;
            context.notify(Walk);
        }
        let sent = made.map(|out| self.publisher.send(out));
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

    /// Not ready while a change of a user could not be sent again with all its orders.
    fn await_orders(&self) {
        match self.joiner.incomplete_len() {
            0 => self.health.release(ORDERS_LATCH),
            partitions => self.health.hold(ORDERS_LATCH, format!("orders of {partitions} partitions to be read back")),
        }
    }

    fn report(&mut self) {
        metrics::REEMISSIONS_WAITING.set(i64::try_from(self.joiner.lane_len()).unwrap_or(i64::MAX));
        let (users, orders, waiting) = (self.joiner.users().len(), self.joiner.orders_held(), self.joiner.lane_len());
        let incomplete = self.joiner.incomplete_len();
        let missing = self.joiner.missing();
        metrics::MISSING_USERS.set(i64::try_from(missing.len()).unwrap_or(i64::MAX));
        let first: Vec<_> = missing
            .iter()
            .take(MISSING_SHOWN)
            .map(|(user, since)| serde_json::json!({"user_id": user, "since": since}))
            .collect();
        self.health.detail(
            "join",
            serde_json::json!({
                "users_held": users, "orders_held": orders, "users_to_reemit": waiting,
                "partitions_to_read_back": incomplete,
                "missing_users": missing.len(), "missing_users_first": first,
            }),
        );
    }
}

impl Handler<FromReader<TakenOver>> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: FromReader<TakenOver>, context: &mut Self::Context) -> Self::Result {
        match message {
            FromReader::Assigned(partitions) => {
                let wanted: Vec<Wanted> =
                    partitions.iter().map(|(partition, taken)| taken.wanted(*partition)).collect();
                self.joiner.assigned(partitions);
                self.await_orders();
                if wanted.into_iter().any(|wanted| self.wanted.send(wanted).is_err()) {
                    self.fate.end_broken("reader of orders");
                }
                self.send(Ok(Outgoing::default()), true, context)
            }
            FromReader::Revoked(partitions) => {
                self.joiner.revoked(&partitions);
                self.progress.complete(&[]);
                self.await_orders();
                self.send(Ok(Outgoing::default()), true, context)
            }
            FromReader::Batch(batch) => {
                let made = self.joiner.take_orders(&batch, &Self::now());
                self.send(made, false, context)
            }
        }
    }
}

impl Handler<ReadBack> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: ReadBack, context: &mut Self::Context) -> Self::Result {
        let made = self.joiner.read_back(message, &Self::now());
        self.await_orders();
        self.send(made.map(|()| Outgoing::default()), true, context)
    }
}

impl Handler<FromTable> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, message: FromTable, context: &mut Self::Context) -> Self::Result {
        let made = match message {
            FromTable::Batch(batch) => self.joiner.take_users(&batch, &Self::now()),
            FromTable::Loaded => {
                tracing::info!(users = self.joiner.users().len(), "users are read");
                if let Some(loaded) = self.users_loaded.take() {
                    // Nobody waits any more only where the start was given up.
                    let _ = loaded.send(());
                }
                Ok(Outgoing::default())
            }
        };
        self.send(made, true, context)
    }
}

impl Handler<Walk> for JoinerActor {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Walk, context: &mut Self::Context) -> Self::Result {
        // One step at a time, so that the producer's queue stays short for fresh orders; and none while a rebalance waits for all that is
        // in flight.
        if self.own_in_flight.load(Ordering::SeqCst) > 0 || self.progress.is_draining() {
            context.notify_later(Walk, Duration::from_millis(1));
            return AtomicResponse::new(Box::pin(async {}.into_actor(self)));
        }
        self.walking = false;
        let made = self.joiner.reemit(&Self::now());
        self.send(Ok(made), true, context)
    }
}
