//! Contexts: primary and explicit, each thread's stack of them, limits.

use std::collections::HashMap;
use std::thread::ThreadId;

use cleave_cuda::types::{CUresult, error};
use core::ffi::{c_int, c_uint, c_void};

use super::engine::{Engine, StreamKind};
use super::green::Green;
use super::steps::{Queue, When};
use super::{CURRENT, Driver, Outcome, get, get_many, put, put_optional, with};
use crate::alloc::Chunks;
use crate::clock::Nanos;
use crate::mps::{context_bytes, multiprocessors};
use crate::slices::WHOLE;
use crate::sms::Sms;

/// Stack bytes per thread that a context starts with.
const STACK: usize = 1024;
/// Threads that each multiprocessor keeps a stack for.
const RESIDENT_THREADS: u64 = 2048;

/// One context.
pub(crate) struct Context {
    pub device: usize,
    pub primary: bool,
    pub flags: u32,
    pub id: u64,
    /// The fault that ended it.
    pub sticky: Option<CUresult>,
    limits: [usize; 16],
    /// Device memory beyond that of every context: bigger stacks.
    stack_bytes: u64,
    /// Stack per thread that is backed by memory.
    stack: usize,
    pub chunks: Chunks,
    pub legacy: u64,
    pub per_thread: HashMap<ThreadId, u64>,
    /// When the legacy stream's work, and all work of streams that wait for it, is done.
    pub legacy_tail: When,
    pub blocking_tail: When,
    /// When the work of streams that are destroyed is done.
    pub orphans: When,
    /// The part of the device that its kernels may use, in hundredths of a percent, and what it took to make it.
    pub part: u32,
    bytes: u64,
    /// Its multiprocessors, where it has certain ones.
    pub sms: Sms,
    pub green: Option<Green>,
    /// When its kernels are done, where time is virtual.
    pub busy: Nanos,
    /// Its queue on the device, where time is real.
    pub queue: Option<Queue>,
    cache_config: c_int,
    shared_config: c_int,
    pub peers: Vec<u64>,
}

impl Driver {
    /// Makes a context on a device.
    fn context_create(&mut self, device: usize, flags: u32, primary: bool, sms: Option<u32>) -> Outcome<u64> {
        self.alive()?;
        let all = self.model(device).sms;
        let part = match sms {
            Some(sms) if sms == 0 || sms > all => return Err(error::INVALID_VALUE),
            // A hundredth of a percent more than too little, so that the number comes out again.
            Some(sms) => (sms * WHOLE).div_ceil(all).min(self.part()),
            None => self.part(),
        };
        let bytes = context_bytes(self.model(device).context_bytes, part);
        let id = self.context_open(device, flags, bytes, (part, Sms::ANY), None)?;
        self.shared.lock().contexts(self.slot, device, 1);
        if let Some(context) = self.contexts.get_mut(&id) {
            context.primary = primary;
        }
        Ok(id)
    }

    /// Makes a context of `bytes` on a part of a device, or on certain multiprocessors.
    pub(crate) fn context_open(
        &mut self,
        device: usize,
        flags: u32,
        bytes: u64,
        (part, sms): (u32, Sms),
        green: Option<Green>,
    ) -> Outcome<u64> {
        self.charge(device, bytes, true)?;
        let queue = if self.real() {
            let server = self.client.as_ref().map(|client| (client.server, part));
            let mut shared = self.shared.lock();
            let index = shared.schedule(device).open(self.slot, server);
            index.inspect(|index| shared.schedule(device).pin(*index, sms));
            drop(shared);
            if index.is_none() {
                self.release(device, bytes, true);
                return Err(error::OUT_OF_MEMORY);
            }
            index.map(|index| Queue { device, index })
        } else {
            None
        };
        let id = self.handle();
        let mut limits = [0; 16];
        limits[0] = STACK;
        limits[1] = 1 << 20;
        limits[2] = 8 << 20;
        limits[3] = 2;
        limits[4] = 2048;
        limits[5] = 128;
        self.sequence += 1;
        let context = Context {
            device,
            primary: false,
            flags,
            id: self.sequence,
            sticky: None,
            limits,
            stack_bytes: 0,
            stack: STACK,
            chunks: Chunks::default(),
            legacy: 0,
            per_thread: HashMap::new(),
            legacy_tail: When::default(),
            blocking_tail: When::default(),
            orphans: When::default(),
            part,
            bytes,
            sms,
            green,
            busy: 0,
            queue,
            cache_config: 0,
            shared_config: 0,
            peers: Vec::new(),
        };
        self.contexts.insert(id, context);
        let legacy = self.stream_create(id, 0, 0, StreamKind::Legacy);
        if let Some(context) = self.contexts.get_mut(&id) {
            context.legacy = legacy;
        }
        Ok(id)
    }

