//! Ids that every service derives for itself, from what a record carries anyway.
//!
//! A trace is a commit at the source, known by two fields of the header of each record that it caused: `tx` and `ts`. They name the commit
//! that *caused* the record also where a change of a dimension's row sends older facts again, which the version does not. The id of the
//! trace is the first 16 bytes of SHA-256 over the two fields as they stand in the header, so anybody finds the trace of a record:
//!
//! ```text
//! printf 'tx=742 ts=1752226555145000' | sha256sum | head -c 32
//! ```
//!
//! A span's id is the first 8 bytes of SHA-256 over the trace's id in hexadecimal, a space, and words that say where the span is:
//! `commit`, or the topic and partition that it wrote to, `ods_orders/3`. Who reads a record of that partition knows its parent by that.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::record::header::Header;

/// A commit at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Commit {
    pub transaction: u32,
    /// Microseconds since 1970.
    pub time_us: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl Commit {
    /// The commit that caused a record; `None` of a row that was copied, or that no transaction of the source wrote.
    pub fn of(header: &Header) -> Option<Self> {
        let time_us = header.commit_time_us?;
        (header.transaction != 0).then_some(Commit { transaction: header.transaction, time_us })
    }

    pub fn trace(self) -> TraceId {
        TraceId(begin_of_digest(&format!("tx={} ts={}", self.transaction, self.time_us)))
    }
}

impl TraceId {
    /// The span at a place of the trace.
    pub fn span(self, words: fmt::Arguments<'_>) -> SpanId {
        SpanId(begin_of_digest(&format!("{self} {words}")))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// No id is all zeros.
fn begin_of_digest<const BYTES: usize>(text: &str) -> [u8; BYTES] {
    let mut begin = [0; BYTES];
    begin.iter_mut().zip(Sha256::digest(text)).for_each(|(to, from)| *to = from);
    if begin == [0; BYTES] {
        begin = [1; BYTES];
    }
    begin
}

/// Which traces are told of: decided by the id alone, so that all services agree. As OpenTelemetry has it for ids that are random in their
/// last 56 bits: those from a threshold on.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    threshold: u64,
}

const RANDOM_BITS: u32 = 56;

impl Sampling {
    /// Of a ratio between 0 and 1.
    pub fn of(ratio: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of traces, not below 0"
        )]
        let threshold = ((1.0 - ratio.clamp(0.0, 1.0)) * (1_u64 << RANDOM_BITS) as f64).round() as u64;
        Sampling { threshold }
    }

    pub fn takes(self, TraceId(id): TraceId) -> bool {
        let random = u128::from_be_bytes(id) & ((1 << RANDOM_BITS) - 1);
        random >= u128::from(self.threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Version;
    use crate::record::header::Operation;

    const COMMIT: Commit = Commit { transaction: 742, time_us: 1_752_226_555_145_000 };

    /// These are what `sha256sum` says: the function must never change, or services of two versions would not agree.
    #[test]
    fn ids_are_those_of_the_shell() {
        let trace = COMMIT.trace();
        assert_eq!(trace.to_string(), "7d8a40e3e2cdd067780fb3e1015b6ff0");
        assert_eq!(trace.span(format_args!("commit")).0, 0x7923_e382_0f94_bebc_u64.to_be_bytes());
        assert_eq!(trace.span(format_args!("ods_orders/3")).0, 0x0de7_faa6_eb10_d44a_u64.to_be_bytes());
    }

    #[test]
    fn a_record_names_the_commit_that_caused_it() {
        let header = Header::new(Operation::Update, Version::default());
        assert_eq!(Commit::of(&header), None);
        let caused = Header { transaction: 742, commit_time_us: Some(COMMIT.time_us), ..header };
        assert_eq!(Commit::of(&caused), Some(COMMIT));
        assert_eq!(Commit::of(&Header { transaction: 0, ..caused }), None, "PostgreSQL has no transaction 0");
    }

    #[test]
    fn a_ratio_takes_so_many_and_a_larger_one_the_same_and_more() {
        let traces: Vec<TraceId> = (1..=10_000).map(|transaction| Commit { transaction, ..COMMIT }.trace()).collect();
        let taken = |ratio| traces.iter().filter(|id| Sampling::of(ratio).takes(**id)).count();
        assert_eq!((taken(0.0), taken(1.0)), (0, traces.len()));
        assert!(
            (4_800..5_200).contains(&taken(0.5)) && (60..140).contains(&taken(0.01)),
            "{} {}",
            taken(0.5),
            taken(0.01)
        );
        assert!(traces.iter().all(|id| !Sampling::of(0.1).takes(*id) || Sampling::of(0.5).takes(*id)));
    }
}
