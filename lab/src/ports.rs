//! Ports for the programs that are started here.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use shared::failure::{Failure, FailureKind};

/// Ports are looked for from here on: below those that systems hand out to clients, so that a program that is started again finds its own
/// still free.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port that nobody listens on, another one each time.
pub fn free_port() -> Result<u16, Failure> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(step) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(Failure::new(FailureKind::Broken, format!("no port from {FIRST} to {} is free", FIRST + COUNT - 1)))
}
