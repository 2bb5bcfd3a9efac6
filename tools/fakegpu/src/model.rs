//! What is simulated: models of GPUs from `fixtures/`, and the inventory of one installation (`sim.toml`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::mig::Ids;

include!(concat!(env!("OUT_DIR"), "/models.rs"));

/// Most devices that one installation can have.
pub const MAX_DEVICES: usize = 16;

/// One GPU instance profile of a model that MIG can divide.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct MigProfile {
    /// NVML's `NVML_GPU_INSTANCE_PROFILE_*` index.
    pub index: u32,
    /// The id that `nvidia-smi mig` prints.
    pub id: u32,
    /// `1g.10gb` and so on.
    pub name: String,
    /// Compute slices.
    pub slices: u32,
    /// Most instances at once.
    pub instances: u32,
    /// Multiprocessors of one instance.
    pub sms: u32,
    /// Copy engines.
    pub copy_engines: u32,
    /// Video decoders.
    pub decoders: u32,
    /// JPEG engines.
    pub jpegs: u32,
    /// Optical-flow engines.
    pub ofas: u32,
    /// Memory.
    pub memory_mib: u64,
    /// Memory slices at which an instance may begin.
    pub starts: Vec<u32>,
    /// Memory slices that one occupies.
    pub size: u32,
}

/// A model of GPU: the data of one fixture.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Model {
    /// The name in a spec, such as `H100`.
    pub id: String,
    /// The name that the driver reports.
    pub name: String,
    /// What the UUIDs are derived from.
    pub uuid_seed: String,
    /// Memory as NVML reports it.
    pub memory_mib: u64,
    /// Memory as `cuDeviceTotalMem` reports it.
    pub total_bytes: u64,
    /// What a context takes.
    pub context_bytes: u64,
    /// Major and minor.
    pub compute_capability: [i32; 2],
    /// Multiprocessors.
    pub sms: u32,
    /// FP32 lanes of each.
    pub cores_per_sm: u32,
    /// NVML's architecture number.
    pub architecture: u32,
    /// NVML's brand number.
    pub brand: u32,
    /// Level-2 cache.
    pub l2_bytes: u64,
    /// Memory bus, bits.
    pub bus_width: u32,
    /// Device and vendor as PCI configuration space has them.
    pub pci_device_id: u32,
    /// Bus id with `{bus:02X}` where the bus number goes.
    pub pci_bus_pattern: String,
    /// PCIe generation.
    pub pcie_gen: u32,
    /// PCIe lanes.
    pub pcie_width: u32,
    /// NVLinks.
    pub nvlinks: u32,
    /// Whether MIG can divide it.
    pub mig: bool,
    /// Power limit.
    pub power_watts: u32,
    /// Power with nothing running.
    pub idle_watts: u32,
    /// Highest SM clock.
    pub sm_clock_mhz: u32,
    /// Memory clock.
    pub memory_clock_mhz: u32,
    /// Whether MIG divides it when it starts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mig_enabled: bool,
    /// MIG geometry, where known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mig_profiles: Vec<MigProfile>,
}

impl Model {
    /// Bytes that its memory can give and take in so many nanoseconds of its clock: two for each wire in each tick.
    pub fn bandwidth(&self, nanos: u64) -> u128 {
        u128::from(self.bus_width) * 2 * u128::from(self.memory_clock_mhz) * u128::from(nanos) / 8 / 1000
    }
}

/// Another maker's device: what its driver shows in the system tree.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Other {
    /// The name in a spec, such as `MI300X`.
    pub id: String,
    /// Device and vendor as PCI configuration space has them.
    pub pci_device_id: u32,
    /// PCI class, as sysfs writes it.
    pub class: String,
    /// The kernel driver.
    pub driver: String,
    /// Files of its folder, and what is in them.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Folders of its folder.
    #[serde(default)]
    pub folders: Vec<String>,
}

#[derive(Deserialize)]
struct Others {
    other: Vec<Other>,
}

