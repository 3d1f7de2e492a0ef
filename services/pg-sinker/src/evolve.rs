//! Makes tables and columns. Of two instances that want the same one makes it, and the other finds it there.

use shared::pg::TableName;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::growth::{Growing, NewColumn};

/// Makes what the table lacks of these columns, in a transaction that waits for no lock longer than the bound. What others need of the
/// table waits behind it.
pub async fn make(
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
