//! NVML: what monitoring tools read. The same shared state as the driver's, seen from outside.
#![allow(unsafe_code)] // UNSAFETY: C entry points that read and write through their callers' pointers.
#![allow(non_snake_case)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cleave_cuda::types::{
    nvml_error as error, nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlProcessInfo_t, nvmlProcessInfo_v1_t,
    nvmlProcessUtilizationSample_t, nvmlReturn_t, nvmlUtilization_t,
};
use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

use crate::driver::{get, get_text, put, put_optional, put_text};
use crate::machine;
use crate::mig::Ids;
use crate::model::{Inventory, Model};
use crate::shared::Shared;

/// What an entry point gives: nothing, or the code to return.
type Outcome<T = ()> = Result<T, nvmlReturn_t>;

/// Memory that is not attributed to any process comes and goes by MiB.
const MIB: u64 = 1 << 20;
/// A device's handle is this and its index: never null, and recognised when it comes back.
const HANDLE: usize = 0x6e76_0000_0000;
/// That of a MIG device is this, its parent's index in the middle and the compute instance's serial number.
const MIG_HANDLE: usize = 0x6e75 << 48;
/// The handle of every event set.
const EVENT_SET: usize = 0x6e76_e000_0000;

struct Nvml {
    inventory: Inventory,
    shared: Shared,
    process: u32,
}

/// Initialisations less shutdowns.
static USERS: AtomicU32 = AtomicU32::new(0);
static NVML: Mutex<Option<Arc<Nvml>>> = Mutex::new(None);

fn code(outcome: Outcome) -> nvmlReturn_t {
    outcome.err().unwrap_or(error::SUCCESS)
}

/// The driver's "invalid value" as NVML's "invalid argument".
fn argument<T>(outcome: Result<T, c_int>) -> Outcome<T> {
    outcome.map_err(|_| error::INVALID_ARGUMENT)
}

fn write<T>(to: *mut T, value: T) -> Outcome {
    argument(put(to, value))
}

fn text(to: *mut c_char, size: c_uint, value: &str) -> Outcome {
    if to.is_null() {
        return Err(error::INVALID_ARGUMENT);
    }
    if size as usize <= value.len() {
        return Err(error::INSUFFICIENT_SIZE);
    }
    argument(put_text(to, size as usize, value))
}

/// Maps the installation, anew in a child of `fork`: file locks are shared with the parent otherwise.
fn open() -> Outcome<Arc<Nvml>> {
    let mut guard = NVML.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(nvml) = guard.as_ref().filter(|nvml| nvml.process == std::process::id()) {
        return Ok(nvml.clone());
    }
    let (inventory, shared) = crate::place::open().ok_or(error::DRIVER_NOT_LOADED)?;
    let nvml = Arc::new(Nvml { inventory, shared, process: std::process::id() });
    *guard = Some(nvml.clone());
    Ok(nvml)
}

fn started() -> Outcome<Arc<Nvml>> {
    if USERS.load(Ordering::Relaxed) == 0 { Err(error::UNINITIALIZED) } else { open() }
}

/// One device of one call.
struct Device {
    nvml: Arc<Nvml>,
    index: usize,
    /// The MIG device, and what it looks like, if it is one.
    mig: Option<(Ids, Model)>,
}

/// The parent's index and the serial number in a handle that was made from `kind`.
fn parts(nvml: &Nvml, handle: usize, kind: usize) -> Option<(usize, u32)> {
    let rest = handle.checked_sub(kind).filter(|rest| *rest < 1 << 40)?;
    let index = rest >> 32;
    (index < nvml.inventory.devices.len()).then_some((index, rest as u32))
}

impl Device {
    fn of(handle: nvmlDevice_t) -> Outcome<Device> {
        let nvml = started()?;
        if let Some((index, serial)) = parts(&nvml, handle as usize, MIG_HANDLE) {
            let mig = *nvml.shared.lock().mig(index);
            let ids = mig.compute_by_serial(serial).ok_or(error::INVALID_ARGUMENT)?;
            let model = mig.model(&nvml.inventory.devices[index], ids).ok_or(error::INVALID_ARGUMENT)?;
            return Ok(Device { nvml, index, mig: Some((ids, model)) });
        }
        let index = (handle as usize).checked_sub(HANDLE).ok_or(error::INVALID_ARGUMENT)?;
        if index >= nvml.inventory.devices.len() {
            return Err(error::INVALID_ARGUMENT);
        }
        Ok(Device { nvml, index, mig: None })
    }

