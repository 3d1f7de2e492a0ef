//! Waits until all services say that they are ready.

use std::time::{Duration, Instant};

use shared::failure::Failure;

use crate::page;
use crate::paper::Paper;
use crate::places::{Places, ServicePlace};

/// Time between two looks at a service that is not ready.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether the service is ready; if not, what its page says.
pub async fn look(service: &ServicePlace) -> Result<(), String> {
    match page::get(&service.url, "/health/ready").await {
        Ok(page) if page.status == 200 => Ok(()),
        Ok(page) => Err(page.body.replace('\n', "; ")),
        Err(failure) => Err(failure.chain()),
    }
}

/// Waits for all four, with a line for each that becomes ready; on time-out, false, and a line for each that is not.
pub async fn run(places: &Places, timeout: Duration, progress: &mut Paper) -> Result<bool, Failure> {
    let begin = Instant::now();
    let mut waiting: Vec<&ServicePlace> = places.services.iter().collect();
    loop {
        let mut still = Vec::new();
        let mut reasons = Vec::new();
        for service in waiting {
            match look(service).await {
                Ok(()) => {
                    let after = begin.elapsed().as_secs_f64();
                    progress.check(true, format!("{} is ready ({after:.1} s)", service.name));
                }
                Err(reason) => {
                    still.push(service);
                    reasons.push(reason);
                }
            }
        }
        if still.is_empty() {
            return Ok(true);
        }
        if begin.elapsed() >= timeout {
            for (service, reason) in still.iter().zip(reasons) {
                let limit = timeout.as_secs();
                progress.check(false, format!("{} is not ready after {limit} s: {reason}", service.name));
            }
            return Ok(false);
        }
        waiting = still;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
