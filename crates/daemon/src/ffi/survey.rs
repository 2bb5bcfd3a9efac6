//! What NVML answers about a machine: each value asked for by itself, so that one that is missing takes no other away.
use super::library::Library;
use super::nvml::{Device, Pci, RealNvml, Return, SUCCESS, text};
use cleave_api::{Device as Facts, LinkPath, Mig, MigProfile, Problem, Vendor};
use cleave_inventory::{NvLinkEnd, NvmlAnswers, NvmlGpu, pci_address};
use cleave_policy::topology::Cpus;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_ulonglong};
use std::path::Path;

const NOT_SUPPORTED: Return = 3;
const INSUFFICIENT_SIZE: Return = 7;
/// Most NVLinks that a GPU can have, as `nvml.h` has it.
const MOST_LINKS: c_uint = 36;
/// NVLinks of an A100, the first that has more than a mesh of GPUs has ever had.
const SWITCHED: usize = 12;
/// Indices of instance profiles to ask for: `nvml.h` counts them from 0, and knows fewer.
const PROFILES: c_uint = 32;
/// Processors and nodes to ask for, in words of 64.
const WORDS: usize = 64;
/// Where the kernel tells of PCI devices.
const DEVICES: &str = "/sys/bus/pci/devices";
/// Where it tells of NUMA nodes.
const NODES: &str = "/sys/devices/system/node/online";
/// What NVML writes where a GPU has no NUMA node of its own.
const NO_NODE: c_uint = c_uint::MAX;

type Number = unsafe extern "C" fn(Device, *mut c_uint) -> Return;
type Kind = unsafe extern "C" fn(Device, c_uint, *mut c_uint) -> Return;
type Two = unsafe extern "C" fn(Device, *mut c_uint, *mut c_uint) -> Return;

/// A `nvmlGpuInstanceProfileInfo_v2_t`.
#[repr(C)]
struct ProfileInfo {
    version: c_uint,
    id: c_uint,
    peers: c_uint,
    slices: c_uint,
    instances: c_uint,
    multiprocessors: c_uint,
    copy_engines: c_uint,
    decoders: c_uint,
    encoders: c_uint,
    jpegs: c_uint,
    ofas: c_uint,
    memory_mib: c_ulonglong,
    name: [c_char; 96],
}

/// A `nvmlGpuInstancePlacement_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Placement {
    start: c_uint,
    size: c_uint,
}

pub(super) struct Asked<'a> {
    library: &'a Library,
    problems: Vec<Problem>,
    /// MIG profiles of models, by name.
    models: Vec<(String, Vec<MigProfile>)>,
}

impl<'a> Asked<'a> {
    /// Questions to this library.
    pub(super) fn new(library: &'a Library) -> Self {
        Self { library, problems: Vec::new(), models: Vec::new() }
    }

    /// What was not answered.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// A function of this name with the type that `nvml.h` declares for it.
    fn function<T: Copy>(&self, name: &CStr) -> Option<T> {
        // SAFETY: each caller in this module names the type that `nvml.h` declares for the name.
        unsafe { self.library.function(name) }
    }

    /// Whether it answered; a fault other than that the GPU lacks something is a problem.
    fn good(&mut self, about: &str, name: &CStr, code: Return) -> bool {
        match code {
            SUCCESS => return true,
            // Invalid argument: an index beyond what there is. Not found: nothing there.
            2 | NOT_SUPPORTED | 6 => {}
            code => {
                let message = format!("{}: NVML error {code}", name.to_string_lossy());
                let problem = Problem { about: about.to_owned(), message };
                // Each link of a GPU may have the same.
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
            }
        }
        false
    }

    fn number(&mut self, about: &str, device: Device, name: &CStr) -> Option<u32> {
        let function: Number = self.function(name)?;
        let mut value = 0;
        // SAFETY: writes one number.
        let code = unsafe { function(device, &mut value) };
        self.good(about, name, code).then_some(value)
    }

    fn kind(&mut self, about: &str, device: Device, name: &CStr, kind: c_uint) -> Option<u32> {
        let function: Kind = self.function(name)?;
        let mut value = 0;
        // SAFETY: writes one number.
        let code = unsafe { function(device, kind, &mut value) };
        self.good(about, name, code).then_some(value)
    }

