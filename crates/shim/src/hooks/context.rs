//! Contexts: each costs what the daemon measured on this card, plus the stacks that its limits ask for; what it holds
//! goes with it.
use super::memory::{charge, kind};
use super::pool::changing_pools;
use super::{context_of, current_device, member, pages, part};
use crate::gate;
use crate::process::{self, Books, Process};
use crate::real::{driver, real};
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUcontext, CUresult, Handle, error};
use cleave_ledger::Kind;
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// Local memory that the driver gives every thread unless told otherwise, in bytes.
pub const STACK: u64 = 1024;

fn active(ordinal: i32) -> bool {
    let (mut flags, mut active) = (0u32, 0i32);
    driver!(cuDevicePrimaryCtxGetState(ordinal => i32, &raw mut flags => *mut u32, &raw mut active => *mut i32));
    active != 0
}

fn cost(p: &Process, device: usize) -> u64 {
    p.policy().devices.get(device).map_or(0, |d| d.context_bytes.load(Ordering::Relaxed))
}

/// Gives back what was charged for `context`, which is gone, and for what was in it: the driver frees it with the context.
#[inline(never)]
fn drop_context(p: &Process, context: u64, gone: &Entry) {
    gate::context_gone(p, context);
    let device = usize::from(gone.device);
    p.books(|books, ledger| {
        books.table.drain(|space, entry| {
            let (held, of) = match space {
                Space::Linear | Space::Chunk | Space::Array | Space::Ipc | Space::External => {
                    (true, entry.device.into())
                }
                // Counts on the host, and goes with the context of its device all the same.
                Space::Host => (true, entry.b as usize),
                _ => (false, 0),
            };
            let dropped = held && of == device && entry.context == gone.context;
            if dropped {
                ledger.release(entry.device.into(), kind(entry), entry.a);
            }
            dropped
        });
        ledger.release(device, Kind::Context, gone.a.saturating_add(stack_cost(p, device, gone.b)));
    });
    p.context_goes();
    p.forget_kernels();
    p.measure(device);
}

/// Runs `call`, which makes the primary context of `device` active if it is not: charges it then. `handle` tells the
/// context afterwards, `undo` lets it go where its cost was not known and the slice may not have it.
fn activate(
    p: &Process,
    device: usize,
    ordinal: i32,
    call: &dyn Fn() -> CUresult,
    handle: &dyn Fn() -> u64,
    undo: &dyn Fn(),
) -> CUresult {
    if p.books(|books, _| books.primary.get(device).is_some_and(|handle| *handle != 0)) {
        return call();
    }
    let bytes = if active(ordinal) { 0 } else { cost(p, device) };
    if !charge(p, device, Kind::Context, bytes) {
        return error::OUT_OF_MEMORY;
    }
    p.context_comes();
    let status = call();
    let noted = status == error::SUCCESS && {
        let handle = handle();
        p.books(|books, _| match books.primary.get_mut(device) {
            Some(place) if *place == 0 && handle != 0 => {
                *place = handle;
                books.table.insert(Space::Context, handle, Entry::new(bytes, 0, device, Kind::Context));
                true
            }
            // Another thread was first.
            _ => false,
        })
    };
    if !noted {
        p.context_goes();
        p.release(device, Kind::Context, bytes);
    } else if bytes == 0 && p.measured_over(device) {
        undo();
        primary_gone(p, ordinal);
        return error::OUT_OF_MEMORY;
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, ordinal: i32) -> CUresult {
    let call = || real!(cuDevicePrimaryCtxRetain(context: *mut CUcontext, ordinal: i32));
    let Some(p) = member!() else { return call() };
    let Some(device) = p.device_of(ordinal) else {
        // Not this slice's, or no device at all: the driver tells which.
        return if exists(ordinal) { error::NOT_PERMITTED } else { call() };
    };
    let undo = || {
        real!(cuDevicePrimaryCtxRelease_v2(ordinal: i32));
    };
    // SAFETY: the driver has written the caller's handle.
    let handle = || unsafe { *context } as u64;
    part::hold(p);
    let status = activate(p, device, ordinal, &call, &handle, &undo);
    if status != error::SUCCESS {
        part::leave(p, false);
        return status;
    }
    // SAFETY: as above.
    if let Err(status) = part::held(p, device, ordinal, unsafe { *context }) {
        part::leave(p, false);
        undo();
        primary_gone(p, ordinal);
        return status;
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
    let gone = p.books(|books, _| {
        let handle = books.primary.get_mut(device).map(core::mem::take)?;
        Some((handle, books.table.remove(Space::Context, handle)?))
    });
    if let Some((handle, gone)) = gone {
        drop_context(p, handle, &gone);
    }
}

macro_rules! primary {
    ($($name:ident for $all:literal),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ordinal: i32) -> CUresult {
            let call = || real!($name(ordinal: i32));
            let Some(p) = process::member() else { return call() };
            if p.device_of(ordinal).is_some() {
                gate::stream_goes(p, None);
                part::leave(p, $all);
            }
            // With the context go the pools that were made in it.
            let status = changing_pools(p, &call);
            if status == error::SUCCESS {
                primary_gone(p, ordinal);
            }
            status
        }
    )*};
}
primary!(
    cuDevicePrimaryCtxRelease for false,
    cuDevicePrimaryCtxRelease_v2 for false,
    cuDevicePrimaryCtxReset for true,
    cuDevicePrimaryCtxReset_v2 for true
);

