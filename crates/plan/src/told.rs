//! A plan as it is told: what goes where and why, what has no place and what would do.
use crate::fit;
pub use crate::need::Rule;
use crate::need::{Need, Obstacle, ask, need};
use crate::planner::{Planner, Score, Spot, Use};
use crate::spec::Workload;
use cleave_api::{Engine, MemoryAmount, Mode, Percent, Priority, Vendor};
use cleave_policy::topology::Cpus;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

/// Nodes that are looked at for what keeps a workload without a place from them.
const NODES: usize = 1000;
/// Candidates that are listed of each workload.
const LISTED: usize = 100;

/// A place that would do, and how good it is.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Candidate {
    /// The node.
    pub node: String,
    /// Its GPUs.
    pub gpus: Vec<u32>,
    /// How they are divided.
    pub engine: Engine,
    /// The MIG profile.
    pub profile: Option<String>,
    /// The links between each two of them, the worst first.
    pub links: Vec<String>,
    /// It is there already.
    pub stays: bool,
    /// Wishes that it does not meet: that come before links, GPUs that are opened and waste.
    pub against: Vec<String>,
    /// Percent of a GPU's bandwidth, and of the headroom beside a promised latency, that would be wanted twice.
    pub conflict_percent: f64,
    /// GPUs that nothing was on.
    pub opens: u32,
    /// How much is left unusable or out of proportion, the less the better.
    pub waste: f64,
}

impl Candidate {
    /// Its GPUs, as in `0,1`.
    pub fn numbers(&self) -> String {
        self.gpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}

/// `node-1 GPU 0,1`.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} GPU {}", self.node, self.numbers())
    }
}

/// GPUs that a rule keeps from a workload.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// How many GPUs.
    pub gpus: usize,
    /// Of how many of them it is the only one that does.
    pub alone: usize,
    /// Why, of one of them.
    pub why: String,
}

/// Where a replica goes.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Placement {
    /// The replica.
    pub name: String,
    /// The workload.
    pub workload: String,
    /// Its class.
    pub priority: Priority,
    /// How far its share is enforced.
    pub mode: Mode,
    /// Whom it trusts.
    pub trust_domain: Option<String>,
    /// The place.
    #[serde(flatten)]
    pub place: Candidate,
    /// The model of its GPUs.
    pub model: String,
    /// Who made them.
    pub vendor: Vendor,
    /// Memory on each, in bytes.
    pub memory_bytes: u64,
    /// The share of each one's time, in percent.
    pub compute_percent: Option<f64>,
    /// The share of each one's bandwidth that it takes, in percent.
    pub bandwidth_percent: Option<f64>,
    /// First memory slice of its MIG instance.
    pub start: Option<u8>,
    /// The processors near its GPUs, as `taskset -c` reads it.
    pub cpus: Option<String>,
    /// Why there.
    pub reason: String,
    /// With `explain`: every place that would have done, the best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<Vec<Candidate>>,
    /// With `explain`: what kept it from others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Vec<Refusal>>,
}

/// A replica for which there is no place.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Unplaced {
    /// The replica.
    pub name: String,
    /// The workload.
    pub workload: String,
    /// The rule that is tightest: that alone keeps it from most GPUs.
    pub rule: Rule,
    /// In words.
    pub why: String,
    /// What would do, the nearest first.
    pub offers: Vec<String>,
    /// All that keeps it from GPUs.
    pub refused: Vec<Refusal>,
}

/// What is on a GPU then.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct GpuUse {
    /// The node.
    pub node: String,
    /// Its number there.
    pub gpu: u32,
    /// The model.
    pub model: String,
    /// `mig`, or `software`.
    pub divided: &'static str,
    /// Its workloads.
    pub workloads: Vec<String>,
    /// Memory that is promised, in bytes; of MIG, whole instances.
    pub memory_bytes: u64,
    /// All of it.
    pub memory_total_bytes: u64,
    /// Percent of its time that is promised.
    pub compute_percent: f64,
    /// Percent of its bandwidth that is expected to be taken.
    pub bandwidth_percent: f64,
    /// The most that it draws.
    pub watts: Option<f64>,
}

