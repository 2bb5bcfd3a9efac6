//! Where workloads go, one after the other: the highest class first, of one class the hardest to place first. Each goes where
//! it scores best; several orders are tried, and what little a GPU holds is moved onto others that are in use anyway.
use crate::fit;
use crate::fleet::{Fleet, Kind};
use crate::need::{Need, Obstacle, Rule, mib, need};
use crate::spec::{File, Workload};
use crate::tier::Tier;
use crate::told::Plan;
use cleave_api::{Engine, Priority};
use cleave_inventory::Table;
use cleave_policy::mig::{Instance, MEDIA, Mask};
use cleave_policy::pack::{Amount, WHOLE, leftover, pack};
use cleave_policy::topology::{Link, groups};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, HashMap};

/// Thousandths of a GPU's time and bandwidth that stay free beside a promised latency, where there is another place.
const HEADROOM: u32 = 100;
/// Of a GPU that is in use for no more than this many workloads it is tried whether others could hold them.
const FEW: usize = 4;
/// With more workloads than this one order is tried, and nothing is moved.
const MANY: usize = 5000;

/// What else is on a GPU: not to be moved, and not to be touched.
#[derive(Clone, Debug, Default)]
pub struct Busy {
    /// The node.
    pub node: String,
    /// The GPU's number there.
    pub gpu: u32,
    /// MiB that are promised.
    pub memory_mib: u64,
    /// Thousandths of its time that are promised.
    pub compute: u16,
    /// MIG slices that are taken.
    pub mask: Mask,
}

/// Where a workload was before: node and GPUs, by the replica's name.
pub type Places = HashMap<String, (String, Vec<u32>)>;

/// What a GPU is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Nothing,
    Software,
    Mig,
}

#[derive(Clone, Debug)]
pub(crate) struct Card {
    pub(crate) use_: Use,
    pub(crate) memory: u64,
    pub(crate) compute: u32,
    pub(crate) bandwidth: u32,
    pub(crate) mask: Mask,
    pub(crate) held: Vec<usize>,
}

/// A replica.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) workload: usize,
    pub(crate) name: String,
    pub(crate) before: Option<Before>,
}

/// Where a replica was.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    /// `None` if its node is gone.
    node: Option<usize>,
    /// Those of its GPUs that are there still.
    slots: Vec<usize>,
    /// All of them are.
    whole: bool,
}

/// Where a replica would go: of one node, these GPUs.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    pub(crate) node: usize,
    pub(crate) slots: Vec<usize>,
    pub(crate) engine: Engine,
    pub(crate) instance: Option<Instance>,
    pub(crate) score: Score,
}

impl Spot {
    /// The better first; of equals the one that comes first in the fleet.
    pub(crate) fn order(a: &Self, b: &Self) -> Ordering {
        (&a.score, a.node, &a.slots).cmp(&(&b.score, b.node, &b.slots))
    }
}

/// The less, the better.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    pub(crate) moves: bool,
    pub(crate) beside: bool,
    pub(crate) conflict: u32,
    /// What it is on trial for has another model of GPU.
    pub(crate) unlike: bool,
    /// It would be given more than it needs, because nothing divides that.
    pub(crate) whole: bool,
    /// Other GPUs are kept for its tier.
    pub(crate) common: bool,
    pub(crate) links: Reverse<Vec<Link>>,
    pub(crate) opens: u32,
    pub(crate) waste: u64,
}

#[derive(Clone)]
pub(crate) struct Planner<'a> {
    pub(crate) file: &'a File,
    pub(crate) fleet: &'a Fleet,
    pub(crate) tiers: &'a BTreeMap<String, Tier>,
    pub(crate) items: &'a [Item],
    /// By workload and kind.
    pub(crate) needs: &'a [Vec<Result<Need, Vec<Obstacle>>>],
    /// By workload: the one that it is on trial for.
    pub(crate) originals: &'a [Option<usize>],
    /// By kind: how often each profile is asked for.
    pub(crate) weights: &'a [Vec<u32>],
    /// No workload needs less.
    pub(crate) least: Amount,
    pub(crate) cards: Vec<Vec<Card>>,
    /// Of each build, the nodes with room that something is on, and one that nothing is on.
    pub(crate) open: Vec<Vec<usize>>,
    pub(crate) spots: Vec<Option<Spot>>,
    pub(crate) watts: f64,
    /// Obstacles are wanted in words.
    pub(crate) tell: bool,
}

