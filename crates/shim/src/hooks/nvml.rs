//! NVML inside a slice, so that `nvidia-smi` and its like see the slice's cards, quota and processes, and nobody else's.
use crate::generated::index;
use crate::process::{Process, process};
use crate::real::{driver, find, real};
use cleave_cuda::types::{
    nvml_error, nvmlDevice_t, nvmlMemory_t, nvmlMemory_v2_t, nvmlProcessInfo_t, nvmlProcessInfo_v1_t,
    nvmlProcessUtilizationSample_t, nvmlReturn_t, nvmlUtilization_t,
};
use cleave_ledger::{Ledger, SLOTS, UNIT, owner};
use core::ffi::{c_char, c_void};
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

/// `None` = not metered; returns from the hook if the process may not use the GPU.
macro_rules! member {
    () => {
        match process() {
            Ok(process) => process,
            Err(()) => return nvml_error::NO_PERMISSION,
        }
    };
}

macro_rules! starting {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> nvmlReturn_t {
            let _ = member!();
            real!($name($($argument: $type),*))
        }
    )*};
}
starting!(nvmlInit(), nvmlInit_v2(), nvmlInitWithFlags(flags: u32));

/// A device's UUID in NVML's text form, from its bytes.
fn uuid_text(kind: &[u8; 4], uuid: &[u8; 16]) -> [u8; 41] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = *b"GPU-00000000-0000-0000-0000-000000000000\0";
    text[..4].copy_from_slice(kind);
    let places = (4..40).filter(|place| !matches!(place, 12 | 17 | 22 | 27));
    for (place, nibble) in places.zip(uuid.iter().flat_map(|byte| [byte >> 4, byte & 15])) {
        if let (Some(to), Some(digit)) = (text.get_mut(place), DIGITS.get(usize::from(nibble))) {
            *to = *digit;
        }
    }
    text
}

/// The slice's device behind an NVML handle.
#[inline(never)]
fn device_of(p: &Process, handle: nvmlDevice_t) -> Option<usize> {
    let mut text = [0u8; 96];
    let status = driver!(nvmlDeviceGetUUID(handle => nvmlDevice_t, text.as_mut_ptr() => *mut u8, 96 => u32));
    if status != nvml_error::SUCCESS {
        return None;
    }
    let policy = p.policy();
    let devices = policy.devices.iter().take(policy.device_count as usize);
    devices
        .enumerate()
        .find(|(_, device)| text.starts_with(&uuid_text(policy.kind(), &device.uuid)))
        .map(|(index, _)| index)
}

macro_rules! counting {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(count: *mut u32) -> nvmlReturn_t {
            let Some(p) = member!() else { return real!($name(count: *mut u32)) };
            let status = real!($name(count: *mut u32));
            if status == nvml_error::SUCCESS {
                // SAFETY: NVML has written through it.
                unsafe { *count = p.policy().device_count };
            }
            status
        }
    )*};
}
counting!(nvmlDeviceGetCount, nvmlDeviceGetCount_v2);

macro_rules! by_index {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(number: u32, handle: *mut nvmlDevice_t) -> nvmlReturn_t {
            let Some(p) = member!() else { return real!($name(number: u32, handle: *mut nvmlDevice_t)) };
            let policy = p.policy();
            match policy.devices.iter().take(policy.device_count as usize).nth(number as usize) {
                Some(device) => {
                    let text = uuid_text(policy.kind(), &device.uuid);
                    let text: *const c_char = text.as_ptr().cast();
                    real!(nvmlDeviceGetHandleByUUID(text: *const c_char, handle: *mut nvmlDevice_t))
                }
                None => nvml_error::INVALID_ARGUMENT,
            }
        }
    )*};
}
by_index!(nvmlDeviceGetHandleByIndex, nvmlDeviceGetHandleByIndex_v2);