/// All other makers' devices that a spec can name.
pub fn others() -> Vec<Other> {
    toml::from_str::<Others>(include_str!("../data/others.toml")).map(|all| all.other).unwrap_or_default()
}

/// How virtual time passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pace {
    /// A virtual nanosecond takes a nanosecond: waiting sleeps.
    Real,
    /// Waiting moves the clock at once.
    #[default]
    Virtual,
}

/// The inventory of one installation.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Inventory {
    /// How virtual time passes.
    #[serde(default)]
    pub pace: Pace,
    /// The driver's version.
    #[serde(default = "driver_version")]
    pub driver: String,
    /// The CUDA version that the driver reports, such as 13000.
    #[serde(default = "cuda_version")]
    pub cuda: i32,
    /// The devices, in order.
    #[serde(rename = "device", default)]
    pub devices: Vec<Model>,
    /// Other makers' devices, in order.
    #[serde(rename = "other", default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
}

fn driver_version() -> String {
    "580.159.04".into()
}

fn cuda_version() -> i32 {
    13000
}

/// Why a spec or a file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A part of the spec is empty.
    #[error(
        "{spec:?}: empty part; a spec is MODEL or COUNTxMODEL, each with ,mig for MIG mode, joined by '+', such as 2xT4+L40S, or a path ending in .toml"
    )]
    Empty {
        /// The whole spec.
        spec: String,
    },
    /// The count is not usable.
    #[error("{part:?}: the count must be 1 to {MAX_DEVICES} and the whole spec at most {MAX_DEVICES} devices")]
    Count {
        /// The part, or the whole spec.
        part: String,
    },
    /// No such model.
    #[error("{model:?}: no such model; known models: {known}")]
    Model {
        /// What was asked for.
        model: String,
        /// What exists.
        known: String,
    },
    /// MIG was asked of a model that can't.
    #[error("{model}: MIG can't divide it, or its profiles are not known")]
    Mig {
        /// The model.
        model: String,
    },
    /// A file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file could not be understood.
    #[error("{path}: {message}")]
    Parse {
        /// Its path.
        path: String,
        /// What is wrong.
        message: String,
    },
}

/// All models that a spec can name, in the order of their ids.
pub fn models() -> Vec<Model> {
    let mut models: Vec<Model> = FIXTURES.iter().filter_map(|text| toml::from_str(text).ok()).collect();
    models.sort_by(|a, b| a.id.cmp(&b.id));
    models
}

impl Inventory {
    /// Understands `H100`, `8xH100`, `2xT4+L40S`, or the path of a `.toml` file that holds one model or an inventory;
    /// with `,mig` behind a model MIG divides it, and with `@real` behind it all time passes as the machine's does.
    pub fn parse(spec: &str) -> Result<Inventory, SpecError> {
        if let Some(spec) = spec.strip_suffix("@real") {
            return Ok(Inventory { pace: Pace::Real, ..Inventory::parse(spec)? });
        }
        if spec.ends_with(".toml") {
            return Inventory::read(Path::new(spec));
        }
        let (known, known_others) = (models(), others());
        let (mut devices, mut others) = (Vec::new(), Vec::new());
        for part in spec.split('+') {
            let part = part.trim();
            if part.is_empty() {
                return Err(SpecError::Empty { spec: spec.into() });
            }
            let (part, mig) = part.strip_suffix(",mig").map_or((part, false), |part| (part, true));
            let (count, model) = match part.split_once(['x', 'X']) {
                Some((count, model)) if count.bytes().all(|b| b.is_ascii_digit()) => {
                    (count.parse::<usize>().unwrap_or(0), model)
                }
                _ => (1, part),
            };
            if !(1..=MAX_DEVICES).contains(&count) {
                return Err(SpecError::Count { part: part.into() });
            }
            if let Some(other) = known_others.iter().find(|other| !mig && other.id.eq_ignore_ascii_case(model)) {
                others.extend(std::iter::repeat_n(other.clone(), count));
                continue;
            }
            let Some(model) = known.iter().find(|m| m.id.eq_ignore_ascii_case(model)) else {
                let others = known_others.iter().map(|other| other.id.as_str());
                let known: Vec<&str> = known.iter().map(|m| m.id.as_str()).chain(others).collect();
                return Err(SpecError::Model { model: model.into(), known: known.join(", ") });
            };
            if mig && model.mig_profiles.is_empty() {
                return Err(SpecError::Mig { model: model.id.clone() });
            }
            let model = Model { mig_enabled: mig, ..model.clone() };
            devices.extend(std::iter::repeat_n(model, count));
        }
        if devices.len() + others.len() > MAX_DEVICES {
            return Err(SpecError::Count { part: spec.into() });
        }
        Ok(Inventory { pace: Pace::default(), driver: driver_version(), cuda: cuda_version(), devices, others })
    }