impl<'a> Planner<'a> {
    pub(crate) fn kind(&self, node: usize, slot: usize) -> (usize, &'a Kind) {
        let at = self.fleet.shapes[self.fleet.nodes[node].1].cards[slot].1;
        (at, &self.fleet.kinds[at])
    }

    pub(crate) fn workload(&self, item: usize) -> &'a Workload {
        &self.file.workloads[self.items[item].workload]
    }

    /// The nodes that are worth a look for a replica: those in use that have room, and of each build one that is not in use.
    pub(crate) fn nodes(&self, item: usize, workload: &Workload) -> Vec<usize> {
        let mut nodes: Vec<usize> = self.open.iter().flatten().copied().collect();
        nodes.extend(self.items[item].before.as_ref().and_then(|before| before.node));
        if let Some(wanted) = &workload.node {
            nodes.extend(self.fleet.nodes.iter().position(|(name, _)| name == wanted));
        }
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// One GPU for a replica: how it would be used, or all that is in the way.
    fn look(
        &self,
        item: usize,
        workload: &Workload,
        need: &Need,
        node: usize,
        slot: usize,
    ) -> Result<Spot, Vec<Obstacle>> {
        let (card, (kind_at, kind)) = (&self.cards[node][slot], self.kind(node, slot));
        let mut all = Vec::new();
        if let Some(wanted) =
            workload.node.as_ref().filter(|wanted| **wanted != kind.nodes && **wanted != self.fleet.nodes[node].0)
        {
            all.push(self.because(Rule::Node, 0, || {
                format!("it is on {}, and {wanted} is asked for", self.fleet.nodes[node].0)
            }));
        }
        if self.file.site.watts.is_some() && card.use_ == Use::Nothing && kind.watts.is_none() {
            let why = || format!("what {} draws is not known, and the site's power is limited", kind.model);
            all.push(self.because(Rule::Watts, 0, why));
        }
        let watts = if card.use_ == Use::Nothing { kind.watts.unwrap_or(0.0) } else { 0.0 };
        if let Some(limit) = self.file.site.watts.filter(|limit| self.watts + watts > *limit) {
            let why = || {
                format!(
                    "with another {} at {watts} W the site would draw {} of its {limit} W",
                    kind.model,
                    self.watts + watts
                )
            };
            all.push(self.because(Rule::Watts, 0, why));
        }
        let mut spots = Vec::new();
        if let Some(engine) = need.software {
            match card.use_ {
                Use::Mig => all.push(self.because(Rule::Engine, 0, || "it is cut by MIG".into())),
                _ => match self.room(need, card, kind) {
                    Ok(waste) => spots.push((engine, None, waste)),
                    // MIG has the word.
                    Err(_) if !need.profiles.is_empty() && card.use_ == Use::Nothing && need.mig_opens => {}
                    Err(mut why) => all.append(&mut why),
                },
            }
        }
        if !need.profiles.is_empty() {
            match card.use_ {
                Use::Software if need.software.is_none() => {
                    let why = || "it is shared in software, and MIG divides whole GPUs".into();
                    all.push(self.because(Rule::Engine, 0, why));
                }
                Use::Nothing if !need.mig_opens => {}
                Use::Software => {}
                _ => match self.instance(need, card, kind_at, kind) {
                    Some((instance, waste)) => spots.push((Engine::Mig, Some(instance), waste)),
                    None => {
                        let name = |at: &usize| Some(kind.geometry.as_ref()?.profiles.get(*at)?.name.as_str());
                        let names = || need.profiles.iter().filter_map(name).collect::<Vec<_>>().join(" or ");
                        all.push(self.because(Rule::Slice, 0, || format!("no {} fits beside what is there", names())));
                    }
                },
            }
        }
        if spots.len() > 1 && need.mig_first {
            spots.reverse();
        }
        let hard = all.iter().any(|one| matches!(one.rule, Rule::Node | Rule::Watts));
        let Some((engine, instance, waste)) = spots.into_iter().next().filter(|_| !hard) else {
            if all.is_empty() {
                all.push(self.because(Rule::Engine, 0, || "MIG is off there, and nobody asked for it".into()));
            }
            return Err(all);
        };
        let over = |used: u32, more: u16, limit: u32| (used + u32::from(more)).saturating_sub(limit);
        let whole = u32::from(WHOLE);
        // MIG divides bandwidth too.
        let conflict = if engine == Engine::Mig {
            0
        } else if workload.slo.is_some() || card.held.iter().any(|other| self.workload(*other).slo.is_some()) {
            let others = card.use_ != Use::Nothing;
            let limit = if others { whole - HEADROOM } else { whole };
            over(card.bandwidth, need.amount.bandwidth, limit) + over(card.compute, need.amount.compute, limit)
        } else {
            over(card.bandwidth, need.amount.bandwidth, whole)
        };
        let before = self.items[item].before.as_ref();
        let moves = before.is_some_and(|before| before.node != Some(node) || !before.slots.contains(&slot));
        let mine = self.items[item].workload;
        let beside = card.held.iter().any(|other| {
            let other = self.items[*other].workload;
            self.originals[mine] == Some(other) || self.originals[other] == Some(mine)
        });
        let opens = u32::from(card.use_ == Use::Nothing);
        let kept = |kind: &Kind| kind.tier.is_some() && kind.tier == workload.tier;
        let common = !kept(kind) && self.fleet.kinds.iter().any(kept);
        // An original has its place before those that follow it.
        let original = self.originals[mine].and_then(|original| {
            let mut its = self.items.iter().zip(&self.spots).filter(|(item, _)| item.workload == original);
            its.find_map(|(_, spot)| spot.as_ref())
        });
        let unlike = original.is_some_and(|spot| self.kind(spot.node, spot.slots[0]).1.model != kind.model);
        let score = Score {
            moves,
            beside,
            conflict,
            unlike,
            whole: engine == Engine::Whole,
            common,
            links: Reverse(Vec::new()),
            opens,
            waste,
        };
        Ok(Spot { node, slots: vec![slot], engine, instance, score })
    }

    /// Whether a GPU that is shared in software has room, and how much that would waste.
    fn room(&self, need: &Need, card: &Card, kind: &Kind) -> Result<u64, Vec<Obstacle>> {
        let left = Amount {
            memory: kind.memory_mib.saturating_sub(card.memory),
            compute: u32::from(WHOLE).saturating_sub(card.compute) as u16,
            bandwidth: u32::from(WHOLE).saturating_sub(card.bandwidth) as u16,
        };
        let mut all = Vec::new();
        if need.software == Some(Engine::Whole) && card.use_ != Use::Nothing {
            return Err(vec![
                self.because(Rule::Engine, 0, || "it is given whole, and another workload has it".into()),
            ]);
        }
        if need.amount.memory > left.memory {
            let why = || format!("{} are needed, and {} are left", mib(need.amount.memory), mib(left.memory));
            all.push(self.because(Rule::Memory, left.memory, why));
        }
        if need.amount.compute > left.compute {
            let percent = |of: u16| f64::from(of) / 10.0;
            let why = || {
                format!(
                    "{} % of its time are needed, and {} % are left",
                    percent(need.amount.compute),
                    percent(left.compute)
                )
            };
            all.push(self.because(Rule::Compute, u64::from(left.compute), why));
        }
        if all.is_empty() { Ok(leftover(&left.less(&need.used), &kind.whole())) } else { Err(all) }
    }

    /// The instance that costs least of what the GPU is still good for.
    fn instance(&self, need: &Need, card: &Card, kind_at: usize, kind: &Kind) -> Option<(Instance, u64)> {
        let geometry = kind.geometry.as_ref()?;
        let weights = &self.weights[kind_at];
        let (now, all) = (geometry.worth(card.mask, weights), geometry.worth(0, weights).max(1));
        for profile in &need.profiles {
            let cost =
                |instance: &Instance| now.saturating_sub(geometry.worth(card.mask | geometry.mask(*instance), weights));
            if let Some(instance) = geometry.fits(card.mask, *profile).min_by_key(cost) {
                let memory = geometry.profiles.get(*profile)?.memory_mib;
                let stranded = memory.saturating_sub(need.amount.memory) * 1_000_000 / kind.memory_mib.max(1);
                return Some((instance, (cost(&instance) * 1_000_000 / all + stranded) * 1000));
            }
        }
        None
    }

    fn because(&self, rule: Rule, most: u64, why: impl FnOnce() -> String) -> Obstacle {
        Obstacle { rule, why: if self.tell { why() } else { String::new() }, most }
    }

    /// All places for a replica among the nodes that are worth a look, the best first, and what is in the way of the others,
    /// with the number of GPUs.
    pub(crate) fn spots(&self, item: usize) -> (Vec<Spot>, Vec<(Vec<Obstacle>, usize)>) {
        let (mut spots, refused) = self.unsorted(item);
        spots.sort_by(Spot::order);
        (spots, refused)
    }

    /// The same in no order. Of who can stay where it was, nothing else is looked at unless that is to be told: it stays.
    fn unsorted(&self, item: usize) -> (Vec<Spot>, Vec<(Vec<Obstacle>, usize)>) {
        let workload = self.workload(item);
        let needs = &self.needs[self.items[item].workload];
        let before = self.items[item].before.as_ref().and_then(|before| before.node);
        let there = before.filter(|_| !self.tell).map(|node| self.spots_on(item, workload, needs, [node]));
        let stays = there.filter(|(spots, _)| spots.iter().any(|spot| !spot.score.moves));
        stays.unwrap_or_else(|| self.spots_on(item, workload, needs, self.nodes(item, workload)))
    }

    /// The same on these nodes, in no order, if the workload and what it needs of each kind were these.
    pub(crate) fn spots_on(
        &self,
        item: usize,
        workload: &Workload,
        needs: &[Result<Need, Vec<Obstacle>>],
        nodes: impl IntoIterator<Item = usize>,
    ) -> (Vec<Spot>, Vec<(Vec<Obstacle>, usize)>) {
        let (mut spots, mut refused) = (Vec::new(), Vec::new());
        let wanted = workload.gpus as usize;
        for node in nodes {
            let shape = &self.fleet.shapes[self.fleet.nodes[node].1];
            let mut here = Vec::new();
            for (slot, (_, kind)) in shape.cards.iter().enumerate() {
                // What rules out a kind is said of all of it together.
                let Ok(need) = &needs[*kind] else { continue };
                match self.look(item, workload, need, node, slot) {
                    Ok(spot) => here.push(spot),
                    Err(why) => refused.push((why, 1)),
                }
            }
            if wanted == 1 {
                spots.append(&mut here);
                continue;
            }
            let count = here.len();
            let slots: Vec<usize> = here.iter().map(|spot| spot.slots[0]).collect();
            let found = groups(&shape.links, wanted, &slots);
            if found.is_empty() && count > 0 {
                let why = || {
                    format!(
                        "{wanted} GPUs of one node are needed, and {count} of {} have room",
                        self.fleet.nodes[node].0
                    )
                };
                refused.push((vec![self.because(Rule::Gpus, count as u64, why)], count));
            }
            for group in found {
                let members: Vec<&Spot> = here.iter().filter(|spot| group.members.contains(&spot.slots[0])).collect();
                let kinds: Vec<usize> = group.members.iter().map(|slot| shape.cards[*slot].1).collect();
                let Some(first) = members.first().filter(|_| kinds.windows(2).all(|two| two[0] == two[1])) else {
                    continue;
                };
                let score = Score {
                    moves: members.iter().any(|spot| spot.score.moves),
                    beside: members.iter().any(|spot| spot.score.beside),
                    conflict: members.iter().map(|spot| spot.score.conflict).sum(),
                    unlike: first.score.unlike,
                    whole: first.score.whole,
                    common: first.score.common,
                    links: Reverse(group.links),
                    opens: members.iter().map(|spot| spot.score.opens).sum(),
                    waste: members.iter().map(|spot| spot.score.waste).sum(),
                };
                let more: f64 = members
                    .iter()
                    .filter(|spot| spot.score.opens > 0)
                    .map(|spot| self.kind(node, spot.slots[0]).1.watts.unwrap_or(0.0))
                    .sum();
                if let Some(limit) = self.file.site.watts.filter(|limit| self.watts + more > *limit) {
                    let (opens, sum) = (score.opens, self.watts + more);
                    let why = || format!("with {opens} more GPUs the site would draw {sum} of its {limit} W");
                    refused.push((vec![self.because(Rule::Watts, 0, why)], wanted));
                    continue;
                }
                spots.push(Spot { slots: group.members, score, ..(*first).clone() });
            }
        }
        (spots, refused)
    }

    /// Puts a replica there.
    pub(crate) fn put(&mut self, item: usize, spot: Spot) {
        let node = spot.node;
        for slot in &spot.slots {
            let (kind_at, kind) = self.kind(node, *slot);
            let Ok(need) = &self.needs[self.items[item].workload][kind_at] else { continue };
            let card = &mut self.cards[node][*slot];
            if card.use_ == Use::Nothing {
                self.watts += kind.watts.unwrap_or(0.0);
            }
            card.held.push(item);
            match (spot.instance, &kind.geometry) {
                (Some(instance), Some(geometry)) => {
                    card.use_ = Use::Mig;
                    card.mask |= geometry.mask(instance);
                    card.memory += geometry.profiles.get(instance.profile).map_or(0, |profile| profile.memory_mib);
                }
                _ => {
                    card.use_ = Use::Software;
                    card.memory += need.amount.memory;
                }
            }
            card.compute += u32::from(need.amount.compute);
            card.bandwidth += u32::from(need.amount.bandwidth);
        }
        self.spots[item] = Some(spot);
        self.keep_open(node);
    }

    /// Of a node that something is on now: the next of its build takes its place as the one that is not in use; and a node
    /// that nothing fits on any more is not looked at again.
    fn keep_open(&mut self, node: usize) {
        let shape = self.fleet.nodes[node].1;
        let first = self.fleet.nodes.partition_point(|(_, other)| *other < shape);
        let unused = |at: &usize| self.cards[*at].iter().all(|card| card.use_ == Use::Nothing);
        let end = self.fleet.nodes.partition_point(|(_, other)| *other <= shape);
        let open = &mut self.open[shape];
        if !open.iter().any(unused) {
            let last = open.last().copied().map_or(first, |last| last.max(node) + 1);
            open.extend((last..end).chain(first..last).find(unused));
        }
        let full = self.cards[node].iter().zip(&self.fleet.shapes[shape].cards).all(|(card, (_, kind))| {
            let kind = &self.fleet.kinds[*kind];
            match card.use_ {
                Use::Nothing => false,
                Use::Software => {
                    card.memory + self.least.memory > kind.memory_mib
                        || card.compute + u32::from(self.least.compute) > u32::from(WHOLE)
                }
                Use::Mig => kind.geometry.as_ref().is_none_or(|geometry| {
                    (0..geometry.profiles.len()).all(|profile| geometry.fits(card.mask, profile).next().is_none())
                }),
            }
        });
        let open = &mut self.open[shape];
        match open.iter().position(|at| *at == node) {
            Some(at) if full => drop(open.remove(at)),
            None if !full => open.push(node),
            _ => {}
        }
    }

    /// Takes a replica away again.
    fn take(&mut self, item: usize) -> Option<Spot> {
        let spot = self.spots[item].take()?;
        for slot in &spot.slots {
            let (kind_at, kind) = self.kind(spot.node, *slot);
            let Ok(need) = &self.needs[self.items[item].workload][kind_at] else { continue };
            let card = &mut self.cards[spot.node][*slot];
            card.held.retain(|other| *other != item);
            match (spot.instance, &kind.geometry) {
                (Some(instance), Some(geometry)) => {
                    card.mask &= !geometry.mask(instance);
                    card.memory -= geometry.profiles.get(instance.profile).map_or(0, |profile| profile.memory_mib);
                }
                _ => card.memory -= need.amount.memory,
            }
            card.compute -= u32::from(need.amount.compute);
            card.bandwidth -= u32::from(need.amount.bandwidth);
            // What else there was of others counts as memory, time or slices.
            if card.held.is_empty() && (card.memory, card.compute, card.mask & !MEDIA) == (0, 0, 0) {
                card.use_ = Use::Nothing;
                self.watts -= kind.watts.unwrap_or(0.0);
            }
        }
        self.keep_open(spot.node);
        Some(spot)
    }

    /// Takes in what else is on the GPUs, and opens the first nodes.
    fn occupy(&mut self, busy: &[Busy]) {
        for one in busy {
            let Some(node) = self.fleet.nodes.iter().position(|(name, _)| *name == one.node) else { continue };
            let shape = &self.fleet.shapes[self.fleet.nodes[node].1];
            let Some(slot) = shape.cards.iter().position(|(number, _)| *number == one.gpu) else { continue };
            let kind = self.kind(node, slot).1;
            let card = &mut self.cards[node][slot];
            if card.use_ == Use::Nothing {
                self.watts += kind.watts.unwrap_or(0.0);
            }
            card.use_ = if one.mask == 0 && kind.mig != Some(true) { Use::Software } else { Use::Mig };
            card.memory += one.memory_mib;
            card.compute += u32::from(one.compute);
            card.mask |= one.mask;
            self.keep_open(node);
        }
        for (shape, open) in self.open.iter_mut().enumerate().filter(|(_, open)| open.is_empty()) {
            open.extend(self.fleet.nodes.iter().position(|(_, other)| *other == shape));
        }
    }

    /// The best of all that is tried from here on, and the order of its replicas.
    fn best(&self) -> (Self, Vec<usize>) {
        let few = self.items.len() <= MANY;
        let tried = self.orders().take(if few { usize::MAX } else { 1 }).map(|order| {
            let mut this = self.clone();
            this.run(&order);
            if few {
                this.improve();
                let left: Vec<usize> = order.iter().copied().filter(|item| this.spots[*item].is_none()).collect();
                this.run(&left);
            }
            (this, order)
        });
        let packed = Some(self).filter(|_| few).and_then(Self::packed);
        let best = tried.chain(packed).min_by_key(|(this, _)| this.worth());
        best.unwrap_or_else(|| (self.clone(), Vec::new()))
    }

    /// Orders of the replicas: originals before those that follow them; then the highest class, who can stay (whose place is
    /// gone must not take another's), the largest group, the fewest places, the largest by one measure or another.
    fn orders(&self) -> impl Iterator<Item = Vec<usize>> {
        let measures: [fn((u64, u64)) -> u64; 4] = [
            |(memory, compute)| memory.max(compute),
            |(memory, compute)| memory + compute,
            |(memory, _)| memory,
            |(_, compute)| compute,
        ];
        measures.into_iter().map(|measure| {
            let mut order: Vec<usize> = (0..self.items.len()).collect();
            order.sort_by_cached_key(|at| {
                let (item, workload) = (&self.items[*at], self.workload(*at));
                (
                    workload.original().is_some(),
                    Reverse(self.priority(*at)),
                    !item.before.as_ref().is_some_and(|before| before.whole),
                    Reverse(workload.gpus),
                    self.needs[item.workload].iter().flatten().count(),
                    Reverse(measure(self.size(item))),
                    *at,
                )
            });
            order
        })
    }

    /// The most memory and time that a replica needs of a kind of GPU, in thousandths.
    fn size(&self, item: &Item) -> (u64, u64) {
        let all = self.needs[item.workload].iter().zip(&self.fleet.kinds);
        let parts = all.filter_map(|(need, kind)| {
            let need = need.as_ref().ok()?;
            Some((need.amount.memory * 1000 / kind.memory_mib.max(1), u64::from(need.amount.compute)))
        });
        parts.fold((0, 0), |most, part| (most.0.max(part.0), most.1.max(part.1)))
    }

    fn run(&mut self, order: &[usize]) {
        for item in order {
            if let Some(spot) = self.unsorted(*item).0.into_iter().min_by(Spot::order) {
                self.put(*item, spot);
            }
        }
    }

    /// Where all GPUs are of one kind and free, and each workload shares one in software: the fewest GPUs that hold them, and
    /// the replicas in the order of those. `None` if that is not so, or if something keeps one of them from where it would go.
    fn packed(&self) -> Option<(Self, Vec<usize>)> {
        let [kind] = self.fleet.kinds.as_slice() else { return None };
        let free = self.cards.iter().flatten().all(|card| card.use_ == Use::Nothing);
        if !free || self.items.iter().any(|item| item.before.is_some()) {
            return None;
        }
        let need = |item: &Item| {
            let alone = self.file.workloads[item.workload].gpus == 1;
            let need = self.needs[item.workload].first()?.as_ref().ok()?;
            (alone && need.software.is_some() && !need.mig_opens).then_some(need.amount)
        };
        let needs: Vec<Amount> = self.items.iter().map(need).collect::<Option<_>>()?;
        let whole = kind.whole();
        let bins = pack(&needs, &whole)?;
        let mut this = self.clone();
        let cards =
            self.cards.iter().enumerate().flat_map(|(node, cards)| (0..cards.len()).map(move |slot| (node, slot)));
        let mut order = Vec::with_capacity(self.items.len());
        for (count, (bin, (node, slot))) in bins.iter().zip(cards).enumerate() {
            for item in bin {
                let workload = this.workload(*item);
                let need = this.needs[this.items[*item].workload].first()?.as_ref().ok()?;
                let spot = this.look(*item, workload, need, node, slot).ok()?;
                this.put(*item, spot);
                order.push(*item);
            }
            if count + 1 == bins.len() {
                return Some((this, order));
            }
        }
        None
    }

    /// Moves what little a GPU holds onto others that are in use anyway, so that it is free; or makes room for who has none.
    fn improve(&mut self) {
        let mut used: Vec<(usize, usize)> = Vec::new();
        for (node, cards) in self.cards.iter().enumerate() {
            let few = |card: &Card| (1..=FEW).contains(&card.held.len());
            used.extend((0..cards.len()).filter(|slot| few(&cards[*slot])).map(|slot| (node, slot)));
        }
        used.sort_by_key(|(node, slot)| (self.cards[*node][*slot].held.len(), self.cards[*node][*slot].memory));
        for (node, slot) in used {
            let held = self.cards[node][slot].held.clone();
            let single = |item: &usize| self.workload(*item).gpus == 1 && self.items[*item].before.is_none();
            if held.is_empty() || !held.iter().all(single) {
                continue;
            }
            let worse = |spots: &[Spot]| {
                let sum = |of: fn(&Score) -> u32| spots.iter().map(|spot| of(&spot.score)).sum::<u32>();
                let wishes = sum(|one| u32::from(one.unlike) + u32::from(one.whole) + u32::from(one.common));
                (sum(|one| one.conflict), sum(|one| one.beside.into()), wishes)
            };
            let gone: Vec<Spot> = held.iter().filter_map(|item| self.take(*item)).collect();
            let mut found = Vec::new();
            for item in &held {
                let elsewhere = |spot: &Spot| (spot.node, spot.slots[0]) != (node, slot) && spot.score.opens == 0;
                let Some(spot) = self.spots(*item).0.into_iter().find(elsewhere) else { break };
                found.push(spot.clone());
                self.put(*item, spot);
            }
            if found.len() < held.len() || worse(&found) > worse(&gone) {
                held.iter().take(found.len()).for_each(|item| drop(self.take(*item)));
                held.iter().zip(gone).for_each(|(item, spot)| self.put(*item, spot));
            }
        }
    }

    /// What a plan is judged by: the replicas without a place, by class from the highest, what is wanted twice, GPUs in use.
    fn worth(&self) -> (Vec<usize>, u32, usize, u64) {
        let mut without = vec![0; 8];
        for (at, _) in self.spots.iter().enumerate().filter(|(_, spot)| spot.is_none()) {
            without[7 - usize::from(self.priority(at).class().min(7))] += 1;
        }
        let spots = || self.spots.iter().flatten();
        let used = self.cards.iter().flatten().filter(|card| card.use_ != Use::Nothing).count();
        (without, spots().map(|spot| spot.score.conflict).sum(), used, spots().map(|spot| spot.score.waste).sum())
    }

    fn priority(&self, item: usize) -> Priority {
        self.workload(item).priority.unwrap_or_default()
    }
}

