//! A proxy before a server, that fails as networks do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Listens from the start on. Its threads end with the process.
pub struct Proxy {
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: Mutex<SocketAddr>,
    lines: Mutex<Vec<Arc<Line>>>,
    /// Of new connections.
    passage: Mutex<Passage>,
    /// New replication connections are held.
    holds_replication: AtomicBool,
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
}

impl Proxy {
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port_of_proxy = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: Mutex::new(([127, 0, 0, 1], port).into()),
            lines: Mutex::default(),
            passage: Mutex::new(Passage::Open),
            holds_replication: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || listener.incoming().flatten().for_each(|client| accepting.accept(client)));
        Proxy { port: port_of_proxy, shared }
    }

    /// New connections lead to another server.
    pub fn lead_to(&self, port: u16) {
        *self.shared.server.lock().unwrap() = ([127, 0, 0, 1], port).into();
    }

    /// Ends all connections; new ones are let through.
    pub fn cut(&self) {
        for line in self.shared.lines.lock().unwrap().drain(..) {
            line.end();
        }
    }

    /// What is sent from now on, on any connection, never arrives, and nobody is told.
    pub fn black_hole(&self) {
        *self.shared.passage.lock().unwrap() = Passage::Silent;
        self.set(|_| true, Passage::Silent);
    }

    /// The same for the replication connections that there are.
    pub fn black_hole_replication(&self) {
        self.set(Line::replicates, Passage::Silent);
    }

    /// New connections are let through. Those that fell into the black hole stay there.
    pub fn heal(&self) {
        *self.shared.passage.lock().unwrap() = Passage::Open;
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
        self.shared.lines.lock().unwrap().iter().any(|line| line.is(Passage::Held))
    }

    pub fn release(&self) {
        self.shared.holds_replication.store(false, Ordering::Relaxed);
        self.set(|line| line.is(Passage::Held), Passage::Open);
    }

    fn set(&self, wanted: impl Fn(&Line) -> bool, passage: Passage) {
        let lines = self.shared.lines.lock().unwrap();
        let wanted: Vec<_> = lines.iter().filter(|line| wanted(line)).collect();
        assert!(!wanted.is_empty(), "there is no such connection");
        wanted.iter().for_each(|line| line.set(passage));
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(*self.server.lock().unwrap()) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let line = Arc::new(Line {
            ends: [client, server],
            passage: Mutex::new(*self.passage.lock().unwrap()),
            changed: Condvar::new(),
            replicates: AtomicBool::new(false),
        });
        self.lines.lock().unwrap().push(Arc::clone(&line));
        for from in [0, 1] {
            let (line, shared) = (Arc::clone(&line), Arc::clone(self));
            std::thread::spawn(move || line.carry(from, &shared));
        }
    }
}

impl Line {
    fn replicates(&self) -> bool {
        self.replicates.load(Ordering::Relaxed)
    }

    fn is(&self, passage: Passage) -> bool {
        *self.passage.lock().unwrap() == passage
    }

    fn set(&self, passage: Passage) {
        *self.passage.lock().unwrap() = passage;
        self.changed.notify_all();
    }

    fn end(&self) {
        self.set(Passage::Open);
        self.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }

    /// Open or silent; waits while it is held.
    fn decided(&self) -> Passage {
        let passage = self.passage.lock().unwrap();
        *self.changed.wait_while(passage, |passage| *passage == Passage::Held).unwrap()
    }

    fn carry(&self, from: usize, shared: &Shared) {
        let (mut from_end, mut to_end) = (&self.ends[from], &self.ends[1 - from]);
        let mut bytes = vec![0; 64 << 10];
        let mut is_first = from == 0;
        while let Ok(read @ 1..) = from_end.read(&mut bytes) {
            if std::mem::take(&mut is_first) {
                let asks = bytes[..read].windows(11).any(|word| word == b"replication");
                self.replicates.store(asks, Ordering::Relaxed);
                if asks && shared.holds_replication.load(Ordering::Relaxed) {
                    self.set(Passage::Held);
                }
            }
            if self.decided() == Passage::Open && to_end.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        if self.decided() == Passage::Open {
            self.end();
        }
    }
}
