//! What a device has yet to do, where time is real.
//!
//! There nobody knows when a kernel ends, as other processes may submit work at any moment. So the end of everything that
//! comes after a kernel is a [`When`] that is found out later. What has to happen at such a time without a call of the
//! program (a word to be written, a host function to be called, a kernel to be submitted behind a copy) is done by a
//! thread that sleeps until the next such time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, PoisonError};
use std::time::Duration;

use super::engine::{Errand, hand_over};
use super::{Driver, INTERNAL, PROGRESS, lock};
use crate::clock::{Nanos, Span};
use crate::shared::Locked;

/// How far a prediction looks ahead: a process that dies may bring everything forward.
const HORIZON: Nanos = 5_000_000;
/// How long to wait before looking again at what nothing predicts.
const PATIENCE: Nanos = 200_000;
/// How often the thread looks at a word that a stream waits for.
const POLL: Nanos = 50_000;
/// How often it looks when it has nothing to do, so that the schedule's log does not run over.
const IDLE: Nanos = 100_000_000;

/// When something is done.
#[derive(Clone, Debug)]
pub(crate) enum When {
    At(Nanos),
    Later(Arc<Moment>),
}

/// A time that is found out once.
#[derive(Debug, Default)]
pub(crate) struct Moment {
    /// 0 while it is not known.
    time: AtomicU64,
    /// The queue of which it is a mark, plus one; 0 while it is none. What follows it may be submitted to the same queue
    /// at once, as a queue is in order.
    queue: AtomicU64,
    mark: AtomicU64,
}

/// A queue: its device's number and its own on that device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    pub device: usize,
    pub index: usize,
}

impl Moment {
    fn know(&self, time: Nanos) {
        self.time.store(time.max(1), Ordering::Relaxed);
    }

    fn place(&self, queue: Queue, mark: Nanos) {
        self.mark.store(mark, Ordering::Relaxed);
        self.queue.store(((queue.device << 32) | queue.index) as u64 + 1, Ordering::Relaxed);
    }

    fn placed(&self) -> Option<(Queue, Nanos)> {
        let queue = self.queue.load(Ordering::Relaxed).checked_sub(1)? as usize;
        let queue = Queue { device: queue >> 32, index: queue & 0xffff_ffff };
        Some((queue, self.mark.load(Ordering::Relaxed)))
    }
}

impl Default for When {
    fn default() -> When {
        When::At(0)
    }
}

impl When {
    /// The time, where it is known; it may lie in the future.
    pub fn known(&self) -> Option<Nanos> {
        match self {
            When::At(time) => Some(*time),
            When::Later(moment) => Some(moment.time.load(Ordering::Relaxed)).filter(|time| *time != 0),
        }
    }

    fn placed(&self) -> Option<(Queue, Nanos)> {
        match self {
            When::At(_) => None,
            When::Later(moment) => moment.placed(),
        }
    }

    fn passed(&self, now: Nanos) -> bool {
        self.known().is_some_and(|time| time <= now)
    }

    /// The time, or the earliest that it may be as the schedules are, or when to look again.
    fn expected(&self, shared: &mut Locked<'_>, now: Nanos) -> Nanos {
        match (self.known(), self.placed()) {
            (Some(time), _) => time,
            (None, Some((queue, mark))) => shared.schedule(queue.device).predict(queue.index, mark, now + HORIZON),
            (None, None) => now + PATIENCE,
        }
    }
}

/// The last of several times, where all are known.
fn last(all: &[When]) -> Option<Nanos> {
    all.iter().try_fold(0, |latest: Nanos, when| Some(latest.max(when.known()?)))
}

/// The mark in one queue behind which all of these are that have not passed, if there is one.
fn common(all: &[When], now: Nanos) -> Option<(Queue, Nanos)> {
    let mut open = all.iter().filter(|when| !when.passed(now));
    let first = open.next()?.placed()?;
    open.try_fold(first, |(queue, mark), when| {
        let (other, next) = when.placed()?;
        (other == queue).then_some((queue, mark.max(next)))
    })
}

