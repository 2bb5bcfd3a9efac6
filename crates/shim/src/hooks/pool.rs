//! Memory pools: charged by what the driver has reserved for them.
//!
//! A pool grows in steps of 32 MiB at its end, and gives back what is free at the next synchronisation (measured on
//! driver 580). Whether an allocation makes it grow is the driver's to know, so the most that it may grow is reserved
//! first, and what it did is read after.
use super::{captured, context_of, current_device, member};
use crate::gate;
use crate::process::{self, Books, POOLS, Pool, Process, wait};
use crate::real::{driver, real};
use cleave_cuda::types::{CUcontext, CUmemPoolProps, CUresult, CUstream, Handle, MEM_LOCATION_DEVICE, error};
use cleave_ledger::{HOST, Kind, Ledger};
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

/// What a pool grows by.
const STEP: u64 = 32 << 20;
const RESERVED_CURRENT: i32 = 5;
const USED_CURRENT: i32 = 7;

fn attribute(pool: u64, which: i32) -> Option<u64> {
    let mut value = 0u64;
    let status = driver!(cuMemPoolGetAttribute(pool as Handle => Handle, which => i32, &raw mut value => *mut u64));
    (status == error::SUCCESS).then_some(value)
}

/// Brings the charge of a pool to what the driver has reserved for it. `spare` bytes were reserved beforehand and are
/// given back or used up.
fn settle(pool: &mut Pool, ledger: &Ledger<'_>, spare: u64) {
    let device = usize::from(pool.device);
    let reserved = attribute(pool.handle, RESERVED_CURRENT).unwrap_or(pool.charged);
    let have = pool.charged + spare;
    if reserved < have {
        ledger.release(device, Kind::Pool, have - reserved);
    } else {
        ledger.take(device, Kind::Pool, reserved - have);
    }
    pool.charged = reserved;
    if reserved == 0 {
        pool.unbroken = true;
        pool.tail = 0;
    }
}

/// Brings the charges of all pools, and of graphs' memory, to what the driver has reserved.
#[inline(never)]
pub fn settle_all(p: &Process) {
    if p.pools_dirty.swap(0, Ordering::Relaxed) != 0 {
        p.books(|books, ledger| {
            let count = books.pool_count.min(POOLS);
            for pool in books.pools.iter_mut().take(count) {
                settle(pool, &ledger, 0);
                // What is free and still reserved may go at the next synchronisation.
                if attribute(pool.handle, USED_CURRENT).is_none_or(|used| used < pool.charged) {
                    p.pools_dirty.store(1, Ordering::Relaxed);
                }
            }
        });
    }
    if p.graph_memory.load(Ordering::Relaxed) != 0 {
        super::graph::settle_graphs(p);
    }
}

fn find(books: &mut Books, handle: u64) -> Option<&mut Pool> {
    let count = books.pool_count.min(POOLS);
    books.pools.iter_mut().take(count).find(|pool| pool.handle == handle)
}

fn enter(books: &mut Books, handle: u64, device: usize) {
    if find(books, handle).is_none()
        && let Some(place) = books.pools.get_mut(books.pool_count)
    {
        *place = Pool { handle, device: device as u8, unbroken: true, tail: 0, charged: 0 };
        books.pool_count += 1;
    }
}

/// An allocation of `bytes` from `pool` on `device`: `call` makes it and writes `pointer`.
fn allocate(
    p: &Process,
    pool: u64,
    device: usize,
    stream: CUstream,
    bytes: u64,
    pointer: *const u64,
    call: &dyn Fn() -> CUresult,
) -> CUresult {
    if captured(p, stream) == Ok(true) {
        // Becomes a node of a graph, which is charged when it is launched.
        p.graph_memory.store(1, Ordering::Relaxed);
        return call();
    }
    let block = bytes.div_ceil(512).saturating_mul(512);
    let growth = bytes.max(1).div_ceil(STEP).saturating_mul(STEP);
    // Where nothing was freed since the pool was empty, its free memory is one block at its end, and its tail says
    // whether it must grow. Else it may.
    enum Room {
        /// More pools than can be told apart.
        TooMany,
        There,
        Reserved,
        None,
    }
    let room = p.books(|books, ledger| {
        enter(books, pool, device);
        match find(books, pool) {
            Some(pool) if pool.unbroken && pool.tail.saturating_add(block) <= pool.charged => {
                pool.tail += block;
                Room::There
            }
            None => Room::TooMany,
            _ if ledger.reserve(device, Kind::Pool, growth, wait).is_ok() => Room::Reserved,
            _ => Room::None,
        }
    });
    match room {
        Room::TooMany => {
            p.slot().denied.fetch_add(1, Ordering::Relaxed);
            return error::OUT_OF_MEMORY;
        }
        Room::There => return call(),
        Room::Reserved => {}
        Room::None => {
            p.pools_dirty.store(1, Ordering::Relaxed);
            settle_all(p);
            if !p.reserve(device, Kind::Pool, growth) {
                return allocate_without_growth(p, pool, device, stream, growth, block, pointer, call);
            }
        }
    }
    let status = call();
    p.books(|books, ledger| match find(books, pool) {
        Some(pool) => {
            if status == error::SUCCESS && pool.unbroken {
                pool.tail += block;
            }
            settle(pool, &ledger, growth);
        }
        // Destroyed meanwhile by another thread.
        None => ledger.release(device, Kind::Pool, growth),
    });
    status
}

