//! Which engines a GPU can run, and what can be moved off it while it runs.
use crate::table::{Confidence, Table};
use cleave_api::{Device, Engine, EngineAbility, GpuModes, Inventory, Migration, Vendor};
use serde::Deserialize;
use std::sync::LazyLock;

/// From this compute capability on an MPS client has its own address space, its own limits and a part of the
/// multiprocessors.
const SPATIAL_FROM: (u32, u32) = (7, 0);
/// The first driver with checkpoints that another process can ask for.
const CHECKPOINTS_FROM: u32 = 570;

/// Why NVIDIA's GPUs have no engine `whole`.
const DIVIDED: &str = "it can be divided; a slice may have all of it";
/// Why other makers' devices have no other engine.
const GIVEN_WHOLE: &str = "cleave divides NVIDIA's GPUs only; this one is given whole";

/// MIG on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigMode {
    /// The model has none.
    Never,
    /// Nobody asked the GPU.
    Unknown,
    /// Off.
    Off,
    /// On.
    On,
}

/// What decides on a GPU's engines.
#[derive(Clone, Copy, Debug)]
pub struct Card {
    /// Who made it.
    pub vendor: Vendor,
    /// CUDA compute capability.
    pub capability: Option<(u32, u32)>,
    /// MIG.
    pub mig: MigMode,
}

