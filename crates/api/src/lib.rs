//! What crosses the daemon's socket: requests, replies and events, as JSON over HTTP.
//!
//! Every quantity names its unit in its field. A number that can't be measured is absent, and a field beside it says
//! why; it is never 0. Field names are stable within one [`API_VERSION`]; new fields may come.
mod amount;
mod drain;
mod error;
mod inventory;
mod mig;
mod rest;
mod sharing;
mod watchdog;

pub use amount::{Factor, Fraction, MemoryAmount, Percent, format_bytes};
pub use drain::{Drain, SliceMove};
pub use error::{ErrorBody, ErrorCode};
pub use inventory::{
    Device, Inventory, LinkPath, MemoryFrom, Mig, MigProfile, Nic, NumaNode, Pair, PcieLink, Problem, Vendor,
};
pub use mig::{MigAction, MigGpu, MigInstance, MigLayout, MigOutcome, MigPlace, MigRequest, MigStep, MigWish};
pub use rest::SuspendAfter;
pub use sharing::{
    ClassUse, DeviceExplanation, DeviceTime, Engine, EngineAbility, Explanation, Given, GpuModes, Migration, Mode,
    Neighbour, Placement, Priority, Reason, ReasonKind, TurnKind,
};
pub use watchdog::Watchdog;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version in the path of every endpoint: `/v1/…`.
pub const API_VERSION: &str = "v1";
/// Name of the HTTP socket in the run directory.
pub const API_SOCKET: &str = "api.sock";

/// `POST /v1/slices`: what a slice shall be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SliceSpec {
    /// Its name: 1 to 63 of `a-z`, `0-9` and `-`, starting and ending with a letter or digit. Chosen if absent.
    pub name: Option<String>,
    /// The GPUs: `any`, or indices and UUIDs separated by commas.
    pub gpu: String,
    /// Memory on each of its GPUs.
    pub memory: Option<MemoryAmount>,
    /// Share of each GPU's time. Slices without one share what the others leave, equally.
    pub compute: Option<Percent>,
    /// How far that is enforced: `balanced` if absent.
    pub mode: Mode,
    /// Which slices go first: `staging` if absent.
    pub priority: Priority,
    /// Mode `strict` only: device time that may be used at once after it was left unused, in ms; two turns if absent.
    pub burst_ms: Option<u64>,
    /// What is done about work that does not end: nothing if absent.
    pub watchdog: Watchdog,
    /// After how much idleness its memory leaves its GPUs: not by itself if absent.
    pub suspend_after: SuspendAfter,
    /// How its GPU is divided: chosen by the daemon (`auto`) if absent.
    pub engine: Engine,
    /// Whom it trusts: slices of one user that name the same domain may share an MPS server, and fall with it. A name as
    /// slices have them.
    pub trust_domain: Option<String>,
    /// Memory and compute in one: `1/4` is a quarter of both. Excludes `memory` and `compute`.
    pub fraction: Option<Fraction>,
    /// Most host memory that the slice may pin; no limit if absent.
    pub host_memory: Option<MemoryAmount>,
    /// Allow the quotas of a GPU's slices to sum up to so many times what the card has; the daemon's own factor if absent,
    /// which is 1 unless it was started with another.
    pub oversubscribe: Option<Factor>,
    /// What a program does while the daemon can't be reached: `refuse` (default) or `allow`.
    pub on_missing: OnMissing,
    /// What happens to its programs that use a GPU past the stand-in library: `warn` (default) or `kill`.
    pub on_bypass: OnBypass,
    /// Delete the slice when its last process has ended, after at least one has started; or, before one has, when the
    /// process that made it has ended.
    pub ephemeral: bool,
    /// Whose it is: a user's name or number. The caller's if absent; only root and the daemon's user may give it away.
    pub owner: Option<String>,
}

/// What a program in the slice does while the daemon can't be reached.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// CUDA calls fail.
    #[default]
    Refuse,
    /// CUDA calls go through unmetered, with a line on stderr.
    Allow,
}

