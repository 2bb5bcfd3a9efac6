//! Contexts: each costs what the daemon measured on this card, plus the stacks that its limits ask for; what it holds
//! goes with it.
use super::memory::{charge, kind};
use super::{current_device, member, pages};
use crate::process::{Context, Process};
use crate::real::{driver, real};
use crate::table::Space;
use cleave_cuda::types::{CUcontext, CUresult, Handle, error};
use cleave_ledger::Kind;
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// Local memory that the driver gives every thread unless told otherwise, in bytes.
const STACK: u64 = 1024;

fn active(ordinal: i32) -> bool {
    let (mut flags, mut active) = (0u32, 0i32);
    driver!(cuDevicePrimaryCtxGetState(ordinal => i32, &raw mut flags => *mut u32, &raw mut active => *mut i32));
    active != 0
}

fn cost(p: &Process, device: usize) -> u64 {
    p.policy().devices.get(device).map_or(0, |d| d.context_bytes.load(Ordering::Relaxed))
}

/// Gives back what was allocated in context `which` of `device`: the driver frees it with the context.
#[inline(never)]
fn drop_contents(p: &Process, device: usize, which: u16) {
    p.books(|books, ledger| {
        books.table.drain(|space, entry| {
            let held = matches!(space, Space::Linear | Space::Chunk | Space::Array);
            let gone = held && usize::from(entry.device) == device && entry.context == which;
            if gone {
                ledger.release(device, kind(entry), entry.a);
            }
            gone
        });
        // Stacks are accounted to the device as a whole, and go with its primary context.
        if which == 0
            && let (Some(stack), Some(charged)) = (books.stack.get_mut(device), books.stack_charged.get_mut(device))
        {
            ledger.release(device, Kind::Context, *charged);
            (*stack, *charged) = (0, 0);
        }
    });
    p.forget_kernels();
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, ordinal: i32) -> CUresult {
    let call = || real!(cuDevicePrimaryCtxRetain(context: *mut CUcontext, ordinal: i32));
    let Some(p) = member!() else { return call() };
    let Some(device) = p.device_of(ordinal) else {
        // Not this slice's, or no device at all: the driver tells which.
        return if exists(ordinal) { error::NOT_PERMITTED } else { call() };
    };
    if p.books(|books, _| books.primary.get(device).is_some_and(|charged| *charged > 0)) || active(ordinal) {
        return call();
    }
    let bytes = cost(p, device);
    if !charge(p, device, Kind::Context, bytes) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    let keep = status == error::SUCCESS
        && p.books(|books, _| match books.primary.get_mut(device) {
            // Marked even where the cost is not known, so that it is charged once.
            Some(place) if *place == 0 => {
                *place = bytes.max(1);
                true
            }
            _ => false,
        });
    if !keep {
        p.release(device, Kind::Context, bytes);
    } else if bytes == 0 && p.measured_over(device) {
        real!(cuDevicePrimaryCtxRelease_v2(ordinal: i32));
        primary_gone(p, ordinal);
        return error::OUT_OF_MEMORY;
    }
    status
}

fn exists(ordinal: i32) -> bool {
    let mut device = -1;
    driver!(cuDeviceGet(&raw mut device => *mut i32, ordinal => i32)) == error::SUCCESS
}

/// After a release or reset: if the primary context is gone, so is what it held.
fn primary_gone(p: &Process, ordinal: i32) {
    let Some(device) = p.device_of(ordinal) else { return };
    if active(ordinal) {
        return;
    }
    let charged = p.books(|books, _| books.primary.get_mut(device).map(core::mem::take).unwrap_or(0));
    if charged > 0 {
        drop_contents(p, device, 0);
        p.release(device, Kind::Context, if charged == 1 { 0 } else { charged });
        p.measure(device);
    }
}

macro_rules! primary {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ordinal: i32) -> CUresult {
            let status = real!($name(ordinal: i32));
            if let Some(p) = member!() {
                primary_gone(p, ordinal);
            }
            status
        }
    )*};
}
primary!(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxReset, cuDevicePrimaryCtxReset_v2);

