//! Somebody who writes to a captured table all the while, and comes back when the server does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use shared::pg::PostgresConfig;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::captured_table::CapturedTable;

/// The columns, beside `id`, of a table that is written to.
pub const COLUMNS: &str = "text text NOT NULL";

const PAUSE: Duration = Duration::from_millis(2);

/// A thread of its own, so that a test that waits does not hold it up.
pub struct PatientWriter {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl PatientWriter {
    pub fn start(server: &PostgresConfig, table: &CapturedTable) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (server, table, asked) = (server.clone(), table.table.clone(), Arc::clone(&stop));
        let write = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write(&server, &table, &asked))
        };
        PatientWriter { stop, thread: Some(std::thread::spawn(write)) }
    }

    /// How many transactions it has committed.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for PatientWriter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn write(server: &PostgresConfig, table: &str, stop: &AtomicBool) -> u64 {
    let mut committed = 0;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut connection) = server.connect("tidemill-e2e writer").await {
            while !stop.load(Ordering::Relaxed) && connection.execute(transaction(table, committed)).await.is_ok() {
                committed += 1;
                tokio::time::sleep(PAUSE).await;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    committed
}

/// A row comes, the rows before it change, and one of them goes. It may have been committed before without an answer.
fn transaction(table: &str, number: u64) -> sqlx::RawSql {
    sqlx::raw_sql(AssertSqlSafe(format!(
        "INSERT INTO {table} (id, text) VALUES ({number}, 'new') ON CONFLICT (id) DO UPDATE SET text = 'again';
         UPDATE {table} SET text = 'in {number}' WHERE id BETWEEN {number} - 3 AND {number} - 1;
         DELETE FROM {table} WHERE id = {number} - 2 AND {number} % 3 = 0"
    )))
}
