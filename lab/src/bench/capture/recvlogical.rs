//! `pg_recvlogical`, PostgreSQL's own reader of a slot: it writes each message to a file as it comes, and here that file is
//! `/dev/null`. No client that does something with the rows can be quicker.

use std::path::{Path, PathBuf};
use std::process::ChildStdout;

use shared::failure::Failure;
use shared::pg::refused;
use shared::position::Lsn;
use sqlx::postgres::PgConnection;

use crate::bench::child::{Child, Program};
use crate::places::Places;

/// The publication that the SQL of the source makes, and that cdc-ingest reads as well.
const PUBLICATION: &str = "tidemill";

/// The program and where it writes what goes wrong.
#[derive(Debug, Clone)]
pub struct RecvLogical {
    pub program: PathBuf,
    pub log: PathBuf,
}

/// Makes a slot at the end of the WAL.
pub async fn make_slot(source: &mut PgConnection, slot: &str) -> Result<(), Failure> {
    sqlx::query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')")
        .bind(slot)
        .execute(source)
        .await
        .map_err(|error| refused(format!("slot {slot} cannot be made"), error))?;
    Ok(())
}

impl RecvLogical {
    /// Reads the slot up to `end` and exits.
    pub fn read_to(&self, places: &Places, slot: &str, end: Lsn) -> Result<Child, Failure> {
        let mut program = self.program(places, slot, "/dev/null");
        program.arguments.extend(["--endpos".to_owned(), end.to_string()]);
        Child::start(program)
    }

    /// Follows the slot; the messages come through the pipe.
    pub fn follow(&self, places: &Places, slot: &str) -> Result<(Child, ChildStdout), Failure> {
        Child::start_piped(self.program(places, slot, "-"))
    }

    fn program<'a>(&'a self, places: &Places, slot: &str, file: &str) -> Program<'a> {
        let source = &places.source;
        let words = ["--start", "--no-loop", "--slot", slot, "--file", file, "--fsync-interval", "0"];
        let options = ["-o", "proto_version=1", "-o", &format!("publication_names={PUBLICATION}")];
        let place = ["--host", &source.host, "--port", &source.port.to_string(), "--username", &source.user];
        let database = ["--dbname", &source.database];
        Program {
            path: Path::new(&self.program),
            arguments: [&words[..], &options, &place, &database].concat().into_iter().map(str::to_owned).collect(),
            variables: vec![("PGPASSWORD".to_owned(), source.password.reveal().to_owned())],
            log: self.log.clone(),
        }
    }
}