fn create(p: &Process, context: *mut CUcontext, ordinal: i32, call: &dyn Fn() -> CUresult) -> CUresult {
    let Some(device) = p.device_of(ordinal) else {
        return if exists(ordinal) { error::NOT_PERMITTED } else { call() };
    };
    let bytes = cost(p, device);
    if !charge(p, device, Kind::Context, bytes) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    if status != error::SUCCESS {
        p.release(device, Kind::Context, bytes);
        return status;
    }
    // SAFETY: the driver has written the caller's handle.
    let handle = unsafe { *context } as u64;
    p.books(|books, _| {
        if let Some(place) = books.contexts.iter_mut().find(|place| place.handle == 0) {
            *place = Context { handle, device: device as u8, charged: bytes };
        }
    });
    p.explicit_contexts.fetch_add(1, Ordering::Relaxed);
    if bytes == 0 {
        p.measure(device);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate(context: *mut CUcontext, flags: u32, ordinal: i32) -> CUresult {
    let call = || real!(cuCtxCreate(context: *mut CUcontext, flags: u32, ordinal: i32));
    let Some(p) = member!() else { return call() };
    create(p, context, ordinal, &call)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut CUcontext, flags: u32, ordinal: i32) -> CUresult {
    let call = || real!(cuCtxCreate_v2(context: *mut CUcontext, flags: u32, ordinal: i32));
    let Some(p) = member!() else { return call() };
    create(p, context, ordinal, &call)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v3(
    context: *mut CUcontext,
    affinity: *mut c_void,
    count: i32,
    flags: u32,
    ordinal: i32,
) -> CUresult {
    let call =
        || real!(cuCtxCreate_v3(context: *mut CUcontext, affinity: *mut c_void, count: i32, flags: u32, ordinal: i32));
    let Some(p) = member!() else { return call() };
    create(p, context, ordinal, &call)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v4(
    context: *mut CUcontext,
    parameters: *mut c_void,
    flags: u32,
    ordinal: i32,
) -> CUresult {
    let call = || real!(cuCtxCreate_v4(context: *mut CUcontext, parameters: *mut c_void, flags: u32, ordinal: i32));
    let Some(p) = member!() else { return call() };
    create(p, context, ordinal, &call)
}

fn destroyed(p: &Process, context: CUcontext) {
    let gone = p.books(|books, _| {
        let which = books.context(context as u64);
        let place = books.contexts.get_mut(usize::from(which).checked_sub(1)?)?;
        let gone = *place;
        *place = Context { handle: 0, device: 0, charged: 0 };
        Some((which, gone))
    });
    if let Some((which, gone)) = gone {
        let device = usize::from(gone.device);
        drop_contents(p, device, which);
        p.release(device, Kind::Context, gone.charged);
        p.explicit_contexts.fetch_sub(1, Ordering::Relaxed);
        p.measure(device);
    }
}

macro_rules! destroying {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(context: CUcontext) -> CUresult {
            let status = real!($name(context: CUcontext));
            if let (Some(p), error::SUCCESS) = (member!(), status)
                && !context.is_null()
            {
                destroyed(p, context);
            }
            status
        }
    )*};
}
destroying!(cuCtxDestroy, cuCtxDestroy_v2, cuCtxDetach);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGreenCtxCreate(
    context: *mut Handle,
    resource: Handle,
    ordinal: i32,
    flags: u32,
) -> CUresult {
    if let Some(p) = member!()
        && p.device_of(ordinal).is_none()
        && exists(ordinal)
    {
        return error::NOT_PERMITTED;
    }
    let status = real!(cuGreenCtxCreate(context: *mut Handle, resource: Handle, ordinal: i32, flags: u32));
    if let (Some(p), error::SUCCESS) = (member!(), status)
        && let Some(device) = p.device_of(ordinal)
        && p.measured_over(device)
    {
        // SAFETY: the driver has written the caller's handle.
        let made = unsafe { *context };
        real!(cuGreenCtxDestroy(made: Handle));
        p.measure(device);
        return error::OUT_OF_MEMORY;
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGreenCtxDestroy(context: Handle) -> CUresult {
    let status = real!(cuGreenCtxDestroy(context: Handle));
    if let (Some(p), error::SUCCESS) = (member!(), status) {
        super::for_each_ordinal(p, |_, device| {
            p.measure(device);
        });
    }
    status
}

/// Charges local memory of `bytes` for every thread that the device can hold, if that is more than is charged already.
/// `None` if the slice may not have it; else what was added, to be given back if the driver then fails.
pub fn charge_stack(p: &Process, device: usize, bytes: u64) -> Option<u64> {
    let factor = p.policy().devices.get(device).map_or(0, |d| d.stack_factor);
    let now = p.books(|books, _| books.stack.get(device).copied().unwrap_or(0)).max(STACK);
    // The driver rounds a thread's local memory up; measured steps are 16 bytes.
    let wanted = bytes.div_ceil(16).saturating_mul(16);
    if wanted <= now {
        return Some(0);
    }
    let more = (wanted - now).saturating_mul(factor);
    if !charge(p, device, Kind::Context, more) {
        return None;
    }
    p.books(|books, _| {
        if let (Some(stack), Some(charged)) = (books.stack.get_mut(device), books.stack_charged.get_mut(device)) {
            *stack = wanted;
            *charged = charged.saturating_add(more);
        }
    });
    Some(more)
}

/// Takes back what [`charge_stack`] added.
pub fn uncharge_stack(p: &Process, device: usize, more: u64) {
    if more == 0 {
        return;
    }
    let factor = p.policy().devices.get(device).map_or(1, |d| d.stack_factor.max(1));
    p.books(|books, ledger| {
        if let (Some(stack), Some(charged)) = (books.stack.get_mut(device), books.stack_charged.get_mut(device)) {
            *stack = stack.saturating_sub(more / factor);
            *charged = charged.saturating_sub(more);
            ledger.release(device, Kind::Context, more);
        }
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetLimit(limit: i32, value: usize) -> CUresult {
    let call = || real!(cuCtxSetLimit(limit: i32, value: usize));
    let Some(p) = member!() else { return call() };
    const STACK_SIZE: i32 = 0;
    const HEAP_SIZE: i32 = 2;
    let Ok(device) = current_device(p) else { return call() };
    if limit == HEAP_SIZE {
        return set_heap(p, device, value as u64, &call);
    }
    if limit != STACK_SIZE {
        let status = call();
        p.measure(device);
        return status;
    }
    let Some(more) = charge_stack(p, device, value as u64) else { return error::OUT_OF_MEMORY };
    let status = call();
    if status != error::SUCCESS {
        uncharge_stack(p, device, more);
    }
    // A lower limit may have given memory back.
    p.measure(device);
    status
}

/// The heap of device-side `malloc`: the driver takes it with the first kernel that uses it (measured on driver 580),
/// so it is charged now, and given back to the account when NVML shows that it has been taken.
fn set_heap(p: &Process, device: usize, bytes: u64, call: &dyn Fn() -> CUresult) -> CUresult {
    /// The driver's own heap, part of the context.
    const DEFAULT: u64 = 8 << 20;
    let before = p.books(|books, _| books.heap_pending.get(device).copied().unwrap_or(0));
    let pending = pages(bytes.saturating_sub(DEFAULT));
    if pending > before && !charge(p, device, Kind::Managed, pending - before) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    let now = if status == error::SUCCESS { pending } else { before };
    // Where nobody can measure, nothing later proves that the heap was taken: it stays charged.
    let mark = p.measure(device).unwrap_or(u64::MAX);
    p.books(|books, ledger| {
        ledger.release(device, Kind::Managed, before.max(pending) - now);
        if let (Some(place), Some(at)) = (books.heap_pending.get_mut(device), books.heap_mark.get_mut(device)) {
            (*place, *at) = (now, mark);
        }
    });
    status
}

/// After a kernel ran for the first time: if the driver has taken the heap by now, it is measured and no longer pending.
pub fn heap_taken(p: &Process, device: usize) {
    let pending = p.books(|books, _| books.heap_pending.get(device).copied().unwrap_or(0));
    if pending == 0 {
        return;
    }
    let Some(now) = p.measure(device) else { return };
    p.books(|books, ledger| {
        if let (Some(place), Some(mark)) = (books.heap_pending.get_mut(device), books.heap_mark.get(device))
            && now >= mark.saturating_add(*place)
        {
            ledger.release(device, Kind::Managed, *place);
            *place = 0;
        }
    });
}
