//! The source table as the catalog has it.

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, refused};
use sqlx::postgres::PgConnection;

/// What of a table is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    pub table: TableName,
    /// A partitioned table has its rows in its partitions; of any other one, its children's rows are none of its own.
    pub is_partitioned: bool,
    /// All that are not generated, in the table's order.
    pub columns: Vec<Column>,
    /// Names of the primary key, sorted; none where there is no key.
    pub primary_key: Vec<String>,
}

/// A column and what its text is cast back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// The type below all domains, for SQL, without length or precision: a cast to `varchar(3)` or `numeric(10,2)` would cut off
    /// what the topic has too much.
    pub sql_type: String,
    /// json or jsonb.
    pub is_json: bool,
}

impl TableShape {
    pub async fn read(connection: &mut PgConnection, table: &TableName) -> Result<Self, Failure> {
        let found: Option<(i64, String)> = sqlx::query_as(
            "SELECT c.oid::int8, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
        )
        .bind(&table.schema)
        .bind(&table.name)
        .fetch_optional(&mut *connection)
        .await
        .map_err(|error| refused(format!("table {table} cannot be looked up"), error))?;
        let (oid, kind) = found.ok_or_else(|| {
            Failure::new(FailureKind::Settings, format!("the source has no table {table}"))
                .cure("name it as SCHEMA.TABLE, in upper and lower case as the catalog has it")
        })?;
        let columns = columns(connection, table, oid).await?;
        let primary_key = primary_key(connection, table, oid).await?;
        Ok(TableShape { table: table.clone(), is_partitioned: kind == "p", columns, primary_key })
    }

    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

async fn columns(connection: &mut PgConnection, table: &TableName, oid: i64) -> Result<Vec<Column>, Failure> {
    // With the modifier -1, `bpchar` and `bit` are not taken for `character(1)` and `bit(1)`.
    let columns: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT a.attname::text, format_type(base.oid, -1), base.oid IN ('json'::regtype, 'jsonb'::regtype)
         FROM pg_attribute a CROSS JOIN LATERAL (
             WITH RECURSIVE below AS (
                 SELECT oid, typtype, typbasetype FROM pg_type WHERE oid = a.atttypid
                 UNION ALL
                 SELECT t.oid, t.typtype, t.typbasetype FROM below JOIN pg_type t ON t.oid = below.typbasetype
                 WHERE below.typtype = 'd')
             SELECT oid FROM below WHERE typtype <> 'd') base
         WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
         ORDER BY a.attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|error| refused(format!("the columns of {table} cannot be read"), error))?;
    Ok(columns.into_iter().map(|(name, sql_type, is_json)| Column { name, sql_type, is_json }).collect())
}

async fn primary_key(connection: &mut PgConnection, table: &TableName, oid: i64) -> Result<Vec<String>, Failure> {
    let mut names: Vec<String> = sqlx::query_scalar(
        "SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
         WHERE i.indrelid = $1::oid AND i.indisprimary",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|error| refused(format!("the key of {table} cannot be read"), error))?;
    names.sort_unstable();
    Ok(names)
}
