//! Tiers: which engines may run the work of each.
use crate::spec::check_name;
use crate::yaml;
use cleave_api::Engine;
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::collections::BTreeMap;

/// A tier policy: its file is `tiers:` and, under each tier's name, what it may have.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Tiers {
    /// By name.
    #[serde(deserialize_with = "named")]
    pub tiers: BTreeMap<String, Tier>,
}

/// What a tier may have.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// The engines, the one that is preferred first.
    #[serde(deserialize_with = "engines")]
    pub engines: Vec<Engine>,
}

/// Production has hardware's walls, development takes turns.
impl Default for Tiers {
    fn default() -> Self {
        use Engine::{Mig, Spatial, Temporal};
        let tier = |name: &str, engines: &[Engine]| (name.to_owned(), Tier { engines: engines.to_vec() });
        Self { tiers: [tier("prod", &[Mig]), tier("staging", &[Mig, Spatial]), tier("dev", &[Temporal])].into() }
    }
}

impl Tiers {
    /// Reads a policy's file. An error is one line that names line, key and rule.
    pub fn read(text: &str) -> Result<Self, String> {
        yaml::read(text)
    }
}

/// A tier's name stands in labels of nodes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match check_name(&name) {
            Ok(()) => Ok(Self(name)),
            Err(rule) => Err(format!("\"{name}\" is no tier's name: {rule}")),
        }
    }
}

/// Tiers within another file, in which they may be missing.
pub(crate) fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Option<BTreeMap<String, Tier>>, D::Error> {
    named(from).map(Some)
}

/// Tiers by name, at least one.
fn named<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Tier>, D::Error> {
    let tiers = BTreeMap::<Name, Tier>::deserialize(from)?;
    match tiers.is_empty() {
        true => Err(D::Error::custom("tiers: name at least one")),
        false => Ok(tiers.into_iter().map(|(name, tier)| (name.0, tier)).collect()),
    }
}

/// Engines that there are, each once.
fn engines<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Engine>, D::Error> {
    let engines = Vec::<Engine>::deserialize(from)?;
    let twice = engines.iter().enumerate().any(|(at, engine)| engines.iter().take(at).any(|before| before == engine));
    match engines.is_empty() || twice || engines.contains(&Engine::Auto) {
        true => Err(D::Error::custom("engines: name one or more of mig, spatial, temporal and whole, each once")),
        false => Ok(engines),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reads_as_it_is_written() {
        let text = "tiers:\n  prod: { engines: [mig] }\n  staging: { engines: [mig, spatial] }\n  dev: { engines: [temporal] }\n";
        assert_eq!(Tiers::read(text).unwrap(), Tiers::default());
    }

    #[test]
    fn what_is_wrong_with_a_policy_is_said_with_line_key_and_rule() {
        for (text, words) in [
            ("tiers:\n  prod: { engines: [mig] }\n  dev: { engines: [warp] }\n", ["line 3", "dev", "warp"]),
            ("tiers:\n  prod:\n    engines: []\n", ["line 3", "engines", "one or more"]),
            ("tiers:\n  prod:\n    engines: [mig, mig]\n", ["line 3", "engines", "each once"]),
            ("tiers:\n  prod:\n    engines: [auto]\n", ["line 3", "engines", "mig, spatial, temporal and whole"]),
            ("tiers:\n  prod:\n    engines: [mig]\n    colour: red\n", ["line 4", "colour", "unknown field"]),
            ("tiers:\n  dev: { engines: [mig] }\n  Prod: { engines: [mig] }\n", ["line 3", "Prod", "a-z"]),
            ("tiers:\n  dev: { engines: [mig] }\n  dev: { engines: [mig] }\n", ["line 3", "dev", "duplicate"]),
            ("tiers: {}\n", ["line 1", "tiers", "at least one"]),
            ("pools: {}\n", ["line 1", "pools", "unknown field"]),
            ("", ["line 1", "end of input", ""]),
        ] {
            let said = Tiers::read(text).unwrap_err();
            assert!(words.iter().all(|word| said.contains(word)), "{text:?}: {said}");
            assert!(!said.contains('\n'), "{said}");
        }
    }
}
