//! The settings of traces.

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureKind};

/// The section `[traces]` of every service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TracesConfig {
    /// Where spans go, by OTLP over HTTP: `http://host:4318`. Empty: traces are off.
    pub endpoint: String,
    /// The share of commits that are traced. All services need the same one.
    pub sample_ratio: f64,
    /// Spans that wait to be sent; one more is dropped. As many ids are remembered, so that none is given twice.
    pub queue_spans_max: usize,
    /// Spans of one request.
    pub batch_spans_max: usize,
    /// How long a request that is not full waits for more.
    pub export_interval_ms: u64,
    /// Longest wait for the answer to a request, and for the last spans when the service stops.
    pub timeout_ms: u64,
    /// Tries of one request, `export_interval_ms` apart, then twice as long and so on; then its spans are given up.
    pub attempts_max: u32,
}

impl Default for TracesConfig {
    fn default() -> Self {
        TracesConfig {
            endpoint: String::new(),
            sample_ratio: 0.01,
            queue_spans_max: 8_192,
            batch_spans_max: 512,
            export_interval_ms: 1_000,
            timeout_ms: 5_000,
            attempts_max: 5,
        }
    }
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `http://host:port`
    pub server: String,
    pub path: String,
}

impl TracesConfig {
    /// What can be seen to be wrong without asking anybody.
    pub fn validate(&self) -> Result<(), Failure> {
        self.endpoint()?;
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(Failure::new(FailureKind::Settings, format!("traces.sample_ratio is {}", self.sample_ratio))
                .cure("set a number from 0 to 1"));
        }
        let least: [(&str, u64); 5] = [
            ("queue_spans_max", self.queue_spans_max as u64),
            ("batch_spans_max", self.batch_spans_max as u64),
            ("export_interval_ms", self.export_interval_ms),
            ("timeout_ms", self.timeout_ms),
            ("attempts_max", u64::from(self.attempts_max)),
        ];
        match least.into_iter().find(|(_, set)| *set < 1) {
            None => Ok(()),
            Some((key, set)) => {
                Err(Failure::new(FailureKind::Settings, format!("traces.{key} is {set}")).cure("set at least 1"))
            }
        }
    }

    /// `None`: traces are off.
    pub fn endpoint(&self) -> Result<Option<Endpoint>, Failure> {
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let wrong = || {
            Failure::new(FailureKind::Settings, format!("traces.endpoint {:?} is not http://HOST:PORT", self.endpoint)).cure(
                "name a collector or agent nearby, as http://127.0.0.1:4318; it can send on with TLS and credentials",
            )
        };
        let rest = self.endpoint.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
        let (authority, base) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        if host.is_empty()
            || port.parse::<u16>().is_err()
            || rest.contains(|character: char| character.is_whitespace() || character == '@')
        {
            return Err(wrong());
        }
        let base = if base.is_empty() { String::new() } else { format!("/{base}") };
        Ok(Some(Endpoint { server: format!("http://{authority}"), path: format!("{base}/v1/traces") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Result<Option<Endpoint>, Failure> {
        TracesConfig { endpoint: text.into(), ..TracesConfig::default() }.endpoint()
    }

    #[test]
    fn the_path_of_traces_is_added() {
        let found = |text| endpoint(text).unwrap().map(|found| (found.server, found.path));
        let is = |server: &str, path: &str| Some((server.to_owned(), path.to_owned()));
        assert_eq!(found(""), None);
        assert_eq!(found("http://127.0.0.1:4318"), is("http://127.0.0.1:4318", "/v1/traces"));
        assert_eq!(found("http://[::1]:4318/"), is("http://[::1]:4318", "/v1/traces"));
        assert_eq!(found("http://gateway:80/otlp/"), is("http://gateway:80", "/otlp/v1/traces"));
    }

    #[test]
    fn what_cannot_be_reached_so_is_refused() {
        for wrong in [
            "https://host:4318",
            "host:4318",
            "http://host",
            "http://:4318",
            "http://host:x",
            "http://u@host:1",
            "http://a b:1",
        ] {
            assert_eq!(endpoint(wrong).unwrap_err().kind, FailureKind::Settings, "{wrong}");
        }
    }

    #[test]
    fn bounds_have_a_least_value() {
        let config = TracesConfig::default();
        assert!(config.validate().is_ok());
        assert!(TracesConfig { sample_ratio: 1.1, ..config.clone() }.validate().is_err());
        assert!(TracesConfig { sample_ratio: f64::NAN, ..config.clone() }.validate().is_err());
        assert!(TracesConfig { queue_spans_max: 0, ..config }.validate().is_err());
    }
}
