//! What a machine has, from a system tree (`/sys` and `/proc` under a root) and what NVML answers. What can't be read is a
//! problem of that device, and the rest is answered.
use crate::matrix::link_path;
use crate::table::Table;
use cleave_api::{Device, Inventory, LinkPath, MemoryFrom, Nic, NumaNode, Pair, PcieLink, Problem, Vendor};
use cleave_policy::topology::Path as Way;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What NVML answers about the machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NvmlAnswers {
    /// The kernel driver's version.
    pub driver: String,
    /// CUDA version, as 13000 for 13.0.
    pub cuda: u32,
    /// The GPUs in its order.
    pub gpus: Vec<NvmlGpu>,
    /// What it did not answer.
    pub problems: Vec<Problem>,
}

/// What NVML answers about one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NvmlGpu {
    /// What it knows of the device.
    pub device: Device,
    /// Where each of its NVLinks that are up leads.
    pub nvlinks: Vec<NvLinkEnd>,
    /// The way to each GPU, in NVML's order.
    pub paths: Vec<Option<LinkPath>>,
    /// Whether NVLink joins it with each GPU; `None` = not said.
    pub joined: Vec<Option<bool>>,
}

impl NvmlGpu {
    /// NVLinks that lead straight to `other`.
    pub fn links_to(&self, other: &Self) -> usize {
        let leads = |end: &&NvLinkEnd| matches!(end, NvLinkEnd::Device(pci) if other.device.pci.as_ref() == Some(pci));
        self.nvlinks.iter().filter(leads).count()
    }

    /// NVLinks that lead to switches, or nobody says where.
    pub fn links_to_fabric(&self) -> usize {
        self.nvlinks.iter().filter(|end| !matches!(end, NvLinkEnd::Device(_))).count()
    }
}

/// Where an NVLink leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvLinkEnd {
    /// To the device at this PCI address.
    Device(String),
    /// To a switch.
    Switch,
    /// Nobody says.
    Unknown,
}

/// A PCI address as sysfs writes it; NVML has eight digits of domain, and capitals.
pub fn pci_address(text: &str) -> String {
    let lower = text.trim().to_lowercase();
    match lower.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 => match domain.strip_prefix("0000") {
            Some(short) => format!("{short}:{rest}"),
            None => lower,
        },
        _ => lower,
    }
}

fn is_pci_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let hex = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    parts.len() == 4 && text.matches(':').count() == 2 && parts.iter().all(hex)
}

/// NVLinks between two GPUs: those that lead from one to the other; else, where both lead into a fabric that joins them, as
/// many as the one with fewer has.
fn nvlinks(one: &NvmlGpu, other: &NvmlGpu, at: usize) -> u32 {
    let straight = one.links_to(other);
    if straight > 0 {
        return straight as u32;
    }
    let both_switched = [one, other].iter().all(|gpu| gpu.nvlinks.contains(&NvLinkEnd::Switch));
    // A switch that is not shown to this machine is told by its peers alone.
    let joined = one.joined.get(at).copied().flatten().unwrap_or(both_switched);
    if joined { one.links_to_fabric().min(other.links_to_fabric()) as u32 } else { 0 }
}

/// What is found in the tree, with where it is on the bus.
struct Found<T> {
    item: T,
    /// What is above it, from the bus's root on, and itself.
    place: Vec<String>,
}

struct Tree<'a> {
    root: &'a Path,
    problems: Vec<Problem>,
}

