//! Where an instance stands in the pipeline: what it reads, and what it writes.

use serde::{Deserialize, Serialize};

/// The place of one instance. The console draws the picture from the places of all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// A database in front of the pipeline: `source_db at 127.0.0.1:5432`.
    #[serde(default)]
    pub source: Option<String>,
    /// A database behind it.
    #[serde(default)]
    pub sink: Option<String>,
    /// The topic whose rows go through this stage.
    #[serde(default)]
    pub input: Option<String>,
    /// Topics that are read whole beside it: dimensions.
    #[serde(default)]
    pub beside: Vec<String>,
    #[serde(default)]
    pub outputs: Vec<String>,
    #[serde(default)]
    pub dead_letters: Vec<String>,
    /// Topics in which it keeps what it must know.
    #[serde(default)]
    pub own: Vec<String>,
}

/// What a topic is to the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A table of the pipeline.
    Rows,
    DeadLetters,
    State,
}

impl Topology {
    /// All its topics with what they are.
    pub fn topics(&self) -> impl Iterator<Item = (&str, Role)> {
        let rows = self.input.iter().chain(&self.beside).chain(&self.outputs);
        let rows = rows.map(|topic| (topic.as_str(), Role::Rows));
        let letters = self.dead_letters.iter().map(|topic| (topic.as_str(), Role::DeadLetters));
        let own = self.own.iter().map(|topic| (topic.as_str(), Role::State));
        rows.chain(letters).chain(own)
    }
}
