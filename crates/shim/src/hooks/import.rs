//! Memory of other owners, opened here: charged to the importer, unless a process of the same slice exported it and so
//! pays for it already.
use super::memory::charge;
use super::{current_context, current_device, member, pages};
use crate::process::{self, Process};
use crate::real::{driver, real};
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUipcMemHandle, CUresult, Handle, error};
use cleave_ledger::{EXPORTS, Kind};
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// A number for an IPC handle (FNV-1a), never 0.
fn hash(handle: &CUipcMemHandle) -> u64 {
    let hash = handle
        .reserved
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    hash.max(1)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcGetMemHandle(handle: *mut CUipcMemHandle, pointer: u64) -> CUresult {
    let status = real!(cuIpcGetMemHandle(handle: *mut CUipcMemHandle, pointer: u64));
    if let (Some(p), error::SUCCESS) = (member!(), status) {
        // SAFETY: the driver has written the caller's handle.
        let hash = hash(unsafe { &*handle });
        let exports = &p.slot().exports;
        if !exports.iter().any(|known| known.load(Ordering::Relaxed) == hash) {
            // The oldest goes when the places are used up; importing it then costs the importer.
            let place = exports.iter().position(|known| known.load(Ordering::Relaxed) == 0);
            let place = place.unwrap_or(hash as usize % EXPORTS);
            if let Some(known) = exports.get(place) {
                known.store(hash, Ordering::Relaxed);
            }
        }
    }
    status
}

fn exported_in_slice(p: &Process, handle: &CUipcMemHandle) -> bool {
    let hash = hash(handle);
    let ledger = p.ledger();
    ledger.usage().slots.iter().any(|slot| slot.exports.iter().any(|known| known.load(Ordering::Relaxed) == hash))
}

/// After an IPC handle was opened at `pointer`: charges it, or closes it again where the slice may not have it.
fn opened(p: &Process, pointer: u64, handle: &CUipcMemHandle) -> CUresult {
    let Ok(device) = current_device(p) else { return error::SUCCESS };
    let (mut base, mut bytes) = (0u64, 0usize);
    driver!(cuMemGetAddressRange_v2(&raw mut base => *mut u64, &raw mut bytes => *mut usize, pointer => u64));
    let cost = if exported_in_slice(p, handle) { 0 } else { pages(bytes as u64) };
    // Opening the same handle again gives the same address, and costs nothing more.
    let known = p.books(|books, _| books.table.get(Space::Ipc, pointer).map(|entry| entry.count += 1).is_some());
    if known {
        return error::SUCCESS;
    }
    if !charge(p, device, Kind::Import, cost) {
        real!(cuIpcCloseMemHandle(pointer: u64));
        return error::OUT_OF_MEMORY;
    }
    let context = current_context(p);
    p.books(|books, _| {
        books.table.insert(Space::Ipc, pointer, Entry::new(cost, 0, device, Kind::Import).in_context(context));
    });
    error::SUCCESS
}

macro_rules! opening {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(pointer: *mut u64, handle: CUipcMemHandle, flags: u32) -> CUresult {
            let status = real!($name(pointer: *mut u64, handle: CUipcMemHandle, flags: u32));
            match (member!(), status) {
                // SAFETY: the driver has written the caller's pointer.
                (Some(p), error::SUCCESS) => opened(p, unsafe { *pointer }, &handle),
                _ => status,
            }
        }
    )*};
}
opening!(cuIpcOpenMemHandle, cuIpcOpenMemHandle_v2);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuIpcCloseMemHandle(pointer: u64) -> CUresult {
    let call = || real!(cuIpcCloseMemHandle(pointer: u64));
    let Some(p) = process::member() else { return call() };
    // Taken out first: once the driver has closed the last one, the address may be another's.
    let entry = p.books(|books, _| {
        let mut entry = books.table.remove(Space::Ipc, pointer)?;
        let last = entry.count <= 1;
        if !last {
            entry.count -= 1;
            books.table.insert(Space::Ipc, pointer, entry);
        }
        entry.count = 1;
        Some((entry, last))
    });
    let status = call();
    if let Some((entry, last)) = entry {
        match status {
            error::SUCCESS if last => p.release(entry.device.into(), Kind::Import, entry.a),
            error::SUCCESS => {}
            _ => p.books(|books, _| match books.table.get(Space::Ipc, pointer) {
                Some(known) => known.count += 1,
                None => {
                    books.table.insert(Space::Ipc, pointer, entry);
                }
            }),
        }
    }
    status
}

/// `CUDA_EXTERNAL_MEMORY_HANDLE_DESC` up to what is needed here.
#[repr(C)]
pub struct ExternalMemory {
    kind: i32,
    handle: [u64; 2],
    size: u64,
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuImportExternalMemory(memory: *mut Handle, description: *const ExternalMemory) -> CUresult {
    let call = || real!(cuImportExternalMemory(memory: *mut Handle, description: *const ExternalMemory));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's description, or null, which the driver refuses.
    let Some(bytes) = (unsafe { description.as_ref() }).map(|description| description.size) else { return call() };
    let Ok(device) = current_device(p) else { return call() };
    let cost = pages(bytes);
    if !charge(p, device, Kind::Import, cost) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    if status == error::SUCCESS {
        // SAFETY: the driver has written the caller's handle.
        let memory = unsafe { *memory } as u64;
        let context = current_context(p);
        p.books(|books, _| {
            let entry = Entry::new(cost, 0, device, Kind::Import).in_context(context);
            books.table.insert(Space::External, memory, entry);
        });
    } else {
        p.release(device, Kind::Import, cost);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDestroyExternalMemory(memory: *mut c_void) -> CUresult {
    let entry = match process::member() {
        Some(p) => p.books(|books, _| books.table.remove(Space::External, memory as u64)).map(|entry| (p, entry)),
        None => None,
    };
    let status = real!(cuDestroyExternalMemory(memory: *mut c_void));
    if let Some((p, entry)) = entry {
        p.release(entry.device.into(), Kind::Import, entry.a);
    }
    status
}