/// The inventory of the machine whose `/sys` and `/proc` are under `root`. Nothing is cached, and nothing is an error.
pub fn survey(root: &Path, nvml: &NvmlAnswers) -> Inventory {
    let mut tree = Tree { root, problems: nvml.problems.clone() };
    let (seen, nvswitches) = tree.accelerators();
    let mut seen: BTreeMap<String, Found<Device>> = seen;
    let mut places: Vec<Vec<String>> = Vec::new();
    let mut devices: Vec<Device> = Vec::new();
    for gpu in &nvml.gpus {
        let mut device = gpu.device.clone();
        let found = device.pci.as_ref().and_then(|pci| seen.remove(pci));
        let place = found.as_ref().map(|found| found.place.clone()).unwrap_or_default();
        if let Some(found) = found {
            fill(&mut device, found.item);
        }
        devices.push(device);
        places.push(place);
    }
    for (pci, found) in seen {
        if found.item.vendor == Vendor::Nvidia && !nvml.gpus.is_empty() {
            tree.problem(&pci, "is on the bus, and NVML does not show it");
        }
        devices.push(found.item);
        places.push(found.place);
    }
    let table = Table::get();
    for (at, device) in devices.iter_mut().enumerate() {
        device.index = at as u32;
        device.label = format!("GPU{at}");
        let model = table.model(device.pci_id.as_deref(), &device.name, device.memory_total_bytes);
        device.model = model.map(|model| model.name.clone());
        if device.name.is_empty() {
            let unnamed = || format!("{:?} {}", device.vendor, device.pci_id.as_deref().unwrap_or("device"));
            device.name = model.map_or_else(unnamed, |model| model.name.clone());
        }
        if device.memory_total_bytes.is_some() {
            device.memory_from = Some(MemoryFrom::Driver);
        } else if let Some(gb) = model.and_then(|model| model.memory_gb) {
            device.memory_total_bytes = Some((gb * 1e9) as u64);
            device.memory_from = Some(MemoryFrom::Table);
        }
        if device.numa_node.is_none() {
            let first = device.memory_nodes.as_deref().and_then(|nodes| nodes.split([',', '-']).next());
            device.numa_node = first.and_then(|node| node.parse().ok());
        }
        if device.memory_nodes.is_none() {
            device.memory_nodes = device.numa_node.map(|node| node.to_string());
        }
    }
    let nics = tree.nics();
    let numa = tree.numa();
    let nvidia_driver = match nvml.driver.as_str() {
        "" => tree.nvidia_version(),
        version => Some(version.to_owned()),
    };
    let mut inventory = Inventory {
        nvidia_driver,
        cuda_version: (nvml.cuda > 0).then_some(nvml.cuda),
        nvswitches,
        numa,
        problems: tree.problems,
        ..Inventory::default()
    };
    let mut ends: Vec<(String, Vec<String>, Option<u32>)> = Vec::new();
    for (device, place) in devices.iter().zip(places) {
        ends.push((device.label.clone(), place, device.numa_node));
    }
    for nic in &nics {
        if let Some(label) = &nic.item.label {
            ends.push((label.clone(), nic.place.clone(), nic.item.numa_node));
        }
    }
    for (at, (a, above_a, node_a)) in ends.iter().enumerate() {
        for (to, (b, above_b, node_b)) in ends.iter().enumerate().skip(at + 1) {
            let known = !above_a.is_empty() && !above_b.is_empty();
            let mut path = known.then(|| link_path(Way::between((above_a, *node_a), (above_b, *node_b))));
            let mut links = 0;
            if let (Some(one), Some(other)) = (nvml.gpus.get(at), nvml.gpus.get(to)) {
                path = one.paths.get(to).copied().flatten().or(path);
                links = nvlinks(one, other, to);
            }
            inventory.pairs.push(Pair { a: a.clone(), b: b.clone(), nvlinks: links, path });
        }
    }
    inventory.devices = devices;
    inventory.nics = nics.into_iter().map(|nic| nic.item).collect();
    inventory
}

/// What `device` does not say yet, `more` does.
fn fill(device: &mut Device, more: Device) {
    macro_rules! fill {
        ($($field:ident)*) => { $( if device.$field.is_none() { device.$field = more.$field; } )* };
    }
    fill!(uuid pci_id driver memory_total_bytes units compute_capability clock_mhz clock_max_mhz memory_clock_mhz
        memory_clock_max_mhz power_limit_watts power_limit_min_watts power_limit_max_watts ecc mig partition numa_node cpus
        memory_nodes own_numa_node iommu_group nvlinks);
    let (link, other) = (&mut device.pcie, more.pcie);
    link.generation = link.generation.or(other.generation);
    link.generation_max = link.generation_max.or(other.generation_max);
    link.lanes = link.lanes.or(other.lanes);
    link.lanes_max = link.lanes_max.or(other.lanes_max);
    if device.name.is_empty() {
        device.name = more.name;
    }
}

