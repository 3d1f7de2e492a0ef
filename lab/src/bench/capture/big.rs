//! One transaction with very many rows, and small ones of others meanwhile. The server sends transactions in the order of their
//! commits, so a small one that is committed right behind the big one waits until all of the big one has been sent: to everybody.
//! Hence the two figures that say something: the most memory that cdc-ingest takes, and the longest wait held against that of
//! pg_recvlogical.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

use super::ingest::{Identity, Ingest};
use super::marks::{self, Board, Made, Row};
use super::{Session, recvlogical, watchers};
use crate::bench::orders;
use crate::paper::Paper;
use crate::percentiles::Summary;
use crate::processes::{Memory, load_average, memory_megabytes};
use crate::table::Table;

/// What small transactions met.
#[derive(Debug, Clone, Serialize)]
pub struct Waits {
    pub reader: &'static str,
    /// From the big transaction's first statement to the answer to its commit.
    pub big_seconds: f64,
    /// From the answer to each small commit until its row was seen.
    pub small: Option<Summary>,
    /// When it ended.
    pub load_average: Option<f64>,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub rows: u32,
    /// cdc-ingest before, and at its most.
    pub megabytes_before: Option<f64>,
    pub megabytes_at_most: Option<f64>,
    pub waits: Vec<Waits>,
    /// The longest wait with cdc-ingest divided by that with pg_recvlogical.
    pub longest_wait_ratio: Option<f64>,
}

/// Small transactions a second.
const SMALL_RATE: u32 = 5;

/// They begin so long before the big one.
const LEAD: Duration = Duration::from_secs(2);

/// Longest wait for the first small transaction behind the big one.
const PATIENCE: Duration = Duration::from_secs(900);

/// The user whose row the small transactions change. Users have a topic of their own, so whoever looks for them there need not read
/// the big transaction as well.
const USER: Row = Row::User(1001);

/// Measures both readers, one after the other, each with a big transaction of its own. `ingest` runs and has nothing else to do.
pub async fn measure(session: &mut Session<'_>, identity: &Identity, ingest: Ingest) -> Result<Outcome, Failure> {
    let process = ingest.child.id();
    let megabytes_before = memory_megabytes(process, Memory::Resident);
    let board = Board::default();
    let watcher = watchers::of_topic(&session.places.kafka, &identity.users_topic(), &board)?;
    let of_ingest = waits(session, "cdc-ingest", &board).await;
    watchers::join(watcher)?;
    let megabytes_at_most = memory_megabytes(process, Memory::Peak);
    let of_ingest = of_ingest?;
    ingest.child.stop().await?;
    let of_recv_logical = with_recv_logical(session).await?;
    let longest = |waits: &Waits| waits.small.map(|small| small.max_ms);
    Ok(Outcome {
        rows: session.plan.big,
        megabytes_before,
        megabytes_at_most,
        longest_wait_ratio: longest(&of_ingest).zip(longest(&of_recv_logical)).map(|(ours, floor)| ours / floor),
        waits: vec![of_ingest, of_recv_logical],
    })
}

async fn with_recv_logical(session: &mut Session<'_>) -> Result<Waits, Failure> {
    let slot = "bench_big_recvlogical";
    recvlogical::make_slot(&mut session.source, slot).await?;
    let (child, pipe) = session.recv_logical.follow(session.places, slot)?;
    let board = Board::default();
    let watcher = watchers::of_pipe(pipe, &board);
    let waits = waits(session, "pg_recvlogical", &board).await;
    drop(child); // and with it the pipe ends
    watchers::join(watcher)?;
    waits
}

/// Makes the big transaction and small ones until the first small one behind it is seen. Closes the board.
async fn waits(session: &mut Session<'_>, reader: &'static str, board: &Board) -> Result<Waits, Failure> {
    session.calm().await;
    session.progress.line(format!("  {} rows in one transaction, {reader} reads", session.plan.big));
    let mut others = session.places.connect_source().await?;
    let names = session.places.names.clone();
    let (made, big_seconds) = tokio::join!(
        marks::make(&mut others, &names, USER, (SMALL_RATE, u32::MAX), board),
        big_transaction(session, board)
    );
    let (made, big_seconds) = (made?, big_seconds?);
    let seen = board.seen();
    let answered = |made: &Made| made.answered;
    let small = Summary::of(&marks::waits_us(&made, &seen, answered));
    Ok(Waits { reader, big_seconds, small, load_average: load_average() })
}

async fn big_transaction(session: &mut Session<'_>, board: &Board) -> Result<f64, Failure> {
    tokio::time::sleep(LEAD).await;
    let placed = place(session).await;
    if placed.is_ok() {
        // One mark may be on its way while the commit is answered: the next is behind it for sure.
        let behind = board.made() + 1;
        board.wait_for(behind, PATIENCE).await;
        if !board.seen().contains_key(&behind) {
            board.close();
            let what = format!("a change behind the big transaction was not seen within {} s", PATIENCE.as_secs());
            return Err(Failure::new(FailureKind::Refused, what));
        }
    }
    board.close();
    placed
}

/// Places the big transaction; the seconds that it took.
async fn place(session: &mut Session<'_>) -> Result<f64, Failure> {
    let (names, rows) = (&session.places.names, i64::from(session.plan.big));
    let first = orders::next_id(&mut session.source, names).await?;
    let since = Instant::now();
    orders::place(&mut session.source, names, first..=first + rows - 1, orders::OF_THE_EXAMPLE).await?;
    Ok(since.elapsed().as_secs_f64())
}

impl Outcome {
    pub fn write(&self, paper: &mut Paper) {
        let megabytes = |figure: Option<f64>| figure.map_or("unknown".to_owned(), |figure| format!("{figure:.1} MB"));
        paper.line(format!(
            "  {} rows in one transaction: cdc-ingest has {} at its most, {} before",
            self.rows,
            megabytes(self.megabytes_at_most),
            megabytes(self.megabytes_before)
        ));
        let mut table =
            Table::new(&["reader", "big one committed in s", "small ones", "p50 ms", "longest wait s", "load"]);
        for waits in &self.waits {
            let Some(small) = waits.small else { continue };
            table.row(&[
                waits.reader.to_owned(),
                format!("{:.1}", waits.big_seconds),
                small.count.to_string(),
                format!("{:.2}", small.p50_ms),
                format!("{:.2}", small.max_ms / 1000.0),
                format!("{:.1}", waits.load_average.unwrap_or_default()),
            ]);
        }
        paper.table(&table);
        if let Some(ratio) = self.longest_wait_ratio {
            paper.line(format!("  longest wait: cdc-ingest / pg_recvlogical {ratio:.2}"));
        }
    }
}
