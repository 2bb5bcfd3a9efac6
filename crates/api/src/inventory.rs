//! What a machine has: accelerators, how they are linked, and what is near them.
use crate::API_VERSION;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/inventory`, and what `cleave gpus --save` writes: all that was found, and what could not be read. What is not
/// known is null.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// `cleave.dev/v1/inventory`.
    pub schema: String,
    /// Version of NVIDIA's kernel driver.
    #[serde(default)]
    pub nvidia_driver: Option<String>,
    /// CUDA version that it supports, as 13000 for 13.0.
    #[serde(default)]
    pub cuda_version: Option<u32>,
    /// The accelerators: NVIDIA's in NVML's order, then others in the order of their PCI addresses.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Network devices on PCI: those that do RDMA first, each in the order of their names.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// PCI addresses of the NVSwitches that the machine shows.
    #[serde(default)]
    pub nvswitches: Vec<String>,
    /// NUMA nodes with processors or memory.
    #[serde(default)]
    pub numa: Vec<NumaNode>,
    /// How each two of the devices and RDMA devices are linked.
    #[serde(default)]
    pub pairs: Vec<Pair>,
    /// What could not be read. The rest is answered all the same.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

impl Default for Inventory {
    fn default() -> Self {
        Self {
            schema: format!("cleave.dev/{API_VERSION}/inventory"),
            nvidia_driver: None,
            cuda_version: None,
            devices: Vec::new(),
            nics: Vec::new(),
            nvswitches: Vec::new(),
            numa: Vec::new(),
            pairs: Vec::new(),
            problems: Vec::new(),
        }
    }
}

/// Who made an accelerator.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// NVIDIA: PCI vendor 10de.
    #[default]
    Nvidia,
    /// AMD: 1002.
    Amd,
    /// Intel: 8086.
    Intel,
    /// Habana, now Intel: 1da3.
    Habana,
    /// Huawei: 19e5.
    Huawei,
    /// Qualcomm: 17cb.
    Qualcomm,
}

/// An accelerator.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Device {
    /// Its place among the devices; NVML's index for NVIDIA's.
    pub index: u32,
    /// `GPU` and the index: its name in [`Pair`].
    pub label: String,
    /// Who made it.
    pub vendor: Vendor,
    /// Model, as the driver names it; from the device table where there is no driver.
    pub name: String,
    /// The row of the device table that is meant by that.
    pub model: Option<String>,
    /// UUID.
    pub uuid: Option<String>,
    /// PCI address, as sysfs writes it: `0000:1b:00.0`.
    pub pci: Option<String>,
    /// PCI vendor and device: `10de:2330`.
    pub pci_id: Option<String>,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// All of its memory, in bytes.
    pub memory_total_bytes: Option<u64>,
    /// Who says how much memory it has.
    pub memory_from: Option<MemoryFrom>,
    /// Multiprocessors, compute units, Xe cores, TPCs or AI cores.
    pub units: Option<u32>,
    /// CUDA compute capability: `9.0`.
    pub compute_capability: Option<String>,
    /// Clock of the multiprocessors now, in MHz.
    pub clock_mhz: Option<u32>,
    /// Its highest.
    pub clock_max_mhz: Option<u32>,
    /// Clock of the memory now, in MHz.
    pub memory_clock_mhz: Option<u32>,
    /// Its highest.
    pub memory_clock_max_mhz: Option<u32>,
    /// Power limit in force, in watts.
    pub power_limit_watts: Option<f64>,
    /// Lowest limit that can be set, in watts.
    pub power_limit_min_watts: Option<f64>,
    /// Highest limit that can be set, in watts.
    pub power_limit_max_watts: Option<f64>,
    /// Whether error correction is on.
    pub ecc: Option<bool>,
    /// MIG; absent where the device has none.
    pub mig: Option<Mig>,
    /// How AMD's driver divides it: compute and memory, `SPX/NPS1`.
    pub partition: Option<String>,
    /// The PCIe link.
    pub pcie: PcieLink,
    /// The NUMA node that it is on.
    pub numa_node: Option<u32>,
    /// The processors near it: `0-55,112-167`.
    pub cpus: Option<String>,
    /// The NUMA nodes whose memory is near it: `0`.
    pub memory_nodes: Option<String>,
    /// The NUMA node that its own memory is.
    pub own_numa_node: Option<u32>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// NVLinks that are up.
    pub nvlinks: Option<u32>,
}

/// Who says how much memory a device has.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MemoryFrom {
    /// Its driver.
    Driver,
    /// The device table: what the model has, not what this device was asked.
    Table,
}

/// MIG as a device answers it, whether it is on or off.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Mig {
    /// On now.
    pub enabled: bool,
    /// On after the next reset.
    pub pending: bool,
    /// What instances there can be.
    pub profiles: Vec<MigProfile>,
}

/// A kind of MIG instance.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MigProfile {
    /// `1g.10gb`. Ids are not portable between models; names are.
    pub name: String,
    /// Its id on this model.
    pub id: u32,
    /// Most instances at once.
    pub instances: u32,
    /// Multiprocessors of one.
    pub multiprocessors: u32,
    /// Copy engines.
    pub copy_engines: u32,
    /// Video decoders.
    pub decoders: u32,
    /// Video encoders.
    pub encoders: u32,
    /// JPEG engines.
    pub jpeg_engines: u32,
    /// Optical-flow engines.
    pub optical_flow_engines: u32,
    /// Memory of one, in MiB.
    pub memory_mib: u64,
    /// Memory slices at which one may begin.
    pub starts: Vec<u32>,
    /// Memory slices that one takes.
    pub size: u32,
}

/// A PCIe link: what it is now, which idle devices lower, and what both ends can.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct PcieLink {
    /// Generation now.
    pub generation: Option<u32>,
    /// Highest generation of device and slot.
    pub generation_max: Option<u32>,
    /// Lanes now.
    pub lanes: Option<u32>,
    /// Most lanes of device and slot.
    pub lanes_max: Option<u32>,
}

/// A network device.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Nic {
    /// `NIC` and its place among those that do RDMA: its name in [`Pair`]. Absent for others.
    pub label: Option<String>,
    /// `mlx5_0`; for one without RDMA its network interface.
    pub name: String,
    /// Its network interfaces.
    pub interfaces: Vec<String>,
    /// PCI address.
    pub pci: Option<String>,
    /// The kernel driver that has it.
    pub driver: Option<String>,
    /// Rate of its first port, in Gbit/s; absent where it is down or does not say.
    pub rate_gbit_s: Option<f64>,
    /// The NUMA node that it is on.
    pub numa_node: Option<u32>,
}

/// A NUMA node.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its processors: `0-55,112-167`; empty for one of memory alone.
    pub cpus: String,
    /// Its memory, in bytes.
    pub memory_bytes: Option<u64>,
}

/// How two devices are linked.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Label of one.
    pub a: String,
    /// Label of the other.
    pub b: String,
    /// NVLinks that join them.
    #[serde(default)]
    pub nvlinks: u32,
    /// The way over PCIe.
    #[serde(default)]
    pub path: Option<LinkPath>,
}

/// The way between two devices over PCIe, the nearest first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "UPPERCASE")]
pub enum LinkPath {
    /// At most one PCIe bridge.
    Pix,
    /// Several bridges, but not the CPU's.
    Pxb,
    /// Over the CPU's PCIe host bridge.
    Phb,
    /// Between host bridges of one NUMA node.
    Node,
    /// Between NUMA nodes.
    Sys,
}

/// Something that could not be read.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// What it is about: a device's label or PCI address, a file, `NVML`.
    pub about: String,
    /// Why.
    pub message: String,
}