/// Plans a checked file on a fleet. What is `busy` stays as it is; who has a place in `keep` keeps it where it still can.
/// With `explain` each placement lists what else there was.
pub fn plan(file: &File, fleet: &Fleet, busy: &[Busy], keep: &Places, explain: bool) -> Result<Plan, String> {
    check(file, fleet)?;
    let items = replicas(file, fleet, keep)?;
    let none = BTreeMap::new();
    let tiers = file.tiers.as_ref().unwrap_or(&none);
    let of_kinds = |workload| fleet.kinds.iter().map(|kind| need(workload, kind, tiers)).collect();
    let needs: Vec<Vec<_>> = file.workloads.iter().map(of_kinds).collect();
    let place = |name: &str| file.workloads.iter().position(|workload| workload.name == name);
    let originals: Vec<Option<usize>> = file.workloads.iter().map(|workload| place(workload.original()?)).collect();
    let weights: Vec<Vec<u32>> =
        fleet.kinds.iter().enumerate().map(|(at, kind)| weights(file, &needs, at, kind)).collect();
    let amounts = || needs.iter().flatten().flatten().map(|need| need.amount);
    let card = Card { use_: Use::Nothing, memory: 0, compute: 0, bandwidth: 0, mask: 0, held: Vec::new() };
    let cards = fleet.nodes.iter().map(|(_, shape)| vec![card.clone(); fleet.shapes[*shape].cards.len()]);
    let mut empty = Planner {
        file,
        fleet,
        tiers,
        items: &items,
        needs: &needs,
        originals: &originals,
        weights: &weights,
        least: Amount {
            memory: amounts().map(|amount| amount.memory).min().unwrap_or(0),
            compute: amounts().map(|amount| amount.compute).min().unwrap_or(0),
            bandwidth: 0,
        },
        cards: cards.collect(),
        open: vec![Vec::new(); fleet.shapes.len()],
        spots: vec![None; items.len()],
        watts: file.site.base_watts,
        tell: false,
    };
    empty.occupy(busy);
    let (best, order) = empty.best();
    Ok(best.told(&empty, &order, explain))
}

