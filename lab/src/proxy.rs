//! A proxy before a server, that fails as networks do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use shared::failure::{Failure, FailureKind};

/// Listens until it is dropped; then its connections end as well.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.cut();
        // The thread waits for a connection: it gets one.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

struct Shared {
    server: Mutex<SocketAddr>,
    lines: Mutex<Vec<Arc<Line>>>,
    /// Of new connections.
    passage: Mutex<Passage>,
    /// New replication connections are held.
    holds_replication: AtomicBool,
    closed: AtomicBool,
    /// What is sent arrives so much later.
    delay_ms: AtomicU64,
}

/// What becomes of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    /// They wait.
    Held,
    /// They are gone, and neither end hears of it.
    Silent,
}

/// A connection.
struct Line {
    ends: [TcpStream; 2],
    passage: Mutex<Passage>,
    changed: Condvar,
    /// By the client's first words: a replication connection.
    replicates: AtomicBool,
    ended: AtomicBool,
}

impl Proxy {
    /// On a port that is free.
    pub fn before(server_port: u16) -> Result<Self, Failure> {
        Proxy::at(0, server_port)
    }

    /// On this port.
    pub fn at(port: u16, server_port: u16) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::new(FailureKind::Settings, format!("a proxy cannot listen on port {port}")).caused_by(error)
        };
        let listener = TcpListener::bind(("127.0.0.1", port)).map_err(cannot)?;
        let port_of_proxy = listener.local_addr().map_err(cannot)?.port();
        let shared = Arc::new(Shared {
            server: Mutex::new(([127, 0, 0, 1], server_port).into()),
            lines: Mutex::default(),
            passage: Mutex::new(Passage::Open),
            holds_replication: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            delay_ms: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let accepting = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.closed.load(Ordering::SeqCst) {
                    return;
                }
                accepting.accept(client);
            }
        });
        Ok(Proxy { port: port_of_proxy, shared, accepting: Some(accepting) })
    }

    /// New connections lead to another server.
    pub fn lead_to(&self, port: u16) {
        *locked(&self.shared.server) = ([127, 0, 0, 1], port).into();
    }

    /// Ends all connections; new ones are let through.
    pub fn cut(&self) {
        for line in locked(&self.shared.lines).drain(..) {
            line.end();
        }
    }

    /// What is sent from now on, on any connection, never arrives, and nobody is told.
    pub fn black_hole(&self) {
        *locked(&self.shared.passage) = Passage::Silent;
        self.set(|_| true, Passage::Silent);
    }

    /// The same for the replication connections that there are.
    pub fn black_hole_replication(&self) {
        self.set(Line::replicates, Passage::Silent);
    }

    /// Ends the connections that fell into the black hole.
    pub fn cut_silent(&self) {
        locked(&self.shared.lines).iter().filter(|line| line.is(Passage::Silent)).for_each(|line| line.end());
    }

    /// New connections are let through. Those that fell into the black hole stay there.
    pub fn heal(&self) {
        *locked(&self.shared.passage) = Passage::Open;
    }

    /// Each piece that is sent, in either direction, is held up for so long; zero is the end of it.
    pub fn slow_down(&self, delay: Duration) {
        self.shared.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What is sent on the replication connections waits until it is released.
    pub fn hold_replication(&self) {
        self.set(Line::replicates, Passage::Held);
    }

    /// The same for those that are opened from now on.
    pub fn hold_new_replication(&self) {
        self.shared.holds_replication.store(true, Ordering::Relaxed);
    }

    pub fn holds(&self) -> bool {
        locked(&self.shared.lines).iter().any(|line| line.is(Passage::Held))
    }

    pub fn release(&self) {
        self.shared.holds_replication.store(false, Ordering::Relaxed);
        self.set(|line| line.is(Passage::Held), Passage::Open);
    }

    fn set(&self, wanted: impl Fn(&Line) -> bool, passage: Passage) {
        locked(&self.shared.lines).iter().filter(|line| wanted(line)).for_each(|line| line.set(passage));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn accept(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(*locked(&self.server)) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let line = Arc::new(Line {
            ends: [client, server],
            passage: Mutex::new(*locked(&self.passage)),
            changed: Condvar::new(),
            replicates: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let mut lines = locked(&self.lines);
        lines.retain(|line| !line.ended.load(Ordering::Relaxed));
        lines.push(Arc::clone(&line));
        drop(lines);
        for is_client in [true, false] {
            let (line, shared) = (Arc::clone(&line), Arc::clone(self));
            std::thread::spawn(move || line.carry(is_client, &shared));
        }
    }
}

impl Line {
    fn replicates(&self) -> bool {
        self.replicates.load(Ordering::Relaxed)
    }

    fn is(&self, passage: Passage) -> bool {
        *locked(&self.passage) == passage
    }

    fn set(&self, passage: Passage) {
        *locked(&self.passage) = passage;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.set(Passage::Open);
        self.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }

    /// Open or silent; waits while it is held.
    fn decided(&self) -> Passage {
        let passage = locked(&self.passage);
        *self.changed.wait_while(passage, |passage| *passage == Passage::Held).unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(&self, is_client: bool, shared: &Shared) {
        let [client, server] = &self.ends;
        let (mut from_end, mut to_end) = if is_client { (client, server) } else { (server, client) };
        let mut bytes = vec![0; 64 << 10];
        let mut is_first = is_client;
        while let Ok(read @ 1..) = from_end.read(&mut bytes) {
            let bytes = bytes.get(..read).unwrap_or_default();
            if std::mem::take(&mut is_first) {
                let asks = bytes.windows(11).any(|word| word == b"replication");
                self.replicates.store(asks, Ordering::Relaxed);
                if asks && shared.holds_replication.load(Ordering::Relaxed) {
                    self.set(Passage::Held);
                }
            }
            let delay_ms = shared.delay_ms.load(Ordering::Relaxed);
            if delay_ms > 0 {
                std::thread::sleep(Duration::from_millis(delay_ms));
            }
            if self.decided() == Passage::Open && to_end.write_all(bytes).is_err() {
                break;
            }
        }
        if self.decided() == Passage::Open {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_gone_has_freed_its_port_and_ended_its_connections() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let proxy = Proxy::before(server.local_addr().unwrap().port()).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port)).unwrap();
        let (mut served, _) = server.accept().unwrap();
        client.write_all(b"x").unwrap();
        let mut byte = [0];
        served.read_exact(&mut byte).unwrap();
        let port = proxy.port;
        drop(proxy);
        assert_eq!(client.read(&mut byte).unwrap_or(0), 0);
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}
