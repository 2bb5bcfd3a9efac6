//! How a slice's GPU is divided: what a GPU can, and what a slice gets. Decides only; nothing here acts.
use crate::gpu::GpuInfo;
use crate::slice::Record;
use cleave_api::{Engine, ErrorBody, ErrorCode, GpuModes, Mode, Vendor};
use cleave_inventory::modes::{Card, MigMode};
use serde::{Deserialize, Serialize};

/// An operation of this length and more, in ns, is not waited for: who has such gets multiprocessors of its own. MPS cuts
/// no kernel short.
const LONG: u64 = 500_000;
/// Part of the multiprocessors that is left to a lower class, however much the higher ones have reserved, in percent.
const LEAST: f64 = 5.0;
/// The trust domain of slices that name none, where the operator wants them spatial.
const COMMON: &str = "default";

/// What was chosen for a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// `temporal` or `spatial`.
    pub engine: Engine,
    /// Why, in words.
    pub reason: String,
}

impl Default for Choice {
    fn default() -> Self {
        Self { engine: Engine::Temporal, reason: "the slice was made when there was no other engine".into() }
    }
}

/// What the node can do and was told.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// Whether MPS can be used; if not, why.
    pub mps: Result<(), &'a str>,
    /// The operator's wish for slices that have none.
    pub wish: Engine,
}

/// What a slice wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// The engine.
    pub engine: Engine,
    /// The trust domain that it names.
    pub domain: Option<&'a str>,
    /// It has a compute share.
    pub share: bool,
}

fn card(gpu: &GpuInfo) -> Card {
    let mig = match gpu.mig {
        None => MigMode::Never,
        Some(false) => MigMode::Off,
        Some(true) => MigMode::On,
    };
    Card { vendor: Vendor::Nvidia, capability: gpu.capability, mig }
}

/// What the node has against `engine`, whatever the GPU.
fn besides(engine: Engine, means: Means<'_>) -> Option<String> {
    means.mps.err().filter(|_| engine == Engine::Spatial).map(str::to_owned)
}

/// Why `gpu` can't run `engine`; `None` if it can.
pub fn obstacle(gpu: &GpuInfo, engine: Engine, means: Means<'_>) -> Option<String> {
    card(gpu).obstacle(engine).or_else(|| besides(engine, means))
}

/// Which engines `gpu` can run, and what can be moved off it with this version of the driver.
pub fn modes(gpu: &GpuInfo, means: Means<'_>, driver: &str) -> GpuModes {
    let engines = card(gpu).engines(|engine| besides(engine, means));
    GpuModes {
        index: gpu.index,
        uuid: Some(gpu.uuid.clone()),
        name: gpu.name.clone(),
        compute_capability: gpu.capability.map(|(major, minor)| format!("{major}.{minor}")),
        migration: card(gpu).migration(&engines, Some(driver)),
        engines,
    }
}

/// The engine of a slice on whole `gpus`, and the trust domain that it is in then.
pub fn choose(wish: Wish<'_>, gpus: &[&GpuInfo], means: Means<'_>) -> Result<(Choice, Option<String>), ErrorBody> {
    let obstacle = |engine| {
        let several = (engine == Engine::Spatial && gpus.len() > 1)
            .then(|| format!("the slice has {} GPUs, and an MPS server has one", gpus.len()));
        several.or_else(|| {
            gpus.iter()
                .find_map(|gpu| Some(format!("GPU {} ({}): {}", gpu.index, gpu.name, obstacle(gpu, engine, means)?)))
        })
    };
    let named = wish.domain.map(str::to_owned);
    let told = means.wish == Engine::Spatial;
    let domain = || named.clone().or_else(|| told.then(|| COMMON.to_owned()));
    let chosen = |engine, reason: String, domain| Ok((Choice { engine, reason }, domain));
    match wish.engine {
        pinned @ (Engine::Temporal | Engine::Spatial | Engine::Mig | Engine::Whole) => match obstacle(pinned) {
            None if pinned == Engine::Temporal => chosen(pinned, "it was asked for".into(), named),
            None => chosen(pinned, "it was asked for".into(), domain()),
            Some(why) => Err(ErrorBody::new(
                ErrorCode::Refused,
                format!("engine {pinned} can't be had: {why}"),
                "`cleave modes` lists what each GPU can; leave --engine out to have one chosen",
            )),
        },
        Engine::Auto if let Some(why) = obstacle(Engine::Temporal) => Err(ErrorBody::new(
            ErrorCode::Refused,
            format!("{why}; and no instance suffices"),
            "`cleave mig list` shows them; `cleave mig plan` says what can be had",
        )),
        Engine::Auto if means.wish == Engine::Temporal => {
            chosen(Engine::Temporal, "the daemon was told so".into(), named)
        }
        Engine::Auto => {
            let why = if !wish.share {
                "it has no compute share".into()
            } else if named.is_none() && !told {
                "it names no trust domain, and programs that share an MPS server end with each other's faults".into()
            } else if let Some(why) = obstacle(Engine::Spatial) {
                why
            } else {
                let who = if named.is_some() { "it names a trust domain" } else { "the daemon was told so" };
                return chosen(Engine::Spatial, format!("it has a compute share, {who}, and the GPU can"), domain());
            };
            chosen(Engine::Temporal, why, named)
        }
    }
}

