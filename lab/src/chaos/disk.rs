//! A small disk for the sink's tables, that can be filled.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use shared::failure::{Failure, FailureKind};
use shared::pg::{PostgresConfig, quoted, refused};
use sqlx::{AssertSqlSafe, Executor as _};

/// The folder where a small file system is mounted, which the server's user may write to.
#[derive(Debug, Clone)]
pub struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Moves the sink's database to a tablespace on the disk. Nobody may be connected to it.
    pub async fn take(folder: &Path, sink: &PostgresConfig) -> Result<Self, Failure> {
        let administrator = PostgresConfig { database: "postgres".into(), ..sink.clone() };
        let mut connection = administrator.connect("tidemill-lab").await?;
        let space = folder.join("tables").display().to_string();
        for statement in [
            // The server makes the folder itself, for it must own it. What an earlier round left behind is nobody's any more.
            format!("COPY (SELECT) TO PROGRAM 'rm -rf {space} && mkdir -m 700 {space}'"),
            format!("CREATE TABLESPACE small LOCATION '{space}'"),
            format!("ALTER DATABASE {} SET TABLESPACE small", quoted(&sink.database)),
        ] {
            let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await;
            done.map_err(|error| refused("the sink's database cannot be moved to the small disk", error))?;
        }
        Ok(Disk { folder: folder.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    /// Fills it to the last byte.
    pub fn fill(&self) -> Result<(), Failure> {
        let path = self.ballast();
        let mut file = std::fs::File::create(&path).map_err(|error| {
            Failure::new(FailureKind::Settings, format!("{} cannot be made", path.display())).caused_by(error)
        })?;
        let piece = vec![0_u8; 1 << 20];
        while file.write_all(&piece).is_ok() {}
        let rest = [0_u8; 512];
        while file.write_all(&rest).is_ok() {}
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}