/// A compute capability as it is written: `9.0`.
pub fn capability(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Card {
    fn of(device: &Device) -> Self {
        let model = Table::get().model(device.pci_id.as_deref(), &device.name, device.memory_total_bytes);
        let version = device.compute_capability.as_deref().or(model.and_then(|model| model.cc.as_deref()));
        let mig = match (&device.mig, model) {
            (Some(mig), _) if mig.enabled => MigMode::On,
            (Some(_), _) => MigMode::Off,
            // Where the driver was asked it said so.
            _ if device.vendor != Vendor::Nvidia || device.compute_capability.is_some() => MigMode::Never,
            (None, Some(model)) if model.mig.is_none() => MigMode::Never,
            (None, _) => MigMode::Unknown,
        };
        Self { vendor: device.vendor, capability: version.and_then(capability), mig }
    }

    /// Why it can't be divided in space; `None` if it can.
    pub fn spatial(&self) -> Option<String> {
        match (self.vendor, self.capability) {
            (Vendor::Nvidia, None) => Some("its compute capability is not known, and MPS needs 7.0".into()),
            (Vendor::Nvidia, Some((major, minor))) if (major, minor) < SPATIAL_FROM => {
                Some(format!("its compute capability is {major}.{minor}, and MPS with limits needs 7.0"))
            }
            // AMD's compute units can be given out by masks.
            (Vendor::Nvidia | Vendor::Amd, _) => None,
            _ => Some("its maker's devices are not divided in space".into()),
        }
    }

    /// Why it can't run `engine` as it is now; `None` if it can.
    pub fn obstacle(&self, engine: Engine) -> Option<String> {
        let on = || (self.mig == MigMode::On).then(|| "MIG mode is on, and programs see its instances only".to_owned());
        match (engine, self.vendor) {
            (Engine::Auto, _) | (Engine::Whole, _) if self.vendor != Vendor::Nvidia => None,
            _ if self.vendor != Vendor::Nvidia => Some(GIVEN_WHOLE.into()),
            (Engine::Whole, _) => Some(DIVIDED.into()),
            (Engine::Auto | Engine::Temporal, _) => on(),
            (Engine::Spatial, _) => self.spatial().or_else(on),
            (Engine::Mig, _) => match self.mig {
                MigMode::Never => Some("this model has no MIG".into()),
                MigMode::Unknown => Some("whether MIG mode is on is not known".into()),
                MigMode::Off => Some("MIG mode is off; `cleave mig apply` turns it on".into()),
                MigMode::On => None,
            },
        }
    }

    /// Each engine that a device of this maker may have, with what `besides` has against it.
    pub fn engines(&self, besides: impl Fn(Engine) -> Option<String>) -> Vec<EngineAbility> {
        let ability = |engine| {
            let reason = self.obstacle(engine).or_else(|| besides(engine));
            EngineAbility { engine, available: reason.is_none(), reason }
        };
        let mut all = vec![Engine::Mig, Engine::Spatial, Engine::Temporal];
        all.extend((self.vendor != Vendor::Nvidia).then_some(Engine::Whole));
        all.into_iter().map(ability).collect()
    }

    /// Whether what runs on it can be moved, by how it was given the GPU: by each of the `engines` that it can run, and as a
    /// whole to a virtual machine. `driver` is NVIDIA's kernel driver's version, where it is known.
    pub fn migration(&self, engines: &[EngineAbility], driver: Option<&str>) -> Vec<Migration> {
        let named = |name: &str| engines.iter().find(|one| one.engine.to_string() == name);
        let major = driver.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        let checkpoints = match (self.vendor, major) {
            (Vendor::Nvidia, Some(major)) if major < CHECKPOINTS_FROM => Err(format!(
                "; driver {} makes no checkpoints: they need {CHECKPOINTS_FROM}",
                driver.unwrap_or_default()
            )),
            _ => Ok(()),
        };
        let ways = WAYS.iter().filter(|way| named(&way.name).is_none_or(|one| one.available));
        let ways = ways.filter(|way| match way.name.as_str() {
            "vgpu" => self.vendor == Vendor::Nvidia,
            "whole" => self.vendor != Vendor::Nvidia,
            _ => true,
        });
        ways.map(|way| {
            let (suspend, why) = match &checkpoints {
                Err(why) if way.suspend != Some(false) => (Some(false), why.as_str()),
                _ => (way.suspend, ""),
            };
            Migration { way: way.name.clone(), live: way.live, suspend, reason: format!("{}{why}", way.reason) }
        })
        .collect()
    }
}

/// Why a device can't be given whole; `None` if it can. One that is in no table may be a machine's own display.
pub fn whole(device: &Device) -> Option<String> {
    let known = || Table::get().model(device.pci_id.as_deref(), &device.name, device.memory_total_bytes).is_some();
    match device.driver.as_deref() {
        _ if device.vendor == Vendor::Nvidia => Some(DIVIDED.into()),
        Some("vfio-pci") => Some("it is kept for a virtual machine (vfio-pci)".into()),
        _ if device.memory_total_bytes.is_none() => Some("its memory is not known".into()),
        _ if !known() => Some("it is not in the device table, and may be the machine's own display".into()),
        _ => None,
    }
}

/// The same of each device of an inventory, from what is written there and what the table knows of the models. Whether the
/// machine has MPS is not in it, and taken for granted.
pub fn modes(inventory: &Inventory) -> Vec<GpuModes> {
    let each = inventory.devices.iter().map(|device| {
        let card = Card::of(device);
        let engines = card.engines(|engine| whole(device).filter(|_| engine == Engine::Whole));
        GpuModes {
            index: device.index,
            uuid: device.uuid.clone(),
            name: device.name.clone(),
            compute_capability: card.capability.map(|(major, minor)| format!("{major}.{minor}")),
            migration: card.migration(&engines, inventory.nvidia_driver.as_deref()),
            engines,
        }
    });
    each.collect()
}

/// A row of the data file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Way {
    name: String,
    live: bool,
    suspend: Option<bool>,
    reason: String,
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "confidence")]
    _confidence: Confidence,
    #[serde(rename = "verified_on")]
    _verified_on: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ways {
    way: Vec<Way>,
}

static WAYS: LazyLock<Vec<Way>> = LazyLock::new(|| {
    // A test reads it.
    toml::from_str::<Ways>(include_str!("../data/migration.toml")).map_or_else(|_| Vec::new(), |ways| ways.way)
});

#[cfg(test)]
mod tests {
    use super::*;
    use cleave_api::Mig;

