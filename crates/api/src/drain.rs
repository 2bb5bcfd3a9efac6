//! Taking a GPU out of use.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/gpus/{gpu}/drain`, `/undrain`: what was done, or with `dry_run` would be.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Drain {
    /// NVML's index.
    pub gpu: u32,
    /// UUID.
    pub uuid: String,
    /// Model.
    pub name: String,
    /// Nothing new goes there.
    pub draining: bool,
    /// No slice is left on it.
    pub empty: bool,
    /// The slices that go elsewhere, or come back.
    pub moves: Vec<SliceMove>,
}

/// A slice that goes from one GPU to another.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct SliceMove {
    /// Its name.
    pub slice: String,
    /// NVML's index of the GPU that it leaves.
    pub from: u32,
    /// NVML's index of the GPU that it goes to.
    pub to: u32,
    /// Its quota there, in bytes.
    pub memory_bytes: u64,
    /// Its share of the time there, in percent, if it has one.
    pub compute_percent: Option<f64>,
    /// It is there.
    pub done: bool,
    /// Processes whose end it waits for: a program stays on the GPU that it started on.
    pub waits_for: Vec<u32>,
}
