//! The gate of every launch: whether it may go to the GPU now, by the daemon's grant and this process's own picture of what
//! it has sent (`cleave_policy::gate` decides; this carries it out).
//!
//! While nobody else wants the GPU, a launch costs one look into the table of costs and one addition. Otherwise it takes
//! the gate's lock, looks at the clock and at the marks that the GPU has passed, and goes or waits. Marks are events without
//! times: they cost the GPU nothing (measured), where a word that the stream writes costs 2 µs.
use crate::generated::KERNELS;
use crate::hooks::{captured, captures, context_of};
use crate::process::Process;
use crate::real::driver;
use crate::system::{self, Lock};
use cleave_cuda::class_of;
use cleave_cuda::types::{CUresult, CUstream, Handle, error};
use cleave_ledger::{Activity, CLASSES, DEVICES, GPUS, KernelClass, Turn, flags};
use cleave_policy::gate::{
    AGAIN, Cost, Grant, MARKS, Mode, Part, QUIET, Track, URGENT, Verdict, YIELD, admit, comes_back,
};
use core::cell::UnsafeCell;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

/// Kinds of operations whose cost is known.
const COSTS: usize = 4096;
/// Stands for the cost of an operation that passes always: half a collective must not be held back.
const PASSES: u64 = u64::MAX;
/// Under a lease, this many launches or this much expected work (ns) go by a count alone. So less than one launch in a
/// thousand of the shortest does more than count. Never more work than half of what the grant lets be queued.
const BATCH: u64 = 2048;
const BATCH_NS: u64 = 2_000_000;
const BATCH_SHIFT: u32 = 48;
/// Streams that one mark can wait for.
const STREAMS: usize = 4;
/// Launches that are timed at the same time.
const TIMERS: usize = 8;
const STARTED: u32 = u32::MAX;
/// A wait shorter than this (ns) is passed without sleeping: the kernel wakes a thread about this late.
const SPIN: u64 = 80_000;
/// A wait this long (ns) without an answer of the daemon is its fault, and each slice has its part of the time until it looks again.
const DEAF: u64 = 200_000_000;
/// While threads wait the daemon looks more often than this (ns).
const SILENT: u64 = 60_000_000;
/// While it waits, a thread asks the driver this often (ns) whether the stream still lives.
const ALIVE: u64 = 20_000_000;

/// A kind of operation and what it costs.
struct Known {
    key: AtomicU64,
    cost: AtomicU64,
}

/// The process's gates. All zeros is the state of a new process.
pub struct Gates {
    costs: [Known; COSTS],
    devices: [Gate; DEVICES],
}

/// The gate of one device.
struct Gate {
    lock: Lock,
    /// What was sent under a lease and is not in the track yet: launches above [`BATCH_SHIFT`], ns of work below.
    batch: AtomicU64,
    state: UnsafeCell<State>,
}

// SAFETY: `state` is reached only through `Gate::state`, which holds `lock`; the rest is atomic.
unsafe impl Sync for Gate {}

/// What only one thread at a time may touch.
struct State {
    /// What follows was made; it is all zeros before.
    made: bool,
    track: Track,
    /// Streams that got work since the last mark.
    streams: [u64; STREAMS],
    stream_count: usize,
    marks: [Marked; MARKS],
    /// When the driver was asked for a mark last.
    asked: u64,
    timers: [Timer; TIMERS],
    /// What this process claimed last in its class's word.
    claim: u64,
    /// When a launch was timed last.
    timed: u64,
    /// When the daemon had looked last, when it was found to answer no more; 0 = never.
    deaf: u64,
}

/// A mark, with events that are made as they are needed.
#[derive(Clone, Copy)]
struct Marked {
    number: u32,
    /// Whose the events are.
    context: u64,
    events: [u64; STREAMS],
    /// The streams that record them; [`NOBODY`] = one that is gone.
    streams: [u64; STREAMS],
    /// How many of them the mark on its way waits for; 0: it counts as passed.
    count: usize,
    /// How many were asked to record theirs: until all have, the others' events tell of an earlier mark.
    asked: usize,
    /// The last of those is being asked, by a thread that does not hold the lock.
    asking: bool,
}

/// No stream's handle.
const NOBODY: u64 = u64::MAX;

/// A launch between two events.
#[derive(Clone, Copy)]
struct Timer {
    context: u64,
    start: u64,
    end: u64,
    /// The place in the table of costs, plus one; 0 = free, [`STARTED`] = its launch is being made.
    place: u32,
    /// The mark after which both events are over.
    mark: u32,
    /// When the GPU was expected to come to it.
    begins: u64,
    /// Until when the GPU was this slice's own then; 0 = it was not.
    own_until: u64,
}

