//! The raw clients of the benchmarks (`tidemill-lab bench raw`) with the allocator of dwd-cleaner and dim-joiner: docs/adr/0015-allocator.md.
//! `tidemill-lab bench stages` starts it.

use std::process::ExitCode;

use clap::Parser;
use lab::bench::raw::{Order, run};
use lab::paper::Paper;
use lab::places::{Addresses, Places};
use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Read or write a topic with nothing but the client
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    order: Order,
    #[command(flatten)]
    addresses: Addresses,
}

fn main() -> ExitCode {
    let line = Line::parse();
    match Places::try_from(line.addresses).and_then(|places| run(&places, &line.order)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            Paper::stderr().line(format!("bench-raw-jemalloc: {}", failure.chain()));
            ExitCode::FAILURE
        }
    }
}
