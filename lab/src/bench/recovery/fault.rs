//! What can be broken.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::bench::recovery::pipeline::Name;
use crate::bench::recovery::servers::Server;

/// One thing that breaks, and is whole again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`; a supervisor starts it again at once.
    Kill(Name),
    /// SIGTERM; it is started again as soon as it has ended.
    Stop(Name),
    /// The server ends at once, as in a crash, and is started again.
    Crash(Server),
    /// The source ends the connection that brings the WAL.
    Cut,
}

impl Fault {
    pub const ALL: [Fault; 12] = [
        Fault::Kill(Name::CdcIngest),
        Fault::Kill(Name::DwdCleaner),
        Fault::Kill(Name::DimJoiner),
        Fault::Kill(Name::PgSinker),
        Fault::Stop(Name::CdcIngest),
        Fault::Stop(Name::DwdCleaner),
        Fault::Stop(Name::DimJoiner),
        Fault::Stop(Name::PgSinker),
        Fault::Cut,
        Fault::Crash(Server::Source),
        Fault::Crash(Server::Sink),
        Fault::Crash(Server::Kafka),
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(service) => write!(f, "kill-{service}"),
            Fault::Stop(service) => write!(f, "stop-{service}"),
            Fault::Crash(server) => write!(f, "crash-{server}"),
            Fault::Cut => f.write_str("cut-wal"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Fault::ALL.map(|fault| fault.to_string()).join(", ");
        let found = Fault::ALL.into_iter().find(|fault| fault.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is none of {}", known()))
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_known_by_its_name() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert_eq!("kill-dim-joiner".parse(), Ok(Fault::Kill(Name::DimJoiner)));
        assert!("kill-everything".parse::<Fault>().unwrap_err().contains("crash-kafka"));
    }
}
