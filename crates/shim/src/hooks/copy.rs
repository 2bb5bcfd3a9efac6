//! Copies within the device, fills and prefetches: they keep the GPU from others as kernels do, and pass the same gate. Small
//! ones don't, nor do copies to and from the host, which have engines of their own: those go straight through.
use super::device_of_stream;
use crate::gate::{self, Operation, per_thread};
use crate::process;
use crate::real::{driver, real};
use cleave_cuda::types::{CUmemLocation, CUresult, CUstream, Handle, error};
use cleave_ledger::KernelClass;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::Ordering;

/// Up to so many bytes a copy costs nothing: less than 2 µs, whichever way it goes.
const SMALL: u64 = 64 << 10;

/// What moves bytes, as far as that makes a difference to how long it takes.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Within the device.
    Device = 1,
    /// Between the device and the host.
    Host = 2,
    /// The pointers say which way.
    Any,
    /// Between two devices.
    Peer,
    /// Many copies in one call.
    Batch,
    Fill,
    Prefetch,
    Decompress,
}

/// Runs `call`, which moves `bytes`, when it may go.
#[inline(never)]
fn moving(kind: Kind, bytes: u64, (stream, waits): (CUstream, bool), call: &dyn Fn() -> CUresult) -> CUresult {
    // Also what is not held back is in the context of the process's part of the multiprocessors.
    let Some(p) = process::member() else { return call() };
    if bytes <= SMALL {
        return call();
    }
    let Ok(device) = device_of_stream(p, stream) else { return call() };
    if kind == Kind::Host {
        return if waits { gate::waiting(p, device, call) } else { call() };
    }
    // The size's three highest bits: what is learned of one size is right for another within a quarter.
    let shift = 61u32.saturating_sub((bytes | 1).leading_zeros());
    let operation = Operation {
        handle: kind as u64,
        shape: u64::from(shift) << 3 | bytes.wrapping_shr(shift),
        class: Some(KernelClass::Copy),
        // Collective operations copy between devices, and in batches.
        passes: kind == Kind::Peer || kind == Kind::Batch && p.collectives.load(Ordering::Relaxed) != 0,
        stream,
    };
    if waits { gate::send_and_wait(p, device, operation, call) } else { gate::send(p, device, operation, call) }
}

/// Bytes that `count` descriptors ask for, each `stride` numbers long: in each of them the product of the `extents` numbers
/// from the one at `first` on.
///
/// # Safety
/// `list` must be null or hold them, as the driver demands.
#[inline(never)]
unsafe fn volume<T: Copy + Into<u64>>(
    list: *const T,
    count: usize,
    stride: usize,
    first: usize,
    extents: usize,
) -> u64 {
    if list.is_null() {
        return 0;
    }
    (0..count).fold(0, |sum: u64, place| {
        let from = list.wrapping_add(place.wrapping_mul(stride).wrapping_add(first));
        let product = (0..extents).fold(1, |product: u64, extent| {
            // SAFETY: within a descriptor, by the caller's promise.
            product.saturating_mul(unsafe { from.wrapping_add(extent).read() }.into())
        });
        sum.saturating_add(product)
    })
}

/// Of the bytes that are copied, those that the device moves within itself: none if one end is the host's memory.
fn inside(to: u64, from: u64, bytes: usize) -> usize {
    const MEMORY_TYPE: i32 = 2;
    const HOST: u32 = 1;
    let hosts = |pointer: u64| {
        let mut kind = 0;
        let status =
            driver!(cuPointerGetAttribute((&raw mut kind).cast() => *mut c_void, MEMORY_TYPE => i32, pointer => u64));
        // Of memory that it did not allocate the driver knows nothing.
        status != error::SUCCESS || kind == HOST
    };
    if bytes as u64 > SMALL && (hosts(to) || hosts(from)) { 0 } else { bytes }
}

/// Bytes of `height` rows of `width` elements.
fn area(width: usize, height: usize, element: usize) -> usize {
    width.saturating_mul(height).saturating_mul(element)
}

/// Bytes of `count` elements, as the first forms of the calls count them.
fn wide(count: u32, element: usize) -> usize {
    (count as usize).saturating_mul(element)
}

