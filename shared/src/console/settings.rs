//! The settings of the console: what is told of an instance, what is shown of the others, and how much of the topics may be looked into.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FailureKind};

/// The section `[console]` of every service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    /// Where each instance tells its state, and reads what the others tell. Empty: it tells nothing and shows itself alone.
    pub topic: String,
    /// Where a browser reaches this instance. Empty: `http://` and the host and port of `[http]`.
    pub url: String,
    /// How often it tells.
    pub interval_ms: u64,
    /// Who has told nothing for so long is shown as gone.
    pub gone_after_ms: u64,
    /// Who has told nothing for so long is shown no more; as long the topic keeps what was told.
    pub forgotten_after_ms: u64,
    /// What is told at a time; where it is longer, the details and the configuration stay out.
    pub state_bytes_max: usize,
    /// Instances that are shown.
    pub instances_max: usize,
    /// Latency and waiting are those of the last so many seconds.
    pub window_s: u64,
    /// Who may see records.
    pub records: Records,
    /// Looks into topics at a time; one more is refused.
    pub looks_at_once: usize,
    /// A look that takes longer is given up.
    pub look_timeout_ms: u64,
    /// Records of one answer.
    pub look_records_max: usize,
    /// Bytes of one answer, about.
    pub look_bytes_max: usize,
    /// The newest records of a partition that are searched for a key.
    pub search_records_max: u32,
}

/// Who may see records. They hold what the tables hold, personal data too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Records {
    /// Who has `http.control_token`; nobody where none is set.
    Token,
    /// Who reaches the port.
    Open,
    Off,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        ConsoleConfig {
            topic: "tidemill_state".into(),
            url: String::new(),
            interval_ms: 1_000,
            gone_after_ms: 10_000,
            forgotten_after_ms: 3_600_000,
            state_bytes_max: 256 << 10,
            instances_max: 100,
            window_s: 60,
            records: Records::Token,
            looks_at_once: 2,
            look_timeout_ms: 10_000,
            look_records_max: 200,
            look_bytes_max: 4 << 20,
            search_records_max: 1_000_000,
        }
    }
}

impl ConsoleConfig {
    /// What can be seen to be wrong without asking the broker.
    pub fn validate(&self) -> Result<(), Failure> {
        let least: [(&str, u64, u64); 9] = [
            ("interval_ms", self.interval_ms, 100),
            ("gone_after_ms", self.gone_after_ms, self.interval_ms.saturating_mul(2)),
            ("forgotten_after_ms", self.forgotten_after_ms, self.gone_after_ms),
            ("state_bytes_max", self.state_bytes_max as u64, 4 << 10),
            ("instances_max", self.instances_max as u64, 1),
            ("window_s", self.window_s, 10),
            ("looks_at_once", self.looks_at_once as u64, 1),
            ("look_timeout_ms", self.look_timeout_ms, 100),
            ("look_records_max", self.look_records_max as u64, 1),
        ];
        match least.into_iter().find(|(_, set, least)| set < least) {
            None => Ok(()),
            Some((key, set, least)) => Err(Failure::new(FailureKind::Settings, format!("console.{key} is {set}"))
                .cure(format!("set at least {least}"))),
        }
    }

    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }

    pub fn look_timeout(&self) -> Duration {
        Duration::from_millis(self.look_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        assert!(ConsoleConfig::default().validate().is_ok());
        let wrong = ConsoleConfig { gone_after_ms: 1_500, ..ConsoleConfig::default() };
        assert!(wrong.validate().unwrap_err().chain().contains("console.gone_after_ms is 1500"));
    }
}
