//! What changes at the source, and how long the sink takes to have it.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::Failure;
use sqlx::postgres::PgConnection;

use super::{Pipeline, Stat, execute, orders, single};
use crate::bench::orders::Owners;
use crate::paper::Paper;
use crate::places::Places;

/// The user with the lowest id of those that the benchmark makes.
pub const FIRST_USER: i64 = 2_000_000;

/// Orders of a transaction.
const TRANSACTION: u32 = 5_000;

/// Time between two looks at the sink.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Of one kind of change.
#[derive(Debug, Clone, Serialize)]
pub struct Load {
    name: String,
    /// Rows that the sink was sent.
    pub rows: i64,
    pub seconds: f64,
    /// Of the four services.
    pub cpu_seconds: f64,
}

impl Load {
    pub fn rows_a_second(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    pub fn cpu_microseconds_a_row(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.rows as f64
    }

    pub fn is(&self, kind: Kind) -> bool {
        self.name == kind.name()
    }

    pub fn text(&self) -> String {
        format!("{}: {:.0} rows a second", self.name, self.rows_a_second())
    }

    pub fn cells(&self) -> [String; 5] {
        [
            self.name.clone(),
            self.rows.to_string(),
            format!("{:.1}", self.seconds),
            format!("{:.0}", self.rows_a_second()),
            format!("{:.1}", self.cpu_microseconds_a_row()),
        ]
    }
}

/// Processor time of the four services.
pub struct Used(Vec<u32>);

impl Used {
    pub fn new(pipeline: &Pipeline) -> Self {
        Used(pipeline.processes().map(|(_, process)| process).collect())
    }

    pub fn cpu_seconds(&self) -> f64 {
        self.0.iter().filter_map(|&process| Some(Stat::of(process)?.cpu_seconds)).sum()
    }
}

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Copy,
    Inserts,
    Updates,
    UserChanges,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Copy => "copy of what was there",
            Kind::Inserts => "inserts",
            Kind::Updates => "updates of a status",
            Kind::UserChanges => "orders of changed users",
        }
    }
}

/// So many changes of a kind; of users, among so many.
pub struct Due {
    kind: Kind,
    count: u32,
    users: u32,
}

/// Inserts before those that count; none where there are to be none.
pub fn warm(users: u32, count: u32) -> Option<Due> {
    (count > 0).then_some(Due { kind: Kind::Inserts, count, users })
}

pub fn all(users: u32, inserts: u32, updates: u32, user_changes: u32) -> Vec<Due> {
    let counts = [(Kind::Inserts, inserts), (Kind::Updates, updates), (Kind::UserChanges, user_changes.min(users))];
    counts.into_iter().filter(|(_, count)| *count > 0).map(|(kind, count)| Due { kind, count, users }).collect()
}

/// Places orders of the users in turn.
pub async fn place(
    source: &mut PgConnection,
    places: &Places,
    users: u32,
    count: u32,
    progress: &mut Paper,
) -> Result<(), Failure> {
    let owners = Owners { first: FIRST_USER, count: users };
    orders::place_in_transactions(source, &places.names, (count, TRANSACTION), owners, progress).await
}

/// Records of the results that the sink has handled.
async fn handled(sink: &mut PgConnection) -> Result<i64, Failure> {
    single(sink, "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidemill.sink_offsets").await
}

/// Waits until the sink has handled so many.
async fn until_handled(sink: &mut PgConnection, wanted: i64) -> Result<(), Failure> {
    while handled(sink).await? < wanted {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Seconds until the first row after the start, and the copy from its first row to its last.
pub async fn copy(places: &Places, sink: &mut PgConnection, copied: u32, used: &Used) -> Result<(f64, Load), Failure> {
    let started = Instant::now();
    let has_one = format!("SELECT EXISTS (SELECT FROM {})", places.names.latest.sql());
    while !single::<bool>(sink, &has_one).await? {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let (first_row, begun) = (started.elapsed().as_secs_f64(), Instant::now());
    until_handled(sink, i64::from(copied)).await?;
    let load = Load {
        name: Kind::Copy.name().to_owned(),
        rows: i64::from(copied),
        seconds: begun.elapsed().as_secs_f64(),
        cpu_seconds: used.cpu_seconds(),
    };
    Ok((first_row, load))
}

impl Due {
    /// Makes the changes as fast as the source takes them, and waits for the sink.
    pub async fn run(
        &self,
        places: &Places,
        (source, sink): (&mut PgConnection, &mut PgConnection),
        used: &Used,
        progress: &mut Paper,
    ) -> Result<Load, Failure> {
        let before = handled(sink).await?;
        let rows = self.rows(places, source).await?;
        let (cpu, begun) = (used.cpu_seconds(), Instant::now());
        match self.kind {
            Kind::Copy | Kind::Inserts => place(source, places, self.users, self.count, progress).await?,
            Kind::Updates => self.update(places, source).await?,
            Kind::UserChanges => {
                let users = places.names.users.sql();
                let last = FIRST_USER + i64::from(self.count);
                let sql =
                    format!("UPDATE {users} SET city = '成都' WHERE user_id >= {FIRST_USER} AND user_id < {last}");
                execute(source, &sql).await?;
            }
        }
        until_handled(sink, before + rows).await?;
        Ok(Load {
            name: self.kind.name().to_owned(),
            rows,
            seconds: begun.elapsed().as_secs_f64(),
            cpu_seconds: used.cpu_seconds() - cpu,
        })
    }

    /// Rows that the sink will be sent.
    async fn rows(&self, places: &Places, source: &mut PgConnection) -> Result<i64, Failure> {
        if self.kind != Kind::UserChanges {
            return Ok(i64::from(self.count));
        }
        let last = FIRST_USER + i64::from(self.count);
        let orders = places.names.orders.sql();
        single(source, &format!("SELECT count(*) FROM {orders} WHERE user_id >= {FIRST_USER} AND user_id < {last}"))
            .await
    }

    async fn update(&self, places: &Places, source: &mut PgConnection) -> Result<(), Failure> {
        let table = places.names.orders.sql();
        let end = orders::next_id(source, &places.names).await?;
        let mut next = end - i64::from(self.count);
        while next < end {
            let to = end.min(next + i64::from(TRANSACTION));
            let sql = format!("UPDATE {table} SET order_status = 'PAID' WHERE order_id >= {next} AND order_id < {to}");
            execute(source, &sql).await?;
            next = to;
        }
        Ok(())
    }
}

/// Orders that source and sink do not have alike: their number, the sums of their ids and amounts, and their statuses.
pub async fn differing(places: &Places, source: &mut PgConnection, sink: &mut PgConnection) -> Result<i64, Failure> {
    let count = |table: String| format!("SELECT count(*) FROM {table}");
    let placed: i64 = single(source, &count(places.names.orders.sql())).await?;
    let found: i64 = single(sink, &count(places.names.latest.sql())).await?;
    let sums = |table: String| {
        format!(
            "SELECT (sum(order_id % 1000003) + sum(total_amount * 100) + sum(length(order_status)))::text FROM {table}"
        )
    };
    let placed_sums: String = single(source, &sums(places.names.orders.sql())).await?;
    let found_sums: String = single(sink, &sums(places.names.latest.sql())).await?;
    let is_equal = trimmed(&placed_sums) == trimmed(&found_sums);
    Ok((placed - found).abs() + i64::from(!is_equal))
}

/// Without zeros behind the point: the two sides may have other scales.
fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}
