//! dwd-cleaner: a batch through the rules that stand in the settings.

use criterion::{BatchSize, Criterion, Throughput};
use dwd_cleaner::cleaner::Cleaner;
use dwd_cleaner::settings::Settings;
use jiff::Timestamp;
use std::hint::black_box;

use crate::topic;

pub fn clean(criterion: &mut Criterion) {
    let settings = Settings::default();
    let batch = topic::captured(1);
    let mut group = criterion.benchmark_group("dwd-cleaner");
    group.throughput(Throughput::Elements(topic::RECORDS.into()));
    // A new one each time: what it has seen it takes for a repeat.
    let cleaner = || Cleaner::new(settings.plan().unwrap(), &settings.quality, settings.input.topic.clone());
    group.bench_function("clean", |bencher| {
        bencher.iter_batched_ref(
            cleaner,
            |cleaner| {
                let made = cleaner.clean(black_box(&batch), Timestamp::UNIX_EPOCH);
                assert_eq!(made.len(), topic::RECORDS as usize);
                made
            },
            BatchSize::SmallInput,
        );
    });
}