    fn device(name: &str, mig: Option<bool>) -> Device {
        let model = Table::get().named(name).unwrap();
        Device {
            vendor: model.vendor,
            name: model.name.clone(),
            memory_total_bytes: Some(1 << 30),
            mig: mig.map(|enabled| Mig { enabled, ..Mig::default() }),
            ..Device::default()
        }
    }

    fn told(device: Device, driver: &str) -> GpuModes {
        let inventory = Inventory { devices: vec![device], nvidia_driver: Some(driver.into()), ..Inventory::default() };
        modes(&inventory).remove(0)
    }

    /// A1, of models of every kind.
    #[test]
    fn each_model_can_what_it_can() {
        for (name, mig, can, words) in [
            ("H100", Some(false), "spatial temporal", &["MIG mode is off"][..]),
            ("H100", Some(true), "mig", &["MIG mode is on", "MIG mode is on"]),
            ("H100", None, "spatial temporal", &["whether MIG mode is on is not known"]),
            ("RTX 4090", None, "spatial temporal", &["no MIG"]),
            ("Tesla K80", None, "temporal", &["no MIG", "is 3.7"]),
            ("MI300X", None, "whole", &["given whole"; 3]),
            ("Gaudi 2", None, "whole", &["given whole"; 3]),
        ] {
            let modes = told(device(name, mig), "580.10");
            let available = modes.engines.iter().filter(|one| one.available).map(|one| one.engine.to_string());
            assert_eq!(available.collect::<Vec<_>>().join(" "), can, "{name}");
            let why: Vec<&str> = modes.engines.iter().filter_map(|one| one.reason.as_deref()).collect();
            assert!(why.len() == words.len() && why.iter().zip(words).all(|(why, word)| why.contains(word)), "{why:?}");
        }
        for (device, word) in [
            (Device { driver: Some("vfio-pci".into()), ..device("MI300X", None) }, "vfio-pci"),
            (Device { memory_total_bytes: None, ..device("MI300X", None) }, "memory"),
            (Device { name: "Radeon Graphics".into(), ..device("MI300X", None) }, "own display"),
        ] {
            assert!(whole(&device).unwrap().contains(word), "{device:?}");
        }
        let unknown = Device { name: "no such card".into(), ..Device::default() };
        for engine in told(unknown, "580.10").engines.iter().take(2) {
            assert!(engine.reason.as_ref().unwrap().contains("not known"), "{engine:?}");
        }
    }

    /// G12.
    #[test]
    fn only_what_a_hypervisor_has_moves_while_it_runs() {
        toml::from_str::<Ways>(include_str!("../data/migration.toml")).unwrap_or_else(|e| panic!("{e}"));
        let ways = |name: &str, mig, driver| {
            let migration = told(device(name, mig), driver).migration;
            assert!(migration.iter().all(|one| !one.reason.is_empty() && one.live == (one.way == "vgpu")), "{name}");
            migration.into_iter().map(|one| (one.way, one.suspend)).collect::<Vec<_>>()
        };
        let all = |all: &[(&str, Option<bool>)]| -> Vec<(String, Option<bool>)> {
            all.iter().map(|(way, suspend)| (way.to_string(), *suspend)).collect()
        };
        let (no, yes) = (Some(false), Some(true));
        let machine = [("vgpu", no), ("passthrough", no)];
        let with = |engines: &[(&str, Option<bool>)]| all(&[engines, &machine].concat());
        assert_eq!(ways("H100", Some(false), "580.10"), with(&[("temporal", yes), ("spatial", no)]));
        assert_eq!(ways("H100", Some(true), "580.10"), with(&[("mig", None)]));
        assert_eq!(ways("Tesla K80", None, "470.256.02"), with(&[("temporal", no)]));
        assert_eq!(ways("MI300X", None, "580.10"), all(&[("whole", no), ("passthrough", no)]));
        let old = told(device("T4", None), "550.54.15");
        assert!(old.migration[0].reason.contains("driver 550.54.15 makes no checkpoints: they need 570"));
    }
}
