//! TLS and SASL: how a client knows the broker, and proves who it is; and what it means when either is refused.

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use serde::{Deserialize, Serialize};

use crate::config::{self, Secret};
use crate::failure::{Failure, FailureKind};

/// The section `[kafka.security]`. All clients of Kafka go by it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityConfig {
    pub protocol: Protocol,
    /// How the password is proved.
    pub mechanism: Mechanism,
    pub user: String,
    pub password: Secret,
    /// Certificates (PEM) of the authorities that may have signed the broker's. Empty: those of the system.
    pub ca_file: String,
    /// Our own certificate (PEM), where the broker asks for one.
    pub certificate_file: String,
    /// Its private key (PEM).
    pub key_file: String,
    /// The password of the key's file. Empty: it has none.
    pub key_password: Secret,
}

/// What is spoken at the broker's port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Plaintext,
    /// TLS; who we are is said by a certificate, or not at all.
    Ssl,
    /// User and password over a plain connection.
    SaslPlaintext,
    /// User and password over TLS.
    SaslSsl,
}

/// How a password is proved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// The password itself goes over the line.
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Plaintext => "plaintext",
            Protocol::Ssl => "ssl",
            Protocol::SaslPlaintext => "sasl_plaintext",
            Protocol::SaslSsl => "sasl_ssl",
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Protocol::Ssl | Protocol::SaslSsl)
    }

    fn has_sasl(self) -> bool {
        matches!(self, Protocol::SaslPlaintext | Protocol::SaslSsl)
    }
}

impl Mechanism {
    fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl SecurityConfig {
    /// What can be seen to be wrong without asking the broker. A key that would not be heeded is refused: whoever sets a password or an
    /// authority believes in a protection that would not be there.
    pub fn validate(&self) -> Result<(), Failure> {
        let protocol = self.protocol.name();
        let wrong = |what: String, cure: &str| Err(Failure::new(FailureKind::Settings, what).cure(cure));
        let has_user = !self.user.is_empty() || !self.password.reveal().is_empty();
        let has_files = [&self.ca_file, &self.certificate_file, &self.key_file].iter().any(|file| !file.is_empty());
        if self.protocol.has_sasl() && (self.user.is_empty() || self.password.reveal().is_empty()) {
            return wrong(
                format!("kafka.security.protocol is {protocol}, which wants user and password"),
                "set kafka.security.user and kafka.security.password, or password_file",
            );
        }
        if !self.protocol.has_sasl() && has_user {
            return wrong(
                format!("kafka.security has a user or a password, which protocol {protocol} does not send"),
                "set kafka.security.protocol to sasl_ssl",
            );
        }
        if !self.protocol.has_tls() && has_files {
            return wrong(
                format!("kafka.security names certificates, and protocol {protocol} has no TLS"),
                "set kafka.security.protocol to ssl or sasl_ssl",
            );
        }
        if self.certificate_file.is_empty() != self.key_file.is_empty() {
            return wrong(
                "kafka.security has a certificate or a key, not both".into(),
                "set kafka.security.certificate_file and kafka.security.key_file, or neither",
            );
        }
        if self.key_file.is_empty() && !self.key_password.reveal().is_empty() {
            return wrong(
                "kafka.security has the password of a key, and names no key".into(),
                "set kafka.security.key_file, or leave out key_password",
            );
        }
        let files =
            [("ca_file", &self.ca_file), ("certificate_file", &self.certificate_file), ("key_file", &self.key_file)];
        files.iter().try_for_each(|(key, file)| config::can_be_read(&format!("kafka.security.{key}"), file))
    }

    pub(super) fn apply(&self, client: &mut ClientConfig) {
        client.set("security.protocol", self.protocol.name());
        if self.protocol.has_tls() {
            // A client that is linked with a library of its own does not know where this system keeps its authorities: it looks.
            let ca_file = if self.ca_file.is_empty() { "probe" } else { &self.ca_file };
            client.set("ssl.ca.location", ca_file).set("ssl.endpoint.identification.algorithm", "https");
            let own = [
                ("ssl.certificate.location", self.certificate_file.as_str()),
                ("ssl.key.location", self.key_file.as_str()),
                ("ssl.key.password", self.key_password.reveal()),
            ];
            own.into_iter().filter(|(_, value)| !value.is_empty()).for_each(|(key, value)| {
                client.set(key, value);
            });
        }
        if self.protocol.has_sasl() {
            client
                .set("sasl.mechanism", self.mechanism.name())
                .set("sasl.username", &self.user)
                .set("sasl.password", self.password.reveal());
        }
    }
}

/// Why a client has no connection, in librdkafka's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub code: RDKafkaErrorCode,
    pub reason: String,
}

/// What a refusal means, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub kind: FailureKind,
    /// Stands behind "Kafka at …".
    pub what: &'static str,
    pub cure: &'static str,
}

impl Refusal {
    /// `None` where the client does not say why, or has made nothing of it yet.
    pub fn of(code: RDKafkaErrorCode, reason: &str) -> Option<Self> {
        use RDKafkaErrorCode::{Authentication, BrokerTransportFailure, Resolve, SSL};
        let tells = matches!(code, Authentication | SSL | BrokerTransportFailure | Resolve);
        tells.then(|| Refusal { code, reason: reason.to_owned() })
    }

    /// Of several addresses of a broker, one may be closed and another refuse us: what is said of us tells more.
    pub fn tells_as_much_as(&self, other: &Refusal) -> bool {
        self.meaning().is_some() || other.meaning().is_none()
    }