/// What is to be sent.
#[derive(Clone, Copy)]
pub struct Operation {
    /// The function, the library's kernel, the executable graph, or the kind of copy (a number below any address).
    pub handle: u64,
    /// What its cost depends on besides: a mixture of grid, block and shared memory, or a copy's size.
    pub shape: u64,
    /// What it does; a kernel's name says so (`None`).
    pub class: Option<KernelClass>,
    /// It belongs to a collective operation: it is charged, but never held back.
    pub passes: bool,
    /// Where to; the per-thread default stream by its own handle.
    pub stream: CUstream,
}

impl Operation {
    /// Names the kind of operation in the table of costs; never 0.
    #[inline]
    fn key(&self) -> u64 {
        (self.handle ^ self.shape.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .rotate_left(17)
            .wrapping_mul(0xD6E8_FEB8_6659_FD93)
            | 1
    }
}

/// The per-thread default stream, as the entry points of that flavour mean 0.
pub fn per_thread(stream: CUstream) -> CUstream {
    if stream.is_null() { 2 as CUstream } else { stream }
}

/// Mixes the shape of a launch into one number.
#[inline]
pub fn shape(grid: [u32; 3], block: [u32; 3], shared: u32) -> u64 {
    let words = [
        u64::from(grid[0]) << 32 | u64::from(grid[1]),
        u64::from(grid[2]) << 32 | u64::from(block[0]),
        u64::from(block[1]) << 48 | u64::from(block[2]) << 32 | u64::from(shared),
    ];
    words.iter().fold(0, |mix: u64, word| (mix ^ word).rotate_left(23).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Sends an operation on `device` by `call` when it may go.
#[inline]
pub fn send(p: &'static Process, device: usize, operation: Operation, call: impl Fn() -> CUresult) -> CUresult {
    const FREE: u64 = Mode::Lease as u64;
    let (Some(turn), Some(gate)) = (p.policy().turns.get(device), p.gates.devices.get(device)) else { return call() };
    let grant = turn.words[0].load(Ordering::Relaxed);
    let held_back = ((YIELD | URGENT) as u64) << 8;
    if grant & (0xff | held_back) == FREE {
        let key = operation.key();
        let known = p.gates.place(key);
        if known.key.load(Ordering::Relaxed) == key {
            let word = known.cost.load(Ordering::Relaxed);
            let mut cost = Cost::from_word(word);
            if word != PASSES && cost.settled() {
                let work = cost.estimate(0).min(BATCH_NS);
                let most = (grant >> 33).min(BATCH_NS);
                let batch = gate.batch.fetch_add(1 << BATCH_SHIFT | work, Ordering::Relaxed);
                if batch >> BATCH_SHIFT < BATCH - 1 && (batch & ((1 << BATCH_SHIFT) - 1)) + work < most {
                    cost.counted();
                    known.cost.store(cost.to_word(), Ordering::Relaxed);
                    return call();
                }
                return admitted(p, device, turn, gate, operation, true, &call);
            }
        }
    }
    admitted(p, device, turn, gate, operation, false, &call)
}

/// As [`send`], with all that may have to be done. `counted`: the operation is in the batch already.
#[inline(never)]
fn admitted(
    p: &'static Process,
    device: usize,
    turn: &Turn,
    gate: &Gate,
    operation: Operation,
    counted: bool,
    call: &dyn Fn() -> CUresult,
) -> CUresult {
    // Before the driver is asked anything: while a slice is suspended its calls hang there.
    let place = p.gates.place(operation.key());
    let passes = operation.passes
        || place.key.load(Ordering::Relaxed) == operation.key() && place.cost.load(Ordering::Relaxed) == PASSES;
    let mut wait = Wait::default();
    let stopped = || Some(granted(turn)).filter(|grant| grant.mode == Mode::Paused);
    // What passes always goes, and if the slice is suspended waits in the driver: the daemon hears of it all the same.
    let _waits = if passes { stopped().and_then(|_| Waits::begin(p, device)) } else { None };
    while let Some(grant) = stopped().filter(|_| !passes) {
        wait.some(p, device, turn, &grant, Verdict::WaitForChange, false, system::nanoseconds());
    }
    wait.end(p, device, system::nanoseconds());
    // What is captured costs nothing until the graph is launched. And while a stream is being captured, calls that
    // have nothing to do with it can spoil the capture.
    let quiet = captures(p);
    // Where the driver does not say, it is left alone too.
    if quiet && captured(p, operation.stream) != Ok(false) {
        // So that the graph is looked at when it is made executable.
        if operation.class.is_none() {
            p.gates.known(p, operation);
        }
        return call();
    }
    let known = p.gates.known(p, operation);
    if known.cost.load(Ordering::Relaxed) == PASSES {
        account(p, KernelClass::Collective as u8, 1, 0);
        return call();
    }
    let context = if quiet { 0 } else { context_of(null_mut()) };
    let mut wait = Wait::default();
    let (now, grant, mut state) = loop {
        let mut state = gate.state();
        let now = system::nanoseconds();
        let looked = turn.looked.load(Ordering::Relaxed);
        let alone = looked == 0 || state.deaf == looked;
        let grant = if alone { without_daemon(turn, now) } else { granted(turn) };
        let batch = gate.batch.swap(0, Ordering::Relaxed) & ((1 << BATCH_SHIFT) - 1);
        if batch > 0 {
            state.track.sent(now, batch, &grant);
        }
        state.look(p, now, &grant, grant.mode == Mode::Paused);
        let over = state.publish(p, device, None, now);
        // After the look, which may just have learned it.
        let cost = if counted { 0 } else { expected(&Cost::from_word(known.cost.load(Ordering::Relaxed)), &grant) };
        let urgent = if grant.flags & YIELD != 0 { urgent(p, device, turn) } else { 0 };
        match admit(now, &grant, state.track.busy_until(), cost, urgent) {
            _ if operation.passes => break (now, grant, state),
            Verdict::Go => break (now, grant, state),
            verdict => {
                // Nobody has looked since: until the daemon is back, each slice has its part. What an operator stopped stays stopped.
                if !alone && wait.deaf(now) && now.saturating_sub(looked) > DEAF {
                    state.deaf = looked;
                    continue;
                }
                if !alone && wait.doubts(now, looked) {
                    // Not with the lock held: there is a daemon, perhaps, and it takes its time.
                    drop(state);
                    if !p.ring(device) {
                        gate.state().deaf = looked;
                    }
                    continue;
                }
                if wait.asks(now) && !quiet && grant.mode != Mode::Paused && !alive(operation.stream) {
                    state.forget(None);
                    break (now, grant, state);
                }
                let verdict = match verdict {
                    Verdict::WaitUntil(time) => Verdict::WaitUntil(state.track.again(now, time, &grant)),
                    verdict => verdict,
                };
                let open = state.track.open();
                drop(state);
                // The next turn waits for that.
                if over && verdict == Verdict::WaitForChange {
                    p.ring(device);
                }
                wait.some(p, device, turn, &grant, verdict, open, now);
            }
        }
    };
    wait.end(p, device, now);
    let mut cost = Cost::from_word(known.cost.load(Ordering::Relaxed));
    // Beside so much time that of timing one is nothing, and what is believed may be far too little.
    let launches = cost.launched();
    if launches > 0 {
        account(p, cost.class(), launches, cost.estimate(0));
    }
    // Behind own work the GPU comes to it at once. After a pause the host's pace is timed, too, and where turns are so far apart that
    // would be all there is.
    let own = if counted { cost.estimate(0) } else { 0 };
    let queued = state.track.busy_until().saturating_sub(own) > now.saturating_add(PACE.min(grant.ahead as u64 / 2));
    // Timing one takes two events, 7 µs. What went by a count is settled, and nobody else wants the GPU.
    let recently = now.saturating_sub(state.timed) <= TIMING;
    let sample = if recently { launches > 0 && !counted } else { launches > 0 || queued };
    known.cost.store(cost.to_word(), Ordering::Relaxed);
    let (unknown, varies) = (cost.unknown(), cost.varies());
    let cost = expected(&cost, &grant);
    let back = comes_back(now, &grant, state.track.last_launch());
    if !counted {
        state.track.sent(now, cost, &grant);
    }
    if unknown {
        state.track.guessed(&grant);
    }
    if varies {
        state.track.doubt();
    }
    let begins = if counted { state.track.busy_until() } else { state.track.busy_until().saturating_sub(cost) };
    let timer = if sample && !quiet && context != 0 { state.timer(now, context) } else { None };
    state.publish(p, device, Some(if unknown { 0 } else { cost }), now);
    // Before the call, which takes some µs: in that time a lower class could send one more.
    if grant.flags & URGENT != 0 {
        state.claim(p, device, turn, now);
    }
    // Behind work that does not end the driver's queue fills up, and the calls wait for the GPU: never with the lock held.
    let behind = p.slot().activity.get(device).filter(|_| state.track.late() != 0);
    drop(state);
    if back {
        p.ring(device);
    }
    if let Some(activity) = behind {
        activity.syncing.fetch_add(1, Ordering::Relaxed);
    }
    let started = timer.is_some_and(|timer| record(timer.start, operation.stream));
    let status = call();
    let timed = started && status == error::SUCCESS && timer.is_some_and(|timer| record(timer.end, operation.stream));
    if let Some(activity) = behind {
        activity.syncing.fetch_sub(1, Ordering::Relaxed);
    }
    if quiet || context == 0 {
        return status;
    }
    let mut state = gate.state();
    if let Some(timer) = timer {
        state.time(timer.number, timed.then(|| p.gates.number(known)), begins, &grant);
    }
    let full = state.touched(p, context, operation.stream);
    let mark = if state.track.mark_due() { state.mark(p, context) } else { None };
    drop(state);
    for mark in full.into_iter().chain(mark) {
        mark.send(p, gate);
    }
    status
}

/// As [`send`], by a `call` that returns when the GPU is done.
pub fn send_and_wait(
    p: &'static Process,
    device: usize,
    operation: Operation,
    call: impl Fn() -> CUresult,
) -> CUresult {
    let status = send(p, device, operation, || waiting(p, device, &call));
    let urgent = p
        .policy()
        .turns
        .get(device)
        .is_some_and(|turn| turn.words[0].load(Ordering::Relaxed) & (URGENT as u64) << 8 != 0 && !captures(p));
    if urgent {
        // It is done, and once a mark says so, the claim ends.
        waiting(p, device, || driver!(cuStreamSynchronize(operation.stream => CUstream)));
    }
    status
}

/// Waits for the GPU by `call`. The daemon hears of it, because what was expected of the work may be wrong; and who is
/// urgent says when it is done.
pub fn waiting(p: &'static Process, device: usize, call: impl Fn() -> CUresult) -> CUresult {
    let (Some(turn), Some(gate)) = (p.policy().turns.get(device), p.gates.devices.get(device)) else { return call() };
    let Some(activity) = p.slot().activity.get(device).filter(|_| !captures(p)) else {
        return call();
    };
    let word = turn.words[0].load(Ordering::Relaxed);
    let urgent = word & (URGENT as u64) << 8 != 0;
    let marks = urgent || word & 0xff != Mode::Lease as u64;
    let context = if marks { context_of(null_mut()) } else { 0 };
    let mut state = gate.state();
    if state.stream_count > 0 {
        state = gate.marked(p, state, context);
    }
    activity.syncing.fetch_add(1, Ordering::Relaxed);
    let began = system::nanoseconds();
    state.publish(p, device, None, began);
    drop(state);
    let status = call();
    let now = system::nanoseconds();
    activity.syncing.fetch_sub(1, Ordering::Relaxed);
    let mut state = gate.state();
    // A wait that found nothing to wait for says nothing of when the work was done.
    const WAITED: u64 = 10_000;
    if now.saturating_sub(began) > WAITED {
        state.waited(p, now);
    }
    let grant = granted(turn);
    state.look(p, now, &grant, false);
    if urgent {
        state.claim(p, device, turn, now);
    }
    let over = state.publish(p, device, None, now);
    drop(state);
    // The next turn waits for that.
    if over && admit(now, &grant, 0, 0, 0) == Verdict::WaitForChange {
        p.ring(device);
    }
    status
}

/// The program is about to destroy `stream`, or a context with all its streams (`None`). The driver does not survive that such a handle
/// is used afterwards, so what was sent to it is marked now, and whoever else is about to ask it for something is waited for.
pub fn stream_goes(p: &Process, stream: Option<CUstream>) {
    let stream = stream.map(|stream| stream as u64);
    for gate in &p.gates.devices {
        let mut state = gate.state();
        let touched = |of: &u64| stream.is_none_or(|stream| stream == *of);
        if state.streams.iter().take(state.stream_count).any(touched) {
            state = gate.marked(p, state, context_of(null_mut()));
        }
        while state.leave(stream) {
            drop(state);
            system::sleep_microseconds(ASKING);
            state = gate.state();
        }
    }
}

/// Something is about to be captured, and counts as such already: waits for those who are about to ask the driver for something.
pub fn capture_begins(p: &Process) {
    for gate in &p.gates.devices {
        while gate.state().marks.iter().any(|mark| mark.asking) {
            system::sleep_microseconds(ASKING);
        }
    }
}

/// Forgets what is on its way in `context`, which is gone with all that was in it.
pub fn context_gone(p: &Process, context: u64) {
    for (device, gate) in p.gates.devices.iter().enumerate() {
        let mut state = gate.state();
        state.forget(Some(context));
        let now = system::nanoseconds();
        state.look(p, now, &Grant::CLOSED, true);
        state.publish(p, device, None, now);
    }
}

/// Forgets what operations cost: their handles may be used again.
pub fn forget_costs(p: &Process) {
    for known in &p.gates.costs {
        known.key.store(0, Ordering::Relaxed);
    }
}

/// The grant as the daemon has published it.
fn granted(turn: &Turn) -> Grant {
    loop {
        if let Some((words, _)) = turn.read() {
            return Grant::from_words(words);
        }
        core::hint::spin_loop();
    }
}

/// The grant while no daemon looks. A lease stays one: whoever comes later has its part beside it.
fn without_daemon(turn: &Turn, now: u64) -> Grant {
    let grant = granted(turn);
    match Part::from_word(turn.alone.load(Ordering::Relaxed)) {
        _ if matches!(grant.mode, Mode::Paused | Mode::Lease) => grant,
        Some(part) => part.grant(now),
        None => Grant { mode: Mode::Lease, ahead: u32::MAX, ..Grant::CLOSED },
    }
}

/// Until when the classes above the slice's want the device.
fn urgent(p: &Process, device: usize, turn: &Turn) -> u64 {
    let class = turn.class.load(Ordering::Relaxed) as usize;
    let Some(row) = p.urgency_of(device) else { return 0 };
    row.iter().skip(class + 1).map(|word| word.load(Ordering::Relaxed)).max().unwrap_or(0)
}

/// Whether the stream's work goes on or is done, rather than dead.
fn alive(stream: CUstream) -> bool {
    let status = driver!(cuStreamQuery(stream => CUstream));
    matches!(status, error::SUCCESS | error::NOT_READY)
}

/// What `kernel` does, by its name.
fn class(p: &Process, kernel: u64) -> KernelClass {
    let mut name: *const u8 = core::ptr::null();
    let kernel = kernel as Handle;
    let mut status = driver!(cuFuncGetName(&raw mut name => *mut *const u8, kernel => Handle));
    if status != error::SUCCESS {
        status = driver!(cuKernelGetName(&raw mut name => *mut *const u8, kernel => Handle));
    }
    if status != error::SUCCESS || name.is_null() {
        return KernelClass::Other;
    }
    // SAFETY: the driver's own string, which ends with a zero and lives as long as the kernel.
    let name = unsafe { core::ffi::CStr::from_ptr(name.cast()) }.to_bytes();
    let class = class_of(name, KERNELS.iter().copied()).unwrap_or_default();
    if p.policy().flags.load(Ordering::Relaxed) & flags::ignores(class) != 0 {
        return KernelClass::Other;
    }
    if class == KernelClass::Collective {
        p.collectives.store(1, Ordering::Relaxed);
    }
    class
}

/// Whether `kernel` is a part of a collective operation, which must not be held back while others' parts run.
pub fn collective(p: &Process, kernel: u64) -> bool {
    class(p, kernel) == KernelClass::Collective
}

/// What an operation is expected to cost.
fn expected(cost: &Cost, grant: &Grant) -> u64 {
    cost.estimate(grant.unknown_cost(cost.class() == KernelClass::Throughput as u8))
}

/// Enters so many launches of `each` ns into the accounts of a class.
fn account(p: &Process, class: u8, launches: u16, each: u64) {
    let (slot, class, launches) = (p.slot(), usize::from(class), u64::from(launches));
    if let Some(counter) = class.checked_sub(KernelClass::Latency as usize).and_then(|at| slot.class_launches.get(at)) {
        counter.fetch_add(launches, Ordering::Relaxed);
    }
    if let Some(counter) = slot.class_ns.get(class) {
        counter.fetch_add(launches.saturating_mul(each), Ordering::Relaxed);
    }
}

impl Gates {
    #[inline]
    fn place(&self, key: u64) -> &Known {
        &self.costs[(key >> 40) as usize % COSTS]
    }

    fn number(&self, known: &Known) -> u32 {
        let first = core::ptr::from_ref(&self.costs[0]) as usize;
        ((core::ptr::from_ref(known) as usize - first) / size_of::<Known>()) as u32
    }

    /// The operation's place in the table; it takes that of another whose key leads there.
    fn known(&self, p: &Process, operation: Operation) -> &Known {
        let key = operation.key();
        let known = self.place(key);
        if known.key.load(Ordering::Relaxed) != key {
            let other = known.cost.load(Ordering::Relaxed);
            if other != PASSES {
                let other = Cost::from_word(other);
                account(p, other.class(), other.since(), other.estimate(0));
            }
            let class = operation.class.unwrap_or_else(|| class(p, operation.handle));
            let passes = class == KernelClass::Collective;
            known.cost.store(if passes { PASSES } else { Cost::of(class as u8).to_word() }, Ordering::Relaxed);
            known.key.store(key, Ordering::Relaxed);
        }
        known
    }
}

/// A gate's state, held.
struct Held<'a> {
    state: &'a mut State,
    _lock: system::Held<'a>,
}

impl core::ops::Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.state
    }
}

