//! docs/warehouse.md: its settings, statements and views, as they stand there.

use crate::cleaning::config;
use crate::database::{run, value};
use crate::random_results::RandomResults;
use crate::stack::{PG_SINKER, Stack};
use crate::until::until_equal;

const PAGE: &str = include_str!("../../../docs/warehouse.md");

/// The blocks of one kind.
fn blocks(kind: &str) -> Vec<&'static str> {
    let fence = format!("```{kind}\n");
    PAGE.split(fence.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

#[tokio::test]
async fn the_documented_roll_up_is_kept_and_the_views_answer() {
    let mut stack = Stack::new().await;
    let mut results = RandomResults::new(&stack, 100).await;
    results.write_all_keys();
    let mut sink = stack.sink().await;
    let text = config("pg-sinker.toml").replace("\n[fill]", &format!("\n{}\n\n[fill]", blocks("toml")[0]));
    stack.configure(PG_SINKER, &text);
    let statements = blocks("sql")[0];
    let refused = stack.command(PG_SINKER, &["check"], &[]).await;
    let given = statements.trim_end_matches(';');
    assert!(refused.output.contains(given), "{given}\nis not what check says: {}", refused.output);
    run(&mut sink, statements).await;

    stack.start(PG_SINKER);
    stack.ready().await;
    results.write_steps(500);
    let ends = stack.layers().end(&stack.places.names.result_topic).unwrap();
    let written: i64 = ends.iter().map(|(_, end)| end).sum();
    let handled = "SELECT coalesce(sum(next_offset), 0)::bigint FROM tidemill.sink_offsets";
    until_equal("all is in the sink", written, async || value::<i64>(&mut sink, handled).await).await;
    let complete = "SELECT count(*) FROM tidemill.rollups WHERE is_complete";
    until_equal("all are complete", 4, async || value::<i64>(&mut sink, complete).await).await;
    let differing = "WITH wanted AS (SELECT user_id, order_status, count(*), coalesce(sum(total_amount) FILTER (WHERE total_amount <> 'NaN'), 0),
            count(DISTINCT product_category_normalized) FROM result.orders_latest GROUP BY user_id, order_status),
        kept AS (SELECT user_id, order_status, orders, amount, categories FROM dws.orders_by_user)
        SELECT (SELECT count(*) FROM (TABLE wanted EXCEPT ALL TABLE kept) a) + (SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE wanted) b)";
    assert_eq!(value::<i64>(&mut sink, differing).await, 0);
    // Among the random amounts are some that are no number, and none: they are at the top of nothing.
    for top in ["ads.top_users", "ads.top_products"] {
        let strange = "SELECT count(*) FROM result.orders_latest WHERE total_amount IS NULL OR total_amount = 'NaN'";
        assert_ne!(value::<i64>(&mut sink, strange).await, 0);
        let right = format!(
            "SELECT sum(amount) = (SELECT sum(amount) FROM ads.sales) AND count(*) FILTER (WHERE place = 1 AND amount < (SELECT max(amount) FROM {top})) = 0 FROM {top}"
        );
        assert!(value::<bool>(&mut sink, &right).await, "{top}");
    }

    for statement in blocks("sql")[1].split(";\n") {
        let counted = format!("SELECT count(*) FROM ({}) AS answer", statement.trim_end_matches(';'));
        assert_ne!(value::<i64>(&mut sink, &counted).await, 0, "{statement}");
    }
}

#[tokio::test]
async fn every_view_of_the_page_is_there_and_every_view_is_on_the_page() {
    let stack = Stack::new().await;
    let mut sink = stack.sink().await;
    let views = "SELECT string_agg(viewname, ' ' ORDER BY viewname) FROM pg_views WHERE schemaname = 'ads'";
    let views: String = value(&mut sink, views).await;
    for view in views.split(' ') {
        let ending = view.strip_prefix("sales").filter(|ending| !ending.is_empty());
        let named = [format!("`ads.{view}`"), format!("`{}`", ending.unwrap_or(view))];
        assert!(named.iter().any(|name| PAGE.contains(name)), "{view} is not on the page");
        // On a sink without a row.
        value::<i64>(&mut sink, &format!("SELECT count(*) FROM ads.{view}")).await;
    }
}
