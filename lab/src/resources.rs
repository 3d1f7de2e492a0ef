//! What the four services use of this machine, where `/proc` shows them.

use crate::places::Places;
use crate::processes::{self, Memory, Stat};

/// Memory and processor time of all processes of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    pub name: &'static str,
    pub processes: usize,
    pub resident_megabytes: f64,
    pub cpu_seconds: f64,
}

/// The services that run on this machine; empty where there is no `/proc`.
pub fn of_services(places: &Places) -> Vec<Usage> {
    let mut usages: Vec<Usage> = places
        .services
        .iter()
        .map(|service| Usage { name: service.name, processes: 0, resident_megabytes: 0.0, cpu_seconds: 0.0 })
        .collect();
    for process in processes::all() {
        let Some(stat) = Stat::of(process) else { continue };
        let Some(usage) = usages.iter_mut().find(|usage| usage.name == stat.name) else { continue };
        let Some(megabytes) = processes::memory_megabytes(process, Memory::Resident) else { continue };
        usage.processes += 1;
        usage.resident_megabytes += megabytes;
        usage.cpu_seconds += stat.cpu_seconds;
    }
    usages.retain(|usage| usage.processes > 0);
    usages
}
