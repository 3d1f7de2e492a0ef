//! A pipeline of a test's own: two databases, names that nobody else uses, and the four services as processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use lab::layers::Layers;
use lab::places::{Names, Places};
use lab::ports::free_port;
use lab::ready;
use sqlx::postgres::PgConnection;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::cleaning::config;
use crate::environment::Environment;
use crate::process::{Ended, Process, Program};
use crate::until::until;
use crate::{database, topics};

pub const CDC_INGEST: &str = "cdc-ingest";
pub const DWD_CLEANER: &str = "dwd-cleaner";
pub const DIM_JOINER: &str = "dim-joiner";
pub const PG_SINKER: &str = "pg-sinker";
pub const SERVICES: [&str; 4] = [CDC_INGEST, DWD_CLEANER, DIM_JOINER, PG_SINKER];

/// So many pipelines run at a time, however many tests there are.
static SEATS: Semaphore = Semaphore::const_new(2);

/// The pipeline of a test. All of it is taken down when it is dropped.
pub struct Stack {
    /// In the name of each database, topic, group and slot.
    pub name: String,
    pub places: Places,
    pub environment: Environment,
    test: String,
    ports: BTreeMap<String, u16>,
    /// Settings of all services, as variables, that go beyond what keeps the tests apart.
    settings: Vec<(String, String)>,
    /// Settings of one instance, and its file.
    settings_of: BTreeMap<String, Vec<(String, String)>>,
    files: BTreeMap<String, PathBuf>,
    /// Instances that take topics and groups from their file.
    only_by_file: BTreeSet<String>,
    processes: BTreeMap<String, Process>,
    commands: u32,
    _seat: SemaphorePermit<'static>,
}

impl Stack {
    /// Databases and names; nothing runs.
    pub async fn new() -> Self {
        let seat = SEATS.acquire().await.unwrap();
        let environment = Environment::read();
        let name = unique_name();
        let shared = &environment.places;
        let source = database::make(&shared.source, &format!("{name}_source"), "postgres_source/init").await;
        let sink = database::make(&shared.sink, &format!("{name}_sink"), "postgres_sink/init").await;
        let names = Names {
            ods_topic: format!("{name}_ods_orders"),
            dwd_topic: format!("{name}_dwd_orders"),
            result_topic: format!("{name}_result"),
            slot: name.clone(),
            ..Names::default()
        };
        let ports: BTreeMap<String, u16> = SERVICES.map(|service| (service.to_owned(), free_port().unwrap())).into();
        let mut places = Places { source, sink, names, ..shared.clone() };
        for service in &mut places.services {
            service.url = url(ports[service.name]);
        }
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("test").replace("::", "-");
        let (settings, settings_of, files) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let processes = BTreeMap::new();
        let mut stack = Stack {
            name,
            places,
            environment,
            test,
            ports,
            settings,
            settings_of,
            files,
            only_by_file: BTreeSet::new(),
            processes,
            commands: 0,
            _seat: seat,
        };
        stack.join_users_of(&stack.users_topic());
        stack
    }

    /// dim-joiner with the documented settings, and its users from this topic.
    pub fn join_users_of(&mut self, topic: &str) {
        let text = config("dim-joiner.toml").replace("topic = \"ods_users\"", &format!("topic = \"{topic}\""));
        self.configure(DIM_JOINER, &text);
    }

    /// All four services, ready.
    pub async fn started() -> Self {
        let mut stack = Stack::new().await;
        stack.start_all().await;
        stack
    }

    /// [`Stack::start_all_behind_the_copy`] with nothing set.
    pub async fn started_behind_the_copy() -> Self {
        let mut stack = Stack::new().await;
        stack.start_all_behind_the_copy().await;
        stack
    }

    pub async fn start_all(&mut self) {
        for service in SERVICES {
            self.start(service);
        }
        self.ready().await;
    }

    /// The same, but dim-joiner begins when the copy is in the topics: no order goes out before its user is known, and none twice.
    pub async fn start_all_behind_the_copy(&mut self) {
        for service in [CDC_INGEST, DWD_CLEANER, PG_SINKER] {
            self.start(service);
        }
        self.ready_alone(CDC_INGEST).await;
        self.start(DIM_JOINER);
        self.ready().await;
    }