    /// `None`: the broker is away. Only a certificate or a password that is refused ends the process: a broker that breaks off while it
    /// stops looks like one that speaks another protocol.
    pub fn meaning(&self) -> Option<Meaning> {
        let meaning = |kind, what, cure| Some(Meaning { kind, what, cure });
        let says = |words: &str| self.reason.contains(words);
        match self.code {
            RDKafkaErrorCode::Authentication => meaning(
                FailureKind::Settings,
                "refuses our user or password",
                "correct user, password and mechanism of [kafka.security]",
            ),
            // An alert comes behind the handshake, when the connection is in use already.
            _ if says("alert") && (says("certificate") || says("unknown ca")) => meaning(
                FailureKind::Settings,
                "wants a certificate of ours",
                "set kafka.security.certificate_file and kafka.security.key_file to a certificate that the broker trusts",
            ),
            // The client does not say which of the two it is.
            RDKafkaErrorCode::SSL if says("verify failed") => meaning(
                FailureKind::Settings,
                "has a certificate that is not trusted, or is for another name",
                "set kafka.security.ca_file to the certificate of the authority that signed the broker's, and name the broker in kafka.brokers \
                 as its certificate does (subjectAltName)",
            ),
            code if code == RDKafkaErrorCode::SSL || says("PLAINTEXT broker listener") => meaning(
                FailureKind::Unreachable,
                "does not speak TLS with us",
                "correct kafka.brokers and kafka.security.protocol: this may be a port without TLS; the service tries again by itself",
            ),
            // The first question to the broker was not understood.
            _ if says("Disconnected") && says("in state APIVERSION_QUERY") => meaning(
                FailureKind::Unreachable,
                "breaks off the connection",
                "correct kafka.security.protocol: this may be a port that wants TLS or a password; the service tries again by itself",
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(protocol: Protocol, change: impl FnOnce(&mut SecurityConfig)) -> SecurityConfig {
        let mut config = SecurityConfig { protocol, ..SecurityConfig::default() };
        change(&mut config);
        config
    }

    #[test]
    fn what_would_not_be_heeded_is_refused() {
        let wrong = [
            with(Protocol::SaslSsl, |_| {}),
            with(Protocol::SaslSsl, |config| config.user = "me".into()),
            with(Protocol::Ssl, |config| config.password = Secret::new("hunter2")),
            with(Protocol::Plaintext, |config| config.user = "me".into()),
            with(Protocol::Plaintext, |config| config.ca_file = "ca.pem".into()),
            with(Protocol::Ssl, |config| config.key_file = "key.pem".into()),
        ];
        for config in wrong {
            let failure = config.validate().unwrap_err();
            assert_eq!(failure.kind, FailureKind::Settings);
            assert!(!failure.chain().contains("hunter2"));
        }
        assert!(SecurityConfig::default().validate().is_ok());
        let absent = with(Protocol::Ssl, |config| config.ca_file = "absent.pem".into()).validate().unwrap_err();
        assert!(absent.chain().contains("kafka.security.ca_file absent.pem cannot be read"));
    }

    #[test]
    fn a_client_gets_what_its_protocol_needs_and_no_more() {
        let set = |config: &SecurityConfig| {
            let mut client = ClientConfig::new();
            config.apply(&mut client);
            client
        };
        let plain = set(&SecurityConfig::default());
        assert_eq!((plain.get("security.protocol"), plain.get("sasl.username")), (Some("plaintext"), None));
        assert_eq!(plain.get("ssl.ca.location"), None);
        let config = with(Protocol::SaslSsl, |config| {
            config.user = "me".into();
            config.password = Secret::new("hunter2");
            config.mechanism = Mechanism::ScramSha256;
        });
        let sasl = set(&config);
        assert_eq!((sasl.get("sasl.mechanism"), sasl.get("sasl.password")), (Some("SCRAM-SHA-256"), Some("hunter2")));
        assert_eq!((sasl.get("ssl.ca.location"), sasl.get("ssl.key.location")), (Some("probe"), None));
        assert!(!format!("{config:?} {}", serde_json::to_string(&config).unwrap()).contains("hunter2"));
    }

    #[test]
    fn a_broker_that_is_away_is_waited_for_and_one_that_refuses_us_is_not() {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, BrokerTransportFailure, SSL};
        let kind = |code, reason| Refusal::of(code, reason).and_then(|refusal| refusal.meaning()).map(|it| it.kind);
        assert_eq!(kind(AllBrokersDown, "2/2 brokers are down"), None);
        assert_eq!(kind(BrokerTransportFailure, "Connect to ipv4#127.0.0.1:1 failed: Connection refused"), None);
        assert_eq!(kind(Authentication, "invalid credentials"), Some(FailureKind::Settings));
        assert_eq!(kind(SSL, "certificate verify failed"), Some(FailureKind::Settings));
        assert_eq!(kind(BrokerTransportFailure, "sslv3 alert bad certificate"), Some(FailureKind::Settings));
        let breaks_off =
            "Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in state APIVERSION_QUERY)";
        assert_eq!(kind(BrokerTransportFailure, breaks_off), Some(FailureKind::Unreachable));
        let no_tls = "SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener?";
        assert_eq!(kind(BrokerTransportFailure, no_tls), Some(FailureKind::Unreachable));
        let refused = Refusal::of(SSL, "certificate verify failed").unwrap();
        let closed = Refusal::of(BrokerTransportFailure, "Connection refused").unwrap();
        assert!(refused.tells_as_much_as(&closed) && !closed.tells_as_much_as(&refused));
    }
}
