//! Copies and fills. They really move bytes, when they are submitted; the clock says when they count as done.

use cleave_cuda::types::error;
use core::ffi::{c_uint, c_void};

use super::abi::{CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUDA_MEMSET_NODE_PARAMS, CopyEnd};
use super::engine::Engine;
use super::graph::Work;
use super::{Driver, Outcome, get, get_many, with};
use crate::clock::Nanos;

const HOST: c_uint = 1;
const DEVICE: c_uint = 2;
const ARRAY: c_uint = 3;
const UNIFIED: c_uint = 4;

/// What any copy or fill takes at least.
const LATENCY: Nanos = 1500;

/// Bytes per nanosecond that a device's memory gives and takes, and that go between it and the host: about what an H100 does.
const DEVICE_SPEED: u64 = 2800;
const HOST_SPEED: u64 = 50;

/// What a copy or fill does besides moving bytes: how long it takes, and the bytes that its device's memory gives and takes.
pub(crate) struct Cost {
    pub duration: Nanos,
    pub bytes: u64,
}

/// A copy with all addresses resolved and checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyPlan {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
    depth: usize,
    /// Ends that are in a device's memory.
    on_device: u64,
}

#[derive(Clone, Copy, Debug)]
struct Side {
    base: u64,
    pitch: usize,
    slice: usize,
}

impl CopyPlan {
    /// Moves the bytes.
    pub fn run(&self) -> Cost {
        let flat = self.from.pitch == self.width && self.to.pitch == self.width;
        let (width, height) = if flat { (self.width * self.height, 1) } else { (self.width, self.height) };
        for z in 0..self.depth {
            for y in 0..height {
                let from = self.from.base + (z * self.from.slice + y * self.from.pitch) as u64;
                let to = self.to.base + (z * self.to.slice + y * self.to.pitch) as u64;
                // SAFETY: device and array ranges were checked; host ranges are the program's to answer for.
                unsafe { std::ptr::copy(from as *const u8, to as *mut u8, width) };
            }
        }
        let copied = (self.width * self.height * self.depth) as u64;
        let bytes = copied * self.on_device;
        let duration = if self.on_device == 2 { bytes / DEVICE_SPEED } else { copied / HOST_SPEED };
        Cost { duration: LATENCY + duration, bytes }
    }
}

/// A fill with its range checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FillPlan {
    params: CUDA_MEMSET_NODE_PARAMS,
}

impl FillPlan {
    /// Writes the values.
    pub fn run(&self) -> Cost {
        let p = &self.params;
        for y in 0..p.height {
            let row = p.dst + (y * p.pitch) as u64;
            // SAFETY: the range was checked, and rows of 2- or 4-byte elements are aligned.
            unsafe {
                match p.element_size {
                    1 => std::ptr::write_bytes(row as *mut u8, p.value as u8, p.width),
                    2 => std::slice::from_raw_parts_mut(row as *mut u16, p.width).fill(p.value as u16),
                    _ => std::slice::from_raw_parts_mut(row as *mut u32, p.width).fill(p.value),
                }
            }
        }
        let bytes = (p.width * p.height) as u64 * u64::from(p.element_size);
        Cost { duration: LATENCY + bytes / DEVICE_SPEED, bytes }
    }
}

