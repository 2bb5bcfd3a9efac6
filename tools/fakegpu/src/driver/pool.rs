//! Stream-ordered memory: pools, and the memory of graphs.

use cleave_cuda::types::{CUmemPoolProps, error};
use core::ffi::{c_int, c_void};

use super::memory::{Allocation, Kind};
use super::{Driver, Outcome, get, put};
use crate::alloc::{Heap, POOL_STEP, round_up};
use crate::map::Mapping;

/// A memory pool.
pub(crate) struct Pool {
    pub device: usize,
    /// Its memory is the host's, and costs the device nothing.
    host: bool,
    heap: Heap,
    window: Mapping,
    threshold: u64,
    reuse: [c_int; 3],
    /// Not the device's own: can be destroyed.
    explicit: bool,
    /// Destroyed, and kept until its last block is freed.
    doomed: bool,
}

/// The memory of a device's graphs.
#[derive(Debug, Default)]
pub(crate) struct GraphMemory {
    used: u64,
    used_high: u64,
    reserved: u64,
    reserved_high: u64,
}

impl Driver {
    fn pool_create(&mut self, device: usize, host: bool, max_size: u64, explicit: bool) -> Outcome<u64> {
        // Twice the device is more than fragmentation can need.
        let window = Mapping::memory(self.model(device).total_bytes * 2).ok_or(error::OUT_OF_MEMORY)?;
        let limit = if max_size == 0 { window.len() } else { round_up(max_size, POOL_STEP).min(window.len()) };
        let id = self.handle();
        let pool =
            Pool { device, host, heap: Heap::new(limit), window, threshold: 0, reuse: [1; 3], explicit, doomed: false };
        self.pools.insert(id, pool);
        Ok(id)
    }

    /// The device's own pool.
    fn pool_default(&mut self, device: usize) -> Outcome<u64> {
        if let Some(pool) = self.devices[device].default_pool {
            return Ok(pool);
        }
        let pool = self.pool_create(device, false, 0, false)?;
        self.devices[device].default_pool = Some(pool);
        Ok(pool)
    }

    /// The pool that allocations on the device's streams come from.
    pub(crate) fn pool_current(&mut self, device: usize) -> Outcome<u64> {
        match self.devices[device].current_pool {
            Some(pool) => Ok(pool),
            None => self.pool_default(device),
        }
    }

    fn pool_allocate(&mut self, id: u64, bytes: u64, context: u64) -> Outcome<u64> {
        let pool = self.pools.get(&id).ok_or(error::INVALID_VALUE)?;
        let device = pool.device;
        let (at, reserved) = pool.heap.plan(bytes).ok_or(error::OUT_OF_MEMORY)?;
        let growth = reserved - pool.heap.reserved();
        if growth > 0 && !pool.host {
            self.charge(device, growth, true)?;
        }
        let allocation_id = self.allocation_id();
        let pool = self.pools.get_mut(&id).ok_or(error::INVALID_VALUE)?;
        pool.heap.take(at, bytes, reserved);
        let base = pool.window.base() + at;
        self.allocations.insert(base, Allocation::block(bytes, Kind::Pool(id), context, device, allocation_id));
        Ok(base)
    }

