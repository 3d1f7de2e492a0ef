//! Waiting for a state, with a deadline. Nothing here sleeps and hopes.

use std::time::{Duration, Instant};

/// Longest wait for a state that the pipeline must come to. Far beyond what it takes: only a failing test waits so long.
pub const PATIENCE: Duration = Duration::from_secs(120);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is an answer; `Err` is what was seen instead. Panics with the last of it when the time is over.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        let seen = match look().await {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(begin.elapsed() < PATIENCE, "not within {} s: {what}. Seen last: {seen}", PATIENCE.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Looks until the value is the wanted one.
pub async fn until_equal<T: PartialEq + std::fmt::Debug>(what: &str, wanted: T, mut look: impl AsyncFnMut() -> T) {
    until(what, async || {
        let found = look().await;
        if found == wanted { Ok(()) } else { Err(format!("{found:?}, not {wanted:?}")) }
    })
    .await;
}
