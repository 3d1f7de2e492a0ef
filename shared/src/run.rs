//! From `main` to the end: command line, settings, log, HTTP, and the root that builds one generation of the chain after the other.

use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::{Arbiter, ArbiterHandle};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use crate::check::{self, Finding};
use crate::clock::Clock;
use crate::config::{self, HttpConfig, LogConfig, RestartConfig};
use crate::console::api::Api;
use crate::console::look::Looker;
use crate::console::settings::ConsoleConfig;
use crate::console::teller::{About, Teller};
use crate::console::told::{Instance, Pipeline};
use crate::console::topology::Topology;
use crate::control::Control;
use crate::failure::{Failure, FailureKind};
use crate::generation::{Fate, Lease};
use crate::health::{Health, Phase};
use crate::kafka::KafkaConfig;
use crate::said::Said;
use crate::traces::settings::TracesConfig;
use crate::traces::{Traces, Who};
use crate::{http, metrics, probe, pulse, telemetry};

/// What every service's settings have.
pub trait ServiceConfig: DeserializeOwned + Serialize + Clone + Send + Sync + 'static {
    fn http(&self) -> &HttpConfig;
    fn log(&self) -> &LogConfig;
    fn restart(&self) -> &RestartConfig;
    fn kafka(&self) -> &KafkaConfig;
    fn console(&self) -> &ConsoleConfig;
    fn traces(&self) -> &TracesConfig;
    /// Where the service stands in the pipeline.
    fn topology(&self) -> Topology;
    /// Sections whose keys are data, with case (`rules.statuses`). The environment does not keep case, so they are set in the file only.
    const MAPS: &'static [&'static str] = &[];
    /// What can be seen to be wrong without asking any server.
    fn validate(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A service: its name, its settings, how to look around, and how to build its chain.
pub trait Service: 'static {
    const NAME: &'static str;
    const ABOUT: &'static str;
    type Config: ServiceConfig;

    /// Looks at the surroundings without changing anything.
    fn check(config: &Self::Config) -> impl Future<Output = Vec<Finding>>;

    /// Commands of this service alone, beside `check`.
    fn commands() -> Vec<Command> {
        Vec::new()
    }

    /// Carries one of them out. Answers the exit code.
    fn run_command(
        _config: &Self::Config,
        name: &str,
        _arguments: &ArgMatches,
    ) -> impl Future<Output = Result<ExitCode, Failure>> {
        let failure = Failure::new(FailureKind::Settings, format!("there is no command {name}"));
        async { Err(failure) }
    }

    /// The exit code of a command that failed, or could not begin.
    fn failed_command() -> ExitCode {
        ExitCode::FAILURE
    }

    /// Builds the chain, sink first, from durable positions.
    fn start(config: &Self::Config, surroundings: Surroundings) -> impl Future<Output = Result<Chain, Failure>>;
}

/// What a generation is born with.
pub struct Surroundings {
    pub fate: Fate,
    pub health: Health,
    /// The thread of the chain's actors; it ends with the generation.
    pub arbiter: ArbiterHandle,
    /// The thread of the actor that sends, where that is worth a thread of its own.
    pub outlet: ArbiterHandle,
    /// Every writer checks it before it writes.
    pub lease: Lease,
    /// Where commands come from.
    pub control: Control,
    /// Who sends or writes tells what became of each commit.
    pub traces: Traces,
}

/// The threads of a generation. They watch its fate, and are waited for when it has ended.
#[derive(Default)]
pub struct Chain {
    pub threads: Vec<JoinHandle<()>>,
}

