//! Green contexts: a device's multiprocessors as resources that are split and combined, and contexts that have some of them.
//!
//! Which ones a resource has is in its bytes, by number: the same split gives the same ones in every process.

use cleave_cuda::types::error;
use core::ffi::{c_int, c_uint, c_void};

use super::abi::CUdevResource;
use super::engine::{Operation, StreamKind};
use super::{Driver, Outcome, get, get_many, put, put_optional};
use crate::mps::multiprocessors;
use crate::slices::WHOLE;
use crate::sms::Sms;

/// What a green context takes of a device (measured on driver 580).
const BYTES: u64 = 6 << 20;
/// `CU_DEV_RESOURCE_TYPE_SM`, the one kind that there is.
const SM: c_uint = 1;
/// `CUDA_ERROR_INVALID_RESOURCE_TYPE`.
const INVALID_TYPE: i32 = 914;
/// `CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION`.
const INVALID_CONFIGURATION: i32 = 915;
/// `CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED`.
const CAPTURED: i32 = 900;
/// `CU_GREEN_CTX_DEFAULT_STREAM`.
const DEFAULT_STREAM: c_uint = 1;
/// `CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING`.
const IGNORE_COSCHEDULING: c_uint = 1;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: c_uint = 1;

/// Certain multiprocessors of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resource {
    device: usize,
    sms: Sms,
    /// Which split it comes from; 0 for a whole device.
    split: u64,
}

/// What makes a context a green one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Green {
    /// Its `CUgreenCtx`, which is no `CUcontext`.
    pub handle: u64,
    /// The primary context, which has its memory, modules and events.
    pub home: u64,
    resource: Resource,
}

/// Smallest group of multiprocessors, and what the size of each is a multiple of.
fn grain([major, _]: [i32; 2]) -> (u32, u32) {
    match major {
        9.. => (8, 8),
        8 => (4, 2),
        _ => (2, 2),
    }
}

/// A number for a split: the same input and sizes, the same number.
fn number(input: &CUdevResource, size: u32, flags: c_uint) -> u64 {
    let of_set = input.sms.words().into_iter();
    let words = of_set.chain([input.split, u64::from(input.device), u64::from(size), u64::from(flags)]);
    // FNV, by words.
    words.fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| (hash ^ word).wrapping_mul(0x100_0000_01b3)).max(1)
}

impl Driver {
    /// All of a device that this process may use.
    fn resource_of(&self, device: usize) -> Resource {
        Resource { device, sms: Sms::first(multiprocessors(self.model(device).sms, self.part())), split: 0 }
    }

    fn describe(&self, resource: Resource) -> CUdevResource {
        let (least, alignment) = grain(self.model(resource.device).compute_capability);
        CUdevResource {
            kind: SM,
            device: resource.device as u32,
            sms: resource.sms,
            split: resource.split,
            count: resource.sms.count(),
            least,
            alignment,
            ..CUdevResource::default()
        }
    }

    fn resource_put(&self, to: *mut CUdevResource, kind: c_uint, resource: Resource) -> Outcome {
        if kind != SM {
            return Err(INVALID_TYPE);
        }
        put(to, self.describe(resource))
    }

    /// A caller's resource, checked.
    fn resource(&self, given: &CUdevResource) -> Outcome<Resource> {
        let device = given.device as usize;
        if given.kind != SM {
            return Err(INVALID_TYPE);
        }
        if !self.visible.contains(&device) || given.sms.is_empty() || given.sms.count() != given.count {
            return Err(INVALID_CONFIGURATION);
        }
        Ok(Resource { device, sms: given.sms, split: given.split })
    }

    /// How many groups of which size a split gives at most.
    fn split_sizes(&self, input: Resource, flags: c_uint, count: u32) -> Outcome<(u32, u32)> {
        let capability = self.model(input.device).compute_capability;
        let (least, alignment) = if flags & IGNORE_COSCHEDULING != 0 { (2, 2) } else { grain(capability) };
        let all = input.sms.count();
        let size = count.max(least).checked_next_multiple_of(alignment).ok_or(INVALID_CONFIGURATION)?;
        let most = match all / size {
            // As measured: where the percentage takes some away, nothing is split.
            0 => return Err(INVALID_CONFIGURATION),
            _ if self.part() < WHOLE => return Err(INVALID_CONFIGURATION),
            // A group lies in one of the clusters of multiprocessors, which are not all of one size: on the H100 132 are 15
            // groups of 8 and 12 more.
            fits if alignment == 8 && !all.is_multiple_of(size) => (fits - 1).max(1),
            fits => fits,
        };
        Ok((most, size))
    }