    /// A setting of a service from its next start on: `set(CDC_INGEST, "SNAPSHOT__CHUNK_ROWS", 500)`.
    pub fn set(&mut self, service: &str, key: &str, value: impl ToString) {
        self.settings.push((variable(service, key), value.to_string()));
    }

    /// The same for one instance of a service; it wins over the others.
    pub fn set_of(&mut self, instance: &str, service: &str, key: &str, value: impl ToString) {
        let settings = self.settings_of.entry(instance.to_owned()).or_default();
        settings.push((variable(service, key), value.to_string()));
    }

    /// The file of settings of an instance, or of all instances of a service, from their next start on.
    pub fn configure(&mut self, instance: &str, text: &str) -> PathBuf {
        let path = self.environment.logs.join(format!("{}-{instance}.toml", self.name));
        std::fs::write(&path, text).unwrap();
        self.files.insert(instance.to_owned(), path.clone());
        path
    }

    /// An instance whose file says all about topics and groups.
    pub fn only_by_file(&mut self, instance: &str) {
        self.only_by_file.insert(instance.to_owned());
    }

    pub fn start(&mut self, service: &'static str) {
        self.start_replica(service, service);
    }

    /// A further instance of a service, under a name of its own.
    pub fn start_replica(&mut self, service: &'static str, instance: &str) {
        let port = *self.ports.entry(instance.to_owned()).or_insert_with(|| free_port().unwrap());
        let mut program = self.program(service, instance, &[]);
        if self.only_by_file.contains(instance) {
            program.variables.retain(|(name, _)| {
                name.ends_with("CONSOLE__TOPIC") || !name.ends_with("TOPIC") && !name.ends_with("__GROUP")
            });
        }
        program.variables.push((variable(service, "HTTP__PORT"), port.to_string()));
        program.variables.push((variable(service, "KAFKA__INSTANCE_ID"), instance.to_owned()));
        program.variables.extend(self.settings_of.get(instance).into_iter().flatten().cloned());
        let file = self
            .files
            .get(instance)
            .or(self.files.get(service))
            .map(|path| ["--config".to_owned(), path.display().to_string()]);
        program.arguments.extend(file.into_iter().flatten());
        self.processes.insert(instance.to_owned(), program.begin());
    }

    fn program(&self, service: &str, label: &str, arguments: &[&str]) -> Program {
        Program {
            path: self.environment.programs.join(service),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            variables: [self.settings_that_keep_apart(service), self.settings.clone()].concat(),
            log: self.environment.logs.join(format!("{}-{label}.log", self.test)),
            input: None,
        }
    }

