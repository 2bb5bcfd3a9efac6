//! A slice's files: the policy page, the usage file and the socket's folder.
//!
//! The tenant gets three descriptors and nothing else: the policy, opened for reading through a read-only view of the
//! mount, the usage file for writing, and the node's page of urgency. Whatever it does to the usage file (cut it, fill it,
//! scribble), the daemon reads with `pread` and believes no number beyond the slice's own account. The page of urgency the
//! daemon never reads.
use crate::ffi::map::{PolicyPage, policy_bytes};
use crate::ffi::os;
use crate::gpu::parse_uuid;
use crate::slice::{Classes, Record};
use crate::store::ContextCost;
use cleave_api::OnMissing;
use cleave_ledger::{
    Account, Activity, DEVICES, HOST, KINDS, KernelClass, Kind, Policy, SLOTS, Slot, UNIT, UNLIMITED, Urgency, Usage,
    between, flags, owner, wire,
};
use rustix::fs::{AtFlags, FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use std::fs::{self, File};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

const SLOT_BYTES: usize = size_of::<Slot>();
const USAGE_BYTES: u64 = size_of::<Usage>() as u64;
const UNITS_MASK: u64 = (1 << 40) - 1;
/// Longest path of a socket that a program can connect to.
const SOCKET_PATH: usize = 107;
const OWNERS_DOOR: &str = "socket";
/// Keeps everybody else of the host from [`GUESTS_DOOR`] within it.
const GUESTS_LOCK: &str = "guest";
const GUESTS_DOOR: &str = "slice";

/// The daemon's run directory.
#[derive(Debug)]
pub struct RunDir {
    /// Its path.
    pub path: PathBuf,
    /// A read-only view of `slices`, where the daemon may make one.
    view: Option<OwnedFd>,
    /// Bits of [`flags`] for classes of kernels that are not told apart.
    pub ignored: u32,
    /// The page of urgency.
    urgency: File,
}

/// What of a device the policy page says besides the quota.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceFacts {
    /// NVML's index.
    pub index: u32,
    /// What a context costs, where known.
    pub cost: Option<ContextCost>,
}

/// A slice's files, open.
#[derive(Debug)]
pub struct SliceFiles {
    folder: PathBuf,
    id: String,
    /// The policy page.
    pub policy: PolicyPage,
    /// Opened when the first process comes: thousands of slices without one cost no descriptors for it.
    usage: OnceLock<File>,
}

/// What a process said that it does with the time of one device; see [`Activity`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Device time of all that was sent, in ns.
    pub charged: u64,
    /// When that is expected to be done.
    pub busy_until: u64,
    /// When something was sent last.
    pub last_launch: u64,
    /// Expected device time of the last operation, in ns.
    pub op_ns: u64,
    /// Threads that wait for a turn.
    pub waiting: u64,
    /// Time that operations waited for a turn, in ns.
    pub throttled_ns: u64,
    /// Operations that did.
    pub throttled: u64,
    /// Threads that wait for the device to be done.
    pub syncing: u64,
    /// Since when work should have been done; 0 = none is late.
    pub overdue: u64,
    /// 1 = work is under way of which nobody knows how long it lasts.
    pub open: u64,
}

impl Work {
    /// From the bytes of an [`Activity`]; what is missing is 0.
    fn parse(bytes: &[u8]) -> Self {
        Self {
            charged: word(bytes, offset_of!(Activity, charged)),
            busy_until: word(bytes, offset_of!(Activity, busy_until)),
            last_launch: word(bytes, offset_of!(Activity, last_launch)),
            op_ns: word(bytes, offset_of!(Activity, op_ns)),
            waiting: word(bytes, offset_of!(Activity, waiting)),
            throttled_ns: word(bytes, offset_of!(Activity, throttled_ns)),
            throttled: word(bytes, offset_of!(Activity, throttled)),
            syncing: word(bytes, offset_of!(Activity, syncing)),
            overdue: word(bytes, offset_of!(Activity, overdue)),
            open: word(bytes, offset_of!(Activity, open)),
        }
    }
}

/// The word at `offset`; 0 behind the end.
fn word(bytes: &[u8], offset: usize) -> u64 {
    let eight = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    eight.map_or(0, |eight| u64::from_ne_bytes(*eight))
}

/// What a slot said when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    held: [u64; DEVICES + 1],
    ask: [u64; DEVICES + 1],
    kinds: [[u64; KINDS]; DEVICES + 1],
    /// Kernels and graphs launched.
    pub launches: u64,
    /// Allocations refused.
    pub denied: u64,
    /// Names asked for that the stand-in does not know.
    pub unknown_names: u64,
    /// What operations did, by class.
    pub classes: Classes,
    work: [Work; DEVICES],
}

impl Default for Reading {
    fn default() -> Self {
        Self::parse(&[0; SLOT_BYTES])
    }
}

