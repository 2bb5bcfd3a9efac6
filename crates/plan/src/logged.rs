//! What vLLM printed about models' memory, in public logs, and what [`fit`](crate::fit) says.
use crate::fit::{BLOCK, GIB, REQUESTS, activations_bytes, blocks, named, request_bytes, weights_bytes};
use crate::spec::Dtype;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Of {
    /// Weights on each GPU, in GiB.
    Weights,
    /// Cache that a request of so many tokens needs, in GiB.
    Cache,
    /// Blocks that so many GiB of cache hold.
    Blocks,
    /// Tokens that so many GiB of cache hold.
    Tokens,
    /// The most that a step takes beside them when so many tokens are read at a time, in GiB.
    Step,
}

/// A figure of `data/logged.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Logged {
    /// The model's name.
    pub model: String,
    /// How its weights are kept.
    #[serde(default)]
    pub dtype: Dtype,
    /// GPUs that share each layer.
    #[serde(default = "one")]
    pub gpus: u64,
    /// What it is of.
    pub of: Of,
    /// Of how many tokens, or GiB.
    #[serde(default)]
    pub with: f64,
    /// What vLLM printed.
    pub value: f64,
    /// Where: repository, thread or file.
    pub source: String,
    /// Why it is more than [`ALLOWED`] off, if that is known.
    pub why: Option<String>,
}

/// How far off a figure may be, as a part of it.
pub const ALLOWED: f64 = 0.05;

fn one() -> u64 {
    1
}

#[derive(Deserialize)]
struct All {
    logged: Vec<Logged>,
}

/// Every figure.
pub fn logged() -> &'static [Logged] {
    static LOGGED: OnceLock<Vec<Logged>> = OnceLock::new();
    LOGGED.get_or_init(|| {
        let read: Result<All, _> = toml::from_str(include_str!("../data/logged.toml"));
        read.map(|all| all.logged).unwrap_or_default()
    })
}

impl Logged {
    /// What cleave says; `None` of a model that is not in the table.
    pub fn found(&self) -> Option<f64> {
        let model = named(&self.model)?;
        let gib = |bytes: u64| bytes as f64 / GIB;
        let held = blocks(model, 16, self.gpus, (self.with * GIB) as u64);
        Some(match self.of {
            Of::Weights => gib(weights_bytes(model, self.dtype.bits(), self.gpus)),
            Of::Cache => gib(request_bytes(model, 16, self.gpus, self.with as u64)),
            Of::Blocks => held as f64,
            Of::Tokens => (held * BLOCK) as f64,
            Of::Step => gib(activations_bytes(model, self.with as u64, REQUESTS, self.gpus)),
        })
    }

    /// By which part of what was printed it is off.
    pub fn off(&self) -> Option<f64> {
        self.found().map(|found| found / self.value - 1.0)
    }

    /// Whether it is as near as it shall be, or known not to be.
    pub fn is_as_known(&self) -> bool {
        self.off().is_some_and(|off| (off.abs() < ALLOWED) == self.why.is_none())
    }
}
