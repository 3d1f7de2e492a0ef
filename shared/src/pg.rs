//! PostgreSQL: settings of a connection, and what its errors mean.

pub mod tls;

use serde::{Deserialize, Deserializer, Serialize};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use self::tls::{SslMode, refused_connection};
use crate::config::Secret;
use crate::failure::{Failure, FailureKind};

/// How to reach a PostgreSQL server.
#[derive(Debug, Clone, Serialize)]
pub struct PostgresConfig {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Secret,
    pub sslmode: SslMode,
    /// Certificates (PEM) of the authorities that may have signed the server's.
    pub ca_file: String,
    /// Our own certificate (PEM), where the server asks for one.
    pub certificate_file: String,
    /// Its private key (PEM).
    pub key_file: String,
    /// Longest wait for a connection.
    pub connect_timeout_ms: u64,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        PostgresConfig {
            host: "127.0.0.1".into(),
            port: 5432,
            database: "postgres".into(),
            user: "postgres".into(),
            password: Secret::default(),
            sslmode: SslMode::Disable,
            ca_file: String::new(),
            certificate_file: String::new(),
            key_file: String::new(),
            connect_timeout_ms: 5_000,
        }
    }
}

/// Session settings under which values have one text form, whatever the server's or the role's defaults are.
pub const TEXT_FORM: [(&str, &str); 8] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("quote_all_identifiers", "off"),
    ("standard_conforming_strings", "on"),
];

impl PostgresConfig {
    /// Reads a section over these defaults, so that naming one key leaves the others as they are.
    pub fn given<'de, D: Deserializer<'de>>(self, section: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Given {
            host: Option<String>,
            port: Option<u16>,
            database: Option<String>,
            user: Option<String>,
            password: Option<Secret>,
            sslmode: Option<SslMode>,
            ca_file: Option<String>,
            certificate_file: Option<String>,
            key_file: Option<String>,
            connect_timeout_ms: Option<u64>,
        }
        let given = Given::deserialize(section)?;
        Ok(PostgresConfig {
            host: given.host.unwrap_or(self.host),
            port: given.port.unwrap_or(self.port),
            database: given.database.unwrap_or(self.database),
            user: given.user.unwrap_or(self.user),
            password: given.password.unwrap_or(self.password),
            sslmode: given.sslmode.unwrap_or(self.sslmode),
            ca_file: given.ca_file.unwrap_or(self.ca_file),
            certificate_file: given.certificate_file.unwrap_or(self.certificate_file),
            key_file: given.key_file.unwrap_or(self.key_file),
            connect_timeout_ms: given.connect_timeout_ms.unwrap_or(self.connect_timeout_ms),
        })
    }

    /// For messages: who connects where, without the password.
    pub fn address(&self) -> String {
        format!("{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }

    fn options(&self, application: &str, settings: &[(&str, &str)]) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.database)
            .username(&self.user)
            .password(self.password.reveal())
            .ssl_mode(self.sslmode.of_client())
            .application_name(application)
            .options(TEXT_FORM.iter().chain(settings).copied())
            .disable_statement_logging();
        if !self.ca_file.is_empty() {
            options = options.ssl_root_cert(&self.ca_file);
        }
        if !self.certificate_file.is_empty() {
            options = options.ssl_client_cert(&self.certificate_file).ssl_client_key(&self.key_file);
        }
        options
    }

    /// Opens a connection.
    pub async fn connect(&self, application: &str) -> Result<PgConnection, Failure> {
        self.connect_with(application, &[]).await
    }

    /// Opens a connection with further session settings.
    pub async fn connect_with(&self, application: &str, settings: &[(&str, &str)]) -> Result<PgConnection, Failure> {
        tls::choose_cryptography();
        let wait = std::time::Duration::from_millis(self.connect_timeout_ms);
        match tokio::time::timeout(wait, self.options(application, settings).connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.connect_failure(error)),
            Err(_) => Err(Failure::new(
                FailureKind::Unreachable,
                format!("PostgreSQL at {} did not answer within {} ms", self.address(), self.connect_timeout_ms),
            )
            .cure("start the server, or correct host and port")),
        }
    }

    fn connect_failure(&self, error: sqlx::Error) -> Failure {
        let code = error.as_database_error().and_then(|found| found.code()).map(|code| code.into_owned());
        let (kind, cure) = refused_connection(&error.to_string()).unwrap_or_else(|| of_connect(code.as_deref()));
        Failure::new(kind, format!("cannot connect to PostgreSQL as {}", self.address())).caused_by(error).cure(cure)
    }
}

