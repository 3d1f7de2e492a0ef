//! The API: what is described is answered, what is answered fits its description, and every error is a problem document.

use lab::page::{self, Answer};
use serde_json::{Value, json};
use shared::kafka::partitioner::partition;

use crate::busy::rows;
use crate::database::run;
use crate::history::order_key;
use crate::reconciled::prepared;
use crate::stack::{CDC_INGEST, DIM_JOINER, DWD_CLEANER, PG_SINKER, SERVICES, Stack};
use crate::table_page::TOKEN;
use crate::topics::{Foreign, write};
use crate::until::{until, until_equal};

async fn ask(stack: &Stack, at: &str, method: &str, path: &str, token: Option<&str>) -> Answer {
    let answer = page::request(method, &stack.url(at), path, token).await;
    answer.unwrap_or_else(|failure| panic!("{}", failure.chain()))
}

/// The description of the API, and what must fit it.
struct Description(Value);

impl Description {
    async fn of(stack: &Stack, at: &str) -> Self {
        let answer = ask(stack, at, "GET", "/api/openapi.json", None).await;
        Description(serde_json::from_str(&answer.page.body).unwrap())
    }

    fn assert_fits(&self, schema: &Value, value: &Value) {
        let mut wrong = Vec::new();
        self.misfits(schema, value, "", &mut wrong);
        assert!(wrong.is_empty(), "{wrong:#?} in {value}");
    }

    /// Where a value is not as the schema says. It knows what the description uses of JSON Schema, and refuses the rest.
    fn misfits(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        for (word, meant) in schema.as_object().unwrap() {
            match word.as_str() {
                "description" | "minimum" => {}
                "$ref" => {
                    let place = meant.as_str().unwrap().trim_start_matches('#');
                    let named = self.0.pointer(place).unwrap_or_else(|| panic!("{place} is not there"));
                    self.misfits(named, value, at, wrong);
                }
                "type" => {
                    let is = |kind: &Value| is_of_type(value, kind.as_str().unwrap());
                    if !meant.as_array().map_or_else(|| is(meant), |kinds| kinds.iter().any(is)) {
                        wrong.push(format!("{at} is {value}, no {meant}"));
                    }
                }
                "enum" if meant.as_array().unwrap().contains(value) => {}
                "enum" => wrong.push(format!("{at} is {value}, none of {meant}")),
                "oneOf" => {
                    let fits = meant.as_array().unwrap().iter().filter(|one| {
                        let mut inner = Vec::new();
                        self.misfits(one, value, at, &mut inner);
                        inner.is_empty()
                    });
                    if fits.count() != 1 {
                        wrong.push(format!("{at} is {value}, not one of {meant}"));
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.misfits(meant, item, &format!("{at}/{index}"), wrong);
                    }
                }
                "required" => {
                    let names = meant.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                    let missing: Vec<_> = names.filter(|name| value.is_object() && value.get(name).is_none()).collect();
                    if !missing.is_empty() {
                        wrong.push(format!("{at} has no {missing:?}"));
                    }
                }
                "properties" => {
                    for (name, meant) in meant.as_object().unwrap() {
                        if let Some(value) = value.get(name) {
                            self.misfits(meant, value, &format!("{at}/{name}"), wrong);
                        }
                    }
                }
                "additionalProperties" => {
                    let known = |name: &String| schema["properties"].get(name).is_some();
                    for (name, value) in value.as_object().into_iter().flatten().filter(|(name, _)| !known(name)) {
                        match meant {
                            Value::Bool(false) => wrong.push(format!("{at}/{name} is not described")),
                            _ => self.misfits(meant, value, &format!("{at}/{name}"), wrong),
                        }
                    }
                }
                other => panic!("the test does not know the word {other} of JSON Schema"),
            }
        }
    }

    /// An answer of this path and method is described, and fits.
    fn assert_answer(&self, method: &str, path: &str, answer: &Answer) {
        let responses = &self.0["paths"][path][method]["responses"];
        let described = responses.get(answer.page.status.to_string()).unwrap_or(&responses["default"]);
        let content = described["content"].as_object().unwrap();
        let (content_type, media) = content.iter().next().unwrap();
        assert_eq!(answer.content_type.split(';').next(), Some(content_type.as_str()), "{answer:?}");
        self.assert_fits(&media["schema"], &serde_json::from_str(&answer.page.body).unwrap());
    }
}

fn is_of_type(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("there is no type {kind}"),
    }
}

fn open(stack: &mut Stack) {
    for service in SERVICES {
        stack.set(service, "CONSOLE__RECORDS", "open");
    }
}

