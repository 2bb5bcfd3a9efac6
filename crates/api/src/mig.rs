//! MIG: what a GPU is divided into, and what it shall be.
use crate::MigProfile;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A GPU as MIG divides it, or could.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct MigGpu {
    /// NVML's index.
    pub gpu: u32,
    /// `GPU-…`.
    pub gpu_uuid: String,
    /// Model.
    pub name: String,
    /// PCI vendor and device, such as `10de:2330`; absent where the driver does not say.
    pub pci_id: Option<String>,
    /// MIG divides it now.
    pub enabled: bool,
    /// MIG divides it after the next reset.
    pub pending: bool,
    /// What instances there can be. None at all: this model has no MIG.
    pub profiles: Vec<MigProfile>,
    /// Of each profile, in that order, the memory slices at which an instance fits beside those that are there.
    pub room: Vec<Vec<u32>>,
    /// What instances there are, in the order of their places.
    pub instances: Vec<MigInstance>,
    /// What it shall be, if a layout was applied.
    pub layout: Option<MigLayout>,
}

/// An instance that is there.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct MigInstance {
    /// NVML's id of the GPU instance.
    pub id: u32,
    /// Its profile's name.
    pub profile: String,
    /// Its first memory slice.
    pub start: u32,
    /// How many memory slices it takes.
    pub size: u32,
    /// `MIG-…`: that of its first compute instance; absent where it has none.
    pub uuid: Option<String>,
    /// The slices that have it, of those that the caller sees.
    pub slices: Vec<String>,
    /// The processes that run in it.
    pub processes: Vec<u32>,
    /// Somebody uses it, or it is promised to a slice.
    pub busy: bool,
}

/// What a GPU shall be divided into.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MigLayout {
    /// Whether MIG divides it at all.
    pub enabled: bool,
    /// Its instances.
    #[serde(default)]
    pub instances: Vec<MigPlace>,
}

/// An instance that shall be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct MigPlace {
    /// Its profile's name.
    pub profile: String,
    /// Its first memory slice; wherever it strands least if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
}

/// What one GPU shall be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MigWish {
    /// The GPU's UUID.
    pub gpu_uuid: String,
    /// Its layout.
    pub layout: MigLayout,
}

/// `POST /v1/mig`: what GPUs shall be; others stay as they are.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct MigRequest {
    /// By GPU.
    pub gpus: Vec<MigWish>,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct MigOutcome {
    /// In their order; none where everything is as it shall be.
    pub steps: Vec<MigStep>,
}

/// One change of a GPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct MigStep {
    /// NVML's index.
    pub gpu: u32,
    /// What is done.
    pub action: MigAction,
    /// The instance's profile; absent for a mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The instance's first memory slice; absent for a mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u32>,
}

/// What is done to a GPU.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MigAction {
    /// MIG divides it from then on.
    Enable,
    /// MIG divides it no longer.
    Disable,
    /// An instance is destroyed.
    Destroy,
    /// An instance is made.
    Create,
}

impl std::fmt::Display for MigStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (profile, start) = (self.profile.as_deref().unwrap_or("?"), self.start.unwrap_or(0));
        match self.action {
            MigAction::Enable => write!(f, "GPU {}: MIG mode on", self.gpu),
            MigAction::Disable => write!(f, "GPU {}: MIG mode off", self.gpu),
            MigAction::Destroy => write!(f, "GPU {}: destroy {profile} at {start}", self.gpu),
            MigAction::Create => write!(f, "GPU {}: create {profile} at {start}", self.gpu),
        }
    }
}
