//! `POST /api/v1/replay`: puts a range of dead letters back in, while all runs. docs/adr/0006-replay.md says why it is done so.
//!
//! ```text
//!  dead letters ──▶ letters of the range ──▶ newest version of their keys in the output ──▶ worker: between two batches
//! ```

use actix::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::control::{Command, Control, Problem, Reply};
use shared::failure::{Failure, FailureKind};
use shared::generation::Fate;
use shared::kafka::tail::read_in_task;

use crate::letters::{Known, Letters, Range};
use crate::put_back::Report;
use crate::settings::Settings;
use crate::worker::{CleanerActor, Owned, PutBack};

/// Which dead letters: offsets of their topic, both included.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    pub from: i64,
    #[serde(default)]
    pub to: Option<i64>,
    /// Of records of this partition of the input; all where none is named.
    #[serde(default)]
    pub partition: Option<i32>,
}

/// What became of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    pub looked_at: u64,
    pub unfit: u64,
    /// The command has come this far: give it again from here.
    pub next: Option<i64>,
    #[serde(flatten)]
    pub report: Report,
}

impl Answer {
    /// What a further command for the rest of the range brought.
    pub fn add(&mut self, further: Answer) {
        self.looked_at += further.looked_at;
        self.unfit += further.unfit;
        self.next = further.next;
        self.report.add(further.report);
    }
}

/// Carries out the commands of a generation.
pub struct Replay {
    pub settings: Settings,
    pub service: &'static str,
    pub worker: Addr<CleanerActor>,
    pub fate: Fate,
}

impl Replay {
    /// Takes commands for as long as the generation lives, one after the other.
    pub fn obey(self, arbiter: &ArbiterHandle, control: &Control) {
        let mut commands = control.attach();
        arbiter.spawn(async move {
            while let Some(Command { body, reply, .. }) = commands.recv().await {
                let answer = self.carry_out(body).await;
                // Who asked may have gone.
                let _: Result<(), Reply> = reply.send(answer);
            }
        });
    }

    async fn carry_out(&self, body: Value) -> Reply {
        let body: Body = serde_json::from_value(body).map_err(|error| {
            Problem::bad_request(format!("the body must be like {{\"from\":0,\"to\":99}}: {error}"))
        })?;
        let to = body.to.unwrap_or(i64::MAX);
        if body.from < 0 || to < body.from {
            return Err(Problem::bad_request("from and to are offsets of the dead-letter topic, from <= to"));
        }
        let answer = self.replay(&body, to).await.map_err(|failure| Problem {
            status: 503,
            title: "replay failed",
            detail: format!(
                "{}; what was put back in is in, and the same command again puts in the rest",
                failure.chain()
            ),
        })?;
        let (looked_at, put_back) = (answer.looked_at, answer.report.put_back);
        tracing::info!(body.from, to, looked_at, put_back, "dead letters replayed");
        serde_json::to_value(answer).map_err(|error| Problem::bad_request(error.to_string()))
    }

    async fn replay(&self, body: &Body, to: i64) -> Result<Answer, Failure> {
        let gone = |_| Failure::new(FailureKind::Broken, "the worker of the chain is gone");
        let owned = self.worker.send(Owned).await.map_err(gone)?;
        let Settings { input, output, kafka, replay, .. } = self.settings.clone();
        let (letters_max, bytes_max) = (replay.letters_max, replay.bytes_max);
        let range = Range { from: body.from, to, partition: body.partition, letters_max, bytes_max };
        let read = read_in_task(&kafka, self.service, &self.fate, move |tail| {
            let mut letters = Letters::read(tail, &output.dead_letter_topic, &input.topic, range)?;
            let all = letters.letters.len();
            letters.letters.retain(|letter| owned.contains(&letter.partition));
            let mut known = Known::of(&letters.letters);
            known.read_on(tail, &output.topic)?;
            let elsewhere = all.saturating_sub(letters.letters.len());
            Ok((letters, known, elsewhere))
        });
        let (Letters { letters, looked_at, unfit, next }, known, elsewhere) = read.await?;
        let mut report = match letters.is_empty() {
            true => Report::default(),
            false => self.worker.send(PutBack { letters, known }).await.map_err(gone)??,
        };
        report.of_other_instances += elsewhere as u64;
        Ok(Answer { looked_at, unfit, next, report })
    }
}
