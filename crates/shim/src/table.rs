//! What this process has from the driver: a map from handles and addresses to what they cost.
//!
//! A linear hash table in reserved address space: it grows by one bucket at a time, so no call ever pays for a rehash,
//! and touches memory only as entries come. It never allocates. All zeros but its two pointers is an empty table.
use crate::system;

/// What a key names. Keys of different spaces never meet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Space {
    /// Address of an allocation of its own.
    Linear = 1,
    /// Number (address / 2 MiB) of a chunk from which the driver cuts small allocations.
    Chunk = 2,
    /// `CUmemGenericAllocationHandle`; `a` = number of its physical allocation.
    Handle = 3,
    /// Number of a physical allocation; `b` = how many exported file descriptors of it were seen and not seen closed.
    Physical = 4,
    /// Address of a mapping; `a` = number of its physical allocation, `b` = bytes.
    Mapping = 5,
    /// Array or mipmapped array.
    Array = 6,
    /// Address of an opened IPC handle.
    Ipc = 7,
    /// External memory object.
    External = 8,
    /// Executable graph; `a` = bytes of its allocation nodes.
    Graph = 9,
    /// Address of pinned host memory.
    Host = 10,
    /// Library of kernels; `a` = what has become of it, `b` = bytes of its data that are not on the device yet.
    Library = 11,
    /// Exported file descriptor, also in `b`; `a` = number of its physical allocation.
    Exported = 12,
    /// Address of a mapping that is being taken away; as [`Space::Mapping`].
    Unmapping = 14,
    /// Executable graph with a part of a collective operation.
    Collective = 15,
    /// Context; `a` = bytes charged for it, `b` = local memory per thread charged in it, 0 = the driver's default.
    Context = 13,
}

/// An entry. What `a`, `b` and `count` mean depends on the space; `device` and `owner` say where it counts.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    key: u64,
    /// Bytes charged, unless the space says otherwise.
    pub a: u64,
    /// As the space says.
    pub b: u64,
    next: u32,
    /// References.
    pub count: u32,
    /// Device of the slice.
    pub device: u8,
    /// A [`cleave_ledger::Kind`] as a number.
    pub kind: u8,
    /// 0 = the device's primary context, else the number of an explicit one.
    pub context: u32,
}

const CAPACITY: u32 = 1 << 22;
const FIRST_BUCKETS: u32 = 64;
const NODES: usize = CAPACITY as usize * size_of::<Entry>();
const HEADS: usize = CAPACITY as usize * 4;

/// The table. Zero-initialised memory is a table without room; [`Table::open`] gives it room.
pub struct Table {
    nodes: *mut Entry,
    heads: *mut u32,
    buckets: u32,
    used: u32,
    free: u32,
    live: u32,
}

fn key(space: Space, value: u64) -> u64 {
    (space as u64) << 60 | (value & ((1 << 60) - 1))
}

impl Table {
    /// Reserves the table's address space; `false` if the kernel has none.
    pub fn open(&mut self) -> bool {
        if !self.nodes.is_null() {
            return true;
        }
        let flags = system::MAP_PRIVATE_ANONYMOUS_NORESERVE;
        let Some(nodes) = system::map(NODES, system::PROT_READ_WRITE, flags, -1) else { return false };
        let Some(heads) = system::map(HEADS, system::PROT_READ_WRITE, flags, -1) else {
            // SAFETY: mapped just now and used by nobody.
            unsafe { system::unmap(nodes, NODES) };
            return false;
        };
        // A child's table is opened anew, so what it inherits of the parent's needs no wiping; it is merely not reached.
        self.nodes = nodes.cast();
        self.heads = heads.cast();
        self.buckets = FIRST_BUCKETS;
        self.used = 1; // Number 0 means "none".
        true
    }

    fn bucket(&self, key: u64) -> u32 {
        let hash = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32;
        // `buckets` lies between 2^k (exclusive) and 2^(k+1); those not split yet are addressed with one bit less.
        let mask = u32::MAX >> (self.buckets.max(2) - 1).leading_zeros();
        let wide = hash & mask;
        if wide < self.buckets { wide } else { hash & (mask >> 1) }
    }

    fn head(&self, bucket: u32) -> *mut u32 {
        // SAFETY: `bucket` < `buckets` ≤ CAPACITY, the number of heads mapped.
        unsafe { self.heads.add(bucket as usize) }
    }

    fn node(&self, number: u32) -> *mut Entry {
        // SAFETY: numbers come from `take_node`, which keeps them below CAPACITY, the number of nodes mapped.
        unsafe { self.nodes.add(number as usize) }
    }

    /// The entry of `value`.
    pub fn get(&mut self, space: Space, value: u64) -> Option<&mut Entry> {
        if self.nodes.is_null() {
            return None;
        }
        let key = key(space, value);
        // SAFETY: heads and nodes are in bounds (see `head`, `node`), chains end with 0, and `&mut self` makes the
        // access exclusive.
        unsafe {
            let mut number = *self.head(self.bucket(key));
            while number != 0 {
                let node = self.node(number);
                if (*node).key == key {
                    return Some(&mut *node);
                }
                number = (*node).next;
            }
        }
        None
    }

