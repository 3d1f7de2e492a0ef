//! A program as a process: started, killed, asked to stop, restarted; its log in a file.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::until::until;

/// What to start, the same at each start.
#[derive(Clone)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    pub variables: Vec<(String, String)>,
    pub log: PathBuf,
    /// What it reads from its standard input, where it reads any.
    pub input: Option<PathBuf>,
}

/// A process that does not outlive the test.
pub struct Process {
    program: Program,
    child: Child,
}

/// A process that has ended by itself.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// All that it wrote, to either output.
    pub output: String,
}

impl Program {
    /// The first start, with an empty log.
    pub fn begin(self) -> Process {
        let _ = std::fs::remove_file(&self.log);
        self.start()
    }

    fn start(self) -> Process {
        let log = || -> File { OpenOptions::new().create(true).append(true).open(&self.log).unwrap() };
        let input = self.input.as_ref().map_or_else(Stdio::null, |path| File::open(path).unwrap().into());
        let child = Command::new(&self.path)
            .stdin(input)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdout(log())
            .stderr(log())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}. Run ./scripts/test.sh, which builds it", self.path.display()));
        Process { program: self, child }
    }

    /// Runs to the end, which must come.
    pub async fn run(self) -> Ended {
        let mut process = self.begin();
        let status = process.ended().await;
        Ended { code: status.code(), output: process.log_text() }
    }
}

impl Process {
    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.program.path.display().to_string();
        until(&format!("{name} ends"), async || self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned()))
            .await
    }

    /// `kill -9`: at once, in the middle of whatever it does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; the exit status.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// SIGSTOP: it does nothing at all until it is thawed, as on a machine that stands still.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", self.child.id())).status().unwrap();
        assert!(sent.success());
    }

    /// Whether it runs still, under the id of its last start.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The same again.
    pub fn restart(&mut self) {
        assert!(self.child.try_wait().unwrap().is_some(), "it still runs");
        let mut next = self.program.clone().start();
        std::mem::swap(self, &mut next);
    }

    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.program.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log, for the report of a failed test.
    pub fn log_end(&self) -> String {
        const LINES: usize = 40;
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n");
        format!("--- end of {}\n{end}", self.program.log.display())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
