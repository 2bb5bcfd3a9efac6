//! How well workloads are packed: against every packing there is, against bounds, and against simpler ways.

use cleave_policy::mig::{Geometry, Instance, Mask, Profile};
use cleave_policy::pack::{Amount, MigPool, Pool, WHOLE, lower_bound, pack, place, rounded_up};
use std::collections::BTreeMap;

/// A small generator, so that every run sees the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

const H100: Amount = Amount { memory: 80_000, compute: WHOLE, bandwidth: WHOLE };

fn need(memory: u64, compute: u16) -> Amount {
    Amount { memory, compute, bandwidth: 0 }
}

fn random_need(random: &mut Random, most: u64) -> Amount {
    need(1 + random.below(H100.memory * most / 100), 10 + random.below(u64::from(WHOLE) * most / 100 - 10) as u16)
}

#[test]
fn percent_are_rounded_up_and_by_no_hair() {
    for tenths in 1..=WHOLE {
        let percent: f64 = format!("{}.{}", tenths / 10, tenths % 10).parse().unwrap();
        let products = [f64::from(tenths) * 0.1, 100.0 - (100.0 - percent), percent * 3.0 / 7.0 * 7.0 / 3.0];
        for percent in products.into_iter().chain([percent]) {
            assert_eq!(rounded_up(percent), tenths, "{percent}");
        }
        assert_eq!(rounded_up(percent - 0.099), tenths);
        assert_eq!(rounded_up(percent + 0.001), (tenths + 1).min(WHOLE));
    }
    assert_eq!([-1.0, 0.0, f64::NAN, 100.1, f64::INFINITY].map(rounded_up), [0, 0, 0, WHOLE, WHOLE]);
}

/// Tries every way to put the items onto GPUs, except for those that only differ in the GPUs' order.
fn fewest(needs: &[Amount], bins: &mut Vec<Amount>, best: &mut usize) {
    if bins.len() >= *best {
        return;
    }
    let Some((first, rest)) = needs.split_first() else {
        *best = bins.len();
        return;
    };
    for at in 0..bins.len() {
        let left = bins[at];
        if left.holds(first) {
            bins[at] = left.less(first);
            fewest(rest, bins, best);
            bins[at] = left;
        }
    }
    bins.push(H100.less(first));
    fewest(rest, bins, best);
    bins.pop();
}

/// Whether there is any way to put the items into what is left.
fn fits(needs: &[Amount], left: &[Amount], may: &dyn Fn(usize, usize) -> bool) -> bool {
    let Some((first, rest)) = needs.split_last() else { return true };
    (0..left.len()).any(|gpu| {
        let mut after = left.to_vec();
        after[gpu] = left[gpu].less(first);
        may(rest.len(), gpu) && left[gpu].holds(first) && fits(rest, &after, may)
    })
}

#[test]
fn a_place_is_found_where_there_is_one() {
    let mut random = Random(11);
    let mut found = 0;
    for _ in 0..3000 {
        let needs: Vec<Amount> = (0..1 + random.below(6)).map(|_| random_need(&mut random, 60)).collect();
        let left: Vec<Amount> = (0..1 + random.below(4)).map(|_| random_need(&mut random, 100)).collect();
        let barred = random.below(8) as usize;
        let may = |item: usize, gpu: usize| item + gpu != barred;
        match place(&needs, &left, may) {
            Err(item) => assert!(item < needs.len() && !fits(&needs, &left, &may), "{needs:?} {left:?}"),
            Ok(places) => {
                found += 1;
                assert!(places.iter().enumerate().all(|(item, gpu)| may(item, *gpu)));
                for (gpu, left) in left.iter().enumerate() {
                    let on = places.iter().zip(&needs).filter(|(place, _)| **place == gpu);
                    let sum = on.fold(Amount::default(), |sum, (_, need)| sum.plus(need));
                    assert!(left.holds(&sum), "{needs:?} {left:?} {places:?}");
                }
            }
        }
    }
    assert!((300..2700).contains(&found), "{found}: both must be tried");
}

