//! This process as a member of its slice: the mapped ledger, and the bookkeeping of what it has from the driver.
//!
//! All of it lies in one mapping that the kernel wipes on fork, so a child starts as [`Stage::New`] and registers for
//! itself when it makes its first call.
use crate::gate::Gates;
use crate::message::Line;
use crate::system::{self, Lock};
use crate::table::Table;
use cleave_ledger::{
    ABI, Book, CLASSES, DEVICES, Kind, Ledger, MAGIC, Policy, Refused, SLOTS, Slot, Urgency, Usage, flags, wire,
};
use core::cell::UnsafeCell;
use core::ffi::c_char;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// How far this process has come.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Stage {
    /// Has not tried to register.
    New = 0,
    /// Is a member of its slice.
    Ready = 1,
    /// May not use the GPU.
    Refused = 2,
    /// Is not metered: the slice allows that while the daemon can't be reached.
    Open = 3,
    /// Is a member, with a context of its part of the multiprocessors that every call enters first.
    Parted = 4,
}

/// Most pools that are charged by their own figures.
pub const POOLS: usize = 64;
/// Most CUDA device ordinals.
pub const ORDINALS: usize = 64;
/// Kernels known to need no more local memory than every thread has.
const KERNELS: usize = 4096;

/// A memory pool.
#[derive(Clone, Copy)]
pub struct Pool {
    pub handle: u64,
    pub device: u8,
    /// Nothing was freed since the pool was last empty, so that what it has reserved beyond `tail` is one free block.
    pub unbroken: bool,
    /// End of the last block, counted from the pool's start; of use while `unbroken`.
    pub tail: u64,
    /// Bytes charged: what the driver has reserved for the pool.
    pub charged: u64,
}

/// What only one thread at a time may touch. All zeros is the state of a new process.
pub struct Books {
    pub table: Table,
    pub pools: [Pool; POOLS],
    pub pool_count: usize,
    /// Each device's primary context; 0 = it is not active.
    pub primary: [u64; DEVICES],
    /// The number of the explicit context made last.
    pub last_context: u32,
    /// Bytes charged for the heap of device-side `malloc` that the driver will take with the first kernel that uses it.
    pub heap_pending: [u64; DEVICES],
    /// What NVML showed beyond this process's account when that was charged.
    pub heap_mark: [i64; DEVICES],
    /// Bytes charged for graphs' memory on each device.
    pub graph_charged: [u64; DEVICES],
    /// Counts up when a device may have got another current pool.
    pub pool_changes: u64,
    /// The number that the next physical allocation gets.
    pub next_physical: u64,
}

/// This process.
pub struct Process {
    stage: AtomicU32,
    starting: Lock,
    lock: Lock,
    speaking: Lock,
    socket: AtomicI32,
    slot: AtomicU32,
    policy: AtomicPtr<Policy>,
    usage: AtomicPtr<Usage>,
    own: AtomicPtr<Slot>,
    urgency: AtomicPtr<Urgency>,
    /// Device of the slice, plus one, for each CUDA ordinal; 0 = not of this slice.
    ordinals: [AtomicU8; ORDINALS],
    /// Device of the slice, plus one, if there is just one CUDA device, whose ordinal is 0 then.
    sole: AtomicU32,
    /// Memory was freed into a pool since the pools' figures were last read.
    pub pools_dirty: AtomicU32,
    /// Captures of streams that are going on.
    pub captures: AtomicU32,
    /// The pool from which each device's streams allocate; 0 = to be asked. Written with the books held.
    pub current_pool: [AtomicU64; DEVICES],
    /// Graphs with allocation nodes may exist.
    pub graph_memory: AtomicU32,
    /// Physical memory was exported.
    pub exports: AtomicU32,
    /// A kernel that needs more local memory than every thread has was seen.
    pub local_memory: AtomicU32,
    /// A kernel of a collective operation was seen.
    pub collectives: AtomicU32,
    /// Contexts that exist, or are being made.
    contexts: AtomicU32,
    /// Explicit contexts that exist.
    pub explicit_contexts: AtomicU32,
    kernels: [AtomicU64; KERNELS],
    pub gates: Gates,
    /// Its own part of the multiprocessors.
    pub part: crate::hooks::Part,
    books: UnsafeCell<Books>,
}