/// Whether the entry point means each thread's own stream by its default one.
const fn is_per_thread(name: &str) -> bool {
    matches!(name.as_bytes(), [.., b'_', b'p', b't', b'd' | b's', b's' | b'z'])
}

const fn default_stream(name: &str) -> CUstream {
    if is_per_thread(name) { 2 as CUstream } else { null_mut() }
}

macro_rules! copy {
    ($kind:ident $bytes:tt $name:ident($($argument:ident: $type:ty),*)) => {
        copy!($kind $bytes $name($($argument: $type),*) on (default_stream(stringify!($name)), true));
    };
    ($kind:ident $bytes:tt $name:ident($($argument:ident: $type:ty),*; $stream:ident)) => {
        copy!($kind $bytes $name($($argument: $type,)* $stream: CUstream) on
            (if is_per_thread(stringify!($name)) { per_thread($stream) } else { $stream }, false));
    };
    ($kind:ident $bytes:tt $name:ident($($argument:ident: $type:ty),*) on $how:expr) => {
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe, unused_parens)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> CUresult {
            let call = || real!($name($($argument: $type),*));
            // SAFETY: the caller's descriptors, if it has any.
            let bytes = unsafe { $bytes } as u64;
            moving(Kind::$kind, bytes, $how, &call)
        }
    };
}

/// Each line: what it is, how many bytes, the names, and their parameters; `; stream` where the call does not wait.
macro_rules! copies {
    ($($kind:ident $bytes:tt $($name:ident)|+ ($($arguments:tt)*)),* $(,)?) => {
        copies!(@each $([$kind $bytes ($($name)+) ($($arguments)*)])*);
    };
    (@each $([$kind:ident $bytes:tt ($($name:ident)+) $arguments:tt])*) => {
        $($(copy!($kind $bytes $name $arguments);)+)*
    };
}

