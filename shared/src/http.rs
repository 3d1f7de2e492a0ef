//! The small HTTP endpoint of every service: health, metrics, state, and the console page.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::header;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::config::HttpConfig;
use crate::failure::{Failure, FailureKind};
use crate::health::{Health, Phase};
use crate::metrics;

/// Binds the address and serves until the handle stops it.
///
/// | path | answer |
/// |---|---|
/// | `/health/live` | 200 while the process works, 503 once its chain is given up |
/// | `/health/ready` | 200 when the chain runs, has its partitions or slot and has caught up to where it started; else 503 with what it waits for |
/// | `/metrics` | Prometheus text |
/// | `/api/state` | JSON: generation, partitions, positions, last failure |
/// | `/` | the console: the state of this service as a page |
pub async fn serve(config: &HttpConfig, health: Health) -> Result<(Server, ServerHandle), Failure> {
    let listener = listen(config).await?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(health.clone()))
            .route("/health/live", web::get().to(live))
            .route("/health/ready", web::get().to(ready))
            .route("/metrics", web::get().to(metrics_page))
            .route("/api/state", web::get().to(state))
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

async fn live(health: web::Data<Health>) -> HttpResponse {
    match health.state().generation.phase {
        Phase::Stopped => HttpResponse::ServiceUnavailable().body("stopped\n"),
        _ => HttpResponse::Ok().body("live\n"),
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

async fn console() -> HttpResponse {
    HttpResponse::Ok().content_type("text/html; charset=utf-8").body(include_str!("console.html"))
}
