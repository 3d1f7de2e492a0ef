//! The process. All of its life is in `shared::run`.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// For librdkafka as well, whose memory goes from thread to thread: docs/adr/0015-allocator.md.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    shared::run::main::<dim_joiner::pipeline::DimJoiner>()
}
