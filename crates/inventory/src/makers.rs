//! How a program is given some of a maker's devices whole, and no others. `data/makers.toml` says what its fields are.
use crate::table::Confidence;
use cleave_api::{Device, Vendor};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// What a program needs to find certain devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Variables that the maker's runtime reads; empty where none is known that chooses devices.
    pub environment: BTreeMap<String, String>,
    /// Device nodes for a container.
    pub nodes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Maker {
    vendor: Vendor,
    variable: Option<String>,
    #[serde(default)]
    by: String,
    #[serde(default)]
    besides: BTreeMap<String, String>,
    #[serde(default)]
    shared: Vec<String>,
    #[serde(default)]
    numbered: Vec<String>,
    #[serde(default)]
    folders: BTreeMap<String, String>,
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "confidence")]
    _confidence: Confidence,
    #[serde(rename = "verified_on")]
    _verified_on: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Makers {
    maker: Vec<Maker>,
}

static MAKERS: LazyLock<Vec<Maker>> = LazyLock::new(|| {
    // A test reads it.
    toml::from_str::<Makers>(include_str!("../data/makers.toml")).map_or_else(|_| Vec::new(), |all| all.maker)
});

/// How a program is given those of a machine's devices whose PCI addresses are `chosen`, which are of one maker. `all`: the
/// machine's devices, in the order of an inventory; `root` has its `sys`.
pub fn way(root: &Path, all: &[Device], chosen: &[&str]) -> Way {
    let mut way = Way::default();
    let is_chosen = |device: &&Device| device.pci.as_deref().is_some_and(|pci| chosen.contains(&pci));
    let Some(first) = all.iter().find(is_chosen) else { return way };
    let Some(maker) = MAKERS.iter().find(|maker| maker.vendor == first.vendor) else { return way };
    let mut names = Vec::new();
    way.nodes.clone_from(&maker.shared);
    for (number, device) in all.iter().filter(|device| device.vendor == maker.vendor).enumerate() {
        let Some(pci) = device.pci.as_deref().filter(|pci| chosen.contains(pci)) else { continue };
        let folder = root.join("sys/bus/pci/devices").join(pci);
        let named = match maker.by.as_str() {
            "number" => None,
            "uuid" => device.uuid.as_ref().map(|uuid| format!("GPU-{uuid}")),
            file => fs::read_to_string(folder.join(file)).ok().map(|text| text.trim().to_owned()),
        };
        names.push(named.unwrap_or_else(|| number.to_string()));
        way.nodes.extend(maker.numbered.iter().map(|node| node.replace("{n}", &number.to_string())));
        for (name, place) in &maker.folders {
            let entries = fs::read_dir(folder.join(name)).into_iter().flatten().flatten();
            let mut nodes: Vec<String> =
                entries.map(|entry| format!("{place}/{}", entry.file_name().to_string_lossy())).collect();
            nodes.sort();
            way.nodes.append(&mut nodes);
        }
    }
    if let Some(variable) = &maker.variable {
        way.environment.clone_from(&maker.besides);
        way.environment.insert(variable.clone(), names.join(","));
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_maker_has_a_way() {
        let makers =
            toml::from_str::<Makers>(include_str!("../data/makers.toml")).unwrap_or_else(|e| panic!("{e}")).maker;
        for vendor in [Vendor::Amd, Vendor::Intel, Vendor::Habana, Vendor::Huawei, Vendor::Qualcomm] {
            let maker = makers.iter().find(|maker| maker.vendor == vendor).unwrap();
            assert_eq!(maker.variable.is_some(), !maker.by.is_empty(), "{vendor:?}");
            assert!(!(maker.shared.is_empty() && maker.numbered.is_empty() && maker.folders.is_empty()), "{vendor:?}");
        }
    }

    #[test]
    fn devices_are_named_as_their_runtime_does() {
        let dir = tempfile::tempdir().unwrap();
        let device = |vendor, pci: &str, uuid: Option<&str>| Device {
            vendor,
            pci: Some(pci.into()),
            uuid: uuid.map(str::to_owned),
            ..Device::default()
        };
        let all = [
            device(Vendor::Nvidia, "0000:01:00.0", Some("GPU-1")),
            device(Vendor::Amd, "0000:02:00.0", Some("aa")),
            device(Vendor::Amd, "0000:03:00.0", None),
            device(Vendor::Habana, "0000:04:00.0", None),
            device(Vendor::Huawei, "0000:05:00.0", None),
            device(Vendor::Huawei, "0000:06:00.0", None),
            device(Vendor::Qualcomm, "0000:07:00.0", None),
            device(Vendor::Intel, "0000:08:00.0", None),
        ];
        let at = |path: &str| dir.path().join("sys/bus/pci/devices").join(path);
        fs::create_dir_all(at("0000:02:00.0/drm/renderD128")).unwrap();
        fs::create_dir_all(at("0000:04:00.0/accel/accel0")).unwrap();
        fs::write(at("0000:04:00.0/module_id"), "5\n").unwrap();
        let told = |chosen: &[&str]| {
            let way = way(dir.path(), &all, chosen);
            let environment: Vec<String> =
                way.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
            (environment.join(" "), way.nodes.join(" "))
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            told(&["0000:02:00.0", "0000:03:00.0"]),
            pair("ROCR_VISIBLE_DEVICES=GPU-aa,1", "/dev/kfd /dev/dri/renderD128")
        );
        assert_eq!(told(&["0000:04:00.0"]), pair("HABANA_VISIBLE_MODULES=5", "/dev/accel/accel0"));
        assert_eq!(
            told(&["0000:06:00.0"]),
            pair("ASCEND_RT_VISIBLE_DEVICES=1", "/dev/davinci_manager /dev/devmm_svm /dev/hisi_hdc /dev/davinci1")
        );
        assert_eq!(told(&["0000:07:00.0"]), pair("", ""));
        assert_eq!(told(&["0000:08:00.0"]), pair("ZE_AFFINITY_MASK=0 ZE_ENABLE_PCI_ID_DEVICE_ORDER=1", ""));
        assert_eq!(told(&["0000:99:00.0"]), pair("", ""));
    }
}