// SAFETY: `books` is reached only through `Process::books`, which holds `lock`; everything else is atomic.
unsafe impl Sync for Process {}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

#[link(name = "c")]
unsafe extern "C" {
    static environ: *const *const c_char;
}

/// The value of an environment variable, without the zero at its end.
pub fn environment(name: &[u8]) -> Option<&'static [u8]> {
    // SAFETY: `environ` is an array of zero-terminated strings that ends with a null pointer.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = core::ffi::CStr::from_ptr(*entry).to_bytes();
            if let Some(value) = text.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"=")) {
                return Some(value);
            }
            entry = entry.add(1);
        }
    }
    None
}

/// The state of this process, registering it if it is new: `Ok(Some)` a member of its slice, `Ok(None)` not metered,
/// `Err` refused. A member's thread is in the context of its part of the multiprocessors then, as after [`member`].
#[inline]
pub fn process() -> Result<Option<&'static Process>, ()> {
    let address = PROCESS.load(Ordering::Acquire);
    if !address.is_null() {
        // SAFETY: set once, to a mapping that is never unmapped.
        let process = unsafe { &*address };
        let stage = process.stage.load(Ordering::Acquire);
        if stage == Stage::Ready as u32 {
            return Ok(Some(process));
        }
        if let Some(process) = process.entered(stage) {
            return Ok(Some(process));
        }
    }
    start()
}

/// This process if it is a member of its slice already.
#[inline]
pub fn member() -> Option<&'static Process> {
    let address = PROCESS.load(Ordering::Acquire);
    // SAFETY: null, or set once to a mapping that is never unmapped.
    let process = unsafe { address.as_ref()? };
    match process.stage.load(Ordering::Acquire) {
        stage if stage == Stage::Ready as u32 => Some(process),
        stage => process.entered(stage),
    }
}

#[cold]
fn start() -> Result<Option<&'static Process>, ()> {
    let mut address = PROCESS.load(Ordering::Acquire);
    if address.is_null() {
        let size = size_of::<Process>();
        let flags = system::MAP_PRIVATE_ANONYMOUS_NORESERVE;
        let mapped = system::map(size, system::PROT_READ_WRITE, flags, -1).ok_or(())?;
        let wiped = system::wipe_on_fork(mapped, size);
        // Zeros are a valid `Process`: every field is an integer, an atomic, a null pointer or a `bool` that is false.
        let mapped: *mut Process = mapped.cast();
        if !wiped {
            // A child would take itself for its parent, and both write one account.
            let stage = refuse(b"the kernel can't wipe memory on fork (Linux 4.14 can)");
            // SAFETY: mapped just now, and seen by nobody.
            unsafe { (*mapped).stage.store(stage as u32, Ordering::Relaxed) };
        }
        address = match PROCESS.compare_exchange(null_mut(), mapped, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => mapped,
            Err(other) => {
                // SAFETY: another thread was first; nobody has seen this mapping.
                unsafe { system::unmap(mapped.cast(), size) };
                other
            }
        };
    }
    // SAFETY: set once, to a mapping that is never unmapped.
    let process = unsafe { &*address };
    let _starting = process.starting.hold();
    if process.stage.load(Ordering::Acquire) == Stage::New as u32 {
        let stage = process.register();
        process.stage.store(stage as u32, Ordering::Release);
    }
    match process.stage.load(Ordering::Acquire) {
        stage if stage == Stage::Ready as u32 => Ok(Some(process)),
        stage if stage == Stage::Open as u32 => Ok(None),
        stage => process.entered(stage).map(Some).ok_or(()),
    }
}

/// Writes `<driver dir><name>` and a zero to `path`; `None` if there is no such place.
pub fn driver_dir(path: &mut [u8; 300], name: &[u8]) -> Option<()> {
    let dir: &[u8] = match process() {
        Ok(Some(process)) => process.policy().driver_dir.split(|&b| b == 0).next()?,
        Ok(None) => environment(b"CLEAVE_DRIVER_DIR").unwrap_or(b"/run/cleave/driver"),
        Err(()) => return None,
    };
    let length = dir.len() + name.len();
    if length >= path.len() {
        return None;
    }
    for (to, from) in path.iter_mut().zip(dir.iter().chain(name)) {
        *to = *from;
    }
    Some(())
}

