//! A random load on the source: several connections that change orders and users in all the ways that applications do, and in some that
//! they should not.
//!
//! ```text
//!  seed ──▶ kind (by weight) ──▶ acts: what is done, as steps of SQL ──▶ worker: one connection, a thread of its own ──▶ tally
//!                                   ▲ values · ids
//! ```
//!
//! A worker lives through anything that happens to the source: it connects again, and what was refused (deadlocks, keys that are taken,
//! waits that were too long) is counted and left. Every value is one that dwd-cleaner's default rules take.

pub mod acts;
pub mod ids;
pub mod kind;
pub mod owner;
pub mod values;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use shared::failure::{Failure, FailureKind};
use shared::pg::PostgresConfig;

use self::kind::Kind;
use self::worker::Worker;
use crate::places::Names;

/// How much, and how fast.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Each is a thread with a connection of its own.
    pub connections: usize,
    /// Changed rows a second, of all connections together. A transaction with more than [`PACED_MAX`] counts as so many.
    pub rate: u32,
    /// Users that orders name; some of them do not exist, and come and go.
    pub users: u32,
    /// Rows of a big transaction.
    pub big_rows: u32,
    /// The longest that a long transaction stays open.
    pub long: Duration,
    /// How often each kind comes, relative to the others; those that are not named come never.
    pub weights: Vec<(Kind, usize)>,
}

/// Rows of one transaction that count for the pace.
pub const PACED_MAX: u64 = 50;

impl Default for Settings {
    fn default() -> Self {
        Settings {
            connections: 4,
            rate: 200,
            users: 200,
            big_rows: 3_000,
            long: Duration::from_secs(4),
            weights: kind::WEIGHTS.to_vec(),
        }
    }
}

/// What was done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Transactions that were carried out, also those that were rolled back on purpose.
    pub done: BTreeMap<Kind, u64>,
    /// Rows that statements of committed transactions say they changed; TRUNCATE says none.
    pub rows: u64,
    /// Transactions that the server refused, by its code (SQLSTATE).
    pub refused: BTreeMap<String, u64>,
    /// Transactions whose connection was lost, or that got no answer: nobody knows whether they were committed.
    pub lost: u64,
    /// Connections that could not be made.
    pub unconnected: u64,
}

impl Tally {
    pub fn transactions(&self) -> u64 {
        self.done.values().sum()
    }
}

/// What the workers and their owner share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    paused: AtomicBool,
    stopped: AtomicBool,
    busy: AtomicUsize,
    tally: Mutex<Tally>,
}

impl Shared {
    fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A load that runs until it is stopped.
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workload {
    /// The same seed makes the same statements on each connection; how they meet is the server's affair.
    pub fn start(source: &PostgresConfig, names: &Names, seed: u64, settings: &Settings) -> Result<Workload, Failure> {
        let shared = Arc::new(Shared::default());
        let mut threads = Vec::new();
        for number in 0..settings.connections.max(1) {
            let worker = Worker::new(number, source, names, seed, settings, Arc::clone(&shared));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::new(FailureKind::Broken, "a worker cannot be started").caused_by(error))?;
            threads.push(std::thread::spawn(move || runtime.block_on(worker.run())));
        }
        Ok(Workload { shared, threads })
    }

    /// No further transaction begins. See [`Workload::quiet`] for the end of those that are open.
    pub fn pause(&self) {
        self.shared.paused.store(true, Ordering::SeqCst);
    }

    pub fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// Returns once no transaction is open; it is of use while the load is paused.
    pub async fn quiet(&self) {
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn tally(&self) -> Tally {
        self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the load; waits until the open transactions have ended.
    pub fn stop(mut self) -> Tally {
        self.end();
        self.tally()
    }

    fn end(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // A worker that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.end();
    }
}
