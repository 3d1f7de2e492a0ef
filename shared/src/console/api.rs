//! What is answered beneath `/api/`, and the page itself. `openapi.json` beside this file describes every path; a test holds the two against
//! each other.
//!
//! Every error is a problem document (RFC 9457).

use std::sync::Arc;

use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, Route, web};
use serde::Deserialize;
use serde_json::Value;

use super::look::{Looker, Row, Wanted};
use super::settings::Records;
use super::told::Pipeline;
use crate::config::Secret;
use crate::control::{self, Control, Problem};
use crate::health::Health;
use crate::record::time;

/// What the answers are made of. All workers of a process share it.
pub struct Api {
    pub health: Health,
    pub control: Control,
    pub token: Secret,
    pub pipeline: Pipeline,
    pub looker: Looker,
    pub records: Records,
    /// Without secrets.
    pub configuration: Value,
}

/// Whether commands are taken at the port that was asked.
#[derive(Debug, Clone, Copy)]
pub struct TakesCommands(pub bool);

/// The longest body of a command.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// A path with its methods.
pub type Resource = (&'static str, Vec<(Method, Route)>);

/// Every path beneath `/api/`, and the page's own. The last one takes what the others leave.
pub fn resources() -> Vec<Resource> {
    let get = |route: Route| vec![(Method::GET, route)];
    vec![
        ("/", get(web::get().to(|| async { asset("text/html; charset=utf-8", include_str!("console.html")) }))),
        (
            "/console.css",
            get(web::get().to(|| async { asset("text/css; charset=utf-8", include_str!("console.css")) })),
        ),
        (
            "/console.js",
            get(web::get().to(|| async { asset("text/javascript; charset=utf-8", include_str!("console.js")) })),
        ),
        ("/api/openapi.json", get(web::get().to(|| async { asset("application/json", OPENAPI) }))),
        ("/api/v1/state", get(web::get().to(state))),
        ("/api/v1/configuration", get(web::get().to(configuration))),
        ("/api/v1/pipeline", get(web::get().to(pipeline))),
        ("/api/v1/topics", get(web::get().to(topics))),
        ("/api/v1/topics/{topic}/records", get(web::get().to(records))),
        ("/api/v1/follow", get(web::get().to(follow))),
        ("/api/v1/rows", get(web::get().to(rows))),
        ("/api/v1/{name:.+}", vec![(Method::GET, web::get().to(page)), (Method::POST, web::post().to(command))]),
    ]
}

/// The description of the API.
pub const OPENAPI: &str = include_str!("openapi.json");

/// Enters these paths; another method than theirs, or another path, is a problem.
pub fn configure(service: &mut web::ServiceConfig, resources: Vec<Resource>) {
    service.app_data(web::PayloadConfig::new(COMMAND_BYTES_MAX));
    for (path, routes) in resources {
        let allowed = routes.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>().join(", ");
        let refuse = move |request: HttpRequest| {
            let answer = method_not_allowed(&request, &allowed);
            async move { answer }
        };
        let resource = routes.into_iter().fold(web::resource(path), |resource, (_, route)| resource.route(route));
        service.service(resource.default_service(web::to(refuse)));
    }
}

/// The answer to a path that there is not.
pub async fn not_found(request: HttpRequest) -> HttpResponse {
    let known = "/api/openapi.json describes those that there are";
    problem(&request, &Problem::not_found(format!("there is no page {}; {known}", request.path())))
}

fn method_not_allowed(request: &HttpRequest, allowed: &str) -> HttpResponse {
    let detail = format!("{} takes {allowed}, not {}", request.path(), request.method());
    let mut answer = problem(request, &Problem { status: 405, title: "method not allowed", detail });
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        answer.headers_mut().insert(header::ALLOW, allowed);
    }
    answer
}