/// The whole.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct Plan {
    /// The replicas that have a place, in the order of the file.
    pub placements: Vec<Placement>,
    /// Those that have none.
    pub unplaced: Vec<Unplaced>,
    /// The GPUs that are in use.
    pub gpus: Vec<GpuUse>,
    /// How many there are.
    pub gpus_total: usize,
    /// The most that the site draws: its base, and each GPU in use at its limit. Absent if a GPU's is not known.
    pub watts: Option<f64>,
    /// What it may draw.
    pub watts_limit: Option<f64>,
    /// What is to be known.
    pub warnings: Vec<String>,
}

impl Planner<'_> {
    fn candidate(&self, spot: &Spot) -> Candidate {
        let shape = &self.fleet.shapes[self.fleet.nodes[spot.node].1];
        let kind = self.kind(spot.node, spot.slots[0]).1;
        Candidate {
            node: self.fleet.nodes[spot.node].0.clone(),
            gpus: spot.slots.iter().map(|slot| shape.cards[*slot].0).collect(),
            engine: spot.engine,
            profile: spot
                .instance
                .and_then(|one| Some(kind.geometry.as_ref()?.profiles.get(one.profile)?.name.clone())),
            links: spot.score.links.0.iter().map(ToString::to_string).collect(),
            stays: !spot.score.moves,
            against: self.against(spot),
            conflict_percent: f64::from(spot.score.conflict) / 10.0,
            opens: spot.score.opens,
            waste: (spot.score.waste / 1_000_000) as f64 / 1000.0,
        }
    }

    fn against(&self, spot: &Spot) -> Vec<String> {
        let score = &spot.score;
        let wishes = [
            (score.beside, "beside what it is on trial for"),
            (score.unlike, "another model than that has"),
            (score.whole, "given whole there"),
            (score.common, "not kept for its tier"),
        ];
        wishes.iter().filter(|(wish, _)| *wish).map(|(_, words)| (*words).to_owned()).collect()
    }

    /// Why the first of these is where a replica goes.
    fn reason(&self, item: usize, spots: &[Spot]) -> String {
        let [best, others @ ..] = spots else { return String::new() };
        let place = |spot: &Spot| self.candidate(spot).to_string();
        let before = self.items[item].before.is_some();
        // The first on which it would have been better but for what decided.
        let but =
            |decided: &dyn Fn(&Score, &Score) -> bool| others.iter().find(|other| decided(&other.score, &best.score));
        if before && !best.score.moves {
            "it is there already".into()
        } else if best.score.conflict > 0 {
            format!(
                "memory bandwidth or headroom for a promised latency is short by {} % there, and nowhere less",
                f64::from(best.score.conflict) / 10.0
            )
        } else if let Some(other) = but(&|a, b| a.beside && !b.beside && (a.opens, a.waste) < (b.opens, b.waste)) {
            format!("{} had room, but what it is on trial beside is there", place(other))
        } else if let Some(other) = but(&|a, b| a.conflict > 0 && (a.opens, a.waste) < (b.opens, b.waste)) {
            format!(
                "{} had room, but memory bandwidth or headroom for a promised latency would be short by {} % there",
                place(other),
                f64::from(other.score.conflict) / 10.0
            )
        } else if let Some(other) = but(&|a, b| {
            let wishes = |one: &Score| (one.unlike, one.whole, one.common);
            wishes(a) > wishes(b) && (a.opens, a.waste) < (b.opens, b.waste)
        }) {
            format!("{} had room, but: {}", place(other), self.against(other).join(", "))
        } else if best.slots.len() > 1 && !others.is_empty() {
            let links = &best.score.links.0;
            let worst = links.first().map(ToString::to_string).unwrap_or_default();
            match others.iter().find(|other| other.score.links.0 != *links) {
                Some(other) => {
                    let than = other.score.links.0.first().map(ToString::to_string).unwrap_or_default();
                    format!("no other GPUs with room are linked better: {worst} at worst; the next have {than}")
                }
                None => format!("the links are {worst} wherever there is room"),
            }
        } else if others.is_empty() {
            "there is room nowhere else".into()
        } else if best.score.opens == 0 {
            "of the GPUs in use it leaves least over there".into()
        } else {
            "no GPU in use has room; of the others it leaves least over there".into()
        }
    }

    /// What keeps a replica from GPUs, by rule: that which does so alone of most first.
    fn refusals(&self, item: usize, refused: &[(Vec<Obstacle>, usize)]) -> Vec<Refusal> {
        let mut rules: BTreeMap<Rule, (usize, usize, &Obstacle)> = BTreeMap::new();
        let kinds = self.fleet.counts();
        let fixed = self.needs[self.items[item].workload]
            .iter()
            .zip(&kinds)
            .filter_map(|(need, (count, _))| Some((need.as_ref().err()?.as_slice(), *count as usize)));
        let moving = refused.iter().map(|(all, count)| (all.as_slice(), *count));
        for (all, count) in fixed.chain(moving) {
            for (at, one) in all.iter().enumerate() {
                if all[..at].iter().any(|before| before.rule == one.rule) {
                    continue;
                }
                let alone = all.iter().all(|other| other.rule == one.rule);
                let entry = rules.entry(one.rule).or_insert((0, 0, one));
                entry.0 += count;
                entry.1 += if alone { count } else { 0 };
                if one.most > entry.2.most {
                    entry.2 = one;
                }
            }
        }
        let mut all: Vec<Refusal> = rules
            .into_iter()
            .map(|(rule, (gpus, alone, one))| Refusal { rule, gpus, alone, why: one.why.clone() })
            .collect();
        all.sort_by_key(|one| Reverse((one.alone, one.gpus)));
        all
    }

    /// The plan, with its reasons. They are those of a second run in which each goes where this one has it.
    pub(crate) fn told(&self, empty: &Self, order: &[usize], explain: bool) -> Plan {
        let mut again = empty.clone();
        let mut placements: Vec<Option<Placement>> = vec![None; self.items.len()];
        for item in order {
            let Some(spot) = &self.spots[*item] else { continue };
            // Of who left its place, too, all there is is looked at: it may be free by now.
            again.tell = explain || spot.score.moves;
            let (mut spots, refused) = again.spots(*item);
            let here = |other: &Spot| (other.node, &other.slots, other.engine) == (spot.node, &spot.slots, spot.engine);
            let at = spots.iter().position(here);
            let chosen = at.map_or_else(|| spot.clone(), |at| spots.remove(at));
            let moved = at != Some(0);
            spots.insert(0, chosen.clone());
            let reason = if moved {
                "so that all the workloads have a place, on as few GPUs as can be".to_owned()
            } else {
                again.reason(*item, &spots)
            };
            let mut placement = again.placement(*item, &Spot { instance: spot.instance, ..chosen.clone() }, reason);
            if explain {
                placement.candidates = Some(spots.iter().take(LISTED).map(|spot| again.candidate(spot)).collect());
                placement.refused = Some(again.refusals(*item, &refused));
            }
            placements[*item] = Some(placement);
            again.put(*item, Spot { instance: spot.instance, ..chosen });
        }
        again.tell = true;
        let mut unplaced: Vec<Unplaced> = Vec::new();
        for item in (0..self.items.len()).filter(|item| self.spots[*item].is_none()) {
            // Of one workload all are in the same way.
            let alike = unplaced.last().filter(|one| one.workload == self.workload(item).name).cloned();
            unplaced
                .push(Unplaced { name: self.items[item].name.clone(), ..alike.unwrap_or_else(|| again.without(item)) });
        }
        let mut warnings = Vec::new();
        for placement in placements.iter().flatten().filter(|one| one.place.conflict_percent > 0.0) {
            warnings.push(format!("{}: {}", placement.name, placement.reason));
        }
        let others: Vec<&str> = placements
            .iter()
            .flatten()
            .filter(|one| one.place.engine == Engine::Whole)
            .map(|one| one.name.as_str())
            .collect();
        if let Some(some) = others.get(..others.len().min(3)).filter(|some| !some.is_empty()) {
            let more = if others.len() > 3 { format!(" and {} more", others.len() - 3) } else { String::new() };
            warnings.push(format!(
                "each has devices to itself, because cleave divides NVIDIA's only: {}{more}",
                some.join(", ")
            ));
        }
        let known = self.fleet.kinds.iter().all(|kind| kind.watts.is_some());
        Plan {
            placements: placements.into_iter().flatten().collect(),
            unplaced,
            gpus: self.uses(),
            gpus_total: self.fleet.count(),
            watts: known.then_some(self.watts),
            watts_limit: self.file.site.watts,
            warnings,
        }
    }

    fn placement(&self, item: usize, spot: &Spot, reason: String) -> Placement {
        let workload = self.workload(item);
        let (kind_at, kind) = self.kind(spot.node, spot.slots[0]);
        let need = self.needs[self.items[item].workload][kind_at].as_ref().ok();
        let shape = &self.fleet.shapes[self.fleet.nodes[spot.node].1];
        let cpus = spot
            .slots
            .iter()
            .filter_map(|slot| shape.cpus.get(*slot))
            .fold(Cpus::default(), |all, cpus| all.with(cpus));
        let percent = |amount: u16, wanted: bool| wanted.then(|| f64::from(amount) / 10.0);
        let profile = spot.instance.and_then(|one| kind.geometry.as_ref()?.profiles.get(one.profile));
        // A workload that asked for a profile and no amount has all of it.
        let whole = profile.map(|profile| profile.memory_mib << 20);
        Placement {
            name: self.items[item].name.clone(),
            workload: workload.name.clone(),
            priority: workload.priority.unwrap_or_default(),
            mode: workload.mode,
            trust_domain: workload.trust_domain.clone(),
            place: self.candidate(spot),
            model: kind.model.clone(),
            vendor: kind.vendor,
            memory_bytes: need.map(|need| need.bytes).filter(|bytes| *bytes > 0).or(whole).unwrap_or(0),
            compute_percent: need.and_then(|need| percent(need.used.compute, workload.compute.is_some())),
            bandwidth_percent: need.and_then(|need| percent(need.used.bandwidth, workload.bandwidth.is_some())),
            start: spot.instance.map(|instance| instance.start),
            cpus: (!cpus.is_empty()).then(|| cpus.to_string()),
            reason,
            candidates: None,
            refused: None,
        }
    }

    /// What keeps a replica from everywhere, and what would do.
    fn without(&self, item: usize) -> Unplaced {
        let workload = self.workload(item);
        let needs = &self.needs[self.items[item].workload];
        let nodes = 0..self.fleet.nodes.len().min(NODES);
        let refused = self.refusals(item, &self.spots_on(item, workload, needs, nodes).1);
        let (rule, why) = match refused.first() {
            Some(first) => (first.rule, first.why.clone()),
            None => (Rule::Gpus, "there is no GPU".into()),
        };
        Unplaced {
            name: self.items[item].name.clone(),
            workload: workload.name.clone(),
            rule,
            why,
            offers: self.offers(item),
            refused,
        }
    }

    /// What would do for a replica without a place: less of something, or without one of its wishes.
    fn offers(&self, item: usize) -> Vec<String> {
        let workload = self.workload(item);
        let mut all = Vec::new();
        let with = |change: &dyn Fn(&mut Workload)| {
            let mut other = workload.clone();
            change(&mut other);
            self.elsewhere(item, &other)
                .map(|spot| format!("{} ({})", self.candidate(&spot), self.kind(spot.node, spot.slots[0]).1.model))
        };
        let mut offer = |what: &str, found: Option<String>| all.extend(found.map(|place| format!("{what}: {place}")));
        // Of memory and time the most that would do.
        if let Some(bytes) = workload
            .memory
            .map(|_| {
                self.most(
                    item,
                    |need| need.amount.memory << 20,
                    |workload, bytes| {
                        workload.memory = Some(MemoryAmount::Bytes(bytes));
                    },
                )
            })
            .unwrap_or_default()
        {
            let what = format!("memory of {}", cleave_api::format_bytes(bytes));
            offer(&what, with(&|workload| workload.memory = Some(MemoryAmount::Bytes(bytes))));
        }
        if let Some(tenths) = workload
            .compute
            .map(|_| {
                self.most(
                    item,
                    |need| u64::from(need.amount.compute),
                    |workload, tenths| {
                        workload.compute = Percent::new(tenths as f64 / 10.0);
                    },
                )
            })
            .unwrap_or_default()
        {
            let percent = Percent::new(tenths as f64 / 10.0);
            offer(&format!("compute of {} %", tenths as f64 / 10.0), with(&|workload| workload.compute = percent));
        }
        if let Some(gpus) = (1..workload.gpus).rev().find(|gpus| with(&|workload| workload.gpus = *gpus).is_some()) {
            offer(&format!("{gpus} GPUs"), with(&|workload| workload.gpus = gpus));
        }
        if workload.vendor != Default::default() {
            offer("another vendor", with(&|workload| workload.vendor = Default::default()));
        }
        if workload.gpu.is_some() {
            offer("another GPU", with(&|workload| workload.gpu = None));
        }
        if workload.node.is_some() {
            offer("another node", with(&|workload| workload.node = None));
        }
        if workload.location.is_some() {
            offer("another location", with(&|workload| workload.location = None));
        }
        if workload.tier.is_some() {
            offer("no tier", with(&|workload| workload.tier = None));
        }
        if workload.engine != Engine::Auto || workload.slice.is_some() {
            offer("another engine", with(&|workload| (workload.engine, workload.slice) = (Engine::Auto, None)));
        }
        if workload.slo.is_some() {
            offer("no promise of latency", with(&|workload| workload.slo = None));
        }
        if let (Some(name), None) = (&workload.model, workload.memory) {
            // As `cleave fit` has it, of the kind with the most memory on which nothing else is in the way.
            let only = |at: &usize| match &self.needs[self.items[item].workload][*at] {
                Ok(_) => true,
                Err(all) => all.iter().all(|one| one.rule == Rule::Memory),
            };
            let kinds = (0..self.fleet.kinds.len()).filter(only).map(|at| &self.fleet.kinds[at]);
            if let (Some(kind), Some(model)) = (kinds.max_by_key(|kind| kind.memory_mib), fit::named(name)) {
                all.extend(
                    fit::offers(model, &ask(workload, kind))
                        .into_iter()
                        .map(|offer| format!("{offer} on {}", kind.model)),
                );
            }
        }
        all
    }

    /// The most of something, below what is needed, with which a replica would have a place.
    fn most(&self, item: usize, of: impl Fn(&Need) -> u64, set: impl Fn(&mut Workload, u64)) -> Option<u64> {
        let would_do = |value: u64| {
            let mut other = self.workload(item).clone();
            set(&mut other, value);
            self.elsewhere(item, &other).is_some()
        };
        let needed = self.needs[self.items[item].workload].iter().flatten().map(&of).max();
        let (mut low, mut high) = (0, needed.unwrap_or(1 << 40));
        while high - low > (high >> 12).max(1) {
            let middle = low + (high - low) / 2;
            if would_do(middle) { low = middle } else { high = middle }
        }
        (low > 0).then_some(low)
    }

    /// Where a replica would go if its workload were this one.
    fn elsewhere(&self, item: usize, other: &Workload) -> Option<Spot> {
        let needs: Vec<_> = self.fleet.kinds.iter().map(|kind| need(other, kind, self.tiers)).collect();
        self.spots_on(item, other, &needs, self.nodes(item, other)).0.into_iter().min_by(Spot::order)
    }

    fn uses(&self) -> Vec<GpuUse> {
        let mut all = Vec::new();
        for (node, cards) in self.cards.iter().enumerate() {
            for (slot, card) in cards.iter().enumerate().filter(|(_, card)| card.use_ != Use::Nothing) {
                let kind = self.kind(node, slot).1;
                all.push(GpuUse {
                    node: self.fleet.nodes[node].0.clone(),
                    gpu: self.fleet.shapes[self.fleet.nodes[node].1].cards[slot].0,
                    model: kind.model.clone(),
                    divided: if card.use_ == Use::Mig { "mig" } else { "software" },
                    workloads: card.held.iter().map(|item| self.items[*item].name.clone()).collect(),
                    memory_bytes: card.memory << 20,
                    memory_total_bytes: kind.memory_mib << 20,
                    compute_percent: f64::from(card.compute) / 10.0,
                    bandwidth_percent: f64::from(card.bandwidth) / 10.0,
                    watts: kind.watts,
                });
            }
        }
        all
    }
}
