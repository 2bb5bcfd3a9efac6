//! `cuCheckpointProcess*`: another process is locked, its memory taken off its devices, and brought back.
//!
//! A thread of that process locks it, as only it can tell when its work is done. What the memory holds is in the process's
//! host memory anyway, so the rest is a change of its record.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cleave_cuda::types::error;
use core::ffi::{c_int, c_uint, c_void};

use super::engine::Standing;
use super::steps::block_signals;
use super::{Driver, INTERNAL, Outcome, get, lock, put};
use crate::model::Inventory;
use crate::shared::{Shared, standing};

/// `CUDA_ERROR_ILLEGAL_STATE`.
const ILLEGAL_STATE: c_int = 401;
/// Most that a waiter sleeps before it looks again.
const NAP: Duration = Duration::from_millis(10);
/// What a process looks at again while it waits for its work.
const PAUSE: Duration = Duration::from_millis(1);

/// This process's own view of the installation, with or without `cuInit`; kept, as it is mapped.
fn place() -> Outcome<&'static (Inventory, Shared)> {
    static PLACE: OnceLock<Option<(Inventory, Shared)>> = OnceLock::new();
    PLACE.get_or_init(crate::place::open).as_ref().ok_or(error::NO_DEVICE)
}

/// The installation, and the record of a process.
fn find(pid: c_int) -> Outcome<(&'static (Inventory, Shared), usize)> {
    let place = place()?;
    let slot = place.1.lock().process(pid as u32).ok_or(error::NOT_INITIALIZED)?;
    Ok((place, slot))
}

/// Sleeps while this process is locked, for a time at most.
pub(crate) fn wait(slot: usize, standing: u32) {
    if let Ok((_, shared)) = place() {
        shared.wait_changed(slot, standing, NAP);
    }
}

/// Starts the thread that locks this process when it is told to.
pub(crate) fn keep() {
    std::thread::spawn(|| {
        block_signals();
        INTERNAL.set(true);
        let Ok((_, shared)) = place() else { return };
        let Ok(slot) = super::with(|d| Ok(d.slot)) else { return };
        // SAFETY: asks for the number of this thread.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        shared.keeper(slot).store(thread as u32, Ordering::SeqCst);
        loop {
            match shared.standing(slot) {
                standing::LOCKING => settle(shared, slot),
                other => shared.wait_changed(slot, other, Duration::from_secs(3600)),
            }
        }
    });
}

/// Waits until this process's work is done, and locks it; or lets it go on when that takes too long.
fn settle(shared: &Shared, slot: usize) {
    let patience = match shared.patience(slot).load(Ordering::SeqCst) {
        0 => Duration::MAX,
        milliseconds => Duration::from_millis(milliseconds.into()),
    };
    let began = Instant::now();
    // Where time is virtual, what the work has still to take counts.
    let mut moved = 0;
    loop {
        let Ok(mut guard) = lock() else { return };
        let Some(driver) = guard.as_mut() else { return };
        let left = driver.unfinished();
        let virtually = Duration::from_nanos(moved + left.unwrap_or(0).min(u64::MAX / 2));
        if left.is_none() {
            shared.change(slot, standing::LOCKING, standing::LOCKED);
            return;
        }
        if began.elapsed() >= patience || (!driver.real() && virtually > patience) {
            shared.change(slot, standing::LOCKING, standing::RUNNING);
            return;
        }
        moved += driver.hurry();
        drop(guard);
        if shared.standing(slot) != standing::LOCKING {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

impl Driver {
    /// What each stream, and what is left of streams that are gone, still waits for.
    fn standings(&mut self) -> Vec<Standing> {
        self.pump();
        let mut all: Vec<Standing> =
            self.contexts.values().map(|context| Standing::At(context.device, vec![context.orphans.clone()])).collect();
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        // A capture and a fault have no work.
        all.extend(streams.into_iter().filter_map(|stream| self.stream_standing(stream).ok()));
        all
    }

    /// Nanoseconds until all work is done as far as can be foretold; `None` where it is done.
    fn unfinished(&mut self) -> Option<u64> {
        let mut most = None;
        for standing in self.standings() {
            let left = match standing {
                Standing::Outside => Some(0),
                Standing::At(device, times) => {
                    let expected = self.expected(device, &times);
                    expected.map(|time| time.saturating_sub(self.now(device)))
                }
            };
            most = most.max(left);
        }
        most
    }

    /// Moves virtual time to the end of the work; by how much.
    fn hurry(&mut self) -> u64 {
        let mut most = 0;
        for standing in self.standings() {
            if let Standing::At(device, times) = standing
                && !self.real()
                && let Some(time) = self.expected(device, &times)
            {
                most = most.max(time.saturating_sub(self.now(device)));
                self.shared.lock().advance(device, time);
            }
        }
        most
    }
}

/// What a call of these is given: the first word is the milliseconds of a lock.
type Arguments = [c_uint; 16];

free_entry! {
    fn cuCheckpointProcessGetState(pid: c_int, state: *mut c_int) {
        let ((_, shared), slot) = find(pid)?;
        let now = shared.standing(slot);
        put(state, if now == standing::LOCKING { standing::RUNNING } else { now } as c_int)
    }
    fn cuCheckpointProcessLock(pid: c_int, arguments: *const Arguments) {
        let ((_, shared), slot) = find(pid)?;
        if shared.lock().is_client(slot) {
            return Err(error::NOT_SUPPORTED);
        }
        let patience = if arguments.is_null() { 0 } else { get(arguments.cast::<c_uint>())? };
        shared.patience(slot).store(patience, Ordering::SeqCst);
        if !shared.change(slot, standing::RUNNING, standing::LOCKING) {
            return Err(ILLEGAL_STATE);
        }
        loop {
            match shared.standing(slot) {
                standing::LOCKING if shared.lives(slot) => shared.wait_changed(slot, standing::LOCKING, NAP),
                standing::LOCKED => return Ok(()),
                standing::RUNNING => return Err(error::NOT_READY),
                _ => return Err(error::NOT_INITIALIZED),
            }
        }
    }
    fn cuCheckpointProcessCheckpoint(pid: c_int, _arguments: *const c_void) {
        let ((_, shared), slot) = find(pid)?;
        if shared.lock().checkpoint(slot) { Ok(()) } else { Err(ILLEGAL_STATE) }
    }
    fn cuCheckpointProcessRestore(pid: c_int, _arguments: *const c_void) {
        let ((inventory, shared), slot) = find(pid)?;
        let totals: Vec<u64> = inventory.devices.iter().map(|model| model.total_bytes).collect();
        match shared.lock().restore(slot, &totals) {
            None => Err(ILLEGAL_STATE),
            Some(false) => Err(error::OUT_OF_MEMORY),
            Some(true) => Ok(()),
        }
    }
    fn cuCheckpointProcessUnlock(pid: c_int, _arguments: *const c_void) {
        let ((_, shared), slot) = find(pid)?;
        if shared.change(slot, standing::LOCKED, standing::RUNNING) { Ok(()) } else { Err(ILLEGAL_STATE) }
    }
    fn cuCheckpointProcessGetRestoreThreadId(pid: c_int, thread: *mut c_int) {
        let ((_, shared), slot) = find(pid)?;
        put(thread, shared.keeper(slot).load(Ordering::SeqCst) as c_int)
    }
}
