//! The hooked entry points, by what they are about. Each has the name and prototype of the driver's own.
//!
//! The shape is always the same: reserve, call the driver, then keep the charge or give it back. Frees go the other way
//! round: the driver first, the ledger after, so that the account is never below the truth; but the entry is taken out of
//! the table before, because the address may be another thread's right after. What the driver frees
//! without being asked, or takes without saying how much, is measured.
mod context;
mod copy;
mod device;
mod graph;
mod host;
mod import;
mod launch;
mod memory;
mod module;
mod nvml;
pub mod part;
mod physical;
mod pool;

pub use context::*;
pub use copy::*;
pub use device::*;
pub use graph::*;
pub use host::*;
pub use import::*;
pub use launch::*;
pub use memory::*;
pub use module::*;
pub use part::*;
pub use physical::*;
pub use pool::*;

use crate::process::Process;
use crate::real::driver;
use crate::table::Space;
use cleave_cuda::types::{CUcontext, CUresult, CUstream, error};

/// What the driver takes at a time: physical memory comes in pages of this size.
pub const PAGE: u64 = 2 << 20;
/// Largest allocation that the driver cuts from a page that it shares with others (measured on driver 580).
pub const SMALL: u64 = 1 << 20;
/// What every call returns while the process may not use the GPU.
pub const REFUSED: CUresult = error::SYSTEM_NOT_READY;

/// Rounds up to whole pages.
pub const fn pages(bytes: u64) -> u64 {
    bytes.saturating_add(PAGE - 1) / PAGE * PAGE
}

/// `let Some(p) = member!() else { … }`: the process, `None` if it is not metered; returns from the hook if refused.
macro_rules! member {
    () => {
        match $crate::process::process() {
            Ok(process) => process,
            Err(()) => return $crate::hooks::REFUSED,
        }
    };
}
pub(crate) use member;

/// The slice's device of the calling thread's context, or the error to return.
pub fn current_device(p: &Process) -> Result<usize, CUresult> {
    if let Some(device) = p.sole_device() {
        return Ok(device);
    }
    let mut ordinal = -1;
    let status = driver!(cuCtxGetDevice(&raw mut ordinal => *mut i32));
    if status != error::SUCCESS {
        return Err(status);
    }
    p.device_of(ordinal).ok_or(error::NOT_PERMITTED)
}

/// The context in which work of `stream` runs: the stream's, or the calling thread's; 0 = none.
pub fn context_of(stream: CUstream) -> u64 {
    let mut context: CUcontext = core::ptr::null_mut();
    let status = match stream as u64 {
        3.. => driver!(cuStreamGetCtx(stream => CUstream, &raw mut context => *mut CUcontext)),
        _ => driver!(cuCtxGetCurrent(&raw mut context => *mut CUcontext)),
    };
    if status == error::SUCCESS { context as u64 } else { 0 }
}

/// The slice's device on which the work of `stream` runs, or the error to return. A copy or a graph may go to a stream of
/// another device than the calling thread's.
pub fn device_of_stream(p: &Process, stream: CUstream) -> Result<usize, CUresult> {
    match stream as u64 {
        3.. if p.sole_device().is_none() => device_of_context(p, context_of(stream)),
        _ => current_device(p),
    }
}

/// Whether something is being captured: then the driver isn't asked for anything that the program did not ask for. Once this is said
/// under a gate's lock, nobody begins to until it is let go ([`crate::gate::capture_begins`]).
pub fn captures(p: &Process) -> bool {
    p.captures.load(core::sync::atomic::Ordering::Acquire) > 0
}

/// Whether `stream` is being captured, or the driver's error where it does not say. The driver is asked only while some
/// stream is.
pub fn captured(p: &Process, stream: CUstream) -> Result<bool, CUresult> {
    if !captures(p) {
        return Ok(false);
    }
    let mut state = 0;
    match driver!(cuStreamIsCapturing(stream => CUstream, &raw mut state => *mut i32)) {
        error::SUCCESS => Ok(state != 0),
        status => Err(status),
    }
}

/// The slice's device of `context`, or the error to return.
pub fn device_of_context(p: &Process, context: u64) -> Result<usize, CUresult> {
    let known = p.books(|books, _| books.table.get(Space::Context, context).map(|entry| entry.device.into()));
    known.map_or_else(|| current_device(p), Ok)
}

/// The calling thread's context as entries name it: 0 = a primary one.
pub fn current_context(p: &Process) -> u32 {
    if p.explicit_contexts.load(core::sync::atomic::Ordering::Relaxed) == 0 {
        return 0;
    }
    let context = context_of(core::ptr::null_mut());
    p.books(|books, _| books.table.get(Space::Context, context).map_or(0, |entry| entry.context))
}

/// Runs `f` for each CUDA ordinal of the slice.
pub fn for_each_ordinal(p: &Process, mut f: impl FnMut(i32, usize)) {
    for ordinal in 0..crate::process::ORDINALS as i32 {
        if let Some(device) = p.device_of(ordinal) {
            f(ordinal, device);
        }
    }
}
