//! Streams and events, and the execution of what is queued on them.
//!
//! Work takes effect when it is submitted, in the order of submission, which is one of the orders that the streams
//! allow; the clock says when it counts as done ([`super::steps`] where it passes by itself). Only what waits for something outside (a host function, a
//! word in memory, a kernel that hangs) holds its stream up; then the stream keeps a queue, and every submission,
//! query and wait tries to move the queues on.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cleave_cuda::types::error;
use core::ffi::c_void;

use super::copy::{CopyPlan, Cost, FillPlan};
use super::steps::{Deed, When};
use super::{Driver, INTERNAL, Outcome, PROGRESS, lock, with};
use crate::clock::Nanos;
use crate::shared::monotonic;
use crate::slices::WHOLE;
use crate::sms::Sms;

/// What kind of stream a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    Legacy,
    PerThread,
    Ordinary,
}

/// A stream.
pub(crate) struct Stream {
    pub context: u64,
    pub device: usize,
    pub flags: u32,
    pub priority: i32,
    pub kind: StreamKind,
    pub id: u64,
    /// When all its executed work is done.
    pub tail: When,
    /// When the launches are done that may still run; see [`LAUNCHES`].
    launches: VecDeque<When>,
    queue: VecDeque<(u64, Operation)>,
    /// A host function of it runs, or waits to run.
    outside: bool,
    /// The capture that it takes part in, and the nodes that the next one depends on.
    pub capture: Option<u64>,
    pub dependencies: Vec<u64>,
}

impl Stream {
    /// Whether it waits for the legacy stream and the legacy stream for it.
    fn blocking(&self) -> bool {
        self.kind != StreamKind::Legacy && self.flags & 1 == 0
    }
}

/// An event.
pub(crate) struct Event {
    pub context: u64,
    pub device: usize,
    pub flags: u32,
    /// Records submitted and records executed.
    submitted: u64,
    executed: u64,
    /// When the last executed record counts as done.
    time: When,
    /// The capture and nodes that it stands for, when recorded in one.
    pub captured: Option<(u64, Vec<u64>)>,
}

/// What a kernel does wrong, on demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    IllegalAddress,
    Hang,
}

/// A program's function, called with its pointer.
pub(crate) type HostFunction = unsafe extern "C" fn(*mut c_void);
/// A stream callback: stream, status, pointer.
pub(crate) type StreamCallback = unsafe extern "C" fn(*mut c_void, i32, *mut c_void);

/// One thing that a stream does; a record is of its stream or of its `whole` context.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Kernel { duration: Nanos, fault: Option<Fault> },
    Copy(CopyPlan),
    Fill(FillPlan),
    Host { function: HostFunction, data: u64 },
    Callback { function: StreamCallback, stream: u64, data: u64 },
    Record { event: u64, generation: u64, whole: bool },
    Wait { event: u64, generation: u64 },
    WaitValue { address: u64, value: u64, flags: u32, wide: bool },
    WriteValue { address: u64, value: u64, wide: bool },
}

/// Something that the helper thread calls.
pub(crate) enum Errand {
    Host(HostFunction, u64),
    Callback(StreamCallback, u64, u64),
}

/// What stands between a waiter and its goal.
pub(crate) enum Standing {
    /// Until all of these times of a device.
    At(usize, Vec<When>),
    Outside,
}

/// Waiting, without the lock.
pub(crate) struct Engine;

/// A stream, its device, when its turn comes, and what to call then.
type Order = (u64, usize, When, Errand);

/// How long a kernel takes that hangs, where time is real: its context has its turns for it, and nothing comes of them.
const FOREVER: Nanos = 1 << 48;
/// Launches that a stream takes in before the next one waits, where time is real.
const LAUNCHES: usize = 1024;
/// Most that a waiter sleeps before it looks again.
const NAP: Nanos = 5_000_000;

static HELPER: Mutex<Option<Sender<Order>>> = Mutex::new(None);

