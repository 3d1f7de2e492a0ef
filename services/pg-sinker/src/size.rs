//! How large the sink database is. How much room its disk still has no SQL tells: that is for whoever watches the server.

use std::time::Duration;

use shared::failure::Failure;
use shared::generation::Fate;
use shared::metrics;
use shared::pg::{PostgresConfig, refused};
use sqlx::Connection as _;

/// The server looks at every file of the database for it.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Shows it for as long as the generation lives. Whether the sink is well is for its writer to say.
pub async fn watch(sink: PostgresConfig, timeout: Duration, fate: Fate) {
    loop {
        match tokio::time::timeout(timeout, look(&sink)).await {
            Ok(Ok(bytes)) => metrics::SINK_DATABASE_BYTES.set(bytes),
            Ok(Err(failure)) => tracing::debug!("the size of the sink is not known: {}", failure.chain()),
            Err(_) => tracing::debug!("the size of the sink is not known: it does not answer"),
        }
        tokio::select! {
            () = fate.ended() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn look(sink: &PostgresConfig) -> Result<i64, Failure> {
    let mut connection = sink.connect("pg-sinker size").await?;
    let bytes = sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut connection).await;
    let _ = connection.close().await;
    bytes.map_err(|error| refused("the size of the database cannot be read", error))
}
