//! Signs of life of the parts of a process: a part that gives none for too long hangs, and only another process helps.
//!
//! Waiting is not hanging: who waits for a server that is away goes on giving signs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The root, which builds one generation after the other.
pub const ROOT: &str = "root";
/// The thread of a chain's actors.
pub const ACTORS: &str = "actors";
/// The thread of the actor that sends.
pub const OUTLET: &str = "outlet";
/// The thread that reads a topic.
pub const READER: &str = "reader";

/// How often a part gives a sign, about.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);

/// A part of a process; where there are several of a kind, the one of this name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    pub kind: &'static str,
    pub of: Option<Arc<str>>,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.of {
            None => f.write_str(self.kind),
            Some(of) => write!(f, "{} of {of}", self.kind),
        }
    }
}

/// When each part last gave a sign.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    beats: BTreeMap<Part, Instant>,
}

impl Pulse {
    pub fn beat(&mut self, part: Part, now: Instant) {
        self.beats.insert(part, now);
    }

    /// The part has ended: nothing more is expected of it.
    pub fn end(&mut self, part: &Part) {
        self.beats.remove(part);
    }

    /// A generation has ended: its parts are no more.
    pub fn end_generation(&mut self) {
        self.beats.retain(|part, _| part.kind == ROOT);
    }

    /// A part that has given no sign for longer than this, and for how long.
    pub fn hangs(&self, silence_max: Duration, now: Instant) -> Option<(&Part, Duration)> {
        let silences = self.beats.iter().map(|(part, beat)| (part, now.saturating_duration_since(*beat)));
        silences.max_by_key(|(_, silence)| *silence).filter(|(_, silence)| *silence > silence_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_that_is_silent_for_longest_hangs() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let max = Duration::from_secs(60);
        let part = |kind, of: Option<&str>| Part { kind, of: of.map(Into::into) };
        let (root, reader) = (part(ROOT, None), part(READER, Some("users")));
        let mut pulse = Pulse::default();
        assert_eq!(pulse.hangs(max, at(1_000)), None, "nobody was ever there");
        pulse.beat(root.clone(), at(0));
        pulse.beat(reader.clone(), at(0));
        assert_eq!(pulse.hangs(max, at(60)), None);
        pulse.beat(root.clone(), at(90));
        pulse.beat(part(READER, None), at(90));
        assert_eq!(pulse.hangs(max, at(100)), Some((&reader, Duration::from_secs(100))));
        assert_eq!(reader.to_string(), "reader of users");
        pulse.end(&reader);
        assert_eq!(pulse.hangs(max, at(100)), None);
        pulse.end_generation();
        assert_eq!(pulse.hangs(max, at(100)), None);
        assert_eq!(pulse.hangs(max, at(151)), Some((&root, Duration::from_secs(61))));
    }
}
