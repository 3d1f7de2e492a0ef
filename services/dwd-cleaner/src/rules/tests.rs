use proptest::prelude::*;

use super::*;
use crate::settings::Settings;

const ORDER: &str = r#"{"order_id":2001,"product_category":"电子产品","quantity":1,"unit_price":5999.00,"total_amount":5999,"order_status":"COMPLETED","order_time":"2025-07-11 17:25:55.145","updated_at":"2025-07-11 17:25:55.145","colour":"红"}"#;
const NOW: &str = "2025-07-12 02:32:59.555";

fn clean_with(plan: &Plan, row: &str) -> Result<String, Rejection> {
    let mut desk = Desk::new(plan);
    let cleaned = plan.clean(row.as_bytes(), NOW, &mut desk, &mut Unwatched)?;
    let mut out = Vec::new();
    cleaned.write(&mut out);
    Ok(String::from_utf8(out).unwrap())
}

fn clean(row: &str) -> Result<String, Rejection> {
    clean_with(&Settings::default().plan().unwrap(), row)
}

/// The plan of rules as they stand in a file.
fn plan(rules: &str) -> Plan {
    settings(rules).plan().unwrap_or_else(|failure| panic!("{}", failure.chain()))
}

fn settings(rules: &str) -> Settings {
    let rules: Vec<serde_json::Value> =
        rules.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let rules = serde_json::from_value(rules.into()).unwrap_or_else(|error| panic!("{error}"));
    let hash_key = shared::config::Secret::new("a key of sixteen bytes or more");
    Settings { rules, personal: crate::settings::PersonalConfig { hash_key }, ..Settings::default() }
}

/// What the rules make of a row: all that stands behind `{"x":…`.
fn made(rules: &str, row: &str) -> String {
    match clean_with(&plan(rules), row) {
        Ok(cleaned) => cleaned,
        Err(rejection) => format!("{}: {}", rejection.reason, rejection.column.unwrap_or_default()),
    }
}

#[test]
fn an_order_is_kept_and_extended() {
    let added = concat!(
        r#","product_category_normalized":"ELECTRONICS","total_amount_yuan":"¥5999.00","order_status_desc":"已完成","#,
        r#""order_date":"2025-07-11","order_hour":17,"etl_time":"2025-07-12 02:32:59.555"}"#
    );
    assert_eq!(clean(ORDER).unwrap(), format!("{}{added}", ORDER.trim_end_matches('}')));
}

