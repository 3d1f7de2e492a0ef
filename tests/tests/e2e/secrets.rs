//! No secret of the configuration is seen anywhere, and nothing personal in a log.

use crate::database::{run, value};
use crate::service_page::get;
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::topics::{Foreign, write};
use crate::until::{until, until_equal};

/// A role like `model` with a password of its own.
struct Role {
    name: String,
    password: String,
}

impl Role {
    fn like(model: &str, stack: &Stack) -> Self {
        Role { name: format!("{}_{model}", stack.name), password: format!("hunter2-{model}-{}", std::process::id()) }
    }

    fn sql(&self, model: &str, attributes: &str) -> String {
        format!("CREATE ROLE {0} LOGIN {attributes} PASSWORD '{1}'; GRANT {model} TO {0}", self.name, self.password)
    }
}

#[tokio::test]
async fn no_password_is_in_a_log_or_on_a_page() {
    let mut stack = Stack::new().await;
    let reader = Role::like("tidemill_capture", &stack);
    let writer = Role::like("tidemill_writer", &stack);
    run(&mut stack.source().await, &reader.sql("tidemill_capture", "REPLICATION")).await;
    run(&mut stack.sink().await, &writer.sql("tidemill_writer", "")).await;
    for (service, section, role) in [(CDC_INGEST, "SOURCE", &reader), (PG_SINKER, "SINK", &writer)] {
        stack.set(service, &format!("{section}__USER"), &role.name);
        let file = stack.environment.logs.join(format!("{}.password", role.name));
        std::fs::write(&file, &role.password).unwrap();
        stack.set(service, &format!("{section}__PASSWORD_FILE"), file.display());
    }
    let token = format!("hunter2-token-{}", std::process::id());
    stack.set(DWD_CLEANER, "PERSONAL__HASH_KEY", &token);
    for service in SERVICES {
        stack.set(service, "HTTP__CONTROL_TOKEN", &token);
        stack.set(service, "LOG__FILTER", "trace");
    }
    stack.start_all().await;
    // A broken connection is where a careless error would show the settings.
    run(
        &mut stack.source().await,
        &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", reader.name),
    )
    .await;
    until("cdc-ingest has lost its connection", async || {
        let log = stack.process(CDC_INGEST).log_text();
        if log.contains("the chain starts again") { Ok(()) } else { Err("it goes on".to_owned()) }
    })
    .await;
    stack.ready().await;

    for service in SERVICES {
        let mut seen = stack.process(service).log_text();
        for path in ["/api/v1/state", "/api/v1/configuration", "/api/v1/pipeline", "/metrics", "/health/ready", "/"] {
            seen.push_str(&get(&stack, service, path).await.body);
        }
        seen.push_str(&stack.command(service, &["check"], &[]).await.output);
        for secret in [&reader.password, &writer.password, &token] {
            assert!(!seen.contains(secret), "{secret} is shown by {service}");
        }
        // The console's topic is read by whoever reads Kafka.
        let layers = stack.layers();
        let told = layers.read(&stack.told_topic(), &layers.begin(&stack.told_topic()).unwrap(), |_| true).unwrap();
        for record in told {
            let text = record.value.unwrap_or_default();
            assert!(!text.contains("hunter2"), "a secret is told in the topic of states: {text}");
        }
    }
}

/// What a person would not want to be read in a log, each with a mark that nothing else has.
const PERSONAL: [(&str, &str); 4] = [
    ("username", "王小明-marked"),
    ("email", "marked-7f3a@example.com"),
    ("phone", "13900007777"),
    ("city", "marked-city-51c2"),
];

/// An order of that person.
fn order(id: u64) -> String {
    format!(
        "INSERT INTO business.orders (order_id, user_id, product_name, quantity, unit_price, total_amount, order_status) \
         VALUES ({id}, 9001, 'thing', 1, 1, 1, 'PENDING')"
    )
}

#[tokio::test]
async fn nothing_personal_is_in_a_log() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        stack.set(service, "LOG__FILTER", "debug");
    }
    let mut source = stack.source().await;
    // Read by the copy.
    let [name, email, phone, city] = PERSONAL.map(|(_, value)| value);
    let user = format!("INSERT INTO business.users VALUES (9001, '{name}', '{email}', '{phone}', '{city}')");
    run(&mut source, &user).await;
    run(&mut source, &order(9001)).await;
    stack.start_all().await;
    // Read from the stream: a change, one that is sent again, one that no stage can carry, and a deletion.
    for change in [
        format!("UPDATE business.users SET city = '{city}', phone = '{phone}' WHERE user_id = 9001"),
        "UPDATE business.users SET email = email || '' WHERE user_id = 9001".to_owned(),
        order(9002),
        format!("UPDATE business.orders SET product_name = '{phone}', order_status = 'PAID' WHERE order_id = 9002"),
        "DELETE FROM business.orders WHERE order_id = 9001".to_owned(),
    ] {
        run(&mut source, &change).await;
    }
    let broken = format!("{{\"user_id\": 9001, \"phone\": \"{phone}\", \"email\": \"{email}\"");
    for topic in [stack.users_topic(), stack.places.names.dwd_topic.clone(), stack.places.names.result_topic.clone()] {
        let record = Foreign {
            topic: &topic,
            partition: 0,
            key: "{\"user_id\":9001}",
            value: Some(broken.as_bytes()),
            header: None,
        };
        write(&stack.places.kafka, &record);
    }
    let mut sink = stack.sink().await;
    until_equal("the last order has come, and the deleted one has gone", (1, 0), async || {
        let rows =
            |id: i64| format!("SELECT count(*) FROM result.orders_latest WHERE order_id = {id} AND phone = '{phone}'");
        (value::<i64>(&mut sink, &rows(9002)).await, value::<i64>(&mut sink, &rows(9001)).await)
    })
    .await;
    for service in [DIM_JOINER, PG_SINKER] {
        let topic = stack.dead_letter_topic(service);
        until(&format!("{service} has put the broken record aside"), async || {
            let end = stack.layers().end(&topic).map_err(|failure| failure.chain())?;
            if end.iter().any(|&(_, end)| end > 0) { Ok(()) } else { Err(format!("{end:?}")) }
        })
        .await;
    }
    for service in SERVICES {
        let log = stack.process(service).log_text();
        assert!(log.contains("DEBUG"), "{service} logs too little to be believed");
        for (what, value) in PERSONAL {
            let line = log.lines().find(|line| line.contains(value));
            assert!(line.is_none(), "{service} shows a {what}: {line:?}");
        }
    }
}
