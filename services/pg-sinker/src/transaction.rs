//! One transaction: the offsets first, by compare-and-set, then the rows and deletions of every table.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use shared::failure::{Failure, FailureKind};
use shared::pg::TableName;
use shared::record::dead_letter::Rejection;
use shared::record::header::Operation;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::checkpoint::{self, Move, Place};
use crate::coalesce::{self, Changes};
use crate::deleted_keys;
use crate::entry::{Entry, Item};
use crate::exchange::{Delta, Exchange, Overtaken, Rows};
use crate::fault::{self, Fault};
use crate::locks;
use crate::query::{self, Written};
use crate::rollups::register::{self, Asked};
use crate::rollups::{Over, Rollups};
use crate::tables::{Tables, Target};
use crate::upsert::{Guard, Statements};

/// How everything is written.
#[derive(Debug, Clone)]
pub struct Plan {
    pub place: Place,
    pub tables: Tables,
    /// By the index of the table.
    writings: Vec<Writing>,
    rollups: Rollups,
    asked: Asked,
    guard: Guard,
    /// The statements that begin a batch.
    begin: Arc<str>,
}

/// How a table is written, and what follows from it.
#[derive(Debug, Clone)]
struct Writing {
    statements: Statements,
    rolled_up: Option<(Exchange, Over)>,
}

impl Writing {
    fn new(target: &Target, rollups: &Rollups, guard: Guard) -> Self {
        let rolled_up = rollups.exchange(target).map(|exchange| {
            let over = Over::new(&target.table.label, &exchange, rollups.over(target).cloned().collect());
            (exchange, over)
        });
        let exchange = rolled_up.as_ref().map(|(exchange, _)| exchange);
        Writing { statements: Statements::of(&target.table, exchange, guard), rolled_up }
    }

    fn exchange(&self) -> Option<&Exchange> {
        self.rolled_up.as_ref().map(|(exchange, _)| exchange)
    }
}

impl Plan {
    pub fn new(place: Place, tables: Tables, rollups: Rollups, guard: Guard) -> Self {
        let writings = tables.tables.iter().map(|target| Writing::new(target, &rollups, guard)).collect();
        let begin = locks::begin(&place.topic).into();
        Plan { writings, asked: Asked::of(&tables, &rollups), place, tables, rollups, guard, begin }
    }

    /// The same, when a table has come or got columns.
    pub fn with_tables(&self, tables: Tables) -> Self {
        Plan::new(self.place.clone(), tables, self.rollups.clone(), self.guard)
    }
}

/// What a transaction has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Changes by index of the table and operation.
    pub written: BTreeMap<(usize, Operation), u64>,
    /// Changes that came too late: a version as new was there.
    pub repeats: u64,
}

/// Why a transaction was not committed.
#[derive(Debug)]
pub enum Trouble {
    /// The same again, later.
    Passing(Failure),
    /// Some record of it is bad.
    Data(Rejection),
    /// The generation has to end.
    Lasting(Failure),
}

impl Trouble {
    /// That of a connection or of the catalog.
    pub fn of(failure: Failure) -> Self {
        if failure.kind.is_retried() { Trouble::Passing(failure) } else { Trouble::Lasting(failure) }
    }
}

/// Records to write, and the offsets behind them.
#[derive(Debug)]
pub struct Portion<'p, 'a> {
    pub items: &'p [Item<'a>],
    pub moves: Vec<Move>,
}

impl<'a> Portion<'_, 'a> {
    pub fn entries(&self) -> impl Iterator<Item = &Entry<'a>> + Clone {
        self.items.iter().filter_map(|item| item.content.as_ref().ok())
    }
}