impl Reading {
    fn parse(bytes: &[u8; SLOT_BYTES]) -> Self {
        let word = |offset: usize| word(bytes, offset);
        let activity = |d: usize| offset_of!(Slot, activity) + d * size_of::<Activity>();
        let account = |d: usize| offset_of!(Slot, accounts) + d * size_of::<Account>();
        let kind = |d: usize, k: usize| offset_of!(Slot, kinds) + (d * KINDS + k) * 8;
        let sent = |class| match class {
            KernelClass::Other => 0,
            KernelClass::Graph => word(offset_of!(Slot, graph_launches)),
            class => word(offset_of!(Slot, class_launches) + (class as usize - KernelClass::Latency as usize) * 8),
        };
        Self {
            held: std::array::from_fn(|d| word(account(d) + offset_of!(Account, held))),
            ask: std::array::from_fn(|d| word(account(d) + offset_of!(Account, ask))),
            kinds: std::array::from_fn(|d| std::array::from_fn(|k| word(kind(d, k)))),
            launches: word(offset_of!(Slot, launches)).saturating_add(word(offset_of!(Slot, graph_launches))),
            denied: word(offset_of!(Slot, denied)),
            unknown_names: word(offset_of!(Slot, unknown_names)),
            classes: Classes {
                launches: KernelClass::ALL.map(sent),
                device_ns: std::array::from_fn(|class| word(offset_of!(Slot, class_ns) + class * 8)),
            },
            work: std::array::from_fn(|d| Work::parse(bytes.get(activity(d)..).unwrap_or_default())),
        }
    }

    /// What it does with the time of `device`.
    pub fn work(&self, device: usize) -> Work {
        self.work.get(device).copied().unwrap_or_default()
    }

    /// The slot's bytes with nothing in it, but for the accounts' versions, which go on: see [`Slot::clear`].
    fn emptied(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        for (device, held) in self.held.iter().enumerate() {
            let at = offset_of!(Slot, accounts) + device * size_of::<Account>() + offset_of!(Account, held);
            let version = (held & !UNITS_MASK).wrapping_add(UNITS_MASK + 1);
            if let Some(to) = bytes.get_mut(at..at + 8) {
                to.copy_from_slice(&version.to_ne_bytes());
            }
        }
        bytes
    }

    /// Bytes held on `device`.
    pub fn held(&self, device: usize) -> u64 {
        (self.held.get(device).copied().unwrap_or(0) & UNITS_MASK) * UNIT
    }

    /// Bytes being asked for on `device`.
    pub fn asked(&self, device: usize) -> u64 {
        self.ask.get(device).copied().unwrap_or(0).saturating_mul(UNIT)
    }

    /// Bytes held for `kind`.
    pub fn kind(&self, device: usize, kind: Kind) -> u64 {
        self.kinds.get(device).and_then(|k| k.get(kind as usize)).copied().unwrap_or(0)
    }

    /// Bytes that NVML ought to show for this process.
    pub fn visible(&self, device: usize) -> u64 {
        Kind::ALL
            .into_iter()
            .filter(|k| k.seen_by_nvml())
            .fold(0, |sum, kind| sum.saturating_add(self.kind(device, kind)))
    }

    /// Whether the kinds add up to what is held: they don't for an instant within a charge.
    pub fn adds_up(&self, device: usize) -> bool {
        let kinds = Kind::ALL.into_iter().fold(0u64, |sum, kind| sum.saturating_add(self.kind(device, kind)));
        kinds == self.held(device)
    }

    /// Whether the accounts of `device` are the same, versions included, and nothing is being asked for.
    pub fn same(&self, other: &Self, device: usize) -> bool {
        self.held.get(device) == other.held.get(device)
            && self.kinds.get(device) == other.kinds.get(device)
            && self.asked(device) == 0
            && other.asked(device) == 0
    }
}

/// The slots of a slice as they were at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// What each slot said, in the order in which they were asked for. Each is true by itself.
    pub readings: Vec<Reading>,
    held: [(u64, bool); DEVICES + 1],
}

/// Times that moving slots are read until two readings agree.
const TRIES: usize = 16;

impl Picture {
    /// Takes it: `read` reads every slot once.
    ///
    /// Where the slots never stand still, the best of what was certainly held at one instant is taken. Not the smallest sum
    /// of single readings, which is nothing that ever was, and can be more: a slice would be shown above its limit, and
    /// its peak stay there.
    fn take(mut read: impl FnMut() -> Vec<Reading>) -> Self {
        let mut held = [(0, false); DEVICES + 1];
        let mut readings = read();
        for _ in 0..TRIES {
            let later = read();
            for (device, best) in held.iter_mut().enumerate().filter(|(_, best)| !best.1) {
                let word = |reading: &Reading| reading.held.get(device).copied().unwrap_or(0);
                let each = readings.iter().zip(&later).map(|(a, b)| between(word(a), word(b)));
                let now =
                    each.fold((0u64, true), |(sum, all), (bytes, exact)| (sum.saturating_add(bytes), all && exact));
                if now.1 || now.0 > best.0 {
                    *best = now;
                }
            }
            readings = later;
            if held.iter().all(|best| best.1) {
                break;
            }
        }
        Self { readings, held }
    }

