//! The CUDA driver API.
//!
//! One lock per process guards everything (`Driver`). Handles are numbers from one counter, looked up in maps, so an
//! invalid handle is an error and never a crash. What is shared with other processes is in [`crate::shared`].
#![allow(unsafe_code)] // UNSAFETY: C entry points that read and write through their callers' pointers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use cleave_cuda::types::{CUresult, error};

use crate::clock::Nanos;
use crate::mig::{Ids, visible};
use crate::model::{Inventory, Model, Pace};
use crate::mps::{self, Client};
use crate::shared::{SERVER_GONE, Shared, standing};
use crate::slices::WHOLE;

/// What an operation of the driver gives: a value or the error to return.
pub(crate) type Outcome<T = ()> = Result<T, CUresult>;

/// Defines entry points. `fn name | alias … (driver, argument: type, …) { body }`: the body is an [`Outcome`] computed
/// under the lock; the aliases have the same prototype; `PER_THREAD` is true in the `_ptsz` and `_ptds` ones.
macro_rules! entry {
    () => {};
    (@names [$($names:ident)*] $name:ident | $($rest:tt)*) => {
        $crate::driver::entry! { @names [$($names)* $name] $($rest)* }
    };
    (@names [$($names:ident)*] $name:ident $arguments:tt $body:block $($rest:tt)*) => {
        $( $crate::driver::one_entry! { $names $arguments $body } )*
        $crate::driver::one_entry! { $name $arguments $body }
        $crate::driver::entry! { $($rest)* }
    };
    (fn $($rest:tt)*) => { $crate::driver::entry! { @names [] $($rest)* } };
}

/// One entry point of [`entry!`].
macro_rules! one_entry {
    ($name:ident ($driver:ident $(, $argument:ident : $type:ty)* $(,)?) $body:block) => {
        #[doc = concat!("`", stringify!($name), "` as in `cuda.h`.")]
        ///
        /// # Safety
        /// Pointers must be as `cuda.h` asks.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> cleave_cuda::types::CUresult {
            #[allow(dead_code)]
            const PER_THREAD: bool = $crate::driver::is_per_thread(stringify!($name));
            #[allow(unused_variables)]
            $crate::driver::call(|$driver: &mut $crate::driver::Driver| -> $crate::driver::Outcome { $body })
        }
    };
}

/// Like [`entry!`], without the lock: for what waits, runs before `cuInit`, or calls the program back.
macro_rules! free_entry {
    () => {};
    (@names [$($names:ident)*] $name:ident | $($rest:tt)*) => {
        $crate::driver::free_entry! { @names [$($names)* $name] $($rest)* }
    };
    (@names [$($names:ident)*] $name:ident $arguments:tt $body:block $($rest:tt)*) => {
        $( $crate::driver::one_free_entry! { $names $arguments $body } )*
        $crate::driver::one_free_entry! { $name $arguments $body }
        $crate::driver::free_entry! { $($rest)* }
    };
    (fn $($rest:tt)*) => { $crate::driver::free_entry! { @names [] $($rest)* } };
}

/// One entry point of [`free_entry!`].
macro_rules! one_free_entry {
    ($name:ident ($($argument:ident : $type:ty),* $(,)?) $body:block) => {
        #[doc = concat!("`", stringify!($name), "` as in `cuda.h`.")]
        ///
        /// # Safety
        /// Pointers must be as `cuda.h` asks.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> cleave_cuda::types::CUresult {
            #[allow(dead_code)]
            const PER_THREAD: bool = $crate::driver::is_per_thread(stringify!($name));
            let run = || -> $crate::driver::Outcome { $body };
            $crate::driver::code(run())
        }
    };
}

pub(crate) use {entry, free_entry, one_entry, one_free_entry};

mod abi;
mod array;
mod checkpoint;
mod context;
mod copy;
mod device;
mod engine;
mod export;
mod graph;
mod green;
mod launch;
mod memory;
mod module;
mod pool;
mod proc;
mod steps;
mod stream;
mod vmm;