/// What a step is.
pub(crate) enum Deed {
    /// Takes time on its own, and moves so many bytes of the device's memory meanwhile.
    Span(Nanos, u64),
    /// Takes time of its context's queue.
    Kernel {
        queue: Queue,
        duration: Nanos,
    },
    Write {
        address: u64,
        value: u64,
        wide: bool,
    },
    Call {
        stream: u64,
        errand: Errand,
    },
}

/// Something to be done after other things.
pub(crate) struct Step {
    device: usize,
    after: Vec<When>,
    deed: Deed,
    done: Arc<Moment>,
    /// Since when a kernel is in its queue.
    since: Option<Nanos>,
}

impl Step {
    /// Moves the step on, with its device's schedule up to date; true when its time is known and, but for what its
    /// [`Deed`] has the caller do, it is over.
    fn advance(&mut self, shared: &mut Locked<'_>, now: Nanos) -> bool {
        match (&self.deed, self.since) {
            (Deed::Kernel { queue, duration }, None) => {
                let free = self.after.iter().all(|when| when.passed(now));
                if free || common(&self.after, now).is_some_and(|(other, _)| other == *queue) {
                    let mark = shared.schedule(queue.device).submit(queue.index, *duration);
                    self.done.place(*queue, mark);
                    self.since = Some(now);
                }
                false
            }
            (Deed::Kernel { queue, .. }, Some(since)) => {
                let finished =
                    self.done.placed().and_then(|(_, mark)| shared.schedule(queue.device).finished(queue.index, mark));
                finished.inspect(|time| self.done.know((*time).max(since))).is_some()
            }
            (Deed::Span(duration, bytes), _) => {
                if *duration == 0
                    && let Some((queue, mark)) = common(&self.after, now)
                {
                    self.done.place(queue, mark);
                }
                let Some(start) = last(&self.after) else { return false };
                if *bytes > 0 {
                    shared.moves(self.device, Span { start, end: start + duration }, *bytes, now);
                }
                self.done.know(start + duration);
                true
            }
            (Deed::Write { .. } | Deed::Call { .. }, _) => {
                if matches!(self.deed, Deed::Write { .. })
                    && let Some((queue, mark)) = common(&self.after, now)
                {
                    self.done.place(queue, mark);
                }
                last(&self.after).filter(|time| *time <= now).inspect(|time| self.done.know(*time)).is_some()
            }
        }
    }

    /// Whether it goes on without anybody looking at it, as a kernel in its queue and what only marks its end do.
    fn by_itself(&self) -> bool {
        match self.deed {
            Deed::Kernel { .. } => self.since.is_some(),
            Deed::Span(0, 0) => self.done.placed().is_some(),
            _ => false,
        }
    }
}

/// Brings the schedules of all devices that have a step up to date, to the same time.
fn all_now(shared: &mut Locked<'_>, steps: &[Step]) -> Nanos {
    let devices = steps.iter().fold(0_u32, |devices, step| devices | 1 << step.device);
    let each = (0..u32::BITS as usize).filter(|device| devices >> device & 1 != 0);
    // The first time holds for all: what the others did since then is found the next time.
    each.map(|device| shared.now(device)).min().unwrap_or(0)
}

/// What the thread is told through that there is something new to do.
static WORK: Condvar = Condvar::new();

/// What the thread last went to sleep for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rest {
    /// There is no thread yet.
    #[default]
    Unborn,
    /// Until it is told.
    Asleep,
    /// Until some time.
    Dozing,
}

/// The program's signals are for its own threads.
pub(crate) fn block_signals() {
    let mut all = std::mem::MaybeUninit::uninit();
    // SAFETY: fills the set before it is used, for this thread alone.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
    }
}

/// The thread: does what is due, sleeps until the next.
fn work() {
    block_signals();
    INTERNAL.set(true);
    let Ok(mut guard) = lock() else { return };
    loop {
        let Some(driver) = guard.as_mut() else { return };
        driver.pump();
        PROGRESS.notify_all();
        guard = match driver.pause() {
            None => {
                driver.rest = Rest::Asleep;
                WORK.wait(guard).unwrap_or_else(PoisonError::into_inner)
            }
            Some(pause) => {
                driver.rest = Rest::Dozing;
                WORK.wait_timeout(guard, Duration::from_nanos(pause)).unwrap_or_else(PoisonError::into_inner).0
            }
        };
    }
}

