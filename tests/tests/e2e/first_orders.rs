//! The guide's five orders come through, and then the guide's own validation.

use lab::compare::{self, EVERYTHING, Part};
use lab::paper::Paper;
use lab::{sightings, validate};

use crate::database::value;
use crate::history::History;
use crate::stack::{DIM_JOINER, DWD_CLEANER, PG_SINKER, Stack};
use crate::until::{PATIENCE, until_equal};

async fn trail_rows(stack: &Stack) -> i64 {
    sightings::count(&mut stack.sink().await, &stack.places.names.trail).await.unwrap()
}

#[tokio::test]
async fn five_orders_become_five_rows_and_the_validation_makes_them_eight() {
    let stack = Stack::started().await;
    until_equal("the sink has five rows", 5, async || trail_rows(&stack).await).await;
    let (mut source, mut sink) = (stack.source().await, stack.sink().await);
    for part in [Part::Latest, Part::TrailNow] {
        let (names, bound) = (&stack.places.names, PATIENCE);
        let compared = compare::until_equal(&mut source, &mut sink, names, part, EVERYTHING, bound).await.unwrap();
        assert!(compared.is_equal() && compared.expected == 5, "{part:?}: {compared:?}");
    }

    let passed = validate::run(&stack.places, PATIENCE, &mut Paper::plain(std::io::stderr())).await.unwrap();
    assert!(passed, "the validation failed, see above");
    assert_eq!(trail_rows(&stack).await, 8);
    assert_no_dead_letters(&stack);
}

fn assert_no_dead_letters(stack: &Stack) {
    let layers = stack.layers();
    for service in [DWD_CLEANER, DIM_JOINER, PG_SINKER] {
        let end = layers.end(&stack.dead_letter_topic(service)).unwrap();
        assert_eq!(end, [(0, 0)], "dead letters of {service}");
    }
}

/// The fields of the guide's own sample, as text: decimals as they were written, Chinese as it is, times to the millisecond.
const GUIDE_SAMPLE: [&str; 19] = [
    r#""order_id":2001"#,
    r#""user_id":1001"#,
    r#""username":"张三""#,
    r#""email":"zhangsan@example.com""#,
    r#""phone":"13812345678""#,
    r#""city":"北京""#,
    r#""product_name":"iPhone 15""#,
    r#""product_category":"电子产品""#,
    r#""product_category_normalized":"ELECTRONICS""#,
    r#""quantity":1"#,
    r#""unit_price":5999.00"#,
    r#""total_amount":5999.00"#,
    r#""total_amount_yuan":"¥5999.00""#,
    r#""order_status":"COMPLETED""#,
    r#""order_status_desc":"已完成""#,
    r#""order_time":"2025-07-11 17:25:55.145""#,
    r#""order_date":"2025-07-11""#,
    r#""order_hour":17"#,
    r#""user_register_time":"2025-07-11 17:25:55.143""#,
];

#[tokio::test]
async fn a_result_record_is_the_guides_own_to_the_letter() {
    let stack = Stack::started_behind_the_copy().await;
    until_equal("the sink has five rows", 5, async || trail_rows(&stack).await).await;
    let history = History::read(&stack.layers(), &stack.places.names.result_topic);
    let [record] = history.of_order(2001) else { panic!("{:?}", history.of_order(2001)) };
    let row = record.value.as_deref().unwrap();
    let fields: Vec<&str> = row.trim_start_matches('{').trim_end_matches('}').split(",\"").collect();
    for wanted in GUIDE_SAMPLE.into_iter().chain([r#""user_city_tier":"一线城市""#]) {
        let wanted = wanted.trim_start_matches('"');
        assert!(fields.iter().any(|field| field.trim_start_matches('"') == wanted), "{wanted} is not in {row}");
    }
    for name in ["etl_time", "join_time"] {
        assert_to_the_millisecond(fields.iter().find_map(|field| field.strip_prefix(&format!("{name}\":"))), row);
    }

    let register_time: String = value(
        &mut stack.sink().await,
        "SELECT user_register_time::text FROM result.orders_latest WHERE order_id = 2001",
    )
    .await;
    assert_eq!(register_time, "2025-07-11 17:25:55.143");
}

/// `"2025-07-12 02:32:59.555"`.
fn assert_to_the_millisecond(time: Option<&str>, row: &str) {
    let shape: String = time.unwrap_or_default().chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "\"0000-00-00 00:00:00.000\"", "in {row}");
}
