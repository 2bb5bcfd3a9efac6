//! Which GPU a workload goes to: one at a time into a fleet, or all at once onto as few GPUs as can be.
//!
//! What a workload needs of a GPU that is shared in software is memory, a share of its time or multiprocessors, and memory
//! bandwidth. The first two are hard. Bandwidth can't be walled off, so two workloads that both live on it are kept apart
//! where there is another place, and go together where there is none.
use crate::mig::{Geometry, Instance, Mask};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

/// The whole of a GPU's time or bandwidth.
pub const WHOLE: u16 = 1000;

/// The thousandths of a GPU that hold `percent` of it: rounded up, but for the hair by which a sum or a product may be off;
/// at most [`WHOLE`].
pub fn rounded_up(percent: f64) -> u16 {
    let exact = (percent * 10.0 - 1e-6).clamp(0.0, f64::from(WHOLE));
    let below = exact as u16;
    below + u16::from(f64::from(below) < exact)
}

/// An amount of each: what a workload needs, what a GPU has, or what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash, PartialOrd, Ord)]
pub struct Amount {
    /// Memory in MiB.
    pub memory: u64,
    /// Thousandths of the GPU's time.
    pub compute: u16,
    /// Thousandths of its memory bandwidth.
    pub bandwidth: u16,
}

impl Amount {
    /// Whether `need` fits into this, bandwidth aside.
    pub const fn holds(&self, need: &Amount) -> bool {
        need.memory <= self.memory && need.compute <= self.compute
    }

    /// What is left without `need`. Of bandwidth nothing may be left.
    pub const fn less(&self, need: &Amount) -> Amount {
        Amount {
            memory: self.memory.saturating_sub(need.memory),
            compute: self.compute.saturating_sub(need.compute),
            bandwidth: self.bandwidth.saturating_sub(need.bandwidth),
        }
    }

    /// Both together.
    pub const fn plus(&self, other: &Amount) -> Amount {
        Amount {
            memory: self.memory.saturating_add(other.memory),
            compute: self.compute.saturating_add(other.compute),
            bandwidth: self.bandwidth.saturating_add(other.bandwidth),
        }
    }
}

/// How bad it is to leave `left` of a GPU that has `whole`: the larger part of the two, because more of one than of the other
/// is stranded; of equal ones that with less of the other. Only to be compared.
pub fn leftover(left: &Amount, whole: &Amount) -> u64 {
    let memory = left.memory * 1_000_000 / whole.memory.max(1);
    let compute = u64::from(left.compute) * 1_000_000 / u64::from(whole.compute.max(1));
    2000 * memory.max(compute) + memory.min(compute)
}

/// GPUs in the order in which they are to be tried for a workload that any will do for. Of each what is needed there, what
/// is left, and the whole. With `snug` those first on which it leaves least, so that others stay free for larger ones;
/// else those with most memory left, so that each has the most time.
pub fn order(gpus: &[(Amount, Amount, Amount)], snug: bool) -> Vec<usize> {
    let key = |at: &usize| {
        let (need, left, whole) = &gpus[*at];
        let waste = if left.holds(need) { leftover(&left.less(need), whole) } else { u64::MAX };
        (if snug { waste } else { u64::MAX - left.memory }, *at)
    };
    let mut order: Vec<usize> = (0..gpus.len()).collect();
    order.sort_by_key(key);
    order
}

/// Tries after which the search of [`place`] takes what it has for the answer.
const STEPS_OF_PLACE: u32 = 100_000;

