//! Modules and libraries. What their image says of their data is reserved while they load; the rest, their code, the
//! driver alone knows, so it is measured right after, and a module that took the slice past its limit is unloaded again.
use super::context::{heap_not_taken, heap_pending};
use super::memory::charge;
use super::{current_device, member, pages};
use crate::image::{static_bytes, static_bytes_within};
use crate::process::{self, Process};
use crate::real::{driver, real};
use crate::system;
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUresult, Handle, error};
use cleave_ledger::Kind;
use core::ffi::{c_char, c_void};

/// Runs `call`, which brings `bytes` of static data and code to the device: `undo` takes it back if the slice may not
/// have it.
pub fn bring(p: &Process, bytes: u64, call: &dyn Fn() -> CUresult, undo: &dyn Fn()) -> CUresult {
    let device = match current_device(p) {
        Ok(device) => device,
        Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
        Err(_) => return call(),
    };
    // A few small variables fit the page that the code takes, and are measured with it.
    let foretold = if bytes < super::SMALL { 0 } else { pages(bytes) };
    if !charge(p, device, Kind::Context, foretold) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    let measured = status == error::SUCCESS && p.measure_in_place_of(device, foretold).is_some();
    // Where nobody could measure, the estimate stands; the daemon sets it right when it is back.
    if measured || status != error::SUCCESS {
        p.release(device, Kind::Context, foretold);
    }
    if measured && p.over_limit(device) {
        undo();
        p.slot().denied.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        p.measure(device);
        return error::OUT_OF_MEMORY;
    }
    status
}

/// As [`bring`], for what launches nothing: a heap that is charged is not taken by it.
fn load(p: &Process, bytes: u64, call: &dyn Fn() -> CUresult, undo: &dyn Fn()) -> CUresult {
    let Some(device) = current_device(p).ok().filter(|device| heap_pending(p, *device)) else {
        return bring(p, bytes, call, undo);
    };
    p.measure(device);
    let before = p.unaccounted(device);
    let status = bring(p, bytes, call, undo);
    heap_not_taken(p, device, p.unaccounted(device).saturating_sub(before));
    status
}

fn measure_all(p: &Process) {
    super::for_each_ordinal(p, |_, device| {
        p.measure(device);
    });
}

/// Static data of the image in a file; 0 where it can't be read, as the driver is about to say.
///
/// # Safety
/// `path` must be null or end with a zero.
unsafe fn file_bytes(path: *const c_char) -> u64 {
    // SAFETY: the caller's promise; `with_file` gives so many bytes, and a zero.
    let read = || unsafe { system::with_file(path.cast(), |image, length| static_bytes_within(image, length)) };
    if path.is_null() { 0 } else { read().unwrap_or(0) }
}

macro_rules! loading {
    ($($name:ident($image:ident: $image_type:ty $(, $argument:ident: $type:ty)*) of $bytes:expr),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(module: *mut Handle, $image: $image_type $(, $argument: $type)*) -> CUresult {
            let call = || real!($name(module: *mut Handle, $image: $image_type $(, $argument: $type)*));
            let Some(p) = member!() else { return call() };
            load(p, $bytes, &call, &|| {
                // SAFETY: the driver has written the caller's handle.
                let loaded = unsafe { *module };
                driver!(cuModuleUnload(loaded => Handle));
            })
        }
    )*};
}
loading!(
    // SAFETY: the caller's path, which ends with a zero.
    cuModuleLoad(path: *const c_char) of unsafe { file_bytes(path) },
    // SAFETY: the caller's image, which the driver is about to load.
    cuModuleLoadData(image: *const c_void) of unsafe { static_bytes(image.cast()) },
    cuModuleLoadDataEx(image: *const c_void, count: u32, options: *mut i32, values: *mut *mut c_void)
        // SAFETY: as above.
        of unsafe { static_bytes(image.cast()) },
    // SAFETY: as above.
    cuModuleLoadFatBinary(image: *const c_void) of unsafe { static_bytes(image.cast()) },
);

/// Whether libraries come to the device only when something of them is asked for.
fn lazy() -> bool {
    const LAZY: i32 = 2;
    let mut mode = 0;
    driver!(cuModuleGetLoadingMode(&raw mut mode => *mut i32)) == error::SUCCESS && mode == LAZY
}

/// After or in place of loading a library: `bytes` is what its image says of its data.
fn load_library(p: &Process, library: *const Handle, bytes: u64, call: &dyn Fn() -> CUresult) -> CUresult {
    // SAFETY: once the driver has written the caller's handle.
    let loaded = || unsafe { *library };
    let status = if lazy() {
        call()
    } else {
        load(p, bytes, call, &|| {
            driver!(cuLibraryUnload(loaded() => Handle));
        })
    };
    if status == error::SUCCESS {
        p.books(|books, _| {
            // The handle may be that of a library that is gone.
            books.table.remove(Space::Library, loaded() as u64);
            books.table.insert(Space::Library, loaded() as u64, Entry::new(0, bytes, 0, Kind::Context));
        });
    }
    status
}

