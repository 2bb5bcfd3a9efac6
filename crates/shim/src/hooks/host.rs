//! Pinned host memory, against the slice's optional quota of it.
use super::{current_context, current_device, member};
use crate::process::{self, Process};
use crate::real::real;
use crate::table::{Entry, Space};
use cleave_cuda::types::{CUresult, error};
use cleave_ledger::{HOST, Kind};
use core::ffi::c_void;

const PAGE: u64 = 4096;

fn pin(p: &Process, bytes: usize, call: &dyn Fn() -> CUresult, pointer: &dyn Fn() -> u64) -> CUresult {
    let cost = (bytes as u64).div_ceil(PAGE).saturating_mul(PAGE);
    if !p.reserve_or_deny(HOST, Kind::Managed, cost) {
        return error::OUT_OF_MEMORY;
    }
    let status = call();
    if status == error::SUCCESS {
        let (pointer, context) = (pointer(), current_context(p));
        // Goes with its context, which is on a device.
        let device = current_device(p).unwrap_or(HOST) as u64;
        p.books(|books, _| {
            books.table.insert(Space::Host, pointer, Entry::new(cost, device, HOST, Kind::Managed).in_context(context));
        });
    } else {
        p.release(HOST, Kind::Managed, cost);
    }
    status
}

fn unpin(p: &Process, pointer: u64, call: &dyn Fn() -> CUresult) -> CUresult {
    let entry = p.books(|books, _| books.table.remove(Space::Host, pointer));
    let status = call();
    if let Some(entry) = entry {
        if status == error::SUCCESS {
            p.release(HOST, Kind::Managed, entry.a);
        } else {
            p.books(|books, _| {
                books.table.insert(Space::Host, pointer, entry);
            });
        }
    }
    status
}

macro_rules! allocating {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(pointer: *mut *mut c_void, bytes: usize $(, $argument: $type)*) -> CUresult {
            let call = || real!($name(pointer: *mut *mut c_void, bytes: usize $(, $argument: $type)*));
            let Some(p) = member!() else { return call() };
            // SAFETY: the driver has written the caller's pointer.
            pin(p, bytes, &call, &|| unsafe { *pointer } as u64)
        }
    )*};
}
allocating!(cuMemAllocHost(), cuMemAllocHost_v2(), cuMemHostAlloc(flags: u32));

macro_rules! registering {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(pointer: *mut c_void, bytes: usize, flags: u32) -> CUresult {
            let call = || real!($name(pointer: *mut c_void, bytes: usize, flags: u32));
            let Some(p) = member!() else { return call() };
            pin(p, bytes, &call, &|| pointer as u64)
        }
    )*};
}
registering!(cuMemHostRegister, cuMemHostRegister_v2);

macro_rules! releasing {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(pointer: *mut c_void) -> CUresult {
            let call = || real!($name(pointer: *mut c_void));
            let Some(p) = process::member() else { return call() };
            unpin(p, pointer as u64, &call)
        }
    )*};
}
releasing!(cuMemFreeHost, cuMemHostUnregister);
