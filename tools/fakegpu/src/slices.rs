//! How the contexts of one device share its time, where time is real: pure arithmetic over a plain struct that lives in
//! shared memory.
//!
//! Every context has one queue, which the device works off in order. Among queues that hold work it goes round, a slice
//! of time each; a switch between two that both hold work costs time in which nothing runs. Work is cut at the end of a
//! slice and goes on in the next one. A queue that holds the only work runs on without a pause.
//!
//! Nothing runs by itself: whoever submits or asks says what time it is, and the schedule is evaluated up to then. It
//! depends on the submissions alone, not on how often somebody asks.

use crate::clock::{Nanos, Span};

/// How long one context runs while others wait.
pub const SLICE: Nanos = 2_500_000;
/// What a switch costs.
pub const SWITCH: Nanos = 200_000;
/// Most contexts of one device.
pub const MAX_QUEUES: usize = 128;
/// Stretches of service that each queue remembers, to tell when something in the past was done.
const LOG: usize = 256;

/// Whose turn it is. All zero is a valid beginning.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    /// The time up to which the schedule is evaluated.
    at: Nanos,
    /// What the current queue had of its slice, and what is left of the switch to it.
    used: Nanos,
    switch: Nanos,
    current: u64,
}

/// Service without a pause: of a queue's work, the part from `from` to `to`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    start: Nanos,
    from: Nanos,
    to: Nanos,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Queue {
    /// One more than the process's number; 0 where the queue is not in use.
    owner: u64,
    /// Work that came in and work that was done, since the queue was opened.
    submitted: Nanos,
    served: Nanos,
    /// Stretches so far; the last of them are in the log.
    stretches: u64,
}

/// A queue's last stretches, the newest at the number of stretches so far less one.
type Log = [Stretch; LOG];

/// The schedule of one device. All zero is a valid new one.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Schedule {
    turn: Turn,
    queues: [Queue; MAX_QUEUES],
    logs: [Log; MAX_QUEUES],
}

/// The next queue after `current` that holds work.
fn next(left: &[Nanos], current: usize) -> Option<usize> {
    (1..left.len()).map(|step| (current + step) % left.len()).find(|other| left[*other] > 0)
}

impl Turn {
    /// Evaluates up to `until`: takes what is done off `left` and reports it.
    fn run(&mut self, left: &mut [Nanos], until: Nanos, mut served: impl FnMut(usize, Span)) {
        while self.at < until {
            let room = until - self.at;
            let current = self.current as usize;
            if self.switch > 0 {
                let step = self.switch.min(room);
                self.switch -= step;
                self.at += step;
                continue;
            }
            let other = next(left, current);
            match other {
                // Out of work: the next one takes over at once, if there is one.
                _ if left[current] == 0 => match other {
                    Some(other) => (self.current, self.used) = (other as u64, 0),
                    None => (self.at, self.used) = (until, 0),
                },
                Some(other) if self.used >= SLICE => {
                    (self.current, self.used, self.switch) = (other as u64, 0, SWITCH);
                }
                _ => {
                    let step =
                        left[current].min(room).min(if other.is_some() { SLICE - self.used } else { Nanos::MAX });
                    served(current, Span { start: self.at, end: self.at + step });
                    left[current] -= step;
                    self.at += step;
                    self.used = match other {
                        Some(_) => self.used + step,
                        // Alone, it gets one slice after the other.
                        None => (self.used + step) % SLICE,
                    };
                }
            }
        }
    }
}

impl Queue {
    fn serve(&mut self, span: Span, log: &mut Log) {
        let last = self.stretches.checked_sub(1).map(|index| (index % LOG as u64) as usize);
        let length = span.end - span.start;
        match last.map(|index| &mut log[index]) {
            Some(last) if last.start + (last.to - last.from) == span.start => last.to += length,
            _ => {
                let stretch = Stretch { start: span.start, from: self.served, to: self.served + length };
                log[(self.stretches % LOG as u64) as usize] = stretch;
                self.stretches += 1;
            }
        }
        self.served += length;
    }
}