fn assert_valid(needs: &[Amount], bins: &[Vec<usize>]) {
    let mut seen: Vec<usize> = bins.iter().flatten().copied().collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..needs.len()).collect::<Vec<_>>());
    for bin in bins {
        let sum = bin.iter().fold(Amount::default(), |sum, item| sum.plus(&needs[*item]));
        assert!(H100.holds(&sum), "{sum:?}");
    }
}

#[test]
fn few_workloads_are_packed_as_well_as_can_be() {
    let mut random = Random(1);
    for _ in 0..1500 {
        let most = 30 + random.below(71);
        let needs: Vec<Amount> = (0..1 + random.below(9)).map(|_| random_need(&mut random, most)).collect();
        let bins = pack(&needs, &H100).unwrap();
        assert_valid(&needs, &bins);
        let mut best = needs.len() + 1;
        fewest(&needs, &mut Vec::new(), &mut best);
        assert_eq!(bins.len(), best, "{needs:?}");
        assert!(lower_bound(&needs, &H100) <= best, "{needs:?}");
    }
}

#[test]
fn what_fits_nowhere_is_not_packed() {
    assert_eq!(pack(&[need(80_001, 1)], &H100), None);
    assert_eq!(pack(&[need(1, 1001)], &H100), None);
    assert_eq!(pack(&[], &H100), Some(Vec::new()));
}

/// Simpler ways to choose among the GPUs on which a workload fits: the first; the one with least left; and the score of
/// HAMi's `binpack` policy, which takes the GPU that is used most, memory and cores added up.
fn simple(needs: &[Amount], way: &str) -> usize {
    let mut left: Vec<Amount> = Vec::new();
    for need in needs {
        let used = |left: &Amount| 1000 * (H100.memory - left.memory) / H100.memory + u64::from(WHOLE - left.compute);
        let mut fits = (0..left.len()).filter(|at| left[*at].holds(need));
        let at = match way {
            "first-fit" => fits.next(),
            "best-fit" => fits.min_by_key(|at| left[*at].memory - need.memory),
            _ => fits.max_by_key(|at| (used(&left[*at]), usize::MAX - at)),
        };
        match at {
            Some(at) => left[at] = left[at].less(need),
            None => left.push(H100.less(need)),
        }
    }
    left.len()
}

/// Workloads of up to half a GPU; in every other round a tenth of them need more, up to all of it.
fn slices(random: &mut Random, round: u64) -> Vec<Amount> {
    let count = 50 + random.below(150);
    let most = [25, 50, 40, 50][(round % 4) as usize];
    let large = round % 4 > 1;
    (0..count).map(|item| random_need(random, if large && item % 10 == 0 { 100 } else { most })).collect()
}

#[test]
fn many_workloads_come_close_to_the_bound_and_beat_simpler_ways() {
    let mut random = Random(2);
    let (mut ours, mut bounds, mut others) = (0, 0, BTreeMap::new());
    for round in 0..if cfg!(debug_assertions) { 200 } else { 5000 } {
        let needs = slices(&mut random, round);
        let bins = pack(&needs, &H100).unwrap();
        assert_valid(&needs, &bins);
        ours += bins.len();
        bounds += lower_bound(&needs, &H100);
        for way in ["first-fit", "best-fit", "HAMi binpack"] {
            *others.entry(way).or_insert(0) += simple(&needs, way);
        }
    }
    println!("bound {bounds}, cleave {ours}, {others:?}");
    assert!(ours * 100 <= bounds * 103, "{ours} GPUs for a bound of {bounds}");
    assert!(others.values().all(|other| ours < *other), "{ours} {others:?}");
}

#[test]
fn a_fleet_is_filled_one_by_one_without_losing_count() {
    let mut random = Random(3);
    let mut pool = Pool::new(H100, 64);
    let mut held: Vec<(u32, Amount)> = Vec::new();
    for _ in 0..20_000 {
        if random.below(5) < 3 {
            let need = random_need(&mut random, 60);
            let fits = (0..64).any(|gpu| pool.left(gpu).unwrap().holds(&need));
            let found = pool.find(&need);
            assert_eq!(found.is_some(), fits, "what fits is found");
            if let Some(gpu) = found {
                assert!(pool.take(gpu, &need));
                held.push((gpu, need));
            }
        } else if !held.is_empty() {
            let (gpu, need) = held.swap_remove(random.below(held.len() as u64) as usize);
            pool.change(gpu, pool.left(gpu).unwrap().plus(&need));
        }
    }
    for (gpu, need) in held {
        pool.change(gpu, pool.left(gpu).unwrap().plus(&need));
    }
    assert!((0..64).all(|gpu| *pool.left(gpu).unwrap() == H100));
    assert!(!pool.take(64, &need(1, 1)) && !pool.take(0, &need(80_001, 1)));
}

