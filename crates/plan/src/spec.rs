//! What people write: the workloads, the fleet that they go to, the rules of its tiers, and its site's power.
use crate::tier::{self, Tier, Tiers};
use cleave_api::{Engine, Fraction, MemoryAmount, Mode, Percent, Priority, Vendor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A file for `cleave plan`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// What holds for all of it.
    #[serde(default)]
    pub site: Site,
    /// The nodes; absent: this machine.
    #[serde(default)]
    pub fleet: Vec<NodeSpec>,
    /// What each tier may have; without them the default [`Tiers`].
    #[serde(default, deserialize_with = "tier::some")]
    pub tiers: Option<BTreeMap<String, Tier>>,
    /// What shall run.
    pub workloads: Vec<Workload>,
}

/// Where it all stands.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Site {
    /// Watts that must never be exceeded. A GPU with a workload counts as much as it can draw.
    pub watts: Option<f64>,
    /// Watts of all the rest: processors, fans, GPUs that do nothing.
    pub base_watts: f64,
}

/// Nodes that are alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Its name; several are NAME-1, NAME-2 and so on.
    pub name: String,
    /// How many there are.
    #[serde(default = "one")]
    pub count: u32,
    /// Its GPUs: `8xH100`, or groups joined by `+`, each with the engine it is kept for: `4xH100,mig+4xH100,spatial`.
    pub gpus: Option<String>,
    /// Or the file of an inventory, as `cleave gpus --save` writes it; from the file's own folder.
    pub inventory: Option<String>,
    /// Besides `gpus`, how they are linked: a file with what `nvidia-smi topo -m` or `lstopo --of xml` wrote.
    pub topology: Option<String>,
    /// The engine that all of its GPUs are kept for.
    #[serde(default)]
    pub engine: Engine,
    /// The one tier that it is for.
    pub tier: Option<String>,
    /// Where it stands: a site, a cloud's region.
    pub location: Option<String>,
}

impl NodeSpec {
    /// One node, of which nothing else is said.
    pub fn plain(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            count: 1,
            gpus: None,
            inventory: None,
            topology: None,
            engine: Engine::Auto,
            tier: None,
            location: None,
        }
    }
}

/// Something that shall run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// A name as slices have them. Several replicas are NAME-1, NAME-2 and so on.
    pub name: String,
    /// How many there are.
    #[serde(default = "one")]
    pub count: u32,
    /// A language model that it serves: its memory is worked out.
    pub model: Option<String>,
    /// How weights are kept; as the model is published if it is not given.
    pub dtype: Option<Dtype>,
    /// How keys and values are kept.
    pub kv_dtype: Option<Dtype>,
    /// Tokens of a request.
    pub context: Option<u64>,
    /// Requests at a time.
    pub concurrency: Option<u64>,
    /// Memory on each of its GPUs.
    pub memory: Option<MemoryAmount>,
    /// The share of each GPU's time.
    pub compute: Option<Percent>,
    /// The share of each GPU's memory bandwidth that it takes. Nothing walls it off.
    pub bandwidth: Option<Percent>,
    /// The GPU on which `compute` and `bandwidth` were measured; they are converted for others.
    pub on: Option<String>,
    /// GPUs of one node that work together.
    #[serde(default = "one")]
    pub gpus: u32,
    /// Whose GPUs it runs on: `any`, one or several.
    #[serde(default)]
    pub vendor: Vendors,
    /// The one model of GPU that it runs on.
    pub gpu: Option<String>,
    /// The MIG profile that it shall have.
    pub slice: Option<String>,
    /// The engine that it shall have.
    #[serde(default)]
    pub engine: Engine,
    /// Its tier.
    pub tier: Option<String>,
    /// The node, or kind of node, that it goes to.
    pub node: Option<String>,
    /// The location that it goes to.
    pub location: Option<String>,
    /// Whom it trusts.
    pub trust_domain: Option<String>,
    /// What latency was promised.
    pub slo: Option<Slo>,
    /// Its class: higher ones are placed first.
    pub priority: Option<Priority>,
    /// How far its share is enforced.
    #[serde(default)]
    pub mode: Mode,
    /// It is a new version of another workload, on trial: it needs what that needs, and `fraction` of its compute.
    pub canary_of: Option<String>,
    /// It gets a copy of another workload's traffic: it needs what that needs.
    pub shadow_of: Option<String>,
    /// Of a canary: 1/8 if absent.
    pub fraction: Option<Fraction>,
    /// What `cleave profile` measured.
    pub profile: Option<Measured>,
}

/// What was measured. Only the GPU is of interest here.
#[derive(Clone, Debug, Deserialize)]
pub struct Measured {
    /// The GPU on which it was measured.
    pub gpu: Option<String>,
}

/// A latency that was promised.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// The 99th percentile of a request, in ms.
    pub p99_ms: f64,
    /// The same on a GPU of its own.
    pub alone_ms: f64,
}

/// A number format.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 16 bits.
    #[default]
    Bf16,
    /// 16 bits.
    Fp16,
    /// 8 bits.
    Fp8,
    /// 8 bits.
    Int8,
    /// 4 bits.
    Int4,
}

