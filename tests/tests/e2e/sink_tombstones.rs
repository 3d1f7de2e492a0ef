//! What a deletion at the source does to a table: nothing, the row's end, or a mark.

use crate::refused_settings::assert_refused;
use crate::stack::PG_SINKER;
use crate::sunk::{COMMITTED, Sunk};

const KEY_ONE: &str = "{\"id\":1}";

/// A table whose rows are marked; the writer may not delete.
fn marked(mark: &str) -> String {
    format!(
        "CREATE TABLE result.marked (id bigint PRIMARY KEY, note text NOT NULL, {mark}, processed_time timestamp,
            source_commit_time timestamptz, record_version bytea NOT NULL);
         GRANT SELECT, INSERT, UPDATE ON result.marked TO tidemill_writer;"
    )
}

fn soft(column: &str) -> String {
    format!(
        "[tables.marked]\ntable = \"result.marked\"\nkey = \"id\"\non_tombstone = \"soft\"\ndeleted_column = \"{column}\"\n"
    )
}

fn row(id: u32, note: &str) -> String {
    format!("{{\"id\":{id},\"note\":\"{note}\",\"deleted_at\":\"2001-01-01 00:00:00\"}}")
}

#[tokio::test]
async fn a_deleted_row_stays_with_its_last_values_until_a_newer_one_comes() {
    let mut sunk = Sunk::new(&marked("deleted_at timestamptz")).await;
    // In one batch: what came right before the deletion is in the row that stays.
    sunk.put(1, KEY_ONE, &row(1, "first"));
    sunk.put(2, KEY_ONE, &row(1, "last"));
    sunk.delete(3, KEY_ONE);
    // One that was never there: a repeat of what came before its deletion makes no row.
    sunk.delete(9, "{\"id\":2}");
    sunk.put(8, "{\"id\":2}", &row(2, "repeat"));
    sunk.start(&soft("deleted_at")).await;
    sunk.settled().await;
    let all = "SELECT id, note, deleted_at AT TIME ZONE 'UTC' AS at FROM result.marked ORDER BY id";
    let deleted = format!("1|last|{}", COMMITTED.replace(' ', "T"));
    assert_eq!(sunk.rows(all).await, deleted);

    sunk.put(1, KEY_ONE, &row(1, "repeat"));
    sunk.delete(3, KEY_ONE);
    sunk.put(8, "{\"id\":2}", &row(2, "repeat"));
    sunk.settled().await;
    assert_eq!(sunk.rows(all).await, deleted, "a repeat revives nothing");

    sunk.put(4, KEY_ONE, &row(1, "again"));
    sunk.put(10, "{\"id\":2}", &row(2, "new"));
    sunk.settled().await;
    assert_eq!(sunk.rows(all).await, "1|again|NULL\n2|new|NULL");
}

#[tokio::test]
async fn a_flag_and_a_time_without_zone_mark_as_well() {
    for (mark, there, gone) in [
        ("deleted_at boolean NOT NULL", "false", "true".to_owned()),
        ("deleted_at timestamp(3)", "NULL", COMMITTED.replace(' ', "T")),
    ] {
        let mut sunk = Sunk::new(&marked(mark)).await;
        sunk.start(&soft("deleted_at")).await;
        for id in [1, 2] {
            sunk.put(1, &format!("{{\"id\":{id}}}"), &row(id, "a"));
        }
        sunk.settled().await;
        sunk.delete(2, KEY_ONE);
        sunk.settled().await;
        let all = "SELECT id, deleted_at FROM result.marked ORDER BY id";
        assert_eq!(sunk.rows(all).await, format!("1|{gone}\n2|{there}"), "{mark}");
    }
}

#[tokio::test]
async fn what_cannot_mark_is_refused_before_the_first_row() {
    let mut sunk = Sunk::new(&marked("deleted_at text")).await;
    sunk.stack.configure(PG_SINKER, &soft("deleted_at"));
    for arguments in [&[][..], &["check"]] {
        let ended = sunk.stack.command(PG_SINKER, arguments, &[]).await;
        assert_refused(&ended, &["deleted_at of result.marked is text", "timestamptz, timestamp or boolean"]);
    }
    sunk.stack.configure(PG_SINKER, &soft("gone_at"));
    let cure = r#"ALTER TABLE "result"."marked" ADD COLUMN "gone_at" timestamptz"#;
    assert_refused(&sunk.stack.command(PG_SINKER, &[], &[]).await, &[cure]);
    sunk.run(cure).await;
    let mended = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert_eq!(mended.code, Some(0), "{}", mended.output);

    let latest = "[tables.latest]\ntable = \"result.orders_latest\"\nkey = \"order_id\"\non_tombstone = \"soft\"\n";
    sunk.run("ALTER TABLE result.orders_latest ADD COLUMN deleted_at timestamptz").await;
    sunk.stack.configure(PG_SINKER, latest);
    let words = "deleted rows stay in result.orders_latest and are only marked";
    assert_refused(&sunk.stack.command(PG_SINKER, &[], &[]).await, &[words, "on_tombstone = \"delete\""]);
}
