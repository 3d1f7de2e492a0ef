//! Those who look for marks: a consumer of a topic, and a reader of what pg_recvlogical writes. Each is a thread of its own, since it
//! waits where the bytes come in.

use std::io::Read;
use std::process::ChildStdout;
use std::thread::JoinHandle;

use shared::failure::{Failure, FailureKind};
use shared::kafka::KafkaConfig;

use super::marks::{self, Board};
use crate::layers::Layers;

/// Reads a topic from its end on, until the board is closed.
pub fn of_topic(kafka: &KafkaConfig, topic: &str, board: &Board) -> Result<JoinHandle<Result<(), Failure>>, Failure> {
    let layers = Layers::follower(kafka)?;
    let (topic, board, from) = (topic.to_owned(), board.clone(), layers.end(topic)?);
    Ok(std::thread::spawn(move || layers.follow(&topic, &from, |value| board.look_into(value), || !board.is_closed())))
}

/// Reads the pipe until it ends.
pub fn of_pipe(mut pipe: ChildStdout, board: &Board) -> JoinHandle<Result<(), Failure>> {
    let board = board.clone();
    std::thread::spawn(move || {
        let broken = |error| Failure::new(FailureKind::Broken, "a pipe cannot be read").caused_by(error);
        let mut buffer = vec![0; 1 << 17];
        let mut kept = 0;
        loop {
            let (_, free) = buffer.split_at_mut(kept);
            let count = pipe.read(free).map_err(broken)?;
            if count == 0 {
                return Ok(());
            }
            let end = kept + count;
            board.look_into(buffer.get(..end).unwrap_or_default());
            // A mark may be cut by the end of what was read: its beginning is looked at again.
            kept = end.min(marks::LENGTH - 1);
            buffer.copy_within(end - kept..end, 0);
        }
    })
}

/// Waits for the end of a thread.
pub fn join(thread: JoinHandle<Result<(), Failure>>) -> Result<(), Failure> {
    thread.join().unwrap_or_else(|_| Err(Failure::new(FailureKind::Broken, "a thread that looks for marks broke")))
}
