//! What lies where in the two shared files. Every size and offset is asserted at compile time, because the reader may
//! be an older or newer build: it compares [`MAGIC`], [`ABI`] and the size first, and refuses what it does not know.
use crate::sync::{AtomicI64, AtomicU32, AtomicU64, Counter, Word};
use core::sync::atomic::Ordering;

/// First word of a policy file: "cleaveSL" in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"cleaveSL");
/// Version of the layout and of the wire messages. Counts up with any change of either.
pub const ABI: u32 = 2;
/// Most devices of a slice.
pub const DEVICES: usize = if cfg!(loom) { 1 } else { 16 };
/// Index of the account of pinned host memory, behind the devices' accounts.
pub const HOST: usize = DEVICES;
/// Most processes of a slice that use the GPU at the same time.
pub const SLOTS: usize = if cfg!(loom) { 3 } else { 128 };
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

/// Bits of [`Policy::flags`].
pub mod flags {
    /// The shim says on stderr what it refuses and why.
    pub const VERBOSE: u32 = 1 << 0;
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
    /// Unused.
    pub reserved: [Counter; 4],
    /// Hashes of the IPC handles that this process exported; 0 = none.
    pub exports: [Counter; EXPORTS],
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
    assert!(size_of::<Book>() == 24 + 8 * DEVICES);
    assert!(offset_of!(Policy, epoch) == 16);
    assert!(offset_of!(Policy, slice_id) == 40);
    assert!(offset_of!(Policy, devices) == 376);
    assert!(offset_of!(Policy, book) == 376 + 48 * (DEVICES + 1));
    assert!(size_of::<Policy>() == 376 + 48 * (DEVICES + 1) + 152 * SLOTS);
    assert!(size_of::<Account>() == 16);
    assert!(offset_of!(Slot, kinds) == 272);
    assert!(offset_of!(Slot, launches) == 272 + 8 * KINDS * (DEVICES + 1));
    assert!(size_of::<Slot>() == 1728);
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

impl Book {
    fn new() -> Self {
        Self {
            state: Word::new(owner::FREE),
            host_pid: Word::new(0),
            own_pid: Word::new(0),
            namespace: Word::new(0),
            start_time: Counter::new(0),
            adjust: core::array::from_fn(|_| AtomicI64::new(0)),
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
            accounts: core::array::from_fn(|_| Account { held: AtomicU64::new(0), ask: AtomicU64::new(0) }),
            kinds: core::array::from_fn(|_| core::array::from_fn(|_| Counter::new(0))),
            launches: Counter::new(0),
            graph_launches: Counter::new(0),
            denied: Counter::new(0),
            unknown_names: Counter::new(0),
            reserved: core::array::from_fn(|_| Counter::new(0)),
            exports: core::array::from_fn(|_| Counter::new(0)),
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