    fn two(&mut self, about: &str, device: Device, name: &CStr) -> Option<(u32, u32)> {
        let function: Two = self.function(name)?;
        let (mut one, mut other) = (0, 0);
        // SAFETY: writes two numbers.
        let code = unsafe { function(device, &mut one, &mut other) };
        self.good(about, name, code).then_some((one, other))
    }

    /// A set of processors or nodes; scope 0 = those of the NUMA node.
    fn set(&mut self, about: &str, device: Device, name: &CStr, scoped: bool) -> Option<String> {
        let mut words = [0; WORDS];
        let room = words.len() as c_uint;
        let code = if scoped {
            let function: unsafe extern "C" fn(Device, c_uint, *mut c_ulong, c_uint) -> Return = self.function(name)?;
            // SAFETY: writes at most as many words as said.
            unsafe { function(device, room, words.as_mut_ptr(), 0) }
        } else {
            let function: unsafe extern "C" fn(Device, c_uint, *mut c_ulong) -> Return = self.function(name)?;
            // SAFETY: as above.
            unsafe { function(device, room, words.as_mut_ptr()) }
        };
        let set = Cpus::of_masks(&words);
        (self.good(about, name, code) && !set.is_empty()).then(|| set.to_string())
    }

    /// The way between two GPUs over PCI. The first of these questions takes 23 ms.
    fn path(&mut self, about: &str, one: Device, other: Device) -> Option<LinkPath> {
        let name = c"nvmlDeviceGetTopologyCommonAncestor";
        let function: unsafe extern "C" fn(Device, Device, *mut c_uint) -> Return = self.function(name)?;
        let mut level = 0;
        // SAFETY: writes one number.
        let code = unsafe { function(one, other, &mut level) };
        match (self.good(about, name, code), level) {
            (true, 0..=10) => Some(LinkPath::Pix),
            (true, 11..=20) => Some(LinkPath::Pxb),
            (true, 21..=30) => Some(LinkPath::Phb),
            (true, 31..=40) => Some(LinkPath::Node),
            (true, 41..=50) => Some(LinkPath::Sys),
            _ => None,
        }
    }

    /// Whether NVLink joins two GPUs. Each of these questions takes 2 ms.
    fn joined(&mut self, about: &str, one: Device, other: Device) -> Option<bool> {
        let name = c"nvmlDeviceGetP2PStatus";
        let function: unsafe extern "C" fn(Device, Device, c_uint, *mut c_uint) -> Return = self.function(name)?;
        let mut status = 0;
        // SAFETY: writes one number. Index 2 asks for NVLink; status 0 = yes.
        let code = unsafe { function(one, other, 2, &mut status) };
        self.good(about, name, code).then_some(status == 0)
    }

    /// Where each NVLink that is up leads.
    fn nvlinks(&mut self, about: &str, device: Device) -> Option<Vec<NvLinkEnd>> {
        let mut ends = Vec::new();
        let mut any = false;
        for link in 0..MOST_LINKS {
            let Some(active) = self.kind(about, device, c"nvmlDeviceGetNvLinkState", link) else { break };
            any = true;
            if active == 0 {
                continue;
            }
            let name = c"nvmlDeviceGetNvLinkRemotePciInfo_v2";
            let function: Option<unsafe extern "C" fn(Device, c_uint, *mut Pci) -> Return> = self.function(name);
            let mut pci = Pci::default();
            // SAFETY: writes one struct of this version.
            let code = function.map_or(NOT_SUPPORTED, |function| unsafe { function(device, link, &mut pci) });
            let remote = self.good(about, name, code).then(|| pci_address(&text(&pci.bus_id)));
            // 0 = GPU, 2 = switch.
            let kind = self.kind(about, device, c"nvmlDeviceGetNvLinkRemoteDeviceType", link);
            ends.push(match (kind, remote) {
                (Some(2), _) => NvLinkEnd::Switch,
                (Some(0), Some(pci)) => NvLinkEnd::Device(pci),
                _ => NvLinkEnd::Unknown,
            });
        }
        any.then_some(ends)
    }

