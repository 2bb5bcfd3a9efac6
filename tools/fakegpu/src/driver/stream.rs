//! Entry points of streams and events.

use std::cell::Cell;

use cleave_cuda::types::error;
use core::ffi::{c_int, c_uint, c_void};

use super::engine::{Engine, HostFunction, Operation, Standing, StreamCallback, StreamKind};
use super::graph::Work;
use super::{Driver, Outcome, get, get_many, put, put_optional, with};

thread_local! {
    static CAPTURE_MODE: Cell<c_int> = const { Cell::new(0) };
}

/// Sets the calling thread's capture mode; returns the one before.
pub(crate) fn exchange_capture_mode(mode: c_int) -> c_int {
    CAPTURE_MODE.replace(mode)
}

free_entry! {
    fn cuStreamSynchronize | cuStreamSynchronize_ptsz(stream: *mut c_void) {
        let id = with(|d| d.stream(stream, PER_THREAD))?;
        let captured = Engine::wait_stream(id);
        if captured == Err(900) {
            with(|d| { d.capture_spoil(id); Ok(()) })?;
        }
        captured
    }
    fn cuEventSynchronize(event: *mut c_void) {
        Engine::wait_event(event as u64)
    }
}

entry! {
    fn cuStreamCreate(d, stream: *mut *mut c_void, flags: c_uint) {
        let context = d.here()?;
        let id = d.stream_create(context, flags, 0, StreamKind::Ordinary);
        put(stream, id as *mut c_void)
    }
    fn cuStreamCreateWithPriority(d, stream: *mut *mut c_void, flags: c_uint, priority: c_int) {
        let context = d.here()?;
        let id = d.stream_create(context, flags, priority.clamp(-5, 0), StreamKind::Ordinary);
        put(stream, id as *mut c_void)
    }
    fn cuStreamDestroy | cuStreamDestroy_v2(d, stream: *mut c_void) {
        let id = stream as u64;
        let found = d.streams.get(&id).ok_or(error::INVALID_HANDLE)?;
        if found.kind != StreamKind::Ordinary {
            return Err(error::INVALID_HANDLE);
        }
        if matches!(d.stream_standing(id), Ok(Standing::Outside)) {
            // Its work goes on without it: keep the queue, forget the handle when it is done.
            d.pump();
        }
        if !matches!(d.stream_standing(id), Ok(Standing::Outside)) {
            d.stream_gone(id);
        }
        Ok(())
    }
    fn cuStreamQuery | cuStreamQuery_ptsz(d, stream: *mut c_void) {
        let id = d.stream(stream, PER_THREAD)?;
        d.pump();
        let standing = d.stream_standing(id)?;
        d.query(standing)
    }
    fn cuStreamGetFlags | cuStreamGetFlags_ptsz(d, stream: *mut c_void, flags: *mut c_uint) {
        let id = d.stream(stream, PER_THREAD)?;
        put(flags, d.streams[&id].flags)
    }
    fn cuStreamGetPriority | cuStreamGetPriority_ptsz(d, stream: *mut c_void, priority: *mut c_int) {
        let id = d.stream(stream, PER_THREAD)?;
        put(priority, d.streams[&id].priority)
    }
    fn cuStreamGetId | cuStreamGetId_ptsz(d, stream: *mut c_void, out: *mut u64) {
        let id = d.stream(stream, PER_THREAD)?;
        put(out, d.streams[&id].id)
    }
    fn cuStreamGetCtx | cuStreamGetCtx_ptsz(d, stream: *mut c_void, ctx: *mut *mut c_void) {
        let id = d.stream(stream, PER_THREAD)?;
        put(ctx, d.streams[&id].context as *mut c_void)
    }
    fn cuStreamGetCtx_v2 | cuStreamGetCtx_v2_ptsz(d, stream: *mut c_void, ctx: *mut *mut c_void, green: *mut *mut c_void) {
        let id = d.stream(stream, PER_THREAD)?;
        let context = d.streams[&id].context;
        put_optional(green, d.green_of(context).map_or(0, |green| green.handle) as *mut c_void);
        put(ctx, d.home(context) as *mut c_void)
    }
    fn cuStreamGetDevice | cuStreamGetDevice_ptsz(d, stream: *mut c_void, device: *mut c_int) {
        let id = d.stream(stream, PER_THREAD)?;
        put(device, d.ordinal(d.streams[&id].device))
    }
    fn cuStreamCopyAttributes | cuStreamCopyAttributes_ptsz(d, to: *mut c_void, from: *mut c_void) {
        d.stream(to, PER_THREAD)?;
        d.stream(from, PER_THREAD).map(|_| ())
    }
    fn cuStreamSetAttribute | cuStreamSetAttribute_ptsz(d, stream: *mut c_void, attribute: c_int, value: *const c_void) {
        let id = d.stream(stream, PER_THREAD)?;
        // Of the attributes only the priority means something here.
        if attribute == 8 {
            let priority: c_int = get(value.cast())?;
            if let Some(stream) = d.streams.get_mut(&id) {
                stream.priority = priority.clamp(-5, 0);
            }
        }
        Ok(())
    }
    fn cuStreamGetAttribute | cuStreamGetAttribute_ptsz(d, stream: *mut c_void, attribute: c_int, value: *mut [u64; 8]) {
        let id = d.stream(stream, PER_THREAD)?;
        let mut out = [0; 8];
        if attribute == 8 {
            out[0] = u64::from(d.streams[&id].priority as u32);
        }
        put(value, out)
    }
    fn cuStreamAttachMemAsync | cuStreamAttachMemAsync_ptsz(d, stream: *mut c_void, pointer: u64, _length: usize, _flags: c_uint) {
        d.stream(stream, PER_THREAD)?;
        if d.find(pointer).is_some() { Ok(()) } else { Err(error::INVALID_VALUE) }
    }
    fn cuStreamWaitEvent | cuStreamWaitEvent_ptsz(d, stream: *mut c_void, event: *mut c_void, _flags: c_uint) {
        let id = d.stream(stream, PER_THREAD)?;
        d.event_wait(event as u64, id)
    }
    fn cuStreamAddCallback | cuStreamAddCallback_ptsz(d, stream: *mut c_void, callback: Option<StreamCallback>, data: *mut c_void, flags: c_uint) {
        let id = d.stream(stream, PER_THREAD)?;
        let (Some(function), 0) = (callback, flags) else { return Err(error::INVALID_VALUE) };
        if d.streams[&id].capture.is_some() {
            return Err(900);
        }
        d.operate(id, Operation::Callback { function, stream: stream as u64, data: data as u64 })
    }
    fn cuLaunchHostFunc | cuLaunchHostFunc_ptsz(d, stream: *mut c_void, function: Option<HostFunction>, data: *mut c_void) {
        let id = d.stream(stream, PER_THREAD)?;
        let function = function.ok_or(error::INVALID_VALUE)?;
        d.submit(id, Work::Host { function, data: data as u64 })
    }
    fn cuLaunchHostFunc_v2(d, stream: *mut c_void, function: Option<HostFunction>, data: *mut c_void, _mode: c_uint) {
        let id = d.stream(stream, PER_THREAD)?;
        let function = function.ok_or(error::INVALID_VALUE)?;
        d.submit(id, Work::Host { function, data: data as u64 })
    }
    fn cuStreamWaitValue32 | cuStreamWaitValue32_ptsz | cuStreamWaitValue32_v2 | cuStreamWaitValue32_v2_ptsz(d, stream: *mut c_void, address: u64, value: u32, flags: c_uint) {
        d.memory_operation(stream, PER_THREAD, Operation::WaitValue { address, value: u64::from(value), flags, wide: false })
    }
    fn cuStreamWaitValue64 | cuStreamWaitValue64_ptsz | cuStreamWaitValue64_v2 | cuStreamWaitValue64_v2_ptsz(d, stream: *mut c_void, address: u64, value: u64, flags: c_uint) {
        d.memory_operation(stream, PER_THREAD, Operation::WaitValue { address, value, flags, wide: true })
    }
    fn cuStreamWriteValue32 | cuStreamWriteValue32_ptsz | cuStreamWriteValue32_v2 | cuStreamWriteValue32_v2_ptsz(d, stream: *mut c_void, address: u64, value: u32, _flags: c_uint) {
        d.memory_operation(stream, PER_THREAD, Operation::WriteValue { address, value: u64::from(value), wide: false })
    }
    fn cuStreamWriteValue64 | cuStreamWriteValue64_ptsz | cuStreamWriteValue64_v2 | cuStreamWriteValue64_v2_ptsz(d, stream: *mut c_void, address: u64, value: u64, _flags: c_uint) {
        d.memory_operation(stream, PER_THREAD, Operation::WriteValue { address, value, wide: true })
    }
    fn cuStreamBatchMemOp | cuStreamBatchMemOp_ptsz | cuStreamBatchMemOp_v2 | cuStreamBatchMemOp_v2_ptsz(d, stream: *mut c_void, count: c_uint, operations: *const [u64; 6], _flags: c_uint) {
        for words in get_many(operations, count as usize)? {
            // operation, address, value (4 or 8 bytes), flags
            let (kind, address, value, flags) = (words[0] as u32, words[1], words[2], words[3] as u32);
            let operation = match kind {
                1 => Operation::WaitValue { address, value: value & 0xffff_ffff, flags, wide: false },
                4 => Operation::WaitValue { address, value, flags, wide: true },
                2 => Operation::WriteValue { address, value: value & 0xffff_ffff, wide: false },
                5 => Operation::WriteValue { address, value, wide: true },
                3 | 6 => continue,
                _ => return Err(error::INVALID_VALUE),
            };
            d.memory_operation(stream, PER_THREAD, operation)?;
        }
        Ok(())
    }
    fn cuFlushGPUDirectRDMAWrites(d, _target: c_int, _scope: c_int) {
        Ok(())
    }

    fn cuEventCreate(d, event: *mut *mut c_void, flags: c_uint) {
        let context = d.usable()?;
        if flags & !7 != 0 {
            return Err(error::INVALID_VALUE);
        }
        let id = d.event_create(context, flags);
        put(event, id as *mut c_void)
    }
    fn cuEventDestroy | cuEventDestroy_v2(d, event: *mut c_void) {
        d.events.remove(&(event as u64)).map(|_| ()).ok_or(error::INVALID_HANDLE)
    }
    fn cuEventRecord | cuEventRecord_ptsz(d, event: *mut c_void, stream: *mut c_void) {
        let id = d.stream(stream, PER_THREAD)?;
        d.event_record(event as u64, id, 0)
    }
    fn cuEventRecordWithFlags | cuEventRecordWithFlags_ptsz(d, event: *mut c_void, stream: *mut c_void, flags: c_uint) {
        let id = d.stream(stream, PER_THREAD)?;
        if flags & 1 != 0 && d.streams[&id].capture.is_some() {
            return d.submit(id, Work::Record(event as u64));
        }
        d.event_record(event as u64, id, flags)
    }
    fn cuEventQuery(d, event: *mut c_void) {
        d.pump();
        let standing = d.event_standing(event as u64)?;
        d.query(standing)
    }
    fn cuEventElapsedTime | cuEventElapsedTime_v2(d, milliseconds: *mut f32, start: *mut c_void, end: *mut c_void) {
        let (Some(start), Some(end)) = (d.event_time(start as u64)?, d.event_time(end as u64)?) else {
            return Err(error::NOT_READY);
        };
        put(milliseconds, (end as f64 - start as f64) as f32 / 1e6)
    }
}

impl Driver {
    /// A read or write of a word by a stream.
    fn memory_operation(&mut self, stream: *mut c_void, per_thread: bool, operation: Operation) -> Outcome {
        let id = self.stream(stream, per_thread)?;
        let (Operation::WaitValue { address, .. } | Operation::WriteValue { address, .. }) = &operation else {
            return Err(error::INVALID_VALUE);
        };
        if *address == 0 || address % 4 != 0 || self.find(*address).is_none() && self.vmm.find(*address).is_none() {
            return Err(error::INVALID_VALUE);
        }
        self.submit(id, Work::Memory(vec![operation]))
    }
}