/// The pool may not grow. Where it has far more free than is asked for, it will not need to; should it grow all the
/// same, what it took is given back at once.
#[cold]
fn allocate_without_growth(
    p: &Process,
    pool: u64,
    device: usize,
    stream: CUstream,
    growth: u64,
    block: u64,
    pointer: *const u64,
    call: &dyn Fn() -> CUresult,
) -> CUresult {
    let free = attribute(pool, RESERVED_CURRENT).zip(attribute(pool, USED_CURRENT));
    if free.is_none_or(|(reserved, used)| reserved.saturating_sub(used) < block.saturating_mul(2).saturating_add(STEP))
    {
        return if p.reserve_or_deny(device, Kind::Pool, growth) {
            // Somebody made room just now.
            p.release(device, Kind::Pool, growth);
            allocate(p, pool, device, stream, block, pointer, call)
        } else {
            error::OUT_OF_MEMORY
        };
    }
    let status = call();
    let grew = p.books(|books, ledger| {
        find(books, pool).is_some_and(|pool| {
            let before = pool.charged;
            settle(pool, &ledger, 0);
            pool.charged > before
        })
    });
    if status == error::SUCCESS && grew && p.over_limit(device) {
        // SAFETY: the driver has written the caller's pointer.
        let address = unsafe { *pointer };
        driver!(cuMemFreeAsync(address => u64, stream => CUstream));
        driver!(cuStreamSynchronize(stream => CUstream));
        p.pools_dirty.store(1, Ordering::Relaxed);
        settle_all(p);
        p.slot().denied.fetch_add(1, Ordering::Relaxed);
        return error::OUT_OF_MEMORY;
    }
    status
}

/// The slice's device and the ordinal on which a stream's memory lies.
fn stream_device(p: &Process, stream: CUstream) -> Result<(usize, i32), CUresult> {
    if let Some(device) = p.sole_device() {
        return Ok((device, 0));
    }
    let mut ordinal = -1;
    let current = |ordinal: &mut i32| driver!(cuCtxGetDevice(&raw mut *ordinal => *mut i32));
    let status = match stream as u64 {
        3.. => match driver!(cuStreamGetDevice(stream => CUstream, &raw mut ordinal => *mut i32)) {
            // A driver before 12.8.
            error::NOT_FOUND => {
                let mut context = context_of(stream) as CUcontext;
                let pushed = driver!(cuCtxPushCurrent_v2(context => CUcontext));
                if pushed != error::SUCCESS {
                    return Err(pushed);
                }
                let status = current(&mut ordinal);
                driver!(cuCtxPopCurrent_v2(&raw mut context => *mut CUcontext));
                status
            }
            status => status,
        },
        _ => current(&mut ordinal),
    };
    if status != error::SUCCESS {
        return Err(status);
    }
    p.device_of(ordinal).map(|device| (device, ordinal)).ok_or(error::NOT_PERMITTED)
}

fn allocate_async(
    p: &Process,
    pointer: *mut u64,
    bytes: usize,
    stream: CUstream,
    call: &dyn Fn() -> CUresult,
) -> CUresult {
    let (device, ordinal) = match stream_device(p, stream) {
        Ok(found) => found,
        Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
        Err(_) => return call(),
    };
    match current_pool(p, device, ordinal) {
        Some(pool) => allocate(p, pool, device, stream, bytes as u64, pointer, call),
        None => call(),
    }
}

/// The pool from which a device's streams allocate.
#[inline]
fn current_pool(p: &Process, device: usize, ordinal: i32) -> Option<u64> {
    match p.current_pool.get(device)?.load(Ordering::Acquire) {
        0 => ask_current_pool(p, device, ordinal),
        pool => Some(pool),
    }
}

