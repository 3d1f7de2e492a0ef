//! How much room the facts have: a bound on memory that all partitions share, and the disk behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shared::failure::Failure;

use crate::disk::Disk;
use crate::hashes::Hashes;
use crate::plan::problem;
use crate::settings::FactsConfig;

/// What every partition knows of the room.
#[derive(Clone)]
pub struct Room {
    memory: Arc<Memory>,
    pub disk: Option<Disk>,
    /// How many dimensions a fact is joined with.
    pub dimensions: usize,
    /// How keys and names are hashed, in all indexes alike.
    pub hashes: Hashes,
}

struct Memory {
    used: AtomicU64,
    max: u64,
    /// As the settings say it.
    megabytes_max: u64,
}

impl Room {
    pub fn new(config: &FactsConfig, dimensions: usize) -> Result<Self, Failure> {
        let megabytes_max = config.memory_megabytes_max;
        let memory = Memory { used: AtomicU64::new(0), max: megabytes_max << 20, megabytes_max };
        Ok(Room { memory: Arc::new(memory), disk: Disk::open(&config.disk)?, dimensions, hashes: Hashes::default() })
    }

    pub fn take(&self, bytes: u64) {
        self.memory.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn give_back(&self, bytes: u64) {
        self.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// More than memory may hold.
    pub fn is_exceeded_by(&self, bytes: u64) -> bool {
        bytes > self.memory.max
    }

    pub fn used_bytes(&self) -> u64 {
        self.memory.used.load(Ordering::Relaxed)
    }

    /// Without a disk, more than memory may hold is an error: whoever reads it decides whether there is more.
    pub fn within_bounds(&self, facts: usize) -> Result<(), Failure> {
        if self.disk.is_some() || !self.is_exceeded_by(self.used_bytes()) {
            return Ok(());
        }
        let max = self.memory.megabytes_max;
        Err(problem(
            format!("{facts} facts take more memory than facts.memory_megabytes_max = {max}"),
            "raise it if the memory is there, set facts.disk.folder, have facts expire (facts.expiry), or share the partitions among more instances",
        ))
    }
}