impl Dtype {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Bf16, Self::Fp16, Self::Fp8, Self::Int8, Self::Int4];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Bits of a value.
    pub fn bits(self) -> u64 {
        match self {
            Self::Bf16 | Self::Fp16 => 16,
            Self::Fp8 | Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }
}

/// Makers of GPUs: `any`, `amd`, or `[nvidia, amd]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "OneOrMore")]
pub struct Vendors(Vec<Vendor>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl TryFrom<OneOrMore> for Vendors {
    type Error = String;

    fn try_from(text: OneOrMore) -> Result<Self, String> {
        let names = match text {
            OneOrMore::One(name) if name == "any" => return Ok(Self::default()),
            OneOrMore::One(name) => vec![name],
            OneOrMore::More(names) => names,
        };
        let vendor = |name: String| {
            serde_json::from_value(serde_json::Value::String(name.clone())).map_err(|_| {
                format!("\"{name}\" is no vendor: it must be any, nvidia, amd, intel, habana, huawei or qualcomm")
            })
        };
        names.into_iter().map(vendor).collect::<Result<_, _>>().map(Self)
    }
}

impl Vendors {
    /// Whether this one's will do.
    pub fn hold(&self, vendor: Vendor) -> bool {
        self.0.is_empty() || self.0.contains(&vendor)
    }
}

impl std::fmt::Display for Vendors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.0.iter().map(|vendor| vendor_name(*vendor)).collect();
        f.write_str(&names.join(" or "))
    }
}

/// As it is written.
pub fn vendor_name(vendor: Vendor) -> String {
    word(&vendor)
}

/// The word that stands for a value without fields.
pub(crate) fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| Some(value.as_str()?.to_owned())).unwrap_or_default()
}

fn one() -> u32 {
    1
}

/// Most replicas of a workload, and most nodes of a kind.
const MOST: u32 = 100_000;
/// Most GPUs of a workload.
const MOST_GPUS: u32 = 64;

/// A canary's part of what the original has, where it names none.
fn eighth() -> f64 {
    1.0 / 8.0
}

/// Most characters of the name of a workload or a tier. It stands in names of slices and in labels of nodes, with more
/// behind it.
pub const LONGEST: usize = 50;

/// Whether a workload or a tier can have this name; if not, the rule.
pub fn check_name(name: &str) -> Result<(), String> {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (1..=LONGEST).contains(&name.len())
        && name.chars().all(|c| letter(c) || c == '-')
        && name.starts_with(letter)
        && name.ends_with(letter);
    let rule = || format!("it must be 1 to {LONGEST} of a-z, 0-9 and -, and begin and end with a letter or digit");
    good.then_some(()).ok_or_else(rule)
}

