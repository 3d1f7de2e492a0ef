//! The HTTP endpoint of every service: health, metrics, the API, and the console.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use actix_web::dev::{Server, ServerHandle};
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::config::HttpConfig;
use crate::console::api::{self, Api, TakesCommands};
use crate::failure::{Failure, FailureKind};
use crate::health::{Health, State};
use crate::metrics;

/// What a browser may do with a page: nothing but what this very server sends.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A server that runs until its handle stops it.
pub struct Serving {
    pub server: Server,
    pub handle: ServerHandle,
}

/// Binds the address, and that of commands where it is another.
///
/// | path | answer |
/// |---|---|
/// | `/health/live` | 200 while every part of the process gives signs of life, also while it waits for a server; 503 once one hangs for `http.hang_max_ms`, or the service has stopped |
/// | `/health/ready` | 200 when the chain runs, has its partitions or slot and has caught up to where it started; else 503 with what it waits for |
/// | `/health/useful` | 200 as well where a standby waits for nothing but its turn |
/// | `/metrics` | Prometheus text |
/// | `/api/…` | see [`crate::console::api`] |
/// | `/` | the console |
pub async fn serve(config: &HttpConfig, health: &Health, api: Api) -> Result<Vec<Serving>, Failure> {
    let api = api::shared(api);
    let control = config.control_address();
    let mut serving = vec![serve_at((&config.host, config.port), config, health, &api, control.is_none()).await?];
    if let Some(address) = control {
        serving.push(serve_at(address, config, health, &api, true).await?);
    }
    Ok(serving)
}

async fn serve_at(
    address: (&str, u16),
    config: &HttpConfig,
    health: &Health,
    api: &web::Data<Api>,
    takes_commands: bool,
) -> Result<Serving, Failure> {
    let listener = listen(address, config).await?;
    let (health, api) = (health.clone(), api.clone());
    let hang_max = Duration::from_millis(config.hang_max_ms);
    let server = HttpServer::new(move || {
        App::new()
            .wrap(protective_headers())
            .app_data(web::Data::new(health.clone()))
            .app_data(api.clone())
            .app_data(web::Data::new(TakesCommands(takes_commands)))
            .app_data(web::Data::new(hang_max))
            .route("/health/live", web::get().to(live))
            .route("/health/ready", web::get().to(ready))
            .route("/health/useful", web::get().to(useful))
            .route("/metrics", web::get().to(metrics_page))
            .configure(|service| api::configure(service, api::resources()))
            .default_service(web::to(api::not_found))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)
    .map_err(|error| cannot_listen(address, error))?
    .run();
    let handle = server.handle();
    Ok(Serving { server, handle })
}

/// On every answer, errors too.
fn protective_headers() -> DefaultHeaders {
    DefaultHeaders::new()
        .add(("Content-Security-Policy", CONTENT_SECURITY_POLICY))
        .add(("X-Content-Type-Options", "nosniff"))
        .add(("Referrer-Policy", "no-referrer"))
}

async fn listen(address: (&str, u16), config: &HttpConfig) -> Result<TcpListener, Failure> {
    let deadline = Instant::now() + Duration::from_millis(config.bind_wait_ms);
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(cannot_listen(address, error)),
        }
    }
}

fn cannot_listen((host, port): (&str, u16), error: std::io::Error) -> Failure {
    Failure::new(FailureKind::Settings, format!("cannot listen on {host}:{port}"))
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
    if state.ready { HttpResponse::Ok().body("ready\n") } else { not_ready(state) }
}

async fn useful(health: web::Data<Health>) -> HttpResponse {
    let state = health.state();
    match state.stands_by() {
        Some(waits) => HttpResponse::Ok().body(format!("standing by for {waits}\n")),
        None if state.ready => HttpResponse::Ok().body("ready\n"),
        None => not_ready(state),
    }
}

fn not_ready(state: State) -> HttpResponse {
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

#[cfg(test)]
mod tests {
    use actix_web::test::{TestRequest, call_service, init_service};

    use super::*;

    #[test]
    fn every_answer_tells_the_browser_what_it_may_not_do() {
        actix::System::new().block_on(async {
            let app = App::new()
                .wrap(protective_headers())
                .route("/page", web::get().to(|| async { "page" }))
                .default_service(web::to(HttpResponse::NotFound));
            let app = init_service(app).await;
            for (path, status) in [("/page", 200), ("/absent", 404)] {
                let answer = call_service(&app, TestRequest::with_uri(path).to_request()).await;
                assert_eq!(answer.status(), status);
                let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
                assert_eq!(header("x-content-type-options"), Some("nosniff"));
                assert_eq!(header("referrer-policy"), Some("no-referrer"));
                let policy = header("content-security-policy").unwrap();
                for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"]
                {
                    assert!(policy.contains(rule), "{rule} is not in {policy}");
                }
                assert!(!policy.contains("unsafe"), "{policy}");
            }
        });
    }
}
