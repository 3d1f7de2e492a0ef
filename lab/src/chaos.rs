//! Chaos: the whole system under a random workload, with something broken every few seconds, and the proof that nothing was lost, doubled
//! or changed.
//!
//! ```text
//!  workload ──▶ source ═══ services, each with a second replica ═══▶ sink
//!      │           │ triggers                                          │
//!      │           ▼                                                   │
//!      │        witness ────────────▶ verdict ◀── topics ◀─────────────┘
//!  plan ──▶ faults ──▶ services, servers, connections
//! ```

pub mod witness;
pub mod workload;

pub mod verdict;