impl File {
    /// Canaries and shadows have what their originals have; what contradicts itself is an error, which names the workload, the
    /// key and the rule.
    pub fn checked(mut self) -> Result<Self, String> {
        if self.workloads.is_empty() {
            return Err("workloads: there is none, and nothing to plan".into());
        }
        if let Some(watts) = self.site.watts.filter(|watts| !(*watts > 0.0 && watts.is_finite())) {
            return Err(format!("site: watts: {watts} is not above 0"));
        }
        if !(self.site.base_watts >= 0.0 && self.site.base_watts.is_finite()) {
            return Err(format!("site: base_watts: {} is below 0", self.site.base_watts));
        }
        let tiers = self.tiers.get_or_insert_with(|| Tiers::default().tiers).clone();
        let known = |tier: &Option<String>| match tier.as_ref().filter(|tier| !tiers.contains_key(*tier)) {
            None => Ok(()),
            Some(tier) => {
                let names: Vec<&str> = tiers.keys().map(String::as_str).collect();
                Err(format!("tier: there is none with the name \"{tier}\"; there are {}", names.join(", ")))
            }
        };
        let mut names = BTreeSet::new();
        for node in &self.fleet {
            let wrong = |why: String| format!("node {}: {why}", node.name);
            if !names.insert(node.name.clone()) {
                return Err(wrong("name: it is there twice; each has its own".into()));
            }
            if !(1..=MOST).contains(&node.count) {
                return Err(wrong(format!("count: {} is not from 1 to {MOST}", node.count)));
            }
            if node.gpus.is_some() == node.inventory.is_some() {
                return Err(wrong("it needs `gpus` or `inventory`, one of the two".into()));
            }
            if node.topology.is_some() && node.gpus.is_none() {
                return Err(wrong("topology: it says how `gpus` are linked, and those are missing".into()));
            }
            known(&node.tier).map_err(wrong)?;
        }
        let originals = self.workloads.clone();
        names.clear();
        for workload in &mut self.workloads {
            let name = workload.name.clone();
            let wrong = |why: String| format!("workload {name}: {why}");
            check_name(&name).map_err(|rule| wrong(format!("name: {rule}")))?;
            if !names.insert(name.clone()) {
                return Err(wrong("name: it is there twice; each has its own, and `count` says how many".into()));
            }
            if !(1..=MOST).contains(&workload.count) {
                return Err(wrong(format!("count: {} is not from 1 to {MOST}", workload.count)));
            }
            if !(1..=MOST_GPUS).contains(&workload.gpus) {
                return Err(wrong(format!("gpus: {} is not from 1 to {MOST_GPUS}", workload.gpus)));
            }
            if let Some(slo) = workload.slo.filter(|slo| !(slo.alone_ms > 0.0 && slo.p99_ms >= slo.alone_ms)) {
                return Err(wrong(format!(
                    "slo: p99_ms: {} is less than alone_ms, {}, which a GPU of its own gives",
                    slo.p99_ms, slo.alone_ms
                )));
            }
            known(&workload.tier).map_err(wrong)?;
            let (of, canary) = match (&workload.canary_of, &workload.shadow_of) {
                (Some(_), Some(_)) => return Err(wrong("canary_of: it can't be a shadow too".into())),
                (Some(of), None) => (Some(of), true),
                (None, of) => (of.as_ref(), false),
            };
            if workload.fraction.is_some() && !canary {
                return Err(wrong("fraction: it is of canaries, and `canary_of` is missing".into()));
            }
            if let Some(of) = of {
                let original = originals.iter().find(|other| other.name == *of && other.name != name);
                let original =
                    original.ok_or_else(|| wrong(format!("there is no workload \"{of}\" that it could follow")))?;
                let part = workload.fraction.map_or_else(eighth, |fraction| fraction.percent().get() / 100.0);
                let compute =
                    original.compute.and_then(|compute| Percent::new(compute.get() * if canary { part } else { 1.0 }));
                workload.follow(original, compute);
            }
            if workload.model.is_none() && workload.memory.is_none() && workload.slice.is_none() {
                return Err(wrong("memory: it is missing; give it, or `model`, or `slice` for a MIG profile".into()));
            }
            let sizes = [("dtype", workload.dtype.is_some()), ("kv_dtype", workload.kv_dtype.is_some())];
            let sizes = sizes
                .into_iter()
                .chain([("context", workload.context.is_some()), ("concurrency", workload.concurrency.is_some())]);
            if let Some((key, _)) = { sizes }.find(|(_, set)| *set && workload.model.is_none()) {
                return Err(wrong(format!("{key}: it says how a model is served, and `model` is missing")));
            }
            if [workload.context, workload.concurrency].contains(&Some(0)) {
                return Err(wrong("context and concurrency: they must be above 0".into()));
            }
            if workload.slice.is_some() && !matches!(workload.engine, Engine::Auto | Engine::Mig) {
                return Err(wrong(format!("slice: a MIG profile can't be had with engine {}", workload.engine)));
            }
            if workload.gpus > 1
                && (workload.slice.is_some() || matches!(workload.engine, Engine::Mig | Engine::Spatial))
            {
                return Err(wrong(
                    "gpus: MIG instances and MPS servers have one GPU; leave out `engine` and `slice`".into(),
                ));
            }
        }
        Ok(self)
    }
}

impl Workload {
    /// What is not said is as with the original.
    fn follow(&mut self, original: &Self, compute: Option<Percent>) {
        fn or<T: Clone>(mine: &mut Option<T>, other: &Option<T>) {
            if mine.is_none() {
                mine.clone_from(other);
            }
        }
        // A model and an amount of memory are two ways to say the same.
        if self.memory.is_none() {
            or(&mut self.model, &original.model);
            if self.model == original.model {
                or(&mut self.dtype, &original.dtype);
                or(&mut self.kv_dtype, &original.kv_dtype);
                or(&mut self.context, &original.context);
                or(&mut self.concurrency, &original.concurrency);
            }
        }
        if self.model.is_none() {
            or(&mut self.memory, &original.memory);
        }
        or(&mut self.slice, &original.slice);
        or(&mut self.compute, &compute);
        or(&mut self.bandwidth, &original.bandwidth);
        or(&mut self.on, &original.on);
        or(&mut self.profile, &original.profile);
        or(&mut self.gpu, &original.gpu);
        or(&mut self.location, &original.location);
        or(&mut self.trust_domain, &original.trust_domain);
        self.gpus = self.gpus.max(original.gpus);
        if self.vendor == Vendors::default() {
            self.vendor = original.vendor.clone();
        }
        // On trial: it makes way for everybody.
        or(&mut self.priority, &Some(lowest()));
    }

    /// Whom it follows.
    pub fn original(&self) -> Option<&str> {
        self.canary_of.as_deref().or(self.shadow_of.as_deref())
    }

    /// The names of its replicas.
    pub fn names(&self) -> Vec<String> {
        names(&self.name, self.count)
    }
}

/// The lowest class.
fn lowest() -> Priority {
    Priority::try_from("0".to_owned()).unwrap_or_default()
}

/// `NAME`, or `NAME-1` and so on where there are several.
pub fn names(name: &str, count: u32) -> Vec<String> {
    match count {
        1 => vec![name.to_owned()],
        count => (1..=count).map(|at| format!("{name}-{at}")).collect(),
    }
}
