//! The process. All of its life is in `shared::run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::run::main::<dwd_cleaner::pipeline::DwdCleaner>()
}
