//! The inventory of this machine: with a daemon as an answer of its API, and without one.
use crate::ffi::nvml::RealNvml;
use crate::gpu::{DriverFiles, LIBRARIES, find_driver};
use crate::install;
use crate::node::Node;
use cleave_api::Inventory;
use cleave_inventory::{NvmlAnswers, survey};
use std::path::Path;

/// What this machine has, without a daemon. Without a driver it is what `/sys` tells, and why is among the problems.
pub fn inventory() -> Inventory {
    let DriverFiles { real, .. } = find_driver(None, install::SHIM);
    let [_, name] = LIBRARIES;
    let answers = real.get(name).map_or_else(NvmlAnswers::default, |path| RealNvml::ask(path));
    survey(Path::new("/"), &answers)
}

impl Node {
    /// What the machine of this daemon has; where it simulates one, that machine.
    pub fn inventory(&self) -> Inventory {
        let simulated = self.run.driver_dir().join(fakegpu::install::ROOT);
        let root = if self.config.sim.is_some() { simulated.as_path() } else { Path::new("/") };
        survey(root, &self.nvml.answers())
    }
}
