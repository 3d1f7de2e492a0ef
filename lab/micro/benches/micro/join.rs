//! dim-joiner: a batch of orders joined with their users, and remembered.

use criterion::{BatchSize, Criterion, Throughput};
use dim_joiner::join::{Joiner, Now};
use dim_joiner::plan::Plan;
use dim_joiner::room::Room;
use dim_joiner::settings::Settings;
use std::hint::black_box;

use crate::topic;

const NOW: Now = Now { wall_us: 1_752_226_555_145_000, steady_ms: 1_000 };

/// One that knows all users, and no order.
fn joiner() -> Joiner {
    let settings = Settings::default();
    let plan = Plan::new(&settings).unwrap();
    let room = Room::new(&settings.facts, plan.dimensions.len()).unwrap();
    let mut joiner = Joiner::new(settings, plan, room);
    joiner.take_rows(0, &topic::users(), NOW).unwrap();
    joiner
}

pub fn join(criterion: &mut Criterion) {
    let batch = topic::cleaned(1);
    let mut group = criterion.benchmark_group("dim-joiner");
    group.throughput(Throughput::Elements(topic::RECORDS.into()));
    group.sample_size(20);
    group.bench_function("join", |bencher| {
        bencher.iter_batched_ref(
            joiner,
            |joiner| {
                let out = joiner.take_facts(black_box(&batch), NOW).unwrap();
                assert_eq!(out.len(), topic::RECORDS as usize);
                out
            },
            BatchSize::LargeInput,
        );
    });
}
