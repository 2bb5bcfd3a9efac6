//! How many slices GPUs give, by the way in which each tier has them cut.
use crate::fleet::Kind;
use crate::tier::Tier;
use cleave_api::Engine;
use cleave_policy::mig::{Geometry, Mask};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// How a tier's GPUs are cut.
#[derive(Clone, Debug, PartialEq)]
pub enum Cut {
    /// MIG instances of a profile: `mig:3g.40gb`.
    Mig(String),
    /// Parts of the multiprocessors and the memory, in percent: `spatial:25%`.
    Spatial(f64),
    /// So many that take turns: `temporal:4`.
    Temporal(u32),
    /// One that has it to itself: `whole`.
    Whole,
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("\"{text}\" is no way to cut GPUs: {why}; as in mig:3g.40gb, spatial:25%, temporal:4 or whole")
        };
        if text == "whole" {
            return Ok(Self::Whole);
        }
        let (engine, how) = text.split_once(':').ok_or_else(|| wrong("a colon is missing"))?;
        match engine {
            "mig" if !how.is_empty() => Ok(Self::Mig(how.into())),
            "spatial" => {
                let percent = how.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
                let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
                percent.map(Self::Spatial).ok_or_else(|| wrong("a part is above 0 and at most 100 %"))
            }
            "temporal" => {
                let count = how.parse().ok().filter(|count| (1..=1000).contains(count));
                count.map(Self::Temporal).ok_or_else(|| wrong("there are 1 to 1000 that take turns"))
            }
            _ => Err(wrong("the engine is mig, spatial, temporal or whole")),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mig(profile) => write!(f, "mig:{profile}"),
            Self::Spatial(percent) => write!(f, "spatial:{percent}%"),
            Self::Temporal(count) => write!(f, "temporal:{count}"),
            Self::Whole => f.write_str("whole"),
        }
    }
}

/// How a tier has GPUs of a kind cut into `parts` equal ones: by the first of its engines that they have; in MIG, the largest
/// profile that is there so often. An error says why there is no way.
pub fn cut(kind: &Kind, tier: &Tier, parts: u32) -> Result<Cut, String> {
    let way = |engine: &Engine| match (kind.obstacle(*engine), engine, &kind.geometry) {
        (Some(why), ..) => Err(why),
        (None, Engine::Mig, Some(mig)) => {
            let profiles = mig.profiles.iter().enumerate().filter(|(at, _)| mig.room(0, *at) >= parts);
            let largest = profiles.map(|(_, one)| one).max_by_key(|one| (one.memory_mib, one.sms));
            largest.map(|one| Cut::Mig(one.name.clone())).ok_or_else(|| format!("no profile is there {parts} times"))
        }
        (None, Engine::Spatial, _) => Ok(Cut::Spatial(100.0 / f64::from(parts.max(1)))),
        (None, Engine::Whole, _) => Ok(Cut::Whole),
        _ => Ok(Cut::Temporal(parts)),
    };
    let mut why: Vec<String> = Vec::new();
    for engine in &tier.engines {
        match way(engine) {
            Ok(cut) => return Ok(cut),
            Err(reason) => why.push(reason),
        }
    }
    Err(why.join("; "))
}

/// What the GPUs of a kind give a tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slots {
    /// The model.
    pub gpu: String,
    /// How many GPUs.
    pub gpus: u32,
    /// How they are cut.
    pub cut: Option<String>,
    /// Slices on each.
    pub each: u32,
    /// Slices on all.
    pub slots: u32,
    /// Memory of one, in bytes.
    pub memory_bytes: Option<u64>,
    /// Why there are none.
    pub why_not: Option<String>,
}

impl Slots {
    /// That there are none.
    pub fn none(count: u32, kind: &Kind, why: String) -> Self {
        let gpu = kind.model.clone();
        Self { gpu, gpus: count, cut: None, each: 0, slots: 0, memory_bytes: None, why_not: Some(why) }
    }