    /// Not a MIG device.
    fn whole(handle: nvmlDevice_t) -> Outcome<Device> {
        Device::of(handle)
            .and_then(|device| if device.mig.is_some() { Err(error::INVALID_ARGUMENT) } else { Ok(device) })
    }

    fn model(&self) -> &Model {
        self.mig.as_ref().map_or(&self.nvml.inventory.devices[self.index], |(_, model)| model)
    }

    fn uuid(&self) -> String {
        let whole = || self.nvml.inventory.uuid_text(self.index);
        self.mig.as_ref().map_or_else(whole, |(ids, _)| self.nvml.inventory.mig_uuid_text(self.index, *ids))
    }

    fn bus_id(&self) -> String {
        self.nvml.inventory.bus_id(self.index)
    }

    fn serial(&self) -> String {
        let digits = u64::from_be_bytes(self.nvml.inventory.uuid(self.index)[..8].try_into().unwrap_or_default());
        format!("165{:010}", digits % 10_000_000_000)
    }

    /// Data-centre cards report more than the others.
    fn data_centre(&self) -> bool {
        matches!(self.model().brand, 2 | 14)
    }

    /// Bytes in use, the driver's own not included.
    fn used(&self) -> u64 {
        let mut shared = self.nvml.shared.lock();
        shared.collect();
        match &self.mig {
            Some(((instance, _), _)) => shared.used_in(self.index, *instance as u32 + 1),
            None => shared.used(self.index),
        }
    }

    fn utilisation(&self) -> u32 {
        self.nvml.shared.lock().utilisation(self.index)
    }

    fn milliwatts(&self) -> u32 {
        let model = self.model();
        (model.idle_watts + (model.power_watts - model.idle_watts) * self.utilisation() / 100) * 1000
    }

    fn clock(&self, kind: c_uint, highest: bool) -> Outcome<u32> {
        let model = self.model();
        let busy = highest || self.utilisation() > 0;
        Ok(match kind {
            0 | 1 => {
                if busy {
                    model.sm_clock_mhz
                } else {
                    345.min(model.sm_clock_mhz)
                }
            }
            2 => model.memory_clock_mhz,
            3 => model.sm_clock_mhz * 9 / 10,
            _ => return Err(error::INVALID_ARGUMENT),
        })
    }

    fn linked(&self, other: &Device) -> bool {
        self.index != other.index && self.model().id == other.model().id && self.model().nvlinks > 0
    }
}

/// Writes a list where there is room for all of it, else says how much is needed.
fn list<T>(values: Vec<T>, count: *mut c_uint, to: *mut T) -> Outcome {
    let room = argument(get(count))?;
    write(count, values.len() as c_uint)?;
    if (room as usize) < values.len() {
        return Err(error::INSUFFICIENT_SIZE);
    }
    for (index, value) in values.into_iter().enumerate() {
        write(to.wrapping_add(index), value)?;
    }
    Ok(())
}

/// A `nvmlPciInfo_t`.
#[repr(C)]
pub struct Pci {
    bus_id_legacy: [u8; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    device_id: c_uint,
    subsystem_id: c_uint,
    bus_id: [u8; 32],
}

fn fixed<const N: usize>(value: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let length = value.len().min(N - 1);
    bytes[..length].copy_from_slice(&value.as_bytes()[..length]);
    bytes
}

impl Device {
    fn pci(&self) -> Pci {
        let bus_id = self.bus_id();
        Pci {
            bus_id_legacy: fixed(&bus_id[4..]),
            domain: 0,
            bus: self.nvml.inventory.bus(self.index),
            device: 0,
            device_id: self.model().pci_device_id,
            subsystem_id: 0x16c1_10de,
            bus_id: fixed(&bus_id),
        }
    }

    fn processes(&self, clients_only: bool) -> Vec<nvmlProcessInfo_t> {
        let mut shared = self.nvml.shared.lock();
        shared.collect();
        shared
            .users(self.index)
            .into_iter()
            .filter(|user| !clients_only || user.usage.client != 0)
            .map(|user| nvmlProcessInfo_t {
                pid: user.pid,
                used_gpu_memory: user.usage.visible,
                // All ones outside of instances.
                gpu_instance_id: user.usage.instance.wrapping_sub(1),
                compute_instance_id: user.usage.compute.wrapping_sub(1),
            })
            .filter(|process| {
                let ids = (process.gpu_instance_id as usize, process.compute_instance_id as usize);
                self.mig.as_ref().is_none_or(|(mine, _)| *mine == ids)
            })
            .collect()
    }
}

/// One value asked of `nvmlDeviceGetFieldValues`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FieldValue {
    field: c_uint,
    scope: c_uint,
    timestamp: i64,
    latency: i64,
    kind: c_int,
    result: nvmlReturn_t,
    value: u64,
}