impl Driver {
    /// Whether `length` bytes at `address` are device memory that can be used: an error if they begin there and end
    /// elsewhere.
    fn device_range(&self, address: u64, length: u64) -> Outcome<bool> {
        if let Some((base, allocation)) = self.find(address) {
            return if address + length <= base + allocation.size { Ok(true) } else { Err(error::INVALID_VALUE) };
        }
        if self.vmm.reserved(address) {
            let mut at = address;
            while at < address + length {
                let found = self.vmm.find(at).filter(|found| found.writable).ok_or(error::INVALID_VALUE)?;
                at = found.base + found.len;
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn side(&self, end: &CopyEnd, copy: &CUDA_MEMCPY3D) -> Outcome<(Side, bool)> {
        let (base, pitch, rows, on_device) = match end.memory_type {
            ARRAY => {
                let array = self.array_memory(end.array)?;
                let last = (end.z + copy.depth, end.y + copy.height, end.x_in_bytes + copy.width_in_bytes);
                if last.0 > array.depth || last.1 > array.height || last.2 > array.row {
                    return Err(error::INVALID_VALUE);
                }
                (array.base, array.row, array.height, true)
            }
            HOST => (end.host, end.pitch, end.height, false),
            DEVICE | UNIFIED => (end.device, end.pitch, end.height, true),
            _ => return Err(error::INVALID_VALUE),
        };
        let pitch = if pitch == 0 { copy.width_in_bytes } else { pitch };
        let rows = if rows == 0 { copy.height } else { rows };
        if base == 0 || copy.height > 1 && pitch < copy.width_in_bytes {
            return Err(error::INVALID_VALUE);
        }
        let slice = pitch * rows;
        let base = base + (end.z * slice + end.y * pitch + end.x_in_bytes) as u64;
        let mut on_device = on_device;
        if matches!(end.memory_type, DEVICE | UNIFIED) {
            let length = (copy.depth - 1) * slice + (copy.height - 1) * pitch + copy.width_in_bytes;
            let known = self.device_range(base, length as u64)?;
            // Unified addressing: what the driver does not know is the program's own memory.
            if !known && end.memory_type == DEVICE {
                return Err(error::INVALID_VALUE);
            }
            on_device = known && self.find(base).is_none_or(|(_, allocation)| !allocation.is_host());
        }
        Ok((Side { base, pitch, slice }, on_device))
    }

    /// Resolves and checks a copy; `None` where there is nothing to copy.
    pub(crate) fn copy_plan(&self, copy: &CUDA_MEMCPY3D) -> Outcome<Option<CopyPlan>> {
        if copy.width_in_bytes == 0 || copy.height == 0 || copy.depth == 0 {
            return Ok(None);
        }
        let (from, from_device) = self.side(&copy.src, copy)?;
        let (to, to_device) = self.side(&copy.dst, copy)?;
        let on_device = u64::from(from_device) + u64::from(to_device);
        Ok(Some(CopyPlan { from, to, width: copy.width_in_bytes, height: copy.height, depth: copy.depth, on_device }))
    }

    /// Checks a fill; `None` where there is nothing to fill.
    pub(crate) fn fill_plan(&self, params: &CUDA_MEMSET_NODE_PARAMS) -> Outcome<Option<FillPlan>> {
        let p = *params;
        if !matches!(p.element_size, 1 | 2 | 4) {
            return Err(error::INVALID_VALUE);
        }
        if p.width == 0 || p.height == 0 {
            return Ok(None);
        }
        let row = p.width * p.element_size as usize;
        if !p.dst.is_multiple_of(u64::from(p.element_size)) || p.height > 1 && p.pitch < row {
            return Err(error::INVALID_VALUE);
        }
        if !self.device_range(p.dst, ((p.height - 1) * p.pitch + row) as u64)? {
            return Err(error::INVALID_VALUE);
        }
        Ok(Some(FillPlan { params: p }))
    }
}

/// A copy of consecutive bytes.
pub(crate) fn linear(from: (c_uint, u64), to: (c_uint, u64), bytes: usize) -> CUDA_MEMCPY3D {
    let end = |(memory_type, address)| CopyEnd { memory_type, host: address, device: address, ..CopyEnd::default() };
    CUDA_MEMCPY3D { src: end(from), dst: end(to), width_in_bytes: bytes, height: 1, depth: 1 }
}

/// A copy between an array, at a byte offset, and consecutive bytes.
fn of_array(array: u64, offset: usize) -> CopyEnd {
    CopyEnd { memory_type: ARRAY, array, x_in_bytes: offset, ..CopyEnd::default() }
}

fn flat(copy: &CUDA_MEMCPY2D) -> CUDA_MEMCPY3D {
    let end = |x, y, memory_type, host, device, array, pitch| CopyEnd {
        x_in_bytes: x,
        y,
        memory_type,
        host,
        device,
        array,
        pitch,
        ..CopyEnd::default()
    };
    let c = copy;
    CUDA_MEMCPY3D {
        src: end(c.src_x_in_bytes, c.src_y, c.src_memory_type, c.src_host, c.src_device, c.src_array, c.src_pitch),
        dst: end(c.dst_x_in_bytes, c.dst_y, c.dst_memory_type, c.dst_host, c.dst_device, c.dst_array, c.dst_pitch),
        width_in_bytes: c.width_in_bytes,
        height: c.height,
        depth: 1,
    }
}

/// Submits work to the default stream and waits for it, as the synchronous entry points do.
fn now(per_thread: bool, work: Work) -> Outcome {
    let stream = with(|d| {
        let stream = d.stream(std::ptr::null_mut(), per_thread)?;
        d.submit(stream, work)?;
        Ok(stream)
    })?;
    Engine::wait(|d| d.stream_standing(stream))
}

fn later(stream: *mut c_void, per_thread: bool, work: Work) -> Outcome {
    with(|d| {
        let stream = d.stream(stream, per_thread)?;
        d.submit(stream, work)
    })
}

fn copy_now(per_thread: bool, copy: CUDA_MEMCPY3D) -> Outcome {
    now(per_thread, Work::Copy(copy))
}

fn fill(dst: u64, pitch: usize, value: c_uint, element_size: c_uint, width: usize, height: usize) -> Work {
    Work::Fill(CUDA_MEMSET_NODE_PARAMS { dst, pitch, value, element_size, width, height })
}

free_entry! {
    fn cuMemcpy | cuMemcpy_ptds(dst: u64, src: u64, bytes: usize) {
        copy_now(PER_THREAD, linear((UNIFIED, src), (UNIFIED, dst), bytes))
    }
    fn cuMemcpyPeer | cuMemcpyPeer_ptds(dst: u64, _dst_ctx: *mut c_void, src: u64, _src_ctx: *mut c_void, bytes: usize) {
        copy_now(PER_THREAD, linear((DEVICE, src), (DEVICE, dst), bytes))
    }
    fn cuMemcpyHtoD_v2 | cuMemcpyHtoD_v2_ptds(dst: u64, src: u64, bytes: usize) {
        copy_now(PER_THREAD, linear((HOST, src), (DEVICE, dst), bytes))
    }
    fn cuMemcpyDtoH_v2 | cuMemcpyDtoH_v2_ptds(dst: u64, src: u64, bytes: usize) {
        copy_now(PER_THREAD, linear((DEVICE, src), (HOST, dst), bytes))
    }
    fn cuMemcpyDtoD_v2 | cuMemcpyDtoD_v2_ptds(dst: u64, src: u64, bytes: usize) {
        copy_now(PER_THREAD, linear((DEVICE, src), (DEVICE, dst), bytes))
    }
    fn cuMemcpyDtoA_v2 | cuMemcpyDtoA_v2_ptds(array: u64, offset: usize, src: u64, bytes: usize) {
        let mut copy = linear((DEVICE, src), (DEVICE, 0), bytes);
        copy.dst = of_array(array, offset);
        copy_now(PER_THREAD, copy)
    }
    fn cuMemcpyAtoD_v2 | cuMemcpyAtoD_v2_ptds(dst: u64, array: u64, offset: usize, bytes: usize) {
        let mut copy = linear((DEVICE, 0), (DEVICE, dst), bytes);
        copy.src = of_array(array, offset);
        copy_now(PER_THREAD, copy)
    }
    fn cuMemcpyHtoA_v2 | cuMemcpyHtoA_v2_ptds(array: u64, offset: usize, src: u64, bytes: usize) {
        let mut copy = linear((HOST, src), (HOST, 0), bytes);
        copy.dst = of_array(array, offset);
        copy_now(PER_THREAD, copy)
    }
    fn cuMemcpyAtoH_v2 | cuMemcpyAtoH_v2_ptds(dst: u64, array: u64, offset: usize, bytes: usize) {
        let mut copy = linear((HOST, 0), (HOST, dst), bytes);
        copy.src = of_array(array, offset);
        copy_now(PER_THREAD, copy)
    }
    fn cuMemcpyAtoA_v2 | cuMemcpyAtoA_v2_ptds(to: u64, to_offset: usize, from: u64, from_offset: usize, bytes: usize) {
        let mut copy = linear((HOST, 0), (HOST, 0), bytes);
        (copy.src, copy.dst) = (of_array(from, from_offset), of_array(to, to_offset));
        copy_now(PER_THREAD, copy)
    }
    fn cuMemcpy2D_v2 | cuMemcpy2D_v2_ptds | cuMemcpy2DUnaligned_v2 | cuMemcpy2DUnaligned_v2_ptds(copy: *const CUDA_MEMCPY2D) {
        copy_now(PER_THREAD, flat(&get(copy)?))
    }
    fn cuMemcpy3D_v2 | cuMemcpy3D_v2_ptds | cuMemcpy3DPeer | cuMemcpy3DPeer_ptds(copy: *const CUDA_MEMCPY3D) {
        copy_now(PER_THREAD, get(copy)?)
    }
    fn cuMemcpyAsync | cuMemcpyAsync_ptsz(dst: u64, src: u64, bytes: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, Work::Copy(linear((UNIFIED, src), (UNIFIED, dst), bytes)))
    }
    fn cuMemcpyPeerAsync | cuMemcpyPeerAsync_ptsz(dst: u64, _dst_ctx: *mut c_void, src: u64, _src_ctx: *mut c_void, bytes: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, Work::Copy(linear((DEVICE, src), (DEVICE, dst), bytes)))
    }
    fn cuMemcpyHtoDAsync_v2 | cuMemcpyHtoDAsync_v2_ptsz(dst: u64, src: u64, bytes: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, Work::Copy(linear((HOST, src), (DEVICE, dst), bytes)))
    }
    fn cuMemcpyDtoHAsync_v2 | cuMemcpyDtoHAsync_v2_ptsz(dst: u64, src: u64, bytes: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, Work::Copy(linear((DEVICE, src), (HOST, dst), bytes)))
    }
    fn cuMemcpyDtoDAsync_v2 | cuMemcpyDtoDAsync_v2_ptsz(dst: u64, src: u64, bytes: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, Work::Copy(linear((DEVICE, src), (DEVICE, dst), bytes)))
    }
    fn cuMemcpyHtoAAsync_v2 | cuMemcpyHtoAAsync_v2_ptsz(array: u64, offset: usize, src: u64, bytes: usize, stream: *mut c_void) {
        let mut copy = linear((HOST, src), (HOST, 0), bytes);
        copy.dst = of_array(array, offset);
        later(stream, PER_THREAD, Work::Copy(copy))
    }
    fn cuMemcpyAtoHAsync_v2 | cuMemcpyAtoHAsync_v2_ptsz(dst: u64, array: u64, offset: usize, bytes: usize, stream: *mut c_void) {
        let mut copy = linear((HOST, 0), (HOST, dst), bytes);
        copy.src = of_array(array, offset);
        later(stream, PER_THREAD, Work::Copy(copy))
    }
    fn cuMemcpy2DAsync_v2 | cuMemcpy2DAsync_v2_ptsz(copy: *const CUDA_MEMCPY2D, stream: *mut c_void) {
        later(stream, PER_THREAD, Work::Copy(flat(&get(copy)?)))
    }
    fn cuMemcpy3DAsync_v2 | cuMemcpy3DAsync_v2_ptsz | cuMemcpy3DPeerAsync | cuMemcpy3DPeerAsync_ptsz(copy: *const CUDA_MEMCPY3D, stream: *mut c_void) {
        later(stream, PER_THREAD, Work::Copy(get(copy)?))
    }
    fn cuMemsetD8_v2 | cuMemsetD8_v2_ptds(dst: u64, value: u8, count: usize) {
        now(PER_THREAD, fill(dst, 0, c_uint::from(value), 1, count, 1))
    }
    fn cuMemsetD16_v2 | cuMemsetD16_v2_ptds(dst: u64, value: u16, count: usize) {
        now(PER_THREAD, fill(dst, 0, c_uint::from(value), 2, count, 1))
    }
    fn cuMemsetD32_v2 | cuMemsetD32_v2_ptds(dst: u64, value: c_uint, count: usize) {
        now(PER_THREAD, fill(dst, 0, value, 4, count, 1))
    }
    fn cuMemsetD2D8_v2 | cuMemsetD2D8_v2_ptds(dst: u64, pitch: usize, value: u8, width: usize, height: usize) {
        now(PER_THREAD, fill(dst, pitch, c_uint::from(value), 1, width, height))
    }
    fn cuMemsetD2D16_v2 | cuMemsetD2D16_v2_ptds(dst: u64, pitch: usize, value: u16, width: usize, height: usize) {
        now(PER_THREAD, fill(dst, pitch, c_uint::from(value), 2, width, height))
    }
    fn cuMemsetD2D32_v2 | cuMemsetD2D32_v2_ptds(dst: u64, pitch: usize, value: c_uint, width: usize, height: usize) {
        now(PER_THREAD, fill(dst, pitch, value, 4, width, height))
    }
    fn cuMemsetD8Async | cuMemsetD8Async_ptsz(dst: u64, value: u8, count: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, fill(dst, 0, c_uint::from(value), 1, count, 1))
    }
    fn cuMemsetD16Async | cuMemsetD16Async_ptsz(dst: u64, value: u16, count: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, fill(dst, 0, c_uint::from(value), 2, count, 1))
    }
    fn cuMemsetD32Async | cuMemsetD32Async_ptsz(dst: u64, value: c_uint, count: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, fill(dst, 0, value, 4, count, 1))
    }
    fn cuMemsetD2D8Async | cuMemsetD2D8Async_ptsz(dst: u64, pitch: usize, value: u8, width: usize, height: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, fill(dst, pitch, c_uint::from(value), 1, width, height))
    }
    fn cuMemsetD2D16Async | cuMemsetD2D16Async_ptsz(dst: u64, pitch: usize, value: u16, width: usize, height: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, fill(dst, pitch, c_uint::from(value), 2, width, height))
    }
    fn cuMemsetD2D32Async | cuMemsetD2D32Async_ptsz(dst: u64, pitch: usize, value: c_uint, width: usize, height: usize, stream: *mut c_void) {
        later(stream, PER_THREAD, fill(dst, pitch, value, 4, width, height))
    }
}

