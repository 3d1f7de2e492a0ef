//! What a service does with its time: perf beside it, from its start to its end. `scripts/bench.sh profile` makes a picture of it.

use std::path::Path;

use shared::failure::Failure;

use crate::bench::child::{Child, Program};

/// Samples a second of each thread, and not a round number, so that nothing that beats keeps step with it.
const SAMPLES_A_SECOND: u32 = 997;

/// A running perf. It ends with the process that it watches.
pub struct Profile(Child);

impl Profile {
    /// Writes `folder/TITLE.data`. The clock is the kernel's: virtual machines often have no other counter.
    pub fn start(folder: &Path, title: &str, process: u32) -> Result<Self, Failure> {
        let name = title.replace(' ', "-");
        let data = folder.join(format!("{name}.data"));
        let words = ["record", "--quiet", "--event", "cpu-clock", "--call-graph", "fp", "--freq"].map(str::to_owned);
        let more = [SAMPLES_A_SECOND.to_string(), "--pid".into(), process.to_string(), "--output".into()];
        let arguments = words.into_iter().chain(more).chain([data.display().to_string()]).collect();
        let log = folder.join(format!("{name}.log"));
        Child::start(Program { path: Path::new("perf"), arguments, variables: Vec::new(), log }).map(Profile)
    }

    /// Waits until all is written. The process has ended.
    pub fn finish(mut self) -> Result<(), Failure> {
        self.0.expect_success()
    }
}
