//! The load: orders change their status in turn, each change a commit of its own, made when it is due, whatever became of those before.
//!
//! A change is known by its number: it is in `updated_at`, which is the time at which the change was due.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::failure::Failure;
use shared::pg::refused;
use shared::record::time;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::task::JoinHandle;

use crate::changes::STATUSES;
use crate::places::Places;

/// When each change is due, and of which order.
#[derive(Debug, Clone)]
pub struct Schedule {
    begin: Instant,
    begin_ms: i64,
    rate: u32,
    first_order: i64,
    orders: u32,
}

impl Schedule {
    /// From now on. The rate is at most 1,000 a second, so that each change has a millisecond of its own.
    pub fn new(rate: u32, first_order: i64, orders: u32) -> Self {
        Schedule { begin: Instant::now(), begin_ms: time::now().as_millisecond(), rate, first_order, orders }
    }

    fn after_begin(&self, number: u32) -> Duration {
        Duration::from_micros(u64::from(number) * 1_000_000 / u64::from(self.rate.max(1)))
    }

    fn due(&self, number: u32) -> Instant {
        self.begin + self.after_begin(number)
    }

    fn updated_at_ms(&self, number: u32) -> i64 {
        self.begin_ms.saturating_add(i64::try_from(self.after_begin(number).as_millis()).unwrap_or(i64::MAX))
    }

    /// The first change that is due at this moment or later.
    pub fn first_from(&self, moment: Instant) -> u32 {
        let microseconds = moment.saturating_duration_since(self.begin).as_micros();
        u32::try_from((microseconds * u128::from(self.rate)).div_ceil(1_000_000)).unwrap_or(u32::MAX)
    }

    pub fn order(&self, number: u32) -> i64 {
        self.first_order + i64::from(number % self.orders.max(1))
    }

    fn status(&self, number: u32) -> &'static str {
        let lap = number / self.orders.max(1);
        STATUSES.get(lap as usize % STATUSES.len()).copied().unwrap_or_default()
    }

    /// Whether a row with this `updated_at` (microseconds since 1970) has the change, or a later one of its order.
    pub fn has(&self, updated_at_us: i64, number: u32) -> bool {
        updated_at_us / 1_000 >= self.updated_at_ms(number)
    }
}

/// The running load.
pub struct Load {
    pub schedule: Schedule,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU32,
    over: AtomicBool,
    /// Changes whose commit was answered, the latest of them.
    made: Mutex<BTreeSet<u32>>,
    /// How many that were in all.
    count: AtomicU32,
}

/// Connections to the source.
const WORKERS: usize = 8;

/// So many changes are remembered.
const REMEMBERED: usize = 200_000;

/// Time between two tries to reach the source.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

impl Load {
    pub fn start(places: &Places, schedule: Schedule) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let worker = |_| tokio::spawn(work(places.clone(), schedule.clone(), Arc::clone(&shared)));
        let workers = (0..WORKERS).map(worker).collect();
        Load { schedule, shared, workers }
    }

    /// The first changes from this number on that were made, at most so many.
    pub fn made_from(&self, number: u32, most: usize) -> Vec<u32> {
        self.shared.made().range(number..).take(most).copied().collect()
    }

    /// The last changes that were made and due before this moment, at most so many.
    pub fn made_before(&self, moment: Instant, most: usize) -> Vec<u32> {
        self.shared.made().range(..self.schedule.first_from(moment)).rev().take(most).copied().collect()
    }

    /// Changes that were made so far.
    pub fn count(&self) -> u32 {
        self.shared.count.load(Ordering::SeqCst)
    }

    /// No more changes; returns when the last is made.
    pub async fn stop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            let _ = worker.await;
        }
    }
}

impl Shared {
    fn made(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, number: u32) {
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut made = self.made();
        made.insert(number);
        if made.len() > REMEMBERED {
            made.pop_first();
        }
    }
}

/// Makes changes until it is over. What was due while the source was away is not made later: the rate stays what it is.
async fn work(places: Places, schedule: Schedule, shared: Arc<Shared>) {
    while !shared.over.load(Ordering::SeqCst) {
        let Ok(mut source) = places.connect_source().await else {
            tokio::time::sleep(AGAIN_AFTER).await;
            continue;
        };
        shared.next.fetch_max(schedule.first_from(Instant::now()), Ordering::SeqCst);
        while !shared.over.load(Ordering::SeqCst) {
            let number = shared.next.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep_until(schedule.due(number).into()).await;
            if change(&mut source, &places, &schedule, number).await.is_err() {
                break;
            }
            shared.enter(number);
        }
    }
}

async fn change(source: &mut PgConnection, places: &Places, schedule: &Schedule, number: u32) -> Result<(), Failure> {
    let sql = format!(
        "UPDATE {} SET order_status = $2, updated_at = timestamp '1970-01-01' + $3 * interval '1 millisecond' WHERE order_id = $1",
        places.names.orders.sql()
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(schedule.order(number))
        .bind(schedule.status(number))
        .bind(schedule.updated_at_ms(number))
        .execute(source)
        .await
        .map(|_| ())
        .map_err(|error| refused("an order cannot be changed at the source", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_known_by_the_time_at_which_it_was_due() {
        let schedule = Schedule::new(1_000, 7, 3);
        assert_eq!(schedule.first_from(schedule.begin), 0);
        for number in [0, 1, 999, 12_345] {
            assert_eq!(schedule.first_from(schedule.due(number)), number);
            assert_eq!(schedule.first_from(schedule.due(number) + Duration::from_nanos(1_000)), number + 1);
        }
        assert_eq!([0, 1, 2, 3].map(|number| schedule.order(number)), [7, 8, 9, 7]);
        assert_eq!(
            [0, 2, 3, 6, 9].map(|number| schedule.status(number)),
            ["PENDING", "PENDING", "SHIPPED", "COMPLETED", "PENDING"]
        );
        let of_nine = schedule.updated_at_ms(9) * 1_000;
        assert_eq!([8, 9, 10].map(|number| schedule.has(of_nine, number)), [true, true, false]);
    }
}
