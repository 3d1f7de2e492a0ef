//! The system that is broken: instances of the four services under a supervisor, each behind network proxies of its own.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use shared::failure::{Failure, FailureKind};

use super::supervisor::{Program, Supervisor};
use crate::places::Places;
use crate::ports::free_port;
use crate::proxy::Proxy;
use crate::{page, ready};

/// A service of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    CdcIngest,
    DwdCleaner,
    DimJoiner,
    PgSinker,
}

impl Service {
    pub const ALL: [Service; 4] = [Service::CdcIngest, Service::DwdCleaner, Service::DimJoiner, Service::PgSinker];
    /// Those whose replicas share partitions.
    pub const SHARING: [Service; 3] = [Service::DwdCleaner, Service::DimJoiner, Service::PgSinker];

    pub fn name(self) -> &'static str {
        match self {
            Service::CdcIngest => "cdc-ingest",
            Service::DwdCleaner => "dwd-cleaner",
            Service::DimJoiner => "dim-joiner",
            Service::PgSinker => "pg-sinker",
        }
    }

    /// Instances that run when nothing is broken: two that share, or one and its standby.
    pub const REPLICAS: u32 = 2;

    /// The most that run while the service is scaled.
    fn replicas_max(self) -> u32 {
        if self == Service::CdcIngest { Service::REPLICAS } else { Service::REPLICAS + 1 }
    }
}

/// An instance of a service, by number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InstanceId {
    pub service: Service,
    pub number: u32,
}

impl InstanceId {
    /// Every instance that may ever run, in the order in which they take their ports.
    pub fn all() -> Vec<InstanceId> {
        let of = |service: Service| (1..=service.replicas_max()).map(move |number| InstanceId { service, number });
        Service::ALL.into_iter().flat_map(of).collect()
    }

    pub fn name(self) -> String {
        format!("{}-{}", self.service.name(), self.number)
    }
}

/// A port of the broker, and the port to which it sends the clients that came there.
#[derive(Debug, Clone, Copy)]
pub struct Behind {
    pub listen: u16,
    pub advertised: u16,
}

/// Reads `LISTEN:ADVERTISED ...`, as `scripts/servers.sh` does.
pub fn read_behind(text: &str) -> Result<Vec<Behind>, Failure> {
    let pair = |word: &str| {
        let (listen, advertised) = word.split_once(':')?;
        Some(Behind { listen: listen.parse().ok()?, advertised: advertised.parse().ok()? })
    };
    text.split_whitespace()
        .map(|word| {
            pair(word).ok_or_else(|| {
                Failure::new(FailureKind::Settings, format!("{word:?} is not LISTEN:ADVERTISED"))
                    .cure("correct TIDEMILL_KAFKA_BEHIND")
            })
        })
        .collect()
}

/// With what the system is made.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Folder of the services' programs.
    pub programs: PathBuf,
    /// Folder for logs.
    pub logs: PathBuf,
    pub behind: Vec<Behind>,
    pub partitions: u32,
}

/// Where cdc-ingest writes the users, by its own defaults.
pub const USERS_TOPIC: &str = "ods_users";

/// The token for commands.
const TOKEN: &str = "chaos";

/// Time-outs are short, so that a fault is soon longer than all of them.
const SETTINGS: [(&str, &str); 4] = [
    ("KAFKA__SESSION_TIMEOUT_MS", "6000"),
    ("KAFKA__REQUEST_TIMEOUT_MS", "5000"),
    ("KAFKA__DELIVERY_TIMEOUT_MS", "8000"),
    ("HTTP__CONTROL_TOKEN", TOKEN),
];

const CAPTURE_SETTINGS: [(&str, &str); 6] = [
    ("SOURCE__CONNECT_TIMEOUT_MS", "2000"),
    ("WATCH__SILENCE_MAX_MS", "2000"),
    ("SLOT__SERVER_TIMEOUT_MS", "4000"),
    ("SLOT__TAKEOVER_POLL_MS", "100"),
    // Many chunks, so that faults fall between and into them.
    ("SNAPSHOT__CHUNK_ROWS", "500"),
    ("SLOT__STATUS_INTERVAL_MS", "200"),
];

/// The longest that any service believes in what it owns without hearing from anybody: a freeze beyond it is beyond every time-out.
pub const EVERY_TIMEOUT: Duration = Duration::from_millis(8_000);

/// An instance's ways to the servers.
struct Network {
    id: InstanceId,
    url: String,
    broker: Proxy,
    /// To the source or to the sink, for those who need one.
    database: Option<Proxy>,
}

/// The running system.
pub struct System {
    pub supervisor: Supervisor,
    networks: Vec<Network>,
}

impl System {
    /// All instances are known, and none runs.
    pub fn build(places: &Places, blueprint: &Blueprint) -> Result<Self, Failure> {
        let supervisor = Supervisor::begin();
        let ids = InstanceId::all();
        if blueprint.behind.len() < ids.len() {
            let what = format!(
                "the broker has {} ports behind proxies, and {} instances need one each",
                blueprint.behind.len(),
                ids.len()
            );
            return Err(Failure::new(FailureKind::Settings, what)
                .cure("run scripts/chaos.sh, which sets TIDEMILL_KAFKA_BEHIND"));
        }
        let mut networks = Vec::new();
        for (id, behind) in ids.into_iter().zip(&blueprint.behind) {
            let database = match id.service {
                Service::CdcIngest => Some(Proxy::before(places.source.port)?),
                Service::PgSinker => Some(Proxy::before(places.sink.port)?),
                Service::DwdCleaner | Service::DimJoiner => None,
            };
            let network =
                Network { id, url: String::new(), broker: Proxy::at(behind.advertised, behind.listen)?, database };
            let port = free_port()?;
            supervisor.add(&id.name(), program(places, blueprint, &network, port));
            networks.push(Network { url: format!("http://127.0.0.1:{port}"), ..network });
        }
        Ok(System { supervisor, networks })
    }

