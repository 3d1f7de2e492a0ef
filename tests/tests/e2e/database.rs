//! Databases of a test's own on the shared servers, made by the SQL files of the checkout.

use std::path::Path;
use std::time::{Duration, Instant};

use shared::pg::PostgresConfig;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::until::PATIENCE;

const ASK_EVERY: Duration = Duration::from_millis(50);

/// A connection to a server that must be there: one that is busy is asked again.
pub async fn connect(config: &PostgresConfig) -> PgConnection {
    let begin = Instant::now();
    loop {
        match config.connect("tidemill-e2e").await {
            Ok(connection) => return connection,
            Err(failure) => assert!(
                begin.elapsed() < PATIENCE,
                "{}. Run ./scripts/test.sh, which starts the servers",
                failure.chain()
            ),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Runs statements without parameters.
pub async fn run(connection: &mut PgConnection, sql: &str) {
    if let Err(error) = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await {
        panic!("{error}\nin: {sql}");
    }
}

/// The single value of a query.
pub async fn value<T>(connection: &mut PgConnection, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await;
    found.unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
}

/// The single value of a query that may find no row.
pub async fn optional<T>(connection: &mut PgConnection, sql: &str) -> Option<T>
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let found = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_optional(connection).await;
    found.unwrap_or_else(|error| panic!("{error}\nin: {sql}"))
}

/// Makes the database and applies the SQL files of `folder` (in the checkout) in it.
pub async fn make(server: &PostgresConfig, name: &str, folder: &str) -> PostgresConfig {
    make_with(server, name, "", folder).await
}

/// The same with further words for CREATE DATABASE.
pub async fn make_with(server: &PostgresConfig, name: &str, options: &str, folder: &str) -> PostgresConfig {
    let mut administrator = connect(server).await;
    run(&mut administrator, &format!("CREATE DATABASE {name} TEMPLATE template0 {options}")).await;
    let database = PostgresConfig { database: name.to_owned(), ..server.clone() };
    let mut connection = connect(&database).await;
    for statement in statements(folder) {
        apply(&mut connection, &statement).await;
    }
    database
}

/// The statements of the files in the order of their names; an empty line ends each.
fn statements(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
    texts.flat_map(|text| text.split("\n\n").map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// Roles belong to the whole server: another test, or the server's start, has made them.
async fn apply(connection: &mut PgConnection, statement: &str) {
    let makes_role = statement.lines().any(|line| line.starts_with("CREATE ROLE"));
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await;
    let Err(error) = done else { return };
    let code = error.as_database_error().and_then(|found| found.code()).map(|code| code.into_owned());
    let exists = matches!(code.as_deref(), Some("42710" | "23505"));
    assert!(makes_role && exists, "{error}\nin: {statement}");
}

/// Removes the roles that begin with this, once their database is gone.
pub async fn drop_roles(server: &PostgresConfig, prefix: &str) {
    let Ok(mut administrator) = server.connect("tidemill-e2e").await else { return };
    let drop = format!(
        "DO $$ DECLARE role name; BEGIN FOR role IN SELECT rolname FROM pg_roles WHERE starts_with(rolname::text, '{prefix}_')
         LOOP EXECUTE format('DROP ROLE %I', role); END LOOP; END $$"
    );
    let _ = administrator.execute(sqlx::raw_sql(AssertSqlSafe(drop))).await;
}

/// Removes the slots and the database. Errors are left to the servers' own end: the test has its verdict already.
pub async fn drop(server: &PostgresConfig, name: &str) {
    let Ok(mut administrator) = server.connect("tidemill-e2e").await else { return };
    let end_readers = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{name}' AND active"
    );
    let drop_slots = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}' AND NOT active"
    );
    let drop_database = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    for _ in 0..100 {
        for statement in [&end_readers, &drop_slots] {
            let _ = administrator.execute(sqlx::raw_sql(AssertSqlSafe(statement.clone()))).await;
        }
        if administrator.execute(sqlx::raw_sql(AssertSqlSafe(drop_database.clone()))).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    eprintln!("database {name} could not be removed");
}