/// Tries the transaction once.
///
/// `doubt` is set while the answer to COMMIT is awaited, and stays set where it never comes: then only the next try can tell, by the
/// offsets, whether the transaction was committed. This holds too where the caller drops this future.
pub async fn attempt(
    connection: &mut PgConnection,
    plan: &Plan,
    portion: &Portion<'_, '_>,
    doubt: &mut Option<Tally>,
) -> Result<Tally, Trouble> {
    let begun = connection.begin_with(AssertSqlSafe(Arc::clone(&plan.begin))).await;
    let mut transaction = begun.map_err(|error| trouble("a transaction cannot begin", error))?;
    let advanced = checkpoint::advance(&mut transaction, &plan.place, &portion.moves).await;
    if !advanced.map_err(|error| trouble("the offsets cannot be moved", error))? {
        let arrived = checkpoint::has_arrived(&mut transaction, &plan.place, &portion.moves).await;
        return match (arrived.map_err(|error| trouble("the offsets cannot be read", error))?, doubt.take()) {
            (true, Some(tally)) => Ok(tally),
            _ => Err(Trouble::Lasting(fenced(&plan.place))),
        };
    }
    *doubt = None;
    match write(&mut transaction, plan, &portion.entries().collect::<Vec<_>>()).await {
        Ok(tally) => {
            *doubt = Some(tally.clone());
            transaction.commit().await.map_err(|error| trouble("the transaction is not committed", error))?;
            *doubt = None;
            Ok(tally)
        }
        Err(trouble) => {
            // Where the connection is lost the next use of it says so, and the server has rolled back.
            let _ = transaction.rollback().await;
            Err(trouble)
        }
    }
}

fn fenced(place: &Place) -> Failure {
    Failure::new(
        FailureKind::Fenced,
        format!("the offsets of group {} in the sink were moved by somebody else", place.group),
    )
    .cure("after a freeze or a failover this is expected and heals itself; otherwise find the other pg-sinker with this group")
}

