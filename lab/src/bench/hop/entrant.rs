//! Who takes the way in a round.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::raw::{Allocator, Task};
use crate::bench::variant::Variant;

/// One who takes it, in one process or several that share the partitions.
#[derive(Debug, Clone)]
pub enum Entrant {
    Raw { task: Task, allocator: Allocator, instances: u32 },
    Service { variant: Variant, instances: u32 },
}

impl Entrant {
    /// What the others are held against.
    pub const FORWARD: Entrant = Entrant::raw(Task::Forward, 1);

    /// With the system's allocator.
    pub const fn raw(task: Task, instances: u32) -> Self {
        Entrant::Raw { task, allocator: Allocator::System, instances }
    }

    pub fn instances(&self) -> u32 {
        match self {
            Entrant::Raw { instances, .. } | Entrant::Service { instances, .. } => *instances,
        }
    }

    pub fn title(&self, service: &str) -> String {
        let title = match self {
            Entrant::Raw { task: Task::Forward, allocator: Allocator::System, .. } => "forward unchanged".to_owned(),
            Entrant::Raw { task: Task::Forward, allocator: Allocator::Jemalloc, .. } => {
                "forward unchanged, jemalloc".to_owned()
            }
            Entrant::Raw { task: Task::Consume, .. } => "consume alone".to_owned(),
            Entrant::Raw { task: Task::Produce, .. } => "produce alone".to_owned(),
            Entrant::Service { variant, .. } => variant.title(service),
        };
        if self.instances() == 1 { title } else { format!("{title} x{}", self.instances()) }
    }
}

/// A service with something changed.
#[derive(Debug, Clone)]
pub struct ServiceVariant {
    pub service: String,
    pub variant: Variant,
}

impl FromStr for ServiceVariant {
    type Err = String;

    /// `SERVICE NAME KEY=VALUE...`
    fn from_str(text: &str) -> Result<Self, String> {
        let (service, rest) = text.trim().split_once(' ').unwrap_or((text, ""));
        Ok(ServiceVariant { service: service.to_owned(), variant: rest.parse()? })
    }
}

impl ServiceVariant {
    /// The service as it is, and with what is changed.
    pub fn of_service(variants: &[ServiceVariant], service: &str) -> Vec<Variant> {
        let changed = variants.iter().filter(|found| found.service == service).map(|found| found.variant.clone());
        std::iter::once(Variant::default()).chain(changed).collect()
    }
}

/// The program of a variant: its own, or the one that was built.
pub fn program(variant: &Variant, programs: &Path, service: &str) -> PathBuf {
    variant.program.clone().unwrap_or_else(|| programs.join(service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_belongs_to_a_service() {
        let before: ServiceVariant = "dwd-cleaner before program=/tmp/old".parse().unwrap();
        let of = |service: &str| ServiceVariant::of_service(std::slice::from_ref(&before), service);
        let titles: Vec<String> = of("dwd-cleaner").iter().map(|variant| variant.title("dwd-cleaner")).collect();
        assert_eq!(titles, ["dwd-cleaner", "dwd-cleaner before"]);
        assert_eq!(of("dim-joiner"), [Variant::default()]);
        assert!("dwd-cleaner".parse::<ServiceVariant>().is_err());
        let two = Entrant::Service { variant: before.variant.clone(), instances: 2 };
        assert_eq!(two.title("dwd-cleaner"), "dwd-cleaner before x2");
    }
}