    /// Ends a context and frees all that was made in it.
    pub(crate) fn context_destroy(&mut self, id: u64) -> Outcome {
        if !self.contexts.contains_key(&id) {
            return Err(error::INVALID_CONTEXT);
        }
        // Green contexts end with their primary one.
        let greens: Vec<u64> =
            self.contexts.keys().copied().filter(|other| *other != id && self.home(*other) == id).collect();
        greens.into_iter().try_for_each(|green| self.context_destroy(green))?;
        self.modules_of_context_gone(id);
        self.arrays_of_context_gone(id);
        let Some(context) = self.contexts.remove(&id) else { return Err(error::INVALID_CONTEXT) };
        let device = context.device;
        self.allocations_of_context_gone(id, device, &context.chunks);
        self.streams_of_context_gone(id);
        self.events.retain(|_, event| event.context != id);
        if let Some(queue) = context.queue {
            self.queue_gone(queue);
        }
        let bytes = context.bytes + context.stack_bytes;
        self.release(device, bytes, true);
        if context.green.is_none() {
            self.shared.lock().contexts(self.slot, device, -1);
        }
        if self.devices[device].primary == Some(id) {
            // A reset lets nobody's reference go.
            self.devices[device].primary = None;
        }
        if !self.contexts.values().any(|other| other.device == device) {
            self.pools_of_device_gone(device);
            self.graph_memory_trim(device);
        }
        Ok(())
    }

    /// Backs stacks of `bytes` per thread with memory.
    pub(crate) fn stack_grow(&mut self, id: u64, bytes: usize) -> Outcome {
        let id = self.home(id);
        let Some(context) = self.contexts.get(&id) else { return Err(error::INVALID_CONTEXT) };
        if bytes <= context.stack {
            return Ok(());
        }
        let device = context.device;
        let threads = u64::from(self.model(device).sms) * RESIDENT_THREADS;
        let more = (bytes - context.stack) as u64 * threads;
        self.charge(device, more, true)?;
        if let Some(context) = self.contexts.get_mut(&id) {
            context.stack_bytes += more;
            context.stack = bytes;
        }
        Ok(())
    }

    /// Gives back what stacks of more than `bytes` per thread take: the limit was lowered (measured on driver 580).
    fn stack_shrink(&mut self, id: u64, bytes: usize) {
        let Some(context) = self.contexts.get(&id) else { return };
        let (before, device) = (context.stack, context.device);
        let now = bytes.clamp(STACK, before);
        let less = (before - now) as u64 * u64::from(self.model(device).sms) * RESIDENT_THREADS;
        self.release(device, less, true);
        if let Some(context) = self.contexts.get_mut(&id) {
            context.stack = now;
            context.stack_bytes -= less;
        }
    }

    fn primary_retain(&mut self, device: usize) -> Outcome<u64> {
        let id = match self.devices[device].primary {
            Some(id) => id,
            None => {
                let flags = self.devices[device].primary_flags;
                let id = self.context_create(device, flags, true, None)?;
                self.devices[device].primary = Some(id);
                id
            }
        };
        Ok(id)
    }

    /// The primary context, retained once.
    pub(crate) fn primary_context(&mut self, ordinal: i32) -> Outcome<u64> {
        let device = self.device(ordinal)?;
        let id = self.primary_retain(device)?;
        self.devices[device].primary_references += 1;
        Ok(id)
    }

    /// Gives one of its references back.
    pub(crate) fn primary_release(&mut self, device: usize) -> Outcome {
        let references = &mut self.devices[device].primary_references;
        *references = references.checked_sub(1).ok_or(error::INVALID_CONTEXT)?;
        match (*references, self.devices[device].primary) {
            (0, Some(id)) => self.context_destroy(id),
            _ => Ok(()),
        }
    }

    /// A context by handle, null being the current one.
    pub(crate) fn context(&self, handle: *mut c_void) -> Outcome<u64> {
        if handle.is_null() {
            return self.current();
        }
        let id = handle as u64;
        if self.contexts.contains_key(&id) { Ok(id) } else { Err(error::INVALID_CONTEXT) }
    }
}

fn push(id: u64) {
    CURRENT.with_borrow_mut(|stack| stack.push(id));
}

/// Makes a context; of the affinities, `[kind, multiprocessors]` each, kind 0 counts, and without MPS none (as measured).
fn create(pctx: *mut *mut c_void, flags: c_uint, ordinal: c_int, affinities: &[[u32; 2]]) -> Outcome {
    with(|d| {
        let device = d.device(ordinal)?;
        let asked = affinities.iter().find(|[kind, _]| *kind == 0).map(|[_, sms]| *sms);
        let id = d.context_create(device, flags, false, asked.filter(|_| d.client.is_some()))?;
        push(id);
        put(pctx, id as *mut c_void)
    })
}

