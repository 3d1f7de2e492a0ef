//! How a session writes.

use std::time::Duration;

use shared::failure::Failure;
use shared::pg::{PostgresConfig, refused};
use sqlx::postgres::PgConnection;

use crate::settings::WriterConfig;

/// Binds the longest silence in a transaction, statement and wait for a lock, in milliseconds, and what a commit waits for.
///
/// The server keeps the plan of a prepared statement, and made on an empty table it reads the whole table for each batch, until the
/// table's statistics are renewed. Rows are looked for by their key, always.
const SETTINGS: &str = "SELECT set_config('idle_in_transaction_session_timeout', $1, false), set_config('statement_timeout', $2, false), \
     set_config('lock_timeout', $3, false), set_config('synchronous_commit', $4, false), \
     set_config('enable_seqscan', 'off', false), set_config('enable_hashjoin', 'off', false), set_config('enable_mergejoin', 'off', false)";

/// A connection that writes. `silence`: so long the server hears nothing of a transaction before it ends the session.
pub async fn connect(
    sink: &PostgresConfig,
    name: &str,
    config: &WriterConfig,
    silence: Duration,
) -> Result<PgConnection, Failure> {
    let mut connection = sink.connect(name).await?;
    sqlx::query(SETTINGS)
        .bind(silence.as_millis().to_string())
        .bind(config.transaction_timeout_ms.to_string())
        .bind(config.lock_timeout_ms.to_string())
        .bind(config.synchronous_commit.as_str())
        .execute(&mut connection)
        .await
        .map_err(|error| refused("the session's settings cannot be made", error))?;
    Ok(connection)
}

/// Binds, in milliseconds, the longest silence between two statements, and that of a client that acknowledges nothing; then in seconds how
/// soon and how often it is asked whether it is there.
const SILENCE: &str = "SELECT set_config('idle_session_timeout', $1, false), set_config('tcp_user_timeout', $2, false), \
     set_config('tcp_keepalives_idle', $3, false), set_config('tcp_keepalives_interval', $3, false), set_config('tcp_keepalives_count', '2', false)";

/// The server ends the session, and its locks with it, when a client is gone for `silence`, or gives no statement for `idle`.
pub async fn end_when_silent(connection: &mut PgConnection, silence: Duration, idle: Duration) -> Result<(), Failure> {
    sqlx::query(SILENCE)
        .bind(idle.as_millis().to_string())
        .bind(silence.as_millis().to_string())
        .bind((silence.as_secs() / 3).max(1).to_string())
        .execute(connection)
        .await
        .map_err(|error| refused("the session's settings cannot be made", error))?;
    Ok(())
}
