//! Processor time of the parts of a measurement, and of all else on the machine meanwhile.

use serde::Serialize;

use crate::processes::{Stat, load_average, machine_cpu_seconds};

/// Processor seconds of one process, from the meter's start to the last look at it.
#[derive(Debug, Clone, Copy)]
struct Gauge {
    process: Option<u32>,
    first: f64,
    last: f64,
}

impl Gauge {
    fn start(process: Option<u32>) -> Self {
        let now = seconds(process).unwrap_or_default();
        Gauge { process, first: now, last: now }
    }

    /// A process that is gone keeps what was seen last.
    fn look(&mut self) {
        self.last = seconds(self.process).unwrap_or(self.last);
    }

    fn used(self) -> Option<f64> {
        self.process.map(|_| self.last - self.first)
    }
}

fn seconds(process: Option<u32>) -> Option<f64> {
    Some(Stat::of(process?)?.cpu_seconds)
}

/// The processes that take part.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// What is measured; all of them together.
    pub measured: &'a [u32],
    /// The process of PostgreSQL that serves it: it sends the WAL, or writes the rows.
    pub postgres: Option<u32>,
    pub broker: Option<u32>,
}

/// A running measurement.
#[derive(Debug)]
pub struct Meter {
    measured: Vec<Gauge>,
    postgres: Gauge,
    broker: Gauge,
    machine: Option<f64>,
}

/// Processor seconds that were used.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    pub measured: f64,
    pub postgres: Option<f64>,
    pub broker: Option<f64>,
    /// Everything else on the machine, this program too.
    pub others: Option<f64>,
    /// The load average when it ended.
    pub load_average: Option<f64>,
}

impl Meter {
    pub fn start(parts: Parts<'_>) -> Self {
        Meter {
            measured: parts.measured.iter().map(|process| Gauge::start(Some(*process))).collect(),
            postgres: Gauge::start(parts.postgres),
            broker: Gauge::start(parts.broker),
            machine: machine_cpu_seconds(),
        }
    }

    /// Must come again and again: what a process used after the last look and before its end is lost.
    pub fn look(&mut self) {
        self.measured.iter_mut().for_each(Gauge::look);
        self.postgres.look();
        self.broker.look();
    }

    pub fn cost(mut self) -> Cost {
        self.look();
        let measured: f64 = self.measured.iter().filter_map(|gauge| gauge.used()).sum();
        let of_parts = measured + self.postgres.used().unwrap_or_default() + self.broker.used().unwrap_or_default();
        let machine = machine_cpu_seconds().zip(self.machine).map(|(now, before)| now - before);
        Cost {
            measured,
            postgres: self.postgres.used(),
            broker: self.broker.used(),
            others: machine.map(|machine| (machine - of_parts).max(0.0)),
            load_average: load_average(),
        }
    }
}
