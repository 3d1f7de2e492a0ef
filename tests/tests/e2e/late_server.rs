//! A port with nothing behind it, until it is opened to a server. What clients say can be held up on the way.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lab::ports::free_port;

/// A server that is down at first.
pub struct LateServer {
    pub port: u16,
    server: SocketAddr,
    holds: Arc<AtomicBool>,
}

impl LateServer {
    pub fn of(address: &str) -> Self {
        let server = address.to_socket_addrs().unwrap().next().unwrap();
        LateServer { port: free_port().unwrap(), server, holds: Arc::default() }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on connections lead to the server. The threads end with the process.
    pub fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let (server, holds) = (self.server, Arc::clone(&self.holds));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(behind) = TcpStream::connect(server) else { continue };
                carry(client.try_clone().unwrap(), behind.try_clone().unwrap(), Arc::clone(&holds));
                carry(behind, client, Arc::default());
            }
        });
    }

    /// From now on nothing that clients say comes to the server; what the server says comes to them.
    pub fn hold(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    /// All of it comes through again, what was held up first.
    pub fn release(&self) {
        self.holds.store(false, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, holds: Arc<AtomicBool>) {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    std::thread::spawn(move || {
        let mut bytes = [0; 16_384];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            while holds.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK_EVERY);
            }
            if to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
