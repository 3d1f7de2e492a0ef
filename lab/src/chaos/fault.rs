//! What can be broken: the faults, and which of them can be broken at the same time.

use std::fmt;

use serde::Serialize;

use super::servers::Server;
use super::system::{InstanceId, Service};

/// One thing that is broken, for how long, and mended again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// `kill -9`, and started again at once.
    Kill(InstanceId),
    /// Every instance of every service at once.
    KillAll,
    /// SIGTERM, and started again when it has ended.
    Terminate(InstanceId),
    /// SIGSTOP for longer than every time-out, then SIGCONT.
    Freeze(InstanceId),
    /// From two instances to one, to three, to one, to two.
    Scale(Service),
    /// All connections of an instance end at once.
    Cut(InstanceId),
    /// Nothing that an instance sends or is sent arrives, for longer than every time-out.
    BlackHole(InstanceId),
    /// Ended as by a crash, and started again.
    KillServer(Server),
    /// Stopped in an orderly way, and started again.
    RestartServer(Server),
    /// SIGSTOP to all its processes, then SIGCONT.
    FreezeServer(Server),
    /// Every answer of the broker comes late.
    SlowBroker,
    /// No room for the sink's tables, then room again.
    DiskFull,
    /// A record that is no row, written by hand into a topic.
    Poison(Layer),
    /// The machine's time of day jumps by so many seconds, and back.
    Clock(i64),
}

/// A topic of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    OdsOrders,
    OdsUsers,
    DwdOrders,
    Result,
}

impl Layer {
    pub const ALL: [Layer; 4] = [Layer::OdsOrders, Layer::OdsUsers, Layer::DwdOrders, Layer::Result];
}

/// What a fault lies upon. Two faults on the same thing would hide each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upon {
    Instance(InstanceId),
    Service(Service),
    Services,
    Server(Server),
    Topic,
    Clock,
}

impl Fault {
    /// The kind, as a report names it.
    pub fn kind(&self) -> String {
        match self {
            Fault::Kill(id) => format!("kill -9 of {}", id.service.name()),
            Fault::KillAll => "kill -9 of every service at once".into(),
            Fault::Terminate(id) => format!("SIGTERM to {}", id.service.name()),
            Fault::Freeze(id) => format!("SIGSTOP of {}, longer than every time-out", id.service.name()),
            Fault::Scale(service) => format!("{} scaled 1 → 3 → 1", service.name()),
            Fault::Cut(id) => format!("connections of {} cut", id.service.name()),
            Fault::BlackHole(id) => format!("network of {} swallows everything", id.service.name()),
            Fault::KillServer(server) => format!("{} killed and restarted", server.name()),
            Fault::RestartServer(server) => format!("{} stopped and restarted", server.name()),
            Fault::FreezeServer(server) => format!("{} frozen", server.name()),
            Fault::SlowBroker => "kafka slow".into(),
            Fault::DiskFull => "disk of the sink full".into(),
            Fault::Poison(layer) => format!("poison in {}", layer.label()),
            Fault::Clock(..0) => "clock set back".into(),
            Fault::Clock(_) => "clock set forward".into(),
        }
    }

    pub fn upon(&self) -> Upon {
        match self {
            Fault::Kill(id) | Fault::Terminate(id) | Fault::Freeze(id) | Fault::Cut(id) | Fault::BlackHole(id) => {
                Upon::Instance(*id)
            }
            Fault::Clock(_) => Upon::Clock,
            Fault::KillAll => Upon::Services,
            Fault::Scale(service) => Upon::Service(*service),
            Fault::KillServer(server) | Fault::RestartServer(server) | Fault::FreezeServer(server) => {
                Upon::Server(*server)
            }
            Fault::SlowBroker => Upon::Server(Server::Kafka),
            Fault::DiskFull => Upon::Server(Server::Sink),
            Fault::Poison(_) => Upon::Topic,
        }
    }

