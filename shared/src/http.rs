//! The small HTTP endpoint of every service: health, metrics, state, and the console page.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::{StatusCode, header};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

use crate::config::{HttpConfig, Secret};
use crate::control::{self, Control, Problem};
use crate::failure::{Failure, FailureKind};
use crate::health::Health;
use crate::metrics;

/// Binds the address and serves until the handle stops it.
///
/// | path | answer |
/// |---|---|
/// | `/health/live` | 200 while every part of the process gives signs of life, also while it waits for a server; 503 once one hangs for `http.hang_max_ms`, or the service has stopped |
/// | `/health/ready` | 200 when the chain runs, has its partitions or slot and has caught up to where it started; else 503 with what it waits for |
/// | `/metrics` | Prometheus text |
/// | `/api/state` | JSON: generation, partitions, positions, last failure |
/// | `/api/<name>` | JSON: a page of this service alone, such as `missing` of dim-joiner |
/// | `/` | the console: the state of this service as a page |
/// | `POST /api/v1/<command>` | a command to the service, see [`crate::control`] |
pub async fn serve(config: &HttpConfig, health: Health, control: Control) -> Result<(Server, ServerHandle), Failure> {
    let listener = listen(config).await?;
    let token = config.control_token.clone();
    let hang_max = Duration::from_millis(config.hang_max_ms);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(health.clone()))
            .app_data(web::Data::new(control.clone()))
            .app_data(web::Data::new(token.clone()))
            .app_data(web::Data::new(hang_max))
            .app_data(web::PayloadConfig::new(COMMAND_BYTES_MAX))
            .route("/health/live", web::get().to(live))
            .route("/health/ready", web::get().to(ready))
            .route("/metrics", web::get().to(metrics_page))
            .route("/api/state", web::get().to(state))
            .route("/api/v1/{command:.+}", web::post().to(command))
            .route("/api/{page}", web::get().to(page))
            .route("/", web::get().to(console))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)
    .map_err(|error| cannot_listen(config, error))?
    .run();
    let handle = server.handle();
    Ok((server, handle))
}

/// The longest body of a command.
const COMMAND_BYTES_MAX: usize = 64 << 10;

async fn listen(config: &HttpConfig) -> Result<TcpListener, Failure> {
    let deadline = Instant::now() + Duration::from_millis(config.bind_wait_ms);
    loop {
        match TcpListener::bind((config.host.as_str(), config.port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(cannot_listen(config, error)),
        }
    }
}

fn cannot_listen(config: &HttpConfig, error: std::io::Error) -> Failure {
    Failure::new(FailureKind::Settings, format!("cannot listen on {}:{}", config.host, config.port))
        .caused_by(error)
        .cure("free the port, or set http.host and http.port")
}

async fn live(health: web::Data<Health>, hang_max: web::Data<Duration>) -> HttpResponse {
    match health.dead(**hang_max) {
        Some(why) => HttpResponse::ServiceUnavailable().body(format!("{why}\n")),
        None => HttpResponse::Ok().body("live\n"),
    }
}

async fn ready(health: web::Data<Health>) -> HttpResponse {
    let state = health.state();
    if state.ready {
        return HttpResponse::Ok().body("ready\n");
    }
    let mut text = format!("not ready, waiting for: {}\n", state.waiting_for.join("; "));
    if let Some(failure) = state.generation.last_failure {
        text.push_str(&format!("last failure: {failure}\n"));
    }
    HttpResponse::ServiceUnavailable().body(text)
}

async fn metrics_page() -> HttpResponse {
    match metrics::render() {
        Ok(page) => HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(page),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn state(health: web::Data<Health>) -> HttpResponse {
    // The console of a neighbour, on another port, may read the state.
    HttpResponse::Ok().insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")).json(health.state())
}

async fn page(health: web::Data<Health>, name: web::Path<String>) -> HttpResponse {
    match health.page_of(&name) {
        Some(page) => HttpResponse::Ok().insert_header((header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")).json(page),
        None => problem_page(&Problem::not_found(format!("this service has no page `{name}`, or not yet"))),
    }
}

async fn command(
    request: HttpRequest,
    name: web::Path<String>,
    body: web::Bytes,
    token: web::Data<Secret>,
    control: web::Data<Control>,
) -> HttpResponse {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let read = || match body.is_empty() {
        true => Ok(serde_json::json!({})),
        false => serde_json::from_slice(&body)
            .map_err(|error| Problem::bad_request(format!("the body is not JSON: {error}"))),
    };
    let asked = match control::authorised(&token, header).and_then(|()| read()) {
        Ok(body) => control.ask(&name, body).await,
        Err(problem) => Err(problem),
    };
    match asked {
        Ok(answer) => HttpResponse::Accepted().json(answer),
        Err(problem) => problem_page(&problem),
    }
}

/// RFC 9457.
fn problem_page(problem: &Problem) -> HttpResponse {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let page = serde_json::json!({ "title": problem.title, "status": problem.status, "detail": problem.detail });
    HttpResponse::build(status).content_type("application/problem+json").body(page.to_string())
}

async fn console() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(include_str!("console.html"))
}
