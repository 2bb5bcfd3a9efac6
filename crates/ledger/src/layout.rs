//! What lies where in the two shared files. Every size and offset is asserted at compile time, because the reader may
//! be an older or newer build: it compares [`MAGIC`], [`ABI`] and the size first, and refuses what it does not know.
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Counter, Word, many};
use core::sync::atomic::Ordering;

/// First word of a policy file: "cleaveSL" in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"cleaveSL");
/// Version of the layout and of the wire messages. Counts up with any change of either.
pub const ABI: u32 = 6;
/// Most devices of a slice.
pub const DEVICES: usize = if cfg!(loom) { 1 } else { 16 };
/// Index of the account of pinned host memory, behind the devices' accounts.
pub const HOST: usize = DEVICES;
/// Most processes of a slice that use the GPU at the same time.
pub const SLOTS: usize = if cfg!(loom) { 3 } else { 128 };
/// GPUs of a node that can be shared in time; index = NVML's.
pub const GPUS: usize = 64;
/// Priority classes: 0 gives way to all others.
pub const CLASSES: usize = 8;
/// Number of [`Kind`]s.
pub const KINDS: usize = 8;
/// Exported IPC handles that a process remembers.
pub const EXPORTS: usize = if cfg!(loom) { 1 } else { 32 };
/// Bytes of one unit of a `held` word; the driver's own smallest allocation.
pub const UNIT: u64 = 512;
/// A limit that is none.
pub const UNLIMITED: u64 = u64::MAX;

/// What memory is used for; for display, and to compare with NVML, which does not see the last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// `cuMemAlloc` and its like.
    Linear = 0,
    /// What memory pools reserve.
    Pool = 1,
    /// What graphs reserve for their allocation nodes.
    Graph = 2,
    /// `cuMemCreate`: physical memory to be mapped.
    Physical = 3,
    /// Arrays and mipmapped arrays.
    Array = 4,
    /// Contexts, stacks, modules: the driver's own for this process.
    Context = 5,
    /// Memory of another process, imported.
    Import = 6,
    /// Managed memory, and the pinned memory of the host account.
    Managed = 7,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; KINDS] = [
        Kind::Linear,
        Kind::Pool,
        Kind::Graph,
        Kind::Physical,
        Kind::Array,
        Kind::Context,
        Kind::Import,
        Kind::Managed,
    ];

    /// Whether NVML counts memory of this kind for the process (measured on driver 580: not managed, not imported).
    pub const fn seen_by_nvml(self) -> bool {
        !matches!(self, Kind::Import | Kind::Managed)
    }

    /// Its name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Linear => "linear",
            Kind::Pool => "pool",
            Kind::Graph => "graph",
            Kind::Physical => "physical",
            Kind::Array => "array",
            Kind::Context => "context",
            Kind::Import => "import",
            Kind::Managed => "managed",
        }
    }
}

/// What an operation does with a device, by the kernel's name (`crates/cuda/table/classes.tsv`). Nothing to do with
/// priority classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum KernelClass {
    /// Nothing is known of it.
    #[default]
    Other = 0,
    /// Somebody waits for it: attention, decode.
    Latency = 1,
    /// Much at a time: matrix by matrix, convolution, experts.
    Throughput = 2,
    /// Moves data.
    Copy = 3,
    /// A part of a collective operation: other GPUs wait for it.
    Collective = 4,
    /// A graph, whatever is in it.
    Graph = 5,
}

impl KernelClass {
    /// Every class, in the order of its number.
    pub const ALL: [KernelClass; 6] = [
        KernelClass::Other,
        KernelClass::Latency,
        KernelClass::Throughput,
        KernelClass::Copy,
        KernelClass::Collective,
        KernelClass::Graph,
    ];

    /// Its name in the table and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            KernelClass::Other => "other",
            KernelClass::Latency => "latency",
            KernelClass::Throughput => "throughput",
            KernelClass::Copy => "copy",
            KernelClass::Collective => "collective",
            KernelClass::Graph => "graph",
        }
    }
}

/// Bits of [`Policy::flags`].
pub mod flags {
    /// The shim says on stderr what it refuses and why.
    pub const VERBOSE: u32 = 1 << 0;
    /// The slice's one device is a MIG device, and its UUID as `cuDeviceGetUuid_v2` gives it.
    pub const MIG: u32 = 1 << 1;

    /// Kernels of this class are taken for others of which nothing is known.
    pub const fn ignores(class: super::KernelClass) -> u32 {
        1 << (8 + class as u32)
    }
}

