//! Allocations that the driver places itself: linear memory, managed memory, arrays.
use super::{PAGE, SMALL, current_context, current_device, member, pages, physical, pool};
use crate::process::{self, Process};
use crate::real::real;
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUDA_ARRAY_DESCRIPTOR, CUDA_ARRAY3D_DESCRIPTOR, CUresult, Handle, error};
use cleave_ledger::Kind;
use core::sync::atomic::Ordering;

/// Reserves; where it does not fit, first gives back what the process's pools no longer have.
pub fn charge(p: &Process, device: usize, kind: Kind, bytes: u64) -> bool {
    if p.reserve(device, kind, bytes) {
        return true;
    }
    pool::settle_all(p);
    if p.exports.load(Ordering::Relaxed) != 0 {
        physical::settle_exports(p);
    }
    p.reserve_or_deny(device, kind, bytes)
}

/// An allocation of `bytes` in linear memory: `call` makes it, `pointer` reads its address afterwards.
///
/// The driver cuts allocations of up to 1 MiB from pages that it shares among them, and rounds larger ones up to whole
/// pages. So a small one costs a page or nothing, depending on where it came to lie: a page is reserved for it, and
/// given back if the page it lies in is charged already.
fn linear(p: &Process, bytes: u64, call: &dyn Fn() -> CUresult, pointer: &dyn Fn() -> u64) -> CUresult {
    let device = match current_device(p) {
        Ok(device) => device,
        Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
        // No context: the driver says so.
        Err(_) => return call(),
    };
    let cost = if bytes <= SMALL { PAGE } else { pages(bytes) };
    if !charge(p, device, Kind::Linear, cost) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    if status != error::SUCCESS {
        p.release(device, Kind::Linear, cost);
        return status;
    }
    let pointer = pointer();
    let context = current_context(p);
    p.books(|books, ledger| {
        let entry = Entry::new(cost, 0, device, Kind::Linear).in_context(context);
        if bytes <= SMALL {
            match books.table.get(Space::Chunk, pointer / PAGE) {
                Some(chunk) => {
                    chunk.count += 1;
                    ledger.release(device, Kind::Linear, PAGE);
                }
                None => {
                    books.table.insert(Space::Chunk, pointer / PAGE, entry);
                }
            }
        } else {
            books.table.insert(Space::Linear, pointer, entry);
        }
    });
    status
}

/// Frees linear memory: `call` does it.
fn free(p: &Process, pointer: u64, call: &dyn Fn() -> CUresult) -> CUresult {
    enum Was {
        Own(Entry),
        Small,
        Unknown,
    }
    // The entry of an own allocation is taken out first: as soon as the driver has freed the address, another thread
    // may get it again and enter it.
    let was = p.books(|books, _| match books.table.remove(Space::Linear, pointer) {
        Some(entry) => Was::Own(entry),
        None if books.table.get(Space::Chunk, pointer / PAGE).is_some() => Was::Small,
        None => Was::Unknown,
    });
    let status = call();
    let freed = status == error::SUCCESS;
    match was {
        Was::Own(entry) if freed => p.release(entry.device.into(), kind(&entry), entry.a),
        Was::Own(entry) => p.books(|books, _| {
            books.table.insert(Space::Linear, pointer, entry);
        }),
        Was::Small if freed => p.books(|books, ledger| {
            let Some(chunk) = books.table.get(Space::Chunk, pointer / PAGE) else { return };
            chunk.count = chunk.count.saturating_sub(1);
            if chunk.count == 0
                && let Some(chunk) = books.table.remove(Space::Chunk, pointer / PAGE)
            {
                ledger.release(chunk.device.into(), Kind::Linear, PAGE);
            }
        }),
        Was::Small => {}
        // A pool's, or one that came from elsewhere: the driver has decided. A pool may be smaller now.
        Was::Unknown if freed && pointer != 0 => {
            p.pools_dirty.store(1, Ordering::Relaxed);
            pool::settle_all(p);
        }
        Was::Unknown => {}
    }
    status
}

