//! What charging costs where nobody races: `CARGO_TARGET_DIR=… cargo bench -p cleave-ledger`.
#![cfg(not(loom))]
#![allow(missing_docs, reason = "criterion's macros")]

use cleave_ledger::{Kind, Ledger, Policy, UNIT, Usage};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::atomic::Ordering::SeqCst;

fn charge(c: &mut Criterion) {
    let policy = Policy::new();
    let usage = Usage::new();
    policy.devices[0].limit.store(1 << 30, SeqCst);
    let never = |_| false;

    let mut group = c.benchmark_group("charge");
    for slots in [1, 8, 64, 128] {
        policy.slots_high.store(slots, SeqCst);
        let ledger = Ledger::new(&policy, &usage, slots as usize / 2).expect("a slot");
        group.bench_function(format!("reserve+release/{slots} slots"), |b| {
            b.iter(|| {
                ledger.reserve(0, Kind::Linear, black_box(2 << 20), never).expect("fits");
                ledger.release(0, Kind::Linear, black_box(2 << 20));
            });
        });
        group.bench_function(format!("refusal/{slots} slots"), |b| {
            b.iter(|| ledger.reserve(0, Kind::Linear, black_box((1 << 30) + UNIT), never).expect_err("does not fit"));
        });
    }
    policy.slots_high.store(1, SeqCst);
    let ledger = Ledger::new(&policy, &usage, 0).expect("a slot");
    group.bench_function("take+release", |b| {
        b.iter(|| {
            ledger.take(0, Kind::Linear, black_box(2 << 20));
            ledger.release(0, Kind::Linear, black_box(2 << 20));
        });
    });
    group.finish();
}

criterion_group!(benches, charge);
criterion_main!(benches);