/// The five orders of the demo are in the sink, and every instance knows of all.
async fn at_rest(stack: &Stack) {
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    for at in SERVICES {
        until(&format!("{at} knows the way"), async || {
            let answer = ask(stack, at, "GET", "/api/v1/topics", None).await;
            let found: Value = serde_json::from_str(&answer.page.body).map_err(|error| error.to_string())?;
            if found["way"] == json!(stack.order_topics()) { Ok(()) } else { Err(answer.page.body) }
        })
        .await;
    }
}

#[tokio::test]
async fn every_page_fits_its_description() {
    let mut stack = Stack::new().await;
    open(&mut stack);
    stack.start_all().await;
    at_rest(&stack).await;
    let records = format!("/api/v1/topics/{}/records", stack.places.names.ods_topic);
    for at in SERVICES {
        let description = Description::of(&stack, at).await;
        for (described, path) in [
            ("/api/v1/state", "/api/v1/state"),
            ("/api/v1/configuration", "/api/v1/configuration"),
            ("/api/v1/pipeline", "/api/v1/pipeline"),
            ("/api/v1/topics", "/api/v1/topics"),
            ("/api/v1/topics/{topic}/records", records.as_str()),
            ("/api/v1/follow", "/api/v1/follow?id=2001"),
        ] {
            let answer = ask(&stack, at, "GET", path, None).await;
            assert_eq!(answer.page.status, 200, "{path} of {at}: {answer:?}");
            description.assert_answer("get", described, &answer);
        }
    }
    for page in ["/api/v1/backfills", "/api/v1/rows?key=%7B%22order_id%22%3A2001%7D", "/api/v1/reconciliation"] {
        let described = page.split('?').next().unwrap();
        let description = Description::of(&stack, PG_SINKER).await;
        let answer = ask(&stack, PG_SINKER, "GET", page, None).await;
        // Nothing is compared in this pipeline.
        assert_eq!(answer.page.status, if described.ends_with("reconciliation") { 404 } else { 200 }, "{answer:?}");
        description.assert_answer("get", described, &answer);
        let elsewhere = ask(&stack, CDC_INGEST, "GET", page, None).await;
        assert_eq!(elsewhere.page.status, 404, "{elsewhere:?}");
        description.assert_answer("get", described, &elsewhere);
    }
    let missing = ask(&stack, DIM_JOINER, "GET", "/api/v1/missing", None).await;
    assert_eq!(missing.page.status, 200);
    Description::of(&stack, DIM_JOINER).await.assert_answer("get", "/api/v1/{name}", &missing);
}

