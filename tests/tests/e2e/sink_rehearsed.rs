//! `pg-sinker check` holds the newest rows of a topic against its tables, before any is written.

use crate::refused_settings::assert_refused;
use crate::stack::PG_SINKER;
use crate::sunk::Sunk;

const TABLE: &str = "[tables.t]\ntable = \"result.t\"\nkey = \"id\"\n";

#[tokio::test]
async fn columns_and_types_are_held_against_the_newest_rows() {
    let mut sunk = Sunk::new(
        "CREATE TABLE result.t (id bigint PRIMARY KEY, n int, must text NOT NULL, at timestamp, processed_time timestamp,
            source_commit_time timestamptz, record_version bytea NOT NULL);
         GRANT SELECT, INSERT, UPDATE ON result.t TO tidemill_writer;",
    )
    .await;
    sunk.stack.configure(PG_SINKER, TABLE);
    let empty = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert!(empty.code == Some(0) && empty.output.contains("has no row yet"), "{}", empty.output);

    sunk.put(1, "{\"id\":1}", "{\"id\":1,\"n\":\"many\",\"other\":1,\"at\":\"2025-07-11 17:25:55.143\"}");
    sunk.put(2, "{\"id\":2}", "{\"id\":2,\"n\":\"few\",\"at\":\"no time\"}");
    sunk.delete(3, "{\"id\":1}");
    sunk.flush();
    let cures = [
        r#"ALTER TABLE "result"."t" ALTER COLUMN "must" DROP NOT NULL"#,
        r#"ALTER TABLE "result"."t" ALTER COLUMN "n" TYPE text"#,
    ];
    let told = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert_refused(&told, &cures);
    for words in [
        "column at of result.t is timestamp without time zone, which the values are not (invalid input syntax for type timestamp: \"no time\"): 1 of the newest 2",
        "fields that no column takes: other; columns that no field fills: must",
    ] {
        assert!(told.output.contains(words), "{words}: {}", told.output);
    }
    for cure in cures {
        sunk.run(cure).await;
    }
    let mended = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert_eq!(mended.code, Some(0), "{}", mended.output);
}

#[tokio::test]
async fn a_table_that_is_not_there_is_proposed_as_the_rows_want_it() {
    let mut sunk = Sunk::new("").await;
    sunk.put(1, "{\"id\":1}", "{\"id\":1,\"s\":\"x\",\"d\":{}}");
    sunk.flush();
    sunk.stack.configure(PG_SINKER, TABLE);
    let statements = r#"CREATE SCHEMA IF NOT EXISTS "result"; CREATE TABLE "result"."t" ("id" numeric, "s" text, "d" jsonb, processed_time timestamp(3), source_commit_time timestamptz, record_version bytea NOT NULL, PRIMARY KEY ("id")); GRANT USAGE ON SCHEMA "result" TO "tidemill_writer"; GRANT SELECT, INSERT, UPDATE, DELETE ON "result"."t" TO "tidemill_writer""#;
    assert_refused(&sunk.stack.command(PG_SINKER, &["check"], &[]).await, &["result.t does not exist", statements]);
    sunk.run(statements).await;
    let mended = sunk.stack.command(PG_SINKER, &["check"], &[]).await;
    assert_eq!(mended.code, Some(0), "{}", mended.output);
    sunk.start(TABLE).await;
    sunk.settled().await;
    assert_eq!(sunk.rows("SELECT id, s, d::text AS d FROM result.t").await, "1|x|{}");
}
