//! How many slices GPUs give, by the way in which each tier has them cut.
use cleave_policy::mig::Geometry;
use serde::Serialize;
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
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("\"{text}\" is no way to cut GPUs: {why}; as in mig:3g.40gb, spatial:25% or temporal:4")
        };
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
            _ => Err(wrong("the engine is mig, spatial or temporal")),
        }
    }
}

/// GPUs of a model.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The model.
    pub name: String,
    /// How many.
    pub count: u32,
    /// Memory of one, in bytes, where it is known.
    pub memory_bytes: Option<u64>,
    /// Its MIG geometry, if it has MIG.
    pub mig: Option<Geometry>,
    /// Whether MPS gives its clients parts of it.
    pub spatial: bool,
}

/// What the GPUs of a model give a tier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slots {
    /// The model.
    pub gpu: String,
    /// How many GPUs.
    pub gpus: u32,
    /// Slices on each.
    pub each: u32,
    /// Slices on all.
    pub slots: u32,
    /// Memory of one, in bytes, where it is known.
    pub memory_bytes: Option<u64>,
    /// Why there are none.
    pub why_not: Option<String>,
}

/// The slices that GPUs of a kind give, cut so.
pub fn slots(kind: &Kind, cut: &Cut) -> Slots {
    let part = |each: u32| kind.memory_bytes.map(|bytes| bytes / u64::from(each.max(1)));
    let (each, memory_bytes, why_not) = match cut {
        Cut::Temporal(count) => (*count, part(*count), None),
        Cut::Spatial(_) if !kind.spatial => {
            (0, None, Some("MPS with limits needs an NVIDIA GPU of compute capability 7.0".into()))
        }
        Cut::Spatial(percent) => {
            // A third is 33.3 %: three of them fit.
            let each = (100.0 / percent + 1e-6) as u32;
            (each, part(each), None)
        }
        Cut::Mig(profile) => match kind.mig.as_ref().map(|mig| (mig, mig.named(profile))) {
            None => (0, None, Some("it has no MIG".into())),
            Some((mig, None)) => {
                let names: Vec<&str> = mig.profiles.iter().map(|profile| profile.name.as_str()).collect();
                (0, None, Some(format!("it has no profile {profile}, but {}", names.join(", "))))
            }
            Some((mig, Some(at))) => {
                let bytes = mig.profiles.get(at).map(|profile| profile.memory_mib << 20);
                (mig.room(0, at), bytes, None)
            }
        },
    };
    Slots { gpu: kind.name.clone(), gpus: kind.count, each, slots: each * kind.count, memory_bytes, why_not }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cleave_policy::mig::Profile;

    #[test]
    fn slots_are_counted_by_the_way_of_cutting() {
        let profile = |name: &str, starts: &[u8], size| Profile {
            name: name.into(),
            starts: starts.to_vec(),
            size,
            media: false,
            sms: 0,
            memory_mib: 40448,
        };
        let mig = Geometry { profiles: vec![profile("3g.40gb", &[0, 4], 4), profile("4g.40gb", &[0], 4)] };
        let h100 = Kind { name: "H100".into(), count: 8, memory_bytes: Some(80 << 30), mig: Some(mig), spatial: true };
        let k80 = Kind { name: "K80".into(), mig: None, spatial: false, ..h100.clone() };
        for (kind, cut, each, total) in [
            (&h100, "temporal:4", 4, 32),
            (&h100, "mig:3g.40gb", 2, 16),
            // Not 16: there is one place for it.
            (&h100, "mig:4g.40gb", 1, 8),
            (&h100, "mig:9g", 0, 0),
            (&h100, "spatial:25%", 4, 32),
            (&h100, "spatial:33.3%", 3, 24),
            (&h100, "spatial:30%", 3, 24),
            (&k80, "spatial:25%", 0, 0),
            (&k80, "mig:3g.40gb", 0, 0),
            (&k80, "temporal:2", 2, 16),
        ] {
            let slots = slots(kind, &cut.parse().unwrap());
            assert_eq!((slots.each, slots.slots, slots.why_not.is_some()), (each, total, each == 0), "{cut}");
        }
        for bad in ["", "mig:", "mig", "spatial:0%", "spatial:25", "temporal:0", "temporal:x", "vgpu:4"] {
            assert!(bad.parse::<Cut>().unwrap_err().contains("temporal:4"), "{bad}");
        }
    }
}
