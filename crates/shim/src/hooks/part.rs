//! Multiprocessors of its own for a client of an MPS server: a part of them that no other slice of the trust domain has.
//!
//! MPS can only say *how many* of them a client has at most; *which* ones, a green context says. One is made of this
//! process's part as soon as its primary context is active, and stands in for that from then on: both have the same
//! memory, modules and events, and whatever is started in the green one, or in streams made in it, runs on the part.
//! Whatever the program asks of the driver that depends on the thread's context, it asks in the green one where the primary
//! one is current ([`Part::enter`]): the CUDA runtime makes that current on ways that lead past the driver's exports. Where
//! the program asks for its context, it is told of the primary one.
use super::member;
use crate::gate;
use crate::process::{self, Process, environment};
use crate::real::{driver, real};
use crate::system::Lock;
use cleave_cuda::types::{CUcontext, CUresult, CUstream, Handle, error};
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What this process's part is, and the contexts that stand for it. All zeros: it has none.
pub struct Part {
    lock: Lock,
    /// Multiprocessors in it.
    processors: AtomicU32,
    /// How often the program holds the primary context.
    retains: AtomicU32,
    primary: AtomicU64,
    green: AtomicU64,
    /// The green context as a context; 0 = there is none now. Written after the others.
    context: AtomicU64,
    /// The one before it, which threads may have had current when it went.
    gone: AtomicU64,
}

/// `CUdevResource`: 144 bytes, of which the first word is its kind, and what is read here.
type Resource = [u64; 18];

const SM: i32 = 1;
/// Most groups into which a device's multiprocessors are cut; no device has as many.
const GROUPS: usize = 64;

const fn count(resource: &Resource) -> u32 {
    resource[12] as u32
}

/// The boundary of groups of these sizes that is nearest to `at` thousandths of all of them.
fn boundary(sizes: impl Iterator<Item = u32> + Clone, at: u32) -> usize {
    let wanted = sizes.clone().sum::<u32>() * at;
    let (mut sum, mut best, mut least) = (0, 0, wanted);
    for (index, size) in sizes.enumerate() {
        sum += size;
        let off = (sum * 1000).abs_diff(wanted);
        if off < least {
            (best, least) = (index + 1, off);
        }
    }
    best
}

/// The device's multiprocessors in the smallest groups that the driver gives out (8 of an H100, so that blocks of a
/// cluster find room), always in the same order; and which of the groups are from `from` to `to` thousandths of it.
fn groups(
    ordinal: i32,
    from: u32,
    to: u32,
) -> Result<([Resource; GROUPS + 1], core::ops::Range<usize>, u32), CUresult> {
    let ok = |status| if status == error::SUCCESS { Ok(()) } else { Err(status) };
    let (mut all, mut rest) = ([0; 18], [0; 18]);
    ok(driver!(cuDeviceGetDevResource(ordinal => i32, &raw mut all => *mut Resource, SM => i32)))?;
    let least = match (all[12] >> 32) as u32 {
        // Drivers before 13.0 don't say it.
        0 => {
            const MAJOR: i32 = 75;
            let mut major = 0;
            ok(real_attribute(&mut major, MAJOR, ordinal))?;
            match major {
                9.. => 8,
                8 => 4,
                _ => 2,
            }
        }
        least => least,
    };
    let (mut list, mut made) = ([[0; 18]; GROUPS + 1], GROUPS as u32);
    ok(driver!(cuDevSmResourceSplitByCount(
        list.as_mut_ptr() => *mut Resource, &raw mut made => *mut u32, &raw const all => *const Resource,
        &raw mut rest => *mut Resource, 0 => u32, least => u32)))?;
    let mut made = (made as usize).min(GROUPS);
    if let Some(place) = list.get_mut(made).filter(|_| count(&rest) > 0) {
        *place = rest;
        made += 1;
    }
    let sizes = || list.iter().take(made).map(count);
    // What begins where another ends meets it at the same boundary.
    let first = boundary(sizes(), from).min(made.saturating_sub(1));
    let end = boundary(sizes(), to).max(first + 1);
    let processors = sizes().take(end).skip(first).sum();
    Ok((list, first..end, processors))
}