impl core::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.state
    }
}

impl Gate {
    fn state(&self) -> Held<'_> {
        let lock = self.lock.hold();
        // SAFETY: the lock makes this the only reference; zeros are a valid `State` (see below), and it is made a fresh one
        // before anything else looks at it.
        let state = unsafe { &mut *self.state.get() };
        if !state.made {
            // `Track` has a field of a type whose zeros mean nothing certain, so it is written and never read before.
            // SAFETY: a place of the right type that nobody else refers to; nothing in it needs dropping.
            unsafe { (&raw mut state.track).write(Track::default()) };
            state.made = true;
        }
        Held { state, _lock: lock }
    }

    /// Marks what was sent since the last mark, from `context` (0 = there is none), if there is room for one.
    fn marked<'a>(&'a self, p: &Process, mut state: Held<'a>, context: u64) -> Held<'a> {
        let marks = context != 0 && state.track.room();
        let Some(mark) = (if marks { state.mark(p, context) } else { None }) else { return state };
        drop(state);
        mark.send(p, self);
        self.state()
    }
}

impl State {
    /// Looks what the GPU has done. `quiet`: without asking the driver.
    fn look(&mut self, p: &Process, now: u64, grant: &Grant, quiet: bool) {
        let quiet = quiet || captures(p);
        let State { track, marks, asked, .. } = self;
        let oldest = track.oldest().map(|mark| marks.get(mark as usize % MARKS).is_some_and(|mark| mark.count == 0));
        // What was forgotten is over; of the rest the driver tells, not more often than is of use.
        if oldest == Some(true) || oldest.is_some() && !quiet && now.saturating_sub(*asked) >= ASK {
            *asked = now;
            track.poll(now, |mark| passed(marks, mark, quiet));
        }
        if quiet {
            return;
        }
        for timer in &mut self.timers {
            if matches!(timer.place, 0 | STARTED) || !self.track.done_with(timer.mark) {
                continue;
            }
            let mut milliseconds = 0f32;
            let status = driver!(cuEventElapsedTime(
                &raw mut milliseconds => *mut f32, timer.start as Handle => Handle, timer.end as Handle => Handle));
            if let (error::SUCCESS, Some(known)) = (status, p.gates.costs.get(timer.place as usize - 1)) {
                let mut cost = Cost::from_word(known.cost.load(Ordering::Relaxed));
                let measured = (milliseconds * 1e6) as u64;
                let measured = measured.saturating_sub(EVENTS);
                // A lease may have been taken back meanwhile; a window lasts as long as it said.
                let own_until =
                    if timer.own_until == u64::MAX { grant.own_until(timer.begins) } else { timer.own_until };
                cost.update(measured, own_until.saturating_sub(timer.begins));
                if known.cost.load(Ordering::Relaxed) != PASSES {
                    known.cost.store(cost.to_word(), Ordering::Relaxed);
                }
            }
            timer.place = 0;
        }
    }

