//! TLS to PostgreSQL: how much of it, and what it means when it does not come about.

use std::fmt;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgSslMode;

use super::PostgresConfig;
use crate::config;
use crate::failure::{Failure, FailureKind};

/// PostgreSQL's own `sslmode`, without `allow`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    #[default]
    Disable,
    /// TLS where the server has it. It protects from nobody who can change what goes over the line.
    Prefer,
    /// TLS, whoever the server is.
    Require,
    /// TLS, with a server whose certificate one of our authorities signed.
    VerifyCa,
    /// The same, and the certificate is for this host.
    VerifyFull,
}

impl SslMode {
    pub(super) fn of_client(self) -> PgSslMode {
        match self {
            SslMode::Disable => PgSslMode::Disable,
            SslMode::Prefer => PgSslMode::Prefer,
            SslMode::Require => PgSslMode::Require,
            SslMode::VerifyCa => PgSslMode::VerifyCa,
            SslMode::VerifyFull => PgSslMode::VerifyFull,
        }
    }

    fn verifies(self) -> bool {
        matches!(self, SslMode::VerifyCa | SslMode::VerifyFull)
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        })
    }
}

impl PostgresConfig {
    /// What can be seen to be wrong without asking the server. `section` is the place in the settings. A key that would not be heeded is
    /// refused: whoever names an authority believes in a protection that would not be there.
    pub fn validate(&self, section: &str) -> Result<(), Failure> {
        let wrong = |what: String, cure: String| Err(Failure::new(FailureKind::Settings, what).cure(cure));
        let (mode, has_own) = (self.sslmode, !self.certificate_file.is_empty());
        if mode.verifies() && self.ca_file.is_empty() {
            return wrong(
                format!("{section}.sslmode is {mode}, and {section}.ca_file is empty"),
                format!("set {section}.ca_file to the certificate of the authority that signed the server's"),
            );
        }
        if !mode.verifies() && !self.ca_file.is_empty() {
            return wrong(
                format!("{section}.ca_file is set, and {section}.sslmode {mode} does not look at it"),
                format!("set {section}.sslmode to verify-full"),
            );
        }
        if mode == SslMode::Disable && has_own {
            return wrong(
                format!("{section}.certificate_file is set, and {section}.sslmode is disable"),
                format!("set {section}.sslmode to verify-full"),
            );
        }
        if has_own == self.key_file.is_empty() {
            return wrong(
                format!("{section} has a certificate or a key, not both"),
                format!("set {section}.certificate_file and {section}.key_file, or neither"),
            );
        }
        let files =
            [("ca_file", &self.ca_file), ("certificate_file", &self.certificate_file), ("key_file", &self.key_file)];
        files.iter().try_for_each(|(key, file)| config::can_be_read(&format!("{section}.{key}"), file))
    }
}

/// Chooses who does the cryptography, once for the process: two libraries are linked (ADR 12), and rustls takes neither by itself.
pub(super) fn choose_cryptography() {
    // An error says that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What it means, and what to do, when TLS or the way in does not come about in these words; `None`: they are about something else.
pub fn refused_connection(words: &str) -> Option<(FailureKind, &'static str)> {
    let says = |part: &str| words.contains(part);
    let cure = if says("not valid for name") {
        "set host to a name that the server's certificate has (subjectAltName), or have one made for this host"
    } else if says("invalid peer certificate") {
        "set ca_file to the certificate of the authority that signed the server's, and see that the server's has not expired"
    } else if says("server does not support TLS") {
        "turn TLS on at the server (ssl = on), or set sslmode to disable"
    } else if says("no encryption") {
        "the server may want TLS: set sslmode to verify-full, and ca_file; or correct its pg_hba.conf"
    } else if says("client certificate") {
        "set certificate_file and key_file to a certificate that the server trusts"
    } else {
        return None;
    };
    Some((FailureKind::Settings, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_not_be_heeded_is_refused() {
        let file = file!().replace("shared/", "");
        let with = |sslmode, ca_file: &str, certificate_file: &str, key_file: &str| PostgresConfig {
            sslmode,
            ca_file: ca_file.into(),
            certificate_file: certificate_file.into(),
            key_file: key_file.into(),
            ..PostgresConfig::default()
        };
        for (config, words) in [
            (with(SslMode::VerifyFull, "", "", ""), "source.ca_file is empty"),
            (with(SslMode::VerifyCa, "", "", ""), "source.ca_file is empty"),
            (with(SslMode::Require, &file, "", ""), "does not look at it"),
            (with(SslMode::Disable, "", &file, &file), "source.sslmode is disable"),
            (with(SslMode::VerifyFull, &file, &file, ""), "not both"),
            (with(SslMode::VerifyFull, &file, "", &file), "not both"),
            (with(SslMode::VerifyFull, "absent.pem", "", ""), "source.ca_file absent.pem cannot be read"),
        ] {
            let failure = config.validate("source").unwrap_err();
            assert!(failure.chain().contains(words), "{}", failure.chain());
        }
        for config in [
            with(SslMode::Disable, "", "", ""),
            with(SslMode::Prefer, "", "", ""),
            with(SslMode::Require, "", &file, &file),
            with(SslMode::VerifyFull, &file, &file, &file),
        ] {
            assert!(config.validate("source").is_ok(), "{config:?}");
        }
    }

    #[test]
    fn words_that_are_about_something_else_have_no_meaning_here() {
        for words in ["connection refused", "password authentication failed for user \"x\""] {
            assert_eq!(refused_connection(words), None, "{words}");
        }
    }
}
