//! What all processes of an installation share: who uses how much memory of which device, and the devices' clocks.
//!
//! The file is mapped by everyone and changed only under `flock`, which the kernel releases when its holder dies. No
//! sum is stored: what is used is always added up from the processes' own records, so a process may die at any
//! instruction, and its record is dropped when the next one finds that nobody owns it any more.
//!
//! A process owns a record by a POSIX lock on one byte of a second file. The kernel ends the lock with the process and
//! tells everybody who asks the owner's pid in the asker's own pid namespace, so containers need not see each other.
#![allow(unsafe_code)] // UNSAFETY: maps a file and works on it in place.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::{Clock, Meter, Nanos, Span};
use crate::model::MAX_DEVICES;
use crate::slices::Schedule;

/// Most processes at once.
const MAX_PROCESSES: usize = 256;
/// What the names of files with memory begin with.
const MEMORY: &str = "memory.";
/// Where time is real, the work of a process that died goes on for so long at most.
const COLLECT: Nanos = 5_000_000;
const MAGIC: u64 = 0x636c_6561_7665_0003;

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
    /// Whether somebody attached here and was not found dead since.
    taken: u32,
    reserved: u32,
    devices: [Usage; MAX_DEVICES],
}

#[repr(C)]
struct Layout {
    magic: u64,
    /// One more than the highest record ever used.
    high: u32,
    reserved: u32,
    /// When the dead were last looked for, where time is real.
    collected: Nanos,
    clocks: [Clock; MAX_DEVICES],
    processes: [Process; MAX_PROCESSES],
    /// In use where time is real.
    schedules: [Schedule; MAX_DEVICES],
}

/// The shared state, as one process sees it.
pub struct Shared {
    file: File,
    /// Whose record is whose: see [`owner`].
    owners: &'static File,
    /// Where the files are.
    dir: PathBuf,
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

/// One byte of the owners' file, as `fcntl` takes it.
fn byte(slot: usize) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: slot as _,
        l_len: 1,
        // What F_OFD_GETLK asks for.
        l_pid: 0,
    }
}

/// Makes this process the owner of a record until it ends; not a child of `fork`, and not what it executes.
fn own(owners: &File, slot: usize) -> bool {
    // SAFETY: fcntl on a descriptor that we own, with a lock that lives through the call.
    unsafe { libc::fcntl(owners.as_raw_fd(), libc::F_SETLK, &byte(slot)) == 0 }
}

