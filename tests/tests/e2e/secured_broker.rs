//! A Kafka of a test's own that takes nobody without TLS, and nobody who does not prove who it is.

use std::path::Path;

use lab::ports::free_port;
use shared::config::Secret;
use shared::kafka::KafkaConfig;
use shared::kafka::security::{Mechanism, Protocol, SecurityConfig};

use crate::further_broker::FurtherBroker;
use crate::stack::Stack;

pub const USER: &str = "orders-pipeline";
pub const PASSWORD: &str = "hunter2-of-kafka";

pub struct SecuredBroker {
    /// Wants user and password, over TLS.
    pub port: u16,
    /// Wants a certificate.
    pub certificate_port: u16,
    _broker: FurtherBroker,
}

impl SecuredBroker {
    /// With the certificate of this folder: see `Authority::folder_of_server`.
    pub fn start(stack: &Stack, tls: &Path) -> Self {
        let certificate_port = free_port().unwrap();
        let port_text = certificate_port.to_string();
        let variables = [
            ("TIDEMILL_TLS", tls.to_str().unwrap()),
            ("TIDEMILL_KAFKA_SSL_PORT", port_text.as_str()),
            ("TIDEMILL_KAFKA_USER", USER),
            ("TIDEMILL_KAFKA_PASSWORD", PASSWORD),
        ];
        let broker = FurtherBroker::start_with(stack, &variables);
        SecuredBroker { port: broker.port, certificate_port, _broker: broker }
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
