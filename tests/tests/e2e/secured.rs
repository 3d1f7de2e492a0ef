//! Servers that take nobody without TLS and a proof: the whole pipeline comes through, and whoever is refused is told what to do.

use cdc_ingest::wal_stream;
use lab::paper::Paper;
use lab::validate;
use shared::pg::PostgresConfig;
use shared::pg::tls::SslMode;

use crate::authority::Authority;
use crate::database::value;
use crate::further_server::{FurtherServer, LOGICAL};
use crate::refused_settings::assert_refused;
use crate::secured_broker::{PASSWORD, SecuredBroker, USER};
use crate::service_page::get;
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::until::PATIENCE;

/// Everybody over TLS and with a password; all but the administrator with a certificate as well.
const BY_CERTIFICATE: &str = "hostssl all postgres 127.0.0.1/32 scram-sha-256\n\
                              hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n";

const NOT_TRUSTED: &str = "has a certificate that is not trusted, or is for another name";

const BY_PASSWORD: &str = "hostssl all all 127.0.0.1/32 scram-sha-256\n";

/// Settings that are wrong, the words of the failure, and of the cure.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

fn authority(stack: &Stack, name: &str) -> Authority {
    Authority::new(stack.environment.logs.join(format!("{}-{name}", stack.name)), name)
}

/// How the administrator, and the roles of the services, reach a secured server.
fn verified(stack: &Stack, authority: &Authority) -> PostgresConfig {
    PostgresConfig {
        host: "localhost".into(),
        sslmode: SslMode::VerifyFull,
        ca_file: authority.file.clone(),
        ..stack.environment.places.source.clone()
    }
}

/// The settings of a section that reaches such a server.
fn set_verified(stack: &mut Stack, service: &str, section: &str, authority: &Authority) {
    stack.set(service, &format!("{section}__SSLMODE"), "verify-full");
    stack.set(service, &format!("{section}__CA_FILE"), &authority.file);
}

/// A further server that has the source, and asks for certificates.
async fn secure_source(stack: &mut Stack, authority: &Authority) -> FurtherServer {
    let folder = authority.folder_of_server("localhost", BY_CERTIFICATE);
    let server = FurtherServer::start_secured(stack, "source", &folder, verified(stack, authority), &[LOGICAL]);
    server.become_source(stack).await;
    server
}

/// A further server that has the sink.
async fn secure_sink(stack: &mut Stack, authority: &Authority, who_comes_in: &str) -> FurtherServer {
    let folder = authority.folder_of_server("localhost", who_comes_in);
    let server = FurtherServer::start_secured(stack, "sink", &folder, verified(stack, authority), &[]);
    server.become_sink(stack).await;
    server
}

/// The comparison reads the secured source.
fn set_compared_source(stack: &mut Stack) {
    let (port, database) = (stack.places.source.port, stack.places.source.database.clone());
    stack.set(PG_SINKER, "RECONCILE__SOURCE__HOST", "localhost");
    stack.set(PG_SINKER, "RECONCILE__SOURCE__PORT", port);
    stack.set(PG_SINKER, "RECONCILE__SOURCE__DATABASE", database);
}

