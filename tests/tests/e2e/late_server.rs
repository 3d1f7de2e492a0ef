//! A port with nothing behind it, until it is opened to a server.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};

use lab::ports::free_port;

/// A server that is down at first.
pub struct LateServer {
    pub port: u16,
    server: SocketAddr,
}

impl LateServer {
    pub fn of(address: &str) -> Self {
        LateServer { port: free_port().unwrap(), server: address.to_socket_addrs().unwrap().next().unwrap() }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// From now on connections lead to the server. The threads end with the process.
    pub fn open(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).unwrap();
        let server = self.server;
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(behind) = TcpStream::connect(server) else { continue };
                carry(client.try_clone().unwrap(), behind.try_clone().unwrap());
                carry(behind, client);
            }
        });
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
