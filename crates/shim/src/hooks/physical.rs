//! Physical memory that is mapped by hand (`cuMemCreate`, `cuMemMap`): charged until its handle is released *and* all
//! its mappings are gone, as the driver keeps it.
use super::memory::{charge, kind};
use super::{PAGE, member, pages};
use crate::process::{self, Books, Process};
use crate::real::real;
use crate::system;
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUmemAllocationProp, CUresult, MEM_LOCATION_DEVICE, error};
use cleave_ledger::{Kind, Ledger};
use core::ffi::c_void;
use core::sync::atomic::Ordering;

/// Notes handle `handle` of a new physical allocation that costs `bytes`.
fn enter(books: &mut Books, handle: u64, bytes: u64, device: usize, kind: Kind) {
    books.next_physical += 1;
    let number = books.next_physical;
    books.table.insert(Space::Handle, handle, Entry::new(number, 0, device, kind));
    books.table.insert(Space::Physical, number, Entry::new(bytes, 0, device, kind));
}

/// Takes one reference of physical allocation `number` away, and its charge with the last.
fn drop_reference(books: &mut Books, ledger: &Ledger<'_>, number: u64) {
    let Some(physical) = books.table.get(Space::Physical, number) else { return };
    physical.count = physical.count.saturating_sub(1);
    if physical.count == 0
        && let Some(gone) = books.table.remove(Space::Physical, number)
    {
        let device = gone.device.into();
        // An exported file descriptor keeps the memory, and NVML does not show it for any process.
        if gone.b > 0 && system::is_open(gone.b as i32 - 1) {
            ledger.take(device, Kind::Import, gone.a);
            books.table.insert(Space::Exported, number, Entry::new(gone.a, gone.b, device, Kind::Import));
        }
        ledger.release(device, kind(&gone), gone.a);
    }
}