#[test]
fn two_that_live_on_bandwidth_are_kept_apart_where_there_is_room() {
    let hungry = Amount { memory: 10_000, compute: 200, bandwidth: 700 };
    let mut pool = Pool::new(H100, 2);
    let mut places = Vec::new();
    for _ in 0..3 {
        let gpu = pool.find(&hungry).unwrap();
        assert!(pool.take(gpu, &hungry));
        places.push(gpu);
    }
    assert_ne!(places[0], places[1]);
    // The third goes somewhere all the same; a modest one goes beside a hungry one.
    assert_eq!(pool.left(0).unwrap().bandwidth + pool.left(1).unwrap().bandwidth, 300);
}

fn h100() -> Geometry {
    let rows: [(&str, &[u8], u8, u32, u64); 6] = [
        ("1g.10gb", &[0, 1, 2, 3, 4, 5, 6], 1, 16, 9984),
        ("1g.20gb", &[0, 2, 4, 6], 2, 26, 20096),
        ("2g.20gb", &[0, 2, 4], 2, 32, 20096),
        ("3g.40gb", &[0, 4], 4, 60, 40448),
        ("4g.40gb", &[0], 4, 64, 40448),
        ("7g.80gb", &[0], 8, 132, 81152),
    ];
    let profile = |&(name, starts, size, sms, memory_mib): &(&str, &[u8], u8, u32, u64)| Profile {
        name: name.into(),
        starts: starts.to_vec(),
        size,
        media: false,
        sms,
        memory_mib,
    };
    Geometry { profiles: rows.iter().map(profile).collect() }
}

const WEIGHTS: [u32; 6] = [30, 10, 25, 20, 5, 10];

fn pick(random: &mut Random) -> usize {
    let mut at = random.below(100) as u32;
    let found = WEIGHTS.iter().position(|weight| {
        let here = at < *weight;
        at = at.wrapping_sub(if here { 0 } else { *weight });
        here
    });
    found.unwrap_or(0)
}

/// What a rule to place instances is asked.
trait Rule {
    fn place(&mut self, profile: usize) -> Option<(usize, Instance)>;
    fn remove(&mut self, gpu: usize, instance: Instance);
}

struct Ours(MigPool);

impl Rule for Ours {
    fn place(&mut self, profile: usize) -> Option<(usize, Instance)> {
        let (gpu, instance) = self.0.find(profile)?;
        self.0.flip(gpu, instance);
        Some((gpu as usize, instance))
    }

    fn remove(&mut self, gpu: usize, instance: Instance) {
        self.0.flip(gpu as u32, instance);
    }
}

/// The first place there is; or the one by which the expected fragmentation grows least: of the slices that are free, those
/// that the profiles, by how often they are asked for, can't use.
struct Simple {
    geometry: Geometry,
    taken: Vec<Mask>,
    gradient: bool,
}

impl Simple {
    fn fragmentation(&self, taken: Mask) -> f64 {
        let free = 8 - taken.count_ones();
        let each = self.geometry.profiles.iter().zip(WEIGHTS).enumerate().map(|(at, (kind, weight))| {
            let usable = self.geometry.room(taken, at) * u32::from(kind.size);
            f64::from(weight) * f64::from(free.saturating_sub(usable))
        });
        each.sum()
    }
}

impl Rule for Simple {
    fn place(&mut self, profile: usize) -> Option<(usize, Instance)> {
        let places = self
            .taken
            .iter()
            .enumerate()
            .flat_map(|(gpu, taken)| self.geometry.fits(*taken, profile).map(move |one| (gpu, one)));
        let growth = |(gpu, instance): &(usize, Instance)| {
            let taken = self.taken[*gpu];
            self.fragmentation(taken | self.geometry.mask(*instance)) - self.fragmentation(taken)
        };
        let mut places = places.collect::<Vec<_>>().into_iter();
        let (gpu, instance) = match self.gradient {
            false => places.next()?,
            true => places.min_by(|a, b| growth(a).total_cmp(&growth(b)))?,
        };
        self.taken[gpu] |= self.geometry.mask(instance);
        Some((gpu, instance))
    }

