//! NVML, loaded at run time: the few calls that the daemon makes.
use super::gpm::Gpm;
use super::library::Library;
use super::mig::in_instance;
use crate::gpu::{GpuInfo, MemoryState, MigNow, Nvml, NvmlError};
use cleave_api::{MigProfile, Problem};
use cleave_inventory::NvmlAnswers;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::path::Path;

/// A device's handle.
pub(super) type Device = *mut c_void;
/// What a call returns.
pub(super) type Return = c_uint;

/// All went well.
pub(super) const SUCCESS: Return = 0;
const NOT_SUPPORTED: Return = 3;
const NOT_FOUND: Return = 6;
const INSUFFICIENT_SIZE: Return = 7;
const NOT_AVAILABLE: c_ulonglong = c_ulonglong::MAX;
const MOST_PROCESSES: usize = 65_536;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProcessInfo {
    pid: c_uint,
    used: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sample {
    pid: c_uint,
    time: c_ulonglong,
    sm: c_uint,
    memory: c_uint,
    encoder: c_uint,
    decoder: c_uint,
}

#[repr(C)]
#[derive(Default)]
struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

#[repr(C)]
#[derive(Default)]
struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// A `nvmlPciInfo_t`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Pci {
    legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pub(super) device_id: c_uint,
    subsystem_id: c_uint,
    pub(super) bus_id: [c_char; 32],
}

#[repr(C)]
#[derive(Default)]
struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

type List = unsafe extern "C" fn(Device, *mut c_uint, *mut ProcessInfo) -> Return;
type Text = unsafe extern "C" fn(Device, *mut c_char, c_uint) -> Return;
type Number = unsafe extern "C" fn(Device, *mut c_uint) -> Return;

/// Functions by name; a library without one of the first three is no NVML for us.
struct Functions {
    error_string: Option<unsafe extern "C" fn(Return) -> *const c_char>,
    count: unsafe extern "C" fn(*mut c_uint) -> Return,
    by_index: unsafe extern "C" fn(c_uint, *mut Device) -> Return,
    driver_version: unsafe extern "C" fn(*mut c_char, c_uint) -> Return,
    cuda_version: Option<unsafe extern "C" fn(*mut c_int) -> Return>,
    name: Option<Text>,
    uuid: Option<Text>,
    minor: Option<Number>,
    pci: Option<unsafe extern "C" fn(Device, *mut Pci) -> Return>,
    capability: Option<unsafe extern "C" fn(Device, *mut c_int, *mut c_int) -> Return>,
    mig: Option<unsafe extern "C" fn(Device, *mut c_uint, *mut c_uint) -> Return>,
    memory: Option<unsafe extern "C" fn(Device, *mut Memory) -> Return>,
    memory_v2: Option<unsafe extern "C" fn(Device, *mut MemoryV2) -> Return>,
    compute: Option<List>,
    graphics: Option<List>,
    samples: Option<unsafe extern "C" fn(Device, *mut Sample, *mut c_uint, c_ulonglong) -> Return>,
    rates: Option<unsafe extern "C" fn(Device, *mut Utilization) -> Return>,
}

/// The driver's NVML.
pub struct RealNvml {
    library: Library,
    functions: Functions,
    driver: String,
    cuda: u32,
    gpus: Vec<GpuInfo>,
    handles: Vec<Device>,
    gpm: Option<Gpm>,
    left_out: Vec<Problem>,
}

// SAFETY: NVML may be called from any thread; device handles are names within the library.
unsafe impl Send for RealNvml {}
// SAFETY: as above.
unsafe impl Sync for RealNvml {}

