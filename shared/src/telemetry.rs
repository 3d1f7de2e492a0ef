//! The log: to standard error, human or JSON. Each line says who writes it.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Full, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogConfig, LogFormat};
use crate::failure::{Failure, FailureKind};

/// Starts logging for the whole process. librdkafka's own lines come through as well.
pub fn start(config: &LogConfig, service: &'static str, instance: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| {
        Failure::new(FailureKind::Settings, format!("log.filter {:?} is not a log filter", config.filter))
            .caused_by(error)
            .cure("use a level such as `info`, or `info,rdkafka=debug`")
    })?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match config.format {
        LogFormat::Json => {
            let lines = lines.fmt_fields(JsonFields::new()).event_format(JsonLines::of(service, instance));
            registry.with(lines).try_init()
        }
        LogFormat::Human => {
            let lines = lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
            registry.with(lines.event_format(HumanLines::of(service))).try_init()
        }
    };
    started.map_err(|error| Failure::new(FailureKind::Broken, "the log could not be started").caused_by(error))
}

/// `{"service":"dwd-cleaner","instance":"…","release":"0.1.0","timestamp":…}`: the fields of the event follow. The program's version is not
/// named `version`: that is a row's.
struct JsonLines {
    /// The line's beginning, without the brace.
    who: String,
    rest: Format<Json>,
}

impl JsonLines {
    fn of(service: &str, instance: &str) -> Self {
        let who = serde_json::json!({"service": service, "instance": instance, "release": env!("CARGO_PKG_VERSION")});
        let who = who.to_string().trim_end_matches('}').to_owned();
        JsonLines { who, rest: tracing_subscriber::fmt::format().json().flatten_event(true).with_target(false) }
    }
}

impl<S> FormatEvent<S, JsonFields> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.rest.format_event(context, Writer::new(&mut line), event)?;
        let fields = line.strip_prefix('{').ok_or(fmt::Error)?;
        write!(writer, "{},{fields}", self.who)
    }
}

/// `dwd-cleaner 2025-07-12T02:32:59.555Z  WARN …`.
struct HumanLines {
    service: &'static str,
    rest: Format<Full>,
}

impl HumanLines {
    fn of(service: &'static str) -> Self {
        HumanLines { service, rest: tracing_subscriber::fmt::format().with_target(false) }
    }
}

impl<S> FormatEvent<S, DefaultFields> for HumanLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, DefaultFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "{} ", self.service)?;
        self.rest.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn say_something() {
        tracing::warn!(partition = 3, version = %"1.2.3.0", "\"bad\"");
    }

    #[test]
    fn a_line_of_json_names_who_writes_it() {
        let page = Page::default();
        let to = page.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || to.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines::of("dwd-cleaner", "a \"name\""));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say_something);
        let line: serde_json::Value = serde_json::from_str(&page.text()).unwrap();
        for (field, value) in [
            ("service", "dwd-cleaner"),
            ("instance", "a \"name\""),
            ("release", env!("CARGO_PKG_VERSION")),
            ("level", "WARN"),
            ("version", "1.2.3.0"),
            ("message", "\"bad\""),
        ] {
            assert_eq!(line[field], value, "{field}");
        }
        assert_eq!(line["partition"], 3);
        assert!(page.text().ends_with("}\n"));
    }

    #[test]
    fn a_human_line_begins_with_the_service() {
        let page = Page::default();
        let to = page.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || to.clone())
            .with_ansi(false)
            .event_format(HumanLines::of("dwd-cleaner"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), say_something);
        let text = page.text();
        assert!(text.starts_with("dwd-cleaner 2"), "{text}");
        assert!(text.ends_with("WARN \"bad\" partition=3 version=1.2.3.0\n"), "{text}");
    }
}