/// Values of [`Book::state`].
pub mod owner {
    /// The slot belongs to nobody.
    pub const FREE: u32 = 0;
    /// The slot belongs to the process that `host_pid` and `start_time` name.
    pub const LIVE: u32 = 1;
    /// That process is dead; the daemon waits for the driver to let go of its memory.
    pub const DEAD: u32 = 2;
}

/// What the daemon says of one device of the slice.
#[repr(C)]
#[derive(Debug)]
pub struct DevicePolicy {
    /// The device's UUID, as `cuDeviceGetUuid` gives it.
    pub uuid: [u8; 16],
    /// Most bytes that the slice may use; [`UNLIMITED`] = no limit (host memory only).
    pub limit: AtomicU64,
    /// Bytes that a context takes on this device, as the daemon measured; 0 = not known yet.
    pub context_bytes: Counter,
    /// Bytes of local memory that one byte of stack costs: multiprocessors × resident threads.
    pub stack_factor: u64,
    /// NVML's index of the device on the host.
    pub nvml_index: u32,
    /// Percent of the last second in which the slice's kernels ran; over 100 = not measurable.
    pub busy_percent: Word,
}

/// What the daemon lets the slice do with the time of one device. A reader takes `version`, the rest, and `version` again,
/// and has one moment's values if both are the same even number.
#[repr(C)]
#[derive(Debug)]
pub struct Turn {
    /// Counts up before and after each change; processes that wait for a change wait on it (futex).
    pub version: Word,
    /// The slice's priority class, below [`CLASSES`].
    pub class: Word,
    /// The grant, as `cleave_policy::gate::Grant` has it in words.
    pub words: [Counter; 3],
    /// When the daemon last looked after this device (`CLOCK_MONOTONIC`, ns); 0 = none does.
    pub looked: Counter,
    /// What the slice has of the device's time while no daemon looks, as `cleave_policy::gate::Part` has it in a word.
    pub alone: Counter,
}

/// Which process owns a slot, and what the daemon measured of it.
#[repr(C)]
#[derive(Debug)]
pub struct Book {
    /// One of [`owner`].
    pub state: Word,
    /// Process id in the daemon's PID namespace, the one that NVML on the host reports.
    pub host_pid: Word,
    /// Process id as the process itself sees it.
    pub own_pid: Word,
    /// Inode of its PID namespace, which says to whom `own_pid` means anything; 0 = not known.
    pub namespace: Word,
    /// Start time of the process in clock ticks since boot; with the id it names a process for good.
    pub start_time: Counter,
    /// Bytes that NVML shows for the process beyond what it charged itself, per device; may be negative.
    pub adjust: [AtomicI64; DEVICES],
}