    /// Bytes held on `device` by all slots together, or less where [`Picture::is_exact`] says so.
    pub fn held(&self, device: usize) -> u64 {
        self.held.get(device).map_or(0, |held| held.0)
    }

    /// Whether every device's sum is what was held, and not only the least that it can have been.
    pub fn is_exact(&self) -> bool {
        self.held.iter().all(|held| held.1)
    }

    /// Bytes being asked for on `device`.
    pub fn asked(&self, device: usize) -> u64 {
        self.readings.iter().fold(0, |sum, reading| sum.saturating_add(reading.asked(device)))
    }
}

impl RunDir {
    /// Makes the folders of a run directory and removes what a crash left half made.
    pub fn open(path: &Path) -> io::Result<Self> {
        // The longest path under it is a slice's socket for containers.
        let longest = path.as_os_str().len() + "/slices/SLICE-".len() + 36 + "/guest/slice/sock".len();
        if longest > SOCKET_PATH {
            return Err(io::Error::other(format!(
                "its path is too long for a socket by {} characters",
                longest - SOCKET_PATH
            )));
        }
        for (name, mode) in [("slices", 0o711), ("lib", 0o755), ("driver", 0o755)] {
            make_dir(&path.join(name), mode)?;
        }
        let slices = path.join("slices");
        for entry in fs::read_dir(&slices)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let view = os::read_only_view(&slices)
            .inspect_err(|e| tracing::info!("no read-only view of {}: {e}", slices.display()))
            .ok();
        Ok(Self { path: path.into(), view, ignored: 0, urgency: new_urgency()? })
    }

    /// The stand-in library's folder.
    pub fn library_dir(&self) -> PathBuf {
        self.path.join("lib")
    }

    /// The folder where the stand-in finds the real libraries.
    pub fn driver_dir(&self) -> PathBuf {
        self.path.join("driver")
    }

    /// A slice's folder.
    pub fn slice_dir(&self, id: &str) -> PathBuf {
        self.path.join("slices").join(id)
    }

    /// Names of the slices' folders.
    pub fn slice_ids(&self) -> io::Result<Vec<String>> {
        Ok(fs::read_dir(self.path.join("slices"))?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
    }

    /// Whether tenants get a policy that even root among them can't reopen for writing.
    #[cfg(test)]
    pub fn has_read_only_view(&self) -> bool {
        self.view.is_some()
    }

    /// The descriptors that a tenant gets: policy, usage and urgency, each opened anew, so that what it does to the flags
    /// of its descriptor is its own affair.
    pub fn descriptors(&self, files: &SliceFiles) -> io::Result<[OwnedFd; 3]> {
        let read = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let write = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let policy = match &self.view {
            Some(view) => rustix::fs::openat(view, Path::new(&files.id).join("policy"), read, Mode::empty())?,
            None => rustix::fs::open(files.folder.join("policy"), read, Mode::empty())?,
        };
        let usage = rustix::fs::open(files.folder.join("usage"), write, Mode::empty())?;
        let own = format!("/proc/self/fd/{}", self.urgency.as_raw_fd());
        let urgency = rustix::fs::open(own, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok([policy, usage, urgency])
    }
}

/// The node's page of urgency. Every tenant maps it for writing, so nobody may cut it: who read behind its end would die.
fn new_urgency() -> io::Result<File> {
    let make = |more| rustix::fs::memfd_create("cleave-urgency", MemfdFlags::CLOEXEC | more);
    // Some systems refuse a file that could be executed; older kernels don't know how to say that it can't.
    let file = match make(MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => make(MemfdFlags::ALLOW_SEALING),
        made => made,
    };
    let file = File::from(file?);
    file.write_all_at(&[0; size_of::<Urgency>()], 0)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The folders of a slice's two sockets: one for everybody, to be let in by user, and one for who is given it.
fn make_doors(folder: &Path, on_missing: OnMissing) -> io::Result<()> {
    let lock = folder.join(GUESTS_LOCK);
    make_dir(&lock, 0o700)?;
    for door in [folder.join(OWNERS_DOOR), lock.join(GUESTS_DOOR)] {
        make_dir(&door, 0o755)?;
        if on_missing == OnMissing::Allow {
            fs::write(door.join(wire::FAIL_OPEN), [])?;
        }
    }
    Ok(())
}

fn copy_text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    // One byte stays 0, so that it is a C string.
    for (to, from) in bytes.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from;
    }
    bytes
}

fn policy_of(record: &Record, facts: &[DeviceFacts], run: &RunDir) -> Policy {
    let mut policy = Policy::new();
    policy.slice_id = parse_uuid(&record.id).unwrap_or_default();
    policy.name = copy_text(&record.name);
    policy.driver_dir = copy_text(&run.driver_dir().to_string_lossy());
    let mig = if record.mig.is_some() { flags::MIG } else { 0 };
    policy.flags = (mig | run.ignored).into();
    policy.device_count = record.devices.len().min(DEVICES) as u32;
    for (index, device) in record.devices.iter().take(DEVICES).enumerate() {
        let Some(entry) = policy.devices.get_mut(index) else { continue };
        let facts = facts.get(index).copied().unwrap_or_default();
        let uuid = record.mig.as_ref().map_or(&device.uuid, |held| &held.uuid);
        entry.uuid = parse_uuid(uuid).unwrap_or_default();
        entry.limit = device.limit_bytes.into();
        entry.context_bytes = facts.cost.map_or(0, |c| c.context_bytes).into();
        entry.stack_factor = facts.cost.map_or(0, |c| c.stack_factor);
        entry.nvml_index = facts.index;
        entry.busy_percent = u32::MAX.into();
    }
    if let Some(host) = policy.devices.get_mut(HOST) {
        host.limit = record.host_limit_bytes.unwrap_or(UNLIMITED).into();
        host.busy_percent = u32::MAX.into();
    }
    policy
}

fn new_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).write(true).create_new(true).mode(0o600).open(path)
}

