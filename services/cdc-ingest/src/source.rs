//! The source database: what must be there, looked at one by one, and made where it may be made.

use std::time::Duration;

use shared::failure::{Failure, FailureKind};
use shared::pg::{PostgresConfig, TableName, quoted, refused};
use shared::position::{Lsn, PositionError};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::catalog::{self, Catalog};
use crate::settings::WatchConfig;

/// Session settings of every connection to the source, beside those of [`shared::pg::TEXT_FORM`]: names of types and of `regclass` values
/// are written with their schema, whatever the role's search path is; and a read that a policy would take rows from is an error.
pub const CAPTURE_FORM: [(&str, &str); 2] = [("search_path", "pg_catalog"), ("row_security", "off")];

fn settings(what: impl Into<String>, cure: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Settings, what).cure(cure)
}

/// Opens a connection to the source.
pub async fn connect(source: &PostgresConfig, application: &str) -> Result<PgConnection, Failure> {
    source.connect_with(application, &CAPTURE_FORM).await
}

/// The server has not answered a question for too long.
pub fn silent(source: &PostgresConfig, silence: Duration) -> Failure {
    Failure::new(
        FailureKind::Unreachable,
        format!("PostgreSQL at {} has not answered for {} ms", source.address(), silence.as_millis()),
    )
    .cure("look at server and network; the service connects again by itself")
}

/// Asks the server again and again, on a connection of its own, until it does not answer any more: a statement that waits long cannot
/// tell a busy server from one that is gone.
pub async fn until_silent(source: &PostgresConfig, watch: &WatchConfig) -> Failure {
    let (interval, silence) = (Duration::from_millis(watch.interval_ms), Duration::from_millis(watch.silence_max_ms));
    loop {
        match connect(source, "tidemill watch").await {
            Ok(connection) => {
                if !answers_until_it_breaks(connection, interval, silence).await {
                    return silent(source, silence);
                }
            }
            Err(failure) if failure.kind == FailureKind::Unreachable => return failure,
            // A refusal is an answer.
            Err(_) => {}
        }
        tokio::time::sleep(interval).await;
    }
}

/// False when it has fallen silent.
async fn answers_until_it_breaks(mut connection: PgConnection, interval: Duration, silence: Duration) -> bool {
    loop {
        match tokio::time::timeout(silence, sqlx::query("SELECT 1").execute(&mut connection)).await {
            Ok(Ok(_)) => tokio::time::sleep(interval).await,
            Ok(Err(_)) => return true,
            Err(_) => return false,
        }
    }
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

/// The server must be a primary: a standby is waited for, since it may be promoted.
pub async fn is_primary(connection: &mut PgConnection) -> Result<(), Failure> {
    let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(connection)
        .await
        .map_err(|error| refused("the server's role cannot be read", error))?;
    if !standby {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Unreachable, "the source is a standby: it is in recovery and takes no slot")
        .cure("set source.host to the primary; a standby that is promoted is taken by itself"))
}

