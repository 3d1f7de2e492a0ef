//! A program that is measured: started, asked to stop. It does not outlive this process.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use shared::failure::{Failure, FailureKind};

use crate::processes::Stat;

/// A running program.
#[derive(Debug)]
pub struct Child {
    process: Process,
    program: PathBuf,
    log: PathBuf,
    pub started: Instant,
}

/// What to start.
#[derive(Debug)]
pub struct Program<'a> {
    pub path: &'a Path,
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
    /// What it says goes to the end of this file.
    pub log: PathBuf,
}

/// `kafka.linger_ms` of cdc-ingest is `CDC_INGEST__KAFKA__LINGER_MS`.
pub fn variable(service: &str, key: &str) -> String {
    format!("{}__{}", service.replace('-', "_"), key.replace('.', "__")).to_uppercase()
}

/// Longest wait for a program that was asked to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Time between two looks at a program that was asked to stop.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Child {
    pub fn start(program: Program<'_>) -> Result<Self, Failure> {
        let out = open(&program.log)?;
        Child::start_with(program, out.into())
    }

    /// Its output comes through a pipe.
    pub fn start_piped(program: Program<'_>) -> Result<(Self, ChildStdout), Failure> {
        let mut child = Child::start_with(program, Stdio::piped())?;
        let out = child.process.stdout.take();
        let out = out.ok_or_else(|| Failure::new(FailureKind::Broken, "a program has no output"))?;
        Ok((child, out))
    }

    fn start_with(program: Program<'_>, out: Stdio) -> Result<Self, Failure> {
        let Program { path, arguments, variables, log } = program;
        let error = open(&log)?;
        let started = Instant::now();
        let spawned =
            Command::new(path).args(arguments).envs(variables).stdin(Stdio::null()).stdout(out).stderr(error).spawn();
        let process = spawned.map_err(|error| {
            Failure::new(FailureKind::Settings, format!("{} cannot be started", path.display())).caused_by(error)
        })?;
        Ok(Child { process, program: path.to_owned(), log, started })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it has ended. Its last figures can still be read.
    pub fn has_ended(&self) -> bool {
        Stat::of(self.id()).is_none_or(|stat| stat.ended)
    }

    /// `kill -9`: at once, in the middle of whatever it does.
    pub fn kill(self) {
        drop(self);
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let asked = Command::new("kill").arg("-TERM").arg(self.id().to_string()).status();
        asked.map_err(|error| Failure::new(FailureKind::Broken, "no signal can be sent").caused_by(error))?;
        let since = Instant::now();
        while !self.has_ended() {
            if since.elapsed() > STOP_PATIENCE {
                return Err(self.failure("does not stop when it is asked to"));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.expect_success()
    }

    /// Of one that has ended: whether it ended well.
    pub fn expect_success(&mut self) -> Result<(), Failure> {
        match self.process.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failure(&format!("ended with {status}"))),
            Err(error) => Err(self.failure("cannot be waited for").caused_by(error)),
        }
    }

    /// For what went wrong with it.
    pub fn failure(&self, what: &str) -> Failure {
        Failure::new(FailureKind::Refused, format!("{} {what}", self.program.display()))
            .cure(format!("look into {}", self.log.display()))
    }
}

fn open(log: &Path) -> Result<File, Failure> {
    OpenOptions::new().create(true).append(true).open(log).map_err(|error| {
        Failure::new(FailureKind::Settings, format!("{} cannot be written", log.display())).caused_by(error)
    })
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
