//! The servers, by way of `scripts/servers.sh`.

use std::path::PathBuf;
use std::process::Stdio;

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

/// One of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    Source,
    Sink,
    Kafka,
}

impl Server {
    pub const ALL: [Server; 3] = [Server::Source, Server::Sink, Server::Kafka];

    /// As the script calls it.
    pub fn name(self) -> &'static str {
        match self {
            Server::Source => "source",
            Server::Sink => "sink",
            Server::Kafka => "kafka",
        }
    }
}

/// The script, which heeds the environment that this program was given.
#[derive(Debug, Clone)]
pub struct Servers {
    pub script: PathBuf,
}

impl Servers {
    pub async fn start(&self, server: Server) -> Result<(), Failure> {
        self.ask(&["start", server.name()]).await
    }

    pub async fn start_all(&self) -> Result<(), Failure> {
        self.ask(&["start"]).await
    }

    /// In an orderly way.
    pub async fn stop(&self, server: Server) -> Result<(), Failure> {
        self.ask(&["stop", server.name()]).await
    }

    /// As a crash would end it.
    pub async fn kill(&self, server: Server) -> Result<(), Failure> {
        self.ask(&["kill", server.name()]).await
    }

    pub async fn freeze(&self, server: Server) -> Result<(), Failure> {
        self.ask(&["freeze", server.name()]).await
    }

    pub async fn thaw(&self, server: Server) -> Result<(), Failure> {
        self.ask(&["thaw", server.name()]).await
    }

    /// Ends all, with their data.
    pub async fn wipe(&self) -> Result<(), Failure> {
        self.ask(&["wipe"]).await
    }

    async fn ask(&self, arguments: &[&str]) -> Result<(), Failure> {
        let what = format!("{} {}", self.script.display(), arguments.join(" "));
        let mut command = std::process::Command::new(&self.script);
        command.args(arguments).stdin(Stdio::null());
        let asked = tokio::task::spawn_blocking(move || command.output()).await;
        let answer = asked.map_err(std::io::Error::other).and_then(|answer| answer);
        let answer = answer.map_err(|error| {
            Failure::new(FailureKind::Settings, format!("{what} cannot be run"))
                .caused_by(error)
                .cure("give the path of scripts/servers.sh")
        })?;
        if answer.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&answer.stderr);
        Err(Failure::new(FailureKind::Refused, format!("{what} failed: {}", said.trim())))
    }
}