/// A GPU for each of `needs` among those of which so much is `left`, where `may` says whether a workload can go to a GPU;
/// each where it leaves least. Or the workload that is in the way: on the way that went furthest it found no place.
pub fn place(needs: &[Amount], left: &[Amount], may: impl Fn(usize, usize) -> bool) -> Result<Vec<usize>, usize> {
    let most = left.iter().fold(Amount::default(), |most, one| Amount {
        memory: most.memory.max(one.memory),
        compute: most.compute.max(one.compute),
        bandwidth: 0,
    });
    let mut order: Vec<usize> = (0..needs.len()).collect();
    order.sort_by_key(|&at| core::cmp::Reverse(size(&needs[at], &most)));
    let mut search = Placing { needs, left: left.to_vec(), may, order, found: vec![0; needs.len()], far: 0, tries: 0 };
    if search.go(0) { Ok(search.found) } else { Err(search.order[search.far]) }
}

struct Placing<'a, F> {
    needs: &'a [Amount],
    left: Vec<Amount>,
    may: F,
    /// The largest first.
    order: Vec<usize>,
    found: Vec<usize>,
    /// How many were placed at a time.
    far: usize,
    tries: u32,
}

impl<F: Fn(usize, usize) -> bool> Placing<'_, F> {
    fn go(&mut self, from: usize) -> bool {
        let Some(&item) = self.order.get(from) else { return true };
        self.far = self.far.max(from);
        let need = self.needs[item];
        let mut places: Vec<usize> =
            (0..self.left.len()).filter(|&gpu| self.left[gpu].holds(&need) && (self.may)(item, gpu)).collect();
        places.sort_by_key(|&gpu| (leftover(&self.left[gpu].less(&need), &self.left[gpu]), gpu));
        for gpu in places {
            self.tries += 1;
            if self.tries > STEPS_OF_PLACE {
                return false;
            }
            let before = self.left[gpu];
            self.left[gpu] = before.less(&need);
            self.found[item] = gpu;
            if self.go(from + 1) {
                return true;
            }
            self.left[gpu] = before;
        }
        false
    }
}

/// GPUs of one kind that are shared in software, each with what is left of it, kept so that one look-up finds the place
/// for a workload: for each amount of time left, the GPUs in the order of the memory that is left.
#[derive(Clone, Debug)]
pub struct Pool {
    whole: Amount,
    left: Vec<Amount>,
    /// By thousandths of time left: (memory left, GPU).
    rows: BTreeMap<u16, BTreeSet<(u64, u32)>>,
}

/// GPUs with the same time left that a look-up tries for one with the bandwidth.
const TRIES: usize = 4;

impl Pool {
    /// `count` empty GPUs of this size.
    pub fn new(whole: Amount, count: u32) -> Self {
        let mut rows = BTreeMap::new();
        rows.insert(whole.compute, (0..count).map(|gpu| (whole.memory, gpu)).collect());
        Self { whole, left: vec![whole; count as usize], rows }
    }

    /// What is left of a GPU.
    pub fn left(&self, gpu: u32) -> Option<&Amount> {
        self.left.get(gpu as usize)
    }

    /// The GPU on which `need` leaves least, in proportion; among those where its bandwidth is left if there are any.
    pub fn find(&self, need: &Amount) -> Option<u32> {
        let mut best: Option<(bool, u64, u32)> = None;
        for (compute, row) in self.rows.range(need.compute..) {
            // With so much time left no memory makes it better than this; and from row to row there is more.
            let least = Amount { memory: 0, compute: compute - need.compute, bandwidth: 0 };
            if best.is_some_and(|best| !best.0 && best.1 < leftover(&least, &self.whole)) {
                break;
            }
            for &(_, gpu) in row.range((need.memory, 0)..).take(TRIES) {
                let left = self.left.get(gpu as usize).copied().unwrap_or_default();
                let this = (left.bandwidth < need.bandwidth, leftover(&left.less(need), &self.whole), gpu);
                if best.is_none_or(|best| this < best) {
                    best = Some(this);
                }
            }
        }
        best.map(|(.., gpu)| gpu)
    }

    /// Puts a workload onto a GPU; false if it does not fit.
    pub fn take(&mut self, gpu: u32, need: &Amount) -> bool {
        let Some(left) = self.left.get(gpu as usize).filter(|left| left.holds(need)) else { return false };
        let bandwidth = left.bandwidth.min(need.bandwidth);
        self.change(gpu, left.less(&Amount { bandwidth, ..*need }));
        true
    }

