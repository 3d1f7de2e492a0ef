//! Ports for what a run starts by itself.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// A port below the range that systems hand out to clients, not given out before by this process. Zero where none is free.
pub fn free_port() -> u16 {
    const PORTS: u16 = 2_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 22_000 + u16::try_from(std::process::id() % 80).unwrap_or_default() * 100;
    let mut candidates = (0..PORTS).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS);
    candidates.find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).unwrap_or_default()
}
