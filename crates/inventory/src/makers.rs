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
    /// They name devices by numbers among all of the machine. A container, which is given some of them, counts anew.
    pub numbered: bool,
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
///
/// # Errors
/// In words, that one is not there, or can't be named: who is not told which are its own would take others'.
pub fn way(root: &Path, all: &[Device], chosen: &[&str]) -> Result<Way, String> {
    let mut way = Way::default();
    let at = |pci: &str| all.iter().find(|device| device.pci.as_deref() == Some(pci));
    if let Some(missing) = chosen.iter().find(|pci| at(pci).is_none()) {
        return Err(format!("its device at {missing} is not there"));
    }
    let Some(first) = chosen.first().and_then(|pci| at(pci)) else { return Ok(way) };
    let Some(maker) = MAKERS.iter().find(|maker| maker.vendor == first.vendor) else { return Ok(way) };
    let mut names = Vec::new();
    way.nodes.clone_from(&maker.shared);
    for (number, device) in all.iter().filter(|device| device.vendor == maker.vendor).enumerate() {
        let Some(pci) = device.pci.as_deref().filter(|pci| chosen.contains(pci)) else { continue };
        let folder = root.join("sys/bus/pci/devices").join(pci);
        let named = match (maker.by.as_str(), &device.uuid) {
            ("uuid", Some(uuid)) => Some(format!("GPU-{uuid}")),
            ("" | "number" | "uuid", _) => None,
            (file, _) => {
                let text = fs::read_to_string(folder.join(file));
                Some(text.map_err(|e| format!("{file} of its device at {pci} can't be read: {e}"))?.trim().to_owned())
            }
        };
        way.numbered |= named.is_none();
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
    Ok(way)
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
            let way = way(dir.path(), &all, chosen).unwrap();
            let environment: Vec<String> =
                way.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
            (environment.join(" "), way.nodes.join(" "), way.numbered)
        };
        let by = |numbered| move |a: &str, b: &str| (a.to_owned(), b.to_owned(), numbered);
        let (pair, numbered) = (by(false), by(true));
        assert_eq!(
            told(&["0000:02:00.0", "0000:03:00.0"]),
            numbered("ROCR_VISIBLE_DEVICES=GPU-aa,1", "/dev/kfd /dev/dri/renderD128")
        );
        assert_eq!(told(&["0000:04:00.0"]), pair("HABANA_VISIBLE_MODULES=5", "/dev/accel/accel0"));
        assert_eq!(
            told(&["0000:06:00.0"]),
            numbered("ASCEND_RT_VISIBLE_DEVICES=1", "/dev/davinci_manager /dev/devmm_svm /dev/hisi_hdc /dev/davinci1")
        );
        assert_eq!(told(&["0000:07:00.0"]), numbered("", ""));
        assert_eq!(
            told(&["0000:08:00.0"]),
            numbered("ZE_AFFINITY_MASK=0 ZE_ENABLE_PCI_ID_DEVICE_ORDER=1 ZE_FLAT_DEVICE_HIERARCHY=COMPOSITE", "")
        );
        assert_eq!(told(&["0000:02:00.0"]), pair("ROCR_VISIBLE_DEVICES=GPU-aa", "/dev/kfd /dev/dri/renderD128"));
        // Who is told nothing would take others'.
        assert!(
            way(dir.path(), &all, &["0000:02:00.0", "0000:99:00.0"]).unwrap_err().contains("0000:99:00.0 is not there")
        );
        fs::remove_file(at("0000:04:00.0/module_id")).unwrap();
        assert!(way(dir.path(), &all, &["0000:04:00.0"]).unwrap_err().contains("module_id"));
    }
}