/// What an event carries.
#[repr(C)]
pub struct EventData {
    device: nvmlDevice_t,
    kind: u64,
    data: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// Defines NVML entry points: the body is an [`Outcome`].
macro_rules! nvml {
    () => {};
    (@names [$($names:ident)*] $name:ident | $($rest:tt)*) => { nvml! { @names [$($names)* $name] $($rest)* } };
    (@names [$($names:ident)*] $name:ident $arguments:tt $body:block $($rest:tt)*) => {
        $( one_nvml! { $names $arguments $body } )*
        one_nvml! { $name $arguments $body }
        nvml! { $($rest)* }
    };
    (fn $($rest:tt)*) => { nvml! { @names [] $($rest)* } };
}

macro_rules! one_nvml {
    ($name:ident ($($argument:ident : $type:ty),* $(,)?) $body:block) => {
        #[doc = concat!("`", stringify!($name), "` as in `nvml.h`.")]
        ///
        /// # Safety
        /// Pointers must be as `nvml.h` asks.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> nvmlReturn_t {
            let run = || -> Outcome { $body };
            code(run())
        }
    };
}

mod gpm;
mod mig;

fn init() -> Outcome {
    open()?;
    USERS.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn handle_where(to: *mut nvmlDevice_t, wanted: impl Fn(&Device) -> bool) -> Outcome {
    let nvml = started()?;
    for index in 0..nvml.inventory.devices.len() {
        let device = Device { nvml: nvml.clone(), index, mig: None };
        if wanted(&device) {
            return write(to, (HANDLE + index) as nvmlDevice_t);
        }
        let divided = *nvml.shared.lock().mig(index);
        for ids in divided.devices() {
            let handle = mig::handle(index, &divided, ids);
            if wanted(&Device::of(handle)?) {
                return write(to, handle);
            }
        }
    }
    Err(error::NOT_FOUND)
}

/// The text of a result.
fn explain(result: nvmlReturn_t) -> &'static std::ffi::CStr {
    match result {
        0 => c"Success",
        1 => c"Uninitialized",
        2 => c"Invalid Argument",
        3 => c"Not Supported",
        4 => c"Insufficient Permissions",
        5 => c"Already Initialized",
        6 => c"Not Found",
        7 => c"Insufficient Size",
        8 => c"Insufficient External Power",
        9 => c"Driver Not Loaded",
        10 => c"Timeout",
        12 => c"Shared Library Not Found",
        13 => c"Function Not Found",
        15 => c"GPU is lost",
        17 => c"GPU access blocked by the operating system",
        18 => c"RM has detected an NVML/RM version mismatch.",
        19 => c"In use by another client",
        21 => c"No Data",
        23 => c"Insufficient Resources",
        25 => c"Argument version mismatch",
        _ => c"Unknown Error",
    }
}

/// `nvmlErrorString` as in `nvml.h`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    explain(result).as_ptr()
}

