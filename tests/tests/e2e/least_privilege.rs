//! The roles of the SQL files can do what the pipeline needs, which the other tests show, and nothing else.

use shared::config::Secret;
use shared::pg::PostgresConfig;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use crate::database::{connect, run};
use crate::stack::Stack;

/// What no role of ours may do, wherever it is.
const NOBODY_MAY: [&str; 8] = [
    "CREATE SCHEMA of_my_own",
    "CREATE TABLE public.of_my_own (id int)",
    "CREATE TEMPORARY TABLE of_my_own (id int)",
    "CREATE ROLE of_my_own",
    "CREATE DATABASE of_my_own",
    "SELECT * FROM pg_authid",
    "SELECT pg_read_file('postgresql.conf')",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
];

/// A role of the SQL files, whose password is its name.
async fn connect_as(role: &str, database: &PostgresConfig) -> PgConnection {
    connect(&PostgresConfig { user: role.into(), password: Secret::new(role), ..database.clone() }).await
}

/// Each is refused for want of a privilege, and for nothing else.
async fn assert_may_not(role: &str, database: &PostgresConfig, statements: &[&str]) {
    let mut connection = connect_as(role, database).await;
    for statement in NOBODY_MAY.iter().chain(statements) {
        let done = connection.execute(sqlx::raw_sql(AssertSqlSafe((*statement).to_owned()))).await;
        let error = done.err().unwrap_or_else(|| panic!("{role} may: {statement}"));
        let code = error.as_database_error().and_then(|found| found.code()).map(|code| code.into_owned());
        assert_eq!(code.as_deref(), Some("42501"), "{role}, {statement}: {error}");
    }
}

#[tokio::test]
async fn who_reads_the_source_reads_the_captured_tables_and_nothing_else() {
    let stack = Stack::new().await;
    run(
        &mut stack.source().await,
        "CREATE TABLE business.salaries (id int); CREATE SCHEMA secret; CREATE TABLE secret.keys (id int)",
    )
    .await;
    let may_not = [
        "SELECT * FROM business.salaries",
        "SELECT * FROM secret.keys",
        "INSERT INTO business.users (user_id, username) VALUES (1, 'x')",
        "UPDATE business.orders SET quantity = 2",
        "DELETE FROM business.orders",
        "TRUNCATE business.orders",
        "ALTER TABLE business.orders ADD COLUMN of_my_own int",
        "DROP TABLE business.orders",
        "CREATE TABLE business.of_my_own (id int)",
    ];
    for role in ["tidemill_capture", "tidemill_reconcile"] {
        assert_may_not(role, &stack.places.source, &may_not).await;
        let mut connection = connect_as(role, &stack.places.source).await;
        run(&mut connection, "SELECT * FROM business.orders; SELECT * FROM business.users").await;
    }
    let publications = ["ALTER PUBLICATION tidemill ADD TABLE business.salaries", "CREATE PUBLICATION of_my_own"];
    assert_may_not("tidemill_capture", &stack.places.source, &publications).await;
    let mut connection = connect_as("tidemill_reconcile", &stack.places.source).await;
    let slot = connection.execute("SELECT pg_create_logical_replication_slot('of_my_own', 'pgoutput')").await;
    // The words differ by version; the code is insufficient_privilege.
    let code = slot.unwrap_err().into_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
    assert_eq!(code.as_deref(), Some("42501"));
}

#[tokio::test]
async fn who_writes_the_sink_writes_its_tables_and_nothing_else() {
    let stack = Stack::new().await;
    run(&mut stack.sink().await, "CREATE SCHEMA payroll; CREATE TABLE payroll.salaries (id int)").await;
    let may_not = [
        "SELECT * FROM payroll.salaries",
        "INSERT INTO payroll.salaries VALUES (1)",
        "SELECT * FROM ads.sales",
        "TRUNCATE result.orders_latest",
        "ALTER TABLE result.orders_latest ADD COLUMN of_my_own int",
        "DROP TABLE result.orders_latest",
        "CREATE TABLE result.of_my_own (id int)",
        "CREATE TABLE tidemill.of_my_own (id int)",
        "CREATE TABLE dws.of_my_own (id int)",
        "CREATE INDEX ON result.orders_latest (city)",
    ];
    assert_may_not("tidemill_writer", &stack.places.sink, &may_not).await;
}
