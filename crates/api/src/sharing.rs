//! How a slice takes part in sharing a GPU's time.
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How far a slice's compute share is enforced.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Counted only: never held back.
    None,
    /// The share is guaranteed; what is idle is lent.
    #[default]
    Balanced,
    /// Never more than the share, even alone.
    Strict,
    /// Balanced, and while it is at work its neighbours queue less, so that the GPU comes back to it sooner.
    Adaptive,
}

/// Every mode with its name.
const MODES: [(&str, Mode); 4] =
    [("none", Mode::None), ("balanced", Mode::Balanced), ("strict", Mode::Strict), ("adaptive", Mode::Adaptive)];

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = MODES.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        found.ok_or_else(|| format!("\"{text}\" is no mode: it must be none, balanced, strict or adaptive"))
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MODES.iter().find(|(_, mode)| mode == self).map_or("", |(name, _)| name))
    }
}

/// How a GPU is divided among slices.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The daemon chooses, from what the GPU can do and what is asked for.
    #[default]
    Auto,
    /// In turns.
    Temporal,
    /// At once, within the trust domain: its programs share one MPS server, and with it the fault of one.
    Spatial,
    /// By the hardware, into instances.
    Mig,
    /// Not at all: the slice has the device to itself. So are other makers' devices given than NVIDIA's.
    Whole,
}

/// Every engine with its name.
const ENGINES: [(&str, Engine); 5] = [
    ("auto", Engine::Auto),
    ("temporal", Engine::Temporal),
    ("spatial", Engine::Spatial),
    ("mig", Engine::Mig),
    ("whole", Engine::Whole),
];

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = ENGINES.iter().find(|(name, _)| *name == text).map(|(_, engine)| *engine);
        found.ok_or_else(|| format!("\"{text}\" is no engine: it must be auto, temporal, spatial, mig or whole"))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ENGINES.iter().find(|(_, engine)| engine == self).map_or("", |(name, _)| name))
    }
}

/// Which GPU a slice gets that may have any.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// The one with most left.
    #[default]
    Spread,
    /// The one on which it leaves least, so that others stay free for larger ones.
    Pack,
}

impl FromStr for Placement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "spread" => Ok(Self::Spread),
            "pack" => Ok(Self::Pack),
            _ => Err(format!("\"{text}\" is no placement: it must be spread or pack")),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spread => "spread",
            Self::Pack => "pack",
        })
    }
}

/// `GET /v1/modes`: which engines a GPU can run, and what can be moved off it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct GpuModes {
    /// NVML's index.
    pub index: u32,
    /// UUID; absent where nobody asked.
    pub uuid: Option<String>,
    /// Model.
    pub name: String,
    /// Compute capability, as `9.0`; absent where the driver does not say.
    pub compute_capability: Option<String>,
    /// Each engine.
    pub engines: Vec<EngineAbility>,
    /// What runs on it, by how it was given the GPU: by each engine that the GPU can run, and to virtual machines.
    pub migration: Vec<Migration>,
}

/// Whether what runs on a GPU can be moved.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Migration {
    /// How it was given the GPU: an engine, `vgpu` or `passthrough`.
    pub way: String,
    /// It can be moved to another GPU while it runs.
    pub live: bool,
    /// `cleave suspend` takes it off the GPU, and `cleave wake` brings it back; absent where nobody tried.
    pub suspend: Option<bool>,
    /// By whom and to where, or why not.
    pub reason: String,
}

/// Whether a GPU can run an engine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct EngineAbility {
    /// Which.
    pub engine: Engine,
    /// It can.
    pub available: bool,
    /// Why not; absent if it can.
    pub reason: Option<String>,
}

/// A priority class: `experiment` (0), `staging` (1), `production` (2), or a number up to 7. A higher class goes first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String", into = "String")]
pub struct Priority(u8);

/// The classes that have names, by their numbers.
const NAMES: [&str; 3] = ["experiment", "staging", "production"];
/// The highest class.
const HIGHEST: u8 = 7;

impl Priority {
    /// Its number.
    pub fn class(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(1)
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = NAMES.iter().position(|name| *name == text).and_then(|class| u8::try_from(class).ok());
        let class = named.or_else(|| text.parse().ok().filter(|class| *class <= HIGHEST));
        class.map(Self).ok_or_else(|| {
            format!(
                "\"{text}\" is no priority: it must be experiment, staging, production, or a number from 0 to {HIGHEST}"
            )
        })
    }
}

impl TryFrom<String> for Priority {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Priority> for String {
    fn from(priority: Priority) -> String {
        priority.to_string()
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

impl JsonSchema for Priority {
    fn schema_name() -> Cow<'static, str> {
        "Priority".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "experiment (0), staging (1), production (2), or a number from 0 to 7; a higher class goes first",
            "pattern": "^(experiment|staging|production|[0-7])$",
            "examples": ["production", "5"]
        })
    }
}

/// What a slice did with the time of one GPU. Sums are since the slice was created, ended processes included.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct DeviceTime {
    /// Device time used, as its processes measured or expected it, in ns. Each takes itself to be alone on the GPU, so that of
    /// slices on one GPU it may be more than there was, together; what was given never is.
    pub device_ns: u64,
    /// Work that was sent and is expected to be still to come, in ns.
    pub in_flight_ns: u64,
    /// Threads that wait for a turn now, each with an operation: the depth of its queue.
    #[serde(default)]
    pub waiting: u64,
    /// Time that operations waited for a turn, in ns.
    pub throttled_ns: u64,
    /// Operations that waited for a turn.
    pub throttled_total: u64,
    /// What it is entitled to, in percent of the GPU's time; absent while it has neither a share of its own nor processes.
    pub share_percent: Option<f64>,
    /// The last whole 10 ms. This and what follows is absent if it had no process in the last minute, or not since the
    /// daemon started.
    pub last_10ms: Option<Given>,
    /// The last second.
    pub last_1s: Option<Given>,
    /// The last minute, in whole seconds.
    pub last_1min: Option<Given>,
}

