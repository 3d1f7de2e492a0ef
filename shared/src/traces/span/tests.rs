use super::*;
use crate::position::Lsn;
use crate::record::header::Operation;

const TIME_US: i64 = 1_752_226_555_145_000;
const BEGUN: Begun = Begun { at_ns: 1_752_226_555_150_000_000, of_input: true };

fn header(transaction: u32, index: u32) -> Header {
    let version = Version { epoch: 1, lsn: Lsn(u64::from(transaction) * 16), index, part: 1 };
    Header { transaction, commit_time_us: Some(TIME_US), ..Header::new(Operation::Insert, version) }
}

/// Parts of records: header, topic, partition, offset in the input.
fn parts(records: &[(Header, usize, i32, Option<i64>)]) -> Parts {
    let mut parts = Parts::new(Sampling::of(1.0));
    records.iter().for_each(|(header, topic, partition, offset)| parts.note(header, *topic, *partition, *offset));
    parts
}

fn database() -> Database {
    Database { host: "db".into(), port: 5432, name: "source_db".into() }
}

fn topics(names: &[&str]) -> Vec<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn of_topic(topic: &str) -> Stage {
    Stage::from_topic(topic, "group")
}

fn attribute_of(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Through capture, a stage from topic to topic, and the sink.
#[test]
fn what_reads_a_place_hangs_under_what_wrote_it() {
    let given = &mut Given::new(100);
    let (first, second) = (header(7, 0), header(7, 1));
    let captured = parts(&[(first.clone(), 0, 3, None), (second.clone(), 0, 3, None), (second.clone(), 1, 2, None)]);
    let spans =
        Stage::Capture { source: database() }.spans(&captured, BEGUN, &topics(&["ods_orders", "ods_users"]), given);
    let [root, orders, users] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((root.name.as_str(), root.parent_span_id.as_slice()), ("commit", &[][..]));
    assert_eq!(root.start_time_unix_nano, 1_752_226_555_145_000_000);
    assert_eq!((orders.name.as_str(), users.name.as_str()), ("send ods_orders", "send ods_users"));
    assert!([orders, users].iter().all(|span| span.parent_span_id == root.span_id));
    assert_eq!(attribute_of(orders, "tidemill.records").as_deref(), Some("2"));
    assert_eq!(attribute_of(orders, "tidemill.version").as_deref(), Some("1.70.0.1"));

    let cleaned = parts(&[(first.clone(), 0, 3, Some(41)), (second.clone(), 0, 3, Some(42))]);
    let spans = of_topic("ods_orders").spans(&cleaned, BEGUN, &topics(&["dwd_orders"]), given);
    let [cleaned] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((cleaned.name.as_str(), &cleaned.parent_span_id), ("process ods_orders", &orders.span_id));
    assert_eq!(attribute_of(cleaned, "messaging.kafka.offset").as_deref(), Some("41"));
    assert_eq!(attribute_of(cleaned, "tidemill.output.topic").as_deref(), Some("dwd_orders"));

    let input = Input { topic: "dwd_orders".into(), group: "group".into() };
    let sunk = parts(&[(first, 0, 3, Some(9))]);
    let spans = Stage::Sink { input, sink: database() }.spans(&sunk, BEGUN, &[], &mut Given::default());
    let [sunk] = spans.as_slice() else { panic!("{spans:#?}") };
    assert_eq!((sunk.name.as_str(), &sunk.parent_span_id), ("process dwd_orders", &cleaned.span_id));
    assert_eq!(attribute_of(sunk, "db.namespace").as_deref(), Some("source_db"));
    assert!([root, orders, cleaned, sunk].iter().all(|span| span.trace_id == root.trace_id));
}

#[test]
fn each_commit_has_a_trace_of_its_own() {
    let two = parts(&[(header(7, 0), 0, 3, None), (header(8, 0), 0, 3, None)]);
    let spans = Stage::Capture { source: database() }.spans(&two, BEGUN, &topics(&["t"]), &mut Given::new(9));
    let traces: HashSet<&[u8]> = spans.iter().map(|span| span.trace_id.as_slice()).collect();
    assert_eq!((spans.len(), traces.len()), (4, 2));
}

#[test]
fn a_later_batch_of_a_commit_hangs_beside_the_first() {
    let given = &mut Given::new(100);
    let mut spans = |index| {
        let capture = Stage::Capture { source: database() };
        capture.spans(&parts(&[(header(7, index), 0, 3, None)]), BEGUN, &topics(&["t"]), given)
    };
    let (first, second, third) = (spans(0), spans(1), spans(2));
    let (root, first) = (&first[0], &first[1]);
    assert_eq!((second.len(), third.len()), (1, 1), "the commit has one span");
    let ids: HashSet<&[u8]> = [first, &second[0], &third[0]].map(|span| span.span_id.as_slice()).into();
    assert_eq!(ids.len(), 3);
    assert!([first, &second[0], &third[0]].iter().all(|span| span.parent_span_id == root.span_id));
}

#[test]
fn what_a_stage_sends_by_itself_hangs_under_the_commit() {
    let own = Begun { of_input: false, ..BEGUN };
    let spans = of_topic("dwd_orders").spans(
        &parts(&[(header(7, 0), 0, 1, Some(5))]),
        own,
        &topics(&["result"]),
        &mut Given::new(9),
    );
    assert_eq!(spans[0].name, "send result");
    assert_eq!(spans[0].parent_span_id, Commit::of(&header(7, 0)).unwrap().trace().span(format_args!("commit")).0);
}

#[test]
fn what_is_of_no_commit_or_not_sampled_has_no_span() {
    let copied = Header::new(Operation::Snapshot, Version::default());
    assert!(parts(&[(copied, 0, 0, None)]).is_empty());
    let mut none = Parts::new(Sampling::of(0.0));
    none.note(&header(7, 0), 0, 0, None);
    assert!(none.is_empty());
}

#[test]
fn a_clock_of_the_source_that_is_ahead_turns_no_span_around() {
    let early = Begun { at_ns: 5, ..BEGUN };
    let spans = Stage::Capture { source: database() }.spans(
        &parts(&[(header(7, 0), 0, 3, None)]),
        early,
        &topics(&["t"]),
        &mut Given::new(9),
    );
    assert_eq!(spans[0].start_time_unix_nano, 5);
}

#[test]
fn so_many_ids_are_remembered() {
    let mut given = Given::new(2);
    let id = |number| SpanId([number; 8]);
    assert!(given.is_new(id(1)) && given.is_new(id(2)) && !given.is_new(id(1)));
    assert!(given.is_new(id(3)) && given.is_new(id(1)), "the oldest is forgotten");
    assert_eq!(given.ids.len(), 2);
}
