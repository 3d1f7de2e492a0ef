//! The machine's time of day, stepped and put right again. All processes of the machine see it, so this is done only where it is asked for.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shared::failure::{Failure, FailureKind};

/// Puts the clock right when it is dropped.
pub struct SteppedClock {
    began: Instant,
    showed: SystemTime,
}

impl SteppedClock {
    /// From now on the clock shows the true time plus `seconds`.
    pub fn step(seconds: i64) -> Result<Self, Failure> {
        let (began, showed) = (Instant::now(), SystemTime::now());
        let by = Duration::from_secs(seconds.unsigned_abs());
        set(if seconds < 0 { showed - by } else { showed + by })?;
        Ok(SteppedClock { began, showed })
    }
}

impl Drop for SteppedClock {
    fn drop(&mut self) {
        let _ = set(self.showed + self.began.elapsed());
    }
}

fn set(time: SystemTime) -> Result<(), Failure> {
    let cannot = || {
        Failure::new(FailureKind::Settings, "the machine's clock cannot be set")
            .cure("run as root, on a machine whose clock may be stepped, or without --step-clock")
    };
    let since = time.duration_since(UNIX_EPOCH).map_err(|error| cannot().caused_by(error))?;
    let at = format!("@{}.{:09}", since.as_secs(), since.subsec_nanos());
    let mut command = Command::new("date");
    let set = command.args(["--set", &at]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match set {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(cannot()),
        Err(error) => Err(cannot().caused_by(error)),
    }
}
