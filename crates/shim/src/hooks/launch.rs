//! Launches: counted, and local memory is charged before a kernel that needs more than every thread has runs for the
//! first time. A kernel that is known costs one look into a small cache.
use super::context::{charge_stack, heap_taken, uncharge_stack};
use super::module::{bring, pending_data};
use super::{current_device, member};
use crate::process;
use crate::real::{driver, real};
use cleave_cuda::types::{CUresult, CUstream, Handle, error};
use core::ffi::c_void;
use core::sync::atomic::Ordering;

const LOCAL_SIZE_BYTES: i32 = 3;

/// Runs `call`, the launch of `kernel`.
#[inline]
fn launch(kernel: Handle, call: impl Fn() -> CUresult) -> CUresult {
    if let Some(p) = process::member() {
        p.slot().launches.fetch_add(1, Ordering::Relaxed);
        if p.knows_kernel(kernel as u64) {
            return call();
        }
    }
    first(kernel, &call)
}

#[cold]
fn first(kernel: Handle, call: &dyn Fn() -> CUresult) -> CUresult {
    let Some(p) = member!() else { return call() };
    let device = match current_device(p) {
        Ok(device) => device,
        Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
        Err(_) => return call(),
    };
    let Some(more) = charge_stack(p, device, local_bytes(kernel)) else { return error::OUT_OF_MEMORY };
    // A library's data comes to the device with the first of its kernels.
    let status = match pending_data(p, kernel) {
        0 => call(),
        bytes => bring(p, bytes, call, &|| {}),
    };
    if status == error::SUCCESS {
        p.know_kernel(kernel as u64);
    } else {
        uncharge_stack(p, device, more);
    }
    if more > 0 {
        p.measure(device);
    }
    heap_taken(p, device);
    status
}

/// Local memory that each thread of `kernel` needs. The handle may be a function's or a library kernel's.
fn local_bytes(kernel: Handle) -> u64 {
    let mut bytes = 0;
    let status = driver!(cuFuncGetAttribute(&raw mut bytes => *mut i32, LOCAL_SIZE_BYTES => i32, kernel => Handle));
    if status != error::SUCCESS {
        let mut ordinal = 0;
        driver!(cuCtxGetDevice(&raw mut ordinal => *mut i32));
        driver!(cuKernelGetAttribute(
            &raw mut bytes => *mut i32, LOCAL_SIZE_BYTES => i32, kernel => Handle, ordinal => i32));
    }
    u64::try_from(bytes).unwrap_or(0)
}

macro_rules! launching {
    ($($name:ident($kernel:ident $(, $argument:ident: $type:ty)*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($kernel: Handle $(, $argument: $type)*) -> CUresult {
            launch($kernel, || real!($name($kernel: Handle $(, $argument: $type)*)))
        }
    )*};
}
launching!(
    cuLaunchKernel(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void, extra: *mut *mut c_void),
    cuLaunchKernel_ptsz(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void, extra: *mut *mut c_void),
    cuLaunchCooperativeKernel(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void),
    cuLaunchCooperativeKernel_ptsz(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void),
    cuLaunch(kernel),
    cuLaunchGrid(kernel, width: i32, height: i32),
    cuLaunchGridAsync(kernel, width: i32, height: i32, stream: CUstream),
);

macro_rules! launching_ex {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            config: *const c_void,
            kernel: Handle,
            parameters: *mut *mut c_void,
            extra: *mut *mut c_void,
        ) -> CUresult {
            launch(kernel, || {
                real!($name(
                    config: *const c_void, kernel: Handle, parameters: *mut *mut c_void, extra: *mut *mut c_void))
            })
        }
    )*};
}
launching_ex!(cuLaunchKernelEx, cuLaunchKernelEx_ptsz);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchCooperativeKernelMultiDevice(list: *mut c_void, count: u32, flags: u32) -> CUresult {
    let call = || real!(cuLaunchCooperativeKernelMultiDevice(list: *mut c_void, count: u32, flags: u32));
    let Some(p) = member!() else { return call() };
    p.slot().launches.fetch_add(count.into(), Ordering::Relaxed);
    let status = call();
    // One kernel a device, each with its context: local memory that grew is measured after.
    super::for_each_ordinal(p, |_, device| {
        p.measure(device);
    });
    status
}