/// What it means, and what to do, when a connection is refused with this code, or without any.
fn of_connect(code: Option<&str>) -> (FailureKind, &'static str) {
    match code {
        Some("28P01" | "28000") => (FailureKind::Settings, "correct user and password of the configuration"),
        Some("3D000") => (FailureKind::Settings, "correct the database's name, or make the database"),
        Some("42501") => (FailureKind::Settings, "grant CONNECT on the database to this role"),
        Some("53300") => (FailureKind::Refused, "raise max_connections of the server"),
        // It starts, recovers or stops: it may take as long as one that is away.
        Some("57P01" | "57P02" | "57P03") => {
            (FailureKind::Unreachable, "wait until the server is up; the service tries again by itself")
        }
        Some(_) => (FailureKind::Refused, "look at the server's log; the service tries again by itself"),
        None => {
            (FailureKind::Unreachable, "start the server, or correct host and port; the service tries again by itself")
        }
    }
}

/// A statement that failed: what it was for, and the server's words.
pub fn refused(what: impl Into<String>, error: sqlx::Error) -> Failure {
    let code = error.as_database_error().and_then(|found| found.code()).map(|code| code.into_owned());
    let what = what.into();
    match code.as_deref() {
        Some("42501") => Failure::new(FailureKind::Settings, what).caused_by(error).cure(
            "grant the role what the message names; the SQL files of postgres_source and postgres_sink show all grants",
        ),
        Some("42P01" | "42703" | "3F000") => Failure::new(FailureKind::Settings, what)
            .caused_by(error)
            .cure("make the schema, table or column; the SQL files of postgres_source and postgres_sink have them"),
        Some(_) => Failure::new(FailureKind::Refused, what).caused_by(error),
        None => Failure::new(FailureKind::Unreachable, what).caused_by(error),
    }
}

/// A statement that failed on a table whose shape may just have changed: the next generation looks at it anew.
pub fn refused_for_now(what: impl Into<String>, error: sqlx::Error) -> Failure {
    let kind = if error.as_database_error().is_some() { FailureKind::Refused } else { FailureKind::Unreachable };
    Failure::new(kind, what).caused_by(error)
}

/// An SQL identifier in quotes.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn unquoted(part: &str) -> String {
    match part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => part.to_owned(),
    }
}

/// A table by schema and name; `orders` alone means `public.orders`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    /// Reads `schema.table`. The schema ends at the first dot outside of double quotes; a part in double quotes stands for itself, with
    /// `""` for a quote. Nothing is folded to lower case.
    pub fn parse(text: &str) -> Self {
        let mut in_quotes = false;
        let dot = text.char_indices().find(|&(_, character)| {
            in_quotes ^= character == '"';
            character == '.' && !in_quotes
        });
        match dot.map(|(at, _)| text.split_at(at)) {
            Some((schema, name)) => {
                TableName { schema: unquoted(schema), name: unquoted(name.strip_prefix('.').unwrap_or(name)) }
            }
            None => TableName { schema: "public".to_owned(), name: unquoted(text) },
        }
    }

    /// Quoted, for SQL.
    pub fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

/// For messages and as a key; [`TableName::parse`] reads it.
impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |name: &str| if name.contains(['.', '"']) { quoted(name) } else { name.to_owned() };
        write!(f, "{}.{}", part(&self.schema), part(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_whatever_they_are() {
        assert_eq!(TableName::parse("business.orders").sql(), "\"business\".\"orders\"");
        assert_eq!(TableName::parse("订单").sql(), "\"public\".\"订单\"");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        let dotted = TableName::parse("\"My.Schema\".\"a\"\"b\"");
        assert_eq!((dotted.schema.as_str(), dotted.name.as_str()), ("My.Schema", "a\"b"));
        assert_eq!(TableName::parse(&dotted.sql()), dotted);
        assert_eq!(TableName::parse(&dotted.to_string()), dotted);
        assert_eq!(TableName::parse("a.b").to_string(), "a.b");
        for text in ["商店.Order Items", "\"商店\".\"Order Items\"", "商店.\"Order Items\""] {
            assert_eq!(TableName::parse(text).sql(), "\"商店\".\"Order Items\"");
        }
        assert_eq!(TableName::parse("\"a.b\".\"c.d\"").sql(), "\"a.b\".\"c.d\"");
        assert_eq!(TableName::parse("\"a\"\"b\"").sql(), "\"public\".\"a\"\"b\"");
    }

    #[test]
    fn a_server_that_recovers_is_waited_for_like_one_that_is_away() {
        for code in [None, Some("57P01"), Some("57P02"), Some("57P03")] {
            assert_eq!(of_connect(code).0, FailureKind::Unreachable, "{code:?}");
        }
        assert_eq!(of_connect(Some("53300")).0, FailureKind::Refused);
        assert_eq!(of_connect(Some("28P01")).0, FailureKind::Settings);
    }

    #[test]
    fn a_password_is_in_no_message() {
        let config = PostgresConfig { password: Secret::new("hunter2"), ..PostgresConfig::default() };
        assert!(!format!("{config:?} {}", config.address()).contains("hunter2"));
    }
}