fn destroy(handle: *mut c_void) -> Outcome {
    with(|d| {
        if handle.is_null() {
            return Err(error::INVALID_CONTEXT);
        }
        let id = d.context(handle)?;
        if d.contexts[&id].primary || d.contexts[&id].green.is_some() {
            return Err(error::INVALID_CONTEXT);
        }
        CURRENT.with_borrow_mut(|stack| {
            if stack.last() == Some(&id) {
                stack.pop();
            }
        });
        d.context_destroy(id)
    })
}

free_entry! {
    fn cuCtxCreate | cuCtxCreate_v2(pctx: *mut *mut c_void, flags: c_uint, dev: c_int) {
        create(pctx, flags, dev, &[])
    }
    fn cuCtxCreate_v3(pctx: *mut *mut c_void, affinities: *const [u32; 2], count: c_int, flags: c_uint, dev: c_int) {
        create(pctx, flags, dev, &get_many(affinities, usize::try_from(count).unwrap_or(0))?)
    }
    fn cuCtxCreate_v4(pctx: *mut *mut c_void, _params: *mut c_void, flags: c_uint, dev: c_int) {
        create(pctx, flags, dev, &[])
    }
    fn cuCtxDestroy | cuCtxDestroy_v2 | cuCtxDetach(ctx: *mut c_void) {
        destroy(ctx)
    }
    fn cuDevicePrimaryCtxRelease | cuDevicePrimaryCtxRelease_v2(dev: c_int) {
        with(|d| {
            let device = d.device(dev)?;
            d.primary_release(device)
        })
    }
    fn cuDevicePrimaryCtxReset | cuDevicePrimaryCtxReset_v2(dev: c_int) {
        with(|d| {
            let device = d.device(dev)?;
            match d.devices[device].primary {
                None => Ok(()),
                Some(id) => d.context_destroy(id),
            }
        })
    }
    fn cuCtxSynchronize() {
        let id = with(|d| d.here())?;
        Engine::wait_context(id)
    }
    fn cuCtxSynchronize_v2(ctx: *mut c_void) {
        let id = with(|d| d.context(ctx))?;
        Engine::wait_context(id)
    }
}