/// What happens to a program of the slice that uses a GPU past the stand-in library, and so past the quota.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum OnBypass {
    /// It is reported.
    #[default]
    Warn,
    /// It is reported and, a second later, killed.
    Kill,
}

/// `PATCH /v1/slices/{slice}`: what shall change; what is absent stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct SliceChange {
    /// New memory quota on each of its GPUs.
    pub memory: Option<MemoryAmount>,
    /// New compute share.
    pub compute: Option<Percent>,
    /// New mode; one that is not `strict` ends a burst.
    pub mode: Option<Mode>,
    /// New priority.
    pub priority: Option<Priority>,
    /// New burst, in ms.
    pub burst_ms: Option<u64>,
    /// New watchdog.
    pub watchdog: Option<Watchdog>,
    /// New time of idleness after which its memory leaves its GPUs.
    pub suspend_after: Option<SuspendAfter>,
    /// New quota of pinned host memory.
    pub host_memory: Option<MemoryAmount>,
    /// Shrink below what is in use; nothing is taken away, but nothing more is granted.
    pub force: bool,
    /// Allow the quotas of a GPU's slices to sum up to so many times what the card has; the daemon's own factor if absent.
    pub oversubscribe: Option<Factor>,
}

/// A slice as it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Slice {
    /// Stable id: a UUID with the prefix `SLICE-`; usable wherever a name is, and in `CUDA_VISIBLE_DEVICES`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub owner: Owner,
    /// When it was created, RFC 3339.
    pub created_at: String,
    /// Its part of each GPU.
    pub devices: Vec<SliceDevice>,
    /// Share of each GPU's time in percent; absent = no share set.
    pub compute_percent: Option<f64>,
    /// How far that is enforced.
    pub mode: Mode,
    /// Its class.
    pub priority: Priority,
    /// Mode `strict` only: device time that may be used at once after it was left unused, in ms.
    pub burst_ms: Option<u64>,
    /// An operator or its watchdog stopped it: its programs wait at their next kernel.
    pub paused: bool,
    /// Its processes' memory is in host memory, and they wait until it is woken.
    #[serde(default)]
    pub suspended: bool,
    /// What is done about work that does not end.
    #[serde(default)]
    pub watchdog: Watchdog,
    /// After how much idleness its memory leaves its GPUs.
    #[serde(default)]
    pub suspend_after: SuspendAfter,
    /// Its watchdog has put it into the lowest class, until work ends that is late.
    #[serde(default)]
    pub lowered: bool,
    /// How its GPU is divided: `temporal` or `spatial`.
    #[serde(default)]
    pub engine: Engine,
    /// Why so.
    #[serde(default)]
    pub engine_reason: String,
    /// Whom it trusts.
    #[serde(default)]
    pub trust_domain: Option<String>,
    /// Most host memory that it may pin.
    pub host_limit_bytes: Option<u64>,
    /// Host memory that it pins.
    pub host_used_bytes: u64,
    /// Its processes that use the GPU.
    pub processes: Vec<Process>,
    /// Allocations refused because of its quota, since it was created.
    pub denied_total: u64,
    /// Kernels and graphs launched since it was created.
    pub launches_total: u64,
    /// What it used its GPUs for since it was created, by class of operation: `latency` (attention, decode), `throughput`
    /// (matrix by matrix, convolution, experts), `copy`, `collective`, `graph`, `other`.
    #[serde(default)]
    pub classes: BTreeMap<String, ClassUse>,
    /// The quotas of a GPU it is on sum up to more than the card has.
    pub overcommitted: bool,
    /// What its programs do while the daemon can't be reached.
    pub on_missing: OnMissing,
    /// What happens to its programs that use a GPU past the stand-in library.
    #[serde(default)]
    pub on_bypass: OnBypass,
    /// Goes away with its last process.
    pub ephemeral: bool,
    /// Its processes took and gave back memory faster than it could be added up: what it uses is the least that it was at
    /// one instant.
    #[serde(default)]
    pub in_motion: bool,
}

