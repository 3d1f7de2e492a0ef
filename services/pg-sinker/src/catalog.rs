//! What the sink's catalog says of a table. Asked once for each generation, so that a changed table is seen after the next start.

use shared::failure::Failure;
use shared::pg::{TableName, refused};
use sqlx::postgres::PgConnection;

/// A table as the catalog describes it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// An ordinary or a partitioned table; a view cannot be written with ON CONFLICT.
    pub is_table: bool,
    pub schema_usage: bool,
    /// This role may change the table.
    pub is_owned: bool,
    /// Of SELECT, INSERT, UPDATE, DELETE those that this role has.
    pub privileges: Vec<String>,
    pub columns: Vec<ColumnFacts>,
    /// The columns of each index that ON CONFLICT can use.
    pub unique: Vec<Vec<String>>,
}

/// A column as the catalog describes it.
#[derive(Debug, Clone)]
pub struct ColumnFacts {
    pub name: String,
    /// Without length or precision: a cast to `varchar(10)` would cut the text off in silence, an assignment refuses it.
    pub type_sql: String,
    pub not_null: bool,
    pub has_default: bool,
    /// The server makes the value itself.
    pub generated: bool,
}

/// Reads what the catalog says; `None` where there is no such table.
pub async fn read(connection: &mut PgConnection, table: &TableName) -> Result<Option<Facts>, Failure> {
    let failed = |error| refused(format!("the catalog of the sink cannot be read for {table}"), error);
    let relation: Option<(i64, bool, bool, bool, Vec<String>)> = sqlx::query_as(
        "SELECT c.oid::int8, c.relkind IN ('r', 'p'), has_schema_privilege(n.oid, 'USAGE'), pg_has_role(c.relowner, 'USAGE'), \
                ARRAY(SELECT p FROM unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) p WHERE has_table_privilege(c.oid, p)) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some((oid, is_table, schema_usage, is_owned, privileges)) = relation else { return Ok(None) };
    let columns: Vec<(String, String, bool, bool, bool)> = sqlx::query_as(
        "SELECT attname::text, format_type(atttypid, -1), attnotnull, atthasdef, attgenerated <> '' OR attidentity <> '' \
         FROM pg_attribute WHERE attrelid = $1::int8::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )
    .bind(oid)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let unique: Vec<Vec<String>> = sqlx::query_scalar(
        "SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY k (number, at) \
                      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number WHERE k.at <= i.indnkeyatts) \
         FROM pg_index i WHERE i.indrelid = $1::int8::oid AND i.indisunique AND i.indisvalid AND i.indimmediate \
               AND i.indpred IS NULL AND i.indexprs IS NULL",
    )
    .bind(oid)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    let columns = columns.into_iter().map(|(name, type_sql, not_null, has_default, generated)| ColumnFacts {
        name,
        type_sql,
        not_null,
        has_default,
        generated,
    });
    Ok(Some(Facts { is_table, schema_usage, is_owned, privileges, columns: columns.collect(), unique }))
}

/// Whether this role may use the schema and make tables in it; `None` where there is no such schema.
pub async fn may_create_in(connection: &mut PgConnection, schema: &str) -> Result<Option<bool>, Failure> {
    sqlx::query_scalar(
        "SELECT has_schema_privilege(oid, 'USAGE') AND has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = $1",
    )
    .bind(schema)
    .fetch_optional(connection)
    .await
    .map_err(|error| refused(format!("the catalog of the sink cannot be read for schema {schema}"), error))
}

/// Whether the server knows a type by this name, with or without a length.
pub async fn is_type(connection: &mut PgConnection, type_sql: &str) -> Result<bool, Failure> {
    let asked = sqlx::query_scalar("SELECT to_regtype($1) IS NOT NULL").bind(type_sql).fetch_one(connection).await;
    match asked {
        Ok(is_known) => Ok(is_known),
        // What cannot be read as a name of a type.
        Err(error) if error.as_database_error().is_some() => Ok(false),
        Err(error) => Err(refused(format!("the catalog of the sink cannot be read for type {type_sql}"), error)),
    }
}