#[cold]
fn ask_current_pool(p: &Process, device: usize, ordinal: i32) -> Option<u64> {
    let before = p.books(|books, _| books.pool_changes);
    let mut pool: Handle = null_mut();
    if driver!(cuDeviceGetMemPool(&raw mut pool => *mut Handle, ordinal => i32)) != error::SUCCESS {
        return None;
    }
    p.books(|books, _| {
        // Kept unless it was changed since it was asked.
        if let Some(place) = p.current_pool.get(device).filter(|_| books.pool_changes == before) {
            place.store(pool as u64, Ordering::Release);
        }
    });
    Some(pool as u64)
}

/// Runs `call`, which may give a device another current pool.
pub fn changing_pools(p: &Process, call: &dyn Fn() -> CUresult) -> CUresult {
    let forget = || {
        p.books(|books, _| {
            books.pool_changes += 1;
            p.current_pool.iter().for_each(|place| place.store(0, Ordering::Release));
        });
    };
    forget();
    let status = call();
    forget();
    status
}

macro_rules! choosing {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
            let call = || real!($name($($argument: $type),*));
            let Some(p) = process::member() else { return call() };
            changing_pools(p, &call)
        }
    )*};
}
choosing!(
    cuDeviceSetMemPool(ordinal: i32, pool: Handle),
    cuMemSetMemPool(location: *mut c_void, kind: i32, pool: Handle),
);

macro_rules! beginning {
    ($($name:ident),* $(,)?) => {$(
        /// Whatever its parameters are, they are words, and come in registers.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(stream: CUstream, a: usize, b: usize, c: usize, d: usize, e: usize) -> CUresult {
            let call = || real!($name(stream: CUstream, a: usize, b: usize, c: usize, d: usize, e: usize));
            let Some(p) = process::member() else { return call() };
            p.captures.fetch_add(1, Ordering::AcqRel);
            gate::capture_begins(p);
            let status = call();
            if status != error::SUCCESS {
                p.captures.fetch_sub(1, Ordering::AcqRel);
            }
            status
        }
    )*};
}
beginning!(
    cuStreamBeginCapture,
    cuStreamBeginCapture_ptsz,
    cuStreamBeginCapture_v2,
    cuStreamBeginCapture_v2_ptsz,
    cuStreamBeginCaptureToCig,
    cuStreamBeginCaptureToGraph,
    cuStreamBeginCaptureToGraph_ptsz,
    cuStreamBeginRecaptureToGraph,
);

macro_rules! ending {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
            let member = process::member();
            let status = real!($name($($argument: $type),*));
            // A capture that was invalidated ends as well. One whose stream is destroyed stays counted, which costs a
            // question per allocation.
            const CAPTURE_INVALIDATED: CUresult = 901;
            if let (Some(p), error::SUCCESS | CAPTURE_INVALIDATED) = (member, status) {
                let less = |count: u32| count.checked_sub(1);
                let _ = p.captures.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
            }
            status
        }
    )*};
}
ending!(
    cuStreamEndCapture(stream: CUstream, graph: *mut Handle),
    cuStreamEndCapture_ptsz(stream: CUstream, graph: *mut Handle),
    cuStreamEndCaptureToCig(stream: CUstream),
);

fn allocate_from(
    p: &Process,
    pointer: *mut u64,
    bytes: usize,
    pool: Handle,
    stream: CUstream,
    call: &dyn Fn() -> CUresult,
) -> CUresult {
    let known = p.books(|books, _| find(books, pool as u64).map(|pool| usize::from(pool.device)));
    let device = match known {
        Some(device) => device,
        // A default pool that was asked for by name.
        None => {
            let mut found = None;
            super::for_each_ordinal(p, |ordinal, device| {
                let mut default: Handle = null_mut();
                let status = driver!(cuDeviceGetDefaultMemPool(&raw mut default => *mut Handle, ordinal => i32));
                if status == error::SUCCESS && default == pool {
                    found = Some(device);
                }
            });
            match found.map_or_else(|| current_device(p), Ok) {
                Ok(device) => device,
                Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
                Err(_) => return call(),
            }
        }
    };
    allocate(p, pool as u64, device, stream, bytes as u64, pointer, call)
}

/// The stream that a caller means by 0: the legacy default stream, or (in the `_ptsz` forms) the thread's own, whose name
/// for the plain forms is 2.
fn named(stream: CUstream, default: usize) -> CUstream {
    if stream.is_null() { core::ptr::without_provenance_mut(default) } else { stream }
}

