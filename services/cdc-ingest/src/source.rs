//! The source database: what must be there, looked at one by one, and made where it may be made.

use shared::failure::{Failure, FailureKind};
use shared::pg::{TableName, quoted, refused};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use crate::settings::{Settings, TableConfig};

/// A captured table as the catalog has it.
#[derive(Debug, Clone)]
pub struct SourceTable {
    pub table: TableName,
    pub topic: String,
    /// The primary key: names and SQL types, in its order.
    pub key: Vec<KeyColumn>,
    /// The planner's estimate, for progress.
    pub rows_estimate: i64,
}

/// A column of a captured table.
#[derive(Debug, Clone)]
pub struct SourceColumn {
    pub name: String,
    pub type_oid: u32,
}

/// A column of the primary key.
#[derive(Debug, Clone)]
pub struct KeyColumn {
    pub name: String,
    pub sql_type: String,
}

fn settings(what: impl Into<String>, cure: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Settings, what).cure(cure)
}

/// `wal_level` must be `logical`.
pub async fn wal_level(connection: &mut PgConnection) -> Result<(), Failure> {
    let level: String = sqlx::query_scalar("SELECT current_setting('wal_level')")
        .fetch_one(connection)
        .await
        .map_err(|error| refused("wal_level cannot be read", error))?;
    if level == "logical" {
        return Ok(());
    }
    Err(settings(
        format!("the source has wal_level={level}, so it writes too little for change capture"),
        "set wal_level=logical in postgresql.conf (ALTER SYSTEM SET wal_level = 'logical') and restart the server",
    ))
}

/// The role must be allowed to replicate.
pub async fn replication_privilege(connection: &mut PgConnection) -> Result<(), Failure> {
    let (allowed, user): (bool, String) = sqlx::query_as(
        "SELECT rolreplication OR rolsuper OR pg_has_role(current_user, oid, 'MEMBER') AND rolname = 'rds_replication', current_user::text \
         FROM pg_roles WHERE rolname = current_user",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| refused("the role's privileges cannot be read", error))?;
    if allowed {
        return Ok(());
    }
    let cure = format!("ALTER ROLE {} REPLICATION", quoted(&user));
    Err(settings(format!("role {user} may not replicate"), cure))
}

/// The table with its columns and key; it must exist, have a primary key that the stream carries, and be readable.
pub async fn table(connection: &mut PgConnection, config: &TableConfig) -> Result<SourceTable, Failure> {
    let name = TableName::parse(&config.table);
    let found = sqlx::query(
        "SELECT c.oid::int8, c.relreplident::text, greatest(c.reltuples, 0)::int8, has_table_privilege(c.oid, 'SELECT'), current_user::text \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'",
    )
    .bind(&name.schema)
    .bind(&name.name)
    .fetch_optional(&mut *connection)
    .await
    .map_err(|error| refused(format!("table {name} cannot be looked up"), error))?
    .ok_or_else(|| {
        settings(
            format!("the source has no ordinary table {name}"),
            "correct the name under [tables], or make the table; of a partitioned table name the partitions",
        )
    })?;
    let unreadable = |error| refused(format!("table {name} cannot be looked up"), error);
    let oid: i64 = found.try_get(0).map_err(unreadable)?;
    let identity: String = found.try_get(1).map_err(unreadable)?;
    let rows_estimate: i64 = found.try_get(2).map_err(unreadable)?;
    let readable: bool = found.try_get(3).map_err(unreadable)?;
    let user: String = found.try_get(4).map_err(unreadable)?;
    if !readable {
        let cure = format!(
            "GRANT USAGE ON SCHEMA {} TO {1}; GRANT SELECT ON {2} TO {1}",
            quoted(&name.schema),
            quoted(&user),
            name.sql()
        );
        return Err(settings(format!("role {user} may not read {name}"), cure));
    }
    let key = key(connection, &name, oid).await?;
    if !matches!(identity.as_str(), "d" | "f") {
        return Err(settings(
            format!("table {name} has a replica identity under which deletes do not carry its primary key"),
            format!("ALTER TABLE {} REPLICA IDENTITY DEFAULT", name.sql()),
        ));
    }
    Ok(SourceTable { table: name, topic: config.topic.clone(), key, rows_estimate })
}

async fn key(connection: &mut PgConnection, name: &TableName, oid: i64) -> Result<Vec<KeyColumn>, Failure> {
    let key: Vec<(String, String)> = sqlx::query_as(
        "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) \
         FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) \
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE i.indrelid = $1::oid AND i.indisprimary AND k.place <= i.indnkeyatts ORDER BY k.place",
    )
    .bind(oid)
    .fetch_all(connection)
    .await
    .map_err(|error| refused(format!("the key of {name} cannot be read"), error))?;
    if key.is_empty() {
        return Err(settings(
            format!("table {name} has no primary key, so its rows cannot be told apart"),
            format!("ALTER TABLE {} ADD PRIMARY KEY (…)", name.sql()),
        ));
    }
    Ok(key.into_iter().map(|(name, sql_type)| KeyColumn { name, sql_type }).collect())
}