    /// As [`State::look`], right after a wait for the GPU.
    fn waited(&mut self, p: &Process, now: u64) {
        let State { track, marks, .. } = self;
        track.waited(now, |mark| passed(marks, mark, captures(p)));
    }

    /// Notes that work went to `stream`; the mark that has to be sent because there are too many of them.
    fn touched(&mut self, p: &Process, context: u64, stream: CUstream) -> Option<Mark> {
        let stream = stream as u64;
        let seen = self.streams.iter().take(self.stream_count).any(|known| *known == stream);
        if seen {
            return None;
        }
        let mut mark = None;
        if self.stream_count == STREAMS {
            if !self.track.room() {
                return None;
            }
            mark = self.mark(p, context);
        }
        if let Some(place) = self.streams.get_mut(self.stream_count) {
            *place = stream;
            self.stream_count += 1;
        }
        mark
    }

    /// Takes the next mark, for which each stream that got work since the last one is to record an event. It must be sent.
    fn mark(&mut self, p: &Process, context: u64) -> Option<Mark> {
        let marked = self.marks.get_mut(self.track.next_mark() as usize % MARKS)?;
        // Somebody may be at one that was forgotten.
        if captures(p) || marked.asking {
            return None;
        }
        let count = core::mem::take(&mut self.stream_count);
        if marked.context != context {
            marked.release();
            marked.context = context;
        }
        for event in marked.events.iter_mut().take(count).filter(|event| **event == 0) {
            *event = event_of(UNTIMED)?;
        }
        (marked.number, marked.streams) = (self.track.mark(), self.streams);
        (marked.count, marked.asked, marked.asking) = (count, 0, false);
        marked.next()
    }