    /// As many instances of each as run when nothing is broken.
    pub fn start(&self) -> Result<(), Failure> {
        InstanceId::all()
            .into_iter()
            .filter(|id| id.number <= Service::REPLICAS)
            .try_for_each(|id| self.supervisor.start(&id.name()))
    }

    fn network(&self, id: InstanceId) -> Result<&Network, Failure> {
        let found = self.networks.iter().find(|network| network.id == id);
        found.ok_or_else(|| Failure::new(FailureKind::Broken, format!("{} has no network", id.name())))
    }

    /// All its connections end; new ones are let through.
    pub fn cut(&self, id: InstanceId) -> Result<(), Failure> {
        self.network(id).map(|network| network.proxies().for_each(Proxy::cut))
    }

    /// What it sends and what is sent to it never arrives.
    pub fn black_hole(&self, id: InstanceId) -> Result<(), Failure> {
        self.network(id).map(|network| network.proxies().for_each(Proxy::black_hole))
    }

    pub fn heal(&self, id: InstanceId) -> Result<(), Failure> {
        self.network(id).map(Network::heal)
    }

    /// Whatever any instance says to the broker, and hears from it, comes so much later.
    pub fn slow_down_broker(&self, delay: Duration) {
        self.networks.iter().for_each(|network| network.broker.slow_down(delay));
    }

    /// Undoes whatever was done to it, short of what the supervisor does by itself.
    pub fn heal_all(&self) -> Result<(), Failure> {
        self.slow_down_broker(Duration::ZERO);
        for network in &self.networks {
            network.heal();
            self.supervisor.thaw(&network.id.name())?;
        }
        self.start()
    }

    /// Has the instances that stream read a table again, whichever of them streams.
    pub async fn command_snapshot(&self, table: &str) -> bool {
        let body = serde_json::json!({ "table": table }).to_string();
        for network in self.networks.iter().filter(|network| network.id.service == Service::CdcIngest) {
            let asked = page::post(&network.url, "/api/v1/snapshot", Some(TOKEN), &body).await;
            if asked.is_ok_and(|answer| answer.page.status == 202) {
                return true;
            }
        }
        false
    }

    /// Whether each service has an instance that is ready, and every instance that shall run and shares partitions is; else who is not.
    pub async fn look(&self) -> Result<(), String> {
        let wanted = self.supervisor.wanted();
        let mut one_captures = Err("no cdc-ingest is ready".to_owned());
        for network in self.networks.iter().filter(|network| wanted.contains(&network.id.name())) {
            let place = crate::places::ServicePlace { name: network.id.service.name(), url: network.url.clone() };
            let looked = ready::look(&place).await;
            let looked = looked.map_err(|reason| format!("{}: {reason}", network.id.name()));
            match network.id.service {
                Service::CdcIngest if one_captures.is_ok() => {}
                Service::CdcIngest => one_captures = looked,
                _ => looked?,
            }
        }
        one_captures
    }
}

impl Network {
    fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        std::iter::once(&self.broker).chain(&self.database)
    }

    fn heal(&self) {
        for proxy in self.proxies() {
            proxy.heal();
            // What fell into the black hole would wait for ever.
            proxy.cut_silent();
        }
    }
}

fn program(places: &Places, blueprint: &Blueprint, network: &Network, port: u16) -> Program {
    let service = network.id.service.name();
    let prefix = service.replace('-', "_").to_uppercase();
    let database = network.database.as_ref().map(|proxy| proxy.port.to_string()).unwrap_or_default();
    let mut own: Vec<(&str, String)> = vec![
        ("HTTP__PORT", port.to_string()),
        ("KAFKA__INSTANCE_ID", network.id.name()),
        ("KAFKA__BROKERS", format!("127.0.0.1:{}", network.broker.port)),
    ];
    own.extend(SETTINGS.map(|(key, value)| (key, value.to_owned())));
    match network.id.service {
        Service::CdcIngest => {
            own.extend(CAPTURE_SETTINGS.map(|(key, value)| (key, value.to_owned())));
            own.push(("SOURCE__PORT", database));
            own.push(("SOURCE__DATABASE", places.source.database.clone()));
            own.push(("KAFKA__TOPICS__PARTITIONS", blueprint.partitions.to_string()));
        }
        Service::PgSinker => {
            own.push(("SINK__PORT", database));
            own.push(("SINK__DATABASE", places.sink.database.clone()));
        }
        Service::DwdCleaner | Service::DimJoiner => {}
    }
    let variables: Vec<(String, String)> =
        own.into_iter().map(|(key, value)| (format!("{prefix}__{key}"), value)).collect();
    Program {
        path: blueprint.programs.join(service),
        variables,
        log: blueprint.logs.join(format!("{}.log", network.id.name())),
    }
}