/// Where the slice's socket is, and whether something says that there must be one: the place where it is mounted counts
/// before the environment's hint.
fn socket_path() -> (&'static [u8], bool) {
    if system::exists(b"/run/cleave/slice/sock\0") {
        return (wire::SOCKET.as_bytes(), true);
    }
    match environment(wire::SOCKET_VARIABLE.as_bytes()) {
        Some(hint) => (hint, true),
        None => (wire::SOCKET.as_bytes(), false),
    }
}

/// Passes time for [`Ledger::reserve`]: about a second in all.
pub fn wait(round: u32) -> bool {
    match round {
        0..64 => core::hint::spin_loop(),
        64..128 => system::yield_now(),
        128..20_000 => system::sleep_microseconds(50),
        _ => return false,
    }
    true
}

impl Process {
    /// A member that has a part of the multiprocessors, in whose context the calling thread is then.
    #[cold]
    #[inline(never)]
    fn entered(&'static self, stage: u32) -> Option<&'static Self> {
        (stage == Stage::Parted as u32).then(|| {
            self.part.enter();
            self
        })
    }

    /// From now on every call enters the context of its part of the multiprocessors.
    pub fn parted(&self) {
        self.stage.store(Stage::Parted as u32, Ordering::Release);
        crate::real::part();
    }

    /// Finds the slice's socket, registers and maps the ledger.
    fn register(&self) -> Stage {
        let request = wire::Request {
            magic: MAGIC,
            abi: ABI,
            op: wire::op::REGISTER,
            device: 0,
            reserved: 0,
            argument: u64::from(system::process_id()),
        };
        let (mut path, mut expected) = socket_path();
        let mut unanswered = 0;
        // A daemon that is being restarted is back in a moment: 10 s are enough, and end in a clear message.
        for _ in 0..200 {
            match system::connect(path) {
                Ok(socket) => {
                    let mut answer = [0; wire::MESSAGE];
                    let sent = system::send(socket, &request.to_bytes());
                    if let Some(fds) = if sent { system::receive(socket, &mut answer) } else { None } {
                        return self.answered(socket, answer, fds);
                    }
                    system::close(socket);
                    unanswered += 1;
                    if unanswered == 3 {
                        break;
                    }
                }
                Err(system::ECONNREFUSED) => {}
                Err(system::ENOENT) if expected => {}
                Err(_) => break,
            }
            system::sleep_microseconds(50_000);
            (path, expected) = socket_path();
        }
        unreachable(path)
    }

    fn answered(&self, socket: i32, answer: [u8; wire::MESSAGE], fds: [i32; 3]) -> Stage {
        let stage = self.join(wire::Reply::from_bytes(answer), fds);
        for fd in fds {
            if fd >= 0 {
                system::close(fd);
            }
        }
        if stage == Stage::Ready {
            self.socket.store(socket, Ordering::Relaxed);
        } else {
            system::close(socket);
        }
        stage
    }

    fn join(&self, reply: wire::Reply, [policy, usage, urgency]: [i32; 3]) -> Stage {
        let complaint: &[u8] = match reply.status {
            _ if reply.magic != MAGIC => b"the daemon's answer is no answer of cleave's",
            wire::status::VERSION => {
                b"the daemon is of another version than the library in this slice; start the program anew"
            }
            _ if reply.abi != ABI => {
                b"the daemon is of another version than the library in this slice; start the program anew"
            }
            wire::status::OK => b"",
            wire::status::FULL => b"the slice has as many GPU processes as it can have (128)",
            wire::status::DENIED => b"this user does not own the slice",
            wire::status::GONE => b"the slice has been deleted",
            wire::status::NO_SERVER => b"the slice's MPS server can't be had (`cleave events` says why)",
            wire::status::NO_ROOM => b"the daemon has no room for this process's account (its run directory is full)",
            _ => b"the daemon refused this process",
        };
        if !complaint.is_empty() {
            return refuse(complaint);
        }
        let policy = system::map(size_of::<Policy>(), system::PROT_READ, system::MAP_SHARED, policy);
        let usage = system::map(size_of::<Usage>(), system::PROT_READ_WRITE, system::MAP_SHARED, usage);
        let urgency = system::map(size_of::<Urgency>(), system::PROT_READ_WRITE, system::MAP_SHARED, urgency);
        let (Some(policy), Some(usage), Some(urgency)) = (policy, usage, urgency) else {
            return refuse(b"the slice's ledger can't be mapped");
        };
        let policy: *mut Policy = policy.cast();
        // SAFETY: the daemon keeps the file at the struct's full size; every bit pattern is a valid value.
        if !unsafe { (*policy).is_ours() } || reply.slot as usize >= SLOTS {
            return refuse(b"the slice's ledger is of another version; start the program anew");
        }
        self.policy.store(policy, Ordering::Relaxed);
        self.usage.store(usage.cast(), Ordering::Relaxed);
        self.urgency.store(urgency.cast(), Ordering::Relaxed);
        self.slot.store(reply.slot, Ordering::Relaxed);
        self.own.store(core::ptr::from_ref(self.ledger().slot()).cast_mut(), Ordering::Relaxed);
        let opened = self.books(|books, _| books.table.open());
        if opened { Stage::Ready } else { refuse(b"there is no address space for its bookkeeping") }
    }

    /// The slice's policy.
    pub fn policy(&self) -> &'static Policy {
        // SAFETY: set before the stage became Ready, to a mapping that is never unmapped; its atomics change under us,
        // the rest was written before it was handed out.
        unsafe { &*self.policy.load(Ordering::Relaxed) }
    }

