//! What the catalog of either side says of a compared table.

use shared::failure::Failure;
use shared::pg::{TableName, refused};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::kind::{Kind, Type};

/// A table as the catalog describes it.
#[derive(Debug, Clone)]
pub struct Described {
    pub name: TableName,
    /// Its rows are its own alone, not those of tables that inherit from it.
    pub alone: bool,
    /// An ordinary or a partitioned table.
    pub is_table: bool,
    /// The role may use the schema and read the table.
    pub readable: bool,
    pub columns: Vec<DescribedColumn>,
}

/// A column as the catalog describes it.
#[derive(Debug, Clone)]
pub struct DescribedColumn {
    pub name: String,
    pub of: Type,
    /// Sorted by bytes.
    pub by_bytes: bool,
    /// First of an index in the order in which it is compared, text by bytes: a range of it is found without reading the whole table.
    pub indexed: bool,
}

impl Described {
    pub fn column(&self, name: &str) -> Option<&DescribedColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Whether values of this collation are sorted by their bytes. The database's own does so where it is C, unless ICU has another one (PostgreSQL
/// 15 and newer).
fn by_bytes(collation: &str) -> String {
    format!(
        "CASE {collation} WHEN 0 THEN true \
              WHEN 100 THEN (SELECT d.datcollate IN ('C', 'POSIX') AND coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') <> 'i' \
                               FROM pg_database d WHERE d.datname = current_database()) \
              ELSE (SELECT l.collcollate IN ('C', 'POSIX') FROM pg_collation l WHERE l.oid = {collation}) END IS TRUE"
    )
}

type ColumnRow = (String, i64, String, bool, bool);

/// `None` where there is no such table.
pub async fn describe(connection: &mut PgConnection, name: &TableName) -> Result<Option<Described>, Failure> {
    let failed = |error| refused(format!("the catalog cannot be read for {name}"), error);
    let relation: Option<(i64, bool, bool, bool)> = sqlx::query_as(
        "SELECT c.oid::int8, c.relkind = 'r', c.relkind IN ('r', 'p'), \
                has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(&name.schema)
    .bind(&name.name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some((oid, alone, is_table, readable)) = relation else { return Ok(None) };
    // A domain counts as the type beneath.
    let sql = format!(
        "SELECT a.attname::text, b.oid::int8, \
                CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) ELSE format_type(a.atttypid, a.atttypmod) END, \
                {}, \
                EXISTS (SELECT FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam \
                         WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum \
                           AND m.amname = 'btree' AND {}) \
         FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         JOIN pg_type b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END \
         WHERE a.attrelid = $1::int8::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        by_bytes("a.attcollation"),
        by_bytes("i.indcollation[0]")
    );
    let columns: Vec<ColumnRow> =
        sqlx::query_as(AssertSqlSafe(sql)).bind(oid).fetch_all(&mut *connection).await.map_err(failed)?;
    let columns = columns.into_iter().map(|(name, type_oid, sql, by_bytes, indexed)| DescribedColumn {
        name,
        of: Type { kind: Kind::of(u32::try_from(type_oid).unwrap_or(u32::MAX)), sql },
        by_bytes,
        indexed,
    });
    Ok(Some(Described { name: name.clone(), alone, is_table, readable, columns: columns.collect() }))
}