    /// Sets what is left of a GPU, for example after a workload has gone.
    pub fn change(&mut self, gpu: u32, to: Amount) {
        let Some(left) = self.left.get_mut(gpu as usize) else { return };
        if let Some(row) = self.rows.get_mut(&left.compute) {
            row.remove(&(left.memory, gpu));
            if row.is_empty() {
                self.rows.remove(&left.compute);
            }
        }
        *left = to;
        self.rows.entry(to.compute).or_default().insert((to.memory, gpu));
    }
}

/// The fewest GPUs of size `whole` that hold all of `needs`, as lists of their indices; `None` if one of them fits on no
/// GPU. Exact for up to [`EXACT`] workloads; beyond that the best of several orders, improved until nothing gives way.
pub fn pack(needs: &[Amount], whole: &Amount) -> Option<Vec<Vec<usize>>> {
    if needs.iter().any(|need| !whole.holds(need)) {
        return None;
    }
    let bound = lower_bound(needs, whole);
    let mut best = greedy(needs, whole, bound);
    if best.len() > bound && needs.len() <= EXACT {
        best = exact(needs, whole);
    }
    Some(best)
}

/// How often a packing is improved.
const STEPS: usize = 60;

/// As many workloads are packed exactly.
pub const EXACT: usize = 13;

/// No packing needs fewer GPUs: each of those of which no two fit together needs one of its own, and so much of the rest
/// as does not fit beside them needs more.
pub fn lower_bound(needs: &[Amount], whole: &Amount) -> usize {
    let mut order: Vec<&Amount> = needs.iter().collect();
    order.sort_by_key(|need| core::cmp::Reverse(size(need, whole)));
    let (mut alone, mut rest): (Vec<&Amount>, Vec<&Amount>) = (Vec::new(), Vec::new());
    for need in order {
        let apart = alone.iter().all(|other| !whole.holds(&other.plus(need)));
        if apart { alone.push(need) } else { rest.push(need) }
    }
    // With any first part of them: fewer that need a GPU of their own leave more rest that is only added up.
    (0..=alone.len())
        .map(|count| bound_beside(&alone[..count], alone[count..].iter().chain(&rest), whole))
        .max()
        .unwrap_or(0)
}

/// The GPUs for those that need one each, and for what of the others does not fit beside them.
fn bound_beside<'a>(alone: &[&Amount], rest: impl Iterator<Item = &'a &'a Amount> + Clone, whole: &Amount) -> usize {
    let mut room = (0, 0);
    for one in alone {
        let left = whole.less(one);
        // What is left beside it is of use up to what of the others would fit there one by one.
        let fits = rest.clone().filter(|need| left.holds(need));
        let sum = fits.fold((0, 0), |(m, c), need| (m + need.memory, c + u64::from(need.compute)));
        room = (room.0 + left.memory.min(sum.0), room.1 + u64::from(left.compute).min(sum.1));
    }
    let sum = rest.fold((0, 0), |(m, c), need| (m + need.memory, c + u64::from(need.compute)));
    let memory = sum.0.saturating_sub(room.0).div_ceil(whole.memory.max(1));
    let compute = sum.1.saturating_sub(room.1).div_ceil(u64::from(whole.compute.max(1)));
    alone.len() + memory.max(compute) as usize
}

/// The larger part of a GPU that a workload needs, in millionths.
fn size(need: &Amount, whole: &Amount) -> u64 {
    let memory = need.memory * 1_000_000 / whole.memory.max(1);
    memory.max(u64::from(need.compute) * 1_000_000 / u64::from(whole.compute.max(1)))
}

/// GPUs being filled.
#[derive(Clone, Debug, Default)]
struct Bins {
    left: Vec<Amount>,
    held: Vec<Vec<usize>>,
}