#[tokio::test]
async fn the_whole_pipeline_goes_over_tls() {
    let mut stack = Stack::new().await;
    let trusted = authority(&stack, "trusted");
    let _source = secure_source(&mut stack, &trusted).await;
    let _sink = secure_sink(&mut stack, &trusted, BY_PASSWORD).await;
    let broker = SecuredBroker::start(&stack, &trusted.folder_of_server("localhost", BY_PASSWORD));
    stack.places.kafka = broker.client(&trusted.file);

    let own = trusted.sign("tidemill");
    for (service, section) in [(CDC_INGEST, "SOURCE"), (PG_SINKER, "SINK"), (PG_SINKER, "RECONCILE__SOURCE")] {
        set_verified(&mut stack, service, section, &trusted);
    }
    for (service, section) in [(CDC_INGEST, "SOURCE"), (PG_SINKER, "RECONCILE__SOURCE")] {
        stack.set(service, &format!("{section}__CERTIFICATE_FILE"), &own.certificate);
        stack.set(service, &format!("{section}__KEY_FILE"), &own.key);
    }
    for service in SERVICES {
        stack.set(service, "KAFKA__SECURITY__CA_FILE", &trusted.file);
        stack.set(service, "LOG__FILTER", "trace");
    }
    for (service, mechanism) in [(CDC_INGEST, "SCRAM-SHA-512"), (DWD_CLEANER, "SCRAM-SHA-256"), (DIM_JOINER, "PLAIN")] {
        for (key, value) in [("PROTOCOL", "sasl_ssl"), ("MECHANISM", mechanism), ("USER", USER), ("PASSWORD", PASSWORD)]
        {
            stack.set(service, &format!("KAFKA__SECURITY__{key}"), value);
        }
    }
    set_compared_source(&mut stack);
    stack.set(PG_SINKER, "KAFKA__BROKERS", format!("localhost:{}", broker.certificate_port));
    for (key, value) in
        [("PROTOCOL", "ssl"), ("CERTIFICATE_FILE", own.certificate.as_str()), ("KEY_FILE", own.key.as_str())]
    {
        stack.set(PG_SINKER, &format!("KAFKA__SECURITY__{key}"), value);
    }
    stack.start_all().await;
    let passed = validate::run(&stack.places, PATIENCE, &mut Paper::plain(std::io::stderr())).await.unwrap();
    assert!(passed, "the validation failed, see above");

    let readers = "SELECT count(*) FILTER (WHERE ssl) || ' of ' || count(*) FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)";
    assert_eq!(value::<String>(&mut stack.source().await, readers).await, "1 of 1");
    let open =
        "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE client_port IS NOT NULL AND NOT ssl";
    assert_eq!(value::<i64>(&mut stack.source().await, open).await, 0);
    assert_eq!(value::<i64>(&mut stack.sink().await, open).await, 0);
    for service in SERVICES {
        let checked = stack.command(service, &["check"], &[]).await;
        assert_eq!(checked.code, Some(0), "{}", checked.output);
        let mut seen = stack.process(service).log_text() + &checked.output;
        for path in ["/api/v1/state", "/api/v1/configuration", "/api/v1/pipeline"] {
            seen.push_str(&get(&stack, service, path).await.body);
        }
        assert!(!seen.contains(PASSWORD), "{service} shows the password of Kafka");
    }
}