/// Whether a symbol is the variant whose null stream is the calling thread's own.
pub(crate) const fn is_per_thread(symbol: &str) -> bool {
    let bytes = symbol.as_bytes();
    let n = bytes.len();
    n > 5
        && bytes[n - 5] == b'_'
        && bytes[n - 4] == b'p'
        && bytes[n - 3] == b't'
        && (bytes[n - 2] == b's' || bytes[n - 2] == b'd')
        && (bytes[n - 1] == b'z' || bytes[n - 1] == b's')
}

/// One device, as this process uses it.
#[derive(Default)]
pub(crate) struct Device {
    /// The primary context, once retained.
    primary: Option<u64>,
    primary_references: u32,
    primary_flags: u32,
    /// The pool that the device came with, and the one in use; made when first asked for.
    default_pool: Option<u64>,
    current_pool: Option<u64>,
    graph_memory: pool::GraphMemory,
}

/// Everything that the driver knows in this process.
pub(crate) struct Driver {
    pub(crate) inventory: Inventory,
    pub(crate) shared: Shared,
    slot: usize,
    /// What it is as a client of an MPS server, where there is one.
    client: Option<Client>,
    next: u64,
    /// All devices of the inventory.
    devices: Vec<Device>,
    /// Those that the program sees, in its order.
    visible: Vec<usize>,
    /// The MIG device that the one device is, if it is one.
    mig: Option<Ids>,
    contexts: HashMap<u64, context::Context>,
    /// Of resources for green contexts.
    descriptions: HashMap<u64, green::Resource>,
    streams: BTreeMap<u64, engine::Stream>,
    /// Handles of streams that were: the program must not use them again.
    destroyed: BTreeSet<u64>,
    events: HashMap<u64, engine::Event>,
    allocations: BTreeMap<u64, memory::Allocation>,
    chunks: BTreeMap<u64, crate::map::Mapping>,
    pools: HashMap<u64, pool::Pool>,
    vmm: vmm::Vmm,
    arrays: HashMap<u64, array::Array>,
    mipmaps: HashMap<u64, array::Mipmap>,
    objects: HashMap<u64, array::Object>,
    modules: HashMap<u64, module::Module>,
    functions: HashMap<u64, module::Function>,
    links: HashMap<u64, module::Link>,
    graphs: HashMap<u64, graph::Graph>,
    nodes: HashMap<u64, u64>,
    executables: HashMap<u64, graph::Executable>,
    captures: HashMap<u64, graph::Capture>,
    sequence: u64,
    user_objects: HashMap<u64, graph::UserObject>,
    /// What the devices have yet to do, where time is real, and the thread that looks after it.
    steps: Vec<steps::Step>,
    rest: steps::Rest,
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);
/// Told when a stream that waited for something outside may go on.
static PROGRESS: Condvar = Condvar::new();
/// Set in a child made by `fork` after `cuInit`: the driver does not survive that.
static FORKED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether the calling thread is one of the driver's, which go on while the process is being locked.
    static INTERNAL: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    /// The calling thread's contexts, the current one last.
    static CURRENT: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The code of an outcome.
pub(crate) fn code(outcome: Outcome) -> CUresult {
    outcome.err().unwrap_or(error::SUCCESS)
}

fn lock() -> Outcome<MutexGuard<'static, Option<Driver>>> {
    if FORKED.load(Ordering::Relaxed) {
        return Err(error::NOT_INITIALIZED);
    }
    loop {
        let guard = DRIVER.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(driver) = guard.as_ref().filter(|_| !INTERNAL.get()) else { return Ok(guard) };
        let (slot, now) = (driver.slot, driver.shared.standing(driver.slot));
        if now == standing::RUNNING {
            return Ok(guard);
        }
        drop(guard);
        checkpoint::wait(slot, now);
    }
}

/// Runs `body` with the driver, or says that it is not initialised.
pub(crate) fn with<T>(body: impl FnOnce(&mut Driver) -> Outcome<T>) -> Outcome<T> {
    let mut guard = lock()?;
    body(guard.as_mut().ok_or(error::NOT_INITIALIZED)?)
}