impl SliceFiles {
    /// Makes a slice's folder, all of it or nothing.
    pub fn create(run: &RunDir, record: &Record, facts: &[DeviceFacts]) -> io::Result<Self> {
        let folder = run.slice_dir(&record.id);
        let temporary = run.slice_dir(&format!(".new-{}", record.id));
        let made = (|| {
            fs::create_dir(&temporary)?;
            make_doors(&temporary, record.on_missing)?;
            let policy = new_file(&temporary.join("policy"))?;
            let mut page = policy_of(record, facts, run);
            let bytes = policy_bytes(&mut page);
            // Every page is there before anything is mapped: a full disk must not kill who writes to it later.
            rustix::fs::fallocate(&policy, FallocateFlags::empty(), 0, bytes.len() as u64)?;
            policy.write_all_at(bytes, 0)?;
            let usage = new_file(&temporary.join("usage"))?;
            usage.set_len(USAGE_BYTES)?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(0o711))?;
            let page = PolicyPage::map(&policy)?;
            fs::rename(&temporary, &folder)?;
            Ok(Self { folder: folder.clone(), id: record.id.clone(), policy: page, usage: OnceLock::new() })
        })();
        if made.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        made
    }

    /// Opens the files that an earlier daemon left; `None` if they are not what this one would have made.
    pub fn open(run: &RunDir, record: &Record, facts: &[DeviceFacts]) -> Option<Self> {
        let folder = run.slice_dir(&record.id);
        let policy = File::options().read(true).write(true).open(folder.join("policy")).ok()?;
        let page = PolicyPage::map(&policy).ok()?;
        let wanted = policy_of(record, facts, run);
        let fixed = |p: &Policy| {
            let devices: Vec<_> = p.devices.iter().map(|d| (d.uuid, d.nvml_index)).collect();
            (p.slice_id, p.name, p.driver_dir, p.device_count, devices)
        };
        let whole = folder.join("usage").is_file() && make_doors(&folder, record.on_missing).is_ok();
        if !page.is_ours() || fixed(&page) != fixed(&wanted) || !whole {
            return None;
        }
        let files = Self { folder, id: record.id.clone(), policy: page, usage: OnceLock::new() };
        // The database is what counts: a change that was not written down there was never acknowledged.
        for (index, device) in wanted.devices.iter().enumerate() {
            files.set_limit(index, device.limit.load(SeqCst));
        }
        files.learn(facts);
        Some(files)
    }

    fn usage(&self) -> io::Result<&File> {
        if let Some(file) = self.usage.get() {
            return Ok(file);
        }
        let file = File::options().read(true).write(true).open(self.folder.join("usage"))?;
        Ok(self.usage.get_or_init(|| file))
    }

    /// Where the socket for the owner's processes goes.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join("sock")
    }

    /// The folder of the owner's socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.folder.join(OWNERS_DOOR)
    }

    /// The folder of the containers' socket. On the host nobody else gets to it; in a container that it is mounted into
    /// every user may use it, which no user id on the host could tell.
    pub fn guest_dir(&self) -> PathBuf {
        self.folder.join(GUESTS_LOCK).join(GUESTS_DOOR)
    }

    /// Where the socket for containers goes.
    pub fn guest_socket(&self) -> PathBuf {
        self.guest_dir().join("sock")
    }

    /// Removes the folder. Whoever still maps the files is granted nothing any more.
    pub fn remove(&self) -> io::Result<()> {
        for index in 0..self.policy.devices.len() {
            self.set_limit(index, 0);
        }
        self.changed();
        match fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Writes a limit, and gives the one before.
    pub fn set_limit(&self, device: usize, bytes: u64) -> u64 {
        self.policy.devices.get(device).map_or(0, |d| d.limit.swap(bytes, SeqCst))
    }

    /// Tells the slice's processes that the policy changed.
    pub fn changed(&self) {
        self.policy.epoch.fetch_add(1, SeqCst);
    }

    /// Writes what was learned of the devices since.
    pub fn learn(&self, facts: &[DeviceFacts]) {
        for (device, facts) in self.policy.devices.iter().zip(facts) {
            if let Some(cost) = facts.cost {
                device.context_bytes.store(cost.context_bytes, SeqCst);
            }
        }
    }

    /// Slots at and above this one were never used.
    pub fn slots_high(&self) -> usize {
        (self.policy.slots_high.load(SeqCst) as usize).min(SLOTS)
    }

    /// What the daemon measured for a slot beyond its own account.
    pub fn adjust(&self, slot: usize, device: usize) -> i64 {
        self.policy.book.get(slot).and_then(|b| b.adjust.get(device)).map_or(0, |a| a.load(SeqCst))
    }

    /// Writes it.
    pub fn set_adjust(&self, slot: usize, device: usize, bytes: i64) {
        if let Some(adjust) = self.policy.book.get(slot).and_then(|b| b.adjust.get(device)) {
            adjust.store(bytes, SeqCst);
        }
    }

    /// Reads a slot; zeros if the file was cut short.
    pub fn read(&self, slot: usize) -> Reading {
        let mut bytes = [0; SLOT_BYTES];
        if self.fill(&mut bytes, slot * SLOT_BYTES) { Reading::parse(&bytes) } else { Reading::default() }
    }

    /// What the processes in `slots`, which ascend, do with the time of `device`, in one reading into `buffer`; nothing if
    /// the file was cut short.
    pub fn work<'a>(
        &self,
        device: usize,
        slots: &'a [usize],
        buffer: &'a mut Vec<u8>,
    ) -> impl Iterator<Item = Work> + use<'a> {
        let first = slots.first().copied().unwrap_or(0);
        let last = slots.last().copied().unwrap_or(0).max(first);
        buffer.clear();
        buffer.resize((last - first) * SLOT_BYTES + size_of::<Activity>(), 0);
        let at = first * SLOT_BYTES + offset_of!(Slot, activity) + device * size_of::<Activity>();
        if slots.is_empty() || !self.fill(buffer, at) {
            buffer.clear();
        }
        let bytes = buffer.as_slice();
        slots.iter().map(move |slot| Work::parse(bytes.get((slot - first) * SLOT_BYTES..).unwrap_or_default()))
    }

    /// Reads the usage file from `at`; false if it has not so much.
    fn fill(&self, bytes: &mut [u8], at: usize) -> bool {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.usage().and_then(|usage| usage.read_at(rest, (at + done) as u64)) {
                Ok(0) => return false,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whether the usage file has its size; a tenant may have changed it. It is given the right size again.
    pub fn mend(&self) -> bool {
        let Ok(usage) = self.usage() else { return true };
        let right = usage.metadata().is_ok_and(|m| m.len() == USAGE_BYTES);
        if !right {
            let _ = usage.set_len(USAGE_BYTES);
        }
        right
    }

    /// Makes room for a slot, so that no write of its process finds the disk full.
    pub fn make_room(&self, slot: usize) -> io::Result<()> {
        self.mend();
        let offset = (slot * SLOT_BYTES) as u64;
        Ok(rustix::fs::fallocate(self.usage()?, FallocateFlags::empty(), offset, SLOT_BYTES as u64)?)
    }

    /// Clears the slot of a process that is gone, and frees it.
    pub fn free(&self, slot: usize) {
        // A deduction goes before what it is deducted from, so that the slice's use is never shown as too small.
        for device in 0..DEVICES {
            if self.adjust(slot, device) < 0 {
                self.set_adjust(slot, device, 0);
            }
        }
        let emptied = self.read(slot).emptied();
        if let Err(error) = self.usage().and_then(|usage| usage.write_all_at(&emptied, (slot * SLOT_BYTES) as u64)) {
            tracing::warn!("slot {slot} of {} can't be cleared: {error}", self.id);
        }
        if let Some(book) = self.policy.book.get(slot) {
            for adjust in &book.adjust {
                adjust.store(0, SeqCst);
            }
            book.host_pid.store(0, SeqCst);
            book.own_pid.store(0, SeqCst);
            book.namespace.store(0, SeqCst);
            book.start_time.store(0, SeqCst);
            book.state.store(owner::FREE, SeqCst);
        }
        self.changed();
    }

    /// Writes a process into the book.
    pub fn take(&self, slot: usize, pid: u32, own_pid: u32, namespace: u32, start_time: u64) {
        if let Some(book) = self.policy.book.get(slot) {
            book.host_pid.store(pid, SeqCst);
            book.own_pid.store(own_pid, SeqCst);
            book.namespace.store(namespace, SeqCst);
            book.start_time.store(start_time, SeqCst);
            book.state.store(owner::LIVE, SeqCst);
        }
        self.policy.slots_high.fetch_max(slot as u32 + 1, SeqCst);
        self.changed();
    }

    /// Marks a slot's process as dead.
    pub fn mark_dead(&self, slot: usize) {
        if let Some(book) = self.policy.book.get(slot) {
            book.state.store(owner::DEAD, SeqCst);
        }
        self.changed();
    }

    /// Reads `slots`, all at one instant.
    pub fn picture(&self, slots: impl IntoIterator<Item = usize>) -> Picture {
        let slots: Vec<usize> = slots.into_iter().collect();
        Picture::take(|| slots.iter().map(|slot| self.read(*slot)).collect())
    }

    /// What the slots hold of `device`, with the daemon's measurements, and what is being asked for.
    pub fn used(&self, device: usize) -> (u64, u64) {
        let picture = self.picture(0..self.slots_high());
        let adjust = (0..self.slots_high()).fold(0i64, |sum, slot| sum.saturating_add(self.adjust(slot, device)));
        (picture.held(device).saturating_add_signed(adjust), picture.asked(device))
    }
}

/// Makes a socket's file reachable by everyone: who may use it is decided by who connects.
pub fn open_to_all(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::chmodat(rustix::fs::CWD, path, Mode::from_raw_mode(0o666), AtFlags::empty())?)
}

