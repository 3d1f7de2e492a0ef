//! Each query of monitoring/grafana/tidemill.json has an answer of a real Prometheus that scrapes the running pipeline, which takes every
//! rule of monitoring/alerts.yml too. Each of those rules has a test and is explained.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
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
        let rules = monitoring("alerts.yml");
        let global = "{scrape_interval: 500ms, evaluation_interval: 500ms}";
        let text = format!("global: {global}\nrule_files: ['{}']\nscrape_configs:\n{jobs}", rules.display());
        std::fs::write(&config, text).unwrap();
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

/// A file of the checkout's folder of monitoring.
fn monitoring(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring").canonicalize().unwrap().join(name)
}

fn queries() -> Vec<String> {
    let text = std::fs::read_to_string(monitoring("grafana/tidemill.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "30s")).collect()
}

fn promtool(arguments: &[&str], file: &str) {
    let tested = Command::new("promtool").args(arguments).arg(monitoring(file)).output();
    let tested = tested.unwrap_or_else(|error| panic!("promtool: {error}. apt-get install prometheus"));
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}

#[test]
fn every_alert_fires_when_it_should() {
    promtool(&["test", "rules"], "alerts.test.yml");
}

#[test]
fn the_settings_for_prometheus_are_right() {
    promtool(&["check", "config"], "prometheus.yml");
}

fn alerts() -> BTreeSet<String> {
    let rules = std::fs::read_to_string(monitoring("alerts.yml")).unwrap();
    let named = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    named.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_says_what_to_do() {
    let tests = std::fs::read_to_string(monitoring("alerts.test.yml")).unwrap();
    let page = std::fs::read_to_string(monitoring("../docs/deploy.md")).unwrap();
    let explained =
        page.lines().filter(|line| line.starts_with("| Tidemill")).filter_map(|line| line.split('|').nth(1));
    let explained: BTreeSet<String> =
        explained.flat_map(|cell| cell.split(',')).map(|name| name.trim().to_owned()).collect();
    assert_eq!(explained, alerts(), "the table in docs/deploy.md");
    for alert in alerts() {
        let name = format!("- alertname: {alert}");
        let mut asked = tests.split(&name).skip(1);
        let fires = asked.any(|rest| rest.split("alertname:").next().unwrap().contains("- exp_labels:"));
        assert!(fires, "{alert} fires in no test of monitoring/alerts.test.yml");
    }
}

#[test]
fn alerts_know_only_metrics_that_there_are() {
    let rules = std::fs::read_to_string(monitoring("alerts.yml")).unwrap();
    let page = std::fs::read_to_string(monitoring("../docs/metrics.md")).unwrap();
    let words = rules.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
    let metrics: BTreeSet<&str> = words.filter(|word| word.starts_with("tidemill_")).collect();
    assert!(metrics.len() >= 10, "{metrics:?}");
    for metric in metrics {
        let metric = metric.strip_suffix("_bucket").unwrap_or(metric);
        assert!(page.contains(&format!("\n| `{metric}` |")), "{metric} is not in docs/metrics.md");
    }
}

/// What Prometheus sends in chunks, each behind a line with its length, in one piece. A chunk of its JSON has no line break inside.
fn whole(chunks: &str) -> String {
    chunks.lines().skip(1).step_by(2).collect()
}

/// Each rule was evaluated by the real server without an error.
async fn until_every_rule_is_right(prometheus: &Prometheus) {
    until("every rule is right", async || {
        let page = page::get(&prometheus.url, "/api/v1/rules").await.map_err(|failure| failure.chain())?;
        let answer: Value = serde_json::from_str(&whole(&page.body)).map_err(|error| error.to_string())?;
        let groups = answer["data"]["groups"].as_array().cloned().unwrap_or_default();
        let rules: Vec<&Value> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        let names: BTreeSet<String> =
            rules.iter().filter_map(|rule| rule["name"].as_str()).map(str::to_owned).collect();
        let right = names == alerts() && rules.iter().all(|rule| rule["health"] == "ok");
        if right { Ok(()) } else { Err(page.body) }
    })
    .await;
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
    until_every_rule_is_right(&prometheus).await;
}
