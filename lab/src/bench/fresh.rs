//! Fresh orders: each placed when it is due, whatever became of those before. `updated_at` says when it was due.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use shared::failure::Failure;
use shared::pg::refused;
use shared::record::time;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;
use tokio::task::JoinHandle;

use crate::places::Places;

/// Connections to the source.
const WORKERS: usize = 8;

/// A stage that notes in each row when it had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Joined,
    Written,
}

impl Until {
    fn column(self) -> &'static str {
        match self {
            Until::Joined => "join_time",
            Until::Written => "processed_time",
        }
    }
}

/// The running load.
pub struct Fresh {
    first_order: i64,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Result<(), Failure>>>,
}

struct Shared {
    begin: Instant,
    begin_us: i64,
    rate: u32,
    next: AtomicU32,
    placed: AtomicU32,
    over: AtomicBool,
}

impl Shared {
    fn after_begin(&self, number: u32) -> Duration {
        Duration::from_micros(u64::from(number) * 1_000_000 / u64::from(self.rate.max(1)))
    }
}

impl Fresh {
    pub fn start(places: &Places, rate: u32, first_order: i64) -> Self {
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            begin_us: time::now().as_microsecond(),
            rate,
            next: AtomicU32::new(0),
            placed: AtomicU32::new(0),
            over: AtomicBool::new(false),
        });
        let worker = |_| tokio::spawn(place(places.clone(), Arc::clone(&shared), first_order));
        let workers = (0..WORKERS).map(worker).collect();
        Fresh { first_order, shared, workers }
    }

    /// Orders that were placed so far.
    pub fn count(&self) -> u32 {
        self.shared.placed.load(Ordering::SeqCst)
    }

    /// No more orders; returns when the last is placed.
    pub async fn stop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            let _ = worker.await;
        }
    }

    /// For some of them the microseconds from when each was due until a stage had it.
    pub async fn latencies(
        &self,
        sink: &mut PgConnection,
        latest: &str,
        until: Until,
        numbers: Range<u32>,
    ) -> Result<Vec<i64>, Failure> {
        let time = until.column();
        let sql = format!(
            "SELECT (extract(epoch FROM {time} - updated_at) * 1000000)::bigint FROM {latest}
             WHERE order_id >= $1 AND order_id < $2"
        );
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(self.first_order + i64::from(numbers.start))
            .bind(self.first_order + i64::from(numbers.end))
            .fetch_all(sink)
            .await
            .map_err(|error| refused("the times of the fresh orders cannot be read", error))
    }
}

async fn place(places: Places, shared: Arc<Shared>, first_order: i64) -> Result<(), Failure> {
    let mut source = places.connect_source().await?;
    let sql = format!(
        "INSERT INTO {} (order_id, user_id, product_name, product_category, quantity, unit_price, total_amount, order_status, order_time, updated_at)
         VALUES ($1, 1001 + $1 % 5, '咖啡机', '家居用品', 1, 99.50, 99.50, 'PENDING', $2, $2)",
        places.names.orders.sql()
    );
    let sql: Arc<str> = sql.replace("$2", "timestamp '1970-01-01' + $2 * interval '1 microsecond'").into();
    while !shared.over.load(Ordering::SeqCst) {
        let number = shared.next.fetch_add(1, Ordering::SeqCst);
        let due = shared.after_begin(number);
        tokio::time::sleep_until((shared.begin + due).into()).await;
        let due_us = shared.begin_us.saturating_add(i64::try_from(due.as_micros()).unwrap_or(i64::MAX));
        let query = sqlx::query(AssertSqlSafe(Arc::clone(&sql))).bind(first_order + i64::from(number)).bind(due_us);
        query.execute(&mut source).await.map_err(|error| refused("an order cannot be placed at the source", error))?;
        shared.placed.fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}
