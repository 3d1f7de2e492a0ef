//! No password of the configuration is seen anywhere.

use lab::page;

use crate::database::run;
use crate::stack::{CDC_INGEST, PG_SINKER, SERVICES, Stack};
use crate::until::until;

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
        stack.set(service, &format!("{section}__PASSWORD"), &role.password);
    }
    for service in SERVICES {
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
            seen.push_str(&page::get(&stack.url(service), path).await.unwrap().body);
        }
        seen.push_str(&stack.command(service, &["check"], &[]).await.output);
        for role in [&reader, &writer] {
            assert!(!seen.contains(&role.password), "the password of {} is shown by {service}", role.name);
        }
    }
}
