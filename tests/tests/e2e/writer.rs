//! A task that writes to the source for as long as a test wants, while the test does something else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor as _};
use tokio::task::JoinHandle;

use crate::database::run;
use crate::stack::Stack;
use crate::until::until;

/// Between two transactions: the machine has other things to do as well.
const PAUSE: Duration = Duration::from_millis(1);

/// Numbers of a fixed sequence, so that a failing run can be made again.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Writes until it is stopped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Writer {
    /// One transaction after the other, on a connection of its own.
    pub async fn start(stack: &Stack, mut statement: impl FnMut(&mut Dice) -> String + Send + 'static) -> Self {
        let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&committed));
        let mut source = stack.source().await;
        let task = tokio::spawn(async move {
            let mut dice = Dice::new(7);
            while !told.load(Ordering::Relaxed) {
                let sql = statement(&mut dice);
                match source.execute(sqlx::raw_sql(AssertSqlSafe(sql.clone()))).await {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Err(error) if is_of_the_moment(&error) => {}
                    Err(error) => panic!("{error}\nin: {sql}"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Writer { stop, committed, task }
    }

    /// Waits until so many further transactions are committed.
    pub async fn further(&self, wanted: u64) {
        let before = self.committed.load(Ordering::Relaxed);
        until(&format!("{wanted} further transactions"), async || {
            assert!(!self.task.is_finished(), "the writer has ended");
            match self.committed.load(Ordering::Relaxed) - before {
                done if done >= wanted => Ok(()),
                done => Err(format!("{done}")),
            }
        })
        .await;
    }

    pub async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

/// What a statement may meet while a table is altered: another shape, a name that is gone, a key that is taken.
fn is_of_the_moment(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["42", "40", "23", "55"].iter().any(|class| code.starts_with(class)))
}

/// Ids that [`changes_of`] writes to are below this, or its negative.
pub const IDS: u64 = 400;

/// Inserts, updates, deletes and moves of rows of a table with `id bigint` and `mark int`.
pub fn changes_of(table: &str) -> impl FnMut(&mut Dice) -> String + Send + 'static {
    let table = table.to_owned();
    move |dice| {
        let id = dice.below(IDS);
        match dice.below(6) {
            0 => format!("DELETE FROM {table} WHERE id = {id}"),
            1 | 2 => format!("INSERT INTO {table} (id, mark) VALUES ({id}, 0) ON CONFLICT DO NOTHING"),
            3 => format!(
                "UPDATE {table} SET id = -id WHERE id = {id} AND NOT EXISTS (SELECT FROM {table} WHERE id = -{id})"
            ),
            _ => format!("UPDATE {table} SET mark = mark + 1 WHERE id BETWEEN {id} AND {id} + 4"),
        }
    }
}

/// Runs the statements in the middle of writes.
pub async fn amid_writes(stack: &Stack, writes: impl FnMut(&mut Dice) -> String + Send + 'static, statements: &str) {
    const ON_EITHER_SIDE: u64 = 40;
    let writer = Writer::start(stack, writes).await;
    writer.further(ON_EITHER_SIDE).await;
    run(&mut stack.source().await, statements).await;
    writer.further(ON_EITHER_SIDE).await;
    writer.stop().await;
}