impl Bins {
    /// The GPU on which it leaves least; one that still has the bandwidth is preferred.
    fn best(&self, need: &Amount, whole: &Amount) -> Option<usize> {
        let fits = (0..self.left.len()).filter(|at| self.left[*at].holds(need));
        fits.min_by_key(|at| {
            let left = &self.left[*at];
            (left.bandwidth < need.bandwidth, leftover(&left.less(need), whole))
        })
    }

    fn put(&mut self, at: usize, item: usize, need: &Amount) {
        self.left[at] = self.left[at].less(need);
        self.held[at].push(item);
    }

    fn open(&mut self, whole: &Amount) -> usize {
        self.left.push(*whole);
        self.held.push(Vec::new());
        self.left.len() - 1
    }

    /// Takes an item out; what bandwidth is left is counted anew.
    fn pull(&mut self, at: usize, place: usize, needs: &[Amount], whole: &Amount) -> usize {
        let item = self.held[at].swap_remove(place);
        self.left[at] = self.held[at].iter().fold(*whole, |left, item| left.less(&needs[*item]));
        item
    }
}

/// The best of several orders, each improved.
fn greedy(needs: &[Amount], whole: &Amount, bound: usize) -> Vec<Vec<usize>> {
    let sum = |need: &Amount| {
        need.memory * 1_000_000 / whole.memory.max(1)
            + u64::from(need.compute) * 1_000_000 / u64::from(whole.compute.max(1))
    };
    let keys: [&dyn Fn(&Amount) -> u64; 4] =
        [&|need| size(need, whole), &sum, &|need| need.memory, &|need| u64::from(need.compute)];
    let mut best: Option<Bins> = None;
    for key in keys {
        let mut order: Vec<usize> = (0..needs.len()).collect();
        order.sort_by_key(|item| (core::cmp::Reverse(key(&needs[*item])), *item));
        for fill in [by_item, by_gpu] {
            let mut bins = fill(needs, whole, &order);
            for _ in 0..STEPS {
                if bins.held.len() <= bound || !empty_one(&mut bins, needs, whole) {
                    break;
                }
            }
            if best.as_ref().is_none_or(|best| bins.held.len() < best.held.len()) {
                best = Some(bins);
            }
            if best.as_ref().is_some_and(|best| best.held.len() <= bound) {
                return best.map(|best| best.held).unwrap_or_default();
            }
        }
    }
    best.map(|best| best.held).unwrap_or_default()
}

/// Each workload in turn onto the GPU where it leaves least.
fn by_item(needs: &[Amount], whole: &Amount, order: &[usize]) -> Bins {
    let mut bins = Bins::default();
    for item in order {
        let at = bins.best(&needs[*item], whole).unwrap_or_else(|| bins.open(whole));
        bins.put(at, *item, &needs[*item]);
    }
    bins
}

/// Each GPU in turn gets the first that is left, and beside it those of the others that fill it best.
fn by_gpu(needs: &[Amount], whole: &Amount, order: &[usize]) -> Bins {
    let mut bins = Bins::default();
    let mut rest: Vec<usize> = order.to_vec();
    while !rest.is_empty() {
        let at = bins.open(whole);
        let first = rest.remove(0);
        bins.put(at, first, &needs[first]);
        // What there is more of is filled rather.
        let sum =
            rest.iter().fold((0, 0), |(m, c), item| (m + needs[*item].memory, c + u64::from(needs[*item].compute)));
        let weights = (1 + sum.0 * 1000 / whole.memory.max(1), 1 + sum.1 * 1000 / u64::from(whole.compute.max(1)));
        let mut fill = Fill { needs, whole, weights, rest: &rest, tries: TRIES_A_GPU, best: (0, Vec::new()) };
        fill.search(0, bins.left[at], 0, &mut Vec::new());
        let (_, chosen) = fill.best;
        for place in chosen.into_iter().rev() {
            let item = rest.remove(place);
            bins.put(at, item, &needs[item]);
        }
    }
    bins
}