/// The same, for an entry point.
pub(crate) fn call(body: impl FnOnce(&mut Driver) -> Outcome) -> CUresult {
    code(with(body))
}

/// Writes a result through a caller's pointer; null is an invalid value.
pub(crate) fn put<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: not null, and by the entry points' contract it may be written as its type says.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

/// Writes a result where the caller asked for it.
pub(crate) fn put_optional<T>(to: *mut T, value: T) {
    let _ = if to.is_null() { Ok(()) } else { put(to, value) };
}

/// Reads a caller's struct; null is an invalid value.
pub(crate) fn get<T: Copy>(from: *const T) -> Outcome<T> {
    if from.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: not null, and by the entry points' contract it may be read as its type says.
    Ok(unsafe { from.read_unaligned() })
}

/// Copies a caller's array.
pub(crate) fn get_many<T: Copy>(from: *const T, count: usize) -> Outcome<Vec<T>> {
    // SAFETY: by the entry points' contract the array has `count` elements; `get` refuses null.
    (0..count).map(|index| get(if from.is_null() { from } else { unsafe { from.add(index) } })).collect()
}

/// Writes a C string of at most `size` bytes, its end included.
pub(crate) fn put_text(to: *mut core::ffi::c_char, size: usize, text: &str) -> Outcome {
    if to.is_null() || size == 0 {
        return Err(error::INVALID_VALUE);
    }
    let length = text.len().min(size - 1);
    // SAFETY: the caller's buffer has `size` bytes; `length` and the end fit.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), length);
        to.add(length).write(0);
    }
    Ok(())
}

/// Reads a caller's C string.
pub(crate) fn get_text(from: *const core::ffi::c_char) -> Outcome<String> {
    if from.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: not null, and by the entry points' contract a C string.
    Ok(unsafe { std::ffi::CStr::from_ptr(from) }.to_string_lossy().into_owned())
}

extern "C" fn after_fork() {
    FORKED.store(true, Ordering::Relaxed);
}