    /// Reads a file with one model or a whole inventory.
    pub fn read(path: &Path) -> Result<Inventory, SpecError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| SpecError::Read { path: shown.clone(), source })?;
        let parsed = match toml::from_str::<Model>(&text) {
            Ok(model) => Ok(Inventory {
                pace: Pace::default(),
                driver: driver_version(),
                cuda: cuda_version(),
                devices: vec![model],
                others: Vec::new(),
            }),
            Err(_) => toml::from_str::<Inventory>(&text),
        };
        let inventory = parsed.map_err(|error| SpecError::Parse { path: shown.clone(), message: error.to_string() })?;
        if !(1..=MAX_DEVICES).contains(&(inventory.devices.len() + inventory.others.len())) {
            return Err(SpecError::Count { part: shown });
        }
        Ok(inventory)
    }

    /// The UUID of a device: derived from the model's seed and its place, so that it is the same at every run.
    pub fn uuid(&self, device: usize) -> [u8; 16] {
        self.identity(device, 0)
    }

    /// The UUID of a MIG device: the same whenever one with these ids is made.
    pub fn mig_uuid(&self, device: usize, (instance, compute): Ids) -> [u8; 16] {
        self.identity(device, (instance * 16 + compute + 1) as u64)
    }

    fn identity(&self, device: usize, part: u64) -> [u8; 16] {
        let seed = self.devices.get(device).map_or("", |model| model.uuid_seed.as_str());
        let half = |salt: u64| {
            let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ salt ^ part << 32;
            for byte in seed.bytes().chain((device as u64).to_le_bytes()) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            // One more round of mixing, or neighbouring devices would differ in few digits.
            hash ^= hash >> 29;
            hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            hash ^ (hash >> 32)
        };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&half(0x5bd1).to_be_bytes());
        bytes[8..].copy_from_slice(&half(0xa7c3).to_be_bytes());
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        bytes
    }

    /// `GPU-` and the UUID's digits.
    pub fn uuid_text(&self, device: usize) -> String {
        format!("GPU-{}", digits(self.uuid(device)))
    }

    /// `MIG-` and the digits of a MIG device's UUID.
    pub fn mig_uuid_text(&self, device: usize, ids: Ids) -> String {
        format!("MIG-{}", digits(self.mig_uuid(device, ids)))
    }

    /// The PCI bus number of a device.
    pub fn bus(&self, device: usize) -> u32 {
        // Spread as on a real board, so that nothing takes the index for the bus number.
        0x1b + device as u32 * 0x0c
    }

    /// The PCI bus id as NVML prints it, `00000000:1B:00.0`.
    pub fn bus_id(&self, device: usize) -> String {
        let pattern = self.devices.get(device).map_or("", |model| model.pci_bus_pattern.as_str());
        pattern.replace("{bus:02X}", &format!("{:02X}", self.bus(device)))
    }
}