/// The role must be allowed to replicate.
pub async fn replication_privilege(connection: &mut PgConnection) -> Result<(), Failure> {
    let (allowed, user): (bool, String) = sqlx::query_as(
        "SELECT rolreplication OR rolsuper OR EXISTS (SELECT FROM pg_roles m WHERE m.rolname = 'rds_replication' \
           AND pg_has_role(current_user, m.oid, 'MEMBER')), current_user::text \
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

/// The statements that would complete the publication; none when it is complete. A publication that leaves out an operation is refused:
/// the topic would differ from the table, and nobody would see it.
pub async fn publication_statements(
    connection: &mut PgConnection,
    publication: &str,
    names: &[TableName],
    catalog: &Catalog,
) -> Result<Vec<String>, Failure> {
    let flags: Option<(bool, bool)> = sqlx::query_as(
        "SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate, pubviaroot FROM pg_publication WHERE pubname = $1",
    )
    .bind(publication)
    .fetch_optional(connection)
    .await
    .map_err(|error| refused(format!("publication {publication} cannot be read"), error))?;
    let quoted_name = quoted(publication);
    let missing: Vec<_> = catalog.unpublished(names).collect();
    let list = missing.iter().map(|table| table.name.sql()).collect::<Vec<_>>().join(", ");
    let has_partitioned = missing.iter().any(|table| table.partitioned);
    match flags {
        Some((false, _)) => Err(settings(
            format!("publication {publication} leaves out some of insert, update, delete, truncate"),
            format!("ALTER PUBLICATION {quoted_name} SET (publish = 'insert, update, delete, truncate')"),
        )),
        Some(_) if missing.is_empty() => Ok(Vec::new()),
        Some((_, via_root)) => {
            let set_root = format!("ALTER PUBLICATION {quoted_name} SET (publish_via_partition_root = true)");
            let add = format!("ALTER PUBLICATION {quoted_name} ADD TABLE {list}");
            Ok([(has_partitioned && !via_root).then_some(set_root), Some(add)].into_iter().flatten().collect())
        }
        None if missing.is_empty() => Ok(vec![format!("CREATE PUBLICATION {quoted_name}")]),
        None => {
            let root = if has_partitioned { " WITH (publish_via_partition_root = true)" } else { "" };
            Ok(vec![format!("CREATE PUBLICATION {quoted_name} FOR TABLE {list}{root}")])
        }
    }
}

fn cannot_publish(publication: &str, statements: &str) -> Failure {
    settings(
        format!("publication {publication} lacks tables and this role cannot add them"),
        format!("as the owner of the tables: {statements}"),
    )
}

/// Whether the role may run the statements that would complete the publication: it must own the publication, or be allowed to make
/// one, and own the tables (PostgreSQL documentation, "CREATE PUBLICATION", "ALTER PUBLICATION").
pub async fn may_publish(
    connection: &mut PgConnection,
    publication: &str,
    names: &[TableName],
    catalog: &Catalog,
    statements: &[String],
) -> Result<(), Failure> {
    if statements.is_empty() {
        return Ok(());
    }
    let missing: Vec<i64> = catalog.unpublished(names).map(|table| i64::from(table.oid)).collect();
    let may: bool = sqlx::query_scalar(
        "SELECT coalesce((SELECT pg_has_role(pubowner, 'USAGE') FROM pg_publication WHERE pubname = $1), \
             has_database_privilege(current_database(), 'CREATE')) \
           AND NOT EXISTS (SELECT FROM pg_class WHERE oid::int8 = ANY($2) AND NOT pg_has_role(relowner, 'USAGE'))",
    )
    .bind(publication)
    .bind(missing)
    .fetch_one(connection)
    .await
    .map_err(|error| refused(format!("publication {publication} cannot be read"), error))?;
    if may { Ok(()) } else { Err(cannot_publish(publication, &statements.join("; "))) }
}

/// Makes or completes the publication, and looks again. Tables that were captured before may stay out of it: they stop alone, and say so.
pub async fn ensure_publication(
    connection: &mut PgConnection,
    publication: &str,
    names: &[TableName],
    captured_before: &[TableName],
    oids: &[u32],
) -> Result<Catalog, Failure> {
    let catalog = catalog::look(connection, publication, names, oids).await?;
    let statements = publication_statements(connection, publication, names, &catalog).await?;
    if statements.is_empty() {
        return Ok(catalog);
    }
    let may_stay_out = catalog.unpublished(names).all(|table| captured_before.contains(&table.name));
    for statement in statements {
        // A table that is in the publication already, under its partitions, does no harm.
        let done = sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut *connection).await;
        let code = |error: &sqlx::Error| {
            error.as_database_error().and_then(|found| found.code()).map(|code| code.into_owned())
        };
        match done {
            Ok(_) => tracing::info!(statement, "publication made"),
            Err(error) if code(&error).as_deref() == Some("42710") => {}
            Err(error) if may_stay_out && statement.starts_with("ALTER") => {
                tracing::warn!(
                    "the publication could not be completed; as the owner of the tables: {statement}: {error}"
                );
            }
            Err(error) => return Err(cannot_publish(publication, &statement).caused_by(error)),
        }
    }
    catalog::look(connection, publication, names, oids).await
}

/// Where the server's WAL ends on its disk.
pub async fn flush_position(connection: &mut PgConnection) -> Result<Lsn, Failure> {
    let text: String = sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text")
        .fetch_one(connection)
        .await
        .map_err(|error| refused("the WAL position cannot be read", error))?;
    position(&text)
}

/// Where the server writes next: every commit that stands in its WAL is before it.
pub async fn insert_position(connection: &mut PgConnection) -> Result<Lsn, Failure> {
    let text: String = sqlx::query_scalar("SELECT pg_current_wal_insert_lsn()::text")
        .fetch_one(connection)
        .await
        .map_err(|error| refused("the WAL position cannot be read", error))?;
    position(&text)
}

/// A position as the server wrote it.
pub fn position(text: &str) -> Result<Lsn, Failure> {
    text.parse().map_err(|error: PositionError| {
        Failure::new(FailureKind::Data, "the WAL position cannot be read").caused_by(error)
    })
}
