//! What the stream leaves out and the source is asked for: the row behind an unchanged TOASTed value, and what is beneath a domain.

use std::time::Duration;

use shared::failure::{Failure, FailureKind};
use shared::metrics;
use shared::pg::{quoted, refused_for_now};
use sqlx::postgres::PgConnection;

use super::Core;
use crate::catalog::{self, SourceTable};
use crate::change::Reread;
use crate::copy_text::CopyRow;
use crate::decode::Cell;
use crate::key_order::is_key;
use crate::snapshot::copy;
use crate::source;
use crate::visibility::DatabaseSnapshot;

impl Core {
    /// Asks the source, on the worker's own connection, and gives up when the generation ends.
    pub(super) async fn ask<T>(
        &mut self,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (fate, kept) = (self.fate.clone(), self.connection.take());
        let asked = async {
            let mut connection = match kept {
                Some(connection) => connection,
                None => source::connect(&self.settings.source, "tidemill cdc-ingest").await?,
            };
            let answer = question(&mut connection).await?;
            Ok((connection, answer))
        };
        let (connection, answer) = tokio::select! {
            asked = asked => asked?,
            () = fate.ended() => return Err(Failure::new(FailureKind::Broken, "the generation ended while the source was asked")),
        };
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Looks up what is beneath types that may be domains.
    pub(super) async fn learn_types(&mut self, types: &[u32]) -> Result<(), Failure> {
        let beneath = self.ask(async |connection| catalog::base_types(connection, types).await).await?;
        self.assembler.learn_types(types, &beneath);
        Ok(())
    }

    /// The row as it is now, for a TOASTed value that the stream left out: at the least as the transaction in hand has left it.
    pub(super) async fn reread(&mut self, table: usize, key: &[String]) -> Result<Reread, Failure> {
        metrics::TOAST_REREADS.inc();
        self.await_visible().await?;
        let columns = self.assembler.columns(table);
        let Some(source) = self.tables.get(table).and_then(|table| table.source.clone()) else {
            return Err(Failure::new(FailureKind::Broken, "a row of a table that is not captured"));
        };
        self.ask(async |connection| read_row(connection, &source, &columns, key).await).await
    }
}

impl Core {
    /// Waits until others see the transaction in hand. Its commit is in the WAL, and so in the stream, before it is visible; a
    /// synchronous standby that is away can hold it there for long. A row read sooner may lack what it wrote, or the whole row.
    async fn await_visible(&mut self) -> Result<(), Failure> {
        let Some(xid) = self.assembler.xid() else { return Ok(()) };
        let (mut tries, longest) = (0_u32, self.settings.snapshot.retake_wait_ms);
        while !self.ask(async |connection| is_visible(connection, xid).await).await? {
            let wait = Duration::from_millis(longest.min(1 << tries.min(16)));
            tries += 1;
            if tries == TOLD_AFTER_TRIES {
                tracing::warn!(
                    xid,
                    "the stream waits for a transaction to become visible: its commit may wait for a synchronous standby"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.fate.ended() => {}
            }
        }
        Ok(())
    }
}

/// With the default wait that is after two seconds.
const TOLD_AFTER_TRIES: u32 = 200;

async fn is_visible(connection: &mut PgConnection, xid: u32) -> Result<bool, Failure> {
    let unreadable = |error| refused_for_now("the transactions that the server sees cannot be read", error);
    let snapshot: String =
        sqlx::query_scalar("SELECT pg_current_snapshot()::text").fetch_one(connection).await.map_err(unreadable)?;
    let snapshot: DatabaseSnapshot = snapshot.parse().map_err(|error| {
        Failure::new(FailureKind::Data, "the transactions that the server sees cannot be read").caused_by(error)
    })?;
    Ok(snapshot.sees(xid))
}

async fn read_row(
    connection: &mut PgConnection,
    source: &SourceTable,
    columns: &[String],
    key: &[String],
) -> Result<Reread, Failure> {
    let failed = |error| refused_for_now(format!("a row of {} could not be read again", source.name), error);
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT n.nspname::text, c.relname::text, a.attname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.oid::int8 = $1 AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(i64::from(source.oid))
    .fetch_all(&mut *connection)
    .await
    .map_err(failed)?;
    // By OID, for it may have another name by now. No row: the table is gone, and with it the row.
    let Some((schema, name, _)) = found.first() else { return Ok(None) };
    let list: Vec<String> = columns
        .iter()
        .map(|column| match found.iter().any(|(_, _, existing)| existing == column) {
            true => quoted(column),
            // Dropped since: nobody can read its value any more, and the stream drops it with the next change.
            false => "NULL".to_owned(),
        })
        .collect();
    let only = if source.partitioned { "" } else { "ONLY " };
    let (list, condition) = (list.join(", "), is_key(&source.key, key));
    // By COPY as the chunks of a copy, for a cast to text is not the text form of every type: it takes the blanks off a char(n).
    let query =
        format!("COPY (SELECT {list} FROM {only}{}.{} WHERE {condition}) TO STDOUT", quoted(schema), quoted(name));
    let text = copy(connection, &query, usize::MAX).await.map_err(failed)?.unwrap_or_default();
    let text = String::from_utf8(text).map_err(|error| {
        Failure::new(FailureKind::Data, format!("a row of {} could not be read again", source.name)).caused_by(error)
    })?;
    let Some(line) = text.strip_suffix('\n') else { return Ok(None) };
    let mut row = CopyRow::default();
    row.read(line);
    let value = |cell| if let Cell::Text(text) = cell { Some(text.to_owned()) } else { None };
    Ok(Some(row.cells().map(value).collect()))
}
