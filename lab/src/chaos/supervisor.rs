//! Keeps processes running, as a container platform would: one that ends is started again at once, unless it shall be down.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

/// How often the processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What to start, the same at each start.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub variables: Vec<(String, String)>,
    /// Everything that it writes, from its first start on.
    pub log: PathBuf,
}

impl Program {
    fn start(&self) -> std::io::Result<Child> {
        let log = || OpenOptions::new().create(true).append(true).open(&self.log);
        Command::new(&self.path)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log()?)
            .stderr(log()?)
            .spawn()
    }

    fn last_line(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().last().unwrap_or_default().to_owned()
    }
}

/// An end that nobody ordered.
#[derive(Debug, Clone, Serialize)]
pub struct Ended {
    pub instance: String,
    pub status: String,
    /// The last line of its log.
    pub said: String,
}

struct Instance {
    program: Program,
    child: Option<Child>,
    wanted: bool,
    /// The next end was ordered.
    ordered: bool,
    starts: u32,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<String, Instance>,
    ended: Vec<Ended>,
    closed: bool,
}

/// The processes, and the thread that looks at them. All of them end when it is dropped.
pub struct Supervisor {
    state: Arc<Mutex<State>>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    pub fn begin() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let watched = Arc::clone(&state);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                let mut state = locked(&watched);
                if state.closed {
                    return;
                }
                state.look();
            }
        });
        Supervisor { state }
    }

    /// Names a process; it is down.
    pub fn add(&self, name: &str, program: Program) {
        let instance = Instance { program, child: None, wanted: false, ordered: false, starts: 0 };
        locked(&self.state).instances.insert(name.to_owned(), instance);
    }

    fn on<T>(&self, name: &str, order: impl FnOnce(&mut Instance) -> T) -> Result<T, Failure> {
        let mut state = locked(&self.state);
        let instance = state.instances.get_mut(name);
        instance.map(order).ok_or_else(|| Failure::new(FailureKind::Broken, format!("no process is called {name}")))
    }

    /// From now on it shall run.
    pub fn start(&self, name: &str) -> Result<(), Failure> {
        self.on(name, |instance| instance.wanted = true)
    }

    /// From now on it shall be down: it is asked to stop.
    pub fn stop(&self, name: &str) -> Result<(), Failure> {
        self.on(name, |instance| {
            instance.wanted = false;
            instance.order("TERM");
        })
    }

    /// Asked to stop, and started again when it has.
    pub fn restart(&self, name: &str) -> Result<(), Failure> {
        self.on(name, |instance| instance.order("TERM"))
    }

    /// Ended at once, and started again at once.
    pub fn kill(&self, name: &str) -> Result<(), Failure> {
        self.on(name, |instance| instance.order("KILL"))
    }

    /// It does nothing at all until it is thawed, as on a machine that stands still.
    pub fn freeze(&self, name: &str) -> Result<(), Failure> {
        self.on(name, |instance| instance.signal("STOP"))
    }

    pub fn thaw(&self, name: &str) -> Result<(), Failure> {
        self.on(name, |instance| instance.signal("CONT"))
    }

    /// Waits until it has ended, and kills it when the time is over.
    pub async fn await_down(&self, name: &str, patience: Duration) -> Result<(), Failure> {
        let begin = Instant::now();
        while self.on(name, Instance::is_running)? {
            if begin.elapsed() > patience {
                self.kill(name)?;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The processes that shall run.
    pub fn wanted(&self) -> Vec<String> {
        let state = locked(&self.state);
        state.instances.iter().filter(|(_, instance)| instance.wanted).map(|(name, _)| name.clone()).collect()
    }

    pub fn names(&self) -> Vec<String> {
        locked(&self.state).instances.keys().cloned().collect()
    }

    /// How often a process was started so far.
    pub fn starts(&self) -> BTreeMap<String, u32> {
        locked(&self.state).instances.iter().map(|(name, instance)| (name.clone(), instance.starts)).collect()
    }

    /// The ends that nobody ordered so far.
    pub fn ended(&self) -> Vec<Ended> {
        locked(&self.state).ended.clone()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let mut state = locked(&self.state);
        state.closed = true;
        for child in state.instances.values_mut().filter_map(|instance| instance.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl State {
    fn look(&mut self) {
        for (name, instance) in &mut self.instances {
            let status = instance.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = status {
                instance.child = None;
                if !std::mem::take(&mut instance.ordered) {
                    let (instance, said) = (name.clone(), instance.program.last_line());
                    self.ended.push(Ended { instance, status: status.to_string(), said });
                }
            }
            if instance.wanted && instance.child.is_none() {
                instance.child = instance.program.start().ok();
                instance.starts += 1;
            }
        }
    }
}

impl Instance {
    fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn order(&mut self, signal: &str) {
        if self.child.is_some() {
            self.ordered = true;
            self.signal(signal);
        }
    }

    fn signal(&mut self, signal: &str) {
        let Some(child) = &self.child else { return };
        let command = format!("kill -{signal} {}", child.id());
        let _ = Command::new("sh").args(["-c", &command]).stderr(Stdio::null()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    #[tokio::test]
    async fn what_ends_is_started_again_and_what_is_stopped_stays_down() {
        let log = std::env::temp_dir().join(format!("tidemill-supervisor-{}", std::process::id()));
        let program = |path: &str| Program { path: path.into(), variables: Vec::new(), log: log.clone() };
        let supervisor = Supervisor::begin();
        supervisor.add("short", program("true"));
        assert!(supervisor.start("unheard of").is_err());
        supervisor.start("short").unwrap();
        until("it is started again and again", || supervisor.starts()["short"] > 2).await;
        supervisor.stop("short").unwrap();
        supervisor.await_down("short", Duration::ZERO).await.unwrap();
        let ended = supervisor.ended();
        assert!(ended.iter().all(|ended| ended.instance == "short" && ended.status == "exit status: 0"), "{ended:?}");
        assert!(!ended.is_empty());
        std::fs::remove_file(&log).unwrap();
    }
}