impl Driver {
    /// The last of several times.
    pub(crate) fn latest(&mut self, device: usize, all: Vec<When>) -> When {
        if let Some(time) = last(&all) {
            return When::At(time);
        }
        let now = self.now(device);
        // Of marks in one queue the last is the last.
        if let Some(place) = common(&all, now)
            && let Some(when) = all.iter().find(|when| when.known().is_none() && when.placed() == Some(place))
        {
            return when.clone();
        }
        self.later(device, all, Deed::Span(0, 0))
    }

    /// Has something done when all of `after` is over; returns when it is done itself.
    pub(crate) fn later(&mut self, device: usize, after: Vec<When>, deed: Deed) -> When {
        let done = Arc::new(Moment::default());
        let mut step = Step { device, after, deed, done: done.clone(), since: None };
        // What is due at once is left to `settle`, which does it.
        if !matches!(step.deed, Deed::Write { .. } | Deed::Call { .. }) {
            let mut shared = self.shared.lock();
            let now = shared.now(device);
            if step.advance(&mut shared, now) {
                return When::At(done.time.load(Ordering::Relaxed));
            }
        }
        let wake = !step.by_itself() || self.rest != Rest::Dozing;
        self.steps.push(step);
        if wake {
            self.wake();
        }
        When::Later(done)
    }

    /// Has the thread look at what there is to do.
    pub(crate) fn wake(&mut self) {
        if self.rest == Rest::Unborn {
            self.rest = Rest::Dozing;
            std::thread::spawn(work);
        }
        WORK.notify_one();
    }

    /// Moves everything on that a device has yet to do.
    pub(crate) fn settle(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        let mut over = Vec::new();
        let mut shared = self.shared.lock();
        let now = all_now(&mut shared, &self.steps);
        self.steps.retain_mut(|step| {
            let known = step.advance(&mut shared, now);
            if known {
                over.push((step.device, std::mem::replace(&mut step.deed, Deed::Span(0, 0))));
            }
            !known
        });
        drop(shared);
        for (device, deed) in over {
            match deed {
                Deed::Write { address, value, wide } => self.write_value(address, value, wide),
                Deed::Call { stream, errand } => hand_over(stream, device, When::At(0), errand),
                Deed::Span(..) | Deed::Kernel { .. } => {}
            }
        }
    }

    /// Nanoseconds until there is something to do without a call of the program; `None` where there is nothing.
    fn pause(&mut self) -> Option<Nanos> {
        let polls = self.polls();
        if self.steps.is_empty() && !polls {
            return None;
        }
        let mut shared = self.shared.lock();
        let now = all_now(&mut shared, &self.steps);
        let mut next = now + if polls { POLL } else { IDLE };
        for step in self.steps.iter().filter(|step| !step.by_itself()) {
            let due = step.after.iter().map(|when| when.expected(&mut shared, now)).max();
            next = next.min(due.unwrap_or(now));
        }
        Some(next.saturating_sub(now).max(1))
    }

    /// Ends the queue of a context whose streams are gone. What it held is over now, for those that wait for it; host
    /// functions are not called any more.
    pub(crate) fn queue_gone(&mut self, gone: Queue) {
        let mut shared = self.shared.lock();
        let now = shared.now(gone.device);
        shared.schedule(gone.device).close(gone.index);
        self.steps.retain(|step| {
            let over = match &step.deed {
                Deed::Kernel { queue, .. } => *queue == gone,
                Deed::Call { stream, .. } => !self.streams.contains_key(stream),
                Deed::Span(..) | Deed::Write { .. } => false,
            };
            if over {
                step.done.know(now);
            }
            !over
        });
    }

    /// When to look again whether all of these have passed; `None` when they have.
    pub(crate) fn expected(&mut self, device: usize, all: &[When]) -> Option<Nanos> {
        let mut shared = self.shared.lock();
        let now = shared.now(device);
        if all.iter().all(|when| when.passed(now)) {
            return None;
        }
        let open = all.iter().filter(|when| !when.passed(now));
        open.map(|when| when.expected(&mut shared, now)).max().map(|time| time.max(now + 1))
    }
}
