//! Start, look-up of entry points, and what the program is told of its card.
use super::{current_device, member, part};
use crate::generated::{COUNT, ENTERED, GUARDED, NAMES, OFFSETS, REPLACED};
use crate::message::Line;
use crate::process::{Process, environment};
use crate::real::{self, driver, real};
use cleave_cuda::types::{CUresult, CUuuid, error};
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};

#[link(name = "c")]
unsafe extern "C" {
    fn setenv(name: *const c_char, value: *const c_char, overwrite: c_int) -> c_int;
}

/// Text for an environment variable, ended by a zero. What does not fit makes it unusable.
struct Text {
    bytes: [u8; 2048],
    length: usize,
}

impl Text {
    fn add(&mut self, text: &[u8]) {
        for byte in text {
            // The last byte stays zero.
            if let Some(place) = self.bytes.get_mut(self.length).filter(|_| self.length < 2047) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn uuid(&mut self, kind: &[u8; 4], uuid: &[u8; 16]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        if self.length > 0 {
            self.add(b",");
        }
        self.add(kind);
        for (place, byte) in uuid.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                self.add(b"-");
            }
            for digit in [byte >> 4, byte & 15] {
                self.add(DIGITS.get(usize::from(digit)..usize::from(digit) + 1).unwrap_or(&[]));
            }
        }
    }
}

fn number(text: &[u8]) -> Option<usize> {
    let plain = !text.is_empty() && text.len() < 4 && text.iter().all(u8::is_ascii_digit);
    plain.then(|| text.iter().fold(0, |value, digit| value * 10 + usize::from(digit - b'0')))
}

/// Whether `token` is a device's UUID, or the start of it, as the driver allows.
fn is_named(kind: &[u8; 4], uuid: &[u8; 16], token: &[u8]) -> bool {
    let mut text = Text { bytes: [0; 2048], length: 0 };
    text.uuid(kind, uuid);
    token.len() > kind.len() && text.bytes.starts_with(token)
}

/// Makes the driver see the slice's devices only. What the user wrote in `CUDA_VISIBLE_DEVICES` counts within the
/// slice: its `0` is the slice's first device, and the slice's own id means all of them.
fn choose_devices(p: &Process) {
    const NAME: &[u8] = b"CUDA_VISIBLE_DEVICES";
    let policy = p.policy();
    let kind = policy.kind();
    let devices = policy.devices.get(..(policy.device_count as usize).min(cleave_ledger::DEVICES)).unwrap_or(&[]);
    let mut chosen = Text { bytes: [0; 2048], length: 0 };
    match environment(NAME) {
        None => devices.iter().for_each(|device| chosen.uuid(kind, &device.uuid)),
        Some(wish) => {
            for token in wish.split(|&byte| byte == b',') {
                let token = token.trim_ascii();
                if token.starts_with(b"SLICE-") {
                    devices.iter().for_each(|device| chosen.uuid(kind, &device.uuid));
                } else if let Some(index) = number(token) {
                    // As the driver does: the list ends at the first device that is none.
                    let Some(device) = devices.get(index) else { break };
                    chosen.uuid(kind, &device.uuid);
                } else if let Some(device) = devices.iter().find(|device| is_named(kind, &device.uuid, token)) {
                    chosen.uuid(kind, &device.uuid);
                } else {
                    // None of the slice's, or none at all ("-1"): the list ends here, as above.
                    break;
                }
            }
        }
    }
    if chosen.length == 0 {
        chosen.add(b"-1");
    }
    // SAFETY: both end with a zero. As any call of setenv it must not race with other threads that change the
    // environment; the driver reads it in the very call that follows.
    unsafe { setenv(c"CUDA_VISIBLE_DEVICES".as_ptr(), chosen.bytes.as_ptr().cast(), 1) };
}