fn real_attribute(value: &mut i32, attribute: i32, ordinal: i32) -> CUresult {
    let value: *mut i32 = value;
    real!(cuDeviceGetAttribute(value: *mut i32, attribute: i32, ordinal: i32))
}

impl Part {
    /// Multiprocessors that the program may know of; 0 = all.
    fn processors(&self) -> u32 {
        self.processors.load(Ordering::Relaxed)
    }

    /// The context that stands in for `context`.
    fn inside(&self, context: CUcontext) -> CUcontext {
        let own = self.context.load(Ordering::Acquire);
        let known = [&self.primary, &self.gone].map(|of| of.load(Ordering::Relaxed));
        match own != 0 && !context.is_null() && known.contains(&(context as u64)) {
            true => own as CUcontext,
            false => context,
        }
    }

    /// What the program is told where the driver says `context`.
    fn outside(&self, context: CUcontext) -> CUcontext {
        let own = [&self.context, &self.gone].map(|of| of.load(Ordering::Acquire));
        match !context.is_null() && own.contains(&(context as u64)) {
            true => self.primary.load(Ordering::Relaxed) as CUcontext,
            false => context,
        }
    }

    /// A new context has this handle, whatever had it before.
    pub fn is_another(&self, context: u64) {
        let _ = self.gone.compare_exchange(context, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn is_own(&self, green: Handle) -> bool {
        !green.is_null() && green as u64 == self.green.load(Ordering::Acquire)
    }

    /// Waits for what is in the primary context, too: for the program it is what it waits for, with all that is in it.
    fn wait_for_primary(&self) -> CUresult {
        if self.context.load(Ordering::Acquire) == 0 {
            return error::SUCCESS;
        }
        let mut current: CUcontext = null_mut();
        let status = driver!(cuCtxGetCurrent(&raw mut current => *mut CUcontext));
        let primary = self.outside(current);
        if status != error::SUCCESS || primary == current {
            return status;
        }
        driver!(cuCtxSetCurrent(primary => CUcontext));
        let status = real!(cuCtxSynchronize());
        driver!(cuCtxSetCurrent(current => CUcontext));
        status
    }

    /// Makes the green context current where the primary one is.
    pub fn enter(&self) {
        let mut current: CUcontext = null_mut();
        let status = driver!(cuCtxGetCurrent(&raw mut current => *mut CUcontext));
        let own = self.inside(current);
        if status == error::SUCCESS && own != current {
            driver!(cuCtxSetCurrent(own => CUcontext));
        }
    }
}

/// From where to where this process's part of the multiprocessors is, in thousandths, as its launch said. Read once: every
/// look-up of an entry point asks.
pub fn wanted() -> Option<(u32, u32)> {
    /// Both, 16 bits each, and a bit that says that they were read.
    static WANTED: AtomicU32 = AtomicU32::new(0);
    const READ: u32 = 1 << 31;
    let mut word = WANTED.load(Ordering::Relaxed);
    if word == 0 {
        word = READ | read().map_or(0, |(from, to)| u32::from(from) << 16 | u32::from(to));
        WANTED.store(word, Ordering::Relaxed);
    }
    let (from, to) = ((word & !READ) >> 16, word & 0xffff);
    (to > 0).then_some((from, to))
}

fn read() -> Option<(u16, u16)> {
    let text = environment(b"CLEAVE_MULTIPROCESSORS")?;
    // Who sheds its server has turns instead.
    environment(b"CUDA_MPS_PIPE_DIRECTORY")?;
    let mut ends = text.split(|byte| *byte == b'-').map(|end| core::str::from_utf8(end).ok()?.parse::<u16>().ok());
    let (from, to) = (ends.next()??, ends.next()??);
    (from < to && to <= 1000 && ends.next().is_none()).then_some((from, to))
}

/// Finds out which multiprocessors that are: once the driver has started. The driver's error if it does not give out parts.
pub fn find(p: &Process) -> CUresult {
    let Some((from, to)) = wanted() else { return error::SUCCESS };
    match groups(0, from, to) {
        Ok((_, _, processors)) => {
            p.part.processors.store(processors, Ordering::Relaxed);
            error::SUCCESS
        }
        Err(status) => status,
    }
}

/// The program is about to hold the primary context once more. If that fails it [`leave`]s.
pub fn hold(p: &Process) {
    let _held = p.part.lock.hold();
    p.part.retains.fetch_add(1, Ordering::Relaxed);
}

/// The primary context is active: makes the context of this process's part if there is none. The driver's error if that
/// can't be.
pub fn held(p: &Process, device: usize, ordinal: i32, primary: CUcontext) -> Result<(), CUresult> {
    let Some(bounds) = wanted() else { return Ok(()) };
    let _held = p.part.lock.hold();
    if p.part.context.load(Ordering::Acquire) == 0 {
        make(p, device, ordinal, primary, bounds)?;
    }
    Ok(())
}

fn make(p: &Process, device: usize, ordinal: i32, primary: CUcontext, (from, to): (u32, u32)) -> Result<(), CUresult> {
    let ok = |status| if status == error::SUCCESS { Ok(()) } else { Err(status) };
    let (mut list, which, _) = groups(ordinal, from, to)?;
    let own = list.get_mut(which).unwrap_or(&mut []);
    let (mut description, mut green, mut context): (Handle, Handle, CUcontext) = (null_mut(), null_mut(), null_mut());
    ok(driver!(cuDevResourceGenerateDesc(
        &raw mut description => *mut Handle, own.as_mut_ptr() => *mut Resource, own.len() as u32 => u32)))?;
    const DEFAULT_STREAM: u32 = 1;
    ok(driver!(cuGreenCtxCreate(
        &raw mut green => *mut Handle, description => Handle, ordinal => i32, DEFAULT_STREAM => u32)))?;
    let status = driver!(cuCtxFromGreenCtx(&raw mut context => *mut CUcontext, green => Handle));
    let status = if status == error::SUCCESS && p.measured_over(device) { error::OUT_OF_MEMORY } else { status };
    if status != error::SUCCESS {
        driver!(cuGreenCtxDestroy(green => Handle));
        p.measure(device);
        return Err(status);
    }
    p.part.is_another(context as u64);
    p.part.primary.store(primary as u64, Ordering::Relaxed);
    p.part.green.store(green as u64, Ordering::Relaxed);
    p.part.context.store(context as u64, Ordering::Release);
    p.parted();
    Ok(())
}

/// The program is about to let the primary context go once, or (`all`) to reset it, which lets nobody's hold on it go. With
/// the last hold, or what is in it, its part's context goes, which would keep it.
pub fn leave(p: &Process, all: bool) {
    let part = &p.part;
    if wanted().is_none() {
        return;
    }
    let _held = part.lock.hold();
    let left = part.retains.load(Ordering::Relaxed).saturating_sub(u32::from(!all));
    part.retains.store(left, Ordering::Relaxed);
    let context = part.context.load(Ordering::Acquire);
    if left > 0 && !all || context == 0 {
        return;
    }
    // The program's threads have the primary context current, as far as they know.
    let mut current: CUcontext = null_mut();
    driver!(cuCtxGetCurrent(&raw mut current => *mut CUcontext));
    if current as u64 == context {
        driver!(cuCtxSetCurrent(part.outside(current) => CUcontext));
    }
    part.gone.store(context, Ordering::Relaxed);
    part.context.store(0, Ordering::Release);
    driver!(cuGreenCtxDestroy(part.green.swap(0, Ordering::AcqRel) as Handle => Handle));
    gate::context_gone(p, context);
}

/// `CUexecAffinityParam`: a number of multiprocessors.
#[repr(C)]
struct Affinity {
    kind: i32,
    count: u32,
}

/// `CUctxCreateParams`.
#[repr(C)]
struct Parameters {
    affinity: *const Affinity,
    affinities: i32,
    graphics: *mut c_void,
}

/// Makes a context beside the primary one, if this process has a part: it can't be of certain multiprocessors, but of no
/// more than the part has. `asked` of them is what the program wants itself.
pub fn explicit(
    p: &Process,
    context: *mut CUcontext,
    asked: Option<u32>,
    flags: u32,
    ordinal: i32,
) -> Option<CUresult> {
    let most = p.part.processors();
    let affinity = Affinity { kind: 0, count: asked.map_or(most, |asked| asked.min(most)) };
    (most > 0).then(|| {
        driver!(cuCtxCreate_v3(
            context => *mut CUcontext, &raw const affinity => *const Affinity, 1 => i32, flags => u32, ordinal => i32))
    })
}

/// How many multiprocessors the first of `count` affinities asks for.
///
/// # Safety
/// As the driver's: `affinity` points to `count` of them.
pub unsafe fn asked(affinity: *const c_void, count: i32) -> Option<u32> {
    // SAFETY: as the caller promises.
    (count > 0).then(|| unsafe { affinity.cast::<Affinity>().as_ref() })?.map(|first| first.count)
}

/// What the parameters of `cuCtxCreate_v4` ask for; `None` if they are about graphics, which the driver does not combine
/// with a number of multiprocessors.
///
/// # Safety
/// As the driver's: `parameters` is null or points to a `CUctxCreateParams`.
pub unsafe fn asked_with(parameters: *const c_void) -> Option<Option<u32>> {
    // SAFETY: as the caller promises.
    match unsafe { parameters.cast::<Parameters>().as_ref() } {
        Some(given) if !given.graphics.is_null() => None,
        // SAFETY: as the caller promises.
        Some(given) => Some(unsafe { asked(given.affinity.cast(), given.affinities) }),
        None => Some(None),
    }
}

macro_rules! naming {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(context: CUcontext $(, $argument: $type)*) -> CUresult {
            let context = process::member().map_or(context, |p| p.part.inside(context));
            real!($name(context: CUcontext $(, $argument: $type)*))
        }
    )*};
}
naming!(
    cuCtxSetCurrent(),
    cuCtxPushCurrent(),
    cuCtxPushCurrent_v2(),
    cuCtxGetDevResource(resource: *mut c_void, kind: i32),
);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> CUresult {
    super::synchronise(|| match (real!(cuCtxSynchronize()), process::member()) {
        (error::SUCCESS, Some(p)) => p.part.wait_for_primary(),
        (status, _) => status,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize_v2(context: CUcontext) -> CUresult {
    let own = process::member().map_or(context, |p| p.part.inside(context));
    super::synchronise(|| match (real!(cuCtxSynchronize_v2(own: CUcontext)), process::member()) {
        // What is current, or what stands in for what was named.
        (error::SUCCESS, Some(p)) if context.is_null() => p.part.wait_for_primary(),
        (error::SUCCESS, Some(p)) if own != context => {
            let primary = p.part.outside(own);
            real!(cuCtxSynchronize_v2(primary: CUcontext))
        }
        (status, _) => status,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetId(context: CUcontext, id: *mut u64) -> CUresult {
    let mut context = context;
    if context.is_null()
        && let Some(p) = process::member()
    {
        driver!(cuCtxGetCurrent(&raw mut context => *mut CUcontext));
        context = p.part.outside(context);
    }
    real!(cuCtxGetId(context: CUcontext, id: *mut u64))
}

/// Replaces what the driver has written to `place`, which the program may have left out.
///
/// # Safety
/// `place` is null, or the driver has written there.
unsafe fn tell<T: Copy>(place: *mut T, change: impl FnOnce(T) -> T) {
    // SAFETY: as the caller promises.
    if let Some(place) = unsafe { place.as_mut() } {
        *place = change(*place);
    }
}

macro_rules! telling {
    ($($name:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type,)* context: *mut CUcontext) -> CUresult {
            let member = process::member();
            let status = real!($name($($argument: $type,)* context: *mut CUcontext));
            if let (Some(p), error::SUCCESS) = (member, status) {
                // SAFETY: the driver has written the caller's place.
                unsafe { tell(context, |context| p.part.outside(context)) };
            }
            status
        }
    )*};
}
telling!(
    cuCtxGetCurrent(),
    cuCtxPopCurrent(),
    cuCtxPopCurrent_v2(),
    cuStreamGetCtx(stream: CUstream),
    cuStreamGetCtx_ptsz(stream: CUstream),
);

macro_rules! telling_both {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(stream: CUstream, context: *mut CUcontext, green: *mut Handle) -> CUresult {
            let status = real!($name(stream: CUstream, context: *mut CUcontext, green: *mut Handle));
            if let (Some(p), error::SUCCESS) = (process::member(), status) {
                // SAFETY: the driver has written both.
                unsafe {
                    tell(context, |context| p.part.outside(context));
                    tell(green, |green| if p.part.is_own(green) { null_mut() } else { green });
                }
            }
            status
        }
    )*};
}
telling_both!(cuStreamGetCtx_v2, cuStreamGetCtx_v2_ptsz);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetGreenCtx(stream: CUstream, green: *mut Handle) -> CUresult {
    let status = real!(cuStreamGetGreenCtx(stream: CUstream, green: *mut Handle));
    if let (Some(p), error::SUCCESS) = (process::member(), status) {
        // SAFETY: the driver has written the caller's place.
        unsafe { tell(green, |green| if p.part.is_own(green) { null_mut() } else { green }) };
    }
    status
}

/// The program is told of the multiprocessors that it has: it cuts its work by them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut i32, attribute: i32, ordinal: i32) -> CUresult {
    const MULTIPROCESSORS: i32 = 16;
    let status = real!(cuDeviceGetAttribute(value: *mut i32, attribute: i32, ordinal: i32));
    if let (Some(p), error::SUCCESS, MULTIPROCESSORS) = (process::member(), status, attribute)
        && p.part.processors() > 0
    {
        // SAFETY: the driver has written the caller's place.
        unsafe { *value = p.part.processors() as i32 };
    }
    status
}

/// What the program makes green contexts of itself is of its part.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDevResource(ordinal: i32, resource: *mut c_void, kind: i32) -> CUresult {
    let call = || real!(cuDeviceGetDevResource(ordinal: i32, resource: *mut c_void, kind: i32));
    let Some(p) = member!() else { return call() };
    match p.part.green.load(Ordering::Acquire) {
        0 => call(),
        green => driver!(cuGreenCtxGetDevResource(green as Handle => Handle, resource => *mut c_void, kind => i32)),
    }
}

#[cfg(test)]
mod tests {
    use super::boundary;

    #[test]
    fn neighbours_meet_at_one_boundary() {
        // An H100: 15 groups of 8, and 12 that are left.
        let sizes = || core::iter::repeat_n(8, 15).chain([12]);
        let at = |thousandths| boundary(sizes(), thousandths);
        assert_eq!((at(0), at(1000)), (0, 16));
        assert_eq!([at(250), at(500), at(750), at(300), at(960)], [4, 8, 12, 5, 16]);
        for width in 100..=1000 {
            for from in 0..=1000 - width {
                assert!(at(from) < at(from + width), "{from}, {width}");
            }
        }
    }
}
