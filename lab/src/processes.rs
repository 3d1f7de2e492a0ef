//! Processes of this machine, and the machine itself, as the kernel's tables in `/proc` show them.

use std::fs;
use std::path::PathBuf;

/// Linux counts processor time for user space in hundredths of a second, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, PartialEq)]
pub struct Stat {
    pub name: String,
    /// It has ended, and its parent has not asked how: its figures are the last.
    pub ended: bool,
    /// User and system time of all its threads.
    pub cpu_seconds: f64,
}

impl Stat {
    /// `None` where there is no such process, or no `/proc`.
    pub fn of(process: u32) -> Option<Self> {
        Stat::parse(&fs::read_to_string(folder(process).join("stat")).ok()?)
    }

    /// The name may hold spaces and brackets, so the fields are counted from its last bracket: state is the first, utime the
    /// 12th, stime the 13th.
    fn parse(stat: &str) -> Option<Self> {
        let (before, after) = stat.rsplit_once(')')?;
        let (_, name) = before.split_once('(')?;
        let mut fields = after.split_whitespace();
        let state = fields.next()?;
        let mut times = fields.skip(10);
        let (user, system): (f64, f64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
        Some(Stat {
            name: name.to_owned(),
            ended: matches!(state, "Z" | "X"),
            cpu_seconds: (user + system) / TICKS_PER_SECOND,
        })
    }
}

fn folder(process: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{process}"))
}

/// All processes; none where there is no `/proc`.
pub fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Which memory of a process is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// What is resident now.
    Resident,
    /// The most that was resident at any moment of its life.
    Peak,
}

/// Memory in megabytes.
pub fn memory_megabytes(process: u32, which: Memory) -> Option<f64> {
    let status = fs::read_to_string(folder(process).join("status")).ok()?;
    Some(kilobytes(&status, which)? / 1024.0)
}

fn kilobytes(status: &str, which: Memory) -> Option<f64> {
    let name = match which {
        Memory::Resident => "VmRSS:",
        Memory::Peak => "VmHWM:",
    };
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes that a process has written to anything so far.
pub fn written_bytes(process: u32) -> Option<u64> {
    let io = fs::read_to_string(folder(process).join("io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: "))?.trim().parse().ok()
}

/// The load average of the last minute.
pub fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Processor seconds that all processes together have used since the machine was started.
pub fn machine_cpu_seconds() -> Option<f64> {
    busy_seconds(&fs::read_to_string("/proc/stat").ok()?)
}

/// Of the line `cpu`: all but idle (the 4th), waiting for disks (the 5th), and what the guests' columns repeat (from the 9th).
fn busy_seconds(stat: &str) -> Option<f64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let ticks: Vec<f64> = fields.map_while(|field| field.parse().ok()).collect();
    let busy = ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    Some(busy.map(|(_, ticks)| ticks).sum::<f64>() / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let stat = "42 (a) name) S 1 42 42 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 9 0 1";
        assert_eq!(Stat::parse(stat), Some(Stat { name: "a) name".into(), ended: false, cpu_seconds: 2.0 }));
        let gone = "42 (cdc-ingest) Z 1 42 42 0 -1 4194560 9 0 0 0 7 0 0 0 20 0 9 0 1";
        assert!(Stat::parse(gone).unwrap().ended);
        let status = "Name:\tpg-sinker\nVmHWM:\t  4096 kB\nVmRSS:\t  2048 kB\n";
        assert_eq!(kilobytes(status, Memory::Resident), Some(2048.0));
        assert_eq!(kilobytes(status, Memory::Peak), Some(4096.0));
        assert_eq!(busy_seconds("cpu  100 1 200 5000 70 3 4 5 9 9\ncpu0 1 1\n"), Some(3.13));
    }
}