entry! {
    fn cuMemcpyBatchAsync_v2 | cuMemcpyBatchAsync_v2_ptsz(d, dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, _attributes: *const c_void, _indices: *const usize, _attribute_count: usize, stream: *mut c_void) {
        d.copy_batch(dsts, srcs, sizes, count, stream, PER_THREAD)
    }
    fn cuMemcpyBatchAsync | cuMemcpyBatchAsync_ptsz(d, dsts: *const u64, srcs: *const u64, sizes: *const usize, count: usize, _attributes: *const c_void, _indices: *const usize, _attribute_count: usize, _failed: *mut usize, stream: *mut c_void) {
        d.copy_batch(dsts, srcs, sizes, count, stream, PER_THREAD)
    }
}

impl Driver {
    fn copy_batch(
        &mut self,
        dsts: *const u64,
        srcs: *const u64,
        sizes: *const usize,
        count: usize,
        stream: *mut c_void,
        per_thread: bool,
    ) -> Outcome {
        let stream = self.stream(stream, per_thread)?;
        let (dsts, srcs, sizes) = (get_many(dsts, count)?, get_many(srcs, count)?, get_many(sizes, count)?);
        for ((dst, src), bytes) in dsts.into_iter().zip(srcs).zip(sizes) {
            self.submit(stream, Work::Copy(linear((UNIFIED, src), (UNIFIED, dst), bytes)))?;
        }
        Ok(())
    }
}