impl Schedule {
    fn left(&self) -> [Nanos; MAX_QUEUES] {
        std::array::from_fn(|index| self.queues[index].submitted - self.queues[index].served)
    }

    /// A queue for a context of the process `owner`; `None` where all are in use.
    pub fn open(&mut self, owner: usize) -> Option<usize> {
        let index = self.queues.iter().position(|queue| queue.owner == 0)?;
        let queue = &mut self.queues[index];
        queue.owner = owner as u64 + 1;
        (queue.submitted, queue.served, queue.stretches) = (0, 0, 0);
        Some(index)
    }

    /// Ends a queue; what it still holds is never done.
    pub fn close(&mut self, queue: usize) {
        let queue = &mut self.queues[queue];
        queue.owner = 0;
        queue.submitted = queue.served;
    }

    /// Ends all queues of a process.
    pub fn close_all(&mut self, owner: usize) {
        for index in 0..MAX_QUEUES {
            if self.queues[index].owner == owner as u64 + 1 {
                self.close(index);
            }
        }
    }

    /// Evaluates up to `now`; `busy` hears which process had the device when.
    pub fn advance(&mut self, now: Nanos, mut busy: impl FnMut(usize, Span)) {
        let mut left = self.left();
        let (queues, logs) = (&mut self.queues, &mut self.logs);
        self.turn.run(&mut left, now, |index, span| {
            queues[index].serve(span, &mut logs[index]);
            if let Some(owner) = queues[index].owner.checked_sub(1) {
                busy(owner as usize, span);
            }
        });
    }

    /// Adds work at the time of the last [`Schedule::advance`]; returns the mark at which it is done: see
    /// [`Schedule::finished`].
    pub fn submit(&mut self, queue: usize, duration: Nanos) -> Nanos {
        let queue = &mut self.queues[queue];
        queue.submitted = queue.submitted.saturating_add(duration);
        queue.submitted
    }

    /// When a queue's work up to `mark` was done; `None` while it is not.
    pub fn finished(&self, queue: usize, mark: Nanos) -> Option<Nanos> {
        let (queue, log) = (&self.queues[queue], &self.logs[queue]);
        if queue.served < mark {
            return None;
        }
        let known = queue.stretches.min(LOG as u64);
        let newest_first = (1..=known).map(|back| log[((queue.stretches - back) % LOG as u64) as usize]);
        let mut oldest = 0;
        for stretch in newest_first {
            if stretch.from < mark && mark <= stretch.to {
                return Some(stretch.start + (mark - stretch.from));
            }
            oldest = stretch.start;
        }
        // So long ago that it is forgotten.
        Some(oldest)
    }

