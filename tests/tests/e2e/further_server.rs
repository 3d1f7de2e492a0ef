//! A further PostgreSQL of a test's own: settings, restarts and data that the shared ones cannot have.

use std::path::{Path, PathBuf};
use std::process::Command;

use shared::pg::PostgresConfig;
use sqlx::postgres::PgConnection;

use crate::database;
use crate::stack::Stack;
use crate::until::until;
use lab::ports::free_port;

/// What a server needs to be captured.
pub const LOGICAL: &str = "wal_level=logical";

/// Killed at the end; its data goes with that of the shared ones.
pub struct FurtherServer {
    pub port: u16,
    script: PathBuf,
    name: String,
    /// Given at each start.
    settings: Vec<String>,
    /// The folder with its certificate, where it takes clients over TLS only.
    tls: Option<PathBuf>,
    /// The superuser, in the database "postgres".
    administrator: PostgresConfig,
}

impl FurtherServer {
    /// With data of its own.
    pub fn start(stack: &Stack, settings: &[&str]) -> Self {
        let server = FurtherServer::named(stack, "further", settings);
        server.start_again();
        server
    }

    /// One that has the test's source from now on.
    pub async fn start_as_source(stack: &mut Stack, settings: &[&str]) -> Self {
        let server = FurtherServer::start(stack, settings);
        server.become_source(stack).await;
        server
    }

    /// Another server with other data.
    pub fn start_another(stack: &Stack, settings: &[&str]) -> Self {
        let server = FurtherServer::named(stack, "another", settings);
        server.start_again();
        server
    }

    /// A standby, from a copy of its primary's data.
    pub fn start_standby(stack: &Stack, copy: &str, settings: &[&str]) -> Self {
        let server = FurtherServer::named(stack, "standby", settings);
        server.ask(&["standby", copy]);
        server.start_again();
        server
    }

    /// One that takes clients over TLS only: see `Authority::folder_of_server`. The superuser comes in as `administrator` does.
    pub fn start_secured(
        stack: &Stack,
        label: &str,
        tls: &Path,
        administrator: PostgresConfig,
        settings: &[&str],
    ) -> Self {
        let mut server = FurtherServer::named(stack, label, settings);
        server.tls = Some(tls.to_owned());
        server.administrator = PostgresConfig { port: server.port, database: "postgres".into(), ..administrator };
        server.start_again();
        server
    }

    fn named(stack: &Stack, label: &str, settings: &[&str]) -> Self {
        let port = free_port().unwrap();
        let superuser = &stack.environment.places.source;
        FurtherServer {
            port,
            script: stack.environment.servers_script.clone(),
            name: format!("{}-{label}", stack.name.replace('_', "-")),
            tls: None,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            administrator: PostgresConfig { port, database: "postgres".into(), ..superuser.clone() },
        }
    }

    /// Makes the stack's source database here; from now on this is the stack's source.
    pub async fn become_source(&self, stack: &mut Stack) {
        let database = stack.places.source.database.clone();
        stack.places.source = database::make(&self.administrator, &database, "postgres_source/init").await;
    }

    /// The same for the sink.
    pub async fn become_sink(&self, stack: &mut Stack) {
        let database = stack.places.sink.database.clone();
        stack.places.sink = database::make(&self.administrator, &database, "postgres_sink/init").await;
    }

    pub fn start_again(&self) {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        self.ask(&[&["start"], settings.as_slice()].concat());
    }

    /// In an orderly way: clients are sent away, and a checkpoint is written.
    pub fn stop(&self) {
        self.ask(&["stop"]);
    }

    /// At once: the next start recovers from the WAL.
    pub fn kill(&self) {
        self.ask(&["kill"]);
    }

    /// From now on commits wait for this standby, which need not be there.
    ///
    /// Sessions show the new setting before commits follow it: the checkpointer puts it into shared memory later. So a
    /// commit of its own is tried until it waits.
    pub async fn commits_wait_for_standby(&self, name: &str) {
        let mut administrator = database::connect(&self.administrator).await;
        set_standby(&mut administrator, name).await;
        let waiting =
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%pg_logical_emit_message%'";
        let mut trying = self.try_commit();
        let waits = until("commits wait for the standby", async || {
            if let Some(pid) = database::optional::<i32>(&mut administrator, waiting).await {
                return Ok(pid);
            }
            if trying.is_finished() {
                trying = self.try_commit();
            }
            Err("none waits".to_owned())
        })
        .await;
        database::run(&mut administrator, &format!("SELECT pg_cancel_backend({waits})")).await;
        trying.await.unwrap();
    }

    /// From now on commits wait for no standby, and those that do are answered.
    pub async fn commits_wait_for_none(&self) {
        set_standby(&mut database::connect(&self.administrator).await, "").await;
    }

    /// A transaction that writes to the WAL and nowhere else.
    fn try_commit(&self) -> tokio::task::JoinHandle<()> {
        let administrator = self.administrator.clone();
        tokio::spawn(async move {
            let mut connection = database::connect(&administrator).await;
            database::run(&mut connection, "SELECT pg_logical_emit_message(true, 'test', '')").await;
        })
    }

    /// Keeps a copy of the data; the server must be stopped.
    pub fn save(&self, copy: &str) {
        self.ask(&["save", copy]);
    }

    /// Puts the copy in the place of the data; the server must be stopped.
    pub fn restore(&self, copy: &str) {
        self.ask(&["restore", copy]);
    }

    /// From its next start on it is a standby; the server must be stopped.
    pub fn turn_into_standby(&self, copy: &str) {
        self.save(copy);
        self.ask(&["standby", copy]);
    }

    fn ask(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.script);
        command.envs(self.tls.iter().map(|folder| ("TIDEMILL_TLS", folder)));
        let answer = command.args(["postgres", &self.name, &self.port.to_string()]).args(arguments).output().unwrap();
        assert!(answer.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&answer.stderr));
    }
}

impl Drop for FurtherServer {
    fn drop(&mut self) {
        let mut command = Command::new(&self.script);
        let _ = command.args(["postgres", &self.name, &self.port.to_string(), "kill"]).output();
    }
}

async fn set_standby(administrator: &mut PgConnection, name: &str) {
    database::run(administrator, &format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'")).await;
    database::run(administrator, "SELECT pg_reload_conf()").await;
}