#[tokio::test]
async fn who_is_refused_by_kafka_is_told_what_to_do() {
    let mut stack = Stack::new().await;
    let (trusted, other) = (authority(&stack, "trusted"), authority(&stack, "other"));
    let plain = stack.places.kafka.brokers.clone();
    let broker = SecuredBroker::start(&stack, &trusted.folder_of_server("localhost", BY_PASSWORD));
    stack.places.kafka = broker.client(&trusted.file);
    let right = [
        ("KAFKA__REQUEST_TIMEOUT_MS", "3000"),
        ("KAFKA__SECURITY__PROTOCOL", "sasl_ssl"),
        ("KAFKA__SECURITY__USER", USER),
        ("KAFKA__SECURITY__PASSWORD", PASSWORD),
        ("KAFKA__SECURITY__CA_FILE", &trusted.file),
    ];
    let own = other.sign("stranger");
    let (by_address, by_certificate) =
        (format!("127.0.0.1:{}", broker.port), format!("localhost:{}", broker.certificate_port));
    let with_certificate = [
        ("KAFKA__BROKERS", by_certificate.as_str()),
        ("KAFKA__SECURITY__PROTOCOL", "ssl"),
        ("KAFKA__SECURITY__USER", ""),
        ("KAFKA__SECURITY__PASSWORD", ""),
    ];
    let stranger = [
        &with_certificate[..],
        &[("KAFKA__SECURITY__CERTIFICATE_FILE", own.certificate.as_str()), ("KAFKA__SECURITY__KEY_FILE", &own.key)],
    ]
    .concat();
    let plaintext = [
        ("KAFKA__SECURITY__PROTOCOL", "plaintext"),
        ("KAFKA__SECURITY__USER", ""),
        ("KAFKA__SECURITY__PASSWORD", ""),
        ("KAFKA__SECURITY__CA_FILE", ""),
    ];
    let cases: [Case<'_>; 9] = [
        (
            &[("KAFKA__SECURITY__PASSWORD", "wrong-horse")],
            "refuses our user or password",
            "correct user, password and mechanism",
        ),
        (
            &[("KAFKA__SECURITY__PASSWORD", "wrong-horse"), ("KAFKA__SECURITY__MECHANISM", "PLAIN")],
            "refuses our user or password",
            "correct user, password and mechanism",
        ),
        (&[("KAFKA__SECURITY__CA_FILE", &other.file)], NOT_TRUSTED, "set kafka.security.ca_file"),
        (&[("KAFKA__SECURITY__CA_FILE", "")], NOT_TRUSTED, "set kafka.security.ca_file"),
        (&[("KAFKA__BROKERS", &by_address)], NOT_TRUSTED, "name the broker in kafka.brokers"),
        (&with_certificate, "wants a certificate of ours", "set kafka.security.certificate_file"),
        (&stranger, "wants a certificate of ours", "set kafka.security.certificate_file"),
        (&plaintext, "breaks off the connection", "correct kafka.security.protocol"),
        (&[("KAFKA__BROKERS", &plain)], "does not speak TLS with us", "this may be a port without TLS"),
    ];
    let checked = stack.command(CDC_INGEST, &["check"], &right).await;
    assert_eq!(checked.code, Some(0), "{}", checked.output);
    for (change, words, cure) in cases {
        let settings = [&right[..], change].concat();
        let ended = stack.command(CDC_INGEST, &["check"], &settings).await;
        assert_refused(&ended, &["Kafka at ", words, cure]);
        assert!(!ended.output.contains("wrong-horse"), "{}", ended.output);
    }
    // What only a person can mend ends the service, with the same words.
    let wrong_password = [&right[..], &[("KAFKA__SECURITY__PASSWORD", "wrong-horse")]].concat();
    for service in SERVICES {
        let ended = stack.command(service, &[], &wrong_password).await;
        assert_refused(&ended, &["refuses our user or password"]);
    }
}