/// A problem document.
pub fn problem(request: &HttpRequest, problem: &Problem) -> HttpResponse {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let page = serde_json::json!({
        "type": format!("urn:tidemill:problem:{}", problem.title.replace(' ', "-")),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": request.path(),
    });
    let mut answer = HttpResponse::build(status);
    if problem.status == 401 {
        answer.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    answer.content_type("application/problem+json").body(page.to_string())
}

fn answer(request: &HttpRequest, found: Result<impl serde::Serialize, Problem>) -> HttpResponse {
    match found {
        Ok(found) => HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(found),
        Err(found) => problem(request, &found),
    }
}

/// A part of the page, which is compiled in: a new version of the program brings a new one, so a browser asks each time.
fn asset(content_type: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-cache")).content_type(content_type).body(text)
}

async fn state(request: HttpRequest, api: web::Data<Api>) -> HttpResponse {
    answer(&request, Ok(api.health.state()))
}

async fn configuration(request: HttpRequest, api: web::Data<Api>) -> HttpResponse {
    answer(&request, Ok(&api.configuration))
}

async fn pipeline(request: HttpRequest, api: web::Data<Api>) -> HttpResponse {
    answer(&request, Ok(api.pipeline.shown(time::now().as_millisecond())))
}

async fn topics(request: HttpRequest, api: web::Data<Api>) -> HttpResponse {
    let found = api.looker.topics(api.pipeline.topics()).await;
    answer(&request, found.map(|topics| serde_json::json!({ "way": api.pipeline.way(), "topics": topics })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordsQuery {
    partition: Option<i32>,
    from: Option<i64>,
    limit: Option<usize>,
}

async fn records(request: HttpRequest, api: web::Data<Api>, topic: web::Path<String>) -> HttpResponse {
    let found = async {
        may_see_records(&api, &request)?;
        let RecordsQuery { partition, from, limit } = query(&request)?;
        let topic = topic.into_inner();
        if !api.pipeline.topics().contains_key(&topic) {
            return Err(Problem::not_found(format!("no instance of the pipeline names the topic `{topic}`")));
        }
        api.looker.records(topic, Wanted { partition, from, limit }).await
    };
    let found = found.await;
    answer(&request, found)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowQuery {
    id: Option<String>,
    key: Option<String>,
}

async fn follow(request: HttpRequest, api: web::Data<Api>) -> HttpResponse {
    let found = async {
        may_see_records(&api, &request)?;
        let row = match query(&request)? {
            FollowQuery { id: Some(id), key: None } => Row::Id(id),
            FollowQuery { id: None, key: Some(key) } => Row::Key(key),
            _ => return Err(Problem::bad_request("name one of them: id=2001, or key={\"order_id\":2001}")),
        };
        api.looker.follow(row, api.pipeline.way(), api.pipeline.topics()).await
    };
    let found = found.await;
    answer(&request, found)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowsQuery {
    key: String,
}

/// The rows of the sink; only who writes them has a way to it.
async fn rows(request: HttpRequest, api: web::Data<Api>) -> HttpResponse {
    let found = async {
        may_see_records(&api, &request)?;
        let RowsQuery { key } = query(&request)?;
        api.control.question("rows", serde_json::json!({ "key": key })).await
    };
    let found = found.await;
    answer(&request, found)
}

fn query<Q: serde::de::DeserializeOwned>(request: &HttpRequest) -> Result<Q, Problem> {
    let found = web::Query::<Q>::from_query(request.query_string());
    found.map(web::Query::into_inner).map_err(|error| Problem::bad_request(format!("the query is not right: {error}")))
}

/// Records hold what the tables hold.
fn may_see_records(api: &Api, request: &HttpRequest) -> Result<(), Problem> {
    match api.records {
        Records::Open => Ok(()),
        Records::Token => authorised(api, request),
        Records::Off => {
            Err(Problem { status: 403, title: "switched off", detail: "console.records is \"off\"".into() })
        }
    }
}

fn authorised(api: &Api, request: &HttpRequest) -> Result<(), Problem> {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    control::authorised(&api.token, given)
}

async fn page(request: HttpRequest, api: web::Data<Api>, name: web::Path<String>) -> HttpResponse {
    let found = api.health.page_of(&name).ok_or_else(|| {
        let known = api.health.page_names().join(", ");
        let known = if known.is_empty() { "none of its own".to_owned() } else { known };
        Problem::not_found(format!("this service has no page `{name}`, or not yet; it has {known}"))
    });
    answer(&request, found)
}

async fn command(
    request: HttpRequest,
    api: web::Data<Api>,
    takes: web::Data<TakesCommands>,
    name: web::Path<String>,
    body: Result<web::Bytes, actix_web::Error>,
) -> HttpResponse {
    let found = async {
        if !takes.0 {
            let detail = "commands are taken at http.control_port".to_owned();
            return Err(Problem { status: 403, title: "switched off", detail });
        }
        authorised(&api, &request)?;
        let body = body.map_err(|error| match error.as_response_error().status_code() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem {
                status: 413,
                title: "too long",
                detail: format!("a command has at most {COMMAND_BYTES_MAX} bytes"),
            },
            _ => Problem::bad_request(format!("the body cannot be read: {error}")),
        })?;
        let body = match body.is_empty() {
            true => serde_json::json!({}),
            false => serde_json::from_slice(&body)
                .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}")))?,
        };
        api.control.ask(&name, body).await
    };
    match found.await {
        Ok(done) => HttpResponse::Accepted().json(done),
        Err(found) => problem(&request, &found),
    }
}

/// What all workers share.
pub fn shared(api: Api) -> web::Data<Api> {
    web::Data::from(Arc::new(api))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The path as the description has it: `{name:.+}` is `{name}` there.
    fn described(path: &str) -> String {
        path.replace(":.+", "")
    }

    #[test]
    fn the_description_has_every_path_and_no_other() {
        let openapi: Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = openapi["paths"].as_object().unwrap();
        let mut served = Vec::new();
        for (path, routes) in resources() {
            for (method, _) in routes {
                let method = method.as_str().to_lowercase();
                if path.starts_with("/api/") {
                    assert!(paths[&described(path)][&method].is_object(), "{method} {path} is not described");
                }
                served.push((method, path));
            }
        }
        let is_served = |path: &str, method: &str| {
            served.iter().any(|(known, served)| {
                let prefix = served.split("{name:.+}").next().unwrap_or_default();
                known == method
                    && (described(served) == path || served.ends_with("{name:.+}") && path.starts_with(prefix))
            })
        };
        for (path, methods) in paths {
            for method in methods.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                let elsewhere = path.starts_with("/health/") || path == "/metrics";
                assert!(elsewhere || is_served(path, method), "{method} {path} is described and not served");
            }
        }
    }

    #[test]
    fn each_command_is_described_as_one_of_the_service_that_takes_it() {
        let openapi: Value = serde_json::from_str(OPENAPI).unwrap();
        let posts = openapi["paths"].as_object().unwrap().iter().filter_map(|(path, methods)| {
            let name = path.strip_prefix("/api/v1/").filter(|name| !name.starts_with('{'))?;
            Some((name, methods.get("post")?["summary"].as_str()?.split_once(": ")?.0))
        });
        let described: BTreeSet<_> = posts.collect();
        assert_eq!(described, control::COMMANDS.into_iter().collect());
    }
}
