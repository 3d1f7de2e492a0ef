//! A further PostgreSQL with settings of its own.

use std::path::PathBuf;
use std::process::Command;

use shared::pg::PostgresConfig;

use crate::database;
use crate::stack::{Stack, free_port};

/// Stopped at the end.
pub struct FurtherServer {
    script: PathBuf,
    name: String,
    pub port: String,
}

impl FurtherServer {
    pub fn start(stack: &Stack, settings: &[&str]) -> Self {
        let name = stack.name.replace('_', "-");
        let server =
            FurtherServer { script: stack.environment.servers_script.clone(), name, port: free_port().to_string() };
        server.ask(&[&["start"], settings].concat());
        server
    }

    /// One that has the test's source from now on.
    pub async fn start_as_source(stack: &mut Stack, settings: &[&str]) -> Self {
        let server = FurtherServer::start(stack, settings);
        let config = PostgresConfig { port: server.port.parse().unwrap(), ..stack.environment.places.source.clone() };
        let config = PostgresConfig { database: "postgres".to_owned(), ..config };
        let database = stack.places.source.database.clone();
        stack.places.source = database::make(&config, &database, "postgres_source/init").await;
        server
    }

    fn ask(&self, arguments: &[&str]) {
        let answer = Command::new(&self.script).args(["postgres", &self.name, &self.port]).args(arguments).output();
        let answer = answer.unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    }
}

impl Drop for FurtherServer {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).args(["postgres", &self.name, &self.port, "kill"]).output();
    }
}