/// Locks `path` for this process's life, or says who has it after `patience`: a daemon that is just ending may.
pub fn lock(path: &Path, dir: &Path, patience: Duration) -> anyhow::Result<File> {
    use anyhow::Context;
    use std::io::{Read, Seek, Write};
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("can't make {}", path.display()))?;
    let began = Instant::now();
    let locked = loop {
        match rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => break other,
        }
    };
    match locked {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut who = String::new();
            let _ = file.read_to_string(&mut who);
            let mut words = who.split_whitespace();
            let (pid, version) = (words.next().unwrap_or("unknown"), words.next().unwrap_or("unknown"));
            anyhow::bail!(
                "another cleave daemon uses {} already: process {pid}, version {version} (this is {})",
                dir.display(),
                env!("CARGO_PKG_VERSION")
            );
        }
        Err(error) => return Err(error).with_context(|| format!("can't lock {}", path.display())),
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{} {}", std::process::id(), env!("CARGO_PKG_VERSION"))
        .with_context(|| format!("no room in {}", dir.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slice::RecordDevice;

    fn record() -> Record {
        Record {
            id: "SLICE-01234567-89ab-cdef-0123-456789abcdef".into(),
            name: "train".into(),
            devices: vec![RecordDevice {
                uuid: "GPU-8dd5a6ba-1b95-2a6a-a31c-9d2f6ab73f0e".into(),
                index: 0,
                limit_bytes: 1 << 30,
                ..RecordDevice::default()
            }],
            on_missing: OnMissing::Allow,
            ..Record::default()
        }
    }

    fn run() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        (dir, run)
    }

    #[test]
    fn files_are_made_whole_and_opened_again() {
        let (_dir, run) = run();
        let cost = ContextCost { context_bytes: 500 << 20, stack_factor: 270_336 };
        let facts = [DeviceFacts { index: 0, cost: Some(cost) }];
        let files = SliceFiles::create(&run, &record(), &facts).unwrap();
        assert!(files.policy.is_ours());
        assert_eq!(files.policy.devices[0].limit.load(SeqCst), 1 << 30);
        assert_eq!(files.policy.devices[0].stack_factor, 270_336);
        assert_eq!(files.policy.devices[HOST].limit.load(SeqCst), UNLIMITED);
        assert_eq!(&files.policy.name[..6], b"train\0");
        assert!(files.socket_dir().join("fail-open").exists());
        let mode = |p: PathBuf| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        let folder = run.slice_dir(&record().id);
        assert_eq!(mode(folder.clone()), 0o711);
        assert_eq!(mode(folder.join("policy")), 0o600);
        assert_eq!(mode(folder.join("usage")), 0o600);
        assert_eq!(mode(folder.join("socket")), 0o755);
        assert_eq!(mode(folder.join("guest")), 0o700, "the way to the containers' socket");
        assert_eq!(mode(folder.join("guest/slice")), 0o755);

        files.take(3, 77, 7, 5, 99);
        files.set_limit(0, 5);
        drop(files);
        let again = SliceFiles::open(&run, &record(), &facts).unwrap();
        assert_eq!(again.slots_high(), 4);
        assert_eq!(again.policy.book[3].host_pid.load(SeqCst), 77);
        assert_eq!(again.policy.devices[0].limit.load(SeqCst), 1 << 30, "the database counts");
        let other = Record { name: "other".into(), ..record() };
        assert!(SliceFiles::open(&run, &other, &facts).is_none());
        again.remove().unwrap();
        assert_eq!(again.policy.devices[0].limit.load(SeqCst), 0);
        assert!(run.slice_ids().unwrap().is_empty());
    }

    /// Root in a container gets a descriptor that it can't turn into a writable one.
    #[test]
    fn the_policy_cannot_be_reopened_for_writing() {
        let (_dir, run) = run();
        if !run.has_read_only_view() {
            eprintln!("skipped: needs CAP_SYS_ADMIN");
            return;
        }
        let files = SliceFiles::create(&run, &record(), &[]).unwrap();
        let [policy, usage, _] = run.descriptors(&files).unwrap();
        let reopen = |fd: &OwnedFd| File::options().write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let error = reopen(&policy).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{error}");
        assert!(rustix::fs::fchmod(&policy, Mode::from_raw_mode(0o666)).is_err());
        assert!(rustix::fs::ftruncate(&policy, 0).is_err());
        assert!(reopen(&usage).is_ok());
        // It is the same page that the daemon writes.
        files.set_limit(0, 4711);
        let mut word = [0; 8];
        let offset = offset_of!(Policy, devices) + offset_of!(cleave_ledger::DevicePolicy, limit);
        File::from(policy).read_exact_at(&mut word, offset as u64).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 4711);
    }

    #[test]
    fn a_tenant_that_cuts_or_fills_its_file_harms_itself_only() {
        let (_dir, run) = run();
        let files = SliceFiles::create(&run, &record(), &[]).unwrap();
        let [_, usage, _] = run.descriptors(&files).unwrap();
        let usage = File::from(usage);
        usage.write_all_at(&[0xff; SLOT_BYTES], 0).unwrap();
        files.take(0, 1, 1, 1, 1);
        let scribbled = files.read(0);
        assert_eq!(scribbled.held(0), UNITS_MASK * UNIT);
        assert_eq!(scribbled.visible(0), u64::MAX);
        assert_eq!(files.used(0), (UNITS_MASK * UNIT, u64::MAX));
        usage.set_len(10).unwrap();
        assert_eq!(files.read(0), Reading::default());
        assert_eq!(files.read(SLOTS - 1), Reading::default());
        assert!(!files.mend());
        assert!(files.mend());
        usage.set_len(1 << 40).unwrap();
        assert!(!files.mend());
        assert_eq!(usage.metadata().unwrap().len(), USAGE_BYTES);
        // Appending is a flag of the tenant's own descriptor.
        rustix::fs::fcntl_setfl(&usage, OFlags::APPEND).unwrap();
        files.free(0);
        assert_eq!(usage.metadata().unwrap().len(), USAGE_BYTES);
    }

    #[test]
    fn a_slot_reads_as_the_ledger_writes_it() {
        let (_dir, run) = run();
        let files = SliceFiles::create(&run, &record(), &[]).unwrap();
        files.make_room(2).unwrap();
        files.take(2, 10, 10, 1, 10);
        let policy = Policy::new();
        policy.devices[0].limit.store(1 << 30, SeqCst);
        policy.slots_high.store(3, SeqCst);
        let usage = Box::new(Usage::new());
        let ledger = cleave_ledger::Ledger::new(&policy, &usage, 2).unwrap();
        ledger.reserve(0, Kind::Pool, 3 << 20, |_| false).unwrap();
        ledger.take(0, Kind::Managed, 1 << 20);
        ledger.slot().denied.store(5, SeqCst);
        ledger.slot().graph_launches.store(6, SeqCst);
        let slot = ledger.slot();
        let mut bytes = Vec::new();
        for account in &slot.accounts {
            bytes.extend(account.held.load(SeqCst).to_ne_bytes());
            bytes.extend(account.ask.load(SeqCst).to_ne_bytes());
        }
        for kinds in &slot.kinds {
            bytes.extend(kinds.iter().flat_map(|k| k.load(SeqCst).to_ne_bytes()));
        }
        bytes.extend(slot.launches.load(SeqCst).to_ne_bytes());
        bytes.extend(slot.graph_launches.load(SeqCst).to_ne_bytes());
        bytes.extend(slot.denied.load(SeqCst).to_ne_bytes());
        files.usage().unwrap().write_all_at(&bytes, (2 * SLOT_BYTES) as u64).unwrap();
        let reading = files.read(2);
        assert_eq!((reading.held(0), reading.asked(0)), (4 << 20, 0));
        assert_eq!((reading.kind(0, Kind::Pool), reading.visible(0)), (3 << 20, 3 << 20));
        assert!(reading.adds_up(0));
        assert_eq!((reading.denied, reading.launches), (5, 6));
        files.set_adjust(2, 0, -(1 << 20));
        assert_eq!(files.used(0), (3 << 20, 0));
        files.free(2);
        assert_eq!(files.used(0), (0, 0));
    }

    /// Zeroed with the rest, versions would repeat, and a slot of before be taken for one of after.
    #[test]
    fn a_freed_slot_keeps_its_versions() {
        let (_dir, run) = run();
        let files = SliceFiles::create(&run, &record(), &[]).unwrap();
        let word = (7 * (UNITS_MASK + 1)) | 5;
        files.usage().unwrap().write_all_at(&word.to_ne_bytes(), offset_of!(Slot, accounts) as u64).unwrap();
        files.free(0);
        let freed = files.read(0);
        assert_eq!((freed.held(0), freed.held[0]), (0, 8 * (UNITS_MASK + 1)));
    }

    fn words(held: &[u64]) -> Vec<Reading> {
        let reading = |word: &u64| Reading { held: std::array::from_fn(|_| *word), ..Reading::default() };
        held.iter().map(reading).collect()
    }

    #[test]
    fn a_picture_is_taken_again_until_nothing_moves() {
        let version = UNITS_MASK + 1;
        // 8 units go from the second slot to the first, and are seen in both by a single reading.
        let mut seen = [[0, 8], [version + 8, version], [version + 8, version]].into_iter();
        let picture = Picture::take(|| words(&seen.next().unwrap()));
        assert_eq!((picture.held(0), picture.is_exact()), (8 * UNIT, true));
        assert_eq!(seen.next(), None);
        // They never stop: one unit comes and goes, beside 8 that stay.
        let mut count = 0;
        let picture = Picture::take(|| {
            count += 1;
            words(&[8, count * version + count % 2])
        });
        assert_eq!((picture.held(0), picture.is_exact()), (8 * UNIT, false));
        assert_eq!(count, TRIES as u64 + 1);
    }

    /// Two threads move half of the limit each between slots as fast as they can; no picture shows more than the limit.
    #[test]
    fn memory_in_motion_is_never_shown_twice() {
        use std::sync::atomic::AtomicBool;
        const HALF: u64 = 32 * UNIT;
        let policy = Policy::new();
        policy.devices[0].limit.store(2 * HALF, SeqCst);
        policy.slots_high.store(4, SeqCst);
        let usage = Box::new(Usage::new());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for slots in [[0, 2], [1, 3]] {
                let (policy, usage, over) = (&policy, &usage, &over);
                scope.spawn(move || {
                    let ledgers = slots.map(|slot| cleave_ledger::Ledger::new(policy, usage, slot).unwrap());
                    while !over.load(SeqCst) {
                        for ledger in &ledgers {
                            ledger.reserve(0, Kind::Linear, HALF, |_| true).unwrap();
                            (0..1000).for_each(|_| std::hint::spin_loop());
                            ledger.release(0, Kind::Linear, HALF);
                        }
                    }
                });
            }
            let read = || {
                let word = |slot: &Slot| {
                    let word = slot.accounts[0].held.load(SeqCst);
                    // Much happens between two slots.
                    std::thread::yield_now();
                    word
                };
                words(&usage.slots[..4].iter().map(word).collect::<Vec<_>>())
            };
            let most = (0..1000).map(|_| Picture::take(read).held(0)).max().unwrap();
            over.store(true, SeqCst);
            assert!((1..=2 * HALF).contains(&most), "{most} of {}", 2 * HALF);
        });
    }

    #[test]
    fn what_a_crash_left_half_made_goes() {
        let (dir, run) = run();
        fs::create_dir(run.slice_dir(".new-SLICE-x")).unwrap();
        RunDir::open(dir.path()).unwrap();
        assert!(run.slice_ids().unwrap().is_empty());
        let long = dir.path().join("x".repeat(100));
        assert!(RunDir::open(&long).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_second_daemon_is_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.lock");
        let lock = |patience| lock(&path, dir.path(), patience);
        let first = lock(Duration::ZERO).unwrap();
        let error = lock(Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains(env!("CARGO_PKG_VERSION")), "{error}");
        // One that ends meanwhile is waited for.
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(Duration::from_secs(60)));
            drop(first);
            second.join().unwrap()
        });
        second.unwrap();
    }
}