nvml! {
    fn nvmlInit | nvmlInit_v2() {
        init()
    }
    fn nvmlInitWithFlags(_flags: c_uint) {
        init()
    }
    fn nvmlShutdown() {
        let less = |users: u32| users.checked_sub(1);
        USERS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).map(|_| ()).map_err(|_| error::UNINITIALIZED)
    }
    fn nvmlSystemGetDriverVersion(to: *mut c_char, size: c_uint) {
        text(to, size, &started()?.inventory.driver)
    }
    fn nvmlSystemGetNVMLVersion(to: *mut c_char, size: c_uint) {
        let nvml = started()?;
        text(to, size, &format!("{}.{}", nvml.inventory.cuda / 1000, nvml.inventory.driver))
    }
    fn nvmlSystemGetCudaDriverVersion | nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) {
        // Answers before nvmlInit, too.
        write(version, open()?.inventory.cuda)
    }
    fn nvmlSystemGetProcessName(pid: c_uint, to: *mut c_char, size: c_uint) {
        started()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|_| error::NOT_FOUND)?;
        let name = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        if size == 0 {
            return Err(error::INVALID_ARGUMENT);
        }
        argument(put_text(to, size as usize, &name))
    }
    fn nvmlDeviceGetCount | nvmlDeviceGetCount_v2(count: *mut c_uint) {
        write(count, started()?.inventory.devices.len() as c_uint)
    }
    fn nvmlDeviceGetHandleByIndex | nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut nvmlDevice_t) {
        if index as usize >= started()?.inventory.devices.len() {
            return Err(error::INVALID_ARGUMENT);
        }
        write(device, (HANDLE + index as usize) as nvmlDevice_t)
    }
    fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = argument(get_text(uuid))?;
        handle_where(device, |d| d.uuid().eq_ignore_ascii_case(&wanted))
    }
    fn nvmlDeviceGetHandleBySerial(serial: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = argument(get_text(serial))?;
        handle_where(device, |d| d.mig.is_none() && d.serial() == wanted)
    }
    fn nvmlDeviceGetHandleByPciBusId | nvmlDeviceGetHandleByPciBusId_v2(bus_id: *const c_char, device: *mut nvmlDevice_t) {
        let wanted = argument(get_text(bus_id))?.to_ascii_uppercase();
        handle_where(device, |d| {
            let full = d.bus_id();
            d.mig.is_none() && [&full[..], &full[4..], &full[9..]].iter().any(|form| *form == wanted)
        })
    }
    fn nvmlDeviceGetIndex | nvmlDeviceGetMinorNumber(device: nvmlDevice_t, index: *mut c_uint) {
        write(index, Device::of(device)?.index as c_uint)
    }
    fn nvmlDeviceGetModuleId(device: nvmlDevice_t, id: *mut c_uint) {
        write(id, Device::of(device)?.index as c_uint)
    }
    fn nvmlDeviceGetName(device: nvmlDevice_t, to: *mut c_char, size: c_uint) {
        text(to, size, &Device::of(device)?.model().name)
    }
    fn nvmlDeviceGetUUID(device: nvmlDevice_t, to: *mut c_char, size: c_uint) {
        text(to, size, &Device::of(device)?.uuid())
    }
    fn nvmlDeviceGetSerial(device: nvmlDevice_t, to: *mut c_char, size: c_uint) {
        let device = Device::of(device)?;
        if !device.data_centre() {
            return Err(error::NOT_SUPPORTED);
        }
        text(to, size, &device.serial())
    }
    fn nvmlDeviceGetVbiosVersion(device: nvmlDevice_t, to: *mut c_char, size: c_uint) {
        Device::of(device)?;
        text(to, size, "96.00.99.00.01")
    }
    fn nvmlDeviceGetMemoryInfo(device: nvmlDevice_t, memory: *mut nvmlMemory_t) {
        let device = Device::of(device)?;
        let total = device.model().memory_mib * MIB;
        // The first form counts what the driver keeps for itself as used.
        let free = device.model().total_bytes.saturating_sub(device.used());
        write(memory, nvmlMemory_t { total, free, used: total - free })
    }
    fn nvmlDeviceGetMemoryInfo_v2(device: nvmlDevice_t, memory: *mut nvmlMemory_v2_t) {
        let device = Device::of(device)?;
        let version = argument(get(memory))?.version;
        if version != size_of::<nvmlMemory_v2_t>() as c_uint | 2 << 24 {
            return Err(error::ARGUMENT_VERSION_MISMATCH);
        }
        let total = device.model().memory_mib * MIB;
        let used = device.used();
        let free = device.model().total_bytes.saturating_sub(used);
        write(memory, nvmlMemory_v2_t { version, total, reserved: total - device.model().total_bytes, free, used })
    }
    fn nvmlDeviceGetBAR1MemoryInfo(device: nvmlDevice_t, memory: *mut [u64; 3]) {
        let device = Device::of(device)?;
        let total = (device.model().memory_mib * MIB).next_power_of_two();
        write(memory, [total, total - MIB, MIB])
    }
    fn nvmlDeviceGetComputeRunningProcesses_v2 | nvmlDeviceGetComputeRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, to: *mut nvmlProcessInfo_t) {
        list(Device::of(device)?.processes(false), count, to)
    }
    fn nvmlDeviceGetComputeRunningProcesses(device: nvmlDevice_t, count: *mut c_uint, to: *mut nvmlProcessInfo_v1_t) {
        let processes = Device::of(device)?.processes(false);
        let first = processes.iter().map(|p| nvmlProcessInfo_v1_t { pid: p.pid, used_gpu_memory: p.used_gpu_memory });
        list(first.collect(), count, to)
    }
    fn nvmlDeviceGetGraphicsRunningProcesses | nvmlDeviceGetGraphicsRunningProcesses_v2 | nvmlDeviceGetGraphicsRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, to: *mut nvmlProcessInfo_t) {
        Device::of(device)?;
        list(Vec::new(), count, to)
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses | nvmlDeviceGetMPSComputeRunningProcesses_v2 | nvmlDeviceGetMPSComputeRunningProcesses_v3(device: nvmlDevice_t, count: *mut c_uint, to: *mut nvmlProcessInfo_t) {
        list(Device::of(device)?.processes(true), count, to)
    }
    fn nvmlDeviceGetUtilizationRates(device: nvmlDevice_t, to: *mut nvmlUtilization_t) {
        let gpu = Device::of(device)?;
        if gpu.mig.is_some() {
            return Err(error::NOT_SUPPORTED);
        }
        let gpu = gpu.utilisation();
        write(to, nvmlUtilization_t { gpu, memory: gpu / 4 })
    }
    fn nvmlDeviceGetProcessUtilization(device: nvmlDevice_t, to: *mut nvmlProcessUtilizationSample_t, count: *mut c_uint, last_seen: u64) {
        let device = Device::of(device)?;
        let mut shared = device.nvml.shared.lock();
        shared.collect();
        let now = shared.now(device.index);
        let time_stamp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let samples: Vec<_> = shared
            .users(device.index)
            .into_iter()
            .filter(|user| user.usage.meter.total() > 0 && time_stamp > last_seen)
            .map(|user| {
                let (pid, sm_util) = (user.pid, user.usage.meter.percent(now));
                nvmlProcessUtilizationSample_t { pid, time_stamp, sm_util, mem_util: sm_util / 4, enc_util: 0, dec_util: 0 }
            })
            .collect();
        drop(shared);
        if samples.is_empty() {
            write(count, 0)?;
            return Err(error::NOT_FOUND);
        }
        if to.is_null() {
            write(count, samples.len() as c_uint)?;
            return Err(error::INSUFFICIENT_SIZE);
        }
        list(samples, count, to)
    }
    fn nvmlDeviceGetEncoderUtilization | nvmlDeviceGetDecoderUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) {
        Device::of(device)?;
        put_optional(period, 167_000);
        write(percent, 0)
    }
    fn nvmlDeviceGetJpgUtilization | nvmlDeviceGetOfaUtilization(device: nvmlDevice_t, percent: *mut c_uint, period: *mut c_uint) {
        Device::of(device)?;
        put_optional(period, 167_000);
        write(percent, 0)
    }
    fn nvmlDeviceGetTemperature(device: nvmlDevice_t, sensor: c_uint, to: *mut c_uint) {
        let device = Device::of(device)?;
        if sensor != 0 {
            return Err(error::INVALID_ARGUMENT);
        }
        write(to, 32 + device.utilisation() * 35 / 100)
    }
    fn nvmlDeviceGetTemperatureV(device: nvmlDevice_t, to: *mut [c_uint; 3]) {
        let device = Device::of(device)?;
        let [version, sensor, _] = argument(get(to))?;
        if version != 12 | 1 << 24 {
            return Err(error::ARGUMENT_VERSION_MISMATCH);
        }
        write(to, [version, sensor, 32 + device.utilisation() * 35 / 100])
    }
    fn nvmlDeviceGetTemperatureThreshold(device: nvmlDevice_t, kind: c_uint, to: *mut c_uint) {
        Device::of(device)?;
        // 0 shutdown, 1 slowdown, 2 memory, 3 highest for the GPU
        write(to, match kind { 0 => 95, 1 => 92, 2 => 95, 3 => 87, _ => return Err(error::NOT_SUPPORTED) })
    }
    fn nvmlDeviceGetPowerUsage(device: nvmlDevice_t, to: *mut c_uint) {
        write(to, Device::of(device)?.milliwatts())
    }
    fn nvmlDeviceGetPowerManagementLimit | nvmlDeviceGetPowerManagementDefaultLimit | nvmlDeviceGetEnforcedPowerLimit(device: nvmlDevice_t, to: *mut c_uint) {
        write(to, Device::of(device)?.model().power_watts * 1000)
    }
    fn nvmlDeviceGetPowerManagementLimitConstraints(device: nvmlDevice_t, least: *mut c_uint, most: *mut c_uint) {
        let device = Device::of(device)?;
        write(least, device.model().power_watts * 1000 * 2 / 7)?;
        write(most, device.model().power_watts * 1000)
    }
    fn nvmlDeviceGetPowerManagementMode(device: nvmlDevice_t, mode: *mut c_uint) {
        Device::of(device)?;
        write(mode, 1)
    }
    fn nvmlDeviceGetTotalEnergyConsumption(device: nvmlDevice_t, to: *mut u64) {
        let device = Device::of(device)?;
        let mut shared = device.nvml.shared.lock();
        let now = shared.now(device.index);
        let busy = shared.busy(device.index);
        let model = device.model();
        // Watts times nanoseconds are nanojoules; the answer is in millijoules.
        let idle = now / 1000 * u64::from(model.idle_watts);
        write(to, (idle + busy / 1000 * u64::from(model.power_watts - model.idle_watts)) / 1000)
    }
    fn nvmlDeviceGetClockInfo | nvmlDeviceGetApplicationsClock(device: nvmlDevice_t, kind: c_uint, to: *mut c_uint) {
        write(to, Device::of(device)?.clock(kind, false)?)
    }
    fn nvmlDeviceGetMaxClockInfo | nvmlDeviceGetDefaultApplicationsClock | nvmlDeviceGetMaxCustomerBoostClock(device: nvmlDevice_t, kind: c_uint, to: *mut c_uint) {
        write(to, Device::of(device)?.clock(kind, true)?)
    }
    fn nvmlDeviceGetClock(device: nvmlDevice_t, kind: c_uint, which: c_uint, to: *mut c_uint) {
        write(to, Device::of(device)?.clock(kind, which != 0)?)
    }
    fn nvmlDeviceGetCurrentClocksThrottleReasons | nvmlDeviceGetCurrentClocksEventReasons(device: nvmlDevice_t, to: *mut u64) {
        // 1 = idle
        write(to, u64::from(Device::of(device)?.utilisation() == 0))
    }
    fn nvmlDeviceGetSupportedClocksThrottleReasons | nvmlDeviceGetSupportedClocksEventReasons(device: nvmlDevice_t, to: *mut u64) {
        Device::of(device)?;
        write(to, 0x1ff)
    }
    fn nvmlDeviceGetPerformanceState | nvmlDeviceGetPowerState(device: nvmlDevice_t, to: *mut c_uint) {
        Device::of(device)?;
        write(to, 0)
    }
    fn nvmlDeviceGetFanSpeed(device: nvmlDevice_t, to: *mut c_uint) {
        let device = Device::of(device)?;
        if device.data_centre() { Err(error::NOT_SUPPORTED) } else { write(to, 30) }
    }
    fn nvmlDeviceGetPciInfo | nvmlDeviceGetPciInfo_v2 | nvmlDeviceGetPciInfo_v3(device: nvmlDevice_t, to: *mut Pci) {
        let pci = Device::of(device)?.pci();
        write(to, pci)
    }
    fn nvmlDeviceGetCudaComputeCapability(device: nvmlDevice_t, major: *mut c_int, minor: *mut c_int) {
        let [first, second] = Device::of(device)?.model().compute_capability;
        write(major, first)?;
        write(minor, second)
    }
    fn nvmlDeviceGetPersistenceMode(device: nvmlDevice_t, mode: *mut c_uint) {
        Device::of(device)?;
        write(mode, 1)
    }
    fn nvmlDeviceGetComputeMode | nvmlDeviceGetDisplayMode | nvmlDeviceGetDisplayActive(device: nvmlDevice_t, mode: *mut c_uint) {
        Device::of(device)?;
        write(mode, 0)
    }
    fn nvmlDeviceGetAccountingMode(device: nvmlDevice_t, mode: *mut c_uint) {
        Device::of(device)?;
        write(mode, 0)
    }
    fn nvmlDeviceGetEccMode(device: nvmlDevice_t, current: *mut c_uint, pending: *mut c_uint) {
        let device = Device::of(device)?;
        if !device.data_centre() {
            return Err(error::NOT_SUPPORTED);
        }
        write(current, 1)?;
        write(pending, 1)
    }
    fn nvmlDeviceGetDefaultEccMode(device: nvmlDevice_t, mode: *mut c_uint) {
        let device = Device::of(device)?;
        if device.data_centre() { write(mode, 1) } else { Err(error::NOT_SUPPORTED) }
    }
    fn nvmlDeviceGetTotalEccErrors(device: nvmlDevice_t, _kind: c_uint, _counter: c_uint, count: *mut u64) {
        let device = Device::of(device)?;
        if device.data_centre() { write(count, 0) } else { Err(error::NOT_SUPPORTED) }
    }
    fn nvmlDeviceGetMemoryErrorCounter(device: nvmlDevice_t, _kind: c_uint, _counter: c_uint, _location: c_uint, count: *mut u64) {
        let device = Device::of(device)?;
        if device.data_centre() { write(count, 0) } else { Err(error::NOT_SUPPORTED) }
    }
    fn nvmlDeviceGetBrand(device: nvmlDevice_t, brand: *mut c_uint) {
        write(brand, Device::of(device)?.model().brand)
    }
    fn nvmlDeviceGetArchitecture(device: nvmlDevice_t, architecture: *mut c_uint) {
        write(architecture, Device::of(device)?.model().architecture)
    }
    fn nvmlDeviceGetNumGpuCores(device: nvmlDevice_t, cores: *mut c_uint) {
        let device = Device::of(device)?;
        write(cores, device.model().sms * device.model().cores_per_sm)
    }
    fn nvmlDeviceGetMemoryBusWidth(device: nvmlDevice_t, bits: *mut c_uint) {
        write(bits, Device::of(device)?.model().bus_width)
    }
    fn nvmlDeviceGetBusType(device: nvmlDevice_t, kind: *mut c_uint) {
        Device::of(device)?;
        write(kind, 2)
    }
    fn nvmlDeviceGetCurrPcieLinkGeneration | nvmlDeviceGetMaxPcieLinkGeneration | nvmlDeviceGetGpuMaxPcieLinkGeneration(device: nvmlDevice_t, to: *mut c_uint) {
        write(to, Device::of(device)?.model().pcie_gen)
    }
    fn nvmlDeviceGetCurrPcieLinkWidth | nvmlDeviceGetMaxPcieLinkWidth(device: nvmlDevice_t, to: *mut c_uint) {
        write(to, Device::of(device)?.model().pcie_width)
    }
    fn nvmlDeviceGetPcieThroughput(device: nvmlDevice_t, _counter: c_uint, to: *mut c_uint) {
        Device::of(device)?;
        write(to, 0)
    }
    fn nvmlDeviceGetPcieReplayCounter(device: nvmlDevice_t, to: *mut c_uint) {
        Device::of(device)?;
        write(to, 0)
    }
    fn nvmlDeviceGetCpuAffinity(device: nvmlDevice_t, words: c_uint, to: *mut c_ulong) {
        affinity(&Device::of(device)?, words, to)
    }
    fn nvmlDeviceGetCpuAffinityWithinScope(device: nvmlDevice_t, words: c_uint, to: *mut c_ulong, _scope: c_uint) {
        affinity(&Device::of(device)?, words, to)
    }
    fn nvmlDeviceGetMemoryAffinity(device: nvmlDevice_t, words: c_uint, to: *mut c_ulong, _scope: c_uint) {
        let node = machine::node(Device::of(device)?.index);
        for index in 0..words as usize {
            write(to.wrapping_add(index), if index == 0 { 1 << node } else { 0 })?;
        }
        Ok(())
    }
    fn nvmlDeviceSetCpuAffinity | nvmlDeviceClearCpuAffinity(device: nvmlDevice_t) {
        Device::of(device).map(|_| ())
    }
    fn nvmlDeviceGetNvLinkState(device: nvmlDevice_t, link: c_uint, active: *mut c_uint) {
        let device = Device::of(device)?;
        if device.model().nvlinks == 0 {
            return Err(error::NOT_SUPPORTED);
        }
        if link >= device.model().nvlinks {
            return Err(error::INVALID_ARGUMENT);
        }
        write(active, c_uint::from(device.nvml.inventory.devices.len() > 1))
    }
    fn nvmlDeviceGetNvLinkVersion(device: nvmlDevice_t, link: c_uint, version: *mut c_uint) {
        let device = Device::of(device)?;
        if link >= device.model().nvlinks {
            return Err(error::NOT_SUPPORTED);
        }
        write(version, match device.model().architecture { 7 => 3, 9 => 4, 10.. => 5, _ => 3 })
    }
    fn nvmlDeviceGetNvLinkRemotePciInfo | nvmlDeviceGetNvLinkRemotePciInfo_v2(device: nvmlDevice_t, link: c_uint, to: *mut Pci) {
        let device = Device::of(device)?;
        if link >= device.model().nvlinks {
            return Err(error::NOT_SUPPORTED);
        }
        // All links go to a switch.
        let switch = 0x05 + link / 6;
        let bus_id = format!("00000000:{switch:02X}:00.0");
        write(to, Pci {
            bus_id_legacy: fixed(&bus_id[4..]), domain: 0, bus: switch, device: 0, device_id: 0x22a3_10de,
            subsystem_id: 0, bus_id: fixed(&bus_id),
        })
    }
    fn nvmlDeviceGetNvLinkRemoteDeviceType(device: nvmlDevice_t, link: c_uint, kind: *mut c_uint) {
        let device = Device::of(device)?;
        if link >= device.model().nvlinks {
            return Err(error::NOT_SUPPORTED);
        }
        // 2 = switch
        write(kind, 2)
    }
    fn nvmlDeviceGetTopologyCommonAncestor(one: nvmlDevice_t, other: nvmlDevice_t, level: *mut c_uint) {
        let (one, other) = (Device::of(one)?, Device::of(other)?);
        write(level, machine::level(&one.nvml.inventory, one.index, other.index))
    }
    fn nvmlDeviceGetP2PStatus(one: nvmlDevice_t, other: nvmlDevice_t, _index: c_uint, status: *mut c_uint) {
        let (one, other) = (Device::of(one)?, Device::of(other)?);
        // 0 = yes, 1 = the chipset does not support it
        write(status, c_uint::from(!one.linked(&other)))
    }
    fn nvmlDeviceOnSameBoard(one: nvmlDevice_t, other: nvmlDevice_t, same: *mut c_int) {
        let (one, other) = (Device::of(one)?, Device::of(other)?);
        write(same, c_int::from(one.index == other.index))
    }
    fn nvmlDeviceGetFieldValues(device: nvmlDevice_t, count: c_int, values: *mut FieldValue) {
        Device::of(device)?;
        for index in 0..usize::try_from(count).unwrap_or(0) {
            let at = values.wrapping_add(index);
            let mut value = argument(get(at))?;
            value.result = error::NOT_SUPPORTED;
            write(at, value)?;
        }
        Ok(())
    }
    fn nvmlDeviceGetSupportedEventTypes(device: nvmlDevice_t, kinds: *mut u64) {
        Device::of(device)?;
        write(kinds, 0x8 | 0x1 | 0x2)
    }
    fn nvmlEventSetCreate(set: *mut *mut c_void) {
        started()?;
        write(set, EVENT_SET as *mut c_void)
    }
    fn nvmlEventSetFree(set: *mut c_void) {
        started()?;
        if set as usize == EVENT_SET { Ok(()) } else { Err(error::INVALID_ARGUMENT) }
    }
    fn nvmlDeviceRegisterEvents(device: nvmlDevice_t, _kinds: u64, set: *mut c_void) {
        Device::of(device)?;
        if set as usize == EVENT_SET { Ok(()) } else { Err(error::INVALID_ARGUMENT) }
    }
    fn nvmlEventSetWait | nvmlEventSetWait_v2(set: *mut c_void, data: *mut EventData, milliseconds: c_uint) {
        started()?;
        if set as usize != EVENT_SET || data.is_null() {
            return Err(error::INVALID_ARGUMENT);
        }
        // Nothing happens on a simulated card.
        std::thread::sleep(Duration::from_millis(u64::from(milliseconds)));
        Err(TIMEOUT)
    }
}

const TIMEOUT: nvmlReturn_t = 10;

/// The processors of the device's NUMA node.
fn affinity(device: &Device, words: c_uint, to: *mut c_ulong) -> Outcome {
    let (first, last) = machine::processors(device.index);
    for index in 0..words {
        let here = (0..64).filter(|bit| (first..=last).contains(&(index * 64 + bit)));
        write(to.wrapping_add(index as usize), here.fold(0, |mask, bit| mask | 1 << bit))?;
    }
    Ok(())
}