/// What slices must have in common to share an MPS server. Slices of different users never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainKey<'a> {
    /// The GPU.
    pub uuid: &'a str,
    /// The user.
    pub owner: u32,
    /// Its name; a slice that names none is alone in one, by its id.
    pub name: &'a str,
}

/// The domain of a spatial slice.
pub fn domain(record: &Record) -> Option<DomainKey<'_>> {
    let device = record.devices.first().filter(|_| record.choice.engine == Engine::Spatial)?;
    let name = record.trust_domain.as_deref().unwrap_or(&record.id);
    Some(DomainKey { uuid: &device.uuid, owner: record.owner, name })
}

impl DomainKey<'_> {
    /// The name of its folder: the same for the same domain, and short, because sockets lie in there (FNV-1a).
    pub fn folder(&self) -> String {
        let words = [self.uuid, "/", &self.owner.to_string(), "/", self.name].concat();
        let hash = words
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{hash:016x}")
    }
}

/// Which multiprocessors a program has for its own: from here to there, in thousandths of them all. The stand-in moves both
/// ends to where the GPU can be cut, the same for whoever begins where another ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it begins.
    pub from: u16,
    /// Where it ends.
    pub to: u16,
}

/// Less than so many thousandths of a GPU can't be a place: what begins and ends there would meet at one boundary. `threads`:
/// resident threads of all its multiprocessors, 2048 of each or fewer; 100 of an H100, which gives out 8 of 132 at a time, and
/// of a GPU that was not measured.
pub fn smallest_place(capability: Option<(u32, u32)>, threads: Option<u64>) -> u16 {
    let together = match capability.map_or(9, |(major, _)| major) {
        9.. => 8,
        8 => 4,
        _ => 2,
    };
    let processors = threads.map_or(132, |threads| threads / 2048).max(1);
    // What is left of the cuts may be half as much again.
    (together * 1650u64).div_ceil(processors).clamp(100, 1000) as u16
}

impl Place {
    /// How much it is, in thousandths.
    pub fn width(self) -> u16 {
        self.to.saturating_sub(self.from)
    }

    fn meets(self, other: Self) -> bool {
        self.from < other.to && other.from < self.to
    }

    /// A place of this width among those `taken`, if there is room and it is no less than the `smallest`: `before` where that
    /// does, else the lowest.
    pub fn find(width: u16, smallest: u16, before: Option<Self>, taken: &[Self]) -> Option<Self> {
        let fits = |place: &Self| place.to <= 1000 && !taken.iter().any(|other| other.meets(*place));
        let starts = std::iter::once(0).chain(taken.iter().map(|other| other.to));
        let mut free: Vec<Self> =
            starts.map(|from| Self { from, to: from.saturating_add(width) }).filter(fits).collect();
        free.sort_by_key(|place| place.from);
        let stays = before.filter(|place| place.width() == width && fits(place));
        (smallest..1000).contains(&width).then(|| stays.or(free.first().copied()))?
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

impl std::str::FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (from, to) = text.split_once('-').ok_or(())?;
        let (from, to) = (from.parse().map_err(|_| ())?, to.parse().map_err(|_| ())?);
        (from < to && to <= 1000).then_some(Self { from, to }).ok_or(())
    }
}

