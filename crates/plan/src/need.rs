//! What a workload needs of a kind of GPU, and what rules a kind or a place out.
use crate::fit::{self, Ask};
use crate::fleet::Kind;
use crate::spec::{Dtype, Workload, vendor_name, word};
use crate::tier::Tier;
use cleave_api::{Engine, Percent};
use cleave_policy::pack::{Amount, WHOLE, rounded_up};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

/// What rules a place out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Another maker's.
    Vendor,
    /// Another model.
    Gpu,
    /// Another node.
    Node,
    /// Another location.
    Location,
    /// Kept for another tier, or not what the tier has.
    Tier,
    /// The engine can't be had.
    Engine,
    /// No engine keeps the promised latency.
    Slo,
    /// The profile is not to be had.
    Slice,
    /// Memory.
    Memory,
    /// Time.
    Compute,
    /// GPUs of one node.
    Gpus,
    /// The site's power.
    Watts,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&word(self))
    }
}

/// Why a workload can't go to a place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Obstacle {
    pub(crate) rule: Rule,
    pub(crate) why: String,
    /// Of memory and compute: how much there would be, in MiB or thousandths.
    pub(crate) most: u64,
}

pub(crate) fn obstacle(rule: Rule, why: String) -> Obstacle {
    Obstacle { rule, why, most: 0 }
}

/// How much longer the slowest requests of a workload take beside others than alone, by engine: as measured.
#[derive(Deserialize)]
struct Tails {
    tail: Vec<Tail>,
}

#[derive(Deserialize)]
struct Tail {
    engine: Engine,
    factor: f64,
    #[expect(dead_code, reason = "a row says where it is from")]
    source: String,
}

fn tail(engine: Engine) -> Option<f64> {
    static TAILS: OnceLock<Vec<Tail>> = OnceLock::new();
    let read =
        || toml::from_str::<Tails>(include_str!("../data/tails.toml")).map(|tails| tails.tail).unwrap_or_default();
    TAILS.get_or_init(read).iter().find(|tail| tail.engine == engine).map(|tail| tail.factor)
}

/// What a workload needs of a kind of GPU, and how it can have it.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    /// What it is given.
    pub(crate) amount: Amount,
    /// What it uses of that: less, where it is given a GPU whole.
    pub(crate) used: Amount,
    /// Bytes of memory, of which `amount` has whole MiB.
    pub(crate) bytes: u64,
    /// The engine on a GPU that is shared in software.
    pub(crate) software: Option<Engine>,
    /// MIG profiles that suffice, the smallest first; empty if MIG is not for it.
    pub(crate) profiles: Vec<usize>,
    /// MIG before software where a GPU is neither yet.
    pub(crate) mig_first: bool,
    /// MIG may be turned on for it.
    pub(crate) mig_opens: bool,
}

pub(crate) fn mib(amount: u64) -> String {
    cleave_api::format_bytes(amount << 20)
}

/// `percent` of the GPU `on`, in percent of this kind, by a figure of both.
fn converted(
    percent: Option<Percent>,
    on: Option<&str>,
    kind: &Kind,
    of: fn(&Kind) -> Option<f64>,
) -> Result<Option<f64>, String> {
    let Some(percent) = percent.map(Percent::get) else { return Ok(None) };
    let Some(on) = on.filter(|on| !kind.is(on)) else { return Ok(Some(percent)) };
    let there = crate::fleet::gpus(on).ok().and_then(|all| of(&all.first()?.1));
    match (there, of(kind)) {
        (Some(there), Some(here)) => Ok(Some(percent * there / here)),
        _ => Err(format!("what {percent} % of {on} are of {} is not known", kind.model)),
    }
}

