//! Device, managed and host memory, memory of other processes, and what pointers are.

use std::fs::OpenOptions;

use cleave_cuda::types::{CUipcMemHandle, error};
use core::ffi::{c_int, c_uint, c_void};

use super::{Driver, Outcome, get_many, put, put_optional};
use crate::alloc::{Chunks, PAGE, SMALL, round_up};
use crate::map::Mapping;
use crate::shared::monotonic;

/// What an allocation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Shares a chunk with others.
    Small,
    /// Has pages of its own.
    Large,
    Managed,
    /// A block of a pool.
    Pool(u64),
    /// Memory of a graph's node; `live` from the launch to the free.
    Graph {
        live: bool,
    },
    /// Page-locked memory that the driver made.
    Host,
    /// Memory of the program, page-locked.
    Registered,
    /// Memory of another process.
    Imported,
    /// A variable of a module, which charges for it.
    Global,
}

/// One allocation; its address is its key.
pub(crate) struct Allocation {
    pub size: u64,
    pub kind: Kind,
    pub context: u64,
    pub device: usize,
    /// Bytes of device memory that are its own.
    charge: u64,
    pub mapping: Option<Mapping>,
    pub id: u64,
    pub flags: u32,
}

impl Allocation {
    /// A block that something else charges for.
    pub fn block(size: u64, kind: Kind, context: u64, device: usize, id: u64) -> Allocation {
        Allocation { size, kind, context, device, charge: 0, mapping: None, id, flags: 0 }
    }

    /// Whether it is the host's memory.
    pub fn is_host(&self) -> bool {
        matches!(self.kind, Kind::Host | Kind::Registered)
    }
}

impl Driver {
    /// The allocation that holds an address, and its base.
    pub(crate) fn find(&self, address: u64) -> Option<(u64, &Allocation)> {
        let (&base, allocation) = self.allocations.range(..=address).next_back()?;
        (address - base < allocation.size.max(1)).then_some((base, allocation))
    }

    /// A number that no other allocation had.
    pub(crate) fn allocation_id(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    /// Device memory in the current context.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Outcome<u64> {
        let context = self.usable()?;
        if bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        let device = self.contexts[&context].device;
        let id = self.allocation_id();
        if bytes <= SMALL {
            let base = self.small(context, bytes)?;
            self.allocations.insert(base, Allocation::block(bytes, Kind::Small, context, device, id));
            return Ok(base);
        }
        self.large(context, bytes, Kind::Large)
    }

    /// A place in a chunk; a new chunk where none has room.
    pub(crate) fn small(&mut self, context: u64, bytes: u64) -> Outcome<u64> {
        let device = self.contexts.get(&context).ok_or(error::INVALID_CONTEXT)?.device;
        if let Some(base) = self.contexts.get_mut(&context).and_then(|context| context.chunks.take(bytes)) {
            return Ok(base);
        }
        self.charge(device, PAGE, true)?;
        let Some(mapping) = Mapping::memory(PAGE) else {
            self.release(device, PAGE, true);
            return Err(error::OUT_OF_MEMORY);
        };
        let chunks = &mut self.contexts.get_mut(&context).ok_or(error::INVALID_CONTEXT)?.chunks;
        chunks.add(mapping.base());
        let base = chunks.take(bytes).ok_or(error::UNKNOWN)?;
        self.chunks.insert(mapping.base(), mapping);
        Ok(base)
    }

    /// Gives a place in a chunk back, and the chunk with its last one.
    pub(crate) fn small_free(&mut self, context: u64, base: u64) {
        let Some(context) = self.contexts.get_mut(&context) else { return };
        let device = context.device;
        if let Some(chunk) = context.chunks.give(base) {
            self.chunks.remove(&chunk);
            self.release(device, PAGE, true);
        }
    }