    /// A green context's `CUcontext`.
    fn green(&self, handle: *mut c_void) -> Outcome<u64> {
        let is = |green: &Green| green.handle == handle as u64;
        let found = self.contexts.iter().find(|(_, context)| context.green.as_ref().is_some_and(is));
        found.map(|(id, _)| *id).ok_or(error::INVALID_CONTEXT)
    }

    /// What makes a context green.
    pub(crate) fn green_of(&self, context: u64) -> Option<&Green> {
        self.contexts.get(&context)?.green.as_ref()
    }

    /// The context that has what is made in this one: a green one's primary.
    pub(crate) fn home(&self, context: u64) -> u64 {
        self.green_of(context).map_or(context, |green| green.home)
    }

    /// Whether waiting for a context waits for what another one does.
    pub(crate) fn covers(&self, context: u64, other: u64) -> bool {
        context == other || context == self.home(other)
    }

    fn green_create(&mut self, device: usize, home: u64, resource: Resource) -> Outcome<u64> {
        let handle = self.handle();
        let all = self.model(device).sms;
        let flags = self.contexts[&home].flags;
        let green = Some(Green { handle, home, resource });
        // Of a part nobody knows which multiprocessors it is. Rounded down, all groups of a device fit in it at once.
        let (part, sms) = if self.part() < WHOLE {
            (self.part(), Sms::ANY)
        } else {
            (resource.sms.count() * WHOLE / all, resource.sms)
        };
        self.context_open(device, flags, BYTES, (part, sms), green)?;
        Ok(handle)
    }

    /// A stream of a context that can be recorded and waited for as one.
    fn default_stream(&self, context: u64) -> Outcome<u64> {
        let mut streams = self.streams.values().filter(|stream| self.covers(context, stream.context));
        if streams.any(|stream| stream.capture.is_some()) {
            return Err(CAPTURED);
        }
        Ok(self.contexts[&context].legacy)
    }

    /// Records all that a context was given.
    fn context_record(&mut self, context: u64, event: u64) -> Outcome {
        let stream = self.default_stream(context)?;
        let generation = self.events.get_mut(&event).ok_or(error::INVALID_HANDLE)?.submit();
        self.operate(stream, Operation::Record { event, generation, whole: true })
    }

    /// Has all streams of a context wait for an event.
    fn context_wait(&mut self, context: u64, event: u64) -> Outcome {
        self.default_stream(context)?;
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, s)| self.covers(context, s.context)).map(|(id, _)| *id).collect();
        streams.into_iter().try_for_each(|stream| self.event_wait(event, stream))
    }
}

