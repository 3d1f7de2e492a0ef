//! A door before the pages of services that run several times: who comes to one of its ports is led to an instance.
//!
//! Compose gives a port of the host to one container only, so a service that is scaled cannot have one. This has the ports instead.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use shared::failure::{Failure, FailureKind};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::page;
use crate::paper::Paper;

/// Which ports lead where, and how much may be on its way.
#[derive(Debug, Clone, Args)]
pub struct Order {
    /// 8082=dwd-cleaner:8082 leads who comes to port 8082 to an instance of those at dwd-cleaner:8082
    #[arg(required = true, value_name = "PORT=HOST:PORT")]
    ways: Vec<Way>,
    /// The address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    listen: String,
    /// Connections at a time, of all ports; one more waits
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections_max: u32,
    /// Longest wait until an instance takes the connection
    #[arg(long, default_value_t = 2000)]
    connect_timeout_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    port: u16,
    to: String,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("{text:?} is no way: give it as 8082=dwd-cleaner:8082");
        let (port, to) = text.split_once('=').ok_or_else(wanted)?;
        let is_address =
            to.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        let port = port.parse().map_err(|_| wanted())?;
        if is_address { Ok(Way { port, to: to.to_owned() }) } else { Err(wanted()) }
    }
}

/// Leads whoever comes, until it is asked to stop.
pub async fn run(order: &Order, progress: &mut Paper) -> Result<bool, Failure> {
    let seats = Arc::new(Semaphore::new(order.connections_max as usize));
    for way in &order.ways {
        let listener = TcpListener::bind((order.listen.as_str(), way.port)).await.map_err(|error| {
            Failure::new(FailureKind::Settings, format!("cannot listen on {}:{}", order.listen, way.port))
                .caused_by(error)
                .cure("end what has the port, or choose another")
        })?;
        progress.line(format!("{}:{} leads to {}", order.listen, way.port, way.to));
        let connect_timeout = Duration::from_millis(order.connect_timeout_ms);
        tokio::spawn(keep(listener, way.to.clone(), Arc::clone(&seats), connect_timeout));
    }
    asked_to_stop().await.map(|()| true)
}

/// As the first process of a container it would not be ended by a signal that it does not receive.
async fn asked_to_stop() -> Result<(), Failure> {
    let broken =
        |error: std::io::Error| Failure::new(FailureKind::Broken, "signals cannot be received").caused_by(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn keep(listener: TcpListener, to: String, seats: Arc<Semaphore>, connect_timeout: Duration) {
    loop {
        // One that was gone before it was taken.
        let Ok((mut comer, _)) = listener.accept().await else { continue };
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let to = to.clone();
        tokio::spawn(async move {
            // An address that nobody has any more, or not yet, is no reason to end.
            let instances = lookup_host(to).await.map(Iterator::collect).unwrap_or_default();
            if let Some(mut instance) = one_of(instances, connect_timeout).await {
                let _ = copy_bidirectional(&mut comer, &mut instance).await;
            }
            drop(seat);
        });
    }
}

/// A connection to the first instance that is ready, or, where none is, to the first that answers. In the order of addresses, so that one who comes again
/// comes to the same.
async fn one_of(mut instances: Vec<SocketAddr>, connect_timeout: Duration) -> Option<TcpStream> {
    instances.sort_unstable();
    let mut waits = None;
    for instance in instances {
        match page::get(&format!("http://{instance}"), "/health/ready").await {
            Ok(page) if page.status == 200 => return connect(instance, connect_timeout).await,
            Ok(_) => waits = waits.or(Some(instance)),
            Err(_) => {}
        }
    }
    connect(waits?, connect_timeout).await
}

async fn connect(instance: SocketAddr, connect_timeout: Duration) -> Option<TcpStream> {
    let stream = tokio::time::timeout(connect_timeout, TcpStream::connect(instance)).await.ok()?.ok()?;
    let _ = stream.set_nodelay(true);
    Some(stream)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn a_way_is_a_port_and_an_address() {
        let way = Way { port: 8082, to: "dwd-cleaner:8082".into() };
        assert_eq!("8082=dwd-cleaner:8082".parse(), Ok(way));
        for wrong in ["8082", "8082=dwd-cleaner", "x=dwd-cleaner:8082", "8082=:8082", "8082=dwd-cleaner:http"] {
            assert!(wrong.parse::<Way>().unwrap_err().contains("is no way"), "{wrong}");
        }
    }

    /// An instance that answers every request with this status.
    async fn instance(host: &str, status: u16) -> SocketAddr {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let answer = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn who_comes_is_led_to_one_that_is_ready_and_else_to_one_that_answers() {
        let gone: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let (waiting, ready) = (instance("127.0.0.2", 503).await, instance("127.0.0.3", 200).await);
        let led_to = async |instances: &[SocketAddr]| {
            let stream = one_of(instances.to_vec(), Duration::from_secs(1)).await?;
            Some(stream.peer_addr().unwrap())
        };
        assert_eq!(led_to(&[ready, waiting, gone]).await, Some(ready));
        assert_eq!(led_to(&[waiting, gone]).await, Some(waiting));
        assert_eq!(led_to(&[gone]).await, None);
    }
}