/// Sets that are tried for each GPU.
const TRIES_A_GPU: u32 = 1500;

/// The search for what fills a GPU best.
struct Fill<'a> {
    needs: &'a [Amount],
    whole: &'a Amount,
    weights: (u64, u64),
    rest: &'a [usize],
    tries: u32,
    best: (u64, Vec<usize>),
}

impl Fill<'_> {
    /// Tries to add each of `rest[from..]` to the `chosen`, which fill `value` and leave `left`.
    fn search(&mut self, from: usize, left: Amount, value: u64, chosen: &mut Vec<usize>) {
        if value > self.best.0 {
            self.best = (value, chosen.clone());
        }
        let mut last = None;
        for place in from..self.rest.len() {
            let need = self.needs[self.rest[place]];
            if !left.holds(&need) || last == Some(need) {
                continue;
            }
            if self.tries == 0 {
                return;
            }
            self.tries -= 1;
            last = Some(need);
            let memory = need.memory * 1000 / self.whole.memory.max(1) * self.weights.0;
            let compute = u64::from(need.compute) * 1000 / u64::from(self.whole.compute.max(1)) * self.weights.1;
            chosen.push(place);
            self.search(place + 1, left.less(&need), value + memory + compute, chosen);
            chosen.pop();
        }
    }
}

/// Gives one GPU's workloads to the others, if need be in exchange for smaller ones; what is homeless in the end goes
/// onto a GPU of its own, which is then emptier than the one that was given up. Tries the emptiest ones first. False, and
/// nothing changed, if none gives way.
fn empty_one(bins: &mut Bins, needs: &[Amount], whole: &Amount) -> bool {
    const CANDIDATES: usize = 12;
    let sizes = |items: &[usize]| items.iter().map(|item| size(&needs[*item], whole)).sum::<u64>();
    let mut order: Vec<usize> = (0..bins.held.len()).collect();
    order.sort_by_key(|at| sizes(&bins.held[*at]));
    for victim in order.into_iter().take(CANDIDATES) {
        let mut trial = bins.clone();
        trial.left.swap_remove(victim);
        let mut homeless = trial.held.swap_remove(victim);
        let before = sizes(&homeless);
        let mut stuck = Vec::new();
        homeless.sort_by_key(|item| size(&needs[*item], whole));
        while let Some(item) = homeless.pop() {
            if let Some(at) = trial.best(&needs[item], whole) {
                trial.put(at, item, &needs[item]);
            } else if let Some((at, place)) = exchange(&trial, item, needs, whole) {
                // What comes out is smaller, so this ends.
                let out = trial.pull(at, place, needs, whole);
                trial.put(at, item, &needs[item]);
                homeless.push(out);
            } else {
                stuck.push(item);
            }
        }
        let rest = stuck.iter().fold(Amount::default(), |sum, item| sum.plus(&needs[*item]));
        if stuck.is_empty() || sizes(&stuck) < before && whole.holds(&rest) {
            if !stuck.is_empty() {
                let at = trial.open(whole);
                for item in stuck {
                    trial.put(at, item, &needs[item]);
                }
            }
            *bins = trial;
            return true;
        }
    }
    false
}

/// A smaller workload in whose place `item` fits.
fn exchange(bins: &Bins, item: usize, needs: &[Amount], whole: &Amount) -> Option<(usize, usize)> {
    let need = &needs[item];
    let mut best: Option<(u64, usize, usize)> = None;
    for (at, held) in bins.held.iter().enumerate() {
        for (place, other) in held.iter().enumerate() {
            let smaller = size(&needs[*other], whole);
            let room = bins.left[at].plus(&needs[*other]);
            if smaller < size(need, whole) && room.holds(need) {
                let key = smaller;
                if best.is_none_or(|(least, ..)| key < least) {
                    best = Some((key, at, place));
                }
            }
        }
    }
    best.map(|(_, at, place)| (at, place))
}