#[test]
fn spellings_of_a_category_are_one_and_unknown_values_get_the_defaults() {
    for spelling in [" 电子产品 ", "电子\u{3000}产品", "电 子产品"] {
        assert!(clean(&ORDER.replace("电子产品", spelling)).unwrap().contains(r#""ELECTRONICS""#), "{spelling:?}");
    }
    let cleaned = clean(&ORDER.replace("电子产品", "古董").replace("COMPLETED", "LOST")).unwrap();
    assert!(cleaned.contains(r#""product_category_normalized":"OTHER""#), "{cleaned}");
    assert!(cleaned.contains(r#""order_status_desc":"未知状态""#), "{cleaned}");
    assert!(clean(&ORDER.replace("\"电子产品\"", "null")).unwrap().contains("OTHER"));
}

#[test]
fn amounts_keep_their_digits() {
    for (amount, text) in
        [("0", "¥0.00"), ("-1.5", "¥-1.50"), ("12345678901234567890.123", "¥12345678901234567890.123")]
    {
        let cleaned = clean(&ORDER.replace(":5999,", &format!(":{amount},"))).unwrap();
        assert!(cleaned.contains(&format!("\"{text}\"")), "{cleaned}");
    }
    assert!(clean(&ORDER.replace(":5999,", ":null,")).unwrap().contains("\"total_amount_yuan\":null"));
    let rule = r#"{"name":"a","kind":"amount","column":"x","to":"y","currency":"$","decimals_min":1,"decimals_max":2}"#;
    for (x, y) in [("1.005", "$1.01"), ("-0.005", "$-0.01"), ("7", "$7.0"), ("0.1234", "$0.12")] {
        assert_eq!(made(rule, &format!("{{\"x\":{x}}}")), format!("{{\"x\":{x},\"y\":\"{y}\"}}"));
    }
}

#[test]
fn a_bad_row_is_rejected_with_rule_column_and_reason() {
    let cases = [
        (ORDER.replace("5999,", "\"NaN\","), "wrong_type", "amount_text", "total_amount"),
        (ORDER.replace("5999,", "1e3,"), "wrong_type", "amount_text", "total_amount"),
        (ORDER.replacen("2025-07-11 17:25:55.145", "infinity", 1), "wrong_type", "order_date", "order_time"),
        (ORDER.replace("\"COMPLETED\"", "null"), "no_value", "status_given", "order_status"),
        (ORDER.replace("order_time", "time"), "missing_column", "order_date", "order_time"),
        (ORDER.replace("product_category", "category"), "missing_column", "category", "product_category"),
    ];
    for (row, reason, rule, column) in cases {
        let rejection = clean(&row).unwrap_err();
        let found = (rejection.reason, rejection.rule.as_deref(), rejection.column.as_deref());
        assert_eq!(found, (reason, Some(rule), Some(column)), "{}", rejection.detail);
        assert!(rejection.detail.contains(rule) && rejection.detail.contains(column), "{}", rejection.detail);
    }
    let taken = clean(&ORDER.replace("colour", "etl_time")).unwrap_err();
    assert_eq!((taken.reason, taken.rule, taken.column.as_deref()), ("column_taken", None, Some("etl_time")));
    assert_eq!(clean("not json").unwrap_err().reason, "not_an_object");
}

const ON_MARK: &str = r#"
{"name":"total","kind":"product","column":"t","factors":["q","p"],"on_fail":"mark"}
{"name":"later","kind":"compare","column":"b","is":">=","other":"a","on_fail":"mark"}
{"name":"tier","kind":"band","column":"p","to":"tier","on_fail":"mark","bands":[{"below":"10","value":"low"}]}"#;

#[test]
fn a_mark_names_the_rules_and_the_row_goes_on() {
    let row = |t, b, p| format!(r#"{{"q":2,"p":{p},"t":{t},"a":"2025-01-01","b":"{b}"}}"#);
    let end = |t, b, p| made(ON_MARK, &row(t, b, p)).rsplit_once("\",\"tier\"").unwrap().1.to_owned();
    assert_eq!(end("3.00", "2025-01-01", "1.50"), r#":"low","quality_marks":""}"#);
    assert_eq!(end("3.01", "2024-12-31", "1.5"), r#":"low","quality_marks":"total,later"}"#);
    assert_eq!(end("30", "2025-01-02", "15"), r#":null,"quality_marks":"tier"}"#);
}

#[test]
fn a_check_lets_null_pass_and_required_does_not() {
    for check in [
        r#""kind":"range","column":"x","min":1"#,
        r#""kind":"set","column":"x","values":["a"]"#,
        r#""kind":"pattern","column":"x","pattern":"a""#,
        r#""kind":"product","column":"x","factors":["n"]"#,
        r#""kind":"sum","column":"x","terms":["n"]"#,
        r#""kind":"compare","column":"x","is":"=","other":"n""#,
    ] {
        let rules = format!(r#"{{"name":"c",{check}}}"#);
        let row = r#"{"x":null,"n":1}"#;
        assert_eq!(made(&rules, row), row);
    }
    let required = r#"{"name":"c","kind":"required","column":"x"}"#;
    assert_eq!(made(required, r#"{"x":null}"#), "no_value: x");
    assert_eq!(made(required, r#"{"x":" \u3000\t"}"#), "no_value: x");
    assert_eq!(made(required, r#"{}"#), "missing_column: x");
    assert_eq!(
        made(&required.replace('}', r#","absent":"null","on_fail":"default","default":"unknown"}"#), r#"{"y":1}"#),
        r#"{"y":1,"x":"unknown"}"#
    );
    assert_eq!(made(&required.replace('}', r#","blank":true}"#), r#"{"x":" "}"#), r#"{"x":" "}"#);
}

#[test]
fn what_fails_is_rejected_by_name() {
    let cases = [
        (
            r#""kind":"range","column":"x","min":"0.01","max":100"#,
            vec!["0.01", "100", "99.999"],
            vec!["0", "0.009", "100.001", "true", "\"1\""],
        ),
        (
            r#""kind":"range","column":"x","min":"2020-01-01""#,
            vec!["\"2020-01-01\"", "\"2025-07-11 00:00:00.000\"", "\"infinity\""],
            vec!["\"2019-12-31 23:59:59.999\"", "\"-infinity\"", "7", "\"2025-07-11 00:00:00.000Z\""],
        ),
        (
            r#""kind":"set","column":"x","values":["A",7,true],"fold":["width","case"]"#,
            vec!["\"A\"", "\"ａ\"", "7", "true"],
            vec!["\"B\"", "8", "\"A \""],
        ),
        (
            r#""kind":"pattern","column":"x","pattern":"1[3-9]\\d{9}|none""#,
            vec!["\"13812345678\"", "13812345678", "\"none\""],
            vec!["\"+13812345678\"", "\"138123456789\"", "\"\""],
        ),
        (
            r#""kind":"product","column":"x","factors":["two","price"]"#,
            vec!["999", "999.00"],
            vec!["998.99", "\"999\""],
        ),
        (
            r#""kind":"product","column":"x","factors":["two","price"],"tolerance":"0.01""#,
            vec!["998.99", "999.01"],
            vec!["998.98"],
        ),
        (r#""kind":"sum","column":"x","terms":["price","-two"]"#, vec!["497.5"], vec!["501.5"]),
        (r#""kind":"compare","column":"x","is":"<","other":"two""#, vec!["1.99"], vec!["2.0", "\"a\""]),
        (r#""kind":"compare","column":"x","is":"<>","other":"name""#, vec!["\"李四\"", "7"], vec!["\"张三\""]),
    ];
    for (rule, good, bad) in cases {
        let rule = format!(r#"{{"name":"c",{rule}}}"#);
        let row = |x: &str| format!(r#"{{"x":{x},"two":2,"price":499.50,"name":"张三"}}"#);
        for x in good {
            assert_eq!(made(&rule, &row(x)), row(x), "{rule}");
        }
        for x in bad {
            assert!(made(&rule, &row(x)).ends_with(": x"), "{rule}: {x}");
        }
    }
}

#[test]
fn a_default_takes_the_place_of_the_value_and_all_else_stays() {
    let with = |rule: &str, row: &str| made(&format!(r#"{{"name":"c","on_fail":"default",{rule}}}"#), row);
    let product = r#""kind":"product","column":"t","factors":["q","p"]"#;
    assert_eq!(with(product, r#"{ "q":3, "t":1.00, "p":0.105 }"#), r#"{ "q":3, "t":0.32, "p":0.105}"#);
    assert_eq!(with(product, r#"{"q":3,"t":"x","p":1}"#), "wrong_type: t", "there is no right value to put in");
    assert_eq!(with(r#""kind":"range","column":"t","min":1,"default":"1.00""#, r#"{"t":0.5}"#), r#"{"t":1.00}"#);
    assert_eq!(
        with(r#""kind":"compare","column":"t","is":">=","other":"a""#, r#"{"t":"2025-01-01","a":"2025-01-02"}"#),
        r#"{"t":"2025-01-02","a":"2025-01-02"}"#
    );
    assert_eq!(
        with(r#""kind":"compare","column":"t","is":"<","other":"a","default":0"#, r#"{"t":7,"a":7}"#),
        r#"{"t":0,"a":7}"#
    );
    assert_eq!(with(r#""kind":"set","column":"t","values":["a"],"default":"b""#, r#"{"t":"x"}"#), r#"{"t":"b"}"#);
    assert_eq!(with(r#""kind":"hour","column":"t","to":"h","default":-1"#, r#"{"t":"?"}"#), r#"{"t":"?","h":-1}"#);
}

#[test]
fn a_rule_sees_what_the_rules_before_left() {
    let rules = r#"
{"name":"fill","kind":"required","column":"city","on_fail":"default","default":"北京"}
{"name":"code","kind":"map","column":"city","to":"code","values":{"北京":1}}
{"name":"known","kind":"set","column":"code","values":[1]}
{"name":"tier","kind":"map","column":"code","to":"tier","values":{"1":"一线城市"}}"#;
    assert_eq!(made(rules, r#"{"city":null}"#), r#"{"city":"北京","code":1,"tier":"一线城市"}"#);
}

#[test]
fn a_column_that_a_rule_added_can_be_changed_by_the_next_ones() {
    let rules = r#"
{"name":"copy","kind":"fold","column":"name","to":"short","fold":["blank"]}
{"name":"size","kind":"band","column":"n","to":"size","bands":[{"value":"any"}]}
{"name":"lower","kind":"fold","column":"short","fold":["case"]}
{"name":"known","kind":"set","column":"short","values":["ab"],"on_fail":"default","default":"none of them"}
{"name":"again","kind":"mask","column":"short","to":"hidden","keep_first":1,"mask":"*"}"#;
    assert_eq!(
        made(rules, r#"{"name":"A b","n":1}"#),
        r#"{"name":"A b","n":1,"short":"ab","size":"any","hidden":"a*"}"#
    );
    let other = r#"{"name":"A c","n":1,"short":"none of them","size":"any","hidden":"n*"}"#;
    assert_eq!(made(rules, r#"{"name":"A c","n":1}"#), other);
}

#[test]
fn dates_and_hours_are_those_of_the_zone() {
    let rules = r#"
{"name":"d","kind":"date","column":"x","to":"d","zone":"Asia/Shanghai"}
{"name":"h","kind":"hour","column":"x","to":"h","zone":"Asia/Shanghai"}"#;
    assert_eq!(
        made(rules, r#"{"x":"2025-07-11 17:25:55.145Z"}"#),
        r#"{"x":"2025-07-11 17:25:55.145Z","d":"2025-07-12","h":1}"#
    );
    assert_eq!(made(rules, r#"{"x":null}"#), r#"{"x":null,"d":null,"h":null}"#);
    assert_eq!(made(rules, r#"{"x":"2025-07-11 17:25:55.145"}"#), "wrong_type: x");
    let assumed = rules.replace(r#""zone""#, r#""assume_zone":"America/New_York","zone""#);
    assert_eq!(
        made(&assumed, r#"{"x":"2025-07-11 12:00:00.000"}"#),
        r#"{"x":"2025-07-11 12:00:00.000","d":"2025-07-12","h":0}"#
    );
    let plain = rules.replace(r#","zone":"Asia/Shanghai""#, "");
    assert_eq!(
        made(&plain, r#"{"x":"0044-03-15 23:00:00.000 BC"}"#),
        r#"{"x":"0044-03-15 23:00:00.000 BC","d":"0044-03-15 BC","h":23}"#
    );
}

#[test]
fn personal_values_are_hidden_where_they_stand() {
    let rules = r#"
{"name":"id","kind":"hash","column":"phone","to":"phone_id","hex_digits":16}
{"name":"phone","kind":"mask","column":"phone","keep_first":3,"keep_last":4,"mask":"****"}
{"name":"email","kind":"mask","column":"email","keep_first":1,"keep_from":"@","mask":"***"}
{"name":"name","kind":"hash","column":"name"}"#;
    let cleaned =
        made(rules, r#"{"id":1,"phone":"13812345678","name":null,"email":"zhangsan@example.com","city":"北京"}"#);
    let (front, id) = cleaned.split_once(r#","phone_id":""#).unwrap();
    assert_eq!(front, r#"{"id":1,"phone":"138****5678","name":null,"email":"z***@example.com","city":"北京""#);
    assert_eq!(id.trim_end_matches("\"}").len(), 16, "{id}");
}

/// What is wrong with rules, in words.
fn refused(rules: &str) -> String {
    settings(rules).plan().unwrap_err().chain()
}

#[test]
fn rules_that_contradict_each_other_are_refused_with_a_cure() {
    for (rules, words) in [
        ("{\"name\":\"a b\",\"kind\":\"now\",\"to\":\"t\"}", "no name for a rule"),
        (
            "{\"name\":\"a\",\"kind\":\"now\",\"to\":\"t\"}\n{\"name\":\"a\",\"kind\":\"now\",\"to\":\"u\"}",
            "two rules of this name",
        ),
        (
            "{\"name\":\"a\",\"kind\":\"now\",\"to\":\"t\"}\n{\"name\":\"b\",\"kind\":\"now\",\"to\":\"t\"}",
            "added by rule `a` already",
        ),
        (
            "{\"name\":\"a\",\"kind\":\"required\",\"column\":\"t\"}\n{\"name\":\"b\",\"kind\":\"now\",\"to\":\"t\"}",
            "put this rule before that one",
        ),
        ("{\"name\":\"a\",\"kind\":\"now\",\"to\":\"\"}", "without a name"),
        (
            "{\"name\":\"a\",\"kind\":\"map\",\"column\":\"x\",\"to\":\"y\",\"fold\":[\"case\"],\"values\":{\"a\":1,\"A\":2}}",
            "mean different things",
        ),
        ("{\"name\":\"a\",\"kind\":\"fold\",\"column\":\"x\",\"fold\":[]}", "fold is empty"),
        ("{\"name\":\"a\",\"kind\":\"band\",\"column\":\"x\",\"to\":\"y\",\"bands\":[]}", "no bands"),
        (
            "{\"name\":\"a\",\"kind\":\"band\",\"column\":\"x\",\"to\":\"y\",\"bands\":[{\"below\":2,\"value\":1},{\"below\":2,\"value\":2}]}",
            "do not ascend",
        ),
        ("{\"name\":\"a\",\"kind\":\"hour\",\"column\":\"x\",\"to\":\"y\",\"zone\":\"Asia/Peking\"}", "Asia/Peking"),
        ("{\"name\":\"a\",\"kind\":\"hour\",\"column\":\"x\",\"to\":\"y\",\"assume_zone\":\"UTC\"}", "set zone"),
        ("{\"name\":\"a\",\"kind\":\"range\",\"column\":\"x\"}", "no bound"),
        ("{\"name\":\"a\",\"kind\":\"range\",\"column\":\"x\",\"min\":2,\"max\":1}", "min is above max"),
        ("{\"name\":\"a\",\"kind\":\"range\",\"column\":\"x\",\"min\":2,\"max\":\"2025-01-01\"}", "the other a time"),
        ("{\"name\":\"a\",\"kind\":\"range\",\"column\":\"x\",\"min\":\"soon\"}", "neither a number nor a time"),
        ("{\"name\":\"a\",\"kind\":\"pattern\",\"column\":\"x\",\"pattern\":\"(\"}", "cannot be read"),
        ("{\"name\":\"a\",\"kind\":\"pattern\",\"column\":\"x\",\"pattern\":\"a)(b\"}", "cannot be read"),
        ("{\"name\":\"a\",\"kind\":\"product\",\"column\":\"x\",\"factors\":[]}", "at least one"),
        ("{\"name\":\"a\",\"kind\":\"set\",\"column\":\"x\",\"values\":[1],\"on_fail\":\"default\"}", "set default"),
        // Equal values do not stand so: the other column's value would fail the rule as well.
        (
            "{\"name\":\"a\",\"kind\":\"compare\",\"column\":\"x\",\"is\":\"<\",\"other\":\"y\",\"on_fail\":\"default\"}",
            "set default",
        ),
        ("{\"name\":\"a\",\"kind\":\"set\",\"column\":\"x\",\"values\":[1],\"default\":1}", "nothing uses"),
        (
            "{\"name\":\"a\",\"kind\":\"range\",\"column\":\"x\",\"min\":1,\"on_fail\":\"default\",\"default\":\"low\"}",
            "no number",
        ),
        ("{\"name\":\"a\",\"kind\":\"hash\",\"column\":\"x\",\"hex_digits\":8}", "16 to 64"),
        (
            "{\"name\":\"a\",\"kind\":\"amount\",\"column\":\"x\",\"to\":\"y\",\"decimals_min\":2,\"decimals_max\":1}",
            "contradict",
        ),
    ] {
        let failure = refused(rules);
        assert!(
            failure.contains("rule `a`") || failure.contains("rule `b`") || failure.contains("rule `a b`"),
            "{failure}"
        );
        assert!(failure.contains(words) && failure.contains("To do: "), "{words:?} is not in: {failure}");
    }
    let without_key =
        Settings { personal: Default::default(), ..settings(r#"{"name":"a","kind":"hash","column":"x"}"#) };
    assert!(without_key.plan().unwrap_err().chain().contains("personal.hash_key"));
}

#[test]
fn rows_are_counted_by_rule() {
    let plan = plan(ON_MARK);
    let mut desk = Desk::new(&plan);
    for row in [
        r#"{"q":2,"p":1,"t":2,"a":"2025-01-01","b":"2025-01-01"}"#,
        r#"{"q":2,"p":1,"t":3,"a":"2025-01-01","b":"2025-01-01"}"#,
        r#"{"q":2,"p":1,"t":3}"#,
    ] {
        let _ = plan.clean(row.as_bytes(), NOW, &mut desk, &mut Unwatched);
    }
    let (rows, tallies) = desk.take_tallies();
    assert_eq!(rows, 3);
    assert_eq!(tallies[0], Tally { marked: 2, ..Tally::default() });
    assert_eq!(tallies[1], Tally { rejected: 1, ..Tally::default() });
    assert_eq!(desk.take_tallies().0, 0);
}

proptest! {
    #[test]
    fn whatever_is_cleaned_is_json_with_the_old_row_in_front(category in any::<String>(), amount in any::<i64>()) {
        let row = serde_json::json!({
            "product_category": category, "total_amount": amount, "order_status": "PAID", "order_time": "2025-01-01 00:00:00.000"
        }).to_string();
        let cleaned = clean(&row).unwrap();
        let open_row = row.trim_end_matches('}');
        prop_assert!(cleaned.starts_with(open_row));
        prop_assert!(serde_json::from_str::<serde_json::Value>(&cleaned).is_ok());
    }

    #[test]
    fn a_row_with_values_replaced_is_the_row_with_these_values(phone in any::<String>(), other in any::<String>(), n in any::<i64>()) {
        let rules = r#"{"name":"m","kind":"mask","column":"phone","keep_first":1,"mask":"*"}"#;
        let row = serde_json::json!({"a": other, "n": n, "phone": phone, "z": [other]}).to_string();
        let mut cleaned: serde_json::Value = serde_json::from_str(&made(rules, &row)).unwrap();
        let masked = cleaned["phone"].take();
        prop_assert!(masked.as_str().unwrap().ends_with('*'));
        cleaned["phone"] = phone.into();
        prop_assert_eq!(cleaned, serde_json::from_str::<serde_json::Value>(&row).unwrap());
    }

    #[test]
    fn any_bytes_are_rejected_or_cleaned_but_never_panic(bytes in any::<Vec<u8>>()) {
        let plan = Settings::default().plan().unwrap();
        let _ = plan.clean(&bytes, "", &mut Desk::new(&plan), &mut Unwatched).map(|cleaned| cleaned.write(&mut Vec::new()));
    }

    #[test]
    fn any_value_is_rejected_or_cleaned_but_never_panics(value in "\\PC*", number in "-?[0-9]{1,45}(\\.[0-9]{1,45})?(e[0-9]{1,4})?") {
        let plan = plan(concat!(
            r#"{"name":"p","kind":"product","column":"a","factors":["a","b"],"on_fail":"mark"}"#, "\n",
            r#"{"name":"s","kind":"sum","column":"b","terms":["a","-b"],"on_fail":"default"}"#, "\n",
            r#"{"name":"t","kind":"amount","column":"a","to":"at","decimals_max":2,"on_fail":"mark"}"#, "\n",
            r#"{"name":"d","kind":"date","column":"c","to":"d","zone":"Asia/Shanghai","assume_zone":"UTC","on_fail":"mark"}"#, "\n",
            r#"{"name":"r","kind":"range","column":"c","min":"2020-01-01","on_fail":"mark"}"#,
        ));
        for (a, b) in [(&number, "1.5"), (&number, number.as_str())] {
            let row = format!(r#"{{"a":{a},"b":{b},"c":{}}}"#, serde_json::Value::from(value.as_str()));
            if let Ok(cleaned) = clean_with(&plan, &row) {
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&cleaned).is_ok(), "{}", cleaned);
            }
        }
    }
}