macro_rules! by_name {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(text: *const c_void, handle: *mut nvmlDevice_t) -> nvmlReturn_t {
            let status = real!($name(text: *const c_void, handle: *mut nvmlDevice_t));
            let Some(p) = member!() else { return status };
            // SAFETY: NVML has written through it.
            if status == nvml_error::SUCCESS && device_of(p, unsafe { *handle }).is_none() {
                // SAFETY: as above.
                unsafe { *handle = null_mut() };
                return nvml_error::NOT_FOUND;
            }
            status
        }
    )*};
}
by_name!(
    nvmlDeviceGetHandleByUUID,
    nvmlDeviceGetHandleByUUIDV,
    nvmlDeviceGetHandleBySerial,
    nvmlDeviceGetHandleByPciBusId,
    nvmlDeviceGetHandleByPciBusId_v2
);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetIndex(handle: nvmlDevice_t, number: *mut u32) -> nvmlReturn_t {
    let status = real!(nvmlDeviceGetIndex(handle: nvmlDevice_t, number: *mut u32));
    if let (Some(p), nvml_error::SUCCESS) = (member!(), status)
        && let Some(device) = device_of(p, handle)
    {
        // SAFETY: NVML has written through it.
        unsafe { *number = device as u32 };
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(handle: nvmlDevice_t, memory: *mut nvmlMemory_t) -> nvmlReturn_t {
    let status = real!(nvmlDeviceGetMemoryInfo(handle: nvmlDevice_t, memory: *mut nvmlMemory_t));
    if let (Some(p), nvml_error::SUCCESS) = (member!(), status)
        && let Some(device) = device_of(p, handle)
    {
        let (total, used) = (p.ledger().limit(device), p.ledger().used(device));
        // SAFETY: NVML has written through it.
        unsafe { *memory = nvmlMemory_t { total, free: total.saturating_sub(used), used } };
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(
    handle: nvmlDevice_t,
    memory: *mut nvmlMemory_v2_t,
) -> nvmlReturn_t {
    let status = real!(nvmlDeviceGetMemoryInfo_v2(handle: nvmlDevice_t, memory: *mut nvmlMemory_v2_t));
    if let (Some(p), nvml_error::SUCCESS) = (member!(), status)
        && let Some(device) = device_of(p, handle)
    {
        let (total, used) = (p.ledger().limit(device), p.ledger().used(device));
        // SAFETY: NVML has written through it.
        unsafe {
            let version = (*memory).version;
            *memory = nvmlMemory_v2_t { version, total, reserved: 0, free: total.saturating_sub(used), used };
        }
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(
    handle: nvmlDevice_t,
    rates: *mut nvmlUtilization_t,
) -> nvmlReturn_t {
    let status = real!(nvmlDeviceGetUtilizationRates(handle: nvmlDevice_t, rates: *mut nvmlUtilization_t));
    if let (Some(p), nvml_error::SUCCESS) = (member!(), status)
        && let Some(device) = device_of(p, handle)
    {
        let busy = p.policy().devices.get(device).map_or(u32::MAX, |d| d.busy_percent.load(Ordering::Relaxed));
        if busy > 100 {
            return nvml_error::NOT_SUPPORTED;
        }
        // SAFETY: NVML has written through it. The share of memory time is not known per process.
        unsafe { *rates = nvmlUtilization_t { gpu: busy, memory: (*rates).memory.min(busy) } };
    }
    status
}

/// Each process of the slice that uses `device` and is to be seen from here: its id here, its id on the host, its bytes.
fn processes(p: &Process, device: usize) -> impl Iterator<Item = (u32, u32, u64)> {
    let ledger: Ledger<'static> = p.ledger();
    let policy = p.policy();
    let high = (policy.slots_high.load(Ordering::Relaxed) as usize).min(SLOTS);
    let own = p.book();
    policy.book.iter().zip(&ledger.usage().slots).take(high).filter_map(move |(book, slot)| {
        if book.state.load(Ordering::Acquire) != owner::LIVE {
            return None;
        }
        let held = slot.accounts.get(device)?.held.load(Ordering::Relaxed) & ((1 << 40) - 1);
        let adjust = book.adjust.get(device)?.load(Ordering::Relaxed);
        let bytes = (held * UNIT).saturating_add_signed(adjust);
        let pid = book.pid_for(own?)?;
        (bytes > 0).then(|| (pid, book.host_pid.load(Ordering::Relaxed), bytes))
    })
}

/// A process as one of NVML's structs.
trait Info {
    fn new(pid: u32, bytes: u64) -> Self;
}

impl Info for nvmlProcessInfo_v1_t {
    fn new(pid: u32, used_gpu_memory: u64) -> Self {
        Self { pid, used_gpu_memory }
    }
}

impl Info for nvmlProcessInfo_t {
    fn new(pid: u32, used_gpu_memory: u64) -> Self {
        Self { pid, used_gpu_memory, gpu_instance_id: u32::MAX, compute_instance_id: u32::MAX }
    }
}

/// `nvmlProcessDetail_v1_t`.
#[repr(C)]
pub struct ProcessDetail {
    pid: u32,
    used_gpu_memory: u64,
    gpu_instance_id: u32,
    compute_instance_id: u32,
    used_protected_memory: u64,
}

impl Info for ProcessDetail {
    fn new(pid: u32, used_gpu_memory: u64) -> Self {
        let none = u32::MAX;
        Self { pid, used_gpu_memory, gpu_instance_id: none, compute_instance_id: none, used_protected_memory: 0 }
    }
}

/// Writes the slice's processes as NVML does: the number there are to `count`, and as many as fit to `list`.
fn list<T: Info>(p: &Process, device: usize, count: *mut u32, list: *mut T) -> nvmlReturn_t {
    if count.is_null() {
        return nvml_error::INVALID_ARGUMENT;
    }
    // SAFETY: NVML's contract: `count` holds the number of places in `list`.
    let places = if list.is_null() { 0 } else { unsafe { *count } };
    let mut there = 0;
    for (pid, _, bytes) in processes(p, device) {
        if there < places {
            // SAFETY: below the number of places.
            unsafe { list.add(there as usize).write(T::new(pid, bytes)) };
        }
        there += 1;
    }
    // SAFETY: not null, as checked.
    unsafe { *count = there };
    if there > places { nvml_error::INSUFFICIENT_SIZE } else { nvml_error::SUCCESS }
}

macro_rules! running {
    ($($name:ident: $type:ty = $whose:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(handle: nvmlDevice_t, count: *mut u32, infos: *mut $type) -> nvmlReturn_t {
            let Some(p) = member!() else {
                return real!($name(handle: nvmlDevice_t, count: *mut u32, infos: *mut $type));
            };
            if find(index::$name).is_none() {
                return nvml_error::FUNCTION_NOT_FOUND;
            }
            let Some(device) = device_of(p, handle) else { return nvml_error::INVALID_ARGUMENT };
            running!(@ $whose p, device, count, infos)
        }
    )*};
    (@ slice $p:ident, $device:ident, $count:ident, $infos:ident) => { list($p, $device, $count, $infos) };
    // Programs of a slice draw nothing, and how they share the card is not theirs to see.
    (@ nobody $p:ident, $device:ident, $count:ident, $infos:ident) => {{
        let _ = $device;
        if $count.is_null() {
            return nvml_error::INVALID_ARGUMENT;
        }
        // SAFETY: not null, and the caller's to be written.
        unsafe { *$count = 0 };
        nvml_error::SUCCESS
    }};
}
running!(
    nvmlDeviceGetComputeRunningProcesses: nvmlProcessInfo_v1_t = slice,
    nvmlDeviceGetComputeRunningProcesses_v2: nvmlProcessInfo_t = slice,
    nvmlDeviceGetComputeRunningProcesses_v3: nvmlProcessInfo_t = slice,
    nvmlDeviceGetGraphicsRunningProcesses: nvmlProcessInfo_v1_t = nobody,
    nvmlDeviceGetGraphicsRunningProcesses_v2: nvmlProcessInfo_t = nobody,
    nvmlDeviceGetGraphicsRunningProcesses_v3: nvmlProcessInfo_t = nobody,
    nvmlDeviceGetMPSComputeRunningProcesses: nvmlProcessInfo_v1_t = nobody,
    nvmlDeviceGetMPSComputeRunningProcesses_v2: nvmlProcessInfo_t = nobody,
    nvmlDeviceGetMPSComputeRunningProcesses_v3: nvmlProcessInfo_t = nobody,
);

/// `nvmlProcessDetailList_t`.
#[repr(C)]
pub struct ProcessDetailList {
    version: u32,
    mode: u32,
    count: u32,
    list: *mut ProcessDetail,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetRunningProcessDetailList(
    handle: nvmlDevice_t,
    details: *mut ProcessDetailList,
) -> nvmlReturn_t {
    let Some(p) = member!() else {
        return real!(nvmlDeviceGetRunningProcessDetailList(handle: nvmlDevice_t, details: *mut ProcessDetailList));
    };
    let Some(device) = device_of(p, handle) else { return nvml_error::INVALID_ARGUMENT };
    // SAFETY: NVML's contract: a struct of the caller's, or null.
    let Some(details) = (unsafe { details.as_mut() }) else { return nvml_error::INVALID_ARGUMENT };
    if details.version & 0xff_ffff != size_of::<ProcessDetailList>() as u32 {
        return nvml_error::ARGUMENT_VERSION_MISMATCH;
    }
    const COMPUTE: u32 = 0;
    if details.mode != COMPUTE {
        details.count = 0;
        return nvml_error::SUCCESS;
    }
    list(p, device, &mut details.count, details.list)
}

/// Keeps the entries of `list` that are about the slice's processes, under the ids by which these know themselves. The
/// driver names a process as the asker's PID namespace does: by its own id there, or by the machine's.
fn keep_own<T>(p: &Process, device: usize, list: *mut T, count: u32, pid: impl Fn(&mut T) -> &mut u32) -> u32
where
    T: Copy,
{
    let mut kept = 0;
    for place in 0..count as usize {
        // SAFETY: NVML wrote `count` entries to the caller's array.
        let mut entry = unsafe { *list.add(place) };
        let named = *pid(&mut entry);
        let known = |&(own, host, _): &(u32, u32, u64)| host == named || own == named;
        if let Some((own, _, _)) = processes(p, device).find(known) {
            *pid(&mut entry) = own;
            // SAFETY: `kept` ≤ `place`.
            unsafe { *list.add(kept) = entry };
            kept += 1;
        }
    }
    kept as u32
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessUtilization(
    handle: nvmlDevice_t,
    samples: *mut nvmlProcessUtilizationSample_t,
    count: *mut u32,
    since: u64,
) -> nvmlReturn_t {
    let status = real!(nvmlDeviceGetProcessUtilization(
        handle: nvmlDevice_t, samples: *mut nvmlProcessUtilizationSample_t, count: *mut u32, since: u64));
    if let (Some(p), nvml_error::SUCCESS) = (member!(), status)
        && !samples.is_null()
        && let Some(device) = device_of(p, handle)
    {
        // SAFETY: NVML has written through it.
        unsafe { *count = keep_own(p, device, samples, *count, |sample| &mut sample.pid) };
    }
    status
}

/// `nvmlProcessUtilizationInfo_v1_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UtilizationInfo {
    time_stamp: u64,
    pid: u32,
    percent: [u32; 6],
}

/// `nvmlProcessesUtilizationInfo_v1_t`.
#[repr(C)]
pub struct UtilizationInfos {
    version: u32,
    count: u32,
    since: u64,
    list: *mut UtilizationInfo,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetProcessesUtilizationInfo(
    handle: nvmlDevice_t,
    infos: *mut UtilizationInfos,
) -> nvmlReturn_t {
    let status = real!(nvmlDeviceGetProcessesUtilizationInfo(handle: nvmlDevice_t, infos: *mut UtilizationInfos));
    if let (Some(p), nvml_error::SUCCESS) = (member!(), status)
        && let Some(device) = device_of(p, handle)
    {
        // SAFETY: NVML has read and written it.
        let infos = unsafe { &mut *infos };
        if !infos.list.is_null() {
            infos.count = keep_own(p, device, infos.list, infos.count, |info| &mut info.pid);
        }
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetAccountingPids(
    handle: nvmlDevice_t,
    count: *mut u32,
    pids: *mut u32,
) -> nvmlReturn_t {
    let status = real!(nvmlDeviceGetAccountingPids(handle: nvmlDevice_t, count: *mut u32, pids: *mut u32));
    if let (Some(p), nvml_error::SUCCESS) = (member!(), status)
        && !pids.is_null()
        && let Some(device) = device_of(p, handle)
    {
        // SAFETY: NVML has written through it.
        unsafe { *count = keep_own(p, device, pids, *count, |pid| pid) };
    }
    status
}
