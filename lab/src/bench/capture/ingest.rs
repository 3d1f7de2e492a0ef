//! cdc-ingest as the benchmark runs it: with slot, topics and state of its own, so that several read the same WAL one after
//! the other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use shared::failure::Failure;

use crate::bench::child::{Child, Program, variable};
use crate::bench::variant::Variant;
use crate::page;
use crate::places::{Places, ServicePlace};
use crate::ports::free_port;
use crate::ready;

/// All that makes a cdc-ingest another one.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Also the beginning of its topics' names.
    pub slot: String,
    pub variant: Variant,
    pub program: PathBuf,
    pub log: PathBuf,
}

/// One that runs.
pub struct Ingest {
    pub child: Child,
    place: ServicePlace,
    identity: Identity,
}

/// Rows of orders so far, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    pub taken_in: u64,
    pub acknowledged: u64,
}

/// Longest wait until it is ready.
const READY_PATIENCE: Duration = Duration::from_secs(60);

impl Identity {
    pub fn orders_topic(&self) -> String {
        format!("{}_orders", self.slot)
    }

    pub fn users_topic(&self) -> String {
        format!("{}_users", self.slot)
    }

    fn variables(&self, places: &Places, port: u16) -> Vec<(String, String)> {
        let names = &places.names;
        let settings = [
            ("source.host", places.source.host.clone()),
            ("source.port", places.source.port.to_string()),
            ("source.database", places.source.database.clone()),
            ("slot.name", self.slot.clone()),
            ("tables.orders.table", names.orders.to_string()),
            ("tables.orders.topic", self.orders_topic()),
            ("tables.users.table", names.users.to_string()),
            ("tables.users.topic", self.users_topic()),
            ("state.topic", format!("{}_state", self.slot)),
            ("kafka.brokers", places.kafka.brokers.clone()),
            ("http.port", port.to_string()),
        ];
        let ours = settings.into_iter().map(|(key, value)| (variable("cdc-ingest", key), value));
        ours.chain(self.variant.variables("cdc-ingest")).collect()
    }

    pub fn start(&self, places: &Places) -> Result<Ingest, Failure> {
        let port = free_port()?;
        let child = Child::start(Program {
            path: &self.program,
            arguments: Vec::new(),
            variables: self.variables(places, port),
            log: self.log.clone(),
        })?;
        let place = ServicePlace { name: "cdc-ingest", url: format!("http://127.0.0.1:{port}") };
        Ok(Ingest { child, place, identity: self.clone() })
    }

    /// A first start and an orderly stop: the slot stands, and the tables as they are now are in the topics. What is changed
    /// from here on is read from the WAL.
    pub async fn prepare(&self, places: &Places) -> Result<(), Failure> {
        let ingest = self.start(places)?;
        ingest.ready().await?;
        ingest.child.stop().await
    }
}

impl Ingest {
    /// Waits until the tables are copied and the stream has come to where the WAL ended at the start.
    pub async fn ready(&self) -> Result<(), Failure> {
        let since = Instant::now();
        while let Err(reason) = ready::look(&self.place).await {
            if self.child.has_ended() {
                return Err(self.child.failure("has ended by itself"));
            }
            if since.elapsed() > READY_PATIENCE {
                return Err(self.child.failure(&format!("is not ready: {reason}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// None as long as its page does not answer.
    pub async fn rows(&self, places: &Places) -> Rows {
        let Ok(found) = page::get(&self.place.url, "/metrics").await else { return Rows::default() };
        Rows {
            taken_in: counted(&found.body, "tidemill_records_in_total", &places.names.orders.to_string()),
            acknowledged: counted(&found.body, "tidemill_records_out_total", &self.identity.orders_topic()),
        }
    }
}

/// The sum of a counter over all operations of a table or topic, from the page of `/metrics`.
fn counted(page: &str, counter: &str, table: &str) -> u64 {
    let label = format!("table=\"{table}\"");
    let lines = page.lines().filter(|line| line.starts_with(counter) && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_operations_of_a_table_are_counted() {
        let page = "# TYPE tidemill_records_in_total counter\n\
                    tidemill_records_in_total{operation=\"c\",table=\"business.orders\"} 1000\n\
                    tidemill_records_in_total{operation=\"u\",table=\"business.orders\"} 7\n\
                    tidemill_records_in_total{operation=\"c\",table=\"business.users\"} 5\n\
                    tidemill_records_out_total{operation=\"c\",table=\"business.orders\"} 3\n";
        assert_eq!(counted(page, "tidemill_records_in_total", "business.orders"), 1007);
    }
}