/// For each set of workloads the fewest GPUs, from those of its subsets that fit on one.
fn exact(needs: &[Amount], whole: &Amount) -> Vec<Vec<usize>> {
    let count = needs.len().min(EXACT);
    let sets = 1usize << count;
    let mut sum = vec![Amount::default(); sets];
    for set in 1..sets {
        let last = set & (set - 1);
        sum[set] = sum[last].plus(&needs[set.trailing_zeros() as usize]);
    }
    let fits: Vec<bool> = sum.iter().map(|sum| whole.holds(sum)).collect();
    let mut fewest = vec![u8::MAX; sets];
    let mut first = vec![0usize; sets];
    fewest[0] = 0;
    for set in 1..sets {
        // The GPU that has the first of them has some subset of the others besides.
        let lowest = set & set.wrapping_neg();
        let others = set ^ lowest;
        let mut part = others;
        loop {
            let one = part | lowest;
            let rest = fewest[set ^ one].saturating_add(1);
            if fits[one] && rest < fewest[set] {
                (fewest[set], first[set]) = (rest, one);
            }
            if part == 0 {
                break;
            }
            part = (part - 1) & others;
        }
    }
    let (mut set, mut bins) = (sets - 1, Vec::new());
    while set != 0 && first[set] != 0 {
        bins.push((0..count).filter(|item| first[set] >> item & 1 == 1).collect());
        set ^= first[set];
    }
    bins
}

/// GPUs of one model that are cut by MIG, each with the slices that are taken.
#[derive(Clone, Debug)]
pub struct MigPool {
    geometry: Geometry,
    taken: Vec<Mask>,
    rows: BTreeMap<Mask, BTreeSet<u32>>,
    /// How often each profile is asked for, in proportion.
    weights: Vec<u32>,
}

impl MigPool {
    /// GPUs with these slices taken; `weights` say how often each profile is asked for, in proportion.
    pub fn new(geometry: Geometry, taken: Vec<Mask>, weights: Vec<u32>) -> Self {
        let mut rows: BTreeMap<Mask, BTreeSet<u32>> = BTreeMap::new();
        for (gpu, mask) in (0..).zip(&taken) {
            rows.entry(*mask).or_default().insert(gpu);
        }
        Self { geometry, taken, rows, weights }
    }

    /// Where an instance of `profile` costs least of what the GPUs are still worth; among equals on the fullest GPU.
    pub fn find(&self, profile: usize) -> Option<(u32, Instance)> {
        let mut best: Option<((u64, u32, Mask), u32, Instance)> = None;
        for (taken, gpus) in &self.rows {
            let Some(gpu) = gpus.first() else { continue };
            let now = self.geometry.worth(*taken, &self.weights);
            for instance in self.geometry.fits(*taken, profile) {
                let after = taken | self.geometry.mask(instance);
                let key = (now - self.geometry.worth(after, &self.weights), 16 - taken.count_ones(), after);
                if best.is_none_or(|(least, ..)| key < least) {
                    best = Some((key, *gpu, instance));
                }
            }
        }
        best.map(|(_, gpu, instance)| (gpu, instance))
    }

    /// Takes or gives back the slices of an instance.
    pub fn flip(&mut self, gpu: u32, instance: Instance) {
        let Some(taken) = self.taken.get_mut(gpu as usize) else { return };
        if let Some(row) = self.rows.get_mut(taken) {
            row.remove(&gpu);
            if row.is_empty() {
                self.rows.remove(taken);
            }
        }
        *taken ^= self.geometry.mask(instance);
        self.rows.entry(*taken).or_default().insert(gpu);
    }

    /// The slices of a GPU that are taken.
    pub fn taken(&self, gpu: u32) -> Option<Mask> {
        self.taken.get(gpu as usize).copied()
    }
}