/// Whether a driver of this CUDA version (12040 is 12.4) gives a program certain multiprocessors of a GPU. Without that a
/// program has a number of them, wherever the hardware finds them free.
pub fn gives_places(cuda_version: u32) -> bool {
    cuda_version >= 12_040
}

/// Part of the multiprocessors for the next program of `me`, in percent, and why it is not all. `others` share its server.
///
/// A running program keeps what it started with. So multiprocessors that a higher class has reserved are kept free of a
/// lower one from its start, until its operations are known to be short: those the gate can hold back. And those of an
/// adaptive one are kept free of everybody, which leaves the same to others as soon as it is not alone.
pub fn processors<'a>(me: &Record, others: impl Iterator<Item = &'a Record>) -> (f64, Option<String>) {
    let others: Vec<&Record> = others.collect();
    let shared: Vec<&Record> = others.iter().copied().filter(|one| one.compute_percent.is_some()).collect();
    let sum = |of: &dyn Fn(&Record) -> bool| -> f64 {
        shared.iter().filter(|one| of(one)).filter_map(|one| one.compute_percent).sum()
    };
    let mut part = (100.0, None);
    match (me.mode, me.compute_percent) {
        (Mode::Strict, Some(share)) if share < 100.0 => part = (share, Some("its mode is strict".into())),
        (Mode::Adaptive, Some(share)) if share < 100.0 && !shared.is_empty() => {
            part = (share, Some("its mode is adaptive, and others share its server".into()));
        }
        _ => {}
    }
    // What is kept free for it of long operations is of use only if it stays there.
    let lower = others.iter().filter(|one| one.priority < me.priority);
    let longest = lower.map(|one| one.longest_op_ns).max().unwrap_or(0);
    if let Some(share) = me.compute_percent.filter(|share| longest >= LONG && *share < part.0) {
        let longest = longest as f64 / 1e6;
        let why = format!("operations of slices of lower priority last up to {longest:.1} ms, and none is cut short");
        part = (share, Some(why));
    }
    let kept = sum(&|one| one.mode == Mode::Adaptive && one.priority <= me.priority);
    let rest = (100.0 - kept).max(LEAST);
    if kept > 0.0 && rest < part.0 {
        part = (rest, Some(format!("{kept} % are kept free for adaptive slices")));
    }
    let short = (1..LONG).contains(&me.longest_op_ns);
    let reserved = sum(&|one| one.priority > me.priority);
    let rest = (100.0 - reserved - kept).max(LEAST);
    if short || reserved == 0.0 || rest >= part.0 {
        return part;
    }
    let what = match me.longest_op_ns {
        0 => "how long its operations are is not known yet".into(),
        longest => format!("its operations last up to {:.1} ms, and none is cut short", longest as f64 / 1e6),
    };
    (rest, Some(format!("{reserved} % are kept free for slices of higher priority, because {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slice::RecordDevice;

    fn gpu(name: &str, capability: (u32, u32), mig: Option<bool>) -> GpuInfo {
        GpuInfo { name: name.into(), capability: Some(capability), mig, ..GpuInfo::default() }
    }

    const CAN: Means<'_> = Means { mps: Ok(()), wish: Engine::Auto };
    const TOLD: Means<'_> = Means { mps: Ok(()), wish: Engine::Spatial };

    fn cards() -> [GpuInfo; 4] {
        let (h100, mig) = (gpu("H100", (9, 0), Some(false)), gpu("A100", (8, 0), Some(true)));
        [h100, mig, gpu("4090", (8, 9), None), gpu("K80", (3, 7), None)]
    }

    #[test]
    fn each_card_can_what_it_can() {
        let can = |means| {
            cards().map(|gpu| modes(&gpu, means, "580").engines.iter().map(|e| e.available).collect::<Vec<_>>())
        };
        let (both, one, mig) = (vec![false, true, true], vec![false, false, true], vec![true, false, false]);
        assert_eq!(can(CAN), [both.clone(), mig.clone(), both, one.clone()]);
        let without = Means { mps: Err("no program"), ..CAN };
        assert_eq!(can(without), [one.clone(), mig, one.clone(), one]);
        let reasons = |gpu: &GpuInfo| {
            modes(gpu, without, "580")
                .engines
                .into_iter()
                .map(|e| e.reason.unwrap_or_default())
                .collect::<Vec<_>>()
                .join("; ")
        };
        let [h100, a100, rtx, k80] = cards();
        for (gpu, words) in [
            (&h100, ["MIG mode is off", "no program"]),
            (&a100, ["MIG mode is on", "instances only"]),
            (&rtx, ["no MIG", "no program"]),
            (&k80, ["no MIG", "3.7"]),
            (&GpuInfo::default(), ["no MIG", "not known"]),
        ] {
            assert!(words.iter().all(|word| reasons(gpu).contains(word)), "{}: {}", gpu.name, reasons(gpu));
        }
    }

    #[test]
    fn spatial_must_be_asked_for() {
        let [h100, a100, _, k80] = cards();
        let choose = |engine, domain, share, gpus: &[&GpuInfo], means| {
            super::choose(Wish { engine, domain, share }, gpus, means).map(|(choice, domain)| (choice.engine, domain))
        };
        let team = Some("team".to_owned());
        use Engine::{Auto, Mig, Spatial, Temporal};
        let one: &[&GpuInfo] = &[&h100];
        for (engine, domain, share, gpus, means, expected) in [
            (Auto, None, true, one, CAN, Ok((Temporal, None))),
            (Auto, Some("team"), false, one, CAN, Ok((Temporal, team.clone()))),
            (Auto, Some("team"), true, one, CAN, Ok((Spatial, team.clone()))),
            (Auto, None, true, one, TOLD, Ok((Spatial, Some("default".into())))),
            (Auto, Some("team"), true, one, TOLD, Ok((Spatial, team.clone()))),
            (Auto, None, false, one, TOLD, Ok((Temporal, None))),
            (Auto, Some("team"), true, &[&k80], CAN, Ok((Temporal, team.clone()))),
            (Auto, Some("team"), true, &[&h100, &h100], CAN, Ok((Temporal, team.clone()))),
            (Auto, Some("team"), true, one, Means { wish: Temporal, ..CAN }, Ok((Temporal, team.clone()))),
            (Temporal, Some("team"), true, one, TOLD, Ok((Temporal, team.clone()))),
            (Spatial, None, false, one, CAN, Ok((Spatial, None))),
            (Spatial, Some("team"), false, one, CAN, Ok((Spatial, team.clone()))),
            (Spatial, None, true, &[&k80], CAN, Err("3.7")),
            (Spatial, None, true, &[&h100, &h100], CAN, Err("2 GPUs")),
            (Spatial, None, true, one, Means { mps: Err("no program"), ..CAN }, Err("no program")),
            (Mig, None, true, one, CAN, Err("MIG mode is off")),
            (Temporal, None, true, &[&a100], CAN, Err("MIG mode is on")),
            (Auto, None, true, &[&a100], CAN, Err("MIG mode is on")),
        ] {
            let found = choose(engine, domain, share, gpus, means);
            match expected {
                Ok(expected) => assert_eq!(found.unwrap(), expected, "{engine} {domain:?} {share}"),
                Err(part) => {
                    let error = found.unwrap_err();
                    assert!(error.code == ErrorCode::Refused && error.message.contains(part), "{error}");
                }
            }
        }
    }

    fn record(owner: u32, domain: Option<&str>, engine: Engine) -> Record {
        Record {
            id: format!("SLICE-{owner}"),
            owner,
            devices: vec![RecordDevice { uuid: "GPU-1".into(), ..RecordDevice::default() }],
            choice: Choice { engine, ..Choice::default() },
            trust_domain: domain.map(str::to_owned),
            ..Record::default()
        }
    }

    #[test]
    fn only_slices_of_one_user_and_one_name_share_a_server() {
        let folder = |owner, name| domain(&record(owner, name, Engine::Spatial)).map(|key| key.folder());
        assert_eq!(folder(1, Some("a")), folder(1, Some("a")));
        let all = [folder(1, Some("a")), folder(2, Some("a")), folder(1, Some("b")), folder(1, None), folder(2, None)];
        let different: std::collections::BTreeSet<_> = all.iter().flatten().collect();
        assert_eq!(different.len(), all.len());
        assert!(all.iter().flatten().all(|name| name.len() == 16));
        assert_eq!(domain(&record(1, Some("a"), Engine::Temporal)), None);
    }

    #[test]
    fn places_do_not_meet() {
        let place = |from, to| Place { from, to };
        for (width, before, taken, found) in [
            (500, None, vec![], Some(place(0, 500))),
            (500, None, vec![place(0, 500)], Some(place(500, 1000))),
            (500, Some(place(500, 1000)), vec![], Some(place(500, 1000))),
            (500, Some(place(500, 1000)), vec![place(700, 800)], Some(place(0, 500))),
            (300, Some(place(500, 1000)), vec![], Some(place(0, 300))),
            (250, None, vec![place(400, 700), place(0, 200)], Some(place(700, 950))),
            (200, None, vec![place(400, 700), place(0, 200)], Some(place(200, 400))),
            (600, None, vec![place(0, 500)], None),
            (99, None, vec![], None),
            (1000, None, vec![], None),
        ] {
            assert_eq!(Place::find(width, 100, before, &taken), found, "{width} beside {taken:?}");
        }
        // H100, one that was not measured, A100, L4, A2.
        for (capability, threads, least) in [
            (Some((9, 0)), Some(132 * 2048), 100),
            (None, None, 100),
            (Some((8, 0)), Some(108 * 2048), 100),
            (Some((8, 9)), Some(58 * 1536), 154),
            (Some((8, 6)), Some(10 * 1536), 943),
        ] {
            assert_eq!(smallest_place(capability, threads), least, "{capability:?} {threads:?}");
        }
        assert_eq!(Place::find(150, 154, None, &[]), None);
        assert_eq!("500-1000".parse(), Ok(place(500, 1000)));
        assert_eq!(place(500, 1000).to_string(), "500-1000");
        for bad in ["", "500", "5-5", "0-1001", "a-b", "-1-5"] {
            assert_eq!(bad.parse::<Place>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn multiprocessors_are_kept_free_for_a_higher_class() {
        let slice = |class: &str, share: Option<f64>, mode, longest_op_ns| Record {
            priority: class.parse().unwrap(),
            compute_percent: share,
            mode,
            longest_op_ns,
            ..Record::default()
        };
        let serve = slice("production", Some(40.0), Mode::Balanced, 0);
        let (equal, free) =
            (slice("staging", Some(30.0), Mode::Balanced, 0), slice("production", None, Mode::Balanced, 0));
        let calm = slice("staging", Some(30.0), Mode::Adaptive, 0);
        let [long, quick] = [LONG, LONG - 1].map(|longest| slice("staging", Some(30.0), Mode::Balanced, longest));
        let burn = |share, mode, longest| slice("staging", share, mode, longest);
        for (me, others, expected) in [
            (burn(None, Mode::Balanced, 0), vec![], 100.0),
            (burn(None, Mode::Balanced, 0), vec![&equal, &free], 100.0),
            (burn(None, Mode::Balanced, 0), vec![&serve], 60.0),
            (burn(None, Mode::Balanced, 0), vec![&serve, &serve], 20.0),
            (burn(None, Mode::Balanced, 0), vec![&serve, &serve, &serve], LEAST),
            (burn(None, Mode::Balanced, LONG), vec![&serve], 60.0),
            (burn(None, Mode::Balanced, LONG - 1), vec![&serve], 100.0),
            (burn(Some(25.0), Mode::Strict, 0), vec![], 25.0),
            (burn(Some(25.0), Mode::Strict, 0), vec![&serve], 25.0),
            (burn(Some(75.0), Mode::Strict, LONG), vec![&serve], 60.0),
            (burn(Some(75.0), Mode::Balanced, 1), vec![&serve], 100.0),
            (serve.clone(), vec![&equal, &serve], 100.0),
            (burn(Some(25.0), Mode::Adaptive, 0), vec![], 100.0),
            (burn(Some(25.0), Mode::Adaptive, 0), vec![&equal], 25.0),
            (burn(None, Mode::Balanced, 0), vec![&calm, &equal], 70.0),
            (burn(None, Mode::Balanced, 1), vec![&calm, &serve], 70.0),
            (burn(None, Mode::Balanced, 0), vec![&calm, &serve], 30.0),
            (burn(Some(20.0), Mode::Strict, 0), vec![&calm], 20.0),
            (serve.clone(), vec![&long], 40.0),
            (serve.clone(), vec![&quick], 100.0),
            (free.clone(), vec![&long], 100.0),
        ] {
            let (part, why) = processors(&me, others.into_iter());
            assert_eq!((part, why.is_some()), (expected, expected < 100.0), "{me:?}");
        }
    }
}