    /// Whole pages of device memory.
    pub(crate) fn large(&mut self, context: u64, bytes: u64, kind: Kind) -> Outcome<u64> {
        let device = self.contexts.get(&context).ok_or(error::INVALID_CONTEXT)?.device;
        let charge = bytes.checked_next_multiple_of(PAGE).ok_or(error::OUT_OF_MEMORY)?;
        let visible = kind != Kind::Managed;
        self.charge(device, charge, visible)?;
        let Some(mapping) = Mapping::memory(charge) else {
            self.release(device, charge, visible);
            return Err(error::OUT_OF_MEMORY);
        };
        let base = mapping.base();
        let id = self.allocation_id();
        self.allocations.insert(
            base,
            Allocation { size: bytes, kind, context, device, charge, mapping: Some(mapping), id, flags: 0 },
        );
        Ok(base)
    }

    /// Frees what begins at `base`, whatever it is.
    pub(crate) fn free(&mut self, base: u64) -> Outcome {
        let allocation = self.allocations.get(&base).ok_or(error::INVALID_VALUE)?;
        let (kind, context, device, charge) =
            (allocation.kind, allocation.context, allocation.device, allocation.charge);
        match kind {
            Kind::Host | Kind::Registered => return Err(error::INVALID_VALUE),
            Kind::Imported | Kind::Global => return Err(error::INVALID_VALUE),
            Kind::Small => self.small_free(context, base),
            Kind::Large => self.release(device, charge, true),
            Kind::Managed => self.release(device, charge, false),
            Kind::Pool(pool) => {
                self.pool_give(pool, base);
            }
            Kind::Graph { live: true } => return self.graph_memory_free(base),
            Kind::Graph { live: false } => return Err(error::INVALID_VALUE),
        }
        self.allocations.remove(&base);
        Ok(())
    }

    /// Forgets all that was allocated in a context.
    pub(crate) fn allocations_of_context_gone(&mut self, context: u64, device: usize, chunks: &Chunks) {
        let gone: Vec<u64> = self
            .allocations
            .iter()
            .filter(|(_, a)| a.context == context && !matches!(a.kind, Kind::Pool(_) | Kind::Graph { .. }))
            .map(|(base, _)| *base)
            .collect();
        for base in gone {
            if let Some(allocation) = self.allocations.remove(&base) {
                self.release(allocation.device, allocation.charge, allocation.kind != Kind::Managed);
            }
        }
        for base in chunks.bases() {
            if let Some(mapping) = self.chunks.remove(&base) {
                self.release(device, mapping.len(), true);
            }
        }
    }

    fn host(&mut self, bytes: usize, flags: u32) -> Outcome<u64> {
        let context = self.usable()?;
        if bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        let mapping = Mapping::memory(bytes as u64).ok_or(error::OUT_OF_MEMORY)?;
        let base = mapping.base();
        let device = self.contexts[&context].device;
        let id = self.allocation_id();
        let size = bytes as u64;
        self.allocations.insert(
            base,
            Allocation { size, kind: Kind::Host, context, device, charge: 0, mapping: Some(mapping), id, flags },
        );
        Ok(base)
    }

    /// One attribute of a pointer, written at `to`; an unknown pointer is an error where `strict`.
    fn pointer_attribute(&self, attribute: c_int, to: *mut c_void, address: u64) -> Outcome {
        if let Some(found) = self.vmm.find(address) {
            return match attribute {
                1 => put(to.cast(), 0_u64),
                2 => put(to.cast(), 2_u32),
                3 => put(to.cast(), address),
                6 | 8 | 10 => put(to.cast(), 0_u8),
                7 | 20 => put(to.cast(), found.handle),
                9 => put(to.cast(), self.ordinal(found.device)),
                11 | 19 => put(to.cast(), found.base),
                12 | 18 => put(to.cast(), found.len),
                13 => put(to.cast(), 1_u8),
                14 => put(to.cast(), 1_u64),
                15 => put(to.cast(), 1_u8),
                16 => put(to.cast(), 3_u32),
                17 => put(to.cast(), 0_u64),
                _ => Err(error::INVALID_VALUE),
            };
        }
        let (base, allocation) = self.find(address).ok_or(error::INVALID_VALUE)?;
        let host = allocation.is_host();
        match attribute {
            // A block of a pool belongs to no context.
            1 => put(to.cast(), if matches!(allocation.kind, Kind::Pool(_)) { 0 } else { allocation.context }),
            2 => put(to.cast(), if host { 1_u32 } else { 2 }),
            3 => put(to.cast(), address),
            4 if host || allocation.kind == Kind::Managed => put(to.cast(), address),
            6 => put(to.cast(), 0_u8),
            7 | 20 => put(to.cast(), allocation.id),
            8 => put(to.cast(), u8::from(allocation.kind == Kind::Managed)),
            9 => put(to.cast(), self.ordinal(allocation.device)),
            10 => put(to.cast(), u8::from(matches!(allocation.kind, Kind::Small | Kind::Large))),
            11 | 19 => put(to.cast(), base),
            12 | 18 => put(to.cast(), allocation.size),
            13 => put(to.cast(), 1_u8),
            14 => put(to.cast(), 0_u64),
            15 => put(to.cast(), u8::from(!host && allocation.kind != Kind::Managed)),
            16 => put(to.cast(), 3_u32),
            17 => put(to.cast(), if let Kind::Pool(pool) = allocation.kind { pool } else { 0 }),
            _ => Err(error::INVALID_VALUE),
        }
    }
}

