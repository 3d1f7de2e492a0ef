//! The process. All of its life is in `shared::run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::run::main::<dim_joiner::pipeline::DimJoiner>()
}