copies!(
    Any(inside(to, from, bytes)) cuMemcpy | cuMemcpy_ptds(to: u64, from: u64, bytes: usize),
    Any(inside(to, from, bytes)) cuMemcpyAsync | cuMemcpyAsync_ptsz(to: u64, from: u64, bytes: usize; stream),
    Any(inside(to, from, bytes)) cuMemcpyWithAttributesAsync(to: u64, from: u64, bytes: usize, attributes: *mut c_void; stream),
    Device(bytes) cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(to: u64, from: u64, bytes: usize),
    Device(bytes) cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(to: u64, from: u64, bytes: usize; stream),
    Device(bytes) cuMemcpyDtoA_v2 | cuMemcpyDtoA_v2_ptds(to: Handle, offset: usize, from: u64, bytes: usize),
    Device(bytes) cuMemcpyAtoD_v2 | cuMemcpyAtoD_v2_ptds(to: u64, from: Handle, offset: usize, bytes: usize),
    Device(bytes) cuMemcpyAtoA_v2 | cuMemcpyAtoA_v2_ptds(
        to: Handle, to_offset: usize, from: Handle, from_offset: usize, bytes: usize),
    Host(bytes) cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(to: u64, from: *const c_void, bytes: usize),
    Host(bytes) cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(to: *mut c_void, from: u64, bytes: usize),
    Host(bytes) cuMemcpyHtoA_v2 | cuMemcpyHtoA_v2_ptds(to: Handle, offset: usize, from: *const c_void, bytes: usize),
    Host(bytes) cuMemcpyAtoH_v2 | cuMemcpyAtoH_v2_ptds(to: *mut c_void, from: Handle, offset: usize, bytes: usize),
    Host(bytes) cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(to: u64, from: *const c_void, bytes: usize; stream),
    Host(bytes) cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(to: *mut c_void, from: u64, bytes: usize; stream),
    Host(bytes) cuMemcpyHtoAAsync_v2 | cuMemcpyHtoAAsync_v2_ptsz(
        to: Handle, offset: usize, from: *const c_void, bytes: usize; stream),
    Host(bytes) cuMemcpyAtoHAsync_v2 | cuMemcpyAtoHAsync_v2_ptsz(
        to: *mut c_void, from: Handle, offset: usize, bytes: usize; stream),
    Peer(bytes) cuMemcpyPeer | cuMemcpyPeer_ptds(
        to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize),
    Peer(bytes) cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz(
        to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize; stream),
    // `CUDA_MEMCPY2D`, `CUDA_MEMCPY3D` and `CUDA_MEMCPY3D_PEER` end with the extents.
    Any(volume(copy, 1, 0, 14, 2))
        cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds | cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds(copy: *const u64),
    Any(volume(copy, 1, 0, 14, 2)) cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz(copy: *const u64; stream),
    Any(volume(copy, 1, 0, 22, 3)) cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds(copy: *const u64),
    Any(volume(copy, 1, 0, 22, 3)) cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz(copy: *const u64; stream),
    Peer(volume(copy, 1, 0, 22, 3)) cuMemcpy3DPeer | cuMemcpy3DPeer_ptds(copy: *const u64),
    Peer(volume(copy, 1, 0, 22, 3)) cuMemcpy3DPeerAsync | cuMemcpy3DPeerAsync_ptsz(copy: *const u64; stream),
    Batch(volume(sizes, count, 1, 0, 1)) cuMemcpyBatchAsync | cuMemcpyBatchAsync_ptsz(
        to: *const u64, from: *const u64, sizes: *const u64, count: usize, attributes: *const c_void,
        indices: *const usize, attribute_count: usize, failed: *mut usize; stream),
    Batch(volume(sizes, count, 1, 0, 1)) cuMemcpyBatchAsync_v2 | cuMemcpyBatchAsync_v2_ptsz(
        to: *const u64, from: *const u64, sizes: *const u64, count: usize, attributes: *const c_void,
        indices: *const usize, attribute_count: usize; stream),
    // `CUDA_MEMCPY3D_BATCH_OP`: two ends of 5 words each, the extents, and a word of flags.
    Batch(volume(list, count, 14, 10, 3)) cuMemcpy3DBatchAsync | cuMemcpy3DBatchAsync_ptsz(
        count: usize, list: *const u64, failed: *mut usize, flags: u64; stream),
    Batch(volume(list, count, 14, 10, 3)) cuMemcpy3DBatchAsync_v2 | cuMemcpy3DBatchAsync_v2_ptsz(
        count: usize, list: *const u64, flags: u64; stream),
    Any(volume(copy, 1, 0, 10, 3)) cuMemcpy3DWithAttributesAsync(copy: *const u64, flags: u64; stream),
    Fill(count) cuMemsetD8_v2 | cuMemsetD8_v2_ptds(to: u64, value: u8, count: usize),
    Fill(area(count, 1, 2)) cuMemsetD16_v2 | cuMemsetD16_v2_ptds(to: u64, value: u16, count: usize),
    Fill(area(count, 1, 4)) cuMemsetD32_v2 | cuMemsetD32_v2_ptds(to: u64, value: u32, count: usize),
    Fill(area(width, height, 1)) cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds(
        to: u64, pitch: usize, value: u8, width: usize, height: usize),
    Fill(area(width, height, 2)) cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds(
        to: u64, pitch: usize, value: u16, width: usize, height: usize),
    Fill(area(width, height, 4)) cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds(
        to: u64, pitch: usize, value: u32, width: usize, height: usize),
    Fill(count) cuMemsetD8Async | cuMemsetD8Async_ptsz(to: u64, value: u8, count: usize; stream),
    Fill(area(count, 1, 2)) cuMemsetD16Async | cuMemsetD16Async_ptsz(to: u64, value: u16, count: usize; stream),
    Fill(area(count, 1, 4)) cuMemsetD32Async | cuMemsetD32Async_ptsz(to: u64, value: u32, count: usize; stream),
    Fill(area(width, height, 1)) cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz(
        to: u64, pitch: usize, value: u8, width: usize, height: usize; stream),
    Fill(area(width, height, 2)) cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz(
        to: u64, pitch: usize, value: u16, width: usize, height: usize; stream),
    Fill(area(width, height, 4)) cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz(
        to: u64, pitch: usize, value: u32, width: usize, height: usize; stream),
    Prefetch(bytes) cuMemPrefetchAsync | cuMemPrefetchAsync_ptsz(at: u64, bytes: usize, device: i32; stream),
    Prefetch(bytes) cuMemPrefetchAsync_v2 | cuMemPrefetchAsync_v2_ptsz(
        at: u64, bytes: usize, location: CUmemLocation, flags: u32; stream),
    Prefetch(volume(sizes, count, 1, 0, 1))
        cuMemPrefetchBatchAsync | cuMemPrefetchBatchAsync_ptsz
        | cuMemDiscardAndPrefetchBatchAsync | cuMemDiscardAndPrefetchBatchAsync_ptsz(
        list: *const u64, sizes: *const u64, count: usize, locations: *const c_void, indices: *const usize,
        location_count: usize, flags: u64; stream),
    // `CUmemDecompressParams`: 8 words, the second of which is how much comes out.
    Decompress(volume(list, count, 8, 1, 1)) cuMemBatchDecompressAsync | cuMemBatchDecompressAsync_ptsz(
        list: *const u64, count: usize, flags: u32, failed: *mut usize; stream),
    // The first forms, with addresses and sizes of 32 bits.
    Device(wide(bytes, 1)) cuMemcpyDtoD(to: u32, from: u32, bytes: u32),
    Device(wide(bytes, 1)) cuMemcpyDtoDAsync(to: u32, from: u32, bytes: u32; stream),
    Device(wide(bytes, 1)) cuMemcpyDtoA(to: Handle, offset: u32, from: u32, bytes: u32),
    Device(wide(bytes, 1)) cuMemcpyAtoD(to: u32, from: Handle, offset: u32, bytes: u32),
    Device(wide(bytes, 1)) cuMemcpyAtoA(to: Handle, to_offset: u32, from: Handle, from_offset: u32, bytes: u32),
    Host(wide(bytes, 1)) cuMemcpyHtoD(to: u32, from: *const c_void, bytes: u32),
    Host(wide(bytes, 1)) cuMemcpyDtoH(to: *mut c_void, from: u32, bytes: u32),
    Host(wide(bytes, 1)) cuMemcpyHtoA(to: Handle, offset: u32, from: *const c_void, bytes: u32),
    Host(wide(bytes, 1)) cuMemcpyAtoH(to: *mut c_void, from: Handle, offset: u32, bytes: u32),
    Host(wide(bytes, 1)) cuMemcpyHtoDAsync(to: u32, from: *const c_void, bytes: u32; stream),
    Host(wide(bytes, 1)) cuMemcpyDtoHAsync(to: *mut c_void, from: u32, bytes: u32; stream),
    Host(wide(bytes, 1)) cuMemcpyHtoAAsync(to: Handle, offset: u32, from: *const c_void, bytes: u32; stream),
    Host(wide(bytes, 1)) cuMemcpyAtoHAsync(to: *mut c_void, from: Handle, offset: u32, bytes: u32; stream),
    Any(volume(copy, 1, 0, 21, 2)) cuMemcpy2D | cuMemcpy2DUnaligned(copy: *const u32),
    Any(volume(copy, 1, 0, 21, 2)) cuMemcpy2DAsync(copy: *const u32; stream),
    Any(volume(copy, 1, 0, 32, 3)) cuMemcpy3D(copy: *const u32),
    Any(volume(copy, 1, 0, 32, 3)) cuMemcpy3DAsync(copy: *const u32; stream),
    Fill(wide(count, 1)) cuMemsetD8(to: u32, value: u8, count: u32),
    Fill(wide(count, 2)) cuMemsetD16(to: u32, value: u16, count: u32),
    Fill(wide(count, 4)) cuMemsetD32(to: u32, value: u32, count: u32),
    Fill(area(wide(width, 1), wide(height, 1), 1)) cuMemsetD2D8(to: u32, pitch: u32, value: u8, width: u32, height: u32),
    Fill(area(wide(width, 1), wide(height, 1), 2))
        cuMemsetD2D16(to: u32, pitch: u32, value: u16, width: u32, height: u32),
    Fill(area(wide(width, 1), wide(height, 1), 4))
        cuMemsetD2D32(to: u32, pitch: u32, value: u32, width: u32, height: u32),
);