    /// The MIG profiles with their placements; they are answered with MIG off, too. Of a model only one GPU is asked, because
    /// that takes it 9 ms.
    fn mig(&mut self, about: &str, device: Device, model: &str) -> Option<Mig> {
        let (enabled, pending) = self.two(about, device, c"nvmlDeviceGetMigMode")?;
        let known = self.models.iter().find(|(other, _)| other == model).map(|(_, profiles)| profiles.clone());
        let profiles = known.unwrap_or_else(|| {
            let profiles = self.profiles(about, device);
            self.models.push((model.to_owned(), profiles.clone()));
            profiles
        });
        Some(Mig { enabled: enabled == 1, pending: pending == 1, profiles })
    }

    /// The MIG profiles with their placements.
    pub(super) fn profiles(&mut self, about: &str, device: Device) -> Vec<MigProfile> {
        type Get = unsafe extern "C" fn(Device, c_uint, *mut ProfileInfo) -> Return;
        let name = c"nvmlDeviceGetGpuInstanceProfileInfoV";
        let mut profiles = Vec::new();
        let Some(function) = self.function::<Get>(name) else { return profiles };
        for index in 0..PROFILES {
            let mut info = ProfileInfo {
                version: size_of::<ProfileInfo>() as c_uint | 2 << 24,
                id: 0,
                peers: 0,
                slices: 0,
                instances: 0,
                multiprocessors: 0,
                copy_engines: 0,
                decoders: 0,
                encoders: 0,
                jpegs: 0,
                ofas: 0,
                memory_mib: 0,
                name: [0; 96],
            };
            // SAFETY: writes one struct of the version that it names.
            let code = unsafe { function(device, index, &mut info) };
            if !self.good(about, name, code) {
                continue;
            }
            let places = self.placements(about, device, info.id);
            let shown = text(&info.name);
            profiles.push(MigProfile {
                name: shown.strip_prefix("MIG ").unwrap_or(&shown).to_owned(),
                id: info.id,
                instances: info.instances,
                multiprocessors: info.multiprocessors,
                copy_engines: info.copy_engines,
                decoders: info.decoders,
                encoders: info.encoders,
                jpeg_engines: info.jpegs,
                optical_flow_engines: info.ofas,
                memory_mib: info.memory_mib,
                starts: places.iter().map(|place| place.start).collect(),
                size: places.first().map_or(0, |place| place.size),
            });
        }
        profiles
    }

    fn placements(&mut self, about: &str, device: Device, profile: c_uint) -> Vec<Placement> {
        type Places = unsafe extern "C" fn(Device, c_uint, *mut Placement, *mut c_uint) -> Return;
        let name = c"nvmlDeviceGetGpuInstancePossiblePlacements_v2";
        let Some(function) = self.function::<Places>(name) else { return Vec::new() };
        let mut count = 0;
        // SAFETY: without a buffer it writes how many there are.
        let code = unsafe { function(device, profile, std::ptr::null_mut(), &mut count) };
        if code != INSUFFICIENT_SIZE && !self.good(about, name, code) {
            return Vec::new();
        }
        let mut places = vec![Placement::default(); count.min(64) as usize];
        count = places.len() as c_uint;
        // SAFETY: `places` has room for `count` entries.
        let code = unsafe { function(device, profile, places.as_mut_ptr(), &mut count) };
        places.truncate(if self.good(about, name, code) { count as usize } else { 0 });
        places
    }

