//! Modules and libraries: the driver alone knows what their code and data take, so it is measured right after loading,
//! and a module that took the slice past its limit is unloaded again.
use super::{current_device, member};
use crate::process::Process;
use crate::real::{driver, real};
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUresult, Handle, error};
use cleave_ledger::Kind;
use core::ffi::{c_char, c_void};

/// After a module was loaded: `false` if the slice may not have it.
fn fits(p: &Process) -> bool {
    match current_device(p) {
        Ok(device) => !p.measured_over(device),
        Err(_) => true,
    }
}

#[cold]
fn deny(p: &Process, unload: impl FnOnce()) -> CUresult {
    unload();
    p.slot().denied.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
    measure_all(p);
    error::OUT_OF_MEMORY
}

fn measure_all(p: &Process) {
    super::for_each_ordinal(p, |_, device| {
        p.measure(device);
    });
}

macro_rules! loading {
    ($($name:ident($($argument:ident: $type:ty),*) else $unload:ident),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(module: *mut Handle, $($argument: $type),*) -> CUresult {
            let status = real!($name(module: *mut Handle, $($argument: $type),*));
            if let (Some(p), error::SUCCESS) = (member!(), status) {
                // SAFETY: the driver has written the caller's handle.
                let loaded = unsafe { *module };
                // The handle may be that of a library that is gone.
                p.books(|books, _| books.table.remove(Space::Library, loaded as u64));
                if !fits(p) {
                    return deny(p, || {
                        driver!($unload(loaded => Handle));
                    });
                }
            }
            status
        }
    )*};
}
loading!(
    cuModuleLoad(path: *const c_char) else cuModuleUnload,
    cuModuleLoadData(image: *const c_void) else cuModuleUnload,
    cuModuleLoadDataEx(image: *const c_void, count: u32, options: *mut i32, values: *mut *mut c_void) else cuModuleUnload,
    cuModuleLoadFatBinary(image: *const c_void) else cuModuleUnload,
    cuLibraryLoadData(
        image: *const c_void, jit: *mut i32, jit_values: *mut *mut c_void, jit_count: u32,
        options: *mut i32, values: *mut *mut c_void, count: u32) else cuLibraryUnload,
    cuLibraryLoadFromFile(
        path: *const c_char, jit: *mut i32, jit_values: *mut *mut c_void, jit_count: u32,
        options: *mut i32, values: *mut *mut c_void, count: u32) else cuLibraryUnload,
);

fn unloaded(p: &Process) {
    p.forget_kernels();
    measure_all(p);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: Handle) -> CUresult {
    let status = real!(cuModuleUnload(module: Handle));
    if let (Some(p), error::SUCCESS) = (member!(), status) {
        unloaded(p);
    }
    status
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryUnload(library: Handle) -> CUresult {
    if let Some(p) = member!()
        && p.books(|books, _| books.table.remove(Space::Library, library as u64)).is_some_and(|entry| entry.a == GONE)
    {
        return error::SUCCESS;
    }
    let status = real!(cuLibraryUnload(library: Handle));
    if let (Some(p), error::SUCCESS) = (member!(), status) {
        unloaded(p);
    }
    status
}

/// A library of which the program has taken a kernel: it is not unloaded behind the program's back.
const IN_USE: u64 = 1;
/// A library that was unloaded because the slice may not have its data.
const GONE: u64 = 2;

fn note(p: &Process, library: Handle, state: u64) {
    p.books(|books, _| match books.table.get(Space::Library, library as u64) {
        Some(entry) => entry.a = state,
        None => {
            books.table.insert(Space::Library, library as u64, Entry::new(state, 0, 0, Kind::Context));
        }
    });
}

fn state(p: &Process, library: Handle) -> u64 {
    p.books(|books, _| books.table.get(Space::Library, library as u64).map_or(0, |entry| entry.a))
}

/// A library's data comes to the device when it is first asked for: measured then. If the slice may not have it, the
/// library goes again, and further calls about it find no such library.
macro_rules! asking {
    ($($name:ident($first:ident: $first_type:ty, $($argument:ident: $type:ty),*; $library:ident $(, $rest:ident: $rest_type:ty)*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($first: $first_type, $($argument: $type,)* $library: Handle $(, $rest: $rest_type)*) -> CUresult {
            let call = || real!($name($first: $first_type, $($argument: $type,)* $library: Handle $(, $rest: $rest_type)*));
            let Some(p) = member!() else { return call() };
            let before = state(p, $library);
            if before == GONE {
                return error::INVALID_HANDLE;
            }
            let status = call();
            if status == error::SUCCESS && !fits(p) {
                return deny(p, || {
                    if before != IN_USE {
                        driver!(cuLibraryUnload($library => Handle));
                        note(p, $library, GONE);
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

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLibraryGetKernel(kernel: *mut Handle, library: Handle, name: *const c_char) -> CUresult {
    if let Some(p) = member!() {
        if state(p, library) == GONE {
            return error::INVALID_HANDLE;
        }
        note(p, library, IN_USE);
    }
    real!(cuLibraryGetKernel(kernel: *mut Handle, library: Handle, name: *const c_char))
}
