//! Commands to a running service, over HTTP: `POST /api/v1/<command>` with a JSON body.
//!
//! ```text
//!  http ──Command──▶ Control ──▶ the chain that runs now ──Reply──▶ http
//! ```
//!
//! A command needs the token of `http.control_token`. Where none is set, commands are off. Each is taken by one service; the others say which.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use subtle::ConstantTimeEq as _;
use tokio::sync::{mpsc, oneshot};

use crate::config::Secret;

/// Every command, and the service that takes it.
pub const COMMANDS: [(&str, &str); 9] = [
    ("snapshot", "cdc-ingest"),
    ("snapshot/pause", "cdc-ingest"),
    ("snapshot/resume", "cdc-ingest"),
    ("snapshot/cancel", "cdc-ingest"),
    ("replay", "dwd-cleaner"),
    ("backfill", "pg-sinker"),
    ("backfill/stop", "pg-sinker"),
    ("rebuild", "pg-sinker"),
    ("reconcile", "pg-sinker"),
];

/// Questions that only a chain can answer, and the service whose it is. They change nothing, and come by `GET`.
pub const QUESTIONS: [(&str, &str); 1] = [("rows", "pg-sinker")];

/// A command on its way to the chain, or a question.
#[derive(Debug)]
pub struct Command {
    /// The path behind `/api/v1/`: `snapshot/pause`.
    pub name: String,
    pub body: Value,
    pub reply: oneshot::Sender<Reply>,
}

/// What the chain answers.
pub type Reply = Result<Value, Problem>;

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    pub title: &'static str,
    /// What was wrong with this command, and what to do.
    pub detail: String,
}

impl Problem {
    fn unknown_command(name: &str) -> Self {
        let known: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
        let detail = format!("there is no command `{name}`; there are {}", known.join(", "));
        Problem { status: 404, title: "unknown command", detail }
    }

    fn taken_elsewhere(name: &str, service: &str, taker: &str) -> Self {
        let detail = format!("{service} does not take the command `{name}`; {taker} does: send it there");
        Problem { status: 404, title: "unknown command", detail }
    }

    fn answered_elsewhere(name: &str, service: &str, answerer: &str) -> Self {
        Problem::not_found(format!("{service} does not know of `{name}`; {answerer} does: ask there"))
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Problem { status: 400, title: "bad request", detail: detail.into() }
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Problem { status: 404, title: "not found", detail: detail.into() }
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Problem { status: 409, title: "conflict", detail: detail.into() }
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Problem { status: 503, title: "unavailable", detail: detail.into() }
    }

    fn not_running() -> Self {
        Problem::unavailable("the chain does not run just now; /health/ready says why")
    }
}

/// Commands that wait for the chain; one more is refused.
const WAITING_MAX: usize = 16;

/// The way from HTTP to the chain that runs now.
#[derive(Debug, Clone)]
pub struct Control {
    service: &'static str,
    chain: Arc<Mutex<Option<mpsc::Sender<Command>>>>,
}

impl Control {
    pub fn of(service: &'static str) -> Self {
        Control { service, chain: Arc::default() }
    }

    /// A new chain takes the commands from here on.
    pub fn attach(&self) -> mpsc::Receiver<Command> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Hands a command to the chain and waits for its answer.
    pub async fn ask(&self, name: &str, body: Value) -> Reply {
        match COMMANDS.iter().find(|(known, _)| *known == name) {
            None => return Err(Problem::unknown_command(name)),
            Some((_, taker)) if *taker != self.service => {
                return Err(Problem::taken_elsewhere(name, self.service, taker));
            }
            Some(_) => {}
        }
        self.hand_on(name, body).await
    }

    /// Hands a question to the chain and waits for its answer.
    pub async fn question(&self, name: &str, body: Value) -> Reply {
        match QUESTIONS.iter().find(|(known, _)| *known == name) {
            Some((_, answerer)) if *answerer != self.service => {
                Err(Problem::answered_elsewhere(name, self.service, answerer))
            }
            _ => self.hand_on(name, body).await,
        }
    }

    async fn hand_on(&self, name: &str, body: Value) -> Reply {
        let chain = self.chain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (reply, answer) = oneshot::channel();
        let command = Command { name: name.to_owned(), body, reply };
        match chain {
            Some(chain) if chain.try_send(command).is_ok() => {
                answer.await.unwrap_or_else(|_| Err(Problem::not_running()))
            }
            _ => Err(Problem::not_running()),
        }
    }
}

/// Whether the value of the header `Authorization` opens the door.
pub fn authorised(token: &Secret, header: Option<&str>) -> Result<(), Problem> {
    let token = token.reveal().as_bytes();
    if token.is_empty() {
        return Err(Problem {
            status: 403,
            title: "switched off",
            detail: "it needs a token, and none is set: set http.control_token".into(),
        });
    }
    let given = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
    if bool::from(given.as_bytes().ct_eq(token)) {
        return Ok(());
    }
    Err(Problem {
        status: 401,
        title: "wrong token",
        detail: "send the header `Authorization: Bearer <http.control_token>`".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_opens_to_the_token_only() {
        let token = Secret::new("s3cret");
        assert!(authorised(&token, Some("Bearer s3cret")).is_ok());
        for wrong in [None, Some("s3cret"), Some("Bearer s3cre"), Some("Bearer s3cret "), Some("Bearer ")] {
            assert_eq!(authorised(&token, wrong).unwrap_err().status, 401, "{wrong:?}");
        }
        assert_eq!(authorised(&Secret::default(), Some("Bearer ")).unwrap_err().status, 403);
    }

    /// A comparison that stops at the first wrong byte takes no time where that is the first of all, and a whole pass where it is the last.
    #[test]
    fn how_much_of_a_guess_is_right_is_not_seen_in_the_time() {
        const BYTES: usize = 1 << 20;
        let token = Secret::new("a".repeat(BYTES));
        let fastest = |wrong_at: usize| {
            let mut guess = "a".repeat(BYTES);
            guess.replace_range(wrong_at..=wrong_at, "b");
            let header = format!("Bearer {guess}");
            let times = (0..20).map(|_| {
                let begin = std::time::Instant::now();
                assert!(authorised(&token, Some(&header)).is_err());
                begin.elapsed()
            });
            times.min().unwrap_or_default()
        };
        let (first, last) = (fastest(0), fastest(BYTES - 1));
        // Hundreds of times as fast would be one that stops; a busy machine is not.
        assert!(first * 20 > last, "wrong at once: {first:?}, wrong at last: {last:?}");
    }
}