/// The daemon's page: limits and owners. Read-only in the slice.
#[repr(C)]
#[derive(Debug)]
pub struct Policy {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI`].
    pub abi: u32,
    /// Size of this struct in bytes.
    pub size: u32,
    /// Counts up with each change of the policy.
    pub epoch: Counter,
    /// Bits of [`flags`].
    pub flags: Word,
    /// Slots at and above this one have never been used.
    pub slots_high: AtomicU32,
    /// Devices of the slice.
    pub device_count: u32,
    /// Unused.
    pub reserved: u32,
    /// The slice's id.
    pub slice_id: [u8; 16],
    /// The slice's name, UTF-8, padded with zeros.
    pub name: [u8; 64],
    /// Folder with the real `libcuda.so.1` and `libnvidia-ml.so.1`, padded with zeros.
    pub driver_dir: [u8; 256],
    /// The slice's devices, and host memory last.
    pub devices: [DevicePolicy; DEVICES + 1],
    /// The slice's turns on its devices.
    pub turns: [Turn; DEVICES],
    /// The owner of each slot.
    pub book: [Book; SLOTS],
}

/// What a process holds and asks for on one device.
///
/// `held` is a count of [`UNIT`]s in its lower 40 bits and a version in its upper 24, which counts up with each change.
#[repr(C)]
#[derive(Debug)]
pub struct Account {
    /// Granted memory with its version.
    pub held: AtomicU64,
    /// Memory being asked for, in [`UNIT`]s; 0 outside a request.
    pub ask: AtomicU64,
}

/// What a process does with the time of one device, for the daemon to read. Times are `CLOCK_MONOTONIC`'s, in ns.
#[repr(C)]
#[derive(Debug)]
pub struct Activity {
    /// Device time of all that was sent, done or not, as measured or expected.
    pub charged: Counter,
    /// When all that was sent is expected to be done.
    pub busy_until: Counter,
    /// When something was sent last.
    pub last_launch: Counter,
    /// Expected device time of the last operation sent whose length is known; 0 = none was.
    pub op_ns: Counter,
    /// Threads that wait at the gate now.
    pub waiting: Counter,
    /// Time that operations waited at the gate, in all.
    pub throttled_ns: Counter,
    /// Operations that waited at the gate.
    pub throttled: Counter,
    /// Threads that wait for the device to be done: it has work then, whatever was expected.
    pub syncing: Counter,
    /// Since when work that was sent should have been done; 0 = none is known to be late. Only looked at again when the
    /// process sends or waits, so it means something only while it does.
    pub overdue: Counter,
    /// 1 = work is under way of which nobody knows how long it lasts. A thread that waits rings when it is done.
    pub open: Counter,
}

/// The node's page of urgency, shared by all slices: until when the classes above one's own want a device for themselves
/// (`CLOCK_MONOTONIC`, ns). Its file can be neither cut nor grown.
#[repr(C)]
#[derive(Debug)]
pub struct Urgency {
    /// A row for each GPU, by NVML's index; in it a word for each class.
    pub until: [[Counter; CLASSES]; GPUS],
}

/// One process's page.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot {
    /// One account a device, and host memory last.
    pub accounts: [Account; DEVICES + 1],
    /// What the held memory is used for, in bytes; for display.
    pub kinds: [[Counter; KINDS]; DEVICES + 1],
    /// Kernels launched.
    pub launches: Counter,
    /// Graphs launched.
    pub graph_launches: Counter,
    /// Allocations refused because of the slice's limit.
    pub denied: Counter,
    /// Entry points asked for by name that the shim does not know and passed on.
    pub unknown_names: Counter,
    /// Operations of the classes from [`KernelClass::Latency`] to [`KernelClass::Collective`]; a little late.
    pub class_launches: [Counter; 4],
    /// Hashes of the IPC handles that this process exported; 0 = none.
    pub exports: [Counter; EXPORTS],
    /// What it does with each device's time.
    pub activity: [Activity; DEVICES],
    /// Device time of each [`KernelClass`], in ns, as measured or expected; a little late. That of collectives is not measured
    /// and stays 0.
    pub class_ns: [Counter; 6],
}

/// The slice's processes' file.
#[repr(C)]
#[derive(Debug)]
pub struct Usage {
    /// One slot a process.
    pub slots: [Slot; SLOTS],
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<DevicePolicy>() == 48);
    assert!(size_of::<Turn>() == 48);
    assert!(size_of::<Activity>() == 80);
    assert!(size_of::<Urgency>() == 4096);
    assert!(size_of::<Book>() == 24 + 8 * DEVICES);
    assert!(offset_of!(Policy, epoch) == 16);
    assert!(offset_of!(Policy, slice_id) == 40);
    assert!(offset_of!(Policy, devices) == 376);
    assert!(offset_of!(Policy, turns) == 376 + 48 * (DEVICES + 1));
    assert!(offset_of!(Policy, book) == 376 + 48 * (DEVICES + 1) + 48 * DEVICES);
    assert!(size_of::<Policy>() == 376 + 48 * (DEVICES + 1) + 48 * DEVICES + 152 * SLOTS);
    assert!(size_of::<Account>() == 16);
    assert!(offset_of!(Slot, kinds) == 272);
    assert!(offset_of!(Slot, launches) == 272 + 8 * KINDS * (DEVICES + 1));
    assert!(offset_of!(Slot, activity) == 1680);
    assert!(offset_of!(Slot, class_ns) + 8 * 6 == size_of::<Slot>());
    assert!(size_of::<Slot>() == 3008);
    assert!(size_of::<Usage>() == size_of::<Slot>() * SLOTS);
};

impl DevicePolicy {
    /// A device that may be given `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            uuid: [0; 16],
            limit: AtomicU64::new(limit),
            context_bytes: Counter::new(0),
            stack_factor: 0,
            nvml_index: 0,
            busy_percent: Word::new(0),
        }
    }
}

impl Turn {
    const fn new() -> Self {
        Self {
            version: Word::new(0),
            class: Word::new(0),
            words: [const { Counter::new(0) }; 3],
            looked: Counter::new(0),
            alone: Counter::new(0),
        }
    }