/// The owner's pid as this process sees it, 0 where it can't see it; `None` without an owner.
fn owner(owners: &File, slot: usize) -> Option<u32> {
    let mut lock = byte(slot);
    // Asked in the name of the open file, not of the process: this process's own locks count, too.
    // SAFETY: fcntl on a descriptor that we own, writing to a lock that lives through the call.
    let asked = unsafe { libc::fcntl(owners.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) } == 0;
    // Where the kernel does not say, nobody is taken for dead.
    (!asked || lock.l_type != libc::F_UNLCK as libc::c_short).then(|| u32::try_from(lock.l_pid).unwrap_or(0))
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
    ///
    /// A process's locks on a file end when it closes any descriptor of it, so `owners` is never closed.
    pub fn open(path: &Path, owners: &'static File, real: bool) -> io::Result<Shared> {
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
        let dir = path.parent().map(PathBuf::from).unwrap_or_default();
        Ok(Shared { file, owners, dir, map, threads: Mutex::new(()), real })
    }

    /// Where the process in `slot` puts memory that others may map; gone with its process.
    pub fn memory_path(&self, slot: usize, number: u64) -> PathBuf {
        self.dir.join(format!("{MEMORY}{slot}.{number}"))
    }

    /// Removes the files at [`Shared::memory_path`] that a process left.
    fn forget_memory(&self, slot: usize) {
        let prefix = format!("{MEMORY}{slot}.");
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
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
    fn live(&self) -> impl Iterator<Item = (usize, &Process)> {
        let high = (self.layout.high as usize).min(MAX_PROCESSES);
        self.layout.processes[..high].iter().enumerate().filter(|(_, process)| process.taken != 0)
    }

    /// Drops the records of processes that no longer exist.
    pub fn collect(&mut self) {
        let gone = |slot: &usize| owner(self.shared.owners, *slot).is_none();
        let gone: Vec<usize> = self.live().map(|(slot, _)| slot).filter(gone).collect();
        for slot in gone {
            self.layout.processes[slot].taken = 0;
            self.layout.schedules.iter_mut().for_each(|schedule| schedule.close_all(slot));
            self.shared.forget_memory(slot);
        }
    }

    /// A record for this process; `None` when all are taken.
    pub fn attach(&mut self) -> Option<usize> {
        self.collect();
        let (shared, processes) = (self.shared, &mut self.layout.processes);
        let free = |slot: &usize| processes[*slot].taken == 0 && owner(shared.owners, *slot).is_none();
        let slot = (0..MAX_PROCESSES).find(|slot| free(slot) && own(shared.owners, *slot))?;
        processes[slot].devices = [Usage::default(); MAX_DEVICES];
        processes[slot].taken = 1;
        self.layout.high = self.layout.high.max(slot as u32 + 1);
        Some(slot)
    }

    /// Bytes in use on a device by all processes.
    pub fn used(&self, device: usize) -> u64 {
        self.live().map(|(_, process)| process.devices[device].physical).sum()
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

    /// Every live process that has a context on the device and that this one can see: pid and what it has there.
    pub fn users(&self, device: usize) -> Vec<(u32, Usage)> {
        self.live()
            .filter(|(_, process)| process.devices[device].contexts > 0)
            .filter_map(|(slot, process)| Some((owner(self.shared.owners, slot)?, process.devices[device])))
            .filter(|(pid, _)| *pid != 0)
            .collect()
    }

    /// Percent of the last second in which the device was busy.
    pub fn utilisation(&mut self, device: usize) -> u32 {
        let now = self.now(device);
        self.live().map(|(_, process)| process.devices[device].meter.percent(now)).sum::<u32>().min(100)
    }

    /// How long the device was busy for the processes that live.
    pub fn busy(&self, device: usize) -> Nanos {
        self.live().map(|(_, process)| process.devices[device].meter.total()).sum()
    }

    /// What time it is on a device. Real time brings its schedule up to date.
    pub fn now(&mut self, device: usize) -> Nanos {
        let floor = if self.shared.real { monotonic() } else { 0 };
        let now = self.layout.clocks[device].now(floor);
        if self.shared.real {
            if now - self.layout.collected.min(now) > COLLECT {
                self.layout.collected = now;
                self.collect();
            }
            let Layout { schedules, processes, .. } = &mut *self.layout;
            schedules[device].advance(now, |slot, span| {
                if let Some(process) = processes.get_mut(slot) {
                    process.devices[device].meter.add(span);
                }
            });
        }
        now
    }

    /// The schedule of a device whose time is real, as of the last [`Locked::now`].
    pub fn schedule(&mut self, device: usize) -> &mut Schedule {
        &mut self.layout.schedules[device]
    }

    /// Moves a device's virtual time on.
    pub fn advance(&mut self, device: usize, to: Nanos) {
        if !self.shared.real {
            self.layout.clocks[device].advance(to);
        }
    }

    /// Has a device whose time is virtual work for the process in `slot`.
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

    fn scratch(name: &str) -> (PathBuf, &'static File) {
        let dir = std::env::temp_dir().join(format!("fakegpu-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temporary folder");
        std::fs::write(dir.join("state"), []).expect("temporary file");
        let owners = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("owners"));
        (dir, Box::leak(Box::new(owners.expect("temporary file"))))
    }

    #[test]
    fn this_process_owns_its_record_and_nobody_the_next() {
        let (dir, owners) = scratch("owner");
        assert_eq!(owner(owners, 7), None);
        assert!(own(owners, 7));
        assert_eq!(owner(owners, 7), Some(std::process::id()));
        assert_eq!(owner(owners, 8), None);
        std::fs::remove_dir_all(dir).expect("remove");
    }

    #[test]
    fn charges_stop_at_the_total_and_come_back() {
        let (dir, owners) = scratch("charges");
        let shared = Shared::open(&dir.join("state"), owners, false).expect("open");
        let mut state = shared.lock();
        let slot = state.attach().expect("slot");
        assert!(state.charge(slot, 1, 60, true, 100));
        assert!(!state.charge(slot, 1, 41, true, 100));
        assert!(state.charge(slot, 1, 40, false, 100));
        assert_eq!(state.used(1), 100);
        state.release(slot, 1, 60, true);
        assert_eq!((state.used(1), state.used(0)), (40, 0));
        drop(state);
        std::fs::remove_dir_all(dir).expect("remove");
    }

    #[test]
    fn a_record_without_an_owner_is_dropped_with_its_memory() {
        let (dir, owners) = scratch("dropped");
        let shared = Shared::open(&dir.join("state"), owners, false).expect("open");
        let mut state = shared.lock();
        let slot = state.attach().expect("slot");
        assert!(state.charge(slot, 0, 60, true, 100));
        for slot in [slot, 10] {
            std::fs::write(shared.memory_path(slot, 1), []).expect("temporary file");
        }
        state.collect();
        assert_eq!(state.used(0), 60, "its owner lives");
        let unlock = libc::flock { l_type: libc::F_UNLCK as _, ..byte(slot) };
        // SAFETY: fcntl on a descriptor that we own, with a lock that lives through the call.
        assert_eq!(unsafe { libc::fcntl(owners.as_raw_fd(), libc::F_SETLK, &unlock) }, 0);
        state.collect();
        assert_eq!(state.used(0), 0);
        assert!(!shared.memory_path(slot, 1).exists() && shared.memory_path(10, 1).exists());
        drop(state);
        std::fs::remove_dir_all(dir).expect("remove");
    }
}