    /// Takes a block back; the pool keeps its memory until it is trimmed.
    pub(crate) fn pool_give(&mut self, id: u64, base: u64) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        pool.heap.give(base - pool.window.base());
        if pool.doomed && pool.heap.used() == 0 {
            self.pool_remove(id);
        }
    }

    fn pool_remove(&mut self, id: u64) {
        if let Some(pool) = self.pools.remove(&id)
            && !pool.host
        {
            self.release(pool.device, pool.heap.reserved(), true);
        }
    }

    fn pool_trim(&mut self, id: u64, keep: u64) {
        let Some(pool) = self.pools.get_mut(&id) else { return };
        let released = pool.heap.trim(keep);
        if released > 0 {
            let (device, host) = (pool.device, pool.host);
            pool.window.discard(pool.window.base() + pool.heap.reserved(), released);
            if !host {
                self.release(device, released, true);
            }
        }
    }

    /// What happens to the pools at a point of synchronisation: unused memory goes, down to the threshold.
    pub(crate) fn pools_trim(&mut self, device: usize) {
        let pools: Vec<(u64, u64)> = self
            .pools
            .iter()
            .filter(|(_, pool)| pool.device == device)
            .map(|(id, pool)| (*id, pool.threshold))
            .collect();
        for (id, threshold) in pools {
            self.pool_trim(id, threshold);
        }
    }

    /// The last context of a device is gone: so is what its pools held.
    pub(crate) fn pools_of_device_gone(&mut self, device: usize) {
        let pools: Vec<u64> = self.pools.iter().filter(|(_, pool)| pool.device == device).map(|(id, _)| *id).collect();
        for id in pools {
            self.allocations.retain(|_, allocation| allocation.kind != Kind::Pool(id));
            self.pool_remove(id);
        }
        self.devices[device].default_pool = None;
        self.devices[device].current_pool = None;
    }

    fn allocate_async(&mut self, bytes: usize, pool: Option<u64>, stream: u64) -> Outcome<u64> {
        if bytes == 0 {
            return Err(error::INVALID_VALUE);
        }
        let found = self.streams.get(&stream).ok_or(error::INVALID_HANDLE)?;
        let (device, context, captured) = (found.device, found.context, found.capture.is_some());
        let pool = match pool {
            Some(pool) => pool,
            None => self.pool_current(device)?,
        };
        if captured {
            let device = self.pools.get(&pool).ok_or(error::INVALID_VALUE)?.device;
            return self.capture_allocate(stream, device, bytes as u64);
        }
        self.pool_allocate(pool, bytes as u64, context)
    }

    /// Memory for a graph that is launched: `bytes` more in use.
    pub(crate) fn graph_memory_take(&mut self, device: usize, bytes: u64) -> Outcome {
        self.graph_memory_reserve(device, bytes)?;
        let memory = &mut self.devices[device].graph_memory;
        memory.used += bytes;
        memory.used_high = memory.used_high.max(memory.used);
        Ok(())
    }

    /// Reserves what a launch that needs `bytes` more would.
    pub(crate) fn graph_memory_reserve(&mut self, device: usize, bytes: u64) -> Outcome {
        let memory = &self.devices[device].graph_memory;
        let needed = round_up(memory.used + bytes, POOL_STEP);
        let growth = needed.saturating_sub(memory.reserved);
        if growth > 0 {
            self.charge(device, growth, true)?;
            let memory = &mut self.devices[device].graph_memory;
            memory.reserved += growth;
            memory.reserved_high = memory.reserved_high.max(memory.reserved);
        }
        Ok(())
    }

    /// A graph's allocation is no longer in use; its memory stays reserved.
    pub(crate) fn graph_memory_free(&mut self, base: u64) -> Outcome {
        let allocation = self.allocations.get_mut(&base).ok_or(error::INVALID_VALUE)?;
        if allocation.kind != (Kind::Graph { live: true }) {
            return Err(error::INVALID_VALUE);
        }
        allocation.kind = Kind::Graph { live: false };
        let (device, size) = (allocation.device, allocation.size);
        let memory = &mut self.devices[device].graph_memory;
        memory.used = memory.used.saturating_sub(size);
        Ok(())
    }

    /// Gives back what graphs have reserved and do not use.
    pub(crate) fn graph_memory_trim(&mut self, device: usize) {
        let memory = &mut self.devices[device].graph_memory;
        let keep = round_up(memory.used, POOL_STEP).min(memory.reserved);
        let released = memory.reserved - keep;
        memory.reserved = keep;
        self.release(device, released, true);
    }
}