impl Tree<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn problem(&mut self, about: &str, message: impl Into<String>) {
        self.problems.push(Problem { about: about.to_owned(), message: message.into() });
    }

    /// The names in a folder, sorted as people count; one that is not there is empty.
    fn names(&mut self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = match fs::read_dir(self.at(path)) {
            Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.problem(&format!("/{path}"), format!("can't be read: {error}"));
                Vec::new()
            }
        };
        names.sort_by_cached_key(|name| counted(name));
        names
    }

    /// A file's text; `None` where it is not there. One that is there and can't be read is a problem of `about`.
    fn text(&mut self, about: &str, path: &str) -> Option<String> {
        match fs::read(self.at(path)) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                let file = path.rsplit('/').next().unwrap_or(path);
                self.problem(about, format!("{file} can't be read: {error}"));
                None
            }
        }
    }

    fn number<T: std::str::FromStr>(&mut self, about: &str, path: &str) -> Option<T> {
        let text = self.text(about, path)?;
        let value = text.parse().ok();
        if value.is_none() && text.parse::<i64>().is_err() {
            let file = path.rsplit('/').next().unwrap_or(path);
            self.problem(about, format!("{file} is no number: \"{text}\""));
        }
        value
    }

    fn hex(&mut self, about: &str, path: &str) -> Option<u32> {
        let text = self.text(about, path)?;
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    }

    fn link_name(&self, path: &str) -> Option<String> {
        fs::read_link(self.at(path)).ok()?.file_name()?.to_str().map(str::to_owned)
    }

    /// Where something is on the bus: what is above it, from the bus's root on, and itself, as far as that is PCI.
    fn place(&mut self, about: &str, path: &str) -> Vec<String> {
        let full = match fs::canonicalize(self.at(path)) {
            Ok(full) => full,
            Err(error) => {
                self.problem(about, format!("its place on the bus can't be read: {error}"));
                return Vec::new();
            }
        };
        let names = full.iter().filter_map(|part| part.to_str());
        let inside = names.skip_while(|name| !name.starts_with("pci"));
        inside.take_while(|name| name.starts_with("pci") || is_pci_address(name)).map(str::to_owned).collect()
    }

    /// The accelerators by PCI address, and the addresses of NVSwitches.
    fn accelerators(&mut self) -> (BTreeMap<String, Found<Device>>, Vec<String>) {
        let (mut found, mut switches) = (BTreeMap::new(), Vec::new());
        for pci in self.names("sys/bus/pci/devices") {
            let dir = format!("sys/bus/pci/devices/{pci}");
            let vendor = self.hex(&pci, &format!("{dir}/vendor"));
            let class = self.hex(&pci, &format!("{dir}/class")).unwrap_or(0) >> 8;
            let vendor = match (vendor, class >> 8, class) {
                (Some(0x10de), _, 0x0680) => {
                    switches.push(pci);
                    continue;
                }
                (Some(0x10de), 0x03 | 0x12, _) => Vendor::Nvidia,
                (Some(0x1002), 0x03 | 0x12, _) => Vendor::Amd,
                (Some(0x8086), 0x03 | 0x12, _) => Vendor::Intel,
                (Some(0x1da3), _, _) => Vendor::Habana,
                // Others of its display controllers are those of server management.
                (Some(0x19e5), 0x12, _) => Vendor::Huawei,
                (Some(0x17cb), 0x12, _) => Vendor::Qualcomm,
                _ => continue,
            };
            // A part of one that is listed itself.
            if self.at(&format!("{dir}/physfn")).exists() {
                continue;
            }
            let place = self.place(&pci, &dir);
            let mut device = self.device(&pci, &dir, vendor);
            match vendor {
                Vendor::Nvidia => self.nvidia(&pci, &mut device),
                Vendor::Amd => self.amd(&pci, &dir, &mut device),
                Vendor::Intel => self.intel(&pci, &dir, &mut device),
                Vendor::Habana => self.habana(&pci, &dir, &mut device),
                Vendor::Huawei | Vendor::Qualcomm => {}
            }
            found.insert(pci, Found { item: device, place });
        }
        (found, switches)
    }

    /// What PCI tells of any device.
    fn device(&mut self, pci: &str, dir: &str, vendor: Vendor) -> Device {
        let id = |tree: &mut Self, file: &str| tree.hex(pci, &format!("{dir}/{file}"));
        let pci_id =
            id(self, "vendor").zip(id(self, "device")).map(|(vendor, device)| format!("{vendor:04x}:{device:04x}"));
        let speed = |tree: &mut Self, file: &str| {
            generation(tree.text(pci, &format!("{dir}/{file}"))?.split_whitespace().next()?)
        };
        let lanes = |tree: &mut Self, file: &str| {
            tree.number::<u32>(pci, &format!("{dir}/{file}")).filter(|lanes| *lanes > 0 && *lanes < 255)
        };
        let pcie = PcieLink {
            generation: speed(self, "current_link_speed"),
            generation_max: speed(self, "max_link_speed"),
            lanes: lanes(self, "current_link_width"),
            lanes_max: lanes(self, "max_link_width"),
        };
        Device {
            vendor,
            pci: Some(pci.to_owned()),
            pci_id,
            driver: self.link_name(&format!("{dir}/driver")),
            pcie,
            // -1 where the firmware does not say.
            numa_node: self.number(pci, &format!("{dir}/numa_node")),
            cpus: self.text(pci, &format!("{dir}/local_cpulist")).filter(|cpus| !cpus.is_empty()),
            iommu_group: self.link_name(&format!("{dir}/iommu_group")).and_then(|group| group.parse().ok()),
            ..Device::default()
        }
    }

    /// What the driver tells without NVML.
    fn nvidia(&mut self, pci: &str, device: &mut Device) {
        let Some(text) = self.text(pci, &format!("proc/driver/nvidia/gpus/{pci}/information")) else { return };
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match key.trim() {
                "Model" => device.name = value.trim().to_owned(),
                "GPU UUID" if !value.contains('?') => device.uuid = Some(value.trim().to_owned()),
                _ => {}
            }
        }
    }

    fn amd(&mut self, pci: &str, dir: &str, device: &mut Device) {
        device.name = self.text(pci, &format!("{dir}/product_name")).unwrap_or_default();
        device.uuid = self.text(pci, &format!("{dir}/unique_id"));
        device.memory_total_bytes = self.number(pci, &format!("{dir}/mem_info_vram_total"));
        let parts = ["current_compute_partition", "current_memory_partition"];
        let parts: Vec<String> = parts.iter().filter_map(|file| self.text(pci, &format!("{dir}/{file}"))).collect();
        device.partition = (!parts.is_empty()).then(|| parts.join("/"));
        self.power(pci, dir, device);
    }

    fn intel(&mut self, pci: &str, dir: &str, device: &mut Device) {
        let tiles: Vec<String> = self.names(dir).into_iter().filter(|name| name.starts_with("tile")).collect();
        let each: Vec<u64> = (tiles.iter())
            .filter_map(|tile| self.number::<u64>(pci, &format!("{dir}/{tile}/physical_vram_size_bytes")))
            .collect();
        device.memory_total_bytes = (!each.is_empty()).then(|| each.iter().sum());
        for card in self.names(&format!("{dir}/drm")) {
            let file = format!("{dir}/drm/{card}/lmem_total_bytes");
            device.memory_total_bytes = device.memory_total_bytes.or_else(|| self.number(pci, &file));
        }
        self.power(pci, dir, device);
    }

    fn habana(&mut self, pci: &str, dir: &str, device: &mut Device) {
        // Older drivers have a class of their own.
        let own = self.names(&format!("{dir}/habanalabs")).into_iter().next();
        let dirs = [Some(dir.to_owned()), own.map(|own| format!("{dir}/habanalabs/{own}"))];
        for dir in dirs.iter().flatten() {
            if device.name.is_empty() {
                device.name = self.text(pci, &format!("{dir}/device_type")).unwrap_or_default();
            }
            device.clock_mhz = device.clock_mhz.or_else(|| self.number(pci, &format!("{dir}/clk_cur_freq_mhz")));
            device.clock_max_mhz =
                device.clock_max_mhz.or_else(|| self.number(pci, &format!("{dir}/clk_max_freq_mhz")));
            let milliwatts = self.number::<f64>(pci, &format!("{dir}/max_power"));
            device.power_limit_watts = device.power_limit_watts.or(milliwatts.map(|mw| mw / 1e3));
        }
    }

    /// Power limits as hwmon has them, in microwatts.
    fn power(&mut self, pci: &str, dir: &str, device: &mut Device) {
        for name in self.names(&format!("{dir}/hwmon")) {
            let watts = |tree: &mut Self, file: &str| {
                tree.number::<f64>(pci, &format!("{dir}/hwmon/{name}/{file}")).map(|microwatts| microwatts / 1e6)
            };
            device.power_limit_watts = watts(self, "power1_cap").or_else(|| watts(self, "power1_max"));
            device.power_limit_min_watts = watts(self, "power1_cap_min");
            device.power_limit_max_watts = watts(self, "power1_cap_max");
        }
    }

    /// Network devices on PCI, those with RDMA first.
    fn nics(&mut self) -> Vec<Found<Nic>> {
        let mut nics: Vec<Found<Nic>> = Vec::new();
        for name in self.names("sys/class/infiniband") {
            let dir = format!("sys/class/infiniband/{name}");
            let rate = self.text(&name, &format!("{dir}/ports/1/rate"));
            let rate = rate.and_then(|rate| rate.split_whitespace().next()?.parse().ok());
            let interfaces = self.names(&format!("{dir}/device/net"));
            let label = Some(format!("NIC{}", nics.len()));
            let nic = self.nic(&name, &dir);
            nics.push(Found { item: Nic { label, interfaces, rate_gbit_s: rate, ..nic.item }, place: nic.place });
        }
        for name in self.names("sys/class/net") {
            let dir = format!("sys/class/net/{name}");
            let known = nics.iter().any(|nic| nic.item.interfaces.contains(&name));
            if known || !self.at(&format!("{dir}/device")).exists() {
                continue;
            }
            // A port that is down has no speed, and says so with an error.
            let speed = fs::read_to_string(self.at(&format!("{dir}/speed"))).ok();
            let rate = speed.and_then(|text| text.trim().parse::<f64>().ok()).filter(|speed| *speed > 0.0);
            let nic = self.nic(&name, &dir);
            if nic.item.pci.is_some() {
                let item = Nic { interfaces: vec![name], rate_gbit_s: rate.map(|mbit| mbit / 1e3), ..nic.item };
                nics.push(Found { item, place: nic.place });
            }
        }
        nics
    }

    fn nic(&mut self, name: &str, dir: &str) -> Found<Nic> {
        let device = format!("{dir}/device");
        let place = if self.at(&device).exists() { self.place(name, &device) } else { Vec::new() };
        let pci = place.last().filter(|last| is_pci_address(last)).cloned();
        let mut nic = Nic { name: name.to_owned(), pci: pci.clone(), ..Nic::default() };
        if let Some(pci) = pci {
            nic.driver = self.link_name(&format!("sys/bus/pci/devices/{pci}/driver"));
            nic.numa_node = self.number(name, &format!("sys/bus/pci/devices/{pci}/numa_node"));
        }
        Found { item: nic, place }
    }

    fn numa(&mut self) -> Vec<NumaNode> {
        let mut nodes = Vec::new();
        for name in self.names("sys/devices/system/node") {
            let Some(id) = name.strip_prefix("node").and_then(|id| id.parse().ok()) else { continue };
            let dir = format!("sys/devices/system/node/{name}");
            let cpus = self.text(&name, &format!("{dir}/cpulist")).unwrap_or_default();
            let memory = self.text(&name, &format!("{dir}/meminfo"));
            let kib = memory.and_then(|text| {
                let line = text.lines().find(|line| line.contains("MemTotal:"))?.to_owned();
                line.split_whitespace().rev().nth(1)?.parse::<u64>().ok()
            });
            nodes.push(NumaNode { id, cpus, memory_bytes: kib.map(|kib| kib << 10) });
        }
        nodes
    }

    fn nvidia_version(&mut self) -> Option<String> {
        let text = self.text("NVIDIA's driver", "proc/driver/nvidia/version")?;
        let is_version = |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
    }
}

