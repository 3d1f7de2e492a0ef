//! The log: to standard error, human or JSON.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::prelude::*;

use crate::config::{LogConfig, LogFormat};
use crate::failure::{Failure, FailureKind};

/// Starts logging for the whole process. librdkafka's own lines come through as well.
pub fn start(config: &LogConfig) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| {
        Failure::new(FailureKind::Settings, format!("log.filter {:?} is not a log filter", config.filter))
            .caused_by(error)
            .cure("use a level such as `info`, or `info,rdkafka=debug`")
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Human => {
            registry.with(lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init()
        }
    };
    started.map_err(|error| Failure::new(FailureKind::Broken, "the log could not be started").caused_by(error))
}