entry! {
    fn cuDeviceGetDevResource(d, dev: c_int, resource: *mut CUdevResource, kind: c_uint) {
        let device = d.device(dev)?;
        d.resource_put(resource, kind, d.resource_of(device))
    }
    fn cuCtxGetDevResource(d, ctx: *mut c_void, resource: *mut CUdevResource, kind: c_uint) {
        let id = d.context(ctx)?;
        let all = d.resource_of(d.contexts[&id].device);
        d.resource_put(resource, kind, d.green_of(id).map_or(all, |green| green.resource))
    }
    fn cuGreenCtxGetDevResource(d, green: *mut c_void, resource: *mut CUdevResource, kind: c_uint) {
        let id = d.green(green)?;
        d.resource_put(resource, kind, d.green_of(id).ok_or(error::INVALID_CONTEXT)?.resource)
    }
    fn cuDevSmResourceSplitByCount(d, result: *mut CUdevResource, groups: *mut c_uint, input: *const CUdevResource, remaining: *mut CUdevResource, flags: c_uint, count: c_uint) {
        let (given, wanted) = (get(input)?, get(groups)?);
        let input = d.resource(&given)?;
        if flags & !3 != 0 || (wanted == 0 && !result.is_null()) {
            return Err(error::INVALID_VALUE);
        }
        let (most, size) = d.split_sizes(input, flags, count)?;
        let made = if result.is_null() { most } else { wanted.min(most) };
        let split = number(&given, size, flags);
        let mut rest = input.sms;
        for index in 0..made as usize {
            let sms = rest.take(size);
            rest = rest.without(&sms);
            if !result.is_null() {
                put(result.wrapping_add(index), d.describe(Resource { sms, split, ..input }))?;
            }
        }
        // What there is none of is of no type.
        let rest = Some(Resource { sms: rest, split, ..input }).filter(|rest| !rest.sms.is_empty());
        put_optional(remaining, rest.map_or(CUdevResource::default(), |rest| d.describe(rest)));
        put(groups, made)
    }
    fn cuDevResourceGenerateDesc(d, desc: *mut *mut c_void, resources: *const CUdevResource, count: c_uint) {
        if count == 0 || desc.is_null() {
            return Err(error::INVALID_VALUE);
        }
        let mut all: Option<Resource> = None;
        for given in get_many(resources, count as usize)? {
            let one = d.resource(&given)?;
            all = Some(match all {
                None => one,
                Some(all) if (all.device, all.split) != (one.device, one.split) || all.sms.meets(&one.sms) => {
                    return Err(INVALID_CONFIGURATION);
                }
                Some(all) => Resource { sms: all.sms.with(&one.sms), ..all },
            });
        }
        let id = d.handle();
        d.descriptions.insert(id, all.ok_or(error::INVALID_VALUE)?);
        put(desc, id as *mut c_void)
    }
    fn cuGreenCtxCreate(d, to: *mut *mut c_void, desc: *mut c_void, dev: c_int, flags: c_uint) {
        let device = d.device(dev)?;
        let resource = *d.descriptions.get(&(desc as u64)).ok_or(error::INVALID_VALUE)?;
        if flags != DEFAULT_STREAM || to.is_null() || resource.device != device {
            return Err(error::INVALID_VALUE);
        }
        let home = d.primary_context(dev)?;
        match d.green_create(device, home, resource) {
            Ok(handle) => put(to, handle as *mut c_void),
            Err(code) => {
                d.primary_release(device)?;
                Err(code)
            }
        }
    }
    fn cuGreenCtxDestroy(d, green: *mut c_void) {
        let id = d.green(green)?;
        let device = d.contexts[&id].device;
        d.context_destroy(id)?;
        d.primary_release(device)
    }
    fn cuCtxFromGreenCtx(d, ctx: *mut *mut c_void, green: *mut c_void) {
        put(ctx, d.green(green)? as *mut c_void)
    }
    fn cuGreenCtxGetId(d, green: *mut c_void, id: *mut u64) {
        put(id, d.contexts[&d.green(green)?].id)
    }
    fn cuGreenCtxStreamCreate(d, stream: *mut *mut c_void, green: *mut c_void, flags: c_uint, priority: c_int) {
        let id = d.green(green)?;
        d.fault_of(id)?;
        if flags != NON_BLOCKING {
            return Err(error::INVALID_VALUE);
        }
        put(stream, d.stream_create(id, flags, priority.clamp(-5, 0), StreamKind::Ordinary) as *mut c_void)
    }
    fn cuStreamGetGreenCtx(d, stream: *mut c_void, green: *mut *mut c_void) {
        let id = d.stream(stream, PER_THREAD)?;
        put(green, d.green_of(d.streams[&id].context).map_or(0, |green| green.handle) as *mut c_void)
    }
    fn cuGreenCtxRecordEvent(d, green: *mut c_void, event: *mut c_void) {
        let id = d.green(green)?;
        d.context_record(id, event as u64)
    }
    fn cuGreenCtxWaitEvent(d, green: *mut c_void, event: *mut c_void) {
        let id = d.green(green)?;
        d.context_wait(id, event as u64)
    }
    fn cuCtxRecordEvent(d, ctx: *mut c_void, event: *mut c_void) {
        let id = d.context(ctx)?;
        d.context_record(id, event as u64)
    }
    fn cuCtxWaitEvent(d, ctx: *mut c_void, event: *mut c_void) {
        let id = d.context(ctx)?;
        d.context_wait(id, event as u64)
    }
}