/// What a workload needs of a kind of GPU, or everything that rules that kind out.
pub(crate) fn need(workload: &Workload, kind: &Kind, tiers: &BTreeMap<String, Tier>) -> Result<Need, Vec<Obstacle>> {
    let mut all = Vec::new();
    let model = &kind.model;
    if !workload.vendor.hold(kind.vendor) {
        all.push(obstacle(
            Rule::Vendor,
            format!("{model} is {}'s, and {} is asked for", vendor_name(kind.vendor), workload.vendor),
        ));
    }
    if let Some(wanted) = workload.gpu.as_ref().filter(|wanted| !kind.is(wanted)) {
        all.push(obstacle(Rule::Gpu, format!("it is {model}, and {wanted} is asked for")));
    }
    if let Some(wanted) = workload.node.as_ref().filter(|wanted| {
        let of_several = wanted.strip_prefix(kind.nodes.as_str()).and_then(|rest| rest.strip_prefix('-'));
        kind.nodes != **wanted && of_several.is_none_or(|at| at.parse::<u32>().is_err())
    }) {
        all.push(obstacle(Rule::Node, format!("it is on {}, and {wanted} is asked for", kind.nodes)));
    }
    if let Some(wanted) = workload.location.as_ref().filter(|wanted| kind.location.as_ref() != Some(wanted)) {
        let place = kind.location.as_deref().unwrap_or("no location");
        all.push(obstacle(Rule::Location, format!("it stands at {place}, and {wanted} is asked for")));
    }
    if let Some(tier) = kind.tier.as_ref().filter(|tier| workload.tier.as_ref() != Some(tier)) {
        all.push(obstacle(Rule::Tier, format!("{} is for tier {tier}", kind.nodes)));
    }

    let on = workload.on.as_deref().or(workload.profile.as_ref().and_then(|profile| profile.gpu.as_deref()));
    let mut share = |rule, found: Result<Option<f64>, String>| match found {
        Ok(percent) => percent,
        Err(why) => {
            all.push(obstacle(rule, why));
            None
        }
    };
    let compute = share(Rule::Compute, converted(workload.compute, on, kind, |kind| kind.tflops));
    let bandwidth = share(Rule::Compute, converted(workload.bandwidth, on, kind, |kind| kind.bandwidth_gb_s));
    if let Some(compute) = compute.filter(|compute| *compute > 100.0) {
        let why = format!("it takes {compute:.0} % of one {model}");
        all.push(Obstacle { rule: Rule::Compute, why, most: u64::from(WHOLE) });
    }
    let bytes = match (&workload.model, workload.memory) {
        (_, Some(memory)) => memory.of(kind.memory_mib << 20),
        (Some(name), None) => sized(workload, name, kind).map_or(0, |fit| fit.total_bytes),
        (None, None) => 0,
    };
    let memory = bytes.div_ceil(1 << 20);
    if memory > kind.memory_mib {
        let why = format!("{} are needed, and {model} has {}", mib(memory), mib(kind.memory_mib));
        all.push(Obstacle { rule: Rule::Memory, why, most: kind.memory_mib });
    }
    let amount =
        Amount { memory, compute: rounded_up(compute.unwrap_or(0.0)), bandwidth: rounded_up(bandwidth.unwrap_or(0.0)) };

    // The engines that will do, and of those the ones that can be had.
    let tier = workload.tier.as_ref().and_then(|tier| tiers.get(tier));
    let (wished, by): (Vec<Engine>, Rule) = match (workload.engine, tier) {
        (Engine::Auto, Some(tier)) => (tier.engines.clone(), Rule::Tier),
        (Engine::Auto, None) if workload.slice.is_some() => (vec![Engine::Mig], Rule::Slice),
        (Engine::Auto, None) if kind.given_whole() => (vec![Engine::Whole], Rule::Engine),
        (Engine::Auto, None) => {
            let together = workload.trust_domain.is_some() && workload.compute.is_some();
            let mut engines = vec![Engine::Temporal];
            if together {
                engines.insert(0, Engine::Spatial);
            }
            // Its walls are welcome where a GPU is kept for them or has them; none is cut for who did not ask.
            engines.push(Engine::Mig);
            (engines, Rule::Engine)
        }
        (pinned, Some(tier)) if !tier.engines.contains(&pinned) => {
            all.push(obstacle(Rule::Tier, format!("its tier has no engine {pinned}")));
            (vec![pinned], Rule::Engine)
        }
        (pinned, _) => (vec![pinned], Rule::Engine),
    };
    let mut why_not = Vec::new();
    let mut profiles = Vec::new();
    let mut able = Vec::new();
    for engine in wished.iter().copied() {
        let cut = (kind.mig == Some(true) && engine != Engine::Mig).then(|| "its MIG mode is on".to_owned());
        let several = (workload.gpus > 1 && !matches!(engine, Engine::Temporal | Engine::Whole))
            .then(|| format!("a workload of {} GPUs takes turns on them", workload.gpus));
        if let Some(why) = kind.obstacle(engine).or(cut).or(several) {
            why_not.push(obstacle(by, format!("no engine {engine}: {why}")));
            continue;
        }
        if let (Some(slo), Some(factor)) = (workload.slo, tail(engine))
            && slo.alone_ms * factor > slo.p99_ms
        {
            let why = format!(
                "with engine {engine} the 99th percentile is {factor} times what it is alone, {:.1} ms, and {} ms are promised",
                slo.alone_ms * factor,
                slo.p99_ms
            );
            why_not.push(obstacle(Rule::Slo, why));
            continue;
        }
        if engine == Engine::Mig {
            match suitable(workload, kind, memory, compute.unwrap_or(0.0)) {
                Ok(found) => profiles = found,
                Err(why) => {
                    why_not.push(why);
                    continue;
                }
            }
        }
        able.push(engine);
    }
    if able.is_empty() {
        // Who left the engine open asked for none of those that can't be had anyway.
        if why_not.iter().any(|one| one.rule == Rule::Slo) {
            why_not.retain(|one| one.rule != Rule::Engine);
        }
        all.append(&mut why_not);
    }
    if !all.is_empty() {
        return Err(all);
    }
    let software = able.iter().copied().find(|engine| *engine != Engine::Mig);
    Ok(Need {
        amount: if software == Some(Engine::Whole) { kind.whole() } else { amount },
        used: amount,
        bytes,
        software,
        mig_first: able.first() == Some(&Engine::Mig),
        mig_opens: wished.first() == Some(&Engine::Mig) || kind.engine == Engine::Mig || kind.mig == Some(true),
        profiles,
    })
}