fn digits(uuid: [u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The devices that `CUDA_VISIBLE_DEVICES` selects: indices or beginnings of UUIDs, up to the first that names none.
pub(crate) fn visible(inventory: &Inventory, setting: Option<&str>) -> Vec<usize> {
    let count = inventory.devices.len();
    let Some(setting) = setting else { return (0..count).collect() };
    let mut devices = Vec::new();
    for name in setting.split(',').map(str::trim) {
        let named = |device: &usize| name.len() > 4 && inventory.uuid_text(*device).starts_with(name);
        let device = match name.parse() {
            Ok(index) => Some(index).filter(|index: &usize| *index < count),
            Err(_) => {
                let mut matches = (0..count).filter(named);
                // A beginning that fits two names neither.
                matches.next().filter(|_| matches.next().is_none())
            }
        };
        match device {
            Some(device) if !devices.contains(&device) => devices.push(device),
            // The driver shows nothing at all where a device is named twice.
            Some(_) => return Vec::new(),
            None => break,
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fixture_is_a_model() {
        assert_eq!(models().len(), FIXTURES.len());
        for model in models() {
            assert!(model.total_bytes <= model.memory_mib << 20, "{}", model.id);
        }
    }

    #[test]
    fn bandwidth_is_the_datasheets() {
        let found = |id: &str| models().iter().find(|model| model.id == id).map(|model| model.bandwidth(1_000) / 1_000);
        assert_eq!((found("H100"), found("T4")), (Some(3352), Some(320)));
    }

    #[test]
    fn specs_name_models_and_counts() {
        let names = |spec: &str| -> Vec<String> {
            Inventory::parse(spec).expect(spec).devices.iter().map(|m| m.id.clone()).collect()
        };
        assert_eq!(names("H100"), ["H100"]);
        assert_eq!(names("2xT4+l40s"), ["T4", "T4", "L40S"]);
        let mixed = Inventory::parse("2xMI300X+T4+gaudi3").expect("spec");
        assert_eq!(
            mixed.others.iter().map(|other| other.id.as_str()).collect::<Vec<_>>(),
            ["MI300X", "MI300X", "Gaudi3"]
        );
        assert_eq!((mixed.devices.len(), Inventory::parse("AI100").expect("spec").devices.len()), (1, 0));
        let divided = Inventory::parse("2xH100,mig+A30").expect("spec");
        assert_eq!(divided.devices.iter().map(|model| model.mig_enabled).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn a_spec_may_ask_for_time_that_passes() {
        let inventory = Inventory::parse("2xT4@real").expect("spec");
        assert_eq!((inventory.devices.len(), inventory.pace), (2, Pace::Real));
        assert_eq!(Inventory::parse("2xT4").expect("spec").pace, Pace::Virtual);
    }

    #[test]
    fn a_bad_spec_says_what_is_wrong_and_what_exists() {
        for (spec, said) in [
            ("H1000", "known models: 4090, A100"),
            ("0xH100", "1 to 16"),
            ("17xH100", "1 to 16"),
            ("9xH100+9xT4", "1 to 16"),
            ("9xH100+9xMI300X", "1 to 16"),
            ("MI300X,mig", "known models"),
            ("T4++T4", "2xT4+L40S"),
            ("/nowhere.toml", "No such file"),
            ("T4,mig", "can't divide"),
        ] {
            let error = Inventory::parse(spec).expect_err(spec).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn uuids_differ_and_stay() {
        let inventory = Inventory::parse("8xH100").expect("spec");
        let all: std::collections::BTreeSet<String> = (0..8).map(|i| inventory.uuid_text(i)).collect();
        assert_eq!(all.len(), 8);
        assert_eq!(inventory.uuid_text(0).len(), 40);
    }

    #[test]
    fn cuda_visible_devices_selects_and_orders() {
        let inventory = Inventory::parse("4xH100").expect("spec");
        let seen = |setting: &str| visible(&inventory, Some(setting));
        assert_eq!(visible(&inventory, None), [0, 1, 2, 3]);
        assert_eq!(seen("3, 1"), [3, 1]);
        assert_eq!(seen("2,-1,0"), [2]);
        assert_eq!(seen(""), [0; 0]);
        assert_eq!(seen("1,1"), [0; 0]);
        assert_eq!(seen("7"), [0; 0]);
        assert_eq!(seen(&inventory.uuid_text(2)), [2]);
        assert_eq!(seen(&inventory.uuid_text(2)[..10]), [2]);
        assert_eq!(seen("GPU-"), [0; 0]);
    }
}