fn create(p: &Process, context: *mut CUcontext, ordinal: i32, call: &dyn Fn() -> CUresult) -> CUresult {
    let Some(device) = p.device_of(ordinal) else {
        return if exists(ordinal) { error::NOT_PERMITTED } else { call() };
    };
    let bytes = cost(p, device);
    if !charge(p, device, Kind::Context, bytes) {
        return error::OUT_OF_MEMORY;
    }
    p.context_comes();
    let status = call();
    if status != error::SUCCESS {
        p.context_goes();
        p.release(device, Kind::Context, bytes);
        return status;
    }
    // SAFETY: the driver has written the caller's handle.
    let handle = unsafe { *context } as u64;
    p.part.is_another(handle);
    p.books(|books, _| {
        books.last_context = books.last_context.wrapping_add(1).max(1);
        let entry = Entry::new(bytes, 0, device, Kind::Context).in_context(books.last_context);
        books.table.insert(Space::Context, handle, entry);
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
    create(p, context, ordinal, &|| part::explicit(p, context, None, flags, ordinal).unwrap_or_else(call))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxCreate_v2(context: *mut CUcontext, flags: u32, ordinal: i32) -> CUresult {
    let call = || real!(cuCtxCreate_v2(context: *mut CUcontext, flags: u32, ordinal: i32));
    let Some(p) = member!() else { return call() };
    create(p, context, ordinal, &|| part::explicit(p, context, None, flags, ordinal).unwrap_or_else(call))
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
    // SAFETY: what the driver asks of its caller.
    let asked = unsafe { part::asked(affinity, count) };
    create(p, context, ordinal, &|| part::explicit(p, context, asked, flags, ordinal).unwrap_or_else(call))
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
    // SAFETY: what the driver asks of its caller.
    let asked = unsafe { part::asked_with(parameters) };
    let ours = || asked.and_then(|asked| part::explicit(p, context, asked, flags, ordinal));
    create(p, context, ordinal, &|| ours().unwrap_or_else(call))
}

fn destroy(p: &Process, context: CUcontext, call: &dyn Fn() -> CUresult) -> CUresult {
    // Taken out first: afterwards the handle may be another context's. A primary one is not destroyed so.
    let gone = p.books(|books, _| {
        books.table.get(Space::Context, context as u64).filter(|entry| entry.context != 0)?;
        books.table.remove(Space::Context, context as u64)
    });
    gate::stream_goes(p, None);
    let status = call();
    if let Some(gone) = gone {
        if status == error::SUCCESS {
            p.explicit_contexts.fetch_sub(1, Ordering::Relaxed);
            drop_context(p, context as u64, &gone);
        } else {
            p.books(|books, _| {
                books.table.insert(Space::Context, context as u64, gone);
            });
        }
    }
    status
}

macro_rules! destroying {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(context: CUcontext) -> CUresult {
            let call = || real!($name(context: CUcontext));
            let Some(p) = process::member() else { return call() };
            destroy(p, context, &call)
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
    let call = || real!(cuGreenCtxCreate(context: *mut Handle, resource: Handle, ordinal: i32, flags: u32));
    let Some(p) = member!() else { return call() };
    let Some(device) = p.device_of(ordinal) else {
        return if exists(ordinal) { error::NOT_PERMITTED } else { call() };
    };
    let destroy = || {
        // SAFETY: the driver has written the caller's handle.
        let made = unsafe { *context };
        real!(cuGreenCtxDestroy(made: Handle));
    };
    // It makes the primary context active, and keeps it so (measured on driver 580).
    let status = activate(p, device, ordinal, &call, &|| primary_handle(ordinal), &destroy);
    if status == error::SUCCESS && p.measured_over(device) {
        destroy();
        primary_gone(p, ordinal);
        p.measure(device);
        return error::OUT_OF_MEMORY;
    }
    status
}

/// The primary context, which is active.
fn primary_handle(ordinal: i32) -> u64 {
    let mut handle: CUcontext = core::ptr::null_mut();
    let place = &raw mut handle;
    let status = real!(cuDevicePrimaryCtxRetain(place: *mut CUcontext, ordinal: i32));
    if status == error::SUCCESS {
        real!(cuDevicePrimaryCtxRelease_v2(ordinal: i32));
    }
    handle as u64
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGreenCtxDestroy(context: Handle) -> CUresult {
    let member = process::member();
    if let Some(p) = member {
        gate::stream_goes(p, None);
    }
    let status = real!(cuGreenCtxDestroy(context: Handle));
    if let (Some(p), error::SUCCESS) = (member, status) {
        super::for_each_ordinal(p, |ordinal, device| {
            primary_gone(p, ordinal);
            p.measure(device);
        });
    }
    status
}

/// What local memory of `bytes` for every thread that the device can hold costs, beyond what each context has.
fn stack_cost(p: &Process, device: usize, bytes: u64) -> u64 {
    let factor = p.policy().devices.get(device).map_or(0, |d| d.stack_factor);
    bytes.saturating_sub(STACK).saturating_mul(factor)
}

/// Local memory per thread that is charged in `context`. One that is not known shares the device's primary one.
fn stack_of(books: &mut Books, device: usize, context: u64) -> Option<&mut u64> {
    let known = books.table.get(Space::Context, context).is_some();
    let context = if known { context } else { *books.primary.get(device)? };
    books.table.get(Space::Context, context).map(|entry| &mut entry.b)
}

/// Charges local memory of `bytes` for every thread of `context`, if that is more than is charged there already. `None`
/// if the slice may not have it; else what was added, to be given back if the driver then fails.
pub fn charge_stack(p: &Process, device: usize, context: u64, bytes: u64) -> Option<u64> {
    // The driver rounds a thread's local memory up; measured steps are 16 bytes.
    let wanted = bytes.div_ceil(16).saturating_mul(16);
    if wanted <= STACK {
        return Some(0);
    }
    let missing = |now: u64| stack_cost(p, device, wanted).saturating_sub(stack_cost(p, device, now));
    let now = || p.books(|books, _| stack_of(books, device, context).map(|stack| *stack));
    loop {
        // Without a context the driver says so; one of a device whose primary one was never seen is measured.
        let Some(before) = now() else { return Some(0) };
        let asked = missing(before);
        if charge(p, device, Kind::Context, asked) {
            return p.books(|books, ledger| {
                let stack = stack_of(books, device, context);
                // Another thread may have been first with the same kernel.
                let more = stack.map_or(0, |stack| {
                    let more = missing(*stack).min(asked);
                    *stack = (*stack).max(wanted);
                    more
                });
                ledger.release(device, Kind::Context, asked - more);
                Some(more)
            });
        }
        if now().is_none_or(|now| now <= before) {
            return None;
        }
    }
}

/// Takes back what [`charge_stack`] added.
pub fn uncharge_stack(p: &Process, device: usize, context: u64, more: u64) {
    if more == 0 {
        return;
    }
    let factor = p.policy().devices.get(device).map_or(1, |d| d.stack_factor.max(1));
    p.books(|books, ledger| {
        if let Some(stack) = stack_of(books, device, context) {
            *stack = stack.saturating_sub(more / factor);
            ledger.release(device, Kind::Context, more);
        }
    });
}

/// After the limit of `context` was lowered to `bytes`: the driver has given back what is above it at once (measured on
/// driver 580), and takes it again with the next kernel that needs it.
fn lower_stack(p: &Process, device: usize, context: u64, bytes: u64) {
    let wanted = bytes.div_ceil(16).saturating_mul(16).max(STACK);
    p.books(|books, ledger| {
        if let Some(stack) = stack_of(books, device, context).filter(|stack| **stack > wanted) {
            let less = stack_cost(p, device, *stack).saturating_sub(stack_cost(p, device, wanted));
            *stack = wanted;
            ledger.release(device, Kind::Context, less);
        }
    });
    p.forget_kernels();
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
    let context = context_of(core::ptr::null_mut());
    let Some(more) = charge_stack(p, device, context, value as u64) else { return error::OUT_OF_MEMORY };
    let status = call();
    if status != error::SUCCESS {
        uncharge_stack(p, device, context, more);
    } else if more == 0 {
        lower_stack(p, device, context, value as u64);
    }
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
    let mark = p.measure(device).map_or(i64::MAX, |_| p.unaccounted(device));
    p.books(|books, ledger| {
        ledger.release(device, Kind::Managed, before.max(pending) - now);
        if let (Some(place), Some(at)) = (books.heap_pending.get_mut(device), books.heap_mark.get_mut(device)) {
            (*place, *at) = (now, mark);
        }
    });
    status
}

/// After a kernel ran for the first time: if the driver has taken the heap by now, it is measured and no longer pending.
/// What NVML shows beyond the account tells: an allocation is in both.
pub fn heap_taken(p: &Process, device: usize) {
    if !heap_pending(p, device) || p.measure(device).is_none() {
        return;
    }
    let now = p.unaccounted(device);
    p.books(|books, ledger| {
        if let (Some(place), Some(mark)) = (books.heap_pending.get_mut(device), books.heap_mark.get(device))
            && now >= mark.saturating_add_unsigned(*place)
        {
            ledger.release(device, Kind::Managed, *place);
            *place = 0;
        }
    });
}

/// Whether a heap is charged that the driver has not taken.
pub fn heap_pending(p: &Process, device: usize) -> bool {
    p.books(|books, _| books.heap_pending.get(device).is_some_and(|pending| *pending > 0))
}

/// Notes that what NVML shows beyond the account grew by `bytes`, and not because of the heap.
pub fn heap_not_taken(p: &Process, device: usize, bytes: i64) {
    p.books(|books, _| {
        if let Some(mark) = books.heap_mark.get_mut(device) {
            *mark = mark.saturating_add(bytes);
        }
    });
}
