//! A table of users in Apache Fluss, of a test's own.

use std::process::Command;

use fluss::client::{FlussConnection, UpsertWriter, WriteResultFuture};
use fluss::config::Config;
use fluss::metadata::{DataType, DataTypes, Schema, TableDescriptor, TablePath};
use fluss::row::{Datum, Decimal, GenericRow, TimestampNtz};
use fluss::rpc::message::OffsetSpec;
use tokio::sync::{Mutex, MutexGuard};

use crate::until::{PATIENCE, until};

const DATABASE: &str = "tidemill";

/// The buckets of a table.
pub const BUCKETS: i32 = 3;

/// One test at a time: some stop the servers.
static SERVERS: Mutex<()> = Mutex::const_new(());

/// The servers that scripts/test.sh --fluss has started.
pub struct Fluss {
    pub servers: String,
    connection: FlussConnection,
    _turn: MutexGuard<'static, ()>,
}

/// A user, and what is special about its table: an amount.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    pub id: i64,
    pub name: &'a str,
    pub city: &'a str,
    /// Hundredths.
    pub credit: i64,
}

/// See [`Fluss::make`].
pub struct Users {
    path: TablePath,
    writer: UpsertWriter,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run ./scripts/test.sh --fluss"))
}

impl Fluss {
    pub async fn take() -> Self {
        let turn = SERVERS.lock().await;
        let servers = variable("TIDEMILL_FLUSS_SERVERS");
        let connection = until("Fluss answers", async || {
            let config = Config { bootstrap_servers: servers.clone(), ..Config::default() };
            FlussConnection::new(config).await.map_err(|error| error.to_string())
        })
        .await;
        let fluss = Fluss { servers, connection, _turn: turn };
        let admin = fluss.connection.get_admin().unwrap();
        admin.create_database(DATABASE, None, true).await.unwrap();
        fluss
    }

    /// The columns of a table of users.
    pub fn columns() -> Vec<(&'static str, DataType)> {
        vec![
            ("user_id", DataTypes::bigint()),
            ("username", DataTypes::string()),
            ("email", DataTypes::string()),
            ("phone", DataTypes::string()),
            ("city", DataTypes::string()),
            ("register_time", DataTypes::timestamp_with_precision(3)),
            ("credit", DataTypes::decimal(12, 2)),
            ("tags", DataTypes::array(DataTypes::string())),
        ]
    }

    /// A table of users with a primary key. `settings` are the table's.
    pub async fn make(&self, table: &str, settings: &[(&str, &str)]) -> Users {
        let schema = Fluss::columns().into_iter().fold(Schema::builder(), |schema, (name, of)| schema.column(name, of));
        let descriptor = TableDescriptor::builder()
            .schema(schema.primary_key(vec!["user_id"]).unwrap().build().unwrap())
            .distributed_by(Some(BUCKETS), vec!["user_id".to_owned()]);
        let descriptor =
            settings.iter().fold(descriptor, |made, (key, value)| made.property(*key, *value)).build().unwrap();
        let path = TablePath::new(DATABASE, table);
        self.connection.get_admin().unwrap().create_table(&path, &descriptor, false).await.unwrap();
        // The buckets have leaders a moment later.
        let writer = until("the table can be written to", async || {
            let table = self.connection.get_table(&path).await.map_err(|error| error.to_string())?;
            let upsert = table.new_upsert().map_err(|error| error.to_string())?;
            upsert.create_writer().map_err(|error| error.to_string())
        })
        .await;
        let users = Users { path, writer };
        until("its buckets have leaders", async || self.offsets(&users, OffsetSpec::Latest).await.map(drop)).await;
        users
    }

    async fn offsets(&self, users: &Users, which: OffsetSpec) -> Result<Vec<i64>, String> {
        let admin = self.connection.get_admin().unwrap();
        let buckets: Vec<i32> = (0..BUCKETS).collect();
        let found = admin.list_offsets(&users.path, &buckets, which).await.map_err(|error| error.to_string())?;
        Ok(buckets.iter().map(|bucket| found[bucket]).collect())
    }

    /// Where the logs of the buckets begin.
    pub async fn log_starts(&self, users: &Users) -> Result<Vec<i64>, String> {
        self.offsets(users, OffsetSpec::Earliest).await
    }

    pub async fn drop_table(&self, users: &Users) {
        self.connection.get_admin().unwrap().drop_table(&users.path, false).await.unwrap();
    }

    /// `dim-joiner`'s section for the table.
    pub fn section(&self, table: &str) -> String {
        section_at(&self.servers, table)
    }
}

/// The section, with other servers.
pub fn section_at(servers: &str, table: &str) -> String {
    format!(
        "[dimensions.fluss]\nservers = \"{servers}\"\ndatabase = \"{DATABASE}\"\ntable = \"{table}\"\n\
         request_timeout_ms = 3000\nlook_interval_ms = 500\nsettle_ms = 1000\n"
    )
}

/// `scripts/fluss.sh COMMAND`.
pub fn servers(command: &str) {
    let answer = Command::new(variable("TIDEMILL_FLUSS_SH")).arg(command).output().unwrap();
    assert!(answer.status.success(), "{command}: {}", String::from_utf8_lossy(&answer.stderr));
}

impl Users {
    /// Puts a row in, in the place of the one that is there. Returns when the servers have it.
    pub async fn put(&self, user: User<'_>) {
        self.put_all(&[user]).await;
    }

    pub async fn put_all(&self, users: &[User<'_>]) {
        let written = users.iter().map(|user| self.writer.upsert(&row(*user)).unwrap()).collect();
        self.finish(written).await;
    }

    /// Takes a row out, where it is there.
    pub async fn delete(&self, id: i64) {
        let written = self.writer.delete(&row(User { id, name: "", city: "", credit: 0 })).unwrap();
        self.finish(vec![written]).await;
    }

    async fn finish(&self, written: Vec<WriteResultFuture>) {
        let all = async {
            self.writer.flush().await.unwrap();
            for write in written {
                write.await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("Fluss takes the rows");
    }
}

fn row(user: User<'_>) -> GenericRow<'_> {
    let credit = Decimal::from_unscaled_long(user.credit, 12, 2).unwrap();
    let values = vec![
        Datum::from(user.id),
        Datum::from(user.name),
        Datum::from("someone@example.com"),
        Datum::Null,
        Datum::from(user.city),
        Datum::from(TimestampNtz::new(1_752_254_755_143)),
        Datum::from(credit),
        Datum::Null,
    ];
    GenericRow { values }
}
