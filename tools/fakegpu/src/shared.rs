//! What all processes of an installation share: who uses how much memory of which device, and the devices' clocks.
//!
//! The file is mapped by everyone and changed only under `flock`, which the kernel releases when its holder dies. No
//! sum is stored: what is used is always added up from the processes' own records, so a process may die at any
//! instruction, and its records are dropped when the next one finds that pid and start time no longer name it.
#![allow(unsafe_code)] // UNSAFETY: maps a file and works on it in place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::{Clock, Meter, Nanos, Span};
use crate::model::MAX_DEVICES;

/// Most processes at once.
const MAX_PROCESSES: usize = 256;
const MAGIC: u64 = 0x636c_6561_7665_0001;

/// Size of the state file.
pub const STATE_BYTES: usize = std::mem::size_of::<Layout>();

/// What one process has on one device.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Usage {
    /// Bytes of device memory.
    pub physical: u64,
    /// The part of them that NVML attributes to the process.
    pub visible: u64,
    /// Contexts.
    pub contexts: u32,
    reserved: u32,
    /// When it kept the device busy.
    pub meter: Meter,
}

#[repr(C)]
struct Process {
    pid: u32,
    reserved: u32,
    start: u64,
    devices: [Usage; MAX_DEVICES],
}

#[repr(C)]
struct Layout {
    magic: u64,
    /// One more than the highest record ever used.
    high: u32,
    reserved: u32,
    clocks: [Clock; MAX_DEVICES],
    processes: [Process; MAX_PROCESSES],
}

/// The shared state, as one process sees it.
pub struct Shared {
    file: File,
    map: NonNull<Layout>,
    /// Keeps this process's threads apart; `flock` does not.
    threads: Mutex<()>,
    real: bool,
}

// SAFETY: the mapping is only touched between `lock` and the drop of what it returns, by one thread at a time.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Exclusive use of the shared state.
pub struct Locked<'a> {
    shared: &'a Shared,
    layout: &'a mut Layout,
    _threads: MutexGuard<'a, ()>,
}