/// Gives back what was kept by exported file descriptors that have been closed since.
pub fn settle_exports(p: &Process) {
    p.books(|books, ledger| {
        books.table.drain(|space, entry| {
            let closed = space == Space::Exported && !system::is_open(entry.b as i32 - 1);
            if closed {
                ledger.release(entry.device.into(), Kind::Import, entry.a);
            }
            closed
        });
    });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemExportToShareableHandle(to: *mut c_void, handle: u64, form: i32, flags: u64) -> CUresult {
    let status = real!(cuMemExportToShareableHandle(to: *mut c_void, handle: u64, form: i32, flags: u64));
    const FILE_DESCRIPTOR: i32 = 1;
    if let (Some(p), error::SUCCESS, FILE_DESCRIPTOR) = (member!(), status, form) {
        // SAFETY: the driver has written a file descriptor to the caller's place.
        let fd = unsafe { *to.cast::<i32>() };
        p.exports.store(1, Ordering::Relaxed);
        p.books(|books, ledger| {
            // The kernel gives a number out again once it is closed: what bore it before is no longer kept by it.
            let again = fd as u64 + 1;
            while let Some(other) = books.table.find(|space, entry| space == Space::Exported && entry.b == again) {
                let Some(gone) = books.table.remove(Space::Exported, other) else { break };
                ledger.release(gone.device.into(), Kind::Import, gone.a);
            }
            while let Some(other) = books.table.find(|space, entry| space == Space::Physical && entry.b == again) {
                let Some(physical) = books.table.get(Space::Physical, other) else { break };
                physical.b = 0;
            }
            let Some(number) = books.table.get(Space::Handle, handle).map(|entry| entry.a) else { return };
            if let Some(physical) = books.table.get(Space::Physical, number) {
                physical.b = again;
            }
        });
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemCreate(
    handle: *mut u64,
    bytes: usize,
    properties: *const CUmemAllocationProp,
    flags: u64,
) -> CUresult {
    let call =
        || real!(cuMemCreate(handle: *mut u64, bytes: usize, properties: *const CUmemAllocationProp, flags: u64));
    let Some(p) = member!() else { return call() };
    // SAFETY: the caller's properties, or null, which the driver refuses.
    let Some(location) = (unsafe { properties.as_ref() }).map(|properties| properties.location) else { return call() };
    if location.kind != MEM_LOCATION_DEVICE {
        // Host memory: not the device's to charge.
        return call();
    }
    let Some(device) = p.device_of(location.id) else {
        // No such device at all: the driver says so. One of another slice: not this slice's to use.
        let status = call();
        if status == error::SUCCESS {
            // SAFETY: the driver has written the caller's handle.
            let made = unsafe { *handle };
            real!(cuMemRelease(made: u64));
            return error::NOT_PERMITTED;
        }
        return status;
    };
    let cost = pages(bytes as u64);
    if !charge(p, device, Kind::Physical, cost) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    if status == error::SUCCESS {
        // SAFETY: the driver has written the caller's handle.
        let handle = unsafe { *handle };
        p.books(|books, _| enter(books, handle, cost, device, Kind::Physical));
    } else {
        p.release(device, Kind::Physical, cost);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRelease(handle: u64) -> CUresult {
    let Some(p) = process::member() else { return real!(cuMemRelease(handle: u64)) };
    // Taken out first where this is the handle's last reference: the driver may give its value out again.
    let entry = p.books(|books, _| match books.table.get(Space::Handle, handle) {
        Some(entry) if entry.count > 1 => {
            entry.count -= 1;
            None
        }
        Some(_) => books.table.remove(Space::Handle, handle),
        None => None,
    });
    let status = real!(cuMemRelease(handle: u64));
    if let Some(entry) = entry {
        p.books(|books, ledger| {
            if status == error::SUCCESS {
                drop_reference(books, &ledger, entry.a);
            } else {
                books.table.insert(Space::Handle, handle, entry);
            }
        });
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64) -> CUresult {
    let call = || real!(cuMemMap(address: u64, bytes: usize, offset: usize, handle: u64, flags: u64));
    let Some(p) = member!() else { return call() };
    // Imported memory has no size until it is mapped; it is charged then.
    let imported = p.books(|books, _| {
        books.table.get(Space::Handle, handle).filter(|h| kind(h) == Kind::Import).map(|h| (h.device.into(), h.a))
    });
    let cost = pages(bytes as u64);
    let mut charged = None;
    if let Some((device, number)) = imported {
        let known = p.books(|books, _| books.table.get(Space::Physical, number).map_or(cost, |physical| physical.a));
        if known < cost {
            if !charge(p, device, Kind::Import, cost - known) {
                return error::OUT_OF_MEMORY;
            }
            charged = Some((device, cost - known));
        }
    }
    let status = call();
    if status != error::SUCCESS {
        if let Some((device, more)) = charged {
            p.release(device, Kind::Import, more);
        }
        return status;
    }
    p.books(|books, _| {
        let Some(number) = books.table.get(Space::Handle, handle).map(|h| h.a) else { return };
        let Some(physical) = books.table.get(Space::Physical, number) else { return };
        physical.count += 1;
        if charged.is_some() {
            physical.a = cost;
        }
        let entry = Entry::new(number, bytes as u64, physical.device.into(), kind(physical));
        books.table.insert(Space::Mapping, address, entry);
    });
    status
}

/// Calls `each` with the mappings of `space` that lie in a range, taken out of the table.
fn take_mappings(
    books: &mut Books,
    space: Space,
    address: u64,
    bytes: usize,
    mut each: impl FnMut(&mut Books, u64, Entry),
) {
    let end = address.saturating_add(bytes as u64);
    let mut at = address;
    while at < end {
        let mut length = PAGE;
        if let Some(mapping) = books.table.remove(space, at) {
            length = mapping.b.max(PAGE);
            each(books, at, mapping);
        }
        at = at.saturating_add(length);
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemUnmap(address: u64, bytes: usize) -> CUresult {
    let call = || real!(cuMemUnmap(address: u64, bytes: usize));
    let Some(p) = process::member() else { return call() };
    // Taken out first: once the driver has unmapped it, another thread may map something there.
    let move_to = |from, to| {
        p.books(|books, _| {
            take_mappings(books, from, address, bytes, |books, at, mapping| {
                books.table.insert(to, at, mapping);
            });
        });
    };
    move_to(Space::Mapping, Space::Unmapping);
    let status = call();
    if status == error::SUCCESS {
        p.books(|books, ledger| {
            take_mappings(books, Space::Unmapping, address, bytes, |books, _, mapping| {
                drop_reference(books, &ledger, mapping.a);
            });
        });
    } else {
        move_to(Space::Unmapping, Space::Mapping);
    }
    status
}

/// Where the mapping that contains `address` starts: mappings start at multiples of a page.
fn mapping_of(books: &mut Books, address: u64) -> Option<u64> {
    const FARTHEST: u64 = 1 << 16;
    let page = address / PAGE * PAGE;
    for back in 0..FARTHEST {
        let start = page.checked_sub(back * PAGE)?;
        if let Some(mapping) = books.table.get(Space::Mapping, start) {
            return (address < start.saturating_add(mapping.b)).then_some(mapping.a);
        }
    }
    None
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemRetainAllocationHandle(handle: *mut u64, address: *mut c_void) -> CUresult {
    let status = real!(cuMemRetainAllocationHandle(handle: *mut u64, address: *mut c_void));
    if let (Some(p), error::SUCCESS) = (member!(), status) {
        // SAFETY: the driver has written the caller's handle.
        let handle = unsafe { *handle };
        p.books(|books, _| {
            if let Some(known) = books.table.get(Space::Handle, handle) {
                known.count += 1;
            } else if let Some(number) = mapping_of(books, address as u64)
                && let Some(physical) = books.table.get(Space::Physical, number)
            {
                physical.count += 1;
                let entry = Entry::new(number, 0, physical.device.into(), kind(physical));
                books.table.insert(Space::Handle, handle, entry);
            }
        });
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemImportFromShareableHandle(handle: *mut u64, from: *mut c_void, form: i32) -> CUresult {
    let status = real!(cuMemImportFromShareableHandle(handle: *mut u64, from: *mut c_void, form: i32));
    if let (Some(p), error::SUCCESS) = (member!(), status) {
        // SAFETY: the driver has written the caller's handle.
        let handle = unsafe { *handle };
        let device = import_device(p, handle);
        const FILE_DESCRIPTOR: i32 = 1;
        let fd = if form == FILE_DESCRIPTOR { from as u64 + 1 } else { 0 };
        p.exports.store(1, Ordering::Relaxed);
        p.books(|books, _| imported(books, handle, fd, device));
    }
    status
}

fn import_device(p: &Process, handle: u64) -> usize {
    let mut properties = core::mem::MaybeUninit::<CUmemAllocationProp>::zeroed();
    let status = crate::real::driver!(cuMemGetAllocationPropertiesFromHandle(
        properties.as_mut_ptr() => *mut CUmemAllocationProp, handle => u64));
    // SAFETY: zeros are valid properties, and the driver may have written others.
    let location = unsafe { properties.assume_init() }.location;
    if status == error::SUCCESS { p.device_of(location.id).unwrap_or(0) } else { 0 }
}

/// Notes a handle that came from file descriptor `fd` (plus one; 0 = from elsewhere). What this process exported and
/// released is charged already; the charge passes to the handle.
fn imported(books: &mut Books, handle: u64, fd: u64, device: usize) {
    if let Some(known) = books.table.get(Space::Handle, handle) {
        known.count += 1;
        return;
    }
    let kept = books.table.find(|space, entry| space == Space::Exported && fd > 0 && entry.b == fd);
    let bytes = kept.and_then(|number| books.table.remove(Space::Exported, number)).map_or(0, |entry| entry.a);
    enter(books, handle, bytes, device, Kind::Import);
    let number = books.next_physical;
    if let Some(physical) = books.table.get(Space::Physical, number) {
        physical.b = fd;
    }
}
