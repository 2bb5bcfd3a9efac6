//! The inventory of this machine: with a daemon as an answer of its API, and without one.
use crate::config::Config;
use crate::ffi::nvml::RealNvml;
use crate::files::RunDir;
use crate::gpu::{DriverFiles, LIBRARIES, Nvml, find_driver};
use crate::install;
use crate::node::Node;
use cleave_api::{Device, Inventory, Vendor};
use cleave_inventory::{NvmlAnswers, survey};
use std::path::{Path, PathBuf};

/// What this machine has, without a daemon. Without a driver it is what `/sys` tells, and why is among the problems.
pub fn inventory() -> Inventory {
    let DriverFiles { real, .. } = find_driver(None, install::SHIM);
    let [_, name] = LIBRARIES;
    let answers = real.get(name).map_or_else(NvmlAnswers::default, |path| RealNvml::ask(path));
    survey(Path::new("/"), &answers)
}

/// Where the `sys` of a daemon's machine is; of a simulated one, beside its driver.
pub fn root(config: &Config, run: &RunDir) -> PathBuf {
    config.sim.as_ref().map_or_else(|| "/".into(), |_| run.driver_dir().join(fakegpu::install::ROOT))
}

/// Other makers' devices than NVIDIA's, numbered as in the inventory.
pub fn others(root: &Path, nvml: &dyn Nvml) -> Vec<Device> {
    let other = |device: &Device| device.vendor != Vendor::Nvidia;
    // NVML is asked a few hundred things only where they are needed.
    if !survey(root, &NvmlAnswers::default()).devices.iter().any(other) {
        return Vec::new();
    }
    survey(root, &nvml.answers()).devices.into_iter().filter(other).collect()
}

impl Node {
    /// Where the `sys` of its machine is.
    pub fn root(&self) -> PathBuf {
        root(&self.config, &self.run)
    }

    /// What the machine of this daemon has; where it simulates one, that machine.
    pub fn inventory(&self) -> Inventory {
        survey(&self.root(), &self.nvml.answers())
    }
}
