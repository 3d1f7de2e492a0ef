//! Whether the machine has nothing else to do. Others on it do not only take processor time: they cut the work of a pipeline into smaller
//! pieces, and with them each piece costs more.

use std::time::{Duration, Instant};

use crate::processes::machine_cpu_seconds;

/// Up to so many processors used by others still is calm.
pub const CALM_PROCESSORS: f64 = 0.25;

/// The machine is looked at for so long.
const LOOK: Duration = Duration::from_millis(500);

/// Waits until the machine is calm, at most for so long. Where there is no `/proc` it is taken for calm.
pub async fn wait(patience: Duration) {
    let since = Instant::now();
    while since.elapsed() < patience {
        let (before, begin) = (machine_cpu_seconds(), Instant::now());
        tokio::time::sleep(LOOK).await;
        let used = machine_cpu_seconds().zip(before).map_or(0.0, |(now, before)| now - before);
        if used / begin.elapsed().as_secs_f64() < CALM_PROCESSORS {
            return;
        }
    }
}