/// Waits for the threads of the chain within the bound, and stops its actors.
async fn take_down(chain: Chain, arbiters: [Arbiter; 2], config: &impl ServiceConfig) -> Result<(), Failure> {
    // A thread may be in one question to the broker.
    let bound = Duration::from_millis(config.restart().drain_timeout_ms) + config.kafka().request_timeout();
    let deadline = Instant::now() + bound;
    while let Some(running) = chain.threads.iter().find(|thread| !thread.is_finished()) {
        if Instant::now() > deadline {
            // Only that of the lease has no name.
            let name = running.thread().name().unwrap_or("lease");
            return Err(did_not_end(&format!("the thread `{name}`"), bound));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let joined = tokio::task::spawn_blocking(move || {
        let threads_ended = chain.threads.into_iter().all(|thread| thread.join().is_ok());
        for arbiter in &arbiters {
            arbiter.stop();
        }
        arbiters.into_iter().all(|arbiter| arbiter.join().is_ok()) && threads_ended
    });
    match tokio::time::timeout_at(deadline.into(), joined).await {
        Ok(Ok(true)) => {}
        Ok(_) => tracing::error!("a part of the chain panicked"),
        Err(_) => return Err(did_not_end("the actors", bound)),
    }
    Ok(())
}

/// The process is of no more use: somewhere in it a client waits for something that does not come.
fn did_not_end(part: &str, bound: Duration) -> Failure {
    Failure::new(FailureKind::Settings, format!("{part} of the chain did not end within {} ms", bound.as_millis()))
        .cure("the process ends; its supervisor starts it again from the durable position")
}

/// The whole life of a service's process.
pub fn main<S: Service>() -> ExitCode {
    let arguments = command::<S>().get_matches();
    // The variable is for those who ask a running service without knowing how it was started, such as the health check of an image.
    let named = || std::env::var_os(file_variable(S::NAME)).filter(|name| !name.is_empty()).map(PathBuf::from);
    let file = arguments.get_one::<PathBuf>("config").cloned().or_else(named);
    let checking = arguments.subcommand_name() == Some("check");
    let loaded = config::load::<S::Config>(S::NAME, file.as_deref(), S::Config::MAPS).and_then(|config| {
        config.kafka().validate()?;
        config.console().validate()?;
        config.traces().validate()?;
        config.validate()?;
        Ok(config)
    });
    let config = match loaded {
        Ok(config) => config,
        Err(failure) if checking => return report_findings(&[Finding::problem(&failure)]),
        Err(failure) => {
            let code = report_error::<S>(&failure);
            return if arguments.subcommand().is_some() { S::failed_command() } else { code };
        }
    };
    let system = actix::System::new();
    if checking {
        return report_findings(&system.block_on(S::check(&config)));
    }
    if let Some((probe::NAME, arguments)) = arguments.subcommand() {
        let asked = system.block_on(probe::ask(config.http(), arguments));
        return asked.unwrap_or_else(|failure| report_error::<S>(&failure));
    }
    if let Some((name, arguments)) = arguments.subcommand() {
        return match system.block_on(S::run_command(&config, name, arguments)) {
            Ok(code) => code,
            Err(failure) => {
                report_error::<S>(&failure);
                S::failed_command()
            }
        };
    }
    if let Err(failure) = telemetry::start(config.log(), S::NAME, &config.kafka().instance(S::NAME)) {
        return report_error::<S>(&failure);
    }
    match system.block_on(serve::<S>(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{} stops: {}", S::NAME, failure.chain());
            // At once: a thread that does not end would hold up the end of the runtime.
            std::process::exit(1)
        }
    }
}

/// The variable that names the file of settings.
fn file_variable(service: &str) -> String {
    format!("{}_CONFIG", config::prefix(service))
}

fn command<S: Service>() -> Command {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .action(ArgAction::Set)
        .global(true)
        .help(format!("Settings in TOML, or {}; every key can also be set in the environment", file_variable(S::NAME)));
    let prefix = config::prefix(S::NAME);
    Command::new(S::NAME)
        .about(S::ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .arg(file)
        .subcommand(
            Command::new("check")
                .about("Look at settings and surroundings, start nothing; exit code 1 if something is wrong"),
        )
        .subcommand(probe::command())
        .subcommands(S::commands())
        .after_help(format!("A key in the environment: {prefix}__KAFKA__BROKERS=127.0.0.1:9092"))
}

fn report_findings(findings: &[Finding]) -> ExitCode {
    let _ = std::io::stdout().write_all(check::render(findings).as_bytes());
    if findings.iter().all(|finding| finding.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report_error<S: Service>(failure: &Failure) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{}: {}", S::NAME, failure.chain());
    ExitCode::FAILURE
}

async fn serve<S: Service>(config: &S::Config) -> Result<(), Failure> {
    metrics::start();
    let health = Health::new(S::NAME, env!("CARGO_PKG_VERSION"));
    let control = Control::of(S::NAME);
    let own =
        Instance { service: S::NAME.to_owned(), instance: config.kafka().instance(S::NAME), port: config.http().port };
    let pipeline = Pipeline::new(own, config.console());
    let configuration = serde_json::to_value(config).unwrap_or_default();
    let api = Api {
        health: health.clone(),
        control: control.clone(),
        token: config.http().control_token.clone(),
        pipeline: pipeline.clone(),
        looker: Looker::new(config.kafka(), config.console(), S::NAME),
        records: config.console().records,
        configuration: configuration.clone(),
    };
    let serving = http::serve(config.http(), &health, api).await?;
    let handles: Vec<_> = serving.iter().map(|serving| serving.handle.clone()).collect();
    serving.into_iter().for_each(|serving| drop(actix::spawn(serving.server)));
    actix::spawn(beat(health.clone(), pulse::ROOT));
    let about = About {
        service: S::NAME,
        url: page_url(config.http(), config.console()),
        control_url: config.http().control_address().map(|(host, port)| format!("http://{host}:{port}")),
        takes_commands: !config.http().control_token.reveal().is_empty(),
        topology: config.topology(),
        configuration,
    };
    let teller = Teller::start(config.console(), config.kafka(), about, health.clone(), pipeline);
    tracing::info!(
        "{} {} answers on http://{}:{}",
        S::NAME,
        env!("CARGO_PKG_VERSION"),
        config.http().host,
        config.http().port
    );
    let who = Who { service: S::NAME, version: env!("CARGO_PKG_VERSION"), instance: config.kafka().instance(S::NAME) };
    let (traces, exporting) = Traces::start(config.traces(), &who)?;
    let ended = generations::<S>(config, (&health, &control, &traces)).await;
    health.enter(Phase::Stopped);
    // An instance that gives up says no good-bye: the console goes on to show why.
    if ended.is_ok() {
        teller.stop().await;
    }
    exporting.stop().await;
    for handle in handles {
        handle.stop(true).await;
    }
    ended
}

/// Where a browser finds the page of this instance.
fn page_url(http: &HttpConfig, console: &ConsoleConfig) -> String {
    if !console.url.is_empty() {
        return console.url.clone();
    }
    // Who listens on every address has a name, at least among its neighbours.
    let is_any = ["0.0.0.0", "::", "[::]"].contains(&http.host.as_str());
    let host = is_any.then(|| std::env::var("HOSTNAME").ok()).flatten().unwrap_or_else(|| http.host.clone());
    format!("http://{host}:{}", http.port)
}

/// Gives signs of life for as long as the thread that this runs in goes on.
async fn beat(health: Health, part: &'static str) {
    loop {
        health.beat(part);
        tokio::time::sleep(pulse::BEAT_EVERY).await;
    }
}

/// How a generation ended.
enum End {
    Asked,
    /// `lived` is how long the chain ran; `moved` tells whether anything became durable.
    Failed {
        failure: Failure,
        lived: Duration,
        moved: bool,
    },
}

/// What of the process outlives its generations.
type Kept<'a> = (&'a Health, &'a Control, &'a Traces);

/// Builds a chain, waits for its end, and builds the next, until the service is asked to stop or gives up.
async fn generations<S: Service>(config: &S::Config, kept: Kept<'_>) -> Result<(), Failure> {
    let health = kept.0;
    let broken =
        |error: std::io::Error| Failure::new(FailureKind::Broken, "signals cannot be received").caused_by(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    tokio::pin!(stop);
    let (mut in_a_row, mut given_up_on, mut said) = (0_u32, 0, Said::default());
    loop {
        let (failure, lived, moved) = match generation::<S>(config, kept, stop.as_mut()).await {
            End::Asked => return Ok(()),
            End::Failed { failure, lived, moved } => (failure, lived, moved),
        };
        metrics::GENERATION_FAILURES.with_label_values(&[failure.kind.as_str()]).inc();
        health.failed(&failure);
        if lived >= Duration::from_millis(config.restart().stable_after_ms) {
            (in_a_row, given_up_on) = (0, 0);
        }
        // What it failed on is not what the one before failed on.
        if moved {
            in_a_row = 0;
        }
        in_a_row += 1;
        // A server that is away comes back some day: it is waited for as long as it takes.
        given_up_on += u32::from(failure.kind != FailureKind::Unreachable);
        if !failure.kind.is_retried() || given_up_on > config.restart().attempts_max {
            return Err(failure);
        }
        let wait = backoff(config.restart(), in_a_row);
        tell(&failure, in_a_row, wait, &mut said);
        health.enter(Phase::BackingOff);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.as_mut() => return Ok(()),
        }
    }
}

fn tell(failure: &Failure, attempt: u32, wait: Duration, said: &mut Said) {
    let chain = failure.chain();
    let (kind, wait) = (failure.kind.as_str(), wait.as_millis());
    if said.is_news(&chain) {
        tracing::warn!(kind, attempt, "the chain starts again in {wait} ms: {chain}");
    } else {
        tracing::debug!(kind, attempt, "the chain starts again in {wait} ms: {chain}");
    }
}

/// The wait before restart number `attempt` in a row (from 1).
fn backoff(config: &RestartConfig, attempt: u32) -> Duration {
    let doubled = config.backoff_first_ms.saturating_mul(1 << (attempt - 1).min(20));
    Duration::from_millis(doubled.min(config.backoff_longest_ms))
}

async fn generation<S: Service>(
    config: &S::Config,
    (health, control, traces): Kept<'_>,
    mut stop: impl Future<Output = ()> + Unpin,
) -> End {
    health.enter(Phase::Starting);
    metrics::GENERATIONS.inc();
    let fate = Fate::default();
    let (arbiter, outlet) = (Arbiter::new(), Arbiter::new());
    arbiter.spawn(beat(health.clone(), pulse::ACTORS));
    outlet.spawn(beat(health.clone(), pulse::OUTLET));
    let lease = Lease::new(config.kafka().lease());
    let (renewed, ended) = (lease.clone(), fate.clone());
    let awake = std::thread::spawn(move || keep_awake(renewed, ended));
    let surroundings = Surroundings {
        fate: fate.clone(),
        health: health.clone(),
        arbiter: arbiter.handle(),
        outlet: outlet.handle(),
        lease,
        control: control.clone(),
        traces: traces.clone(),
    };
    let started = tokio::select! {
        started = S::start(config, surroundings) => Some(started),
        () = &mut stop => None,
    };
    let mut chain = match started {
        Some(Ok(chain)) => chain,
        ended => {
            fate.finish();
            let taken_down = take_down(Chain { threads: vec![awake] }, [arbiter, outlet], config).await;
            if ended.is_none() {
                return End::Asked;
            }
            // What a part of the chain said says more than that the start was given up.
            let failure = fate.take_failure().or(ended.and_then(Result::err)).or(taken_down.err());
            return failure.map_or(End::Asked, |failure| End::Failed { failure, lived: Duration::ZERO, moved: false });
        }
    };
    health.enter(Phase::Running);
    let running_since = Instant::now();
    let asked = tokio::select! {
        () = fate.ended() => false,
        () = &mut stop => true,
    };
    if asked {
        drain(config.restart(), health, &fate).await;
    }
    let (lived, moved) = (running_since.elapsed(), fate.has_moved());
    chain.threads.push(awake);
    let taken_down = take_down(chain, [arbiter, outlet], config).await;
    match taken_down.err().or_else(|| fate.take_failure()) {
        None if asked => End::Asked,
        None => End::Failed { failure: Failure::new(FailureKind::Broken, "the chain ended by itself"), lived, moved },
        Some(failure) if asked => {
            tracing::warn!("while draining: {}; the next start goes on from the durable position", failure.chain());
            End::Asked
        }
        Some(failure) => End::Failed { failure, lived, moved },
    }
}

/// Renews the lease as long as the process runs, and watches the clock. A thread of its own, so that neither long work nor a long answer of a server is taken
/// for a frozen process.
fn keep_awake(lease: Lease, fate: Fate) {
    let mut clock = Clock::read();
    loop {
        if let Err(failure) = lease.renew().and_then(|()| clock.check(lease.lasts())) {
            return fate.end(failure);
        }
        if fate.ended_within(Duration::from_millis(100)) {
            return;
        }
    }
}

/// Asked to stop: nothing new is taken in, what is in flight is acknowledged, within the bound.
async fn drain(config: &RestartConfig, health: &Health, fate: &Fate) {
    tracing::info!("asked to stop: draining");
    health.enter(Phase::Draining);
    fate.drain();
    if tokio::time::timeout(Duration::from_millis(config.drain_timeout_ms), fate.ended()).await.is_err() {
        tracing::warn!(
            "not drained within {} ms; the next start goes on from the durable position",
            config.drain_timeout_ms
        );
        fate.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound() {
        let config = RestartConfig { backoff_first_ms: 100, backoff_longest_ms: 500, ..RestartConfig::default() };
        let waits: Vec<_> = (1..=5).map(|attempt| backoff(&config, attempt).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 500, 500]);
        assert_eq!(backoff(&config, u32::MAX), Duration::from_millis(500));
    }
}
