//! Rows of a dimension from a table of Apache Fluss: what is in the table, then its changelog.
//!
//! ```text
//!  Fluss ──rows whose change the log has no more──┐
//!        ──changelog, from its earliest offset────┴─▶ form: key, JSON, header ──▶ the joiner
//! ```
//!
//! The client has a runtime of its own, on a thread of its own: nothing that it waits for holds up the chain.

mod form;
mod load;
mod reader;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use fluss::client::FlussConnection;
use fluss::config::Config;
use fluss::error::{Error, FlussError};
use fluss::metadata::{TableInfo, TablePath};
use fluss::rpc::message::OffsetSpec;
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::KafkaConfig;
use shared::kafka::table::FromTable;
use tokio::sync::mpsc;

use self::form::Form;
use crate::plan::problem;
use crate::settings::{DimensionConfig, FlussConfig};
use crate::source::{RowSource, Rows};

/// A table with a primary key, of which a dimension takes some columns.
#[derive(Clone)]
pub struct FlussTable {
    config: FlussConfig,
    dimension: DimensionConfig,
    /// For its bounds: what is read here goes the way of what is read from Kafka.
    kafka: KafkaConfig,
}

impl FlussTable {
    /// Looks whether the servers answer, and whether the table has what the dimension wants of it.
    pub async fn open(config: &FlussConfig, dimension: &DimensionConfig, kafka: &KafkaConfig) -> Result<Self, Failure> {
        let table = FlussTable { config: config.clone(), dimension: dimension.clone(), kafka: kafka.clone() };
        let connection = table.connect().await?;
        let found = table.find(&connection).await?;
        Form::new(found.get_table_info(), dimension)?;
        Ok(table)
    }

    fn path(&self) -> TablePath {
        TablePath::new(self.config.database.as_str(), self.config.table.as_str())
    }

    async fn connect(&self) -> Result<FlussConnection, Failure> {
        let fetched = i32::try_from(self.kafka.prefetch_kilobytes_max << 10).unwrap_or(i32::MAX);
        let defaults = Config::default();
        let config = Config {
            bootstrap_servers: self.config.servers.clone(),
            connect_timeout_ms: self.config.request_timeout_ms,
            scanner_log_max_poll_records: self.kafka.batch_records_max,
            scanner_log_fetch_max_bytes: fetched,
            scanner_log_fetch_max_bytes_for_bucket: defaults.scanner_log_fetch_max_bytes_for_bucket.min(fetched),
            ..defaults
        };
        self.answer(FlussConnection::new(config)).await
    }

    async fn find<'c>(&self, connection: &'c FlussConnection) -> Result<fluss::client::FlussTable<'c>, Failure> {
        match self.answer(connection.get_table(&self.path())).await {
            Err(_) if self.is_missing(connection).await => Err(problem(
                format!("there is no table `{}` in Fluss at {}", self.dimension.read_from(), self.config.servers),
                "make it, with a primary key, or correct database and table in [dimensions.fluss]",
            )),
            answer => answer,
        }
    }

    /// Whether the table is not there, for certain: servers that have just started do not know all tables, and this is asked of the
    /// place where they are written down.
    async fn is_missing(&self, connection: &FlussConnection) -> bool {
        let Ok(admin) = connection.get_admin() else { return false };
        matches!(self.answer(admin.table_exists(&self.path())).await, Ok(false))
    }

    /// The earliest or the latest offset of each bucket's log.
    async fn offsets(
        &self,
        connection: &FlussConnection,
        info: &TableInfo,
        which: OffsetSpec,
    ) -> Result<HashMap<i32, i64>, Failure> {
        let admin = connection.get_admin().map_err(|error| self.failure(error))?;
        let buckets: Vec<i32> = (0..info.get_num_buckets()).collect();
        self.answer(admin.list_offsets(&self.path(), &buckets, which)).await
    }

    /// Looks whether servers and table are still there. The client tries again by itself whatever happens to them, and says nothing.
    async fn look(&self, connection: &FlussConnection, info: &TableInfo) -> Result<(), Failure> {
        let found = self.find(connection).await?;
        if found.get_table_info().get_table_id() != info.get_table_id() {
            let what = format!("Fluss table `{}` is another one than it was", self.dimension.read_from());
            return Err(Failure::new(FailureKind::Unreachable, what).cure("the chain reads it anew"));
        }
        self.offsets(connection, info, OffsetSpec::Latest).await.map(drop)
    }

    /// Waits for an answer within the bound.
    async fn answer<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        let bound = Duration::from_millis(self.config.request_timeout_ms);
        match tokio::time::timeout(bound, asked).await {
            Ok(answer) => answer.map_err(|error| self.failure(error)),
            Err(_) => Err(self.unreachable(format!("no answer within {} ms", bound.as_millis()))),
        }
    }

    fn failure(&self, error: Error) -> Failure {
        let (place, servers) = (self.dimension.read_from(), &self.config.servers);
        match error.api_error() {
            Some(FlussError::AuthorizationException | FlussError::AuthenticateException) => {
                Failure::new(FailureKind::Refused, format!("Fluss at {servers} refuses to read `{place}`"))
                    .caused_by(error)
                    .cure("let this client read the table")
            }
            None if matches!(error, Error::RpcError { .. } | Error::IllegalArgument { .. }) => self.unreachable(error),
            // Servers that have just started say all manner of things.
            _ => Failure::new(FailureKind::Unreachable, format!("Fluss at {servers} does not give `{place}`"))
                .caused_by(error)
                .cure("the chain reads it anew; look at the servers' log if that lasts"),
        }
    }

    fn unreachable(&self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
        Failure::new(FailureKind::Unreachable, format!("Fluss at {} does not answer", self.config.servers))
            .caused_by(cause)
            .cure("start its servers, or correct servers in [dimensions.fluss]; the service tries again by itself")
    }

    /// The thread: reads until the generation ends.
    fn run(&self, number: usize, sender: &mpsc::Sender<FromTable>, fate: &Fate) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(FailureKind::Broken, "a runtime cannot start").caused_by(error))?;
        let ended = runtime.block_on(async {
            tokio::select! {
                biased;
                () = fate.ended() => Ok(()),
                ended = reader::read(self, number, sender) => ended,
            }
        });
        // What the client still does on files is not waited for.
        runtime.shutdown_background();
        ended
    }
}

impl RowSource for FlussTable {
    fn spawn(&self, number: usize, fate: &Fate) -> Result<Rows, Failure> {
        let (sender, receiver) = mpsc::channel(self.kafka.queue_batches_max.max(1));
        let (table, fate) = (self.clone(), fate.clone());
        let thread = std::thread::Builder::new()
            .name("fluss-table".into())
            .spawn(move || {
                if let Err(failure) = table.run(number, &sender, &fate) {
                    fate.end(failure);
                }
            })
            .map_err(|error| Failure::new(FailureKind::Broken, "a reading thread cannot start").caused_by(error))?;
        Ok((receiver, thread))
    }
}