    /// What is left to be done for a mark whose last question was put: `None` if nothing is, or if it was forgotten.
    fn answered(&mut self, p: &Process, number: u32) -> Option<Mark> {
        let marked = self.marks.get_mut(number as usize % MARKS).filter(|marked| marked.number == number)?;
        if captures(p) {
            marked.streams = [NOBODY; STREAMS];
        }
        marked.next()
    }

    /// From now on nobody asks `stream` for anything (`None`: any), but for who is at it: whether somebody is.
    fn leave(&mut self, stream: Option<u64>) -> bool {
        let is_it = |of: &u64| stream.is_none_or(|stream| stream == *of);
        let mut kept = 0;
        for at in 0..self.stream_count.min(STREAMS) {
            if !is_it(&self.streams[at]) {
                self.streams[kept] = self.streams[at];
                kept += 1;
            }
        }
        self.stream_count = kept;
        let mut asked = false;
        for marked in &mut self.marks {
            let current = if marked.asking { marked.asked.checked_sub(1) } else { None };
            asked |= current.and_then(|at| marked.streams.get(at)).is_some_and(is_it);
            for left in marked.streams.iter_mut().skip(marked.asked).filter(|of| is_it(of)) {
                *left = NOBODY;
            }
        }
        asked
    }

    /// Takes two events for what comes next.
    fn timer(&mut self, now: u64, context: u64) -> Option<Events> {
        let number = self
            .timers
            .iter()
            .position(|timer| timer.place == 0 && (timer.context == 0 || timer.context == context))?;
        let timer = self.timers.get_mut(number)?;
        if timer.context == 0 {
            (timer.start, timer.end) = (event_of(TIMED)?, event_of(TIMED)?);
            timer.context = context;
        }
        timer.place = STARTED;
        self.timed = now;
        Some(Events { number, start: timer.start, end: timer.end })
    }

