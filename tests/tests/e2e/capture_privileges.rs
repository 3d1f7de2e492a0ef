//! What the role may not do, and what the publication lacks: said at the start and by `check`, with the statement that mends it.

use crate::database::run;
use crate::refused_settings::assert_refused;
use crate::stack::{CDC_INGEST, Stack};

const GRANTS: &str =
    "GRANT USAGE ON SCHEMA business TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA business TO {role}";

/// A role of the test's own; `{role}` in the grants is its name.
async fn make_role(stack: &Stack, attributes: &str, grants: &str) -> String {
    let role = format!("{}_capture", stack.name);
    let sql = format!("CREATE ROLE {role} LOGIN {attributes} PASSWORD '{role}'; {}", grants.replace("{role}", &role));
    run(&mut stack.source().await, &sql).await;
    role
}

/// Start and check end with these words and the statement; when the owner has run that, check finds all right.
async fn assert_mended_by(stack: &mut Stack, settings: &[(&str, &str)], words: &str, statement: &str) {
    for arguments in [&[][..], &["check"]] {
        let ended = stack.command(CDC_INGEST, arguments, settings).await;
        assert_refused(&ended, &[words, statement]);
    }
    run(&mut stack.source().await, statement).await;
    let checked = stack.command(CDC_INGEST, &["check"], settings).await;
    assert_eq!(checked.code, Some(0), "{}", checked.output);
}

#[tokio::test]
async fn a_role_that_may_not_replicate_is_refused() {
    let mut stack = Stack::new().await;
    let role = make_role(&stack, "NOREPLICATION", GRANTS).await;
    let settings = [("SOURCE__USER", role.as_str()), ("SOURCE__PASSWORD", role.as_str())];
    let statement = format!("ALTER ROLE \"{role}\" REPLICATION");
    assert_mended_by(&mut stack, &settings, &format!("role {role} may not replicate"), &statement).await;
}

#[tokio::test]
async fn a_role_that_may_not_read_a_table_is_refused() {
    let mut stack = Stack::new().await;
    let grants = "GRANT USAGE ON SCHEMA business TO {role}; GRANT SELECT ON business.users TO {role}";
    let role = make_role(&stack, "REPLICATION", grants).await;
    let settings = [("SOURCE__USER", role.as_str()), ("SOURCE__PASSWORD", role.as_str())];
    let statement = format!("GRANT SELECT ON \"business\".\"orders\" TO \"{role}\"");
    assert_mended_by(&mut stack, &settings, &format!("role {role} may not read business.orders"), &statement).await;
}

#[tokio::test]
async fn a_role_that_may_not_use_the_schema_is_refused() {
    let mut stack = Stack::new().await;
    let role = make_role(&stack, "REPLICATION", "GRANT SELECT ON ALL TABLES IN SCHEMA business TO {role}").await;
    let settings = [("SOURCE__USER", role.as_str()), ("SOURCE__PASSWORD", role.as_str())];
    let statement = format!("GRANT USAGE ON SCHEMA \"business\" TO \"{role}\"");
    assert_mended_by(&mut stack, &settings, &format!("role {role} may not read business.orders"), &statement).await;
}

#[tokio::test]
async fn a_publication_that_the_role_may_not_make_is_refused() {
    let mut stack = Stack::new().await;
    let settings = [("SLOT__PUBLICATION", "absent")];
    let statement = "CREATE PUBLICATION \"absent\" FOR TABLE \"business\".\"orders\", \"business\".\"users\"";
    assert_mended_by(&mut stack, &settings, "publication absent", statement).await;
}

#[tokio::test]
async fn a_publication_that_the_role_may_not_complete_is_refused() {
    let mut stack = Stack::new().await;
    run(&mut stack.source().await, "ALTER PUBLICATION tidemill DROP TABLE business.users").await;
    let statement = "ALTER PUBLICATION \"tidemill\" ADD TABLE \"business\".\"users\"";
    assert_mended_by(&mut stack, &[], "publication tidemill", statement).await;
}

#[tokio::test]
async fn a_publication_that_leaves_out_deletes_is_refused() {
    let mut stack = Stack::new().await;
    run(&mut stack.source().await, "ALTER PUBLICATION tidemill SET (publish = 'insert, update, truncate')").await;
    let statement = "ALTER PUBLICATION \"tidemill\" SET (publish = 'insert, update, delete, truncate')";
    assert_mended_by(&mut stack, &[], "publication tidemill leaves out some of", statement).await;
}

#[tokio::test]
async fn an_owner_of_the_tables_makes_the_publication_itself() {
    let mut stack = Stack::new().await;
    let role = make_role(&stack, "REPLICATION", GRANTS).await;
    let own = format!(
        "GRANT CREATE ON DATABASE {} TO {role}; ALTER TABLE business.orders OWNER TO {role}; ALTER TABLE business.users OWNER TO {role}",
        stack.places.source.database
    );
    run(&mut stack.source().await, &own).await;
    for (key, value) in [("SOURCE__USER", role.as_str()), ("SOURCE__PASSWORD", &role), ("SLOT__PUBLICATION", "absent")]
    {
        stack.set(CDC_INGEST, key, value);
    }
    let checked = stack.command(CDC_INGEST, &["check"], &[]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.output);
    stack.start(CDC_INGEST);
    stack.ready().await;
}