/// A user of the machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// User name, where the machine knows one.
    pub name: Option<String>,
}

/// A slice's part of one GPU.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct SliceDevice {
    /// The GPU's index on the host.
    pub gpu: u32,
    /// The GPU's UUID.
    pub gpu_uuid: String,
    /// The profile of the MIG instance that the slice has of the GPU; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig_profile: Option<String>,
    /// That instance's UUID, `MIG-…`; absent where it is not made yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig_uuid: Option<String>,
    /// Memory quota in bytes.
    pub limit_bytes: u64,
    /// Memory in use, contexts and code included; absent of engine `whole`, where nobody measures it.
    pub used_bytes: Option<u64>,
    /// Most memory in use at any reading since the slice was created; absent likewise.
    pub peak_bytes: Option<u64>,
    /// What the memory is used for; sums up to `used_bytes` less `measured_bytes`.
    pub used_for: BTreeMap<String, u64>,
    /// What the daemon measured beyond (or, negative, below) what the processes charged themselves.
    pub measured_bytes: i64,
    /// Percent of the last second in which the slice's kernels ran; absent where the driver does not say.
    pub busy_percent: Option<u32>,
    /// What it did with the GPU's time.
    pub time: DeviceTime,
}

/// A process of a slice.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Process {
    /// Process id on the host.
    pub pid: u32,
    /// Process id as the process sees it.
    pub own_pid: u32,
    /// The slice's name.
    pub slice: String,
    /// User id.
    pub uid: Option<u32>,
    /// Its command line.
    pub command: String,
    /// When it registered, RFC 3339.
    pub since: String,
    /// Memory in use on each device of the slice, in the slice's order, in bytes.
    pub used_bytes: Vec<u64>,
    /// Kernels and graphs launched.
    pub launches: u64,
    /// Allocations refused.
    pub denied: u64,
    /// What it used its GPUs for, by class of operation, as for a slice.
    #[serde(default)]
    pub classes: BTreeMap<String, ClassUse>,
    /// `running`, `stopped` or `exiting`.
    pub state: String,
}

/// A GPU as it is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Gpu {
    /// NVML's index.
    pub index: u32,
    /// UUID.
    pub uuid: String,
    /// Model.
    pub name: String,
    /// PCI address.
    pub pci: String,
    /// Memory that programs can have, in bytes.
    pub memory_bytes: u64,
    /// Memory in use by everyone, in bytes.
    pub used_bytes: u64,
    /// Sum of the slices' quotas, in bytes.
    pub reserved_bytes: u64,
    /// Sum of the slices' compute shares, in percent.
    pub reserved_compute_percent: f64,
    /// Memory in use by processes that are in no slice, in bytes.
    pub untracked_bytes: u64,
    /// Memory of one context, in bytes; absent before it was measured.
    pub context_bytes: Option<u64>,
    /// Percent of the last second in which a kernel ran.
    pub busy_percent: Option<u32>,
    /// Percent of the bandwidth of its memory that was used, by everyone, since anyone asked for this the last time, if that
    /// is 50 ms to a minute ago; sooner the same is told again. Absent at the first time, and where the driver doesn't
    /// count it: before Hopper, and in MIG mode.
    pub bandwidth_percent: Option<f64>,
    /// Device time of all its slices, whoever may see them, in ns. Of those that are gone it counts what they had while this
    /// daemon ran, so that it only grows while no slice moves.
    #[serde(default)]
    pub device_ns: u64,
    /// The quotas sum up to more than its memory.
    #[serde(default)]
    pub overcommitted: bool,
    /// Number of the slices on it, whoever may see them.
    #[serde(default)]
    pub slice_count: usize,
    /// Names of the slices on it that the caller may see.
    pub slices: Vec<String>,
    /// It is being drained: nothing new goes there.
    pub draining: bool,
    /// It is simulated.
    pub simulated: bool,
}