    /// When a queue's work up to `mark` will be done if nobody submits anything, but not later than `horizon`; the time of
    /// the last [`Schedule::advance`] where it is done.
    pub fn predict(&self, queue: usize, mark: Nanos, horizon: Nanos) -> Nanos {
        let mut turn = self.turn;
        let mut done = self.queues[queue].served;
        if done >= mark {
            return turn.at;
        }
        let mut when = horizon;
        turn.run(&mut self.left(), horizon, |index, span| {
            if index == queue {
                let length = span.end - span.start;
                if done < mark && mark <= done + length {
                    when = span.start + (mark - done);
                }
                done += length;
            }
        });
        when
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Schedule {
        fn new() -> Box<Schedule> {
            let queue = Queue { owner: 0, submitted: 0, served: 0, stretches: 0 };
            let logs = [[Stretch::default(); LOG]; MAX_QUEUES];
            Box::new(Schedule { turn: Turn::default(), queues: [queue; MAX_QUEUES], logs })
        }
    }

    /// What one submission of a test is, and when it was done.
    #[derive(Clone, Copy, Debug)]
    struct Job {
        at: Nanos,
        queue: usize,
        duration: Nanos,
        done: Nanos,
    }

    /// Executes the submissions `(pause before it, queue, duration)` on `queues` contexts. Between them somebody asks at
    /// every multiple of `asks`.
    fn execute(queues: usize, submissions: &[(Nanos, usize, Nanos)], asks: Nanos) -> (Vec<Job>, Vec<(usize, Span)>) {
        let mut schedule = Schedule::new();
        for owner in 0..queues {
            assert_eq!(schedule.open(owner), Some(owner));
        }
        let mut spans: Vec<(usize, Span)> = Vec::new();
        let mut record = |owner: usize, span: Span| match spans.last_mut() {
            Some((last, whole)) if *last == owner && whole.end == span.start => whole.end = span.end,
            _ => spans.push((owner, span)),
        };
        let (mut now, mut jobs) = (0, Vec::<Job>::new());
        let mut marks = Vec::new();
        for (pause, queue, duration) in submissions {
            let at = now + pause;
            while now < at {
                now = at.min((now / asks + 1) * asks);
                schedule.advance(now, &mut record);
                // The log forgets: look as often as a process does.
                for (job, mark) in jobs.iter_mut().zip(&marks) {
                    if job.done == 0 {
                        job.done = schedule.finished(job.queue, *mark).unwrap_or(0);
                    }
                }
            }
            marks.push(schedule.submit(*queue, *duration));
            jobs.push(Job { at, queue: *queue, duration: *duration, done: 0 });
        }
        for (job, mark) in jobs.iter_mut().zip(&marks) {
            while job.done == 0 {
                let expected = schedule.predict(job.queue, *mark, Nanos::MAX);
                schedule.advance(expected.max(now), &mut record);
                now = now.max(expected);
                job.done = schedule.finished(job.queue, *mark).expect("done when it was predicted");
            }
        }
        (jobs, spans)
    }

    fn submissions() -> impl Strategy<Value = Vec<(Nanos, usize, Nanos)>> {
        prop::collection::vec((0..6_000_000_u64, 0..4_usize, 1..9_000_000_u64), 1..40)
    }

    proptest! {
        /// Nothing is done before its time, and a queue is in order.
        #[test]
        fn work_takes_its_time_and_its_turn(list in submissions()) {
            let (jobs, _) = execute(4, &list, 1_000_000);
            for queue in 0..4 {
                let mut before = 0;
                for job in jobs.iter().filter(|job| job.queue == queue) {
                    prop_assert!(job.done >= job.at.max(before) + job.duration, "{job:?} after {before}");
                    before = job.done;
                }
            }
        }

        /// The device does all the work once, never two things at a time, and pauses with work at hand only to switch.
        #[test]
        fn no_time_is_lost_but_for_switches(list in submissions()) {
            let (jobs, spans) = execute(4, &list, 1_000_000);
            for queue in 0..4 {
                let done: Nanos = spans.iter().filter(|s| s.0 == queue).map(|(_, s)| s.end - s.start).sum();
                let given: Nanos = jobs.iter().filter(|job| job.queue == queue).map(|job| job.duration).sum();
                prop_assert_eq!(done, given);
            }
            for pair in spans.windows(2) {
                let ((one, before), (other, after)) = (pair[0], pair[1]);
                prop_assert!(before.end <= after.start);
                let gap = after.start - before.end;
                let waiting = jobs.iter().any(|job| job.at <= before.end && job.done > before.end);
                if waiting {
                    prop_assert!(gap == 0 || one != other && gap == SWITCH, "{pair:?}");
                }
            }
        }

        /// Who asks, and how often, changes nothing.
        #[test]
        fn asking_changes_nothing(list in submissions(), asks in 1_000..3_000_000_u64) {
            let (often, _) = execute(4, &list, asks);
            let (seldom, _) = execute(4, &list, Nanos::MAX / 2);
            for (one, other) in often.iter().zip(&seldom) {
                prop_assert_eq!(one.done, other.done);
            }
        }

        /// Contexts that never run out of work get the same time, to one slice.
        #[test]
        fn those_that_always_have_work_share_alike(count in 2..6_usize, piece in 10_000..20_000_000_u64) {
            let mut schedule = Schedule::new();
            for owner in 0..count {
                schedule.open(owner);
                schedule.submit(owner, 1_000_000_000_000 / piece * piece);
            }
            let mut got = vec![0; count];
            schedule.advance(1_000_000_000, |owner, span| got[owner] += span.end - span.start);
            let (least, most) = (got.iter().min().expect("two"), got.iter().max().expect("two"));
            prop_assert!(most - least <= SLICE, "{got:?}");
            let all: Nanos = got.iter().sum();
            // One switch to each slice.
            prop_assert!(all.abs_diff(1_000_000_000 / (SLICE + SWITCH) * SLICE) <= SLICE, "{got:?}");
        }
    }

    #[test]
    fn one_context_runs_without_a_pause() {
        let (jobs, spans) = execute(2, &[(5, 0, 10 * SLICE), (0, 0, 7)], SLICE / 3);
        assert_eq!((jobs[0].done, jobs[1].done), (5 + 10 * SLICE, 12 + 10 * SLICE));
        assert_eq!(spans, [(0, Span { start: 5, end: 12 + 10 * SLICE })]);
    }

    #[test]
    fn long_work_is_cut_where_another_waits() {
        let (jobs, spans) = execute(2, &[(0, 0, 4 * SLICE), (0, 1, 1_000)], SLICE);
        let second = SLICE + SWITCH;
        assert_eq!(jobs[1].done, second + 1_000);
        assert_eq!(jobs[0].done, second + 1_000 + 3 * SLICE, "and goes on where nobody else has work");
        assert_eq!(spans.len(), 3);
    }

    #[test]
    fn a_new_one_waits_for_the_rest_of_the_slice() {
        // In the fifth slice, a fifth of it over.
        let (jobs, _) = execute(2, &[(0, 0, 20 * SLICE), (4 * SLICE + SLICE / 5, 1, 10)], Nanos::MAX / 2);
        assert_eq!(jobs[1].done, 5 * SLICE + SWITCH + 10);
    }

    #[test]
    fn what_a_closed_queue_held_is_never_done() {
        let mut schedule = Schedule::new();
        let (one, two) = (schedule.open(7).expect("queue"), schedule.open(8).expect("queue"));
        schedule.submit(one, 100 * SLICE);
        let mark = schedule.submit(two, SLICE);
        schedule.advance(SLICE / 2, |_, _| {});
        schedule.close_all(7);
        assert_eq!(schedule.predict(two, mark, Nanos::MAX), SLICE / 2 + SLICE, "the next one takes over at once");
        assert_eq!(schedule.open(9), Some(one), "and it is free for another");
    }

    #[test]
    fn the_past_is_told_to_the_nanosecond_until_it_is_forgotten() {
        let mut schedule = Schedule::new();
        schedule.open(0);
        let mut marks = Vec::new();
        for index in 0..LOG as u64 + 10 {
            schedule.advance(index * 1_000, |_, _| {});
            marks.push(schedule.submit(0, 100));
        }
        schedule.advance(1_000_000_000, |_, _| {});
        let at = |index: usize| schedule.finished(0, marks[index]);
        assert_eq!(at(LOG + 9), Some((LOG as u64 + 9) * 1_000 + 100));
        assert_eq!(at(10), Some(10_100));
        assert_eq!(at(3), Some(10_000), "not later than the oldest that is known");
        assert_eq!(schedule.finished(0, marks[LOG + 9] + 1), None);
        assert_eq!(schedule.predict(0, marks[LOG + 9], Nanos::MAX), 1_000_000_000, "it needs no more waiting");
    }
}