/// The kind that an entry was charged for.
pub fn kind(entry: &Entry) -> Kind {
    Kind::ALL.get(usize::from(entry.kind)).copied().unwrap_or(Kind::Linear)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(pointer: *mut u64, bytes: usize) -> CUresult {
    let Some(p) = member!() else { return real!(cuMemAlloc_v2(pointer: *mut u64, bytes: usize)) };
    // SAFETY: the driver has written the caller's pointer.
    linear(p, bytes as u64, &|| real!(cuMemAlloc_v2(pointer: *mut u64, bytes: usize)), &|| unsafe { *pointer })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc(pointer: *mut u32, bytes: u32) -> CUresult {
    let Some(p) = member!() else { return real!(cuMemAlloc(pointer: *mut u32, bytes: u32)) };
    // SAFETY: the driver has written the caller's pointer.
    linear(p, bytes.into(), &|| real!(cuMemAlloc(pointer: *mut u32, bytes: u32)), &|| unsafe { (*pointer).into() })
}

/// The driver's pitch is a multiple of at most this (measured: 512 on driver 580).
const PITCH: u64 = 512;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch_v2(
    pointer: *mut u64,
    pitch: *mut usize,
    width: usize,
    height: usize,
    element: u32,
) -> CUresult {
    let call =
        || real!(cuMemAllocPitch_v2(pointer: *mut u64, pitch: *mut usize, width: usize, height: usize, element: u32));
    let Some(p) = member!() else { return call() };
    let bytes = (width as u64).div_ceil(PITCH).saturating_mul(PITCH).saturating_mul(height as u64);
    // SAFETY: the driver has written the caller's pointer.
    linear(p, bytes, &call, &|| unsafe { *pointer })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocPitch(
    pointer: *mut u32,
    pitch: *mut u32,
    width: u32,
    height: u32,
    element: u32,
) -> CUresult {
    let call = || real!(cuMemAllocPitch(pointer: *mut u32, pitch: *mut u32, width: u32, height: u32, element: u32));
    let Some(p) = member!() else { return call() };
    let bytes = u64::from(width).div_ceil(PITCH).saturating_mul(PITCH).saturating_mul(height.into());
    // SAFETY: the driver has written the caller's pointer.
    linear(p, bytes, &call, &|| unsafe { (*pointer).into() })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocManaged(pointer: *mut u64, bytes: usize, flags: u32) -> CUresult {
    let call = || real!(cuMemAllocManaged(pointer: *mut u64, bytes: usize, flags: u32));
    let Some(p) = member!() else { return call() };
    let device = match current_device(p) {
        Ok(device) => device,
        Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
        Err(_) => return call(),
    };
    // Managed memory moves between host and device; all of it may be on the device, so all of it is charged.
    let cost = pages(bytes as u64);
    if !charge(p, device, Kind::Managed, cost) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    if status != error::SUCCESS {
        p.release(device, Kind::Managed, cost);
        return status;
    }
    let context = current_context(p);
    // SAFETY: the driver has written the caller's pointer.
    let address = unsafe { *pointer };
    p.books(|books, _| {
        books.table.insert(Space::Linear, address, Entry::new(cost, 0, device, Kind::Managed).in_context(context));
    });
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(pointer: u64) -> CUresult {
    let Some(p) = process::member() else { return real!(cuMemFree_v2(pointer: u64)) };
    free(p, pointer, &|| real!(cuMemFree_v2(pointer: u64)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree(pointer: u32) -> CUresult {
    let Some(p) = process::member() else { return real!(cuMemFree(pointer: u32)) };
    free(p, pointer.into(), &|| real!(cuMemFree(pointer: u32)))
}

/// What an array of this format is made of (measured on driver 580): the side of a block in texels, and the bytes of one.
fn texels(format: i32, channels: u32) -> (u64, u64) {
    let channel = match format {
        0x01 | 0x08 => 1,
        0x02 | 0x09 | 0x10 => 2,
        0x03 | 0x0a | 0x20 => 4,
        // BC1 and BC4; BC2, BC3, BC5, BC6 and BC7.
        0x91 | 0x92 | 0x97 | 0x98 => return (4, 8),
        0x93..=0x9e => return (4, 16),
        // Normalised integers, 8 and 16 bits: of one, two and four channels. Ten bits a colour and two of alpha.
        0xc0 | 0xc6 => return (1, 1),
        0xc1 | 0xc3 | 0xc7 | 0xc9 => return (1, 2),
        0xc2 | 0xc4 | 0xc8 | 0xca | 0x50 => return (1, 4),
        0xc5 | 0xcb => return (1, 8),
        // Planar and packed formats: no texel is larger than four channels of 32 bits.
        _ => return (1, 16),
    };
    (1, channel * u64::from(channels.max(1)))
}

/// Most bytes that an array of this description takes: rows of whole 64 bytes, in blocks of 8 to 128 rows (measured to
/// be exact on driver 580 for two and three dimensions and full mip chains).
fn array_bytes(d: &CUDA_ARRAY3D_DESCRIPTOR, levels: u32) -> u64 {
    const SPARSE_OR_DEFERRED: u32 = 0x40 | 0x80;
    if d.flags & SPARSE_OR_DEFERRED != 0 {
        return 0;
    }
    let (block, element) = texels(d.format, d.num_channels);
    let mut total = 0u64;
    for level in 0..levels.clamp(1, 32) {
        let width = (d.width as u64 >> level).max(1);
        let height = (d.height as u64 >> level).max(1);
        const LAYERED_OR_CUBE: u32 = 1 | 4;
        let depth = if d.flags & LAYERED_OR_CUBE != 0 { d.depth as u64 } else { d.depth as u64 >> level }.max(1);
        let (columns, rows) = (width.div_ceil(block), height.div_ceil(block));
        let row = columns.saturating_mul(element).div_ceil(64).saturating_mul(64);
        let tile = rows.div_ceil(8).next_power_of_two().min(16) * 8;
        let rows = rows.div_ceil(tile).saturating_mul(tile);
        total = total.saturating_add(row.saturating_mul(rows).saturating_mul(depth));
    }
    pages(total)
}

fn array(
    p: &Process,
    description: &CUDA_ARRAY3D_DESCRIPTOR,
    levels: u32,
    call: &dyn Fn() -> CUresult,
    handle: &dyn Fn() -> u64,
) -> CUresult {
    let device = match current_device(p) {
        Ok(device) => device,
        Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
        Err(_) => return call(),
    };
    let cost = array_bytes(description, levels);
    if !charge(p, device, Kind::Array, cost) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    if status != error::SUCCESS {
        p.release(device, Kind::Array, cost);
        return status;
    }
    let context = current_context(p);
    let handle = handle();
    p.books(|books, _| {
        books.table.insert(Space::Array, handle, Entry::new(cost, 0, device, Kind::Array).in_context(context));
    });
    status
}

fn destroy_array(p: &Process, handle: Handle, call: &dyn Fn() -> CUresult) -> CUresult {
    let entry = p.books(|books, _| books.table.remove(Space::Array, handle as u64));
    let status = call();
    if let Some(entry) = entry {
        if status == error::SUCCESS {
            p.release(entry.device.into(), Kind::Array, entry.a);
        } else {
            p.books(|books, _| {
                books.table.insert(Space::Array, handle as u64, entry);
            });
        }
    }
    status
}

fn flat(width: u64, height: u64, format: i32, num_channels: u32) -> CUDA_ARRAY3D_DESCRIPTOR {
    CUDA_ARRAY3D_DESCRIPTOR { width: width as usize, height: height as usize, depth: 0, format, num_channels, flags: 0 }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayCreate_v2(handle: *mut Handle, d: *const CUDA_ARRAY_DESCRIPTOR) -> CUresult {
    let call = || real!(cuArrayCreate_v2(handle: *mut Handle, d: *const CUDA_ARRAY_DESCRIPTOR));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's description, or null, which the driver refuses.
    let Some(d) = (unsafe { d.as_ref() }) else { return call() };
    let description = flat(d.width as u64, d.height as u64, d.format, d.num_channels);
    // SAFETY: the driver has written the caller's handle.
    array(p, &description, 1, &call, &|| unsafe { *handle as u64 })
}

/// `CUDA_ARRAY_DESCRIPTOR_v1`: 32-bit sizes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ArrayDescriptorV1 {
    width: u32,
    height: u32,
    format: i32,
    num_channels: u32,
}

/// `CUDA_ARRAY3D_DESCRIPTOR_v1`: 32-bit sizes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Array3dDescriptorV1 {
    width: u32,
    height: u32,
    depth: u32,
    format: i32,
    num_channels: u32,
    flags: u32,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayCreate(handle: *mut Handle, d: *const ArrayDescriptorV1) -> CUresult {
    let call = || real!(cuArrayCreate(handle: *mut Handle, d: *const ArrayDescriptorV1));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's description, or null, which the driver refuses.
    let Some(d) = (unsafe { d.as_ref() }) else { return call() };
    let description = flat(d.width.into(), d.height.into(), d.format, d.num_channels);
    // SAFETY: the driver has written the caller's handle.
    array(p, &description, 1, &call, &|| unsafe { *handle as u64 })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DCreate_v2(handle: *mut Handle, d: *const CUDA_ARRAY3D_DESCRIPTOR) -> CUresult {
    let call = || real!(cuArray3DCreate_v2(handle: *mut Handle, d: *const CUDA_ARRAY3D_DESCRIPTOR));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's description, or null, which the driver refuses.
    let Some(description) = (unsafe { d.as_ref() }) else { return call() };
    // SAFETY: the driver has written the caller's handle.
    array(p, description, 1, &call, &|| unsafe { *handle as u64 })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArray3DCreate(handle: *mut Handle, d: *const Array3dDescriptorV1) -> CUresult {
    let call = || real!(cuArray3DCreate(handle: *mut Handle, d: *const Array3dDescriptorV1));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's description, or null, which the driver refuses.
    let Some(d) = (unsafe { d.as_ref() }) else { return call() };
    let description = CUDA_ARRAY3D_DESCRIPTOR {
        depth: d.depth as usize,
        flags: d.flags,
        ..flat(d.width.into(), d.height.into(), d.format, d.num_channels)
    };
    // SAFETY: the driver has written the caller's handle.
    array(p, &description, 1, &call, &|| unsafe { *handle as u64 })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayCreate(
    handle: *mut Handle,
    d: *const CUDA_ARRAY3D_DESCRIPTOR,
    levels: u32,
) -> CUresult {
    let call = || real!(cuMipmappedArrayCreate(handle: *mut Handle, d: *const CUDA_ARRAY3D_DESCRIPTOR, levels: u32));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's description, or null, which the driver refuses.
    let Some(description) = (unsafe { d.as_ref() }) else { return call() };
    // SAFETY: the driver has written the caller's handle.
    array(p, description, levels, &call, &|| unsafe { *handle as u64 })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuArrayDestroy(handle: Handle) -> CUresult {
    let Some(p) = process::member() else { return real!(cuArrayDestroy(handle: Handle)) };
    destroy_array(p, handle, &|| real!(cuArrayDestroy(handle: Handle)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMipmappedArrayDestroy(handle: Handle) -> CUresult {
    let Some(p) = process::member() else { return real!(cuMipmappedArrayDestroy(handle: Handle)) };
    destroy_array(p, handle, &|| real!(cuMipmappedArrayDestroy(handle: Handle)))
}
