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
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Meter, Nanos, Span, Traffic};
use crate::mig::{Ids, Mig};
use crate::model::MAX_DEVICES;
use crate::slices::Schedule;
use crate::sms::Sms;

/// Most processes at once.
const MAX_PROCESSES: usize = 256;
/// What the names of files with memory begin with.
const MEMORY: &str = "memory.";
/// Where time is real, the work of a process that died goes on for so long at most.
const COLLECT: Nanos = 5_000_000;
const MAGIC: u64 = 0x636c_6561_7665_0007;

/// Size of the state file.
pub const STATE_BYTES: usize = WORDS_AT + std::mem::size_of::<Words>();
/// Where the words are in it.
const WORDS_AT: usize = std::mem::size_of::<Layout>().next_multiple_of(4096);

/// What a client gets after its MPS server is gone: `CUDA_ERROR_MPS_RPC_FAILURE`.
pub const SERVER_GONE: u32 = 806;

/// How a process stands with checkpoints.
pub mod standing {
    /// It works.
    pub const RUNNING: u32 = 0;
    /// Its calls wait, and its work is done.
    pub const LOCKED: u32 = 1;
    /// Its memory is not on the device.
    pub const AWAY: u32 = 2;
    /// Somebody wants it locked; new calls wait already.
    pub const LOCKING: u32 = 4;
}

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
    /// Whether it is a client of an MPS server.
    pub client: u32,
    /// One more than the ids of the GPU instance and the compute instance that it is in; 0 where it has the whole device.
    pub instance: u32,
    /// See `instance`.
    pub compute: u32,
    /// When it kept the device busy.
    pub meter: Meter,
}

#[repr(C)]
struct Process {
    /// Whether somebody attached here and was not found dead since.
    taken: u32,
    /// Whether it is an MPS server, and whether that has a fault to get over.
    server: u32,
    faulted: u32,
    /// One more than the record of its MPS server; 0 where it has none.
    of: u32,
    /// What it has on the devices, and what it had there while it is away.
    devices: [Usage; MAX_DEVICES],
    away: [[u64; 3]; MAX_DEVICES],
}

/// What processes tell each other without the lock, by record.
#[repr(C)]
struct Words {
    /// See [`standing`].
    standing: [AtomicU32; MAX_PROCESSES],
    /// Milliseconds that whoever wants the process locked has patience for; 0 for ever.
    patience: [AtomicU32; MAX_PROCESSES],
    /// The thread that locks the process.
    keeper: [AtomicU32; MAX_PROCESSES],
    /// The error that ended the process's use of the devices; 0 while nothing did.
    fate: [AtomicU32; MAX_PROCESSES],
}

/// A process that uses a device.
pub struct User {
    /// Its pid, as this process sees it.
    pub pid: u32,
    /// What it has there.
    pub usage: Usage,
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
    migs: [Mig; MAX_DEVICES],
    traffic: [Traffic; MAX_DEVICES],
}

/// The shared state, as one process sees it.
pub struct Shared {
    file: File,
    /// Whose record is whose: see [`owner`].
    owners: &'static File,
    /// Where the files are.
    dir: PathBuf,
    map: NonNull<Layout>,
    words: NonNull<Words>,
    /// Keeps this process's threads apart; `flock` does not.
    threads: Mutex<()>,
    real: bool,
}