    /// The grant's words and the slice's class, of one moment; `None` while they are being changed.
    #[inline]
    pub fn read(&self) -> Option<([u64; 3], u32)> {
        let version = self.version.load(Ordering::Acquire);
        let words = [0, 1, 2].map(|i| self.words[i].load(Ordering::Relaxed));
        let class = self.class.load(Ordering::Relaxed);
        core::sync::atomic::fence(Ordering::Acquire);
        (version & 1 == 0 && self.version.load(Ordering::Relaxed) == version).then_some((words, class))
    }

    /// Changes what [`Turn::read`] returns; false if that is it already. For one writer. Whoever waits on `version` is then
    /// to be woken.
    pub fn write(&self, words: [u64; 3], class: u32) -> bool {
        if self.read() == Some((words, class)) {
            return false;
        }
        let version = self.version.load(Ordering::Relaxed) | 1;
        self.version.store(version, Ordering::Relaxed);
        core::sync::atomic::fence(Ordering::Release);
        for (to, word) in self.words.iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
        self.class.store(class, Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Release);
        true
    }
}

impl Activity {
    const fn new() -> Self {
        Self {
            charged: Counter::new(0),
            busy_until: Counter::new(0),
            last_launch: Counter::new(0),
            op_ns: Counter::new(0),
            waiting: Counter::new(0),
            throttled_ns: Counter::new(0),
            throttled: Counter::new(0),
            syncing: Counter::new(0),
            overdue: Counter::new(0),
            open: Counter::new(0),
        }
    }
}

impl Book {
    fn new() -> Self {
        Self {
            state: Word::new(owner::FREE),
            host_pid: Word::new(0),
            own_pid: Word::new(0),
            namespace: Word::new(0),
            start_time: Counter::new(0),
            adjust: many![AtomicI64::new(0); DEVICES],
        }
    }

    /// The id by which the process `viewer` knows this one: its own id in the same PID namespace, the host's id if the
    /// viewer is on the host. `None` in another container, where it is not to be seen.
    pub fn pid_for(&self, viewer: &Book) -> Option<u32> {
        if self.namespace.load(Ordering::Relaxed) == viewer.namespace.load(Ordering::Relaxed) {
            return Some(self.own_pid.load(Ordering::Relaxed));
        }
        let host_pid = viewer.host_pid.load(Ordering::Relaxed);
        (viewer.own_pid.load(Ordering::Relaxed) == host_pid).then(|| self.host_pid.load(Ordering::Relaxed))
    }
}

impl Policy {
    /// Whether the slice's one device is a MIG device.
    pub fn is_mig(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & flags::MIG != 0
    }

    /// What the text of its devices' UUIDs begins with.
    pub fn kind(&self) -> &'static [u8; 4] {
        if self.is_mig() { b"MIG-" } else { b"GPU-" }
    }

    /// A policy of no device, no limit on host memory and no owner.
    pub fn new() -> Self {
        Self {
            magic: MAGIC,
            abi: ABI,
            size: core::mem::size_of::<Self>() as u32,
            epoch: Counter::new(1),
            flags: Word::new(0),
            slots_high: AtomicU32::new(0),
            device_count: 0,
            reserved: 0,
            slice_id: [0; 16],
            name: [0; 64],
            driver_dir: [0; 256],
            devices: core::array::from_fn(|i| DevicePolicy::new(if i == HOST { UNLIMITED } else { 0 })),
            turns: many![Turn::new(); DEVICES],
            book: core::array::from_fn(|_| Book::new()),
        }
    }

    /// Whether a mapped page is a policy that this build understands.
    pub fn is_ours(&self) -> bool {
        self.magic == MAGIC && self.abi == ABI && self.size as usize == core::mem::size_of::<Self>()
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new()
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            accounts: many![Account { held: AtomicU64::new(0), ask: AtomicU64::new(0) }; DEVICES + 1],
            kinds: many![many![Counter::new(0); KINDS]; DEVICES + 1],
            launches: Counter::new(0),
            graph_launches: Counter::new(0),
            denied: Counter::new(0),
            unknown_names: Counter::new(0),
            class_launches: many![Counter::new(0); 4],
            exports: many![Counter::new(0); EXPORTS],
            activity: many![Activity::new(); DEVICES],
            class_ns: many![Counter::new(0); 6],
        }
    }
}

impl Usage {
    /// A file of empty slots: all zeros, as a new file is.
    pub fn new() -> Self {
        Self { slots: core::array::from_fn(|_| Slot::new()) }
    }
}

impl Default for Usage {
    fn default() -> Self {
        Self::new()
    }
}