/// How a service is refused by a database that asks for certificates: where it runs with these arguments, which then ends with that code, and where it
/// checks. `section` is that of the database, `plain_port` one without TLS.
async fn assert_refusals_are_told(
    stack: &mut Stack,
    (service, (runs, code), section): (&str, (&[&str], i32), &str),
    (trusted, other): (&Authority, &Authority),
    plain_port: u16,
) {
    let own = trusted.sign(service);
    let plain_port = plain_port.to_string();
    let right = [
        ("SSLMODE", "verify-full"),
        ("CA_FILE", trusted.file.as_str()),
        ("CERTIFICATE_FILE", &own.certificate),
        ("KEY_FILE", &own.key),
    ];
    let no_certificate = [("CERTIFICATE_FILE", ""), ("KEY_FILE", "")];
    let plaintext = [&no_certificate[..], &[("SSLMODE", "disable"), ("CA_FILE", "")]].concat();
    let cases: [Case<'_>; 6] = [
        (&[("PASSWORD", "wrong-horse")], "password authentication failed", "correct user and password"),
        (&[("CA_FILE", &other.file)], "invalid peer certificate: UnknownIssuer", "set ca_file"),
        (&[("HOST", "127.0.0.1")], "not valid for name \"127.0.0.1\"", "set host to a name"),
        (&no_certificate, "requires a valid client certificate", "set certificate_file and key_file"),
        (&plaintext, "no encryption", "set sslmode to verify-full"),
        (&[("PORT", &plain_port)], "server does not support TLS", "or set sslmode to disable"),
    ];
    let settings = |change: &[(&str, &str)]| -> Vec<(String, String)> {
        let of_section = |(key, value): &(&str, &str)| (format!("{section}__{key}"), (*value).to_owned());
        right.iter().chain(change).map(of_section).collect()
    };
    for change in [&[][..], &[("SSLMODE", "verify-ca"), ("HOST", "127.0.0.1")]] {
        let checked = stack.command(service, &["check"], &borrowed(&settings(change))).await;
        let is_let_in = |line: &str| line.starts_with("ok") && line.contains('@') && line.contains("answers");
        assert!(checked.output.lines().any(is_let_in), "{}", checked.output);
    }
    for (change, words, cure) in cases {
        for (arguments, code) in [(runs, code), (&["check"], 1)] {
            let ended = stack.command(service, arguments, &borrowed(&settings(change))).await;
            assert_eq!(ended.code, Some(code), "{}", ended.output);
            let told = ["PostgreSQL", words, cure];
            assert!(told.iter().all(|word| ended.output.contains(word)), "{told:?} is not in: {}", ended.output);
            assert!(!ended.output.contains("wrong-horse"), "{}", ended.output);
        }
    }
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[tokio::test]
async fn who_is_refused_by_postgresql_is_told_what_to_do() {
    let mut stack = Stack::new().await;
    let (trusted, other) = (authority(&stack, "trusted"), authority(&stack, "other"));
    let plain = stack.environment.places.clone();
    let _source = secure_source(&mut stack, &trusted).await;
    let _sink = secure_sink(&mut stack, &trusted, BY_CERTIFICATE).await;
    let runs = (&[][..], 1);
    for (section, plain_port) in
        [((CDC_INGEST, runs, "SOURCE"), plain.source.port), ((PG_SINKER, runs, "SINK"), plain.sink.port)]
    {
        assert_refusals_are_told(&mut stack, section, (&trusted, &other), plain_port).await;
    }
}

/// The comparison reads the source with a role of its own.
#[tokio::test]
async fn who_compares_is_refused_by_the_source_in_the_same_words() {
    let mut stack = Stack::new().await;
    let (trusted, other) = (authority(&stack, "trusted"), authority(&stack, "other"));
    let plain_port = stack.environment.places.source.port;
    let _source = secure_source(&mut stack, &trusted).await;
    set_compared_source(&mut stack);
    let section = (PG_SINKER, (&["reconcile"][..], 2), "RECONCILE__SOURCE");
    assert_refusals_are_told(&mut stack, section, (&trusted, &other), plain_port).await;
}

/// The client of the WAL stream has TLS of its own.
#[tokio::test]
async fn the_wal_stream_verifies_the_server_itself() {
    let mut stack = Stack::new().await;
    let (trusted, other) = (authority(&stack, "trusted"), authority(&stack, "other"));
    let _source = secure_source(&mut stack, &trusted).await;
    let own = trusted.sign("tidemill");
    let mut settings = cdc_ingest::settings::Settings::default();
    settings.slot.name = stack.name.clone();
    settings.source = PostgresConfig {
        user: settings.source.user,
        password: settings.source.password,
        certificate_file: own.certificate,
        key_file: own.key,
        ..stack.places.source.clone()
    };
    let refused = async |change: &dyn Fn(&mut PostgresConfig)| {
        let mut settings = settings.clone();
        change(&mut settings.source);
        wal_stream::connect(&settings).await.map(|_| ()).unwrap_err().chain()
    };
    assert!(wal_stream::connect(&settings).await.is_ok());
    let wrong_authority = refused(&|source| source.ca_file = other.file.clone()).await;
    assert!(wrong_authority.contains("UnknownIssuer") && wrong_authority.contains("set ca_file"), "{wrong_authority}");
    let wrong_host = refused(&|source| source.host = "127.0.0.1".into()).await;
    assert!(wrong_host.contains("not valid for name") && wrong_host.contains("set host to a name"), "{wrong_host}");
    let without = refused(&|source| {
        source.certificate_file.clear();
        source.key_file.clear();
    })
    .await;
    assert!(without.contains("client certificate") && without.contains("set certificate_file"), "{without}");
    let plain = refused(&|source| source.sslmode = SslMode::Disable).await;
    assert!(plain.contains("no encryption") && plain.contains("set sslmode to verify-full"), "{plain}");
    let port = stack.environment.places.source.port;
    let no_tls = refused(&|source| source.port = port).await;
    assert!(no_tls.contains("does not support TLS") && no_tls.contains("set sslmode to disable"), "{no_tls}");
}