/// The size of the model that a workload serves; `None` if nobody knows it.
fn sized(workload: &Workload, name: &str, kind: &Kind) -> Option<fit::Fit> {
    Some(fit::fit(fit::named(name)?, &ask(workload, kind)))
}

pub(crate) fn ask(workload: &Workload, kind: &Kind) -> Ask {
    let published = workload.model.as_deref().and_then(fit::named).map_or(16, |model| model.bits);
    Ask {
        weight_bits: workload.dtype.map_or(published, Dtype::bits),
        kv_bits: workload.kv_dtype.unwrap_or_default().bits(),
        context: workload.context.unwrap_or(fit::DEFAULT_CONTEXT),
        concurrency: workload.concurrency.unwrap_or(fit::DEFAULT_CONCURRENCY),
        gpus: u64::from(workload.gpus),
        utilization: 1.0,
        gpu_bytes: kind.memory_mib << 20,
    }
}

/// The profiles of a kind that suffice for a workload, the smallest first.
fn suitable(workload: &Workload, kind: &Kind, memory: u64, percent: f64) -> Result<Vec<usize>, Obstacle> {
    let Some(geometry) = &kind.geometry else { return Ok(Vec::new()) };
    let Some(name) = &workload.slice else {
        let found = geometry.suitable(memory, percent);
        return if found.is_empty() {
            Err(obstacle(Rule::Memory, format!("no MIG profile of {} has {} and {percent} %", kind.model, mib(memory))))
        } else {
            Ok(found)
        };
    };
    let at = geometry.named(name);
    let profile = at.and_then(|at| geometry.profiles.get(at));
    let (Some(at), Some(profile)) = (at, profile) else {
        return Err(obstacle(Rule::Slice, format!("{} has no profile {name}", kind.model)));
    };
    if profile.memory_mib < memory {
        let larger = geometry.suitable(memory, percent).into_iter().find_map(|at| geometry.profiles.get(at));
        let offer =
            larger.map(|larger| format!("; {} has {}", larger.name, mib(larger.memory_mib))).unwrap_or_default();
        let why = format!("{name} has {} to use, and {} are needed{offer}", mib(profile.memory_mib), mib(memory));
        return Err(Obstacle { rule: Rule::Slice, why, most: profile.memory_mib });
    }
    Ok(vec![at])
}