    /// Adds an entry (there must be none of this key) and returns it; `None` if the table is full.
    pub fn insert(&mut self, space: Space, value: u64, entry: Entry) -> Option<&mut Entry> {
        if self.nodes.is_null() {
            return None;
        }
        if self.live > self.buckets && self.buckets < CAPACITY {
            self.split();
        }
        let number = self.take_node()?;
        let key = key(space, value);
        let head = self.head(self.bucket(key));
        let node = self.node(number);
        // SAFETY: both in bounds; `&mut self` makes the access exclusive.
        unsafe {
            *node = Entry { key, next: *head, ..entry };
            *head = number;
            self.live += 1;
            Some(&mut *node)
        }
    }

    /// Takes the entry of `value` out.
    pub fn remove(&mut self, space: Space, value: u64) -> Option<Entry> {
        if self.nodes.is_null() {
            return None;
        }
        let key = key(space, value);
        let mut link = self.head(self.bucket(key));
        // SAFETY: as in `get`; `link` points to a head or to a node's `next`.
        unsafe {
            while *link != 0 {
                let number = *link;
                let node = self.node(number);
                if (*node).key == key {
                    let entry = *node;
                    *link = entry.next;
                    self.give_node(number);
                    return Some(entry);
                }
                link = &raw mut (*node).next;
            }
        }
        None
    }

    /// Takes out every entry for which `pick` says so.
    pub fn drain(&mut self, mut pick: impl FnMut(Space, &Entry) -> bool) {
        if self.nodes.is_null() {
            return;
        }
        for bucket in 0..self.buckets {
            let mut link = self.head(bucket);
            // SAFETY: as in `remove`.
            unsafe {
                while *link != 0 {
                    let number = *link;
                    let node = self.node(number);
                    if space((*node).key).is_some_and(|space| pick(space, &*node)) {
                        *link = (*node).next;
                        self.give_node(number);
                    } else {
                        link = &raw mut (*node).next;
                    }
                }
            }
        }
    }

    /// What the key of the first entry names for which `pick` says so.
    pub fn find(&self, mut pick: impl FnMut(Space, &Entry) -> bool) -> Option<u64> {
        if self.nodes.is_null() {
            return None;
        }
        for bucket in 0..self.buckets {
            // SAFETY: as in `get`.
            unsafe {
                let mut number = *self.head(bucket);
                while number != 0 {
                    let node = &*self.node(number);
                    if space(node.key).is_some_and(|space| pick(space, node)) {
                        return Some(node.key & ((1 << 60) - 1));
                    }
                    number = node.next;
                }
            }
        }
        None
    }

    fn take_node(&mut self) -> Option<u32> {
        if self.free != 0 {
            let number = self.free;
            // SAFETY: in bounds, on the free list.
            self.free = unsafe { (*self.node(number)).next };
            return Some(number);
        }
        (self.used < CAPACITY).then(|| {
            self.used += 1;
            self.used - 1
        })
    }

    fn give_node(&mut self, number: u32) {
        // SAFETY: in bounds, and unlinked by the caller.
        unsafe { (*self.node(number)).next = self.free };
        self.free = number;
        self.live -= 1;
    }

    /// Adds one bucket and moves to it what belongs there, from the one bucket that held it.
    fn split(&mut self) {
        let new = self.buckets;
        let old = new & !(1 << (31 - new.leading_zeros()));
        self.buckets += 1;
        // SAFETY: as in `remove`; `new` < CAPACITY, and its head has never been written, so it is 0.
        unsafe {
            let mut link = self.head(old);
            while *link != 0 {
                let number = *link;
                let node = self.node(number);
                if self.bucket((*node).key) == new {
                    *link = (*node).next;
                    (*node).next = *self.head(new);
                    *self.head(new) = number;
                } else {
                    link = &raw mut (*node).next;
                }
            }
        }
    }
}

fn space(key: u64) -> Option<Space> {
    Some(match key >> 60 {
        1 => Space::Linear,
        2 => Space::Chunk,
        3 => Space::Handle,
        4 => Space::Physical,
        5 => Space::Mapping,
        6 => Space::Array,
        7 => Space::Ipc,
        8 => Space::External,
        9 => Space::Graph,
        10 => Space::Host,
        11 => Space::Library,
        12 => Space::Exported,
        13 => Space::Context,
        14 => Space::Unmapping,
        15 => Space::Collective,
        _ => return None,
    })
}

impl Entry {
    /// An entry of `a` and `b` on `device`.
    pub fn new(a: u64, b: u64, device: usize, kind: cleave_ledger::Kind) -> Self {
        Self { key: 0, a, b, next: 0, count: 1, device: device as u8, kind: kind as u8, context: 0 }
    }

    /// The entry as of something that goes with `context`.
    pub fn in_context(self, context: u32) -> Self {
        Self { context, ..self }
    }
}