/// The kernel's start time of a process, in clock ticks after boot: with the pid it names a process for good.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the 20th field after it is the 22nd of the line.
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Nanoseconds of the machine's monotonic clock.
pub fn monotonic() -> Nanos {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the timespec that is passed.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Shared {
    /// Opens the state file of an installation; `real` is whether its time passes as the machine's does.
    pub fn open(path: &Path, real: bool) -> io::Result<Shared> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if file.metadata()?.len() < STATE_BYTES as u64 {
            file.set_len(STATE_BYTES as u64)?;
        }
        // SAFETY: maps a file that was just made large enough, at an address of the kernel's choice.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                STATE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Shared { file, map, threads: Mutex::new(()), real })
    }

    /// Takes the state for this thread alone.
    pub fn lock(&self) -> Locked<'_> {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: flock on a file descriptor that we own.
        while unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_EX) } != 0 {
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break;
            }
        }
        // SAFETY: the mapping lives as long as `self`, all bit patterns are valid for `Layout`, and the two locks
        // make this the only reference.
        let layout = unsafe { &mut *self.map.as_ptr() };
        if layout.magic != MAGIC {
            layout.magic = MAGIC;
            layout.high = 0;
        }
        Locked { shared: self, layout, _threads: threads }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: flock on a file descriptor that we own.
        unsafe { libc::flock(self.shared.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

impl Locked<'_> {
    fn live(&self) -> impl Iterator<Item = &Process> {
        let high = (self.layout.high as usize).min(MAX_PROCESSES);
        self.layout.processes[..high].iter().filter(|process| process.pid != 0)
    }

    /// Drops the records of processes that no longer exist.
    pub fn collect(&mut self) {
        let high = (self.layout.high as usize).min(MAX_PROCESSES);
        for process in &mut self.layout.processes[..high] {
            if process.pid != 0 && start_time(process.pid) != Some(process.start) {
                process.pid = 0;
            }
        }
    }

    /// The record of this process, made if it has none yet; `None` when all are taken.
    pub fn attach(&mut self) -> Option<usize> {
        self.collect();
        let pid = std::process::id();
        let start = start_time(pid)?;
        let index = self.layout.processes.iter().position(|p| p.pid == pid || p.pid == 0)?;
        let process = &mut self.layout.processes[index];
        if process.pid != pid {
            process.devices = [Usage::default(); MAX_DEVICES];
            process.start = start;
            process.pid = pid;
        }
        self.layout.high = self.layout.high.max(index as u32 + 1);
        Some(index)
    }

    /// Bytes in use on a device by all processes.
    pub fn used(&self, device: usize) -> u64 {
        self.live().map(|process| process.devices[device].physical).sum()
    }

    /// Takes `bytes` for the process in `slot` if the device's `total` allows; `visible` where NVML shows them.
    pub fn charge(&mut self, slot: usize, device: usize, bytes: u64, visible: bool, total: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).is_some_and(|sum| sum <= total);
        if !fits(self.used(device)) {
            self.collect();
            if !fits(self.used(device)) {
                return false;
            }
        }
        let usage = &mut self.layout.processes[slot].devices[device];
        usage.physical += bytes;
        if visible {
            usage.visible += bytes;
        }
        true
    }

    /// Gives back what [`Locked::charge`] took.
    pub fn release(&mut self, slot: usize, device: usize, bytes: u64, visible: bool) {
        let usage = &mut self.layout.processes[slot].devices[device];
        usage.physical = usage.physical.saturating_sub(bytes);
        if visible {
            usage.visible = usage.visible.saturating_sub(bytes);
        }
    }

    /// Counts one context more or less.
    pub fn contexts(&mut self, slot: usize, device: usize, change: i32) {
        let usage = &mut self.layout.processes[slot].devices[device];
        usage.contexts = usage.contexts.saturating_add_signed(change);
    }

    /// Every live process that has a context on the device: pid and what it has there.
    pub fn users(&self, device: usize) -> Vec<(u32, Usage)> {
        self.live()
            .filter(|process| process.devices[device].contexts > 0)
            .map(|process| (process.pid, process.devices[device]))
            .collect()
    }

    /// Percent of the last second in which the device was busy.
    pub fn utilisation(&mut self, device: usize) -> u32 {
        let now = self.now(device);
        self.live().map(|process| process.devices[device].meter.percent(now)).sum::<u32>().min(100)
    }

    /// What time it is on a device.
    pub fn now(&mut self, device: usize) -> Nanos {
        let floor = if self.shared.real { monotonic() } else { 0 };
        self.layout.clocks[device].now(floor)
    }

    /// Moves a device's virtual time on.
    pub fn advance(&mut self, device: usize, to: Nanos) {
        if !self.shared.real {
            self.layout.clocks[device].advance(to);
        }
    }

    /// Has a device work for the process in `slot`.
    pub fn submit(&mut self, slot: usize, device: usize, ready: Nanos, duration: Nanos) -> Span {
        self.now(device);
        let span = self.layout.clocks[device].submit(ready, duration);
        self.layout.processes[slot].devices[device].meter.add(span);
        span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_a_start_time_and_no_process_0() {
        assert!(start_time(std::process::id()).is_some());
        assert!(start_time(0).is_none());
    }

    #[test]
    fn charges_stop_at_the_total_and_come_back() {
        let path = std::env::temp_dir().join(format!("fakegpu-shared-{}", std::process::id()));
        std::fs::write(&path, []).expect("temporary file");
        let shared = Shared::open(&path, false).expect("open");
        let mut state = shared.lock();
        let slot = state.attach().expect("slot");
        assert_eq!(state.attach(), Some(slot));
        assert!(state.charge(slot, 1, 60, true, 100));
        assert!(!state.charge(slot, 1, 41, true, 100));
        assert!(state.charge(slot, 1, 40, false, 100));
        assert_eq!(state.used(1), 100);
        state.release(slot, 1, 60, true);
        assert_eq!((state.used(1), state.used(0)), (40, 0));
        drop(state);
        std::fs::remove_file(&path).expect("remove");
    }
}