// SAFETY: the mapping is only touched between `lock` and the drop of what it returns, by one thread at a time, but for
// the words, which are atomic.
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
        let map: NonNull<Layout> = NonNull::new(map.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        // SAFETY: lies in the mapping, whose size counts it in.
        let words = unsafe { map.byte_add(WORDS_AT) }.cast();
        let dir = path.parent().map(PathBuf::from).unwrap_or_default();
        Ok(Shared { file, owners, dir, map, words, threads: Mutex::new(()), real })
    }

    fn words(&self) -> &Words {
        // SAFETY: the mapping lives as long as `self`, holds only atomics there, and no other reference covers that part.
        unsafe { self.words.as_ref() }
    }

    /// How a process stands with checkpoints: see [`standing`].
    pub fn standing(&self, slot: usize) -> u32 {
        self.words().standing[slot].load(Ordering::SeqCst)
    }

    /// Changes that from `old` to `new` and wakes who waits for it; false where it was something else.
    pub fn change(&self, slot: usize, old: u32, new: u32) -> bool {
        let word = &self.words().standing[slot];
        let changed = word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if changed {
            // SAFETY: wakes those who wait at a word that lives as long as the mapping.
            unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
        }
        changed
    }

    /// Sleeps while a process stands as it does, for a time at most.
    pub fn wait_changed(&self, slot: usize, old: u32, most: Duration) {
        let time = libc::timespec { tv_sec: most.as_secs() as _, tv_nsec: most.subsec_nanos() as _ };
        let word = self.words().standing[slot].as_ptr();
        // SAFETY: waits at a word that lives as long as the mapping, with a time that lives through the call.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, old, &raw const time) };
    }

    /// Milliseconds that a process may take to be locked; 0 for as long as it takes.
    pub fn patience(&self, slot: usize) -> &AtomicU32 {
        &self.words().patience[slot]
    }

    /// The thread of a process that locks it.
    pub fn keeper(&self, slot: usize) -> &AtomicU32 {
        &self.words().keeper[slot]
    }

    /// The error that every use of a device by a process ends with, if there is one.
    pub fn fate(&self, slot: usize) -> Option<u32> {
        Some(self.words().fate[slot].load(Ordering::SeqCst)).filter(|fate| *fate != 0)
    }

    /// Ends a process's use of the devices; the first reason stays.
    fn end(&self, slot: usize, fate: u32) {
        let _ = self.words().fate[slot].compare_exchange(0, fate, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether the process of a record lives.
    pub fn lives(&self, slot: usize) -> bool {
        owner(self.owners, slot).is_some()
    }

    /// What tells this installation's state from another's.
    pub fn identity(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or(0, |data| data.ino())
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

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: undoes the mapping that `open` made; what refers to it borrows from `self`.
        unsafe { libc::munmap(self.map.as_ptr().cast(), STATE_BYTES) };
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
            for client in self.clients(slot) {
                self.end_client(client, SERVER_GONE);
                // Not of the next server in that place.
                self.layout.processes[client].of = u32::MAX;
            }
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
        let process = &mut processes[slot];
        (process.server, process.faulted, process.of) = (0, 0, 0);
        process.devices = [Usage::default(); MAX_DEVICES];
        process.taken = 1;
        for word in [&shared.words().standing, &shared.words().keeper, &shared.words().fate] {
            word[slot].store(0, Ordering::SeqCst);
        }
        self.layout.high = self.layout.high.max(slot as u32 + 1);
        Some(slot)
    }

    /// Bytes in use on a device by all processes.
    pub fn used(&self, device: usize) -> u64 {
        self.live().map(|(_, process)| process.devices[device].physical).sum()
    }

    /// Bytes in use of the same instance of a device, or of the whole one, as the process in `slot` has.
    pub fn used_beside(&self, slot: usize, device: usize) -> u64 {
        self.used_in(device, self.layout.processes[slot].devices[device].instance)
    }

    /// Bytes in use of an instance of a device, by one more than its id.
    pub fn used_in(&self, device: usize, instance: u32) -> u64 {
        let usages = self.live().map(|(_, process)| &process.devices[device]);
        usages.filter(|usage| usage.instance == instance).map(|usage| usage.physical).sum()
    }

    /// The MIG state of a device.
    pub fn mig(&mut self, device: usize) -> &mut Mig {
        &mut self.layout.migs[device]
    }

    /// The MIG states of all devices.
    pub fn migs(&self) -> [Mig; MAX_DEVICES] {
        self.layout.migs
    }

    /// Puts the process in `slot` into a MIG device.
    pub fn enter(&mut self, slot: usize, device: usize, (instance, compute): Ids) {
        let usage = &mut self.layout.processes[slot].devices[device];
        (usage.instance, usage.compute) = (instance as u32 + 1, compute as u32 + 1);
    }

    /// Takes `bytes` for the process in `slot` if the device's `total` allows; `visible` where NVML shows them.
    pub fn charge(&mut self, slot: usize, device: usize, bytes: u64, visible: bool, total: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).is_some_and(|sum| sum <= total);
        if !fits(self.used_beside(slot, device)) {
            self.collect();
            if !fits(self.used_beside(slot, device)) {
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

    /// Every live process that has a context on the device and that this one can see.
    pub fn users(&self, device: usize) -> Vec<User> {
        self.live()
            .filter(|(_, process)| process.devices[device].contexts > 0)
            .filter_map(|(slot, process)| Some(User { pid: self.pid(slot)?, usage: process.devices[device] }))
            .collect()
    }

    /// The pid of a live process as this one sees it.
    pub fn pid(&self, slot: usize) -> Option<u32> {
        owner(self.shared.owners, slot).filter(|pid| *pid != 0)
    }

    /// The record of a live process that is no MPS server.
    pub fn process(&self, pid: u32) -> Option<usize> {
        let found = |slot: &usize| self.layout.processes[*slot].server == 0 && self.pid(*slot) == Some(pid);
        self.live().map(|(slot, _)| slot).find(found)
    }

    /// Whether a process is a client of an MPS server.
    pub fn is_client(&self, slot: usize) -> bool {
        self.layout.processes[slot].of != 0
    }

    /// Makes the process in `slot` an MPS server, which has a context of `bytes` on each of the devices.
    pub fn serve(&mut self, slot: usize, devices: &[usize], bytes: u64) {
        let process = &mut self.layout.processes[slot];
        process.server = 1;
        for device in devices {
            let usage = &mut process.devices[*device];
            (usage.physical, usage.visible, usage.contexts) = (bytes, bytes, 1);
        }
    }

    /// Makes the process in `slot` a client of the server in another.
    pub fn join(&mut self, slot: usize, server: usize) -> Option<()> {
        let process = self.layout.processes.get_mut(slot).filter(|process| process.taken != 0)?;
        process.of = server as u32 + 1;
        process.devices.iter_mut().for_each(|usage| usage.client = 1);
        Some(())
    }

    /// The living clients of a server.
    pub fn clients(&self, server: usize) -> Vec<usize> {
        let of = |(slot, process): &(usize, &Process)| process.of == server as u32 + 1 && self.shared.lives(*slot);
        self.live().filter(of).map(|(slot, _)| slot).collect()
    }

    /// The devices that a server has.
    pub fn served(&self, server: usize) -> Vec<usize> {
        (0..MAX_DEVICES).filter(|device| self.layout.processes[server].devices[*device].contexts > 0).collect()
    }

    /// Ends a client's work for good; the others go on.
    pub fn end_client(&mut self, slot: usize, fate: u32) {
        self.shared.end(slot, fate);
        self.layout.schedules.iter_mut().for_each(|schedule| schedule.close_all(slot));
    }

    /// A client's fault: it ends the work of all clients of its server.
    pub fn fault(&mut self, slot: usize, fate: u32) {
        let Some(server) = self.layout.processes[slot].of.checked_sub(1) else { return };
        self.layout.processes[server as usize].faulted = slot as u32 + 1;
        for client in self.clients(server as usize) {
            self.end_client(client, fate);
        }
    }

    /// The record of the client whose fault a server has not got over: it does when all that were there have ended.
    pub fn faulted(&mut self, server: usize) -> Option<usize> {
        if self.clients(server).is_empty() {
            self.layout.processes[server].faulted = 0;
        }
        self.layout.processes[server].faulted.checked_sub(1).map(|slot| slot as usize)
    }

    /// Takes a locked process's memory off the devices; false where it is not locked.
    pub fn checkpoint(&mut self, slot: usize) -> bool {
        if self.shared.standing(slot) != standing::LOCKED {
            return false;
        }
        let process = &mut self.layout.processes[slot];
        for (usage, away) in process.devices.iter_mut().zip(&mut process.away) {
            *away = [usage.physical, usage.visible, u64::from(usage.contexts)];
            (usage.physical, usage.visible, usage.contexts) = (0, 0, 0);
        }
        self.shared.change(slot, standing::LOCKED, standing::AWAY)
    }

    /// Brings it back to devices with these totals; `None` where it is not away, false where there is no room.
    pub fn restore(&mut self, slot: usize, totals: &[u64]) -> Option<bool> {
        if self.shared.standing(slot) != standing::AWAY {
            return None;
        }
        self.collect();
        let away = self.layout.processes[slot].away;
        let fits = |(device, total): (usize, &u64)| self.used(device).saturating_add(away[device][0]) <= *total;
        if !totals.iter().enumerate().all(fits) {
            return Some(false);
        }
        for (usage, [physical, visible, contexts]) in self.layout.processes[slot].devices.iter_mut().zip(away) {
            (usage.physical, usage.visible, usage.contexts) = (physical, visible, contexts as u32);
        }
        Some(self.shared.change(slot, standing::AWAY, standing::LOCKED))
    }

    /// Bytes that a process has on a device.
    pub fn own(&self, slot: usize, device: usize) -> u64 {
        self.layout.processes[slot].devices[device].physical
    }

    /// Percent of the last second in which the device was busy.
    pub fn utilisation(&mut self, device: usize) -> u32 {
        let now = self.now(device);
        self.live().map(|(_, process)| process.devices[device].meter.percent(now)).sum::<u32>().min(100)
    }

    /// How long the device worked for each living process that uses it, on its own clock, by pid.
    pub fn delivered(&mut self, device: usize) -> Vec<(u32, Nanos)> {
        self.now(device);
        self.users(device).into_iter().map(|user| (user.pid, user.usage.meter.total())).collect()
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

    /// Counts bytes that a device's memory gives or takes in `span`.
    pub fn moves(&mut self, device: usize, span: Span, bytes: u64, now: Nanos) {
        self.layout.traffic[device].add(span, bytes, now);
    }

    /// What time it is on a device, and the bytes that its memory gave and took until then.
    pub fn traffic(&mut self, device: usize) -> (Nanos, u64) {
        let now = self.now(device);
        (now, self.layout.traffic[device].total(now))
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

    /// Has a `part` of a device whose time is virtual, in hundredths of a percent, or certain multiprocessors, work for the
    /// process in `slot`.
    pub fn submit(
        &mut self,
        slot: usize,
        device: usize,
        ready: Nanos,
        duration: Nanos,
        (part, sms): (u32, Sms),
    ) -> Span {
        self.now(device);
        let server = self.layout.processes[slot].of;
        let span = self.layout.clocks[device].submit(ready, duration, server, part, sms);
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
