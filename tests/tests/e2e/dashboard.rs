//! Each query of monitoring/grafana/tidemill.json has an answer of a real Prometheus that scrapes the running pipeline.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use lab::page;
use lab::ports::free_port;
use serde_json::Value;
use shared::kafka::partitioner::partition;

use crate::database::run;
use crate::history::order_key;
use crate::stack::{SERVICES, Stack};
use crate::topics::{Foreign, write};
use crate::until::until;

/// A server that ends with the test.
struct Prometheus {
    child: Child,
    url: String,
}

impl Prometheus {
    /// Scrapes the services under the job names that alerts and dashboard know.
    fn start(stack: &Stack) -> Self {
        let folder = stack.environment.logs.join(format!("{}-prometheus", stack.name));
        std::fs::create_dir_all(&folder).unwrap();
        let job = |service: &str| {
            let target = stack.url(service).replace("http://", "");
            format!("  - job_name: {service}\n    static_configs: [{{targets: ['{target}']}}]\n")
        };
        let jobs: String = SERVICES.into_iter().map(job).collect();
        let config = folder.join("prometheus.yml");
        std::fs::write(&config, format!("global: {{scrape_interval: 500ms}}\nscrape_configs:\n{jobs}")).unwrap();
        let address = format!("127.0.0.1:{}", free_port().unwrap());
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus: {error}. apt-get install prometheus"));
        Prometheus { child, url: format!("http://{address}") }
    }

    /// What it answers; empty lines mean that there is nothing.
    fn ask(&self, query: &str) -> Result<String, String> {
        let asked = Command::new("promtool").args(["query", "instant", &self.url, query]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if asked.status.success() { Ok(text(&asked.stdout)) } else { Err(text(&asked.stderr)) }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn queries() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring/grafana/tidemill.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "30s")).collect()
}

#[test]
fn every_alert_fires_when_it_should() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring/alerts.test.yml");
    let tested = Command::new("promtool").args(["test", "rules"]).arg(rules).output();
    let tested = tested.unwrap_or_else(|error| panic!("promtool: {error}. apt-get install prometheus"));
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}

#[tokio::test]
async fn every_query_of_the_dashboard_has_an_answer() {
    let stack = Stack::started().await;
    let prometheus = Prometheus::start(&stack);
    until("Prometheus is ready", async || match page::get(&prometheus.url, "/-/ready").await {
        Ok(page) if page.status == 200 => Ok(()),
        Ok(page) => Err(page.body),
        Err(failure) => Err(failure.chain()),
    })
    .await;
    let key = order_key(2001);
    let at = partition(key.as_bytes(), 4);
    let ods = stack.places.names.ods_topic.as_str();
    write(&stack.places.kafka, &Foreign { topic: ods, partition: at, key: &key, value: Some(b"?"), header: None });
    let queries = queries();
    assert!(queries.len() >= 20, "{queries:?}");
    for query in queries {
        until(&format!("{query} has an answer"), async || {
            let sql = "UPDATE business.orders SET quantity = quantity + 1 WHERE order_id = 2002";
            run(&mut stack.source().await, sql).await;
            match prometheus.ask(&query) {
                Ok(answer) if !answer.is_empty() && !answer.contains("NaN") => Ok(()),
                Ok(answer) | Err(answer) => Err(answer),
            }
        })
        .await;
    }
}
