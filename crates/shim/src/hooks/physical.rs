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
    if physical.count > 0 {
        return;
    }
    let (device, bytes) = (usize::from(physical.device), physical.a);
    let exported = physical.b > 0;
    let open = |space, entry: &Entry| space == Space::Exported && entry.a == number && system::is_open(entry.b as i32);
    if exported && books.table.find(open).is_some() {
        // An exported file descriptor keeps the memory, and NVML does not show it for any process.
        if let Some(physical) = books.table.get(Space::Physical, number) {
            ledger.take(device, Kind::Import, bytes);
            ledger.release(device, kind(physical), bytes);
            physical.kind = Kind::Import as u8;
        }
    } else if let Some(gone) = books.table.remove(Space::Physical, number) {
        ledger.release(device, kind(&gone), bytes);
    }
}

/// Forgets an exported file descriptor that has been closed: what only it kept is given back.
fn forget_export(books: &mut Books, ledger: &Ledger<'_>, fd: u64) {
    let Some(export) = books.table.remove(Space::Exported, fd) else { return };
    let Some(physical) = books.table.get(Space::Physical, export.a) else { return };
    physical.b = physical.b.saturating_sub(1);
    if physical.count == 0
        && physical.b == 0
        && let Some(gone) = books.table.remove(Space::Physical, export.a)
    {
        ledger.release(gone.device.into(), kind(&gone), gone.a);
    }
}

/// Gives back what was kept by exported file descriptors that have been closed since.
pub fn settle_exports(p: &Process) {
    p.books(|books, ledger| {
        let closed = |space, entry: &Entry| space == Space::Exported && !system::is_open(entry.b as i32);
        while let Some(fd) = books.table.find(closed) {
            forget_export(books, &ledger, fd);
        }
    });
}

/// Notes that file descriptor `fd` keeps physical allocation `number`.
fn note_export(books: &mut Books, ledger: &Ledger<'_>, fd: u64, number: u64) {
    // The kernel gives a number out again once it is closed: what bore it before is no longer kept by it.
    forget_export(books, ledger, fd);
    if let Some(physical) = books.table.get(Space::Physical, number) {
        physical.b += 1;
        let entry = Entry::new(number, fd, physical.device.into(), Kind::Import);
        books.table.insert(Space::Exported, fd, entry);
    }
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
            if let Some(number) = books.table.get(Space::Handle, handle).map(|entry| entry.a) {
                note_export(books, &ledger, fd as u64, number);
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
        let fd = (form == FILE_DESCRIPTOR).then_some(from as u64);
        p.exports.store(1, Ordering::Relaxed);
        p.books(|books, ledger| imported(books, &ledger, handle, fd, device));
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

/// Notes a handle that came from file descriptor `fd`. What this process exported and released is charged already; the
/// handle is one more reference to it.
fn imported(books: &mut Books, ledger: &Ledger<'_>, handle: u64, fd: Option<u64>, device: usize) {
    if let Some(known) = books.table.get(Space::Handle, handle) {
        known.count += 1;
        return;
    }
    if let Some(export) = fd.and_then(|fd| books.table.get(Space::Exported, fd).map(|entry| entry.a))
        && let Some(physical) = books.table.get(Space::Physical, export)
        && physical.count == 0
    {
        physical.count = 1;
        let entry = Entry::new(export, 0, physical.device.into(), kind(physical));
        books.table.insert(Space::Handle, handle, entry);
        return;
    }
    enter(books, handle, 0, device, Kind::Import);
    if let Some(fd) = fd {
        note_export(books, ledger, fd, books.next_physical);
    }
}
