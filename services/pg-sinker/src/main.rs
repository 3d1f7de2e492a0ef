use std::process::ExitCode;

use pg_sinker::PgSinker;

fn main() -> ExitCode {
    shared::run::main::<PgSinker>()
}