macro_rules! loading_library {
    ($($name:ident of $bytes:expr, $image:ident: $type:ty),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            library: *mut Handle,
            $image: $type,
            jit: *mut i32,
            jit_values: *mut *mut c_void,
            jit_count: u32,
            options: *mut i32,
            values: *mut *mut c_void,
            count: u32,
        ) -> CUresult {
            let call = || {
                real!($name(
                    library: *mut Handle, $image: $type, jit: *mut i32, jit_values: *mut *mut c_void, jit_count: u32,
                    options: *mut i32, values: *mut *mut c_void, count: u32))
            };
            let Some(p) = member!() else { return call() };
            load_library(p, library, $bytes, &call)
        }
    )*};
}
loading_library!(
    // SAFETY: the caller's image, which the driver is about to load.
    cuLibraryLoadData of unsafe { static_bytes(image.cast()) }, image: *const c_void,
    // SAFETY: the caller's path, which ends with a zero.
    cuLibraryLoadFromFile of unsafe { file_bytes(path) }, path: *const c_char,
);

fn unloaded(p: &Process) {
    p.forget_kernels();
    measure_all(p);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    let status = real!(cuModuleUnload(module: Handle));
    if let (Some(p), error::SUCCESS) = (process::member(), status) {
        unloaded(p);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryUnload(library: Handle) -> CUresult {
    if let Some(p) = process::member()
        && p.books(|books, _| books.table.remove(Space::Library, library as u64)).is_some_and(|entry| entry.a == GONE)
    {
        return error::SUCCESS;
    }
    let status = real!(cuLibraryUnload(library: Handle));
    if let (Some(p), error::SUCCESS) = (process::member(), status) {
        unloaded(p);
    }
    status
}

/// A library of which the program has taken a kernel: it is not unloaded behind the program's back.
const IN_USE: u64 = 1;
/// A library that was unloaded because the slice may not have its data.
const GONE: u64 = 2;

fn note(p: &Process, library: Handle, state: u64) {
    p.books(|books, _| {
        if let Some(entry) = books.table.get(Space::Library, library as u64) {
            entry.a = state;
        }
    });
}

/// What has become of a library, and what its image says of its data that is not on the device yet.
fn state(p: &Process, library: Handle) -> (u64, u64) {
    p.books(|books, _| books.table.get(Space::Library, library as u64).map_or((0, 0), |entry| (entry.a, entry.b)))
}

/// A library's data comes to the device when it is first asked for: measured then. If the slice may not have it, the
/// library goes again, and further calls about it find no such library.
macro_rules! asking {
    ($($name:ident($first:ident: $first_type:ty, $($argument:ident: $type:ty),*; $library:ident $(, $rest:ident: $rest_type:ty)*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($first: $first_type, $($argument: $type,)* $library: Handle $(, $rest: $rest_type)*) -> CUresult {
            let call = || real!($name($first: $first_type, $($argument: $type,)* $library: Handle $(, $rest: $rest_type)*));
            let Some(p) = member!() else { return call() };
            let (before, bytes) = state(p, $library);
            if before == GONE {
                return error::INVALID_HANDLE;
            }
            let status = load(p, bytes, &call, &|| {
                if before != IN_USE {
                    driver!(cuLibraryUnload($library => Handle));
                    note(p, $library, GONE);
                }
            });
            if status == error::SUCCESS {
                p.books(|books, _| {
                    if let Some(entry) = books.table.get(Space::Library, $library as u64) {
                        entry.b = 0;
                    }
                });
            }
            status
        }
    )*};
}
asking!(
    cuLibraryGetGlobal(pointer: *mut u64, bytes: *mut usize; library, name: *const c_char),
    cuLibraryGetManaged(pointer: *mut u64, bytes: *mut usize; library, name: *const c_char),
    cuLibraryGetModule(module: *mut Handle,; library),
);

/// What the image of `kernel`'s library says of data that is not on the device yet; no longer pending after this.
pub fn pending_data(p: &Process, kernel: Handle) -> u64 {
    let mut library: Handle = core::ptr::null_mut();
    if driver!(cuKernelGetLibrary(&raw mut library => *mut Handle, kernel => Handle)) != error::SUCCESS {
        return 0;
    }
    p.books(|books, _| books.table.get(Space::Library, library as u64).map_or(0, |entry| core::mem::take(&mut entry.b)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(kernel: *mut Handle, library: Handle, name: *const c_char) -> CUresult {
    if let Some(p) = member!() {
        if state(p, library).0 == GONE {
            return error::INVALID_HANDLE;
        }
        note(p, library, IN_USE);
    }
    real!(cuLibraryGetKernel(kernel: *mut Handle, library: Handle, name: *const c_char))
}
