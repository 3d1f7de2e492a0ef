//! A Kafka of a test's own that takes nobody without TLS, and nobody who does not prove who it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use lab::ports::free_port;
use shared::config::Secret;
use shared::kafka::KafkaConfig;
use shared::kafka::security::{Mechanism, Protocol, SecurityConfig};

use crate::stack::Stack;

pub const USER: &str = "orders-pipeline";
pub const PASSWORD: &str = "hunter2-of-kafka";

/// Killed at the end, with its data.
pub struct SecuredBroker {
    /// Wants user and password, over TLS.
    pub port: u16,
    /// Wants a certificate.
    pub certificate_port: u16,
    script: PathBuf,
    state: PathBuf,
}

impl SecuredBroker {
    /// With the certificate of this folder: see `Authority::folder_of_server`.
    pub fn start(stack: &Stack, tls: &Path) -> Self {
        let state = stack.environment.logs.join(format!("{}-kafka", stack.name));
        let (port, certificate_port) = (free_port().unwrap(), free_port().unwrap());
        let script = stack.environment.servers_script.clone();
        let broker = SecuredBroker { port, certificate_port, script, state };
        let mut start = broker.command("start");
        start.env("TIDEMILL_TLS", tls);
        let controller = free_port().unwrap();
        for (variable, port) in [("", port), ("CONTROLLER_", controller), ("SSL_", certificate_port)] {
            start.env(format!("TIDEMILL_KAFKA_{variable}PORT"), port.to_string());
        }
        let answer = start.arg("kafka").output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        broker
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.script);
        command.arg(what).env("TIDEMILL_STATE", &self.state);
        command.env("TIDEMILL_KAFKA_USER", USER).env("TIDEMILL_KAFKA_PASSWORD", PASSWORD);
        command
    }

    /// How a client comes in with a password.
    pub fn client(&self, ca_file: &str) -> KafkaConfig {
        let security = SecurityConfig {
            protocol: Protocol::SaslSsl,
            mechanism: Mechanism::ScramSha512,
            user: USER.into(),
            password: Secret::new(PASSWORD),
            ca_file: ca_file.to_owned(),
            ..SecurityConfig::default()
        };
        KafkaConfig { brokers: format!("localhost:{}", self.port), security, ..KafkaConfig::default() }
    }
}

impl Drop for SecuredBroker {
    fn drop(&mut self) {
        let _ = self.command("wipe").output();
    }
}
