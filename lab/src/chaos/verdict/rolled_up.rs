//! The roll-ups of the sink: each is what GROUP BY over the latest rows says, to the last digit.

use serde::Serialize;
use shared::failure::Failure;
use shared::pg::{TableName, refused};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::findings::Problems;
use crate::paper::Paper;

/// A roll-up of the documented settings.
struct Declared {
    table: &'static str,
    grain: &'static str,
    groups: &'static str,
    counts_users: bool,
}

const BY_ALL: &str = "city, user_city_tier, product_category_normalized, price_band, order_status";

const DECLARED: [Declared; 3] = [
    Declared {
        table: "dws.orders_by_minute",
        grain: "minute",
        groups: "product_category_normalized, order_status",
        counts_users: false,
    },
    Declared { table: "dws.orders_by_hour", grain: "hour", groups: BY_ALL, counts_users: false },
    Declared { table: "dws.orders_by_day", grain: "day", groups: BY_ALL, counts_users: true },
];

/// What a roll-up has.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct RollupCounts {
    pub rollup: &'static str,
    pub groups: u64,
    /// Groups that are in one of both only, or not alike.
    pub differing: u64,
}

impl RollupCounts {
    pub fn write(&self, paper: &mut Paper) {
        let RollupCounts { rollup, groups, differing } = self;
        paper.check(*differing == 0, format!("{rollup}: {groups} groups, {differing} are not what GROUP BY says"));
    }
}

/// The comparison in one statement, which sees one moment.
fn comparison(declared: &Declared, latest: &TableName) -> String {
    let Declared { table, grain, groups, counts_users } = declared;
    let (counted, kept) = if *counts_users { (", count(DISTINCT user_id)", ", users") } else { ("", "") };
    format!(
        "WITH wanted AS (SELECT date_trunc('{grain}', order_time), {groups}, count(*), \
                coalesce(sum(total_amount) FILTER (WHERE total_amount <> 'NaN'), 0), coalesce(sum(quantity), 0){counted} \
             FROM {} GROUP BY date_trunc('{grain}', order_time), {groups}), \
         kept AS (SELECT bucket, {groups}, orders, amount, quantity{kept} FROM {table}) \
         SELECT (SELECT count(*) FROM kept), \
             (SELECT count(*) FROM (TABLE wanted EXCEPT ALL TABLE kept) AS lacking) + (SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE wanted) AS further)",
        latest.sql()
    )
}

/// Compares those that are kept over the latest rows. One that is still filled is not right yet.
pub async fn check(
    sink: &mut PgConnection,
    latest: &TableName,
    problems: &mut Problems,
) -> Result<Vec<RollupCounts>, Failure> {
    let failed = |error| refused("the roll-ups cannot be compared", error);
    let mut found = Vec::new();
    for declared in &DECLARED {
        let rollup = declared.table;
        let is_complete: Option<bool> =
            sqlx::query_scalar("SELECT is_complete FROM tidemill.rollups WHERE rollup = $1 AND of_table = $2")
                .bind(rollup)
                .bind(latest.to_string())
                .fetch_optional(&mut *sink)
                .await
                .map_err(failed)?;
        match is_complete {
            None => continue,
            Some(false) => problems.add(None, format!("{rollup} is not filled at the deadline")),
            Some(true) => {}
        }
        let (groups, differing): (i64, i64) =
            sqlx::query_as(AssertSqlSafe(comparison(declared, latest))).fetch_one(&mut *sink).await.map_err(failed)?;
        if differing > 0 {
            problems.add(None, format!("{rollup} is not what GROUP BY over {latest} says: {differing} groups differ"));
        }
        let counts = RollupCounts { rollup, groups: groups.unsigned_abs(), differing: differing.unsigned_abs() };
        found.push(counts);
    }
    Ok(found)
}