    /// Both events of [`State::timer`] are recorded around a launch whose cost has that place; or not (`None`).
    fn time(&mut self, timer: usize, place: Option<u32>, begins: u64, grant: &Grant) {
        let mark = self.track.next_mark();
        // Taken back meanwhile, with its context.
        let Some(timer) = self.timers.get_mut(timer).filter(|timer| timer.place == STARTED) else { return };
        (timer.place, timer.mark) = (place.map_or(0, |place| place + 1), mark);
        (timer.begins, timer.own_until) = (begins, grant.own_until(begins));
    }

    /// Tells the daemon, right after a look, and what the operation that was `sent` costs (0: not known). Whether work of unknown length was
    /// found to be done.
    fn publish(&self, p: &Process, device: usize, sent: Option<u64>, now: u64) -> bool {
        let Some(activity) = p.slot().activity.get(device) else { return false };
        activity.charged.store(self.track.charged(), Ordering::Relaxed);
        activity.busy_until.store(self.track.busy_until(), Ordering::Relaxed);
        activity.last_launch.store(self.track.last_launch(), Ordering::Relaxed);
        // Who waits for the GPU can't look: what is on its way should be done when it is expected to be.
        let overdue = match self.track.late() {
            0 if activity.syncing.load(Ordering::Relaxed) > 0 => self.track.busy_until().max(now),
            late => late,
        };
        activity.overdue.store(overdue, Ordering::Relaxed);
        if let Some(cost) = sent {
            activity.op_ns.store(cost, Ordering::Relaxed);
        }
        let (before, open) = (activity.open.load(Ordering::Relaxed), u64::from(self.track.open()));
        activity.open.store(open, Ordering::Relaxed);
        before > open
    }