    /// The slices that so many GPUs of a kind give, cut so.
    pub fn of(count: u32, kind: &Kind, cut: &Cut) -> Self {
        let engine = match cut {
            Cut::Mig(_) => Engine::Mig,
            Cut::Spatial(_) => Engine::Spatial,
            Cut::Temporal(_) => Engine::Temporal,
            Cut::Whole => Engine::Whole,
        };
        if let Some(why) = kind.obstacle(engine) {
            return Self::none(count, kind, why);
        }
        let part = |each: u32| (kind.memory_mib << 20) / u64::from(each.max(1));
        let (each, memory_bytes) = match (cut, &kind.geometry) {
            (Cut::Temporal(count), _) => (*count, part(*count)),
            (Cut::Whole, _) => (1, part(1)),
            (Cut::Spatial(percent), _) => {
                // A third is 33.3 %: three of them fit.
                let each = (100.0 / percent + 1e-6) as u32;
                (each, part(each))
            }
            (Cut::Mig(profile), geometry) => {
                let mig = geometry.iter().find_map(|mig| mig.named(profile).map(|at| (mig, at)));
                let Some((mig, at)) = mig else {
                    let names = geometry.iter().flat_map(|mig| &mig.profiles).map(|one| one.name.as_str());
                    let names: Vec<&str> = names.collect();
                    let why = format!("{} has no profile {profile}, but {}", kind.model, names.join(", "));
                    return Self::none(count, kind, why);
                };
                (mig.room(0, at), mig.profiles.get(at).map_or(0, |profile| profile.memory_mib << 20))
            }
        };
        Self {
            cut: Some(cut.to_string()),
            each,
            slots: each.saturating_mul(count),
            memory_bytes: Some(memory_bytes),
            why_not: None,
            ..Self::none(count, kind, String::new())
        }
    }
}

/// How many instances of one MIG profile GPUs hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OfProfile {
    /// The profile.
    pub profile: String,
    /// How many GPUs were asked about.
    pub gpus: usize,
    /// Instances on all of them.
    pub instances: u32,
    /// Most instances on one.
    pub each: u32,
    /// Why there are no more: the tightest rule.
    pub why: String,
    /// What to put beside them, where anything as large or nearly fits.
    pub offer: Option<Offer>,
}

/// Instances of several profiles that GPUs hold instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The profiles on each.
    pub per_gpu: Vec<String>,
    /// Instances on all.
    pub instances: usize,
    /// `per_gpu` in words.
    #[serde(skip)]
    list: String,
}

/// How many instances of `profile` GPUs hold, each with its geometry and the slices of it that are taken.
pub fn of_profile<'a>(gpus: impl Iterator<Item = (&'a Geometry, Mask)>, profile: &str) -> OfProfile {
    let mut all = OfProfile { profile: profile.into(), ..OfProfile::default() };
    let mut offered = 0;
    for (geometry, taken) in gpus {
        all.gpus += 1;
        let Some(kind) = geometry.named(profile) else { continue };
        let room = geometry.room(taken, kind);
        all.instances += room;
        all.each = all.each.max(room);
        let more = vec![kind; room as usize + 1];
        if all.why.is_empty() {
            let rule = geometry.tightest(&more);
            all.why = match taken {
                0 => rule,
                _ => format!("instances are there already; and of an empty GPU: {rule}"),
            };
        }
        let offer = geometry.offer(taken, &more);
        offered += offer.len();
        if all.offer.is_none() && offer.len() as u32 > room {
            let name = |at: &usize| Some(geometry.profiles.get(*at)?.name.clone());
            let per_gpu = offer.iter().filter_map(name).collect();
            all.offer = Some(Offer { per_gpu, instances: 0, list: geometry.list(&offer) });
        }
    }
    if let Some(offer) = &mut all.offer {
        offer.instances = offered;
    }
    all
}

