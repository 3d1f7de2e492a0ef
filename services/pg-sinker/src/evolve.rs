//! Makes tables and columns. Of two instances that want the same one makes it, and the other finds it there.

use std::collections::BTreeMap;

use shared::batch::{Batch, Record};
use shared::pg::TableName;
use shared::record::dead_letter::Rejection;
use shared::record::header::Header;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::entry::Item;
use crate::growth::{self, Growing, NewColumn, Wanted};
use crate::tables::Tables;
use crate::transaction::{Trouble, trouble};
use crate::ways::Blueprint;

/// Holds the records of a topic against its tables, and makes what these lack.
pub struct Grower {
    pub growth: Vec<Growing>,
    pub blueprint: Blueprint,
    pub lock_timeout_ms: u64,
}

impl Grower {
    /// What is to be made for those records of the batch that will be written: `expected` is where each partition goes on.
    pub fn wanted(&self, batch: &Batch, expected: &BTreeMap<i32, i64>) -> Wanted {
        if self.growth.is_empty() {
            return Wanted::default();
        }
        let is_new = |record: &Record<'_>| {
            expected.get(&record.partition).is_some_and(|next| record.offset >= *next)
                && Header::parse(record.header).is_ok()
        };
        growth::wanted(&self.growth, batch.records().filter(is_new).filter_map(|record| record.value))
    }

    /// Makes it. Answers the tables as they are then.
    pub async fn make(&mut self, connection: &mut PgConnection, wanted: &Wanted) -> Result<Tables, Trouble> {
        for (&at, columns) in &wanted.columns {
            let Some(table) = self.growth.get(at) else { continue };
            let made = make(connection, table, columns, self.lock_timeout_ms).await;
            made.map_err(|error| trouble(&table.name.to_string(), error))?;
        }
        let (tables, growth) = self.blueprint.tables(connection).await.map_err(Trouble::of)?;
        self.growth = growth;
        Ok(tables)
    }

    /// Makes it in the table and in the one beside it, which is built anew: of both it is the table that says what it lacks. Answers the tables
    /// as they are then.
    pub async fn make_twice(
        &mut self,
        connection: &mut PgConnection,
        wanted: &Wanted,
        beside: &TableName,
    ) -> Result<Tables, Trouble> {
        for (&at, columns) in &wanted.columns {
            let Some(table) = self.growth.get(at) else { continue };
            let table = Growing { name: beside.clone(), ..table.clone() };
            let made = make(connection, &table, columns, self.lock_timeout_ms).await;
            made.map_err(|error| trouble(&beside.to_string(), error))?;
        }
        self.make(connection, wanted).await
    }

    /// No value vanishes from a table that takes all fields.
    pub fn refuse_what_has_no_column(&self, items: &mut [Item<'_>]) {
        for item in items.iter_mut().filter(|item| item.content.is_ok()) {
            let row = item.record.value.unwrap_or_default();
            let lacking = self.growth.iter().find_map(|table| Some((table, table.without_column(row)?)));
            if let Some((table, name)) = lacking {
                let detail = format!(
                    "{} gets no column for {name:?}: see writer.evolve_columns_max, or leave it out",
                    table.name
                );
                item.content = Err(Rejection::new("no_column", detail));
            }
        }
    }
}

/// Makes what the table lacks of these columns, in a transaction that waits for no lock longer than the bound. What others need of the
/// table waits behind it.
async fn make(
    connection: &mut PgConnection,
    table: &Growing,
    columns: &[NewColumn],
    lock_timeout_ms: u64,
) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(lock_timeout_ms.to_string())
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tidemill: a table grows: ' || $1, 0))")
        .bind(table.name.to_string())
        .execute(&mut *transaction)
        .await?;
    let statement = match present(&mut transaction, &table.name).await? {
        None => Some(table.create_sql(columns)),
        Some(there) => {
            let lacking: Vec<NewColumn> =
                columns.iter().filter(|column| !there.contains(&column.name)).cloned().collect();
            (table.may_add && !lacking.is_empty()).then(|| table.add_sql(&lacking))
        }
    };
    if let Some(statement) = statement {
        tracing::info!(table = %table.name, statement, "the topic brings what the sink does not have yet");
        transaction.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await?;
    }
    transaction.commit().await
}

/// The columns of the table; `None` where there is none.
async fn present(connection: &mut PgConnection, table: &TableName) -> sqlx::Result<Option<Vec<String>>> {
    sqlx::query_scalar(
        "SELECT ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(connection)
    .await
}
