//! How many records processes that only read say they have read.

use std::io::{BufRead as _, BufReader};
use std::process::ChildStdout;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shared::failure::Failure;

use super::watch::Through;

/// What each of them said last.
#[derive(Default)]
pub struct Consumed(Vec<Arc<AtomicU64>>);

impl Consumed {
    /// Listens to one more, from a thread of its own that ends with the output.
    pub fn listen(&mut self, out: ChildStdout) {
        let rows = Arc::new(AtomicU64::new(0));
        self.0.push(Arc::clone(&rows));
        std::thread::spawn(move || {
            let said = BufReader::new(out).lines().map_while(Result::ok);
            for number in said.filter_map(|line| line.parse().ok()) {
                rows.store(number, Ordering::Relaxed);
            }
        });
    }
}

impl Through for Consumed {
    async fn rows(&mut self) -> Result<u64, Failure> {
        Ok(self.0.iter().map(|rows| rows.load(Ordering::Relaxed)).sum())
    }

    async fn postgres(&mut self) -> Result<Option<u32>, Failure> {
        Ok(None)
    }
}
