//! Labels of a node: what its GPUs are, which engines they can run, and which tiers may have them.
use crate::tier::Tiers;
use cleave_api::{Engine, GpuModes, Inventory};
use std::collections::BTreeMap;

/// What all of them begin with.
const PREFIX: &str = "cleave.dev/";
/// Longest name of a label after the prefix.
const LONGEST: usize = 63;

/// The labels of a node with these devices and, of each GPU that can have slices, these engines:
///
/// * `cleave.dev/gpus`: how many devices there are; `cleave.dev/model.H100-SXM`: how many of a model.
/// * `cleave.dev/gpu-memory-mib`: the memory of the smallest, in MiB; absent if that of one is not known.
/// * `cleave.dev/engine.spatial`: how many GPUs can run an engine now; `cleave.dev/tier.prod`: how many can run one of a
///   tier's. Absent where there is none, so that a selector can ask whether there is the label.
pub fn labels(inventory: &Inventory, modes: &[GpuModes], tiers: &Tiers) -> BTreeMap<String, String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |name: String| *counts.entry(plain(&name)).or_default() += 1;
    for device in &inventory.devices {
        count(format!("model.{}", device.model.as_ref().unwrap_or(&device.name)));
        let modes = modes.iter().find(|one| one.index == device.index);
        let can = |engine: &Engine| {
            modes.is_some_and(|modes| modes.engines.iter().any(|one| one.engine == *engine && one.available))
        };
        for engine in
            [Engine::Mig, Engine::Spatial, Engine::Temporal, Engine::Whole].iter().filter(|engine| can(engine))
        {
            count(format!("engine.{engine}"));
        }
        for (name, _) in tiers.tiers.iter().filter(|(_, tier)| tier.engines.iter().any(can)) {
            count(format!("tier.{name}"));
        }
    }
    counts.insert("gpus".into(), inventory.devices.len() as u64);
    let memory: Option<Vec<u64>> = inventory.devices.iter().map(|device| device.memory_total_bytes).collect();
    if let Some(least) = memory.and_then(|all| all.into_iter().min()) {
        counts.insert("gpu-memory-mib".into(), least >> 20);
    }
    counts.into_iter().map(|(name, count)| (format!("{PREFIX}{name}"), count.to_string())).collect()
}

/// With the characters that the name of a label may have.
fn plain(name: &str) -> String {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '_';
    let words: Vec<&str> = name.split(|c| !good(c)).filter(|word| !word.is_empty()).collect();
    let short: String = words.join("-").chars().take(LONGEST).collect();
    short.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cleave_api::{Device, Mig, Vendor};
    use cleave_inventory::modes::modes;

    fn device(index: u32, vendor: Vendor, name: &str, mig: Option<bool>, gib: u64) -> Device {
        Device {
            index,
            vendor,
            name: name.into(),
            mig: mig.map(|enabled| Mig { enabled, ..Mig::default() }),
            memory_total_bytes: (gib > 0).then_some(gib << 30),
            ..Device::default()
        }
    }

    fn told(devices: Vec<Device>) -> Vec<String> {
        let inventory = Inventory { devices, ..Inventory::default() };
        let labels = labels(&inventory, &modes(&inventory), &Tiers::default());
        labels.into_iter().map(|(key, value)| format!("{}={value}", key.strip_prefix(PREFIX).unwrap())).collect()
    }

    #[test]
    fn a_node_is_labelled_by_what_its_gpus_can_now() {
        let node = vec![
            device(0, Vendor::Nvidia, "H100", Some(true), 80),
            device(1, Vendor::Nvidia, "H100", Some(false), 80),
            device(2, Vendor::Nvidia, "Tesla K80", None, 12),
            device(3, Vendor::Amd, "MI300X", None, 192),
        ];
        let expected = [
            "engine.mig=1",
            "engine.spatial=1",
            "engine.temporal=2",
            "engine.whole=1",
            "gpu-memory-mib=12288",
            "gpus=4",
            "model.H100=2",
            "model.MI300X=1",
            "model.Tesla-K80=1",
            "tier.dev=2",
            "tier.prod=1",
            "tier.staging=2",
        ];
        assert_eq!(told(node), expected);
        assert_eq!(told(Vec::new()), ["gpus=0"]);
        assert_eq!(told(vec![device(0, Vendor::Amd, "MI50", None, 0)]), ["gpus=1", "model.MI50=1"]);
    }

    #[test]
    fn names_are_names_of_labels() {
        for (name, expected) in [
            ("model.NVIDIA H100 80GB HBM3", "model.NVIDIA-H100-80GB-HBM3"),
            ("model.Data Center GPU Flex (140) / é", "model.Data-Center-GPU-Flex-140"),
            ("model.", "model"),
            (&format!("model.{} x", "y".repeat(56)), &format!("model.{}", "y".repeat(56))),
        ] {
            assert_eq!(plain(name), expected);
        }
    }
}
