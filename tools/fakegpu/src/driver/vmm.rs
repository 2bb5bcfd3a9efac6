//! Virtual memory management: reserved addresses, memory without addresses, and mappings between them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd};

use cleave_cuda::types::{CUmemAllocationProp, CUmemLocation, error};
use core::ffi::{c_int, c_void};

use super::{Driver, Outcome, get, get_many, put};
use crate::alloc::PAGE;
use crate::map::{Mapping, memory_file};

/// Memory made by `cuMemCreate`.
struct Memory {
    size: u64,
    device: usize,
    /// Host memory costs the device nothing.
    charged: bool,
    properties: CUmemAllocationProp,
    file: File,
    handles: u32,
    mappings: u32,
}

/// Memory at an address.
struct Mapped {
    len: u64,
    memory: u64,
    readable: bool,
    writable: bool,
}

/// All of it in this process.
#[derive(Default)]
pub(crate) struct Vmm {
    memories: HashMap<u64, Memory>,
    reservations: BTreeMap<u64, Mapping>,
    mapped: BTreeMap<u64, Mapped>,
}

// SAFETY: `CUmemAllocationProp` holds a pointer that is only meaningful on Windows and never followed.
unsafe impl Send for Memory {}

/// A mapping as seen from an address in it.
pub(crate) struct Found {
    pub base: u64,
    pub len: u64,
    pub handle: u64,
    pub device: usize,
    pub writable: bool,
}

impl Vmm {
    /// The mapping that holds an address.
    pub fn find(&self, address: u64) -> Option<Found> {
        let (&base, mapped) = self.mapped.range(..=address).next_back()?;
        if address - base >= mapped.len {
            return None;
        }
        let device = self.memories.get(&mapped.memory)?.device;
        Some(Found { base, len: mapped.len, handle: mapped.memory, device, writable: mapped.writable })
    }

    /// Whether an address lies in a reservation, mapped or not.
    pub fn reserved(&self, address: u64) -> bool {
        self.reservation(address, 1).is_some()
    }

    fn reservation(&self, address: u64, len: u64) -> Option<&Mapping> {
        let (&base, reservation) = self.reservations.range(..=address).next_back()?;
        (address.checked_add(len)? <= base + reservation.len()).then_some(reservation)
    }

    /// The mappings that lie whole in a range; an error if the range cuts one or holds none.
    fn whole(&self, address: u64, len: u64) -> Outcome<Vec<u64>> {
        let end = address.checked_add(len).ok_or(error::INVALID_VALUE)?;
        if self.mapped.range(..address).next_back().is_some_and(|(base, mapped)| base + mapped.len > address) {
            return Err(error::INVALID_VALUE);
        }
        let mut covered = address;
        let mut bases = Vec::new();
        for (&base, mapped) in self.mapped.range(address..end) {
            if base != covered || base + mapped.len > end {
                return Err(error::INVALID_VALUE);
            }
            covered = base + mapped.len;
            bases.push(base);
        }
        if covered == end && len > 0 { Ok(bases) } else { Err(error::INVALID_VALUE) }
    }
}

impl Driver {
    fn vmm_drop_unused(&mut self, id: u64) {
        if self.vmm.memories.get(&id).is_some_and(|memory| memory.handles == 0 && memory.mappings == 0)
            && let Some(memory) = self.vmm.memories.remove(&id)
            && memory.charged
        {
            self.release(memory.device, memory.size, true);
        }
    }
}

fn granularity_of(properties: &CUmemAllocationProp) -> u64 {
    if properties.location.kind == 1 { PAGE } else { 4096 }
}