/// What quotas that sum up to more than a GPU's memory may lead to; `None` if they do not.
pub fn risk(memory_bytes: u64, reserved_bytes: u64) -> Option<String> {
    (reserved_bytes > memory_bytes).then(|| {
        format!(
            "overcommitted: the quotas sum up to {}, {:.2} times its memory of {}; once that is used up, a program is refused memory although its slice has some left",
            format_bytes(reserved_bytes),
            reserved_bytes as f64 / memory_bytes as f64,
            format_bytes(memory_bytes)
        )
    })
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Status {
    /// cleave's version.
    pub version: String,
    /// Version of the shared-memory layout.
    pub ledger_abi: u32,
    /// The daemon's process id.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// Where sockets and ledgers are.
    pub run_dir: String,
    /// Where durable state is.
    pub state_dir: String,
    /// Ends by itself when no slice is left.
    pub private: bool,
    /// The driver.
    pub driver: Driver,
    /// Number of GPUs, other makers' devices among them.
    pub gpus: usize,
    /// Number of slices.
    pub slices: usize,
    /// Number of processes in slices.
    pub processes: usize,
}

/// The driver that the daemon uses.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct Driver {
    /// Version of the kernel driver.
    pub version: String,
    /// CUDA version that it supports, as 13000 for 13.0.
    pub cuda_version: u32,
    /// Folder of the real `libcuda.so.1`.
    pub library_dir: String,
    /// What is simulated, if it is: `8xH100`.
    pub simulated: Option<String>,
}

/// `POST /v1/slices/{slice}/launch`: how a program is put into a slice.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
pub struct LaunchPlan {
    /// The slice's id.
    pub id: String,
    /// The slice's name.
    pub name: String,
    /// Folder with the stand-in library under every name, for `LD_LIBRARY_PATH`.
    pub library_dir: String,
    /// The stand-in library, for `LD_PRELOAD` and to lay over the real ones.
    pub library: String,
    /// Folder of the slice's socket, to be seen at `/run/cleave/slice`.
    pub socket_dir: String,
    /// Folder where the stand-in looks for the real libraries.
    pub driver_dir: String,
    /// The real libraries: name in `driver_dir` → path.
    pub real_libraries: BTreeMap<String, String>,
    /// Every path under which a program could load a real library, to be covered by the stand-in.
    pub covers: Vec<String>,
    /// Environment variables to set.
    pub environment: BTreeMap<String, String>,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct Event {
    /// Counts up.
    pub id: u64,
    /// When, RFC 3339.
    pub at: String,
    /// `slice-created`, `slice-resized`, `slice-paused`, `slice-resumed`, `slice-suspended`, `slice-woken`, `slice-deleted`, `process-started`, `process-ended`, `denied`, `bypass`,
    /// `untracked`, `denial-loop`, `watchdog-warned`, `watchdog-lowered`, `watchdog-paused`, `watchdog-killed`, `watchdog-ended`, `adaptive-tightened`, `adaptive-loosened`, `wake-waits`, `slice-moved`, `draining`, `drained`, `undrained`, `fault`, `recovered`, `daemon-started`,
    /// `adopted`, `warning`.
    pub kind: String,
    /// The slice it is about.
    pub slice: Option<String>,
    /// In words.
    pub message: String,
}

/// A list, with the name of its schema.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
pub struct List<T> {
    /// `cleave.dev/v1/slices` and so on.
    pub schema: String,
    /// What is listed.
    pub items: Vec<T>,
}

impl<T> List<T> {
    /// A list of `items` whose schema is `cleave.dev/v1/` and `of`.
    pub fn new(of: &str, items: Vec<T>) -> Self {
        Self { schema: format!("cleave.dev/{API_VERSION}/{of}"), items }
    }
}