/// What a memory handle holds: enough for another process to map the same memory.
#[repr(C)]
#[derive(Clone, Copy)]
struct IpcMemory {
    magic: u64,
    /// The exporter's, in its own pid namespace.
    pid: u32,
    device: u32,
    /// Which file holds it: [`crate::shared::Shared::memory_path`].
    slot: u64,
    number: u64,
    offset: u64,
    size: u64,
    mapped: u64,
    reserved: u64,
}

const IPC_MAGIC: u64 = 0x6361_6c65_6670_6d01;
const _: () = assert!(size_of::<IpcMemory>() == 64);

entry! {
    fn cuMemAlloc_v2(d, dptr: *mut u64, bytes: usize) {
        if dptr.is_null() {
            return Err(error::INVALID_VALUE);
        }
        let base = d.allocate(bytes as u64)?;
        put(dptr, base)
    }
    fn cuMemAllocPitch_v2(d, dptr: *mut u64, pitch: *mut usize, width: usize, height: usize, element: c_uint) {
        if !matches!(element, 4 | 8 | 16) || width == 0 || height == 0 || dptr.is_null() || pitch.is_null() {
            return Err(error::INVALID_VALUE);
        }
        let row = width.next_multiple_of(512);
        let base = d.allocate(row.checked_mul(height).ok_or(error::OUT_OF_MEMORY)? as u64)?;
        put(pitch, row)?;
        put(dptr, base)
    }
    fn cuMemAllocManaged(d, dptr: *mut u64, bytes: usize, flags: c_uint) {
        let context = d.usable()?;
        if bytes == 0 || dptr.is_null() || !matches!(flags, 1 | 2) {
            return Err(error::INVALID_VALUE);
        }
        let base = d.large(context, bytes as u64, Kind::Managed)?;
        if let Some(allocation) = d.allocations.get_mut(&base) {
            allocation.flags = flags;
        }
        put(dptr, base)
    }
    fn cuMemFree_v2(d, dptr: u64) {
        let context = d.usable()?;
        if dptr == 0 {
            return Ok(());
        }
        let device = d.allocations.get(&dptr).map_or(d.contexts[&context].device, |allocation| allocation.device);
        d.free(dptr)?;
        d.pools_trim(device);
        Ok(())
    }
    fn cuMemGetInfo_v2(d, free: *mut usize, total: *mut usize) {
        let device = d.current_device()?;
        let all = d.model(device).total_bytes;
        let mut shared = d.shared.lock();
        shared.collect();
        let (used, own) = (shared.used_beside(d.slot, device), shared.own(d.slot, device));
        drop(shared);
        put(free, all.saturating_sub(used).min(d.limit(device).saturating_sub(own)) as usize)?;
        put(total, all as usize)
    }
    fn cuMemGetAddressRange_v2(d, base: *mut u64, size: *mut usize, address: u64) {
        d.usable()?;
        let (start, length) = match (d.find(address), d.vmm.find(address)) {
            (Some((start, allocation)), _) => (start, allocation.size),
            (None, Some(found)) => (found.base, found.len),
            (None, None) => return Err(error::NOT_FOUND),
        };
        put_optional(base, start);
        put_optional(size, length as usize);
        Ok(())
    }

    fn cuMemAllocHost_v2(d, pointer: *mut *mut c_void, bytes: usize) {
        let base = d.host(bytes, 0)?;
        put(pointer, base as *mut c_void)
    }
    fn cuMemHostAlloc(d, pointer: *mut *mut c_void, bytes: usize, flags: c_uint) {
        if flags & !7 != 0 {
            return Err(error::INVALID_VALUE);
        }
        let base = d.host(bytes, flags)?;
        put(pointer, base as *mut c_void)
    }
    fn cuMemFreeHost(d, pointer: *mut c_void) {
        let base = pointer as u64;
        if d.allocations.get(&base).is_none_or(|allocation| allocation.kind != Kind::Host) {
            return Err(error::INVALID_VALUE);
        }
        d.allocations.remove(&base);
        Ok(())
    }
    fn cuMemHostRegister_v2(d, pointer: *mut c_void, bytes: usize, flags: c_uint) {
        let context = d.usable()?;
        let base = pointer as u64;
        if base == 0 || bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        if d.find(base).is_some() || d.find(base + bytes as u64 - 1).is_some() {
            return Err(712);
        }
        let id = d.allocation_id();
        let mut allocation = Allocation::block(bytes as u64, Kind::Registered, context, d.contexts[&context].device, id);
        allocation.flags = flags;
        d.allocations.insert(base, allocation);
        Ok(())
    }
    fn cuMemHostUnregister(d, pointer: *mut c_void) {
        d.usable()?;
        let base = pointer as u64;
        if d.allocations.get(&base).is_none_or(|allocation| allocation.kind != Kind::Registered) {
            return Err(713);
        }
        d.allocations.remove(&base);
        Ok(())
    }
    fn cuMemHostGetDevicePointer_v2(d, dptr: *mut u64, pointer: *mut c_void, _flags: c_uint) {
        d.usable()?;
        match d.find(pointer as u64) {
            Some((_, allocation)) if allocation.is_host() => put(dptr, pointer as u64),
            _ => Err(error::INVALID_VALUE),
        }
    }
    fn cuMemHostGetFlags(d, flags: *mut c_uint, pointer: *mut c_void) {
        d.usable()?;
        match d.find(pointer as u64) {
            // The driver maps all of it, whatever was asked for.
            Some((_, allocation)) if allocation.kind == Kind::Host => put(flags, allocation.flags | 2),
            Some((_, allocation)) if allocation.kind == Kind::Registered => put(flags, allocation.flags),
            _ => Err(error::INVALID_VALUE),
        }
    }

    // The further arguments are advice.
    fn cuMemAdvise | cuMemAdvise_v2 | cuMemPrefetchAsync_v2_ptsz | cuMemPrefetchAsync | cuMemPrefetchAsync_ptsz | cuMemPrefetchAsync_v2(d, pointer: u64) {
        d.usable()?;
        d.find(pointer).map(|_| ()).ok_or(error::INVALID_VALUE)
    }
    fn cuMemRangeGetAttribute(d, data: *mut c_int, size: usize, attribute: c_int, pointer: u64, _count: usize) {
        let (_, allocation) = d.find(pointer).ok_or(error::INVALID_VALUE)?;
        if allocation.kind != Kind::Managed || size < 4 {
            return Err(error::INVALID_VALUE);
        }
        let device = d.ordinal(allocation.device);
        // 1 read-mostly, 2 preferred location, 3 accessed by, 4 last prefetch
        put(data, match attribute { 1 => 0, 2 | 4 => -2, 3 => device, _ => return Err(error::INVALID_VALUE) })
    }

    fn cuPointerGetAttribute(d, data: *mut c_void, attribute: c_int, pointer: u64) {
        d.usable().or_else(|code| if code == error::INVALID_CONTEXT { Ok(0) } else { Err(code) })?;
        d.pointer_attribute(attribute, data, pointer)
    }
    fn cuPointerGetAttributes(d, count: c_uint, attributes: *const c_int, data: *const *mut c_void, pointer: u64) {
        let attributes = get_many(attributes, count as usize)?;
        let data = get_many(data, count as usize)?;
        let known = d.find(pointer).is_some() || d.vmm.find(pointer).is_some();
        for (attribute, to) in attributes.into_iter().zip(data) {
            if known {
                if d.pointer_attribute(attribute, to, pointer).is_err() && !to.is_null() {
                    put(to.cast(), 0_u64)?;
                }
                continue;
            }
            // An unknown pointer is no error here: its attributes are zero, its device is none.
            match attribute {
                6 | 8 | 10 | 13 | 15 => put(to.cast(), 0_u8)?,
                2 | 16 => put(to.cast(), 0_u32)?,
                9 => put(to.cast(), -2_i32)?,
                _ => put(to.cast(), 0_u64)?,
            }
        }
        Ok(())
    }
    fn cuPointerSetAttribute(d, _value: *const c_void, attribute: c_int, pointer: u64) {
        if attribute != 6 || d.find(pointer).is_none() {
            return Err(error::INVALID_VALUE);
        }
        Ok(())
    }

    fn cuIpcGetMemHandle(d, handle: *mut CUipcMemHandle, pointer: u64) {
        d.usable()?;
        let (base, allocation) = d.find(pointer).ok_or(error::INVALID_VALUE)?;
        let (kind, size, device) = (allocation.kind, allocation.size, allocation.device);
        let mapping = match kind {
            Kind::Small => d.chunks.range_mut(..=base).next_back().map(|(_, mapping)| mapping),
            Kind::Large => d.allocations.get_mut(&base).and_then(|allocation| allocation.mapping.as_mut()),
            _ => return Err(error::INVALID_VALUE),
        };
        let mapping = mapping.ok_or(error::INVALID_VALUE)?;
        // A number that no other file of this slot has, whoever had the slot before.
        let path = d.shared.memory_path(d.slot, monotonic());
        let path = mapping.share(path).ok_or(error::OUT_OF_MEMORY)?;
        let number = path.extension().and_then(|text| text.to_str()?.parse().ok()).ok_or(error::UNKNOWN)?;
        let memory = IpcMemory {
            magic: IPC_MAGIC,
            pid: std::process::id(),
            device: device as u32,
            slot: d.slot as u64,
            number,
            offset: base - mapping.base(),
            size,
            mapped: mapping.len(),
            reserved: 0,
        };
        put(handle.cast(), memory)
    }
    fn cuIpcOpenMemHandle | cuIpcOpenMemHandle_v2(d, pointer: *mut u64, handle: CUipcMemHandle, _flags: c_uint) {
        let context = d.usable()?;
        let memory: IpcMemory = super::get((&raw const handle).cast())?;
        if memory.magic != IPC_MAGIC {
            return Err(error::INVALID_VALUE);
        }
        // As the real driver: one of another pid namespace that has the same number counts as this one.
        if memory.pid == std::process::id() {
            return Err(error::INVALID_CONTEXT);
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(d.shared.memory_path(memory.slot as usize, memory.number))
            .map_err(|_| error::INVALID_VALUE)?;
        let mapping = Mapping::of_file(&file, memory.mapped).ok_or(error::OUT_OF_MEMORY)?;
        let base = mapping.base() + memory.offset;
        let id = d.allocation_id();
        let device = memory.device as usize;
        if device >= d.devices.len() {
            return Err(error::INVALID_VALUE);
        }
        let mut allocation = Allocation::block(memory.size, Kind::Imported, context, device, id);
        allocation.mapping = Some(mapping);
        d.allocations.insert(base, allocation);
        put(pointer, base)
    }
    fn cuIpcCloseMemHandle(d, pointer: u64) {
        d.usable()?;
        if d.allocations.get(&pointer).is_none_or(|allocation| allocation.kind != Kind::Imported) {
            return Err(error::INVALID_VALUE);
        }
        d.allocations.remove(&pointer);
        Ok(())
    }
}

/// What `bytes` cost as an allocation of their own: small ones share chunks and cost nothing here.
pub(crate) fn own_pages(bytes: u64) -> Option<u64> {
    (bytes > SMALL).then(|| round_up(bytes, PAGE))
}