macro_rules! asynchronous {
    ($($alloc:ident $from:ident $free:ident, stream 0 is $default:literal);* $(;)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $alloc(pointer: *mut u64, bytes: usize, stream: CUstream) -> CUresult {
            let call = || real!($alloc(pointer: *mut u64, bytes: usize, stream: CUstream));
            let Some(p) = member!() else { return call() };
            allocate_async(p, pointer, bytes, named(stream, $default), &call)
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $from(pointer: *mut u64, bytes: usize, pool: Handle, stream: CUstream) -> CUresult {
            let call = || real!($from(pointer: *mut u64, bytes: usize, pool: Handle, stream: CUstream));
            let Some(p) = member!() else { return call() };
            allocate_from(p, pointer, bytes, pool, named(stream, $default), &call)
        }

        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $free(pointer: u64, stream: CUstream) -> CUresult {
            if let Some(p) = process::member() {
                p.pools_dirty.store(1, Ordering::Relaxed);
                p.books(|books, _| {
                    // Which pool it is from is the driver's to know.
                    let count = books.pool_count.min(POOLS);
                    for pool in books.pools.iter_mut().take(count) {
                        pool.unbroken = false;
                    }
                });
            }
            let status = real!($free(pointer: u64, stream: CUstream));
            if let Some(p) = process::member() {
                // Again: another thread may have read the pools' figures in between.
                p.pools_dirty.store(1, Ordering::Relaxed);
            }
            status
        }
    )*};
}
asynchronous!(
    cuMemAllocAsync cuMemAllocFromPoolAsync cuMemFreeAsync, stream 0 is 0;
    cuMemAllocAsync_ptsz cuMemAllocFromPoolAsync_ptsz cuMemFreeAsync_ptsz, stream 0 is 2;
);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(pool: *mut Handle, properties: *const CUmemPoolProps) -> CUresult {
    let call = || real!(cuMemPoolCreate(pool: *mut Handle, properties: *const CUmemPoolProps));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's properties, or null, which the driver refuses.
    let Some(location) = (unsafe { properties.as_ref() }).map(|properties| properties.location) else { return call() };
    let status = call();
    if status != error::SUCCESS {
        return status;
    }
    // SAFETY: the driver has written the caller's handle.
    let handle = unsafe { *pool };
    // A pool of host memory is pinned memory.
    let device = if location.kind == MEM_LOCATION_DEVICE { p.device_of(location.id) } else { Some(HOST) };
    match device {
        Some(device) => p.books(|books, _| enter(books, handle as u64, device)),
        None => {
            driver!(cuMemPoolDestroy(handle => Handle));
            return error::NOT_PERMITTED;
        }
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolDestroy(pool: Handle) -> CUresult {
    let Some(p) = process::member() else { return real!(cuMemPoolDestroy(pool: Handle)) };
    // Taken out first: afterwards the handle may be another pool's.
    let gone = p.books(|books, _| {
        let count = books.pool_count.min(POOLS);
        let place = books.pools.iter().take(count).position(|known| known.handle == pool as u64)?;
        let gone = books.pools.get(place).copied()?;
        let last = books.pools.get(count.checked_sub(1)?).copied()?;
        *books.pools.get_mut(place)? = last;
        books.pool_count = count - 1;
        Some(gone)
    });
    let unused = attribute(pool as u64, USED_CURRENT) == Some(0);
    // A device whose current pool it was has its default one again.
    let status = changing_pools(p, &|| real!(cuMemPoolDestroy(pool: Handle)));
    if let Some(gone) = gone {
        let device = usize::from(gone.device);
        if status != error::SUCCESS {
            p.books(|books, _| {
                if let Some(place) = books.pools.get_mut(books.pool_count) {
                    *place = gone;
                    books.pool_count += 1;
                }
            });
        } else if unused || device != HOST && p.measure_in_place_of(device, gone.charged).is_some() {
            // What is still allocated from the pool keeps its memory; it is measured from now on, where that can be done.
            p.release(device, Kind::Pool, gone.charged);
        }
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolTrimTo(pool: Handle, keep: usize) -> CUresult {
    let status = real!(cuMemPoolTrimTo(pool: Handle, keep: usize));
    if let Some(p) = process::member() {
        p.pools_dirty.store(1, Ordering::Relaxed);
        settle_all(p);
    }
    status
}

/// After a synchronisation, pools may have given memory back, and who was urgent is no longer.
macro_rules! synchronising {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
            synchronise(|| real!($name($($argument: $type),*)))
        }
    )*};
}
synchronising!(
    cuStreamSynchronize(stream: CUstream),
    cuStreamSynchronize_ptsz(stream: CUstream),
    cuEventSynchronize(event: Handle),
);

/// Waits for the GPU by `call`; what was freed before is given back by then.
pub fn synchronise(call: impl Fn() -> CUresult) -> CUresult {
    let Some(p) = process::member() else { return call() };
    let status = match current_device(p) {
        Ok(device) => gate::waiting(p, device, call),
        Err(_) => call(),
    };
    if p.pools_dirty.load(Ordering::Relaxed) != 0 {
        settle_all(p);
    }
    status
}