/// Whether all models and GPUs that are named are known.
fn check(file: &File, fleet: &Fleet) -> Result<(), String> {
    for workload in &file.workloads {
        let wrong = |why: String| Err(format!("workload {}: {why}", workload.name));
        if let Some(name) = workload.model.as_ref().filter(|_| workload.memory.is_none()) {
            let Some(model) = fit::named(name) else {
                let near = fit::near(name).join(", ");
                return wrong(format!("model: \"{name}\" is not in the table; near it are {near}; or give `memory`"));
            };
            if let Err(why) = model.split(u64::from(workload.gpus)) {
                return wrong(format!("gpus: {why}"));
            }
        }
        let listed = |name: &String| Table::get().named(name).is_some();
        let there = |name: &String| fleet.kinds.iter().any(|kind| kind.is(name));
        if let Some(name) = workload.gpu.as_ref().filter(|name| !listed(name) && !there(name)) {
            return wrong(format!("gpu: there is no \"{name}\" in the device table"));
        }
        if let Some(on) = workload.on.as_ref().filter(|on| !listed(on)) {
            return wrong(format!("on: there is no \"{on}\" in the device table"));
        }
    }
    Ok(())
}

/// All replicas, each with the place that it had.
fn replicas(file: &File, fleet: &Fleet, keep: &Places) -> Result<Vec<Item>, String> {
    // Of several nodes with a name the first counts.
    let nodes: HashMap<&str, usize> =
        fleet.nodes.iter().enumerate().rev().map(|(at, (name, _))| (name.as_str(), at)).collect();
    let before = |name: &String| {
        let (node, gpus) = keep.get(name)?;
        let node = nodes.get(node.as_str()).copied();
        let cards = node.map_or(&[][..], |node| &fleet.shapes[fleet.nodes[node].1].cards);
        let slot = |gpu: &u32| cards.iter().position(|(number, _)| number == gpu);
        let slots: Vec<usize> = gpus.iter().filter_map(slot).collect();
        Some(Before { node, whole: node.is_some() && slots.len() == gpus.len(), slots })
    };
    let named = |(workload, one): (usize, &Workload)| {
        one.names().into_iter().map(move |name| Item { workload, before: before(&name), name })
    };
    let items: Vec<Item> = file.workloads.iter().enumerate().flat_map(named).collect();
    let mut names: Vec<&str> = items.iter().map(|item| item.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|two| two[0] == two[1]) {
        None => Ok(items),
        Some(two) => Err(format!("two replicas would have the name {}; rename one of the workloads", two[0])),
    }
}

/// How often each profile of a kind is the smallest that a replica can have there; each counts a little in any case.
fn weights(file: &File, needs: &[Vec<Result<Need, Vec<Obstacle>>>], at: usize, kind: &Kind) -> Vec<u32> {
    let mut weights = vec![1; kind.geometry.as_ref().map_or(0, |geometry| geometry.profiles.len())];
    for (workload, needs) in file.workloads.iter().zip(needs) {
        let first = needs[at].as_ref().ok().and_then(|need| need.profiles.first());
        if let Some(weight) = first.and_then(|first| weights.get_mut(*first)) {
            *weight += workload.count.min(1000);
        }
    }
    weights
}