/// Notes which CUDA ordinal is which device of the slice.
fn find_devices(p: &Process) {
    let mut count = 0;
    if driver!(cuDeviceGetCount(&raw mut count => *mut i32)) != error::SUCCESS {
        return;
    }
    let policy = p.policy();
    for ordinal in 0..count {
        let (mut device, mut uuid) = (-1, CUuuid::default());
        if driver!(cuDeviceGet(&raw mut device => *mut i32, ordinal => i32)) != error::SUCCESS {
            continue;
        }
        // Of a MIG device the first form gives the UUID of its GPU; drivers without the second have no such UUIDs.
        let status = match policy.is_mig() {
            true => driver!(cuDeviceGetUuid_v2(&raw mut uuid => *mut CUuuid, device => i32)),
            false => driver!(cuDeviceGetUuid(&raw mut uuid => *mut CUuuid, device => i32)),
        };
        if status != error::SUCCESS {
            continue;
        }
        let devices = policy.devices.iter().take(policy.device_count as usize);
        for (index, _) in devices.enumerate().filter(|(_, known)| known.uuid == uuid.bytes) {
            p.set_ordinal(device as usize, index, count as usize);
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: u32) -> CUresult {
    let Some(p) = member!() else { return real!(cuInit(flags: u32)) };
    if p.sole_device().is_none() && p.device_of(0).is_none() {
        choose_devices(p);
    }
    let status = real!(cuInit(flags: u32));
    if status != error::SUCCESS {
        return status;
    }
    find_devices(p);
    let status = part::find(p);
    if status != error::SUCCESS {
        Line::new()
            .add(b"this driver gives a program no multiprocessors of its own (CUDA error ")
            .number(status as u64)
            .add(b"), which its slice asks for. If you set CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, unset it; a slice made with --engine temporal needs none")
            .print();
        return super::REFUSED;
    }
    status
}

/// After the driver has answered a look-up: what the program gets instead.
fn replace(symbol: *const c_char, found: *mut *mut c_void) {
    // SAFETY: the driver has written the caller's pointer.
    let pointer = unsafe { *found };
    if pointer.is_null() {
        return;
    }
    let entered = if part::wanted().is_some() { &ENTERED[..] } else { &[] };
    for (number, export) in REPLACED.iter().chain(entered) {
        if real::find(usize::from(*number)) == Some(pointer) {
            // SAFETY: as above.
            unsafe { *found = export.0.cast_mut() };
            return;
        }
    }
    // SAFETY: the driver has read the caller's string.
    let name = unsafe { core::ffi::CStr::from_ptr(symbol) }.to_bytes();
    if !known(name)
        && let Some(p) = crate::process::member()
    {
        p.slot().unknown_names.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether an entry point that takes memory came back in a form that is not in the table, and so would escape.
fn escapes(symbol: *const c_char, pointer: *mut c_void) -> bool {
    // SAFETY: the driver has read the caller's string.
    let name = unsafe { core::ffi::CStr::from_ptr(symbol) }.to_bytes();
    GUARDED.contains(&name) && !REPLACED.iter().any(|(_, export)| export.0 == pointer.cast_const())
}

fn known(name: &[u8]) -> bool {
    (0..COUNT).any(|index| {
        let start = OFFSETS.get(index).map_or(0, |offset| usize::from(*offset));
        NAMES.get(start..).and_then(|rest| rest.strip_prefix(name)).is_some_and(|rest| rest.first() == Some(&0))
    })
}

fn answer(status: CUresult, symbol: *const c_char, found: *mut *mut c_void) -> CUresult {
    if status != error::SUCCESS || found.is_null() || symbol.is_null() {
        return status;
    }
    replace(symbol, found);
    // SAFETY: the driver has written the caller's pointer.
    let pointer = unsafe { *found };
    if !pointer.is_null() && escapes(symbol, pointer) {
        static SAID: AtomicU32 = AtomicU32::new(0);
        if SAID.swap(1, Ordering::Relaxed) == 0 {
            // SAFETY: as in `escapes`.
            let name = unsafe { core::ffi::CStr::from_ptr(symbol) }.to_bytes();
            Line::new()
                .add(b"this driver has a form of ")
                .add(name)
                .add(b" that this version of cleave does not know; it is refused. Update cleave")
                .print();
        }
        // SAFETY: as above.
        unsafe { *found = core::ptr::null_mut() };
        return error::NOT_FOUND;
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress_v2(
    symbol: *const c_char,
    found: *mut *mut c_void,
    version: i32,
    flags: u64,
    detail: *mut i32,
) -> CUresult {
    let status = real!(cuGetProcAddress_v2(
        symbol: *const c_char, found: *mut *mut c_void, version: i32, flags: u64, detail: *mut i32));
    answer(status, symbol, found)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetProcAddress(
    symbol: *const c_char,
    found: *mut *mut c_void,
    version: i32,
    flags: u64,
) -> CUresult {
    let status = real!(cuGetProcAddress(symbol: *const c_char, found: *mut *mut c_void, version: i32, flags: u64));
    answer(status, symbol, found)
}

/// What the slice can still have on `device`, and its quota: the card's own figure is shown where it is lower, because
/// others may use it up.
fn memory(p: &Process, device: usize, free_of_card: u64) -> (u64, u64) {
    let ledger = p.ledger();
    let limit = ledger.limit(device);
    (limit.saturating_sub(ledger.used(device)).min(free_of_card), limit)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    let status = real!(cuMemGetInfo_v2(free: *mut usize, total: *mut usize));
    if let (Some(p), error::SUCCESS) = (member!(), status)
        && let Ok(device) = current_device(p)
    {
        // SAFETY: the driver has written through both.
        unsafe {
            let (left, limit) = memory(p, device, *free as u64);
            (*free, *total) = (left as usize, limit as usize);
        }
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo(free: *mut u32, total: *mut u32) -> CUresult {
    let status = real!(cuMemGetInfo(free: *mut u32, total: *mut u32));
    if let (Some(p), error::SUCCESS) = (member!(), status)
        && let Ok(device) = current_device(p)
    {
        let (left, limit) = memory(p, device, u64::MAX);
        // SAFETY: the driver has written through both.
        unsafe { (*free, *total) = (cut(left), cut(limit)) };
    }
    status
}

fn cut(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn quota(p: &Process, ordinal: i32) -> Option<u64> {
    p.device_of(ordinal).map(|device| p.ledger().limit(device))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, ordinal: i32) -> CUresult {
    let status = real!(cuDeviceTotalMem_v2(bytes: *mut usize, ordinal: i32));
    if let (Some(p), error::SUCCESS) = (member!(), status)
        && let Some(limit) = quota(p, ordinal)
    {
        // SAFETY: the driver has written through it.
        unsafe { *bytes = limit as usize };
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem(bytes: *mut u32, ordinal: i32) -> CUresult {
    let status = real!(cuDeviceTotalMem(bytes: *mut u32, ordinal: i32));
    if let (Some(p), error::SUCCESS) = (member!(), status)
        && let Some(limit) = quota(p, ordinal)
    {
        // SAFETY: the driver has written through it.
        unsafe { *bytes = cut(limit) };
    }
    status
}