entry! {
    fn cuMemGetAllocationGranularity(d, granularity: *mut usize, properties: *const CUmemAllocationProp, _option: c_int) {
        let properties = get(properties)?;
        if properties.location.kind == 1 {
            d.device(properties.location.id)?;
        }
        put(granularity, granularity_of(&properties) as usize)
    }
    fn cuMemCreate(d, handle: *mut u64, size: usize, properties: *const CUmemAllocationProp, flags: u64) {
        let properties = get(properties)?;
        let size = size as u64;
        if size == 0 || !size.is_multiple_of(granularity_of(&properties)) || flags != 0 || properties.kind != 1 || handle.is_null() {
            return Err(error::INVALID_VALUE);
        }
        let charged = properties.location.kind == 1;
        let device = if charged { d.device(properties.location.id)? } else { 0 };
        if charged {
            d.charge(device, size, true)?;
        }
        let Some(file) = memory_file(size) else {
            if charged {
                d.release(device, size, true);
            }
            return Err(error::OUT_OF_MEMORY);
        };
        let id = d.handle();
        d.vmm.memories.insert(id, Memory { size, device, charged, properties, file, handles: 1, mappings: 0 });
        put(handle, id)
    }
    fn cuMemRelease(d, handle: u64) {
        let memory = d.vmm.memories.get_mut(&handle).filter(|memory| memory.handles > 0).ok_or(error::INVALID_VALUE)?;
        memory.handles -= 1;
        d.vmm_drop_unused(handle);
        Ok(())
    }
    fn cuMemRetainAllocationHandle(d, handle: *mut u64, address: *mut c_void) {
        let found = d.vmm.find(address as u64).ok_or(error::INVALID_VALUE)?;
        if let Some(memory) = d.vmm.memories.get_mut(&found.handle) {
            memory.handles += 1;
        }
        put(handle, found.handle)
    }
    fn cuMemGetAllocationPropertiesFromHandle(d, properties: *mut CUmemAllocationProp, handle: u64) {
        let memory = d.vmm.memories.get(&handle).ok_or(error::INVALID_VALUE)?;
        put(properties, memory.properties)
    }
    fn cuMemAddressReserve(d, address: *mut u64, size: usize, alignment: usize, _at: u64, flags: u64) {
        if size == 0 || !(size as u64).is_multiple_of(4096) || flags != 0 || address.is_null() || alignment != 0 && !alignment.is_power_of_two() {
            return Err(error::INVALID_VALUE);
        }
        let reservation = Mapping::addresses(size as u64, alignment as u64).ok_or(error::OUT_OF_MEMORY)?;
        let base = reservation.base();
        d.vmm.reservations.insert(base, reservation);
        put(address, base)
    }
    fn cuMemAddressFree(d, address: u64, size: usize) {
        let reservation = d.vmm.reservations.get(&address).ok_or(error::INVALID_VALUE)?;
        if reservation.len() != size as u64 || d.vmm.mapped.range(address..address + size as u64).next().is_some() {
            return Err(error::INVALID_VALUE);
        }
        d.vmm.reservations.remove(&address);
        Ok(())
    }
    fn cuMemMap(d, address: u64, size: usize, offset: usize, handle: u64, flags: u64) {
        let size = size as u64;
        if d.vmm.memories.get(&handle).is_none_or(|memory| memory.handles == 0) || flags != 0 || size == 0 {
            return Err(error::INVALID_VALUE);
        }
        let memory = &d.vmm.memories[&handle];
        let granularity = granularity_of(&memory.properties);
        if !address.is_multiple_of(granularity) || !size.is_multiple_of(granularity) || offset as u64 + size > memory.size {
            return Err(error::INVALID_VALUE);
        }
        // The driver maps whole allocations only.
        if offset != 0 || size != memory.size {
            return Err(error::NOT_SUPPORTED);
        }
        let reservation = d.vmm.reservation(address, size).ok_or(error::INVALID_VALUE)?;
        let end = address + size;
        if d.vmm.mapped.range(..end).next_back().is_some_and(|(base, mapped)| base + mapped.len > address) {
            return Err(error::INVALID_VALUE);
        }
        if !reservation.place(address, size, &memory.file) {
            return Err(error::OUT_OF_MEMORY);
        }
        d.vmm.mapped.insert(address, Mapped { len: size, memory: handle, readable: false, writable: false });
        if let Some(memory) = d.vmm.memories.get_mut(&handle) {
            memory.mappings += 1;
        }
        Ok(())
    }
    fn cuMemUnmap(d, address: u64, size: usize) {
        for base in d.vmm.whole(address, size as u64)? {
            let Some(mapped) = d.vmm.mapped.remove(&base) else { continue };
            if let Some(reservation) = d.vmm.reservation(base, mapped.len) {
                reservation.clear(base, mapped.len);
            }
            if let Some(memory) = d.vmm.memories.get_mut(&mapped.memory) {
                memory.mappings -= 1;
            }
            d.vmm_drop_unused(mapped.memory);
        }
        Ok(())
    }
    fn cuMemSetAccess(d, address: u64, size: usize, descriptors: *const [c_int; 3], count: usize) {
        let bases = d.vmm.whole(address, size as u64)?;
        for [kind, id, flags] in get_many(descriptors, count)? {
            if kind == 1 {
                d.device(id)?;
            }
            if !matches!(flags, 0 | 1 | 3) {
                return Err(error::INVALID_VALUE);
            }
            for base in &bases {
                let Some(mapped) = d.vmm.mapped.get_mut(base) else { continue };
                (mapped.readable, mapped.writable) = (flags & 1 != 0, flags & 2 != 0);
                let (len, readable, writable) = (mapped.len, mapped.readable, mapped.writable);
                if let Some(reservation) = d.vmm.reservation(*base, len) {
                    reservation.protect(*base, len, readable, writable);
                }
            }
        }
        Ok(())
    }
    fn cuMemGetAccess(d, flags: *mut u64, location: *const CUmemLocation, address: u64) {
        let location = get(location)?;
        let found = d.vmm.find(address).ok_or(error::INVALID_VALUE)?;
        let mapped = &d.vmm.mapped[&found.base];
        let here = location.kind != 1 || location.id == d.ordinal(found.device);
        put(flags, match (here, mapped.readable, mapped.writable) { (true, _, true) => 3, (true, true, _) => 1, _ => 0 })
    }
    fn cuMemExportToShareableHandle(d, shareable: *mut c_void, handle: u64, kind: c_int, _flags: u64) {
        let memory = d.vmm.memories.get(&handle).ok_or(error::INVALID_VALUE)?;
        if kind != 1 || memory.properties.requested_handle_types & 1 == 0 {
            return Err(error::INVALID_VALUE);
        }
        let copy = memory.file.try_clone().map_err(|_| error::OUT_OF_MEMORY)?;
        put(shareable.cast(), copy.into_raw_fd())
    }
    fn cuMemImportFromShareableHandle(d, handle: *mut u64, shareable: *mut c_void, kind: c_int) {
        if kind != 1 {
            return Err(error::INVALID_VALUE);
        }
        // SAFETY: the descriptor stays the program's; what is made of it is forgotten again below.
        let theirs = unsafe { File::from_raw_fd(shareable as usize as c_int) };
        let copy = theirs.try_clone();
        let _ = theirs.into_raw_fd();
        let file = copy.map_err(|_| error::INVALID_VALUE)?;
        let size = file.metadata().map_err(|_| error::INVALID_VALUE)?.len();
        if size == 0 || !size.is_multiple_of(4096) {
            return Err(error::INVALID_VALUE);
        }
        let properties = CUmemAllocationProp {
            kind: 1,
            requested_handle_types: 1,
            location: CUmemLocation { kind: 1, id: 0 },
            win32_handle_meta_data: std::ptr::null_mut(),
            alloc_flags: [0; 8],
        };
        let id = d.handle();
        // The process that made it pays for it.
        d.vmm.memories.insert(id, Memory { size, device: 0, charged: false, properties, file, handles: 1, mappings: 0 });
        put(handle, id)
    }
}
