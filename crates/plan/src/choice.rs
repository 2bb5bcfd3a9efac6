//! Which engine is the best that hardware has for a slice, and what else that takes: without a daemon, of GPUs that need not be
//! here. What a daemon gives a slice depends on how its GPUs are set up besides (`cleave_daemon::engine`).
use crate::fleet::Kind;
use cleave_api::{Engine, format_bytes};
use serde::Serialize;

/// What a slice wants.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The engine; `auto` for the best.
    pub engine: Engine,
    /// Memory, in bytes.
    pub bytes: u64,
    /// A part of the GPU's time or multiprocessors, in percent.
    pub percent: Option<f64>,
    /// It names a trust domain.
    pub domain: bool,
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// The engine.
    pub engine: Engine,
    /// The MIG profile.
    pub profile: Option<String>,
    /// Why.
    pub reason: String,
    /// What has to be so besides, before a daemon gives it that.
    pub needs: Vec<String>,
}

/// The engine for a slice on a GPU of a kind: MIG, then parts of the multiprocessors, then turns; or the one that is pinned. An
/// error says why it can't be had.
pub fn choose(kind: &Kind, wish: &Wish) -> Result<Choice, String> {
    let whole = kind.memory_mib << 20;
    if wish.bytes > whole {
        return Err(format!("{} are asked, and it has {}", format_bytes(wish.bytes), format_bytes(whole)));
    }
    let order = match wish.engine {
        Engine::Auto => vec![Engine::Mig, Engine::Spatial, Engine::Temporal],
        pinned => vec![pinned],
    };
    let mut why_not: Vec<String> = Vec::new();
    for engine in order {
        match with(kind, engine, wish) {
            Ok(choice) if why_not.is_empty() => return Ok(choice),
            Ok(choice) => return Ok(Choice { reason: format!("{}; {}", why_not.join("; "), choice.reason), ..choice }),
            Err(why) => why_not.push(why),
        }
    }
    Err(why_not.join("; "))
}

fn with(kind: &Kind, engine: Engine, wish: &Wish) -> Result<Choice, String> {
    if let Some(why) = kind.lacks(engine) {
        return Err(why);
    }
    if kind.mig == Some(true) && engine != Engine::Mig {
        return Err("MIG mode is on, and programs see its instances only".into());
    }
    let mut needs = Vec::new();
    let (profile, reason) = match (engine, &kind.geometry) {
        (Engine::Mig, Some(mig)) => {
            let (mib, percent) = (wish.bytes.div_ceil(1 << 20), wish.percent.unwrap_or(0.0));
            let least = mig.suitable(mib, percent).into_iter().find_map(|at| mig.profiles.get(at));
            let Some(least) = least else {
                return Err(format!("no MIG profile is known to have {} and {percent} %", format_bytes(mib << 20)));
            };
            if kind.mig != Some(true) {
                needs.push("MIG mode has to be on: `cleave mig apply`, on an idle GPU".into());
            }
            let (memory, share) = (format_bytes(least.memory_mib << 20), mig.percent(least));
            (
                Some(least.name.clone()),
                format!("{} is the smallest profile that suffices: {memory}, {share} %", least.name),
            )
        }
        (Engine::Spatial, _) => {
            if !wish.domain {
                needs.push("a trust domain: --trust-domain NAME".into());
            }
            if wish.percent.is_none() && wish.engine == Engine::Auto {
                needs.push("a share: --compute PERCENT".into());
            }
            (None, "its multiprocessors can be divided".to_owned())
        }
        (Engine::Whole, _) => (None, "nobody is beside it".to_owned()),
        _ => (None, "programs can take turns on every GPU".to_owned()),
    };
    if kind.given_whole() && engine != Engine::Whole {
        needs.push(
            "what cleave does not have yet: it divides NVIDIA's GPUs only; --engine whole gives this one whole".into(),
        );
    }
    Ok(Choice { engine, profile, reason, needs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::groups;
    use Engine::{Auto, Mig, Spatial, Temporal};

    fn kind(name: &str, mig: Option<bool>) -> Kind {
        Kind { mig, ..groups(name, 1).unwrap().remove(0).1 }
    }

    fn wish(engine: Engine) -> Wish {
        Wish { engine, bytes: 8 << 30, percent: Some(25.0), domain: true }
    }

    /// A2.
    #[test]
    fn the_best_engine_that_the_hardware_has_is_taken() {
        for (name, engine, profile) in [
            ("A100 40GB SXM", Mig, Some("2g.10gb")),
            ("A100 80GB SXM", Mig, Some("2g.20gb")),
            // 2g.20gb has 24 %.
            ("H100", Mig, Some("3g.40gb")),
            ("B200", Mig, Some("2g.45gb")),
            ("T4", Spatial, None),
            ("L40S", Spatial, None),
            ("MI300X", Spatial, None),
            ("Tesla K80", Temporal, None),
        ] {
            let choice = choose(&kind(name, None), &wish(Auto)).unwrap();
            assert_eq!((choice.engine, choice.profile.as_deref()), (engine, profile), "{name}: {choice:?}");
            assert_eq!(choice.needs.is_empty(), !matches!(name, "MI300X") && engine != Mig, "{name}: {choice:?}");
        }
        // By the table it has 8 GB, which are less than 8 GiB.
        let (small, on) = (Wish { bytes: 7 << 30, ..wish(Auto) }, kind("H100", Some(true)));
        assert_eq!(choose(&kind("Tesla M60", None), &small).unwrap().engine, Temporal);
        assert!(choose(&on, &wish(Auto)).unwrap().needs.is_empty());
        // Where no profile is as large, what is next; and with MIG mode on nothing.
        let large = Wish { percent: Some(99.0), bytes: 80 << 30, ..wish(Auto) };
        assert_eq!(choose(&kind("H100", None), &large).unwrap_err(), "80 GiB are asked, and it has 79.65 GiB");
        let large = Wish { bytes: (79 << 30) + (1 << 29), ..large };
        let choice = choose(&kind("H100", None), &large).unwrap();
        assert!(choice.engine == Spatial && choice.reason.contains("no MIG profile"), "{choice:?}");
        assert!(choose(&on, &large).unwrap_err().contains("MIG mode is on"));
    }

    /// A3.
    #[test]
    fn a_pinned_engine_is_had_or_refused() {
        let choice = choose(&kind("H100", Some(false)), &wish(Spatial)).unwrap();
        assert!(choice.engine == Spatial && choice.needs.is_empty(), "{choice:?}");
        let alone = Wish { domain: false, ..wish(Spatial) };
        assert!(choose(&kind("T4", None), &alone).unwrap().needs[0].contains("--trust-domain"));
        for (name, mig, engine, word) in [
            ("T4", None, Mig, "no MIG"),
            ("Tesla K80", None, Spatial, "3.7"),
            ("H100", Some(true), Temporal, "MIG mode is on"),
            ("Gaudi 2", None, Spatial, "not divided in space"),
        ] {
            let why = choose(&kind(name, mig), &wish(engine)).unwrap_err();
            assert!(why.contains(word), "{name}: {why}");
        }
    }
}