impl fmt::Display for OfProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, gpus, instances, each, why, offer } = self;
        let plural = if *gpus == 1 { "" } else { "s" };
        write!(f, "{instances} of {profile} on {gpus} GPU{plural}, {each} on each at most")?;
        write!(f, "\nnot {}: {why}", (*each as usize + 1) * gpus)?;
        let Some(Offer { instances, list, .. }) = offer else { return Ok(()) };
        write!(f, "\nwith the nearest profile beside it {instances} instances: {list} on each")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::groups;

    #[test]
    fn slots_are_counted_by_the_way_of_cutting() {
        for (gpus, cut, each, total) in [
            ("8xH100", "temporal:4", 4, 32),
            ("8xH100", "mig:3g.40gb", 2, 16),
            // Not 16: there is one place for it.
            ("8xH100", "mig:4g.40gb", 1, 8),
            ("8xH100", "mig:9g", 0, 0),
            ("8xH100", "spatial:25%", 4, 32),
            ("8xH100", "spatial:33.3%", 3, 24),
            ("8xH100", "spatial:30%", 3, 24),
            ("8xTesla K80", "spatial:25%", 0, 0),
            ("8xTesla K80", "mig:3g.40gb", 0, 0),
            ("8xTesla K80", "temporal:2", 2, 16),
        ] {
            let (count, kind) = &groups(gpus, 10).unwrap()[0];
            let slots = Slots::of(*count, kind, &cut.parse().unwrap());
            assert_eq!((slots.each, slots.slots, slots.why_not.is_some()), (each, total, each == 0), "{gpus} {cut}");
            assert!(slots.cut.is_none_or(|said| said == cut));
        }
        for bad in ["", "mig:", "mig", "spatial:0%", "spatial:25", "temporal:0", "temporal:x", "vgpu:4"] {
            assert!(bad.parse::<Cut>().unwrap_err().contains("temporal:4"), "{bad}");
        }
    }

    /// B10: "8 H100 with MIG at 4g are 16 slots" is wrong.
    #[test]
    fn eight_h100_hold_eight_of_4g_and_as_many_of_3g_beside() {
        let kinds = groups("H100+A30", 1).unwrap();
        let [h100, a30] = [0, 1].map(|at: usize| kinds[at].1.geometry.as_ref().unwrap());
        let counted = of_profile([(h100, 0); 8].into_iter(), "4g.40gb");
        assert_eq!((counted.gpus, counted.instances, counted.each), (8, 8, 1));
        assert_eq!(
            counted.why,
            "2 instances of 4g.40gb are asked, and a GPU holds 1: it takes 4 memory slices, from 0 on"
        );
        let offer = counted.offer.as_ref().unwrap();
        assert_eq!((offer.instances, offer.per_gpu.join("+")), (16, "4g.40gb+3g.40gb".into()));
        assert!(counted.to_string().contains("not 16: 2 instances"), "{counted}");
        // What is taken counts, and so do GPUs that lack the profile.
        let three = h100.named("3g.40gb").unwrap();
        let taken = h100.profiles[three].mask(0);
        let counted = of_profile([(h100, taken), (h100, 0), (a30, 0)].into_iter(), "4g.40gb");
        assert_eq!((counted.gpus, counted.instances), (3, 1));
        assert!(counted.why.contains("there already"), "{counted}");
    }

    #[test]
    fn a_tier_has_its_gpus_cut_by_the_first_engine_that_they_have() {
        use Engine::{Mig, Spatial, Temporal};
        for (gpus, engines, parts, expected) in [
            ("H100", &[Mig][..], 4, Ok("mig:1g.20gb")),
            ("H100", &[Mig], 7, Ok("mig:1g.10gb")),
            ("H100", &[Mig], 2, Ok("mig:3g.40gb")),
            ("H100", &[Mig, Temporal], 8, Ok("temporal:8")),
            ("A30", &[Mig, Spatial], 4, Ok("mig:1g.6gb")),
            ("T4", &[Mig, Spatial], 4, Ok("spatial:25%")),
            ("Tesla K80", &[Temporal], 3, Ok("temporal:3")),
            ("H100,spatial", &[Mig, Spatial], 2, Ok("spatial:50%")),
            ("H100,spatial", &[Mig], 2, Err("kept for engine spatial")),
            ("H100", &[Mig], 8, Err("no profile is there 8 times")),
            ("T4", &[Mig], 4, Err("no MIG")),
            ("Tesla K80", &[Mig, Spatial], 4, Err("3.7")),
        ] {
            let (_, kind) = &groups(gpus, 1).unwrap()[0];
            match (cut(kind, &Tier { engines: engines.to_vec() }, parts), expected) {
                (found, Ok(expected)) => assert_eq!(found.map(|cut| cut.to_string()), Ok(expected.into()), "{gpus}"),
                (found, Err(word)) => assert!(found.as_ref().unwrap_err().contains(word), "{gpus} {found:?}"),
            }
        }
    }
}