/// A table that is not there yet has no row to delete, but one that is read again may come to it: the deletion is kept for that row. Where
/// somebody has made the table since this generation looked, its rows are deleted by the next one.
async fn heed_awaited(connection: &mut PgConnection, plan: &Plan, entries: &[&Entry<'_>]) -> Result<(), Trouble> {
    if plan.tables.awaited.is_empty() {
        return Ok(());
    }
    // Each key once, with its highest version.
    let mut newest: BTreeMap<&str, &Entry<'_>> = BTreeMap::new();
    for &entry in entries.iter().filter(|entry| entry.is_gone) {
        let kept = newest.entry(entry.key).or_insert(entry);
        if kept.version < entry.version {
            *kept = entry;
        }
    }
    let gone: Vec<&Entry<'_>> = newest.into_values().collect();
    for awaited in plan.tables.awaited.iter().filter(|_| !gone.is_empty()) {
        let failed = |error| trouble(&awaited.label, error);
        let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(TableName::parse(&awaited.label).sql())
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        if is_there {
            let what = format!("{} was made meanwhile", awaited.label);
            return Err(Trouble::Lasting(Failure::new(FailureKind::Refused, what)));
        }
        deleted_keys::remember(connection, &awaited.label, &gone, plan.guard).await.map_err(failed)?;
    }
    Ok(())
}

/// The tables, then what changes in the roll-ups by that: many instances meet in a group, and hold it for the shortest time.
pub async fn write(connection: &mut PgConnection, plan: &Plan, entries: &[&Entry<'_>]) -> Result<Tally, Trouble> {
    heed_awaited(connection, plan, entries).await?;
    let registered = register::read(connection, &plan.asked).await;
    let registered = registered.map_err(|error| trouble("tidemill.rollups", error))?;
    let filled = register::progress(&plan.rollups, &registered).map_err(Trouble::Lasting)?;
    let mut tally = Tally::default();
    let mut deltas = Vec::with_capacity(plan.writings.len());
    for (table, (target, writing)) in plan.tables.tables.iter().zip(&plan.writings).enumerate() {
        let changes = coalesce::changes(target, entries.iter().copied());
        tally.repeats += changes.repeats;
        deltas.push(write_table(connection, (table, target), (writing, plan.guard), &changes, &mut tally).await?);
    }
    for (writing, delta) in plan.writings.iter().zip(&deltas) {
        if let Some((_, over)) = &writing.rolled_up {
            over.apply(connection, delta, |rollup| plan.rollups.filled(rollup, &filled)).await?;
        }
    }
    Ok(tally)
}

/// Writes a table. Answers which rows went and came, where roll-ups are kept over it.
async fn write_table(
    connection: &mut PgConnection,
    (table, target): (usize, &Target),
    (writing, guard): (&Writing, Guard),
    changes: &Changes<'_, '_>,
    tally: &mut Tally,
) -> Result<Delta, Trouble> {
    let (statements, exchange) = (&writing.statements, writing.exchange());
    let refused = |error| trouble(&target.table.label, error);
    let (mut written, mut deleted) = (Written::default(), Rows::default());
    if !changes.rows.is_empty() {
        written = query::write_rows(connection, target, statements, exchange, &changes.rows).await.map_err(refused)?;
        tally.enter_rows(table, &changes.rows, &written.versions);
    }
    if !changes.gone.is_empty() {
        let gone = &changes.gone;
        let new = deleted_keys::remember(connection, &target.table.label, gone, guard).await.map_err(refused)?;
        deleted = query::delete_rows(connection, target, statements, exchange, gone).await.map_err(refused)?;
        tally.enter_gone(table, gone.len() as u64, new);
    }
    let Some(exchange) = exchange else { return Ok(Delta::default()) };
    exchange.delta(&written.exchanged, &deleted).map_err(|Overtaken| {
        let what = format!("somebody else wrote the same rows of {} at the same time", target.table.label);
        Trouble::Passing(Failure::new(FailureKind::Refused, what))
    })
}

impl Tally {
    fn enter_rows(&mut self, table: usize, sent: &[&Entry<'_>], written: &[Vec<u8>]) {
        let operations: HashMap<&[u8], Operation> =
            sent.iter().map(|entry| (&entry.version[..], entry.header.operation)).collect();
        for version in written {
            if let Some(&operation) = operations.get(version.as_slice()) {
                *self.written.entry((table, operation)).or_default() += 1;
            }
        }
        self.repeats += (sent.len() as u64).saturating_sub(written.len() as u64);
    }

    fn enter_gone(&mut self, table: usize, sent: u64, new: u64) {
        *self.written.entry((table, Operation::Delete)).or_default() += new;
        self.repeats += sent.saturating_sub(new);
    }
}

pub fn trouble(what: &str, error: sqlx::Error) -> Trouble {
    match fault::of(&error) {
        Fault::Passing => Trouble::Passing(
            Failure::new(FailureKind::Unreachable, format!("the sink does not take the rows ({what})"))
                .caused_by(error),
        ),
        Fault::Data(reason) => {
            // The server's words alone: the rest of the error speaks of its own source code.
            let words = error.as_database_error().map_or_else(|| error.to_string(), |said| said.message().to_owned());
            Trouble::Data(Rejection::new(reason, format!("{what}: {words}")))
        }
        Fault::Lasting => Trouble::Lasting(
            Failure::new(FailureKind::Refused, format!("the sink refuses the rows ({what})"))
                .caused_by(error)
                .cure("the table may have been changed: `pg-sinker check` says what is wrong with it"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::OnTombstone;
    use crate::tables::tests::example;
    use shared::batch::Record;

    #[test]
    fn what_the_guard_refused_is_a_repeat() {
        let tables = Tables::new(vec![example(OnTombstone::Delete)]);
        let headers = ["op=c v=1.1.0.0", "op=u v=1.2.0.0", "op=u v=1.3.0.0"];
        let items = headers.map(|header| {
            let row: Option<&[u8]> = Some(b"{\"order_id\":1}");
            let record = Record { partition: 0, offset: 0, key: row, value: row, header: Some(header.as_bytes()) };
            Item::read(record, &tables)
        });
        let portion = Portion { items: &items, moves: Vec::new() };
        let entries: Vec<&Entry<'_>> = portion.entries().collect();
        let mut tally = Tally::default();
        tally.enter_rows(0, &entries, &[entries[0].version.to_vec(), entries[2].version.to_vec()]);
        tally.enter_gone(0, 3, 2);
        let expected = [((0, Operation::Insert), 1), ((0, Operation::Update), 1), ((0, Operation::Delete), 2)];
        assert_eq!(tally, Tally { written: BTreeMap::from(expected), repeats: 2 });
    }
}