/// What operations of a class did on the GPUs. The numbers come a little late: the last few hundred launches may be missing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct ClassUse {
    /// Operations sent; absent for `other`, which are not counted.
    pub launches: Option<u64>,
    /// Their device time as measured or expected, in ns; absent for `collective`, which is not measured.
    pub device_ns: Option<u64>,
}

/// What a slice was given over some time.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Given {
    /// Device time that it used, in ns.
    pub given_ns: u64,
    /// Device time that its share came to while it wanted the GPU, in ns.
    pub owed_ns: u64,
}

/// `GET /v1/slices/{slice}/explain`: why the slice runs as it does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Explanation {
    /// The slice's name.
    pub slice: String,
    /// What it used its GPUs for, by class of operation, as in [`Slice`](crate::Slice).
    #[serde(default)]
    pub classes: BTreeMap<String, ClassUse>,
    /// GPU by GPU.
    pub devices: Vec<DeviceExplanation>,
}

/// Why a slice runs as it does on one GPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct DeviceExplanation {
    /// The GPU's index on the host.
    pub gpu: u32,
    /// How the GPU is divided.
    pub engine: Engine,
    /// Why so.
    pub engine_reason: String,
    /// Engine `spatial`: part of the GPU's multiprocessors that the next program gets, in percent.
    pub processors_percent: Option<f64>,
    /// How long windows are in ms, if the daemon was told (`--window`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_ms: Option<u64>,
    /// Its share in percent of the GPU's time; absent while it has neither a share of its own nor processes.
    pub share_percent: Option<f64>,
    /// How far that is enforced.
    pub mode: Mode,
    /// Its class.
    pub priority: Priority,
    /// What it has of the GPU now; absent while it has no processes.
    pub turn: Option<TurnKind>,
    /// The other slices with processes on the GPU.
    pub neighbours: Vec<Neighbour>,
    /// What follows from all that, the weightiest first.
    pub reasons: Vec<Reason>,
}

/// What a slice has of a GPU at a moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TurnKind {
    /// Nothing: it is another's turn, or it has not asked.
    Closed,
    /// The GPU, as long as nobody else wants it.
    Lease,
    /// The GPU, for some milliseconds.
    Window,
    /// Nothing, until an operator resumes it.
    Paused,
}

/// Another slice on the GPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Neighbour {
    /// Its name; absent if the caller may not see it.
    pub slice: Option<String>,
    /// Its share in percent.
    pub share_percent: f64,
    /// How far that is enforced.
    pub mode: Mode,
    /// Its class.
    pub priority: Priority,
    /// It had work in the last tenth of a second.
    pub at_work: bool,
}

/// One reason why a slice runs as it does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Reason {
    /// Which it is.
    pub kind: ReasonKind,
    /// In words.
    pub message: String,
}

/// What can be a reason.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ReasonKind {
    /// Engine `spatial`: it has a part of the multiprocessors only.
    Processors,
    /// It has no processes.
    NoProcess,
    /// An operator stopped it.
    Paused,
    /// Its mode is `none`: nothing holds it back.
    NotHeld,
    /// It sends no work.
    Idle,
    /// A higher class is at work.
    GivesWay,
    /// A lower class is there, and gives way.
    GoesFirst,
    /// Others of its class are at work.
    TakesTurns,
    /// Slices of mode `none` are at work.
    Beside,
    /// Nobody else is at work.
    Alone,
    /// Its mode is `strict`: it gets no more than its share.
    Capped,
    /// It was given less than it was owed over the last second.
    Behind,
    /// It was given more than it was owed over the last second: what others left.
    Ahead,
    /// The quotas of the GPU's slices sum up to more than its memory.
    Overcommitted,
    /// Engine `whole`: it has the device to itself.
    Whole,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_priorities_are_read_as_they_are_printed() {
        for (name, engine) in ENGINES {
            assert_eq!((name.parse(), engine.to_string().as_str()), (Ok(engine), name));
            assert_eq!(serde_json::to_value(engine).unwrap(), name);
        }
        for (name, mode) in MODES {
            assert_eq!((name.parse(), mode.to_string().as_str()), (Ok(mode), name));
            assert_eq!(serde_json::to_value(mode).unwrap(), name);
        }
        for (text, class) in [("experiment", 0), ("staging", 1), ("production", 2), ("3", 3), ("7", 7)] {
            let priority: Priority = text.parse().unwrap();
            assert_eq!((priority.class(), priority.to_string().as_str()), (class, text));
            assert_eq!(serde_json::from_value::<Priority>(text.into()).unwrap(), priority);
        }
        assert_eq!("2".parse::<Priority>().unwrap().to_string(), "production");
        assert_eq!(Priority::default().to_string(), "staging");
        for text in ["", "8", "-1", "256", "Production", "high", "1.0"] {
            assert!(text.parse::<Priority>().expect_err(text).contains(&format!("\"{text}\"")));
            assert!(text.parse::<Engine>().expect_err(text).contains(&format!("\"{text}\"")));
            assert!(text.parse::<Mode>().expect_err(text).contains(&format!("\"{text}\"")));
        }
    }
}