/// Gives a host function to the helper thread, which is made when first needed.
pub(crate) fn hand_over(stream: u64, device: usize, ready: When, errand: Errand) {
    let mut helper = HELPER.lock().unwrap_or_else(PoisonError::into_inner);
    let sender = helper.get_or_insert_with(|| {
        let (sender, receiver) = channel::<Order>();
        std::thread::spawn(move || {
            INTERNAL.set(true);
            for (stream, device, ready, errand) in receiver {
                let _ = Engine::wait(|_| Ok(Standing::At(device, vec![ready.clone()])));
                match errand {
                    // SAFETY: the program passed this function to be called with this pointer.
                    Errand::Host(function, data) => unsafe { function(data as *mut c_void) },
                    // SAFETY: as above; the status is success, as faults end the stream before this.
                    Errand::Callback(function, handle, data) => unsafe {
                        function(handle as *mut c_void, 0, data as *mut c_void)
                    },
                }
                let _ = with(|d| {
                    let now = d.now(device);
                    if let Some(stream) = d.streams.get_mut(&stream) {
                        stream.outside = false;
                        stream.tail = When::At(now);
                    }
                    d.pump();
                    Ok(())
                });
                PROGRESS.notify_all();
            }
        });
        sender
    });
    // The receiver lives as long as the process.
    let _ = sender.send((stream, device, ready, errand));
}

impl Event {
    /// Counts a record that is given to a stream; returns its number.
    pub fn submit(&mut self) -> u64 {
        self.captured = None;
        self.submitted += 1;
        self.submitted
    }
}

impl Engine {
    /// Waits until `standing` says that it is done, moving virtual time or sleeping.
    pub fn wait(standing: impl Fn(&mut Driver) -> Outcome<Standing>) -> Outcome {
        loop {
            let mut guard = lock()?;
            let d = guard.as_mut().ok_or(error::NOT_INITIALIZED)?;
            d.pump();
            match standing(d)? {
                Standing::At(device, times) => {
                    let Some(time) = d.expected(device, &times) else { return Ok(()) };
                    if d.real() {
                        let now = d.now(device);
                        drop(guard);
                        std::thread::sleep(Duration::from_nanos(time.saturating_sub(now).min(NAP)));
                    } else {
                        d.shared.lock().advance(device, time);
                    }
                }
                Standing::Outside => {
                    drop(PROGRESS.wait_timeout(guard, Duration::from_millis(1)));
                }
            }
        }
    }

    /// Waits for a stream; what its pools no longer use goes back to the device.
    pub fn wait_stream(id: u64) -> Outcome {
        Engine::wait(|d| d.stream_standing(id))?;
        with(|d| {
            let stream = d.streams.get(&id).ok_or(error::INVALID_HANDLE)?;
            let (device, context) = (stream.device, stream.context);
            d.pools_trim(device);
            d.fault_of(context)
        })
    }

    /// Waits for everything in a context.
    pub fn wait_context(id: u64) -> Outcome {
        Engine::wait(|d| {
            let context = d.contexts.get(&id).ok_or(error::INVALID_CONTEXT)?;
            let device = context.device;
            let covered = d.contexts.iter().filter(|(other, _)| d.covers(id, **other));
            let mut all: Vec<When> = covered.map(|(_, context)| context.orphans.clone()).collect();
            let streams: Vec<u64> =
                d.streams.iter().filter(|(_, s)| d.covers(id, s.context)).map(|(id, _)| *id).collect();
            for stream in streams {
                if d.streams[&stream].capture.is_some() {
                    return Err(900);
                }
                match d.stream_standing(stream)? {
                    Standing::At(_, times) => all.extend(times),
                    Standing::Outside => return Ok(Standing::Outside),
                }
            }
            Ok(Standing::At(device, all))
        })?;
        with(|d| {
            let device = d.contexts.get(&id).ok_or(error::INVALID_CONTEXT)?.device;
            d.pools_trim(device);
            d.fault_of(id)
        })
    }

    /// Waits until a stream can take another launch.
    pub fn wait_room(handle: *mut c_void, per_thread: bool) -> Outcome {
        let full = |d: &mut Driver| {
            if !d.real() {
                return Ok(None);
            }
            let id = d.stream(handle, per_thread)?;
            let stream = &d.streams[&id];
            Ok((stream.launches.len().max(stream.queue.len()) >= LAUNCHES).then_some(id))
        };
        with(full)?.map_or(Ok(()), |id| Engine::wait(|d| d.room(id)))
    }

    /// Waits for an event.
    pub fn wait_event(id: u64) -> Outcome {
        Engine::wait(|d| d.event_standing(id))?;
        with(|d| {
            let event = d.events.get(&id).ok_or(error::INVALID_HANDLE)?;
            let (device, context) = (event.device, event.context);
            d.pools_trim(device);
            d.fault_of(context)
        })
    }
}