    fn facts(&mut self, about: &str, device: Device, known: &crate::gpu::GpuInfo) -> Facts {
        let number = |asked: &mut Self, name: &CStr| asked.number(about, device, name);
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
        let mut facts = Facts {
            vendor: Vendor::Nvidia,
            name: known.name.clone(),
            uuid: Some(known.uuid.clone()),
            pci: Some(pci_address(&known.pci)),
            ..Facts::default()
        };
        let function: Option<unsafe extern "C" fn(Device, *mut Pci) -> Return> =
            self.function(c"nvmlDeviceGetPciInfo_v3");
        if let Some(function) = function {
            let mut pci = Pci::default();
            // SAFETY: writes one struct of this version.
            let code = unsafe { function(device, &mut pci) };
            if self.good(about, c"nvmlDeviceGetPciInfo_v3", code) {
                facts.pci_id = Some(format!("{:04x}:{:04x}", pci.device_id & 0xffff, pci.device_id >> 16));
            }
        }
        let function: Option<unsafe extern "C" fn(Device, *mut [c_ulonglong; 3]) -> Return> =
            self.function(c"nvmlDeviceGetMemoryInfo");
        if let Some(function) = function {
            let mut memory = [0; 3];
            // SAFETY: writes one struct of three numbers.
            let code = unsafe { function(device, &mut memory) };
            let [total, ..] = memory;
            facts.memory_total_bytes = self.good(about, c"nvmlDeviceGetMemoryInfo", code).then_some(total);
        }
        let function: Option<unsafe extern "C" fn(Device, *mut c_int, *mut c_int) -> Return> =
            self.function(c"nvmlDeviceGetCudaComputeCapability");
        let mut capability = None;
        if let Some(function) = function {
            let (mut major, mut minor) = (0, 0);
            // SAFETY: writes two numbers.
            let code = unsafe { function(device, &mut major, &mut minor) };
            capability = self.good(about, c"nvmlDeviceGetCudaComputeCapability", code).then_some((major, minor));
        }
        facts.compute_capability = capability.map(|(major, minor)| format!("{major}.{minor}"));
        let lanes = number(self, c"nvmlDeviceGetNumGpuCores");
        facts.units = lanes.zip(capability.and_then(lanes_of)).map(|(all, each)| all / each);
        facts.clock_mhz = self.kind(about, device, c"nvmlDeviceGetClockInfo", 1);
        facts.clock_max_mhz = self.kind(about, device, c"nvmlDeviceGetMaxClockInfo", 1);
        facts.memory_clock_mhz = self.kind(about, device, c"nvmlDeviceGetClockInfo", 2);
        facts.memory_clock_max_mhz = self.kind(about, device, c"nvmlDeviceGetMaxClockInfo", 2);
        facts.power_limit_watts = number(self, c"nvmlDeviceGetEnforcedPowerLimit").map(watts);
        let limits = self.two(about, device, c"nvmlDeviceGetPowerManagementLimitConstraints");
        facts.power_limit_min_watts = limits.map(|(least, _)| watts(least));
        facts.power_limit_max_watts = limits.map(|(_, most)| watts(most));
        facts.ecc = self.two(about, device, c"nvmlDeviceGetEccMode").map(|(current, _)| current == 1);
        facts.mig = self.mig(about, device, &facts.name);
        facts.pcie.generation = number(self, c"nvmlDeviceGetCurrPcieLinkGeneration");
        facts.pcie.generation_max = number(self, c"nvmlDeviceGetMaxPcieLinkGeneration");
        facts.pcie.lanes = number(self, c"nvmlDeviceGetCurrPcieLinkWidth");
        facts.pcie.lanes_max = number(self, c"nvmlDeviceGetMaxPcieLinkWidth");
        // Where the kernel tells, NVML need not be asked: it takes 26 ms over the processors, and 9 over the nodes.
        let listed = |file: &str| {
            let path = Path::new(DEVICES).join(facts.pci.as_ref()?).join(file);
            Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
        };
        let (cpus, node) = (listed("local_cpulist"), listed("numa_node"));
        if cpus.is_none() {
            facts.cpus = self.set(about, device, c"nvmlDeviceGetCpuAffinity", false);
        }
        facts.own_numa_node = number(self, c"nvmlDeviceGetNumaNodeId").filter(|node| *node != NO_NODE);
        // One whose memory is a node itself is near others by rules of its own.
        let node = node.filter(|_| facts.own_numa_node.is_none());
        facts.memory_nodes = node
            .and_then(|node| memory_node(&node, std::fs::read_to_string(NODES).ok()))
            .or_else(|| self.set(about, device, c"nvmlDeviceGetMemoryAffinity", true));
        facts
    }
}

/// The NUMA node near a device, as the kernel tells it: the device's own, or, where that is not said, the only one `online`.
fn memory_node(of_device: &str, online: Option<String>) -> Option<String> {
    let number = |text: &str| text.trim().parse::<u32>().ok().map(|node| node.to_string());
    number(of_device).or_else(|| number(&online?))
}

