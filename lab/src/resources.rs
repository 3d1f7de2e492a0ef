//! What the four services use of this machine, where `/proc` shows them.

use std::fs;
use std::path::Path;

use crate::places::Places;

/// Memory and processor time of all processes of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    pub name: &'static str,
    pub processes: usize,
    pub resident_megabytes: f64,
    pub cpu_seconds: f64,
}

/// Linux counts processor time for user space in hundredths of a second, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// The services that run on this machine; empty where there is no `/proc`.
pub fn of_services(places: &Places) -> Vec<Usage> {
    let mut usages = Vec::new();
    for service in &places.services {
        let mut usage = Usage { name: service.name, processes: 0, resident_megabytes: 0.0, cpu_seconds: 0.0 };
        for (kilobytes, ticks) in processes_named(service.name) {
            usage.processes += 1;
            usage.resident_megabytes += kilobytes / 1024.0;
            usage.cpu_seconds += ticks / TICKS_PER_SECOND;
        }
        if usage.processes > 0 {
            usages.push(usage);
        }
    }
    usages
}

/// Resident kilobytes and processor ticks of each process of that name.
fn processes_named(name: &str) -> Vec<(f64, f64)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path()));
    folders.filter_map(|folder| usage_of(&folder, name)).collect()
}

fn usage_of(folder: &Path, name: &str) -> Option<(f64, f64)> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let ticks = ticks(&stat, name)?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    Some((resident_kilobytes(&status)?, ticks))
}

/// User and system ticks from `/proc/PID/stat`, if that process has the name. The name may hold spaces and brackets, so the
/// fields are counted from its last bracket: state is the first, utime the 12th, stime the 13th.
fn ticks(stat: &str, name: &str) -> Option<f64> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, found) = before.split_once('(')?;
    if found != name {
        return None;
    }
    let mut fields = after.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn resident_kilobytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "42 (pg-sinker) S 1 42 42 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 9 0 1";
        assert_eq!(ticks(stat, "pg-sinker"), Some(200.0));
        assert_eq!(ticks(stat, "dim-joiner"), None);
        assert_eq!(resident_kilobytes("Name:\tpg-sinker\nVmRSS:\t  2048 kB\n"), Some(2048.0));
    }
}