entry! {
    fn cuDevicePrimaryCtxRetain(d, pctx: *mut *mut c_void, dev: c_int) {
        let id = d.primary_context(dev)?;
        put(pctx, id as *mut c_void)
    }
    fn cuDevicePrimaryCtxSetFlags | cuDevicePrimaryCtxSetFlags_v2(d, dev: c_int, flags: c_uint) {
        let device = d.device(dev)?;
        d.devices[device].primary_flags = flags;
        if let Some(id) = d.devices[device].primary && let Some(context) = d.contexts.get_mut(&id) {
            context.flags = flags;
        }
        Ok(())
    }
    fn cuDevicePrimaryCtxGetState(d, dev: c_int, flags: *mut c_uint, active: *mut c_int) {
        let device = d.device(dev)?;
        put_optional(flags, d.devices[device].primary_flags);
        put_optional(active, c_int::from(d.devices[device].primary.is_some()));
        Ok(())
    }
    fn cuCtxPushCurrent | cuCtxPushCurrent_v2(d, ctx: *mut c_void) {
        if ctx.is_null() {
            return Err(error::INVALID_CONTEXT);
        }
        push(d.context(ctx)?);
        Ok(())
    }
    fn cuCtxPopCurrent | cuCtxPopCurrent_v2(d, pctx: *mut *mut c_void) {
        let id = CURRENT.with_borrow_mut(Vec::pop).ok_or(error::INVALID_CONTEXT)?;
        put_optional(pctx, id as *mut c_void);
        Ok(())
    }
    fn cuCtxSetCurrent(d, ctx: *mut c_void) {
        if ctx.is_null() {
            CURRENT.with_borrow_mut(|stack| { stack.pop(); });
            return Ok(());
        }
        let id = d.context(ctx)?;
        CURRENT.with_borrow_mut(|stack| { stack.pop(); stack.push(id); });
        Ok(())
    }
    fn cuCtxGetCurrent(d, pctx: *mut *mut c_void) {
        let id = CURRENT.with_borrow(|stack| stack.last().copied()).unwrap_or(0);
        put(pctx, id as *mut c_void)
    }
    fn cuCtxAttach(d, pctx: *mut *mut c_void, _flags: c_uint) {
        let id = d.current()?;
        put(pctx, id as *mut c_void)
    }
    fn cuCtxGetDevice(d, device: *mut c_int) {
        let id = d.current()?;
        put(device, d.ordinal(d.contexts[&id].device))
    }
    fn cuCtxGetDevice_v2(d, device: *mut c_int, ctx: *mut c_void) {
        let id = d.context(ctx)?;
        put(device, d.ordinal(d.contexts[&id].device))
    }
    fn cuCtxGetFlags(d, flags: *mut c_uint) {
        let id = d.home(d.current()?);
        put(flags, d.contexts[&id].flags)
    }
    fn cuCtxSetFlags(d, flags: c_uint) {
        let id = d.home(d.current()?);
        if let Some(context) = d.contexts.get_mut(&id) {
            context.flags = flags;
        }
        Ok(())
    }
    fn cuCtxGetId(d, ctx: *mut c_void, id: *mut u64) {
        let context = d.context(ctx)?;
        put(id, d.contexts[&context].id)
    }
    fn cuCtxGetApiVersion(d, ctx: *mut c_void, version: *mut c_uint) {
        d.context(ctx)?;
        put(version, 3020)
    }
    fn cuCtxGetStreamPriorityRange(d, least: *mut c_int, greatest: *mut c_int) {
        d.usable()?;
        put_optional(least, 0);
        put_optional(greatest, -5);
        Ok(())
    }
    fn cuCtxGetLimit(d, value: *mut usize, limit: c_uint) {
        let id = d.usable()?;
        put(value, *d.contexts[&id].limits.get(limit as usize).ok_or(error::INVALID_VALUE)?)
    }
    fn cuCtxSetLimit(d, limit: c_uint, value: usize) {
        let id = d.usable()?;
        if limit as usize >= 10 {
            return Err(error::INVALID_VALUE);
        }
        if limit == 0 {
            d.stack_shrink(id, value);
            d.stack_grow(id, value)?;
        }
        if let Some(context) = d.contexts.get_mut(&id) {
            context.limits[limit as usize] = value;
        }
        Ok(())
    }
    fn cuCtxGetCacheConfig(d, config: *mut c_int) {
        let id = d.usable()?;
        put(config, d.contexts[&id].cache_config)
    }
    fn cuCtxSetCacheConfig(d, config: c_int) {
        let id = d.usable()?;
        if let Some(context) = d.contexts.get_mut(&id) {
            context.cache_config = config;
        }
        Ok(())
    }
    fn cuCtxGetSharedMemConfig(d, config: *mut c_int) {
        let id = d.usable()?;
        put(config, d.contexts[&id].shared_config)
    }
    fn cuCtxSetSharedMemConfig(d, config: c_int) {
        let id = d.usable()?;
        if let Some(context) = d.contexts.get_mut(&id) {
            context.shared_config = config;
        }
        Ok(())
    }
    fn cuCtxResetPersistingL2Cache(d) {
        d.usable().map(|_| ())
    }
    fn cuCtxGetExecAffinity(d, affinity: *mut [u32; 2], kind: c_int) {
        let id = d.usable()?;
        if kind != 0 {
            return Err(error::INVALID_VALUE);
        }
        let context = &d.contexts[&id];
        put(affinity, [0, multiprocessors(d.model(context.device).sms, context.part)])
    }
    fn cuCtxEnablePeerAccess(d, peer: *mut c_void, flags: c_uint) {
        let id = d.usable()?;
        let peer = d.home(d.context(peer)?);
        if flags != 0 {
            return Err(error::INVALID_VALUE);
        }
        let own = d.contexts[&id].device;
        if d.contexts[&peer].device == own {
            return Err(error::INVALID_DEVICE);
        }
        let Some(context) = d.contexts.get_mut(&id) else { return Err(error::INVALID_CONTEXT) };
        if context.peers.contains(&peer) {
            return Err(704);
        }
        context.peers.push(peer);
        Ok(())
    }
    fn cuCtxDisablePeerAccess(d, peer: *mut c_void) {
        let id = d.usable()?;
        let peer = d.home(d.context(peer)?);
        let Some(context) = d.contexts.get_mut(&id) else { return Err(error::INVALID_CONTEXT) };
        let before = context.peers.len();
        context.peers.retain(|other| *other != peer);
        if context.peers.len() == before { Err(705) } else { Ok(()) }
    }
    fn cuProfilerStart | cuProfilerStop(d) {
        Ok(())
    }
    fn cuThreadExchangeStreamCaptureMode(d, mode: *mut c_int) {
        let new = get(mode)?;
        let old = super::stream::exchange_capture_mode(new);
        put(mode, old)
    }
}