    /// Whether both can be broken at the same time and both be felt.
    pub fn goes_with(&self, other: &Fault) -> bool {
        match (self.upon(), other.upon()) {
            (Upon::Instance(one), Upon::Service(service)) | (Upon::Service(service), Upon::Instance(one)) => {
                one.service != service
            }
            // A record can be written only while the broker takes it.
            (Upon::Topic, Upon::Server(Server::Kafka)) | (Upon::Server(Server::Kafka), Upon::Topic) => false,
            (one, another) => one != another,
        }
    }
}

impl Layer {
    pub fn label(self) -> &'static str {
        match self {
            Layer::OdsOrders => "ods_orders",
            Layer::OdsUsers => "ods_users",
            Layer::DwdOrders => "dwd_orders",
            Layer::Result => "the results",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill(id) | Fault::Terminate(id) | Fault::Freeze(id) | Fault::Cut(id) | Fault::BlackHole(id) => {
                write!(f, "{} ({})", self.kind(), id.number)
            }
            Fault::Clock(seconds) => write!(f, "{} by {} s", self.kind(), seconds.abs()),
            _ => f.write_str(&self.kind()),
        }
    }
}

/// What the surroundings allow beyond what always works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Abilities {
    /// The sink's tables have a small disk of their own.
    pub small_disk: bool,
    /// The machine's clock may be stepped.
    pub clock: bool,
}

/// Every fault that the surroundings allow, on every instance that runs when nothing is broken.
pub fn every_fault(abilities: Abilities) -> Vec<Fault> {
    let instances: Vec<InstanceId> =
        InstanceId::all().into_iter().filter(|id| id.number <= Service::REPLICAS).collect();
    let mut faults = vec![Fault::KillAll, Fault::SlowBroker];
    for make in [Fault::Kill, Fault::Terminate, Fault::Freeze, Fault::Cut, Fault::BlackHole] {
        faults.extend(instances.iter().copied().map(make));
    }
    faults.extend(Service::SHARING.map(Fault::Scale));
    for make in [Fault::KillServer, Fault::RestartServer, Fault::FreezeServer] {
        faults.extend(Server::ALL.map(make));
    }
    faults.extend(Layer::ALL.map(Fault::Poison));
    if abilities.small_disk {
        faults.push(Fault::DiskFull);
    }
    if abilities.clock {
        // Far enough to outlast every time-out.
        faults.extend([Fault::Clock(-30), Fault::Clock(30)]);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: InstanceId = InstanceId { service: Service::DimJoiner, number: 1 };
    const SECOND: InstanceId = InstanceId { service: Service::DimJoiner, number: 2 };

    #[test]
    fn two_faults_on_the_same_thing_do_not_go_together() {
        assert!(Fault::Kill(FIRST).goes_with(&Fault::Kill(SECOND)));
        assert!(!Fault::Kill(FIRST).goes_with(&Fault::Freeze(FIRST)));
        assert!(!Fault::Kill(FIRST).goes_with(&Fault::Scale(Service::DimJoiner)));
        assert!(Fault::Kill(FIRST).goes_with(&Fault::Scale(Service::PgSinker)));
        assert!(!Fault::SlowBroker.goes_with(&Fault::KillServer(Server::Kafka)));
        assert!(Fault::KillServer(Server::Sink).goes_with(&Fault::KillServer(Server::Kafka)));
        assert!(!Fault::Poison(Layer::Result).goes_with(&Fault::FreezeServer(Server::Kafka)));
    }

    #[test]
    fn what_the_surroundings_do_not_allow_is_left_out() {
        let all = every_fault(Abilities { small_disk: true, clock: true });
        let plain = every_fault(Abilities { small_disk: false, clock: false });
        assert!(all.contains(&Fault::DiskFull) && !plain.contains(&Fault::DiskFull));
        assert_eq!(all.len(), plain.len() + 1 + 2);
    }
}
