//! What ends a generation of a chain, and what happens then.

use std::error::Error;
use std::fmt;

type Cause = Box<dyn Error + Send + Sync>;

/// The kinds that something branches on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Settings or surroundings that only a person can mend: the process says so and exits.
    Settings,
    /// A server is not there or does not answer.
    Unreachable,
    /// A server answered with an error.
    Refused,
    /// Somebody else owns what this instance believed to own: partition, slot, offset.
    Fenced,
    /// The process was stopped for longer than its ownership lasts.
    Frozen,
    /// Data in a form that this stage can neither carry nor set aside.
    Data,
    /// An actor or thread of the chain is gone.
    Broken,
}

impl FailureKind {
    /// The label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Settings => "settings",
            FailureKind::Unreachable => "unreachable",
            FailureKind::Refused => "refused",
            FailureKind::Fenced => "fenced",
            FailureKind::Frozen => "frozen",
            FailureKind::Data => "data",
            FailureKind::Broken => "broken",
        }
    }

    /// Whether a new generation may mend it. All but [`FailureKind::Settings`]: the chain starts again from durable positions.
    pub fn is_retried(self) -> bool {
        self != FailureKind::Settings
    }
}

/// Why a generation ended: what, where, and what to do. Causes are kept, and shown by [`Failure::chain`] only.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    what: String,
    cure: Option<String>,
    cause: Option<Cause>,
}

impl Failure {
    pub fn new(kind: FailureKind, what: impl Into<String>) -> Self {
        Failure { kind, what: what.into(), cure: None, cause: None }
    }

    /// What a person can do about it.
    pub fn cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// The message, its causes and the cure in one line, for the one place that reports it.
    pub fn chain(&self) -> String {
        let mut text = self.what.clone();
        let mut next = self.source();
        while let Some(error) = next {
            let line = error.to_string();
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            next = error.source();
        }
        if let Some(cure) = &self.cure {
            text.push_str(". To do: ");
            text.push_str(cure);
        }
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_says_what_why_and_what_to_do_once() {
        let cause = std::io::Error::other("connection refused");
        let failure =
            Failure::new(FailureKind::Unreachable, "the broker does not answer").caused_by(cause).cure("start it");
        assert_eq!(failure.to_string(), "the broker does not answer");
        assert_eq!(failure.chain(), "the broker does not answer: connection refused. To do: start it");
    }
}