    /// Tells lower classes until when to keep out of the way.
    fn claim(&mut self, p: &Process, device: usize, turn: &Turn, now: u64) {
        let class = turn.class.load(Ordering::Relaxed) as usize;
        let Some(word) = p.urgency_of(device).and_then(|row| row.get(class)) else { return };
        let claim = self.track.claim(now);
        // Another process's longer claim stays.
        let there = word.load(Ordering::Relaxed);
        if there == self.claim || there < claim {
            word.store(claim, Ordering::Relaxed);
            self.claim = claim;
        }
    }

    /// Takes all marks for passed that are on their way in `context`, which is gone with its events (`None`: in any).
    fn forget(&mut self, context: Option<u64>) {
        for mark in self.marks.iter_mut().filter(|mark| context.is_none_or(|context| mark.context == context)) {
            mark.count = 0;
            if context.is_some() {
                (mark.context, mark.events) = (0, [0; STREAMS]);
            }
        }
        self.stream_count = 0;
        for timer in &mut self.timers {
            if context.is_none_or(|context| timer.context == context) {
                timer.place = 0;
                if context.is_some() {
                    timer.context = 0;
                }
            }
        }
    }
}

/// The events of a timer.
#[derive(Clone, Copy)]
struct Events {
    number: usize,
    start: u64,
    end: u64,
}

/// Has `stream` note the time when it gets there.
fn record(event: u64, stream: CUstream) -> bool {
    driver!(cuEventRecord(event as Handle => Handle, stream => CUstream)) == error::SUCCESS
}

impl Marked {
    /// Gives its events back to a context that is there still.
    fn release(&mut self) {
        for event in core::mem::take(&mut self.events).into_iter().filter(|event| *event != 0) {
            driver!(cuEventDestroy_v2(event as Handle => Handle));
        }
    }

    /// The next stream that is to record its event. One that is gone has its work done, or that counts no more: its event tells of
    /// something that is over.
    fn next(&mut self) -> Option<Mark> {
        self.asking = false;
        while self.asked < self.count {
            let (event, stream) = (*self.events.get(self.asked)?, *self.streams.get(self.asked)?);
            self.asked += 1;
            if stream != NOBODY {
                self.asking = true;
                return Some(Mark { number: self.number, event, stream });
            }
        }
        None
    }
}

/// The flags of an event, as the driver has them.
const TIMED: u32 = 0;
const UNTIMED: u32 = 2;

/// A new event of the current context.
fn event_of(flags: u32) -> Option<u64> {
    let mut event: Handle = null_mut();
    (driver!(cuEventCreate(&raw mut event => *mut Handle, flags => u32)) == error::SUCCESS).then_some(event as u64)
}

