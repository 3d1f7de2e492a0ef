//! The truth at the source: a log of every committed change of the orders and users, in the order of the commits for each key.
//!
//! Triggers write it, in the transaction of the change: what is rolled back vanishes from the log as well. A row's lock (for a key that
//! comes, the primary key's index) lets the next writer of a key in only when the one before has ended, and the log's number is drawn
//! while the lock is held. So the entries of a key, sorted by number, stand in the order in which they were committed. TRUNCATE locks the
//! table for itself alone, so it has a place among the entries of all keys.
//!
//! Install it before the capture begins: the rows that stand there then are the first entries.

pub mod histories;
pub mod subject;

use serde::Serialize;
use shared::failure::Failure;
use shared::pg::{TableName, quoted, refused};
use shared::position::Lsn;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use self::histories::{Histories, Moment};
use self::subject::{Row, Subject};
use crate::places::Names;

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Made {
    /// The row stood there when the log was begun.
    Stood,
    Inserted,
    /// Also the row under the new key where the key changed.
    Updated,
    /// Also the old key where the key changed.
    Gone,
    /// The entry stands for all keys that were live.
    Truncated,
}

impl Made {
    fn letter(self) -> &'static str {
        match self {
            Made::Stood => "s",
            Made::Inserted => "c",
            Made::Updated => "u",
            Made::Gone => "d",
            Made::Truncated => "t",
        }
    }

    fn of(letter: &str) -> Option<Self> {
        [Made::Stood, Made::Inserted, Made::Updated, Made::Gone, Made::Truncated]
            .into_iter()
            .find(|made| made.letter() == letter)
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub number: i64,
    /// `None` for [`Made::Truncated`].
    pub key: Option<i64>,
    pub made: Made,
    /// Where the WAL stood when the change was made: the commit stands behind it.
    pub lsn: Lsn,
    /// The transaction's id as records have it, without the epoch.
    pub transaction: u32,
    /// When the change was made, UTC; the commit came later.
    pub at: String,
    /// `None` where the row is gone.
    pub row: Option<Row>,
}

/// Entries read at a time.
const CHUNK: i64 = 5_000;

const TABLE: &str = "
    DROP SCHEMA IF EXISTS chaos CASCADE;
    CREATE SCHEMA chaos;
    CREATE TABLE chaos.log (
        number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        subject     text NOT NULL,
        key         bigint,
        made        text NOT NULL,
        row_values  text[],
        lsn         pg_lsn NOT NULL DEFAULT pg_current_wal_insert_lsn(),
        transaction bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
        at          timestamptz NOT NULL DEFAULT clock_timestamp()
    );";

/// Begins the log anew, with the rows that stand in the tables now. An earlier log is thrown away.
pub async fn install(source: &mut PgConnection, names: &Names) -> Result<(), Failure> {
    let mut sql = format!("BEGIN;{TABLE}");
    for subject in [Subject::Orders, Subject::Users] {
        sql += &triggers(subject, subject.table(names));
    }
    sql += "COMMIT;";
    let done = source.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await;
    if let Err(error) = done {
        // What was begun is given up; if the connection is gone, so is the transaction.
        let _ = source.execute("ROLLBACK").await;
        return Err(refused("the log of all changes cannot be made at the source", error));
    }
    Ok(())
}