/// Starts the driver in this process if it is not running.
fn start() -> Outcome {
    let mut guard = lock()?;
    if guard.is_some() {
        return Ok(());
    }
    let (mut inventory, shared) = crate::place::open().ok_or(error::NO_DEVICE)?;
    let migs = shared.lock().migs();
    let (visible, mig) = visible(&inventory, &migs, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
    if visible.is_empty() {
        return Err(error::NO_DEVICE);
    }
    let slot = shared.lock().attach().ok_or(error::UNKNOWN)?;
    if let Some((device, ids)) = mig {
        shared.lock().enter(slot, device, ids);
        inventory.devices[device] = migs[device].model(&inventory.devices[device], ids).ok_or(error::NO_DEVICE)?;
    }
    let client = mps::join(&inventory, &shared, slot, &visible)?;
    let served = |device: &usize| client.as_ref().is_none_or(|client| client.devices.contains(device));
    let visible: Vec<usize> = visible.into_iter().filter(served).collect();
    if visible.is_empty() {
        return Err(error::NO_DEVICE);
    }
    let devices = inventory.devices.iter().map(|_| Device::default()).collect();
    *guard = Some(Driver {
        inventory,
        shared,
        slot,
        client,
        next: 0x5a00_0000_0000,
        devices,
        visible,
        mig: mig.map(|(_, ids)| ids),
        contexts: HashMap::new(),
        descriptions: HashMap::new(),
        streams: BTreeMap::new(),
        destroyed: BTreeSet::new(),
        events: HashMap::new(),
        allocations: BTreeMap::new(),
        chunks: BTreeMap::new(),
        pools: HashMap::new(),
        vmm: vmm::Vmm::default(),
        arrays: HashMap::new(),
        mipmaps: HashMap::new(),
        objects: HashMap::new(),
        modules: HashMap::new(),
        functions: HashMap::new(),
        links: HashMap::new(),
        graphs: HashMap::new(),
        nodes: HashMap::new(),
        executables: HashMap::new(),
        captures: HashMap::new(),
        sequence: 0,
        user_objects: HashMap::new(),
        steps: Vec::new(),
        rest: steps::Rest::default(),
    });
    checkpoint::keep();
    // SAFETY: registers a function that only stores to an atomic.
    unsafe { libc::pthread_atfork(None, None, Some(after_fork)) };
    Ok(())
}

impl Driver {
    /// A new handle.
    fn handle(&mut self) -> u64 {
        self.next += 0x40;
        self.next
    }

    /// The model of a device.
    fn model(&self, device: usize) -> &Model {
        &self.inventory.devices[device]
    }

    /// The device that the program calls `ordinal`.
    fn device(&self, ordinal: i32) -> Outcome<usize> {
        let ordinal = usize::try_from(ordinal).map_err(|_| error::INVALID_DEVICE)?;
        self.visible.get(ordinal).copied().ok_or(error::INVALID_DEVICE)
    }

    /// What the program calls a device; -1 for one that it doesn't see.
    fn ordinal(&self, device: usize) -> i32 {
        self.visible.iter().position(|&seen| seen == device).map_or(-1, |ordinal| ordinal as i32)
    }

    /// Takes device memory for this process.
    fn charge(&mut self, device: usize, bytes: u64, visible: bool) -> Outcome {
        let total = self.model(device).total_bytes;
        let mut shared = self.shared.lock();
        let room = self.limit(device).saturating_sub(shared.own(self.slot, device));
        if bytes <= room && shared.charge(self.slot, device, bytes, visible, total) {
            Ok(())
        } else {
            Err(error::OUT_OF_MEMORY)
        }
    }

    /// The most that MPS lets this process have of a device.
    pub(crate) fn limit(&self, device: usize) -> u64 {
        self.client.as_ref().and_then(|client| client.limits.get(&device)).copied().unwrap_or(u64::MAX)
    }

    /// The part of a device that this process's kernels may use.
    pub(crate) fn part(&self) -> u32 {
        self.client.as_ref().map_or(WHOLE, |client| client.part)
    }

    /// The error that ended all work of this process, as an error: another client's fault, or its server's end.
    pub(crate) fn alive(&self) -> Outcome {
        let Some(client) = &self.client else { return Ok(()) };
        match self.shared.fate(self.slot) {
            Some(fate) => Err(fate as CUresult),
            None if self.shared.lives(client.server) => Ok(()),
            None => Err(SERVER_GONE as CUresult),
        }
    }

    /// Gives device memory back.
    fn release(&mut self, device: usize, bytes: u64, visible: bool) {
        self.shared.lock().release(self.slot, device, bytes, visible);
    }

    /// What time it is on a device.
    fn now(&self, device: usize) -> Nanos {
        self.shared.lock().now(device)
    }

    /// Whether waiting takes real time.
    fn real(&self) -> bool {
        self.inventory.pace == Pace::Real
    }

    /// The calling thread's context, whatever state it is in.
    fn current(&self) -> Outcome<u64> {
        let id = CURRENT.with_borrow(|stack| stack.last().copied()).ok_or(error::INVALID_CONTEXT)?;
        if self.contexts.contains_key(&id) { Ok(id) } else { Err(error::INVALID_CONTEXT) }
    }

    /// The calling thread's context, if it can still work: where its kernels run.
    fn here(&self) -> Outcome<u64> {
        let id = self.current()?;
        self.fault_of(id)?;
        Ok(id)
    }

    /// The same, or a green one's primary context, which has all that is made but for streams.
    fn usable(&self) -> Outcome<u64> {
        Ok(self.home(self.here()?))
    }

    /// The device of the calling thread's context, if that can still work.
    fn current_device(&self) -> Outcome<usize> {
        Ok(self.contexts[&self.usable()?].device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_tells_the_default_stream() {
        assert!(is_per_thread("cuLaunchKernel_ptsz") && is_per_thread("cuMemcpy_ptds"));
        assert!(!is_per_thread("cuLaunchKernel") && !is_per_thread("cuMemAlloc_v2"));
    }
}
