//! The four services as processes, under a supervisor that starts each again at once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shared::failure::Failure;

use crate::bench::child::{Child, Program, variable};
use crate::places::{Places, ServicePlace};
use crate::ports::free_port;
use crate::ready;

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    CdcIngest,
    DwdCleaner,
    DimJoiner,
    PgSinker,
}

impl Name {
    const ALL: [Name; 4] = [Name::CdcIngest, Name::DwdCleaner, Name::DimJoiner, Name::PgSinker];

    pub fn as_str(self) -> &'static str {
        match self {
            Name::CdcIngest => "cdc-ingest",
            Name::DwdCleaner => "dwd-cleaner",
            Name::DimJoiner => "dim-joiner",
            Name::PgSinker => "pg-sinker",
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A service, the same at each start.
struct Service {
    name: Name,
    path: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    log: PathBuf,
    place: ServicePlace,
    child: Option<Child>,
}

/// All four.
pub struct Pipeline(Vec<Service>);

/// Longest wait until all are ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);

/// Time between two looks at one that is not.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Pipeline {
    pub fn start(places: &Places, programs: &Path, logs: &Path) -> Result<Self, Failure> {
        Self::start_with(places, programs, logs, |_| Vec::new())
    }

    /// Each with arguments of its own.
    pub fn start_with(
        places: &Places,
        programs: &Path,
        logs: &Path,
        arguments: impl Fn(Name) -> Vec<String>,
    ) -> Result<Self, Failure> {
        let mut services = Vec::new();
        for name in Name::ALL {
            let port = free_port()?;
            let mut service = Service {
                name,
                path: programs.join(name.as_str()),
                arguments: arguments(name),
                variables: variables(name, places, port),
                log: logs.join(format!("{name}.log")),
                place: ServicePlace { name: name.as_str(), url: format!("http://127.0.0.1:{port}") },
                child: None,
            };
            service.start()?;
            services.push(service);
        }
        Ok(Pipeline(services))
    }

    /// Waits until all are ready.
    pub async fn ready(&mut self) -> Result<(), Failure> {
        for service in &mut self.0 {
            service.ready().await?;
        }
        Ok(())
    }

    /// The processes, by name.
    pub fn processes(&self) -> impl Iterator<Item = (Name, u32)> {
        self.0.iter().filter_map(|service| Some((service.name, service.child.as_ref()?.id())))
    }

    /// Their pages, in the order of the data.
    pub fn places(&self) -> impl Iterator<Item = &ServicePlace> {
        self.0.iter().map(|service| &service.place)
    }

    fn of(&mut self, name: Name) -> impl Iterator<Item = &mut Service> {
        self.0.iter_mut().filter(move |service| service.name == name)
    }

    pub fn kill_and_start(&mut self, name: Name) -> Result<(), Failure> {
        for service in self.of(name) {
            if let Some(child) = service.child.take() {
                child.kill();
            }
            service.start()?;
        }
        Ok(())
    }

    /// When it was started again.
    pub async fn stop_and_start(&mut self, name: Name) -> Result<Instant, Failure> {
        for service in self.of(name) {
            service.stop().await?;
            service.start()?;
        }
        Ok(Instant::now())
    }

    pub async fn stop(&mut self) -> Result<(), Failure> {
        for service in &mut self.0 {
            service.stop().await?;
        }
        Ok(())
    }
}

impl Service {
    fn start(&mut self) -> Result<(), Failure> {
        let (variables, log) = (self.variables.clone(), self.log.clone());
        let arguments = self.arguments.clone();
        self.child = Some(Child::start(Program { path: &self.path, arguments, variables, log })?);
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        match self.child.take() {
            Some(child) => child.stop().await,
            None => Ok(()),
        }
    }

    async fn ready(&self) -> Result<(), Failure> {
        let since = Instant::now();
        while let (Err(reason), Some(child)) = (ready::look(&self.place).await, &self.child) {
            if child.has_ended() {
                return Err(child.failure("has ended by itself"));
            }
            if since.elapsed() > READY_PATIENCE {
                return Err(child.failure(&format!("is not ready: {reason}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// What it must know to find the servers. All else is as it comes.
fn variables(name: Name, places: &Places, port: u16) -> Vec<(String, String)> {
    let database = match name {
        Name::CdcIngest => Some(("source", &places.source)),
        Name::PgSinker => Some(("sink", &places.sink)),
        Name::DwdCleaner | Name::DimJoiner => None,
    };
    let database = database.into_iter().flat_map(|(section, server)| {
        [
            (format!("{section}.host"), server.host.clone()),
            (format!("{section}.port"), server.port.to_string()),
            (format!("{section}.database"), server.database.clone()),
        ]
    });
    let common =
        [("kafka.brokers".to_owned(), places.kafka.brokers.clone()), ("http.port".to_owned(), port.to_string())];
    database.chain(common).map(|(key, value)| (variable(name.as_str(), &key), value)).collect()
}