    /// Runs a program of the pipeline to its end: `command(CDC_INGEST, &["check"], &[("SLOT__NAME", "x")])`.
    pub async fn command(&mut self, service: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Ended {
        self.command_on(None, service, arguments, settings).await
    }

    /// The same, with a file on its standard input.
    pub async fn command_on(
        &mut self,
        input: Option<PathBuf>,
        service: &str,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> Ended {
        self.commands += 1;
        let mut program = self.program(service, &format!("{service}-command-{}", self.commands), arguments);
        let file = self.files.get(service).filter(|_| !arguments.contains(&"--config"));
        program.arguments.extend(file.into_iter().flat_map(|path| ["--config".to_owned(), path.display().to_string()]));
        program.input = input;
        program.variables.push((variable(service, "HTTP__PORT"), free_port().unwrap().to_string()));
        program.variables.extend(settings.iter().map(|(key, value)| (variable(service, key), (*value).to_owned())));
        program.run().await
    }

    fn settings_that_keep_apart(&self, service: &str) -> Vec<(String, String)> {
        let (places, names, name) = (&self.places, &self.places.names, &self.name);
        let (users, dead_letters) = (self.users_topic(), self.dead_letter_topic(service));
        let state = format!("{name}_cdc_state");
        let other_tables = format!("{name}_ods_{{schema}}_{{table}}");
        let (source_port, sink_port) = (places.source.port.to_string(), places.sink.port.to_string());
        let own: &[(&str, &str)] = match service {
            CDC_INGEST => &[
                ("SOURCE__HOST", &places.source.host),
                ("SOURCE__PORT", &source_port),
                ("SOURCE__DATABASE", &places.source.database),
                ("SLOT__NAME", name),
                ("TABLES__ORDERS__TABLE", "business.orders"),
                ("TABLES__ORDERS__TOPIC", &names.ods_topic),
                ("TABLES__USERS__TABLE", "business.users"),
                ("TABLES__USERS__TOPIC", &users),
                ("STATE__TOPIC", &state),
                ("OTHER_TABLES__TOPIC", &other_tables),
            ],
            DWD_CLEANER => &[
                ("INPUT__TOPIC", &names.ods_topic),
                ("INPUT__GROUP", name),
                ("OUTPUT__TOPIC", &names.dwd_topic),
                ("OUTPUT__DEAD_LETTER_TOPIC", &dead_letters),
            ],
            DIM_JOINER => &[
                ("FACTS__TOPIC", &names.dwd_topic),
                ("FACTS__GROUP", name),
                ("OUTPUT__TOPIC", &names.result_topic),
                ("OUTPUT__DEAD_LETTER_TOPIC", &dead_letters),
            ],
            _ => &[
                ("SINK__HOST", &places.sink.host),
                ("SINK__PORT", &sink_port),
                ("SINK__DATABASE", &places.sink.database),
                ("INPUT__TOPIC", &names.result_topic),
                ("INPUT__GROUP", name),
                ("WRITER__DEAD_LETTER_TOPIC", &dead_letters),
            ],
        };
        let told = self.told_topic();
        let all = [("KAFKA__BROKERS", places.kafka.brokers.as_str()), ("CONSOLE__TOPIC", &told)];
        own.iter().chain(&all).map(|(key, value)| (variable(service, key), (*value).to_owned())).collect()
    }

    /// The topic of a table that no setting names.
    pub fn other_topic(&self, schema: &str, table: &str) -> String {
        format!("{}_ods_{schema}_{table}", self.name)
    }

    pub fn users_topic(&self) -> String {
        format!("{}_ods_users", self.name)
    }

    /// The topic in which the instances tell their state.
    pub fn told_topic(&self) -> String {
        format!("{}_tidemill_state", self.name)
    }

    pub fn dead_letter_topic(&self, service: &str) -> String {
        format!("{}_dlq_{}", self.name, service.replace('-', "_"))
    }

    /// The three topics that an order goes through.
    pub fn order_topics(&self) -> [&str; 3] {
        let names = &self.places.names;
        [&names.ods_topic, &names.dwd_topic, &names.result_topic]
    }

    pub fn url(&self, instance: &str) -> String {
        url(self.ports[instance])
    }

    pub fn process(&mut self, instance: &str) -> &mut Process {
        self.processes.get_mut(instance).unwrap_or_else(|| panic!("{instance} was not started"))
    }

    /// Waits until every process that was started is ready.
    pub async fn ready(&self) {
        for instance in self.processes.keys() {
            self.ready_alone(instance).await;
        }
    }

    /// Waits until this one is ready.
    pub async fn ready_alone(&self, instance: &str) {
        let place = lab::places::ServicePlace { name: "service", url: self.url(instance) };
        until(&format!("{instance} is ready"), async || ready::look(&place).await).await;
    }

    pub async fn source(&self) -> PgConnection {
        database::connect(&self.places.source).await
    }

    pub async fn sink(&self) -> PgConnection {
        database::connect(&self.places.sink).await
    }

    pub fn layers(&self) -> Layers {
        Layers::connect(&self.places.kafka).unwrap_or_else(|failure| panic!("{}", failure.chain()))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.processes.values() {
                eprintln!("{}", process.log_end());
            }
        }
        self.processes.clear();
        let (environment, places, name) = (&self.environment, &self.places, &self.name);
        let take_down = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                database::drop(&environment.places.source, &places.source.database).await;
                database::drop(&environment.places.sink, &places.sink.database).await;
                for server in [&environment.places.source, &environment.places.sink] {
                    database::drop_roles(server, name).await;
                }
                topics::remove_all(&places.kafka, name).await;
            });
        };
        // A thread of its own: the test's is inside of its runtime, which cannot wait.
        std::thread::scope(|scope| scope.spawn(take_down).join())
            .unwrap_or_else(|_| eprintln!("{name} is left behind"));
    }
}

fn variable(service: &str, key: &str) -> String {
    format!("{}__{key}", service.replace('-', "_").to_uppercase())
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn unique_name() -> String {
    static STACKS: AtomicU32 = AtomicU32::new(1);
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    format!("e2e_{seconds:x}_{:x}_{}", std::process::id(), STACKS.fetch_add(1, Ordering::Relaxed))
}
