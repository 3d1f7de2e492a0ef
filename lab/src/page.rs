//! One page of a service, by HTTP/1.1 GET. The pages are small and plain, so a socket is enough.

use std::time::Duration;

use shared::failure::{Failure, FailureKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a service answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    pub body: String,
}

/// Longest wait for a page.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gets `path` of the service at `url` (`http://host:port`).
pub async fn get(url: &str, path: &str) -> Result<Page, Failure> {
    let authority = url.trim_end_matches('/').strip_prefix("http://").ok_or_else(|| {
        Failure::new(FailureKind::Settings, format!("{url:?} is not the address of a service"))
            .cure("give it as http://HOST:PORT")
    })?;
    let late = |_| Err(std::io::Error::other(format!("it took longer than {} s", PATIENCE.as_secs())));
    let asked = tokio::time::timeout(PATIENCE, exchange(authority, path)).await.unwrap_or_else(late);
    let answer = asked.map_err(|error| {
        Failure::new(FailureKind::Unreachable, format!("no answer from {url}{path}")).caused_by(error)
    })?;
    parse(&answer).ok_or_else(|| {
        Failure::new(FailureKind::Refused, format!("{url}{path} does not answer in HTTP"))
            .cure("another program listens on that port: correct the address")
    })
}

async fn exchange(authority: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<Page> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Page { status, body: body.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_read() {
        let page = parse(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n").unwrap();
        assert_eq!(page, Page { status: 503, body: "no".into() });
        assert_eq!(parse(b"220 smtp ready\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 xyz\r\n\r\n"), None);
    }
}
