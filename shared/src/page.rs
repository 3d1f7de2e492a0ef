//! One page of a service, by HTTP/1.1 GET, and commands to it, by POST; and what a collector takes. All are small and plain, so a socket
//! is enough.

use std::time::Duration;

use crate::failure::{Failure, FailureKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What a service answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub status: u16,
    pub body: String,
}

/// What a service answered to a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub page: Page,
    pub content_type: String,
}

/// What is sent to somebody who is no service of ours.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    pub kind: &'a str,
    pub bytes: &'a [u8],
}

/// An answer as it came.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// Longest wait for a page.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for the answer to a command: the service may have to finish something first.
const PATIENCE_OF_COMMANDS: Duration = Duration::from_secs(30);

/// Gets `path` of the service at `url` (`http://host:port`).
pub async fn get(url: &str, path: &str) -> Result<Page, Failure> {
    let answer = ask(url, &format!("GET {path}"), b"\r\n", PATIENCE).await?;
    Ok(Answer::from(answer).page)
}

/// Asks for a page by any method, with the token where there is one.
pub async fn request(method: &str, url: &str, path: &str, token: Option<&str>) -> Result<Answer, Failure> {
    let rest = format!("{}\r\n", authorization(token));
    ask(url, &format!("{method} {path}"), rest.as_bytes(), PATIENCE_OF_COMMANDS).await.map(Answer::from)
}

/// Posts a JSON body to `path`, with the token where there is one.
pub async fn post(url: &str, path: &str, token: Option<&str>, body: &str) -> Result<Answer, Failure> {
    post_within(PATIENCE_OF_COMMANDS, url, path, token, body).await
}

/// As [`post`], for commands that may take longer.
pub async fn post_within(
    patience: Duration,
    url: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Result<Answer, Failure> {
    let content = Content { kind: "application/json", bytes: body.as_bytes() };
    let rest = with_content(&authorization(token), content);
    ask(url, &format!("POST {path}"), &rest, patience).await.map(Answer::from)
}

/// Posts what is no command, to whoever listens at `url`.
pub async fn send(url: &str, path: &str, content: Content<'_>, patience: Duration) -> Result<Received, Failure> {
    ask(url, &format!("POST {path}"), &with_content("", content), patience).await
}

fn authorization(token: Option<&str>) -> String {
    token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default()
}

fn with_content(lines: &str, Content { kind, bytes }: Content<'_>) -> Vec<u8> {
    let head = format!("{lines}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n", bytes.len());
    [head.as_bytes(), bytes].concat()
}

/// `rest` are further header lines, an empty one, and the body.
async fn ask(url: &str, line: &str, rest: &[u8], patience: Duration) -> Result<Received, Failure> {
    let authority = url.trim_end_matches('/').strip_prefix("http://").ok_or_else(|| {
        Failure::new(FailureKind::Settings, format!("{url:?} is not the address of a service"))
            .cure("give it as http://HOST:PORT")
    })?;
    let head = format!("{line} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    let request = [head.as_bytes(), rest].concat();
    let late = |_| Err(std::io::Error::other(format!("it took longer than {} ms", patience.as_millis())));
    let asked = tokio::time::timeout(patience, exchange(authority, &request)).await.unwrap_or_else(late);
    let answer = asked.map_err(|error| {
        Failure::new(FailureKind::Unreachable, format!("no answer from {url} to {line}")).caused_by(error)
    })?;
    parse(&answer).ok_or_else(|| {
        Failure::new(FailureKind::Refused, format!("{url} does not answer {line} in HTTP"))
            .cure("another program listens on that port: correct the address")
    })
}

async fn exchange(authority: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(authority).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &[u8]) -> Option<Received> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(answer.get(..end)?);
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let content_type = fields.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let content_type = content_type.map_or_else(String::new, |(_, value)| value.to_owned());
    Some(Received { status, content_type, body: answer.get(end + 4..)?.to_vec() })
}

impl From<Received> for Answer {
    fn from(Received { status, content_type, body }: Received) -> Self {
        let body = String::from_utf8_lossy(&body).trim_end().to_owned();
        Answer { page: Page { status, body }, content_type }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_type_and_body_are_read() {
        let answer = |content_type: &str| Answer {
            page: Page { status: 503, body: "no".into() },
            content_type: content_type.into(),
        };
        let plain = Answer::from(parse(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n").unwrap());
        assert_eq!(plain, answer(""));
        let typed = Answer::from(parse(b"HTTP/1.1 503 No\r\nContent-Type: text/plain\r\n\r\nno\n").unwrap());
        assert_eq!(typed, answer("text/plain"));
        assert_eq!(parse(b"220 smtp ready\r\n"), None);
        assert_eq!(parse(b"HTTP/1.1 xyz\r\n\r\n"), None);
    }
}
