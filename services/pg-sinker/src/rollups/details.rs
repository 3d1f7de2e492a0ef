//! What a roll-up must know of a table beyond [`crate::catalog::Facts`].

use std::collections::BTreeMap;

use shared::failure::Failure;
use shared::pg::{TableName, refused};
use sqlx::postgres::PgConnection;

/// A table's further facts.
#[derive(Debug, Clone, Default)]
pub struct Details {
    pub is_partitioned: bool,
    pub columns: BTreeMap<String, Detail>,
}

/// A column's further facts.
#[derive(Debug, Clone)]
pub struct Detail {
    /// With length or precision: `character varying(50)`.
    pub full_type: String,
    pub has_default: bool,
    /// Whether it is ordered otherwise than its type is.
    pub has_own_collation: bool,
}

impl Details {
    /// Reads them; nothing for a table that is not there.
    pub async fn read(connection: &mut PgConnection, table: &TableName) -> Result<Details, Failure> {
        let found: Vec<(bool, String, String, bool, bool)> = sqlx::query_as(
            "SELECT c.relkind = 'p', a.attname::text, format_type(a.atttypid, a.atttypmod), \
                    a.atthasdef OR a.attidentity <> '', a.attcollation <> t.typcollation \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             JOIN pg_type t ON t.oid = a.atttypid \
             WHERE n.nspname = $1 AND c.relname = $2",
        )
        .bind(&table.schema)
        .bind(&table.name)
        .fetch_all(connection)
        .await
        .map_err(|error| refused(format!("the catalog of the sink cannot be read for {table}"), error))?;
        let is_partitioned = found.iter().any(|(partitioned, ..)| *partitioned);
        let columns = found.into_iter().map(|(_, name, full_type, has_default, has_own_collation)| {
            (name, Detail { full_type, has_default, has_own_collation })
        });
        Ok(Details { is_partitioned, columns: columns.collect() })
    }

    pub fn full_type(&self, column: &str) -> &str {
        self.columns.get(column).map_or("", |detail| &detail.full_type)
    }
}