/// A mark that was taken and is to be sent: a stream that is to record an event for it, and then perhaps others.
struct Mark {
    number: u32,
    event: u64,
    stream: u64,
}

impl Mark {
    /// Has the streams record it. Not with the lock held: where a queue is full, that waits for the GPU.
    fn send(self, p: &Process, gate: &Gate) {
        let mut next = Some(self);
        while let Some(Mark { number, event, stream }) = next {
            record(event, stream as CUstream);
            next = gate.state().answered(p, number);
        }
    }
}

/// Whether every stream that `mark` waits for has come to it. `quiet`: the driver isn't asked, and it has not.
fn passed(marks: &[Marked; MARKS], mark: u32, quiet: bool) -> bool {
    let Some(marked) = marks.get(mark as usize % MARKS) else { return true };
    let over = |event: &u64| driver!(cuEventQuery(*event as Handle => Handle)) != error::NOT_READY;
    let recorded = marked.asked >= marked.count && !marked.asking;
    marked.count == 0 || !quiet && recorded && marked.events.iter().take(marked.count).all(over)
}

/// Who waits for others' questions to the driver looks again after so many µs; a question takes one or two.
const ASKING: u64 = 20;

/// Between two questions to the driver about a mark, in ns; each costs about a tenth of that.
const ASK: u64 = 5_000;

/// What two events around nothing are apart, in ns (measured on an H100).
const EVENTS: u64 = 1_500;

/// So long (ns) a launch takes to get to the GPU.
const PACE: u64 = 20_000;

/// A launch is timed at least every so often, in ns, of those that do more than count.
const TIMING: u64 = 10_000_000;

/// A thread that may wait in the driver for its slice to be woken.
struct Waits(&'static Activity);

impl Waits {
    fn begin(p: &'static Process, device: usize) -> Option<Self> {
        let activity = p.slot().activity.get(device)?;
        activity.waiting.fetch_add(1, Ordering::AcqRel);
        Some(Self(activity))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A thread's wait at the gate.
#[derive(Default)]
struct Wait {
    since: u64,
    rang: u64,
    asked: u64,
}

impl Wait {
    /// Whether it has waited for so long that the daemon should have done something.
    fn deaf(&self, now: u64) -> bool {
        self.since != 0 && now.saturating_sub(self.since) > DEAF
    }

    /// Whether the daemon should have looked again by now, and it is time to see whether it is there at all.
    fn doubts(&mut self, now: u64, looked: u64) -> bool {
        let since = looked.max(self.since).max(self.rang);
        let due = looked != 0 && self.since != 0 && now.saturating_sub(since) > SILENT;
        if due {
            self.rang = now;
        }
        due
    }

    /// Whether it is time to ask the driver how the stream is.
    fn asks(&mut self, now: u64) -> bool {
        let due = self.since != 0 && now.saturating_sub(self.asked.max(self.since)) > ALIVE;
        if due {
            self.asked = now;
        }
        due
    }

    /// Waits for a while, or until the grant changes; `open`: what is under way may be done any time.
    fn some(&mut self, p: &Process, device: usize, turn: &Turn, grant: &Grant, verdict: Verdict, open: bool, now: u64) {
        let activity = p.slot().activity.get(device);
        if self.since == 0 {
            self.since = now;
            if let Some(activity) = activity {
                activity.waiting.fetch_add(1, Ordering::AcqRel);
                activity.throttled.fetch_add(1, Ordering::Relaxed);
            }
        }
        let version = turn.version.load(Ordering::Acquire);
        // Changed meanwhile.
        if granted(turn) != *grant {
            return;
        }
        match verdict {
            Verdict::Go => {}
            Verdict::WaitUntil(time) if time.saturating_sub(now) > SPIN => {
                system::futex_wait_shared(&turn.version, version, (time - now - SPIN).min(ALIVE));
            }
            Verdict::WaitUntil(_) => {
                for _ in 0..16 {
                    core::hint::spin_loop();
                }
            }
            Verdict::WaitForChange => {
                const LOST: u64 = 50_000_000;
                let answered = grant.flags & QUIET != 0 || grant.mode == Mode::Paused;
                if !answered && (self.rang == 0 || now.saturating_sub(self.rang) > LOST) {
                    self.rang = now;
                    p.ring(device);
                }
                system::futex_wait_shared(&turn.version, version, if open { AGAIN - SPIN } else { ALIVE });
            }
        }
    }

    /// The operation goes.
    fn end(&self, p: &Process, device: usize, now: u64) {
        if self.since == 0 {
            return;
        }
        if let Some(activity) = p.slot().activity.get(device) {
            activity.waiting.fetch_sub(1, Ordering::AcqRel);
            activity.throttled_ns.fetch_add(now.saturating_sub(self.since), Ordering::Relaxed);
        }
    }
}

const _: () = assert!(GPUS >= DEVICES && CLASSES > 0);