/// The columns that the stream carries, in its order; none where the table does not exist.
pub async fn columns(connection: &mut PgConnection, name: &TableName) -> Result<Vec<SourceColumn>, Failure> {
    let columns: Vec<(String, i64)> = sqlx::query_as(
        "SELECT a.attname::text, a.atttypid::int8 \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' \
         ORDER BY a.attnum",
    )
    .bind(&name.schema)
    .bind(&name.name)
    .fetch_all(connection)
    .await
    .map_err(|error| refused(format!("the columns of {name} cannot be read"), error))?;
    let column = |(name, oid): (String, i64)| SourceColumn { name, type_oid: u32::try_from(oid).unwrap_or(0) };
    Ok(columns.into_iter().map(column).collect())
}

/// The tables that the publication lacks; `None` when there is no such publication.
async fn missing_in_publication(
    connection: &mut PgConnection,
    publication: &str,
    tables: &[SourceTable],
) -> Result<Option<Vec<TableName>>, Failure> {
    let unreadable = |error| refused(format!("publication {publication} cannot be read"), error);
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_publication WHERE pubname = $1)")
        .bind(publication)
        .fetch_one(&mut *connection)
        .await
        .map_err(unreadable)?;
    if !exists {
        return Ok(None);
    }
    let members: Vec<(String, String)> =
        sqlx::query_as("SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = $1")
            .bind(publication)
            .fetch_all(connection)
            .await
            .map_err(unreadable)?;
    let is_member =
        |table: &TableName| members.iter().any(|(schema, name)| *schema == table.schema && *name == table.name);
    Ok(Some(tables.iter().map(|table| table.table.clone()).filter(|table| !is_member(table)).collect()))
}

/// The statement that would complete the publication; `None` when it is complete.
pub async fn publication_statement(
    connection: &mut PgConnection,
    publication: &str,
    tables: &[SourceTable],
) -> Result<Option<String>, Failure> {
    let missing = missing_in_publication(connection, publication, tables).await?;
    let list = |tables: &mut dyn Iterator<Item = String>| tables.collect::<Vec<_>>().join(", ");
    Ok(match missing {
        Some(missing) if missing.is_empty() => None,
        Some(missing) => {
            let tables = list(&mut missing.iter().map(TableName::sql));
            Some(format!("ALTER PUBLICATION {} ADD TABLE {tables}", quoted(publication)))
        }
        None => {
            let tables = list(&mut tables.iter().map(|table| table.table.sql()));
            Some(format!("CREATE PUBLICATION {} FOR TABLE {tables}", quoted(publication)))
        }
    })
}

/// Makes or completes the publication.
pub async fn ensure_publication(
    connection: &mut PgConnection,
    publication: &str,
    tables: &[SourceTable],
) -> Result<(), Failure> {
    let Some(statement) = publication_statement(connection, publication, tables).await? else { return Ok(()) };
    match sqlx::query(AssertSqlSafe(statement.clone())).execute(connection).await {
        Ok(_) => {
            tracing::info!(statement, "publication made");
            Ok(())
        }
        Err(error) => Err(settings(
            format!("publication {publication} lacks tables and this role cannot add them"),
            format!("as the owner of the tables: {statement}"),
        )
        .caused_by(error)),
    }
}

/// The slot as the server has it.
#[derive(Debug, Clone)]
pub struct Slot {
    pub active_pid: Option<i32>,
}

/// The slot, if it exists; it must be ours to use.
pub async fn slot(connection: &mut PgConnection, config: &Settings) -> Result<Option<Slot>, Failure> {
    let name = &config.slot.name;
    let unreadable = |error| refused(format!("slot {name} cannot be looked up"), error);
    let found = sqlx::query(
        "SELECT plugin::text, database::text = current_database(), active_pid, coalesce(wal_status, 'reserved') \
         FROM pg_replication_slots WHERE slot_name = $1",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
    .map_err(unreadable)?;
    let Some(found) = found else { return Ok(None) };
    let plugin: Option<String> = found.try_get(0).map_err(unreadable)?;
    let ours: Option<bool> = found.try_get(1).map_err(unreadable)?;
    let active_pid: Option<i32> = found.try_get(2).map_err(unreadable)?;
    let wal_status: String = found.try_get(3).map_err(unreadable)?;
    if plugin.as_deref() != Some("pgoutput") || ours != Some(true) {
        return Err(settings(
            format!("slot {name} is not a pgoutput slot of this database"),
            "set slot.name to a name that nobody uses",
        ));
    }
    if wal_status == "lost" {
        return Err(settings(
            format!(
                "slot {name} was invalidated: the server removed WAL that was not captured yet (max_slot_wal_keep_size)"
            ),
            format!(
                "SELECT pg_drop_replication_slot('{name}'); then start again: every table is read anew, rows deleted meanwhile get tombstones"
            ),
        ));
    }
    Ok(Some(Slot { active_pid }))
}

/// Makes the slot. From its position on, nothing is lost.
pub async fn make_slot(connection: &mut PgConnection, name: &str) -> Result<(), Failure> {
    sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')")
        .bind(name)
        .execute(connection)
        .await
        .map_err(|error| {
            refused(format!("slot {name} could not be made"), error)
                .cure("raise max_replication_slots, or drop slots that nobody uses (pg_replication_slots)")
        })?;
    tracing::info!(slot = name, "slot made");
    Ok(())
}
