//! The servers: ended at once and started again by a script, and asked whether they answer.

use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use shared::failure::{Failure, FailureKind};

use crate::places::Places;

/// One of the three, by its name in the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Source,
    Sink,
    Kafka,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Server::Source => "source",
            Server::Sink => "sink",
            Server::Kafka => "kafka",
        })
    }
}

/// All of them.
#[derive(Clone)]
pub struct Servers {
    pub script: PathBuf,
    pub places: Places,
}

/// Longest wait for a server that was started.
const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks at a server that does not answer.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Longest wait for one answer of the broker.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

impl Servers {
    /// Ends the server as a crash would, and starts it again. When it was ended, and when it answered again.
    pub async fn crash(&self, server: Server) -> Result<(Instant, Instant), Failure> {
        let ended = Instant::now();
        self.tell("kill", server).await?;
        let (started, answers) = tokio::join!(self.tell("start", server), self.until_it_answers(server));
        started?;
        Ok((ended, answers?))
    }

    async fn tell(&self, command: &'static str, server: Server) -> Result<(), Failure> {
        let failed = |why: String| {
            Failure::new(FailureKind::Settings, format!("{} {command} {server} {why}", self.script.display()))
        };
        let mut line = Command::new(&self.script);
        line.args([command, &server.to_string()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let ran = tokio::task::spawn_blocking(move || line.output()).await;
        let output = ran
            .map_err(|error| failed("was cut off".into()).caused_by(error))?
            .map_err(|error| failed("cannot be run".into()).caused_by(error))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(failed(format!("failed: {}", String::from_utf8_lossy(&output.stderr).trim()))),
        }
    }

    async fn until_it_answers(&self, server: Server) -> Result<Instant, Failure> {
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            let answers = match server {
                Server::Source => self.places.connect_source().await.is_ok(),
                Server::Sink => self.places.connect_sink().await.is_ok(),
                Server::Kafka => self.broker_answers().await,
            };
            if answers {
                return Ok(Instant::now());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let late = format!("{server} does not answer after {} s", PATIENCE.as_secs());
        Err(Failure::new(FailureKind::Unreachable, late).cure("look into its log"))
    }

    /// It does when it names a leader for each partition: nothing can be read or written before.
    async fn broker_answers(&self) -> bool {
        let (kafka, topic) = (self.places.kafka.clone(), self.places.names.result_topic.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let client: BaseConsumer = kafka.client("tidemill-lab").create().ok()?;
            let metadata = client.fetch_metadata(Some(&topic), ANSWER_WITHIN).ok()?;
            let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            let leaders: Vec<i32> = partitions.map(|partition| partition.leader()).collect();
            (!leaders.is_empty() && leaders.iter().all(|leader| *leader >= 0)).then_some(())
        });
        asked.await.is_ok_and(|answered| answered.is_some())
    }
}