entry! {
    fn cuMemAllocAsync | cuMemAllocAsync_ptsz(d, dptr: *mut u64, bytes: usize, stream: *mut c_void) {
        let stream = d.stream(stream, PER_THREAD)?;
        let base = d.allocate_async(bytes, None, stream)?;
        put(dptr, base)
    }
    fn cuMemAllocFromPoolAsync | cuMemAllocFromPoolAsync_ptsz(d, dptr: *mut u64, bytes: usize, pool: *mut c_void, stream: *mut c_void) {
        let stream = d.stream(stream, PER_THREAD)?;
        let base = d.allocate_async(bytes, Some(pool as u64), stream)?;
        put(dptr, base)
    }
    fn cuMemFreeAsync | cuMemFreeAsync_ptsz(d, dptr: u64, stream: *mut c_void) {
        let stream = d.stream(stream, PER_THREAD)?;
        if d.streams[&stream].capture.is_some() {
            return d.capture_free(stream, dptr);
        }
        if dptr == 0 {
            return Err(error::INVALID_VALUE);
        }
        d.free(dptr)
    }
    fn cuMemPoolCreate(d, pool: *mut *mut c_void, props: *const CUmemPoolProps) {
        let props = get(props)?;
        if props.alloc_type != 1 {
            return Err(error::INVALID_VALUE);
        }
        let (device, host) = match props.location.kind {
            1 => (d.device(props.location.id)?, false),
            // The host, whatever its node of memory: of the current device, at whose synchronisations it is trimmed.
            2..=4 => (d.contexts[&d.usable()?].device, true),
            _ => return Err(error::INVALID_VALUE),
        };
        let id = d.pool_create(device, host, props.max_size as u64, true)?;
        put(pool, id as *mut c_void)
    }
    fn cuMemPoolDestroy(d, pool: *mut c_void) {
        let id = pool as u64;
        let found = d.pools.get_mut(&id).ok_or(error::INVALID_VALUE)?;
        if !found.explicit || found.doomed {
            return Err(error::INVALID_VALUE);
        }
        let (device, empty) = (found.device, found.heap.used() == 0);
        found.doomed = true;
        found.threshold = 0;
        if d.devices[device].current_pool == Some(id) {
            d.devices[device].current_pool = None;
        }
        if empty {
            d.pool_remove(id);
        }
        Ok(())
    }
    fn cuMemPoolTrimTo(d, pool: *mut c_void, keep: usize) {
        if !d.pools.contains_key(&(pool as u64)) {
            return Err(error::INVALID_VALUE);
        }
        d.pool_trim(pool as u64, keep as u64);
        Ok(())
    }
    fn cuMemPoolSetAttribute(d, pool: *mut c_void, attribute: c_int, value: *const c_void) {
        let pool = d.pools.get_mut(&(pool as u64)).ok_or(error::INVALID_VALUE)?;
        match attribute {
            1..=3 => pool.reuse[attribute as usize - 1] = get(value.cast())?,
            4 => pool.threshold = get(value.cast())?,
            // A high-water mark can only be set back.
            6 if get::<u64>(value.cast())? == 0 => pool.heap.reserved_high = pool.heap.reserved(),
            8 if get::<u64>(value.cast())? == 0 => pool.heap.used_high = pool.heap.used(),
            _ => return Err(error::INVALID_VALUE),
        }
        Ok(())
    }
    fn cuMemPoolGetAttribute(d, pool: *mut c_void, attribute: c_int, value: *mut c_void) {
        let pool = d.pools.get(&(pool as u64)).ok_or(error::INVALID_VALUE)?;
        match attribute {
            1..=3 => put(value.cast(), pool.reuse[attribute as usize - 1]),
            4 => put(value.cast(), pool.threshold),
            5 => put(value.cast(), pool.heap.reserved()),
            6 => put(value.cast(), pool.heap.reserved_high),
            7 => put(value.cast(), pool.heap.used()),
            8 => put(value.cast(), pool.heap.used_high),
            _ => Err(error::INVALID_VALUE),
        }
    }
    fn cuMemPoolSetAccess(d, pool: *mut c_void, _map: *const c_void, _count: usize) {
        d.pools.get(&(pool as u64)).map(|_| ()).ok_or(error::INVALID_VALUE)
    }
    fn cuMemPoolGetAccess(d, flags: *mut c_int, pool: *mut c_void, location: *const [c_int; 2]) {
        let pool = d.pools.get(&(pool as u64)).ok_or(error::INVALID_VALUE)?;
        let location = get(location)?;
        put(flags, if location == [1, d.ordinal(pool.device)] { 3 } else { 0 })
    }
    fn cuDeviceGetDefaultMemPool(d, pool: *mut *mut c_void, dev: c_int) {
        let device = d.device(dev)?;
        let id = d.pool_default(device)?;
        put(pool, id as *mut c_void)
    }
    fn cuDeviceGetMemPool(d, pool: *mut *mut c_void, dev: c_int) {
        let device = d.device(dev)?;
        let id = d.pool_current(device)?;
        put(pool, id as *mut c_void)
    }
    fn cuDeviceSetMemPool(d, dev: c_int, pool: *mut c_void) {
        let device = d.device(dev)?;
        let id = pool as u64;
        if d.pools.get(&id).is_none_or(|pool| pool.device != device) {
            return Err(error::INVALID_VALUE);
        }
        d.devices[device].current_pool = Some(id);
        Ok(())
    }
    fn cuMemGetDefaultMemPool | cuMemGetMemPool(d, pool: *mut *mut c_void, location: *const [c_int; 2], kind: c_int) {
        let [place, id] = get(location)?;
        if place != 1 || kind != 1 {
            return Err(error::NOT_SUPPORTED);
        }
        let device = d.device(id)?;
        let id = d.pool_current(device)?;
        put(pool, id as *mut c_void)
    }
    fn cuMemSetMemPool(d, location: *const [c_int; 2], _kind: c_int, pool: *mut c_void) {
        let [_, id] = get(location)?;
        let device = d.device(id)?;
        if d.pools.get(&(pool as u64)).is_none_or(|pool| pool.device != device) {
            return Err(error::INVALID_VALUE);
        }
        d.devices[device].current_pool = Some(pool as u64);
        Ok(())
    }
    fn cuDeviceGetGraphMemAttribute(d, dev: c_int, attribute: c_int, value: *mut u64) {
        let device = d.device(dev)?;
        let memory = &d.devices[device].graph_memory;
        put(value, match attribute {
            0 => memory.used,
            1 => memory.used_high,
            2 => memory.reserved,
            3 => memory.reserved_high,
            _ => return Err(error::INVALID_VALUE),
        })
    }
    fn cuDeviceSetGraphMemAttribute(d, dev: c_int, attribute: c_int, value: *const u64) {
        let device = d.device(dev)?;
        if get(value)? != 0 {
            return Err(error::INVALID_VALUE);
        }
        let memory = &mut d.devices[device].graph_memory;
        match attribute {
            1 => memory.used_high = memory.used,
            3 => memory.reserved_high = memory.reserved,
            _ => return Err(error::INVALID_VALUE),
        }
        Ok(())
    }
    fn cuDeviceGraphMemTrim(d, dev: c_int) {
        let device = d.device(dev)?;
        d.graph_memory_trim(device);
        Ok(())
    }
}