/// A C string in a buffer.
pub(super) fn text(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Functions {
    fn load(library: &Library) -> Result<Self, NvmlError> {
        let missing = |name: &str| NvmlError::TooOld(format!("its NVML has no {name}"));
        // SAFETY: every type is the one that nvml.h declares for the name.
        unsafe {
            Ok(Self {
                error_string: library.function(c"nvmlErrorString"),
                count: library.function(c"nvmlDeviceGetCount_v2").ok_or_else(|| missing("nvmlDeviceGetCount_v2"))?,
                by_index: library
                    .function(c"nvmlDeviceGetHandleByIndex_v2")
                    .ok_or_else(|| missing("nvmlDeviceGetHandleByIndex_v2"))?,
                driver_version: library
                    .function(c"nvmlSystemGetDriverVersion")
                    .ok_or_else(|| missing("nvmlSystemGetDriverVersion"))?,
                cuda_version: library
                    .function(c"nvmlSystemGetCudaDriverVersion_v2")
                    .or_else(|| library.function(c"nvmlSystemGetCudaDriverVersion")),
                name: library.function(c"nvmlDeviceGetName"),
                uuid: library.function(c"nvmlDeviceGetUUID"),
                minor: library.function(c"nvmlDeviceGetMinorNumber"),
                pci: library.function(c"nvmlDeviceGetPciInfo_v3"),
                capability: library.function(c"nvmlDeviceGetCudaComputeCapability"),
                mig: library.function(c"nvmlDeviceGetMigMode"),
                memory: library.function(c"nvmlDeviceGetMemoryInfo"),
                memory_v2: library.function(c"nvmlDeviceGetMemoryInfo_v2"),
                // The third version has the second's struct, and counts MPS clients apart; older ones are not asked.
                compute: library
                    .function(c"nvmlDeviceGetComputeRunningProcesses_v3")
                    .or_else(|| library.function(c"nvmlDeviceGetComputeRunningProcesses_v2")),
                graphics: library
                    .function(c"nvmlDeviceGetGraphicsRunningProcesses_v3")
                    .or_else(|| library.function(c"nvmlDeviceGetGraphicsRunningProcesses_v2")),
                samples: library.function(c"nvmlDeviceGetProcessUtilization"),
                rates: library.function(c"nvmlDeviceGetUtilizationRates"),
            })
        }
    }

    fn say(&self, code: Return) -> String {
        let Some(function) = self.error_string else { return format!("NVML error {code}") };
        // SAFETY: returns null or a C string that lives as long as the library.
        let words = unsafe {
            let words = function(code);
            if words.is_null() { String::new() } else { CStr::from_ptr(words).to_string_lossy().into_owned() }
        };
        format!("{words} (NVML error {code})")
    }

    fn check(&self, what: &str, code: Return) -> Result<(), NvmlError> {
        match code {
            SUCCESS => Ok(()),
            _ => Err(NvmlError::Call(format!("{what}: {}", self.say(code)))),
        }
    }

    fn device_text(&self, function: Option<Text>, device: Device) -> String {
        let mut buffer = [0; 96];
        // SAFETY: writes at most the length given.
        match function.map(|f| unsafe { f(device, buffer.as_mut_ptr(), buffer.len() as c_uint) }) {
            Some(SUCCESS) => text(&buffer),
            _ => String::new(),
        }
    }

    fn info(&self, index: u32, device: Device) -> Result<GpuInfo, NvmlError> {
        let mut minor = index;
        if let Some(function) = self.minor {
            let mut value = 0;
            // SAFETY: writes one number.
            if unsafe { function(device, &mut value) } == SUCCESS {
                minor = value;
            }
        }
        let mut pci = Pci::default();
        if let Some(function) = self.pci {
            // SAFETY: writes one struct of this version.
            let _ = unsafe { function(device, &mut pci) };
        }
        let (mut major, mut minor_version) = (0, 0);
        // SAFETY: writes two numbers.
        let code = self.capability.map(|function| unsafe { function(device, &mut major, &mut minor_version) });
        let number = |value: c_int| u32::try_from(value).unwrap_or(0);
        let capability = (code == Some(SUCCESS)).then_some((number(major), number(minor_version)));
        let (mut mode, mut pending) = (0, 0);
        // SAFETY: writes two numbers.
        let code = self.mig.map(|function| unsafe { function(device, &mut mode, &mut pending) });
        let mig = (code == Some(SUCCESS)).then_some(mode != 0);
        let memory = self.memory(device)?;
        Ok(GpuInfo {
            capability,
            mig,
            index,
            minor,
            uuid: self.device_text(self.uuid, device),
            name: self.device_text(self.name, device),
            pci: text(&pci.bus_id),
            memory_bytes: memory.usable,
        })
    }

    fn memory(&self, device: Device) -> Result<MemoryState, NvmlError> {
        if let Some(function) = self.memory_v2 {
            let mut memory = MemoryV2 { version: size_of::<MemoryV2>() as c_uint | 2 << 24, ..MemoryV2::default() };
            // SAFETY: writes one struct of the version that it names.
            if unsafe { function(device, &mut memory) } == SUCCESS {
                // What the driver reserves for itself no program can have; cuDeviceTotalMem leaves it out too.
                return Ok(MemoryState { usable: memory.total.saturating_sub(memory.reserved), used: memory.used });
            }
        }
        let Some(function) = self.memory else {
            return Err(NvmlError::TooOld("its NVML has no nvmlDeviceGetMemoryInfo".into()));
        };
        let mut memory = Memory::default();
        // SAFETY: writes one struct.
        self.check("nvmlDeviceGetMemoryInfo", unsafe { function(device, &mut memory) })?;
        Ok(MemoryState { usable: memory.total, used: memory.used })
    }

    fn list(&self, function: List, device: Device) -> Result<Vec<ProcessInfo>, NvmlError> {
        let mut room = 64;
        loop {
            let mut found = vec![ProcessInfo::default(); room];
            let mut count = room as c_uint;
            // SAFETY: `found` has room for `count` entries.
            match unsafe { function(device, &mut count, found.as_mut_ptr()) } {
                SUCCESS => {
                    found.truncate(count as usize);
                    return Ok(found);
                }
                INSUFFICIENT_SIZE if room < MOST_PROCESSES => room = (room * 2).max(count as usize + 16),
                NOT_SUPPORTED | NOT_FOUND => return Ok(Vec::new()),
                code => return Err(NvmlError::Call(format!("running processes: {}", self.say(code)))),
            }
        }
    }
}

impl RealNvml {
    /// Loads and initialises the NVML at `path`.
    pub fn open(path: &Path) -> Result<Self, NvmlError> {
        let library = Library::open(path).map_err(NvmlError::Missing)?;
        let functions = Functions::load(&library)?;
        // SAFETY: `nvmlInit_v2(void)`.
        let init: Option<unsafe extern "C" fn() -> Return> = unsafe { library.function(c"nvmlInit_v2") };
        let init = init.ok_or_else(|| NvmlError::TooOld("its NVML has no nvmlInit_v2".into()))?;
        // SAFETY: takes nothing; may be called more than once.
        functions.check("nvmlInit", unsafe { init() })?;

        let mut buffer = [0; 96];
        // SAFETY: writes at most the length given.
        let code = unsafe { (functions.driver_version)(buffer.as_mut_ptr(), buffer.len() as c_uint) };
        functions.check("nvmlSystemGetDriverVersion", code)?;
        let driver = text(&buffer);
        let mut cuda = 0;
        if let Some(function) = functions.cuda_version {
            // SAFETY: writes one number.
            let _ = unsafe { function(&mut cuda) };
        }
        let mut count = 0;
        // SAFETY: writes one number.
        functions.check("nvmlDeviceGetCount", unsafe { (functions.count)(&mut count) })?;
        let mut gpus = Vec::new();
        let mut handles = Vec::new();
        let mut left_out = Vec::new();
        for index in 0..count.min(256) {
            let mut device: Device = std::ptr::null_mut();
            // SAFETY: writes one handle.
            let code = unsafe { (functions.by_index)(index, &mut device) };
            let info = functions.check("nvmlDeviceGetHandleByIndex", code).and_then(|()| functions.info(index, device));
            match info {
                Ok(info) => {
                    gpus.push(info);
                    handles.push(device);
                }
                // One lost GPU does not take the others away.
                Err(error) => {
                    tracing::warn!("GPU {index} is left out: {error}");
                    left_out.push(Problem { about: format!("NVML's GPU {index}"), message: error.to_string() });
                }
            }
        }
        let gpm = Gpm::open(&library, handles.len());
        let cuda = u32::try_from(cuda).unwrap_or(0);
        Ok(Self { library, functions, driver, cuda, gpus, handles, gpm, left_out })
    }

    /// The library.
    pub(super) fn library(&self) -> &Library {
        &self.library
    }

    /// The GPUs and their handles.
    pub(super) fn found(&self) -> impl Iterator<Item = (&GpuInfo, Device)> {
        self.gpus.iter().zip(self.handles.iter().copied())
    }

    /// The GPUs that could not be asked.
    pub(super) fn left_out(&self) -> &[Problem] {
        &self.left_out
    }

    fn handle(&self, gpu: usize) -> Result<Device, NvmlError> {
        self.handles.get(gpu).copied().ok_or_else(|| NvmlError::Call(format!("no GPU at place {gpu}")))
    }
}

impl RealNvml {
    /// An error for a call that failed.
    pub(super) fn check(&self, name: &CStr, code: Return) -> Result<(), NvmlError> {
        self.functions.check(&name.to_string_lossy(), code)
    }
}

impl Nvml for RealNvml {
    fn driver_version(&self) -> String {
        self.driver.clone()
    }

    fn cuda_version(&self) -> u32 {
        self.cuda
    }

    fn gpus(&self) -> &[GpuInfo] {
        &self.gpus
    }

    fn memory(&self, gpu: usize) -> Result<MemoryState, NvmlError> {
        self.functions.memory(self.handle(gpu)?)
    }

    fn processes(&self, gpu: usize) -> Result<Vec<(u32, Option<u64>)>, NvmlError> {
        let device = self.handle(gpu)?;
        let Some(compute) = self.functions.compute else {
            return Err(NvmlError::TooOld("its NVML has no nvmlDeviceGetComputeRunningProcesses_v2".into()));
        };
        let mut found = self.functions.list(compute, device)?;
        if let Some(graphics) = self.functions.graphics {
            found.extend(self.functions.list(graphics, device)?);
        }
        // A process with compute and graphics contexts is in both lists, with its whole memory in each.
        found.sort_by_key(|p| (p.pid, if p.used == NOT_AVAILABLE { 0 } else { p.used }));
        let mut merged: Vec<(u32, Option<u64>)> = Vec::with_capacity(found.len());
        for process in found {
            let used = (process.used != NOT_AVAILABLE).then_some(process.used);
            match merged.last_mut() {
                Some(last) if last.0 == process.pid => last.1 = used.or(last.1),
                _ => merged.push((process.pid, used)),
            }
        }
        Ok(merged)
    }

    fn busy(&self, gpu: usize, since: u64) -> Option<Vec<(u32, u64, u32)>> {
        let device = self.handle(gpu).ok()?;
        let function = self.functions.samples?;
        let mut count = 0;
        // SAFETY: with no buffer it writes how many there are.
        let code = unsafe { function(device, std::ptr::null_mut(), &mut count, since) };
        match code {
            NOT_FOUND => return Some(Vec::new()),
            SUCCESS | INSUFFICIENT_SIZE => {}
            _ => return None,
        }
        if count == 0 {
            return Some(Vec::new());
        }
        let mut found = vec![Sample::default(); (count as usize).min(MOST_PROCESSES)];
        count = found.len() as c_uint;
        // SAFETY: `found` has room for `count` entries.
        match unsafe { function(device, found.as_mut_ptr(), &mut count, since) } {
            SUCCESS => {
                found.truncate(count as usize);
                Some(found.iter().filter(|s| s.pid != 0).map(|s| (s.pid, s.time, s.sm)).collect())
            }
            NOT_FOUND => Some(Vec::new()),
            _ => None,
        }
    }

    fn answers(&self) -> NvmlAnswers {
        Self::answers(self)
    }

    fn mig_mode(&self, gpu: usize) -> Option<bool> {
        self.mig_modes(self.handle(gpu).ok()?).ok()?.map(|(now, _)| now)
    }

    fn mig(&self, gpu: usize) -> Result<Option<MigNow>, NvmlError> {
        self.mig_now(self.handle(gpu)?)
    }

    fn set_mig_mode(&self, gpu: usize, on: bool) -> Result<(), NvmlError> {
        self.set_mode(self.handle(gpu)?, on)
    }

    fn create_instance(&self, gpu: usize, profile: &MigProfile, start: u32) -> Result<(), NvmlError> {
        self.create(self.handle(gpu)?, profile, start)
    }

    fn destroy_instance(&self, gpu: usize, id: u32) -> Result<(), NvmlError> {
        self.destroy(self.handle(gpu)?, id)
    }

    fn instance_users(&self, gpu: usize) -> Result<Vec<(u32, Option<u32>)>, NvmlError> {
        let device = self.handle(gpu)?;
        let mut found = Vec::new();
        for list in [self.functions.compute, self.functions.graphics].into_iter().flatten() {
            let processes = self.functions.list(list, device)?;
            found.extend(processes.iter().map(|one| (one.pid, in_instance(one.gpu_instance))));
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn utilization(&self, gpu: usize) -> Option<u32> {
        let mut rates = Utilization::default();
        // SAFETY: writes one struct.
        let code = unsafe { self.functions.rates?(self.handle(gpu).ok()?, &mut rates) };
        (code == SUCCESS).then_some(rates.gpu)
    }

    fn bandwidth(&self, gpu: usize) -> Option<f64> {
        self.gpm.as_ref()?.bandwidth(gpu, self.handle(gpu).ok()?)
    }
}
