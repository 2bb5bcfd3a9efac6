//! Launches: counted, and local memory is charged before a kernel that needs more than every thread has runs for the
//! first time. A kernel that is known costs one look into a small cache.
use super::context::{STACK, charge_stack, heap_taken, uncharge_stack};
use super::module::{bring, pending_data};
use super::{context_of, device_of_context, device_of_stream, member};
use crate::gate::{self, Operation, per_thread, shape};
use crate::process::{self, Process};
use crate::real::{driver, real};
use cleave_cuda::types::{CUresult, CUstream, Handle, error};
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

const LOCAL_SIZE_BYTES: i32 = 3;

/// Runs `call`, the launch of `kernel`, when it may go.
#[inline]
fn launch(kernel: Handle, how: impl Fn() -> (u64, CUstream), call: impl Fn() -> CUresult) -> CUresult {
    if let Some(p) = process::member() {
        p.slot().launches.fetch_add(1, Ordering::Relaxed);
        if p.knows_kernel(kernel as u64) {
            return gated(p, kernel, how(), call);
        }
    }
    let (shape, stream) = how();
    first(kernel, stream, &|| match process::member() {
        Some(p) => gated(p, kernel, (shape, stream), &call),
        None => call(),
    })
}

#[inline]
fn gated(
    p: &'static Process,
    kernel: Handle,
    (shape, stream): (u64, CUstream),
    call: impl Fn() -> CUresult,
) -> CUresult {
    // Without a device of the slice the driver has an error to return.
    let Ok(device) = device_of_stream(p, stream) else { return call() };
    gate::send(p, device, Operation { handle: kernel as u64, shape, class: None, passes: false, stream }, call)
}

#[cold]
fn first(kernel: Handle, stream: CUstream, call: &dyn Fn() -> CUresult) -> CUresult {
    let Some(p) = member!() else { return call() };
    let context = context_of(stream);
    if p.knows_kernel_in(kernel as u64, context) {
        return call();
    }
    let device = match device_of_context(p, context) {
        Ok(device) => device,
        Err(error::NOT_PERMITTED) => return error::NOT_PERMITTED,
        Err(_) => return call(),
    };
    let Some(more) = charge_stack(p, device, context, local_bytes(p, kernel)) else { return error::OUT_OF_MEMORY };
    // A library's data comes to the device with the first of its kernels.
    let status = match pending_data(p, kernel) {
        0 => call(),
        bytes => bring(p, bytes, call, &|| {}),
    };
    if status == error::SUCCESS {
        p.know_kernel(kernel as u64, context);
    } else {
        uncharge_stack(p, device, context, more);
    }
    if more > 0 {
        p.measure(device);
    }
    heap_taken(p, device);
    status
}

/// Local memory that each thread of `kernel` needs. The handle may be a function's or a library kernel's.
pub fn local_bytes(p: &Process, kernel: Handle) -> u64 {
    let mut bytes = 0;
    let status = driver!(cuFuncGetAttribute(&raw mut bytes => *mut i32, LOCAL_SIZE_BYTES => i32, kernel => Handle));
    if status != error::SUCCESS {
        let mut ordinal = 0;
        driver!(cuCtxGetDevice(&raw mut ordinal => *mut i32));
        driver!(cuKernelGetAttribute(
            &raw mut bytes => *mut i32, LOCAL_SIZE_BYTES => i32, kernel => Handle, ordinal => i32));
    }
    let bytes = u64::try_from(bytes).unwrap_or(0);
    if bytes > STACK {
        p.local_memory.store(1, Ordering::Relaxed);
    }
    bytes
}

macro_rules! launching {
    ($($name:ident($kernel:ident $(, $argument:ident: $type:ty)*) as $how:expr),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($kernel: Handle $(, $argument: $type)*) -> CUresult {
            launch($kernel, || $how, || real!($name($kernel: Handle $(, $argument: $type)*)))
        }
    )*};
}
launching!(
    cuLaunchKernel(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void, extra: *mut *mut c_void)
        as (shape([gx, gy, gz], [bx, by, bz], shared), stream),
    cuLaunchKernel_ptsz(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void, extra: *mut *mut c_void)
        as (shape([gx, gy, gz], [bx, by, bz], shared), per_thread(stream)),
    cuLaunchCooperativeKernel(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void)
        as (shape([gx, gy, gz], [bx, by, bz], shared), stream),
    cuLaunchCooperativeKernel_ptsz(
        kernel, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: CUstream,
        parameters: *mut *mut c_void)
        as (shape([gx, gy, gz], [bx, by, bz], shared), per_thread(stream)),
    cuLaunch(kernel) as (0, null_mut()),
    cuLaunchGrid(kernel, width: i32, height: i32) as (shape([width as u32, height as u32, 1], [0; 3], 0), null_mut()),
    cuLaunchGridAsync(kernel, width: i32, height: i32, stream: CUstream)
        as (shape([width as u32, height as u32, 1], [0; 3], 0), stream),
);

/// The beginning of `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: CUstream,
}

macro_rules! launching_ex {
    ($($name:ident on $stream:expr),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            config: *const LaunchConfig,
            kernel: Handle,
            parameters: *mut *mut c_void,
            extra: *mut *mut c_void,
        ) -> CUresult {
            let how = || {
                // SAFETY: the caller's configuration, or null, which the driver refuses.
                let Some(config) = (unsafe { config.as_ref() }) else { return (0, null_mut()) };
                (shape(config.grid, config.block, config.shared), $stream(config.stream))
            };
            launch(kernel, how, || {
                real!($name(
                    config: *const LaunchConfig, kernel: Handle, parameters: *mut *mut c_void,
                    extra: *mut *mut c_void))
            })
        }
    )*};
}
launching_ex!(cuLaunchKernelEx on core::convert::identity, cuLaunchKernelEx_ptsz on per_thread);

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

macro_rules! destroying {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(stream: CUstream) -> CUresult {
            if let Some(p) = process::member() {
                gate::stream_goes(p, Some(stream));
            }
            real!($name(stream: CUstream))
        }
    )*};
}
destroying!(cuStreamDestroy, cuStreamDestroy_v2);
