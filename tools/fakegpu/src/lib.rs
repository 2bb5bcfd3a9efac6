//! A simulated NVIDIA driver that unmodified programs load: `libcuda.so.1` and `libnvidia-ml.so.1` in one file.
//!
//! The library finds the directory that it lies in, reads `sim.toml` there (which devices, how time passes) and maps
//! `state` (what all processes share: memory in use, the devices' clocks). No environment variable is needed and no
//! daemon runs. Memory quotas, pools, virtual memory, arrays and graph memory follow the rules that were measured on a
//! real card; device memory has real contents, in lazily touched pages of the host; kernels do nothing but take time.
//!
//! | module | holds |
//! |---|---|
//! | [`install`](mod@install) | makes such a directory |
//! | [`model`] | the models of GPUs and the inventory |
//! | [`alloc`] | the driver's allocation rules, as pure arithmetic |
//! | [`clock`] | the virtual clock of a device, as pure arithmetic |
//! | [`mig`] | the instances of a divided device, as pure arithmetic |
//! | [`slices`] | how contexts share a device's time, as pure arithmetic |
//! | [`sms`] | sets of multiprocessors |
//! | [`mps`] | the MPS control and server, and how a process becomes a client |
//! | [`shared`] | what the processes share |
//! | [`driver`] | `cu*` |
//! | [`nvml`] | `nvml*` |
//!
//! An entry point that is not implemented is exported all the same: it returns "not supported" and is counted.
#![warn(missing_docs)]
// The macros that define entry points work through them one by one.
#![recursion_limit = "1024"]

pub mod alloc;
pub mod clock;
pub mod driver;
pub mod install;
pub mod machine;
pub mod mig;
pub mod model;
pub mod mps;
pub mod nvml;
pub mod shared;
pub mod slices;
pub mod sms;

mod map;
mod place;
mod stub;

/// How long a device of the installation in `dir` worked for each living process that uses it, by pid: nanoseconds of the
/// device's own clock. `None` where there is no installation.
pub fn delivered(dir: &std::path::Path, device: usize) -> Option<Vec<(u32, clock::Nanos)>> {
    Some(place::open_at(dir)?.1.lock().delivered(device))
}

pub use install::{Error, install, install_inventory};
pub use model::{Inventory, MigProfile, Model, Pace, SpecError, models};