    fn remove(&mut self, gpu: usize, instance: Instance) {
        self.taken[gpu] &= !self.geometry.mask(instance);
    }
}

/// Somebody who may move every instance about at any time, which nobody can: it takes whatever fits in some arrangement.
/// Large instances first, each on the GPU with least room for it, is the best arrangement, since each size divides the next.
struct Clairvoyant {
    geometry: Geometry,
    gpus: usize,
    held: Vec<usize>,
}

impl Clairvoyant {
    fn fits(&self) -> bool {
        let mut order = self.held.clone();
        let size = |profile: &usize| {
            let kind = &self.geometry.profiles[*profile];
            (kind.size, std::cmp::Reverse(kind.starts.len()))
        };
        order.sort_by_key(|profile| std::cmp::Reverse(size(profile)));
        let mut pool = Ours(MigPool::new(self.geometry.clone(), vec![0; self.gpus], WEIGHTS.to_vec()));
        order.into_iter().all(|profile| pool.place(profile).is_some())
    }
}

impl Rule for Clairvoyant {
    fn place(&mut self, profile: usize) -> Option<(usize, Instance)> {
        self.held.push(profile);
        if self.fits() {
            return Some((0, Instance { profile, start: 0 }));
        }
        self.held.pop();
        None
    }

    fn remove(&mut self, _: usize, instance: Instance) {
        let at = self.held.iter().position(|profile| *profile == instance.profile).unwrap();
        self.held.swap_remove(at);
    }
}

/// The part of what is asked for that a rule finds a place for, by slices: requests come one after another, and each
/// instance stays for a time of its own, so long that the fleet is about full.
fn accepted(rule: &mut dyn Rule, seed: u64, events: u64, gpus: u64, longest: u64) -> f64 {
    let geometry = h100();
    let mut random = Random(seed);
    let mut ends: BTreeMap<(u64, u64), (usize, Instance)> = BTreeMap::new();
    let (mut asked, mut given) = (0, 0);
    for now in 0..events {
        while let Some(entry) = ends.first_entry().filter(|entry| entry.key().0 <= now) {
            let (gpu, instance) = entry.remove();
            rule.remove(gpu, instance);
        }
        let profile = pick(&mut random);
        let stay = gpus * 10 + random.below(gpus * longest * 10);
        let size = u64::from(geometry.profiles[profile].size);
        asked += size;
        if let Some(place) = rule.place(profile) {
            given += size;
            ends.insert((now + stay / 10, now), place);
        }
    }
    given as f64 / asked as f64
}

#[test]
fn instances_that_come_and_go_find_nearly_as_many_places_as_if_they_could_be_moved() {
    // At the last load more is asked for than there is.
    let (events, gpus) = (if cfg!(debug_assertions) { 2_000 } else { 100_000 }, 20);
    for (longest, of_best) in [(1, 0.99), (2, 0.98), (3, 0.93), (4, 0.92)] {
        let simple = |gradient| Simple { geometry: h100(), taken: vec![0; 20], gradient };
        let mut ours = Ours(MigPool::new(h100(), vec![0; 20], WEIGHTS.to_vec()));
        let mut best = Clairvoyant { geometry: h100(), gpus: 20, held: Vec::new() };
        let rules = [&mut ours as &mut dyn Rule, &mut simple(false), &mut simple(true), &mut best];
        let [ours, first, gradient, best] = rules.map(|rule| accepted(rule, 7, events, gpus, longest));
        println!(
            "accepted: cleave {ours:.4}, first fit {first:.4}, fragmentation gradient {gradient:.4}, moving about {best:.4}"
        );
        assert!(ours >= of_best * best, "{ours} of {best}");
        assert!(longest == 1 || ours >= first && ours >= gradient, "{ours} {first} {gradient}");
    }
}