/// CREATE TRIGGER locks out all writers until the commit, so no change comes between the rows that stand and the first that is logged.
fn triggers(subject: Subject, table: &TableName) -> String {
    let (label, table, key) = (subject.label(), table.sql(), quoted(subject.key()));
    let texts =
        |row: &str| subject.names().map(|name| format!("{row}.{}::text", quoted(name))).collect::<Vec<_>>().join(", ");
    let (new, standing) = (texts("NEW"), texts("t"));
    format!(
        "
    CREATE FUNCTION chaos.log_{label}() RETURNS trigger LANGUAGE plpgsql SET DateStyle = 'ISO' AS $$
    BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            INSERT INTO chaos.log (subject, made) VALUES ('{label}', 't');
            RETURN NULL;
        END IF;
        IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND OLD.{key} <> NEW.{key}) THEN
            INSERT INTO chaos.log (subject, key, made) VALUES ('{label}', OLD.{key}, 'd');
        END IF;
        IF TG_OP <> 'DELETE' THEN
            INSERT INTO chaos.log (subject, key, made, row_values)
            VALUES ('{label}', NEW.{key}, CASE TG_OP WHEN 'INSERT' THEN 'c' ELSE 'u' END, ARRAY[{new}]);
        END IF;
        RETURN NULL;
    END $$;
    CREATE OR REPLACE TRIGGER chaos_rows AFTER INSERT OR UPDATE OR DELETE ON {table}
        FOR EACH ROW EXECUTE FUNCTION chaos.log_{label}();
    CREATE OR REPLACE TRIGGER chaos_truncate AFTER TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION chaos.log_{label}();
    INSERT INTO chaos.log (subject, key, made, row_values)
        SELECT '{label}', t.{key}, 's', ARRAY[{standing}] FROM {table} t ORDER BY 2;"
    )
}

const COLUMNS: &str = "number, key, made, (lsn - '0/0')::bigint, transaction, \
                       to_char(at AT TIME ZONE 'UTC', 'HH24:MI:SS.US'), row_values";

/// Calls `visit` with all entries of a table, in the order of their numbers.
pub async fn visit(source: &mut PgConnection, subject: Subject, mut visit: impl FnMut(Entry)) -> Result<(), Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM chaos.log WHERE number > $1 AND subject = '{}' ORDER BY number LIMIT {CHUNK}",
        subject.label()
    );
    let mut after = 0;
    loop {
        let rows = sqlx::query(AssertSqlSafe(sql.clone())).bind(after).fetch_all(&mut *source).await;
        let rows = rows.map_err(unreadable)?;
        for row in &rows {
            let entry = entry(row).map_err(unreadable)?;
            after = entry.number;
            visit(entry);
        }
        if (rows.len() as i64) < CHUNK {
            return Ok(());
        }
    }
}

/// What happened to each key, each row as its digest.
pub async fn histories(source: &mut PgConnection, subject: Subject) -> Result<Histories, Failure> {
    let mut histories = Histories::default();
    visit(source, subject, |entry| match entry.key {
        Some(key) => {
            let digest = entry.row.as_ref().map(|row| subject.digest(row));
            histories.push(key, Moment { made: entry.made, lsn: entry.lsn, digest });
        }
        None => histories.truncate(entry.lsn),
    })
    .await?;
    Ok(histories)
}

/// All entries that touch a key, with those of a TRUNCATE.
pub async fn entries_of(source: &mut PgConnection, subject: Subject, key: i64) -> Result<Vec<Entry>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM chaos.log WHERE subject = '{}' AND (key = $1 OR key IS NULL) ORDER BY number",
        subject.label()
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(key).fetch_all(source).await.map_err(unreadable)?;
    rows.iter().map(|row| entry(row).map_err(unreadable)).collect()
}

fn entry(row: &PgRow) -> Result<Entry, sqlx::Error> {
    let letter: &str = row.try_get(2)?;
    let made = Made::of(letter).ok_or_else(|| sqlx::Error::Decode(format!("{letter:?} is no entry").into()))?;
    let (lsn, transaction): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
    Ok(Entry {
        number: row.try_get(0)?,
        key: row.try_get(1)?,
        made,
        lsn: Lsn(lsn.unsigned_abs()),
        transaction: u32::try_from(transaction & i64::from(u32::MAX)).unwrap_or_default(),
        at: row.try_get(5)?,
        row: row.try_get(6)?,
    })
}

pub(crate) fn unreadable(error: sqlx::Error) -> Failure {
    refused("the log of all changes cannot be read at the source", error)
}