impl Driver {
    /// Makes a stream.
    pub(crate) fn stream_create(&mut self, context: u64, flags: u32, priority: i32, kind: StreamKind) -> u64 {
        let id = self.handle();
        self.sequence += 1;
        let stream = Stream {
            context,
            device: self.contexts.get(&context).map_or(0, |context| context.device),
            flags,
            priority,
            kind,
            id: self.sequence,
            tail: When::default(),
            launches: VecDeque::new(),
            queue: VecDeque::new(),
            outside: false,
            capture: None,
            dependencies: Vec::new(),
        };
        self.streams.insert(id, stream);
        id
    }

    /// Forgets a stream whose work needs it no more; the context still waits for that work.
    pub(crate) fn stream_gone(&mut self, id: u64) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.destroyed.insert(id);
        let Some(context) = self.contexts.get(&stream.context) else { return };
        let all = vec![context.orphans.clone(), stream.tail];
        let orphans = self.latest(stream.device, all);
        if let Some(context) = self.contexts.get_mut(&stream.context) {
            context.orphans = orphans;
        }
    }

    /// Ends a context's streams. Nobody waits for what they had yet to record.
    pub(crate) fn streams_of_context_gone(&mut self, context: u64) {
        let Driver { streams, events, destroyed, .. } = self;
        destroyed.extend(streams.iter().filter(|(_, stream)| stream.context == context).map(|(id, _)| *id));
        streams.retain(|_, stream| {
            for (_, operation) in stream.queue.iter().filter(|_| stream.context == context) {
                if let Operation::Record { event, generation, .. } = operation
                    && let Some(event) = events.get_mut(event)
                {
                    event.executed = event.executed.max(*generation);
                }
            }
            stream.context != context
        });
    }

    /// Makes an event.
    pub(crate) fn event_create(&mut self, context: u64, flags: u32) -> u64 {
        let id = self.handle();
        let device = self.contexts.get(&context).map_or(0, |context| context.device);
        let event = Event { context, device, flags, submitted: 0, executed: 0, time: When::default(), captured: None };
        self.events.insert(id, event);
        id
    }

    /// A stream by handle: null is the legacy stream, or the thread's own for the `_ptsz` entry points.
    pub(crate) fn stream(&mut self, handle: *mut c_void, per_thread: bool) -> Outcome<u64> {
        let which = match handle as u64 {
            0 if per_thread => 2,
            0 => 1,
            other => other,
        };
        if which > 2 {
            // The real driver does not look whether the handle is one still: it reads what has been freed (a crash, measured).
            assert!(!self.destroyed.contains(&which), "a stream is used that was destroyed");
            let stream = self.streams.get(&which).ok_or(error::INVALID_HANDLE)?;
            self.fault_of(stream.context)?;
            return Ok(which);
        }
        let id = self.here()?;
        if which == 1 {
            return Ok(self.contexts[&id].legacy);
        }
        let thread = std::thread::current().id();
        if let Some(&stream) = self.contexts[&id].per_thread.get(&thread) {
            return Ok(stream);
        }
        let stream = self.stream_create(id, 0, 0, StreamKind::PerThread);
        if let Some(context) = self.contexts.get_mut(&id) {
            context.per_thread.insert(thread, stream);
        }
        Ok(stream)
    }

    /// The fault of a context, as an error.
    pub(crate) fn fault_of(&self, context: u64) -> Outcome {
        self.contexts.get(&self.home(context)).and_then(|context| context.sticky).map_or(Ok(()), Err)?;
        self.alive()
    }

    /// Queues an operation and executes what can be.
    pub(crate) fn operate(&mut self, stream: u64, operation: Operation) -> Outcome {
        self.sequence += 1;
        let sequence = self.sequence;
        self.streams.get_mut(&stream).ok_or(error::INVALID_HANDLE)?.queue.push_back((sequence, operation));
        self.pump();
        if self.polls() {
            self.wake();
        }
        Ok(())
    }

    /// Notes when a launch is done that was just given to a stream.
    pub(crate) fn launched(&mut self, stream: u64) {
        if self.real()
            && let Some(stream) = self.streams.get_mut(&stream)
        {
            stream.launches.push_back(stream.tail.clone());
        }
    }

    /// What a launch still waits for before the stream takes it in.
    fn room(&mut self, id: u64) -> Outcome<Standing> {
        let now = monotonic();
        let stream = self.streams.get_mut(&id).ok_or(error::INVALID_HANDLE)?;
        while stream.launches.front().is_some_and(|when| when.known().is_some_and(|time| time <= now)) {
            stream.launches.pop_front();
        }
        if stream.queue.len() >= LAUNCHES {
            return Ok(Standing::Outside);
        }
        let full = stream.launches.len() >= LAUNCHES;
        Ok(Standing::At(stream.device, stream.launches.front().filter(|_| full).cloned().into_iter().collect()))
    }

    /// Whether a stream waits for a word in memory whose change nobody tells of.
    pub(crate) fn polls(&self) -> bool {
        self.real()
            && self.streams.values().any(|stream| {
                stream.queue.front().is_some_and(|(_, operation)| matches!(operation, Operation::WaitValue { .. }))
            })
    }

    /// Writes a word for a stream, unless its memory is gone by now.
    pub(crate) fn write_value(&mut self, address: u64, value: u64, wide: bool) {
        if self.find(address).is_none() && self.vmm.find(address).is_none() {
            return;
        }
        if wide {
            // SAFETY: the program passed this address to be written by its stream, and it is still allocated.
            unsafe { (address as *mut u64).write_volatile(value) };
        } else {
            // SAFETY: as above.
            unsafe { (address as *mut u32).write_volatile(value as u32) };
        }
    }

    /// Executes what can be executed.
    pub(crate) fn pump(&mut self) {
        if self.alive().is_err() {
            // Its queues are closed, and may be others' by now.
            self.steps.clear();
            self.streams.values_mut().for_each(|stream| stream.queue.clear());
            return;
        }
        loop {
            self.settle();
            let ready: Vec<u64> =
                self.streams.iter().filter(|(_, stream)| !stream.queue.is_empty()).map(|(id, _)| *id).collect();
            let mut moved = false;
            for stream in ready {
                while self.step(stream) {
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// Whether the legacy stream's order lets the first operation of a stream go.
    fn in_order(&self, id: u64, stream: &Stream, sequence: u64) -> bool {
        let held = |other: &Stream| other.outside || other.queue.front().is_some_and(|(first, _)| *first < sequence);
        match stream.kind {
            StreamKind::Legacy => !self
                .streams
                .iter()
                .any(|(other, s)| *other != id && s.context == stream.context && s.blocking() && held(s)),
            _ if stream.blocking() => {
                let legacy = self.contexts.get(&stream.context).map_or(0, |context| context.legacy);
                !self.streams.get(&legacy).is_some_and(held)
            }
            _ => true,
        }
    }

    /// Executes the first operation of a stream if nothing holds it up; whether it did.
    fn step(&mut self, id: u64) -> bool {
        let Some(stream) = self.streams.get(&id) else { return false };
        let Some((sequence, operation)) = stream.queue.front().cloned() else { return false };
        if stream.outside || !self.in_order(id, stream, sequence) {
            return false;
        }
        let (device, context, blocking, legacy) =
            (stream.device, stream.context, stream.blocking(), stream.kind == StreamKind::Legacy);
        let mut ready = vec![stream.tail.clone()];
        let home = self.home(context);
        if let Some(context) = self.contexts.get(&context) {
            if self.contexts.get(&home).is_some_and(|home| home.sticky.is_some()) {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.queue.clear();
                }
                return false;
            }
            if legacy {
                ready.push(context.blocking_tail.clone());
            } else if blocking {
                ready.push(context.legacy_tail.clone());
            }
        }
        let real = self.real();
        let mut outside = false;
        // No stream waits for the others because somebody wants to know when all are done.
        let marks_only = matches!(operation, Operation::Record { whole: true, .. });
        let end = match operation {
            Operation::Kernel { fault: Some(Fault::Hang), .. } if !real => return false,
            Operation::Kernel { duration, fault } => {
                let duration = if fault == Some(Fault::Hang) { FOREVER } else { duration };
                if fault == Some(Fault::IllegalAddress)
                    && let Some(context) = self.contexts.get_mut(&home)
                {
                    context.sticky = Some(error::ILLEGAL_ADDRESS);
                    if self.client.is_some() {
                        self.shared.lock().fault(self.slot, error::ILLEGAL_ADDRESS as u32);
                        return false;
                    }
                }
                let (part, sms) =
                    self.contexts.get(&context).map_or((WHOLE, Sms::ANY), |context| (context.part, context.sms));
                let (all, own) = if sms.is_empty() { (WHOLE, part) } else { (self.model(device).sms, sms.count()) };
                let duration = (u128::from(duration) * u128::from(all) / u128::from(own)) as Nanos;
                match self.contexts.get(&context).and_then(|context| context.queue) {
                    Some(queue) => self.later(device, ready, Deed::Kernel { queue, duration }),
                    None => {
                        let ready = ready.iter().filter_map(When::known).max().unwrap_or(0);
                        // A context is one queue, also where its part of the device leaves room for others.
                        let Some(context) = self.contexts.get_mut(&context) else { return false };
                        let ready = ready.max(context.busy);
                        context.busy = self.shared.lock().submit(self.slot, device, ready, duration, (part, sms)).end;
                        When::At(context.busy)
                    }
                }
            }
            Operation::Copy(plan) => self.transfer(device, ready, plan.run()),
            Operation::Fill(plan) => self.transfer(device, ready, plan.run()),
            Operation::Host { function, data } => {
                outside = true;
                self.call_later(id, device, ready, Errand::Host(function, data))
            }
            Operation::Callback { function, stream, data } => {
                outside = true;
                self.call_later(id, device, ready, Errand::Callback(function, stream, data))
            }
            Operation::Record { event, generation, whole } => {
                if whole {
                    let held = |s: &Stream| s.outside || s.queue.front().is_some_and(|(first, _)| *first < sequence);
                    let others =
                        self.streams.iter().filter(|(other, s)| **other != id && self.covers(context, s.context));
                    if others.clone().any(|(_, s)| held(s)) {
                        return false;
                    }
                    ready.extend(others.map(|(_, s)| s.tail.clone()));
                    let contexts = self.contexts.iter().filter(|(other, _)| self.covers(context, **other));
                    ready.extend(contexts.map(|(_, context)| context.orphans.clone()));
                }
                ready.push(When::At(self.now(device)));
                let end = self.latest(device, ready);
                if let Some(event) = self.events.get_mut(&event) {
                    event.executed = event.executed.max(generation);
                    event.time = end.clone();
                }
                end
            }
            Operation::Wait { event, generation } => {
                if let Some(event) = self.events.get(&event) {
                    if event.executed < generation {
                        return false;
                    }
                    // Where time is virtual, an event of another device is on another clock: its time says nothing here.
                    if event.device == device || real {
                        ready.push(event.time.clone());
                    }
                }
                self.latest(device, ready)
            }
            Operation::WaitValue { address, value, flags, wide } => {
                let now = self.now(device);
                if real && !ready.iter().all(|when| when.known().is_some_and(|time| time <= now)) {
                    return false;
                }
                let (found, value, mask) = if wide {
                    // SAFETY: the program passed this address to be read by its stream.
                    (unsafe { (address as *const u64).read_volatile() }, value, u64::MAX)
                } else {
                    // SAFETY: as above.
                    let found = unsafe { (address as *const u32).read_volatile() };
                    (u64::from(found), value & 0xffff_ffff, 0xffff_ffff)
                };
                let top = (mask >> 1) + 1;
                let met = match flags & 3 {
                    0 => found.wrapping_sub(value) & top == 0,
                    1 => found == value,
                    2 => found & value != 0,
                    _ => (found | value) ^ mask != 0,
                };
                if !met {
                    return false;
                }
                if real {
                    ready.push(When::At(now));
                }
                self.latest(device, ready)
            }
            Operation::WriteValue { address, value, wide } if real => {
                ready.push(When::At(self.now(device)));
                self.later(device, ready, Deed::Write { address, value, wide })
            }
            Operation::WriteValue { address, value, wide } => {
                let end = self.latest(device, ready);
                self.shared.lock().advance(device, end.known().unwrap_or(0));
                self.write_value(address, value, wide);
                end
            }
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.queue.pop_front();
            stream.outside = outside;
            if !marks_only {
                stream.tail = end.clone();
            }
        }
        if marks_only {
            return true;
        }
        if blocking && let Some(found) = self.contexts.get(&context) {
            let all = vec![found.blocking_tail.clone(), end.clone()];
            let tail = self.latest(device, all);
            if let Some(context) = self.contexts.get_mut(&context) {
                context.blocking_tail = tail;
            }
        }
        if legacy && let Some(context) = self.contexts.get_mut(&context) {
            context.legacy_tail = end;
        }
        true
    }

    /// Has a copy or fill take its time.
    fn transfer(&mut self, device: usize, mut ready: Vec<When>, cost: Cost) -> When {
        ready.push(When::At(self.now(device)));
        self.later(device, ready, Deed::Span(cost.duration, cost.bytes))
    }

    /// Has the helper thread call something for a stream when it gets there.
    fn call_later(&mut self, stream: u64, device: usize, ready: Vec<When>, errand: Errand) -> When {
        if self.real() {
            return self.later(device, ready, Deed::Call { stream, errand });
        }
        let ready = self.latest(device, ready);
        hand_over(stream, device, ready.clone(), errand);
        ready
    }

    /// What a waiter for a stream still waits for.
    pub(crate) fn stream_standing(&mut self, id: u64) -> Outcome<Standing> {
        let stream = self.streams.get(&id).ok_or(error::INVALID_HANDLE)?;
        if stream.capture.is_some() {
            return Err(900);
        }
        self.fault_of(stream.context)?;
        // The legacy stream is done when all that it waits for is done.
        let others: Vec<&Stream> = if stream.kind == StreamKind::Legacy {
            self.streams.values().filter(|other| other.context == stream.context && other.blocking()).collect()
        } else {
            Vec::new()
        };
        if [stream].into_iter().chain(others.iter().copied()).any(|s| s.outside || !s.queue.is_empty()) {
            return Ok(Standing::Outside);
        }
        Ok(Standing::At(stream.device, [stream].into_iter().chain(others).map(|s| s.tail.clone()).collect()))
    }

    /// What a waiter for an event still waits for.
    pub(crate) fn event_standing(&mut self, id: u64) -> Outcome<Standing> {
        let event = self.events.get(&id).ok_or(error::INVALID_HANDLE)?;
        self.fault_of(event.context)?;
        if event.captured.is_some() {
            return Err(907);
        }
        if event.executed < event.submitted {
            return Ok(Standing::Outside);
        }
        Ok(Standing::At(event.device, vec![event.time.clone()]))
    }

    /// Answers a query: success, or "not ready". In virtual time, asking takes a microsecond, or a program that polls
    /// would never see its work done.
    pub(crate) fn query(&mut self, standing: Standing) -> Outcome {
        match standing {
            Standing::Outside => Err(error::NOT_READY),
            Standing::At(device, times) => {
                if self.expected(device, &times).is_none() {
                    return Ok(());
                }
                let mut shared = self.shared.lock();
                let now = shared.now(device);
                shared.advance(device, now + 1000);
                Err(error::NOT_READY)
            }
        }
    }

    /// Records an event on a stream.
    pub(crate) fn event_record(&mut self, id: u64, stream: u64, _flags: u32) -> Outcome {
        let source = self.streams.get(&stream).ok_or(error::INVALID_HANDLE)?;
        let (capture, dependencies) = (source.capture, source.dependencies.clone());
        let event = self.events.get_mut(&id).ok_or(error::INVALID_HANDLE)?;
        if let Some(capture) = capture {
            event.captured = Some((capture, dependencies));
            return Ok(());
        }
        let generation = event.submit();
        self.operate(stream, Operation::Record { event: id, generation, whole: false })
    }

    /// Has a stream wait for an event.
    pub(crate) fn event_wait(&mut self, id: u64, stream: u64) -> Outcome {
        let event = self.events.get(&id).ok_or(error::INVALID_HANDLE)?;
        if let Some((capture, nodes)) = event.captured.clone() {
            return self.capture_join(stream, capture, &nodes);
        }
        let generation = event.submitted;
        let waiter = self.streams.get(&stream).ok_or(error::INVALID_HANDLE)?;
        if waiter.capture.is_some() {
            // Something outside the capture can't become a dependency in it.
            return Err(905);
        }
        self.operate(stream, Operation::Wait { event: id, generation })
    }

    /// When an event was reached; `None` while it was not, or never recorded.
    pub(crate) fn event_time(&self, id: u64) -> Outcome<Option<Nanos>> {
        let event = self.events.get(&id).ok_or(error::INVALID_HANDLE)?;
        if event.submitted == 0 || event.flags & 2 != 0 || event.captured.is_some() {
            return Err(error::INVALID_HANDLE);
        }
        let now = self.now(event.device);
        let reached = event.time.known().filter(|time| event.executed >= event.submitted && *time <= now);
        Ok(reached)
    }

    /// A record or wait of a graph's node, at launch.
    pub(crate) fn event_operation(&mut self, id: u64, record: bool) -> Option<Operation> {
        let event = self.events.get_mut(&id)?;
        if record {
            event.submitted += 1;
            return Some(Operation::Record { event: id, generation: event.submitted, whole: false });
        }
        Some(Operation::Wait { event: id, generation: event.submitted })
    }
}
