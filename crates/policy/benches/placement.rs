//! How long it takes to find places: `cargo bench -p cleave-policy`.
//!
//! Criterion measures means. Before that a table is printed of single placements in fleets of growing size, with percentiles, and of how
//! many workloads a second find a place: a fleet is filled to nine tenths first, then workloads come and go.
use cleave_policy::mig::{Geometry, Instance, Mask, Profile};
use cleave_policy::pack::{Amount, MigPool, Pool, WHOLE, pack};
use criterion::{Criterion, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// A small generator, so that every run sees the same.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

const H100: Amount = Amount { memory: 81_081, compute: WHOLE, bandwidth: WHOLE };
/// GPUs of a node.
const NODE: u32 = 8;
/// Nodes of the largest fleet.
const NODES: u32 = 10_000;

fn need(random: &mut Random) -> Amount {
    let memory = H100.memory * (5 + random.below(45)) / 100;
    Amount { memory, compute: 50 + random.below(450) as u16, bandwidth: random.below(400) as u16 }
}

/// The profiles of an H100.
fn h100() -> Geometry {
    let rows: [(&str, &[u8], u8, u32, u64); 6] = [
        ("1g.10gb", &[0, 1, 2, 3, 4, 5, 6], 1, 16, 9984),
        ("1g.20gb", &[0, 2, 4, 6], 2, 26, 20096),
        ("2g.20gb", &[0, 2, 4], 2, 32, 20096),
        ("3g.40gb", &[0, 4], 4, 60, 40448),
        ("4g.40gb", &[0], 4, 64, 40448),
        ("7g.80gb", &[0], 8, 132, 81152),
    ];
    let profile = |&(name, starts, size, sms, memory_mib): &(&str, &[u8], u8, u32, u64)| {
        let (name, starts) = (name.into(), starts.to_vec());
        Profile { name, starts, size, media: false, sms, memory_mib }
    };
    Geometry { profiles: rows.iter().map(profile).collect() }
}

/// How often each profile is asked for, in percent.
const WEIGHTS: [u32; 6] = [30, 10, 25, 20, 5, 10];

/// Something that a workload is put into and taken out of again.
trait Fleet {
    /// A random workload goes where it fits best; false if nowhere.
    fn come(&mut self, random: &mut Random) -> bool;
    /// A random one ends.
    fn go(&mut self, random: &mut Random);
}

struct Shared {
    pool: Pool,
    there: Vec<(u32, Amount)>,
}

impl Fleet for Shared {
    fn come(&mut self, random: &mut Random) -> bool {
        let need = need(random);
        let Some(gpu) = self.pool.find(&need) else { return false };
        let bandwidth = self.pool.left(gpu).map_or(0, |left| left.bandwidth.min(need.bandwidth));
        self.there.push((gpu, Amount { bandwidth, ..need }));
        self.pool.take(gpu, &need)
    }

    fn go(&mut self, random: &mut Random) {
        let (gpu, need) = self.there.swap_remove(random.below(self.there.len() as u64) as usize);
        let left = self.pool.left(gpu).copied().unwrap_or_default();
        self.pool.change(gpu, left.plus(&need));
    }
}

struct Mig {
    pool: MigPool,
    there: Vec<(u32, Instance)>,
}

impl Fleet for Mig {
    fn come(&mut self, random: &mut Random) -> bool {
        let mut at = random.below(100) as u32;
        let profile = WEIGHTS.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let Some((gpu, instance)) = self.pool.find(profile.unwrap_or(0)) else { return false };
        self.there.push((gpu, instance));
        self.pool.flip(gpu, instance);
        true
    }

    fn go(&mut self, random: &mut Random) {
        let (gpu, instance) = self.there.swap_remove(random.below(self.there.len() as u64) as usize);
        self.pool.flip(gpu, instance);
    }
}

fn shared(nodes: u32) -> Shared {
    Shared { pool: Pool::new(H100, nodes * NODE), there: Vec::new() }
}

fn mig(nodes: u32) -> Mig {
    let taken: Vec<Mask> = vec![0; (nodes * NODE) as usize];
    Mig { pool: MigPool::new(h100(), taken, WEIGHTS.to_vec()), there: Vec::new() }
}

/// Fills it until workloads begin to find no place, and lets a tenth go.
fn fill(fleet: &mut impl Fleet, random: &mut Random) {
    let mut count = 0u32;
    while fleet.come(random) {
        count += 1;
    }
    for _ in 0..count / 10 {
        fleet.go(random);
    }
}

fn percentiles(name: &str, nodes: u32, fleet: &mut impl Fleet) {
    let mut random = Random(7);
    fill(fleet, &mut random);
    let mut times = Vec::with_capacity(20_000);
    for _ in 0..20_000 {
        fleet.go(&mut random);
        let began = Instant::now();
        black_box(fleet.come(&mut random));
        times.push(began.elapsed());
    }
    let sum: Duration = times.iter().sum();
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 1000].as_secs_f64() * 1e6;
    println!(
        "{name:<9} {nodes:>6} nodes x {NODE} GPUs: p50 {:>7.1} us  p99 {:>7.1} us  p99.9 {:>7.1} us  {:>8.0} a second",
        at(500),
        at(990),
        at(999),
        times.len() as f64 / sum.as_secs_f64()
    );
}

fn placement(criterion: &mut Criterion) {
    for nodes in [100, 1000, NODES] {
        percentiles("shared", nodes, &mut shared(nodes));
        percentiles("MIG", nodes, &mut mig(nodes));
    }
    let geometry = h100();
    criterion.bench_function("MIG layouts of an H100", |bench| {
        bench.iter(|| black_box(geometry.maximal(|_| true)).len());
    });
    let mut group = criterion.benchmark_group("plan anew");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let mut random = Random(3);
    let needs: Vec<Amount> = (0..2000).map(|_| Amount { bandwidth: 0, ..need(&mut random) }).collect();
    group.bench_function("2000 workloads on as few GPUs as can be", |bench| {
        bench.iter(|| black_box(pack(&needs, &H100)).map(|gpus| gpus.len()));
    });
    group.finish();
    let mut fleet = shared(NODES);
    let mut random = Random(9);
    fill(&mut fleet, &mut random);
    criterion.bench_function("one comes, one goes: 10 000 nodes x 8 GPUs", |bench| {
        bench.iter(|| {
            fleet.go(&mut random);
            black_box(fleet.come(&mut random))
        });
    });
}

mod benches {
    #![allow(missing_docs)]
    criterion::criterion_group!(benches, super::placement);
}
criterion_main!(benches::benches);