/// The PCIe generation with this rate in GT/s.
fn generation(rate: &str) -> Option<u32> {
    let rates = ["2.5", "5.0", "8.0", "16.0", "32.0", "64.0"];
    let at = rates.iter().position(|known| *known == rate || known.strip_suffix(".0") == Some(rate))?;
    Some(at as u32 + 1)
}

/// Sorts `mlx5_10` behind `mlx5_9`.
fn counted(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (word, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((word.to_owned(), number.parse().unwrap_or(0)));
        rest = tail;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(pci: &str, ends: &[NvLinkEnd], joined: &[Option<bool>]) -> NvmlGpu {
        let device = Device { pci: Some(pci.into()), ..Device::default() };
        NvmlGpu { device, nvlinks: ends.to_vec(), joined: joined.to_vec(), ..NvmlGpu::default() }
    }

    #[test]
    fn nvlinks_are_counted_between_two_gpus() {
        let to = |pci: &str| NvLinkEnd::Device(pci.into());
        // V100: each pair has its own number of direct links.
        let one = gpu("0000:01:00.0", &[to("0000:02:00.0"), to("0000:02:00.0"), to("0000:03:00.0")], &[]);
        let two = gpu("0000:02:00.0", &[to("0000:01:00.0"), to("0000:01:00.0")], &[]);
        let four = gpu("0000:04:00.0", &[to("0000:03:00.0")], &[]);
        assert_eq!(nvlinks(&one, &two, 1), 2);
        assert_eq!(nvlinks(&one, &four, 3), 0);
        // Over switches as many as both have.
        let full = gpu("0000:1b:00.0", &vec![NvLinkEnd::Switch; 18], &[None, None]);
        let less = gpu("0000:27:00.0", &vec![NvLinkEnd::Switch; 16], &[None, None]);
        let dark = gpu("0000:33:00.0", &[], &[None, None]);
        assert_eq!(nvlinks(&full, &less, 1), 16);
        assert_eq!(nvlinks(&full, &dark, 1), 0);
        // In a machine that is not shown its switches the peers say whether they are joined.
        let hidden = |joined| gpu("0000:05:00.0", &vec![NvLinkEnd::Unknown; 18], &[None, joined]);
        assert_eq!(nvlinks(&hidden(Some(true)), &hidden(None), 1), 18);
        assert_eq!(nvlinks(&hidden(Some(false)), &hidden(None), 1), 0);
        assert_eq!(nvlinks(&hidden(None), &hidden(None), 1), 0);
    }

    #[test]
    fn addresses_rates_and_names() {
        assert_eq!(pci_address("00000000:1B:00.0"), "0000:1b:00.0");
        assert_eq!(pci_address("00010000:1B:00.0"), "00010000:1b:00.0");
        assert_eq!(pci_address("0008:01:00.0"), "0008:01:00.0");
        assert!(is_pci_address("0000:1b:00.0") && !is_pci_address("virtio0") && !is_pci_address("pci0000:00"));
        assert_eq!(generation("32.0"), Some(5));
        assert_eq!(generation("8"), Some(3));
        assert_eq!(generation("Unknown"), None);
        let mut names = vec!["mlx5_10", "mlx5_9", "mlx5_bond_0", "mlx5_0"];
        names.sort_by_cached_key(|name| counted(name));
        assert_eq!(names, ["mlx5_0", "mlx5_9", "mlx5_10", "mlx5_bond_0"]);
    }
}
