//! A source that cannot be captured ends cdc-ingest, with the statement that mends it.

use crate::database::run;
use crate::further_server::FurtherServer;
use crate::refused_settings::assert_refused;
use crate::stack::{CDC_INGEST, Stack};

/// Neither a start nor `check` takes business.notes, and both say why.
async fn assert_notes_refused(stack: &mut Stack, says: &[&str]) {
    let topic = format!("{}_ods_notes", stack.name);
    let settings = [("TABLES__NOTES__TABLE", "business.notes"), ("TABLES__NOTES__TOPIC", topic.as_str())];
    for arguments in [&[][..], &["check"]] {
        let ended = stack.command(CDC_INGEST, arguments, &settings).await;
        assert_refused(&ended, says);
    }
}

#[tokio::test]
async fn a_table_without_a_primary_key_is_refused_with_the_statement_that_gives_it_one() {
    let mut stack = Stack::new().await;
    let table = "CREATE TABLE business.notes (note text); GRANT SELECT ON business.notes TO tidemill_capture;
                 ALTER PUBLICATION tidemill ADD TABLE business.notes";
    run(&mut stack.source().await, table).await;
    let says = ["business.notes has no primary key", r#"ALTER TABLE "business"."notes" ADD PRIMARY KEY"#];
    assert_notes_refused(&mut stack, &says).await;
}

#[tokio::test]
async fn a_table_with_rows_that_the_role_may_not_see_is_refused_and_not_copied_in_part() {
    let mut stack = Stack::new().await;
    let table = "CREATE TABLE business.notes (id int PRIMARY KEY, owner name); INSERT INTO business.notes VALUES (1, 'postgres');
                 GRANT SELECT ON business.notes TO tidemill_capture; ALTER PUBLICATION tidemill ADD TABLE business.notes;
                 CREATE POLICY own ON business.notes USING (owner = current_user); ALTER TABLE business.notes ENABLE ROW LEVEL SECURITY";
    run(&mut stack.source().await, table).await;
    let says = ["row-level security hides rows of business.notes", r#"ALTER ROLE "tidemill_capture" BYPASSRLS"#];
    assert_notes_refused(&mut stack, &says).await;
}

#[tokio::test]
async fn a_server_that_does_not_log_for_replication_is_refused_with_the_setting() {
    let mut stack = Stack::new().await;
    let server = FurtherServer::start(&stack, &["wal_level=replica"]);
    let (port, password) = (server.port.to_string(), stack.places.source.password.reveal().to_owned());
    let settings = [
        ("SOURCE__PORT", port.as_str()),
        ("SOURCE__DATABASE", "postgres"),
        ("SOURCE__USER", "postgres"),
        ("SOURCE__PASSWORD", password.as_str()),
    ];
    for arguments in [&[][..], &["check"]] {
        let ended = stack.command(CDC_INGEST, arguments, &settings).await;
        assert_refused(&ended, &["wal_level=replica", "ALTER SYSTEM SET wal_level = 'logical'", "restart the server"]);
    }
}