#[tokio::test]
async fn comparisons_and_jobs_fit_their_description() {
    let mut stack = prepared(3_600).await;
    stack.set(PG_SINKER, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.start_all().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    let description = Description::of(&stack, PG_SINKER).await;
    for (body, status) in
        [(json!({ "pair": "latest" }), 202), (json!({ "pair": "nothing" }), 404), (json!({ "table": "x" }), 400)]
    {
        let answer = page::post(&stack.url(PG_SINKER), "/api/v1/reconcile", Some(TOKEN), &body.to_string()).await;
        let answer = answer.unwrap();
        assert_eq!(answer.page.status, status, "{body}: {answer:?}");
        description.assert_answer("post", "/api/v1/reconcile", &answer);
    }
    let body = json!({ "table": "result.orders_latest" }).to_string();
    let taken = page::post(&stack.url(PG_SINKER), "/api/v1/backfill", Some(TOKEN), &body).await.unwrap();
    description.assert_answer("post", "/api/v1/backfill", &taken);
    for (page, place) in [("reconciliation", "/pairs/latest/compared_at"), ("backfills", "/jobs/0/ended_at")] {
        let path = format!("/api/v1/{page}");
        let answer = until(&format!("{page} has one that ended"), async || {
            let answer = ask(&stack, PG_SINKER, "GET", &path, None).await;
            let found: Value = serde_json::from_str(&answer.page.body).map_err(|error| error.to_string())?;
            if found.pointer(place).is_some_and(Value::is_string) { Ok(answer) } else { Err(answer.page.body) }
        })
        .await;
        description.assert_answer("get", &path, &answer);
    }
}

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let mut stack = Stack::new().await;
    open(&mut stack);
    stack.set(CDC_INGEST, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.start(CDC_INGEST);
    stack.ready().await;
    let description = Description::of(&stack, CDC_INGEST).await;
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    let records = format!("/api/v1/topics/{}/records", stack.places.names.ods_topic);
    let (wrong_query, no_partition) = (format!("{records}?limit=x"), format!("{records}?from=0"));
    let (too_many, unknown) = (format!("{records}?limit=201"), format!("{records}?newest=5"));
    let long = "x".repeat(70_000);
    for (method, path, token, status) in [
        ("GET", "/nothing", None, 404),
        ("GET", "/api/state", None, 404),
        ("GET", "/api/v1/nothing", None, 404),
        ("GET", "/api/v1/topics/secret_topic/records", None, 404),
        ("POST", "/api/v1/nothing", Some(TOKEN), 404),
        ("DELETE", "/api/v1/state", None, 405),
        ("POST", "/api/v1/pipeline", Some(TOKEN), 405),
        ("PUT", "/", None, 405),
        ("POST", "/api/v1/snapshot", None, 401),
        ("POST", "/api/v1/snapshot", Some("wrong"), 401),
        ("POST", "/api/v1/snapshot", Some(TOKEN), 400),
        ("GET", wrong_query.as_str(), None, 400),
        ("GET", no_partition.as_str(), None, 400),
        ("GET", too_many.as_str(), None, 400),
        ("GET", unknown.as_str(), None, 400),
        ("GET", "/api/v1/follow", None, 400),
        ("GET", "/api/v1/follow?id=1&key=2", None, 400),
        ("GET", "/api/v1/rows", None, 400),
        ("GET", "/api/v1/rows?key=1", None, 404),
    ] {
        let answer = ask(&stack, CDC_INGEST, method, path, token).await;
        assert_eq!(answer.page.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.content_type, "application/problem+json", "{method} {path}");
        let body: Value = serde_json::from_str(&answer.page.body).unwrap();
        description.assert_fits(&problem, &body);
        assert_eq!(body["status"], status);
    }
    let answer = page::post(&stack.url(CDC_INGEST), "/api/v1/snapshot", Some(TOKEN), &long).await.unwrap();
    assert_eq!((answer.page.status, answer.content_type.as_str()), (413, "application/problem+json"), "{answer:?}");
}

#[tokio::test]
async fn commands_and_records_are_off_without_a_token() {
    let stack = Stack::started().await;
    let records = format!("/api/v1/topics/{}/records", stack.places.names.ods_topic);
    for (method, path) in [
        ("POST", "/api/v1/snapshot"),
        ("GET", records.as_str()),
        ("GET", "/api/v1/follow?id=2001"),
        ("GET", "/api/v1/rows?key=%7B%22order_id%22%3A2001%7D"),
    ] {
        let path = if method == "GET" {
            until(&format!("{path} is known"), async || {
                let answer = ask(&stack, CDC_INGEST, method, path, None).await;
                if answer.page.status == 404 { Err(answer.page.body) } else { Ok(path) }
            })
            .await
        } else {
            path
        };
        for token in [None, Some(""), Some("anything")] {
            let answer = ask(&stack, CDC_INGEST, method, path, token).await;
            assert_eq!(answer.page.status, 403, "{method} {path} {token:?}: {answer:?}");
            assert!(answer.page.body.contains("http.control_token"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_service_that_does_not_take_a_command_names_the_one_that_does() {
    let mut stack = Stack::new().await;
    for service in SERVICES {
        stack.set(service, "HTTP__CONTROL_TOKEN", TOKEN);
    }
    stack.start_all().await;
    for (service, command, taker) in [
        (PG_SINKER, "snapshot/pause", CDC_INGEST),
        (DIM_JOINER, "replay", DWD_CLEANER),
        (CDC_INGEST, "replay", DWD_CLEANER),
        (DWD_CLEANER, "snapshot", CDC_INGEST),
        (DIM_JOINER, "reconcile", PG_SINKER),
    ] {
        let answer = ask(&stack, service, "POST", &format!("/api/v1/{command}"), Some(TOKEN)).await;
        let told = (answer.page.status, answer.content_type.as_str());
        assert_eq!(told, (404, "application/problem+json"), "{command} of {service}: {answer:?}");
        let problem: Value = serde_json::from_str(&answer.page.body).unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("{taker} does")), "{service} says {detail}");
    }
}

#[tokio::test]
async fn commands_are_taken_at_another_port_where_one_is_set() {
    let mut stack = Stack::new().await;
    let port = lab::ports::free_port().unwrap();
    stack.set(CDC_INGEST, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.set(CDC_INGEST, "HTTP__CONTROL_PORT", port);
    stack.start(CDC_INGEST);
    stack.ready().await;
    let body = json!({ "table": "business.orders" }).to_string();
    let control = format!("http://127.0.0.1:{port}");
    let refused = page::post(&stack.url(CDC_INGEST), "/api/v1/snapshot", Some(TOKEN), &body).await.unwrap();
    assert_eq!(refused.page.status, 403, "{refused:?}");
    assert!(refused.page.body.contains("http.control_port"), "{refused:?}");
    let taken = page::post(&control, "/api/v1/snapshot", Some(TOKEN), &body).await.unwrap();
    assert_eq!(taken.page.status, 202, "{taken:?}");
    Description::of(&stack, CDC_INGEST).await.assert_answer("post", "/api/v1/snapshot", &taken);
    let ready = page::request("GET", &control, "/health/ready", None).await.unwrap();
    assert_eq!(ready.page.status, 200, "the pages are there as well");
}

#[tokio::test]
async fn records_are_shown_newest_first_or_from_an_offset() {
    let mut stack = Stack::new().await;
    stack.set(DWD_CLEANER, "HTTP__CONTROL_TOKEN", TOKEN);
    stack.start_all().await;
    let mut sink = stack.sink().await;
    until_equal("the sink has five rows", 5, async || rows(&mut sink).await).await;
    let topic = stack.users_topic();
    let look = async |query: &str| {
        let path = format!("/api/v1/topics/{topic}/records{query}");
        until("the topic is known", async || {
            let answer = ask(&stack, DWD_CLEANER, "GET", &path, Some(TOKEN)).await;
            match answer.page.status {
                200 => Ok(serde_json::from_str::<Value>(&answer.page.body).unwrap()),
                _ => Err(answer.page.body),
            }
        })
        .await
    };
    let newest = look("?limit=3").await;
    let newest = newest["records"].as_array().unwrap();
    assert_eq!(newest.len(), 3, "{newest:?}");
    let times: Vec<_> = newest.iter().map(|record| record["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|earlier, later| earlier >= later), "{times:?}");
    let layers = stack.layers();
    for (partition, end) in layers.end(&topic).unwrap() {
        let begin = layers.begin(&topic).unwrap().iter().find(|(at, _)| *at == partition).unwrap().1;
        let shown = look(&format!("?partition={partition}&from={begin}&limit=200")).await;
        let offsets: Vec<i64> =
            shown["records"].as_array().unwrap().iter().map(|record| record["offset"].as_i64().unwrap()).collect();
        assert_eq!(offsets, (begin..end).collect::<Vec<_>>());
        let first = look(&format!("?partition={partition}&from={begin}&limit=1")).await;
        assert!(first["records"].as_array().unwrap().len() <= 1);
    }
}

#[tokio::test]
async fn a_row_is_followed_through_all_layers_and_its_dead_letters() {
    let mut stack = Stack::new().await;
    open(&mut stack);
    stack.start_all().await;
    at_rest(&stack).await;
    run(&mut stack.source().await, "UPDATE business.orders SET quantity = 7 WHERE order_id = 2003").await;
    let key = order_key(2003);
    let at = partition(key.as_bytes(), 4);
    let ods = stack.places.names.ods_topic.clone();
    write(&stack.places.kafka, &Foreign { topic: &ods, partition: at, key: &key, value: Some(b"?"), header: None });
    let followed = until("the order is in all layers", async || {
        let answer = ask(&stack, PG_SINKER, "GET", "/api/v1/follow?id=2003", None).await;
        let found: Value = serde_json::from_str(&answer.page.body).map_err(|error| error.to_string())?;
        let counts: Vec<usize> = found["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|layer| layer["records"].as_array().unwrap().len())
            .collect();
        let letters = found["dead_letters"].as_array().map_or(0, Vec::len);
        // A result is sent again where its user came later.
        if counts.len() == 3 && counts[..2] == [3, 2] && counts[2] >= 2 && letters == 1 {
            Ok(found)
        } else {
            Err(found.to_string())
        }
    })
    .await;
    for (layer, topic) in followed["layers"].as_array().unwrap().iter().zip(stack.order_topics()) {
        assert_eq!((&layer["topic"], &layer["key"]), (&topic.into(), &key.as_str().into()));
        assert_eq!((&layer["partition"], &layer["older_left_out"]), (&at.into(), &false.into()));
        assert_eq!(layer["records"][0]["headers"][0]["name"], "tidemill");
    }
    assert!(followed["dead_letters"][0]["value"]["text"].as_str().unwrap().contains("unreadable_header"));
    // By the whole key, in all topics.
    let answer = ask(&stack, PG_SINKER, "GET", "/api/v1/follow?key=%7B%22user_id%22%3A1001%7D", None).await;
    let found: Value = serde_json::from_str(&answer.page.body).unwrap();
    let with: Vec<&str> = found["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| !layer["records"].as_array().unwrap().is_empty())
        .map(|layer| layer["topic"].as_str().unwrap())
        .collect();
    assert_eq!(with, [stack.users_topic()]);
    let nobody = ask(&stack, PG_SINKER, "GET", "/api/v1/follow?id=999999", None).await;
    let found: Value = serde_json::from_str(&nobody.page.body).unwrap();
    assert!(found["layers"].as_array().unwrap().iter().all(|layer| layer["records"] == json!([])), "{found}");
}