/// FP32 lanes of a multiprocessor of this compute capability: NVML counts lanes alone.
fn lanes_of((major, minor): (c_int, c_int)) -> Option<u32> {
    match (major, minor) {
        (3, _) => Some(192),
        (5, _) => Some(128),
        (6, 0) => Some(64),
        (6, _) => Some(128),
        (7, _) | (8, 0) => Some(64),
        (8..=10 | 12, _) => Some(128),
        _ => None,
    }
}

impl RealNvml {
    /// Everything that NVML tells about its GPUs and their links. What it does not answer is among the problems.
    pub fn answers(&self) -> NvmlAnswers {
        let mut asked = Asked::new(self.library());
        let mut gpus: Vec<NvmlGpu> = Vec::new();
        for (index, (info, device)) in self.found().enumerate() {
            let about = format!("GPU{index}");
            let mut facts = asked.facts(&about, device, info);
            let nvlinks = asked.nvlinks(&about, device);
            facts.nvlinks = nvlinks.as_ref().map(|ends| ends.len() as u32);
            gpus.push(NvmlGpu { device: facts, nvlinks: nvlinks.unwrap_or_default(), ..NvmlGpu::default() });
        }
        let handles: Vec<Device> = self.found().map(|(_, device)| device).collect();
        let (mut joined, mut paths) = (BTreeMap::new(), BTreeMap::new());
        let all = || gpus.iter().zip(&handles).enumerate();
        for (one, (a, first)) in all() {
            for (other, (b, second)) in all().skip(one + 1) {
                let about = format!("GPU{one}");
                // Whom a third joins over its switches, those are joined. With fewer links than switched GPUs have since A100, and nobody
                // to say where they lead, they may be a mesh in which not everyone is joined.
                let many = a.nvlinks.len().min(b.nvlinks.len()) >= SWITCHED;
                let third = many
                    && (0..one).any(|third| [one, other].iter().all(|to| joined.get(&(third, *to)) == Some(&true)));
                let switched = a.links_to_fabric().min(b.links_to_fabric()) > 0;
                let by_switch =
                    if third { Some(true) } else { switched.then(|| asked.joined(&about, *first, *second)).flatten() };
                joined.extend(by_switch.map(|is| ((one, other), is)));
                // Where NVLink joins them the way over PCI is of no account, and the system tree tells it as well.
                if by_switch != Some(true) && a.links_to(b) == 0 {
                    paths.extend(asked.path(&about, *first, *second).map(|path| ((one, other), path)));
                }
            }
        }
        // Of two each is as far from the other.
        let pair = |one: usize, other: usize| (one.min(other), one.max(other));
        let count = gpus.len();
        for (one, gpu) in gpus.iter_mut().enumerate() {
            gpu.paths = (0..count).map(|other| paths.get(&pair(one, other)).copied()).collect();
            gpu.joined = (0..count).map(|other| joined.get(&pair(one, other)).copied()).collect();
        }
        let left_out = self.left_out().iter().cloned();
        let problems = left_out.chain(asked.problems).collect();
        NvmlAnswers {
            driver: crate::gpu::Nvml::driver_version(self),
            cuda: crate::gpu::Nvml::cuda_version(self),
            gpus,
            problems,
        }
    }

    /// The answers of the NVML at `path`, or why there are none, as a problem.
    pub fn ask(path: &Path) -> NvmlAnswers {
        match Self::open(path) {
            Ok(nvml) => nvml.answers(),
            Err(error) => NvmlAnswers {
                problems: vec![Problem { about: "NVML".into(), message: error.to_string() }],
                ..NvmlAnswers::default()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_near_a_device_is_its_own_or_the_only_one() {
        let node = |of_device: &str, online: &str| memory_node(of_device, Some(online.into()));
        assert_eq!((node("1", "0-1"), node("-1", "0\n")), (Some("1".into()), Some("0".into())));
        assert_eq!((node("-1", "0-1"), node("-1", "0,2"), memory_node("-1", None)), (None, None, None));
    }
}