    /// The ledger as this process sees it.
    pub fn ledger(&self) -> Ledger<'static> {
        // SAFETY: as in `policy`; all of `Usage` is atomic.
        let usage = unsafe { &*self.usage.load(Ordering::Relaxed) };
        let slot = self.slot.load(Ordering::Relaxed) as usize;
        match Ledger::new(self.policy(), usage, slot) {
            Some(ledger) => ledger,
            // `join` checked the slot's number.
            // SAFETY: not reached.
            None => unsafe { core::hint::unreachable_unchecked() },
        }
    }

    /// The words of the device's classes on the node's page of urgency.
    pub fn urgency_of(&self, device: usize) -> Option<&'static [AtomicU64; CLASSES]> {
        let gpu = self.policy().devices.get(device)?.nvml_index as usize;
        // SAFETY: set before the stage became Ready, to a mapping that is never unmapped, of a file that nobody can cut; all
        // of it is atomic.
        unsafe { (*self.urgency.load(Ordering::Relaxed)).until.get(gpu) }
    }

    /// This process's slot: its counters.
    #[inline]
    pub fn slot(&self) -> &'static Slot {
        // SAFETY: set before the stage became Ready, to a place in the mapping of the usage file.
        unsafe { &*self.own.load(Ordering::Relaxed) }
    }

    /// What the daemon wrote of this process.
    pub fn book(&self) -> Option<&'static Book> {
        self.policy().book.get(self.slot.load(Ordering::Relaxed) as usize)
    }

    /// Runs `f` with this process's bookkeeping, alone. `f` must not call anything that may call back into an export.
    #[inline]
    pub fn books<R>(&self, f: impl FnOnce(&mut Books, Ledger<'static>) -> R) -> R {
        let ledger = self.ledger();
        let _held = self.lock.hold();
        // SAFETY: the lock makes this the only reference; `f` can't get at `books` again, since it can't take the lock.
        f(unsafe { &mut *self.books.get() }, ledger)
    }

    /// Takes `bytes` on `device`; `false` if the slice may not have them.
    #[inline(never)]
    pub fn reserve(&self, device: usize, kind: Kind, bytes: u64) -> bool {
        self.books(|_, ledger| ledger.reserve(device, kind, bytes, wait)).is_ok()
    }

    /// As [`Process::reserve`], for the last try: counts the refusal, and says so where the slice wants that.
    #[cold]
    pub fn reserve_or_deny(&self, device: usize, kind: Kind, bytes: u64) -> bool {
        match self.books(|_, ledger| ledger.reserve(device, kind, bytes, wait)) {
            Ok(()) => true,
            Err(refused) => {
                self.deny(bytes, refused);
                false
            }
        }
    }

    #[cold]
    fn deny(&self, bytes: u64, refused: Refused) {
        self.slot().denied.fetch_add(1, Ordering::Relaxed);
        if self.policy().flags.load(Ordering::Relaxed) & flags::VERBOSE != 0 {
            let mut line = Line::new();
            line.add(b"slice ").padded(&self.policy().name).add(b": ").mib(bytes).add(b" refused");
            if let Refused::OverLimit { used, limit } = refused {
                line.add(b": ").mib(used).add(b" of ").mib(limit).add(b" in use");
            }
            line.print();
        }
    }

    /// Gives `bytes` back.
    #[inline(never)]
    pub fn release(&self, device: usize, kind: Kind, bytes: u64) {
        if bytes > 0 {
            self.books(|_, ledger| ledger.release(device, kind, bytes));
        }
    }

    /// Asks the daemon to compare this process's account with what the driver says, now. Returns the driver's figure.
    pub fn measure(&self, device: usize) -> Option<u64> {
        self.measure_in_place_of(device, 0)
    }

    /// As [`Process::measure`], where `estimate` bytes of the account stand for what is to be measured, and are given back
    /// right after.
    #[inline(never)]
    pub fn measure_in_place_of(&self, device: usize, estimate: u64) -> Option<u64> {
        let request = wire::Request {
            magic: MAGIC,
            abi: ABI,
            op: wire::op::MEASURE,
            device: device as u32,
            reserved: 0,
            argument: estimate,
        };
        let reply = self.speak(|socket| ask(socket, request))?;
        (reply.status == wire::status::OK).then_some(reply.value)
    }

    /// Rings the daemon: a thread waits for a turn on `device`. There is no answer, but whether there is a daemon.
    #[cold]
    pub fn ring(&self, device: usize) -> bool {
        let request = wire::Request {
            magic: MAGIC,
            abi: ABI,
            op: wire::op::RING,
            device: device as u32,
            reserved: 0,
            argument: 0,
        };
        self.speak(|socket| system::send(socket, &request.to_bytes()).then_some(())).is_some()
    }

    /// Runs `say` with the connection to the daemon, by one thread at a time; a second time with a new connection where it
    /// returns `None`: the daemon may have been restarted, and a new one knows this process by its id.
    fn speak<R>(&self, say: impl Fn(i32) -> Option<R>) -> Option<R> {
        let _speaking = self.speaking.hold();
        say(self.socket.load(Ordering::Relaxed)).or_else(|| {
            system::close(self.socket.swap(-1, Ordering::Relaxed));
            let socket = system::connect(socket_path().0).ok()?;
            self.socket.store(socket, Ordering::Relaxed);
            say(socket)
        })
    }

    /// Measures, and says whether the slice then uses more of `device` than it may.
    pub fn measured_over(&self, device: usize) -> bool {
        self.measure(device).is_some() && self.over_limit(device)
    }

    /// Whether the slice uses more of `device` than it may: after the driver took memory that could not be foretold.
    pub fn over_limit(&self, device: usize) -> bool {
        let ledger = self.ledger();
        ledger.used(device) > ledger.limit(device)
    }

    /// Notes that CUDA ordinal `ordinal` is device `device` of the slice; `count` devices are visible in all.
    pub fn set_ordinal(&self, ordinal: usize, device: usize, count: usize) {
        if let Some(place) = self.ordinals.get(ordinal) {
            place.store(device as u8 + 1, Ordering::Relaxed);
        }
        if count == 1 {
            self.sole.store(device as u32 + 1, Ordering::Relaxed);
        }
    }

    /// The slice's device behind a CUDA ordinal.
    pub fn device_of(&self, ordinal: i32) -> Option<usize> {
        let place = self.ordinals.get(usize::try_from(ordinal).ok()?)?;
        usize::from(place.load(Ordering::Relaxed)).checked_sub(1)
    }

    /// The slice's device if there is just one.
    pub fn sole_device(&self) -> Option<usize> {
        (self.sole.load(Ordering::Relaxed) as usize).checked_sub(1)
    }

    /// Whether `kernel` is known to need no more local memory than is charged.
    #[inline]
    pub fn knows_kernel(&self, kernel: u64) -> bool {
        self.kernels[kernel_place(kernel)].load(Ordering::Relaxed) == kernel
    }

    /// As [`Process::knows_kernel`], where that depends on the context.
    pub fn knows_kernel_in(&self, kernel: u64, context: u64) -> bool {
        self.several_contexts() && self.knows_kernel(in_context(kernel, context))
    }

    /// Notes that `kernel` needs no more local memory than is charged in `context`.
    pub fn know_kernel(&self, kernel: u64, context: u64) {
        let known = if self.several_contexts() { in_context(kernel, context) } else { kernel };
        let place = &self.kernels[kernel_place(known)];
        place.store(known, Ordering::SeqCst);
        // A second context may have come just now.
        if known == kernel && self.several_contexts() {
            place.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that a context is about to be made. A library's kernel has one handle in all of them, and its local memory is
    /// taken in each: with the second, what is known of a kernel is no longer known for every context.
    pub fn context_comes(&self) {
        if self.contexts.fetch_add(1, Ordering::SeqCst) > 0 {
            self.forget_kernels();
        }
    }

    /// Notes that a context is gone, or was not made.
    pub fn context_goes(&self) {
        self.contexts.fetch_sub(1, Ordering::SeqCst);
    }

    fn several_contexts(&self) -> bool {
        self.contexts.load(Ordering::SeqCst) > 1
    }

    /// What NVML shows for this process beyond its account of `device`, as last measured.
    pub fn unaccounted(&self, device: usize) -> i64 {
        let slot = self.slot.load(Ordering::Relaxed) as usize;
        let adjust = self.policy().book.get(slot).and_then(|book| book.adjust.get(device));
        adjust.map_or(0, |adjust| adjust.load(Ordering::SeqCst))
    }

    /// Forgets what is known of kernels: their addresses may be used again after a module was unloaded.
    pub fn forget_kernels(&self) {
        for place in &self.kernels {
            place.store(0, Ordering::Relaxed);
        }
        crate::gate::forget_costs(self);
    }
}

/// What a kernel is known as that is known in one context only. Addresses have 48 bits: it is no other kernel's.
fn in_context(kernel: u64, context: u64) -> u64 {
    kernel ^ context.rotate_left(17)
}

#[inline]
fn kernel_place(kernel: u64) -> usize {
    (kernel.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 52) as usize % KERNELS
}

/// Sends a request and waits for its answer.
fn ask(socket: i32, request: wire::Request) -> Option<wire::Reply> {
    let mut answer = [0; wire::MESSAGE];
    if !system::send(socket, &request.to_bytes()) {
        return None;
    }
    system::receive(socket, &mut answer)?;
    Some(wire::Reply::from_bytes(answer))
}

fn unreachable(path: &[u8]) -> Stage {
    let mut marker = [0u8; 300];
    let folder = path.rsplitn(2, |&b| b == b'/').nth(1).unwrap_or(&[]);
    let name = wire::FAIL_OPEN.as_bytes();
    for (to, from) in marker.iter_mut().take(298).zip(folder.iter().chain(b"/").chain(name)) {
        *to = *from;
    }
    let end = (folder.len() + 1 + name.len() + 1).min(marker.len());
    if marker.get(..end).is_some_and(system::exists) {
        Line::new()
            .add(b"the daemon can't be reached at ")
            .add(path)
            .add(b"; this slice lets programs run UNMETERED meanwhile")
            .print();
        return Stage::Open;
    }
    Line::new()
        .add(b"the daemon can't be reached at ")
        .add(path)
        .add(b"; CUDA calls are refused. Start it with `cleave daemon`, see `cleave doctor`")
        .print();
    Stage::Refused
}

fn refuse(reason: &[u8]) -> Stage {
    Line::new().add(reason).add(b"; CUDA calls are refused. See `cleave doctor`").print();
    Stage::Refused
}

const _: () = assert!(size_of::<Process>() < 192 << 10);
